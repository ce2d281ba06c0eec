"""Arms x seeds: train each, resume what was interrupted, and say what the layer gained over the plain backbone."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from jpegdl.calibrate import sensitivity_tables
from jpegdl.compare.figures import draw_figures
from jpegdl.compare.statistics import summarize, summary_table
from jpegdl.data import Data
from jpegdl.errors import UsageError
from jpegdl.files import replacing
from jpegdl.layer import PrependedModel, prepend
from jpegdl.training import (
    RunConfig,
    build_backbone,
    build_layer,
    check_config,
    check_folder,
    evaluate,
    initial_tables,
    load_model,
    read_config,
    train_run,
)

__all__ = ["ARMS", "CompareConfig", "calibrate_run", "compare", "evaluate_run", "train_arm"]


LARGEST_SEED = 2**32 - 1  # that numpy takes


@dataclass
class CompareConfig(RunConfig):
    """A comparison.

    Args:
        backbone: any timm model name, or cifar_resnet8, 20, 32, 56, 110.
        data: what to train and test on.
        layer: the JPEG layer.
        training: how to train.
        name: of the run folder, ``output/name``.
        output: folder of all runs.
        arms: plain (the backbone alone) and jpeg-dl (the layer in front of it, trained jointly).
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


def _plain(config: CompareConfig, data: Data, seed: int) -> nn.Module:
    return nn.Identity()


def _jpeg_dl(config: CompareConfig, data: Data, seed: int) -> nn.Module:
    measured = config.layer.tables == "sensitivity"
    tables = calibrate_run(config, data, seed) if measured else initial_tables(config.layer, data)
    return build_layer(config.layer, tables, config.data.size)


#: Each arm's untrained layer.
ARMS: dict[str, Callable[[CompareConfig, Data, int], nn.Module]] = {"plain": _plain, "jpeg-dl": _jpeg_dl}


def check_compare(config: CompareConfig) -> None:
    """Refuse settings that would fail later.

    Raises:
        UsageError: names the setting, what it is and what it may be.
    """
    check_config(config)
    for arm in config.arms:
        if arm not in ARMS:
            raise UsageError(f"arms may be {', '.join(ARMS)}, got {arm!r}")
    seeds = config.seed_list
    if not seeds or min(seeds) < 0 or max(seeds) > LARGEST_SEED or len(set(seeds)) < len(seeds):
        raise UsageError(
            f"seeds must be a number >= 1, or a list of different numbers from 0 to {LARGEST_SEED}, got {config.seeds}"
        )
    if Path(config.name).name != config.name or config.name in ("", ".", ".."):
        raise UsageError(f"name must be a plain folder name, got {config.name!r}")


def train_arm(config: CompareConfig, arm: str, seed: int, data: Data | None = None) -> dict[str, Any]:
    """Train one arm with one seed in the comparison's run folder, or resume it; returns its result if it is finished.

    Args:
        config: the comparison.
        arm: a key of :data:`ARMS`; jpeg-dl with sensitivity tables needs the finished plain arm of that seed.
        seed: of the run.
        data: to share one data set among runs; its seed is set. Default: load it.

    Raises:
        UsageError: see :func:`jpegdl.training.train_run`.
    """
    check_compare(config)
    _check_run(arm, seed)
    data = data or Data(config.data, seed)
    data.seed = seed
    return train_run(config.run, data, lambda: ARMS[arm](config, data, seed), config.folder / arm / str(seed), arm, seed)


def _check_run(arm: str, seed: int) -> None:
    if arm not in ARMS:
        raise UsageError(f"arm must be one of {', '.join(ARMS)}, got {arm!r}")
    if not 0 <= seed <= LARGEST_SEED:
        raise UsageError(f"seed must be a number from 0 to {LARGEST_SEED}, got {seed}")


def _plain_model(config: CompareConfig, data: Data, seed: int, file: Path | None = None) -> PrependedModel:
    """The trained plain model of that seed."""
    model = prepend(build_backbone(config.backbone, len(data.classes), seed, config.data.size), nn.Identity())
    own = config.folder / "plain" / str(seed) / "model.safetensors"
    if file is None and not own.is_file():
        raise UsageError(f"sensitivity tables need the trained plain model {own}: train arm plain with seed {seed} first")
    load_model(file or own, model)
    device = torch.device(
        "cuda" if config.training.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available() else "cpu"
    )
    return model.to(device)


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
    run = config.run
    if model_file is None:
        model_file = folder / "model.safetensors"
        if (own := read_config(folder)) is None or not model_file.is_file():
            raise UsageError(f"no trained model in {folder}; give the run's --name, --arm and --seed, or a file with --model")
        own.data.path, own.data.workers = config.data.path or own.data.path, config.data.workers
        own.training.accelerator = config.training.accelerator
        run = own
    check_config(run)
    if rounding is not None and arm == "plain":
        raise UsageError("arm plain has no quantizer, so --rounding means nothing to it")
    data = Data(run.data, seed)
    layer: nn.Module = nn.Identity()
    if arm != "plain":
        layer = build_layer(run.layer, (torch.ones(8, 8), torch.ones(8, 8)), run.data.size)
        if rounding is not None:
            layer.rounding = rounding
    model = prepend(build_backbone(run.backbone, len(data.classes), seed, run.data.size), layer)
    load_model(model_file, model)
    named = {"backbone": run.backbone, "model": str(model_file), "arm": arm, "seed": seed}
    return {**evaluate(model, data, run.training), **named, "rounding": getattr(layer, "rounding", None)}


def compare(config: CompareConfig) -> tuple[dict[str, Any], str]:
    """Train every arm with every seed (what is finished is kept, what was interrupted resumes) and compare with plain.

    In every arm the same seed means the same initial backbone, order and augmentation. Writes ``summary.json``,
    ``summary.md`` and the figures to the run folder.

    Returns:
        The summary, and the same as a Markdown table.

    Raises:
        UsageError: settings that cannot be used, or a run that failed.
    """
    check_compare(config)
    if "plain" not in config.arms:
        raise UsageError(f"arms must include plain, which the others are compared with; got {', '.join(config.arms)}")
    arms = sorted(dict.fromkeys(config.arms), key=lambda arm: arm != "plain")
    data: Data | None = None
    results: dict[str, list[dict[str, Any]]] = {arm: [] for arm in arms}
    for seed in config.seed_list:
        for arm in arms:
            check_folder(config.run, config.folder / arm / str(seed), arm, seed)
    for seed in config.seed_list:
        for arm in arms:
            data = data or Data(config.data, seed)
            results[arm].append(train_arm(config, arm, seed, data))
    summary = {"name": config.name, "backbone": config.backbone, **summarize(results)}
    table = summary_table(summary)
    with replacing(config.folder / "summary.json") as file:
        file.write_text(json.dumps(summary, indent=1))
    with replacing(config.folder / "summary.md") as file:
        file.write_text(table)
    draw_figures(config.folder, {arm: [config.folder / arm / str(seed) for seed in config.seed_list] for arm in arms})
    return summary, table
