"""Which way the soft round trip is computed, and its gradients.

:func:`soft_round_trip` takes the fused way for the published window of 5 levels, on the CPU (numba) and on NVIDIA GPUs
(Triton), in eager calls and under torch.compile. For float64, other windows or devices, second derivatives, whatever looks at
the single operations (tracers, torch.export, torch.func, dispatch modes, stand-ins for tensors), and where the fused kernels do
not work, it takes the readable one, from :mod:`jpegdl.functional`, which they are held against.
"""

import importlib
import warnings
from functools import lru_cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from jpegdl import functional as F
from jpegdl.errors import UsageError

WINDOW = 5
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.uint8)


def _keys(device: str) -> int:
    keys = 0
    for name in ("ADInplaceOrView", device, f"Autograd{device}", f"Autocast{device}"):
        keys |= torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, name)).raw_repr()
    return keys


#: For each kind of device that has kernels, how PyTorch marks tensors whose numbers lie in memory as they are.
_PLAIN = {"cpu": _keys("CPU"), "cuda": _keys("CUDA")}


def eager_round_trip(images: Tensor, q: Tensor, alpha: Tensor, bits: int | None, window: int | None) -> Tensor:
    """The round trip from :mod:`jpegdl.functional`, in the dtype of ``images``; see :func:`soft_round_trip`."""
    z = F.images_to_coefficients(images)
    z = F.soft_quantize(z, q.to(z.dtype)[:, None, None], alpha.to(z.dtype)[:, None, None], bits=bits, window=window)
    return F.coefficients_to_images(z, (images.shape[-2], images.shape[-1]))


def soft_round_trip(images: Tensor, q: Tensor, alpha: Tensor, *, bits: int | None, window: int | None) -> Tensor:
    """Colour, DCT, soft quantizer and back, computed in float32 (float64 for float64 images).

    Args:
        images: (N, 3, H, W) RGB, floating point in [0, 1] or uint8 in 0..255.
        q: (3, 8, 8) steps of Y, Cb, Cr, floating point, on the images' device.
        alpha: (3, 8, 8), as ``q``: the larger, the harder the quantizer.
        bits, window: as in :func:`jpegdl.functional.soft_quantize`.

    Returns:
        (N, 3, H, W) in the dtype of ``images``, float32 for uint8; not clipped. Differentiable in the first three.

    Raises:
        TypeError: a tensor of another dtype.
        UsageError: shapes, devices, ``bits`` or ``window`` other than these.
    """
    check_inputs(images, q, alpha, bits, window)
    if not torch.compiler.is_compiling():
        images = images.resolve_neg()  # complex numbers' conjugates hand out real views whose memory holds the negative
    if _fusible(images, q, alpha, window):
        # The operator costs a quarter of a millisecond more than the function that it is made of.
        call: Any = _round_trip if torch.compiler.is_compiling() else _Fused.apply
        output: Tensor = call(images, q.float(), alpha.float(), bits)
        return output
    return eager_round_trip(F.unit_images(images), q, alpha, bits, window).to(_output_dtype(images))


def check_inputs(images: Tensor, q: Tensor, alpha: Tensor, bits: int | None, window: int | None) -> None:
    """Refuse what :func:`soft_round_trip` cannot compute, whichever way it would; without waiting for a device."""
    F.check_window(bits, window)
    F.check_images(images)  # last, where memory is read as it is
    for name, table in (("q", q), ("alpha", alpha)):
        F.check_floating(table, name)
        F.check_shape(table, (3, F.BLOCK, F.BLOCK), name)
        if table.device != images.device and images.device.type != "meta":
            way_out = f"move the layer to the images' device, layer.to({str(images.device)!r})"
            if table.device.type == "meta":  # where it has no values to move
                way_out = f"make room for its values, layer.to_empty(device={str(images.device)!r}), then load_state_dict"
            raise UsageError(
                f"{name}, a table of the layer, is on {table.device} and the images are on {images.device}: {way_out}"
            )


def _output_dtype(images: Tensor) -> torch.dtype:
    return torch.float32 if images.dtype == torch.uint8 else images.dtype


def _fusible(images: Tensor, q: Tensor, alpha: Tensor, window: int | None) -> bool:
    if window != WINDOW or images.dtype not in _DTYPES or images.numel() == 0 or images.device.type not in _PLAIN:
        return False
    if any(type(tensor) not in (Tensor, torch.nn.Parameter) for tensor in (images, q, alpha)):
        return False
    if torch.compiler.is_compiling():
        return torch.compiler.is_dynamo_compiling() and not exporting() and _works(images.device)
    forward_mode = torch.autograd.forward_ad._current_level >= 0
    return not forward_mode and unobserved(images, q, alpha) and _works(images.device)


def unobserved(*tensors: Tensor) -> bool:
    """Whether nobody wants to see PyTorch's single operations, and all numbers lie in memory as they are; for eager calls.

    Kernels read memory without asking PyTorch: a tracer would take what they computed for a constant, and a tensor that is
    marked as negated, batched, sparse or a stand-in for another has other numbers in memory, or none.
    """
    return (
        torch._C._get_tracing_state() is None
        and torch._C._len_torch_dispatch_stack() == 0
        and not torch._C._are_functorch_transforms_active()
        and all(torch._C._dispatch_keys(tensor).raw_repr() & ~_PLAIN.get(tensor.device.type, 0) == 0 for tensor in tensors)
    )


# ------------------------------------------------------------------------------------------------------------- kernels


def exporting() -> bool:
    """Whether torch.export is at work: its programs are for places that know nothing of this package's operators."""
    # PyTorch 2.6 has no such flag; its torch.export does without dynamo unless it is told to be strict.
    return bool(getattr(torch.compiler, "_is_exporting_flag", False))


def _works(device: torch.device) -> bool:
    return _kernels(device) is not None


# What torch.compiler.assume_constant_result does; that also imports the compiler, which takes seconds. Dynamo's own answer to
# torch.compiler.is_exporting is True, whether it exports or compiles.
exporting._dynamo_marked_constant = True  # type: ignore[attr-defined]
_works._dynamo_marked_constant = True  # type: ignore[attr-defined]


@lru_cache(maxsize=16)
def _kernels(device: torch.device) -> ModuleType | None:
    """The module with the kernels for a device; None, after a warning, where they do not work. Imported late: numba and Triton
    take a second."""
    if device.type == "cuda" and torch.version.hip is not None:
        return None
    try:
        kernels = importlib.import_module(f"jpegdl.kernels.{device.type}")
        # Compilers fail at first use: no C compiler, a GPU too old, a full disk.
        images, table = (torch.ones(shape, dtype=torch.float32, device=device) for shape in ((1, 3, 16, 16), (3, 8, 8)))
        kernels.forward(images, table, table, 127.0)
        kernels.backward(images, images, table, table, 127.0, want_images=False)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        warn_of(error, device.type)
        return None
    return kernels


def warn_of(error: Exception, device: str) -> None:
    """Warn that a kind of device goes without its kernels, at the code that wanted them."""
    warnings.warn(
        f"the fused kernels for {device} do not work here, so PyTorch's own operations are used, which are slower and "
        f"take more memory: {type(error).__name__}: {error}",
        RuntimeWarning,
        stacklevel=5,
    )


def _forward(images: Tensor, q: Tensor, alpha: Tensor, bits: int | None) -> Tensor:
    output: Tensor = _module(images).forward(images, q, alpha, _cap(bits))
    return output


def _backward(
    images: Tensor, grad: Tensor, q: Tensor, alpha: Tensor, bits: int | None, want_images: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of the images, empty where they are not wanted, and (2, 3, 8, 8), of q and alpha."""
    grad_images, grad_tables = _module(images).backward(images, grad, q, alpha, _cap(bits), want_images=want_images)
    return images.new_empty(0) if grad_images is None else grad_images, grad_tables


def _module(images: Tensor) -> ModuleType:
    kernels = _kernels(images.device)
    if kernels is None:  # a program that was compiled where they work
        raise UsageError(f"the fused kernels do not work on {images.device}; compile or export the model there")
    return kernels


def _cap(bits: int | None) -> float:
    cap = F.largest_level(bits)
    return float("inf") if cap is None else float(cap)


# ------------------------------------------------------------------------------------------------------------- autograd


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """The image alone; its coefficients are computed again on the way back."""
    images, q, alpha, ctx.bits = inputs
    ctx.save_for_backward(images, q, alpha)


def _gradients(ctx: Any, saved: Any, grad: Tensor, backward: Any) -> Any:
    images, q, alpha = saved
    grad_images, grad_tables = backward(images, grad, q, alpha, ctx.bits, ctx.needs_input_grad[0])
    return grad_images if ctx.needs_input_grad[0] else None, *grad_tables, None


def _readable_gradients(ctx: Any, saved: Any, grad: Tensor) -> Any:
    """The same from the readable path, and differentiable where a derivative of this derivative will be asked for."""
    tensors, needs = saved, ctx.needs_input_grad[:3]
    again = torch.is_grad_enabled()
    with torch.enable_grad(), torch.autocast(grad.device.type, enabled=False):
        images, q, alpha = tensors
        output = eager_round_trip(F.unit_images(images), q, alpha, ctx.bits, WINDOW)
        inputs = [tensor for tensor, need in zip(tensors, needs, strict=True) if need]
        found = iter(torch.autograd.grad(output, inputs, grad.to(output.dtype), create_graph=again))
    return *(next(found) if need else None for need in needs), None


class _Fused(torch.autograd.Function):
    # Without a setup_context of its own, for which PyTorch would look at forward's signature at every call.
    @staticmethod
    def forward(ctx: Any, images: Tensor, q: Tensor, alpha: Tensor, bits: int | None) -> Tensor:
        output = _forward(images, q, alpha, bits)
        _save(ctx, (images, q, alpha, bits), output)
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        grad, saved = grad.resolve_neg(), ctx.saved_tensors  # once: checkpointing computes them anew at each look
        if torch.is_grad_enabled() or not unobserved(grad, *saved):
            return _readable_gradients(ctx, saved, grad)
        return _gradients(ctx, saved, grad, _backward)


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


def _operator_gradients(ctx: Any, grad: Tensor) -> Any:
    saved = ctx.saved_tensors
    if torch.is_grad_enabled():
        return _readable_gradients(ctx, saved, grad)
    return _gradients(ctx, saved, grad, _round_trip_backward)


_round_trip.register_autograd(_operator_gradients, setup_context=_save)


def _like(images: Tensor, dtype: torch.dtype) -> Tensor:
    dense = torch.contiguous_format if images.device.type == "cpu" else torch.preserve_format
    return torch.empty_like(images, dtype=dtype, memory_format=dense)


@_round_trip.register_fake
def _(images: Tensor, q: Tensor, alpha: Tensor, bits: int | None) -> Tensor:
    return _like(images, _output_dtype(images))


@_round_trip_backward.register_fake
def _(images: Tensor, grad: Tensor, q: Tensor, alpha: Tensor, bits: int | None, want_images: bool) -> tuple[Tensor, Tensor]:
    return _like(images, images.dtype) if want_images else images.new_empty(0), q.new_empty((2, *q.shape))
