"""What each frequency is worth: test accuracy without it, without its cap, without its quantizer."""

import copy
import itertools
from collections.abc import Callable
from typing import Any

import torch
from scipy.stats import false_discovery_control
from torch import Tensor

from jpegdl.explain.subject import NotApplicable, Subject, dct_layer, planes_of
from jpegdl.functional import BLOCK
from jpegdl.layer import ImageDctLayer, QuantizingLayer
from jpegdl.statistics import mcnemar, paired_interval

Variant = tuple[str, str, int, int]  # kind, plane, row, column
Counted = dict[str, list[int]]  # by the variant's name: images that it lost and gained


def name_of(variant: Variant) -> str:
    """removed/luma/0/1"""
    return "/".join(map(str, variant))


def variants_of(layer: ImageDctLayer, grey: bool, left_out: list[dict[str, str]]) -> list[list[Variant]]:
    """Return what can be done to the layer, a list for each row of a table; why not the rest is added to ``left_out``."""
    kinds, planes = ["removed"], ["luma", "chroma"]
    if not isinstance(layer, QuantizingLayer):
        left_out.append({"what": "ablation: uncapped, unquantized", "why": f"{type(layer).__name__} does not quantize"})
    else:
        for kind, why in (("uncapped", _no_uncapping(layer)), ("unquantized", _no_unquantizing(layer))):
            if why is None:
                kinds.append(kind)
            else:
                left_out.append({"what": f"ablation: {kind}", "why": why})
    if grey:
        planes = ["luma"]
        left_out.append({"what": "ablation: chroma", "why": "all test images are grey"})
    rows = itertools.product(kinds, planes, range(BLOCK))
    return [[(kind, plane, row, column) for column in range(BLOCK)] for kind, plane, row in rows]


def _no_uncapping(layer: QuantizingLayer) -> str | None:
    if layer.bits is None:
        return "the layer has no level cap"
    if layer.window is None and layer.rounding in ("soft", "sample"):
        return "the quantizer sums over the whole alphabet, which has no end without a cap"
    return None


def _no_unquantizing(layer: QuantizingLayer) -> str | None:
    if layer.rounding == "none":
        return "rounding none does not quantize"
    return "without a level cap, what is not quantized is unchanged" if layer.bits is None else None


def alternative(layer: ImageDctLayer, kind: str, z: Tensor) -> Tensor:
    """Return all coefficients as they would be with ``kind`` done to every frequency; the shape of ``z``.

    The layer's own quantizer does it, with one setting changed.
    """
    if kind == "removed":
        return torch.zeros_like(z)
    assert isinstance(layer, QuantizingLayer)
    other = copy.copy(layer)
    if kind == "uncapped" and layer.rounding == "none":
        return z
    if kind == "uncapped":
        other.bits = None
    else:
        other.rounding = "none"
    return other.alter(z)


class Ablation:
    """Tests of the model with one frequency altered; see :meth:`run`."""

    def __init__(self, subject: Subject) -> None:
        self.subject, self.layer = subject, dct_layer(subject.layer)
        self.behind = subject.model.without_layer()

    def run(
        self,
        groups: list[list[Variant]],
        counted: Counted,
        save: Callable[[Counted], None],
        progress: Callable[[int, int], None],
    ) -> tuple[int, int]:
        """Test every variant that is not counted yet, a group in one pass over the test images.

        Args:
            groups: the variants.
            counted: of those that are done, how many images they lost and gained; filled in.
            save: called with ``counted`` after each group.
            progress: called with how many variants are done, and how many there are.

        Returns:
            How many images there are, and how many of them the unaltered model has right.
        """
        right = self._test_all()
        total = sum(map(len, groups))
        for group in groups:
            progress(len(counted), total)
            if missing := [variant for variant in group if name_of(variant) not in counted]:
                counted |= self._test(missing, right)
                save(counted)
        progress(len(counted), total)
        return len(right), sum(right.values())

    @torch.inference_mode()
    def _test_all(self) -> dict[int, bool]:
        """Return whether the unaltered model has each image right, by its index."""
        right: dict[int, bool] = {}
        for indices, images, targets in self.subject.batches():
            whole = self.layer.alter(self.layer.to_coefficients(images))
            right |= dict(zip(indices.tolist(), self._are_right(whole, targets, images), strict=True))
        return right

    def _are_right(self, z: Tensor, targets: Tensor, images: Tensor) -> list[bool]:
        restored = self.layer.to_images(z, (images.shape[2], images.shape[3])).to(images.dtype)
        found: list[bool] = (self.behind(restored).argmax(1) == targets).tolist()
        return found

    @torch.inference_mode()
    def _test(self, group: list[Variant], right: dict[int, bool]) -> Counted:
        """Return how many images each variant loses and gains. Images that a variant leaves as they are need no test."""
        counted = {name_of(variant): [0, 0] for variant in group}
        planes = planes_of(self.layer)
        for indices, images, targets in self.subject.batches():
            z = self.layer.to_coefficients(images)
            whole = self.layer.alter(z)
            waiting: list[tuple[Variant, Tensor, Tensor]] = []  # variant, which images, their coefficients
            for kind, variants in itertools.groupby(group, key=lambda variant: variant[0]):
                other = alternative(self.layer, kind, z)
                for variant in variants:
                    where = (slice(None), planes[variant[1]], ..., variant[2], variant[3])
                    (changed,) = (whole[where] != other[where]).flatten(1).any(1).nonzero(as_tuple=True)
                    altered = whole[changed]
                    altered[where] = other[where][changed]
                    waiting.append((variant, changed, altered))
                    if sum(len(changed) for _, changed, _ in waiting) >= self.subject.config.batch_size:
                        self._flush(waiting, indices, images, targets, right, counted)
            self._flush(waiting, indices, images, targets, right, counted)
        return counted

    def _flush(
        self,
        waiting: list[tuple[Variant, Tensor, Tensor]],
        indices: Tensor,
        images: Tensor,
        targets: Tensor,
        right: dict[int, bool],
        counted: Counted,
    ) -> None:
        """Test what waits, in one batch, and count it."""
        if not sum(len(changed) for _, changed, _ in waiting):
            waiting.clear()
            return
        altered = torch.cat([altered for _, _, altered in waiting])
        found = iter(self._are_right(altered, torch.cat([targets[changed] for _, changed, _ in waiting]), images))
        for variant, changed, _ in waiting:
            for index in indices[changed.cpu()].tolist():
                now = next(found)
                counted[name_of(variant)][0] += right[index] and not now
                counted[name_of(variant)][1] += now and not right[index]
        waiting.clear()


def judge(counted: Counted, images: int, correct: int) -> dict[str, Any]:
    """Return what counts of lost and gained images say of each variant, with its uncertainty.

    Returns:
        By the variant's name: ``lost`` and ``gained``, images that only the unaltered, only the altered model has right;
        ``accuracy``, and ``change`` to the unaltered model, both shares, 0 to 1; ``low`` and ``high``, a 95 % interval of the
        change, paired by image; ``p``, two-sided, by McNemar's exact test; ``q``, p adjusted for the number of variants:
        among those with q below 0.05 at most one in 20 is there by chance (Benjamini and Hochberg 1995).
    """
    judged: dict[str, Any] = {}
    for name, (lost, gained) in counted.items():
        change = (gained - lost) / images
        low, high = paired_interval(lost, gained, images)
        judged[name] = {
            "lost": lost,
            "gained": gained,
            "accuracy": correct / images + change,
            "change": change,
            "low": low,
            "high": high,
            "p": mcnemar(lost, gained),
        }
    for entry, q in zip(judged.values(), false_discovery_control([e["p"] for e in judged.values()]), strict=True):
        entry["q"] = float(q)
    return judged


def ablate(
    subject: Subject,
    grey: bool,
    left_out: list[dict[str, str]],
    counted: Counted,
    save: Callable[[Counted], None],
    progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """Return the whole ablation, ready for JSON: ``images``, ``accuracy`` of the unaltered model, and ``variants``
    (:func:`judge`).

    Raises:
        NotApplicable: the layer does not work on DCT coefficients, or its batches are empty.
    """
    ablation = Ablation(subject)
    groups = variants_of(ablation.layer, grey, left_out)
    images, correct = ablation.run(groups, counted, save, progress)
    if not images:
        raise NotApplicable("there is no test image")
    return {"images": images, "accuracy": correct / images, "variants": judge(counted, images, correct)}
