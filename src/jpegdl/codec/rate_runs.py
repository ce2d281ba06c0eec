"""Accuracy against true bits per pixel of a whole comparison: its runs one after another, and their curves side by side."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from jpegdl.codec.bjontegaard import Between
from jpegdl.codec.rate_points import CurveConfig, check_curve_config, rate_run, why_no_files
from jpegdl.codec.rate_results import rate_comparisons, rate_figure, rate_rows
from jpegdl.errors import UsageError
from jpegdl.files import replacing, write_csv, write_json
from jpegdl.runs import RunFolder, finished_runs
from jpegdl.runs.progress import Progress, one_of_several


@dataclass(frozen=True)
class RatedComparison:
    """What real JPEG files say of a comparison.

    Attributes:
        results: of each arm, by seed, the content of ``rate.json``; see :func:`rate_run`.
        rows: of ``rate.csv``; see :func:`rate_rows`.
        compared: every curve against those of default JPEG.
        left_out: runs that were not measured and why, in words.
        files: what was written to the comparison's folder.
    """

    results: dict[str, dict[int, dict[str, Any]]]
    rows: list[dict[str, Any]]
    compared: list[Between]
    left_out: list[str]
    files: list[Path]


def rate_comparison(
    folder: str | PathLike[str],
    config: CurveConfig | None = None,
    *,
    arms: Sequence[str] | None = None,
    seeds: int | Sequence[int] | None = None,
    progress: Progress | None = None,
) -> RatedComparison:
    """Measure the runs of a comparison on real JPEG files, and write ``rate.csv``, ``.json`` and ``.png`` to its folder.

    In the folder of each run it writes what :func:`rate_run` does. Points that are there already are not measured again.

    Args:
        folder: of the comparison, ``runs/NAME``.
        config: what to measure with.
        arms: whose runs; None for all that files can stand for.
        seeds: a number n for 0 to n-1, or a list; None for all there are.
        progress: told how far the whole is.

    Raises:
        UsageError: see :func:`rate_run`; a run is not there, or none is left.
    """
    config, place = config or CurveConfig(), Path(folder)
    check_curve_config(config)
    runs = [(arm, seed, run) for arm, by_seed in finished_runs(place, arms, seeds).items() for seed, run in by_seed.items()]
    left_out = []
    if arms is None:
        left_out = [
            f"{begun.parent.parent.name}, seed {begun.parent.name}, whose training is not finished"
            for begun in sorted(place.glob("*/*/config.yaml"))
            if not RunFolder(begun.parent).finished
        ]
        why = {run: why_no_files(run) for _, _, run in runs}
        left_out += [reason for reason in why.values() if reason]
        runs = [(arm, seed, run) for arm, seed, run in runs if not why[run]]
    results: dict[str, dict[int, dict[str, Any]]] = {}
    for number, (arm, seed, run) in enumerate(runs):
        told = one_of_several(progress, f"{arm}, seed {seed}", number, len(runs))
        results.setdefault(arm, {})[seed] = rate_run(run, config, told)
    if not results:
        reasons = "; ".join(left_out)
        raise UsageError(f"no run in {place} is plain, and none has a layer that files can stand for: {reasons}")
    rows, compared = rate_rows(results), rate_comparisons(results)
    files = [place / name for name in ("rate.csv", "rate.json", "rate.png")]
    write_csv(files[0], rows)
    write_json(files[1], [asdict(between) for between in compared])
    with replacing(files[2]) as file:
        rate_figure(results).savefig(file, dpi=100, facecolor="white", format="png")
    return RatedComparison(results, rows, compared, left_out, files)
