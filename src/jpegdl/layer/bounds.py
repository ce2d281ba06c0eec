"""How parameters stay in their range, whatever trains them.

Nobody has to call anything, since three things work together:

- a layer computes with values in range, whatever its parameters hold: :func:`bounded`;
- after each step of a PyTorch optimizer, the layers it trains are projected, as the published training does;
- ``layer.train()``, ``layer.eval()`` and ``layer.state_dict()`` project too, for optimizers that are not PyTorch's.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from jpegdl.kernels import unobserved


class Projecting(Protocol):
    """A module with parameters that have a range."""

    def project_(self) -> None: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...


_alive: WeakSet[Any] = WeakSet()
_suspended = 0


def keep_in_range(layer: Projecting) -> None:
    """Project ``layer`` after each step of a PyTorch optimizer that trains one of its parameters, as long as it lives."""
    _alive.add(layer)


@contextmanager
def unbounded_steps() -> Iterator[None]:
    """Leave parameters as optimizers' steps make them: for one that keeps something else in them for a while."""
    global _suspended
    _suspended += 1
    try:
        yield
    finally:
        _suspended -= 1


def _after_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    if _suspended or not _alive:
        return
    # Others are left alone: a discriminator's optimizer must not touch what the generator's graph has saved.
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    for layer in list(_alive):
        if any(id(parameter) in trained for parameter in layer.parameters()):
            layer.project_()


register_optimizer_step_post_hook(_after_step)


def project(parameter: Tensor, low: float, high: float = math.inf) -> None:
    """Clamp a parameter in place, where it is trained; its gradient and what a graph has saved of it stay valid."""
    if parameter.requires_grad and not parameter.is_inference():
        # By way of .data, which autograd does not count as a change: values in range stay as they are, to the bit.
        parameter.data.clamp_(low, high)


class _Bounded(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, low: float, high: float) -> Tensor:
        return x.clamp(low, high)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, ctx.low, ctx.high = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        outward = ((x < ctx.low) & (grad > 0)) | ((x > ctx.high) & (grad < 0))
        return grad.masked_fill(outward, 0), None, None


def seen_within(x: Tensor, low: float, high: float = math.inf) -> bool:
    """Return whether all of ``x`` lies in [low, high], False too where a look costs more than a function of autograd's."""
    if torch.compiler.is_compiling() or not x.is_cpu or not x.numel() or not unobserved(x):
        return False
    smallest, largest = x.detach().aminmax()
    return low <= smallest.item() and largest.item() <= high


def bounded(x: Tensor, low: float, high: float = math.inf) -> Tensor:
    """Clamp ``x`` to [low, high], with a gradient that brings values back in.

    Within the range, ends included, the gradient passes. Beyond it passes where a descent along it leads back, and is 0
    where it leads further out. NaN stays NaN.

    Args:
        x: any shape, floating point.
        low, high: the range.

    Returns:
        Shape and dtype of ``x``.
    """
    if seen_within(x, low, high):
        return x
    if not torch.compiler.is_compiling():
        if torch._C._get_tracing_state() is not None or torch.autograd.forward_ad._current_level >= 0:
            # Tracers want single operations, and forward mode a rule: here the gradient always passes.
            inside = x.detach().clamp(low, high)
            return torch.where(inside != x, inside + (x - x.detach()), x)
        if not ((x.requires_grad and torch.is_grad_enabled()) or torch._C._are_functorch_transforms_active()):
            return x.clamp(low, high)
    output: Tensor = _Bounded.apply(x, low, high)  # type: ignore[no-untyped-call, unused-ignore]
    return output
