"""Random numbers by counter: each is a function of a seed and a place, whoever computes it and in whatever order.

So a kernel on any number of threads, a GPU and the readable way draw the same. A block of 64 has a key of 64 bits, by Steele,
Lea and Flood's SplitMix64 of the seed and of where the block lies; a number in it comes of the key and of its place, by a mixer
of 32 bits.

Source: Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators"; the mixer is Wellons' "triple32" (hash
prospector, 2018), with the key's second half in its middle.
"""

from typing import Any

import torch
from torch import Tensor

from jpegdl.functional.transforms import BLOCK

#: Of a number in [0, 1): as many as a float32 has.
DRAW_BITS = 24
#: SplitMix64's: what the counter grows by, and what is multiplied with.
GOLDEN, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_GOLDEN_32 = 0x9E3779B9


def draw_seed(images: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw a seed for :func:`uniform_draws`: shape (), int64, on the device of ``images``. This does not wait for the device.

    Args:
        images: a tensor on the device.
        generator: source of randomness on that device; None for PyTorch's own.
    """
    return torch.randint(2**63 - 1, (), device=images.device, generator=generator)


def uniform_draws(seed: Tensor, shape: tuple[int, ...] | torch.Size, *, plane: int = 0) -> Tensor:
    """Return numbers drawn evenly from [0, 1), in steps of 2^-24.

    Args:
        seed: (), int64.
        shape: (N, planes, h, w, 8, 8), as coefficients have it.
        plane: number of the first plane.

    Returns:
        float32 of that shape, on the seed's device. The numbers of an image, a plane or a block do not depend on how many there
        are.
    """
    n, planes, rows, columns = shape[:4]

    def counted(count: int, first: int = 0) -> Tensor:
        return torch.arange(first, first + count, device=seed.device)

    image = _split_mix(seed + counted(n) * _wrapped(GOLDEN))
    place = (counted(planes, plane)[:, None, None] << 40) + (counted(rows)[:, None] << 20) + counted(columns)
    key = _split_mix(image[:, None, None, None] + place * _wrapped(GOLDEN))[..., None, None]
    # Coefficients are counted along columns, as the kernels have them.
    inside = counted(BLOCK)[:, None] + BLOCK * counted(BLOCK)
    number: Tensor = mixed(_Whole(key & 0xFFFFFFFF), _Whole(_right(key, 32)), _Whole(inside)).value
    return (number >> (32 - DRAW_BITS)).float() * 2.0**-DRAW_BITS


def mixed(first: Any, second: Any, place: Any) -> Any:
    """Return a number of 32 bits from the two halves of a key and the place in its block.

    Args:
        first, second, place: of anything that has +, * and ^ of unsigned integers with 32 bits, and ``shifted_in``, to the
            right: tensors, or a processor's vectors.
    """
    x = first + place * _GOLDEN_32
    x = (x ^ x.shifted_in(17)) * 0xED5AD4BB
    x = (x ^ x.shifted_in(11)) * 0xAC4C1B51 + second
    x = (x ^ x.shifted_in(15)) * 0x31848BAB
    return x ^ x.shifted_in(14)


def _wrapped(number: int) -> int:
    """As an int64 has it."""
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)


def _right(x: Tensor, bits: int) -> Tensor:
    """To the right, zeros coming in."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _split_mix(x: Tensor) -> Tensor:
    """SplitMix64's output for a state; int64 wraps around as uint64 does."""
    x = x + _wrapped(GOLDEN)
    x = (x ^ _right(x, 30)) * _wrapped(FIRST)
    x = (x ^ _right(x, 27)) * _wrapped(SECOND)
    return x ^ _right(x, 31)


class _Whole:
    """Unsigned integers of 32 bits, in int64."""

    def __init__(self, value: Tensor) -> None:
        self.value = value & 0xFFFFFFFF

    def __add__(self, other: "_Whole") -> "_Whole":
        return _Whole(self.value + other.value)

    def __mul__(self, other: int) -> "_Whole":
        return _Whole(self.value * other)

    def __xor__(self, other: "_Whole") -> "_Whole":
        return _Whole(self.value ^ other.value)

    def shifted_in(self, bits: int) -> "_Whole":
        return _Whole(self.value >> bits)
