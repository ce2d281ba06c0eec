"""The single steps of a comparison: train one run, calibrate from one, test one."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn

from jpegdl.calibrate import model_tables, starting_tables
from jpegdl.comparison.config import CompareConfig, check_compare, check_run
from jpegdl.data import Data
from jpegdl.errors import UsageError
from jpegdl.files import claimed
from jpegdl.layer import build_layer, layer_kind, prepend
from jpegdl.random import seed_everything
from jpegdl.runs import RunConfig, RunFolder, open_run
from jpegdl.runs.calibration import tables_of_run
from jpegdl.runs.device import compute_device
from jpegdl.runs.progress import Display
from jpegdl.tables import read_tables
from jpegdl.training import train_run
from jpegdl.training.evaluation import evaluate_trained, evaluate_weights
from jpegdl.training.starting_weights import check_head, starting_backbone
from jpegdl.user_code import is_own


def _claimed(config: CompareConfig, arm: str, seed: int) -> AbstractContextManager[None]:
    """Keep other processes from training the same run; see :func:`jpegdl.files.claimed`."""
    if getattr(rank_zero_only, "rank", 0) or int(os.environ.get("NODE_RANK", "0")):  # the processes of one run have one claim
        return nullcontext()
    return claimed(config.folder / "locks" / f"{arm}-{seed}", f"arm {arm}, seed {seed} of {config.folder} is being trained")


def train_arm(
    config: CompareConfig, arm: str, seed: int, data: Data | None = None, display: Display | None = None
) -> dict[str, Any]:
    """Train one arm with one seed in the comparison's folder, or resume it, and return its result.

    Args:
        config: the comparison.
        arm: a key of :data:`jpegdl.comparison.ARMS`; one whose tables come from another run needs that arm's
            finished run of that seed.
        seed: of the run.
        data: to share decoded images among runs, or ``Data(config.data, sets=...)`` of Python objects; its seed is set.
            Default: load it.
        display: shows how far the run is. Default: a line on stderr.

    Raises:
        UsageError: see :func:`jpegdl.training.train_run`; BusyError where another process trains it.
    """
    check_compare(config)
    check_run(config, arm, seed)
    config.needed_arms(arm)
    run, folder = config.arm_run(arm), config.run_folder(arm, seed)
    folder.check(run, arm, seed)
    data = data.with_config(run.data) if data else Data(run.data, seed)
    data.seed = seed
    folder.check_data(data.fingerprint, run)
    if folder.finished:  # which needs no claim
        return folder.result()

    def make() -> nn.Module:
        return make_layer(run, data, seed, lambda other: _needed(config, other, seed, data))

    with _claimed(config, arm, seed):
        try:
            return train_run(run, data, make, folder, arm, seed, display)
        except UsageError as error:
            if folder.path.is_dir() and not folder.finished:
                folder.write_failure(str(error), run, arm, seed)
            raise


def make_layer(run: RunConfig, data: Data, seed: int, needed: Callable[[str], RunFolder]) -> nn.Module:
    """Make the untrained layer of one run; ``needed`` gives the finished run, of plain or jpeg-dl, its tables come from."""
    layer, device = run.layer, compute_device(run.device)
    if not layer_kind(layer).from_tables:
        tables = None
    elif layer.tables == "sensitivity":
        tables = model_tables(layer, open_run(needed("plain")).model.to(device), data)
    elif layer.tables == "pretrained":  # before anything here trains the backbone
        backbone, head = starting_backbone(run, data.classes, seed)
        check_head(run, head)
        tables = model_tables(layer, prepend(backbone, nn.Identity()).eval().to(device), data)
    elif layer.tables == "learned":
        tables = read_tables(needed("jpeg-dl").tables_file)
    else:
        tables = starting_tables(layer, data)
    if is_own(layer.kind):  # it may start from random numbers
        seed_everything(seed)
    return build_layer(layer, tables, run.data.pixels)


def _needed(config: CompareConfig, arm: str, seed: int, data: Data) -> RunFolder:
    """The finished run that another one starts from; of the same settings and, unless its arm has its own, data."""
    folder = config.run_folder(arm, seed)
    if not folder.finished:
        raise UsageError(f"initial tables come from the trained arm {arm}, {folder}: train arm {arm} with seed {seed} first")
    run = config.arm_run(arm)
    folder.check(run, arm, seed)
    folder.check_data(data.with_config(run.data).fingerprint, run)
    return folder


def calibrate_run(
    config: CompareConfig, seed: int, method: str = "sensitivity", model_file: Path | None = None
) -> tuple[Tensor, Tensor]:
    """Compute initial tables from the plain run that ``config`` names; see :func:`jpegdl.runs.calibration.tables_of_run`."""
    check_run(config, "plain", seed)
    return tables_of_run(config.run_folder("plain", seed), config.run, seed, method, model_file)


def evaluate_run(
    config: CompareConfig,
    arm: str,
    seed: int,
    model_file: Path | None = None,
    rounding: str | None = None,
    sets: tuple[Any, ...] | None = None,
) -> dict[str, Any]:
    """Test a finished run's model, another file's, or a backbone with trained weights, as it is or with another quantizer.

    Args:
        config: names the run by its ``name`` and ``output``, whose own settings are in use
            (:func:`jpegdl.training.evaluation.evaluate_trained`). With ``model_file``, and where it has ``weights`` or
            ``pretrained`` and no finished run there began with them, all of it counts, and none of the run's
            (:func:`jpegdl.training.evaluation.evaluate_weights`).
        arm, seed: which run.
        model_file, rounding, sets: see there.

    Returns:
        What these do, ``arm`` and ``seed``.

    Raises:
        UsageError: unknown arm or rounding, no such model, one of another architecture, or data with other classes.
    """
    check_run(config, arm, seed)
    folder = config.run_folder(arm, seed)
    if model_file is None and not without_run(config, folder):
        found = evaluate_trained(folder, config.run, rounding, sets)
    else:
        found = evaluate_weights(config.arm_run(arm), seed, model_file, rounding, sets)
    return {**found, "arm": arm, "seed": seed}


def without_run(config: CompareConfig, folder: RunFolder) -> bool:
    """Return whether settings ask :func:`evaluate_run` for trained weights that no finished run in the folder began with."""
    if not config.trained or not folder.finished:
        return config.trained
    own = folder.config()
    return (own.backbone, own.pretrained, own.weights) != (config.backbone, config.pretrained, config.weights)
