"""Trained models as folders to hand on: ``config.json`` as timm has it, weights, tables and a model card; and the Hub."""

import hashlib
import json
import math
import os
import shlex
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
from torch import Tensor, nn

from jpegdl._version import __version__
from jpegdl.data import TestTransform
from jpegdl.earlier import todays_record
from jpegdl.errors import UsageError
from jpegdl.extras import require
from jpegdl.files import write_together
from jpegdl.layer import PrependedModel, describe_tables, prepend
from jpegdl.runs import RunConfig, RunFolder
from jpegdl.runs.model import build_model, load_state
from jpegdl.runs.record import WHERE, from_dict, tested_images
from jpegdl.user_code import is_own

CONFIG, BACKBONE, LAYER, CARD = "config.json", "model.safetensors", "layer.safetensors", "README.md"
#: What timm recorded of a backbone, and needs to put another head on it.
_OF_TIMM = ("first_conv", "classifier", "fixed_input_size", "pool_size")

Trained = tuple[PrependedModel, list[str], RunConfig, dict[str, Any] | None]  # model, classes, settings, what was measured


def write(
    folder: Path,
    model: PrependedModel,
    classes: list[str],
    config: RunConfig,
    measured: dict[str, Any] | None,
    name: str = "FOLDER",
) -> None:
    """Save a model; see :meth:`jpegdl.classifier.Classifier.save_pretrained`. ``name`` is how the model card calls it.

    Raises:
        UsageError: the folder holds something else.
    """
    if folder.exists() and not (folder.is_dir() and (_saved(folder / CONFIG) or not any(folder.iterdir()))):
        raise UsageError(f"{folder} holds other files; give a new folder, an empty one, or one with a saved model")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder} cannot be made: {error.strerror}; give another folder") from error
    weights = {
        file: safetensors.torch.save({key: value.contiguous() for key, value in module.state_dict().items()})
        for file, module in ((BACKBONE, model.backbone), (LAYER, model.layer))
    }
    about = {**_config(model, classes, config, measured), "files": {file: _digest(weights[file]) for file in weights}}
    texts = {CARD: _card(model, classes, config, measured, name), CONFIG: json.dumps(about, indent=2) + "\n"}
    contents: dict[str, str | bytes] = {**weights, **texts}
    write_together({folder / file: content for file, content in contents.items()})


def read(folder: Path) -> Trained:
    """Open a folder that :func:`write` left; the model is in eval mode.

    Raises:
        UsageError: it is something else, or a file is missing or damaged.
    """
    there = _read_config(folder)
    try:
        run, _ = todays_record(there["run"])
        settings = {**run, "backbone": there["architecture"], "layer": there["layer"]["config"]}
        config: RunConfig = from_dict(RunConfig, settings)
        classes, input_config = list(there["label_names"]), there["pretrained_cfg"]
        model = build_model(config, len(classes))
        for file, module in ((BACKBONE, model.backbone), (LAYER, model.layer)):
            content = (folder / file).read_bytes()
            if _digest(content) != there.get("files", {}).get(file, _digest(content)):  # earlier versions kept no digests
                raise ValueError(f"{file} is not the one that {CONFIG} describes")
            load_state(safetensors.torch.load(content), folder / file, module)
        model = prepend(model.backbone, model.layer, input_config["mean"], input_config["std"])
        return model.eval(), classes, config, there["measured"]
    except UsageError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, safetensors.SafetensorError) as error:
        what = f"no {error} in {CONFIG}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise UsageError(f"the model in {folder} is damaged or incomplete ({what}); save or download it again") from error


def _digest(content: bytes) -> str:
    """16 hex digits."""
    return hashlib.sha256(content).hexdigest()[:16]


def measurements(run: RunFolder) -> dict[str, Any] | None:
    """Return what is known of a run's test, for the model card; None where its result did not come with it."""
    if not run.finished:
        return None
    result = run.result()
    data, tested = result["data"], tested_images(result)
    looked_at = {"test": tested, "validation": result.get("validation", {}).get("images")}
    elsewhere = sum(data[part]["images"] - count for part, count in looked_at.items() if count is not None)
    names = ("arm", "seed", "accuracy", "loss", "versions", "machine")
    summary = run.path.parent.parent / "summary.md"
    return {
        **{name: result[name] for name in names if name in result},
        "data": data["name"],
        "train_images": data["train"]["images"] - (len(data.get("left_out", ())) - elsewhere),  # corrupt ones count in neither
        "test_images": tested,
        # Without the list of runs that failed: why may name folders of this machine.
        "table": summary.read_text(encoding="utf-8").partition("\nWithout a result:")[0].strip() if summary.is_file() else None,
    }


# --------------------------------------------------------------------------------------------------------- config.json


def _config(model: PrependedModel, classes: list[str], config: RunConfig, measured: dict[str, Any] | None) -> dict[str, Any]:
    settings = _settings(config)
    backbone, layer = settings.pop("backbone"), settings.pop("layer")
    known = getattr(model.backbone, "pretrained_cfg", None) or {}
    transform = TestTransform(config.data)
    return {
        "architecture": backbone if "/" in backbone or ":" in backbone else backbone.partition(".")[0],  # without timm's tag
        "num_classes": len(classes),
        "label_names": classes,
        "pretrained_cfg": {
            **{name: known[name] for name in _OF_TIMM if name in known},
            "num_classes": len(classes),
            "input_size": [3, transform.size, transform.size],
            "interpolation": transform.interpolation,
            "crop_pct": _crop_share(transform.size, transform.side),
            "crop_mode": "center",
            "mean": _decimals(model.mean),
            "std": _decimals(model.std),
        },
        "layer": {**describe_tables(model.layer), "config": layer},
        "run": settings,
        "measured": measured,
        "jpegdl": __version__,
    }


def _settings(config: RunConfig) -> dict[str, Any]:
    """All settings, without where anything is on this machine."""
    settings = asdict(config)
    settings["data"] |= {"name": config.data.kind, "path": None}
    settings["layer"]["tables"] = Path(config.layer.tables).name
    settings["weights"] = config.weights and Path(config.weights).name
    return settings


def _crop_share(size: int, side: int) -> float:
    """The crop's side as a share of the short side, from which timm's floor(size / share) finds that short side again."""
    share = size / side
    return share if math.floor(size / share) == side else math.nextafter(share, 0)


def _decimals(values: Tensor) -> list[float]:
    """float32 numbers in as few digits as tell them from others."""
    return [float(str(np.float32(value))) for value in values.flatten().tolist()]


def _saved(file: Path) -> dict[str, Any] | None:
    """What is in the ``config.json`` of a folder like this; None of another file."""
    try:
        there = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return there if isinstance(there, dict) and {"architecture", "layer", "run", "jpegdl"} <= there.keys() else None


def _read_config(folder: Path) -> dict[str, Any]:
    if (there := _saved(folder / CONFIG)) is None:
        raise UsageError(f"{folder / CONFIG} was not written by save_pretrained")
    return there


# ---------------------------------------------------------------------------------------------------------- model card


def _card(model: PrependedModel, classes: list[str], config: RunConfig, measured: dict[str, Any] | None, name: str) -> str:
    numbers = sum(parameter.numel() for parameter in model.layer.parameters())
    plain = isinstance(model.layer, nn.Identity)
    layer = "" if plain else f" behind a trainable JPEG layer ({type(model.layer).__name__}, {numbers} numbers)"
    of_timm = not {"/", ":"} & set(config.backbone)
    return f"""\
---
library_name: jpegdl
pipeline_tag: image-classification
tags:
- image-classification
- jpeg-dl
---
# {config.backbone if name == "FOLDER" else name}

An image classifier for {len(classes)} classes: `{config.backbone}`{layer}, made with jpegdl {__version__}.
The names of the classes are in `config.json`.{_needs(config)}

## Use

```python
import jpegdl

model = jpegdl.{"load" if _code_of(config) else "Classifier.from_pretrained"}("{name}")
print(model.predict("photo.jpg", top=3))
logits = model(batch)  # (N, 3, size, size), RGB in [0, 1], not normalised; model.transform makes such images
```
{_timms(config, name, plain) if of_timm else ""}
## Measured

{_results(config, measured)}
"""


def _code_of(config: RunConfig) -> list[str]:
    """Names of the user's own code that the model is built by."""
    return [name for name in (config.backbone, config.layer.kind) if is_own(name)]


def _needs(config: RunConfig) -> str:
    """Return what must be there to open a model that own code builds."""
    code = _code_of(config)
    if not code:
        return ""
    return f" It is built by code that is not in this folder and must be importable where it is opened: {', '.join(code)}."


def _timms(config: RunConfig, name: str, plain: bool) -> str:
    """Return how timm opens the backbone."""
    known = "import jpegdl.backbones  # timm then knows the architecture\n" if config.backbone.startswith("cifar_") else ""
    behind = "" if plain else " It was trained behind the layer; without it, it sees other images than those."
    return f"""
The backbone alone, in timm.{behind}

```python
import timm
{known}
backbone = timm.create_model("{"local-dir" if name == "FOLDER" else "hf-hub"}:{name}", pretrained=True)
```
"""


def _results(config: RunConfig, measured: dict[str, Any] | None) -> str:
    if measured is None:
        return "No measurement came with this model."
    from jpegdl.comparison.arms import ARMS  # jsonargparse, which to load a model need not wait for

    arm, seed = measured["arm"], measured["seed"]
    versions = ", ".join(f"{name} {version}" for name, version in measured.get("versions", {}).items())
    plain = config.layer.kind == "none"
    known = arm if arm in ARMS else "plain" if plain else "jpeg-dl"  # which with these settings is what the user's own arm is
    command = ["train", "--arm", known, "--seed", str(seed)]
    if known == "jpeg-dl" or (config.layer.tables == "sensitivity" and not plain):  # tables may come from the plain model
        command = ["compare", "--arms", f"[plain, {known}]", "--seeds", f"[{seed}]"]
    parts = [
        f"This model, arm {arm} with seed {seed}: test accuracy {100 * measured['accuracy']:.2f} %, loss "
        f"{measured['loss']:.4f}, on {measured['test_images']} images of `{measured['data']}`, after training on "
        f"{measured['train_images']}.",
        f"Software and machine: {versions or 'not recorded'}; {measured.get('machine', 'not recorded')}.",
        f"The command that trains it:\n\n```\n{shlex.join(['jpegdl', *command, *_options(config)])}\n```",
    ]
    if measured["table"]:
        parts.append(f"The comparison that it is part of:\n\n{measured['table']}")
    return "\n\n".join(parts)


def _options(config: RunConfig) -> list[str]:
    """The command line's options for all settings that are not the default."""

    def differing(settings: dict[str, Any], defaults: dict[str, Any], path: str) -> list[str]:
        options = []
        for name, value in settings.items():
            if isinstance(value, dict):
                options += differing(value, defaults[name], f"{path}{name}.")
            elif value != defaults[name] and f"{path}{name}" not in WHERE:
                options += [f"--{path}{name}".replace("_", "-"), value if isinstance(value, str) else json.dumps(value)]
        return options

    options = differing(_settings(config), asdict(RunConfig()), "")
    return options if config.data.kind in ("photos", "made-up") else [*options, "--data.path", "FOLDER"]


# ------------------------------------------------------------------------------------------------------------- the Hub


def upload(folder: Path, repository: str, private: bool) -> str:
    """Upload a saved folder to the Hugging Face Hub; returns the repository's address.

    Raises:
        UsageError: ``huggingface_hub`` is not installed, or whatever went wrong, in one line.
    """
    hub = _hub()
    try:
        api = hub.HfApi(library_name="jpegdl", library_version=__version__)
        address = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=address.repo_id, folder_path=os.fspath(folder), commit_message="Add a model made with jpegdl")
        return str(address)
    except Exception as error:  # the Hub's, the network's and the file system's
        raise UsageError(f"{repository} cannot be uploaded to the Hugging Face Hub ({_one_line(error)})") from error


def download(repository: str, revision: str | None) -> Path:
    """Return the folder that the files of a repository on the Hugging Face Hub are in, downloaded unless they are there.

    Raises:
        UsageError: as :func:`upload`.
    """
    hub = _hub()
    try:
        return Path(hub.snapshot_download(repository, revision=revision, allow_patterns=[CONFIG, BACKBONE, LAYER, CARD]))
    except Exception as error:
        raise UsageError(
            f"{repository} is not a folder here, and cannot be downloaded from the Hugging Face Hub ({_one_line(error)})"
        ) from error


def refuse_code(folder: Path) -> None:
    """Refuse a model that names a module and function to build it: who downloads a model does not mean to run code.

    Raises:
        UsageError: names them.
    """
    there = _read_config(folder)
    settings = there["layer"].get("config") if isinstance(there["layer"], dict) else None
    layer = settings.get("kind", "") if isinstance(settings, dict) else ""
    if code := [name for name in (there["architecture"], layer) if ":" in str(name)]:
        raise UsageError(
            f"the model in {folder} is built by code of its own, {', '.join(code)}: where you have that code and trust it, "
            "open the folder with jpegdl.load"
        )


def _hub() -> ModuleType:
    require("the Hugging Face Hub needs", "huggingface_hub")
    import huggingface_hub

    return huggingface_hub


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
