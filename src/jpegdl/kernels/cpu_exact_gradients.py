"""What numba compiles for gradients of the exact round trip, straight through its roundings; see the module for the images.

DCT and inverse undo one another then, and what is left of the codec is the averaging of chroma and its way back. A step's
gradient is the sum over its coefficients of that of the coefficient times what ``residuals`` gives.
"""

# numba infers the types of what it compiles:
# mypy: disable-error-code="no-untyped-def, no-untyped-call, call-arg, var-annotated, attr-defined"

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba import float32

from jpegdl.functional import KB, KG, KR
from jpegdl.kernels.cpu_blocks import analyze
from jpegdl.kernels.cpu_exact import clear, compiled, copy, inlined, load_chroma_of_floats, load_strip_of_floats
from jpegdl.kernels.cpu_strips import floats_at, kernel_sources, take
from jpegdl.kernels.cpu_whole import prepare, residuals

_R, _G, _B = float32(KR), float32(KG), float32(KB)
_TO_CB, _TO_CR = float32(0.5 / (1 - KB)), float32(0.5 / (1 - KR))
_CB_TO_B, _CR_TO_R = float32(2 * (1 - KB)), float32(2 * (1 - KR))
_CB_TO_G, _CR_TO_G = float32(2 * (1 - KB) * KB / KG), float32(2 * (1 - KR) * KR / KG)


@compiled
def _add_chroma(grad, row, weight, wide):
    """Gradients of a row of pixels, ``weight`` times, to those of its Cb and Cr, (2, ..), from place 1 on."""
    for x in range(grad.shape[2]):
        r, g, b = grad[0, row, x], grad[1, row, x], grad[2, row, x]
        wide[0, x + 1] += weight * (b * _CB_TO_B - g * _CB_TO_G)
        wide[1, x + 1] += weight * (r * _CR_TO_R - g * _CR_TO_G)


@compiled
def _to_samples(grad, row, down, wide, out, y0):
    """The transpose of _upsample: gradients of an image's pixels to those of a row of its Cb and Cr samples, ``out[:, y0]``."""
    height, width = grad.shape[1:]
    columns = (width + 1) // 2
    for c in range(2):
        clear(wide[c])
    for y in range(max(0, down * row - 1), min(height, down * row + down + 1)):
        near = y // down
        if down == 1 or columns <= 2:
            weight = float32(near == row)
        else:
            other = min(max(near + (1 if y % 2 else -1), 0), (height + 1) // 2 - 1)
            weight = float32(0.75) * float32(near == row) + float32(0.25) * float32(other == row)
        if weight:
            _add_chroma(grad, y, weight, wide)
    for c in range(2):
        line, target = wide[c], out[c, y0]
        clear(target)
        if columns <= 2:
            for x in range(columns):
                target[x] = line[2 * x + 1] + line[2 * x + 2]
            continue
        line[0], line[2 * columns + 1] = line[1], line[2 * columns]
        for x in range(columns):
            target[x] = float32(0.75) * (line[2 * x + 1] + line[2 * x + 2]) + float32(0.25) * (line[2 * x] + line[2 * x + 3])


@compiled
def _add_residuals(plane, grad_plane, steps, inverses, straight, z, grad_z, sums):
    width = plane.shape[1]
    for x in range(0, width, 8):
        residuals(plane, x, width, steps, inverses, straight, z)
        analyze(grad_plane, x, width, grad_z)
        for i in range(64):
            sums[i] += z[i] * grad_z[i]


@compiled
def _chroma_gradient_strips(images, grad, tables, samples, partial, down, straight, start, stop):
    """Gradients of pixels to those of chroma samples, and of their table where ``partial`` has place for it."""
    height, width = images.shape[2:]
    columns, strips = samples.shape[3], samples.shape[2] // 8
    pixels, planes, rows = (
        np.empty((3, width), np.int32),
        np.empty((2, 8, columns), np.int32),
        np.empty((4, 2 * columns), np.int32),
    )
    steps, inverses = np.empty((2, 64), np.int32), np.empty(64, np.float32)
    wide, grad_planes = np.empty((2, 2 * columns + 2), np.float32), np.zeros((2, 8, columns), np.float32)
    z, grad_z = np.empty(64, np.float32), np.empty(64, np.float32)
    for strip in range(start, stop):
        n, top = strip // strips, strip % strips * 8
        for y in range(8):
            if top + y < (height + down - 1) // down:
                _to_samples(grad[n], top + y, down, wide, grad_planes, y)
            else:
                for c in range(2):
                    clear(grad_planes[c, y])
            for c in range(2):
                copy(grad_planes[c, y], samples[n, c, top + y])
        if not partial.shape[0]:
            continue
        prepare(tables[n if tables.shape[0] > 1 else 0], steps, inverses)
        load_chroma_of_floats(images[n], top, down, pixels, rows, planes)
        for c in range(2):
            _add_residuals(planes[c], grad_planes[c], steps, inverses, straight, z, grad_z, partial[strip])


@compiled
def _image_gradient_strips(images, grad, grad_images, lumas, chromas, samples, partial, down, across, straight, start, stop):
    """The rest: gradients of images where subsampling changes them, and of tables where ``partial`` (.., 2, 64) has place."""
    channels, height, width = images.shape[1:]
    strips, columns = (height + 7) // 8, (width + 7) // 8 * 8
    pixels, planes = np.empty((channels, width), np.int32), np.empty((channels, 8, columns), np.int32)
    grad_planes = np.zeros((channels, 8, columns), np.float32)
    steps, inverses = np.empty((2, 2, 64), np.int32), np.empty((2, 64), np.float32)
    z, grad_z = np.empty(64, np.float32), np.empty(64, np.float32)
    share = float32(1) / float32(down * across)
    for strip in range(start, stop):
        n, top = strip // strips, strip % strips * 8
        if grad_images.shape[0] and across > 1:
            for y in range(top, min(top + 8, height)):
                row, weight = y // down, share
                if down == 2 and y == height - 1 and height % 2:  # repeated, and averaged with itself
                    weight = share * float32(2)
                for x in range(width):
                    part = weight * float32(2) if x == width - 1 and width % 2 else weight
                    luma = grad[n, 0, y, x] + grad[n, 1, y, x] + grad[n, 2, y, x]
                    cb, cr = samples[n, 0, row, x // 2] * part * _TO_CB, samples[n, 1, row, x // 2] * part * _TO_CR
                    luma = luma - cb - cr
                    grad_images[n, 0, y, x] = _R * luma + cr
                    grad_images[n, 1, y, x] = _G * luma
                    grad_images[n, 2, y, x] = _B * luma + cb
        if not partial.shape[0]:
            continue
        prepare(lumas[n if lumas.shape[0] > 1 else 0], steps[0], inverses[0])
        prepare(chromas[n if chromas.shape[0] > 1 else 0], steps[1], inverses[1])
        load_strip_of_floats(images[n], top, pixels, planes, across)
        for y in range(8):
            for c in range(channels):
                clear(grad_planes[c, y])
        for y in range(min(8, height - top)):
            for x in range(width):
                if channels == 1:
                    grad_planes[0, y, x] = grad[n, 0, top + y, x]
                else:
                    r, g, b = grad[n, 0, top + y, x], grad[n, 1, top + y, x], grad[n, 2, top + y, x]
                    grad_planes[0, y, x] = r + g + b
                    if across == 1:
                        grad_planes[1, y, x] = b * _CB_TO_B - g * _CB_TO_G
                        grad_planes[2, y, x] = r * _CR_TO_R - g * _CR_TO_G
        _add_residuals(planes[0], grad_planes[0], steps[0], inverses[0], straight, z, grad_z, partial[strip, 0])
        if channels == 3 and across == 1:
            for c in range(1, 3):
                _add_residuals(planes[c], grad_planes[c], steps[1], inverses[1], straight, z, grad_z, partial[strip, 1])


@inlined
def _chroma_gradient_team(pointer):
    job = numba.carray(pointer, 1)[0]
    shape = (job.n, job.channels, job.height, job.width)
    images, grad = numba.carray(floats_at(job.images), shape), numba.carray(floats_at(job.grad), shape)
    tables = numba.carray(floats_at(job.chroma), (job.chromas, 8, 8))
    samples = numba.carray(floats_at(job.samples), (job.n, 2, job.rows, job.columns))
    partial = numba.carray(floats_at(job.partial), (job.strips if job.partial else 0, 64))
    piece = take(pointer)
    while piece < job.pieces:
        start, stop = job.strips * piece // job.pieces, job.strips * (piece + 1) // job.pieces
        _chroma_gradient_strips(images, grad, tables, samples, partial, job.down, job.straight, start, stop)
        piece = take(pointer)


@inlined
def _image_gradient_team(pointer):
    job = numba.carray(pointer, 1)[0]
    shape = (job.n, job.channels, job.height, job.width)
    images, grad = numba.carray(floats_at(job.images), shape), numba.carray(floats_at(job.grad), shape)
    wanted = job.n if job.grad_images else 0
    grad_images = numba.carray(floats_at(job.grad_images), (wanted, job.channels, job.height, job.width))
    lumas = numba.carray(floats_at(job.luma), (job.lumas, 8, 8))
    chromas = numba.carray(floats_at(job.chroma), (job.chromas, 8, 8))
    samples = numba.carray(floats_at(job.samples), (job.n, 2, job.rows, job.columns))
    partial = numba.carray(floats_at(job.partial), (job.strips if job.partial else 0, 2, 64))
    piece = take(pointer)
    while piece < job.pieces:
        start, stop = job.strips * piece // job.pieces, job.strips * (piece + 1) // job.pieces
        _image_gradient_strips(
            images, grad, grad_images, lumas, chromas, samples, partial, job.down, job.across, job.straight, start, stop
        )
        piece = take(pointer)


def _named(sources: str) -> tuple[Callable[[Any], None], ...]:
    """For ``numba.cfunc``, as in :mod:`jpegdl.kernels.cpu_strips`: each closes over the sources, so that its cache follows."""

    def chroma_gradient(pointer):
        sources  # noqa: B018
        _chroma_gradient_team(pointer)

    def image_gradient(pointer):
        sources  # noqa: B018
        _image_gradient_team(pointer)

    return chroma_gradient, image_gradient


chroma_gradient, image_gradient = _named(kernel_sources())
