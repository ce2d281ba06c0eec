"""What the runs said of each test image, for the page."""

from collections.abc import Iterator
from typing import Any

from jpegdl.comparison.per_image import WORST, class_accuracies, confusion_figure, paired_images, predictions_of, worst_pairs
from jpegdl.report.section import Runs, Section, difference_text, drawn, filled_columns, mean_text
from jpegdl.runs.metrics import describe
from jpegdl.runs.predictions import Predictions

Found = dict[str, dict[int, Predictions]]  # of each arm, by seed


def image_sections(runs: Runs, summary: dict[str, Any]) -> Iterator[Section]:
    """Show metrics beyond accuracy, classes, confusions, and arms paired over images.

    An arm is held against plain in the seeds of the summary's difference alone: in others, it had other test images.
    """
    found, notes = predictions_of(runs)
    if not found:
        yield Section("Beyond accuracy", lines=notes)
        return
    paired = {arm: (entry["difference"] or {}).get("seeds", []) for arm, entry in summary["arms"].items()}
    yield Section(
        "Beyond accuracy",
        "Means over seeds, ± sample sd. Balanced accuracy: the mean of the classes' accuracies. Calibration error: how far "
        "confidence and accuracy are apart, 0 at best (expected calibration error, 15 bins). Negative log-likelihood: loss, "
        "in nats.",
        lines=notes,
        table=_metrics_table(found, paired),
    )
    if pairs := list(_paired_rows(found, paired)):
        yield Section(
            "Image by image",
            "An arm and plain of the same seed, on the same test images. McNemar's exact test compares these two trained "
            "networks. The first table says whether an arm gains with other seeds.",
            table=[["arm", "seed", "both right", "arm alone", "plain alone", "neither", "p (McNemar)"], *pairs],
        )
    first = [arm for arm in ("plain", "jpeg-dl") if arm in found] or list(found)[:2]
    shown = {arm: list(found[arm].values()) for arm in first}
    yield Section(
        "Which classes",
        f"{_which(shown)} Share of each class's test images that is right, the mean over seeds, with the 95 % interval that so "
        "few images leave (Wilson's).",
        table=_class_table(shown),
    )
    confused = {arm: worst_pairs(by_seed) for arm, by_seed in shown.items()}
    yield Section(
        "What is taken for what",
        f"The {WORST} pairs of classes that are confused most often, with the number of images and the share of the class.",
        table=_pair_table(confused),
        pictures=[drawn(confusion_figure(shown), "confusion", "Confusion matrix of each arm: true class by predicted class")],
    )


#: What the first table shows of each run: its title, and the factor of the numbers.
_SHOWN = {
    "top5": ("top-5, %", 100.0),
    "balanced_accuracy": ("balanced, %", 100.0),
    "calibration_error": ("calibration error, %", 100.0),
    "nll": ("negative log-likelihood", 1.0),
}


def _metrics_table(found: Found, paired: dict[str, list[int]]) -> list[list[str]]:
    """Means over seeds, and below each arm its difference from plain, over the seeds that are ``paired``."""
    said = {arm: {seed: describe(one) for seed, one in by_seed.items()} for arm, by_seed in found.items()}
    rows = [["arm", *(title for title, _ in _SHOWN.values()), "seeds"]]
    for arm, by_seed in said.items():
        cells = [mean_text([one[name] for one in by_seed.values()], factor) for name, (_, factor) in _SHOWN.items()]
        rows.append([arm, *cells, ", ".join(map(str, by_seed))])
        common = [seed for seed in paired[arm] if seed in by_seed and seed in said.get("plain", {})]
        if not common:
            continue
        pairs = [([by_seed[seed][name] for seed in common], [said["plain"][seed][name] for seed in common]) for name in _SHOWN]
        factors = [factor for _, factor in _SHOWN.values()]
        differences = [difference_text(*pair, factor) for pair, factor in zip(pairs, factors, strict=True)]
        rows.append([f"{arm}, difference from plain [95 %]", *differences, ", ".join(map(str, common))])
    return filled_columns(rows)


def _paired_rows(found: Found, paired: dict[str, list[int]]) -> Iterator[list[str]]:
    for arm, by_seed in found.items():
        for seed, one in by_seed.items():
            plain: Any = found.get("plain", {}).get(seed)
            if seed not in paired[arm] or plain is None or (pair := paired_images(one, plain)) is None:
                continue
            counts = [str(pair[name]) for name in ("both", "only_arm", "only_plain", "neither")]
            yield [arm, str(seed), *counts, f"{pair['p']:.2g}" if pair["p"] >= 0.0001 else "< 0.0001"]


def _which(shown: dict[str, list[Predictions]]) -> str:
    classes = len(next(iter(shown.values()))[0].classes)
    first = next(iter(shown))
    return f"The {WORST} of {classes} classes on which {first} is worst." if classes > 2 * WORST else ""


def _class_table(shown: dict[str, list[Predictions]]) -> list[list[str]]:
    each = {arm: {one.name: one for one in class_accuracies(runs)} for arm, runs in shown.items()}
    first = next(iter(each.values()))
    order = sorted(first.values(), key=lambda one: one.accuracy)
    if len(order) > 2 * WORST:
        order = order[:WORST]
    rows = [["class", "images", *(f"{arm}, % [95 %]" for arm in each)]]
    for one in order:
        known = [of.get(one.name) for of in each.values()]
        cells = ["" if k is None else f"{100 * k.accuracy:.0f} [{100 * k.low:.0f}, {100 * k.high:.0f}]" for k in known]
        rows.append([one.name, str(one.images), *cells])
    return rows


def _pair_table(confused: dict[str, list[tuple[str, str, float, float]]]) -> list[list[str]]:
    rows = [["arm", "class", "taken for", "images", "of the class, %"]]
    for arm, pairs in confused.items():
        rows += [[arm, name, other, f"{images:.3g}", f"{100 * share:.0f}"] for name, other, images, share in pairs]
    return rows
