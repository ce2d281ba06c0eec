"""The settings of an attack."""

from dataclasses import dataclass, field
from typing import Annotated, Literal, get_args

from jpegdl.errors import UsageError
from jpegdl.layer import Rounding
from jpegdl.robustness.autoattack import AUTOATTACK, check_autoattack
from jpegdl.robustness.corruptions import KINDS, check_corruptions
from jpegdl.runs.config import DataPlace
from jpegdl.runs.device import compute_device
from jpegdl.settings import Count, Positive, Quality, Range, Seed, check_fields

OWN_ATTACKS = ("fgsm", "pgd", "pgd-strong")
ATTACKS = (*OWN_ATTACKS, *AUTOATTACK)
BLACK_BOX = "square"
WHITE_BOX = tuple(attack for attack in ATTACKS if attack != BLACK_BOX)
#: Those that a transfer from the plain model is made with: one that aims at the plain model's own runners-up, or searches for
#: its own nearest boundary, says little of another model.
TRANSFERRED = ("fgsm", "pgd", "pgd-strong", "apgd-ce")
Gradient = Literal["own", "ste", "none", "identity"]
GRADIENTS: tuple[Gradient, ...] = get_args(Gradient)


@dataclass
class AttackConfig:
    """What to attack with, and on which images.

    Args:
        eps: largest changes of a pixel value (Linf), in 1/255 of the range from black to white. 8 means 8/255. A list; []
            for no attacks in Linf.
        eps_l2: largest Euclidean lengths of the change of a whole image (L2), with pixel values from 0 to 1. A list; [] for no
            attacks in L2.
        attacks: fgsm (one step), pgd (5 steps of 2.5 eps / 5 from a random start, as published), pgd-strong (50 steps of
            2.5 eps / 50, 5 times: from the image and from 4 random starts), and AutoAttack's apgd-ce, apgd-t, fab-t (100 steps
            each, the last two against each of up to 9 other classes) and square, which sees logits alone. Those of AutoAttack
            need the extra attack. Default: all but fab-t, which is by far the slowest.
        gradients: which gradients of the layer attacks follow: own (its own, as published), ste (straight through the
            rounding), none (that of the level cap alone) and identity (straight through the whole layer). The forward pass
            stays the same. own must be among them. Those that a layer does not have, or that equal another, are left out.
        rounding: replace the trained quantizer by this one before the attack, such as hard or sample. Default: keep it.
        images: how many test images, drawn evenly over the classes; all, if there are fewer.
        images_seed: seed that draws the images, and that everything random in attacks and corruptions depends on.
        draws: for a random layer (rounding sample): how many draws to average gradients over. As many draws vote on each
            answer.
        queries: how many images square may try for each image. AutoAttack's own number is 5000.
        corruptions: kinds of common corruptions, named as in ImageNet-C; [] for none. They need the extra attack, and images
            of at least 32 pixels.
        severities: severities of these, from 1 to 5.
        jpeg: qualities, 1 to 100. Images go through a real JPEG file (4:2:0) of each; [] for none.
        data: where the run's test images are now.
        batch_size: images that are attacked at a time.
        device: auto (cuda where there is one, else cpu), cpu, gpu, cuda, cuda:N or mps.
    """

    eps: list[Positive] = field(default_factory=lambda: [1.0, 2.0, 4.0, 8.0])
    eps_l2: list[Positive] = field(default_factory=list)
    attacks: list[str] = field(default_factory=lambda: [attack for attack in ATTACKS if attack != "fab-t"])
    gradients: list[Gradient] = field(default_factory=lambda: list(GRADIENTS))
    rounding: Rounding | None = None
    images: Count = 200
    images_seed: Seed = 0
    draws: Count = 10
    queries: Count = 1000
    corruptions: list[str] = field(default_factory=lambda: list(KINDS))
    severities: list[Annotated[int, Range(1, 5)]] = field(default_factory=lambda: [1, 2, 3, 4, 5])
    jpeg: list[Quality] = field(default_factory=lambda: [10, 20, 30, 40, 50, 60, 70, 80, 90])
    data: DataPlace = field(default_factory=DataPlace)
    batch_size: Count = 64
    device: str = "auto"

    @property
    def budgets(self) -> list[tuple[str, float]]:
        """Pairs of norm and largest change, with pixels from 0 to 1, ascending within each norm."""
        return [("Linf", eps / 255) for eps in sorted(self.eps)] + [("L2", eps) for eps in sorted(self.eps_l2)]


def check_attack(config: AttackConfig) -> None:
    """Refuse settings that nothing could be attacked with, and those whose packages are missing.

    Raises:
        UsageError: names the setting, what it is and what it may be.
    """
    check_fields(config)
    for name, accepted in (("attacks", ATTACKS), ("corruptions", KINDS)):
        if unknown := [value for value in getattr(config, name) if value not in accepted]:
            raise UsageError(f"{name} must be some of {', '.join(accepted)}, got {unknown[0]!r}")
    if "own" not in config.gradients:
        raise UsageError(f"gradients must include own, which the others are compared with, got {config.gradients}")
    if bool(config.attacks) != bool(config.eps or config.eps_l2):
        missing, there = ("attacks", "eps") if not config.attacks else ("eps and eps_l2", "attacks")
        raise UsageError(f"{there} are given but {missing} are empty: give both, or neither")
    if config.corruptions and not config.severities:
        raise UsageError("severities are empty: give some from 1 to 5, or no corruptions")
    for name in ("eps", "eps_l2", "attacks", "gradients", "corruptions", "severities", "jpeg"):
        if len(set(getattr(config, name))) < len(getattr(config, name)):
            raise UsageError(f"{name} must not repeat anything, got {getattr(config, name)}")
    compute_device(config.device)
    if not (config.attacks or config.corruptions or config.jpeg):
        raise UsageError("attacks, corruptions and jpeg are all empty, so there is nothing to do")
    if set(config.attacks) & set(AUTOATTACK):
        check_autoattack()
    if config.corruptions:
        check_corruptions()
