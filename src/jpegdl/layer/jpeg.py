"""The trainable JPEG layer."""

from typing import Any, Self

import torch
from torch import Tensor, nn

from jpegdl import functional as F
from jpegdl.errors import UsageError
from jpegdl.kernels import Trip, exporting, round_trip, round_trip_of_tables
from jpegdl.layer.base import ImageDctLayer, Table, initial_tables
from jpegdl.layer.config import DEFAULT_ALPHA, LayerConfig, Rounding
from jpegdl.layer.quantizing import QuantizingLayer, quantizer_options
from jpegdl.layer.registry import register_layer
from jpegdl.tables import standard_tables


@register_layer("jpeg", "the JPEG layer: trainable steps, a differentiable quantizer", storable=True)
class JpegLayer(QuantizingLayer, ImageDctLayer):
    r"""A JPEG round trip that trains: colour, DCT, quantization with trainable steps, and back.

    It takes images in [0, 1], or uint8 in 0..255, and returns images in [0, 1], neither rounded nor clipped. Its two
    quantization tables train, 128 numbers: ``layer.luma`` and ``layer.chroma``, parameters of shape (8, 8). Rows are the
    vertical frequency. Steps are in JPEG table units: those of the orthonormal DCT of pixels in 0..255. With levels k in -L..L,
    L = 2^(bits-1) - 1, the ``rounding`` is one of

    - ``"soft"``: Q_d(z) = sum_k q k P(k | z), P(k | z) = softmax_k(-alpha (z - q k)^2); differentiable, what trains.
    - ``"hard"``: Q_u(z) = q clamp(round(z / q), -L, L); what a JPEG encoder does.
    - ``"sample"``: Q_p(z), q k with k drawn from P(k | z), in training and evaluation; the gradient is that of Q_d.
    - ``"ste"``: hard values, gradients straight through the rounding.
    - ``"ste-matched"``: the same, and the gradients of steps are scaled to how the batch's rounding errors grow with them.
    - ``"noise"``: uniform noise one step wide in training, hard in evaluation.
    - ``"none"``: clamp(z, -L q, L q); the level cap alone, without quantization.

    ``layer.rounding`` may be set at any time. The layer computes in float32 under any autocast, and in float64 for float64
    images. Tables stay float32 or float64 when a model is cast to half precision. Images of half precision come out in half
    precision.

    The layer is three steps: ``layer.to_images(layer.alter(layer.to_coefficients(images)), size)``. A subclass changes those
    that it overrides, in every rounding: :meth:`alter`, what happens to coefficients; :meth:`to_coefficients` and
    :meth:`to_images`, how images become these and back; :attr:`steps` and :attr:`alpha`, which tables are in effect. A
    subclass that overrides one of the three steps, or :meth:`at_blocks`, runs as plain PyTorch instead of the fused kernel.

    Args:
        luma, chroma: initial steps of Y and of Cb and Cr, a number or (8, 8); finite and > 0. Kept in float32, or in float64
            where given as float64 tensors or arrays.
        alpha: sharpness of P(k | z), in 1 / step^2; larger is harder. A number or (8, 8), or a (luma, chroma) pair of such.
        hardness: instead of alpha: take alpha = hardness / q^2 at every forward, without a gradient through this q. It has no
            unit.
        bits: the level cap L = 2^(bits-1) - 1, 2 to 16; None for no cap.
        window: odd number of levels that P sums over; None for the whole alphabet.
        rounding: one of the seven above.
        trainable_alpha: make ``alpha_luma`` and ``alpha_chroma``, each (8, 8), parameters rather than buffers. With
            ``hardness``, train that instead, for each frequency: ``hardness_luma`` and ``hardness_chroma``, each (8, 8), start
            there, and alpha = hardness / q^2 has no gradient to q through the tie.

    To give each image of a batch its own tables, (N, 8, 8), such as a network predicts, call
    ``torch.func.functional_call(layer, {"luma": luma, "chroma": chroma}, images)``: see the example.

    Raises:
        UsageError: an argument is out of its range, or ``hardness`` is given together with an ``alpha`` other than the default.

    Source: "JPEG Inspired Deep Learning" (ICLR 2025, arXiv 2410.07081).

    Example:
        >>> import torch
        >>> from jpegdl import JpegLayer
        >>> layer = JpegLayer.from_quality(75)
        >>> layer(torch.rand(4, 3, 64, 64)).shape
        torch.Size([4, 3, 64, 64])
        >>> layer.luma[0, :4].tolist()  # the steps of the lowest vertical frequency
        [8.0, 6.0, 5.0, 8.0]

        Each image of a batch with tables of its own:

        >>> own = {name: torch.rand(4, 8, 8) * 50 + 1 for name in ("luma", "chroma")}
        >>> torch.func.functional_call(layer, own, torch.rand(4, 3, 64, 64)).shape
        torch.Size([4, 3, 64, 64])

        A layer of your own alters the coefficients:

        >>> class DeadZoneLayer(JpegLayer):
        ...     def alter(self, z):
        ...         small = z.abs() < self.at_blocks(self.steps.to(z.dtype))
        ...         return super().alter(z).masked_fill(small, 0)
        >>> DeadZoneLayer(16.0)(torch.rand(4, 3, 64, 64)).shape
        torch.Size([4, 3, 64, 64])
    """

    luma: nn.Parameter
    chroma: nn.Parameter
    alpha_luma: Tensor | None
    alpha_chroma: Tensor | None
    hardness_luma: nn.Parameter | None
    hardness_chroma: nn.Parameter | None

    def __init__(
        self,
        luma: Table = 1.0,
        chroma: Table = 1.0,
        *,
        alpha: Table | tuple[Table, Table] = DEFAULT_ALPHA,
        hardness: float | None = None,
        bits: int | None = 8,
        window: int | None = 5,
        rounding: Rounding = "soft",
        trainable_alpha: bool = False,
    ) -> None:
        super().__init__(
            initial_tables({"luma": luma, "chroma": chroma}),
            alpha=alpha,
            hardness=hardness,
            bits=bits,
            window=window,
            rounding=rounding,
            trainable_alpha=trainable_alpha,
        )

    @classmethod
    def from_quality(cls, quality: int, **options: Any) -> Self:
        """Build a layer whose steps are the standard tables at a quality factor, as libjpeg scales them.

        Args:
            quality: 1 (coarsest) to 100 (all steps 1).
            options: of the class itself. ``bits`` is None unless given: a JPEG file has no level cap.

        Raises:
            UsageError: ``quality`` is not an integer from 1 to 100, or an option is out of its range.

        Example:
            >>> layer = JpegLayer.from_quality(75)
        """
        return cls(*standard_tables(quality), **{"bits": None, **options})

    @classmethod
    def from_config(cls, config: LayerConfig, tables: tuple[Tensor, Tensor], size: int) -> Self:
        return cls(*tables, **quantizer_options(config))

    @property
    def steps(self) -> Tensor:
        """(3, 8, 8): the steps of Y, Cb and Cr; the last two are the chroma table. (N, 3, 8, 8) of tables for each image."""
        return self._in_range(_of_planes(self.luma, self.chroma))

    @property
    def alpha(self) -> Tensor:
        """(3, 8, 8): the sharpness of P(k | z) of Y, Cb and Cr, free or tied to the steps; larger is harder."""
        luma, chroma = self._alpha_of("luma"), self._alpha_of("chroma")
        return _of_planes(luma, chroma)

    def named_tables(self) -> dict[str, Tensor]:
        steps, alpha = self.steps, self.alpha
        return {"luma": steps[0], "chroma": steps[2], "alpha_luma": alpha[0], "alpha_chroma": alpha[2]}

    def round_trip(self, images: Tensor) -> Tensor:
        if self.luma.ndim == 3 or self.chroma.ndim == 3:
            self._check_tables_of_images(len(images))
        subsampling = self._kernel()
        if subsampling is None or images.device != self.luma.device:  # which is refused there
            return super().round_trip(images)
        if not torch.is_grad_enabled() and (output := self._at_once(images, subsampling)) is not None:
            return output
        rounding, steps, alpha = self.rounding_now, self.steps, None
        if rounding in F.SOFT:
            alpha = self.alpha
            alpha = alpha if alpha.shape == steps.shape else alpha.expand_as(steps)
        options: Any = {"rounding": rounding, "subsampling": subsampling, "bits": self.bits, "window": self.window}
        if subsampling != "4:4:4" and (exporting() or images.shape[-1] <= 2 * F.DOUBLED):
            return super().round_trip(images)  # of sizes that torch.export leaves open; of images whose chroma a file doubles
        return round_trip(images, steps, alpha, **options)

    def _at_once(self, images: Tensor, subsampling: str) -> Tensor | None:
        """The round trip of a call that wants no gradient, if steps and alpha are the tables that this class keeps."""
        kind, rounding = type(self), self.rounding_now
        if torch._C._get_tracing_state() is not None:  # a tracer would note every look at a shape
            return None
        if kind.steps is not JpegLayer.steps or kind.alpha is not JpegLayer.alpha or self.hardness is not None:
            return None
        if subsampling != "4:4:4" and images.shape[-1] <= 2 * F.DOUBLED:
            return None
        alphas: tuple[Tensor, ...] = ()
        if rounding in F.SOFT:
            of_luma, of_chroma = self.alpha_luma, self.alpha_chroma
            if of_luma is None or of_chroma is None or isinstance(of_luma, nn.Parameter) or isinstance(of_chroma, nn.Parameter):
                return None
            alphas = (of_luma, of_chroma)
        trip = Trip(rounding, subsampling, self.bits, self.window)
        return round_trip_of_tables(images, (self.luma, self.chroma), alphas, self.step_range, trip)

    def _check_tables_of_images(self, count: int) -> None:
        for name in self.table_names:
            shape = tuple(getattr(self, name).shape)
            if shape not in ((F.BLOCK, F.BLOCK), (count, F.BLOCK, F.BLOCK)):
                raise UsageError(f"{name} must be (8, 8), or (N, 8, 8) with one for each of {count} images, got {shape}")

    def _kernel(self) -> str | None:
        """Look whether all that the kernel stands for is what it was written for, of this instance too, and return for which
        subsampling; None where it is not."""
        kind, found = type(self), None
        for name in _IN_KERNEL:
            if name in self.__dict__:
                return None
            marked = getattr(getattr(kind, name), "in_kernel", "")
            if marked == "" or (marked and found and marked != found):
                return None
            found = marked or found
        return found


def _of_planes(luma: Tensor, chroma: Tensor) -> Tensor:
    """(3, ..., 8, 8) of Y, Cb and Cr; (N, 3, 8, 8) where one of the tables is (N, 8, 8), for each image."""
    if luma.ndim != chroma.ndim:
        luma, chroma = luma.expand_as(luma + chroma), chroma.expand_as(luma + chroma)
    return torch.stack((luma, chroma, chroma), -3 if luma.ndim == 3 else 0)


#: What the kernel stands for: the methods that are marked so where they stand.
_IN_KERNEL = [name for name in dir(JpegLayer) if hasattr(getattr(JpegLayer, name), "in_kernel")]
