"""One attack on one batch: craft adversarial examples, check them, and ask the model itself."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from jpegdl.errors import UsageError
from jpegdl.layer import PrependedModel
from jpegdl.random import isolated
from jpegdl.robustness import attacks
from jpegdl.robustness.autoattack import AUTOATTACK, FEWEST_CLASSES, autoattack
from jpegdl.robustness.config import ATTACKS, TRANSFERRED
from jpegdl.robustness.surrogates import is_random, with_gradient

NORMS = ("Linf", "L2")
TOLERANCE = 1e-6  # beyond eps, in units of pixels from 0 to 1: rounding of float32
SALT, JUDGING = 0xA77AC4, 0x1ED6E  # the second is the seed of the draws that a random layer's answer is taken from


@dataclass(frozen=True)
class Examples:
    """Adversarial examples: what an attack made of a batch.

    Attributes:
        images: (N, 3, H, W) in [0, 1], within eps of the originals.
        fooled: (N,) bool, which of them the model itself puts into a wrong class.
        distances: (N,) float64, how far each was moved, in the attack's norm and units of pixels from 0 to 1.
    """

    images: Tensor
    fooled: Tensor
    distances: Tensor


def attack_images(
    model: PrependedModel,
    images: Tensor,
    labels: Tensor,
    attack: str,
    norm: str,
    eps: float,
    *,
    gradient: str = "own",
    source: nn.Module | None = None,
    draws: int = 10,
    queries: int = 5000,
    seed: int = 0,
) -> Examples:
    """Attack a model on a batch of images.

    Whatever gradient the attack follows, its images are clipped to ``eps`` and to [0, 1], and ``model`` itself judges them.

    Args:
        model: in eval mode.
        images: (N, 3, H, W) float32 in [0, 1].
        labels: (N,) class indices. An image that the model gets wrong to begin with counts as fooled.
        attack: one of :data:`jpegdl.robustness.ATTACKS`.
        norm: Linf or L2.
        eps: largest change, in units of pixels from 0 to 1.
        gradient: which gradient of the layer the attack follows; see :func:`jpegdl.robustness.with_gradient`. square follows
            none.
        source: another model, from images to logits, whose gradient is followed instead (a transfer attack).
        draws: if the layer is random, average gradients over this many passes, and take the answer of the majority.
        queries: how many images square may try for each image.
        seed: of everything random.

    Raises:
        UsageError: the model is in training mode; the attack, norm or gradient is unknown; eps is not above 0; the attack
            cannot transfer; or there are too few classes.
    """
    if attack not in ATTACKS:
        raise UsageError(f"attack must be one of {', '.join(ATTACKS)}, got {attack!r}")
    if norm not in NORMS:
        raise UsageError(f"norm must be Linf or L2, got {norm!r}")
    if not 0 < eps < float("inf"):
        raise UsageError(f"eps must be a finite number greater than 0, got {eps}")
    if model.training:  # every batch would change it
        raise UsageError("model is in training mode: call model.eval() first")
    if source is not None and attack not in TRANSFERRED:
        raise UsageError(f"transfers are made with {', '.join(TRANSFERRED)}, got {attack!r}")
    draws = draws if is_random(model.layer) else 1
    if source is not None:
        followed = attacks.GradientSource(source, 1, judge=lambda x, y: ~answers(model, x, y, draws))
        seen = source
    else:
        seen = with_gradient(model, gradient)
        followed = attacks.GradientSource(seen, draws)
    # Not the seed itself: weights that were drawn with it would be the very numbers of a random start.
    seed = int(np.random.SeedSequence((seed, SALT)).generate_state(1)[0])
    generator = torch.Generator().manual_seed(seed)
    with isolated(seed):
        if attack in AUTOATTACK:
            fewest = FEWEST_CLASSES.get(attack, 2)
            with torch.no_grad():
                classes = model(images[:1]).shape[1]
            if classes < fewest:
                raise UsageError(f"{attack} needs at least {fewest} classes, and the model has {classes}")
            mean = seen if draws == 1 or source is not None else _Mean(seen, draws)
            made = autoattack(attack, mean, images, labels, norm, eps, queries=queries, seed=seed, transfer=source is not None)
        elif attack == "fgsm":
            made = attacks.fgsm(followed, images, labels, norm, eps)
        else:
            strong = attack == "pgd-strong"
            made = attacks.pgd(
                followed,
                images,
                labels,
                norm,
                eps,
                steps=attacks.STRONG_STEPS if strong else attacks.PGD_STEPS,
                restarts=attacks.STRONG_RESTARTS if strong else 1,
                generator=generator,
            )
    made = attacks.project_to_ball(made.detach(), images, norm, eps)
    distances = attacks.distance(made, images, norm)
    if bool((distances > eps + TOLERANCE).any()) or not bool(((made >= 0) & (made <= 1)).all()):
        raise AssertionError(f"{attack} left eps {eps} ({float(distances.max())}) or [0, 1]")
    return Examples(made, ~answers(model, made, labels, draws), distances)


@torch.no_grad()
def answers(model: nn.Module, images: Tensor, labels: Tensor, draws: int = 1) -> Tensor:
    """Return (N,) bool: which images a model takes for what they are, in more than half of ``draws`` passes with random numbers
    of one seed."""
    right = torch.zeros_like(labels)
    with isolated(JUDGING):
        for _ in range(draws):
            logits = model(images)
            right += (logits.argmax(1) == labels) & logits.isfinite().all(1)  # NaN is no answer
    return 2 * right > draws


class _Mean(nn.Module):
    """The mean logits of a random model over several draws."""

    def __init__(self, model: nn.Module, draws: int) -> None:
        super().__init__()
        self.model, self._draws = model, draws

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([self.model(images) for _ in range(self._draws)]).mean(0)
