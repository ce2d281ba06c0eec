"""``jpegdl.jpeg``: the JPEG codec as a function, with a quality or tables for each image."""

import itertools
from contextlib import nullcontext
from numbers import Real
from typing import Any, Literal, get_args, overload

import torch
from torch import Tensor

from jpegdl import functional as F
from jpegdl.errors import UsageError
from jpegdl.kernels import to_pixels, unobserved
from jpegdl.layer.base import compute_dtype, warn_unless_images
from jpegdl.layer.config import ROUNDINGS, Rounding
from jpegdl.layer.jpeg_paths import exact_path, floating, straight
from jpegdl.layer.quantizing import check_hardness
from jpegdl.tables import check_qualities, check_values, standard_tables

Tables = tuple[Tensor, Tensor]
Gradient = Literal["ste", "ste-matched", "hard", "soft"]
Pixels = Literal["rounded", "float"]

#: The roundings whose values are those of a file.
EXACT: tuple[Rounding, ...] = ("ste", "ste-matched", "hard")
_RATE_HARDNESS = 8.0  # of the levels whose bits are expected: counts are close to those of rounded ones
LARGEST_STEP = 255.0  # of a baseline file's tables, which have 8 bits


@overload
def jpeg(
    images: Tensor,
    quality: float | Tensor | None = None,
    *,
    tables: tuple[Any, Any] | None = None,
    subsampling: str = "4:2:0",
    rounding: Rounding = "ste",
    gradient: Gradient | None = None,
    pixels: Pixels = "rounded",
    hardness: float = 5.0,
    generator: torch.Generator | None = None,
    return_bits: Literal[False] = False,
) -> Tensor: ...
@overload
def jpeg(
    images: Tensor,
    quality: float | Tensor | None = None,
    *,
    tables: tuple[Any, Any] | None = None,
    subsampling: str = "4:2:0",
    rounding: Rounding = "ste",
    gradient: Gradient | None = None,
    pixels: Pixels = "rounded",
    hardness: float = 5.0,
    generator: torch.Generator | None = None,
    return_bits: Literal[True, "standard", "optimal"],
) -> tuple[Tensor, Tensor]: ...
def jpeg(
    images: Tensor,
    quality: float | Tensor | None = None,
    *,
    tables: tuple[Any, Any] | None = None,
    subsampling: str = "4:2:0",
    rounding: Rounding = "ste",
    gradient: Gradient | None = None,
    pixels: Pixels = "rounded",
    hardness: float = 5.0,
    generator: torch.Generator | None = None,
    return_bits: bool | str = False,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Take images through JPEG compression, differentiably.

    With the roundings ``"ste"``, ``"ste-matched"`` and ``"hard"`` the pixels **are those of the file**, bit for bit, as
    libjpeg-turbo (Pillow, OpenCV, torchvision) writes and decodes it, on any device. These roundings differ in their
    gradients, which are those of :class:`jpegdl.JpegLayer`:

    - ``"ste"``: straight through all roundings. The gradient to images is that of colour, chroma subsampling and DCT, there and
      back. The gradient to a step q is the sum of g_z (k - z / q) over the coefficients that q quantizes: z is the encoder's
      coefficient, k its level in the file, and g_z the gradient that reaches it.
    - ``"ste-matched"``: the same, but a step's gradient is scaled by how the rounding errors of its coefficients grow with it.
    - ``"hard"``: the true gradient almost everywhere: 0 to images, the sum of g_z k to a step.

    The others compute in floating point:

    - ``"soft"``: each level is the mean of P(k | z) = softmax_k(-hardness (z / q - k)^2), with its true gradient.
    - ``"sample"``: levels are drawn from P(k | z), with the gradient of ``"soft"``.
    - ``"noise"``: uniform noise, one step wide, replaces rounding.
    - ``"none"``: no quantization, only colour and chroma subsampling.

    Pixels are rounded and clipped before, as an encoder needs them, and after, as a decoder does. Gradients go straight through
    that too, also beyond [0, 1].

    Args:
        images: (N, 3, H, W) or (3, H, W) RGB, (N, 1, H, W) or (1, H, W) grey, any H, W >= 1; floating point in [0, 1], or uint8
            in 0..255. An image that contains NaN comes out as NaN; the others do not.
        quality: 1 (coarsest) to 100, on libjpeg's scale: a number, or a tensor of shape () or (N,), one for each image. The
            gradient reaches a tensor through :func:`jpegdl.tables.standard_tables`. The exact roundings take the nearest
            integer, as files do; the others take the number as it is.
        tables: steps instead of a quality: (luma, chroma), each (8, 8), or (N, 8, 8) with one for each image. Rows are vertical
            frequencies. Steps are greater than 0. The exact roundings take the nearest whole number from 1 to 255, as files do,
            straight through. For grey images only luma counts.
        subsampling: chroma subsampling: 4:4:4, 4:2:2 or 4:2:0. Grey images have none.
        rounding: one of the seven above.
        gradient: which gradient the exact roundings have: ``"ste"``, ``"ste-matched"``, ``"hard"``, or ``"soft"``, that of
            ``rounding="soft"`` on the same images. None: the rounding's own.
        pixels: ``"float"`` keeps pixels unrounded and unclipped on both sides, for the roundings in floating point.
        hardness: hardness of P(k | z), greater than 0 and at most 1e6. Larger is harder.
        generator: source of randomness on the images' device, for ``"sample"`` and ``"noise"``. Default: PyTorch's own.
        return_bits: also return the size of each file's scan, its coded coefficients. ``"standard"`` or True counts standard
            Huffman codes, the default of encoders; ``"optimal"`` counts codes that are fitted to each file.

    Returns:
        The same shape and dtype. uint8 images come out as uint8, as in torchvision's transforms, without gradients. For
        gradients to quality or tables, give floating point.
        With ``return_bits`` also the bits, (N,), or () for a single image. They count the scan of the file with the nearest
        whole steps, whatever the rounding, without the header. Their gradient is that of the expected bits of levels drawn
        around the coefficients: see :func:`jpegdl.functional.expected_symbols`. They are NaN for an image with NaN.

    Raises:
        TypeError: ``images`` is not a tensor, or has another dtype.
        UsageError: another shape; a quality outside of 1 to 100; a table with a step that is not greater than 0; both or
            neither of quality and tables; an unknown choice. Compiled code raises RuntimeError for such a quality or step, when
            it runs. Under ``torch.vmap`` within compiled code nothing looks, and the quality or step is clamped.

    Source: ITU-T T.81; libjpeg-turbo. The gradients: Bengio et al. 2013; "JPEG Inspired Deep Learning" (ICLR 2025).

    Example:
        >>> import torch
        >>> from jpegdl import jpeg
        >>> images = torch.rand(4, 3, 100, 150)
        >>> jpeg(images, 75).shape
        torch.Size([4, 3, 100, 150])
        >>> quality = torch.tensor([10.0, 30.0, 50.0, 90.0], requires_grad=True)
        >>> (jpeg(images, quality) - images).square().mean().backward()
        >>> bool((quality.grad < 0).all())  # a higher quality is nearer to the image
        True
    """
    batch = _checked(images)
    _look(batch)
    check_choices(subsampling, rounding, gradient, pixels, hardness)
    check_generator(generator)
    exact = rounding in EXACT
    with F.full_precision(batch):
        luma, chroma = _steps(batch, quality, tables, exact)
        if batch.dtype == torch.uint8:
            _check_whole_images(luma, chroma, pixels)
        if exact:
            output = exact_path(batch, luma, chroma, subsampling, gradient or rounding, hardness)
        else:
            output = _inexact(batch, luma, chroma, subsampling, rounding, pixels, hardness, generator)
    if not batch.is_contiguous() and batch.stride(1) == 1:  # channels last, as they came
        output = output.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    output = output if images.ndim == 4 else output[0]
    if not return_bits:
        return output
    with F.full_precision(batch):
        bits = _bits(batch, luma, chroma, subsampling, "standard" if return_bits is True else str(return_bits))
    return output, bits if images.ndim == 4 else bits[0]


#: Tables of single qualities; to make them takes longer than a small image.
_KNOWN: dict[tuple[float, bool, torch.dtype, torch.device], Tables] = {}


# ----------------------------------------------------------------------------------------------------------- checks


def _checked(images: Tensor) -> Tensor:
    """(N, C, H, W), whatever the images came as."""
    F.check_pixels(images)
    batch = images[None] if images.ndim == 3 else images
    if batch.ndim != 4 or batch.shape[1] not in (1, 3) or batch.shape[2] < 1 or batch.shape[3] < 1:
        raise UsageError(
            "images must be of shape (N, 3, H, W) or (3, H, W), with 1 in place of 3 for grey ones, H and W at least 1, "
            f"got {tuple(images.shape)}"
        )
    return batch


_calls = itertools.count(1)


def _look(images: Tensor) -> None:
    """Warn of floating-point values that are not those of images in [0, 1], as the layer does of its first batch.

    Calls are many and short, and a GPU would have to be waited for: looked at are some pixels of the first image, at the first
    call of a process, the second, the fourth, and so on.
    """
    if torch.compiler.is_compiling() or not images.is_floating_point():
        return
    call = next(_calls)
    if call & (call - 1) == 0:
        down, across = (max(1, side // 16) for side in images.shape[-2:])
        warn_unless_images(images[:1, :, ::down, ::across])


def check_choices(subsampling: str, rounding: str, gradient: str | None, pixels: str, hardness: float) -> None:
    """Refuse what :func:`jpeg` does not offer.

    Raises:
        UsageError: says what it does.
    """
    F.chroma_factors(subsampling)
    if rounding not in ROUNDINGS:
        raise UsageError(f"rounding must be one of {', '.join(ROUNDINGS)}, got {rounding!r}")
    if gradient is not None and gradient not in get_args(Gradient):
        raise UsageError(f"gradient must be one of {', '.join(get_args(Gradient))}, or None, got {gradient!r}")
    if pixels not in get_args(Pixels):
        raise UsageError(f"pixels must be rounded or float, got {pixels!r}")
    exact = rounding in EXACT
    if gradient is not None and not exact:
        raise UsageError(f"gradient is for the roundings {', '.join(EXACT)}; {rounding} has its own")
    if pixels == "float" and exact:
        raise UsageError(f"rounding {rounding!r} gives a file's pixels, which are whole: pixels='float' is for the others")
    check_hardness(hardness)


def check_generator(generator: Any) -> None:
    """Refuse what is no source of randomness.

    Raises:
        UsageError: neither a generator nor None.
    """
    if generator is not None and not isinstance(generator, torch.Generator):
        raise UsageError(f"generator must be a torch.Generator, got {generator!r}: torch.Generator().manual_seed(0), say")


def _check_whole_images(luma: Tensor, chroma: Tensor, pixels: str) -> None:
    if pixels == "float":
        raise UsageError("pixels='float' needs images in floating point: images.float() / 255")
    if torch.is_grad_enabled() and (luma.requires_grad or chroma.requires_grad):
        raise UsageError(
            "images of torch.uint8 come out as such, and no gradient could reach quality or tables: give images.float() / 255"
        )


def _steps(images: Tensor, quality: float | Tensor | None, tables: Any, exact: bool) -> Tables:
    """Steps of luma and chroma in the precision to compute in, each (8, 8) or (N, 8, 8); whole where they are to be."""
    if (quality is None) == (tables is None):
        raise UsageError("give either quality or tables" + ("" if quality is None else ", not both"))
    dtype = compute_dtype(images)
    if quality is not None:
        luma, chroma = _standard(quality, images, exact)
    else:
        try:
            luma, chroma = tables
        except (TypeError, ValueError) as error:
            raise UsageError(f"tables must be a pair (luma, chroma), got {type(tables).__name__}") from error
        luma, chroma = (_table(table, name, exact) for table, name in ((luma, "luma"), (chroma, "chroma")))
    for name, table in (("luma", luma), ("chroma", chroma)):
        if table.device != images.device and images.device.type != "meta":
            raise UsageError(f"{name} is on {table.device} and the images are on {images.device}: move one of them")
        if table.ndim == 3 and len(table) not in (1, len(images)):
            what = "tables" if quality is None else "qualities"
            raise UsageError(f"{what} must be one for all images or one for each, got {len(table)} for {len(images)} images")
    return (luma, chroma) if luma.dtype == chroma.dtype == dtype else (luma.to(dtype), chroma.to(dtype))


def _standard(quality: float | Tensor, images: Tensor, exact: bool) -> Tables:
    if isinstance(quality, Tensor):
        if quality.device != images.device and quality.ndim == 0 and not quality.requires_grad:
            quality = quality.to(images.device)  # as PyTorch treats single numbers
        luma, chroma = standard_tables(check_qualities(quality), rounded=exact)
        return luma, chroma
    if isinstance(quality, bool) or not isinstance(quality, Real) or not 1 <= quality <= 100:
        raise UsageError(f"quality must be a number from 1 to 100, or a tensor of such, got {quality!r}")
    key = float(quality), exact, compute_dtype(images), images.device
    # In a mode of PyTorch's, such as that of stand-ins for tensors, all are to be made anew.
    if key in _KNOWN and (torch.compiler.is_compiling() or not torch._C._len_torch_dispatch_stack()):
        return _KNOWN[key]
    # Born in inference mode, they could never be saved for a later backward. Dynamo cannot ask for it.
    inference = not torch.compiler.is_compiling() and torch.is_inference_mode_enabled()
    with torch.inference_mode(False) if inference else nullcontext():
        luma, chroma = standard_tables(torch.tensor(key[0], dtype=key[2], device="cpu"), rounded=exact)
        luma, chroma = luma.to(images.device), chroma.to(images.device)
    if type(luma) is Tensor and not torch.compiler.is_compiling() and unobserved(luma) and len(_KNOWN) < 1000:
        _KNOWN[key] = luma, chroma
    return luma, chroma


def _table(table: Any, name: str, exact: bool) -> Tensor:
    try:
        steps = table if isinstance(table, Tensor) else torch.as_tensor(table)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"{name} must be an (8, 8) table of numbers, got {table!r}") from error
    if steps.is_complex() or steps.dtype == torch.bool or steps.ndim not in (2, 3) or steps.shape[-2:] != (F.BLOCK, F.BLOCK):
        raise UsageError(f"{name} must hold numbers, of shape (8, 8) or (N, 8, 8), got {steps.dtype}, {tuple(steps.shape)}")
    if steps.dtype != torch.float64:
        steps = steps.float()
    largest = LARGEST_STEP if exact else 1e12
    bound = f"at most {largest:g}, as in a baseline file" if exact else "finite"
    message = f"{name} must be greater than 0 and {bound}, everywhere"
    check_values(steps, lambda steps: (steps > 0) & (steps <= largest), message)
    return straight(steps, steps.detach().round().clamp(min=1)) if exact else steps


# ------------------------------------------------------------------------------------------------------- ways through


def _inexact(
    images: Tensor,
    luma: Tensor,
    chroma: Tensor,
    subsampling: str,
    rounding: str,
    pixels: str,
    hardness: float,
    generator: torch.Generator | None,
) -> Tensor:
    whole = pixels == "rounded"
    x = floating(F.unit_images(images), luma, chroma, subsampling, rounding, hardness, generator, whole=whole)
    if images.dtype == torch.uint8:
        return (x * 255).round().clamp(0, 255).to(torch.uint8)
    if not whole:  # a block with NaN is NaN, and so shall be its image
        x = x.masked_fill(images.detach().isnan().flatten(1).any(1)[:, None, None, None], torch.nan)
    return x.to(images.dtype)


def _bits(images: Tensor, luma: Tensor, chroma: Tensor, subsampling: str, codes: str) -> Tensor:
    luma, chroma = (straight(table, table.detach().round().clamp(1, LARGEST_STEP)) for table in (luma, chroma))
    pixels = images if images.dtype == torch.uint8 else to_pixels(images.detach())
    levels = F.encode_levels(pixels, luma, chroma, subsampling)
    if not F.derived(images, luma, chroma):
        bits = F.scan_bits(levels, subsampling, codes).to(compute_dtype(images))
    else:
        planes = F.images_to_planes(F.straight_pixels(F.unit_images(images)), subsampling)
        bits = F.estimated_scan_bits(levels, planes, luma, chroma, subsampling, codes, _RATE_HARDNESS)
    return bits if images.dtype == torch.uint8 else bits.masked_fill(images.detach().isnan().flatten(1).any(1), torch.nan)
