"""The soft round trip, fused for speed; :mod:`jpegdl.functional` is what it is held against, and serves where it cannot.

:func:`soft_round_trip` takes the fused way for the published window of 5 levels, on the CPU (numba) and on NVIDIA GPUs
(Triton), in eager calls and under torch.compile. Under torch.export, torch.func and forward-mode differentiation, for float64,
other windows or devices, and for second derivatives, it takes the readable one.
"""

import importlib
import importlib.util
import tempfile
from functools import lru_cache, partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from jpegdl import functional as F

WINDOW = 5
#: What each kind of device needs installed.
_COMPILERS = {
    "cpu": importlib.util.find_spec("numba") is not None,
    "cuda": importlib.util.find_spec("triton") is not None and torch.version.hip is None,
}
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.uint8)


def eager_round_trip(images: Tensor, q: Tensor, alpha: Tensor, bits: int | None, window: int | None) -> Tensor:
    """The round trip from :mod:`jpegdl.functional`, in the dtype of ``images``; see :func:`soft_round_trip`."""
    z = F.images_to_coefficients(images)
    z = F.soft_quantize(z, q.to(z.dtype)[:, None, None], alpha.to(z.dtype)[:, None, None], bits=bits, window=window)
    return F.coefficients_to_images(z, (images.shape[-2], images.shape[-1]))


def soft_round_trip(images: Tensor, q: Tensor, alpha: Tensor, *, bits: int | None, window: int | None) -> Tensor:
    """Colour, DCT, soft quantizer and back, computed in float32 (float64 for float64 images).

    Args:
        images: (N, 3, H, W) RGB, floating point in [0, 1] or uint8 in 0..255.
        q: (3, 8, 8) steps of Y, Cb, Cr.
        alpha: (3, 8, 8) softness.
        bits, window: as in :func:`jpegdl.functional.soft_quantize`.

    Returns:
        (N, 3, H, W) in the dtype of ``images``, float32 for uint8; not clipped. Differentiable in the first three.
    """
    if _fusible(images, window):
        # The operator costs a quarter of a millisecond more than the function that it is made of.
        call: Any = _round_trip if torch.compiler.is_compiling() else _Fused.apply
        output: Tensor = call(images, q.float(), alpha.float(), bits)
        return output
    return eager_round_trip(F.unit_images(images), q, alpha, bits, window).to(_output_dtype(images))


def _output_dtype(images: Tensor) -> torch.dtype:
    return torch.float32 if images.dtype == torch.uint8 else images.dtype


def _fusible(images: Tensor, window: int | None) -> bool:
    if window != WINDOW or not _COMPILERS.get(images.device.type) or images.dtype not in _DTYPES or images.numel() == 0:
        return False
    if torch._C._are_functorch_transforms_active():
        return False
    if torch.compiler.is_compiling():
        return torch.compiler.is_dynamo_compiling()  # which torch.export, by default, is not
    # No stand-in of some tracer, no forward-mode differentiation.
    return type(images) in (Tensor, torch.nn.Parameter) and torch.autograd.forward_ad._current_level < 0


@lru_cache(maxsize=2)
def _kernels(device: str) -> ModuleType:
    """The kernels of a kind of device. Imported late: numba and Triton take a second."""
    if device == "cuda":
        return importlib.import_module("jpegdl.kernels.cuda")
    try:
        return importlib.import_module("jpegdl.kernels.cpu")
    except RuntimeError:  # numba found neither the package's nor the user's folder writable for its cache
        numba = importlib.import_module("numba")
        numba.config.CACHE_DIR = tempfile.mkdtemp(prefix="jpegdl-numba-")
        return importlib.import_module("jpegdl.kernels.cpu")


def _forward(images: Tensor, q: Tensor, alpha: Tensor, bits: int | None) -> Tensor:
    # Of a negated view, as complex numbers have them, the memory holds the negative: kernels need the real thing.
    output: Tensor = _kernels(images.device.type).forward(images.resolve_neg(), q, alpha, _cap(bits))
    return output


def _backward(
    images: Tensor, grad: Tensor, q: Tensor, alpha: Tensor, bits: int | None, want_images: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of the images, empty where they are not wanted, and (2, 3, 8, 8), of q and alpha."""
    kernels = _kernels(images.device.type)
    images, grad = images.resolve_neg(), grad.resolve_neg()
    grad_images, grad_tables = kernels.backward(images, grad, q, alpha, _cap(bits), want_images=want_images)
    return images.new_empty(0) if grad_images is None else grad_images, grad_tables


def _cap(bits: int | None) -> float:
    cap = F.largest_level(bits)
    return float("inf") if cap is None else float(cap)


# ------------------------------------------------------------------------------------------------------------- autograd


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """The image alone; its coefficients are computed again on the way back."""
    images, q, alpha, ctx.bits = inputs
    ctx.save_for_backward(images, q, alpha)


def _gradients(ctx: Any, grad: Tensor, backward: Any = _backward) -> Any:
    images, q, alpha = ctx.saved_tensors
    needs = ctx.needs_input_grad[:3]
    if torch.is_grad_enabled():  # create_graph: a derivative of this derivative will be asked for
        output = eager_round_trip(F.unit_images(images), q, alpha, ctx.bits, WINDOW)
        inputs = [tensor for tensor, need in zip((images, q, alpha), needs, strict=True) if need]
        found = iter(torch.autograd.grad(output, inputs, grad.to(output.dtype), create_graph=True))
        return *(next(found) if need else None for need in needs), None
    grad_images, grad_tables = backward(images, grad, q, alpha, ctx.bits, needs[0])
    return grad_images if needs[0] else None, *grad_tables, None


class _Fused(torch.autograd.Function):
    forward = staticmethod(_forward)
    setup_context = staticmethod(_save)
    backward = staticmethod(_gradients)


# The same as operators, which torch.compile takes as they are and need not look into.
_round_trip = torch.library.custom_op(
    "jpegdl::soft_round_trip",
    _forward,
    mutates_args=(),
    schema="(Tensor images, Tensor q, Tensor alpha, int? bits) -> Tensor",
)
_round_trip_backward = torch.library.custom_op(
    "jpegdl::soft_round_trip_backward",
    _backward,
    mutates_args=(),
    schema="(Tensor images, Tensor grad, Tensor q, Tensor alpha, int? bits, bool want_images) -> (Tensor, Tensor)",
)
_round_trip.register_autograd(partial(_gradients, backward=_round_trip_backward), setup_context=_save)


def _like(images: Tensor, dtype: torch.dtype) -> Tensor:
    dense = torch.contiguous_format if images.device.type == "cpu" else torch.preserve_format
    return torch.empty_like(images, dtype=dtype, memory_format=dense)


@_round_trip.register_fake
def _(images: Tensor, q: Tensor, alpha: Tensor, bits: int | None) -> Tensor:
    return _like(images, _output_dtype(images))


@_round_trip_backward.register_fake
def _(images: Tensor, grad: Tensor, q: Tensor, alpha: Tensor, bits: int | None, want_images: bool) -> tuple[Tensor, Tensor]:
    return _like(images, images.dtype) if want_images else images.new_empty(0), q.new_empty((2, *q.shape))
