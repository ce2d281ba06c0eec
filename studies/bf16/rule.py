"""Is bf16-mixed level with float32, by the rule in run.sh? python studies/bf16/rule.py RUNS/bf16-dtd10 RUNS/bf16-flowers89

In place of folders also files that ``python -m jpegdl_studies.gains ... --json FILE`` wrote. Differences in points, paired over
seeds, with the 95 % interval, p of a paired t test and p after Holm's correction for all of them; and the mean over them.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import fmean

from jpegdl.comparison import read_summary
from jpegdl.errors import UsageError
from jpegdl.statistics import holm, paired_difference
from jpegdl_studies.tables import header, row

ARMS = {"plain-bf16": "plain", "jpeg-dl-bf16": "jpeg-dl"}
MARGIN = -2.0  # points


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparisons", type=Path, nargs="+")
    options = parser.parse_args()
    pairs: dict[str, dict[int, tuple[float, float]]] = {}
    for name, arms in (each for path in options.comparisons for each in _accuracies(path).items()):
        for arm, against in ARMS.items():
            seeds = sorted(arms[arm].keys() & arms[against].keys())
            pairs[f"{name}, {against}"] = {seed: (100 * arms[arm][seed], 100 * arms[against][seed]) for seed in seeds}
    found = {name: _difference(list(by_seed.values())) for name, by_seed in pairs.items()}
    corrected = dict(zip(found, holm([each["p"] or 1.0 for each in found.values()]), strict=True))
    print(header(["set, arm", "seeds", "bf16-mixed to float32, points [95 % interval]", "p", "p, Holm"]))
    for name, each in found.items():
        print(row([name, len(pairs[name]), _words(each), f"{each['p'] or 1:.2g}", f"{corrected[name]:.2g}"]))
    common = sorted(set.intersection(*(set(by_seed) for by_seed in pairs.values())))
    whole = _difference([(_mean(pairs, seed, 0), _mean(pairs, seed, 1)) for seed in common])
    print(row(["mean over these", len(common), _words(whole), f"{whole['p'] or 1:.2g}", ""]))
    worse = [name for name, each in found.items() if corrected[name] < 0.05 and (each["mean"] or 0) < 0]
    level = whole["low"] is not None and whole["low"] > MARGIN and not worse
    print(f"\nBy the rule, bf16-mixed is {'' if level else 'not shown to be '}level with float32.")


def _difference(pairs: list[tuple[float, float]]) -> dict[str, float | None]:
    return paired_difference([pair[0] for pair in pairs], [pair[1] for pair in pairs])


def _mean(pairs: dict[str, dict[int, tuple[float, float]]], seed: int, which: int) -> float:
    return fmean(by_seed[seed][which] for by_seed in pairs.values())


def _accuracies(path: Path) -> dict[str, dict[str, dict[int, float]]]:
    """Of each comparison, each arm's accuracy by seed."""
    try:
        if path.suffix == ".json":
            read = json.loads(path.read_text(encoding="utf-8"))
            return {
                name: {arm: {int(seed): share for seed, share in each["accuracy"].items()} for arm, each in arms.items()}
                for name, arms in read.items()
            }
        arms = read_summary(path)["arms"]
    except (OSError, ValueError, UsageError) as error:
        sys.exit(f"{path}: {error}")
    return {path.name: {arm: dict(zip(each["seeds"], each["accuracy"], strict=True)) for arm, each in arms.items()}}


def _words(found: dict[str, float | None]) -> str:
    return f"{found['mean']:+.1f}" + ("" if found["low"] is None else f" [{found['low']:+.1f}, {found['high']:+.1f}]")


if __name__ == "__main__":
    main()
