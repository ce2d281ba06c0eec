"""What a comparison's results say, with their uncertainty.

Accuracies and differences are shares, 0 to 1, except in the display.
"""

import math
import re
import statistics
from itertools import zip_longest
from typing import Any

from jpegdl.data.sources.listing import passed_in_words
from jpegdl.errors import folded, how_many, some_of
from jpegdl.files import csv_text
from jpegdl.runs.record import counted, other_test_images, tested_images
from jpegdl.statistics import add_holm, paired_difference, why_no_test

SHORT = 10.0  # seconds of training below which the ratio of two times is mostly noise
CODE, PARAMETERS = "code of ", "parameters of "  # what is mixed, before a module's name and an arm's
NAMED = 5  # of the images, or runs, that were left out
NOT_TRAINED = "not trained"  # why a seed that other arms have is missing, where nothing went wrong


def summarize(results: dict[str, dict[int, dict[str, Any]]], failed: dict[str, dict[int, str]]) -> dict[str, Any]:
    """Return the arms of a comparison in numbers, ready for JSON.

    Args:
        results: of each arm, by seed, what its ``result.json`` holds. ``plain`` has at least one. A result whose loss or
            accuracy is not finite counts as failed.
        failed: of each arm, by seed, why it has no result.

    Returns:
        - ``seeds``: all seeds that any arm has.
        - ``arms``, each with ``seeds`` that have a result; ``accuracy``, one for each seed, their ``mean`` and sample ``sd``
          (None with fewer than two); ``layer_parameters``, ``parameters``; ``time_ratio``, the median over seeds of its
          training time relative to plain's. An arm without a result has None for all its numbers.
        - ``difference`` of each arm from plain, paired over the seeds that both have and were tested on the same images with:
          those ``seeds``, and what :func:`jpegdl.statistics.paired_difference` returns for them, with ``p_holm`` if there are
          more than two arms; None for plain, and without such a seed. ``other_images``: how the test images of the other seeds
          differ from plain's; None if none do.
        - ``failed``: of every missing run its ``arm``, ``seed`` and ``why``.
        - ``versions`` and ``machine`` of the first run; ``test_images``, how many there were; ``plain_seconds``, the median
          training time of plain.
        - ``mixed``: by name, all values of those entries that differ between runs, of the files of the user's own code, and of
          an arm's ``parameters``.
    """
    reasons = {arm: dict(failed.get(arm, {})) for arm in [*results, *failed]}
    sound: dict[str, dict[int, dict[str, Any]]] = {arm: {} for arm in reasons}
    for arm, by_seed in results.items():
        for seed, result in sorted(by_seed.items()):
            if math.isfinite(result["accuracy"]) and math.isfinite(result["loss"]):
                sound[arm][seed] = result
            else:
                reasons[arm][seed] = "loss is not finite"
    seeds = sorted({seed for runs in (sound, reasons) for by_seed in runs.values() for seed in by_seed})
    arms = {arm: _arm(arm, by_seed, sound["plain"]) for arm, by_seed in sound.items()}
    _correct(arms)
    found = [result for by_seed in sound.values() for result in by_seed.values()]
    return {
        "seeds": seeds,
        "arms": arms,
        "failed": [
            {"arm": arm, "seed": seed, "why": reasons[arm].get(seed, NOT_TRAINED)}
            for arm, by_seed in sound.items()
            for seed in seeds
            if seed not in by_seed
        ],
        "test_images": tested_images(found[0]) if found else None,
        "plain_seconds": statistics.median([run["train_seconds"] for run in sound["plain"].values()] or [0.0]),
        "versions": found[0].get("versions", {}) if found else {},
        "machine": found[0].get("machine", "") if found else "",
        "mixed": _mixed(sound, found),
    }


def _arm(arm: str, runs: dict[int, dict[str, Any]], plain: dict[int, dict[str, Any]]) -> dict[str, Any]:
    common = [seed for seed in runs if seed in plain]
    others = {seed: why for seed in common if (why := other_test_images(plain[seed], runs[seed])) is not None}
    same = [seed for seed in common if seed not in others] if arm != "plain" else []
    own, base = ({seed: run["accuracy"] for seed, run in each.items()} for each in (runs, plain))
    first = next(iter(runs.values()), {})
    ratios = [runs[seed]["train_seconds"] / plain[seed]["train_seconds"] for seed in common]
    return {
        "seeds": list(runs),
        **_of_accuracies(own, base, same, tested_images(runs[same[0]]) if same else None),
        "other_images": next(iter(others.values()), None),
        "layer_parameters": first.get("layer_parameters"),
        "parameters": first.get("parameters"),
        "time_ratio": statistics.median(ratios) if ratios else None,
    }


def _of_accuracies(own: dict[int, float], plain: dict[int, float], same: list[int], images: int | None) -> dict[str, Any]:
    """Return what the accuracies of an arm come to, by seed; ``same`` are the seeds whose difference from plain counts."""
    accuracy = list(own.values())
    difference: dict[str, Any] | None = None
    if same:
        unit = 1 / images if images else None
        difference = {"seeds": same, **paired_difference([own[s] for s in same], [plain[s] for s in same], unit)}
    return {
        "accuracy": accuracy,
        "mean": statistics.fmean(accuracy) if accuracy else None,
        "sd": statistics.stdev(accuracy) if len(accuracy) > 1 else None,
        "difference": difference,
    }


def recounted(summary: dict[str, Any]) -> dict[str, Any]:
    """Return a summary with the numbers of images that its accuracies stand for, and what follows from these.

    Earlier versions kept float32 shares; p values of differences that are all the same were then made of their rounding.
    """
    if all("other_images" in entry for entry in summary["arms"].values()):
        return summary  # of a version that counts
    images, arms = summary.get("test_images"), {arm: dict(entry) for arm, entry in summary["arms"].items()}
    for entry in arms.values():
        data = {"test": {"images": images}}
        entry["other_images"] = None
        entry["accuracy"] = [counted({"accuracy": share, "data": data})["accuracy"] for share in entry["accuracy"]]
    plain = dict(zip(arms["plain"]["seeds"], arms["plain"]["accuracy"], strict=True))
    for entry in arms.values():
        own = dict(zip(entry["seeds"], entry["accuracy"], strict=True))
        entry |= _of_accuracies(own, plain, (entry["difference"] or {}).get("seeds", []), images)
    _correct(arms)
    return {**summary, "arms": arms}


def _correct(arms: dict[str, dict[str, Any]]) -> None:
    """Add ``p_holm`` to the differences, where there are more than two arms."""
    if len(arms) > 2:
        add_holm([entry["difference"] for entry in arms.values() if entry["difference"]])


def _mixed(sound: dict[str, dict[int, dict[str, Any]]], found: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Return what is not the same everywhere, with all its values."""
    properties = [{**result.get("versions", {}), "machine": result.get("machine", "")} for result in found]
    names = dict.fromkeys(name for each in properties for name in each)
    values = {name: list(dict.fromkeys(each.get(name, "unknown") for each in properties)) for name in names}
    for result in found:  # arms of the user's own have modules that others do not
        for name, digest in result.get("code", {}).items():
            values.setdefault(f"{CODE}{name}", []).append(digest)
    for arm, runs in sound.items():
        values[f"{PARAMETERS}{arm}"] = [str(run["parameters"]) for run in runs.values() if "parameters" in run]
    each = {name: list(dict.fromkeys(several)) for name, several in values.items()}
    return {name: different for name, different in each.items() if len(different) > 1}


def verdict(summary: dict[str, Any]) -> str:
    """Return what a summary means, in a sentence or two: which arm gained most over plain, how sure that is, and what it cost.

    An arm gained or lost where the 95 % interval of its difference does not contain 0 or, with more than two arms, where its p
    value is below 0.05 after Holm's correction; otherwise nothing is shown, whatever the mean.
    """
    compared = {arm: entry for arm, entry in summary["arms"].items() if entry["difference"] is not None}
    if not compared:
        tested = " on the test images of plain" if any(entry.get("other_images") for entry in summary["arms"].values()) else ""
        return f"There is nothing to compare: no arm beside plain has a result{tested}."
    best = max(compared, key=lambda arm: compared[arm]["difference"]["mean"])
    gain = compared[best]["difference"]
    cost = "" if _too_short(summary) else f", x{compared[best]['time_ratio']:.2f} training time"
    points, seeds = f"{100 * gain['mean']:+.2f} points of test accuracy", len(gain["seeds"])
    first = "" if len(compared) == 1 else f", the best of {len(compared)} arms,"
    if summary["data"] == "made-up":
        return "Made-up images: these numbers mean nothing."
    winners = [arm for arm, entry in compared.items() if arm != best and _gained(entry["difference"])]
    others = f" But {', '.join(winners)} beat{'' if len(winners) > 1 else 's'} plain." if winners else ""
    if gain["p"] is None:
        why = why_no_test(seeds, gain["mean"]) + (": give at least 3" if seeds == 1 else "")
        return f"{best}{first.rstrip(',')}: {points} against plain; {why}.{others}"
    p = gain.get("p_holm", gain["p"])
    sure = p < 0.05
    what = "beats" if sure and gain["mean"] > 0 else "loses to" if sure else "is not significantly different from"
    holm_note = " after Holm's correction" if "p_holm" in gain else ""
    sentence = (
        f"{best}{first} {what} plain: {points} [{100 * gain['low']:+.2f}, "
        f"{100 * gain['high']:+.2f}], p = {_p(p)}{holm_note}, {seeds} seeds{cost}."
    )
    if not winners or not sure:
        return f"{sentence}{others}"
    return f"{sentence} So {'do' if len(winners) > 1 else 'does'} {', '.join(winners)}."


def _too_short(summary: dict[str, Any]) -> bool:
    """Return whether the ratio of training times is mostly noise; summaries of before this was known do not say."""
    return bool(0 < summary.get("plain_seconds", 0.0) < SHORT)


def _gained(difference: dict[str, Any]) -> bool:
    p = difference.get("p_holm", difference["p"])
    return p is not None and p < 0.05 and difference["mean"] > 0


# ------------------------------------------------------------------------------------------------------------- display


def summary_csv(summary: dict[str, Any]) -> str:
    """Return the summary as CSV, a line an arm: accuracies and differences are shares, 0 to 1; what is not known is empty."""
    rows = []
    for arm, entry in summary["arms"].items():
        gain = entry["difference"] or {}
        row = {"arm": arm, "backbone": summary["backbone"], "data": summary["data"], "seeds": len(entry["seeds"])}
        row |= {"accuracy_mean": entry["mean"], "accuracy_sd": entry["sd"]}
        row |= {f"difference_{name}": gain.get(name) for name in ("mean", "low", "high", "p", "p_holm")}
        row |= {"difference_seeds": len(gain.get("seeds", []))}
        rows.append(row | {name: entry[name] for name in ("layer_parameters", "parameters", "time_ratio")})
    return csv_text(rows)


def summary_latex(summary: dict[str, Any]) -> str:
    """Return the summary as a LaTeX table (packages booktabs and caption's usual), with what the numbers are in its caption."""
    header, *rows = summary_rows(summary)
    lines = [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{_latex(' '.join(note for note in summary_notes(summary) if note))}}}",
        rf"  \begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
        r"    \toprule",
        f"    {' & '.join(map(_latex, header))} \\\\",
        r"    \midrule",
        *(f"    {' & '.join(map(_latex, row))} \\\\" for row in rows),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


_LATEX = {"±": r"$\pm$", "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"} | {
    character: rf"\{character}" for character in "&%$#_{}"
}


def _latex(text: str) -> str:
    """Plain text for LaTeX; signs and numbers with a minus in maths."""
    escaped = "".join(_LATEX.get(character, character) for character in text)
    return re.sub(r"(?<![\w.])-(?=\d)", "$-$", escaped)


def summary_table(summary: dict[str, Any]) -> str:
    """Return the summary as a Markdown table, aligned for the terminal too, and the notes below it."""
    rows = summary_rows(summary)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join([*lines, "", *summary_notes(summary)]) + "\n"


def narrow_table(summary: dict[str, Any], width: int = 80) -> str:
    """Return the summary for a screen: a table whose cells are wrapped, and the notes below it, in lines of at most ``width``
    characters, unless a single word needs more."""
    header, *body = summary_rows(summary)
    rows = [[_NARROW.get(cell, cell) for cell in header], *body]
    smallest = [max(len(word) for cell in column for word in (cell.split() or [""])) for column in zip(*rows, strict=True)]
    wanted = [max(map(len, column)) for column in zip(*body, strict=True)]
    widths = [max(pair) for pair in zip(smallest, wanted, strict=True)]
    for column in (2, 1, 0):  # those with words to break
        over = sum(widths) + 2 * (len(widths) - 1) - width
        widths[column] -= max(0, min(over, widths[column] - _unbroken(rows, column, smallest[column])))
    lines = []
    for row in rows:
        cells = [_broken(cell, size) for cell, size in zip(row, widths, strict=True)]
        for pieces in zip_longest(*cells, fillvalue=""):
            lines.append("  ".join(piece.ljust(size) for piece, size in zip(pieces, widths, strict=True)).rstrip())
        if row is rows[0]:
            lines.append("-" * min(width, sum(widths) + 2 * (len(widths) - 1)))
    return "\n".join([*lines, "", *(folded(note, width) for note in summary_notes(summary))]) + "\n"


#: Shorter headings, for a screen.
_NARROW = {"extra parameters": "extra params"}
#: Where cells are broken: between words, but not within an interval or before a spread.
_PIECES = re.compile(r"\[[^\]]*\]|\([^)]*\)|\S+ ± \S+|\S+")


def _unbroken(rows: list[list[str]], column: int, smallest: int) -> int:
    """The width of the longest piece of a column's body."""
    return max([smallest, *(len(piece) for row in rows[1:] for piece in _PIECES.findall(row[column]))])


def _broken(cell: str, width: int) -> list[str]:
    """A cell in lines, of whole pieces; a piece that is too long itself, between words."""
    glue = "\N{NO-BREAK SPACE}"
    pieces = [piece.replace(" ", glue) if len(piece) <= width else piece for piece in _PIECES.findall(cell)]
    return folded(" ".join(pieces), width).replace(glue, " ").split("\n")


def summary_rows(summary: dict[str, Any]) -> list[list[str]]:
    """Return the summary's table as text: the header, then a row an arm."""
    several = len(summary["arms"]) > 2
    header = ["arm", "test accuracy, %", "difference from plain [95 % interval]", "p"]
    header += [*(["p (Holm)"] if several else []), "extra parameters", "training time"]
    timed = not _too_short(summary)
    rows = [_row(arm, entry, len(summary["seeds"]), several, timed=timed) for arm, entry in summary["arms"].items()]
    return [header, *rows]


def _row(arm: str, entry: dict[str, Any], seeds: int, several: bool, *, timed: bool) -> list[str]:
    if entry["mean"] is None:
        return [arm, "failed", *[""] * (5 if several else 4)]
    gain = entry["difference"]
    accuracy = f"{100 * entry['mean']:.2f}" + (f" ± {100 * entry['sd']:.2f}" if entry["sd"] is not None else "")
    difference = "" if arm == "plain" else no_difference(entry)
    if gain is not None:
        interval = f" [{100 * gain['low']:+.2f}, {100 * gain['high']:+.2f}]" if gain["low"] is not None else ""
        difference = f"{100 * gain['mean']:+.2f}{interval}{part(gain['seeds'], seeds)}"
    ps = [gain[name] if gain else None for name in (("p", "p_holm") if several else ("p",))]
    time = f"x{entry['time_ratio']:.2f}" if timed and entry["time_ratio"] is not None else ""
    accuracy += part(entry["seeds"], seeds)
    return [arm, accuracy, difference, *map(_p, ps), str(entry["layer_parameters"]), time]


def no_difference(entry: dict[str, Any]) -> str:
    """Return why an arm with results has no difference from plain, in a few words."""
    return "other test images" if entry.get("other_images") else "no seed in common"


def part(seeds: list[int], of: int) -> str:
    """' (2 of 3 seeds)' where there are fewer than all; else nothing."""
    return f" ({len(seeds)} of {of} seeds)" if len(seeds) < of else ""


def _p(p: float | None) -> str:
    return "" if p is None else f"{p:.3f}" if p >= 0.001 else f"{p:.1g}"


def summary_notes(summary: dict[str, Any]) -> list[str]:
    """Return the notes below the table, in Markdown, a line each."""
    seeds, arms = summary["seeds"], summary["arms"].values()
    if not any(entry["seeds"] for entry in arms):
        how = "and no run of it has a result."
    elif len(seeds) == 1:
        how = f"seed {seeds[0]} alone: no interval, and a difference may be chance."
    else:
        partly = any(len(entry["seeds"]) < len(seeds) for entry in arms)
        how = (
            f"seeds {', '.join(map(str, seeds))}; mean ± sample sd over {len(seeds)} seeds"
            f"{', or over those there are' if partly else ''}. Interval and p: paired t test over "
            f"{'the seeds that both arms have' if partly else 'seeds'}."
        )
    notes = [f"{summary['backbone']}, {how}"]
    if tests := sum((entry["difference"] or {}).get("p_holm") is not None for entry in arms):
        notes.append(f"p (Holm): p corrected by Holm's method for the number of arms that are tested against plain, {tests}.")
    if tuned := summary.get("tuned"):
        notes.append(tuned_in_words(tuned))
    if images := summary.get("test_images"):
        notes.append(
            f"{how_many(images, 'test image')}: one of them is {100 / images:.2g} point{'' if images == 100 else 's'}."
        )
    for where, kind in (("train", "training"), ("validation", "held-out")):
        if shared := summary.get(f"test_in_{where}"):
            are = f"is also a {kind} image" if shared == 1 else f"are also {kind} images"
            notes.append(f"{shared} of these {are}.")
    for images_of, count in summary.get("several_classes", {}).items():
        whose = {"train": "training", "validation": "held-out"}.get(images_of, images_of)
        notes.append(f"{count} {whose} picture{' is' if count == 1 else 's are'} in more than one class.")
    if passed := summary.get("passed_over"):
        notes.append(f"Passed over {passed_in_words(passed)}.")
    if left_out := summary.get("left_out"):
        some = ", ".join(left_out[:NAMED]) + (", ..." if len(left_out) > NAMED else "")
        notes.append(
            f"Left out {how_many(len(left_out), 'image')} that cannot be decoded: {some}"
            f"{'' if len(left_out) <= NAMED else ' (all of them: data.left_out in each result.json)'}."
        )
    for arm, entry in summary["arms"].items():
        if other := entry.get("other_images"):
            notes.append(f"{arm} was tested on other images than plain ({other}), so there is no difference.")
    if others := summary.get("other_settings"):
        notes.append(f"Not in this table, because their settings are others: {some_of(others, NAMED)}.")
    if _too_short(summary):
        notes.append(f"Plain trained for {summary['plain_seconds']:.1f} seconds, too short to compare training times.")
    if summary["mixed"]:
        each = "; ".join(
            f"{name} changed" if name.startswith(CODE) else f"{name} {' or '.join(values)}"
            for name, values in summary["mixed"].items()
        )
        notes.append(f"Not all runs were made in the same way, which may cause part of a difference: {each}.")
    if summary.get("data") == "made-up":
        notes.append("Made-up images: these numbers mean nothing.")
    if summary["failed"]:
        notes += ["", "Without a result:", "", *(f"- {line}" for line in without_result(summary["failed"]))]
    return notes


def tuned_in_words(tuned: dict[str, Any]) -> str:
    """Say how ``jpegdl tune`` went about it."""
    best, folds = tuned.get("held_out_accuracy", {}), tuned.get("folds")
    reached = ", ".join(f"{arm} {100 * share:.1f} %" for arm, share in best.items())
    changed = "; ".join(tuned.get("changed", []))
    return (
        f"plain and jpeg-dl were tuned alike, with {how_many(tuned.get('trials', 0), 'trial')} each, on "
        f"{how_many(tuned.get('images', 0), 'image')} held out of training{f', in {folds} folds' if folds else ''}"
        f"{f' (best there: {reached})' if reached else ''}."
        f"{f' This comparison is not what was tuned: {changed}.' if changed else ''}"
    )


def without_result(failed: list[dict[str, Any]]) -> list[str]:
    """Return which runs have no result, and why, in words: each reason once, with all runs that it holds for."""
    runs: dict[str, dict[str, list[int]]] = {}  # by reason, then by arm
    for entry in failed:
        runs.setdefault(" ".join(entry["why"].split()), {}).setdefault(entry["arm"], []).append(entry["seed"])
    return [
        "; ".join(f"{arm}, seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}" for arm, seeds in arms.items())
        + f": {why}"
        for why, arms in runs.items()
    ]
