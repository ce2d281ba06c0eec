"""FGSM and PGD on images in [0, 1], in Linf and L2."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

PGD_STEPS, STRONG_STEPS, STRONG_RESTARTS = 5, 50, 5
REACH = 2.5  # how far all steps of a PGD lead together, in eps


class GradientSource:
    """Where an attack takes its gradient from, and who tells it whether it has got there.

    Args:
        model: from images to logits, differentiable.
        draws: gradients are averaged over so many passes, for a model that is random.
        judge: from images and class indices to which are taken for another class, for a ``model`` that is not the one under
            attack. Default: what ``model`` itself answers on the way, pass by pass.
    """

    def __init__(self, model: nn.Module, draws: int = 1, judge: Callable[[Tensor, Tensor], Tensor] | None = None) -> None:
        self._model, self._draws, self._judge = model, draws, judge

    def look(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient of each image's cross-entropy, shaped like ``images``; and (N,), in what share of the passes each image
        is taken for another class."""
        total, wrong = torch.zeros_like(images), torch.zeros(len(images), device=images.device)
        for _ in range(self._draws):
            x = images.detach().requires_grad_()
            with torch.enable_grad():
                logits = self._model(x)
                loss = nn.functional.cross_entropy(logits, labels, reduction="sum")
            total += torch.autograd.grad(loss, x)[0]
            wrong += logits.detach().argmax(1) != labels
        fooled = wrong / self._draws if self._judge is None else self._judge(images, labels).float()
        return total / self._draws, fooled


def fgsm(source: GradientSource, images: Tensor, labels: Tensor, norm: str, eps: float) -> Tensor:
    """Take one step of length ``eps`` along the gradient's sign (Linf) or the gradient (L2), clipped to [0, 1].

    Args:
        source: of gradients.
        images: (N, 3, H, W) in [0, 1].
        labels: (N,) their class indices.
        norm: Linf or L2.
        eps: largest change, in units of ``images``.

    Returns:
        (N, 3, H, W): images in [0, 1] within ``eps``.

    Source: Goodfellow et al. 2015.
    """
    gradient, _ = source.look(images, labels)
    return project_to_ball(images + eps * _direction(gradient, norm), images, norm, eps)


def pgd(
    source: GradientSource,
    images: Tensor,
    labels: Tensor,
    norm: str,
    eps: float,
    *,
    steps: int,
    restarts: int,
    generator: torch.Generator,
) -> Tensor:
    """Take steps of 2.5 eps / ``steps`` along the gradient, each followed by a projection, from random starts.

    Where there are several, the first of them starts from the image itself, as steps from a random start in L2 end a little
    beside the worst case. An image is done with at the first step, or start, at which it is taken for another class, of a
    random model in every pass; restarts are for the others.

    Args:
        source: of gradients.
        images: (N, 3, H, W) in [0, 1].
        labels: (N,) their class indices.
        norm: Linf or L2.
        eps: largest change, in units of ``images``.
        steps, restarts: how many.
        generator: of the random starts, on the CPU, so that they are the same on every device.

    Returns:
        (N, 3, H, W): images in [0, 1] within ``eps``, of each the one that is taken for another class in the most passes, of
        equals the last.

    Source: Madry et al. 2018; the published JPEG-DL runs take 5 steps.
    """
    examples, most = images.clone(), torch.zeros(len(images), device=images.device)
    left = torch.arange(len(images), device=images.device)
    for restart in range(restarts):
        # For all images, so that a start does not depend on which others are left.
        start = _random_start(images.shape, norm, eps, generator).to(images)
        x, y = images[left], labels[left]
        moved = x if restart == 0 and restarts > 1 else project_to_ball(x + start[left], x, norm, eps)
        for step in range(steps + 1):
            gradient, fooled = source.look(moved, y)
            better = fooled >= most[left]
            examples[left[better]], most[left[better]] = moved[better], fooled[better]
            left, x, y, moved, gradient = (tensor[fooled < 1] for tensor in (left, x, y, moved, gradient))
            if step == steps or not len(left):
                break
            moved = project_to_ball(moved + REACH * eps / steps * _direction(gradient, norm), x, norm, eps)
        if not len(left):
            break
    return examples


def project_to_ball(moved: Tensor, images: Tensor, norm: str, eps: float) -> Tensor:
    """Return ``moved`` brought back to within ``eps`` of ``images``, and into [0, 1]; where it is not a number, the image
    itself."""
    change = torch.where(moved.isfinite(), moved - images, 0)
    if norm == "Linf":
        change = change.clamp(-eps, eps)
    else:
        change = change * (eps / _length(change).clamp(min=1e-30)).clamp(max=1).to(change.dtype)
    return (images + change).clamp(0, 1)  # which, as images are in [0, 1], leads no further away from them


def distance(moved: Tensor, images: Tensor, norm: str) -> Tensor:
    """Return (N,): how far each image was moved, float64, in units of ``images``."""
    change = (moved - images).double().flatten(1)
    return change.abs().amax(1) if norm == "Linf" else torch.linalg.vector_norm(change, dim=1)


def _direction(gradient: Tensor, norm: str) -> Tensor:
    """The step of length 1 that raises the loss most; none where the gradient is 0."""
    gradient = torch.where(gradient.isfinite(), gradient, 0)
    if norm == "Linf":
        return gradient.sign()
    gradient = gradient / gradient.flatten(1).abs().amax(1).clamp(min=1e-38)[:, None, None, None]  # or squares would be 0
    return gradient / _length(gradient).clamp(min=1e-30).to(gradient.dtype)


def _random_start(shape: torch.Size, norm: str, eps: float, generator: torch.Generator) -> Tensor:
    """Uniform in the cube of Linf, or in the ball of L2."""
    if norm == "Linf":
        return eps * (2 * torch.rand(shape, generator=generator) - 1)
    way = torch.randn(shape, generator=generator)
    radius = torch.rand(shape[0], 1, 1, 1, generator=generator, dtype=torch.float64) ** (1 / way[0].numel())
    return way * (eps * radius / _length(way)).to(way.dtype)


def _length(x: Tensor) -> Tensor:
    """(N, 1, 1, 1): Euclidean lengths, float64."""
    lengths: Tensor = torch.linalg.vector_norm(x.double().flatten(1), dim=1)
    return lengths[:, None, None, None]
