"""Do steps survive training? python studies/gain/steps.py RUNS/NAME [ARM ...]

Of each finished run of a comparison whose layer has one table of steps for luma and one for chroma: how many of its 128 steps
lie at the floor after the last epoch, how many ever did after one (or before training, epoch 0), when the first one got there,
how many changed more than e-fold from one epoch to the next, the steps of DC before and after training (the level cap of 8 bits
is 127 of them), and the run's accuracy. CSV on standard output; a mean for each arm on standard error.
"""

import argparse
import csv
import sys
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from jpegdl.layer import STEP_RANGE
from jpegdl.runs import RunFolder

COLUMNS = ["arm", "seed", "accuracy", "at_floor", "ever_at_floor", "first_epoch_at_floor", "changed_e_fold"]
DC = ["luma_dc_before", "luma_dc_after", "chroma_dc_before", "chroma_dc_after"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", type=Path)
    parser.add_argument("arms", nargs="*", help="default: all that have steps")
    options = parser.parse_args()
    rows = []
    for place in sorted(options.comparison.glob("*/*/layer.npz")):
        folder = RunFolder(place.parent)
        if folder.finished and (not options.arms or place.parent.parent.name in options.arms):
            rows.append(_row(folder))
    if not rows:
        sys.exit(f"no finished run with steps in {options.comparison}")
    writer = csv.DictWriter(sys.stdout, COLUMNS + DC)
    writer.writeheader()
    writer.writerows(rows)
    for arm in dict.fromkeys(row["arm"] for row in rows):
        of_arm = [row for row in rows if row["arm"] == arm]
        means = ", ".join(f"{name} {mean(row[name] for row in of_arm):.3g}" for name in (*COLUMNS[2:5], COLUMNS[6], *DC))
        print(f"{arm}, mean of {len(of_arm)} seeds: {means}", file=sys.stderr)


def _row(folder: RunFolder) -> dict[str, Any]:
    settings, before, history = folder.settings(), folder.tables()["before"], folder.layer_history()
    start = np.stack([before["luma"], before["chroma"]])[None]
    steps = np.concatenate([start, history["steps"][:, [0, 2]]])  # (epochs + 1, 2, 8, 8)
    low = steps <= STEP_RANGE[0] * (1 + 1e-6)
    jumps = np.abs(np.diff(np.log(steps), axis=0)) > 1
    epochs = np.flatnonzero(low.any((1, 2, 3)))
    return {
        "arm": settings["arm"],
        "seed": settings["seed"],
        "accuracy": folder.result()["accuracy"],
        "at_floor": int(low[-1].sum()),
        "ever_at_floor": int(low.any(0).sum()),
        "first_epoch_at_floor": int(epochs[0]) if len(epochs) else "",
        "changed_e_fold": int(jumps.any(0).sum()),
        **dict(zip(DC, (float(f"{step:.3g}") for step in steps[[0, -1], :, 0, 0].T.flatten()), strict=True)),
    }


if __name__ == "__main__":
    main()
