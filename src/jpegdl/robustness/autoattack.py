"""AutoAttack's four attacks, from the package pyautoattack, without what it leaves behind."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from jpegdl.extras import require
from jpegdl.random import isolated

AUTOATTACK = ("apgd-ce", "apgd-t", "fab-t", "square")
STEPS = 100
TARGETS = 9  # other classes that targeted attacks try, at most
FEWEST_CLASSES = {"apgd-t": 4}  # its loss looks at the fourth largest logit
_QUIET = logging.getLogger("jpegdl.robustness.autoattack")
_QUIET.addHandler(logging.NullHandler())
_QUIET.propagate = False  # what it has to say of zero gradients is in the result


def check_autoattack() -> None:
    """Refuse to go on without the package.

    Raises:
        UsageError: says how to install it.
    """
    require(f"{', '.join(AUTOATTACK)} need", "pyautoattack", otherwise=", or leave them out of attacks")


def autoattack(
    attack: str,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    norm: str,
    eps: float,
    *,
    queries: int,
    seed: int,
    transfer: bool = False,
) -> Tensor:
    """Run one attack of AutoAttack.

    The state of random number generators, and gradients of parameters, are afterwards what they were before.

    Args:
        attack: one of :data:`AUTOATTACK`.
        model: from images to logits, in eval mode, deterministic.
        images: (N, 3, H, W) float32 in [0, 1].
        labels: (N,) their class indices.
        norm: Linf or L2.
        eps: largest change, in units of ``images``.
        queries: of square.
        seed: of all that is random in it.
        transfer: apgd-ce only: return the images of the highest loss, for another model, and not those that fool this one.

    Returns:
        (N, 3, H, W): images, those that were not changed successfully as they were unless ``transfer``.

    Source: Croce and Hein 2020 (AutoAttack); Andriushchenko et al. 2020 (Square).
    """
    from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
    from pyautoattack.fab_pt import FABAttack_PT
    from pyautoattack.square import SquareAttack

    with _frozen(model), isolated(seed):
        with torch.no_grad():
            targets = min(TARGETS, model(images[:1]).shape[1] - 1)
        common = {"eps": eps, "norm": norm, "seed": seed, "device": images.device}
        if attack == "apgd-ce":
            return APGDAttack(model, n_iter=STEPS, loss="ce", logger=_QUIET, **common).perturb(  # type: ignore[no-any-return]
                images, labels, best_loss=transfer
            )
        if attack == "apgd-t":
            run = APGDAttack_targeted(model, n_iter=STEPS, n_target_classes=targets, logger=_QUIET, **common)
        elif attack == "fab-t":
            run = FABAttack_PT(model, n_iter=STEPS, targeted=True, n_target_classes=targets, **common)
        else:
            run = SquareAttack(model, n_queries=queries, resc_schedule=False, **common)
        return run.perturb(images, labels)  # type: ignore[no-any-return]


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """No gradients for parameters inside: FAB's ``backward`` would add to them."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
