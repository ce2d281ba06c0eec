"""What the Triton kernels load and store: pixels, which become planes of Y, Cb and Cr, and subsampled chroma.

A tile's lines are rows of 8 samples of a plane. All is done to half a line at a time, 4 samples that lie beside one another.
Where it is ``exact``, planes are integers, by the formulas of :mod:`jpegdl.functional.exact`.
"""

# What Triton compiles has types of its own:
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import triton
import triton.language as tl

from jpegdl.functional import KB, KG, KR
from jpegdl.kernels.cuda_blocks import rounded

#: What a kernel works on: Y, Cb and Cr of one size; Y alone, of grey images or where chroma was subsampled; such chroma.
ALL, LUMA, CHROMA = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)

_R, _G, _B = tl.constexpr(KR), tl.constexpr(KG), tl.constexpr(KB)
_TO_CB, _TO_CR = tl.constexpr(0.5 / (1 - KB)), tl.constexpr(0.5 / (1 - KR))
_CB_TO_B, _CR_TO_R = tl.constexpr(2 * (1 - KB)), tl.constexpr(2 * (1 - KR))
_CB_TO_G, _CR_TO_G = tl.constexpr(2 * (1 - KB) * KB / KG), tl.constexpr(2 * (1 - KR) * KR / KG)


# ------------------------------------------------------------------------------------------------------------ places


@triton.jit
def places(tile, first, count, height, width, blocks: tl.constexpr):
    """Image, row and first column of each line of a tile, in a plane of ``count`` images from ``first`` on; whether its block
    exists."""
    rows = (height + 7) // 8
    columns = (width + 7) // 8
    line = tl.arange(0, blocks * 8)
    block = tile * blocks + line // 8
    image = block // (rows * columns)
    y = block // columns % rows * 8 + line % 8
    return (first + image).to(tl.int64), y, block % columns * 8, image < count


@triton.jit
def _columns(x, half: tl.constexpr):
    return x[:, None] + (tl.arange(0, 4) + 4 * half)[None, :]


@triton.jit
def _at(image, y, columns, strides):
    """In 64 bits, for tensors of more than 2^31 numbers."""
    n, _, h, w = strides
    return (image * n + y.to(tl.int64) * h)[:, None] + columns.to(tl.int64) * w


@triton.jit
def _inside(y, columns, exists, height, width, even: tl.constexpr):
    """Which pixels there are; all of a block, where the sides of images are ``even``, multiples of 8."""
    if even:
        return exists[:, None] & (columns >= 0)
    else:
        return (exists & (y < height))[:, None] & (columns < width)


# ------------------------------------------------------------------------------------------------------------ pixels


@triton.jit
def _pixels(images, at, mask, scale: tl.constexpr, whole: tl.constexpr):
    """Of 0..255, ``scale`` times what is there; rounded and clipped where they are to be ``whole``, NaN as it is."""
    value = tl.load(images + at, mask=mask, other=0.0).to(tl.float32) * scale
    if whole:
        value = tl.where(value == value, rounded(tl.minimum(tl.maximum(value, 0.0), 255.0), True), value)
    return value


@triton.jit
def _integer(value):
    """NaN becomes 0."""
    return tl.where(value == value, value, 0.0).to(tl.int32)


@triton.jit
def _colours(images, at, mask, channel, scale: tl.constexpr, whole: tl.constexpr):
    red = _pixels(images, at, mask, scale, whole)
    green = _pixels(images, at + channel, mask, scale, whole)
    return red, green, _pixels(images, at + channel + channel, mask, scale, whole)


@triton.jit
def _ycbcr(red, green, blue, exact: tl.constexpr):
    """Level-shifted."""
    if exact:
        r, g, b = _integer(red), _integer(green), _integer(blue)
        luma = (19595 * r + 38470 * g + 7471 * b + 32768) >> 16
        return luma - 128, (-11059 * r - 21709 * g + 32768 * b + 32767) >> 16, (32768 * r - 27439 * g - 5329 * b + 32767) >> 16
    else:
        luma = red * _R + green * _G + blue * _B
        return luma - 128, (blue - luma) * _TO_CB, (red - luma) * _TO_CR


@triton.jit
def load_planes(
    images, place, strides, half: tl.constexpr, part: tl.constexpr, channels: tl.constexpr, down: tl.constexpr,
    even: tl.constexpr, scale: tl.constexpr, whole: tl.constexpr, exact: tl.constexpr,
):  # fmt: skip
    """Level-shifted planes, as many as the part has, and where there is NaN; the last row and column are repeated beyond the
    border."""
    image, y, x, exists, height, width = place
    columns = _columns(x, half)
    if part == CHROMA:
        planes = _averaged(images, image, y, columns, exists[:, None], height, width, strides, down, scale, whole, exact)
        return planes, planes[0] != planes[0]
    else:
        if not even:
            y, columns = tl.minimum(y, height - 1), tl.minimum(columns, width - 1)
        at = _at(image, y, columns, strides)
        if channels == 1:
            grey = _pixels(images, at, exists[:, None], scale, whole)
            luma = _integer(grey) if exact else grey
            return (luma - 128,), grey != grey
        else:
            red, green, blue = _colours(images, at, exists[:, None], strides[1], scale, whole)
            total = red + green + blue
            luma, cb, cr = _ycbcr(red, green, blue, exact)
            if part == LUMA:
                return (luma,), total != total
            else:
                return (luma, cb, cr), total != total


@triton.jit
def store_planes(
    images, planes, place, strides, half: tl.constexpr, channels: tl.constexpr, even: tl.constexpr, whole: tl.constexpr,
    exact: tl.constexpr,
):  # fmt: skip
    """The inverse of load_planes, with all planes there are."""
    image, y, x, exists, height, width = place
    columns = _columns(x, half)
    mask = _inside(y, columns, exists, height, width, even)
    to = images + _at(image, y, columns, strides)
    luma, channel = planes[0] + 128, strides[1]
    if channels == 1:
        _store_pixels(to, luma, mask, whole)
    else:
        cb, cr = planes[1], planes[2]
        if exact:
            red = luma + ((91881 * cr + 32768) >> 16)
            green = luma + ((-22554 * cb - 46802 * cr + 32768) >> 16)
            blue = luma + ((116130 * cb + 32768) >> 16)
        else:
            red, green, blue = luma + cr * _CR_TO_R, luma - cb * _CB_TO_G - cr * _CR_TO_G, luma + cb * _CB_TO_B
        _store_pixels(to, red, mask, whole)
        _store_pixels(to + channel, green, mask, whole)
        _store_pixels(to + channel + channel, blue, mask, whole)


@triton.jit
def _store_pixels(to, value, mask, whole: tl.constexpr):
    kind: tl.constexpr = to.dtype.element_ty
    if whole:
        value = rounded(tl.minimum(tl.maximum(value.to(tl.float32), 0.0), 255.0), True)
        if kind == tl.uint8:
            tl.store(to, value.to(kind), mask=mask)
        else:  # divided as PyTorch does
            tl.store(to, tl.div_rn(value, 255.0).to(kind), mask=mask)
    else:
        tl.store(to, (value * (1 / 255)).to(kind), mask=mask)


@triton.jit
def load_gradients(
    grad, place, strides, half: tl.constexpr, part: tl.constexpr, channels: tl.constexpr,
    down: tl.constexpr, even: tl.constexpr,
):  # fmt: skip
    """The transpose of store_planes: gradients of images to those of the part's planes; 0 where there is no image."""
    image, y, x, exists, height, width = place
    columns = _columns(x, half)
    if part == CHROMA:
        red, green, blue = _to_samples(grad, image, y, columns, exists, height, width, strides, down)
        return blue * _CB_TO_B - green * _CB_TO_G, red * _CR_TO_R - green * _CR_TO_G
    else:
        mask = _inside(y, columns, exists, height, width, even)
        at = _at(image, y, columns, strides)
        if channels == 1:
            return (_pixels(grad, at, mask, 1 / 255, False),)
        else:
            red, green, blue = _colours(grad, at, mask, strides[1], 1 / 255, False)
            if part == LUMA:
                return (red + green + blue,)
            else:
                return red + green + blue, blue * _CB_TO_B - green * _CB_TO_G, red * _CR_TO_R - green * _CR_TO_G


@triton.jit
def store_gradients(
    images, planes, place, strides, half: tl.constexpr, channels: tl.constexpr, even: tl.constexpr, scale: tl.constexpr,
):  # fmt: skip
    """The transpose of load_planes, with all planes there are."""
    kind: tl.constexpr = images.dtype.element_ty
    image, y, x, exists, height, width = place
    columns = _columns(x, half)
    mask = _inside(y, columns, exists, height, width, even)
    to, channel = images + _at(image, y, columns, strides), strides[1]
    luma = planes[0]
    if channels == 1:
        tl.store(to, (luma * scale).to(kind), mask=mask)
    else:
        cb, cr = planes[1] * _TO_CB, planes[2] * _TO_CR
        luma = luma - cb - cr
        tl.store(to, ((luma * _R + cr) * scale).to(kind), mask=mask)
        tl.store(to + channel, (luma * (_G * scale)).to(kind), mask=mask)
        tl.store(to + channel + channel, ((luma * _B + cb) * scale).to(kind), mask=mask)


# ------------------------------------------------------------------------------------------------ subsampled chroma
# Samples lie in memory of their own, (N, 2, rows, columns), contiguous; level-shifted, as planes are.


@triton.jit
def _averaged(
    images, image, y, columns, exists, height, width, strides, down: tl.constexpr, scale: tl.constexpr, whole: tl.constexpr,
    exact: tl.constexpr,
):  # fmt: skip
    """Cb and Cr of means over ``down`` rows and 2 columns. Pixels are repeated, but below a pair of rows the samples are."""
    y = tl.minimum(y, (height + down - 1) // down - 1) * down
    cb = tl.zeros(columns.shape, tl.int32 if exact else tl.float32)
    cr = cb
    for i in tl.static_range(down):
        for j in tl.static_range(2):
            at = _at(image, tl.minimum(y + i, height - 1), tl.minimum(2 * columns + j, width - 1), strides)
            red, green, blue = _colours(images, at, exists, strides[1], scale, whole)
            _, more_cb, more_cr = _ycbcr(red, green, blue, exact)
            cb, cr = cb + more_cb, cr + more_cr
    if exact:  # halves round down and up in turn
        return (cb + columns % 2 + (down - 1)) >> down, (cr + columns % 2 + (down - 1)) >> down
    else:
        return cb * (0.5 / down), cr * (0.5 / down)


@triton.jit
def _sample_at(image, y, columns, rows, count):
    """Where Cb lies in the memory of samples, and how far from it Cr does."""
    plane = (rows * count).to(tl.int64)
    return (image * 2 * plane + y.to(tl.int64) * count)[:, None] + columns, plane


@triton.jit
def store_samples(samples, planes, place, rows, kept, count, half: tl.constexpr):
    """Cb and Cr, as far as there are ``rows`` and ``kept`` of ``count`` columns."""
    image, y, x, exists, _, _ = place
    columns = _columns(x, half)
    mask = (exists & (y < rows))[:, None] & (columns < kept)
    at, plane = _sample_at(image, y, columns, rows, count)
    kind: tl.constexpr = samples.dtype.element_ty
    tl.store(samples + at, planes[0].to(kind), mask=mask)
    tl.store(samples + at + plane, planes[1].to(kind), mask=mask)


@triton.jit
def _next(place, count):
    """The sample that pixel ``place`` lies nearest to but for its own, of ``count``."""
    return tl.minimum(tl.maximum(place // 2 + place % 2 * 2 - 1, 0), count - 1)


@triton.jit
def upsampled(samples, place, half: tl.constexpr, down: tl.constexpr, even: tl.constexpr, exact: tl.constexpr):
    """Cb and Cr of pixels by the triangle filter; doubled, where there are at most 2 columns of samples."""
    image, y, x, exists, height, width = place
    columns = _columns(x, half)
    mask = _inside(y, columns, exists, height, width, even)
    rows, count = (height + down - 1) // down, (width + 1) // 2
    row, own = y // down, columns // 2
    other = tl.where(count <= 2, own, _next(columns, count))
    far = row
    if down == 2:
        far = tl.where(count <= 2, row, _next(y, rows))
    at, plane = _sample_at(image, row, own, rows, count)
    beside, _ = _sample_at(image, row, other, rows, count)
    below, _ = _sample_at(image, far, own, rows, count)
    across, _ = _sample_at(image, far, other, rows, count)
    odd = columns % 2
    return (
        _filtered(samples, at, beside, below, across, odd, mask, down, exact),
        _filtered(samples + plane, at, beside, below, across, odd, mask, down, exact),
    )


@triton.jit
def _filtered(samples, at, beside, below, across, odd, mask, down: tl.constexpr, exact: tl.constexpr):
    """3/4 of the nearer sample and 1/4 of the further along each axis; rounded the other way in odd columns."""
    kind: tl.constexpr = tl.int32 if exact else tl.float32
    near, far = tl.load(samples + at, mask=mask, other=0).to(kind), tl.load(samples + beside, mask=mask, other=0).to(kind)
    if down == 2:
        near = near * 3 + tl.load(samples + below, mask=mask, other=0).to(kind)
        far = far * 3 + tl.load(samples + across, mask=mask, other=0).to(kind)
    if not exact:
        return (near * 3 + far) * (0.0625 if down == 2 else 0.25)
    elif down == 2:
        return (near * 3 + far + 8 - odd) >> 4
    else:
        return (near * 3 + far + 1 + odd) >> 2


@triton.jit
def _weight(place, sample, count, doubled):
    """How much of a sample, of ``count``, is in the pixel at ``place``."""
    own = tl.where(place // 2 == sample, 1.0, 0.0)
    return tl.where(doubled, own, 0.75 * own + 0.25 * tl.where(_next(place, count) == sample, 1.0, 0.0))


@triton.jit
def _to_samples(grad, image, y, columns, exists, height, width, strides, down: tl.constexpr):
    """The transpose of upsampled: gradients of images' colours, summed for each sample."""
    rows, count = (height + down - 1) // down, (width + 1) // 2
    red = tl.zeros(columns.shape, tl.float32)
    green, blue = red, red
    # Not unrolled: all of it at once would not fit in registers.
    for step in range(16 if down == 2 else 4):
        column = 2 * columns - 1 + step % 4
        place, rise = y, tl.where(y < rows, 1.0, 0.0)
        if down == 2:
            place = 2 * y - 1 + step // 4
            rise = _weight(place, y, rows, count <= 2)
        weight = rise[:, None] * _weight(column, columns, count, count <= 2)
        there = (exists & (place >= 0) & (place < height))[:, None] & (column >= 0) & (column < width) & (weight > 0)
        r, g, b = _colours(grad, _at(image, place, column, strides), there, strides[1], 1 / 255, False)
        red, green, blue = red + weight * r, green + weight * g, blue + weight * b
    return red, green, blue


@triton.jit
def spread(samples, place, half: tl.constexpr, down: tl.constexpr, even: tl.constexpr):
    """The transpose of _averaged: of gradients of samples, where those of columns that are repeated lie in one more column."""
    image, y, x, exists, height, width = place
    columns = _columns(x, half)
    mask = _inside(y, columns, exists, height, width, even)
    rows, count = (height + down - 1) // down, (width + 1) // 2
    row = y // down
    last = columns == width - 1
    share = 0.5 / down
    if down == 2:  # of an odd height the last row is averaged with itself; so is, of an odd width, the last column
        share = tl.where((y == height - 1) & (height % 2 == 1), 2 * share, share)[:, None]
    pair = tl.where(last & (width % 2 == 1), 2.0, 1.0)
    repeated = mask & last & (count % 8 != 0)
    at, plane = _sample_at(image, row, columns // 2, rows, count + 1)
    more, _ = _sample_at(image, row, columns * 0 + count, rows, count + 1)
    return (
        share * _spread_plane(samples, at, more, pair, mask, repeated),
        share * _spread_plane(samples + plane, at, more, pair, mask, repeated),
    )


@triton.jit
def _spread_plane(samples, at, more, pair, mask, repeated):
    return tl.load(samples + at, mask=mask, other=0.0) * pair + tl.load(samples + more, mask=repeated, other=0.0) * 2
