"""What arms gain, comparison by comparison: python -m jpegdl_studies.gains RUNS/NAME ... [--against plain] [--arms ...]

Reads the summary.json of finished comparisons, which has the arms that the last ``jpegdl compare`` named (run it again with
all, and nothing is trained); or, in place of such folders, files that --json wrote: the accuracies of each seed, enough for
every table here. Prints a table in Markdown. Differences in points, paired over seeds, with the 95 % interval and p of a
paired t test, as compare has them against plain; p_holm is p after Holm's correction for the arms shown of a comparison.
"""

import argparse
import csv
import json
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from jpegdl.comparison import read_summary
from jpegdl.errors import UsageError
from jpegdl.runs import finished_runs
from jpegdl.statistics import holm, paired_difference
from jpegdl_studies.tables import header, row

COLUMNS = ["comparison", "arm", "seeds", "accuracy", "sd", "difference", "low", "high", "p", "p_holm", "time_ratio"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparisons", type=Path, nargs="+", help="folders of comparisons, or files that --json wrote")
    parser.add_argument("--against", default="plain", help="the arm that the others are compared with")
    parser.add_argument("--arms", nargs="+", help="default: all")
    parser.add_argument("--together", action="store_true", help="one row an arm, paired over the runs of all these comparisons")
    parser.add_argument("--csv", type=Path, help="where to write the same as CSV")
    parser.add_argument("--json", type=Path, help="where to write the accuracies of each seed")
    parser.add_argument("--figure", type=Path, help="where to draw the differences (PNG or SVG)")
    options = parser.parse_args()
    summaries: dict[str, dict[str, dict[str, Any]]] = {}
    for path in options.comparisons:
        read = _read_json(path) if path.suffix == ".json" else {path.name: _read(path)}
        if twice := summaries.keys() & read.keys():
            sys.exit(f"{path} has another comparison of the name {min(twice)}; give them apart, or rename a folder")
        summaries |= read
    if options.json:
        options.json.write_text(json.dumps(summaries, indent=1) + "\n", encoding="utf-8")
    if options.together:
        summaries = {f"{next(iter(summaries))} and {len(summaries) - 1} more": _joined(list(summaries.values()))}
    rows = [each for name, arms in summaries.items() for each in _rows(name, arms, options.against, options.arms)]
    _print(rows, options.against)
    if options.csv:
        with options.csv.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
    if options.figure:
        _draw([each for each in rows if each["difference"] != ""], options.against, options.figure)


def _read(folder: Path) -> dict[str, dict[str, Any]]:
    """Return of each arm its ``accuracy`` by seed, and ``time_ratio``."""
    try:
        summary = read_summary(folder)
    except UsageError as error:
        sys.exit(str(error))
    if summary["failed"]:
        runs = ", ".join(f"{run['arm']} of seed {run['seed']}" for run in summary["failed"])
        print(f"{folder.name} is not whole: without {runs}", file=sys.stderr)
    if left_out := finished_runs(folder).keys() - summary["arms"].keys():
        print(f"{folder.name}: left out, as its last compare did not name them: {', '.join(sorted(left_out))}", file=sys.stderr)
    return {
        name: {"accuracy": dict(zip(map(str, arm["seeds"]), arm["accuracy"], strict=True)), "time_ratio": arm["time_ratio"]}
        for name, arm in summary["arms"].items()
    }


def _read_json(path: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the same of each comparison."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))  # type: ignore[no-any-return]
    except (OSError, ValueError) as error:
        sys.exit(f"{path} is no file that --json wrote: {error}")


def _joined(summaries: list[dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Make one comparison of all; the n-th one's seed s counts as (n, s)."""
    names = dict.fromkeys(name for arms in summaries for name in arms)
    joined = {}
    for name in names:
        there = [(n, arms[name]) for n, arms in enumerate(summaries) if name in arms]
        accuracy = {(n, seed): share for n, arm in there for seed, share in arm["accuracy"].items()}
        ratios = [arm["time_ratio"] for _, arm in there if arm["time_ratio"] is not None]
        joined[name] = {"accuracy": accuracy, "time_ratio": mean(ratios) if ratios else None}
    return joined


def _rows(comparison: str, arms: dict[str, dict[str, Any]], against: str, wanted: list[str] | None) -> list[dict[str, Any]]:
    if against not in arms:
        sys.exit(f"{comparison} has no arm {against}; it has {', '.join(arms)}")
    baseline, rows = arms[against]["accuracy"], []
    for name, arm in arms.items():
        if wanted and name not in (*wanted, against):
            continue
        shares = list(arm["accuracy"].values())
        cells: dict[str, Any] = dict.fromkeys(COLUMNS, "")
        cells |= {"comparison": comparison, "arm": name, "seeds": len(shares), "accuracy": _points(mean(shares))}
        cells |= {"sd": _points(stdev(shares)) if len(shares) > 1 else "", "time_ratio": _rounded(arm["time_ratio"], 3)}
        common = [seed for seed in arm["accuracy"] if seed in baseline]
        if name != against and common:
            found = paired_difference([arm["accuracy"][seed] for seed in common], [baseline[seed] for seed in common])
            cells |= {"difference": _points(found["mean"]), "low": _points(found["low"]), "high": _points(found["high"])}
            cells["p"] = "" if found["p"] is None else found["p"]
        rows.append(cells)
    tested = [cells for cells in rows if cells["p"] != ""]
    for cells, p_holm in zip(tested, holm([cells["p"] for cells in tested]), strict=True):
        cells["p"], cells["p_holm"] = _rounded(cells["p"]), _rounded(p_holm)
    return rows


def _points(share: float | None) -> float | str:
    return "" if share is None else round(100 * share, 4)


def _rounded(value: float | None, digits: int = 2) -> float | str:
    return "" if value is None else float(f"{value:.{digits}g}")


def _print(rows: list[dict[str, Any]], against: str) -> None:
    difference_from = f"difference from {against} [95 % interval]"
    print(header(["comparison", "arm", "seeds", "test accuracy, %", difference_from, "p", "p, Holm", "time"]))
    for found in rows:
        spread = f" ± {found['sd']:.1f}" if found["sd"] != "" else ""
        interval = f" [{found['low']:+.1f}, {found['high']:+.1f}]" if found["low"] != "" else ""
        difference = f"{found['difference']:+.1f}{interval}" if found["difference"] != "" else ""
        time = f"x{found['time_ratio']}" if found["time_ratio"] != "" else ""
        accuracy = f"{found['accuracy']:.1f}{spread}"
        print(row([found["comparison"], found["arm"], found["seeds"], accuracy, difference, found["p"], found["p_holm"], time]))


def _draw(rows: list[dict[str, Any]], against: str, path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7.5, 0.9 + 0.28 * len(rows)), layout="constrained")
    comparisons, arms = (list(dict.fromkeys(found[part] for found in rows)) for part in ("comparison", "arm"))
    for y, found in enumerate(rows):
        ends = [[found["difference"] - found["low"]], [found["high"] - found["difference"]]] if found["low"] != "" else None
        colour = f"C{arms.index(found['arm']) % 10 if len(arms) < 5 else comparisons.index(found['comparison']) % 10}"
        axes.errorbar(found["difference"], y, xerr=ends, fmt="o", color=colour, capsize=3)
    shown = [[found[part] for part, names in (("comparison", comparisons), ("arm", arms)) if len(names) > 1] for found in rows]
    axes.set_yticks(range(len(rows)), [", ".join(parts) or found["arm"] for parts, found in zip(shown, rows, strict=True)])
    axes.invert_yaxis()
    axes.axvline(0, color="#888888", linewidth=1)
    axes.set_xlabel(f"difference from {against}, points of test accuracy, with 95 % interval")
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
