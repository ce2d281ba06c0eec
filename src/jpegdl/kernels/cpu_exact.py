"""What numba compiles for the exact round trip on the CPU: strips of 8 rows of samples, in integers of 32 bits.

The formulas are those of :mod:`jpegdl.functional.exact`, whose DCT is used here with the processor's vectors in place of
tensors. Where chroma is subsampled, a first team of threads leaves its decoded samples in memory, and a second, which does
luma, finds there the rows above and below its own too.
"""

# numba infers the types of what it compiles:
# mypy: disable-error-code="no-untyped-def, no-untyped-call, call-arg, var-annotated, attr-defined"

import ctypes
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import float32, int32, uint8
from numba.core import types
from numba.extending import intrinsic

from jpegdl.functional import KB, KG, KR
from jpegdl.functional.exact import forward_pass, inverse_pass
from jpegdl.kernels.cpu_blocks import analyze
from jpegdl.kernels.cpu_strips import _floats_at, _sources, _take
from jpegdl.kernels.cpu_vectors import Place, Vector, vector_function

# Without fast math: pixels are to be rounded as PyTorch rounds them, and NaN is to be seen.
_compiled: Callable[..., Any] = numba.njit(error_model="numpy", nogil=True)

# Into the function that is made of it, for each level of calls is compiled once more.
_inlined: Callable[..., Any] = numba.njit(error_model="numpy", nogil=True, inline="always")

_INTEGERS, _FLOATS = ir.VectorType(ir.IntType(32), 8), ir.VectorType(ir.FloatType(), 8)


class Whole:
    """8 integers of 32 bits of a program that is being written, as :class:`jpegdl.kernels.cpu_vectors.Vector` has floats."""

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder, self.value = builder, value

    @classmethod
    def load(cls, place: Place, index: Any, further: int = 0) -> "Whole":
        return cls(place.builder, place.builder.bitcast(place.load(index, further).value, _INTEGERS))

    def store(self, place: Place, index: Any, further: int = 0) -> None:
        place.store(Vector(self.builder, self.builder.bitcast(self.value, _FLOATS)), index, further)

    def _of(self, number: "Whole | int") -> Any:
        return number.value if isinstance(number, Whole) else ir.Constant(_INTEGERS, [number] * 8)

    def _write(self, instruction: str, other: "Whole | int") -> "Whole":
        return Whole(self.builder, getattr(self.builder, instruction)(self.value, self._of(other)))

    def __add__(self, other: "Whole | int") -> "Whole":
        return self._write("add", other)

    def __sub__(self, other: "Whole | int") -> "Whole":
        return self._write("sub", other)

    def __mul__(self, other: "Whole | int") -> "Whole":
        return self._write("mul", other)

    def __lshift__(self, bits: int) -> "Whole":
        return self._write("shl", bits)

    def __rshift__(self, bits: int) -> "Whole":
        return self._write("ashr", bits)

    def where(self, condition: str, than: "Whole | int", otherwise: "Whole | int") -> "Whole":
        """This where it compares so, and ``otherwise`` elsewhere."""
        truth = self.builder.icmp_signed(condition, self.value, self._of(than))
        return Whole(self.builder, self.builder.select(truth, self.value, self._of(otherwise)))

    def where_not_negative(self, other: "Whole") -> "Whole":
        """This, and less this where the other is negative."""
        negative = self.builder.icmp_signed("<", other.value, self._of(0))
        return Whole(self.builder, self.builder.select(negative, (self * -1).value, self.value))

    def clamp(self, least: int, most: int) -> "Whole":
        lifted = self.where(">", least, least)
        return lifted.where("<", most, most)

    def shuffled(self, other: "Whole", order: list[int]) -> "Whole":
        """Of the 16 numbers of both, those in ``order``."""
        return Whole(self.builder, self.builder.shuffle_vector(self.value, other.value, ir.Constant(_INTEGERS, order)))


def _transpose(x: list[Whole]) -> list[Whole]:
    """8x8 numbers: pairs of rows interleaved, then pairs of pairs, then halves put together."""
    singles = ([0, 8, 1, 9, 4, 12, 5, 13], [2, 10, 3, 11, 6, 14, 7, 15])
    x = [x[i].shuffled(x[i + 1], order) for i in (0, 2, 4, 6) for order in singles]
    pairs = ([0, 1, 8, 9, 4, 5, 12, 13], [2, 3, 10, 11, 6, 7, 14, 15])
    x = [x[i].shuffled(x[i + 2], order) for i in (0, 1, 4, 5) for order in pairs]
    halves = ([0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15])
    return [x[i].shuffled(x[i + 4], order) for order in halves for i in range(4)]


@vector_function()
def code(plane, x, width, steps, inverses):
    """The block at column x of a (8, width) plane of samples 0..255 to what a decoder makes of it, in place.

    ``steps`` are q and half of 8 q, (2, 64), whole numbers; ``inverses`` 1 / (8 q).
    """
    builder, zero = plane.builder, x.type(0)
    place = [builder.add(x, builder.mul(width, x.type(y))) for y in range(8)]
    rows = [Whole.load(plane, place[y]) - 128 for y in range(8)]
    z = forward_pass(_transpose(forward_pass(_transpose(rows), first=True)), first=False)
    for v in range(8):
        q, half = Whole.load(steps, zero, 8 * v), Whole.load(steps, zero, 64 + 8 * v)
        magnitude = z[v].where(">", 0, z[v] * -1) + half
        # Exact: the quotient's error is smaller than 2^-23 of it, and that of whole numbers less than 2^22 lies, with the half
        # that is added, at least 1 / (16 q) from the next whole number.
        quotient = Vector(builder, builder.sitofp(magnitude.value, _FLOATS)) + 0.5
        level = Whole(builder, builder.fptosi((quotient * inverses.load(zero, 8 * v)).value, _INTEGERS))
        value = level * q
        z[v] = value.where_not_negative(z[v])
    samples = _transpose(inverse_pass(_transpose(inverse_pass(z, first=True)), first=False))
    for y in range(8):
        (samples[y] + 128).clamp(0, 255).store(plane, place[y])


@vector_function()
def residuals(plane, x, width, steps, inverses, straight, out):
    """What a step's gradient is made of, from the block at column x of a plane of samples: k - z / q of each coefficient to
    ``out``, 64, vertical frequency fastest; where ``straight`` is 0 in place of 1, k alone."""
    builder, zero = plane.builder, x.type(0)
    rows = [Whole.load(plane, builder.add(x, builder.mul(width, x.type(y)))) - 128 for y in range(8)]
    z = forward_pass(_transpose(forward_pass(_transpose(rows), first=True)), first=False)
    found = []
    for v in range(8):
        half, inverse = Whole.load(steps, zero, 64 + 8 * v), inverses.load(zero, 8 * v)
        magnitude = z[v].where(">", 0, z[v] * -1)
        level = Vector(builder, builder.sitofp((magnitude + half).value, _FLOATS)) + 0.5
        level = Vector(builder, builder.sitofp(builder.fptosi((level * inverse).value, _INTEGERS), _FLOATS))
        rest = level - Vector(builder, builder.sitofp(magnitude.value, _FLOATS)) * inverse * straight
        negative = builder.icmp_signed("<", z[v].value, ir.Constant(_INTEGERS, [0] * 8))
        signed = Vector(builder, builder.select(negative, (-rest).value, rest.value))
        found.append(Whole(builder, builder.bitcast(signed.value, _INTEGERS)))
    for u, column in enumerate(_transpose(found)):
        column.store(out, zero, 8 * u)


@_compiled
def _prepare(table, steps, inverses):
    for v in range(8):
        for u in range(8):
            q = int32(table[v, u])
            steps[0, 8 * v + u], steps[1, 8 * v + u] = q, 4 * q
            inverses[8 * v + u] = float32(1) / float32(8 * q)


# ------------------------------------------------------------------------------------------------------------ colour
# numba widens sums of int32 to 64 bits, and takes that back where the result is one.


@_compiled
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


@_compiled
def _load_row_of_bytes(image, row, pixels):
    for c in range(image.shape[0]):
        for x in range(image.shape[2]):
            pixels[c, x] = int32(image[c, row, x])
    return False


@_compiled
def _copy(source, target):
    """All of ``source`` to the start of ``target``. (Of slices that are assigned numba makes a hundred times the code.)"""
    for x in range(source.shape[0]):
        target[x] = source[x]


@_compiled
def _copy_some(source, target):
    """As much of ``source`` as ``target`` takes."""
    for x in range(target.shape[0]):
        target[x] = source[x]


@_compiled
def _clear(row):
    for x in range(row.shape[0]):
        row[x] = float32(0)


@_compiled
def _repeat_last(row, width):
    for x in range(width, row.shape[0]):
        row[x] = row[width - 1]


@_compiled
def _luma(pixels, width, y):
    for x in range(width):
        r, g, b = pixels[0, x], pixels[1, x], pixels[2, x]
        y[x] = int32(int32(19595 * r + 38470 * g + 7471 * b + 32768) >> 16)
    _repeat_last(y, width)


@_compiled
def _chroma(pixels, width, cb, cr):
    for x in range(width):
        r, g, b = pixels[0, x], pixels[1, x], pixels[2, x]
        cb[x] = int32(int32(-11059 * r - 21709 * g + 32768 * b + ((128 << 16) + 32767)) >> 16)
        cr[x] = int32(int32(32768 * r - 27439 * g - 5329 * b + ((128 << 16) + 32767)) >> 16)
    _repeat_last(cb, width)
    _repeat_last(cr, width)


@_compiled
def _colour(y, cb, cr, width, pixels):
    for x in range(width):
        luma, blue, red = y[x], int32(cb[x] - 128), int32(cr[x] - 128)
        r = int32(luma + int32(int32(91881 * red + 32768) >> 16))
        g = int32(luma + int32(int32(-22554 * blue - 46802 * red + 32768) >> 16))
        b = int32(luma + int32(int32(116130 * blue + 32768) >> 16))
        pixels[0, x] = min(max(r, int32(0)), int32(255))
        pixels[1, x] = min(max(g, int32(0)), int32(255))
        pixels[2, x] = min(max(b, int32(0)), int32(255))


@_compiled
def _store_row(pixels, output, row):
    for c in range(output.shape[0]):
        for x in range(output.shape[2]):
            output[c, row, x] = float32(pixels[c, x]) / float32(255)


@_compiled
def _store_row_of_bytes(pixels, output, row):
    for c in range(output.shape[0]):
        for x in range(output.shape[2]):
            output[c, row, x] = uint8(pixels[c, x])


# ------------------------------------------------------------------------------------------------------------ chroma


@_compiled
def _average(total, down, out):
    """Sums of ``down`` rows to the averages of pairs of columns; halves round down and up in turn."""
    for x in range(0, out.shape[0], 2):
        out[x] = int32(int32(total[2 * x] + total[2 * x + 1] + (down - 1)) >> down)
        out[x + 1] = int32(int32(total[2 * x + 2] + total[2 * x + 3] + down) >> down)


@_compiled
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


@_compiled
def _code_plane(plane, width, steps, inverses):
    for x in range(0, width, 8):
        code(plane, x, width, steps, inverses)


def _strips_of(load_row, store_row):
    """The work on a range of strips, of chroma and of images, for one way to read and to write pixels."""

    @_compiled
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

    @_compiled
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

    @_compiled
    def chroma_strips(images, tables, samples, down, start, stop):
        """Subsampled chroma there and back, to ``samples`` (N, 2, rows, columns), whole blocks."""
        width, columns, strips = images.shape[3], samples.shape[3], samples.shape[2] // 8
        pixels, planes, rows = (
            np.empty((3, width), np.int32),
            np.empty((2, 8, columns), np.int32),
            np.empty((4, 2 * columns), np.int32),
        )
        steps, inverses = np.empty((2, 64), np.int32), np.empty(64, np.float32)
        for strip in range(start, stop):
            n, top = strip // strips, strip % strips * 8
            _prepare(tables[n if tables.shape[0] > 1 else 0], steps, inverses)
            load_chroma(images[n], top, down, pixels, rows, planes)
            for c in range(2):
                _code_plane(planes[c], columns, steps, inverses)
                for y in range(8):
                    for x in range(columns):
                        samples[n, c, top + y, x] = uint8(planes[c, y, x])

    @_compiled
    def image_strips(images, output, lumas, chromas, samples, down, across, bad, start, stop):
        """Luma, and chroma that is not subsampled, there and back, and colour."""
        channels, height, width = images.shape[1:]
        strips, columns = (height + 7) // 8, (width + 7) // 8 * 8
        chroma_height, chroma_width = (height + down - 1) // down, (width + across - 1) // across
        pixels, planes = np.empty((channels, width), np.int32), np.empty((channels, 8, columns), np.int32)
        near, far = np.empty(chroma_width, np.int32), np.empty(chroma_width, np.int32)
        wide = np.empty((2, 2 * chroma_width), np.int32)
        steps, inverses = np.empty((2, 2, 64), np.int32), np.empty((2, 64), np.float32)
        for strip in range(start, stop):
            n, top = strip // strips, strip % strips * 8
            _prepare(lumas[n if lumas.shape[0] > 1 else 0], steps[0], inverses[0])
            _prepare(chromas[n if chromas.shape[0] > 1 else 0], steps[1], inverses[1])
            if load_strip(images[n], top, pixels, planes, across):
                bad[n] = 1
            _code_plane(planes[0], columns, steps[0], inverses[0])
            if channels == 3 and across == 1:
                _code_plane(planes[1], columns, steps[1], inverses[1])
                _code_plane(planes[2], columns, steps[1], inverses[1])
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


_CHROMA_FLOATS, _IMAGE_FLOATS, _load_chroma, _load_strip = _strips_of(_load_row, _store_row)
_CHROMA_BYTES, _IMAGE_BYTES, _, _ = _strips_of(_load_row_of_bytes, _store_row_of_bytes)


# --------------------------------------------------------------------------------------------------------- gradients
# Straight through all roundings, DCT and inverse undo one another, and what is left of the codec is the averaging of chroma and
# its way back. A step's gradient is the sum over its coefficients of that of the coefficient times what _residuals gives.

_R, _G, _B = float32(KR), float32(KG), float32(KB)
_TO_CB, _TO_CR = float32(0.5 / (1 - KB)), float32(0.5 / (1 - KR))
_CB_TO_B, _CR_TO_R = float32(2 * (1 - KB)), float32(2 * (1 - KR))
_CB_TO_G, _CR_TO_G = float32(2 * (1 - KB) * KB / KG), float32(2 * (1 - KR) * KR / KG)


@_compiled
def _add_chroma(grad, row, weight, wide):
    """Gradients of a row of pixels, ``weight`` times, to those of its Cb and Cr, (2, ..), from place 1 on."""
    for x in range(grad.shape[2]):
        r, g, b = grad[0, row, x], grad[1, row, x], grad[2, row, x]
        wide[0, x + 1] += weight * (b * _CB_TO_B - g * _CB_TO_G)
        wide[1, x + 1] += weight * (r * _CR_TO_R - g * _CR_TO_G)


@_compiled
def _to_samples(grad, row, down, wide, out, y0):
    """The transpose of _upsample: gradients of an image's pixels to those of a row of its Cb and Cr samples, ``out[:, y0]``."""
    height, width = grad.shape[1:]
    columns = (width + 1) // 2
    for c in range(2):
        _clear(wide[c])
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
        _clear(target)
        if columns <= 2:
            for x in range(columns):
                target[x] = line[2 * x + 1] + line[2 * x + 2]
            continue
        line[0], line[2 * columns + 1] = line[1], line[2 * columns]
        for x in range(columns):
            target[x] = float32(0.75) * (line[2 * x + 1] + line[2 * x + 2]) + float32(0.25) * (line[2 * x] + line[2 * x + 3])


@_compiled
def _add_residuals(plane, grad_plane, steps, inverses, straight, z, grad_z, sums):
    width = plane.shape[1]
    for x in range(0, width, 8):
        residuals(plane, x, width, steps, inverses, straight, z)
        analyze(grad_plane, x, width, grad_z)
        for i in range(64):
            sums[i] += z[i] * grad_z[i]


@_compiled
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
                    _clear(grad_planes[c, y])
            for c in range(2):
                _copy(grad_planes[c, y], samples[n, c, top + y])
        if not partial.shape[0]:
            continue
        _prepare(tables[n if tables.shape[0] > 1 else 0], steps, inverses)
        _load_chroma(images[n], top, down, pixels, rows, planes)
        for c in range(2):
            _add_residuals(planes[c], grad_planes[c], steps, inverses, straight, z, grad_z, partial[strip])


@_compiled
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
        _prepare(lumas[n if lumas.shape[0] > 1 else 0], steps[0], inverses[0])
        _prepare(chromas[n if chromas.shape[0] > 1 else 0], steps[1], inverses[1])
        _load_strip(images[n], top, pixels, planes, across)
        for y in range(8):
            for c in range(channels):
                _clear(grad_planes[c, y])
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


# ------------------------------------------------------------------------------------------------------------- a job


class ExactJob(ctypes.Structure):
    """What a team of threads works on; see :class:`jpegdl.kernels.cpu_strips.Job`."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("taken", "pieces", "strips", "n", "channels", "height", "width")),
        *((name, ctypes.c_int64) for name in ("down", "across", "rows", "columns", "lumas", "chromas")),  # how many tables
        # Where there lie: float32 or bytes (n, channels, height, width), float32 tables (.., 8, 8), bytes (n, 2, rows, columns)
        # and bytes (n).
        *((name, ctypes.c_int64) for name in ("images", "output", "luma", "chroma", "samples", "bad")),
        # For gradients, float32 like the images, or none; float32 for each strip of luma (2, 64), of chroma (64), or none. Of
        # them the samples are float32 too.
        *((name, ctypes.c_int64) for name in ("grad", "grad_images", "partial")),
        ("straight", ctypes.c_float),
    )


EXACT_JOB = types.CPointer(numba.from_dtype(np.dtype(ExactJob)))


@intrinsic
def _bytes_at(typing: Any, address: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())

    return types.CPointer(types.uint8)(types.int64), code


def _teams_of(pixels_at, chroma_strips, image_strips):
    @_inlined
    def chroma_team(pointer):
        job = numba.carray(pointer, 1)[0]
        images = numba.carray(pixels_at(job.images), (job.n, job.channels, job.height, job.width))
        tables = numba.carray(_floats_at(job.chroma), (job.chromas, 8, 8))
        samples = numba.carray(_bytes_at(job.samples), (job.n, 2, job.rows, job.columns))
        piece = _take(pointer)
        while piece < job.pieces:
            start, stop = job.strips * piece // job.pieces, job.strips * (piece + 1) // job.pieces
            chroma_strips(images, tables, samples, job.down, start, stop)
            piece = _take(pointer)

    @_inlined
    def image_team(pointer):
        job = numba.carray(pointer, 1)[0]
        shape = (job.n, job.channels, job.height, job.width)
        images, output = numba.carray(pixels_at(job.images), shape), numba.carray(pixels_at(job.output), shape)
        lumas = numba.carray(_floats_at(job.luma), (job.lumas, 8, 8))
        chromas = numba.carray(_floats_at(job.chroma), (job.chromas, 8, 8))
        samples = numba.carray(_bytes_at(job.samples), (job.n, 2, job.rows, job.columns))
        bad = numba.carray(_bytes_at(job.bad), (job.n,))
        piece = _take(pointer)
        while piece < job.pieces:
            start, stop = job.strips * piece // job.pieces, job.strips * (piece + 1) // job.pieces
            image_strips(images, output, lumas, chromas, samples, job.down, job.across, bad, start, stop)
            piece = _take(pointer)

    return chroma_team, image_team


_chroma_of_floats, _images_of_floats = _teams_of(_floats_at, _CHROMA_FLOATS, _IMAGE_FLOATS)
_chroma_of_bytes, _images_of_bytes = _teams_of(_bytes_at, _CHROMA_BYTES, _IMAGE_BYTES)


@_inlined
def _chroma_gradient_team(pointer):
    job = numba.carray(pointer, 1)[0]
    shape = (job.n, job.channels, job.height, job.width)
    images, grad = numba.carray(_floats_at(job.images), shape), numba.carray(_floats_at(job.grad), shape)
    tables = numba.carray(_floats_at(job.chroma), (job.chromas, 8, 8))
    samples = numba.carray(_floats_at(job.samples), (job.n, 2, job.rows, job.columns))
    partial = numba.carray(_floats_at(job.partial), (job.strips if job.partial else 0, 64))
    piece = _take(pointer)
    while piece < job.pieces:
        start, stop = job.strips * piece // job.pieces, job.strips * (piece + 1) // job.pieces
        _chroma_gradient_strips(images, grad, tables, samples, partial, job.down, job.straight, start, stop)
        piece = _take(pointer)


@_inlined
def _image_gradient_team(pointer):
    job = numba.carray(pointer, 1)[0]
    shape = (job.n, job.channels, job.height, job.width)
    images, grad = numba.carray(_floats_at(job.images), shape), numba.carray(_floats_at(job.grad), shape)
    wanted = job.n if job.grad_images else 0
    grad_images = numba.carray(_floats_at(job.grad_images), (wanted, job.channels, job.height, job.width))
    lumas = numba.carray(_floats_at(job.luma), (job.lumas, 8, 8))
    chromas = numba.carray(_floats_at(job.chroma), (job.chromas, 8, 8))
    samples = numba.carray(_floats_at(job.samples), (job.n, 2, job.rows, job.columns))
    partial = numba.carray(_floats_at(job.partial), (job.strips if job.partial else 0, 2, 64))
    piece = _take(pointer)
    while piece < job.pieces:
        start, stop = job.strips * piece // job.pieces, job.strips * (piece + 1) // job.pieces
        _image_gradient_strips(
            images, grad, grad_images, lumas, chromas, samples, partial, job.down, job.across, job.straight, start, stop
        )
        piece = _take(pointer)


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

    def chroma_gradient(pointer):
        sources  # noqa: B018
        _chroma_gradient_team(pointer)

    def image_gradient(pointer):
        sources  # noqa: B018
        _image_gradient_team(pointer)

    return chroma_of_floats, images_of_floats, chroma_of_bytes, images_of_bytes, chroma_gradient, image_gradient


_chroma_floats, _image_floats, _chroma_bytes, _image_bytes, chroma_gradient, image_gradient = _named(_sources())
#: By whether images are bytes: what does subsampled chroma, and what does the rest.
TEAMS = {False: (_chroma_floats, _image_floats), True: (_chroma_bytes, _image_bytes)}
