"""A trained run under attack: which trials there are, which of them are done, and the result in the run folder."""

import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from jpegdl.errors import UsageError
from jpegdl.files import digest_of_file, write_csv, write_json
from jpegdl.layer import PrependedModel
from jpegdl.robustness import attacks
from jpegdl.robustness.attack_batch import answers, attack_images
from jpegdl.robustness.attack_figures import attack_rows
from jpegdl.robustness.autoattack import AUTOATTACK, FEWEST_CLASSES, STEPS, TARGETS
from jpegdl.robustness.config import BLACK_BOX, TRANSFERRED, WHITE_BOX, AttackConfig, check_attack
from jpegdl.robustness.corruptions import SMALLEST, CorruptedImages, corruption_versions, jpeg_versions, through_files
from jpegdl.robustness.results import attack_name
from jpegdl.robustness.robust_accuracy import (
    NO_GRADIENT,
    TRANSFER,
    AttackOutcome,
    Bits,
    Trial,
    bits,
    from_bits,
    levels,
    masking,
)
from jpegdl.robustness.surrogates import gradients_of, is_random, note_if_random
from jpegdl.runs import RunFolder
from jpegdl.runs.config import DataPlace
from jpegdl.runs.opened import OpenedRun, open_for_test, open_plain
from jpegdl.runs.pieces import Pieces
from jpegdl.runs.progress import Progress

_FORMAT = 3  # of what attacks and corruptions do; pieces of another one are made again

#: The check for masked gradients: with so much room every model should give way to such an attack.
CHECK_ATTACK, CHECK_NORM, CHECK_EPS = "pgd-strong", "Linf", 64 / 255


def attack_run(
    folder: RunFolder,
    config: AttackConfig,
    plain: RunFolder | None = None,
    progress: Progress | None = None,
    corrupted: CorruptedImages | None = None,
) -> dict[str, Any]:
    """Attack what a run trained, and write ``attack.json`` and ``attack.csv`` to its folder.

    Every finished piece (an attack with a gradient at an eps; a corruption) is kept in the folder's ``attack/``, so that
    another call with the same settings does only what is missing. With a ``rounding`` other than the trained one the files are
    ``attack-ROUNDING.json``, ``.csv`` and ``attack-ROUNDING/``.

    Args:
        folder: of a finished run.
        config: what to attack with.
        plain: the run of the plain model of the same seed, for transfers from it; None for no transfers.
        progress: called after each batch with what is being done, how many pieces are done, and how many there are.
        corrupted: keeps corrupted images for the next run.

    Returns:
        The content of ``attack.json``, with accuracies from 0 to 1:

        - ``arm``, ``seed``, ``backbone``, ``model`` (digest of its file), ``rounding`` (None without a quantizer) and ``draws``
          (None if nothing is random).
        - ``classes`` (how many), ``chance``, ``images`` (how many were attacked), ``indices`` (theirs among the test images),
          ``data`` (name, classes and test images) and ``other_images`` (how they differ from those of the run's own test; None
          if they do not).
        - ``clean``, with ``accuracy`` and ``correct``; ``plain``, the same for the plain model, or None.
        - ``levels`` and ``masking``: see :mod:`jpegdl.robustness.robust_accuracy`. ``corruptions``, ``jpeg``.
        - ``left_out``: what was not done, by name, and why. Accuracies are without it.
        - ``settings`` and ``versions``.

    Raises:
        UsageError: a setting that cannot be used, a missing package, no trained model, other classes, no GPU where one is asked
            for, images too small for corruptions, a GPU without enough memory, or another process attacks the same run.
    """
    check_attack(config)
    opened = open_for_test(folder, config.data, config.device, config.rounding)
    return attack_opened(opened, config, plain if plain is None or plain.path != folder.path else None, progress, corrupted)


def attack_opened(
    opened: OpenedRun,
    config: AttackConfig,
    plain: RunFolder | None = None,
    progress: Progress | None = None,
    corrupted: CorruptedImages | None = None,
) -> dict[str, Any]:
    """Attack a model that is open already; see :func:`attack_run`.

    Args:
        opened: the model, its test images, and the folder that ``attack.json`` and ``attack.csv`` are left in.
        config: what to attack with.
        plain: the run of the plain model of the same seed, for transfers from it; None for no transfers.
        progress, corrupted: see :func:`attack_run`.

    Raises:
        UsageError: see :func:`attack_run`.
    """
    folder, attack = opened.folder, _Attack(opened, config, plain, corrupted or CorruptedImages(0))
    with attack.pieces.claimed(f"{folder} is being attacked"):
        try:
            result = attack.run(progress or (lambda what, done, total: None))
        except torch.OutOfMemoryError as error:
            raise UsageError(f"{attack.device} has no memory left: give a smaller batch_size; {error}") from error
        write_json(attack.file.with_suffix(".json"), result)
        write_csv(attack.file.with_suffix(".csv"), attack_rows({result["arm"]: {result["seed"]: result}}))
    return result


class _Attack:
    """A model, its images, and all that is to be done to them."""

    def __init__(self, opened: OpenedRun, config: AttackConfig, plain: RunFolder | None, corrupted: CorruptedImages) -> None:
        self.corrupted = corrupted
        folder = opened.folder
        self.config, self.opened, self.model, self.device = config, opened, opened.model, opened.device
        self.classes, self.trained = opened.run.classes, opened.run.config
        if config.corruptions and self.trained.data.pixels < SMALLEST:
            raise UsageError(
                f"corruptions need images of at least {SMALLEST} pixels on a side, and those of {folder} have "
                f"{self.trained.data.pixels}: give --corruptions '[]'"
            )
        self.plain = None if plain is None else _transfer_source(plain, opened)
        self.indices, self.images, self.labels = self._images()
        self.file = folder.path / attack_name(config.rounding)
        note_if_random(self.model, self._batch(slice(0, 2))[0])  # with code of the user's own in it, it may be
        self.draws = config.draws if is_random(self.model.layer) else 1
        self.pieces = Pieces(self.file, self._made_of())
        self._plain_digest = None if plain is None else digest_of_file(plain.model_file)

    def _images(self) -> tuple[list[int], Tensor, Tensor]:
        """Test images: indices in ascending order, images (N, 3, size, size), class indices (N,)."""
        indices = self.opened.images(self.config.images, self.config.images_seed)
        images, labels = zip(*(self.opened.data.test[index] for index in indices), strict=True)
        return indices, torch.stack(images), torch.tensor(labels)

    def _made_of(self) -> dict[str, Any]:
        """Return what every piece depends on."""
        data = self.trained.data
        return {
            "format": _FORMAT,
            "model": self.opened.digest,
            "torch": torch.__version__,
            "layer": asdict(self.trained.layer),
            "backbone": self.trained.backbone,
            "rounding": self.opened.rounding,
            "pixels": [data.pixels, data.side, data.filter, data.jpeg_test],
            "data": self.opened.data.test.fingerprint,
            "classes": self.classes,
            "indices": self.indices,
            "attack_seed": self.config.images_seed,  # as earlier versions called it, whose pieces are as good
            "batch_size": self.config.batch_size,
            "draws": self.draws,
        }

    def trials(self) -> tuple[list[Trial], list[Trial], dict[str, str]]:
        """Those asked for, those of the check, and by name why some are left out."""
        offered = gradients_of(self.model.layer)
        gradients = [gradient for gradient in self.config.gradients if gradient in offered]
        chosen, left_out = [], {}
        for attack in self.config.attacks:
            if len(self.classes) < (fewest := FEWEST_CLASSES.get(attack, 2)):
                left_out[attack] = f"needs at least {fewest} classes, and there are {len(self.classes)}"
                continue
            if attack == BLACK_BOX:
                chosen.append((attack, NO_GRADIENT))
                continue
            chosen += [(attack, gradient) for gradient in gradients]
            if self.plain is not None and attack in TRANSFERRED:
                chosen.append((attack, TRANSFER))
        layer = not isinstance(self.model.layer, nn.Identity)  # without one there is nothing to go around
        if self.plain is None and layer and set(self.config.attacks) & set(TRANSFERRED):
            left_out["transfer"] = "there is no plain model to take it from, and robust accuracy may be lower with one"
        for gradient in dict.fromkeys([*offered, *self.config.gradients]) if self.config.attacks else ():
            if gradient not in gradients and gradient in offered:
                left_out[f"gradient {gradient}"] = "not asked for, and robust accuracy may be lower with it"
            elif gradient not in offered and layer:
                left_out[f"gradient {gradient}"] = "not of this layer, or the same as another of its gradients"
        if (quality := self.trained.data.jpeg_test) is not None:
            left_out[f"data.jpeg_test {quality}"] = "images are changed after that JPEG file, and go through none again"
        asked = [Trial(*which, norm, eps) for norm, eps in self.config.budgets for which in chosen]
        check = []
        if self.config.eps and any(attack in WHITE_BOX for attack in self.config.attacks):
            check = [Trial(CHECK_ATTACK, gradient, CHECK_NORM, CHECK_EPS) for gradient in gradients]
        return asked, check, left_out

    def run(self, progress: Progress) -> dict[str, Any]:
        asked, check, left_out = self.trials()
        right = self._right(self.model, self.draws)
        plain_right = None if self.plain is None else self._right(self.plain, 1)
        pieces = list(dict.fromkeys([*asked, *check]))
        jpegs = [f"jpeg-{quality}" for quality in self.config.jpeg]
        corrupted = [f"{kind}-{severity}" for kind in self.config.corruptions for severity in self.config.severities]
        counter = _Counter(progress, len(pieces) + len(jpegs) + len(corrupted))
        outcomes = {trial: self._outcome(trial, right, plain_right, counter) for trial in pieces}
        shares = {name: self._corrupted(name, counter) for name in [*jpegs, *corrupted]}
        chance = 1 / len(self.classes)
        return {
            "arm": self.opened.settings["arm"],
            "seed": self.opened.settings["seed"],
            "model": self.opened.digest,
            "backbone": self.trained.backbone,
            "rounding": self.opened.rounding,
            "draws": self.draws if is_random(self.model.layer) else None,
            "classes": len(self.classes),
            "chance": chance,
            "images": len(self.images),
            "indices": self.indices,
            "data": {"name": self.opened.data.config.kind, "test": self.opened.data.test.fingerprint},
            "other_images": self.opened.other_images,
            "clean": {"accuracy": float(right.mean()), "correct": bits(right)},
            "plain": None
            if plain_right is None
            else {"accuracy": float(plain_right.mean()), "correct": bits(plain_right), "model": self._plain_digest},
            "levels": levels([outcomes[trial] for trial in asked], right),
            "masking": masking([outcomes[trial] for trial in asked], [outcomes[trial] for trial in check], right, chance),
            "left_out": left_out,
            "corruptions": _by_kind(self.config.corruptions, self.config.severities, shares),
            "jpeg": _mean({str(quality): shares[f"jpeg-{quality}"] for quality in self.config.jpeg}),
            "settings": asdict(replace(self.config, data=DataPlace(), device="auto")),  # where, and not what
            "versions": _versions(self.config),
            "machine": str(self.device.type),
        }

    def _outcome(self, trial: Trial, right: Bits, plain_right: Bits | None, counter: "_Counter") -> AttackOutcome:
        """From the folder, or made now: of the images that the model knows, since the others need no attack."""
        # Which images are known may differ by one at the very edge, on another device: those that are new were not attacked.
        more = {"trial": asdict(trial), "with": self._with(trial), "right": bits(right)}
        if (found := self.pieces.find(trial.name, more)) is None:
            began = time.monotonic()
            broken, plain_fooled, largest = np.zeros_like(right), np.zeros_like(right), 0.0
            for start, batch in counter.batches(trial.name, right.nonzero()[0], self.config.batch_size):
                images, labels = self._batch(batch)
                examples = attack_images(
                    self.model,
                    images,
                    labels,
                    trial.attack,
                    trial.norm,
                    trial.eps,
                    gradient=trial.gradient if trial.gradient in gradients_of(self.model.layer) else "own",
                    source=self.plain if trial.gradient == TRANSFER else None,
                    draws=self.draws,
                    queries=self.config.queries,
                    seed=_seed(self.config.images_seed, start),
                )
                broken[batch] = examples.fooled.cpu().numpy()
                largest = max(largest, float(examples.distances.max()))
                if self.plain is not None:
                    plain_fooled[batch] = (~answers(self.plain, examples.images, labels)).cpu().numpy()
            found = {
                "broken": bits(broken),
                "plain_fooled": None if self.plain is None else bits(plain_fooled),
                "largest": largest,
                "seconds": time.monotonic() - began,
            }
            self.pieces.keep(trial.name, more, found)
        else:
            counter.skip()
        broken, share = from_bits(found["broken"]), None
        if plain_right is not None and (both := broken & plain_right).any():
            share = float(from_bits(found["plain_fooled"])[both].mean())
        return AttackOutcome(trial, broken, found["largest"], share)

    def _with(self, trial: Trial) -> dict[str, Any]:
        """Return what a trial depends on besides its own four entries."""
        own: dict[str, Any] = {"plain": self._plain_digest}
        if trial.attack in AUTOATTACK:
            own |= {"pyautoattack": version("pyautoattack"), "steps": STEPS, "targets": TARGETS}
        if trial.attack == BLACK_BOX:
            own["queries"] = self.config.queries
        if trial.attack == "pgd":
            own["steps"] = attacks.PGD_STEPS
        if trial.attack == "pgd-strong":
            own |= {"steps": attacks.STRONG_STEPS, "restarts": attacks.STRONG_RESTARTS}
        return own

    def _corrupted(self, name: str, counter: "_Counter") -> float:
        """Accuracy on corrupted images, 0 to 1, from the folder or measured now."""
        kind, _, degree = name.rpartition("-")
        more = {"corruption": name, "with": jpeg_versions() if kind == "jpeg" else corruption_versions()}
        if (found := self.pieces.find(f"corruption-{name}", more)) is None:
            right = np.zeros(len(self.images), dtype=np.bool_)
            for _, batch in counter.batches(name, np.arange(len(self.images)), self.config.batch_size):
                images, labels = self.images[batch], self.labels[batch]
                if kind == "jpeg":
                    made = through_files(images, int(degree))
                else:
                    seeds = [_seed(self.config.images_seed, self.indices[i]) for i in batch]
                    made = self.corrupted.corrupt(images, kind, int(degree), seeds)
                right[batch] = answers(self.model, made.to(self.device), labels.to(self.device), self.draws).cpu().numpy()
            found = {"correct": bits(right)}
            self.pieces.keep(f"corruption-{name}", more, found)
        else:
            counter.skip()
        return float(from_bits(found["correct"]).mean())

    def _right(self, model: PrependedModel, draws: int) -> Bits:
        """(images,) which of the unchanged images a model knows."""
        size = self.config.batch_size
        parts = [slice(start, start + size) for start in range(0, len(self.images), size)]
        flags = [answers(model, *self._batch(part), draws).cpu().numpy() for part in parts]
        return np.concatenate(flags)

    def _batch(self, which: Any) -> tuple[Tensor, Tensor]:
        return self.images[which].to(self.device), self.labels[which].to(self.device)


class _Counter:
    """Counts pieces, and tells how far each is."""

    def __init__(self, progress: Progress, steps: int) -> None:
        self._progress, self._steps, self._step = progress, steps, 0

    def batches(self, name: str, which: Any, size: int) -> Iterable[tuple[int, Any]]:
        """The indices ``which`` in batches, each with where it begins."""
        self._step += 1
        self._tell(name, 0, len(which))
        for start in range(0, len(which), size):
            yield start, which[start : start + size]
            self._tell(name, min(start + size, len(which)), len(which))

    def skip(self) -> None:
        """A piece is there already."""
        self._step += 1

    def _tell(self, name: str, done: int, images: int) -> None:
        self._progress(name, self._step - 1 + done / max(1, images), self._steps)


def _transfer_source(plain: RunFolder, attacked: OpenedRun) -> PrependedModel:
    """The plain model, of the same classes and size of image."""
    opened = open_plain(plain, attacked)
    if (trained := opened.config.data.pixels) != (own := attacked.run.config.data.pixels):
        raise UsageError(
            f"the model in {plain} takes images of {trained} pixels and that in {attacked.folder} of {own}: attacks cannot "
            "be transferred"
        )
    return opened.model


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _versions(config: AttackConfig) -> dict[str, str]:
    """Of the packages that had a hand in the numbers."""
    found: dict[str, str] = {"torch": torch.__version__}
    if set(config.attacks) & set(AUTOATTACK):
        found["pyautoattack"] = version("pyautoattack")
    return found | (corruption_versions() if config.corruptions else {}) | (jpeg_versions() if config.jpeg else {})


def _mean(by: dict[str, float]) -> dict[str, Any] | None:
    return {"mean": float(np.mean(list(by.values()))), "by": by} if by else None


def _by_kind(kinds: list[str], severities: list[int], shares: dict[str, float]) -> dict[str, Any] | None:
    by = {kind: _mean({str(severity): shares[f"{kind}-{severity}"] for severity in severities}) for kind in kinds}
    return {"mean": float(np.mean([entry["mean"] for entry in by.values() if entry])), "by": by} if by else None
