"""The settings of a comparison, and the checks that refuse bad ones."""

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, cast

from jpegdl.comparison.arms import Arm, arm_config, arm_names, check_arm, needed_arms, own_arms, with_changes
from jpegdl.errors import UsageError
from jpegdl.parsing import read_settings
from jpegdl.runs import RunConfig, RunFolder, check_config
from jpegdl.runs.config import AUTO, BFLOAT16, FLOAT32, Precision, with_precision
from jpegdl.settings import Count, Seed, as_typed, check_fields, check_value
from jpegdl.training.plugins import check_plugins
from jpegdl.user_code import is_own

Arms = list[str | dict[str, dict[str, Any] | None]] | dict[str, dict[str, Any] | None]


@dataclass
class CompareConfig(RunConfig):
    """A comparison.

    Args:
        backbone: timm's name of an architecture, with the tag of its weights only where weights are loaded; a CIFAR network,
            cifar_resnet56, cifar_vgg13, ...; torchvision/NAME; or your own, my_package.my_module:make_model, a class or
            function that is called with num_classes.
        pretrained: start from the weights that timm or torchvision publish, downloaded on first use. A head for another number
            of classes is replaced by a new one. If the data's classes are WordNet ids that the weights know, the head keeps
            its rows of these.
        weights: start from this file instead: safetensors, .pth, .pt, .bin or .ckpt, with timm's or torchvision's names. It may
            come from DDP, a training checkpoint, Lightning, or a run folder here (model.safetensors). Of a checkpoint, its
            moving average is taken if it has one. No code in it is run. Default: none.
        data: what to train and test on.
        layer: the JPEG layer.
        training: how to train.
        device: what to compute on: auto (cuda where there is one, else cpu), cpu, gpu, cuda, cuda:N or mps.
        name: name of the comparison, a folder in ``output``.
        output: folder of all comparisons.
        arms: what to compare, each one of :data:`jpegdl.comparison.ARMS`. A YAML file may define arms of your own, by a
            mapping of names. Each name of yours maps to what differs from the recipe (about: TEXT, layer: {...}, data: {...},
            training: {...}); each built-in name maps to nothing.
        seeds: a number n for the seeds 0 to n-1, or a list of seeds.
        jobs: how many runs compare trains side by side. Each has a process of its own, with its share of the CPU's threads.
            Default: one per GPU, or one per CPU core without a GPU; 1 if several processes train each run.
        tuned: written by jpegdl tune: the settings that it found for each arm (``arms``), and how it searched.
    """

    name: str = "run"
    output: str = "runs"
    arms: Arms = field(default_factory=lambda: cast(Arms, ["plain", "jpeg-dl"]))
    seeds: Count | list[Seed] = 3
    jobs: Count | None = None
    tuned: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.training.precision == AUTO and (begun := self._begun_with()) is not None:
            self.training = with_precision(self.training, *begun)
        super().__post_init__()

    def _begun_with(self, arm: str | None = None) -> tuple[Precision, bool] | None:
        """The precision of what the folder holds, if auto may mean it, and whether that keeps channels last.

        Args:
            arm: look at the runs of this one alone. Default: of all without a precision of their own.
        """
        own: dict[str, Arm] = {}
        with suppress(UsageError):  # said by check_compare
            own = self.own_arms
        any_of = "*" if arm is None else arm
        runs = [file.parent for file in sorted(self.folder.glob(f"{any_of}/*/config.yaml"))]
        for folder in runs + [file.parent for file in sorted(self.folder.glob(f"tuning/{any_of}/**/config.yaml"))]:
            if arm is None and folder.parent.name in own and "precision" in own[folder.parent.name].training:
                continue
            with suppress(UsageError):  # one that is damaged
                training = RunFolder(folder).config().training
                if training.precision in (FLOAT32, BFLOAT16):
                    return training.precision, training.channels_last
        return None

    @property
    def run(self) -> RunConfig:
        """The part that a single run depends on."""
        return RunConfig(**{field.name: getattr(self, field.name) for field in fields(RunConfig)})

    @property
    def arm_names(self) -> list[str]:
        """The arms by name, each once."""
        return list(dict.fromkeys(arm_names(self.arms)))

    @property
    def own_arms(self) -> dict[str, Arm]:
        """The user's own arms among them.

        Raises:
            UsageError: a definition cannot be used.
        """
        return own_arms(self.arms)

    def arm_run(self, arm: str) -> RunConfig:
        """Return the settings of one arm.

        Raises:
            UsageError: there is no such arm.
        """
        own = self.own_arms
        if arm in own and own[arm].training.get("precision") == AUTO and (begun := self._begun_with(arm)) is not None:
            kept = {"precision": begun[0], **({"channels_last": True} if begun[1] else {})}
            own[arm] = replace(own[arm], training=own[arm].training | kept)
        config = arm_config(self.run, arm, own)
        found = ((self.tuned or {}).get("arms") or {}).get(arm)
        return with_changes(config, found, f"tuned: arms: {arm}") if found else config

    def needed_arms(self, arm: str) -> list[str]:
        """Return the arms that an arm starts from: their runs of the same seed have to be finished.

        Raises:
            UsageError: there is no such arm, or nothing that it can start from.
        """
        return needed_arms(self.run, arm, self.own_arms)

    def changed_since_tuned(self, found: Mapping[str, Any]) -> list[str]:
        """Say what is not as it was when jpegdl tune had found it.

        Args:
            found: the record of the data that plain is trained on.
        """
        then: dict[str, Any] = dict((self.tuned or {}).get("of") or {})
        images: dict[str, Any] = then.pop("train", {})
        changed = []
        for name, value, now in _changes(then, asdict(self.run)):
            keeping = [arm for arm, own in (self.tuned or {}).get("arms", {}).items() if name in _leaves(own)]
            kept = f" ({', '.join(keeping)} keeps what was found for it)" if keeping else ""
            changed.append(f"{name} was {as_typed(value)}, now {as_typed(now)}{kept}")
        part, beside = found.get("train", {}), found.get("validation", {})
        count = part.get("images", 0) + (beside.get("images", 0) if self.data.holdout or self.data.folds else 0)
        same = images.get("content") == part.get("content") if count == part.get("images") else images.get("images") == count
        return changed + (["other training images"] if images and part and not same else [])

    @property
    def together(self) -> bool:
        """Whether several processes train each run."""
        return self.training.devices * self.training.num_nodes > 1

    @property
    def folder(self) -> Path:
        """Where all runs of the comparison are."""
        return Path(self.output).expanduser() / self.name

    def run_folder(self, arm: str, seed: int) -> RunFolder:
        """Return where the run of one arm with one seed is."""
        return RunFolder(self.folder / arm / str(seed))

    @property
    def seed_list(self) -> list[int]:
        """The seeds, one by one."""
        return list(range(self.seeds)) if isinstance(self.seeds, int) else list(self.seeds)


def read_config(source: str | os.PathLike[str], changes: Mapping[str, Any] | None = None) -> CompareConfig:
    """Read the settings of a comparison from a recipe or a YAML file, for :func:`jpegdl.compare`.

    Args:
        source: the name of a recipe, or a file.
        changes: settings that differ, nested as in the file: ``{"seeds": 5, "training": {"epochs": 3}}``.

    Raises:
        UsageError: no such recipe or file, or a setting that there is not or that cannot have this value.
    """
    return read_settings(CompareConfig, source, changes)


def check_compare(config: CompareConfig) -> None:
    """Refuse settings that would fail later.

    Raises:
        UsageError: names the setting, what it is and what it may be.
    """
    check_fields(config)
    _check_tuned(config.tuned)
    for arm in config.arm_names:
        run = config.arm_run(arm)
        try:
            check_config(run)
            check_plugins(run.training)
        except UsageError as error:
            raise UsageError(f"arm {arm}: {error}" if arm in config.own_arms else str(error)) from error
    if config.layer.options and not any(is_own(config.arm_run(arm).layer.kind) for arm in config.arm_names):
        raise UsageError(
            f"layer.options are for a layer.kind of your own, got {config.layer.options}, and no arm has one: "
            f"{', '.join(config.arm_names)}"
        )
    if config.weights is not None and not Path(config.weights).is_file():
        raise UsageError(f"weights {config.weights}: there is no such file")
    if not (seeds := config.seed_list) or len(set(seeds)) < len(seeds):
        raise UsageError(f"seeds must be a number, at least 1, or a list of different numbers, got {config.seeds}")
    if config.jobs is not None and config.jobs > 1 and config.together:
        raise UsageError(
            f"jobs must be 1 if training.devices ({config.training.devices}) times training.num_nodes "
            f"({config.training.num_nodes}) processes train each run, got {config.jobs}"
        )
    check_place(config)


def _leaves(settings: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= _leaves(value, f"{path}{name}.") if isinstance(value, dict) else {f"{path}{name}": value}
    return found


def _changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """The settings that are not what they were: name, value then, value now."""
    here = _leaves(now)
    return [(name, value, here.get(name)) for name, value in _leaves(then).items() if here.get(name) != value]


def _check_tuned(tuned: dict[str, Any] | None) -> None:
    arms = (tuned or {}).get("arms")
    sections = {"data", "layer", "training"}
    if tuned is not None and not (
        isinstance(arms, dict)
        and isinstance(tuned.get("of", {}), dict)
        and all(isinstance(found, dict) and found.keys() <= sections for found in arms.values())
    ):
        raise UsageError(f"tuned is what jpegdl tune writes, with the settings of each arm under arms, got {tuned!r}")


def check_place(config: CompareConfig) -> None:
    """Refuse a name or an output folder that files cannot be kept in.

    Raises:
        UsageError: names the setting.
    """
    if Path(config.name).name != config.name or config.name in ("", ".", ".."):
        raise UsageError(f"name must be a plain folder name, got {config.name!r}")
    for setting, value in (("name", config.name), ("output", config.output)):
        if any("\udc80" <= character <= "\udcff" for character in value):
            raise UsageError(
                f"{setting} {value!r} has characters that this system's encoding, {sys.getfilesystemencoding()}, does not "
                "know: set PYTHONUTF8=1, or LC_ALL to a UTF-8 locale"
            )
        if "::" in value or "://" in value:  # which file systems by URL, as Lightning takes them, read as an address
            raise UsageError(f"{setting} must be a folder on this machine, without '::' and '://', got {value!r}")


def check_run(config: CompareConfig, arm: str, seed: int) -> None:
    """Refuse an arm that is unknown and has no run with this seed, and an impossible seed.

    Raises:
        UsageError: names it.
    """
    check_value(seed, Seed, "seed")
    check_place(config)
    if Path(arm).name != arm or not config.run_folder(arm, seed).path.is_dir():
        check_arm(arm, config.own_arms)
