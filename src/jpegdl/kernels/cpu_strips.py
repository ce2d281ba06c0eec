"""What numba compiles for the CPU: strips of 8 pixel rows, which stay in the cache from the load to the store.

Colour is a loop over whole rows, which the compiler turns into vector instructions; :mod:`jpegdl.kernels.cpu_blocks` has what
is done to a block. Each strip has its own place for its table gradients, so that sums do not depend on who takes which.
"""

# numba infers the types of what it compiles:
# mypy: disable-error-code="no-untyped-def, no-untyped-call, call-arg, var-annotated, attr-defined"

import ctypes
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import float32
from numba.core import types
from numba.extending import intrinsic

from jpegdl.functional import KB, KG, KR
from jpegdl.kernels.cpu_blocks import (
    TABLES,
    all_near,
    analyze,
    derive,
    gradients_near,
    gradients_windowed,
    quantize_near,
    quantize_windowed,
    synthesize,
)
from jpegdl.kernels.cpu_vectors import FLAGS

_compiled: Callable[..., Any] = numba.njit(fastmath=set(FLAGS), error_model="numpy", nogil=True)

_R, _G, _B = float32(KR), float32(KG), float32(KB)
_TO_CB, _TO_CR = float32(0.5 / (1 - KB)), float32(0.5 / (1 - KR))
_CB_TO_B, _CR_TO_R = float32(2 * (1 - KB)), float32(2 * (1 - KR))
_CB_TO_G, _CR_TO_G = float32(2 * (1 - KB) * KB / KG), float32(2 * (1 - KR) * KR / KG)


# ------------------------------------------------------------------------------------------- colour of a strip

_ZERO = float32(0)


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


# ------------------------------------------------------------------------------------------------------------ strips


@_compiled
def _prepare(q, alpha, tables):
    """Tables of all planes, vertical frequency fastest, from steps and alpha (3, 8, 8)."""
    for c in range(3):
        for u in range(8):
            for v in range(8):
                tables[c, 8 * v + u], tables[c, 64 + 8 * v + u] = q[c, u, v], alpha[c, u, v]
        for i in range(0, 64, 8):
            derive(tables[c], i)


@_compiled
def _forward_strips(images, output, tables, limit, start, stop):
    strips, width = (images.shape[2] + 7) // 8, (images.shape[3] + 7) // 8 * 8
    planes, z = np.empty((3, 8, width), np.float32), np.empty(64, np.float32)
    for strip in range(start, stop):
        n, top = strip // strips, strip % strips * 8
        _load(images[n], top, planes)
        for c in range(3):
            plane, table = planes[c], tables[c]
            for x in range(0, width, 8):
                analyze(plane, x, width, z)
                for i in range(0, 64, 8):
                    if all_near(z, i, table, limit):
                        quantize_near(z, i, table)
                    else:
                        quantize_windowed(z, i, table, limit)
                synthesize(z, plane, x, width)
        _store(planes, output[n], top)


@_compiled
def _backward_strips(images, grad, grad_images, partial, tables, limit, start, stop):
    strips, width = (images.shape[2] + 7) // 8, (images.shape[3] + 7) // 8 * 8
    planes, grad_planes = np.empty((3, 8, width), np.float32), np.empty((3, 8, width), np.float32)
    z, grad_z = np.empty(64, np.float32), np.empty(64, np.float32)
    for strip in range(start, stop):
        n, top = strip // strips, strip % strips * 8
        _load(images[n], top, planes)
        _store_transposed(grad[n], top, grad_planes)
        for c in range(3):
            plane, grad_plane, table, sums = planes[c], grad_planes[c], tables[c], partial[strip, c]
            for x in range(0, width, 8):
                analyze(plane, x, width, z)
                analyze(grad_plane, x, width, grad_z)
                for i in range(0, 64, 8):
                    if all_near(z, i, table, limit):
                        gradients_near(z, grad_z, i, table, sums)
                    else:
                        gradients_windowed(z, grad_z, i, table, sums, limit)
                if grad_images.shape[0]:
                    synthesize(grad_z, grad_plane, x, width)
        if grad_images.shape[0]:
            _load_transposed(grad_planes, grad_images[n], top)


# ------------------------------------------------------------------------------------------------------------- a job


class Job(ctypes.Structure):
    """What a team of threads works on. All of them are given the same one, and take pieces of it until none is left."""

    _fields_ = (
        ("taken", ctypes.c_int64),  # pieces so far; the first, as take finds it there
        ("pieces", ctypes.c_int64),
        ("strips", ctypes.c_int64),
        *((name, ctypes.c_int64) for name in ("n", "height", "width")),
        ("cap", ctypes.c_float),
        # Where float32 lie: of (n, 3, height, width), of (3, 8, 8), and of (strips, 3, 128). 0 for what there is not.
        *((name, ctypes.c_int64) for name in ("images", "output", "grad", "grad_images", "q", "alpha", "partial")),
    )


JOB = types.CPointer(numba.from_dtype(np.dtype(Job)))


@intrinsic
def take(typing: Any, job: Any) -> Any:
    """The number of pieces that were taken, which grows by one, whoever else takes one at the same time."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        taken = builder.bitcast(arguments[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", taken, ir.IntType(64)(1), "monotonic")

    return types.int64(job), code


@intrinsic
def floats_at(typing: Any, address: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], ir.FloatType().as_pointer())

    return types.CPointer(types.float32)(types.int64), code


@_compiled
def _tables_of(job):
    tables = np.empty((3, TABLES), np.float32)
    _prepare(numba.carray(floats_at(job.q), (3, 8, 8)), numba.carray(floats_at(job.alpha), (3, 8, 8)), tables)
    return tables


@_compiled
def _forward_team(pointer):
    """What each thread does in the forward pass."""
    job = numba.carray(pointer, 1)[0]
    shape = (job.n, 3, job.height, job.width)
    images, output = numba.carray(floats_at(job.images), shape), numba.carray(floats_at(job.output), shape)
    tables, limit = _tables_of(job), job.cap - float32(2)
    piece = take(pointer)
    while piece < job.pieces:
        start, stop = job.strips * piece // job.pieces, job.strips * (piece + 1) // job.pieces
        _forward_strips(images, output, tables, limit, start, stop)
        piece = take(pointer)


@_compiled
def _backward_team(pointer):
    """What each thread does in the backward pass."""
    job = numba.carray(pointer, 1)[0]
    shape = (job.n, 3, job.height, job.width)
    images, grad = numba.carray(floats_at(job.images), shape), numba.carray(floats_at(job.grad), shape)
    wanted = job.n if job.grad_images else 0
    grad_images = numba.carray(floats_at(job.grad_images), (wanted, 3, job.height, job.width))
    partial = numba.carray(floats_at(job.partial), (job.strips, 3, 128))
    tables, limit = _tables_of(job), job.cap - float32(2)
    piece = take(pointer)
    while piece < job.pieces:
        start, stop = job.strips * piece // job.pieces, job.strips * (piece + 1) // job.pieces
        _backward_strips(images, grad, grad_images, partial, tables, limit, start, stop)
        piece = take(pointer)


def kernel_sources() -> str:
    """A digest of all that the kernels on the CPU are made of."""
    here = Path(__file__).parent
    files = [*sorted(here.glob("cpu_*.py")), here.parent / "functional" / "exact.py"]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _teams(sources: str) -> tuple[Callable[[Any], None], Callable[[Any], None]]:
    """What each thread does, forward and backward, for ``numba.cfunc``.

    numba takes what it compiled from its cache on disk where a function, its file and what it closes over are unchanged. What
    the function calls may have changed: so it closes over the sources of that.
    """

    def forward(pointer):
        sources  # noqa: B018
        _forward_team(pointer)

    def backward(pointer):
        sources  # noqa: B018
        _backward_team(pointer)

    return forward, backward


forward_team, backward_team = _teams(kernel_sources())
