"""Differences of two ways to train, paired over seeds or images. They work on results of this package, and on any others."""

import csv
import io
import math
import os
import re
import statistics
import warnings
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import bdtr, ndtri, stdtr, stdtrit

from jpegdl.errors import UsageError
from jpegdl.files import read_text

BASELINE, VALUE = "plain", "accuracy"
_SUMMARIES = ("mean", "average", "avg", "median", "std", "stdev", "sd", "sem", "stderr", "sum", "total", "min", "max")


def paired_difference(values: Sequence[float], baseline: Sequence[float], unit: float | None = None) -> dict[str, float | None]:
    """Compute the mean difference of paired values, its 95 % interval and two-sided p value, by Student's paired t test.

    Args:
        values, baseline: pair by pair.
        unit: the smallest difference that is possible, such as that of one image. Differences that are closer together count as
            equal: only rounding tells them apart. Default: the precision of float32.

    Returns:
        ``mean``, ``low``, ``high`` in the units of the values, and ``p``. The last three are None if the test is not possible:
        with fewer than two pairs, or if all differences are equal.
    """
    differences = [value - base for value, base in zip(values, baseline, strict=True)]
    mean, freedom = statistics.fmean(differences), len(differences) - 1
    noise = 2.0**-22 * max(map(abs, [*values, *baseline])) if unit is None else unit / 2
    if not freedom or max(differences) - min(differences) <= noise:
        return {"mean": mean, "low": None, "high": None, "p": None}
    error, half = statistics.stdev(differences) / math.sqrt(len(differences)), half_interval(differences)
    return {"mean": mean, "low": mean - half, "high": mean + half, "p": 2 * float(stdtr(freedom, -abs(mean) / error))}


def half_interval(values: Sequence[float]) -> float:
    """Compute half the width of the 95 % interval of the mean of two values or more, by Student's t."""
    return float(stdtrit(len(values) - 1, 0.975)) * (statistics.stdev(values) / math.sqrt(len(values)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p values for testing several hypotheses at once; return them in the order given.

    Call all corrected values up to 0.05 significant: at most once in 20 times, any of these calls is wrong.

    Source: S. Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected


def add_holm(differences: Sequence[dict[str, Any]]) -> None:
    """Add ``p_holm`` to several results of :func:`paired_difference`, in place: ``p``, corrected for their number; None if
    ``p`` is."""
    tested = [difference for difference in differences if difference["p"] is not None]
    for difference in differences:
        difference["p_holm"] = None
    for difference, p in zip(tested, holm([difference["p"] for difference in tested]), strict=True):
        difference["p_holm"] = p


def bootstrap(
    values: Sequence[float], baseline: Sequence[float], *, draws: int = 10000, seed: int = 0
) -> tuple[float, float] | None:
    """Compute a 95 % interval of the mean difference of paired values, by drawing the pairs again (percentiles).

    It assumes no normal distribution. With few pairs it is too narrow: below about 10, use Student's
    (:func:`paired_difference`).

    Args:
        values, baseline: pair by pair.
        draws: how often all pairs are drawn, with replacement.
        seed: of the draws.

    Returns:
        (low, high), in the units of the values; None with fewer than two pairs.

    Source: B. Efron, "Bootstrap methods: another look at the jackknife", 1979.
    """
    differences = np.subtract(values, baseline, dtype=np.float64)
    if len(differences) < 2:
        return None
    drawn = np.random.default_rng(seed).integers(len(differences), size=(draws, len(differences)))
    low, high = np.quantile(differences[drawn].mean(1), [0.025, 0.975]).tolist()
    return low, high


def wilson(correct: float, images: int) -> tuple[float, float]:
    """Compute the 95 % interval of an accuracy, by Wilson's score.

    Args:
        correct: how many images are right.
        images: how many images there are.

    Returns:
        (low, high), 0 to 1; (0, 1) if there are no images.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    """
    if not images:
        return 0.0, 1.0
    z, share = float(ndtri(0.975)), correct / images
    middle = (share + z * z / (2 * images)) / (1 + z * z / images)
    half = z / (1 + z * z / images) * math.sqrt(share * (1 - share) / images + z * z / (4 * images * images))
    return max(0.0, middle - half), min(1.0, middle + half)


def mcnemar(only_first: int, only_second: int) -> float:
    """Compute the exact two-sided p value of McNemar's test.

    Args:
        only_first: how many images only the first model has right.
        only_second: how many images only the second has right.

    Returns:
        The probability of a split at least this uneven if both models are equally good (binomial); 1 if there is no such image.
    """
    if abs(only_first - only_second) <= 1:  # as even as can be
        return 1.0
    return 2 * float(bdtr(min(only_first, only_second), only_first + only_second, 0.5))


def paired_interval(lost: int, gained: int, images: int) -> tuple[float, float]:
    """Compute the 95 % interval of a difference of two shares of the same images.

    Args:
        lost: how many images only the first model has right.
        gained: how many images only the second has right.
        images: how many images there are.

    Returns:
        (low, high) of the second model's accuracy less the first's, -1 to 1.

    Source: Agresti and Min 2005, "Simple improved confidence intervals for comparing matched proportions": Wald's, with half
    an image added to each of the four cells.
    """
    lost_, gained_, n = lost + 0.5, gained + 0.5, images + 2
    change = (gained_ - lost_) / n
    half = float(ndtri(0.975)) * (((lost_ + gained_) - (gained_ - lost_) ** 2 / n) ** 0.5) / n
    return max(-1.0, change - half), min(1.0, change + half)


def paired(source: str | os.PathLike[str], *, baseline: str = BASELINE, value: str = VALUE) -> dict[str, dict[str, Any]]:
    """Compare the arms of a table of results with one of them, seed by seed.

    Args:
        source: a CSV file with one line for each run, and at least the columns ``arm``, ``seed`` and ``value``. If semicolons
            or tabs separate them, a comma in a number is its decimal point.
        baseline: the arm that the others are compared with.
        value: the column of what is compared, such as shares or percentages that are right.

    Returns:
        For every other arm: ``seeds``, those that both have; ``left_out``, those that only one of the two has; ``mean``,
        ``low``, ``high`` and ``p`` of the difference (:func:`paired_difference`); ``bootstrap``, its interval by
        :func:`bootstrap`; ``p_holm``, ``p`` corrected for the number of arms that are tested (:func:`holm`). A number that
        cannot be computed is None.

    Raises:
        UsageError: no such file, a column is missing or there twice, a line of too many cells, a quote that is not closed, a
            value is no finite number, points and commas in one column, a run is there twice, a mean or another summary among
            the seeds, no such baseline, or an arm without a seed in common with it.
    """
    runs, digit = _read(Path(source), value)
    if baseline not in runs:
        raise UsageError(f"{source}: no arm {baseline!r} to compare the others with; available: {', '.join(runs) or 'none'}")
    if len(runs) == 1:
        raise UsageError(f"{source}: {baseline} is the only arm; add one to compare with it")
    found: dict[str, dict[str, Any]] = {}
    plain = runs.pop(baseline)
    for arm, by_seed in runs.items():
        seeds = [seed for seed in by_seed if seed in plain]
        if not seeds:
            raise UsageError(f"{source}: {arm} and {baseline} share no seed, so there are no pairs")
        own, base = ([each[seed] for seed in seeds] for each in (by_seed, plain))
        left_out = [seed for seed in {**plain, **by_seed} if seed not in seeds]
        both = {"seeds": seeds, "left_out": left_out}
        tested = paired_difference(own, base)
        if tested["p"] is not None and paired_difference(own, base, unit=3 * digit)["p"] is None:
            warnings.warn(
                f"{source}: the differences of {arm} vary by {digit:g} at most, the last digit that is written: unless the "
                "values are exact, p and the interval come from rounding, and need more digits",
                stacklevel=2,
            )
        found[arm] = {**both, **tested, "bootstrap": None if tested["p"] is None else bootstrap(own, base)}
    add_holm(list(found.values()))
    return found


def _read(file: Path, value: str) -> tuple[dict[str, dict[str, float]], float]:
    """What is compared, by arm and seed, in the order of the file; and what its last digit stands for, of the longest."""
    try:
        text = read_text(file)
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    above = re.match(r"sep=(.)\r?\n", text)  # Excel's line of what separates the columns
    text = text[above.end() :] if above else text
    first = re.sub('"[^"]*"', "", text.partition("\n")[0])  # a name in quotes may hold any mark
    between = above[1] if above else next((mark for mark in ";\t" if mark in first and "," not in first), ",")
    # strict, since a quote that is never closed would take the runs of all lines below it into its cell
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=between, strict=True, skipinitialspace=True)
    try:
        columns = rows.fieldnames = [name.strip() for name in rows.fieldnames or []]
        lines = [(rows.line_num + bool(above), row) for row in rows]
    except csv.Error as error:
        raise UsageError(
            f"{file}, line {rows.line_num + bool(above) + 1}: {error}; is each quote closed, before the next cell?"
        ) from error
    if missing := [name for name in ("arm", "seed", value) if name not in columns]:
        raise UsageError(f"{file}: no column {missing[0]!r}; available: {', '.join(columns) or 'none'}")
    if twice := [name for name in ("arm", "seed", value) if columns.count(name) > 1]:
        raise UsageError(f"{file}: column {twice[0]!r} appears twice")
    runs: dict[str, dict[str, float]] = {}
    digit = 1.0
    marks: set[str] = set()
    for line, row in lines:
        where = f"{file}, line {line}"
        if None in row:  # as of a number with a decimal comma
            raise UsageError(f"{where}: more cells than the {len(columns)} columns; commas within a cell need quotes around it")
        arm, seed, text = ((row[name] or "").strip() for name in ("arm", "seed", value))
        if not any((cell or "").strip() for cell in row.values()):  # an empty line of a spreadsheet
            continue
        if seed.casefold() in _SUMMARIES:
            raise UsageError(f"{where}: {seed!r} is a summary of other lines, and would count as one more seed: remove it")
        if between != ",":
            marks |= {mark for mark in ",." if mark in text}
            if len(marks) > 1:
                raise UsageError(f"{where}: {text!r}: {value} has points and commas, of which one may separate thousands")
            text, seed = text.replace(",", "."), seed.replace(",", ".")
        seed = re.sub(r"^(\d+)\.0+$", r"\1", seed)  # pandas' for whole numbers, in a column with gaps
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not (arm and seed and math.isfinite(number)):
            raise UsageError(f"{where}: arm, seed and {value} must be two names and a number, got {arm!r}, {seed!r}, {text!r}")
        if seed in runs.setdefault(arm, {}):
            raise UsageError(f"{where}: arm {arm}, seed {seed} appears twice")
        runs[arm][seed] = number
        digit = min(digit, 10.0 ** int(Decimal(text).as_tuple().exponent))
    every = [number for by_seed in runs.values() for number in by_seed.values()]
    if "acc" in value.casefold() and every and 0 < min(every) <= 1 and max(every) > 10:
        warnings.warn(
            f"{file}: {value} is {min(every):g} in one run and {max(every):g} in another: shares and percentages in one column "
            "would make a wrong difference",
            stacklevel=3,
        )
    return runs, digit


def why_no_test(seeds: int, mean: float) -> str:
    """Say why a paired difference over ``seeds`` seeds, with this mean, has no p."""
    if seeds == 1:
        return "one seed says nothing about chance"
    return f"{'all seeds differ alike' if mean else 'no seed differs'}, and no test applies"


def paired_words(arm: str, found: Mapping[str, Any], *, baseline: str = BASELINE, several: bool = False) -> str:
    """Say in a sentence what :func:`paired` found of one arm.

    An arm is better or worse if p is below 0.05; p is corrected if there are ``several`` arms. Otherwise the sentence says that
    nothing is shown.
    """
    mean, count = f"{found['mean']:+.4g}", len(found["seeds"])
    alone = found.get("left_out", [])
    left = f" Left out, because only one of the two arms has them: seed{'s' if len(alone) > 1 else ''} {', '.join(alone)}."
    if found["p"] is None:
        return f"{arm}: {mean} against {baseline}; {why_no_test(count, found['mean'])}.{left if alone else ''}"
    p = found["p_holm"] if several else found["p"]
    what = "is not significantly different from" if p >= 0.05 else "is above" if found["mean"] > 0 else "is below"
    return (
        f"{arm} {what} {baseline}: {mean} [{found['low']:+.3g}, {found['high']:+.3g}], "
        f"p = {p:.2g}{' after Holm' if several else ''}, {count} seeds.{left if alone else ''}"
    )
