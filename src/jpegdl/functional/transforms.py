"""From images to DCT coefficients and back: colour, edges, blocks, DCT, chroma subsampling."""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate
from torch.utils._python_dispatch import _disable_current_modes

from jpegdl.errors import UsageError
from jpegdl.functional.checks import check_floating, check_pixels, check_shape, derived

BLOCK = 8
#: Row-major positions in zigzag order: along the anti-diagonals, upwards on the even ones (ITU-T T.81, figure A.6).
ZIGZAG = sorted(
    range(BLOCK * BLOCK), key=lambda i: (sum(divmod(i, BLOCK)), i // BLOCK if sum(divmod(i, BLOCK)) % 2 else i % BLOCK)
)
KR, KG, KB = 0.299, 0.587, 0.114  # luma weights of ITU-R BT.601, as JFIF uses them


# ---------------------------------------------------------------------------------------------------------- colour


def rgb_to_ycbcr(x: Tensor) -> Tensor:
    """Convert RGB to YCbCr by JFIF's full-range matrix, without an offset.

    Args:
        x: (N, 3, H, W) RGB, level-shifted (pixel value - 128).

    Returns:
        (N, 3, H, W) Y, Cb, Cr in the units of ``x``; grey has Cb = Cr = 0.

    Raises:
        UsageError: ``x`` is of another shape.

    Source: JFIF 1.02; ITU-R BT.601, Kr = 0.299, Kb = 0.114.
    """
    check_shape(x, ("N", 3, "H", "W"), "colours")
    red, green, blue = x.unbind(1)
    luma = KR * red + KG * green + KB * blue
    return torch.stack((luma, (blue - luma) * (0.5 / (1 - KB)), (red - luma) * (0.5 / (1 - KR))), dim=1)


def ycbcr_to_rgb(x: Tensor) -> Tensor:
    """Invert :func:`rgb_to_ycbcr`.

    Args:
        x: (N, 3, H, W) Y, Cb, Cr without offsets.

    Returns:
        (N, 3, H, W) level-shifted RGB.

    Raises:
        UsageError: ``x`` is of another shape.

    Source: JFIF 1.02.
    """
    check_shape(x, ("N", 3, "H", "W"), "colours")
    luma, cb, cr = x.unbind(1)
    red = luma + cr * (2 * (1 - KR))
    blue = luma + cb * (2 * (1 - KB))
    green = luma - cb * (2 * (1 - KB) * KB / KG) - cr * (2 * (1 - KR) * KR / KG)
    return torch.stack((red, green, blue), dim=1)


# ------------------------------------------------------------------------------------------------------ blocks, DCT


# D of Z = D X D^T, row by row: the orthonormal 8-point DCT-II.
DCT = [
    [math.sqrt((1 if k == 0 else 2) / BLOCK) * math.cos((2 * n + 1) * k * math.pi / (2 * BLOCK)) for n in range(BLOCK)]
    for k in range(BLOCK)
]

_DCT_2D = np.kron(DCT, DCT)  # takes a block, row by row, to its coefficients: the Kronecker square of the 8-point DCT
_DCT_MATRICES: dict[tuple[torch.dtype, torch.device], Tensor] = {}  # a plain dict, because torch.compile sees through lru_cache


def _dct_matrix(dtype: torch.dtype, device: torch.device) -> Tensor:
    """The 64x64 matrix of the orthonormal 8x8 DCT-II, made once for each dtype and device."""
    tracing = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    if (dtype, device) in _DCT_MATRICES and not tracing:
        return _DCT_MATRICES[dtype, device]
    # The tensor may outlive this call: born in inference mode, it could never be saved for a later backward.
    ordinary = torch.inference_mode(False) if torch.is_inference_mode_enabled() else nullcontext()
    with _unseen_by_exporters(), ordinary:
        matrix = torch.from_numpy(_DCT_2D.astype(str(dtype).removeprefix("torch."))).to(device)
    # What belongs to a tracer or a torch.func transform must not outlive it: torch.jit.trace runs twice and compares.
    if type(matrix) is Tensor and not tracing and not torch._C._are_functorch_transforms_active():
        _DCT_MATRICES[dtype, device] = matrix
    return matrix


@contextmanager
def _unseen_by_exporters() -> Iterator[None]:
    """A program that torch.export makes shall have the matrix as a constant, whether or not it was there before."""
    if not torch.compiler.is_compiling():
        yield
        return
    with _disable_current_modes(), torch._C.DisableTorchFunction():
        yield


# What torch.compiler.assume_constant_result does; that also imports the compiler, which takes seconds.
_dct_matrix._dynamo_marked_constant = True  # type: ignore[attr-defined]


_NOTHING = nullcontext()


def full_precision(x: Tensor) -> AbstractContextManager[None]:
    """Return a context without autocast on the device of ``x``. The meta device, on which only shapes are computed, has none.

    If autocast is off, the context does nothing: an exported program would otherwise hold it as a part of its own.
    """
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if kind != "meta" and torch.is_autocast_enabled(kind) else _NOTHING


def block_dct(x: Tensor) -> Tensor:
    """Cut into 8x8 blocks and take the orthonormal DCT-II of each, Z = D X D^T; in the precision of ``x`` under any autocast.

    Args:
        x: (N, C, H, W) floating point, H and W multiples of 8.

    Returns:
        (N, C, H/8, W/8, 8, 8) coefficients in the units of ``x``; the DC of a flat block of value v is 8 v.

    Raises:
        TypeError: ``x`` holds integers.
        UsageError: H or W is not a multiple of 8.

    Source: ITU-T T.81, A.3.3 (its scaling makes the transform orthonormal).
    """
    check_floating(x, "what block_dct takes")
    check_shape(x, ("N", "C", "H", "W"), "what block_dct takes")
    n, c, height, width = x.shape
    if height % BLOCK or width % BLOCK:
        raise UsageError(f"block_dct needs a height and width that are multiples of 8, got {height}x{width}")
    rows, columns = height // BLOCK, width // BLOCK
    blocks = x.reshape(n, c, rows, BLOCK, columns, BLOCK).transpose(3, 4)
    flat = blocks.reshape(n, c, rows, columns, BLOCK * BLOCK)
    with full_precision(x):
        z: Tensor = flat @ _dct_matrix(x.dtype, x.device).T
    return z.reshape(n, c, rows, columns, BLOCK, BLOCK)


def block_idct(z: Tensor) -> Tensor:
    """Invert :func:`block_dct`: X = D^T Z D in each block, blocks put together again.

    Args:
        z: (N, C, H/8, W/8, 8, 8) coefficients, floating point.

    Returns:
        (N, C, H, W).

    Raises:
        TypeError: ``z`` holds integers.
        UsageError: ``z`` is of another shape.

    Source: ITU-T T.81, A.3.3.
    """
    check_floating(z, "coefficients")
    check_shape(z, ("N", "C", "h", "w", BLOCK, BLOCK), "coefficients")
    n, c, rows, columns = z.shape[:4]
    with full_precision(z):
        flat: Tensor = z.reshape(n, c, rows, columns, BLOCK * BLOCK) @ _dct_matrix(z.dtype, z.device)
    blocks = flat.reshape(n, c, rows, columns, BLOCK, BLOCK)
    return blocks.transpose(3, 4).reshape(n, c, rows * BLOCK, columns * BLOCK)


def repeat_edges(x: Tensor, height: int = BLOCK, width: int = BLOCK) -> Tensor:
    """Repeat the last row and column until H is a multiple of ``height`` and W one of ``width``, as libjpeg does.

    Args:
        x: (N, C, H, W), any H, W >= 1.
        height, width: in pixels.

    Returns:
        (N, C, ceil(H / height) * height, ceil(W / width) * width).
    """
    # cat and expand, because their backward is deterministic on every device, unlike that of replicate padding.
    if missing := -x.shape[-2] % height:
        x = torch.cat((x, x[:, :, -1:].expand(-1, -1, missing, -1)), dim=2)
    if missing := -x.shape[-1] % width:
        x = torch.cat((x, x[..., -1:].expand(-1, -1, -1, missing)), dim=3)
    return x


def crop_edges(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Undo :func:`repeat_edges`.

    Args:
        x: (N, C, H, W) or larger.
        size: (H, W) to keep.

    Returns:
        (N, C, H, W), a view: the upper left part; ``x`` itself where there is nothing to crop.
    """
    # No slice is taken where none is needed: of a size that torch.export leaves open it could not tell what is left.
    height, width = size
    if x.shape[-2] != height:
        x = x[..., :height, :]
    if x.shape[-1] != width:
        x = x[..., :width]
    return x


def unit_images(images: Tensor) -> Tensor:
    """Bring images to [0, 1], in the precision to compute in.

    Args:
        images: of any shape; floating point in [0, 1], or uint8 in 0..255.

    Returns:
        The same shape; float64 for float64, else float32.

    Raises:
        TypeError: of another dtype.
    """
    check_pixels(images)
    if images.dtype == torch.uint8:
        return images.float() / 255
    return images if images.dtype == torch.float64 else images.float()


def straight_pixels(images: Tensor) -> Tensor:
    """Round to 256 levels and clip, with gradients straight through; infinity is clipped too, and NaN stays.

    Args:
        images: floating point in [0, 1], any shape.

    Returns:
        The same shape and dtype.
    """
    values = (images.detach() * 255).round().clamp(0, 255) / 255
    return values + (images - images.detach()).nan_to_num(0) if derived(images) else values


def images_to_coefficients(images: Tensor) -> Tensor:
    """Take images to the DCT coefficients of Y, Cb and Cr, as a 4:4:4 JPEG encoder does before it quantizes.

    Args:
        images: (N, 3, H, W) floating point RGB in [0, 1], any H, W >= 1. Where H or W is not a multiple of 8, the last row
            or column is repeated, as libjpeg does.

    Returns:
        (N, 3, ceil(H/8), ceil(W/8), 8, 8) coefficients for pixels in 0..255.

    Raises:
        TypeError: ``images`` hold integers.
        UsageError: ``images`` are of another shape.
    """
    check_floating(images, "images")
    return block_dct(rgb_to_ycbcr(repeat_edges(images * 255 - 128)))


def coefficients_to_images(coefficients: Tensor, size: tuple[int, int]) -> Tensor:
    """Take DCT coefficients of Y, Cb and Cr back to images; neither rounded nor clipped.

    Args:
        coefficients: (N, 3, ceil(H/8), ceil(W/8), 8, 8) for pixels in 0..255.
        size: (H, W) of the images; the padding is cropped.

    Returns:
        (N, 3, H, W) RGB, nominally in [0, 1].

    Raises:
        UsageError: the coefficients are not those of 3 channels of that size.
    """
    check_coefficients(coefficients, 3, size)
    x = crop_edges(ycbcr_to_rgb(block_idct(coefficients)), size)
    return (x + 128) / 255


def remove_dc(z: Tensor) -> Tensor:
    """Set the DC coefficient of every block to 0.

    Args:
        z: (..., 8, 8) coefficients.

    Returns:
        The same shape.
    """
    flat = z.flatten(-2)
    return torch.cat((torch.zeros_like(flat[..., :1]), flat[..., 1:]), dim=-1).reshape(z.shape)


# ----------------------------------------------------------------------------------------------- chroma subsampling

MCU = 2 * BLOCK  # the side of a 4:2:0 minimum coded unit: four blocks of Y, one of Cb, one of Cr


def images_to_mcus(images: Tensor) -> Tensor:
    """Take images to the DCT coefficients of a 4:2:0 JPEG, in its order: minimum coded units of 16x16 pixels.

    Cb and Cr are averaged over 2x2 pixels. Edges are repeated up to whole units as libjpeg repeats them: Y, and the last
    column of Cb and Cr, at full resolution, the last row of Cb and Cr after the averaging.

    Args:
        images: (N, 3, H, W) floating point RGB in [0, 1], any H, W >= 1.

    Returns:
        (N, 6, ceil(H/16), ceil(W/16), 8, 8) coefficients for pixels in 0..255: the four blocks of Y in a unit, upper left,
        upper right, lower left, lower right, then Cb and Cr.

    Raises:
        TypeError: ``images`` hold integers.
        UsageError: ``images`` are of another shape.

    Source: ITU-T T.81, A.2.3 (the order); libjpeg's jcsample.c and jcprepct.c (averaging and edges).
    """
    check_floating(images, "images")
    ycbcr = rgb_to_ycbcr(images * 255 - 128)
    luma = block_dct(repeat_edges(ycbcr[:, :1], MCU, MCU))
    n, _, rows, columns = luma.shape[:4]
    luma = luma.reshape(n, rows // 2, 2, columns // 2, 2, BLOCK, BLOCK).permute(0, 2, 4, 1, 3, 5, 6)
    chroma = block_dct(repeat_edges(avg_pool2d(repeat_edges(ycbcr[:, 1:], 2, MCU), 2)))
    return torch.cat((luma.reshape(n, 4, *chroma.shape[2:]), chroma), dim=1)


def mcus_to_images(coefficients: Tensor, size: tuple[int, int]) -> Tensor:
    """Take the coefficients of :func:`images_to_mcus` back to images; neither rounded nor clipped.

    Cb and Cr are upsampled by the triangle filter that libjpeg calls fancy: weights 3/4 and 1/4 along each axis, edges
    repeated. (libjpeg itself does not use the triangle where an image is at most 4 pixels wide.)

    Args:
        coefficients: (N, 6, ceil(H/16), ceil(W/16), 8, 8) for pixels in 0..255.
        size: (H, W) of the images; the padding is cropped.

    Returns:
        (N, 3, H, W) RGB, nominally in [0, 1].

    Raises:
        UsageError: the coefficients are not those of images of that size.

    Source: libjpeg's jdsample.c, h2v2_fancy_upsample.
    """
    check_coefficients(coefficients, 6, size, MCU)
    height, width = size
    n, _, rows, columns = coefficients.shape[:4]
    luma = coefficients[:, :4].reshape(n, 2, 2, rows, columns, BLOCK, BLOCK).permute(0, 3, 1, 4, 2, 5, 6)
    luma = crop_edges(block_idct(luma.reshape(n, 1, 2 * rows, 2 * columns, BLOCK, BLOCK)), size)
    # Samples beyond the edge of the image are left out of the filter.
    chroma = crop_edges(block_idct(coefficients[:, 4:]), (-(-height // 2), -(-width // 2)))
    chroma = crop_edges(interpolate(chroma, scale_factor=2, mode="bilinear"), size)
    return (ycbcr_to_rgb(torch.cat((luma, chroma), dim=1)) + 128) / 255


def check_coefficients(z: Tensor, planes: int | str, size: tuple[int, int], unit: int = BLOCK, of: str = "images") -> None:
    """Refuse coefficients that are not those of images of a size.

    Args:
        z: coefficients.
        planes: how many blocks stand at one place; a letter for any number.
        size: (H, W) of the images.
        unit: side of the square that the blocks at one place cover, in pixels.
        of: what to call the images.

    Raises:
        UsageError: says what was given and what is accepted.
    """
    height, width = size
    shape = ("N", planes, -(-height // unit), -(-width // unit), BLOCK, BLOCK)
    check_shape(z, shape, f"coefficients of {height}x{width} {of}")
