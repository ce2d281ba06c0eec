"""The trainable JPEG layer."""

import torch
from torch import Tensor, nn

from jpegdl.kernels import soft_round_trip
from jpegdl.layer.base import Table, initial_table
from jpegdl.layer.quantizing import DEFAULT_ALPHA, QuantizingLayer


class JpegLayer(QuantizingLayer):
    r"""A JPEG round trip that trains: colour, DCT, quantization with trainable steps, and back.

    Images in [0, 1] (or uint8) come out as images in [0, 1], neither rounded nor clipped. Trainable are the two quantization
    tables, 128 numbers: ``layer.luma`` and ``layer.chroma``, parameters of shape (8, 8), rows the vertical frequency, in JPEG
    table units (the orthonormal DCT of pixels in 0..255). With levels k in -L..L, L = 2^(bits-1) - 1, the ``rounding`` is one
    of

    - ``"soft"``: Q_d(z) = sum_k q k P(k | z), P(k | z) = softmax_k(-alpha (z - q k)^2); differentiable, what trains.
    - ``"hard"``: Q_u(z) = q clamp(round(z / q), -L, L); what a JPEG encoder does.
    - ``"sample"``: Q_p(z), q k with k drawn from P(k | z), in training and evaluation; the gradient is that of Q_d.
    - ``"ste"``: hard values, gradients straight through the rounding.
    - ``"noise"``: uniform noise one step wide in training, hard in evaluation.
    - ``"none"``: clamp(z, -L q, L q); the level cap alone, without quantization.

    ``layer.rounding`` may be set at any time. Arithmetic is float32 under any autocast (float64 for float64 images).

    Args:
        luma, chroma: initial steps of Y and of Cb and Cr, a number or (8, 8); finite and > 0.
        alpha: softness, in 1 / step^2: a number or (8, 8), or a (luma, chroma) pair of such.
        hardness: tie alpha = hardness / q^2 instead, anew at every forward, without a gradient through the tie.
        bits: the level cap L = 2^(bits-1) - 1, 2 to 16; None for no cap.
        window: odd number of levels that P sums over; None for the whole alphabet.
        rounding: one of the six above.
        trainable_alpha: make ``alpha_luma`` and ``alpha_chroma``, each (8, 8), parameters rather than buffers. With
            ``hardness``, train kappa = alpha q^2 instead: ``kappa_luma`` and ``kappa_chroma``, each (8, 8), start there, and
            alpha = kappa / q^2 has no gradient to q through the tie.

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
    kappa_luma: nn.Parameter | None
    kappa_chroma: nn.Parameter | None

    def __init__(
        self,
        luma: Table = 1.0,
        chroma: Table = 1.0,
        *,
        alpha: Table | tuple[Table, Table] = DEFAULT_ALPHA,
        hardness: float | None = None,
        bits: int | None = 8,
        window: int | None = 5,
        rounding: str = "soft",
        trainable_alpha: bool = False,
    ) -> None:
        super().__init__(
            {"luma": initial_table(luma, "luma"), "chroma": initial_table(chroma, "chroma")},
            alpha=alpha,
            hardness=hardness,
            bits=bits,
            window=window,
            rounding=rounding,
            trainable_alpha=trainable_alpha,
        )

    @property
    def steps(self) -> Tensor:
        """(3, 8, 8): the steps of Y, Cb and Cr; the last two are the chroma table."""
        return torch.stack((self.luma, self.chroma, self.chroma))

    @property
    def alpha(self) -> Tensor:
        """(3, 8, 8): the softness of Y, Cb and Cr, free or tied to the steps."""
        luma, chroma = self._softness("luma"), self._softness("chroma")
        return torch.stack((luma, chroma, chroma))

    def round_trip(self, images: Tensor) -> Tensor:
        if self.rounding == "soft":
            return soft_round_trip(images, self.steps, self.alpha, bits=self.bits, window=self.window)
        return super().round_trip(images)
