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
from jpegdl.kernels.cpu_exact import (
    compiled,
    groups,
    inlined,
    load_strip_of_floats,
    load_together_of_floats,
    prepare_both,
)
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
from jpegdl.kernels.cpu_whole import residuals


@compiled
def _add_residuals(plane, grad_plane, steps, inverses, straight, z, grad_z, sums):
    width = plane.shape[1]
    for x in range(0, width, LANES):
        residuals(plane, x, width, steps, inverses, straight, z)
        analyze(grad_plane, x, width, grad_z)
        for i in range(GROUP):
            sums[i] += z[i] * grad_z[i]


@compiled
def _gradient_strips(images, grad, lumas, chromas, partial, straight, start, stop):
    """Gradients of tables, of images whose chroma is not subsampled, or that have none: theirs is what came in."""
    channels, height, width = images.shape[1:]
    strips, columns = (height + 7) // 8, groups(width)
    pixels, planes = np.empty((channels, width), np.int32), np.empty((channels, 8, columns), np.int32)
    grad_planes = np.zeros((channels, 8, columns), np.float32)
    steps, inverses = np.empty((2, 2, GROUP), np.int32), np.empty((2, GROUP), np.float32)
    z, grad_z = np.empty(GROUP, np.float32), np.empty(GROUP, np.float32)
    for strip in range(start, stop):
        n, top = strip // strips, strip % strips * 8
        prepare_both(lumas, chromas, n, steps, inverses)
        load_strip_of_floats(images[n], top, pixels, planes)
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
                    grad_planes[1, y, x] = b * CB_TO_B - g * CB_TO_G
                    grad_planes[2, y, x] = r * CR_TO_R - g * CR_TO_G
        for c in range(channels):
            t = min(c, 1)
            _add_residuals(planes[c], grad_planes[c], steps[t], inverses[t], straight, z, grad_z, partial[strip, t])


@compiled
def _subsampled_gradient_strips(images, grad, grad_images, lumas, chromas, partial, rows, columns, down, straight, start, stop):
    """The same where chroma is subsampled, which has a gradient of images to compute, and of tables where ``partial`` has
    place."""
    height, width = images.shape[2:]
    strips, over, across = rows // 8, 8 * down, groups(columns)
    pixels, lines = np.empty((3, width), np.int32), np.empty((4, 2 * across), np.int32)
    luma, samples = np.empty((over + 1, groups(width)), np.int32), np.empty((2, 10, across), np.int32)
    by_luma, by_samples = np.zeros((8, groups(width)), np.float32), np.zeros((2, 8, across), np.float32)
    wide, share = np.empty((2, 2 * across + 2), np.float32), float32(0.5) / float32(down)
    steps, inverses = np.empty((2, 2, GROUP), np.int32), np.empty((2, GROUP), np.float32)
    z, grad_z = np.empty(GROUP, np.float32), np.empty(GROUP, np.float32)
    for strip in range(start, stop):
        n, row = strip // strips, strip % strips
        for y in range(8):
            if down * (8 * row + y) < height:
                to_samples(grad[n], 8 * row + y, down, float32(1), wide, by_samples, y)
            else:
                for c in range(2):
                    clear(by_samples[c, y])
        if grad_images.shape[0]:
            for y in range(over * row, min(over * (row + 1), height)):
                weight = share
                if down == 2 and y == height - 1 and height % 2:  # repeated, and averaged with itself
                    weight = share * float32(2)
                for c in range(2):
                    by, factor = by_samples[c, y // down - 8 * row], weight * (TO_CB if c == 0 else TO_CR)
                    for x in range(width // 2):
                        wide[c, 2 * x] = wide[c, 2 * x + 1] = by[x] * factor
                    if width % 2:
                        wide[c, width - 1] = by[width // 2] * (factor * float32(2))
                for x in range(width):
                    cb, cr = wide[0, x], wide[1, x]
                    whole = grad[n, 0, y, x] + grad[n, 1, y, x] + grad[n, 2, y, x] - cb - cr
                    grad_images[n, 0, y, x] = R * whole + cr
                    grad_images[n, 1, y, x] = G * whole
                    grad_images[n, 2, y, x] = B * whole + cb
        if not partial.shape[0]:
            continue
        prepare_both(lumas, chromas, n, steps, inverses)
        load_together_of_floats(images[n], row, down, pixels, lines, luma, samples)
        for c in range(2):
            plane = samples[c, 1:9]
            _add_residuals(plane, by_samples[c], steps[1], inverses[1], straight, z, grad_z, partial[strip, 1])
        for i in range(min(down, (height + 7) // 8 - down * row)):
            for y in range(8):
                at = over * row + 8 * i + y
                if at < height:
                    for x in range(width):
                        by_luma[y, x] = grad[n, 0, at, x] + grad[n, 1, at, x] + grad[n, 2, at, x]
                else:
                    clear(by_luma[y])
            plane = luma[8 * i + 1 : 8 * i + 9]
            _add_residuals(plane, by_luma, steps[0], inverses[0], straight, z, grad_z, partial[strip, 0])


@inlined
def _gradient_team(pointer):
    job = numba.carray(pointer, 1)[0]
    shape = (job.n, job.channels, job.height, job.width)
    images, grad = numba.carray(floats_at(job.images), shape), numba.carray(floats_at(job.grad), shape)
    wanted = job.n if job.grad_images else 0
    grad_images = numba.carray(floats_at(job.grad_images), (wanted, job.channels, job.height, job.width))
    lumas = numba.carray(floats_at(job.luma), (job.lumas, 8, 8))
    chromas = numba.carray(floats_at(job.chroma), (job.chromas, 8, 8))
    partial = numba.carray(floats_at(job.partial), (job.strips if job.partial else 0, 2, GROUP))
    piece = take(pointer)
    while piece < job.pieces:
        start, stop = job.strips * piece // job.pieces, job.strips * (piece + 1) // job.pieces
        if job.across == 1:
            _gradient_strips(images, grad, lumas, chromas, partial, job.straight, start, stop)
        else:
            _subsampled_gradient_strips(
                images, grad, grad_images, lumas, chromas, partial, job.rows, job.columns, job.down, job.straight, start, stop
            )
        piece = take(pointer)


def _named(sources: str) -> Callable[[Any], None]:
    """For ``numba.cfunc``, as in :mod:`jpegdl.kernels.cpu_strips`: it closes over the sources, so that its cache follows."""

    def gradients(pointer):
        sources  # noqa: B018
        _gradient_team(pointer)

    return gradients


gradients = _named(kernel_sources())
