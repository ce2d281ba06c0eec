"""Does an arm fit better, or generalize better? python -m jpegdl_studies.fit RUNS/NAME ... [--against plain] [--arms ...]

Of the finished runs of comparisons: accuracy on the training images (augmented, as they came in the last epoch) beside that on
the test images, and what each differs by from another arm, in points, paired over seeds, with the 95 % interval of a paired t
test.
"""

import argparse
import sys
from pathlib import Path
from statistics import mean

from jpegdl.runs import RunFolder, finished_runs
from jpegdl_studies.pairing import difference
from jpegdl_studies.tables import header, row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparisons", type=Path, nargs="+")
    parser.add_argument("--against", default="plain", help="the arm that the others are compared with")
    parser.add_argument("--arms", nargs="+", help="default: all")
    options = parser.parse_args()
    columns = ["comparison", "arm", "seeds", "training accuracy, %", "test accuracy, %", "gap"]
    print(header(columns + [f"{what}, to {options.against}" for what in ("training", "test", "gap")]))
    for comparison in options.comparisons:
        runs = finished_runs(comparison)
        if options.against not in runs:
            sys.exit(f"{comparison} has no finished run of the arm {options.against}")
        baseline = _accuracies(runs.pop(options.against))
        _print(comparison.name, options.against, baseline, None)
        for arm, by_seed in runs.items():
            if not options.arms or arm in options.arms:
                _print(comparison.name, arm, _accuracies(by_seed), baseline)


def _accuracies(runs: dict[int, RunFolder]) -> dict[str, dict[int, float]]:
    """Return ``training``, ``test`` and ``gap``, the first less the second, in percent, each by seed."""
    training = {seed: 100 * run.metrics()[-1]["train_accuracy"] for seed, run in runs.items()}
    test = {seed: 100 * float(run.result()["accuracy"]) for seed, run in runs.items()}
    return {"training": training, "test": test, "gap": {seed: training[seed] - test[seed] for seed in runs}}


def _print(comparison: str, arm: str, found: dict[str, dict[int, float]], baseline: dict[str, dict[int, float]] | None) -> None:
    means = [f"{round(mean(by_seed.values()), 4):.1f}" for by_seed in found.values()]
    cells = [comparison, arm, str(len(found["test"])), *means]
    cells += ["" if baseline is None else difference(by_seed, baseline[what]) for what, by_seed in found.items()]
    print(row(cells))


if __name__ == "__main__":
    main()
