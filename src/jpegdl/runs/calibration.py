"""First tables from a finished plain run, or from another plain model."""

from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from jpegdl.backbones.build import build_backbone
from jpegdl.calibrate import model_tables, starting_tables
from jpegdl.errors import UsageError
from jpegdl.layer import prepend
from jpegdl.processes import room_for_images
from jpegdl.runs.checks import check_config
from jpegdl.runs.config import RunConfig
from jpegdl.runs.device import compute_device
from jpegdl.runs.folder import RunFolder
from jpegdl.runs.model import load_model, open_run


def tables_of_run(
    folder: RunFolder, here: RunConfig, seed: int, method: str, model_file: Path | None = None
) -> tuple[Tensor, Tensor]:
    """Compute initial (luma, chroma) tables, each (8, 8), from training images.

    Args:
        folder: of the plain run, whose own data and backbone are in use where it is finished.
        here: then only where to compute, where files are, and the layer's settings (``q_max``, ``images``, ``calibration``,
            ``bits``) count. With ``model_file``, and for magnitude tables without a plain run, all of it does.
        seed: which order of the training images.
        method: sensitivity or magnitude.
        model_file: for sensitivity, another plain model's ``model.safetensors`` to take the sensitivities from.

    Raises:
        UsageError: unknown method, or a model that it does not need; no trained plain model, other data, or tables that cannot
            be computed.
    """
    from jpegdl.data import Data  # Lightning, which those who only read a run need not wait for

    if method not in ("sensitivity", "magnitude"):
        raise UsageError(f"method must be sensitivity or magnitude, got {method!r}")
    if method == "magnitude" and model_file is not None:
        raise UsageError(f"magnitude tables come from images alone: drop --model {model_file}, or give --method sensitivity")
    device = compute_device(here.device)
    own = model_file is None and folder.finished
    if not own and method == "sensitivity" and model_file is None:
        raise UsageError(
            f"sensitivity tables come from a trained plain model, {folder}: train arm plain with seed {seed} first, or give a "
            f"file with --model{folder.hint}"
        )
    run = folder.config().at(here) if own else here
    check_config(replace(here, data=run.data, backbone=run.backbone, pretrained=run.pretrained, weights=run.weights))
    with room_for_images():
        data = Data(run.data, seed)
        if own:
            folder.check_data(data.fingerprint, run)
        if method == "magnitude":
            return starting_tables(replace(here.layer, tables="magnitude"), data)
        if model_file is None:
            model = open_run(folder).model
        else:
            model = prepend(build_backbone(run.backbone, len(data.classes), seed, run.data.pixels), nn.Identity())
            load_model(model_file, model, data.classes)
        return model_tables(here.layer, model.to(device), data)
