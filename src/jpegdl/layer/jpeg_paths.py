"""The two ways through the codec: exactly, with another quantizer's gradient, and in floating point."""

from typing import Any

import torch
from torch import Tensor

from jpegdl import functional as F
from jpegdl.kernels import compiling, exact_gradients, exact_images, gradients_work, round_trip, to_pixels, unobserved
from jpegdl.layer.base import compute_dtype


def straight(x: Tensor, values: Tensor) -> Tensor:
    """Return ``values`` with the gradient of ``x``."""
    return values + (x - x.detach()) if F.derived(x) else values


def floating(
    images: Tensor,
    luma: Tensor,
    chroma: Tensor,
    subsampling: str,
    rounding: str,
    hardness: float,
    generator: torch.Generator | None,
    *,
    whole: bool,
) -> Tensor:
    """Take images through colour, chroma subsampling, DCT and a quantizer, and back, in floating point.

    Args:
        images: (N, C, H, W), float32 or float64 in [0, 1].
        luma, chroma: steps, (8, 8) or (N, 8, 8).
        subsampling, rounding, hardness, generator: as in :func:`jpegdl.jpeg`.
        whole: whether pixels are rounded and clipped on both sides.
    """
    if luma.shape != chroma.shape:
        shape = max(luma.shape, chroma.shape, key=lambda shape: (len(shape), shape[0]))
        luma, chroma = luma.expand(shape), chroma.expand(shape)
    q = torch.stack((luma, chroma), -3)
    return round_trip(
        images,
        q,
        hardness / q.square() if rounding in F.SOFT else None,
        rounding=rounding,
        subsampling=subsampling,
        bits=None,
        window=5,
        whole=whole,
        seed=F.draw_seed(images, generator) if rounding in F.RANDOM else None,
    )


def _at_blocks(table: Tensor, z: Tensor) -> Tensor:
    """(8, 8) or (N, 8, 8), so that they broadcast to coefficients (N, planes, h, w, 8, 8)."""
    table = table.to(z.dtype)
    return table[:, None, None, None] if table.ndim == 3 else table


# ------------------------------------------------------------------------------------------------------------- exact


def exact_path(images: Tensor, luma: Tensor, chroma: Tensor, subsampling: str, gradient: str, hardness: float) -> Tensor:
    """Return the file's images, with the gradient of another quantizer.

    Args:
        images: (N, C, H, W), floating point in [0, 1] or uint8.
        luma, chroma: whole steps, (8, 8) or (N, 8, 8).
        subsampling, gradient, hardness: as in :func:`jpegdl.jpeg`.
    """
    tensors = images, luma, chroma
    wanted = images.dtype != torch.uint8 and F.derived(*tensors)
    forward_mode = torch.autograd.forward_ad._current_level >= 0
    compute: Any = _operator
    if compiling():
        # Nothing is differentiated inside an operator: kernels compute its gradients, if there are any.
        whole = not wanted or (gradient in ("ste", "hard") and images.dtype != torch.float64 and gradients_work(images.device))
    elif not wanted:
        return exact_images(images, luma, chroma, subsampling)
    else:
        whole = not (forward_mode or torch.compiler.is_compiling()) and unobserved(*tensors)
        compute = _Exact.apply if whole else _forward
    if whole:
        output: Tensor = compute(images, luma, chroma, subsampling, gradient, hardness)
        return output
    # In single operations, which tracers, torch.func and forward mode can follow.
    smooth = _smooth(images, luma, chroma, subsampling, gradient, hardness)
    values = compute(images.detach(), luma.detach(), chroma.detach(), subsampling, gradient, hardness)
    return straight(smooth, values.to(smooth.dtype)).to(images.dtype)


def _smooth(images: Tensor, luma: Tensor, chroma: Tensor, subsampling: str, gradient: str, hardness: float) -> Tensor:
    """What the gradient is taken of: the encoder's own coefficients, by another quantizer; or all that "soft" computes."""
    if gradient == "soft":
        return floating(F.unit_images(images), luma, chroma, subsampling, gradient, hardness, None, whole=True)
    pixels = F.straight_pixels(F.unit_images(images))
    whole = F.encode_coefficients(to_pixels(images.detach()), subsampling)
    outputs: list[Tensor | None] = []
    for z, parts, table in zip(F.images_to_planes(pixels, subsampling), (whole[:1], whole[1:]), (luma, chroma), strict=True):
        if z is None:
            outputs.append(None)
            continue
        z = straight(z, torch.stack(parts, 1).to(z.dtype) / 8)
        q = _at_blocks(table, z)
        if gradient in ("ste", "hard"):
            levels = torch.stack([F.coefficient_levels(part, table) for part in parts], 1).to(z.dtype)
            outputs.append(q * (straight(z / q, levels) if gradient == "ste" else levels))
        else:
            outputs.append(F.quantize(z, q, hardness / q.square(), gradient, bits=None))
    assert outputs[0] is not None
    return F.planes_to_images(outputs[0], outputs[1], (images.shape[-2], images.shape[-1]), subsampling)


def _gradients(
    images: Tensor, luma: Tensor, chroma: Tensor, settings: tuple[str, str, float], grad: Tensor, needs: tuple[bool, ...]
) -> list[Tensor | None]:
    """Gradients to images and tables, of those that are needed; differentiable where a derivative of them will be asked for."""
    subsampling, gradient, hardness = settings
    again = torch.is_grad_enabled()
    if not images.numel():
        return [torch.zeros_like(x) if need else None for x, need in zip((images, luma, chroma), needs, strict=True)]
    tables = needs[1] or needs[2]
    if not again and (gradient in ("ste", "hard") or (gradient == "ste-matched" and not tables)):
        straight = gradient != "hard"
        wanted = {"straight": straight, "want_images": straight and needs[0], "want_tables": tables}
        gradients = exact_gradients(images, grad.resolve_neg(), luma, chroma, subsampling, **wanted)
        if gradients is not None:
            by_images = torch.zeros_like(images) if needs[0] and not straight else gradients[0]
            return [by_images, *(by if need else None for by, need in zip(gradients[1:], needs[1:], strict=True))]
    if tuple(needs) == (True, False, False) and not again and gradient in ("ste", "ste-matched"):
        return [_through_sampling(grad, images, subsampling), None, None]
    with torch.enable_grad(), torch.autocast(grad.device.type, enabled=False):
        # In a graph of their own, since an operator gets tensors without one.
        tensors = [
            x if again else x.detach().requires_grad_(need) for x, need in zip((images, luma, chroma), needs, strict=True)
        ]
        inputs = [tensor for tensor, need in zip(tensors, needs, strict=True) if need]
        output = _smooth(tensors[0], tensors[1], tensors[2], subsampling, gradient, hardness)
        if not output.requires_grad:  # hard levels have no gradient to images
            return [torch.zeros_like(tensor) if need else None for tensor, need in zip(tensors, needs, strict=True)]
        found = iter(torch.autograd.grad(output, inputs, grad.to(output.dtype), create_graph=again, materialize_grads=True))
    return [next(found) if need else None for need in needs]


class _Exact(torch.autograd.Function):
    """The images of a file, with the gradient of another quantizer. It saves its arguments alone."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, luma: Tensor, chroma: Tensor, *settings: Any) -> Tensor:
        ctx.save_for_backward(images, luma, chroma)
        ctx.settings = settings
        return exact_images(images, luma, chroma, settings[0])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        images, luma, chroma = ctx.saved_tensors
        return *_gradients(images, luma, chroma, ctx.settings, grad, ctx.needs_input_grad[:3]), *(None,) * 3


# The same as operators, which torch.compile takes as they are and need not look into.


def _forward(images: Tensor, luma: Tensor, chroma: Tensor, subsampling: str, gradient: str, hardness: float) -> Tensor:
    return exact_images(images, luma, chroma, subsampling)


def _backward(
    images: Tensor,
    luma: Tensor,
    chroma: Tensor,
    subsampling: str,
    gradient: str,
    hardness: float,
    grad: Tensor,
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Empty where they are not needed."""
    found = _gradients(images, luma, chroma, (subsampling, gradient, hardness), grad, tuple(needs))
    # An operator's outputs must share memory with nothing: gradients of 4:4:4 images are what they came as, those of the two
    # tables lie side by side.
    fresh = []
    for i, (x, by, need) in enumerate(zip((images, luma, chroma), found, needs, strict=True)):
        if not need or by is None:
            fresh.append(torch.zeros_like(x, memory_format=torch.contiguous_format) if need else x.new_empty(0))
        else:
            fresh.append(by.clone(memory_format=torch.contiguous_format) if i or _shares(by, grad) else by.contiguous())
    return fresh[0], fresh[1], fresh[2]


def _shares(one: Tensor, other: Tensor) -> bool:
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


_SETTINGS = "Tensor images, Tensor luma, Tensor chroma, str subsampling, str gradient, float hardness"
_operator = torch.library.custom_op("jpegdl::jpeg", _forward, mutates_args=(), schema=f"({_SETTINGS}) -> Tensor")
_operator_backward = torch.library.custom_op(
    "jpegdl::jpeg_backward",
    _backward,
    mutates_args=(),
    schema=f"({_SETTINGS}, Tensor grad, bool[] needs) -> (Tensor, Tensor, Tensor)",
)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.settings = inputs[3:]


def _operator_gradients(ctx: Any, grad: Tensor) -> Any:
    needs, (images, luma, chroma) = list(ctx.needs_input_grad[:3]), ctx.saved_tensors
    if torch.is_grad_enabled():
        return *_gradients(images, luma, chroma, ctx.settings, grad, tuple(needs)), *(None,) * 3
    found = _operator_backward(images, luma, chroma, *ctx.settings, grad, needs)
    return *(by if need else None for by, need in zip(found, needs, strict=True)), *(None,) * 3


_operator.register_autograd(_operator_gradients, setup_context=_save)


@_operator.register_fake
def _(images: Tensor, luma: Tensor, chroma: Tensor, subsampling: str, gradient: str, hardness: float) -> Tensor:
    return torch.empty_like(images, memory_format=torch.contiguous_format)


@_operator_backward.register_fake
def _(
    images: Tensor,
    luma: Tensor,
    chroma: Tensor,
    subsampling: str,
    gradient: str,
    hardness: float,
    grad: Tensor,
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    by_images, by_luma, by_chroma = (
        torch.empty_like(x, memory_format=torch.contiguous_format) if need else x.new_empty(0)
        for x, need in zip((images, luma, chroma), needs, strict=True)
    )
    return by_images, by_luma, by_chroma


def _through_sampling(grad: Tensor, images: Tensor, subsampling: str) -> Tensor:
    """The gradient to images where rounding passes it on: DCT and colour are undone, and chroma sampling alone is left."""
    if images.shape[1] == 1 or subsampling == "4:4:4":
        return grad
    with torch.enable_grad(), torch.autocast(grad.device.type, enabled=False):
        x = torch.zeros_like(images, dtype=compute_dtype(images), requires_grad=True)
        (found,) = torch.autograd.grad(F.resample_chroma(x, subsampling), x, grad.to(x.dtype))
    return found.to(images.dtype)
