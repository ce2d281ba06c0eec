"""The fused round trip on the CPU, compiled by numba at first use (a few seconds; then cached on disk).

A strip of 8 pixel rows stays in the cache from the load to the store: colour, DCT, quantizer, inverse DCT, colour. Every inner
loop runs over contiguous float32, so that it becomes vector instructions on whatever the machine has. Threads (PyTorch's own)
take strips; each strip has its own place for its table gradients, so that sums do not depend on the number of threads.
"""

# numba infers the types of what it compiles:
# mypy: disable-error-code="no-untyped-def, no-untyped-call, call-arg, var-annotated, attr-defined"

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir
from numba import float32, int32
from numba.core import types
from numba.extending import intrinsic
from torch import Tensor

from jpegdl import functional as F
from jpegdl.functional import BLOCK, DCT, KB, KG, KR

# No "reassoc" and no "nnan": the exponential's range reduction needs the order it is written in, and a NaN must stay one.
_compiled: Callable[..., Any] = numba.njit(fastmath={"contract", "nsz", "arcp"}, error_model="numpy", nogil=True, cache=True)

_DCT = torch.tensor(DCT, dtype=torch.float32, device="cpu")
_IDCT = _DCT.T.contiguous()

_R, _G, _B = float32(KR), float32(KG), float32(KB)
_TO_CB, _TO_CR = float32(0.5 / (1 - KB)), float32(0.5 / (1 - KR))
_CB_TO_B, _CR_TO_R = float32(2 * (1 - KB)), float32(2 * (1 - KR))
_CB_TO_G, _CR_TO_G = float32(2 * (1 - KB) * KB / KG), float32(2 * (1 - KR) * KR / KG)
_WORTH_A_THREAD = 1 << 14  # numbers, 0.1 milliseconds of work

_ZERO, _ONE, _TWO, _THREE, _FOUR = (float32(i) for i in range(5))


# ------------------------------------------------------------------------------------------------------- exponential


@intrinsic
def _rint(context: Any, x: Any) -> Any:
    """Round to the nearest integer, ties to even, as torch.round does; one vector instruction."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.call(builder.module.declare_intrinsic("llvm.rint", [ir.FloatType()]), arguments)

    return types.float32(types.float32), code


@intrinsic
def _float_of_bits(context: Any, i: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), code


@numba.njit(fastmath={"contract", "nsz", "arcp"}, error_model="numpy", inline="always")
def _exp(x):
    """exp(x) for x <= 0, to 2 units in the last place; exp(-87) below that. Range reduction and polynomial of Cephes' expf."""
    x = max(x, float32(-87.0))
    n = _rint(x * float32(1.44269504088896341))
    r = x - n * float32(0.693359375)
    r = r + n * float32(2.12194440e-4)
    p = float32(1.9875691500e-4)
    p = p * r + float32(1.3981999507e-3)
    p = p * r + float32(8.3334519073e-3)
    p = p * r + float32(4.1665795894e-2)
    p = p * r + float32(1.6666665459e-1)
    p = p * r + float32(5.0000001201e-1)
    return (p * r * r + r + _ONE) * _float_of_bits((int32(n) + int32(127)) << int32(23))


# ------------------------------------------------------------------------------------------- one strip of 8 pixel rows


@_compiled
def _load(image, top, planes):
    """(3, H, W) in [0, 1] to level-shifted Y, Cb, Cr of one strip, (3, 8, 8 C); edges repeated."""
    height, width = image.shape[1:]
    for y in range(8):
        row = min(top + y, height - 1)
        for x in range(width):
            r, g, b = image[0, row, x] * float32(255), image[1, row, x] * float32(255), image[2, row, x] * float32(255)
            luma = _R * r + _G * g + _B * b
            planes[0, y, x] = luma - float32(128)
            planes[1, y, x] = (b - luma) * _TO_CB
            planes[2, y, x] = (r - luma) * _TO_CR
        for x in range(width, planes.shape[2]):
            for c in range(3):
                planes[c, y, x] = planes[c, y, width - 1]


@_compiled
def _store(planes, image, top):
    """The inverse of _load, where the image is."""
    height, width = image.shape[1:]
    for y in range(min(8, height - top)):
        for x in range(width):
            luma, cb, cr = planes[0, y, x] + float32(128), planes[1, y, x], planes[2, y, x]
            image[0, top + y, x] = (luma + cr * _CR_TO_R) * float32(1 / 255)
            image[1, top + y, x] = (luma - cb * _CB_TO_G - cr * _CR_TO_G) * float32(1 / 255)
            image[2, top + y, x] = (luma + cb * _CB_TO_B) * float32(1 / 255)


@_compiled
def _store_transposed(grad, top, planes):
    """The transpose of _store: gradients of the image to those of the planes; 0 where there is no image."""
    height, width = grad.shape[1:]
    planes[:] = _ZERO
    for y in range(min(8, height - top)):
        for x in range(width):
            r, g, b = grad[0, top + y, x], grad[1, top + y, x], grad[2, top + y, x]
            planes[0, y, x] = (r + g + b) * float32(1 / 255)
            planes[1, y, x] = (b * _CB_TO_B - g * _CB_TO_G) * float32(1 / 255)
            planes[2, y, x] = (r * _CR_TO_R - g * _CR_TO_G) * float32(1 / 255)


@_compiled
def _load_transposed(planes, grad, top):
    """The transpose of _load: what reached a repeated edge goes back to the pixel it was repeated from."""
    height, width = grad.shape[1:]
    rows = min(8, height - top)
    for c in range(3):
        for y in range(8):
            for x in range(width, planes.shape[2]):
                planes[c, y, width - 1] += planes[c, y, x]
        for y in range(rows, 8):
            for x in range(width):
                planes[c, rows - 1, x] += planes[c, y, x]
    for y in range(rows):
        for x in range(width):
            cb, cr = planes[1, y, x] * _TO_CB, planes[2, y, x] * _TO_CR
            luma = planes[0, y, x] - cb - cr
            grad[0, top + y, x] = (_R * luma + cr) * float32(255)
            grad[1, top + y, x] = _G * luma * float32(255)
            grad[2, top + y, x] = (_B * luma + cb) * float32(255)


@_compiled
def _columns(matrix, source, target):
    """target = matrix @ source, (8, 8) times (8, 8 C)."""
    for u in range(8):
        to = target[u]
        for x in range(source.shape[1]):
            to[x] = (
                matrix[u, 0] * source[0, x] + matrix[u, 1] * source[1, x] + matrix[u, 2] * source[2, x]
                + matrix[u, 3] * source[3, x] + matrix[u, 4] * source[4, x] + matrix[u, 5] * source[5, x]
                + matrix[u, 6] * source[6, x] + matrix[u, 7] * source[7, x]
            )  # fmt: skip


@_compiled
def _dct(plane, z, d, dt, half):
    """(8, 8 C) to coefficients (C, 64): D X D^T in each block, by way of ``half`` = D X."""
    _columns(d, plane, half)
    for block in range(z.shape[0]):
        x = 8 * block
        for u in range(8):
            a = half[u]
            a0, a1, a2, a3, a4, a5, a6, a7 = a[x], a[x + 1], a[x + 2], a[x + 3], a[x + 4], a[x + 5], a[x + 6], a[x + 7]
            for v in range(8):
                z[block, 8 * u + v] = (
                    a0 * dt[0, v] + a1 * dt[1, v] + a2 * dt[2, v] + a3 * dt[3, v]
                    + a4 * dt[4, v] + a5 * dt[5, v] + a6 * dt[6, v] + a7 * dt[7, v]
                )  # fmt: skip


@_compiled
def _idct(z, plane, d, dt, half):
    """The inverse of _dct, which is its transpose."""
    for block in range(z.shape[0]):
        for u in range(8):
            a = z[block, 8 * u : 8 * u + 8]
            a0, a1, a2, a3, a4, a5, a6, a7 = a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]
            for x in range(8):
                half[u, 8 * block + x] = (
                    a0 * d[0, x] + a1 * d[1, x] + a2 * d[2, x] + a3 * d[3, x]
                    + a4 * d[4, x] + a5 * d[5, x] + a6 * d[6, x] + a7 * d[7, x]
                )  # fmt: skip
    _columns(dt, half, plane)


# --------------------------------------------------------------------------------------------------------- quantizer


@numba.njit(fastmath={"contract", "nsz", "arcp"}, error_model="numpy", inline="always")
def _weights(t, level, kappa, e2, e6, e12, cap):
    """Unnormalised P(k | z) for k = n - 4 .. n + 4, weight 1 at n; 0 outside the window of 5 levels.

    exp(kappa (2 t d - d^2)) = exp(-kappa (1 -+ 2 t))^|d| exp(-kappa (d^2 - |d|)): two exponentials, and constants of the
    frequency. Beyond d = +-2 the window reaches only at the cap, where it is shifted inwards.
    """
    up = _exp(min(-kappa * (_ONE - _TWO * t), _ZERO))
    down = _exp(min(-kappa * (_ONE + _TWO * t), _ZERO))
    up = up if level <= cap - _ONE else _ZERO
    down = down if level >= _ONE - cap else _ZERO
    up2, down2 = up * up, down * down
    p2 = up2 * e2 if level <= cap - _TWO else _ZERO
    m2 = down2 * e2 if level >= _TWO - cap else _ZERO
    p3 = up2 * up * e6 if level <= _ONE - cap else _ZERO
    m3 = down2 * down * e6 if level >= cap - _ONE else _ZERO
    p4 = up2 * up2 * e12 if level <= -cap else _ZERO
    m4 = down2 * down2 * e12 if level >= cap else _ZERO
    return up, down, p2, m2, p3, m3, p4, m4


# Tables come, and sums go out, as runs of 64 in one array each: of a few arrays LLVM checks that they do not overlap and makes
# vector instructions, of many it does not.


@_compiled
def _quantize(z, table, cap):
    """Q_d in place, (C, 64); ``table`` as from _tables."""
    for block in range(z.shape[0]):
        zb = z[block]
        for i in range(64):
            q, inverse, kappa = table[i], table[64 + i], table[128 + i]
            scaled = zb[i] * inverse
            level = min(max(_rint(scaled), -cap), cap)
            t = (zb[i] - q * level) * inverse  # not scaled - level: the difference is exact before it is scaled
            p1, m1, p2, m2, p3, m3, p4, m4 = _weights(t, level, kappa, table[192 + i], table[256 + i], table[320 + i], cap)
            total = _ONE + (p1 + m1) + (p2 + m2) + (p3 + m3) + (p4 + m4)
            first = (p1 - m1) + _TWO * (p2 - m2) + _THREE * (p3 - m3) + _FOUR * (p4 - m4)
            zb[i] = q * (level + first / total) + (scaled - scaled)  # the last: NaN and infinity become NaN


@_compiled
def _quantize_backward(z, grad, table, cap, sums):
    """Turn dL/dQ into dL/dz in place, (C, 64), and add to dL/dq and dL/dalpha, the two halves of (128,)."""
    for block in range(z.shape[0]):
        zb, gb = z[block], grad[block]
        for i in range(64):
            q, inverse, kappa = table[i], table[64 + i], table[128 + i]
            scaled = zb[i] * inverse
            level = min(max(_rint(scaled), -cap), cap)
            t = (zb[i] - q * level) * inverse
            p1, m1, p2, m2, p3, m3, p4, m4 = _weights(t, level, kappa, table[192 + i], table[256 + i], table[320 + i], cap)
            share = _ONE / (_ONE + (p1 + m1) + (p2 + m2) + (p3 + m3) + (p4 + m4))
            mean = ((p1 - m1) + _TWO * (p2 - m2) + _THREE * (p3 - m3) + _FOUR * (p4 - m4)) * share
            square = ((p1 + m1) + _FOUR * (p2 + m2) + float32(9) * (p3 + m3) + float32(16) * (p4 + m4)) * share
            cube = ((p1 - m1) + float32(8) * (p2 - m2) + float32(27) * (p3 - m3) + float32(64) * (p4 - m4)) * share
            variance = square - mean * mean
            skew = cube - mean * square
            g = gb[i] + (scaled - scaled)
            sums[i] += g * (level + mean + _TWO * kappa * ((t - level) * variance - skew))
            sums[64 + i] += g * (q * q * q) * (_TWO * t * variance - skew)
            gb[i] = g * (_TWO * kappa * variance)


# ------------------------------------------------------------------------------------------------------------ strips


@_compiled
def _forward_strips(images, output, tables, cap, d, dt, start, stop):
    strips, blocks = (images.shape[2] + 7) // 8, (images.shape[3] + 7) // 8
    planes, half = np.empty((3, 8, 8 * blocks), np.float32), np.empty((8, 8 * blocks), np.float32)
    z = np.empty((blocks, 64), np.float32)
    for job in range(start, stop):
        n, top = job // strips, job % strips * 8
        _load(images[n], top, planes)
        for c in range(3):
            _dct(planes[c], z, d, dt, half)
            _quantize(z, tables[c], cap)
            _idct(z, planes[c], d, dt, half)
        _store(planes, output[n], top)


@_compiled
def _backward_strips(images, grad, grad_images, partial, tables, cap, d, dt, start, stop):
    strips, blocks = (images.shape[2] + 7) // 8, (images.shape[3] + 7) // 8
    planes, half = np.empty((3, 8, 8 * blocks), np.float32), np.empty((8, 8 * blocks), np.float32)
    grad_planes = np.empty((3, 8, 8 * blocks), np.float32)
    z, grad_z = np.empty((blocks, 64), np.float32), np.empty((blocks, 64), np.float32)
    for job in range(start, stop):
        n, top = job // strips, job % strips * 8
        _load(images[n], top, planes)
        _store_transposed(grad[n], top, grad_planes)
        for c in range(3):
            _dct(planes[c], z, d, dt, half)
            _dct(grad_planes[c], grad_z, d, dt, half)
            _quantize_backward(z, grad_z, tables[c], cap, partial[job, c])
            if grad_images.shape[0]:
                _idct(grad_z, grad_planes[c], d, dt, half)
        if grad_images.shape[0]:
            _load_transposed(grad_planes, grad_images[n], top)


# ------------------------------------------------------------------------------------------------------------- threads
# All threads of a team call the same function with the same job, a row of integers: how many pieces are taken already, of how
# many; strips; N, H, W, N of the image gradient; then where the arrays lie. Each takes pieces until none is left.


@intrinsic
def _take(context: Any, counter: Any) -> Any:
    """The number at ``counter``, which grows by one, whoever else takes one at the same time."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.atomic_rmw("add", arguments[0], ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(types.CPointer(types.int64)), code


@intrinsic
def _floats_at(context: Any, address: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], ir.FloatType().as_pointer())

    return types.CPointer(types.float32)(types.int64), code


def _forward_team(job):
    pieces, strips, n, h, w = job[1], job[2], job[3], job[4], job[5]
    images, output = numba.carray(_floats_at(job[7]), (n, 3, h, w)), numba.carray(_floats_at(job[8]), (n, 3, h, w))
    tables, cap = numba.carray(_floats_at(job[9]), (3, 384)), numba.carray(_floats_at(job[10]), (1,))[0]
    d, dt = numba.carray(_floats_at(job[11]), (8, 8)), numba.carray(_floats_at(job[12]), (8, 8))
    piece = _take(job)
    while piece < pieces:
        _forward_strips(images, output, tables, cap, d, dt, strips * piece // pieces, strips * (piece + 1) // pieces)
        piece = _take(job)


def _backward_team(job):
    pieces, strips, n, h, w = job[1], job[2], job[3], job[4], job[5]
    images, grad = numba.carray(_floats_at(job[7]), (n, 3, h, w)), numba.carray(_floats_at(job[8]), (n, 3, h, w))
    tables, cap = numba.carray(_floats_at(job[9]), (3, 384)), numba.carray(_floats_at(job[10]), (1,))[0]
    d, dt = numba.carray(_floats_at(job[11]), (8, 8)), numba.carray(_floats_at(job[12]), (8, 8))
    grad_images = numba.carray(_floats_at(job[13]), (job[6], 3, h, w))
    partial = numba.carray(_floats_at(job[14]), (strips, 3, 128))
    piece = _take(job)
    while piece < pieces:
        _backward_strips(
            images, grad, grad_images, partial, tables, cap, d, dt, strips * piece // pieces, strips * (piece + 1) // pieces
        )
        piece = _take(job)


@lru_cache(maxsize=2)
def _native(team: Callable[..., None]) -> Any:
    """The team's function, compiled; called without the interpreter's lock."""
    return numba.cfunc(types.void(types.CPointer(types.int64)), cache=True)(team).ctypes


@lru_cache(maxsize=1)
def _openmp() -> Any:
    """PyTorch's own threads, where it uses GNU OpenMP: they spin for a while after each operation, in the way of any others."""
    libraries = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    return getattr(ctypes.CDLL(str(libraries[0])), "GOMP_parallel", None) if libraries else None


def _share_out(team: Callable[..., None], images: Tensor, grad_images: Tensor | None, *arrays: Tensor) -> None:
    """Run all strips on as many threads as PyTorch uses; on this one alone where starting others takes longer."""
    strips = _count_strips(images)
    threads = min(torch.get_num_threads(), strips, 1 + images.numel() // _WORTH_A_THREAD)
    # Several pieces a thread: one that shares its core with another process takes fewer.
    pieces = 1 if threads == 1 else min(4 * threads, strips)
    n, _, height, width = images.shape
    count = 0 if grad_images is None else n
    sizes = (0, pieces, strips, n, height, width, count)
    job = (ctypes.c_int64 * (len(sizes) + len(arrays)))(*sizes, *(array.data_ptr() for array in arrays))
    native, parallel = _native(team), _openmp()
    if threads == 1:
        native(job)
    elif parallel is not None:
        parallel(native, job, torch.get_num_threads(), 0)  # the team as it is: another size would make threads anew
    else:
        with ThreadPoolExecutor(threads) as pool:  # made anew each time: safe under fork
            list(pool.map(native, [job] * threads))


def _count_strips(images: Tensor) -> int:
    return len(images) * -(-images.shape[2] // BLOCK)


def _tables(q: Tensor, alpha: Tensor) -> Tensor:
    """(3, 6 * 64): q, 1/q, kappa = alpha q^2 and exp(-2 kappa), exp(-6 kappa), exp(-12 kappa)."""
    q, alpha = q.detach().double().reshape(3, -1), alpha.detach().double().reshape(3, -1)
    kappa = alpha * q * q
    return torch.cat((q, 1 / q, kappa, *(torch.exp(-i * kappa) for i in (2, 6, 12))), dim=1).float()


def forward(images: Tensor, q: Tensor, alpha: Tensor, cap: float) -> Tensor:
    """Images through the layer, with steps and softness (3, 8, 8).

    Args:
        images: (N, 3, H, W) of any strides, floating point in [0, 1] or uint8.

    Returns:
        The same shape, contiguous, and dtype (float32 for uint8); computed in float32.
    """
    pixels = F.unit_images(images.detach()).contiguous()
    output = torch.empty_like(pixels)
    _share_out(_forward_team, pixels, None, pixels, output, _tables(q, alpha), pixels.new_tensor([cap]), _DCT, _IDCT)
    return output if images.dtype == torch.uint8 else output.to(images.dtype)


def backward(
    images: Tensor, grad: Tensor, q: Tensor, alpha: Tensor, cap: float, *, want_images: bool
) -> tuple[Tensor | None, Tensor]:
    """Gradients from that of the output, of any strides: of the images (where wanted), and (2, 3, 8, 8), of q and alpha."""
    pixels, grad = F.unit_images(images.detach()).contiguous(), grad.float().contiguous()
    grad_images = torch.empty_like(pixels) if want_images else None
    partial = pixels.new_zeros(_count_strips(pixels), 3, 2 * BLOCK * BLOCK)
    place = pixels if grad_images is None else grad_images  # not written to in the first case
    tables, limit = _tables(q, alpha), pixels.new_tensor([cap])
    _share_out(_backward_team, pixels, grad_images, pixels, grad, tables, limit, _DCT, _IDCT, place, partial)
    sums = partial.sum(dim=0, dtype=torch.float64).float()
    sums = sums.reshape(3, 2, BLOCK, BLOCK).transpose(0, 1).contiguous()
    return None if grad_images is None else grad_images.to(images.dtype), sums
