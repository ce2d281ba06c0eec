"""The runs of a comparison explained one after another."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from jpegdl.explain.config import ExplainConfig, check_explain
from jpegdl.explain.parts import explain_run
from jpegdl.runs import finished_runs
from jpegdl.runs.progress import Progress, one_of_several


def explain_comparison(
    folder: str | PathLike[str],
    config: ExplainConfig | None = None,
    *,
    arms: Sequence[str] | None = ("jpeg-dl",),
    seeds: int | Sequence[int] | Literal["lowest"] | None = None,
    progress: Progress | None = None,
) -> dict[str, dict[int, dict[str, Any]]]:
    """Explain the runs of a comparison, each beside the plain run of the same seed, into ``explain/`` of their folders.

    Args:
        folder: of the comparison, ``runs/NAME``.
        config: what to explain.
        arms: whose runs; None for all.
        seeds: a number n for 0 to n-1, or a list; "lowest" for the lowest there is of each arm; None for all there are.
        progress: told how far the whole is.

    Returns:
        Of each arm, by seed, the content of ``explain/explain.json``; see :func:`explain_run`.

    Raises:
        UsageError: see :func:`explain_run`; or a run is not there.
    """
    config, place = config or ExplainConfig(), Path(folder)
    check_explain(config)
    chosen = finished_runs(place, arms, None if seeds == "lowest" else seeds)
    runs = [
        (arm, seed, run)
        for arm, by_seed in chosen.items()
        for seed, run in by_seed.items()
        if seeds != "lowest" or seed == min(by_seed)
    ]
    plain = finished_runs(place).get("plain", {})
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for number, (arm, seed, run) in enumerate(runs):
        told = one_of_several(progress, f"{arm}, seed {seed}", number, len(runs))
        found.setdefault(arm, {})[seed] = explain_run(run, config, plain.get(seed) if arm != "plain" else None, told)
    return found
