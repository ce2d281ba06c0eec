"""Rules by which a network chooses the quality of each photo: what they save for it, and for networks that had no say.

    python studies/files/rules.py LITE0.jsonl [--answers OUT/answers/dtd10 ...] [--csv TABLE.csv]

LITE0.jsonl is what ``measure.py`` left, --answers what ``judges.sh`` did. Each rule chooses at many values of mu; what is saved
at some rates lies between. Lite0 and Lite1 read the same files, so that each can be the reader. Rules are to be chosen on
the first half of the photos, in the file's order, which is drawn; the other half tests them, with intervals.
"""

import argparse
import csv
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from judges import STEPS, answers_in
from measure import QUALITIES
from summarize import Numbers, at_rate, between, interval, load, standard, weights

from jpegdl_studies import tables

RATES = (0.4, 0.45, 0.5, 0.6, 0.75, 0.9, 1.1)
MUS = np.geomspace(8, 0.02, 25)
SMALL_MUS = np.geomspace(6, 0.001, 30)
OTHER_FAMILIES = ("vgg8", "mobilenetv2", "resnet8", "resnet8, another seed")
QUALITY = np.array(QUALITIES, dtype=float)[:, None]


def smoothed(distances: Numbers, weight: float) -> Numbers:
    """With the next qualities, which weigh so much each."""
    wide = np.concatenate((distances[:1], distances, distances[-1:]))
    return (1 - 2 * weight) * distances + weight * (wide[:-2] + wide[2:])


#: Of distances (qualities, images) to what takes their place.
RULES: dict[str, Callable[[Numbers], Numbers]] = {
    "the distance alone": lambda x: x,
    "smoothed 1 : 2 : 1, floor 10": lambda x: np.where(QUALITY < 10, np.inf, smoothed(x, 1 / 4)),
    "smoothed 1 : 2 : 1": lambda x: smoothed(x, 1 / 4),
    "smoothed 1 : 6 : 1": lambda x: smoothed(x, 1 / 8),
    "a fifth of the mean of all photos": lambda x: 0.8 * x + 0.2 * x.mean(1, keepdims=True),
    "+ 0.5 / quality": lambda x: x + 0.5 / QUALITY,
    "+ 1 / quality": lambda x: x + 1 / QUALITY,
    "+ 2 / quality": lambda x: x + 2 / QUALITY,
}


def saved(
    bits: Numbers, distances: Numbers, losses: Numbers, rule: str, rates: Numbers, mus: Numbers, draws: int
) -> Iterator[Numbers]:
    """Of each loss (qualities, images), (draws + 1, rates): percent of bits saved by a rule; nan where it has no such rate."""
    images = np.arange(bits.shape[1])
    each = weights(len(images))[: draws + 1]
    judged = RULES[rule](distances)
    chosen = [(judged + mu * bits).argmin(0) for mu in mus]
    sizes = np.stack([each @ bits[index, images] for index in chosen], 1)
    for loss in losses:
        means = np.stack([each @ loss[index, images] for index in chosen], 1)
        reference = each @ bits.T, each @ loss.T
        found = [
            [between(size, mean, 0.0, (x, y, y))[0] for size, mean in zip(*pair, strict=True)]
            for *pair, x, y in zip(sizes, means, *reference, strict=True)
        ]
        by_draw = [[at_rate(rate, a[None], b[None])[0] for rate in rates] for a, b in zip(sizes, np.array(found), strict=True)]
        yield np.array(by_draw)


def of_lite(path: Path) -> Iterator[dict[str, Any]]:
    data = load([path])
    plain = standard(data)
    count = len(data["images"])
    bits = data["bits"][plain]
    for half, (reader, judge), rule in itertools.product((0, 1), (("reader", "judge"), ("judge", "reader")), RULES):
        some = slice(0, count // 2) if half == 0 else slice(count // 2, count)
        distances = data[reader, "distance"][plain][:, some]
        losses = np.stack([data[who, "loss"][plain][:, some] for who in (reader, judge)])
        parts = saved(bits[:, some], distances, losses, rule, np.array(RATES), MUS, 400 if half else 0)
        for who, found in zip((reader, judge), parts, strict=True):
            row = {
                "photos": "chosen on" if half == 0 else "held out",
                "reader": {"reader": "Lite0", "judge": "Lite1"}[reader],
                "read by": {"reader": "Lite0", "judge": "Lite1"}[who],
                "rule": rule,
            }
            for place, rate in enumerate(RATES):
                low, high = interval(found[1:, place]) if half else (np.nan, np.nan)
                yield {**row, "bits per pixel": rate, "saved, %": found[0, place], "from": low, "to": high}


def of_small(folder: Path) -> Iterator[dict[str, Any]]:
    """At the same distance, at five rates from quality 8 to 30."""
    answers = answers_in(folder)
    stacked = {
        name: {key: np.array([answers[name][step][key] for step in STEPS]) for key in ("bits", "distance")}
        for name in OTHER_FAMILIES
    }
    for reader, rule in itertools.product(("resnet8", "vgg8"), RULES):
        bits = stacked[reader]["bits"]
        means = bits.mean(1)
        rates = np.geomspace(1.02 * means[1], means[5], 5)
        names = [reader, *(name for name in OTHER_FAMILIES if name != reader)]
        losses = np.stack([stacked[name]["distance"] for name in names])
        parts = list(saved(bits, losses[0], losses, rule, rates, SMALL_MUS, 0))
        for who, found in (("itself", parts[0][0]), ("three others, mean", np.mean([part[0] for part in parts[1:]], 0))):
            for rate, value in zip(rates, found, strict=True):
                yield {
                    "photos": folder.name,
                    "reader": reader,
                    "read by": who,
                    "rule": rule,
                    "bits per pixel": round(float(rate), 2),
                    "saved, %": value,
                }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lines", type=Path)
    parser.add_argument("--answers", type=Path, nargs="*", default=[])
    parser.add_argument("--csv", type=Path, default=None)
    arguments = parser.parse_args()
    rows = list(itertools.chain(of_lite(arguments.lines), *map(of_small, arguments.answers)))
    for key, several in itertools.groupby(rows, lambda row: (row["photos"], row["reader"])):
        group = list(several)
        rates = list(dict.fromkeys(row["bits per pixel"] for row in group))
        print(f"\n{', '.join(key)} chooses\n")
        print(tables.header(["rule", "read by", *map(str, rates)]))
        for rule, who in itertools.product(RULES, dict.fromkeys(row["read by"] for row in group)):
            cells = [row for row in group if (row["rule"], row["read by"]) == (rule, who)]
            print(tables.row([rule, who, *map(_cell, cells)]))
    if arguments.csv:
        with arguments.csv.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys(), restval="")
            writer.writeheader()
            for row in rows:
                writer.writerow(
                    {key: f"{value:.1f}" if key in ("saved, %", "from", "to") else value for key, value in row.items()}
                )


def _cell(row: dict[str, Any]) -> str:
    if not np.isfinite(row["saved, %"]):
        return ""
    there = f"{row['saved, %']:.1f}"
    return f"{there} [{row['from']:.1f}, {row['to']:.1f}]" if np.isfinite(row.get("from", np.nan)) else there


if __name__ == "__main__":
    main()
