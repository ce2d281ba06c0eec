"""The trainable JPEG layer, and how to put it in front of a model."""

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor, nn

from jpegdl import functional as F
from jpegdl.errors import UsageError
from jpegdl.kernels import soft_round_trip
from jpegdl.tables import check_table

ROUNDINGS = ("soft", "hard", "sample", "ste", "noise")
STEP_RANGE = (1e-5, 255.0)  # where the published training keeps the steps
SMALLEST_ALPHA = 1e-5
LARGEST_HARDNESS = 1e6  # exp(-hardness) is 0 in float32 long before
_DEFAULT_ALPHA = 5.0

Table = float | Sequence[Sequence[float]] | Tensor


class JpegLayer(nn.Module):
    r"""A JPEG round trip that trains: colour, DCT, quantization with trainable steps, and back.

    Images in [0, 1] come out as images, neither rounded nor clipped. Trainable are the two quantization tables, 128 numbers:
    ``layer.luma`` and ``layer.chroma``, parameters of shape (8, 8), rows the vertical frequency, in JPEG table units (the
    orthonormal DCT of pixels in 0..255). With levels k in -L..L, L = 2^(bits-1) - 1, the ``rounding`` is one of

    - ``"soft"``: Q_d(z) = sum_k q k P(k | z), P(k | z) = softmax_k(-alpha (z - q k)^2); differentiable, what trains.
    - ``"hard"``: Q_u(z) = q clamp(round(z / q), -L, L); what a JPEG encoder does.
    - ``"sample"``: Q_p(z), q k with k drawn from P(k | z), in training and evaluation; the gradient is that of Q_d.
    - ``"ste"``: hard values, gradients straight through the rounding.
    - ``"noise"``: uniform noise one step wide in training, hard in evaluation.

    ``layer.rounding`` may be set at any time. Arithmetic is float32 under any autocast (float64 for float64 images).

    Args:
        luma, chroma: initial steps of Y and of Cb and Cr, a number or (8, 8); finite and > 0.
        alpha: softness, in 1 / step^2: a number or (8, 8), or a (luma, chroma) pair of such.
        hardness: tie alpha = hardness / q^2 instead, anew at every forward, without a gradient through the tie.
        bits: the level cap L = 2^(bits-1) - 1, 2 to 16; None for no cap.
        window: odd number of levels that P sums over; None for the whole alphabet.
        rounding: one of the five above.
        trainable_alpha: make ``alpha_luma`` and ``alpha_chroma``, each (8, 8), parameters rather than buffers.

    Raises:
        UsageError: an argument is out of its range, or ``alpha`` is given together with ``hardness``.

    Source: "JPEG Inspired Deep Learning" (ICLR 2025, arXiv 2410.07081).

    Example::

        layer = JpegLayer(*standard_tables(75), alpha=1.0)
        images = torch.rand(4, 3, 224, 224)
        layer(images).shape  # (4, 3, 224, 224)
    """

    luma: nn.Parameter
    chroma: nn.Parameter
    alpha_luma: Tensor | None
    alpha_chroma: Tensor | None

    def __init__(
        self,
        luma: Table = 1.0,
        chroma: Table = 1.0,
        *,
        alpha: Table | tuple[Table, Table] = _DEFAULT_ALPHA,
        hardness: float | None = None,
        bits: int | None = 8,
        window: int | None = 5,
        rounding: str = "soft",
        trainable_alpha: bool = False,
    ) -> None:
        super().__init__()
        bits, window = (int(n) if isinstance(n, Integral) and not isinstance(n, bool) else n for n in (bits, window))
        F.check_window(bits, window)
        self.bits, self.window, self.hardness = bits, window, hardness
        self.rounding = rounding
        self.luma = nn.Parameter(_table(luma, "luma"))
        self.chroma = nn.Parameter(_table(chroma, "chroma"))
        if hardness is not None:
            # An alpha that was given is another object than the default, even where it is the same number.
            if alpha is not _DEFAULT_ALPHA:
                raise UsageError("alpha and hardness exclude each other: hardness=h sets alpha = h / q^2; give one of them")
            if trainable_alpha:
                raise UsageError("trainable_alpha needs a free alpha, but hardness ties it to the steps; give one of them")
            if isinstance(hardness, bool) or not isinstance(hardness, Real) or not 0 < hardness <= LARGEST_HARDNESS:
                raise UsageError(f"hardness must be a number greater than 0 and at most {LARGEST_HARDNESS:g}, got {hardness!r}")
            self.hardness = float(hardness)
            self.alpha_luma = self.alpha_chroma = None
            return
        pair = alpha if isinstance(alpha, tuple | list) and len(alpha) == 2 else (alpha, alpha)
        for name, value in zip(("alpha_luma", "alpha_chroma"), pair, strict=True):
            table = _table(value, name)
            if trainable_alpha:
                self.register_parameter(name, nn.Parameter(table))
            else:
                self.register_buffer(name, table)

    @property
    def rounding(self) -> str:
        """Which quantizer is in use; one of :data:`ROUNDINGS`."""
        return self._rounding

    @rounding.setter
    def rounding(self, value: str) -> None:
        if value not in ROUNDINGS:
            raise UsageError(f"rounding must be one of {', '.join(ROUNDINGS)}, got {value!r}")
        self._rounding = value

    @property
    def steps(self) -> Tensor:
        """(3, 8, 8): the steps of Y, Cb and Cr; the last two are the chroma table."""
        return torch.stack((self.luma, self.chroma, self.chroma))

    @property
    def alpha(self) -> Tensor:
        """(3, 8, 8): the softness of Y, Cb and Cr, free or tied to the steps."""
        if self.hardness is not None:
            return self.hardness / self.steps.detach().float() ** 2
        assert self.alpha_luma is not None
        assert self.alpha_chroma is not None
        return torch.stack((self.alpha_luma, self.alpha_chroma, self.alpha_chroma))

    def forward(self, images: Tensor) -> Tensor:
        """Take images through the round trip.

        Args:
            images: (N, 3, H, W) floating point RGB in [0, 1], any H, W >= 1.

        Returns:
            The same shape, dtype and memory format; not clipped.

        Raises:
            TypeError: not a floating point tensor.
            UsageError: not of shape (N, 3, H, W).
        """
        if self.rounding == "soft":
            _check_images(images)
            with torch.autocast(images.device.type, enabled=False):
                output = soft_round_trip(images, self.steps, self.alpha, bits=self.bits, window=self.window)
        else:
            coefficients = self.quantize(self.coefficients(images))
            output = self.reconstruct(coefficients, (images.shape[-2], images.shape[-1]))
        if images.is_contiguous(memory_format=torch.channels_last):
            output = output.contiguous(memory_format=torch.channels_last)
        return output.to(images.dtype)

    def coefficients(self, images: Tensor) -> Tensor:
        """DCT coefficients before quantization.

        Args:
            images: (N, 3, H, W) floating point RGB in [0, 1]; edges are repeated up to the next multiple of 8.

        Returns:
            (N, 3, ceil(H/8), ceil(W/8), 8, 8), Y, Cb, Cr for pixels in 0..255; float32, or float64 for float64 images.

        Raises:
            TypeError: not a floating point tensor.
            UsageError: not of shape (N, 3, H, W).
        """
        _check_images(images)
        with torch.autocast(images.device.type, enabled=False):
            return F.images_to_coefficients(images.to(_compute_dtype(images)))

    def quantize(self, coefficients: Tensor) -> Tensor:
        """Quantize and de-quantize with the layer's tables and ``rounding``.

        Args:
            coefficients: (N, 3, h, w, 8, 8), as from :meth:`coefficients`.

        Returns:
            The same shape, in the same units.

        Raises:
            UsageError: not of that shape.
        """
        if coefficients.ndim != 6 or coefficients.shape[1] != 3 or coefficients.shape[-2:] != (8, 8):
            raise UsageError(f"coefficients must be of shape (N, 3, h, w, 8, 8), got {tuple(coefficients.shape)}")
        with torch.autocast(coefficients.device.type, enabled=False):
            z = coefficients.to(_compute_dtype(coefficients))
            q = self.steps.to(z.dtype)[:, None, None]
            if self.rounding == "ste":
                return F.ste_quantize(z, q, bits=self.bits)
            if self.rounding == "noise" and self.training:
                return F.noise_quantize(z, q, bits=self.bits)
            if self.rounding in ("hard", "noise"):
                return F.hard_quantize(z, q, bits=self.bits)
            alpha = self.alpha.to(z.dtype)[:, None, None]
            quantizer = F.soft_quantize if self.rounding == "soft" else F.sample_quantize
            return quantizer(z, q, alpha, bits=self.bits, window=self.window)

    def reconstruct(self, coefficients: Tensor, size: tuple[int, int]) -> Tensor:
        """Take (quantized) coefficients back to images.

        Args:
            coefficients: (N, 3, ceil(H/8), ceil(W/8), 8, 8).
            size: (H, W) of the images.

        Returns:
            (N, 3, H, W) RGB, nominally in [0, 1]; float32, or float64 for float64 coefficients.
        """
        with torch.autocast(coefficients.device.type, enabled=False):
            return F.coefficients_to_images(coefficients.to(_compute_dtype(coefficients)), size)

    @torch.no_grad()
    def saturation(self, images: Tensor) -> Tensor:
        """How much of each frequency the level cap holds back.

        Args:
            images: (N, 3, H, W) floating point RGB in [0, 1].

        Returns:
            (3, 8, 8) for Y, Cb, Cr: the share, 0 to 1, of coefficients whose nearest level is the first or last of the
            alphabet or lies beyond it, |round(z / q)| >= L. All 0 where ``bits`` is None.
        """
        cap = F.largest_level(self.bits)
        z = self.coefficients(images)
        levels = (z / self.steps.to(z.dtype)[:, None, None]).round().abs()
        return (levels >= (float("inf") if cap is None else cap)).float().mean(dim=(0, 2, 3))

    @torch.no_grad()
    def project_(self) -> None:
        """Bring steps back into [1e-5, 255] and a free alpha to at least 1e-5, in place; call it after each optimizer step."""
        self.luma.clamp_(*STEP_RANGE)
        self.chroma.clamp_(*STEP_RANGE)
        for alpha in (self.alpha_luma, self.alpha_chroma):
            if alpha is not None:
                alpha.clamp_(min=SMALLEST_ALPHA)

    def extra_repr(self) -> str:
        softness = f"hardness={self.hardness}" if self.hardness is not None else "alpha free"
        return f"{self.rounding}, {softness}, bits={self.bits}, window={self.window}"


def _table(value: Any, name: str) -> Tensor:
    if isinstance(value, Real) and not isinstance(value, bool):
        value = torch.full((F.BLOCK, F.BLOCK), float(value))
    elif isinstance(value, Tensor) and value.ndim == 0:
        value = value.detach().expand(F.BLOCK, F.BLOCK)
    return check_table(value, name)


def _compute_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _check_images(images: Tensor) -> None:
    if not isinstance(images, Tensor):
        raise TypeError(f"images must be a torch.Tensor, got {type(images).__name__}")
    if not images.is_floating_point():
        raise TypeError(
            f"images must be floating point in [0, 1], got {images.dtype}; for 0..255 pixels pass images.float() / 255"
        )
    if images.ndim != 4 or images.shape[1] != 3:
        raise UsageError(f"images must be of shape (N, 3, H, W), got {tuple(images.shape)}")
    if images.shape[2] < 1 or images.shape[3] < 1:
        raise UsageError(f"images must be at least one pixel high and wide, got {tuple(images.shape)}")


class PrependedModel(nn.Module):
    """``layer``, then normalisation, then ``backbone``: images in [0, 1] in, the backbone's output out.

    ``mean`` and ``std`` are not part of the state dict: it holds ``layer.*`` and ``backbone.*``, nothing else.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, layer: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.layer = layer
        self.backbone = backbone
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Any:
        """(N, 3, H, W) RGB in [0, 1] to whatever the backbone returns."""
        x = self.layer(images)
        return self.backbone((x - self.mean.to(x.dtype)) / self.std.to(x.dtype))


def prepend(
    backbone: nn.Module,
    layer: nn.Module,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> PrependedModel:
    """Put a layer in front of a model.

    Args:
        backbone: any module that takes normalised images (N, 3, H, W). It is not copied: unwrapped, it stays usable.
        layer: a :class:`JpegLayer`, or any module from images to images (``nn.Identity()`` for a plain model).
        mean, std: the backbone's own normalisation, for images in [0, 1], one number a channel. Default: what timm
            recorded in ``backbone.pretrained_cfg``, else ImageNet's.

    Returns:
        A module with ``.layer`` and ``.backbone`` that takes images in [0, 1].

    Raises:
        UsageError: ``mean`` or ``std`` is not three finite numbers, or a ``std`` is not positive.

    Example::

        model = prepend(timm.create_model("resnet18", num_classes=102), JpegLayer())
    """
    config = getattr(backbone, "pretrained_cfg", None) or {}
    mean = mean if mean is not None else config.get("mean") or (0.485, 0.456, 0.406)
    std = std if std is not None else config.get("std") or (0.229, 0.224, 0.225)
    for name, values in (("mean", mean), ("std", std)):
        try:
            usable = len(values) == 3 and all(abs(float(value)) < float("inf") for value in values)
        except (TypeError, ValueError):
            usable = False
        if not usable or (name == "std" and min(values) <= 0):
            raise UsageError(f"{name} must be three finite numbers{', all > 0' if name == 'std' else ''}, got {values!r}")
    return PrependedModel(backbone, layer, [float(v) for v in mean], [float(v) for v in std])
