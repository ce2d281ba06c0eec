"""What attacks that were made one by one say together: robust accuracy, who broke what, and signs of masked gradients."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import bdtr

from jpegdl.robustness.config import BLACK_BOX

Bits = np.ndarray[Any, np.dtype[np.bool_]]

SIGNIFICANT = 0.05
#: What the gradient of a trial is called where there is none of the layer's: square sees logits alone, a transfer takes that of
#: the plain model.
NO_GRADIENT, TRANSFER = "black-box", "plain"


@dataclass(frozen=True)
class Trial:
    """One attack with one gradient at one eps."""

    attack: str  # one of ATTACKS
    gradient: str  # own, ste, none, identity; plain for a transfer from the plain model; black-box for square
    norm: str  # Linf or L2
    eps: float  # in units of pixels from 0 to 1

    @property
    def name(self) -> str:
        return f"{self.norm}-{255 * self.eps:.6g}-{self.attack}-{self.gradient}"


@dataclass(frozen=True, eq=False)  # arrays do not compare to a truth value
class AttackOutcome:
    """What a trial found."""

    trial: Trial
    broken: Bits  # (images,) of those that the model knows, which it took for another class
    largest: float  # how far an image was moved at most, in units of pixels from 0 to 1
    #: Share of the broken images that the plain model knows and that, changed so, it takes for another class too; None without
    #: a plain model, or where it knows none.
    fools_plain: float | None


def levels(outcomes: list[AttackOutcome], right: Bits) -> list[dict[str, Any]]:
    """Return one entry for each norm and eps, ascending.

    An image that is broken at one eps is broken at every larger one in that norm, since what broke it lies within that too.

    Args:
        outcomes: all of them.
        right: (images,) which images the model knows, unchanged.

    Returns:
        Of each: ``norm``; ``eps``, in units of pixels from 0 to 1, and ``eps_255``, in 1/255; ``accuracy``, the share of all
        images that no trial broke, and ``robust``, which; ``own_gradient``, the same for white-box attacks through the layer's
        own gradient alone (None without any); ``won``, the attack and gradient that broke most; ``by_gradient`` and
        ``by_attack``, each with ``accuracy`` under all of these at this eps and ``alone``, the share of all images that they
        alone broke; ``trials``, each with ``attack``, ``gradient``, ``accuracy``, ``alone``, ``largest``
        and ``fools_plain``.
    """
    found = []
    for norm in dict.fromkeys(outcome.trial.norm for outcome in outcomes):
        every, own = np.zeros_like(right), np.zeros_like(right)
        for eps in sorted({outcome.trial.eps for outcome in outcomes if outcome.trial.norm == norm}):
            here = [outcome for outcome in outcomes if (outcome.trial.norm, outcome.trial.eps) == (norm, eps)]
            own_here = [outcome for outcome in here if _is_own(outcome.trial)]
            every, own = every | _broken(here, right), own | _broken(own_here, right)
            most = max(here, key=lambda outcome: int(outcome.broken.sum()))
            found.append(
                {
                    "norm": norm,
                    "eps": eps,
                    "eps_255": 255 * eps,
                    "accuracy": _share(right & ~every),
                    "own_gradient": _share(right & ~own) if own_here else None,
                    "robust": bits(right & ~every),
                    "won": {"attack": most.trial.attack, "gradient": most.trial.gradient},
                    "by_gradient": _grouped(here, right, "gradient"),
                    "by_attack": _grouped(here, right, "attack"),
                    "trials": [_described(outcome, here, right) for outcome in here],
                }
            )
    return found


def masking(outcomes: list[AttackOutcome], check: list[AttackOutcome], right: Bits, chance: float) -> dict[str, Any]:
    """Return signs that gradients say too little, so that white-box attacks look weaker than the model is.

    Args:
        outcomes: of the attacks asked for.
        check: of a strong attack with an eps so large that every model should give way.
        right: (images,) which images the model knows.
        chance: accuracy of guessing.

    Returns:
        ``flags``: each with ``norm``, ``eps_255`` and ``text``. Raised where attacks that do not take the layer's own gradient
        (the black box, transfer, each surrogate gradient) break images that none of those that do breaks, and more than the
        other way round by more than chance explains (one-sided sign test over images, p < 0.05 each, not adjusted for how many
        there are); and where the check leaves accuracy. ``check``: None without one; else
        ``attack``, ``norm``, ``eps_255``, ``own_gradient`` and ``accuracy``, with the layer's own gradient alone and with all.

    Source: Carlini et al. 2019, "On Evaluating Adversarial Robustness"; Athalye et al. 2018.
    """
    flags = []
    for key in dict.fromkeys((outcome.trial.norm, outcome.trial.eps) for outcome in outcomes):
        here = [outcome for outcome in outcomes if (outcome.trial.norm, outcome.trial.eps) == key]
        own = [outcome for outcome in here if _is_own(outcome.trial)]
        rivals = {
            "the black box attack": [outcome for outcome in here if outcome.trial.gradient == NO_GRADIENT],
            "transfer from the plain model": [outcome for outcome in here if outcome.trial.gradient == TRANSFER],
        }
        # Each on its own: two of them together have two tries at an image, and break more than one even where none is masked.
        for gradient in dict.fromkeys(outcome.trial.gradient for outcome in here):
            if gradient not in ("own", TRANSFER, NO_GRADIENT):
                rivals[f"the surrogate gradient {gradient}"] = [
                    outcome for outcome in here if outcome.trial.gradient == gradient
                ]
        for name, rival in rivals.items():
            if not own or not rival:
                continue
            ours, theirs = _broken(own, right), _broken(rival, right)
            more, fewer = int((theirs & ~ours).sum()), int((ours & ~theirs).sum())
            if (p := sign_test(more, fewer)) < SIGNIFICANT:
                text = (
                    f"{name} broke {more} images that no attack through the layer's own gradient did, and missed {fewer} that "
                    f"those broke (p = {p:.2g}): the layer's own gradient is masked"
                )
                flags.append({"norm": key[0], "eps_255": 255 * key[1], "text": text})
    if not check:
        return {"flags": flags, "check": None}
    trial = check[0].trial
    own_left = _share(right & ~_broken([outcome for outcome in check if _is_own(outcome.trial)], right))
    left = _share(right & ~_broken(check, right))
    lefts = [("through the layer's own gradient", own_left)]
    if len(tried := [outcome.trial.gradient for outcome in check]) > 1:
        lefts.append((f"with all of the gradients {', '.join(tried)}", left))
    for name, accuracy in lefts:
        if accuracy > 0:
            above = "above" if accuracy > chance else "not above"
            text = (
                f"{trial.attack} {name} leaves {100 * accuracy:.1f} % at {255 * trial.eps:g}/255, where nothing should be left "
                f"({above} chance, {100 * chance:.1f} %)"
            )
            flags.append({"norm": trial.norm, "eps_255": 255 * trial.eps, "text": text})
    found = {"attack": trial.attack, "norm": trial.norm, "eps_255": 255 * trial.eps, "own_gradient": own_left, "accuracy": left}
    return {"flags": flags, "check": found}


def sign_test(more: int, fewer: int) -> float:
    """Return the probability that of ``more + fewer`` tosses of a coin at least ``more`` are heads."""
    return float(bdtr(fewer, more + fewer, 0.5))


def bits(flags: Bits) -> str:
    """Return one digit for each image, 1 for yes."""
    return "".join("01"[int(flag)] for flag in flags)


def from_bits(text: str) -> Bits:
    """Return the inverse of :func:`bits`."""
    return np.array([digit == "1" for digit in text], dtype=np.bool_)


def _is_own(trial: Trial) -> bool:
    return trial.gradient == "own" and trial.attack != BLACK_BOX


def _broken(outcomes: list[AttackOutcome], right: Bits) -> Bits:
    """(images,) which were broken by any of them."""
    broken = np.zeros_like(right)
    for outcome in outcomes:
        broken = broken | outcome.broken
    return broken


def _share(flags: Bits) -> float:
    return float(flags.mean())


def _alone(some: list[AttackOutcome], here: list[AttackOutcome], right: Bits) -> float:
    """Share of all images that ``some`` broke and none of the others here."""
    others = [outcome for outcome in here if outcome not in some]
    return _share(_broken(some, right) & ~_broken(others, right))


def _grouped(here: list[AttackOutcome], right: Bits, part: str) -> dict[str, dict[str, float]]:
    groups: dict[str, list[AttackOutcome]] = {}
    for outcome in here:
        groups.setdefault(getattr(outcome.trial, part), []).append(outcome)
    return {
        name: {"accuracy": _share(right & ~_broken(some, right)), "alone": _alone(some, here, right)}
        for name, some in groups.items()
    }


def _described(outcome: AttackOutcome, here: list[AttackOutcome], right: Bits) -> dict[str, Any]:
    return {
        "attack": outcome.trial.attack,
        "gradient": outcome.trial.gradient,
        "accuracy": _share(right & ~outcome.broken),
        "alone": _alone([outcome], here, right),
        "largest": outcome.largest,
        "fools_plain": outcome.fools_plain,
    }
