"""The soft round trip on NVIDIA GPUs: forward and backward each one Triton kernel that reads an image once and writes it once.

A program takes ``BLOCKS`` 8x8 blocks at a time; :mod:`jpegdl.kernels.cuda_blocks` is what it does to them. Gradients of the
tables are summed in registers over all blocks that a program meets, and over the programs in their order: the same at every
call.
"""

# What Triton compiles has types of its own:
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import math
from contextlib import AbstractContextManager, nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

from jpegdl.functional import BLOCK, KB, KG, KR
from jpegdl.kernels.cuda_blocks import quantize, quantize_backward, to_coefficients, to_pixels
from jpegdl.kernels.trip import Trip

BLOCKS = 16  # 8x8 blocks that a program works on at a time: 128 rows of 8, one for each of its threads
_WARPS = 4
# The backward pass needs about 170 registers per thread (see benchmarks/triton_report.py). Held to 168, 3 programs of 128
# threads fill the 65,536 registers of a processor (compute capability 8 and 9); as many are started, each goes through several
# tiles.
_PROGRAMS_PER_PROCESSOR = 3
REGISTERS = 168
# Another number of images, as the last batch of an epoch has, must not make Triton compile again. Other strides may: where they
# are multiples of 16, it reads several numbers at once.
_SIZES = ["count", "height", "width", "tiles"]

_R, _G, _B = tl.constexpr(KR), tl.constexpr(KG), tl.constexpr(KB)
_TO_CB, _TO_CR = tl.constexpr(0.5 / (1 - KB)), tl.constexpr(0.5 / (1 - KR))
_CB_TO_B, _CR_TO_R = tl.constexpr(2 * (1 - KB)), tl.constexpr(2 * (1 - KR))
_CB_TO_G, _CR_TO_G = tl.constexpr(2 * (1 - KB) * KB / KG), tl.constexpr(2 * (1 - KR) * KR / KG)


@triton.jit
def _table(tables, channel: tl.constexpr, half: tl.constexpr, blocks: tl.constexpr):
    """q, 1/q and kappa log2(e) of each coefficient of half a tile; ``tables`` is (3, 3, 64), vertical frequency fastest."""
    at = tables + channel * 192 + half * 4 + (tl.arange(0, blocks * 8) % 8)[:, None] * 8 + tl.arange(0, 4)[None, :]
    return tl.load(at), tl.load(at + 64), tl.load(at + 128)


# ------------------------------------------------------------------------------------------------------------ images


@triton.jit
def _places(tile, count, height, width, blocks: tl.constexpr):
    """Image and row of each line of a tile, the column of its first pixel, and whether its block exists."""
    rows = (height + 7) // 8
    columns = (width + 7) // 8
    line = tl.arange(0, blocks * 8)
    block = tile * blocks + line // 8
    image = block // (rows * columns)
    y = block // columns % rows * 8 + line % 8
    return image.to(tl.int64), y, block % columns * 8, image < count


@triton.jit
def _offsets(image, y, x, sn, sh, sw):
    """Where the left half of each line lies, and its right half; in 64 bits, for tensors of more than 2^31 numbers."""
    columns = (x[:, None] + tl.arange(0, 4)[None, :]).to(tl.int64)
    start = (image * sn + y.to(tl.int64) * sh)[:, None]
    return start + columns * sw, start + (columns + 4) * sw


@triton.jit
def _masks(y, x, exists, height, width, whole: tl.constexpr):
    """Which pixels of the two halves there are."""
    columns = x[:, None] + tl.arange(0, 4)[None, :]
    if whole:
        inside = exists[:, None] & (columns >= 0)
        return inside, inside
    inside = (exists & (y < height))[:, None]
    return inside & (columns < width), inside & (columns + 4 < width)


@triton.jit
def _load(images, at, mask, sc, scale: tl.constexpr):
    """Level-shifted Y, Cb, Cr."""
    r = tl.load(images + at, mask=mask, other=0.0).to(tl.float32)
    g = tl.load(images + at + sc, mask=mask, other=0.0).to(tl.float32)
    b = tl.load(images + at + sc + sc, mask=mask, other=0.0).to(tl.float32)
    luma = r * (_R * scale) + g * (_G * scale) + b * (_B * scale)
    return luma - 128, (b * scale - luma) * _TO_CB, (r * scale - luma) * _TO_CR


@triton.jit
def _store(images, luma, cb, cr, at, mask, sc):
    """The inverse of _load."""
    kind: tl.constexpr = images.dtype.element_ty
    luma = luma * (1 / 255) + 128 / 255
    tl.store(images + at, (luma + cr * (_CR_TO_R / 255)).to(kind), mask=mask)
    tl.store(images + at + sc, (luma - cb * (_CB_TO_G / 255) - cr * (_CR_TO_G / 255)).to(kind), mask=mask)
    tl.store(images + at + sc + sc, (luma + cb * (_CB_TO_B / 255)).to(kind), mask=mask)


@triton.jit
def _load_grad(grad, at, mask, sc):
    """The transpose of _store: gradients of the image to those of Y, Cb, Cr; 0 where there is no image."""
    r = tl.load(grad + at, mask=mask, other=0.0).to(tl.float32) * (1 / 255)
    g = tl.load(grad + at + sc, mask=mask, other=0.0).to(tl.float32) * (1 / 255)
    b = tl.load(grad + at + sc + sc, mask=mask, other=0.0).to(tl.float32) * (1 / 255)
    return r + g + b, b * _CB_TO_B - g * _CB_TO_G, r * _CR_TO_R - g * _CR_TO_G


@triton.jit
def _store_grad(images, luma, cb, cr, at, mask, sc, scale: tl.constexpr):
    """The transpose of _load."""
    kind: tl.constexpr = images.dtype.element_ty
    cb, cr = cb * _TO_CB, cr * _TO_CR
    luma = luma - cb - cr
    tl.store(images + at, ((luma * _R + cr) * scale).to(kind), mask=mask)
    tl.store(images + at + sc, (luma * (_G * scale)).to(kind), mask=mask)
    tl.store(images + at + sc + sc, ((luma * _B + cb) * scale).to(kind), mask=mask)


# ----------------------------------------------------------------------------------------------------------- kernels


@triton.jit
def _load_planes(
    images, image, y, x, exists, height, width, sn, sc, sh, sw, whole: tl.constexpr, scale: tl.constexpr
):  # fmt: skip
    """Left and right halves of Y, Cb, Cr; the last row and column are repeated beyond the border."""
    exists = exists[:, None]
    if whole:
        left, right = _offsets(image, y, x, sn, sh, sw)
    else:
        columns = x[:, None] + tl.arange(0, 4)[None, :]
        start = (image * sn + tl.minimum(y, height - 1).to(tl.int64) * sh)[:, None]
        left = start + tl.minimum(columns, width - 1).to(tl.int64) * sw
        right = start + tl.minimum(columns + 4, width - 1).to(tl.int64) * sw
    y0, cb0, cr0 = _load(images, left, exists, sc, scale)
    y1, cb1, cr1 = _load(images, right, exists, sc, scale)
    return y0, cb0, cr0, y1, cb1, cr1


@triton.jit
def _round_trip(left, right, tables, centre_cap, capped: tl.constexpr, channel: tl.constexpr, blocks: tl.constexpr):
    low, high = to_coefficients(left, right, blocks)
    q, inverse, kappa = _table(tables, channel, 0, blocks)
    low = quantize(low, q, inverse, kappa, centre_cap, capped)
    q, inverse, kappa = _table(tables, channel, 1, blocks)
    high = quantize(high, q, inverse, kappa, centre_cap, capped)
    return to_pixels(low, high, 0, 0, blocks, False)


@triton.jit(do_not_specialize=_SIZES[:3])
def _forward_kernel(
    images, output, tables, centre_cap, count, height, width, sn, sc, sh, sw, on, oc, oh, ow,
    blocks: tl.constexpr, whole: tl.constexpr, capped: tl.constexpr, scale: tl.constexpr,
):  # fmt: skip
    image, y, x, exists = _places(tl.program_id(0), count, height, width, blocks)
    y0, cb0, cr0, y1, cb1, cr1 = _load_planes(images, image, y, x, exists, height, width, sn, sc, sh, sw, whole, scale)
    y0, y1 = _round_trip(y0, y1, tables, centre_cap, capped, 0, blocks)
    cb0, cb1 = _round_trip(cb0, cb1, tables, centre_cap, capped, 1, blocks)
    cr0, cr1 = _round_trip(cr0, cr1, tables, centre_cap, capped, 2, blocks)
    left, right = _offsets(image, y, x, on, oh, ow)
    left_mask, right_mask = _masks(y, x, exists, height, width, whole)
    _store(output, y0, cb0, cr0, left, left_mask, oc)
    _store(output, y1, cb1, cr1, right, right_mask, oc)


@triton.jit
def _plane_backward(
    left, right, grad_left, grad_right, q0, q1, a0, a1, tables, centre_cap,
    capped: tl.constexpr, channel: tl.constexpr, blocks: tl.constexpr,
):  # fmt: skip
    """dL/dz of one plane; dL/dq and dL/dalpha are added to their sums. All in halves."""
    low, high = to_coefficients(left, right, blocks)
    grad_low, grad_high = to_coefficients(grad_left, grad_right, blocks)
    q, inverse, kappa = _table(tables, channel, 0, blocks)
    grad_low, grad_q, grad_alpha = quantize_backward(low, grad_low, q, inverse, kappa, centre_cap, capped)
    q0, a0 = q0 + grad_q, a0 + grad_alpha
    q, inverse, kappa = _table(tables, channel, 1, blocks)
    grad_high, grad_q, grad_alpha = quantize_backward(high, grad_high, q, inverse, kappa, centre_cap, capped)
    return grad_low, grad_high, q0, q1 + grad_q, a0, a1 + grad_alpha


@triton.jit
def _store_sums(partial, low, high, row: tl.constexpr, blocks: tl.constexpr):
    """Sums of one channel, over the blocks, to (programs, 6, 2, 8, 4): half, horizontal frequency, vertical within the half."""
    to = partial + (tl.program_id(0) * 6 + row) * 64 + tl.arange(0, 32)
    tl.store(to, tl.sum(tl.reshape(low, (blocks, 32)), axis=0))
    tl.store(to + 32, tl.sum(tl.reshape(high, (blocks, 32)), axis=0))


@triton.jit(do_not_specialize=_SIZES)
def _backward_kernel(
    images, grad, grad_images, partial, tables, centre_cap, count, height, width, tiles,
    sn, sc, sh, sw, gn, gc, gh, gw, on, oc, oh, ow,
    blocks: tl.constexpr, whole: tl.constexpr, capped: tl.constexpr, scale: tl.constexpr, want_images: tl.constexpr,
):  # fmt: skip
    # Sums of dL/dq (q) and dL/dalpha (a) of Y, Cb, Cr (0, 1, 2), low and high half (l, h).
    q0l = tl.zeros((blocks * 8, 4), tl.float32)
    q0h, q1l, q1h, q2l, q2h = q0l, q0l, q0l, q0l, q0l
    a0l, a0h, a1l, a1h, a2l, a2h = q0l, q0l, q0l, q0l, q0l, q0l
    tile = tl.program_id(0)
    while tile < tiles:
        image, y, x, exists = _places(tile, count, height, width, blocks)
        y0, cb0, cr0, y1, cb1, cr1 = _load_planes(images, image, y, x, exists, height, width, sn, sc, sh, sw, whole, scale)
        left, right = _offsets(image, y, x, gn, gh, gw)
        left_mask, right_mask = _masks(y, x, exists, height, width, whole)
        # Blocks that do not exist have gradient 0 throughout.
        gy0, gcb0, gcr0 = _load_grad(grad, left, left_mask, gc)
        gy1, gcb1, gcr1 = _load_grad(grad, right, right_mask, gc)
        y_low, y_high, q0l, q0h, a0l, a0h = _plane_backward(
            y0, y1, gy0, gy1, q0l, q0h, a0l, a0h, tables, centre_cap, capped, 0, blocks
        )
        cb_low, cb_high, q1l, q1h, a1l, a1h = _plane_backward(
            cb0, cb1, gcb0, gcb1, q1l, q1h, a1l, a1h, tables, centre_cap, capped, 1, blocks
        )
        cr_low, cr_high, q2l, q2h, a2l, a2h = _plane_backward(
            cr0, cr1, gcr0, gcr1, q2l, q2h, a2l, a2h, tables, centre_cap, capped, 2, blocks
        )
        if want_images:
            kept_rows, kept_columns = height - y // 8 * 8, width - x
            y0, y1 = to_pixels(y_low, y_high, kept_rows, kept_columns, blocks, not whole)
            cb0, cb1 = to_pixels(cb_low, cb_high, kept_rows, kept_columns, blocks, not whole)
            cr0, cr1 = to_pixels(cr_low, cr_high, kept_rows, kept_columns, blocks, not whole)
            left, right = _offsets(image, y, x, on, oh, ow)
            _store_grad(grad_images, y0, cb0, cr0, left, left_mask, oc, scale)
            _store_grad(grad_images, y1, cb1, cr1, right, right_mask, oc, scale)
        tile += tl.num_programs(0)
    _store_sums(partial, q0l, q0h, 0, blocks)
    _store_sums(partial, q1l, q1h, 1, blocks)
    _store_sums(partial, q2l, q2h, 2, blocks)
    _store_sums(partial, a0l, a0h, 3, blocks)
    _store_sums(partial, a1l, a1h, 4, blocks)
    _store_sums(partial, a2l, a2h, 5, blocks)


def _tables(q: Tensor, alpha: Tensor) -> Tensor:
    """(3, 3, 64): of each channel q, 1/q and kappa = alpha q^2, vertical frequency fastest."""
    q, alpha = q.detach().float(), alpha.detach().float()
    return torch.stack((q, 1 / q, alpha * q * q * math.log2(math.e)), dim=1).transpose(2, 3).contiguous()


def _geometry(images: Tensor) -> tuple[int, bool, float]:
    """Tiles in the batch; whether all blocks are whole; what takes a pixel to 0..255."""
    n, _, height, width = images.shape
    tiles = triton.cdiv(n * triton.cdiv(height, BLOCK) * triton.cdiv(width, BLOCK), BLOCKS)
    return tiles, height % BLOCK == 0 and width % BLOCK == 0, 1.0 if images.dtype == torch.uint8 else 255.0


def forward(images: Tensor, q: Tensor, alpha: Tensor, seed: None, trip: Trip) -> Tensor:
    """Images through the layer, with the soft quantizer and no subsampling, and steps and alpha (3, 8, 8).

    Args:
        images: (N, 3, H, W) of any strides, floating point in [0, 1] or uint8.

    Returns:
        The same shape, and dtype (float32 for uint8) and memory format; computed in float32.
    """
    n, _, height, width = images.shape
    cap = trip.cap
    output = torch.empty_like(images, dtype=torch.float32 if images.dtype == torch.uint8 else images.dtype)
    tiles, whole, scale = _geometry(images)
    with _current(images.device):  # Triton starts kernels on the current device, wherever the tensors are
        _forward_kernel[(tiles,)](
            images, output, _tables(q, alpha), cap - 2, n, height, width, *images.stride(), *output.stride(),
            blocks=BLOCKS, whole=whole, capped=math.isfinite(cap), scale=scale, num_warps=_WARPS,
        )  # fmt: skip
    return output


def backward(
    images: Tensor, grad: Tensor, q: Tensor, alpha: Tensor, seed: None, trip: Trip, *, want_images: bool
) -> tuple[Tensor | None, Tensor]:
    """Gradients from that of the output, of any strides: of the images (where wanted), and (2, 3, 8, 8), of q and alpha."""
    n, _, height, width = images.shape
    cap = trip.cap
    grad_images = torch.empty_like(images) if want_images else images
    tiles, whole, scale = _geometry(images)
    programs = min(tiles, _PROGRAMS_PER_PROCESSOR * _processors(images.device))
    partial = torch.empty((programs, 6, 2, BLOCK, BLOCK // 2), dtype=torch.float32, device=images.device)
    with _current(images.device):
        _backward_kernel[(programs,)](
            images, grad, grad_images, partial, _tables(q, alpha), cap - 2, n, height, width, tiles,
            *images.stride(), *grad.stride(), *grad_images.stride(),
            blocks=BLOCKS, whole=whole, capped=math.isfinite(cap), scale=scale, want_images=want_images,
            num_warps=_WARPS, maxnreg=REGISTERS,
        )  # fmt: skip
    # From half, horizontal frequency, vertical one within the half: to rows of vertical frequency.
    sums = partial.sum(0).transpose(2, 3).reshape(2, 3, BLOCK, BLOCK)
    return grad_images if want_images else None, sums


def _current(device: torch.device) -> AbstractContextManager[object]:
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
