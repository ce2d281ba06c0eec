"""A whole comparison under attack: its runs one after another, and their numbers side by side."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from jpegdl.errors import UsageError
from jpegdl.files import read_json, replacing, write_csv
from jpegdl.robustness.attack_figures import attack_figure, attack_notes, attack_rows
from jpegdl.robustness.config import AttackConfig, check_attack
from jpegdl.robustness.corruptions import CorruptedImages
from jpegdl.robustness.results import attack_name, with_earlier
from jpegdl.robustness.trials import attack_run
from jpegdl.runs import RunFolder, finished_runs
from jpegdl.runs.progress import Progress, one_of_several


@dataclass(frozen=True)
class AttackedComparison:
    """What came out of the attacks on a comparison.

    Attributes:
        results: of each arm, by seed, the content of ``attack.json``; see :func:`attack_run`. Results of earlier calls that can
            be compared with them are included.
        notes: what a reader of the numbers must know, in sentences.
        files: what was written to the comparison's folder.
    """

    results: dict[str, dict[int, dict[str, Any]]]
    notes: list[str]
    files: list[Path]


def attack_comparison(
    folder: str | PathLike[str],
    config: AttackConfig | None = None,
    *,
    arms: Sequence[str] | None = ("plain", "jpeg-dl"),
    seeds: int | Sequence[int] | None = None,
    progress: Progress | None = None,
    each: Callable[[dict[str, Any]], None] | None = None,
) -> AttackedComparison:
    """Attack the runs of a comparison, and write ``attack.csv`` and ``attack.png`` to its folder.

    In the folder of each run it writes what :func:`attack_run` does. What is there already is not done again.

    Args:
        folder: of the comparison, ``runs/NAME``.
        config: what to attack with.
        arms: whose runs; None for all.
        seeds: a number n for 0 to n-1, or a list; None for all there are.
        progress: told how far the whole is.
        each: called with the result of every run as soon as it is there.

    Raises:
        UsageError: see :func:`attack_run`; or a run is not there.
    """
    config, place = config or AttackConfig(), Path(folder)
    check_attack(config)
    runs = [(arm, seed, run) for arm, by_seed in finished_runs(place, arms, seeds).items() for seed, run in by_seed.items()]
    finished = _in_order(place, finished_runs(place))
    plain = finished.get("plain", {})
    results: dict[str, dict[int, dict[str, Any]]] = {}
    corrupted = CorruptedImages()
    for number, (arm, seed, run) in enumerate(runs):
        told = one_of_several(progress, f"{arm}, seed {seed}", number, len(runs))
        transfer = plain.get(seed) if arm != "plain" else None
        results.setdefault(arm, {})[seed] = attack_run(run, config, transfer, told, corrupted)
        if each is not None:
            each(results[arm][seed])
    name = attack_name(config.rounding)
    results, notes = with_earlier(results, finished, config.rounding)
    files = [place / f"{name}.csv"]
    write_csv(files[0], attack_rows(results))
    try:
        figure = attack_figure(results, list(finished))
        notes += attack_notes(results)
    except UsageError as error:  # what cannot be put side by side has its rows all the same
        figure = None
        notes.insert(0, f"No figure: {error}")
    if figure is not None:
        files.append(place / f"{name}.png")
        with replacing(files[-1]) as file:
            figure.savefig(file, dpi=100, facecolor="white")
    return AttackedComparison(results, notes, files)


def _in_order(folder: Path, runs: dict[str, dict[int, RunFolder]]) -> dict[str, dict[int, RunFolder]]:
    """Runs in the order of the comparison's table, if there is one; then the others."""
    summary = read_json(folder / "summary.json", ("arms",))
    order = [*(summary["arms"] if summary else ()), *runs]
    return {arm: runs[arm] for arm in dict.fromkeys(order) if arm in runs}
