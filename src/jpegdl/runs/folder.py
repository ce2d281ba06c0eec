"""One run on disk: the names of its files, reading and writing them, and opening what was trained."""

import csv
import json
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import safetensors
import safetensors.torch
import yaml
from torch import Tensor, nn

from jpegdl.backbones.build import build_backbone
from jpegdl.errors import UsageError
from jpegdl.files import digest_of_file, folder_hint, remove_strays, replacing, write_csv, write_json, write_text
from jpegdl.layer import PrependedModel, build_layer, prepend
from jpegdl.runs.config import RunConfig
from jpegdl.runs.record import (
    class_difference,
    counted,
    data_difference,
    digest_of_tables,
    digest_of_weights,
    digests_of_code,
    digests_of_networks,
    first_difference,
    from_dict,
    settings_of,
)

_BAD_FILE = (
    OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile, yaml.YAMLError, safetensors.SafetensorError,
)  # fmt: skip
_SECTIONS = {"arm", "seed", "backbone", "data", "layer", "training"}
_CLASSES = "jpegdl.classes"  # in the metadata of model.safetensors
_RESULT = {"arm", "seed", "accuracy", "loss", "train_seconds", "parameters", "layer_parameters", "saturation", "data"}


class RunFolder:
    """The folder of one run, that of one arm with one seed: ``runs/NAME/ARM/SEED``.

    It holds ``config.yaml`` (the settings) and ``data.json`` (which data they met) from the start on; ``metrics.csv``,
    ``layer.npz`` and ``last.ckpt`` after the first epoch; ``model.safetensors``, ``tables.json`` and, last of all,
    ``result.json`` when it is finished. ``failure.json`` says why training stopped. Every file is there whole or not at all.

    Args:
        path: the folder; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file, self.data_file = path / "config.yaml", path / "data.json"
        self.metrics_file, self.layer_file, self.checkpoint = path / "metrics.csv", path / "layer.npz", path / "last.ckpt"
        self.model_file, self.tables_file, self.result_file = (
            path / "model.safetensors",
            path / "tables.json",
            path / "result.json",
        )
        self.failure_file = path / "failure.json"

    def __str__(self) -> str:
        return str(self.path)

    @property
    def finished(self) -> bool:
        """Whether there is a result, the file that is written last."""
        return self.result_file.is_file()

    @property
    def started(self) -> bool:
        """Whether there is something that training would go on from, or a result."""
        return self.finished or self.checkpoint.is_file()

    # ------------------------------------------------------------------------------------------------------ settings

    def settings(self) -> dict[str, Any]:
        """The run's settings with its arm and seed; what they do not know yet has today's default.

        Raises:
            UsageError: ``config.yaml`` is missing, damaged, or of a newer version.
        """
        with self._reading(self.config_file):
            there = yaml.safe_load(self.config_file.read_text(encoding="utf-8"))
            if missing := _SECTIONS - there.keys():
                raise ValueError(f"no {', '.join(sorted(missing))} in it")
            arm, seed = there.pop("arm"), there.pop("seed")
            return settings_of(from_dict(RunConfig, there), arm, seed)

    def config(self) -> RunConfig:
        """The settings that the run was trained with.

        Raises:
            UsageError: they are missing or damaged.
        """
        there = self.settings()
        return cast(RunConfig, from_dict(RunConfig, {name: there[name] for name in there.keys() - {"arm", "seed"}}))

    def difference(self, config: RunConfig, arm: str, seed: int) -> str | None:
        """The first setting of the run that differs from these, in words; None if none does.

        Raises:
            UsageError: the run's settings are missing or damaged.
        """
        return first_difference(self.settings(), settings_of(config, arm, seed))

    def check(self, config: RunConfig, arm: str, seed: int) -> None:
        """Refuse a folder that holds a run with other settings; one without a finished epoch may have any.

        Raises:
            UsageError: names the first setting that differs.
        """
        if self.started and (differing := self.difference(config, arm, seed)):
            raise UsageError(f"{self} holds a run with other settings ({differing}); give another --name, or delete the folder")

    def check_data(self, found: dict[str, Any], config: RunConfig) -> None:
        """Refuse other data than the run's own.

        Args:
            found: the data set there is now, :attr:`jpegdl.data.Data.fingerprint`.
            config: the settings now; the content of the files of weights and tables that they name counts as data.

        Raises:
            UsageError: says what differs.
        """
        if not self.started:
            return
        there = self.data()
        if difference := data_difference(there, found):
            raise UsageError(f"{self} was trained on other data ({difference}); give another --name, or delete the folder")
        if there.get("weights") != digest_of_weights(config):
            raise UsageError(
                f"{self} started from other weights: {config.weights} has changed since; give another "
                "--name, or delete the folder"
            )
        if there["tables"] != digest_of_tables(config):
            raise UsageError(
                f"{self} started from other tables: {config.layer.tables} has changed since; give another --name, or delete "
                "the folder"
            )
        networks = there.get("networks", {})
        if changed := [name for name, digest in digests_of_networks(config).items() if digest != networks.get(name)]:
            raise UsageError(
                f"{self} was trained with another network in {changed[0]}, which has changed since; give another --name, or "
                "delete the folder"
            )
        self._check_code(config)

    def _check_code(self, config: RunConfig) -> None:
        """Warn where the user's own code is not what it was; a comment may be all that changed."""
        before = self.data().get("code", {})
        if changed := [name for name, digest in digests_of_code(config).items() if digest != before.get(name, digest)]:
            warnings.warn(
                f"{self} was trained with other code: the file with {', '.join(changed)} has changed since; if that changes "
                "the numbers, give another --name, or delete the folder",
                stacklevel=3,
            )

    def data(self) -> dict[str, Any]:
        """Which data the run met: the fingerprint of its data set, and the digests of the files of ``weights`` and
        ``tables`` it started from, and of the files with the user's own code.

        Raises:
            UsageError: the record is missing or damaged.
        """
        with self._reading(self.data_file):
            there: dict[str, Any] = json.loads(self.data_file.read_text(encoding="utf-8"))
            if missing := {"name", "classes", "train", "test", "tables"} - there.keys():
                raise ValueError(f"no {', '.join(sorted(missing))} in it")
            return there

    def other_images(self, found: dict[str, Any]) -> str | None:
        """How these test images differ from those that the run was tested with, in words; None if they do not.

        Args:
            found: the data set there is now, :attr:`jpegdl.data.Data.fingerprint`; its training images do not count.

        Raises:
            UsageError: the classes differ, so that the model's answers would be compared with those of other classes.
        """
        there = self.data()
        difference = data_difference({**there, "train": found["train"]}, found)
        if difference and class_difference(there["classes"], found["classes"]):
            raise UsageError(f"the model in {self} knows other classes than these data ({difference}); give its own data")
        if difference and there["train"].get("content") == found["test"]["content"]:
            return "they are the images that it was trained on"
        return difference

    def begin(self, config: RunConfig, arm: str, seed: int, found: dict[str, Any]) -> None:
        """Write the settings and which data they met."""
        remove_strays(self.path)
        write_text(self.config_file, yaml.safe_dump(settings_of(config, arm, seed), sort_keys=False))
        digests = {"weights": digest_of_weights(config), "tables": digest_of_tables(config), "code": digests_of_code(config)}
        digests["networks"] = digests_of_networks(config)
        write_json(self.data_file, {**found, **digests})

    # ------------------------------------------------------------------------------------------------------- results

    def result(self) -> dict[str, Any]:
        """What came out: accuracy (share of the test images, 0 to 1), ``correct`` of ``images``, loss, parameters, seconds,
        saturation, data, versions. Results of earlier versions, which kept float32 shares alone, are counted here.

        Raises:
            UsageError: it is not there or damaged.
        """
        with self._reading(self.result_file):
            result: dict[str, Any] = json.loads(self.result_file.read_text(encoding="utf-8"))
            if missing := _RESULT - result.keys():
                raise ValueError(f"no {', '.join(sorted(missing))} in it")
            return counted(result)

    def metrics(self) -> list[dict[str, float]]:
        """The record of the run, an entry an epoch, without what was not measured in that epoch.

        Raises:
            UsageError: it is not there or damaged.
        """
        with self._reading(self.metrics_file), self.metrics_file.open(newline="", encoding="utf-8") as stream:
            rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(stream)]
            if not rows or not all("epoch" in row for row in rows):
                raise ValueError("no epochs in it")
            return rows

    def tables(self) -> dict[str, Any]:
        """The layer's tables before and after training: ``before`` and ``after``, and what they are.

        Raises:
            UsageError: they are not there or damaged.
        """
        with self._reading(self.tables_file):
            tables: dict[str, Any] = json.loads(self.tables_file.read_text(encoding="utf-8"))
            if not all(isinstance(tables[when], dict) for when in ("before", "after")):
                raise ValueError("no tables in it")
            return tables

    def layer_history(self) -> dict[str, Any]:
        """``layer.npz``, the layer epoch by epoch: ``epoch`` (epochs,); ``steps``, ``alpha`` and ``saturation``, each
        (epochs, 3, 8, 8) for Y, Cb and Cr. Layers without a table for each of these have none.

        Raises:
            UsageError: it is not there or damaged.
        """
        with self._reading(self.layer_file), np.load(self.layer_file) as stored:
            history = {name: stored[name] for name in stored.files}
            if missing := {"epoch", "steps", "saturation"} - history.keys():
                raise ValueError(f"no {', '.join(sorted(missing))} in it")
            return history

    def failure(self, config: RunConfig, arm: str, seed: int) -> str | None:
        """Why the last training with these settings stopped; None if nothing is known of it, or if it is finished."""
        if self.finished or not self.failure_file.is_file():
            return None
        with self._reading(self.failure_file):
            there = json.loads(self.failure_file.read_text(encoding="utf-8"))
            same = first_difference(there["settings"], settings_of(config, arm, seed)) is None
            return str(there["message"]) if same else None

    def write_metrics(self, rows: list[dict[str, float]]) -> None:
        """Write ``metrics.csv``, an entry an epoch."""
        write_csv(self.metrics_file, rows, exact=True)

    def write_layer(self, columns: dict[str, Any]) -> None:
        """Write ``layer.npz``: arrays whose first axis is the epoch."""
        with replacing(self.layer_file) as file, file.open("wb") as stream:
            np.savez_compressed(stream, **columns)

    def write_model(self, model: nn.Module, classes: list[str]) -> None:
        """Write ``model.safetensors``, with the names of the classes that its logits stand for."""
        # Copies, as safetensors takes no tensors that share memory, and some models tie weights.
        state = {name: tensor.detach().clone().contiguous() for name, tensor in model.state_dict().items()}
        with replacing(self.model_file) as file:
            file.write_bytes(safetensors.torch.save(state, {_CLASSES: json.dumps(classes)}))

    def write_tables(self, tables: dict[str, Any]) -> None:
        """Write ``tables.json``."""
        write_json(self.tables_file, tables)

    def write_result(self, result: dict[str, Any]) -> None:
        """Write ``result.json``: from now on the run is finished."""
        write_json(self.result_file, result)
        self.failure_file.unlink(missing_ok=True)

    def write_failure(self, message: str, config: RunConfig, arm: str, seed: int) -> None:
        """Write down why training with these settings stopped."""
        write_json(self.failure_file, {"message": message, "settings": settings_of(config, arm, seed)})

    @contextmanager
    def _reading(self, file: Path) -> Iterator[None]:
        """Whatever a damaged or missing file raises, as one error that names it and the way out."""
        try:
            yield
        except _BAD_FILE as error:
            if isinstance(error, UsageError):
                raise
            state = f"is damaged ({_said(error)})" if file.is_file() else "is missing"
            way_out = f"delete {self} to train that run again"
            if file not in (self.config_file, self.data_file) and self.checkpoint.is_file():
                way_out = f"delete {self.result_file}, and the command that trained the run writes it again from its last epoch"
            raise UsageError(f"{file} {state}; {way_out}") from error

    def differs(self, digest: str | None) -> str | None:
        """What became of its trained model, "has changed" or "is gone", where it is not the one of that digest
        (:func:`jpegdl.files.digest_of_file`); None if it is."""
        try:
            now = digest_of_file(self.model_file)
        except FileNotFoundError:
            return "is gone"
        return None if now == digest else "has changed"

    @property
    def hint(self) -> str:
        """What was meant where no run is there, as the end of a message; see :func:`jpegdl.files.folder_hint`."""
        hint = folder_hint(self.path, 3)
        return f"; {hint}" if hint else ""

    # -------------------------------------------------------------------------------------------------- what was trained

    def open(self) -> "TrainedRun":
        """What was trained: settings, classes and model; needs ``config.yaml``, ``data.json`` and ``model.safetensors`` alone.

        Raises:
            UsageError: the run is not finished, or a file of it is missing or damaged.
        """
        if not self.finished and not self.model_file.is_file():  # a model that came without the rest of its run will do
            state = "its training is not finished" if self.started else f"no run is there{self.hint}"
            raise UsageError(f"no trained model in {self}: {state}")
        config, classes = self.config(), self.data()["classes"]
        model = build_model(config, len(classes))
        self._check_code(config)
        with self._reading(self.model_file):
            load_state(safetensors.torch.load_file(self.model_file), self.model_file, model)
        return TrainedRun(self, config, model.eval(), classes)


def finished_runs(
    place: Path, arms: Sequence[str] | None = None, seeds: Sequence[int] | None = None
) -> dict[str, dict[int, RunFolder]]:
    """The finished runs in the folder of a comparison, of each arm by seed.

    Args:
        place: ``runs/NAME``.
        arms: those wanted; all that there are by default.
        seeds: those wanted of each; all that there are by default.

    Raises:
        UsageError: an arm or a seed that is wanted is not there.
    """
    found: dict[str, dict[int, RunFolder]] = {}
    for result in sorted(place.glob("*/*/result.json")):
        if result.parent.name.isdecimal():
            found.setdefault(result.parts[-3], {})[int(result.parent.name)] = RunFolder(result.parent)
    there = {arm: dict(sorted(by_seed.items())) for arm, by_seed in found.items()}
    for arm in arms or []:
        if arm not in there:
            raise UsageError(f"no finished run of arm {arm!r} in {place}; there are {', '.join(there) or 'none'}")
        if missing := set(seeds or []) - there[arm].keys():
            raise UsageError(
                f"no finished run of arm {arm}, seed {min(missing)} in {place}; there are seeds "
                f"{', '.join(map(str, there[arm]))}"
            )
    wanted = there if arms is None else {arm: there[arm] for arm in arms}
    return {arm: {s: run for s, run in runs.items() if seeds is None or s in seeds} for arm, runs in wanted.items()}


@dataclass(frozen=True)
class TrainedRun:
    """A finished run, opened.

    Attributes:
        folder: where it is.
        config: the settings it was trained with.
        model: from images (N, 3, H, W) in [0, 1] to logits, in eval mode, on the CPU.
        classes: names of the classes, in the order of the logits.
    """

    folder: RunFolder
    config: RunConfig
    model: PrependedModel
    classes: list[str]


def build_model(config: RunConfig, classes: int) -> PrependedModel:
    """The model of a run with weights and tables that are still to be loaded; ``classes`` is its number of logits.

    Raises:
        UsageError: it cannot be built.
    """
    layer = build_layer(config.layer, None, config.data.pixels)
    return prepend(build_backbone(config.backbone, classes, 0, config.data.pixels), layer)


def load_model(file: Path, model: PrependedModel, classes: list[str]) -> None:
    """Load a run's ``model.safetensors`` into a model built from its settings.

    Args:
        file: the weights.
        model: what they go into.
        classes: names of the classes that its logits are to stand for; a file that does not name its own may be of any.

    Raises:
        UsageError: no such file, not a safetensors file, weights that are not finite, those of another architecture, or of a
            model of other classes.
    """
    if not file.is_file():
        raise UsageError(f"no model file {file}; train it first")
    try:
        state = safetensors.torch.load_file(file)
    except (safetensors.SafetensorError, OSError) as error:
        raise UsageError(f"{file} is not a safetensors file that can be read ({error})") from error
    load_state(state, file, model)
    if (named := named_classes(file)) is not None and (difference := class_difference(named, classes)):
        raise UsageError(f"the model in {file} knows other classes than these data ({difference}); give its own data")


def named_classes(file: Path) -> list[str] | None:
    """Return the names of the classes that a file of weights stands for; None if it does not name them."""
    try:
        with safetensors.safe_open(file, "pt") as stored:
            named = json.loads((stored.metadata() or {}).get(_CLASSES, "null"))
    except (safetensors.SafetensorError, OSError, ValueError):  # a checkpoint of PyTorch's, which names none
        return None
    return None if named is None else [str(name) for name in named]


def load_state(state: dict[str, Tensor], file: Path, model: nn.Module) -> None:
    """Load the content of a file into a model or a part of one.

    Raises:
        UsageError: weights that are not finite, or those of another architecture; names ``file``.
    """
    own = {name: tensor for name, tensor in model.state_dict().items() if name in state or not name.endswith("_extra_state")}
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    other = [
        f"{k} is {tuple(state[k].shape)}, not {tuple(own[k].shape)}"
        for k in own
        if k in state and state[k].shape != own[k].shape
    ]
    if missing or extra or other:
        found = other[0] if other else f"{missing[0]} missing" if missing else f"{extra[0]} unknown"
        raise UsageError(
            f"{file} holds another architecture than asked for ({found}, {len(missing) + len(extra) + len(other)} in all); "
            "give the arm, backbone and data it was trained with"
        )
    if not all(bool(tensor.isfinite().all()) for tensor in state.values()):
        raise UsageError(f"{file} holds weights that are not finite: its training diverged; train it again")
    model.load_state_dict(state)


def _said(error: BaseException) -> str:
    return f"no {error} in it" if isinstance(error, KeyError) else " ".join(str(error).split())
