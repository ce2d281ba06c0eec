"""Single images: which to show, what the layer does to them, what both models look at."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from jpegdl import functional as F
from jpegdl.explain.grad_cam import first_maps, grad_cam
from jpegdl.explain.subject import NotApplicable, Subject
from jpegdl.layer import PrependedModel
from jpegdl.random import isolated

DISAGREEMENT = (
    "Chosen by rule: where the probability of the true class differs most between the model with the layer and the plain one, "
    "in both directions."
)
CHANGE = "Chosen by rule: where the layer changes the model's logits most (Euclidean distance to those without it)."
#: By the middle of a file's name, why it is among the chosen.
WAYS = {
    "better": "true class more probable with the layer",
    "worse": "true class less probable with the layer",
    "changed": "logits changed by the layer",
}
#: Frequencies by vertical + horizontal index.
BANDS = {"DC": (0, 0), "low AC": (1, 3), "middle AC": (4, 7), "high AC": (8, 14)}
MAPS = 8  # first-stage feature maps shown


@dataclass
class ShownImage:
    """One chosen image."""

    name: str  # of its file
    numbers: dict[str, Any]  # what to write down of it, ready for JSON
    image: Tensor  # (3, H, W) in [0, 1]
    output: Tensor  # the same after the layer, not clipped
    attention: dict[str, Tensor]  # Grad-CAM++ for the true class, (h, w), of each model that has a feature map
    maps: dict[str, Tensor]  # first-stage feature maps, (8, h, w), of each model that has such


def show(subject: Subject, left_out: list[dict[str, str]]) -> tuple[dict[str, Any], list[ShownImage]]:
    """Choose images and look at them.

    Returns:
        What the choice was made by, ready for JSON: ``rule``, ``images`` (how many were looked at), ``feature_map`` and
        ``first_stage`` (which ones), and what there is of each; and the images.

    Raises:
        NotApplicable: there is neither a layer nor another model, so that nothing tells images apart.
    """
    if isinstance(subject.layer, nn.Identity) and subject.plain is None:
        raise NotApplicable("the run has no layer, and there is no other model to compare with")
    before = {"plain": subject.plain.model} if subject.plain else {"without layer": subject.model.without_layer()}
    compared = {**before, "with layer": subject.model}
    scores = _scores(subject, *compared.values())
    chosen = _choose(scores, subject.config.pictures, by_class=subject.plain is not None)
    content: dict[str, Any] = {
        "rule": DISAGREEMENT if subject.plain else CHANGE,
        "images": len(scores["index"]),
        "models": list(compared),
        "target": "Grad-CAM++ is for the true class.",
        "feature_map": {},
        "first_stage": {},
        "bands": BANDS,
    }
    shown = []
    for name, at in chosen:
        with isolated(int(scores["index"][at]), subject.device):  # what a layer draws is the same in each call
            shown.append(_look(subject, compared, scores, name, at, content))
    for part, what in (("feature_map", "Grad-CAM++"), ("first_stage", "first-stage feature maps")):
        for model, where in list(content[part].items()):
            if isinstance(where, NotApplicable):
                left_out.append({"what": f"{what}, {model}", "why": str(where)})
                del content[part][model]
    return {**content, "shown": [image.numbers for image in shown]}, shown


@torch.no_grad()
def _scores(subject: Subject, other: PrependedModel, model: PrependedModel) -> dict[str, Tensor]:
    """Of each test image: its index and class, both models' probabilities of it, and the distance of their logits."""
    parts: dict[str, list[Tensor]] = {name: [] for name in ("index", "target", "before", "after", "distance")}
    for indices, images, targets in subject.batches():
        logits = [each(images) for each in (other, model)]
        shares = [each.double().softmax(1).gather(1, targets[:, None])[:, 0] for each in logits]
        distance = (logits[1] - logits[0]).double().norm(dim=1)
        for name, part in zip(parts, (indices, targets, *shares, distance), strict=True):
            parts[name].append(part.cpu())
    return {name: torch.cat(values) for name, values in parts.items()}


def _choose(scores: dict[str, Tensor], count: int, *, by_class: bool) -> list[tuple[str, int]]:
    """File names, and places in the scores; of ties the first image."""
    if not by_class:
        most = scores["distance"].argsort(descending=True, stable=True)[: 2 * count].tolist()
        return [(f"image-changed-{rank}", at) for rank, at in enumerate(most, 1)]
    gain = scores["after"] - scores["before"]
    up = [at for at in gain.argsort(descending=True, stable=True)[:count].tolist() if gain[at] > 0]
    down = [at for at in gain.argsort(stable=True)[:count].tolist() if gain[at] < 0]
    return [
        (f"image-{way}-{rank}", at) for way, places in (("better", up), ("worse", down)) for rank, at in enumerate(places, 1)
    ]


def _look(
    subject: Subject, models: dict[str, PrependedModel], scores: dict[str, Tensor], name: str, at: int, content: dict[str, Any]
) -> ShownImage:
    index = int(scores["index"][at])
    image = subject.data.test[index][0][None].to(subject.device)
    target = scores["target"][at : at + 1].to(subject.device)
    with torch.no_grad():
        output = subject.layer(image)
        predicted = {model: int(each(image).argmax()) for model, each in models.items()}
    attention: dict[str, Tensor] = {}
    maps: dict[str, Tensor] = {}
    for model, each in models.items():
        try:
            seen, content["feature_map"][model] = grad_cam(each, image, target)
            attention[model] = seen[0].cpu()
        except NotApplicable as why:
            content["feature_map"][model] = why
        try:
            first, content["first_stage"][model] = first_maps(each, image)
            strongest = first[0].std((1, 2), correction=0).argsort(descending=True, stable=True)[:MAPS]
            maps[model] = first[0][strongest].cpu()
        except NotApplicable as why:
            content["first_stage"][model] = why
    classes = subject.run.classes
    probabilities = dict(zip(models, (float(scores["before"][at]), float(scores["after"][at])), strict=True))
    _, way, rank = name.split("-")
    numbers = {
        "file": f"{name}.png",
        "chosen": f"{WAYS[way]}, rank {rank}",
        "index": index,
        "class": classes[int(target)],
        "probability": probabilities,
        "predicted": {model: classes[each] for model, each in predicted.items()},
        "logit_distance": float(scores["distance"][at]),
        "difference_scale": difference_scale(output - image),
        "energy": band_energies(image, output),
    }
    return ShownImage(name, numbers, image[0].cpu(), output[0].cpu(), attention, maps)


def difference_scale(difference: Tensor) -> float:
    """The power of two by which a difference of images in [0, 1] is multiplied so that nearly all of it fits into ±1/2."""
    size = float(difference.abs().flatten().double().quantile(0.995))
    return 1.0 if size == 0 else min(256.0, 2.0 ** float(torch.tensor(0.5 / size).log2().floor()))


def band_energies(image: Tensor, output: Tensor) -> dict[str, dict[str, dict[str, float]]]:
    """Return what each band holds, in grey levels squared per block.

    Args:
        image, output: (1, 3, H, W) in [0, 1], before and after a layer.

    Returns:
        By plane (luma; chroma, Cb and Cr together) and band, means over blocks of the sum of squared DCT coefficients around
        mid-grey: ``before``, ``after`` and of the ``difference``.
    """
    before, after = (F.images_to_coefficients(x.double()) for x in (image, output))
    band = torch.arange(F.BLOCK)[:, None] + torch.arange(F.BLOCK)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for plane, where in (("luma", slice(0, 1)), ("chroma", slice(1, 3))):
        found[plane] = {}
        for name, (low, high) in BANDS.items():
            inside = ((band >= low) & (band <= high)).to(before.device)
            parts = {"before": before, "after": after, "difference": after - before}
            found[plane][name] = {what: float((z[:, where][..., inside] ** 2).sum((1, 4)).mean()) for what, z in parts.items()}
    return found
