"""Does an arm fit better, or generalize better? python studies/fit.py RUNS/NAME ... [--against plain] [--arms jpeg-dl ...]

Of the finished runs of comparisons: accuracy on the training images (augmented, as they came in the last epoch) beside that on
the test images, and what each differs by from another arm, in points, paired over seeds, with the 95 % interval of a paired t
test.
"""

import argparse
import csv
import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean

from jpegdl.compare.statistics import paired_difference
from jpegdl.training import RunFolder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparisons", type=Path, nargs="+")
    parser.add_argument("--against", default="plain", help="the arm that the others are compared with")
    parser.add_argument("--arms", nargs="+", help="default: all")
    options = parser.parse_args()
    print("| comparison | arm | seeds | training accuracy, % | test accuracy, % | gap | training, to", end=" ")
    print(f"{options.against} | test, to {options.against} | gap, to {options.against} |\n|{'---|' * 9}")
    for comparison in options.comparisons:
        arms: dict[str, dict[int, dict[str, float]]] = defaultdict(dict)
        for place in sorted(comparison.glob("*/*/result.json")):
            folder = RunFolder(place.parent)
            if folder.finished:
                settings = folder.settings()
                arms[settings["arm"]][settings["seed"]] = _accuracies(folder)
        if options.against not in arms:
            sys.exit(f"{comparison} has no finished run of the arm {options.against}")
        for arm in sorted(arms, key=lambda arm: (arm != options.against, arm)):
            if arm == options.against or not options.arms or arm in options.arms:
                _print(comparison.name, arm, arms[arm], arms[options.against] if arm != options.against else {})


def _accuracies(folder: RunFolder) -> dict[str, float]:
    """``training``, ``test`` and ``gap``, the first less the second, in percent."""
    with (folder.path / "metrics.csv").open(newline="") as file:
        training = 100 * float(list(csv.DictReader(file))[-1]["train_accuracy"])
    test = 100 * float(folder.result()["accuracy"])
    return {"training": training, "test": test, "gap": training - test}


def _print(comparison: str, arm: str, runs: dict[int, dict[str, float]], baseline: dict[int, dict[str, float]]) -> None:
    cells = [comparison, arm, str(len(runs))]
    cells += [f"{mean(run[what] for run in runs.values()):.1f}" for what in ("training", "test", "gap")]
    common = sorted(runs.keys() & baseline.keys())
    for what in ("training", "test", "gap"):
        cell = ""
        if common:
            found = paired_difference([runs[seed][what] for seed in common], [baseline[seed][what] for seed in common])
            cell = f"{found['mean']:+.1f}"
            if found["low"] is not None:
                cell += f" [{found['low']:+.1f}, {found['high']:+.1f}]"
        cells.append(cell)
    print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
