"""Arms x seeds: train each, resume what was interrupted, and say what the layer gained over the plain backbone."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import filelock
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn

from jpegdl.calibrate import sensitivity_tables
from jpegdl.compare.arms import ARMS, arm_config, check_arm, needed_arms
from jpegdl.compare.figures import draw_figures
from jpegdl.compare.statistics import summarize, summary_table
from jpegdl.data import Data
from jpegdl.errors import UsageError
from jpegdl.files import remove_strays, replacing
from jpegdl.layer import JpegLayer, PrependedModel, prepend
from jpegdl.tables import check_table
from jpegdl.training import (
    RunConfig,
    build_backbone,
    build_layer,
    check_config,
    check_folder,
    evaluate,
    initial_tables,
    load_model,
    needs_tables,
    on_gpu,
    read_config,
    read_result,
    train_run,
)

__all__ = ["ARMS", "BusyError", "CompareConfig", "calibrate_run", "compare", "evaluate_run", "train_arm"]


LARGEST_SEED = 2**32 - 1  # that numpy takes
_PATIENCE = 5.0  # seconds between two looks at what other processes are training


@dataclass
class CompareConfig(RunConfig):
    """A comparison.

    Args:
        backbone: any timm model name; one of the CIFAR networks, cifar_resnet56, cifar_vgg13, ...; or torchvision/NAME.
        data: what to train and test on.
        layer: the JPEG layer.
        training: how to train.
        name: of the run folder, ``output/name``.
        output: folder of all runs.
        arms: what to compare. plain (the backbone alone), jpeg-dl (the layer in front of it, trained jointly); real JPEG
            instead: jpeg-augmentation, jpeg-75; tables that stay: fixed-sensitivity, fixed-50, fixed-75, fixed-90,
            learned-frozen; other gradients: ste, noise; other starts: init-sensitivity, init-magnitude, init-ones,
            init-random; parts: cap-only, quantization-only; competitors: gain, normalize; variants: zero-dc, subsampled,
            regions, cascade, alpha, kappa, log, tanh.
        seeds: a number n for the seeds 0 to n-1, or a list of seeds.
    """

    name: str = "run"
    output: str = "runs"
    arms: list[str] = field(default_factory=lambda: ["plain", "jpeg-dl"])
    seeds: int | list[int] = 3

    @property
    def run(self) -> RunConfig:
        """The part that a single run depends on."""
        return RunConfig(self.backbone, self.data, self.layer, self.training)

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.output) / self.name

    @property
    def seed_list(self) -> list[int]:
        """The seeds, one by one."""
        return list(range(self.seeds)) if isinstance(self.seeds, int) else list(self.seeds)


def check_compare(config: CompareConfig) -> None:
    """Refuse settings that would fail later.

    Raises:
        UsageError: names the setting, what it is and what it may be.
    """
    for arm in config.arms:
        check_config(arm_config(config.run, arm))
    seeds = config.seed_list
    if not seeds or min(seeds) < 0 or max(seeds) > LARGEST_SEED or len(set(seeds)) < len(seeds):
        raise UsageError(
            f"seeds must be a number >= 1, or a list of different numbers from 0 to {LARGEST_SEED}, got {config.seeds}"
        )
    if Path(config.name).name != config.name or config.name in ("", ".", ".."):
        raise UsageError(f"name must be a plain folder name, got {config.name!r}")


class BusyError(UsageError):
    """Another process is training that run."""


@contextmanager
def _claimed(config: CompareConfig, arm: str, seed: int) -> Iterator[None]:
    """Keep other processes, on this machine or another that shares the folder, from training the same run.

    The operating system gives the lock back when a process ends, however it ends.

    Raises:
        BusyError: one of them is at it.
    """
    if getattr(rank_zero_only, "rank", 0) or int(os.environ.get("NODE_RANK", "0")):  # the processes of one run have one claim
        yield
        return
    lock = config.folder / "locks" / f"{arm}-{seed}"
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(lock, blocking=False):
            yield
    except filelock.Timeout as taken:
        raise BusyError(
            f"arm {arm}, seed {seed} of {config.folder} is being trained by another process (it holds {lock})"
        ) from taken


def train_arm(config: CompareConfig, arm: str, seed: int, data: Data | None = None) -> dict[str, Any]:
    """Train one arm with one seed in the comparison's run folder, or resume it; returns its result if it is finished.

    Args:
        config: the comparison.
        arm: a key of :data:`ARMS`; one whose tables come from another run needs that arm's finished run of that seed.
        seed: of the run.
        data: to share decoded images among runs; its seed is set. Default: load it.

    Raises:
        UsageError: see :func:`jpegdl.training.train_run`; BusyError where another process trains it.
    """
    check_compare(config)
    _check_run(arm, seed)
    needed_arms(config.run, arm)
    run, folder = arm_config(config.run, arm), config.folder / arm / str(seed)
    check_folder(run, folder, arm, seed)
    if (folder / "result.json").is_file():
        return read_result(folder)
    with _claimed(config, arm, seed):
        remove_strays(folder)
        data = data.with_config(run.data) if data else Data(run.data, seed)
        data.seed = seed
        return train_run(run, data, lambda: _make_layer(config, run, data, seed), folder, arm, seed)


def _make_layer(config: CompareConfig, run: RunConfig, data: Data, seed: int) -> nn.Module:
    """The untrained layer of one run."""
    if not needs_tables(run.layer):
        tables = torch.ones(8, 8), torch.ones(8, 8)
    elif run.layer.tables == "sensitivity":
        tables = calibrate_run(config, data, seed)
    elif run.layer.tables == "learned":
        tables = _learned_tables(config, seed)
    else:
        tables = initial_tables(run.layer, data)
    return build_layer(run.layer, tables, run.data.size)


def _learned_tables(config: CompareConfig, seed: int) -> tuple[Tensor, Tensor]:
    file = config.folder / "jpeg-dl" / str(seed) / "tables.json"
    if not file.is_file():
        raise UsageError(f"learned tables need the trained arm jpeg-dl, {file}: train it with seed {seed} first")
    try:
        after = json.loads(file.read_text())["after"]
        return check_table(after["luma"], "luma"), check_table(after["chroma"], "chroma")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{file} has no learned tables of a single JPEG layer ({error})") from error


def _check_run(arm: str, seed: int) -> None:
    check_arm(arm)
    if not 0 <= seed <= LARGEST_SEED:
        raise UsageError(f"seed must be a number from 0 to {LARGEST_SEED}, got {seed}")


def _plain_model(config: CompareConfig, data: Data, seed: int, file: Path | None = None) -> PrependedModel:
    """The trained plain model of that seed."""
    model = prepend(build_backbone(config.backbone, len(data.classes), seed, config.data.size), nn.Identity())
    own = config.folder / "plain" / str(seed) / "model.safetensors"
    if file is None and not own.is_file():
        raise UsageError(f"sensitivity tables need the trained plain model {own}: train arm plain with seed {seed} first")
    load_model(file or own, model)
    return model.to("cuda" if on_gpu(config.training) else "cpu")


def calibrate_run(
    config: CompareConfig, data: Data, seed: int, method: str = "sensitivity", model_file: Path | None = None
) -> tuple[Tensor, Tensor]:
    """Initial (luma, chroma) tables for a comparison's data.

    Args:
        config: the comparison.
        data: its data set.
        seed: whose plain model, and which order of the training images.
        method: sensitivity or magnitude.
        model_file: another plain model's ``model.safetensors`` to take the sensitivities from.

    Raises:
        UsageError: unknown method, no trained plain model, or tables that cannot be computed.
    """
    data.seed = seed
    if method == "magnitude":
        return initial_tables(replace(config.layer, tables="magnitude"), data)
    if method != "sensitivity":
        raise UsageError(f"method must be sensitivity or magnitude, got {method!r}")
    model = _plain_model(config, data, seed, model_file)
    return sensitivity_tables(model, data.calibration_dataloader(), q_max=config.layer.q_max, images=config.layer.images)


def evaluate_run(
    config: CompareConfig, arm: str, seed: int, model_file: Path | None = None, rounding: str | None = None
) -> dict[str, Any]:
    """Test a finished run's model, or another file's, as it is or with another quantizer.

    Args:
        config: names the run by its ``name`` and ``output``. The run's own settings, from its folder, are the ones in use; of
            ``config`` only where the data lie (``data.path``, where given) and what to compute on. With ``model_file`` all of
            ``config`` counts, and the run's none.
        arm, seed: which run.
        model_file: a ``model.safetensors`` to test in place of the run's own.
        rounding: quantizer to put in place of the trained one, such as hard.

    Returns:
        accuracy (0 to 1) and loss on the test images; backbone, model (the file), arm, seed and rounding (None for plain).

    Raises:
        UsageError: unknown arm or rounding, no such model, or one of another architecture.
    """
    _check_run(arm, seed)
    folder = config.folder / arm / str(seed)
    run = arm_config(config.run, arm)
    if model_file is None:
        model_file = folder / "model.safetensors"
        if (own := read_config(folder)) is None or not model_file.is_file():
            raise UsageError(f"no trained model in {folder}; give the run's --name, --arm and --seed, or a file with --model")
        own.data.path, own.data.workers = config.data.path or own.data.path, config.data.workers
        own.training.accelerator = config.training.accelerator
        run = own
    check_config(run)
    data = Data(run.data, seed)
    layer = build_layer(run.layer, (torch.ones(8, 8), torch.ones(8, 8)), run.data.size)
    quantizers = [module for module in layer.modules() if isinstance(module, JpegLayer)]
    if rounding is not None and not quantizers:
        raise UsageError(f"arm {arm} has no quantizer, so --rounding means nothing to it")
    for quantizer in quantizers:
        quantizer.rounding = rounding or quantizer.rounding
    model = prepend(build_backbone(run.backbone, len(data.classes), seed, run.data.size), layer)
    load_model(model_file, model)
    named = {"backbone": run.backbone, "model": str(model_file), "arm": arm, "seed": seed}
    return {**evaluate(model, data, run.training), **named, "rounding": quantizers[0].rounding if quantizers else None}


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


def compare(config: CompareConfig) -> tuple[dict[str, Any], str]:
    """Train every arm with every seed (what is finished is kept, what was interrupted resumes) and compare with plain.

    In every arm the same seed means the same initial backbone, order and augmentation. Several machines that share the run
    folder may run the same comparison at once: each takes runs that no other is training, and waits for those. Writes
    ``summary.json``, ``summary.md`` and the figures to the run folder. An arm that fails with some seed, because its loss
    is no longer finite, say, is left out of them; the others are trained all the same.

    Returns:
        The summary, and the same as a Markdown table.

    Raises:
        UsageError: settings that cannot be used, or, once all others are done, which runs failed.
    """
    check_compare(config)
    arms = _in_order(config)
    pending = [(seed, arm) for seed in config.seed_list for arm in arms]
    for seed, arm in pending:
        check_folder(arm_config(config.run, arm), config.folder / arm / str(seed), arm, seed)
    found: dict[tuple[int, str], dict[str, Any]] = {}
    failed: dict[tuple[int, str], str] = {}
    together = config.training.devices * config.training.num_nodes > 1  # several processes train each run
    data: Data | None = None
    while pending:
        for seed, arm in list(pending):
            needed = [(seed, needed) for needed in needed_arms(config.run, arm)]
            if any(run in pending for run in needed):
                continue  # another process is at what this one starts from
            if data is None and not (config.folder / arm / str(seed) / "result.json").is_file():
                data = Data(config.data, seed)
            try:
                found[seed, arm] = train_arm(config, arm, seed, data)
            except BusyError:
                if together:
                    raise  # they must agree on what to train next, and only the first knows
                continue
            except UsageError as error:
                if arm == "plain" or together:
                    raise
                failed[seed, arm] = str(error)
            pending.remove((seed, arm))
        if pending:
            time.sleep(_PATIENCE)
    whole = [arm for arm in arms if all((seed, arm) in found for seed in config.seed_list)]
    results = {arm: [found[seed, arm] for seed in config.seed_list] for arm in whole}
    summary = {"name": config.name, "backbone": config.backbone, "data": config.data.kind, **summarize(results)}
    table = summary_table(summary)
    with filelock.FileLock(config.folder / "locks" / "summary"):
        remove_strays(config.folder)
        with replacing(config.folder / "summary.json") as file:
            file.write_text(json.dumps(summary, indent=1))
        with replacing(config.folder / "summary.md") as file:
            file.write_text(table)
        runs = {arm: [config.folder / arm / str(seed) for seed in config.seed_list] for arm in whole}
        draw_figures(config.folder, runs, summary["arms"])
    if failed:
        each = "; ".join(f"arm {arm}, seed {seed}: {message}" for (seed, arm), message in failed.items())
        raise UsageError(f"{len(failed)} of {len(found) + len(failed)} runs failed, all others are in {config.folder}: {each}")
    return summary, table
