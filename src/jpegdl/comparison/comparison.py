"""Arms x seeds: train each, resume what was interrupted, and say what the layer gained over the plain backbone."""

import json
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import filelock
import yaml

from jpegdl.comparison.arms import ARMS
from jpegdl.comparison.config import CompareConfig, check_compare
from jpegdl.comparison.figures import draw_figures
from jpegdl.comparison.header import header
from jpegdl.comparison.jobs import count_jobs, train_runs
from jpegdl.comparison.numbers import (
    CODE,
    PARAMETERS,
    summarize,
    summary_csv,
    summary_latex,
    summary_table,
    verdict,
    without_result,
)
from jpegdl.comparison.schedule import Failures, Run
from jpegdl.data import Data, DataConfig
from jpegdl.data.config import OBJECT
from jpegdl.data.loaders import chosen_images
from jpegdl.errors import UsageError
from jpegdl.files import remove_strays, write_together
from jpegdl.runs import RunFolder
from jpegdl.training.starting_weights import check_start
from jpegdl.training.trainer import check_trainers

Runs = dict[str, dict[int, RunFolder]]  # of each arm, by seed


@dataclass(frozen=True)
class Result:
    """What came out of one run.

    Attributes:
        arm, seed: which run.
        accuracy: share of the test images, 0 to 1.
        loss: mean cross-entropy on the test images.
        epochs: trained.
        train_seconds: spent on training batches.
        parameters, layer_parameters: numbers of all parameters, and of the layer's trainable ones.
        folder: of the run; ``open_run(folder)`` gives its model, ``folder.metrics()`` its epochs, ``folder.tables()`` its
            tables, and ``jpegdl.load(folder.path)`` a classifier.
    """

    arm: str
    seed: int
    accuracy: float
    loss: float
    epochs: int
    train_seconds: float
    parameters: int
    layer_parameters: int
    folder: RunFolder


@dataclass(frozen=True)
class Comparison:
    """What came out of a comparison.

    Attributes:
        folder: where all of it is.
        summary: arms in numbers, as ``summary.json`` holds them; see :func:`jpegdl.comparison.numbers.summarize`. Its
            ``failed`` says which runs have no result and why.
        results: of every run that has one, plain and jpeg-dl first.
    """

    folder: Path
    summary: dict[str, Any]
    results: list[Result]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The results as plain dictionaries, one a run, ready for ``pandas.DataFrame(comparison.rows)``."""
        return [{**vars(result), "folder": str(result.folder)} for result in self.results]

    @property
    def table(self) -> str:
        """The arms as a Markdown table, with notes below it."""
        return summary_table(self.summary)

    @property
    def verdict(self) -> str:
        """What it means, in a sentence or two."""
        return verdict(self.summary)

    def __str__(self) -> str:
        return f"{self.table}\n{self.verdict}\n"


def compare(
    config: CompareConfig, sets: tuple[Any, ...] | None = None, announce: Callable[[str], None] | None = None
) -> Comparison:
    """Train every arm with every seed, and compare with plain. Finished runs are kept, interrupted ones resume.

    In every arm the same seed means the same initial backbone, order and augmentation. Several machines that share the run
    folder may run the same comparison at once: each takes runs that no other is training, and waits for those. If an arm fails
    with some seed, because its loss is no longer finite, say, the others go on. The summary (``summary.json``, ``.md``,
    ``.csv`` and ``.tex``) and the figures go to the run folder. They cover all runs there with these settings, also those that
    this call did not ask for. ``compare.yaml`` holds the settings, for ``--config``.

    Args:
        config: what to compare.
        sets: the data set as Python objects, (train, test) or (train, test, classes), in place of one by name: two map-style
            data sets of (image, class index), as torchvision's without transforms, and the names of the classes. The runs then
            train one after another, in this process.
        announce: called with a text before anything is trained: what will be trained, and how long it will take.

    Raises:
        UsageError: settings that cannot be used, runs of other settings or data in the folder, or no plain run to compare with.
    """
    if not isinstance(config, CompareConfig):
        raise UsageError(
            f"config must be a CompareConfig, got {type(config).__name__}; jpegdl.read_config makes one of a recipe or a file"
        )
    if sets is not None:
        config = with_objects(config)
    check_compare(config)
    arms = _in_order(config)
    asked = [(seed, arm) for seed in config.seed_list for arm in arms]
    for seed, arm in asked:
        config.run_folder(arm, seed).check(config.arm_run(arm), arm, seed)
    each = _checked_data(config, asked, sets)
    if each is not None and any(not config.run_folder(arm, seed).started for seed, arm in asked):
        check_trainers([config.arm_run(arm) for arm in arms])
        if count_jobs(config) > 1:  # a single process finds out by itself
            each.check_images(config.arm_run(arm).data for arm in arms)
        for arm in arms if config.trained else arms[:1]:  # only trained weights suit some arms and others not
            run = config.arm_run(arm)
            check_start(run, each.of(run.data).classes, config.seed_list[0])
        if announce is not None:
            announce(header(config, each.of(config.arm_run("plain").data), asked))
    return summarize_runs(config, train_runs(config, asked, None if each is None else each.recipes))


def _in_order(config: CompareConfig) -> list[str]:
    """The arms, each after those that it starts from."""
    if "plain" not in config.arm_names:
        raise UsageError(f"arms must include plain, which the others are compared with; got {', '.join(config.arm_names)}")
    for arm in config.arm_names:
        for needed in config.needed_arms(arm):
            if needed not in config.arm_names:
                raise UsageError(f"arm {arm} starts from the tables of arm {needed}: add that to the arms")
    first = ["plain", *(["jpeg-dl"] if "jpeg-dl" in config.arm_names else [])]
    return list(dict.fromkeys([*first, *config.arm_names]))


def with_objects(config: CompareConfig) -> CompareConfig:
    """Return the same settings, for a data set that is given as Python objects.

    Raises:
        UsageError: they name a data set, or several jobs.
    """
    if config.data.name not in (None, OBJECT) or config.data.path is not None:
        name, value = ("name", config.data.name) if config.data.name else ("path", config.data.path)
        raise UsageError(f"data.{name} is {value!r}, but the data set is also given as Python objects: give only one of them")
    if config.jobs not in (None, 1):
        raise UsageError(
            f"jobs must be 1 if the data set is given as Python objects, got {config.jobs}. Parallel processes need it "
            "by name: data.name my_module:make_sets"
        )
    return replace(config, data=replace(config.data, name=OBJECT), jobs=1)


def _checked_data(config: CompareConfig, asked: list[Run], sets: tuple[Any, ...] | None) -> "_OfArms | None":
    """The data sets, held against that of every run in the folder that has begun, asked for or not: arms may have their own.

    None where it is not there and nothing is left to train; the runs are then held against one another.
    """
    try:
        data = Data(config.data, config.seed_list[0], sets=sets)
    except UsageError as error:
        if not all(config.run_folder(arm, seed).finished for seed, arm in asked):
            raise
        warnings.warn(f"the data set was not compared with that of the finished runs: {error}", stacklevel=3)
        data = None
    each = None if data is None else _OfArms(data)
    found: dict[str, dict[str, Any]] = {}
    for arm, seed, folder in _runs_there(config):
        run = config.arm_run(arm)
        if folder.started and folder.difference(run, arm, seed) is None:
            there = each.of(run.data).fingerprint if each else found.setdefault(chosen_images(run.data), folder.data())
            folder.check_data(there, run)
    return each


class _OfArms:
    """The data set of each arm: that of the recipe, unless the arm has settings of its own that may choose other images."""

    def __init__(self, recipes: Data) -> None:
        self.recipes, self._known = recipes, {chosen_images(recipes.config): recipes}

    def of(self, config: DataConfig) -> Data:
        """The data set that settings choose; it is listed, and what is wrong with it said, once."""
        key = chosen_images(config)
        if key not in self._known:
            self._known[key] = self.recipes.with_config(config)
        return self._known[key]

    def check_images(self, configs: Iterable[DataConfig]) -> None:
        """Find images that cannot be decoded, before several processes do."""
        checked: list[Data] = []
        for config in configs:
            if (data := self.of(config)) not in checked:
                checked.append(data)
                for part in data.parts.values():
                    part.check()


def _runs_there(config: CompareConfig) -> Iterator[tuple[str, int, RunFolder]]:
    """All runs with a folder, asked for or not, of arms that are known: arm, seed and folder; plain and jpeg-dl first."""
    for arm in _known_arms(config):
        folders = [path for path in (config.folder / arm).glob("*") if path.is_dir() and path.name.isdecimal()]
        for seed in sorted(int(path.name) for path in folders):
            yield arm, seed, config.run_folder(arm, seed)


def _known_arms(config: CompareConfig) -> list[str]:
    return list(dict.fromkeys([*_in_order(config), *ARMS]))


def summarize_runs(config: CompareConfig, failures: Failures | None = None) -> Comparison:
    """Summarize all runs in the folder that were trained with these settings, and write the summary and its figures.

    If the folder cannot be written to, this warns, and returns the summary all the same.

    Args:
        config: the comparison.
        failures: why runs that were just tried have no result.

    Raises:
        UsageError: no plain run is finished, or a file of a finished run is damaged.
    """
    runs, failed, others = _found_runs(config, failures or {})
    results = {arm: {seed: run.result() for seed, run in by_seed.items()} for arm, by_seed in runs.items()}
    results = {"plain": {}, **results}
    summary = {"name": config.name, "backbone": config.backbone, "data": config.data.kind, **summarize(results, failed)}
    if others:
        summary["other_settings"] = others
    if config.tuned is not None:
        summary["tuned"] = {name: value for name, value in config.tuned.items() if name not in ("arms", "of")}
        if results["plain"]:
            record = next(iter(results["plain"].values())).get("data", {})
            summary["tuned"]["changed"] = config.changed_since_tuned(record)
    if results["plain"]:
        found = next(iter(results["plain"].values())).get("data", {})
        notes = ("passed_over", "test_in_train", "test_in_validation", "several_classes", "left_out")
        summary |= {name: found[name] for name in notes if name in found}
    if odd := [name for name in summary["mixed"] if name.startswith((CODE, PARAMETERS))]:
        warnings.warn(
            f"the runs in {config.folder} are of different models: {', '.join(odd)} changed between them; give the new "
            "ones another --name, or delete the older ones",
            stacklevel=2,
        )
    written = {
        "summary.json": json.dumps(summary, indent=1),
        "summary.md": summary_table(summary),
        "summary.csv": summary_csv(summary),
        "summary.tex": summary_latex(summary),
        "compare.yaml": yaml.safe_dump(asdict(config), sort_keys=False),
    }
    try:
        with filelock.FileLock(config.folder / "locks" / "summary"):
            remove_strays(config.folder)
            draw_figures(config.folder, runs, summary)  # first, as it says which file of a run is damaged
            write_together({config.folder / name: text for name, text in written.items()})
    except OSError as error:
        warnings.warn(f"the summary in {config.folder} is out of date, because it cannot be written: {error}", stacklevel=2)
    if not results["plain"]:
        why = [{"arm": arm, "seed": seed, "why": failed[arm][seed]} for arm in failed for seed in sorted(failed[arm])]
        each = "; ".join(without_result(why))
        raise UsageError(f"no plain run in {config.folder} has a result to compare with{f': {each}' if each else ''}")
    return Comparison(config.folder, summary, _in_rows(runs, results, summary))


def _in_rows(runs: Runs, results: dict[str, dict[int, dict[str, Any]]], summary: dict[str, Any]) -> list[Result]:
    """The results that the summary counts."""
    names = {field.name for field in fields(Result)} - {"arm", "seed", "folder"}
    found = []
    for arm, entry in summary["arms"].items():
        for seed in entry["seeds"]:
            numbers: dict[str, Any] = {name: results[arm][seed].get(name) for name in names}
            found.append(Result(arm=arm, seed=seed, folder=runs[arm][seed], **numbers))
    return found


def _found_runs(config: CompareConfig, failures: Failures) -> tuple[Runs, Failures, list[str]]:
    """Finished runs of these settings, and those that failed, asked for or not; plain and jpeg-dl first. And as ARM/SEED those
    of other settings."""
    known, others = _known_arms(config), list[str]()
    for path in sorted(config.folder.glob("*/*/result.json")):
        if (arm := path.parts[-3]) not in known:
            warnings.warn(f"left out of the summary: {path.parent}, as these settings do not define an arm {arm}", stacklevel=3)
            others.append("/".join(path.parts[-3:-1]))
    runs: Runs = {}
    failed: Failures = {arm: dict(seeds) for arm, seeds in failures.items()}
    for arm, seed, folder in _runs_there(config):
        run = config.arm_run(arm)
        if folder.started and (differing := folder.difference(run, arm, seed)):
            warnings.warn(f"left out of the summary: {folder}, a run with other settings ({differing})", stacklevel=3)
            others.append(f"{arm}/{seed}")
        elif folder.finished:
            runs.setdefault(arm, {})[seed] = folder
        elif why := failures.get(arm, {}).get(seed) or folder.failure(run, arm, seed):
            failed.setdefault(arm, {})[seed] = why
    return runs, {arm: failed[arm] for arm in dict.fromkeys([*_in_order(config), *failed]) if arm in failed}, others
