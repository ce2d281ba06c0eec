"""What every layer does around its own part: checks, precision, memory format, its record in a state dict, and DCT there and
back."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from jpegdl import functional as F
from jpegdl.errors import UsageError
from jpegdl.kernels import unobserved
from jpegdl.layer.bounds import keep_in_range
from jpegdl.layer.extra_state import check_settings, decode, encode
from jpegdl.tables import check_table

if TYPE_CHECKING:
    from jpegdl.layer.config import LayerConfig

Table = float | Sequence[Sequence[float]] | Tensor
Method = TypeVar("Method", bound=Callable[..., Any])


def in_kernel(subsampling: str | None = None) -> Callable[[Method], Method]:
    """Mark a method whose work the fused kernel does in its own way, for one chroma subsampling, or whatever that is: whoever
    overrides it with one that is not marked is not served by the kernel."""

    def mark(method: Method) -> Method:
        method.in_kernel = subsampling  # type: ignore[attr-defined]
        return method

    return mark


class Layer(nn.Module):
    """A layer that gives back what it takes: the same shape, dtype and memory format.

    It works in three steps, which can also be called alone: :meth:`to_coefficients`, :meth:`alter` and :meth:`to_images`. A
    subclass overrides those that it does in another way. One that does not work on coefficients overrides :meth:`round_trip`.
    :meth:`check` refuses what the layer cannot take.

    Parameters stay float32 or float64 whatever a model is cast to: ``model.half()`` would turn small steps into 0, and after
    ``model.bfloat16()`` they would be too coarse to train. Images may be of half precision.

    Besides parameters and buffers, the state dict has the entry ``_extra_state``: the layer's :attr:`settings`, as bytes in a
    uint8 tensor. Loading refuses the state of a layer with other settings. A state without that entry loads too.
    """

    #: What the numbers in its tables are, one of :data:`jpegdl.tables.KINDS`; None where it has no tables.
    table_kind: str | None = None
    #: How many blocks of coefficients there are at one place; None for any number.
    planes: int | None = None
    _looked = True  # whether there is nothing to look at any more in what it is given

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        keep_in_range(self)

    def __setstate__(self, state: dict[str, Any]) -> None:  # copies and pickles come this way
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        keep_in_range(self)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the layer, without its tables, ready for JSON: its class, and what a subclass adds."""
        return {"layer": type(self).__name__}

    def forward(self, images: Tensor) -> Tensor:
        """Take a batch through the layer.

        Args:
            images: (N, C, H, W), any H, W >= 1; see :meth:`check` for the rest.

        Returns:
            The same shape, dtype (float32 for uint8) and memory format; not clipped.

        Raises:
            TypeError: not a tensor, or of a dtype that the layer does not take.
            UsageError: of another shape.
        """
        if isinstance(images, torch.fx.Proxy):  # stay whole in graphs of torch.fx, as torch.nn's own modules do
            tracer = images.tracer
            path = tracer.path_of_module(self)  # type: ignore[attr-defined, unused-ignore]
            if not path:
                raise UsageError("torch.fx keeps a layer whole: trace a model that contains it, such as nn.Sequential(layer)")
            whole: Tensor = tracer.create_proxy("call_module", path, (images,), {})
            return whole
        self.check(images)
        if not (torch.compiler.is_compiling() or self._looked):  # in this order: programs serve before and after
            self._look(images)
        with F.full_precision(images):
            output = self.round_trip(images)
        if not images.is_contiguous() and images.stride(1) == 1:
            # Channels last, by way of dimensions: inside vmap there are no memory formats.
            output = output.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
        return output if output.dtype == images.dtype or images.dtype == torch.uint8 else output.to(images.dtype)

    def round_trip(self, images: Tensor) -> Tensor:
        """Take a checked batch through the layer, outside autocast: the three steps, one after the other.

        Returns:
            The same shape; float32, or float64 for float64 images.
        """
        return self.to_images(self.alter(self.to_coefficients(images)), (images.shape[-2], images.shape[-1]))

    def to_coefficients(self, images: Tensor) -> Tensor:
        """Take images to DCT coefficients, before anything is done to them.

        Args:
            images: as :meth:`forward` takes them; edges are repeated up to the next multiple of 8.

        Returns:
            (N, planes, ceil(H/8), ceil(W/8), 8, 8); of images Y, Cb, Cr for pixels in 0..255. float32, or float64 for float64
            images, under any autocast.

        Raises:
            TypeError: images of another dtype.
            UsageError: images of another shape.
        """
        raise NotImplementedError

    def alter(self, z: Tensor) -> Tensor:
        """Do to coefficients what the layer is for.

        Args:
            z: (N, planes, h, w, 8, 8), as from :meth:`to_coefficients`.

        Returns:
            The same shape, in the same units; float32, or float64 for float64 coefficients.

        Raises:
            UsageError: not of that shape, or on another device than the layer's tables.
        """
        raise NotImplementedError

    def to_images(self, z: Tensor, size: tuple[int, int]) -> Tensor:
        """Take coefficients, altered or not, back to images.

        Args:
            z: (N, planes, ceil(H/8), ceil(W/8), 8, 8).
            size: (H, W) of the images.

        Returns:
            (N, C, H, W); of images RGB, nominally in [0, 1]. float32, or float64 for float64 coefficients, under any autocast.

        Raises:
            UsageError: the coefficients are not those of images of that size.
        """
        raise NotImplementedError

    def check(self, images: Tensor) -> None:
        """Refuse what :meth:`forward` cannot take. Called once for each batch.

        Raises:
            TypeError: not a tensor, or of a dtype that the layer does not take.
            UsageError: of another shape.
        """
        raise NotImplementedError

    def checked(self, z: Tensor) -> Tensor:
        """Return coefficients in the precision to compute in, for :meth:`alter` to begin with.

        Raises:
            UsageError: not (N, planes, h, w, 8, 8), or on another device than the layer's tables.
        """
        F.check_shape(z, ("N", self.planes or "C", "h", "w", F.BLOCK, F.BLOCK), "coefficients")
        for table in self.parameters():
            if table.device != z.device:
                raise UsageError(
                    f"the input is on {z.device} and the layer's tables on {table.device}: move one of them, "
                    f"say with layer.to({str(z.device)!r})"
                )
        return z.to(compute_dtype(z))

    def _look(self, images: Tensor) -> None:
        """Look at the values of a first batch, and warn where they are none that the layer is for."""

    def project_(self) -> None:
        """Bring parameters back into their range, in place. A subclass whose parameters have a range overrides it.

        It is called for you: after each step of a PyTorch optimizer that trains the layer, and by ``train``, ``eval`` and
        ``state_dict``.
        """

    def train(self, mode: bool = True) -> Self:
        self.project_()
        return super().train(mode)

    def _save_to_state_dict(self, *args: Any) -> None:
        self.project_()
        super()._save_to_state_dict(*args)

    def get_extra_state(self) -> Tensor:
        """Return the layer's :attr:`settings` for the state dict, a uint8 tensor on the CPU: every format can store one."""
        return encode(self.settings)

    def set_extra_state(self, state: Tensor) -> None:
        """Refuse a state dict from a layer with other settings; where only ``rounding`` differs, warn.

        Raises:
            UsageError: says what differs.
        """
        if (saved := decode(state)) is not None:
            check_settings(saved, decode(encode(self.settings)) or {})

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, metadata: Any, strict: bool, missing: list[str], *lists: list[str]
    ) -> None:
        key = f"{prefix}_extra_state"
        if key in state_dict:  # before any table is overwritten
            self.set_extra_state(state_dict[key])
            state_dict = {name: value for name, value in state_dict.items() if name != key}
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing, *lists)
        if key in missing:
            missing.remove(key)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Layer":
        def apply(tensor: Tensor) -> Tensor:
            result = fn(tensor)
            narrowed = tensor.is_floating_point() and result.dtype.itemsize < 4
            return tensor.to(result.device) if narrowed else result

        super()._apply(apply, recurse)  # type: ignore[no-untyped-call]
        return self


class ImageLayer(Layer):
    """A layer for RGB images, (N, 3, H, W): floating point in [0, 1], or uint8 in 0..255.

    Values outside of that range are used as they are. In eager mode a layer warns if the values of its first batch are not
    those of images. It does not check later batches: it would have to wait for the GPU.
    """

    _looked = False

    @classmethod
    def from_config(cls, config: "LayerConfig", tables: tuple[Tensor, Tensor], size: int) -> Self:
        """Build the layer that settings describe, where it is registered as a kind (:mod:`jpegdl.layer.registry`).

        Args:
            config: the settings.
            tables: initial steps of luma and chroma, each (8, 8).
            size: side of the square images that it will see, in pixels.

        Raises:
            UsageError: a setting that no such layer can have.
        """
        return cls()

    def _look(self, images: Tensor) -> None:
        if warn_unless_images(images):
            for layer in self.modules():  # the layers within this one see what it makes of the images
                if isinstance(layer, ImageLayer):
                    layer._looked = True

    def check(self, images: Tensor) -> None:
        F.check_images(images)


class ImageDctLayer(ImageLayer):
    """A layer that works on the DCT coefficients of Y, Cb and Cr. A subclass need only override :meth:`alter`."""

    planes: int = 3
    #: Of chroma: 4:4:4 for none.
    subsampling = "4:4:4"

    @property
    def settings(self) -> dict[str, Any]:
        return {**super().settings, "subsampling": self.subsampling}

    @in_kernel("4:4:4")
    def to_coefficients(self, images: Tensor) -> Tensor:
        return F.images_to_coefficients(F.unit_images(images))

    @in_kernel("4:4:4")
    def to_images(self, z: Tensor, size: tuple[int, int]) -> Tensor:
        return F.coefficients_to_images(z.to(compute_dtype(z)), size)


def initial_tables(values: Mapping[str, Any], leading: tuple[int, ...] = ()) -> dict[str, Tensor]:
    """Make the tables of a layer from what it was given, each (*leading, 8, 8), in one precision and on one device.

    They are float64 where one of them is given in it, as a tensor or array, and else float32; on the device of the first that
    is given as a tensor, or else on PyTorch's default one.
    """
    given = [value for value in values.values() if isinstance(value, Tensor | np.ndarray)]
    double = {str(value.dtype) for value in given} & {"torch.float64", "float64"}
    device = next((value.device for value in given if isinstance(value, Tensor)), None)
    dtype = torch.float64 if double else torch.float32
    return {name: initial_table(value, name, leading, dtype, device) for name, value in values.items()}


def initial_table(value: Any, name: str, leading: tuple[int, ...], dtype: torch.dtype, device: torch.device | None) -> Tensor:
    """Make a table (*leading, 8, 8) from a number, or one or many tables; see :func:`jpegdl.tables.check_table`."""
    if isinstance(value, Real) and not isinstance(value, bool):
        value = np.full((F.BLOCK, F.BLOCK), float(value))
    elif isinstance(value, Tensor) and value.ndim == 0:
        value = value.detach().expand(F.BLOCK, F.BLOCK)
    return check_table(value, name, leading, dtype, device)


def warn_unless_images(images: Any) -> bool:
    """Warn of floating-point values that are not those of images in [0, 1], and return whether they could be looked at."""
    if not isinstance(images, Tensor) or not images.is_floating_point() or not images.numel() or not unobserved(images):
        return False
    if images.is_cuda and torch.cuda.is_current_stream_capturing():
        return False
    if advice := _advice(images.detach()):
        warnings.warn(f"{advice} (said once, of the first batch)", stacklevel=5)
    return True


def _advice(images: Tensor) -> str | None:
    """What to do about values that are not those of images in [0, 1]; None where they are. Waits for the device once.

    Resizing overshoots, and noise leaves [0, 1] in places: only where that is more than a tenth of the values is it something
    else.
    """
    outside = (images < -0.1) | (images > 1.1)
    low, high, share = torch.stack([*(value.float() for value in images.aminmax()), outside.float().mean()]).tolist()
    if not (math.isfinite(low) and math.isfinite(high)):
        return "images hold NaN or infinity, and so will all that is computed from them: look for it in what makes the images"
    if share <= 0.1:
        return None
    if low < -0.1:
        return (
            f"images should be in [0, 1], and lie between {low:.3g} and {high:.3g}, as if they were normalised already: take "
            "Normalize out of their transform; prepend(backbone, layer) normalises after the layer"
        )
    return (
        f"images should be in [0, 1], and lie between {low:.3g} and {high:.3g}: divide them by 255 if they are in 0..255, or "
        "give them as torch.uint8"
    )


def compute_dtype(x: Tensor) -> torch.dtype:
    """Return the precision that layers compute in: float64 for float64, else float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32
