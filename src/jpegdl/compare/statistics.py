"""What a comparison's results say, with their uncertainty."""

import math
import statistics
from typing import Any

from scipy import stats

Results = dict[str, list[dict[str, Any]]]


def paired_difference(values: list[float], baseline: list[float]) -> dict[str, float | None]:
    """Mean difference of paired values, its 95 % interval and two-sided p value, by Student's paired t test.

    Returns:
        ``mean``, ``low``, ``high`` in the units of the values, and ``p``. The last three are None where the test says
        nothing: fewer than two pairs, or all differences equal.
    """
    differences = [value - base for value, base in zip(values, baseline, strict=True)]
    mean = statistics.fmean(differences)
    if len(differences) < 2 or math.isclose(statistics.pstdev(differences), 0, abs_tol=1e-12):
        return {"mean": mean, "low": None, "high": None, "p": None}
    test = stats.ttest_rel(values, baseline)
    interval = test.confidence_interval(0.95)
    return {"mean": mean, "low": float(interval.low), "high": float(interval.high), "p": float(test.pvalue)}


def summarize(results: Results) -> dict[str, Any]:
    """Arms in numbers: accuracy in percent (of each seed, mean, sample sd), difference to plain in percentage points, cost.

    Args:
        results: of each arm, one result a seed, in the same order of seeds; includes ``plain``.
    """
    plain = results["plain"]
    arms = {}
    for arm, runs in results.items():
        accuracy = [100 * run["accuracy"] for run in runs]
        arms[arm] = {
            "accuracy": accuracy,
            "mean": statistics.fmean(accuracy),
            "sd": statistics.stdev(accuracy) if len(accuracy) > 1 else None,
            "difference": None if arm == "plain" else paired_difference(accuracy, [100 * run["accuracy"] for run in plain]),
            "layer_parameters": runs[0]["layer_parameters"],
            "parameters": runs[0]["parameters"],
            "time_ratio": statistics.median(
                run["train_seconds"] / base["train_seconds"] for run, base in zip(runs, plain, strict=True)
            ),
        }
    first = plain[0]
    return {
        "seeds": [run["seed"] for run in plain],
        "arms": arms,
        "versions": first["versions"],
        "machine": first["machine"],
    }


def summary_table(summary: dict[str, Any]) -> str:
    """The summary as a Markdown table, aligned for the terminal too."""
    header = ["arm", "test accuracy, %", "difference to plain [95 % interval]", "p", "extra parameters", "training time"]
    rows = []
    for arm, entry in summary["arms"].items():
        accuracy = f"{entry['mean']:.2f}" + (f" ± {entry['sd']:.2f}" if entry["sd"] is not None else "")
        gain = entry["difference"]
        if gain is None:
            difference, p = "", ""
        else:
            interval = f" [{gain['low']:+.2f}, {gain['high']:+.2f}]" if gain["low"] is not None else ""
            difference = f"{gain['mean']:+.2f}{interval}"
            p = "" if gain["p"] is None else f"{gain['p']:.3f}" if gain["p"] >= 0.001 else f"{gain['p']:.1g}"
        rows.append([arm, accuracy, difference, p, str(entry["layer_parameters"]), f"x{entry['time_ratio']:.2f}"])
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in [header, *rows]
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    seeds = ", ".join(map(str, summary["seeds"]))
    if (count := len(summary["seeds"])) > 1:
        how = f"seeds {seeds}; mean ± sample sd over {count} seeds. Interval and p: paired t test over seeds."
    else:
        how = f"seed {seeds} alone: no interval, and a difference may be chance."
    lines += ["", f"{summary['backbone']}, {how}"]
    if summary.get("data") == "made-up":
        lines.append("Made-up images: these numbers mean nothing.")
    return "\n".join(lines) + "\n"
