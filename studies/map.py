"""What arms gain over plain, comparison by comparison: python studies/map.py RUNS/NAME ... [--arms jpeg-dl ...] [--csv FILE]

Reads the summary.json of finished comparisons; prints a table in Markdown. Differences in points, paired over seeds, with the
95 % interval and p of compare's own paired t test; p_holm is p after Holm's correction for a comparison's several arms.
"""

import argparse
import csv
import json
import sys
from pathlib import Path
from statistics import mean
from typing import Any

from jpegdl.compare.statistics import holm, paired_difference

COLUMNS = ["comparison", "arm", "seeds", "plain", "accuracy", "difference", "low", "high", "p", "p_holm", "time_ratio"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparisons", type=Path, nargs="+")
    parser.add_argument("--arms", nargs="+", help="default: all but plain")
    parser.add_argument("--together", action="store_true", help="one row an arm, paired over the runs of all these comparisons")
    parser.add_argument("--csv", type=Path, help="where to write the same as CSV")
    parser.add_argument("--figure", type=Path, help="where to draw it (PNG or SVG)")
    options = parser.parse_args()
    summaries = {folder.name: _summary(folder) for folder in options.comparisons}
    if options.together:
        summaries = {" + ".join(summaries): _joined(list(summaries.values()))}
    rows = [row for name, summary in summaries.items() for row in _rows(name, summary)]
    rows = [row for row in rows if not options.arms or row["arm"] in options.arms]
    if not rows:
        sys.exit("none of these comparisons has such an arm")
    _print(rows)
    if options.csv:
        with options.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
    if options.figure:
        _draw(rows, options.figure)


def _summary(folder: Path) -> dict[str, Any]:
    try:
        summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    except OSError as error:
        sys.exit(f"{folder} has no summary: {error}")
    if summary["failed"]:
        runs = ", ".join(f"{run['arm']} of seed {run['seed']}" for run in summary["failed"])
        print(f"{folder.name} is not whole: without {runs}", file=sys.stderr)
    return summary


def _joined(summaries: list[dict[str, Any]]) -> dict[str, Any]:
    """One summary of all: the n-th comparison's seed s counts as (n, s)."""
    results: dict[str, dict[int, dict[str, Any]]] = {}
    for number, summary in enumerate(summaries):
        for name, arm in summary["arms"].items():
            for seed, accuracy in zip(arm["seeds"], arm["accuracy"], strict=True):
                results.setdefault(name, {})[1000 * number + seed] = {"accuracy": accuracy, "time_ratio": arm["time_ratio"]}
    arms: dict[str, Any] = {}
    for name, by_seed in results.items():
        common = sorted(by_seed.keys() & results["plain"].keys())
        values, baseline = ([results[arm][seed]["accuracy"] for seed in common] for arm in (name, "plain"))
        difference = {"seeds": common, **paired_difference(values, baseline)} if name != "plain" else None
        times = mean(by_seed[seed]["time_ratio"] for seed in common)
        arms[name] = {"seeds": common, "accuracy": values, "difference": difference, "time_ratio": times}
    found = [arm["difference"] for arm in arms.values() if arm["difference"] and arm["difference"]["p"] is not None]
    for difference, p in zip(found, holm([difference["p"] for difference in found]), strict=True):
        difference["p_holm"] = p
    return {"arms": arms}


def _rows(comparison: str, summary: dict[str, Any]) -> list[dict[str, Any]]:
    arms = summary["arms"]
    rows = []
    for name, arm in arms.items():
        if name == "plain" or not (difference := arm["difference"]):
            continue
        rows.append(
            {"comparison": comparison, "arm": name, "seeds": len(difference["seeds"])}
            | {"plain": _mean(arms["plain"], difference["seeds"]), "accuracy": _mean(arm, difference["seeds"])}
            | {
                "difference": _points(difference["mean"]),
                "low": _points(difference["low"]),
                "high": _points(difference["high"]),
            }
            | {"p": _rounded(difference["p"]), "p_holm": _rounded(difference.get("p_holm"))}
            | {"time_ratio": _rounded(arm["time_ratio"], 3)}
        )
    return rows


def _mean(arm: dict[str, Any], seeds: list[int]) -> float | str:
    return _points(mean(accuracy for seed, accuracy in zip(arm["seeds"], arm["accuracy"], strict=True) if seed in seeds))


def _points(share: float | None) -> float | str:
    return "" if share is None else round(100 * share, 2)


def _rounded(value: float | None, digits: int = 2) -> float | str:
    return "" if value is None else float(f"{value:.{digits}g}")


def _print(rows: list[dict[str, Any]]) -> None:
    print("| comparison | arm | seeds | plain, % | arm, % | difference [95 % interval] | p | p, Holm | time |")
    print("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        interval = f" [{row['low']:+.1f}, {row['high']:+.1f}]" if row["low"] != "" else ""
        print(
            f"| {row['comparison']} | {row['arm']} | {row['seeds']} | {row['plain']:.1f} | {row['accuracy']:.1f} | "
            f"{row['difference']:+.1f}{interval} | {row['p']} | {row['p_holm']} | x{row['time_ratio']} |"
        )


def _draw(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7.5, 0.9 + 0.28 * len(rows)), layout="constrained")
    several = len({row["arm"] for row in rows}) > 1
    for y, row in enumerate(rows):
        ends = [[row["difference"] - row["low"]], [row["high"] - row["difference"]]] if row["low"] != "" else None
        axes.errorbar(row["difference"], y, xerr=ends, fmt="o", color="#1f6fb4", ecolor="#1f6fb4", capsize=3)
    names = [f"{row['comparison']}, {row['arm']}" if several else row["comparison"] for row in rows]
    axes.set_yticks(range(len(rows)), [f"{name} (plain {row['plain']:.1f} %)" for name, row in zip(names, rows, strict=True)])
    axes.invert_yaxis()
    axes.axvline(0, color="#888888", linewidth=1)
    axes.set_xlabel("difference to plain, points of test accuracy, with 95 % interval")
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
