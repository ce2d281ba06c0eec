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

from jpegdl.kernels.cpu_blocks import GROUP, analyze
from jpegdl.kernels.cpu_exact import compiled, groups, inlined, load_chroma_of_floats, load_strip_of_floats
from jpegdl.kernels.cpu_strips import (
    CB_TO_B,
    CB_TO_G,
    CR_TO_G,
    CR_TO_R,
    TO_CB,
    TO_CR,
    B,
    G,
    R,
    clear,
    floats_at,
    kernel_sources,
    take,
    to_samples,
)
from jpegdl.kernels.cpu_vectors import LANES
from jpegdl.kernels.cpu_whole import prepare, residuals


@compiled
def _add_residuals(plane, grad_plane, steps, inverses, straight, z, grad_z, sums):
    width = plane.shape[1]
    for x in range(0, width, LANES):
        residuals(plane, x, width, steps, inverses, straight, z)
        analyze(grad_plane, x, width, grad_z)
        for i in range(GROUP):
            sums[i] += z[i] * grad_z[i]


@compiled
def _chroma_gradient_strips(images, grad, tables, samples, partial, down, straight, start, stop):
    """Gradients of pixels to those of chroma samples, and of their table where ``partial`` has place for it."""
    height, width = images.shape[2:]
    columns, strips = groups(samples.shape[3]), samples.shape[2] // 8
    pixels, planes = np.empty((3, width), np.int32), np.empty((2, 8, columns), np.int32)
    rows = np.empty((4, 2 * columns), np.int32)
    steps, inverses = np.empty((2, GROUP), np.int32), np.empty(GROUP, np.float32)
    wide, grad_planes = np.empty((2, 2 * columns + 2), np.float32), np.zeros((2, 8, columns), np.float32)
    z, grad_z = np.empty(GROUP, np.float32), np.empty(GROUP, np.float32)
    for strip in range(start, stop):
        n, top = strip // strips, strip % strips * 8
        for y in range(8):
            if top + y < (height + down - 1) // down:
                to_samples(grad[n], top + y, down, float32(1), wide, grad_planes, y)
            else:
                for c in range(2):
                    clear(grad_planes[c, y])
            for c in range(2):
                for x in range(samples.shape[3]):
                    samples[n, c, top + y, x] = grad_planes[c, y, x]
        if not partial.shape[0]:
            continue
        prepare(tables[n if tables.shape[0] > 1 else 0], steps, inverses)
        load_chroma_of_floats(images[n], top, down, pixels, rows, planes)
        for c in range(2):
            _add_residuals(planes[c], grad_planes[c], steps, inverses, straight, z, grad_z, partial[strip])


@compiled
def _image_gradient_strips(images, grad, grad_images, lumas, chromas, samples, partial, down, across, straight, start, stop):
    """The rest: gradients of images where subsampling changes them, and of tables where ``partial`` (.., 2, GROUP) has
    place."""
    channels, height, width = images.shape[1:]
    strips, columns = (height + 7) // 8, groups(width)
    pixels, planes = np.empty((channels, width), np.int32), np.empty((channels, 8, columns), np.int32)
    grad_planes = np.zeros((channels, 8, columns), np.float32)
    steps, inverses = np.empty((2, 2, GROUP), np.int32), np.empty((2, GROUP), np.float32)
    z, grad_z = np.empty(GROUP, np.float32), np.empty(GROUP, np.float32)
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
                    cb, cr = samples[n, 0, row, x // 2] * part * TO_CB, samples[n, 1, row, x // 2] * part * TO_CR
                    luma = luma - cb - cr
                    grad_images[n, 0, y, x] = R * luma + cr
                    grad_images[n, 1, y, x] = G * luma
                    grad_images[n, 2, y, x] = B * luma + cb
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
                        grad_planes[1, y, x] = b * CB_TO_B - g * CB_TO_G
                        grad_planes[2, y, x] = r * CR_TO_R - g * CR_TO_G
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
    partial = numba.carray(floats_at(job.partial), (job.strips if job.partial else 0, GROUP))
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
    partial = numba.carray(floats_at(job.partial), (job.strips if job.partial else 0, 2, GROUP))
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
