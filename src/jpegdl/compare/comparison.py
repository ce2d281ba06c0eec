"""Arms x seeds: train each, resume what was interrupted, and say what the layer gained over the plain backbone."""

import json
import warnings
from collections.abc import Iterator
from typing import Any

import filelock

from jpegdl.compare.arms import ARMS, arm_config, needed_arms
from jpegdl.compare.config import CompareConfig, check_compare
from jpegdl.compare.figures import draw_figures
from jpegdl.compare.jobs import train_runs
from jpegdl.compare.schedule import Failures, Run
from jpegdl.compare.statistics import summarize, summary_table
from jpegdl.data import Data
from jpegdl.errors import UsageError
from jpegdl.files import remove_strays, replacing
from jpegdl.training import RunFolder

Runs = dict[str, dict[int, RunFolder]]  # of each arm, by seed


def compare(config: CompareConfig) -> tuple[dict[str, Any], str]:
    """Train every arm with every seed (what is finished is kept, what was interrupted resumes) and compare with plain.

    In every arm the same seed means the same initial backbone, order and augmentation. Several machines that share the run
    folder may run the same comparison at once: each takes runs that no other is training, and waits for those. An arm that
    fails with some seed, because its loss is no longer finite, say, does not stop the others. Writes ``summary.json``,
    ``summary.md`` and the figures to the run folder: of everything there that was trained with these settings, whatever part of
    it this call asks for.

    Returns:
        The summary, whose ``failed`` says which runs have no result and why, and the same as a Markdown table.

    Raises:
        UsageError: settings that cannot be used, runs of other settings or data in the folder, or no plain run to compare with.
    """
    check_compare(config)
    arms = _in_order(config)
    asked = [(seed, arm) for seed in config.seed_list for arm in arms]
    for seed, arm in asked:
        config.run_folder(arm, seed).check(arm_config(config.run, arm), arm, seed)
    data = _checked_data(config, asked)
    return summarize_runs(config, train_runs(config, asked, data))


def _in_order(config: CompareConfig) -> list[str]:
    """The arms, each after those that it starts from."""
    if "plain" not in config.arms:
        raise UsageError(f"arms must include plain, which the others are compared with; got {', '.join(config.arms)}")
    for arm in config.arms:
        for needed in needed_arms(config.run, arm):
            if needed not in config.arms:
                raise UsageError(f"arm {arm} starts from the tables of arm {needed}: name it among the arms too")
    first = ["plain", *(["jpeg-dl"] if "jpeg-dl" in config.arms else [])]
    return list(dict.fromkeys([*first, *config.arms]))


def _checked_data(config: CompareConfig, asked: list[Run]) -> Data | None:
    """The data set, held against that of every run in the folder that has begun, asked for or not.

    None where it is not there and nothing is left to train; the runs are then held against one another.
    """
    try:
        data = Data(config.data, config.seed_list[0])
    except UsageError as error:
        if not all(config.run_folder(arm, seed).finished for seed, arm in asked):
            raise
        warnings.warn(f"the data set was not compared with that of the finished runs: {error}", stacklevel=3)
        data = None
    found = data.fingerprint if data else None
    for arm, seed, folder in _runs_there(config):
        run = arm_config(config.run, arm)
        if folder.started and folder.difference(run, arm, seed) is None:
            found = found or folder.data()
            folder.check_data(found, run)
    return data


def _runs_there(config: CompareConfig) -> Iterator[tuple[str, int, RunFolder]]:
    """All runs with a folder, asked for or not: arm, seed and folder; plain and jpeg-dl first."""
    for arm in dict.fromkeys([*_in_order(config), *ARMS]):
        folders = [path for path in (config.folder / arm).glob("*") if path.is_dir() and path.name.isdecimal()]
        for seed in sorted(int(path.name) for path in folders):
            yield arm, seed, config.run_folder(arm, seed)


def summarize_runs(config: CompareConfig, failures: Failures | None = None) -> tuple[dict[str, Any], str]:
    """Say what came out of all runs in the folder that were trained with these settings; write it down, with figures.

    A folder that cannot be written to is warned of, and the summary returned all the same.

    Args:
        config: the comparison.
        failures: why runs that were just tried have no result.

    Returns:
        The summary, and the same as a Markdown table.

    Raises:
        UsageError: no plain run is finished, or a file of a finished run is damaged.
    """
    runs, failed = _found_runs(config, failures or {})
    results = {arm: {seed: run.result() for seed, run in by_seed.items()} for arm, by_seed in runs.items()}
    results = {"plain": {}, **results}
    summary = {"name": config.name, "backbone": config.backbone, "data": config.data.kind, **summarize(results, failed)}
    table = summary_table(summary)
    try:
        with filelock.FileLock(config.folder / "locks" / "summary"):
            remove_strays(config.folder)
            draw_figures(config.folder, runs, summary)  # first, as it says which file of a run is damaged
            with replacing(config.folder / "summary.json") as file:
                file.write_text(json.dumps(summary, indent=1))
            with replacing(config.folder / "summary.md") as file:
                file.write_text(table)
    except OSError as error:
        warnings.warn(f"the summary in {config.folder} is not up to date, it cannot be written: {error}", stacklevel=2)
    if not results["plain"]:
        each = "; ".join(f"arm {arm}, seed {seed}: {why}" for arm, seeds in failed.items() for seed, why in seeds.items())
        raise UsageError(f"no plain run in {config.folder} has a result to compare with{f': {each}' if each else ''}")
    return summary, table


def _found_runs(config: CompareConfig, failures: Failures) -> tuple[Runs, Failures]:
    """Finished runs of these settings, and those that failed, asked for or not; plain and jpeg-dl first."""
    runs: Runs = {}
    failed: Failures = {arm: dict(seeds) for arm, seeds in failures.items()}
    for arm, seed, folder in _runs_there(config):
        run = arm_config(config.run, arm)
        if folder.started and (differing := folder.difference(run, arm, seed)):
            warnings.warn(f"left out of the summary: {folder}, a run with other settings ({differing})", stacklevel=3)
        elif folder.finished:
            runs.setdefault(arm, {})[seed] = folder
        elif why := failures.get(arm, {}).get(seed) or folder.failure(run, arm, seed):
            failed.setdefault(arm, {})[seed] = why
    return runs, {arm: failed[arm] for arm in dict.fromkeys([*_in_order(config), *failed]) if arm in failed}
