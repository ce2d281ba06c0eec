"""A JPEG file's own pixels, bit for bit: what libjpeg-turbo writes and reads again, in integers.

libjpeg and libjpeg-turbo compute in integers throughout, and so do most programs that use them (Pillow, OpenCV, torchvision):
their results depend on no compiler and no processor. Here the same steps are taken in PyTorch's int32, for batches, on any
device: colour in fixed point, chroma averaged over pixels, the "islow" DCT of Loeffler, Ligtenberg and Moschytz, levels, and
back by way of "fancy" upsampling. The functions read as the formulas do and are not fast;
:func:`jpegdl.kernels.exact_images` is.

Planes of Y, Cb and Cr are int32 tensors with the level shift still to come, 0..255. There is no gradient.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from jpegdl.errors import UsageError
from jpegdl.functional.checks import check_shape
from jpegdl.functional.transforms import BLOCK, crop_edges, repeat_edges

#: Pixels that share one chroma sample, down and across.
SAMPLING = {"4:4:4": (1, 1), "4:2:2": (1, 2), "4:2:0": (2, 2)}

#: Bits of the DCT's constants, and bits that are kept between its two passes.
CONSTANT_BITS, PASS_BITS = 13, 2
#: Cosines and their sums, times 2^13: jfdctint.c's FIX_0_298631336 and so on.
F0298, F0390, F0541, F0765, F0899, F1175 = 2446, 3196, 4433, 6270, 7373, 9633
F1501, F1847, F1961, F2053, F2562, F3072 = 12299, 15137, 16069, 16819, 20995, 25172


def chroma_factors(subsampling: str) -> tuple[int, int]:
    """Return how many pixels share one chroma sample, (down, across).

    Raises:
        UsageError: ``subsampling`` is not 4:4:4, 4:2:2 or 4:2:0.
    """
    if not isinstance(subsampling, str) or subsampling not in SAMPLING:
        raise UsageError(f"subsampling must be one of {', '.join(SAMPLING)}, got {subsampling!r}")
    return SAMPLING[subsampling]


def exact_round_trip(pixels: Tensor, luma: Tensor, chroma: Tensor, subsampling: str = "4:2:0") -> Tensor:
    """Return the pixels of the JPEG file that libjpeg-turbo makes of each image.

    Args:
        pixels: (N, 3, H, W) RGB or (N, 1, H, W) grey, uint8, any H, W >= 1.
        luma, chroma: steps, whole numbers from 1 to 255, of any dtype: (8, 8), or (N, 8, 8) with one for each image.
        subsampling: of chroma, 4:4:4, 4:2:2 or 4:2:0; of no account for grey images.

    Returns:
        The same shape, uint8.

    Raises:
        UsageError: another shape or subsampling.

    Source: libjpeg-turbo 3.1, with its defaults (slow integer DCT, fancy upsampling).
    """
    levels = encode_levels(pixels, luma, chroma, subsampling)
    return decode_levels(levels, luma, chroma, (pixels.shape[-2], pixels.shape[-1]), subsampling)


def encode_levels(pixels: Tensor, luma: Tensor, chroma: Tensor, subsampling: str = "4:2:0") -> tuple[Tensor, ...]:
    """Return the levels that a JPEG encoder stores.

    Args:
        pixels, luma, chroma, subsampling: as in :func:`exact_round_trip`.

    Returns:
        Levels of Y, Cb and Cr, of Y alone for grey images: each (N, rows, columns, 8, 8), int32, the blocks that cover the
        plane: ceil(H/8) x ceil(W/8) of Y, and as many of Cb and Cr as ceil(H/down) x ceil(W/across) samples fill.

    Raises:
        UsageError: as :func:`exact_round_trip`.

    Source: libjpeg-turbo's jccolor.c, jcsample.c, jcprepct.c, jfdctint.c, jcdctmgr.c.
    """
    coefficients = encode_coefficients(pixels, subsampling)
    return tuple(coefficient_levels(z, chroma if i else luma) for i, z in enumerate(coefficients))


def encode_coefficients(pixels: Tensor, subsampling: str = "4:2:0") -> tuple[Tensor, ...]:
    """Return the DCT coefficients that a JPEG encoder computes before it quantizes.

    Args:
        pixels, subsampling: as in :func:`exact_round_trip`.

    Returns:
        Of Y, Cb and Cr, of Y alone for grey images, shaped as the levels of :func:`encode_levels`, int32: 8 times the
        orthonormal DCT's.

    Raises:
        UsageError: as :func:`exact_round_trip`.
    """
    _check_pixels(pixels)
    down, across = chroma_factors(subsampling)
    if pixels.shape[1] == 1:
        return (_transformed(pixels[:, 0].int()),)
    y, *chroma = _ycbcr(pixels.int().unbind(1))
    if (down, across) != (1, 1):
        chroma = [_averaged(plane, down, across) for plane in chroma]
    return tuple(_transformed(plane) for plane in (y, *chroma))


def coefficient_levels(z: Tensor, table: Tensor) -> Tensor:
    """Return the levels of coefficients: z / (8 q) rounded, halves away from 0.

    Args:
        z: (N, rows, columns, 8, 8), int32, 8 times the coefficients, as from :func:`encode_coefficients`.
        table: (8, 8) or (N, 8, 8), as in :func:`exact_round_trip`.

    Returns:
        The shape of ``z``, int32.
    """
    step = _at_blocks(table) << 3
    # The quotient of whole numbers below 2^22, rounded down, by way of float32: with the half that is added it lies further
    # from whole numbers than float32 errs. (Where torch.compile fills up vectors with zeros, integers would divide by zero.)
    quotient = ((z.abs() + (step >> 1)).float() + 0.5) / step.float()
    return z.sign() * quotient.floor().int()


def decode_levels(
    levels: tuple[Tensor, ...], luma: Tensor, chroma: Tensor, size: tuple[int, int], subsampling: str = "4:2:0"
) -> Tensor:
    """Invert :func:`encode_levels` as a JPEG decoder does.

    Args:
        levels: of Y, Cb and Cr, or of Y alone, as from :func:`encode_levels`.
        luma, chroma, subsampling: as in :func:`exact_round_trip`.
        size: (H, W) of the images.

    Returns:
        (N, 3, H, W) RGB, or (N, 1, H, W) grey, uint8.

    Raises:
        TypeError: levels of a floating-point dtype.
        UsageError: another subsampling, or levels of images of another size or subsampling.

    Source: libjpeg-turbo's jidctint.c, jdsample.c, jdcolor.c.
    """
    down, across = chroma_factors(subsampling)
    check_levels(levels)
    # Samples beyond the edge of the image are left out of the upsampling filter.
    sampled = -(-size[0] // down), -(-size[1] // across)
    for index, part in enumerate(levels):
        height, width = sampled if index else size
        kind = f"planes of {subsampling} chroma" if index else "images"
        shape = ("N", -(-height // BLOCK), -(-width // BLOCK), BLOCK, BLOCK)
        check_shape(part, shape, f"levels of {height}x{width} {kind}")
    y = crop_edges(_decoded(levels[0], luma), size)
    if len(levels) == 1:
        return y[:, None].to(torch.uint8)
    planes = [crop_edges(_decoded(part, chroma), sampled) for part in levels[1:]]
    if (down, across) != (1, 1):
        planes = [crop_edges(_upsampled(plane, down), size) for plane in planes]
    return torch.stack(_rgb(y, *planes), 1).to(torch.uint8)


def check_levels(levels: tuple[Tensor, ...]) -> None:
    """Refuse anything but the levels of one plane or three, of the same images.

    Raises:
        TypeError: they are of a floating-point dtype.
        UsageError: there are other planes, or the numbers of images differ, which would broadcast.
    """
    if len(levels) not in (1, 3):
        raise UsageError(f"levels must be those of Y, or of Y, Cb and Cr, got {len(levels)} tensors")
    for part in levels:
        if part.is_floating_point():
            raise TypeError(f"levels must be whole numbers of an integer dtype, got {part.dtype}: levels.round().int()")
        if part.shape[0] != levels[0].shape[0]:
            raise UsageError(
                f"levels of Y, Cb and Cr must be of the same images, got {levels[0].shape[0]} and {part.shape[0]} of them"
            )


def _check_pixels(pixels: Tensor) -> None:
    if pixels.dtype != torch.uint8:
        raise TypeError(f"pixels must be torch.uint8, got {pixels.dtype}")
    if pixels.ndim != 4 or pixels.shape[1] not in (1, 3) or pixels.shape[2] < 1 or pixels.shape[3] < 1:
        raise UsageError(f"pixels must be of shape (N, 3, H, W) or (N, 1, H, W), H and W at least 1, got {tuple(pixels.shape)}")


# ----------------------------------------------------------------------------------------------------------- colour


def _ycbcr(rgb: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """In fixed point of 16 bits; the halves of Cb and Cr round down, which keeps 255.5 out."""
    red, green, blue = rgb
    half, middle = 1 << 15, (128 << 16) + (1 << 15) - 1
    return (
        (19595 * red + 38470 * green + 7471 * blue + half) >> 16,
        (-11059 * red - 21709 * green + 32768 * blue + middle) >> 16,
        (32768 * red - 27439 * green - 5329 * blue + middle) >> 16,
    )


def _rgb(y: Tensor, cb: Tensor, cr: Tensor) -> list[Tensor]:
    cb, cr, half = cb - 128, cr - 128, 1 << 15
    red = y + ((91881 * cr + half) >> 16)
    green = y + ((-22554 * cb - 46802 * cr + half) >> 16)
    blue = y + ((116130 * cb + half) >> 16)
    return [plane.clamp(0, 255) for plane in (red, green, blue)]


# ---------------------------------------------------------------------------------------------------------- chroma


def _averaged(plane: Tensor, down: int, across: int) -> Tensor:
    """(N, H, W) to (N, ceil(H/down), w) with w whole blocks. Halves round down and up in turn along a row.

    The last column is repeated before the averaging, to whole blocks, the last row only to a whole pair.
    """
    full = repeat_edges(plane[:, None], down, across * BLOCK)[:, 0]
    total = sum(full[:, i::down, j::across] for i in range(down) for j in range(across))
    assert isinstance(total, Tensor)
    odd = torch.arange(total.shape[-1], device=plane.device, dtype=torch.int32) % 2
    return (total + odd + (down - 1)) >> down  # 4 samples: 1 and 2 in turn, shifted by 2; 2 samples: 0 and 1, by 1


def _upsampled(plane: Tensor, down: int) -> Tensor:
    """(N, h, w) to (N, down h, 2 w) by the triangle filter: 3/4 of the nearer sample and 1/4 of the further along each axis,
    edges repeated. A plane of at most two columns is doubled instead."""
    if plane.shape[-1] <= 2:
        return plane.repeat_interleave(2, -1).repeat_interleave(down, -2)
    if down == 1:
        return _across(plane, 1, 2, 2)
    above, below = torch.cat((plane[:, :1], plane[:, :-1]), 1), torch.cat((plane[:, 1:], plane[:, -1:]), 1)
    rows = [_across(3 * plane + other, 8, 7, 4) for other in (above, below)]
    return torch.stack(rows, 2).flatten(1, 2)


def _across(plane: Tensor, left_half: int, right_half: int, shift: int) -> Tensor:
    """Twice as many columns; what is added before the shift tells how the left and the right of each pair round."""
    before = torch.cat((plane[..., :1], plane[..., :-1]), -1)
    after = torch.cat((plane[..., 1:], plane[..., -1:]), -1)
    left, right = (3 * plane + before + left_half) >> shift, (3 * plane + after + right_half) >> shift
    return torch.stack((left, right), -1).flatten(-2)


# ------------------------------------------------------------------------------------------------------- DCT, levels


def _transformed(plane: Tensor) -> Tensor:
    """(N, H, W) to 8 times its coefficients, (N, rows, columns, 8, 8)."""
    plane = repeat_edges(plane[:, None])[:, 0] - 128
    n, height, width = plane.shape
    blocks = plane.reshape(n, height // BLOCK, BLOCK, width // BLOCK, BLOCK).transpose(2, 3)
    z = torch.stack(forward_pass(blocks.unbind(-1), first=True), -1)
    return torch.stack(forward_pass(z.unbind(-2), first=False), -2)


def _decoded(levels: Tensor, table: Tensor) -> Tensor:
    """Levels (N, rows, columns, 8, 8) to (N, H, W), 0..255, whole blocks."""
    z = levels * _at_blocks(table)
    blocks = torch.stack(inverse_pass(z.unbind(-2), first=True), -2)
    blocks = torch.stack(inverse_pass(blocks.unbind(-1), first=False), -1)
    n, rows, columns = blocks.shape[:3]
    return (blocks + 128).clamp(0, 255).transpose(2, 3).reshape(n, rows * BLOCK, columns * BLOCK)


def _at_blocks(table: Tensor) -> Tensor:
    """(8, 8) or (N, 8, 8) as int32 that broadcast to (N, rows, columns, 8, 8)."""
    return table.detach().int()[..., None, None, :, :]


def _odd_part(x0: Any, x1: Any, x2: Any, x3: Any) -> tuple[Any, Any, Any, Any]:
    """What both directions do to four of the eight numbers; figure 8 of Loeffler et al. with fewer multiplications."""
    z1, z2, z3, z4 = x0 + x3, x1 + x2, x0 + x2, x1 + x3
    z5 = (z3 + z4) * F1175
    z1, z2, z3, z4 = z1 * -F0899, z2 * -F2562, z3 * -F1961 + z5, z4 * -F0390 + z5
    return x0 * F0298 + z1 + z3, x1 * F2053 + z2 + z4, x2 * F3072 + z2 + z3, x3 * F1501 + z1 + z4


def _shifted(x: Any, bits: int) -> Any:
    """x / 2^bits, halves up."""
    return (x + (1 << (bits - 1))) >> bits


def forward_pass(x: Sequence[Any], *, first: bool) -> list[Any]:
    """Compute the 8-point DCT, times sqrt(8), and times 4 between the two passes, of which the first is along rows.

    Args:
        x: eight of anything that has +, -, *, << and >> of integers with 32 bits: tensors, or a processor's vectors.
        first: whether it is the first of the two passes.
    """
    x0, x1, x2, x3, x4, x5, x6, x7 = x
    s0, s1, s2, s3 = x0 + x7, x1 + x6, x2 + x5, x3 + x4
    e0, e3, e1, e2 = s0 + s3, s0 - s3, s1 + s2, s1 - s2
    bits = CONSTANT_BITS - PASS_BITS if first else CONSTANT_BITS + PASS_BITS
    turned = (e2 + e3) * F0541
    y0, y4 = e0 + e1, e0 - e1
    y0, y4 = (y << PASS_BITS if first else _shifted(y, PASS_BITS) for y in (y0, y4))
    y7, y5, y3, y1 = (_shifted(y, bits) for y in _odd_part(x3 - x4, x2 - x5, x1 - x6, x0 - x7))
    y2, y6 = _shifted(turned + e3 * F0765, bits), _shifted(turned - e2 * F1847, bits)
    return [y0, y1, y2, y3, y4, y5, y6, y7]


def inverse_pass(z: Sequence[Any], *, first: bool) -> list[Any]:
    """Compute the inverse of both passes of :func:`forward_pass`: the first along columns, the last gives pixels less 128.

    Args:
        z, first: as there.
    """
    z0, z1, z2, z3, z4, z5, z6, z7 = z
    bits = CONSTANT_BITS - PASS_BITS if first else CONSTANT_BITS + PASS_BITS + 3
    turned = (z2 + z6) * F0541
    low, high = turned - z6 * F1847, turned + z2 * F0765
    e0, e1 = (z0 + z4) << CONSTANT_BITS, (z0 - z4) << CONSTANT_BITS
    even, odd = (e0 + high, e1 + low, e1 - low, e0 - high), _odd_part(z7, z5, z3, z1)[::-1]
    upper = [_shifted(e + o, bits) for e, o in zip(even, odd, strict=True)]
    lower = [_shifted(e - o, bits) for e, o in zip(even, odd, strict=True)]
    return upper + lower[::-1]
