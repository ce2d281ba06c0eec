"""One run on disk: the names of its files, and reading and writing them."""

import csv
import json
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import safetensors
import yaml

from jpegdl.earlier import todays_record
from jpegdl.errors import UsageError
from jpegdl.files import (
    folder_hint,
    reading,
    remove_strays,
    replacing,
    with_all,
    write_csv,
    write_json,
    write_text,
)
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
from jpegdl.user_code import is_own

if TYPE_CHECKING:
    from torch import nn

_SECTIONS = {"arm", "seed", "backbone", "data", "layer", "training"}
CLASSES = "jpegdl.classes"  # in the metadata of model.safetensors
_DATA = {"name", "classes", "train", "test", "tables"}
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
        self.model_file, self.tables_file = path / "model.safetensors", path / "tables.json"
        self.result_file, self.failure_file = path / "result.json", path / "failure.json"

    def __str__(self) -> str:
        return str(self.path)

    @property
    def finished(self) -> bool:
        """Whether there is a result, which is the last file that is written."""
        return self.result_file.is_file()

    @property
    def started(self) -> bool:
        """Whether there is a result, or something from which training would resume."""
        return self.finished or self.checkpoint.is_file()

    # ------------------------------------------------------------------------------------------------------ settings

    def settings(self) -> dict[str, Any]:
        """Return the run's settings with its arm and seed. Settings that are newer than the run have their default.

        Settings that no longer exist are left out: a model is tested in the same way, however it was trained
        (:meth:`difference`).

        Raises:
            UsageError: ``config.yaml`` is missing, damaged, or of a newer version.
        """
        return self._settings()[0]

    def _settings(self) -> tuple[dict[str, Any], dict[str, tuple[Any, Any]]]:
        """The settings, and of those that asked for what is no more what for, and what is done now."""
        with self.reading(self.config_file):
            there = with_all(yaml.safe_load(self.config_file.read_text(encoding="utf-8")), _SECTIONS)
            arm, seed = there.pop("arm"), there.pop("seed")
            known, gone = todays_record(there)
            return settings_of(from_dict(RunConfig, known), arm, seed), gone

    def config(self) -> RunConfig:
        """Return the settings that the run was trained with.

        Raises:
            UsageError: they are missing or damaged.
        """
        there = self.settings()
        return cast(RunConfig, from_dict(RunConfig, {name: there[name] for name in there.keys() - {"arm", "seed"}}))

    def difference(self, config: RunConfig, arm: str, seed: int) -> str | None:
        """Return, in words, the first setting of the run that differs from these; None if none does.

        Raises:
            UsageError: the run's settings are missing or damaged.
        """
        there, gone = self._settings()
        for name, (then, now) in gone.items():
            return f"{name} was {then!r}, now {now!r}"
        return first_difference(there, settings_of(config, arm, seed))

    def check(self, config: RunConfig, arm: str, seed: int) -> None:
        """Refuse a folder that holds a run with other settings. A run without a finished epoch is not refused.

        Raises:
            UsageError: names the first setting that differs.
        """
        if self.started and (differing := self.difference(config, arm, seed)):
            raise UsageError(f"{self} holds a run with other settings ({differing}); give another --name, or delete the folder")

    def check_data(self, found: dict[str, Any], config: RunConfig) -> None:
        """Refuse other data than the run's own.

        Args:
            found: the data set there is now, :attr:`jpegdl.data.Data.fingerprint`.
            config: the settings now. The contents of files of weights and tables that they name count as data.

        Raises:
            UsageError: says what differs.
        """
        if not self.started:
            return
        there = self.data()
        if difference := data_difference(there, found):
            why = f"was trained on other data ({difference})"
        elif there.get("weights") != digest_of_weights(config):
            why = f"started from other weights: {config.weights} has changed since"
        elif there["tables"] != digest_of_tables(config):
            why = f"started from other tables: {config.layer.tables} has changed since"
        elif changed := _changed(digests_of_networks(config), there.get("networks", {})):
            why = f"was trained with another network in {changed[0]}, which has changed since"
        else:
            self.check_code(config)
            return
        raise UsageError(f"{self} {why}; give another --name, or delete the folder")

    def check_code(self, config: RunConfig) -> None:
        """Warn if the user's own code has changed since training. The change may be a comment alone."""
        before, now = self.data().get("code", {}), digests_of_code(config)
        if changed := _changed({name: digest for name, digest in now.items() if name in before}, before):
            warnings.warn(
                f"{self} was trained with other code: the file with {', '.join(changed)} has changed since; if that changes "
                "the numbers, give another --name, or delete the folder",
                stacklevel=3,
            )

    def data(self) -> dict[str, Any]:
        """Return which data the run met: the fingerprint of its data set, and the digests of the files of ``weights`` and
        ``tables`` it started from, and of the files with the user's own code.

        Raises:
            UsageError: the record is missing or damaged.
        """
        with self.reading(self.data_file):
            return _json(self.data_file, _DATA)

    def other_images(self, found: dict[str, Any]) -> str | None:
        """Return, in words, how these test images differ from those that the run was tested with; None if they do not.

        Args:
            found: the data set there is now, :attr:`jpegdl.data.Data.fingerprint`; its training images do not count.

        Raises:
            UsageError: the classes differ, so the model's answers cannot be compared with them.
        """
        there = self.data()
        difference = data_difference({**there, "train": None, "validation": None}, found)
        if difference and class_difference(there["classes"], found["classes"]):
            raise UsageError(
                f"the model in {self} knows other classes than these data ({difference}); give those of its training"
            )
        if difference and there["train"].get("content") == found["test"]["content"]:
            return "they are the images that it was trained on"
        return difference

    def begin(self, config: RunConfig, arm: str, seed: int, found: dict[str, Any]) -> None:
        """Write the settings, and which data the run uses."""
        remove_strays(self.path)
        write_text(self.config_file, yaml.safe_dump(settings_of(config, arm, seed), sort_keys=False))
        digests = {"weights": digest_of_weights(config), "tables": digest_of_tables(config), "code": digests_of_code(config)}
        digests["networks"] = digests_of_networks(config)
        write_json(self.data_file, {**found, **digests})

    # ------------------------------------------------------------------------------------------------------- results

    def result(self) -> dict[str, Any]:
        """Return the result: accuracy (0 to 1), ``correct`` of ``images``, loss (nats), parameters, seconds, saturation, data,
        versions.

        Earlier versions kept only float32 accuracies; ``correct`` is then computed from them.

        Raises:
            UsageError: it is not there or damaged.
        """
        with self.reading(self.result_file):
            return counted(_json(self.result_file, _RESULT))

    def metrics(self) -> list[dict[str, float]]:
        """Return the record of the run, an entry for each epoch, without what was not measured in that epoch.

        Raises:
            UsageError: it is not there or damaged.
        """
        with self.reading(self.metrics_file), self.metrics_file.open(newline="", encoding="utf-8") as stream:
            rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(stream)]
            if not rows or not all("epoch" in row for row in rows):
                raise ValueError("no epochs in it")
            return rows

    def tables(self) -> dict[str, Any]:
        """Return the layer's tables ``before`` and ``after`` training, and what they are.

        Raises:
            UsageError: they are not there or damaged.
        """
        with self.reading(self.tables_file):
            tables = _json(self.tables_file, {"before", "after"})
            if not all(isinstance(tables[when], dict) for when in ("before", "after")):
                raise ValueError("no tables in it")
            return tables

    def table_kind(self) -> str | None:
        """Return what the numbers in the layer's tables are, one of :data:`jpegdl.tables.KINDS`; None of a layer without.

        Of a layer of the user's own, whose code may not be here or not say it, ``tables.json`` does.

        Raises:
            UsageError: a file of the run is missing or damaged.
        """
        from jpegdl.layer import layer_kind  # PyTorch, which most readers of a folder need not wait for

        layer = self.config().layer
        if not is_own(layer.kind):
            return layer_kind(layer).tables
        return self.tables().get("kind") if self.tables_file.is_file() else None

    def layer_history(self) -> dict[str, Any]:
        """Return ``layer.npz``, the layer epoch by epoch: ``epoch`` (epochs,); ``steps``, ``alpha`` and ``saturation``, each
        (epochs, 3, 8, 8) for Y, Cb and Cr. What a layer has no tables for is missing.

        Raises:
            UsageError: it is not there or damaged.
        """
        with self.reading(self.layer_file), np.load(self.layer_file) as stored:
            return with_all({name: stored[name] for name in stored.files}, {"epoch", "steps", "saturation"})

    def failure(self, config: RunConfig, arm: str, seed: int) -> str | None:
        """Return why the last training with these settings stopped; None if that is not known, or if it is finished."""
        if self.finished or not self.failure_file.is_file():
            return None
        with self.reading(self.failure_file):
            there = _json(self.failure_file, {"settings", "message"})
            settings, gone = todays_record(there["settings"])
            same = not gone and first_difference(settings, settings_of(config, arm, seed)) is None
            return str(there["message"]) if same else None

    def write_metrics(self, rows: list[dict[str, float]]) -> None:
        """Write ``metrics.csv``, a line for each epoch."""
        write_csv(self.metrics_file, rows, exact=True)

    def write_layer(self, columns: dict[str, Any]) -> None:
        """Write ``layer.npz``: arrays whose first axis is the epoch."""
        with replacing(self.layer_file) as file, file.open("wb") as stream:
            np.savez_compressed(stream, **columns)

    def write_model(self, model: "nn.Module", classes: list[str]) -> None:
        """Write ``model.safetensors``, with the names of the classes of its logits."""
        from safetensors.torch import save  # imports PyTorch, which readers of a folder do not need

        # Copies, as safetensors takes no tensors that share memory, and some models tie weights.
        state = {name: tensor.detach().clone().contiguous() for name, tensor in model.state_dict().items()}
        with replacing(self.model_file) as file:
            file.write_bytes(save(state, {CLASSES: json.dumps(classes)}))

    def write_tables(self, tables: dict[str, Any]) -> None:
        """Write ``tables.json``."""
        write_json(self.tables_file, tables)

    def write_result(self, result: dict[str, Any]) -> None:
        """Write ``result.json``. From then on the run is finished."""
        write_json(self.result_file, result)
        self.failure_file.unlink(missing_ok=True)

    def write_failure(self, message: str, config: RunConfig, arm: str, seed: int) -> None:
        """Write ``failure.json``: why training with these settings stopped."""
        write_json(self.failure_file, {"message": message, "settings": settings_of(config, arm, seed)})

    @contextmanager
    def reading(self, file: Path) -> Iterator[None]:
        """Turn whatever a damaged or missing file raises into one error that names the file and the way out."""
        way_out = f"delete {self} to train that run again" if self.path.is_dir() else "jpegdl compare trains that run"
        if file not in (self.config_file, self.data_file) and self.checkpoint.is_file():
            first = f"delete {self.result_file}, and " if self.finished else ""
            way_out = f"{first}run the command that trained it again: the last epoch is there"
        with reading(file, way_out, zipfile.BadZipFile, yaml.YAMLError, safetensors.SafetensorError):
            yield

    @property
    def hint(self) -> str:
        """The end of a message about a run that is not there: what may be meant. See :func:`jpegdl.files.folder_hint`."""
        hint = folder_hint(self.path, 3)
        return f"; {hint}" if hint else ""


def finished_runs(
    place: Path, arms: Sequence[str] | None = None, seeds: int | Sequence[int] | None = None
) -> dict[str, dict[int, RunFolder]]:
    """Return the finished runs in the folder of a comparison, of each arm by seed.

    Args:
        place: ``runs/NAME``.
        arms: which arms; all by default.
        seeds: a number n for 0 to n-1, or a list, for each arm; all by default.

    Raises:
        UsageError: an arm or a seed is not there, or none is asked for.
    """
    wanted = range(seeds) if isinstance(seeds, int) else seeds
    if (arms is not None and not arms) or (wanted is not None and not wanted):
        raise UsageError("arms and seeds must name at least one run")
    found: dict[str, dict[int, RunFolder]] = {}
    for result in sorted(place.glob("*/*/result.json")):
        if result.parent.name.isdecimal():
            found.setdefault(result.parts[-3], {})[int(result.parent.name)] = RunFolder(result.parent)
    there = {arm: dict(sorted(by_seed.items())) for arm, by_seed in found.items()}
    for arm in arms or []:
        if arm not in there:
            raise UsageError(f"no finished run of arm {arm!r} in {place}; available: {', '.join(there) or 'none'}")
    have = {f"arm {arm}": set(there[arm]) for arm in arms} if arms is not None else {"any arm": set().union(*there.values())}
    for whose, known in have.items():
        if missing := set(wanted or []) - known:
            seeds_there = ", ".join(map(str, sorted(known))) or "none"
            raise UsageError(f"no finished run of {whose}, seed {min(missing)} in {place}; available seeds: {seeds_there}")
    chosen = there if arms is None else {arm: there[arm] for arm in arms}
    return {arm: {s: run for s, run in runs.items() if wanted is None or s in wanted} for arm, runs in chosen.items()}


def _changed(now: dict[str, str], before: dict[str, str]) -> list[str]:
    """Return the names of those whose digest is not what it was."""
    return [name for name, digest in now.items() if digest != before.get(name)]


def _json(file: Path, needed: set[str]) -> dict[str, Any]:
    return with_all(json.loads(file.read_text(encoding="utf-8")), needed)
