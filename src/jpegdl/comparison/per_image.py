"""What runs said image by image: classes, confusions, and arms paired over the images that both were tested on."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from jpegdl.comparison.summary import named_options
from jpegdl.errors import UsageError
from jpegdl.heatmaps import as_drawn
from jpegdl.runs import RunFolder
from jpegdl.runs.predictions import Predictions, confusion, predictions_file, read_predictions
from jpegdl.statistics import mcnemar, wilson

WORST = 10  # classes and pairs that are shown


@dataclass(frozen=True)
class ClassAccuracy:
    """The images of one class: its name, how many there are, and which share of them is right, with its 95 % interval."""

    name: str
    images: int
    accuracy: float
    low: float
    high: float


def class_accuracies(runs: list[Predictions]) -> list[ClassAccuracy]:
    """Compute the accuracy of each class that has test images, the mean over runs.

    The interval is Wilson's for that many images: it says how far the choice of images may carry, not what seeds do.
    """
    counts = confusion(*runs)
    each = []
    for name, row, right in zip(runs[0].classes, counts, counts.diagonal(), strict=True):
        images = int(row.sum()) // len(runs)
        if images:
            share = float(right / row.sum())
            each.append(ClassAccuracy(name, images, share, *wilson(share * images, images)))
    return each


def worst_pairs(runs: list[Predictions]) -> list[tuple[str, str, float, float]]:
    """Find which classes are most often taken for which: (class, taken for, images a run, share of the class's images).

    Ordered by the number of images; the diagonal, and what never happened, are left out.
    """
    counts = confusion(*runs)
    classes = runs[0].classes
    wrong = counts - np.diag(counts.diagonal())
    order = np.argsort(-wrong, axis=None, kind="stable")[:WORST]
    found = []
    for place in order:
        row, column = divmod(int(place), len(classes))
        if wrong[row, column]:
            share = float(wrong[row, column] / counts[row].sum())
            found.append((classes[row], classes[column], float(wrong[row, column]) / len(runs), share))
    return found


def confusion_figure(arms: dict[str, list[Predictions]]) -> Figure:
    """Draw which share of each class's images is taken for which class, the mean over runs, side by side for each arm."""
    figure = Figure(figsize=(4.6 * len(arms) + 0.8, 4.4), layout="constrained")
    image = None
    grid = figure.subplots(1, len(arms), squeeze=False)[0]
    for axes, (arm, runs) in zip(grid, arms.items(), strict=True):
        counts = confusion(*runs)
        shares = counts / np.maximum(1, counts.sum(1, keepdims=True))
        image = axes.imshow(100 * shares, vmin=0, vmax=100, cmap="viridis", interpolation="nearest")
        classes = runs[0].classes
        few = len(classes) <= 20
        axes.set(title=arm, xlabel="taken for", ylabel="class")
        if few:
            names = [as_drawn(_short(name)) for name in classes]
            axes.set_xticks(range(len(classes)), names, rotation=90, fontsize=7)
            axes.set_yticks(range(len(classes)), names, fontsize=7)
    assert image is not None
    figure.colorbar(image, ax=list(grid), label="share of the class, %", shrink=0.8)
    return figure


def _short(name: str) -> str:
    return name if len(name) <= 16 else f"{name[:15]}…"


def paired_images(arm: Predictions, plain: Predictions) -> dict[str, Any] | None:
    """Pair two runs over the images that both were tested on: ``images``, ``both``, ``only_arm``, ``only_plain``, ``neither``,
    and ``p`` of :func:`mcnemar`. None where they were not tested on the same images."""
    if (arm.images, arm.classes) != (plain.images, plain.classes) or (arm.target != plain.target).any():
        return None
    own, base = arm.right, plain.right
    only = int((own & ~base).sum()), int((base & ~own).sum())
    return {
        "images": len(arm),
        "both": int((own & base).sum()),
        "only_arm": only[0],
        "only_plain": only[1],
        "neither": int((~own & ~base).sum()),
        "p": mcnemar(*only),
    }


def predictions_of(runs: dict[str, dict[int, RunFolder]]) -> tuple[dict[str, dict[int, Predictions]], list[str]]:
    """Read what finished runs, of each arm by seed, said of each test image.

    Returns:
        Of each arm, by seed, the predictions that there are; and in words, which runs have none that can be used, and why.
    """
    found: dict[str, dict[int, Predictions]] = {}
    notes: list[str] = []
    before: dict[str, list[str]] = {}
    named = ""
    for arm, by_seed in runs.items():
        for seed, folder in by_seed.items():
            file = predictions_file(folder)
            if not file.is_file():
                named = "".join(named_options(folder.path.parent.parent))
                before.setdefault(arm, []).append(str(seed))
                continue
            try:
                one = read_predictions(file, folder.data()["classes"])
            except UsageError as error:
                notes.append(f"{arm}, seed {seed}: {error}.")
                continue
            correct = folder.result().get("correct")
            if correct is not None and int(one.right.sum()) != correct:
                notes.append(
                    f"{arm}, seed {seed}: {file.name} is not from the run's own test; run jpegdl evaluate to write it again."
                )
                continue
            found.setdefault(arm, {})[seed] = one
    if before:
        each = [f"{arm}, seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}" for arm, seeds in before.items()]
        arm, seeds = next(iter(before.items()))
        again = f"jpegdl evaluate {named} --arm {arm} --seed {seeds[0]}"
        notes.append(f"Trained before predictions were kept: {'; '.join(each)}. {again} writes those of a run.")
    return found, notes
