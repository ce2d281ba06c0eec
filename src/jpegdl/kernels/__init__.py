"""The soft round trip, fused for speed; :mod:`jpegdl.functional` is what it is held against, and serves where it cannot.

:func:`soft_round_trip` takes the fused way for eager calls on float16, bfloat16 and float32 images on the CPU, with the
published window of 5 levels. Under torch.compile, torch.func and forward-mode differentiation, for float64, other windows
or devices, and for second derivatives, it takes the readable one.
"""

import importlib.util
import tempfile
from functools import lru_cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from jpegdl import functional as F

WINDOW = 5


def eager_round_trip(images: Tensor, q: Tensor, alpha: Tensor, bits: int | None, window: int | None) -> Tensor:
    """The round trip from :mod:`jpegdl.functional`, in the dtype of ``images``; see :func:`soft_round_trip`."""
    z = F.images_to_coefficients(images)
    z = F.soft_quantize(z, q.to(z.dtype)[:, None, None], alpha.to(z.dtype)[:, None, None], bits=bits, window=window)
    return F.coefficients_to_images(z, (images.shape[-2], images.shape[-1]))


def soft_round_trip(images: Tensor, q: Tensor, alpha: Tensor, *, bits: int | None, window: int | None) -> Tensor:
    """Colour, DCT, soft quantizer and back.

    Args:
        images: (N, 3, H, W) floating point RGB in [0, 1].
        q: (3, 8, 8) steps of Y, Cb, Cr.
        alpha: (3, 8, 8) softness.
        bits, window: as in :func:`jpegdl.functional.soft_quantize`.

    Returns:
        (N, 3, H, W), float32, or float64 for float64 images; not clipped. Differentiable in the first three.
    """
    if not _fusible(images, bits, window):
        return eager_round_trip(images if images.dtype == torch.float64 else images.float(), q, alpha, bits, window)
    cap = F.largest_level(bits)
    output: Tensor = _Fused.apply(  # type: ignore[no-untyped-call]
        images.float().contiguous(), q.float(), alpha.float(), float("inf") if cap is None else float(cap), bits
    )
    return output


@lru_cache(maxsize=1)
def _cpu() -> ModuleType | None:
    """The CPU kernels; None where numba is not installed. Imported late: numba takes a second."""
    if importlib.util.find_spec("numba") is None:
        return None
    try:
        return importlib.import_module("jpegdl.kernels.cpu")
    except RuntimeError:  # numba found neither the package's nor the user's folder writable for its cache
        numba = importlib.import_module("numba")
        numba.config.CACHE_DIR = tempfile.mkdtemp(prefix="jpegdl-numba-")
        return importlib.import_module("jpegdl.kernels.cpu")


def _fusible(images: Tensor, bits: int | None, window: int | None) -> bool:
    return (
        window == WINDOW
        and not torch.compiler.is_compiling()
        and type(images) in (Tensor, torch.nn.Parameter)  # no stand-in of some tracer
        and images.device.type == "cpu"
        and images.dtype in (torch.float16, torch.bfloat16, torch.float32)
        and images.numel() > 0
        and not torch._C._are_functorch_transforms_active()
        and torch.autograd.forward_ad._current_level < 0
        and _cpu() is not None
    )


class _Fused(torch.autograd.Function):
    """Saves the image alone, and computes its coefficients again on the way back."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, q: Tensor, alpha: Tensor, cap: float, bits: int | None) -> Tensor:
        ctx.save_for_backward(images, q, alpha)
        ctx.cap, ctx.bits = cap, bits
        kernels = _cpu()
        assert kernels is not None
        output: Tensor = kernels.forward(images, q, alpha, cap)
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        images, q, alpha = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph: a derivative of this derivative will be asked for
            output = eager_round_trip(images, q, alpha, ctx.bits, WINDOW)
            inputs = [tensor for tensor, need in zip((images, q, alpha), ctx.needs_input_grad, strict=False) if need]
            found = iter(torch.autograd.grad(output, inputs, grad, create_graph=True))
            return *(next(found) if need else None for need in ctx.needs_input_grad[:3]), None, None
        kernels = _cpu()
        assert kernels is not None
        want_images = ctx.needs_input_grad[0]
        return *kernels.backward(images, grad.float().contiguous(), q, alpha, ctx.cap, want_images=want_images), None, None
