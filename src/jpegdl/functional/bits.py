"""How many bits a JPEG file takes, as a differentiable function of coefficients and steps.

A baseline JPEG encoder (ITU-T T.81, F.1.2) turns the levels of a block into symbols. The DC level becomes its difference to
that of the block before: a Huffman code for its size category s, and s bits. The AC levels, in zigzag order, become pairs: a
Huffman code for (zeros passed, size category s) of each level that is not 0, and s bits; 16 zeros in a row before such a level
are a symbol of their own, and so is the end of the block, if zeros are left. A level k has size category s = 0 for k = 0, else
floor(log2 |k|) + 1.

With levels drawn from P(k | z) = softmax_k(-h (z/q - k)^2), h the hardness, and drawn independently, which given z they
are, the *expected* number of each symbol has a closed form: that is what is computed here, and for h to infinity it is the
encoder's own count. Bits follow from the length of each symbol's code. A Huffman code fitted to the file has lengths near
-log2 of the symbol's share.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from jpegdl.functional.checks import check_shape
from jpegdl.functional.transforms import BLOCK, ZIGZAG

SIZES = 17  # size categories 0 to 16: levels up to 65535
RUNS = 16  # zeros passed that a symbol can say: 0 to 15
_FEWEST = 1e-6  # share of a symbol that has not been seen: 20 bits


class Symbols(NamedTuple):
    """Expected numbers of the symbols of some blocks, or the lengths of their codes in bits.

    Attributes:
        dc: (SIZES,), by the size category of the DC difference.
        ac: (RUNS, SIZES), by zeros passed and size category; (0, 0) is the end of a block, (15, 0) are 16 zeros in a row,
            and no other symbol has size category 0.
    """

    dc: Tensor
    ac: Tensor


def size_category(levels: Tensor) -> Tensor:
    """Return the bits that a level takes beside its code, 0 or ``floor(log2 |k|) + 1``: int64, shaped like ``levels``."""
    return torch.frexp(levels.abs().float()).exponent.clamp(0, SIZES - 1).long()


def expected_symbols(z: Tensor, q: Tensor, hardness: float, *, most: int | None = None) -> Symbols:
    """Compute the expected numbers of the symbols that an encoder makes of some blocks, differentiable in ``z`` and ``q``.

    Args:
        z: (R, B, 8, 8), coefficients of R rows of B blocks. Blocks are in the order in which they are encoded. In each row the
            DC prediction starts again.
        q: steps > 0, (8, 8).
        hardness: of P(k | z), greater than 0. From about 8 on, counts are close to those of rounded levels. If it is small,
            zeros are not quite zero, and a block has many of them. Gradients reach about 1 / hardness of a step to each side of
            a threshold.
        most: count the AC symbols of this many blocks, drawn at random, and scale up. None for all.

    Returns:
        Sums over all blocks, dtype of ``z``.

    Raises:
        UsageError: ``z`` or ``q`` has another shape.
    """
    check_shape(z, ("R", "B", BLOCK, BLOCK), "z")
    check_shape(q, (BLOCK, BLOCK), "q")
    blocks = _drawn(z, most)
    ac = _ac_symbols((blocks / q).flatten(1).T[ZIGZAG[1:]], hardness)
    return Symbols(_dc_symbols(z[..., 0, 0] / q[0, 0], hardness), ac * (z.shape[0] * z.shape[1] / len(blocks)))


def _drawn(z: Tensor, most: int | None) -> Tensor:
    """(blocks, 8, 8): all blocks of ``z`` or, where there are more than ``most``, so many of them at random."""
    blocks = z.flatten(0, -3)
    if most is None or most >= len(blocks):
        return blocks
    return blocks[torch.randint(len(blocks), (most,), device=z.device)]


def _probabilities(scaled: Tensor, hardness: float, dim: int) -> tuple[Tensor, Tensor]:
    """P(k | z) of the nearest level and its two neighbours, and those levels, along a new axis; ``scaled`` is z / q."""
    nearest = scaled.detach().round()
    levels = torch.stack((nearest - 1, nearest, nearest + 1), dim)
    return (-hardness * (scaled.unsqueeze(dim) - levels).square()).softmax(dim), levels


def _dc_symbols(scaled: Tensor, hardness: float) -> Tensor:
    """(SIZES,), of DC coefficients over their step, (R, B)."""
    shares, levels = _probabilities(scaled, hardness, -1)
    before = torch.cat((torch.zeros_like(levels[:, :1]), levels[:, :-1]), 1)
    weights = torch.cat((torch.full_like(shares[:, :1], 1 / 3), shares[:, :-1]), 1)
    difference = levels[..., :, None] - before[..., None, :]  # the first of a row is predicted to be 0
    joint = shares[..., :, None] * weights[..., None, :]
    return joint.new_zeros(SIZES).index_add(0, size_category(difference).flatten(), joint.flatten())


def _ac_symbols(scaled: Tensor, hardness: float) -> Tensor:
    """(RUNS, SIZES), of AC coefficients over their steps, (63, B) in zigzag order."""
    shares, levels = _probabilities(scaled, hardness, 1)
    sizes = size_category(levels)
    largest = int(sizes.max())  # most categories are empty
    count, blocks = scaled.shape
    by_size = scaled.new_zeros(count, largest + 1, blocks).scatter_add(1, sizes, shares)
    zero, other = by_size[:, 0], by_size[:, 1:]
    # runs[r] is the probability that exactly r zeros lie between the last level that is not 0, or DC, and the next place.
    runs = torch.ones_like(zero[:1])
    symbols = []
    for place, (none, some) in enumerate(zip(zero.unbind(), other.unbind(), strict=True)):  # unbind: one gradient for all
        symbols.append(pad(runs @ some.T, (0, 0, 0, -(-count // RUNS) * RUNS - 1 - place)))
        runs = torch.cat((1 - none[None], runs * none))
    by_run = torch.stack(symbols).sum(0).view(-1, RUNS, largest)  # (r // 16, r % 16, size)
    passed = torch.arange(len(by_run), dtype=scaled.dtype, device=scaled.device)  # 16 zeros in a row, so many times
    of_zeros = torch.zeros_like(by_run[0, :, 0])
    of_zeros[0] = zero[-1].sum()  # the last level is 0: end of block
    of_zeros[RUNS - 1] = (by_run.sum((1, 2)) * passed).sum()
    return pad(torch.cat((of_zeros[:, None], by_run.sum(0)), 1), (0, SIZES - 1 - largest))


def code_lengths(symbols: Symbols) -> Symbols:
    """Return the lengths in bits of codes that are fitted to these numbers of symbols: -log2 of each symbol's share."""
    return Symbols(*(-(part / part.sum().clamp(min=_FEWEST)).clamp(min=_FEWEST).log2() for part in symbols))


def coded_bits(symbols: Symbols, lengths: Symbols) -> Tensor:
    """Return the bits, of shape (), that symbols take with codes of these lengths, and the bits of sign and magnitude."""
    sizes = torch.arange(SIZES, dtype=symbols.dc.dtype, device=symbols.dc.device)
    return (symbols.dc * (lengths.dc + sizes)).sum() + (symbols.ac * (lengths.ac + sizes)).sum()
