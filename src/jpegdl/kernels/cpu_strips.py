"""What numba compiles for the CPU: strips of 8 rows of samples, which stay in the cache from the load to the store.

Colour is a loop over whole rows, which the compiler turns into vector instructions; :mod:`jpegdl.kernels.cpu_blocks` has what
is done to blocks. Where chroma is subsampled, a strip is one of chroma with the luma that lies over it, one or two of 8 rows.
Each strip has its own place for its table gradients, so that sums do not depend on who takes which.
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
from numba import float32, uint32, uint64
from numba.core import types
from numba.extending import intrinsic

from jpegdl.functional import KB, KG, KR, draws
from jpegdl.kernels.cpu_blocks import (
    GROUP,
    SUMS,
    TABLES,
    all_near,
    analyze,
    derive,
    gradients_hard,
    gradients_matched,
    gradients_near,
    gradients_noisy,
    gradients_saturated,
    gradients_ste,
    gradients_windowed,
    quantize_hard,
    quantize_near,
    quantize_noisy,
    quantize_windowed,
    sample_near,
    sample_windowed,
    saturate,
    synthesize,
)
from jpegdl.kernels.cpu_vectors import BESIDE, FLAGS, LANES, named, vector_function
from jpegdl.settings import ROUNDINGS

_SOFT, _SAMPLE, _HARD, _STE, _NOISE, _NONE = (
    ROUNDINGS.index(name) for name in ("soft", "sample", "hard", "ste", "noise", "none")
)

_compiled: Callable[..., Any] = numba.njit(fastmath=set(FLAGS), error_model="numpy", nogil=True)
# Without this, each call would count references to its arrays, which takes longer than its work.
_inlined: Callable[..., Any] = numba.njit(fastmath=set(FLAGS), error_model="numpy", nogil=True, forceinline=True)

R, G, B = float32(KR), float32(KG), float32(KB)
TO_CB, TO_CR = float32(0.5 / (1 - KB)), float32(0.5 / (1 - KR))
CB_TO_B, CR_TO_R = float32(2 * (1 - KB)), float32(2 * (1 - KR))
CB_TO_G, CR_TO_G = float32(2 * (1 - KB) * KB / KG), float32(2 * (1 - KR) * KR / KG)

_ZERO = float32(0)
_GOLDEN, _FIRST, _SECOND = uint64(draws.GOLDEN), uint64(draws.FIRST), uint64(draws.SECOND)


# ---------------------------------------------------------------------------------------------------- pixels of rows


@vector_function()
def _fetch(numbers, index):
    numbers.fetch(index)


@_compiled
def fetch_strip_below(image, row):
    """Fetch into the cache the row of (C, H, W) that lies 8 further down, or that of the next image in the batch."""
    channels, height, width = image.shape
    below = row + 8 if row + 8 < height else channels * height + row % 8
    for c in range(channels):
        start = (c * height + below) * width
        for x in range(0, width, 16):
            _fetch(image, start + x)


@_compiled
def _load_row(image, row, whole, pixels):
    """Load a row of (C, H, W) in [0, 1] as pixels of 0..255, rounded if ``whole``; return whether there is NaN."""
    bad = np.int32(0)
    fetch_strip_below(image, row)
    for c in range(image.shape[0]):
        if whole:
            for x in range(image.shape[2]):
                value = np.rint(image[c, row, x] * float32(255))
                bad += np.int32(value != value)
                value = float32(0) if value < float32(0) else value  # NaN stays
                pixels[c, x] = float32(255) if value > float32(255) else value
        else:
            for x in range(image.shape[2]):
                pixels[c, x] = image[c, row, x] * float32(255)
    return bad != 0


@_compiled
def _store_row(pixels, whole, image, row):
    """Store a row of pixels: the inverse of _load_row."""
    for c in range(image.shape[0]):
        if whole:
            for x in range(image.shape[2]):
                value = np.rint(pixels[c, x])
                value = float32(0) if value < float32(0) else value
                value = float32(255) if value > float32(255) else value
                # PyTorch divides; fast math would multiply by the inverse. So correct the product by what it lacks.
                quotient = value * float32(1 / 255)
                image[c, row, x] = quotient + (value - quotient * float32(255)) * float32(1 / 255)
        else:
            for x in range(image.shape[2]):
                image[c, row, x] = pixels[c, x] * float32(1 / 255)


# ----------------------------------------------------------------------------------------------------- luma, colour


@_compiled
def _repeat_edge(row, width):
    """Repeat the last of ``width`` samples up to whole blocks, and put zeros up to whole groups."""
    whole = (width + 7) // 8 * 8
    for x in range(width, whole):
        row[x] = row[width - 1]
    for x in range(whole, row.shape[0]):
        row[x] = _ZERO


@_compiled
def _fold_edge(row, width):
    """The transpose of _repeat_edge."""
    for x in range(width, (width + 7) // 8 * 8):
        row[width - 1] += row[x]


@_compiled
def _copy(source, target):
    for x in range(source.shape[0]):
        target[x] = source[x]


@_compiled
def clear(row):
    for x in range(row.shape[0]):
        row[x] = _ZERO


@_compiled
def _load(image, top, whole, pixels, planes):
    """Load a strip of the image's level-shifted planes, Y or Y, Cb and Cr; return whether there is NaN."""
    channels, height, width = image.shape
    bad = False
    for y in range(8):
        if top + y >= height:
            for c in range(planes.shape[0]):
                _copy(planes[c, y - 1], planes[c, y])
            continue
        if _load_row(image, top + y, whole, pixels):
            bad = True
        if channels == 1:
            for x in range(width):
                planes[0, y, x] = pixels[0, x] - float32(128)
        elif planes.shape[0] == 1:
            for x in range(width):
                planes[0, y, x] = (R * pixels[0, x] + G * pixels[1, x] + B * pixels[2, x]) - float32(128)
        else:
            for x in range(width):
                r, g, b = pixels[0, x], pixels[1, x], pixels[2, x]
                luma = R * r + G * g + B * b
                planes[0, y, x] = luma - float32(128)
                planes[1, y, x] = (b - luma) * TO_CB
                planes[2, y, x] = (r - luma) * TO_CR
        for c in range(planes.shape[0]):
            _repeat_edge(planes[c, y], width)
    return bad


@_compiled
def _to_colour(luma, cb, cr, pixels):
    """Convert a row of planes to a row of pixels."""
    for x in range(pixels.shape[1]):
        y = luma[x] + float32(128)
        pixels[0, x] = y + cr[x] * CR_TO_R
        pixels[1, x] = y - cb[x] * CB_TO_G - cr[x] * CR_TO_G
        pixels[2, x] = y + cb[x] * CB_TO_B


@_compiled
def _load_gradient(grad, top, planes):
    """The transpose of _to_colour, with the 1 / 255 of _store_row: a strip of gradients, 0 where there is no image."""
    channels, height, width = grad.shape
    for y in range(8):
        if top + y >= height:
            for c in range(planes.shape[0]):
                clear(planes[c, y])
            continue
        fetch_strip_below(grad, top + y)
        if channels == 1:
            for x in range(width):
                planes[0, y, x] = grad[0, top + y, x] * float32(1 / 255)
        elif planes.shape[0] == 1:
            for x in range(width):
                planes[0, y, x] = (grad[0, top + y, x] + grad[1, top + y, x] + grad[2, top + y, x]) * float32(1 / 255)
        else:
            for x in range(width):
                r, g, b = grad[0, top + y, x], grad[1, top + y, x], grad[2, top + y, x]
                planes[0, y, x] = (r + g + b) * float32(1 / 255)
                planes[1, y, x] = (b * CB_TO_B - g * CB_TO_G) * float32(1 / 255)
                planes[2, y, x] = (r * CR_TO_R - g * CR_TO_G) * float32(1 / 255)
        for c in range(planes.shape[0]):
            for x in range(width, planes.shape[2]):
                planes[c, y, x] = _ZERO


@_compiled
def _fold(planes, height, width):
    """What reached a repeated edge goes back to the sample that it was repeated from; ``height`` rows of 8 are there."""
    for c in range(planes.shape[0]):
        for y in range(8):
            _fold_edge(planes[c, y], width)
        for y in range(height, 8):
            for x in range(width):
                planes[c, height - 1, x] += planes[c, y, x]


@_compiled
def _store_gradient(luma, cb, cr, grad, row):
    """The transpose of _load for one row, from gradients of pixels' own Y, Cb and Cr."""
    for x in range(grad.shape[2]):
        blue, red = cb[x] * TO_CB, cr[x] * TO_CR
        y = luma[x] - blue - red
        grad[0, row, x] = (R * y + red) * float32(255)
        grad[1, row, x] = G * y * float32(255)
        grad[2, row, x] = (B * y + blue) * float32(255)


# ------------------------------------------------------------------------------------------------ subsampled chroma


@_compiled
def _chroma_of(pixels, wide):
    """Cb and Cr of a row's pixels, to ``wide`` (2, ..)."""
    for x in range(pixels.shape[1]):
        r, g, b = pixels[0, x], pixels[1, x], pixels[2, x]
        luma = R * r + G * g + B * b
        wide[0, x] = (b - luma) * TO_CB
        wide[1, x] = (r - luma) * TO_CR


@_compiled
def _add(source, target):
    for c in range(source.shape[0]):
        for x in range(source.shape[1]):
            target[c, x] += source[c, x]


@_compiled
def _luma_of(pixels, luma):
    """Compute the level-shifted Y of a row of pixels, and repeat its edge."""
    width = pixels.shape[1]
    for x in range(width):
        luma[x] = (R * pixels[0, x] + G * pixels[1, x] + B * pixels[2, x]) - float32(128)
    _repeat_edge(luma, width)


@_compiled
def _load_together(image, row, down, whole, pixels, lower, wide, luma, samples):
    """Row ``row`` of the image's units: a strip of Cb and Cr averaged over ``down`` rows and 2 columns, to rows 1 to 8 of
    ``samples`` (2, 10, columns), and the one or two strips of level-shifted Y that lie over it, to ``luma`` from row 1 on;
    whether there is NaN. The others are places to work in. Rows are added up before there is chroma, of which less is to be
    computed then."""
    height, width = image.shape[1:]
    last, blocks = (height + down - 1) // down - 1, ((width + 1) // 2 + 7) // 8 * 8
    share = float32(0.5) / float32(down)
    bad = False
    for y in range(8):
        at = 8 * row + y
        if at > last:  # rows are repeated, of averages and of Y
            for c in range(2):
                _copy(samples[c, y], samples[c, y + 1])
            for i in range(down):
                _copy(luma[down * y + i], luma[down * y + i + 1])
            continue
        if _load_row(image, down * at, whole, pixels):
            bad = True
        _luma_of(pixels, luma[down * y + 1])
        if down == 2:
            if 2 * at + 1 < height:
                if _load_row(image, 2 * at + 1, whole, lower):
                    bad = True
                _luma_of(lower, luma[2 * y + 2])
            else:
                for c in range(3):
                    _copy(pixels[c], lower[c])
                _copy(luma[2 * y + 1], luma[2 * y + 2])
            _add(lower, pixels)
        _chroma_of(pixels, wide)
        for c in range(2):
            line, target = wide[c], samples[c, y + 1]
            for x in range(width, 2 * blocks):  # pixels are repeated, before the averaging
                line[x] = line[width - 1]
            for x in range(blocks):
                target[x] = (line[2 * x] + line[2 * x + 1]) * share
            for x in range(blocks, target.shape[0]):
                target[x] = _ZERO
    return bad


@_compiled
def _upsample(near, far, down, mixed, out):
    """A row of pixels' chroma, (.., 2 w), from the samples nearest to it and, of 4:2:0, those next nearest, w = mixed.shape[0]
    of them; triangle filter."""
    width = mixed.shape[0]
    if width <= 2:
        for x in range(width):
            out[2 * x] = out[2 * x + 1] = near[x]
        return
    if down == 2:
        for x in range(width):
            mixed[x] = float32(0.75) * near[x] + float32(0.25) * far[x]
    else:
        for x in range(width):
            mixed[x] = near[x]
    last = width - 1
    out[0], out[1] = mixed[0], float32(0.75) * mixed[0] + float32(0.25) * mixed[1]
    for x in range(1, last):  # both in one loop: then they are stored as whole vectors
        near_part = float32(0.75) * mixed[x]
        out[2 * x] = near_part + float32(0.25) * mixed[x - 1]
        out[2 * x + 1] = near_part + float32(0.25) * mixed[x + 1]
    out[2 * last], out[2 * last + 1] = float32(0.75) * mixed[last] + float32(0.25) * mixed[last - 1], mixed[last]


@_compiled
def add_chroma_gradient(grad, row, weight, wide):
    """Gradients of a row of pixels, ``weight`` times, to those of its Cb and Cr, (2, ..), from place 1 on."""
    for x in range(grad.shape[2]):
        r, g, b = grad[0, row, x], grad[1, row, x], grad[2, row, x]
        wide[0, x + 1] += weight * (b * CB_TO_B - g * CB_TO_G)
        wide[1, x + 1] += weight * (r * CR_TO_R - g * CR_TO_G)


@_compiled
def to_samples(grad, row, down, scale, wide, out, y0):
    """The transpose of _upsample: ``scale`` times the gradients of an image's pixels to those of a row of its Cb and Cr
    samples, ``out[:, y0]``; 0 beyond them."""
    height, width = grad.shape[1:]
    columns = (width + 1) // 2
    for y in range(down * row, min(down * (row + 1), height)):
        fetch_strip_below(grad, y)
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
            add_chroma_gradient(grad, y, weight * scale, wide)
    for c in range(2):
        line, target = wide[c], out[c, y0]
        for x in range(columns, target.shape[0]):
            target[x] = _ZERO
        if columns <= 2:
            for x in range(columns):
                target[x] = line[2 * x + 1] + line[2 * x + 2]
            continue
        line[0], line[2 * columns + 1] = line[1], line[2 * columns]
        for x in range(columns):
            target[x] = float32(0.75) * (line[2 * x + 1] + line[2 * x + 2]) + float32(0.25) * (line[2 * x] + line[2 * x + 3])


@_compiled
def _fold_chroma(planes, rows, width):
    """The transpose of what _load_together repeats: of rows; of columns into the first one that is repeated, if any."""
    real, blocks = (width + 1) // 2, ((width + 1) // 2 + 7) // 8 * 8
    for c in range(2):
        for y in range(rows, 8):
            for x in range(blocks):
                planes[c, rows - 1, x] += planes[c, y, x]
        for y in range(rows):
            for x in range(real + 1, blocks):
                planes[c, y, real] += planes[c, y, x]


@_compiled
def _spread(near, y, height, width, down, wide):
    """The transpose of the averaging, for the row y of pixels: gradients of its Cb or Cr from those of the samples that have
    them, as _fold_chroma leaves these."""
    real, blocks = (width + 1) // 2, ((width + 1) // 2 + 7) // 8 * 8
    share = float32(0.5) / float32(down)
    if down == 2 and y == height - 1 and height % 2:  # repeated, and averaged with itself
        share = share * float32(2)
    for x in range(width // 2):
        wide[2 * x] = wide[2 * x + 1] = near[x] * share
    if width % 2:
        wide[width - 1] = near[real - 1] * share * float32(2)
    if blocks > real:
        wide[width - 1] += near[real] * share * float32(2)


# ------------------------------------------------------------------------------------------------------------ blocks


@_compiled
def _prepare(q, alpha, tables):
    """Tables of all planes from steps and alpha, (T, 8, 8), as for each of the blocks side by side."""
    for t in range(q.shape[0]):
        for u in range(8):
            for v in range(8):
                for block in range(BESIDE):
                    place = LANES * v + 8 * block + u
                    tables[t, place], tables[t, GROUP + place] = q[t, u, v], alpha[t, u, v]
        for i in range(0, GROUP, LANES):
            derive(tables[t], i)


@_inlined
def _split_mix(x):
    x = uint64(x + _GOLDEN)
    x = uint64((x ^ (x >> uint64(30))) * _FIRST)
    x = uint64((x ^ (x >> uint64(27))) * _SECOND)
    return uint64(x ^ (x >> uint64(31)))


@_inlined
def _make_keys(seed, plane, row, column, keys):
    """Draw for the blocks side by side, from column ``column`` on: see jpegdl.functional.draws. ``seed`` is the image's."""
    for block in range(BESIDE):
        place = (uint64(plane) << uint64(40)) + (uint64(row) << uint64(20)) + uint64(column + block)
        key = _split_mix(uint64(seed + place * _GOLDEN))
        keys[2 * block], keys[2 * block + 1] = uint32(key & uint64(0xFFFFFFFF)), uint32(key >> uint64(32))


@_inlined
def _quantize(kind, z, table, cap, keys):
    limit = cap - float32(2)
    if kind == _SOFT:
        for i in range(0, GROUP, LANES):
            if all_near(z, i, table, limit):
                quantize_near(z, i, table)
            else:
                quantize_windowed(z, i, table, limit)
    elif kind == _SAMPLE:
        for i in range(0, GROUP, LANES):
            if all_near(z, i, table, limit):
                sample_near(z, i, table, keys)
            else:
                sample_windowed(z, i, table, limit, keys)
    elif kind == _NOISE:
        for i in range(0, GROUP, LANES):
            quantize_noisy(z, i, table, cap, keys)
    elif kind == _NONE:
        for i in range(0, GROUP, LANES):
            saturate(z, i, table, cap)
    else:
        for i in range(0, GROUP, LANES):
            quantize_hard(z, i, table, cap)


@_inlined
def _differentiate(kind, z, grad, table, sums, cap, far, keys):
    limit = cap - float32(2)
    if kind in (_SOFT, _SAMPLE):
        for i in range(0, GROUP, LANES):
            if all_near(z, i, table, limit):
                gradients_near(z, grad, i, table, sums)
            else:
                gradients_windowed(z, grad, i, table, sums, limit)
    elif kind == _NOISE:
        for i in range(0, GROUP, LANES):
            gradients_noisy(z, grad, i, table, sums, cap, keys)
    elif kind == _NONE:
        for i in range(0, GROUP, LANES):
            gradients_saturated(z, grad, i, table, sums, cap)
    elif kind == _HARD:
        for i in range(0, GROUP, LANES):
            gradients_hard(z, grad, i, table, sums, cap)
    elif kind == _STE:
        for i in range(0, GROUP, LANES):
            gradients_ste(z, grad, i, table, sums, cap)
    else:
        for i in range(0, GROUP, LANES):
            gradients_matched(z, grad, i, table, sums, cap, far)


@_compiled
def _code_plane(kind, plane, table, cap, seed, number, row, keys, z):
    """Take all blocks of a strip of one plane through the DCT and the quantizer, and back, in place."""
    width = plane.shape[1]
    for x in range(0, width, LANES):
        if kind in (_SAMPLE, _NOISE):
            _make_keys(seed, number, row, x // 8, keys)
        analyze(plane, x, width, z)
        _quantize(kind, z, table, cap, keys)
        synthesize(z, plane, x, width)


@_compiled
def _differentiate_plane(kind, plane, grad, table, sums, cap, far, seed, number, row, keys, z, grad_z, want_images):
    """Gradients of a strip of one plane, from those of its coded samples, in place; those of the table are added to
    ``sums``."""
    width = plane.shape[1]
    for x in range(0, width, LANES):
        if kind == _NOISE:
            _make_keys(seed, number, row, x // 8, keys)
        analyze(plane, x, width, z)
        analyze(grad, x, width, grad_z)
        _differentiate(kind, z, grad_z, table, sums, cap, far, keys)
        if want_images:
            synthesize(grad_z, grad, x, width)


# ------------------------------------------------------------------------------------------------------------- a job


class Job(ctypes.Structure):
    """The work of a team of threads. All get the same job, and take pieces of it until none is left."""

    _fields_ = (
        ("taken", ctypes.c_int64),  # how many pieces are taken so far
        ("pieces", ctypes.c_int64),
        ("strips", ctypes.c_int64),
        *((name, ctypes.c_int64) for name in ("n", "channels", "height", "width", "down", "across", "rows", "columns")),
        # The rounding's number; whether pixels are whole; tables of an image, whether each image has its own.
        *((name, ctypes.c_int64) for name in ("kind", "whole", "tables", "each", "seed")),
        ("beyond", ctypes.c_int64),  # set to 1 if a step lies outside of low and high
        *((name, ctypes.c_float) for name in ("cap", "far", "low", "high")),
        # Where float32 lie: of (n, channels, height, width), of (n or 1, tables, 8, 8), and of (strips, tables, SUMS). Bytes
        # (n): whether an image has NaN, if whole. 0 for what there is not.
        *((name, ctypes.c_int64) for name in ("images", "output", "grad", "grad_images", "q", "alpha", "partial", "bad")),
    )


JOB = types.CPointer(numba.from_dtype(np.dtype(Job)))


@intrinsic
def take(typing: Any, job: Any) -> Any:
    """Take the next piece and return its number. No other thread gets the same one."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        taken = builder.bitcast(arguments[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", taken, ir.IntType(64)(1), "monotonic")

    return types.int64(job), code


@intrinsic
def floats_at(typing: Any, address: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], ir.FloatType().as_pointer())

    return types.CPointer(types.float32)(types.int64), code


@intrinsic
def bytes_at(typing: Any, address: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())

    return types.CPointer(types.uint8)(types.int64), code


@_compiled
def _prepare_image(job, n, tables):
    """The tables of image n."""
    at = n if job.each else 0
    count = job.tables
    q = numba.carray(floats_at(job.q), (job.n if job.each else 1, count, 8, 8))
    alpha = numba.carray(floats_at(job.alpha if job.alpha else job.q), q.shape)
    _prepare(q[at], alpha[at], tables)
    beyond = np.int32(0)
    for step in q[at].ravel():
        beyond += np.int32(not (step >= job.low and step <= job.high))
    if beyond:
        job.beyond = 1


@_compiled
def _seed_of(job, n):
    return _split_mix(uint64(uint64(job.seed) + uint64(n) * _GOLDEN))


@_compiled
def _room(count):
    """Return room for numbers that starts at a cache line: vectors that cross two lines take several times as long."""
    room = np.empty(count + 16, np.float32)
    start = (-room.ctypes.data % 64) // 4
    return room[start : start + count]


@_compiled
def _strip_of(planes, width):
    return _room(planes * 8 * width).reshape(planes, 8, width)


@_compiled
def _places():
    """To work in: keys, and coefficients of a group and of its gradients."""
    return np.empty(2 * BESIDE, np.uint32), _room(GROUP), _room(GROUP)


@_compiled
def _groups(width):
    """Columns of whole groups of blocks."""
    return (width + LANES - 1) // LANES * LANES


@_compiled
def _image_strips(job, start, stop):
    """Strips there and back, of images whose chroma is not subsampled, or that have none."""
    shape = (job.n, job.channels, job.height, job.width)
    images, output = numba.carray(floats_at(job.images), shape), numba.carray(floats_at(job.output), shape)
    bad = numba.carray(bytes_at(job.bad), (job.n if job.bad else 0,))
    height, width = job.height, job.width
    strips = (height + 7) // 8
    pixels, planes = np.empty((job.channels, width), np.float32), _strip_of(job.channels, _groups(width))
    tables = _room(job.tables * TABLES).reshape(job.tables, TABLES)
    keys, z, _ = _places()
    before = -1
    for strip in range(start, stop):
        n, row = strip // strips, strip % strips
        if n != before and (before < 0 or job.each):
            _prepare_image(job, n, tables)
        seed, before = _seed_of(job, n), n
        if _load(images[n], 8 * row, job.whole, pixels, planes) and job.bad:
            bad[n] = 1
        for c in range(job.channels):
            _code_plane(job.kind, planes[c], tables[min(c, job.tables - 1)], job.cap, seed, c, row, keys, z)
        for y in range(min(8, height - 8 * row)):
            if job.channels == 1:
                for x in range(width):
                    pixels[0, x] = planes[0, y, x] + float32(128)
            else:
                _to_colour(planes[0, y], planes[1, y], planes[2, y], pixels)
            _store_row(pixels, job.whole, output[n], 8 * row + y)


@_inlined
def rows_to_finish(row, strips, down, height, goes_on, mine):
    """Which rows of pixels can be finished once a strip of subsampled chroma is there, from and to, within that strip: with
    4:2:0 the last one waits for the strip below, and -1 is the one that waited, if a thread ``goes_on`` from the one above."""
    first, end, over = 0, 0, 8 * down
    if mine:
        end = over - 1 if down == 2 and row < strips - 1 else min(over, height - over * row)
    if down == 2 and row > 0 and goes_on:
        first = -1
    return first, end


@_inlined
def rows_of_chroma(y, down):
    """The nearest row of chroma to a row of pixels and the one on its other side; row 0 is the last of the strip above."""
    near = (y + down) // down
    return near, near if down == 1 else near + 1 if y % 2 else near - 1


@_compiled
def _subsampled_strips(job, start, stop):
    """Strips of chroma and of the luma that lies over it, there and back. A row of pixels on the border of two strips needs
    chroma of both: of what others do, that is computed here too."""
    shape = (job.n, job.channels, job.height, job.width)
    images, output = numba.carray(floats_at(job.images), shape), numba.carray(floats_at(job.output), shape)
    bad = numba.carray(bytes_at(job.bad), (job.n if job.bad else 0,))
    height, width, down = job.height, job.width, job.down
    strips, over = (job.rows + 7) // 8, 8 * down
    pixels, lower, columns = np.empty((3, width), np.float32), np.empty((3, width), np.float32), _groups(job.columns)
    # Row 0: the last one of the strip above.
    luma = _room((over + 1) * _groups(width)).reshape(over + 1, _groups(width))
    samples = _room(20 * columns).reshape(2, 10, columns)
    mixed, wide = np.empty(job.columns, np.float32), np.empty((2, 2 * columns), np.float32)
    tables = _room(job.tables * TABLES).reshape(job.tables, TABLES)
    keys, z, _ = _places()
    before = -1
    above, below = down == 2 and start % strips != 0, down == 2 and stop % strips != 0
    for strip in range(start - above, stop + below):
        n, row = strip // strips, strip % strips
        if n != before and (before < 0 or job.each):
            _prepare_image(job, n, tables)
        seed, before = _seed_of(job, n), n
        mine = start <= strip and strip < stop
        if _load_together(images[n], row, down, job.whole, pixels, lower, wide, luma, samples) and job.bad:
            bad[n] = 1
        for c in range(2):
            _code_plane(job.kind, samples[c, 1:9], tables[min(c + 1, job.tables - 1)], job.cap, seed, c + 1, row, keys, z)
        if mine:
            for i in range(min(down, (height + 7) // 8 - down * row)):
                _code_plane(job.kind, luma[8 * i + 1 : 8 * i + 9], tables[0], job.cap, seed, 0, down * row + i, keys, z)
        last = job.rows - 8 * row  # where the image ends, if it does
        for c in range(2):
            if row == 0:
                _copy(samples[c, 1], samples[c, 0])
            if last <= 8:
                _copy(samples[c, last], samples[c, last + 1])
        first, end = rows_to_finish(row, strips, down, height, strip > start, mine)
        for y in range(first, end):
            near, far = rows_of_chroma(y, down)
            for c in range(2):
                _upsample(samples[c, near], samples[c, far], down, mixed, wide[c])
            _to_colour(luma[y + 1], wide[0], wide[1], pixels)
            _store_row(pixels, job.whole, output[n], over * row + y)
        _copy(luma[over], luma[0])
        for c in range(2):
            _copy(samples[c, 8], samples[c, 0])


@_compiled
def _image_gradient_strips(job, start, stop):
    """Gradients of images whose chroma is not subsampled, or that have none, and of tables."""
    shape = (job.n, job.channels, job.height, job.width)
    images, grad = numba.carray(floats_at(job.images), shape), numba.carray(floats_at(job.grad), shape)
    wanted = job.grad_images != 0
    grad_images = numba.carray(floats_at(job.grad_images), (job.n if wanted else 0, *shape[1:]))
    partial = numba.carray(floats_at(job.partial), (job.strips, job.tables, SUMS))
    height, width = job.height, job.width
    strips, columns = (height + 7) // 8, _groups(width)
    pixels, planes = np.empty((job.channels, width), np.float32), _strip_of(job.channels, columns)
    grad_planes = _strip_of(job.channels, columns)
    tables = _room(job.tables * TABLES).reshape(job.tables, TABLES)
    keys, z, grad_z = _places()
    before = -1
    for strip in range(start, stop):
        n, row = strip // strips, strip % strips
        if n != before and (before < 0 or job.each):
            _prepare_image(job, n, tables)
        seed, before = _seed_of(job, n), n
        _load(images[n], 8 * row, job.whole, pixels, planes)
        _load_gradient(grad[n], 8 * row, grad_planes)
        for c in range(job.channels):
            t = min(c, job.tables - 1)
            _differentiate_plane(
                job.kind, planes[c], grad_planes[c], tables[t], partial[strip, t], job.cap, job.far,
                seed, c, row, keys, z, grad_z, wanted,
            )  # fmt: skip
        if not wanted:
            continue
        rows = min(8, height - 8 * row)
        _fold(grad_planes, rows, width)
        for y in range(rows):
            at = 8 * row + y
            if job.channels == 1:
                for x in range(width):
                    grad_images[n, 0, at, x] = grad_planes[0, y, x] * float32(255)
            else:
                _store_gradient(grad_planes[0, y], grad_planes[1, y], grad_planes[2, y], grad_images[n], at)


@_compiled
def _subsampled_gradient_strips(job, start, stop):
    """Gradients of subsampled chroma and of the luma that lies over it, and of tables. Of the strips above and below it takes
    gradients of pixels alone, a row of each."""
    shape = (job.n, job.channels, job.height, job.width)
    images, grad = numba.carray(floats_at(job.images), shape), numba.carray(floats_at(job.grad), shape)
    wanted = job.grad_images != 0
    grad_images = numba.carray(floats_at(job.grad_images), (job.n if wanted else 0, *shape[1:]))
    partial = numba.carray(floats_at(job.partial), (job.strips, job.tables, SUMS))
    height, width, down = job.height, job.width, job.down
    strips, over, columns = (job.rows + 7) // 8, 8 * down, _groups(job.columns)
    pixels, lower = np.empty((3, width), np.float32), np.empty((3, width), np.float32)
    wide = np.empty((2, 2 * columns + 2), np.float32)
    luma, by_luma = _room((over + 1) * _groups(width)).reshape(over + 1, _groups(width)), _strip_of(1, _groups(width))
    samples, by_samples = _room(20 * columns).reshape(2, 10, columns), _strip_of(2, columns)
    tables = _room(job.tables * TABLES).reshape(job.tables, TABLES)
    keys, z, grad_z = _places()
    before = -1
    for strip in range(start, stop):
        n, row = strip // strips, strip % strips
        if n != before and (before < 0 or job.each):
            _prepare_image(job, n, tables)
        seed, before = _seed_of(job, n), n
        _load_together(images[n], row, down, job.whole, pixels, lower, wide, luma, samples)
        rows = min(8, job.rows - 8 * row)
        for y in range(8):
            if y < rows:
                to_samples(grad[n], 8 * row + y, down, float32(1 / 255), wide, by_samples, y)
            else:
                for c in range(2):
                    clear(by_samples[c, y])
        for c in range(2):
            t = min(c + 1, job.tables - 1)
            _differentiate_plane(
                job.kind, samples[c, 1:9], by_samples[c], tables[t], partial[strip, t], job.cap, job.far,
                seed, c + 1, row, keys, z, grad_z, wanted,
            )  # fmt: skip
        _fold_chroma(by_samples, rows, width)
        for i in range(min(down, (height + 7) // 8 - down * row)):
            top = over * row + 8 * i
            _load_gradient(grad[n], top, by_luma)
            _differentiate_plane(
                job.kind, luma[8 * i + 1 : 8 * i + 9], by_luma[0], tables[0], partial[strip, 0], job.cap, job.far,
                seed, 0, down * row + i, keys, z, grad_z, wanted,
            )  # fmt: skip
            if not wanted:
                continue
            _fold(by_luma, min(8, height - top), width)
            for y in range(min(8, height - top)):
                for c in range(2):
                    _spread(by_samples[c, (8 * i + y) // down], top + y, height, width, down, wide[c])
                _store_gradient(by_luma[0, y], wide[0], wide[1], grad_images[n], top + y)


def _team_of(strips):
    @_compiled
    @named(strips.__name__)
    def team(pointer):
        """What each thread does."""
        job = numba.carray(pointer, 1)[0]
        piece = take(pointer)
        while piece < job.pieces:
            strips(job, job.strips * piece // job.pieces, job.strips * (piece + 1) // job.pieces)
            piece = take(pointer)

    return team


_image_team, _subsampled_team = _team_of(_image_strips), _team_of(_subsampled_strips)
_image_gradient_team, _subsampled_gradient_team = _team_of(_image_gradient_strips), _team_of(_subsampled_gradient_strips)


def kernel_sources() -> str:
    """A digest of all that the kernels on the CPU are made of."""
    here = Path(__file__).parent
    files = [*sorted(here.glob("cpu_*.py")), *(here.parent / "functional" / f"{name}.py" for name in ("draws", "exact"))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _named(sources: str) -> tuple[Callable[[Any], None], ...]:
    """What each thread does, for ``numba.cfunc``.

    numba takes what it compiled from its cache on disk where a function, its file and what it closes over are unchanged. What
    the function calls may have changed: so it closes over the sources of that.
    """

    def image(pointer):
        sources  # noqa: B018
        _image_team(pointer)

    def subsampled(pointer):
        sources  # noqa: B018
        _subsampled_team(pointer)

    def image_gradient(pointer):
        sources  # noqa: B018
        _image_gradient_team(pointer)

    def subsampled_gradient(pointer):
        sources  # noqa: B018
        _subsampled_gradient_team(pointer)

    return image, subsampled, image_gradient, subsampled_gradient


image_team, subsampled_team, image_gradient_team, subsampled_gradient_team = _named(kernel_sources())
