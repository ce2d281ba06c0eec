"""What numba compiles for the exact round trip on the CPU: strips of 8 rows of samples, in integers of 32 bits.

The formulas are those of :mod:`jpegdl.functional.exact`; :mod:`jpegdl.kernels.cpu_whole` has what is done to a block. Strips
are those of :mod:`jpegdl.kernels.cpu_strips`.
"""

# numba infers the types of what it compiles:
# mypy: disable-error-code="no-untyped-def, no-untyped-call, call-arg, var-annotated, attr-defined"

import ctypes
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba import float32, int32, uint8
from numba.core import types

from jpegdl.kernels.cpu_blocks import GROUP
from jpegdl.kernels.cpu_strips import (
    bytes_at,
    fetch_strip_below,
    floats_at,
    kernel_sources,
    rows_of_chroma,
    rows_to_finish,
    take,
)
from jpegdl.kernels.cpu_vectors import LANES, named
from jpegdl.kernels.cpu_whole import code, compiled, prepare

# Into the function that is made of it, for each level of calls is compiled once more.
inlined: Callable[..., Any] = numba.njit(error_model="numpy", nogil=True, inline="always")

# Of 1 / 255: the first product is exact, and for 0 to 255 the sum is the very quotient, at a fraction of a division's time.
_MOST_OF_255TH, _REST = float32(257 / 65536), float32(1 / 255 - 257 / 65536)

# ------------------------------------------------------------------------------------------------------------ colour
# numba widens sums of int32 to 64 bits, and takes that back where the result is one.


@compiled
def _load_row(image, row, pixels):
    """Row of (C, H, W), in floating point in [0, 1] or bytes, to whole numbers; whether there is NaN."""
    bad = int32(0)
    fetch_strip_below(image, row)
    for c in range(image.shape[0]):
        for x in range(image.shape[2]):
            value = image[c, row, x]
            bad += int32(value != value)
            scaled = np.rint(float32(value) * float32(255))
            pixels[c, x] = int32(min(max(scaled, float32(0)), float32(255)))
    return bad != 0


@compiled
def _load_row_of_bytes(image, row, pixels):
    for c in range(image.shape[0]):
        for x in range(image.shape[2]):
            pixels[c, x] = int32(image[c, row, x])
    return False


@compiled
def _copy(source, target):
    """All of ``source`` to the start of ``target``. (Of slices that are assigned numba makes a hundred times the code.)"""
    for x in range(source.shape[0]):
        target[x] = source[x]


@compiled
def _copy_some(source, target):
    """As much of ``source`` as ``target`` takes."""
    for x in range(target.shape[0]):
        target[x] = source[x]


@compiled
def _repeat_last(row, width):
    for x in range(width, row.shape[0]):
        row[x] = row[width - 1]


@compiled
def _luma(pixels, width, y):
    for x in range(width):
        r, g, b = pixels[0, x], pixels[1, x], pixels[2, x]
        y[x] = int32(int32(19595 * r + 38470 * g + 7471 * b + 32768) >> 16)
    _repeat_last(y, width)


@compiled
def _chroma(pixels, width, cb, cr):
    for x in range(width):
        r, g, b = pixels[0, x], pixels[1, x], pixels[2, x]
        cb[x] = int32(int32(-11059 * r - 21709 * g + 32768 * b + ((128 << 16) + 32767)) >> 16)
        cr[x] = int32(int32(32768 * r - 27439 * g - 5329 * b + ((128 << 16) + 32767)) >> 16)
    _repeat_last(cb, width)
    _repeat_last(cr, width)


@compiled
def _colour(y, cb, cr, width, pixels):
    for x in range(width):
        luma, blue, red = y[x], int32(cb[x] - 128), int32(cr[x] - 128)
        r = int32(luma + int32(int32(91881 * red + 32768) >> 16))
        g = int32(luma + int32(int32(-22554 * blue - 46802 * red + 32768) >> 16))
        b = int32(luma + int32(int32(116130 * blue + 32768) >> 16))
        pixels[0, x] = min(max(r, int32(0)), int32(255))
        pixels[1, x] = min(max(g, int32(0)), int32(255))
        pixels[2, x] = min(max(b, int32(0)), int32(255))


@compiled
def _store_row(pixels, output, row):
    for c in range(output.shape[0]):
        for x in range(output.shape[2]):
            value = float32(pixels[c, x])
            output[c, row, x] = value * _MOST_OF_255TH + value * _REST


@compiled
def _store_row_of_bytes(pixels, output, row):
    for c in range(output.shape[0]):
        for x in range(output.shape[2]):
            output[c, row, x] = uint8(pixels[c, x])


# ------------------------------------------------------------------------------------------------------------ chroma


@compiled
def _average(total, down, out):
    """Sums of ``down`` rows to the averages of pairs of columns; halves round down and up in turn."""
    least = int32(down - 1)
    for x in range(out.shape[0]):
        out[x] = int32(int32(total[2 * x] + total[2 * x + 1] + least + int32(x & 1)) >> down)


@compiled
def _upsample(near, far, two_rows, mixed, out):
    """Samples of a row and of the next one to the row's ``2 width`` pixels, width = mixed.shape[0], by the triangle filter."""
    width = mixed.shape[0]
    if width <= 2:
        for x in range(width):
            out[2 * x] = out[2 * x + 1] = near[x]
        return
    if two_rows:
        for x in range(width):
            mixed[x] = int32(3 * near[x] + far[x])
        left, right, shift = int32(8), int32(7), 4
    else:
        for x in range(width):
            mixed[x] = near[x]
        left, right, shift = int32(1), int32(2), 2
    last = width - 1
    out[0], out[1] = int32(int32(4 * mixed[0] + left) >> shift), int32(int32(3 * mixed[0] + mixed[1] + right) >> shift)
    for x in range(1, last):  # both in one loop: then they are stored as whole vectors
        three = int32(3 * mixed[x])
        out[2 * x] = int32(int32(three + mixed[x - 1] + left) >> shift)
        out[2 * x + 1] = int32(int32(three + mixed[x + 1] + right) >> shift)
    out[2 * last] = int32(int32(3 * mixed[last] + mixed[last - 1] + left) >> shift)
    out[2 * last + 1] = int32(int32(4 * mixed[last] + right) >> shift)


# ------------------------------------------------------------------------------------------------------------ strips


@compiled
def groups(width):
    """Columns of whole groups of blocks."""
    return (width + LANES - 1) // LANES * LANES


@compiled
def prepare_both(lumas, chromas, n, steps, inverses):
    """The tables of image n."""
    prepare(lumas[n if lumas.shape[0] > 1 else 0], steps[0], inverses[0])
    prepare(chromas[n if chromas.shape[0] > 1 else 0], steps[1], inverses[1])


@compiled
def _code_plane(plane, steps, inverses):
    width = plane.shape[1]
    for x in range(0, width, LANES):
        code(plane, x, width, steps, inverses)


def _strips_of(load_row, store_row):
    """The work on a range of strips, and how they are loaded, for one way to read and to write pixels."""

    @compiled
    @named(load_row.__name__)
    def load_strip(image, top, pixels, planes):
        """A strip of Y, Cb and Cr, or of grey, to ``planes``; whether there is NaN."""
        channels, height, width = image.shape
        bad = False
        for y in range(8):
            if top + y >= height:
                for c in range(channels):
                    _copy(planes[c, y - 1], planes[c, y])
                continue
            if load_row(image, top + y, pixels):
                bad = True
            if channels == 1:
                _copy(pixels[0], planes[0, y])
                _repeat_last(planes[0, y], width)
            else:
                _luma(pixels, width, planes[0, y])
                _chroma(pixels, width, planes[1, y], planes[2, y])
        return bad

    @compiled
    @named(load_row.__name__)
    def load_together(image, row, down, pixels, rows, luma, samples):
        """A strip of averaged Cb and Cr to rows 1 to 8 of ``samples`` (2, 10, columns), and the one or two of Y that lie over
        it to ``luma``, from row 1 on; whether there is NaN. ``pixels`` and ``rows`` are places to work in."""
        height, width = image.shape[1:]
        cb, cr, total_cb, total_cr = rows[0], rows[1], rows[2], rows[3]
        bad = False
        for y in range(8):
            if down * (8 * row + y) >= height:  # rows are repeated, of averages and of Y
                for c in range(2):
                    _copy(samples[c, y], samples[c, y + 1])
                for i in range(down):
                    _copy(luma[down * y + i], luma[down * y + i + 1])
                continue
            for i in range(down):
                at = down * (8 * row + y) + i
                if at < height:
                    if load_row(image, at, pixels):
                        bad = True
                    _chroma(pixels, width, cb, cr)
                _luma(pixels, width, luma[down * y + i + 1])
                if i == 0:
                    _copy(cb, total_cb)
                    _copy(cr, total_cr)
                else:
                    for x in range(cb.shape[0]):
                        total_cb[x], total_cr[x] = int32(total_cb[x] + cb[x]), int32(total_cr[x] + cr[x])
            _average(total_cb, down, samples[0, y + 1])
            _average(total_cr, down, samples[1, y + 1])
        return bad

    @compiled
    @named(load_row.__name__)
    def image_strips(images, output, lumas, chromas, bad, start, stop):
        """Strips there and back, of images whose chroma is not subsampled, or that have none."""
        channels, height, width = images.shape[1:]
        strips, columns = (height + 7) // 8, groups(width)
        pixels, planes = np.empty((channels, width), np.int32), np.empty((channels, 8, columns), np.int32)
        steps, inverses = np.empty((2, 2, GROUP), np.int32), np.empty((2, GROUP), np.float32)
        for strip in range(start, stop):
            n, top = strip // strips, strip % strips * 8
            prepare_both(lumas, chromas, n, steps, inverses)
            if load_strip(images[n], top, pixels, planes):
                bad[n] = 1
            for c in range(channels):
                _code_plane(planes[c], steps[min(c, 1)], inverses[min(c, 1)])
            for y in range(min(8, height - top)):
                if channels == 1:
                    _copy_some(planes[0, y], pixels[0])
                else:
                    _colour(planes[0, y], planes[1, y], planes[2, y], width, pixels)
                store_row(pixels, output[n], top + y)

    @compiled
    @named(load_row.__name__)
    def subsampled_strips(images, output, lumas, chromas, rows, width, down, bad, start, stop):
        """Strips of chroma, ``rows`` x ``width`` samples of it in whole blocks, and of luma that lies over it, there and back:
        as in :mod:`jpegdl.kernels.cpu_strips`."""
        height, columns, across = images.shape[2], groups(width), groups(images.shape[3])
        strips, over = rows // 8, 8 * down
        pixels, lines = np.empty((3, images.shape[3]), np.int32), np.empty((4, 2 * columns), np.int32)
        luma, samples = np.empty((over + 1, across), np.int32), np.empty((2, 10, columns), np.int32)
        mixed, wide = np.empty((images.shape[3] + 1) // 2, np.int32), np.empty((2, 2 * columns), np.int32)
        steps, inverses = np.empty((2, 2, GROUP), np.int32), np.empty((2, GROUP), np.float32)
        above, below = down == 2 and start % strips != 0, down == 2 and stop % strips != 0
        for strip in range(start - above, stop + below):
            n, row = strip // strips, strip % strips
            mine = start <= strip and strip < stop
            prepare_both(lumas, chromas, n, steps, inverses)
            if load_together(images[n], row, down, pixels, lines, luma, samples):
                bad[n] = 1
            for c in range(2):
                _code_plane(samples[c, 1:9], steps[1], inverses[1])
            if mine:
                for i in range(min(down, (height + 7) // 8 - down * row)):
                    _code_plane(luma[8 * i + 1 : 8 * i + 9], steps[0], inverses[0])
            last = (height + down - 1) // down - 8 * row  # where the image ends, if it does
            for c in range(2):
                if row == 0:
                    _copy(samples[c, 1], samples[c, 0])
                if last <= 8:
                    _copy(samples[c, last], samples[c, last + 1])
            first, end = rows_to_finish(row, strips, down, height, strip > start, mine)
            for y in range(first, end):
                near, far = rows_of_chroma(y, down)
                for c in range(2):
                    _upsample(samples[c, near], samples[c, far], down == 2, mixed, wide[c])
                _colour(luma[y + 1], wide[0], wide[1], images.shape[3], pixels)
                store_row(pixels, output[n], over * row + y)
            _copy(luma[over], luma[0])
            for c in range(2):
                _copy(samples[c, 8], samples[c, 0])

    return image_strips, subsampled_strips, load_strip, load_together


_IMAGE_FLOATS, _SUBSAMPLED_FLOATS, load_strip_of_floats, load_together_of_floats = _strips_of(_load_row, _store_row)
_IMAGE_BYTES, _SUBSAMPLED_BYTES, _, _ = _strips_of(_load_row_of_bytes, _store_row_of_bytes)


# ------------------------------------------------------------------------------------------------------------- a job


class ExactJob(ctypes.Structure):
    """What a team of threads works on; see :class:`jpegdl.kernels.cpu_strips.Job`."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("taken", "pieces", "strips", "n", "channels", "height", "width")),
        *((name, ctypes.c_int64) for name in ("down", "across", "rows", "columns", "lumas", "chromas")),  # how many tables
        # Where there lie: float32 or bytes (n, channels, height, width), float32 tables (.., 8, 8), and bytes (n).
        *((name, ctypes.c_int64) for name in ("images", "output", "luma", "chroma", "bad")),
        # For gradients, float32 like the images, or none; float32 (strips, 2, GROUP), or none.
        *((name, ctypes.c_int64) for name in ("grad", "grad_images", "partial")),
        ("straight", ctypes.c_float),
    )


EXACT_JOB = types.CPointer(numba.from_dtype(np.dtype(ExactJob)))


def _teams_of(pixels_at, image_strips, subsampled_strips):
    @inlined
    @named(pixels_at.__name__)
    def team(pointer):
        job = numba.carray(pointer, 1)[0]
        shape = (job.n, job.channels, job.height, job.width)
        images, output = numba.carray(pixels_at(job.images), shape), numba.carray(pixels_at(job.output), shape)
        lumas = numba.carray(floats_at(job.luma), (job.lumas, 8, 8))
        chromas = numba.carray(floats_at(job.chroma), (job.chromas, 8, 8))
        bad = numba.carray(bytes_at(job.bad), (job.n,))
        piece = take(pointer)
        while piece < job.pieces:
            start, stop = job.strips * piece // job.pieces, job.strips * (piece + 1) // job.pieces
            if job.across == 1:
                image_strips(images, output, lumas, chromas, bad, start, stop)
            else:
                subsampled_strips(images, output, lumas, chromas, job.rows, job.columns, job.down, bad, start, stop)
            piece = take(pointer)

    return team


_images_of_floats = _teams_of(floats_at, _IMAGE_FLOATS, _SUBSAMPLED_FLOATS)
_images_of_bytes = _teams_of(bytes_at, _IMAGE_BYTES, _SUBSAMPLED_BYTES)


def _named(sources: str) -> tuple[Callable[[Any], None], ...]:
    """For ``numba.cfunc``, as in :mod:`jpegdl.kernels.cpu_strips`: each closes over the sources, so that its cache follows."""

    def images_of_floats(pointer):
        sources  # noqa: B018
        _images_of_floats(pointer)

    def images_of_bytes(pointer):
        sources  # noqa: B018
        _images_of_bytes(pointer)

    return images_of_floats, images_of_bytes


images_of_floats, images_of_bytes = _named(kernel_sources())
