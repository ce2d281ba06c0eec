"""Which way a round trip is computed, and its gradients.

:func:`round_trip` takes the fused way, for the published window of 5 levels, on the CPU (numba) and on NVIDIA GPUs (Triton), in
eager calls and under torch.compile. For float64, other windows or devices, second derivatives, whatever looks at the single
operations (tracers, torch.export, torch.func, dispatch modes, stand-ins for tensors), and where the fused kernels do not work,
it takes the readable one, from :mod:`jpegdl.functional`, which they are held against.
"""

import importlib
import warnings
from collections.abc import Callable
from functools import lru_cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from jpegdl import functional as F
from jpegdl.errors import UsageError
from jpegdl.kernels.trip import Trip

WINDOW = 5
_OF_TABLES = torch.Size((3, F.BLOCK, F.BLOCK))  # as layers have them
_OF_A_TABLE = torch.Size((F.BLOCK, F.BLOCK))
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.uint8)


def _keys(device: str) -> int:
    keys = 0
    for name in ("ADInplaceOrView", device, f"Autograd{device}", f"Autocast{device}"):
        keys |= torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, name)).raw_repr()
    return keys


#: For each kind of device that has kernels, how PyTorch marks tensors whose numbers lie in memory as they are.
_PLAIN = {"cpu": _keys("CPU"), "cuda": _keys("CUDA")}
DEVICES = frozenset(_PLAIN)
_MARKS_ON_CPU = ~_PLAIN["cpu"]


def eager_round_trip(images: Tensor, q: Tensor, alpha: Tensor | None, seed: Tensor | None, trip: Trip) -> Tensor:
    """Compute the round trip by :mod:`jpegdl.functional`, in the dtype of ``images``; see :func:`round_trip`."""
    x = F.straight_pixels(images) if trip.whole else images
    parts: list[Tensor | None] = []
    for z, planes in zip(F.images_to_planes(x, trip.subsampling), (slice(1), slice(1, None)), strict=True):
        if z is None:
            parts.append(None)
            continue
        # (.., T, 8, 8) to what broadcasts to (N, planes, h, w, 8, 8).
        steps, sharpness = (None if table is None else table.to(z.dtype)[..., planes, None, None, :, :] for table in (q, alpha))
        assert steps is not None
        options: Any = {"bits": trip.bits, "window": trip.window, "seed": seed, "plane": len(parts)}
        parts.append(F.quantize(z, steps, sharpness, trip.rounding, **options))
    luma, chroma = parts
    assert luma is not None
    output = F.planes_to_images(luma, chroma, (images.shape[-2], images.shape[-1]), trip.subsampling)
    if not trip.whole:
        return output
    # A block with NaN is NaN, and so shall be its image.
    return F.straight_pixels(output).masked_fill(images.detach().isnan().flatten(1).any(1)[:, None, None, None], torch.nan)


def round_trip(
    images: Tensor,
    q: Tensor,
    alpha: Tensor | None = None,
    *,
    rounding: str = "soft",
    subsampling: str = "4:4:4",
    bits: int | None,
    window: int | None,
    whole: bool = False,
    seed: Tensor | None = None,
) -> Tensor:
    """Take images through colour, chroma sampling, DCT and a quantizer, and back, in float32 (float64 for float64 images).

    Args:
        images: (N, 3, H, W) RGB or (N, 1, H, W) grey, floating point in [0, 1] or uint8 in 0..255.
        q: steps, floating point, on the images' device: (T, 8, 8), or (N, T, 8, 8) with those of each image; T 3 for Y, Cb and
            Cr, or 2 where Cb and Cr share one. Of grey images, the first alone counts.
        alpha: for the roundings soft and sample: sharpness of the quantizer, shaped like ``q``. Larger is harder.
        rounding: one of :data:`jpegdl.layer.ROUNDINGS`.
        subsampling: of chroma, 4:4:4, 4:2:2 or 4:2:0.
        bits, window: as in :func:`jpegdl.functional.soft_quantize`.
        whole: round pixels to 256 levels and clip them, in the images and in the result, gradients straight through. An image
            with NaN in it is NaN throughout; otherwise NaN stays within its block, as far as chroma samples reach.
        seed: (), int64, of what sample and noise draw: see :func:`jpegdl.functional.uniform_draws`. None takes one from
            PyTorch's own generator.

    Returns:
        The shape of ``images``, and their dtype, float32 for uint8. Differentiable in the first three.

    Raises:
        TypeError: a tensor of another dtype.
        UsageError: shapes, devices, settings other than these.
    """
    trip = Trip(rounding, subsampling, bits, window, whole)
    check_inputs(images, q, alpha, trip)
    if rounding not in F.RANDOM:
        seed = None
    elif seed is None:
        seed = F.draw_seed(images)
    if not torch.compiler.is_compiling():
        images = images.resolve_neg()  # complex numbers' conjugates hand out real views whose memory holds the negative
    alpha = alpha if trip.soft else None
    if _fusible(images, q, alpha, seed, trip):
        # The operator costs 0.25 ms more than the function inside it, which costs some microseconds.
        call: Any = _Fused.apply
        if torch.compiler.is_compiling():
            call = _round_trip
        elif not torch.is_grad_enabled():
            call = _forward
        output: Tensor = call(images, q.float(), None if alpha is None else alpha.float(), seed, *_flat(trip))
        return output
    return eager_round_trip(F.unit_images(images), q, alpha, seed, trip).to(_output_dtype(images))


def round_trip_of_tables(
    images: Tensor, tables: tuple[Tensor, ...], alphas: tuple[Tensor, ...], within: tuple[float, float], trip: Trip
) -> Tensor | None:
    """Take images through :func:`round_trip` on the CPU, without gradients.

    Tables are used where they lie: to put them into one tensor would take as long as a small image.

    Args:
        images: as there, (N, 3, H, W).
        tables: steps of luma and of chroma, each (8, 8).
        alphas: sharpness of luma and of chroma, each (8, 8); empty for a rounding that is not soft.
        within: the smallest and the largest step that are allowed.
        trip: the other settings.

    Returns:
        As there; None if the kernel cannot do it: steps are on another device or out of range, or no kernel may be used.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or not images.is_cpu or images.dtype != torch.float32:
        return None
    if trip.rounding in F.RANDOM or (trip.soft and trip.window != WINDOW) or not images.numel():
        return None
    tensors = (images, *tables, *alphas)
    for tensor in tensors:
        if type(tensor) is not Tensor and type(tensor) is not torch.nn.Parameter:
            return None
    for table in tensors[1:]:
        if table.shape != _OF_A_TABLE or table.dtype != torch.float32 or not table.is_contiguous():
            return None
    if torch.autograd.forward_ad._current_level >= 0 or not unobserved(*tensors):
        return None
    if trip.soft:
        F.check_window(trip.bits, trip.window)
    forward = getattr(_kernels(images.device, trip.subsampling != "4:4:4"), "forward_of_tables", None)
    output: Tensor | None = None if forward is None else forward(images, tables, alphas, within, trip)
    return output


def check_inputs(images: Tensor, q: Tensor, alpha: Tensor | None, trip: Trip) -> None:
    """Refuse what :func:`round_trip` cannot compute, whichever way it would; without waiting for a device."""
    F.check_rounding(trip.rounding)
    if trip.soft:
        F.check_window(trip.bits, trip.window)
    else:
        F.largest_level(trip.bits)
    F.chroma_factors(trip.subsampling)
    F.check_images(images, grey=True)  # last, where memory is read as it is
    for name, table in (("q", q), ("alpha", alpha)):
        if table is None:
            if trip.soft:
                raise UsageError(f"rounding {trip.rounding!r} needs alpha")
            continue
        F.check_floating(table, name)
        shape = table.shape
        if table is alpha and shape != q.shape:
            raise UsageError(f"alpha must be of shape {tuple(q.shape)}, as q is, got {tuple(shape)}")
        if shape != _OF_TABLES and (
            len(shape) not in (3, 4)
            or shape[-2:] != (F.BLOCK, F.BLOCK)
            or shape[-3] not in (2, 3)
            or (len(shape) == 4 and shape[0] not in (1, len(images)))
        ):
            raise UsageError(
                f"{name} must be of shape (3, 8, 8) or (2, 8, 8), or with one for each of {len(images)} images before these, "
                f"got {tuple(table.shape)}"
            )
        if table.device != images.device and images.device.type != "meta":
            way_out = f"move the layer to the images' device, layer.to({str(images.device)!r})"
            if table.device.type == "meta":  # where it has no values to move
                way_out = f"make room for its values, layer.to_empty(device={str(images.device)!r}), then load_state_dict"
            raise UsageError(
                f"{name}, a table of the layer, is on {table.device} and the images are on {images.device}: {way_out}"
            )


def _output_dtype(images: Tensor) -> torch.dtype:
    return torch.float32 if images.dtype == torch.uint8 else images.dtype


def _fusible(images: Tensor, q: Tensor, alpha: Tensor | None, seed: Tensor | None, trip: Trip) -> bool:
    if trip.window != WINDOW and trip.soft:
        return False
    if images.dtype not in _DTYPES or images.numel() == 0 or images.device.type not in _PLAIN:
        return False
    tensors = [tensor for tensor in (images, q, alpha, seed) if tensor is not None]
    for tensor in tensors:
        if type(tensor) is not Tensor and type(tensor) is not torch.nn.Parameter:
            return False
    subsampled = trip.subsampling != "4:4:4"
    if torch.compiler.is_compiling():
        return torch.compiler.is_dynamo_compiling() and not exporting() and _works(images.device, subsampled)
    forward_mode = torch.autograd.forward_ad._current_level >= 0
    return not forward_mode and unobserved(*tensors) and _works(images.device, subsampled)


def unobserved(*tensors: Tensor) -> bool:
    """Return whether a kernel may read these tensors: nothing traces PyTorch's operations, and memory holds their values.

    Kernels read memory without PyTorch. A tracer would take their result for a constant. A tensor that is marked as negated,
    that is batched or sparse, or that stands for another, has other numbers in memory, or none.
    """
    if (
        torch._C._get_tracing_state() is not None
        or torch._C._len_torch_dispatch_stack() != 0
        or torch._C._are_functorch_transforms_active()
    ):
        return False
    for tensor in tensors:
        # is_cpu takes a quarter of the time of device.type.
        marks = _MARKS_ON_CPU if tensor.is_cpu else ~_PLAIN.get(tensor.device.type, 0)
        if torch._C._dispatch_keys(tensor).raw_repr() & marks:
            return False
    return True


# ------------------------------------------------------------------------------------------------------------- kernels


def exporting() -> bool:
    """Return whether torch.export is at work. Its programs run where this package's operators are not known."""
    # PyTorch 2.6 has no such flag; there, torch.export works without dynamo unless it is strict.
    return bool(getattr(torch.compiler, "_is_exporting_flag", False))


def _works(device: torch.device, subsampled: bool) -> bool:
    return _kernels(device, subsampled) is not None


# What torch.compiler.assume_constant_result does; that also imports the compiler, which takes seconds. Dynamo's own answer to
# torch.compiler.is_exporting is True, whether it exports or compiles.
exporting._dynamo_marked_constant = True  # type: ignore[attr-defined]
_works._dynamo_marked_constant = True  # type: ignore[attr-defined]


@lru_cache(maxsize=16)
def _kernels(device: torch.device, subsampled: bool) -> ModuleType | None:
    """The module with the kernels for a device, which have been compiled; None, after a warning, where they do not work.
    Imported late: numba and Triton take a second."""

    def trial(kernels: ModuleType) -> None:
        images, table = (torch.ones(shape, dtype=torch.float32, device=device) for shape in ((1, 3, 16, 16), (3, 8, 8)))
        trip = Trip(subsampling="4:2:0" if subsampled else "4:4:4")
        kernels.forward(images, table, table, None, trip)
        kernels.backward(images, images, table, table, None, trip, want_images=False)

    return tried(device, trial)


def tried(device: torch.device, trial: Callable[[ModuleType], None]) -> ModuleType | None:
    """The module with the kernels for a device, after a ``trial`` of it; None, after a warning, where that fails."""
    if device.type == "cuda" and torch.version.hip is not None:
        return None
    try:
        kernels = importlib.import_module(f"jpegdl.kernels.{device.type}")
        # Compilers fail at first use: no C compiler, an old GPU, a full disk. Leave all modes: in some of them tensors
        # have no memory.
        with _disable_current_modes(), torch._C.DisableTorchFunction():
            trial(kernels)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        warnings.warn(
            f"the fused kernels for {device.type} do not work here, so PyTorch's own operations are used, which are slower and "
            f"take more memory: {type(error).__name__}: {error}",
            RuntimeWarning,
            stacklevel=5,
        )
        return None
    return kernels


def _module(images: Tensor, trip: Trip) -> ModuleType:
    kernels = _kernels(images.device, trip.subsampling != "4:4:4")
    if kernels is None:  # the program was compiled on another machine, where they work
        raise UsageError(f"the fused kernels do not work on {images.device}; compile or export the model on such a device")
    return kernels


_Flat = tuple[str, str, int | None, bool]  # a trip as operators take it


def _flat(trip: Trip) -> _Flat:
    return trip.rounding, trip.subsampling, trip.bits, trip.whole


def _trip(rounding: str, subsampling: str, bits: int | None, whole: bool) -> Trip:
    return Trip(rounding, subsampling, bits, WINDOW, whole)


def _forward(images: Tensor, q: Tensor, alpha: Tensor | None, seed: Tensor | None, *flat: Any) -> Tensor:
    trip = _trip(*flat)
    output: Tensor = _module(images, trip).forward(images, q, alpha, seed, trip)
    return output


def _backward(
    images: Tensor,
    grad: Tensor,
    q: Tensor,
    alpha: Tensor | None,
    seed: Tensor | None,
    rounding: str,
    subsampling: str,
    bits: int | None,
    whole: bool,
    want_images: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of the images, empty where they are not wanted, and (2, ..), like q, of q and alpha, or (1, ..)."""
    trip = _trip(rounding, subsampling, bits, whole)
    kernels = _module(images, trip)
    grad_images, grad_tables = kernels.backward(images, grad, q, alpha, seed, trip, want_images=want_images)
    return images.new_empty(0) if grad_images is None else grad_images, grad_tables


# ------------------------------------------------------------------------------------------------------------- autograd


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """The image alone; its coefficients are computed again on the way back."""
    images, q, alpha, seed, *flat = inputs
    ctx.flat = flat
    ctx.save_for_backward(images, q, alpha, seed)


def _gradients(ctx: Any, saved: Any, grad: Tensor, backward: Any) -> Any:
    images, q, alpha, seed = saved
    want_images, want_q, want_alpha = ctx.needs_input_grad[:3]
    grad_images, tables = backward(images, grad, q, alpha, seed, *ctx.flat, want_images)
    by_alpha = tables[1] if want_alpha else None
    return grad_images if want_images else None, tables[0] if want_q else None, by_alpha, *(None,) * 5


def _readable_gradients(ctx: Any, saved: Any, grad: Tensor) -> Any:
    """The same from the readable path, and differentiable where a derivative of this derivative will be asked for."""
    needs = ctx.needs_input_grad[:3]
    again = torch.is_grad_enabled()
    with torch.enable_grad(), torch.autocast(grad.device.type, enabled=False):
        images, q, alpha, seed = saved
        output = eager_round_trip(F.unit_images(images), q, alpha, seed, _trip(*ctx.flat))
        inputs = [tensor for tensor, need in zip(saved, needs, strict=False) if need]
        found = iter(torch.autograd.grad(output, inputs, grad.to(output.dtype), create_graph=again, materialize_grads=True))
    return *(next(found) if need else None for need in needs), *(None,) * 5


class _Fused(torch.autograd.Function):
    # Without a setup_context of its own, for which PyTorch would look at forward's signature at every call.
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        output = _forward(*inputs)
        _save(ctx, inputs, output)
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        grad, saved = grad.resolve_neg(), ctx.saved_tensors  # once: checkpointing computes them anew at each look
        if torch.is_grad_enabled() or not unobserved(grad, *(tensor for tensor in saved if tensor is not None)):
            return _readable_gradients(ctx, saved, grad)
        return _gradients(ctx, saved, grad, _backward)


# The same as operators, which torch.compile takes as they are and need not look into.
_TENSORS, _SETTINGS = "Tensor q, Tensor? alpha, Tensor? seed", "str rounding, str subsampling, int? bits, bool whole"
_round_trip = torch.library.custom_op(
    "jpegdl::round_trip", _forward, mutates_args=(), schema=f"(Tensor images, {_TENSORS}, {_SETTINGS}) -> Tensor"
)
_round_trip_backward = torch.library.custom_op(
    "jpegdl::round_trip_backward",
    _backward,
    mutates_args=(),
    schema=f"(Tensor images, Tensor grad, {_TENSORS}, {_SETTINGS}, bool want_images) -> (Tensor, Tensor)",
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
def _(images: Tensor, *others: Any) -> Tensor:
    return _like(images, _output_dtype(images))


@_round_trip_backward.register_fake
def _(images: Tensor, grad: Tensor, q: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    tables = q.new_empty((2 if others[2] in F.SOFT else 1, *q.shape))
    return _like(images, images.dtype) if others[-1] else images.new_empty(0), tables
