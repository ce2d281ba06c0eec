"""The round trip on NVIDIA GPUs: forward and backward each one Triton kernel that reads an image once and writes it once, and
one more for subsampled chroma.

A program takes ``BLOCKS`` 8x8 blocks at a time: :mod:`jpegdl.kernels.cuda_planes` loads and stores them,
:mod:`jpegdl.kernels.cuda_blocks` transforms and :mod:`jpegdl.kernels.cuda_quantizers` quantizes them. Gradients of the tables
are summed in registers over all blocks that a program meets, and over the programs in their order: the same at every call.
"""

# What Triton compiles has types of its own, and knows tuples that are added up, but no stars in them:
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, assignment"
# ruff: noqa: RUF005

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from jpegdl import functional as F
from jpegdl.functional import BLOCK
from jpegdl.kernels.cuda_blocks import to_coefficients, to_pixels
from jpegdl.kernels.cuda_planes import (
    ALL,
    CHROMA,
    LUMA,
    load_gradients,
    load_planes,
    places,
    spread,
    store_gradients,
    store_planes,
    store_samples,
    upsampled,
)
from jpegdl.kernels.cuda_quantizers import EXACT, EXACT_HARD, MATCHED, NOISE, SAMPLE, SOFT, differentiate, draw_key, quantize
from jpegdl.kernels.trip import Trip
from jpegdl.settings import ROUNDINGS

BLOCKS = 16  # 8x8 blocks that a program works on at a time: 128 rows of 8, one for each of its threads
_WARPS = 4
# The backward pass of the soft rounding needs about 170 registers per thread (see benchmarks/triton_report.py). Held to 168, 3
# programs of 128 threads fill the 65,536 registers of a processor (compute capability 8 and 9); as many are started, each goes
# through several tiles.
_PROGRAMS_PER_PROCESSOR = 3
REGISTERS = 168
# Another number of images, as the last batch of an epoch has, must not make Triton compile again. Other strides may: where they
# are multiples of 16, it reads several numbers at once.
_SIZES = ["count", "height", "width", "turns"]


# ----------------------------------------------------------------------------------------------------------- kernels


@triton.jit
def _table(tables, group, number: tl.constexpr, half: tl.constexpr, count: tl.constexpr, blocks: tl.constexpr):
    """Half of a table of (groups, count, 8, 8), vertical frequency fastest, beside the coefficients of a tile, whose lines are
    columns of blocks."""
    column = tl.arange(0, blocks * 8) % 8
    row = tl.arange(0, 4) + 4 * half
    return tl.load(tables + (group * count + number) * 64 + column[:, None] * 8 + row[None, :])


@triton.jit
def _tables(
    q, alpha, group, plane: tl.constexpr, half: tl.constexpr, rounding: tl.constexpr, tables: tl.constexpr,
    blocks: tl.constexpr,
):  # fmt: skip
    """Half of a plane's steps and, where it counts, of alpha."""
    number: tl.constexpr = plane if plane < tables else tables - 1
    steps = _table(q, group, number, half, tables, blocks)
    if (rounding == SOFT) | (rounding == SAMPLE):
        return steps, _table(alpha, group, number, half, tables, blocks)
    else:
        return steps, steps


@triton.jit
def _key(seed, place, plane: tl.constexpr, rounding: tl.constexpr):
    """That of each line's block, where there is to be drawn."""
    image, y, x, _, _, _ = place
    if (rounding == NOISE) | (rounding == SAMPLE):
        return draw_key(seed, image, plane, y, x)
    else:
        return image


@triton.jit
def _coded(
    left, right, q, alpha, seed, cap, place, group, plane: tl.constexpr, rounding: tl.constexpr, tables: tl.constexpr,
    capped: tl.constexpr, blocks: tl.constexpr,
):  # fmt: skip
    """A plane's samples there and back."""
    key = _key(seed, place, plane, rounding)
    exact: tl.constexpr = rounding >= EXACT
    low, high = to_coefficients(left, right, blocks, exact)
    steps, sharpness = _tables(q, alpha, group, plane, 0, rounding, tables, blocks)
    low = quantize(low, steps, sharpness, key, cap, 0, rounding, capped)
    steps, sharpness = _tables(q, alpha, group, plane, 1, rounding, tables, blocks)
    high = quantize(high, steps, sharpness, key, cap, 1, rounding, capped)
    left, right = to_pixels(low, high, 0, 0, blocks, False, exact)
    if exact:
        left, right = tl.minimum(tl.maximum(left, -128), 127), tl.minimum(tl.maximum(right, -128), 127)
    return left, right


@triton.jit(do_not_specialize=_SIZES)
def _forward_kernel(
    images, output, samples, bad, q, alpha, seed, cap, count, height, width, turns, sn, sc, sh, sw, on, oc, oh, ow,
    part: tl.constexpr, rounding: tl.constexpr, channels: tl.constexpr, down: tl.constexpr, tables: tl.constexpr,
    each: tl.constexpr, blocks: tl.constexpr, even: tl.constexpr, capped: tl.constexpr, scale: tl.constexpr,
    whole: tl.constexpr,
):  # fmt: skip
    planes: tl.constexpr = 3 if part == ALL else (1 if part == LUMA else 2)
    first: tl.constexpr = 1 if part == CHROMA else 0
    turn, group = tl.program_id(0), 0
    if each:
        turn, group = turn % turns, turn // turns
    rows, columns = height, width
    if part == CHROMA:
        rows, columns = (height + down - 1) // down, (width + 1) // 2
    image, y, x, exists = places(turn, group * count, count, rows, columns, blocks)
    place = (image, y, x, exists, height, width)
    strides = (sn, sc, sh, sw)
    exact: tl.constexpr = rounding >= EXACT
    left, found = load_planes(images, place, strides, 0, part, channels, down, even, scale, whole, exact)
    right, more = load_planes(images, place, strides, 1, part, channels, down, even, scale, whole, exact)
    if bad is not None and part != CHROMA:
        tl.store(bad + image, 1, mask=exists & (tl.max((found | more).to(tl.int32), axis=1) > 0))
    lefts, rights = (), ()
    for i in tl.static_range(planes):
        new_left, new_right = _coded(
            left[i], right[i], q, alpha, seed, cap, place, group, first + i, rounding, tables, capped, blocks
        )
        lefts, rights = lefts + (new_left,), rights + (new_right,)
    if part == CHROMA:
        store_samples(samples, lefts, place, rows, columns, columns, 0)
        store_samples(samples, rights, place, rows, columns, columns, 1)
    else:
        if part == LUMA and channels == 3:
            lefts = lefts + upsampled(samples, place, 0, down, even, exact)
            rights = rights + upsampled(samples, place, 1, down, even, exact)
        strides = (on, oc, oh, ow)
        store_planes(output, lefts, place, strides, 0, channels, even, whole, exact)
        store_planes(output, rights, place, strides, 1, channels, even, whole, exact)


@triton.jit(do_not_specialize=_SIZES[:3])
def _spoil_kernel(
    output, bad, count, height, width, on, oc, oh, ow, channels: tl.constexpr, blocks: tl.constexpr, even: tl.constexpr
):
    """Make an image NaN throughout if it has NaN somewhere."""
    image, y, x, exists = places(tl.program_id(0), 0, count, height, width, blocks)
    spoiled = exists & (tl.load(bad + image, mask=exists, other=0) != 0)
    if tl.max(spoiled.to(tl.int32), axis=0) > 0:
        nothing = tl.full((blocks * 8, 4), float("nan"), tl.float32)
        place = (image, y, x, spoiled, height, width)
        strides = (on, oc, oh, ow)
        store_planes(output, (nothing, nothing, nothing), place, strides, 0, channels, even, False, False)
        store_planes(output, (nothing, nothing, nothing), place, strides, 1, channels, even, False, False)


@triton.jit
def _zeros(count: tl.constexpr, blocks: tl.constexpr):
    zeros = ()
    for _ in tl.static_range(count):
        zeros = zeros + (tl.zeros((blocks * 8, 4), tl.float32),)
    return zeros


@triton.jit
def _added(sums, parts, first: tl.constexpr, count: tl.constexpr, total: tl.constexpr):
    """``sums`` (total), with ``parts`` (count) added from the first on."""
    new = ()
    for i in tl.static_range(total):
        new = new + (sums[i] + parts[i - first] if i >= first and i < first + count else sums[i],)
    return new


@triton.jit
def _differentiated(
    left, right, grad_left, grad_right, sums, q, alpha, seed, cap, place, kept_rows, kept_columns, group,
    plane: tl.constexpr, first: tl.constexpr, rounding: tl.constexpr, tables: tl.constexpr, capped: tl.constexpr,
    blocks: tl.constexpr, even: tl.constexpr, summed: tl.constexpr, kinds: tl.constexpr,
):  # fmt: skip
    """Gradients of a plane's samples, from those of its coded ones, and the sums with what the plane adds to its table's."""
    exact: tl.constexpr = rounding >= EXACT
    key, exists = _key(seed, place, plane, rounding), place[3][:, None]
    number: tl.constexpr = (plane if plane < tables else tables - 1) - first
    low, high = to_coefficients(left, right, blocks, exact)
    if rounding == MATCHED:  # it also sums up coefficients without a gradient
        low, high = tl.where(exists, low, 0.0), tl.where(exists, high, 0.0)
    grad_low, grad_high = to_coefficients(grad_left, grad_right, blocks, False)
    steps, sharpness = _tables(q, alpha, group, plane, 0, rounding, tables, blocks)
    grad_low, parts = differentiate(low, grad_low, steps, sharpness, key, cap, 0, rounding, capped)
    sums = _added(sums, parts, 2 * number * kinds, kinds, 2 * summed * kinds)
    steps, sharpness = _tables(q, alpha, group, plane, 1, rounding, tables, blocks)
    grad_high, parts = differentiate(high, grad_high, steps, sharpness, key, cap, 1, rounding, capped)
    sums = _added(sums, parts, (2 * number + 1) * kinds, kinds, 2 * summed * kinds)
    if not exact:  # whose DCT and inverse undo one another
        grad_left, grad_right = to_pixels(grad_low, grad_high, kept_rows, kept_columns, blocks, not even, False)
    return grad_left, grad_right, sums


@triton.jit(do_not_specialize=_SIZES)
def _backward_kernel(
    images, grad, grad_images, samples, partial, q, alpha, seed, cap, count, height, width, turns,
    sn, sc, sh, sw, gn, gc, gh, gw, on, oc, oh, ow,
    part: tl.constexpr, rounding: tl.constexpr, channels: tl.constexpr, down: tl.constexpr, tables: tl.constexpr,
    each: tl.constexpr, blocks: tl.constexpr, even: tl.constexpr, capped: tl.constexpr, scale: tl.constexpr,
    whole: tl.constexpr, summed: tl.constexpr, kinds: tl.constexpr, want_images: tl.constexpr,
):  # fmt: skip
    planes: tl.constexpr = 3 if part == ALL else (1 if part == LUMA else 2)
    first: tl.constexpr = 1 if part == CHROMA else 0
    turn, group = tl.program_id(0), 0
    rows, columns = height, width
    if part == CHROMA:
        rows, columns = (height + down - 1) // down, (width + 1) // 2
    if each:
        turn, group = turn % turns, turn // turns
    tiles = tl.cdiv(count * ((rows + 7) // 8) * ((columns + 7) // 8), blocks)
    # What is summed up, for each of ``summed`` tables in halves, ``kinds`` of it.
    sums = _zeros(2 * kinds * summed, blocks)
    while turn < tiles:
        image, y, x, exists = places(turn, group * count, count, rows, columns, blocks)
        place = (image, y, x, exists, height, width)
        strides = (sn, sc, sh, sw)
        left, _ = load_planes(images, place, strides, 0, part, channels, down, even, scale, whole, rounding >= EXACT)
        right, _ = load_planes(images, place, strides, 1, part, channels, down, even, scale, whole, rounding >= EXACT)
        # Blocks that do not exist have gradient 0 throughout.
        strides = (gn, gc, gh, gw)
        grad_left = load_gradients(grad, place, strides, 0, part, channels, down, even)
        grad_right = load_gradients(grad, place, strides, 1, part, channels, down, even)
        # What reached a repeated edge goes back; columns of chroma, which were repeated before, to the first of them.
        kept_rows, kept_columns = rows - y // 8 * 8, columns - x + first
        lefts, rights = (), ()
        for i in tl.static_range(planes):
            new_left, new_right, sums = _differentiated(
                left[i], right[i], grad_left[i], grad_right[i], sums, q, alpha, seed, cap, place, kept_rows, kept_columns,
                group, first + i, first, rounding, tables, capped, blocks, even, summed, kinds,
            )  # fmt: skip
            lefts, rights = lefts + (new_left,), rights + (new_right,)
        if want_images:
            if part == CHROMA:
                kept = tl.minimum(columns + 1, (columns + 7) // 8 * 8)
                store_samples(samples, lefts, place, rows, kept, columns + 1, 0)
                store_samples(samples, rights, place, rows, kept, columns + 1, 1)
            else:
                if part == LUMA and channels == 3:
                    lefts = lefts + spread(samples, place, 0, down, even)
                    rights = rights + spread(samples, place, 1, down, even)
                strides = (on, oc, oh, ow)
                store_gradients(grad_images, lefts, place, strides, 0, channels, even, scale)
                store_gradients(grad_images, rights, place, strides, 1, channels, even, scale)
        turn += turns
    # To (programs, summed, kinds, 2, 8, 4): half, horizontal frequency, vertical one within the half.
    to = partial + tl.program_id(0) * (summed * kinds * 64) + tl.arange(0, 32)
    for t in tl.static_range(summed):
        for half in tl.static_range(2):
            for k in tl.static_range(kinds):
                total = tl.sum(tl.reshape(sums[(t * 2 + half) * kinds + k], (blocks, 32)), axis=0)
                tl.store(to + ((t * kinds + k) * 2 + half) * 32, total)


# -------------------------------------------------------------------------------------------------------------- calls


def forward(images: Tensor, q: Tensor, alpha: Tensor | None, seed: Tensor | None, trip: Trip) -> Tensor:
    """Take images through the codec; see :func:`jpegdl.kernels.round_trip`.

    Args:
        images: (N, C, H, W) of any strides, C 3 or 1, floating point in [0, 1] or uint8.
        q, alpha: (T, 8, 8) or (N, T, 8, 8).

    Returns:
        The same shape, and dtype (float32 for uint8) and memory format; computed in float32.
    """
    output = torch.empty_like(images, dtype=torch.float32 if images.dtype == torch.uint8 else images.dtype)
    _code(images, output, q, alpha, seed, trip, ROUNDINGS.index(trip.rounding))
    return output


def _code(
    images: Tensor, output: Tensor, q: Tensor, alpha: Tensor | None, seed: Tensor | None, trip: Trip, rounding: int
) -> None:
    n, _, height, width = images.shape
    bad = torch.zeros(n, dtype=torch.uint8, device=images.device) if trip.whole and images.is_floating_point() else None
    groups, count = _groups(images, q)
    samples = _samples(images, trip, torch.float32 if rounding < EXACT.value else torch.int8)
    q, alpha = _turned(q), None if alpha is None else _turned(alpha)
    with _current(images.device):  # Triton starts kernels on the current device, wherever the tensors are
        for part in _parts(images, trip):
            turns = _tiles(images, trip, part, count)
            _forward_kernel[(groups * turns,)](
                images, output, samples, bad, q, alpha, seed, trip.cap,
                count, height, width, turns, *images.stride(), *output.stride(),
                rounding=rounding, **_fixed(images, q, trip, part),
            )  # fmt: skip
        if bad is not None:
            _spoil_kernel[(_tiles(images, trip, ALL.value, n),)](
                output, bad, n, height, width, *output.stride(),
                channels=images.shape[1], blocks=BLOCKS, even=_even(images), num_warps=_WARPS,
            )  # fmt: skip


def backward(
    images: Tensor,
    grad: Tensor,
    q: Tensor,
    alpha: Tensor | None,
    seed: Tensor | None,
    trip: Trip,
    *,
    want_images: bool,
) -> tuple[Tensor | None, Tensor]:
    """Gradients from that of the output, of any strides: of the images (where wanted), and (2, ..), of q and alpha, each like
    q; (1, ..), of q alone, where alpha does not count."""
    kinds = 2 if trip.soft else (5 if math.isfinite(trip.cap) else 4) if trip.rounding == "ste-matched" else 1
    grad_images = torch.empty_like(images) if want_images else None
    sums = _differentiate(images, grad, grad_images, q, alpha, seed, trip, ROUNDINGS.index(trip.rounding), kinds)
    if trip.rounding == "ste-matched":
        within, here, coarser, finer, *beyond = sums.unbind(2)
        sums = sum(beyond, within * F.error_slope(here, coarser, finer) / 2)[:, :, None]
    return grad_images, sums.movedim(2, 0).reshape(-1, *q.shape)


def _differentiate(
    images: Tensor,
    grad: Tensor,
    grad_images: Tensor | None,
    q: Tensor,
    alpha: Tensor | None,
    seed: Tensor | None,
    trip: Trip,
    rounding: int,
    kinds: int,
) -> Tensor:
    """Fill in the gradients of the images; return what is summed up for the tables, (groups, T, kinds, 8, 8)."""
    height, width = images.shape[2:]
    groups, count = _groups(images, q)
    samples = None if grad_images is None else _samples(images, trip, torch.float32, more=1)
    to = images if grad_images is None else grad_images
    tables = q.shape[-3]
    q, alpha = _turned(q), None if alpha is None else _turned(alpha)
    sums: list[Tensor] = []
    for part in _parts(images, trip):
        summed = {ALL.value: tables, LUMA.value: 1, CHROMA.value: tables - 1}[part]
        at_once = -(-_PROGRAMS_PER_PROCESSOR * _processors(images.device) // groups)
        turns = min(_tiles(images, trip, part, count), at_once)
        partial = torch.empty((groups, turns, summed, kinds, 2, BLOCK, BLOCK // 2), dtype=torch.float32, device=images.device)
        with _current(images.device):
            _backward_kernel[(groups * turns,)](
                images, grad, to, samples, partial, q, alpha, seed, trip.cap,
                count, height, width, turns, *images.stride(), *grad.stride(), *to.stride(),
                rounding=rounding, summed=summed, kinds=kinds, want_images=grad_images is not None, maxnreg=REGISTERS,
                **_fixed(images, q, trip, part),
            )  # fmt: skip
        sums.insert(0, partial.sum(1).transpose(-1, -2).flatten(-3, -2))  # to rows of vertical frequency
    if images.shape[1] == 1:  # nothing for chroma
        sums.append(sums[0].new_zeros(groups, tables - 1, kinds, BLOCK, BLOCK))
    return torch.cat(sums, 1) if len(sums) > 1 else sums[0]


def exact(images: Tensor, luma: Tensor, chroma: Tensor, factors: tuple[int, int]) -> tuple[Tensor, None]:
    """Compute the exact round trip.

    Args:
        images: (N, C, H, W), C 1 or 3, of any strides, float32 in [0, 1] or uint8.
        luma, chroma: steps (8, 8) or (N, 8, 8).
        factors: pixels that share a chroma sample, (down, across).

    Returns:
        The same shape, contiguous, and dtype, NaN throughout images with NaN; and nothing more that is to be done.
    """
    output = torch.empty_like(images, memory_format=torch.contiguous_format)
    _code(images, output, _stacked(luma, chroma), None, None, _exact_trip(factors), EXACT.value)
    return output, None


def exact_backward(
    images: Tensor,
    grad: Tensor,
    luma: Tensor,
    chroma: Tensor,
    factors: tuple[int, int],
    *,
    straight: bool,
    want_images: bool,
    want_tables: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Compute gradients of the exact round trip: straight through its roundings, or those that it has.

    Args:
        images, luma, chroma, factors: as in :func:`exact`; images in floating point.
        grad: of the output, shaped like the images.
        straight: through the rounding of levels, too, of the steps.
        want_images: those that go straight through, to the images.
        want_tables: to the steps.

    Returns:
        Of the images, and of luma and chroma, (N, 8, 8) or (1, 8, 8); None for what is not wanted.
    """
    trip, q = _exact_trip(factors), _stacked(luma, chroma)
    subsampled = CHROMA.value in _parts(images, trip)
    grad_images = torch.empty_like(images) if want_images and subsampled else None
    by_luma = by_chroma = None
    if want_tables or grad_images is not None:
        rounding = EXACT.value if straight else EXACT_HARD.value
        sums = _differentiate(images, grad, grad_images, q, None, None, trip, rounding, 1)
        if want_tables:
            by_luma, by_chroma = sums[:, :, 0].unbind(1)
    return grad if want_images and not subsampled else grad_images, by_luma, by_chroma


def _exact_trip(factors: tuple[int, int]) -> Trip:
    return Trip(subsampling=next(name for name in F.SAMPLING if F.SAMPLING[name] == factors), bits=None, whole=True)


def _stacked(luma: Tensor, chroma: Tensor) -> Tensor:
    return torch.stack(torch.broadcast_tensors(luma.float(), chroma.float()), -3)


def _parts(images: Tensor, trip: Trip) -> tuple[int, ...]:
    """What the kernels work on, one after the other: on the way back too, chroma first."""
    if images.shape[1] == 1:
        return (LUMA.value,)
    return (ALL.value,) if trip.subsampling == "4:4:4" else (CHROMA.value, LUMA.value)


def _turned(tables: Tensor) -> Tensor:
    """Vertical frequency fastest, as coefficients lie; otherwise threads would exchange them."""
    return tables.mT.contiguous()


def _groups(images: Tensor, q: Tensor) -> tuple[int, int]:
    """Groups of images with the same tables, and images in each."""
    return (len(images), 1) if q.ndim == 4 and len(q) > 1 else (1, len(images))


def _even(images: Tensor) -> bool:
    return images.shape[2] % BLOCK == 0 and images.shape[3] % BLOCK == 0


def _fixed(images: Tensor, q: Tensor, trip: Trip, part: int) -> dict[str, Any]:
    """What Triton compiles for."""
    return {
        "part": part,
        "channels": images.shape[1],
        "down": F.SAMPLING[trip.subsampling][0],
        "tables": q.shape[-3],
        "each": _groups(images, q)[0] > 1,
        "blocks": BLOCKS,
        "even": part != CHROMA.value and _even(images),
        "capped": math.isfinite(trip.cap),
        "scale": 1.0 if images.dtype == torch.uint8 else 255.0,
        "whole": trip.whole,
        "num_warps": _WARPS,
    }


def _tiles(images: Tensor, trip: Trip, part: int, count: int) -> int:
    """How many there are in a plane of so many images."""
    down, across = F.SAMPLING[trip.subsampling] if part == CHROMA.value else (1, 1)
    rows, columns = (-(-side // (BLOCK * factor)) for side, factor in zip(images.shape[2:], (down, across), strict=True))
    return -(-count * rows * columns // BLOCKS)


def _samples(images: Tensor, trip: Trip, dtype: torch.dtype, more: int = 0) -> Tensor | None:
    """Place for subsampled chroma, with ``more`` columns."""
    if CHROMA.value not in _parts(images, trip):
        return None
    n, _, height, width = images.shape
    down, across = F.SAMPLING[trip.subsampling]
    return torch.empty(n, 2, -(-height // down), -(-width // across) + more, dtype=dtype, device=images.device)


def _current(device: torch.device) -> AbstractContextManager[object]:
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
