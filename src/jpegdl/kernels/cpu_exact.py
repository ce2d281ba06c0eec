"""What numba compiles for the exact round trip on the CPU: strips of 8 rows of samples, in integers of 32 bits.

The formulas are those of :mod:`jpegdl.functional.exact`; :mod:`jpegdl.kernels.cpu_whole` has what is done to a block. Where
chroma is subsampled, a first team of threads leaves its decoded samples in memory, and a second, which does luma, finds there
the rows above and below its own too.
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
from jpegdl.kernels.cpu_strips import bytes_at, floats_at, kernel_sources, take
from jpegdl.kernels.cpu_vectors import LANES, named
from jpegdl.kernels.cpu_whole import code, compiled, prepare

# Into the function that is made of it, for each level of calls is compiled once more.
inlined: Callable[..., Any] = numba.njit(error_model="numpy", nogil=True, inline="always")

# ------------------------------------------------------------------------------------------------------------ colour
# numba widens sums of int32 to 64 bits, and takes that back where the result is one.


@compiled
def _load_row(image, row, pixels):
    """Row of (C, H, W), in floating point in [0, 1] or bytes, to whole numbers; whether there is NaN."""
    bad = int32(0)
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
            output[c, row, x] = float32(pixels[c, x]) / float32(255)


@compiled
def _store_row_of_bytes(pixels, output, row):
    for c in range(output.shape[0]):
        for x in range(output.shape[2]):
            output[c, row, x] = uint8(pixels[c, x])


# ------------------------------------------------------------------------------------------------------------ chroma


@compiled
def _average(total, down, out):
    """Sums of ``down`` rows to the averages of pairs of columns; halves round down and up in turn."""
    for x in range(0, out.shape[0], 2):
        out[x] = int32(int32(total[2 * x] + total[2 * x + 1] + (down - 1)) >> down)
        out[x + 1] = int32(int32(total[2 * x + 2] + total[2 * x + 3] + down) >> down)


@compiled
def _upsample(near, far, two_rows, width, out):
    """Samples of a row and of the next one to the row's ``2 width`` pixels, by the triangle filter. ``far`` is written over."""
    if width <= 2:
        for x in range(width):
            out[2 * x] = out[2 * x + 1] = near[x]
        return
    if two_rows:
        for x in range(width):
            far[x] = int32(3 * near[x] + far[x])
        left, right, shift = int32(8), int32(7), 4
    else:
        for x in range(width):
            far[x] = near[x]
        left, right, shift = int32(1), int32(2), 2
    out[0] = int32(int32(4 * far[0] + left) >> shift)
    for x in range(1, width):
        out[2 * x] = int32(int32(3 * far[x] + far[x - 1] + left) >> shift)
    for x in range(width - 1):
        out[2 * x + 1] = int32(int32(3 * far[x] + far[x + 1] + right) >> shift)
    out[2 * width - 1] = int32(int32(4 * far[width - 1] + right) >> shift)


# ------------------------------------------------------------------------------------------------------------ strips


@compiled
def groups(width):
    """Columns of whole groups of blocks."""
    return (width + LANES - 1) // LANES * LANES


@compiled
def _code_plane(plane, steps, inverses):
    width = plane.shape[1]
    for x in range(0, width, LANES):
        code(plane, x, width, steps, inverses)


def _strips_of(load_row, store_row):
    """The work on a range of strips, of chroma and of images, for one way to read and to write pixels."""

    @compiled
    @named(load_row.__name__)
    def load_chroma(image, top, down, pixels, rows, planes):
        """A strip of averaged Cb and Cr to ``planes`` (2, 8, columns); the other two are places to work in."""
        height, width = image.shape[1:]
        last = (height + down - 1) // down - 1
        cb, cr, total_cb, total_cr = rows[0], rows[1], rows[2], rows[3]
        for y in range(8):
            if top + y > last:  # averaged rows are repeated
                for c in range(2):
                    _copy(planes[c, y - 1], planes[c, y])
                continue
            for i in range(down):
                load_row(image, min(down * (top + y) + i, height - 1), pixels)
                _chroma(pixels, width, cb, cr)
                if i == 0:
                    _copy(cb, total_cb)
                    _copy(cr, total_cr)
                else:
                    for x in range(cb.shape[0]):
                        total_cb[x], total_cr[x] = int32(total_cb[x] + cb[x]), int32(total_cr[x] + cr[x])
            _average(total_cb, down, planes[0, y])
            _average(total_cr, down, planes[1, y])

    @compiled
    @named(load_row.__name__)
    def load_strip(image, top, pixels, planes, across):
        """A strip of Y, and of Cb and Cr where they are not subsampled, to ``planes``; whether there is NaN."""
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
                if across == 1:
                    _chroma(pixels, width, planes[1, y], planes[2, y])
        return bad

    @compiled
    @named(load_row.__name__)
    def chroma_strips(images, tables, samples, down, start, stop):
        """Subsampled chroma there and back, to ``samples`` (N, 2, rows, columns), whole blocks."""
        width, columns, strips = images.shape[3], samples.shape[3], samples.shape[2] // 8
        pixels, planes = np.empty((3, width), np.int32), np.empty((2, 8, groups(columns)), np.int32)
        rows = np.empty((4, 2 * groups(columns)), np.int32)
        steps, inverses = np.empty((2, GROUP), np.int32), np.empty(GROUP, np.float32)
        for strip in range(start, stop):
            n, top = strip // strips, strip % strips * 8
            prepare(tables[n if tables.shape[0] > 1 else 0], steps, inverses)
            load_chroma(images[n], top, down, pixels, rows, planes)
            for c in range(2):
                _code_plane(planes[c], steps, inverses)
                for y in range(8):
                    for x in range(columns):
                        samples[n, c, top + y, x] = uint8(planes[c, y, x])

    @compiled
    @named(load_row.__name__)
    def image_strips(images, output, lumas, chromas, samples, down, across, bad, start, stop):
        """Luma, and chroma that is not subsampled, there and back, and colour."""
        channels, height, width = images.shape[1:]
        strips, columns = (height + 7) // 8, groups(width)
        chroma_height, chroma_width = (height + down - 1) // down, (width + across - 1) // across
        pixels, planes = np.empty((channels, width), np.int32), np.empty((channels, 8, columns), np.int32)
        near, far = np.empty(chroma_width, np.int32), np.empty(chroma_width, np.int32)
        wide = np.empty((2, 2 * chroma_width), np.int32)
        steps, inverses = np.empty((2, 2, GROUP), np.int32), np.empty((2, GROUP), np.float32)
        for strip in range(start, stop):
            n, top = strip // strips, strip % strips * 8
            prepare(lumas[n if lumas.shape[0] > 1 else 0], steps[0], inverses[0])
            prepare(chromas[n if chromas.shape[0] > 1 else 0], steps[1], inverses[1])
            if load_strip(images[n], top, pixels, planes, across):
                bad[n] = 1
            _code_plane(planes[0], steps[0], inverses[0])
            if channels == 3 and across == 1:
                _code_plane(planes[1], steps[1], inverses[1])
                _code_plane(planes[2], steps[1], inverses[1])
            for y in range(min(8, height - top)):
                if channels == 1:
                    _copy_some(planes[0, y], pixels[0])
                    store_row(pixels, output[n], top + y)
                    continue
                if across == 1:
                    _colour(planes[0, y], planes[1, y], planes[2, y], width, pixels)
                else:
                    row = (top + y) // down
                    other = row
                    if down == 2:
                        other = min(max(row + (1 if (top + y) % 2 else -1), 0), chroma_height - 1)
                    for c in range(2):
                        for x in range(chroma_width):
                            near[x], far[x] = int32(samples[n, c, row, x]), int32(samples[n, c, other, x])
                        _upsample(near, far, down == 2, chroma_width, wide[c])
                    _colour(planes[0, y], wide[0], wide[1], width, pixels)
                store_row(pixels, output[n], top + y)

    return chroma_strips, image_strips, load_chroma, load_strip


_CHROMA_FLOATS, _IMAGE_FLOATS, load_chroma_of_floats, load_strip_of_floats = _strips_of(_load_row, _store_row)
_CHROMA_BYTES, _IMAGE_BYTES, _, _ = _strips_of(_load_row_of_bytes, _store_row_of_bytes)


# ------------------------------------------------------------------------------------------------------------- a job


class ExactJob(ctypes.Structure):
    """What a team of threads works on; see :class:`jpegdl.kernels.cpu_strips.Job`."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("taken", "pieces", "strips", "n", "channels", "height", "width")),
        *((name, ctypes.c_int64) for name in ("down", "across", "rows", "columns", "lumas", "chromas")),  # how many tables
        # Where there lie: float32 or bytes (n, channels, height, width), float32 tables (.., 8, 8), bytes (n, 2, rows, columns)
        # and bytes (n).
        *((name, ctypes.c_int64) for name in ("images", "output", "luma", "chroma", "samples", "bad")),
        # For gradients, float32 like the images, or none; float32 for each strip of luma (2, GROUP), of chroma (GROUP), or
        # none. Of them the samples are float32 too.
        *((name, ctypes.c_int64) for name in ("grad", "grad_images", "partial")),
        ("straight", ctypes.c_float),
    )


EXACT_JOB = types.CPointer(numba.from_dtype(np.dtype(ExactJob)))


def _teams_of(pixels_at, chroma_strips, image_strips):
    @inlined
    @named(pixels_at.__name__)
    def chroma_team(pointer):
        job = numba.carray(pointer, 1)[0]
        images = numba.carray(pixels_at(job.images), (job.n, job.channels, job.height, job.width))
        tables = numba.carray(floats_at(job.chroma), (job.chromas, 8, 8))
        samples = numba.carray(bytes_at(job.samples), (job.n, 2, job.rows, job.columns))
        piece = take(pointer)
        while piece < job.pieces:
            start, stop = job.strips * piece // job.pieces, job.strips * (piece + 1) // job.pieces
            chroma_strips(images, tables, samples, job.down, start, stop)
            piece = take(pointer)

    @inlined
    @named(pixels_at.__name__)
    def image_team(pointer):
        job = numba.carray(pointer, 1)[0]
        shape = (job.n, job.channels, job.height, job.width)
        images, output = numba.carray(pixels_at(job.images), shape), numba.carray(pixels_at(job.output), shape)
        lumas = numba.carray(floats_at(job.luma), (job.lumas, 8, 8))
        chromas = numba.carray(floats_at(job.chroma), (job.chromas, 8, 8))
        samples = numba.carray(bytes_at(job.samples), (job.n, 2, job.rows, job.columns))
        bad = numba.carray(bytes_at(job.bad), (job.n,))
        piece = take(pointer)
        while piece < job.pieces:
            start, stop = job.strips * piece // job.pieces, job.strips * (piece + 1) // job.pieces
            image_strips(images, output, lumas, chromas, samples, job.down, job.across, bad, start, stop)
            piece = take(pointer)

    return chroma_team, image_team


_chroma_of_floats, _images_of_floats = _teams_of(floats_at, _CHROMA_FLOATS, _IMAGE_FLOATS)
_chroma_of_bytes, _images_of_bytes = _teams_of(bytes_at, _CHROMA_BYTES, _IMAGE_BYTES)


def _named(sources: str) -> tuple[Callable[[Any], None], ...]:
    """For ``numba.cfunc``, as in :mod:`jpegdl.kernels.cpu_strips`: each closes over the sources, so that its cache follows."""

    def chroma_of_floats(pointer):
        sources  # noqa: B018
        _chroma_of_floats(pointer)

    def images_of_floats(pointer):
        sources  # noqa: B018
        _images_of_floats(pointer)

    def chroma_of_bytes(pointer):
        sources  # noqa: B018
        _chroma_of_bytes(pointer)

    def images_of_bytes(pointer):
        sources  # noqa: B018
        _images_of_bytes(pointer)

    return chroma_of_floats, images_of_floats, chroma_of_bytes, images_of_bytes


_chroma_floats, _image_floats, _chroma_bytes, _image_bytes = _named(kernel_sources())
#: By whether images are bytes: what does subsampled chroma, and what does the rest.
TEAMS = {False: (_chroma_floats, _image_floats), True: (_chroma_bytes, _image_bytes)}
