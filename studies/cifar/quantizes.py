"""Does the layer quantize, or only cap? python studies/cifar/quantizes.py RUNS/NAME

Of each arm with a layer, over its seeds: the largest and the mean luma step it starts and ends with, and the share of luma's
coefficients at the level cap when it is tested, of DC, of the five lowest other frequencies and of the rest.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from jpegdl.errors import UsageError
from jpegdl.runs import finished_runs
from jpegdl_studies.tables import header, row

ORDER = np.add.outer(np.arange(8), np.arange(8))  # u + v
PARTS = {"DC": ORDER == 0, "low": (ORDER > 0) & (ORDER < 3), "the rest": ORDER > 2}

OVER: list[Callable[[Any], Any]] = [np.max, np.mean]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", type=Path)
    options = parser.parse_args()
    try:
        arms = finished_runs(options.comparison)
    except UsageError as error:
        sys.exit(str(error))
    columns = ["largest step, first", "last", "mean step, first", "last", *(f"at the cap, {part}, %" for part in PARTS)]
    print(header(["arm", "seeds", *columns]))
    for arm, by_seed in arms.items():
        runs = [each for each in by_seed.values() if each.result().get("saturation") is not None]
        if not runs:
            continue
        cells = []
        for over in OVER:
            for when in ("before", "after"):
                cells.append(f"{_mean(over, [np.array(run.tables()[when]['luma']) for run in runs]):.3g}")
        for where in PARTS.values():
            shares = [np.array(run.result()["saturation"])[0] for run in runs]
            cells.append(f"{100 * fmean(float(each[where].mean()) for each in shares):.1f}")
        print(row([arm, len(runs), *cells]))


def _mean(over: Callable[[Any], Any], tables: list[Any]) -> float:
    return fmean(float(over(table)) for table in tables)


if __name__ == "__main__":
    main()
