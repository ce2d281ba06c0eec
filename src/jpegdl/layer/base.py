"""What every layer does around its own part: input checks, precision, memory format, the way to coefficients and back."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from jpegdl import functional as F
from jpegdl.errors import UsageError
from jpegdl.tables import check_table

Table = float | Sequence[Sequence[float]] | Tensor


class ImageLayer(nn.Module):
    """From images to images; a subclass says what happens to them in :meth:`round_trip`."""

    def forward(self, images: Tensor) -> Tensor:
        """Take images through the layer.

        Args:
            images: (N, 3, H, W) RGB, floating point in [0, 1] or uint8 in 0..255, any H, W >= 1.

        Returns:
            The same shape, dtype (float32 for uint8) and memory format; in [0, 1], not clipped.

        Raises:
            TypeError: not a tensor, or of another dtype.
            UsageError: not of shape (N, 3, H, W).
        """
        self.check(images)
        with full_precision(images):
            output = self.round_trip(images)
        if not images.is_contiguous() and images.stride(1) == 1:  # vmap cannot be asked for the memory format
            output = output.contiguous(memory_format=torch.channels_last)
        return output if images.dtype == torch.uint8 else output.to(images.dtype)

    def round_trip(self, images: Tensor) -> Tensor:
        """What :meth:`forward` does to checked images, outside autocast: to float32, or float64 for float64 images."""
        raise NotImplementedError

    def check(self, images: Tensor) -> None:
        """Refuse what :meth:`forward` cannot take."""
        check_images(images)

    def project_(self) -> None:
        """Bring parameters back into their range, in place; call it after each optimizer step."""


class CoefficientLayer(ImageLayer):
    """A layer at work on DCT coefficients; a subclass says in ``_alter`` what happens to them."""

    #: Blocks of coefficients at one place, Y, Cb and Cr; None for any number.
    planes: int | None = 3
    _analyze = staticmethod(F.images_to_coefficients)
    _synthesize = staticmethod(F.coefficients_to_images)

    def round_trip(self, images: Tensor) -> Tensor:
        coefficients = self.process(self.coefficients(images))
        return self.reconstruct(coefficients, (images.shape[-2], images.shape[-1]))

    def coefficients(self, images: Tensor) -> Tensor:
        """DCT coefficients, before anything is done to them.

        Args:
            images: (N, 3, H, W) RGB as :meth:`forward` takes it; edges are repeated up to the next multiple of 8.

        Returns:
            (N, 3, ceil(H/8), ceil(W/8), 8, 8), Y, Cb, Cr for pixels in 0..255; float32, or float64 for float64 images.

        Raises:
            TypeError: not a tensor, or of another dtype.
            UsageError: not of shape (N, 3, H, W).
        """
        self.check(images)
        with full_precision(images):
            return self._analyze(F.unit_images(images))

    def process(self, coefficients: Tensor) -> Tensor:
        """Do to coefficients what the layer is for.

        Args:
            coefficients: (N, 3, h, w, 8, 8), as from :meth:`coefficients`.

        Returns:
            The same shape, in the same units.

        Raises:
            UsageError: not of that shape.
        """
        block = (F.BLOCK, F.BLOCK)
        if coefficients.ndim != 6 or self.planes not in (None, coefficients.shape[1]) or coefficients.shape[-2:] != block:
            planes = "C" if self.planes is None else self.planes
            raise UsageError(f"coefficients must be of shape (N, {planes}, h, w, 8, 8), got {tuple(coefficients.shape)}")
        with full_precision(coefficients):
            return self._alter(coefficients.to(compute_dtype(coefficients)))

    def _alter(self, z: Tensor) -> Tensor:
        raise NotImplementedError

    def reconstruct(self, coefficients: Tensor, size: tuple[int, int]) -> Tensor:
        """Take (processed) coefficients back to images.

        Args:
            coefficients: (N, 3, ceil(H/8), ceil(W/8), 8, 8).
            size: (H, W) of the images.

        Returns:
            (N, 3, H, W) RGB, nominally in [0, 1]; float32, or float64 for float64 coefficients.

        Raises:
            UsageError: the coefficients are not those of images of that size.
        """
        with full_precision(coefficients):
            return self._synthesize(coefficients.to(compute_dtype(coefficients)), size)


def initial_table(value: Any, name: str, leading: tuple[int, ...] = ()) -> Tensor:
    """A number, or one or many tables, as (*leading, 8, 8); see :func:`jpegdl.tables.check_table`."""
    if isinstance(value, Real) and not isinstance(value, bool):
        value = torch.full((F.BLOCK, F.BLOCK), float(value))
    elif isinstance(value, Tensor) and value.ndim == 0:
        value = value.detach().expand(F.BLOCK, F.BLOCK)
    return check_table(value, name, leading)


def full_precision(x: Tensor) -> AbstractContextManager[None]:
    """No autocast on x's device; the meta device, on which shapes alone are computed, knows none."""
    return nullcontext() if x.device.type == "meta" else torch.autocast(x.device.type, enabled=False)


def compute_dtype(x: Tensor) -> torch.dtype:
    """The precision that layers compute in."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def check_images(images: Tensor) -> None:
    """Refuse what is no batch of RGB images."""
    if not isinstance(images, Tensor):
        raise TypeError(f"images must be a torch.Tensor, got {type(images).__name__}")
    if not images.is_floating_point() and images.dtype != torch.uint8:
        raise TypeError(f"images must be floating point in [0, 1], or torch.uint8 in 0..255, got {images.dtype}")
    if images.ndim != 4 or images.shape[1] != 3:
        raise UsageError(f"images must be of shape (N, 3, H, W), got {tuple(images.shape)}")
    if images.shape[2] < 1 or images.shape[3] < 1:
        raise UsageError(f"images must be at least one pixel high and wide, got {tuple(images.shape)}")
