"""The arms of a comparison: each is a few settings that differ from the recipe's."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, is_dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import jsonargparse

from jpegdl.errors import UsageError, did_you_mean
from jpegdl.parsing import reworded
from jpegdl.runs import RunConfig
from jpegdl.user_code import is_own

if TYPE_CHECKING:
    from jpegdl.layer.registry import LayerKind


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Args:
        about: what it is, in a few words.
        layer: settings of the layer that differ from the recipe's; those within them are merged.
        data: settings of the data that do.
        training: settings of training that do.
    """

    about: str = ""
    layer: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)


def _arm(about: str, **layer: Any) -> Arm:
    return Arm(about, layer)


def _rate(weight: float) -> Arm:
    about = f"hard rounding, trained for small files too; a bit per pixel costs {weight:g}"
    return Arm(about, {"bits": None, "rounding": "ste-matched"}, training={"rate": {"weight": weight}})


def _without_layer(about: str, **data: Any) -> Arm:
    return Arm(about, {"kind": "none"}, data)


_ARMS: dict[str, Arm] = {
    "plain": _without_layer("the backbone alone"),
    "jpeg-dl": _arm("the recipe's layer, trained jointly"),
    # Controls: real JPEG instead of the layer.
    "jpeg-augmentation": _without_layer("no layer; training images as JPEG files of quality 30 to 95", jpeg_train=[30, 95]),
    "jpeg-75": _without_layer("no layer; all images as JPEG files of quality 75", jpeg_train=[75, 75], jpeg_test=75),
    # Controls: tables that do not train.
    "fixed-sensitivity": _arm("fixed sensitivity tables; only the backbone trains", tables="sensitivity", train=False),
    "fixed-50": _arm("fixed standard tables of quality 50", tables="standard:50", train=False),
    "fixed-75": _arm("fixed standard tables of quality 75", tables="standard:75", train=False),
    "fixed-90": _arm("fixed standard tables of quality 90", tables="standard:90", train=False),
    "learned-frozen": _arm("tables learned by jpeg-dl, then fixed, with a new backbone", tables="learned", train=False),
    # Controls: other gradients.
    "ste": _arm("hard rounding with a straight-through gradient", rounding="ste"),
    "noise": _arm("uniform noise in place of rounding", rounding="noise"),
    # Controls: other initial tables.
    "init-sensitivity": _arm("trained from sensitivity tables", tables="sensitivity"),
    "init-magnitude": _arm("trained from magnitude tables", tables="magnitude"),
    "init-ones": _arm("trained from tables of ones", tables="ones"),
    "init-random": _arm("trained from random tables", tables="random"),
    # What of the layer does it.
    "cap-only": _arm("the level cap without quantization", rounding="none"),
    "quantization-only": _arm("quantization without the level cap", bits=None),
    "alpha": _arm("the layer with trained alpha", hardness=None, trainable_alpha=True),
    "hardness": _arm("the layer with trained hardness alpha q^2, from 0.7 if the recipe sets none", trainable_alpha=True),
    # Trained for rate and accuracy together; arms of your own take other weights.
    **{f"rate-{weight:g}": _rate(weight) for weight in (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)},
}

_HARDNESS = 0.7  # the published hardness


class _Arms(Mapping[str, Arm]):
    """Those above, and every other kind of layer that is registered, under its own name; layers are imported when asked for."""

    def __getitem__(self, name: str) -> Arm:
        return _ARMS[name] if name in _ARMS else _arm(self._kinds()[name].about, kind=name)

    def __iter__(self) -> Iterator[str]:
        yield from (*_ARMS, *self._kinds())

    def __len__(self) -> int:
        return len(_ARMS) + len(self._kinds())

    def _kinds(self) -> "dict[str, LayerKind]":
        from jpegdl.layer.registry import LAYER_KINDS  # PyTorch, which those who name plain and jpeg-dl need not wait for

        return {name: kind for name, kind in LAYER_KINDS.items() if name not in ("jpeg", "none")}


#: All arms by name: what is compared, help and reports know these.
ARMS: Mapping[str, Arm] = _Arms()


def check_arm(arm: str, own: Mapping[str, Arm]) -> None:
    """Refuse an unknown arm.

    Raises:
        UsageError: names those there are, the most similar first.
    """
    if arm not in ARMS and arm not in own:
        known = [*own, *ARMS]
        hint = f"{did_you_mean(arm, known)} ".lstrip()
        hint = "arms are separated by commas: plain,jpeg-dl; " if " " in arm else hint
        raise UsageError(
            f"no arm {arm!r}; {hint}all arms: {', '.join(known)}; those of your own are defined in a YAML file, under arms"
        )


def own_arms(arms: "list[Any] | dict[str, Any]") -> dict[str, Arm]:
    """Find the user's own arms among those of a comparison, by name; what is given as ``None`` or empty is one of ours.

    Args:
        arms: names and, of own arms, definitions, ``{NAME: {about: ..., layer: {...}, data: {...}, training: {...}}}``, all
            four optional.

    Raises:
        UsageError: a definition that is none, of one of our arms, or under a name that no folder can have.
    """
    found = {}
    for name, entry in _entries(arms):
        if not entry:
            continue
        if name in ARMS:
            raise UsageError(f"arms: {name} is a built-in arm ({ARMS[name].about}): give yours another name")
        if not re.fullmatch(r"\w[\w.+-]*", name):
            raise UsageError(f"arms: {name!r} cannot be the name of a folder: use letters, digits, '.', '_', '+' and '-'")
        sections = {"about": str, "layer": dict, "data": dict, "training": dict}
        for section, content in entry.items():
            if section not in sections:
                hint = did_you_mean(section, sections) or f"accepted: {', '.join(sections)}"
                raise UsageError(f"arms: {name}: {section!r} does not belong to an arm; {hint}")
            if not isinstance(content, sections[section]):
                what = "text" if section == "about" else "settings"
                raise UsageError(f"arms: {name}: {section} must be {what}, got {content!r}")
        found[name] = Arm(**entry)
    return found


def arm_names(arms: "list[Any] | dict[str, Any]") -> list[str]:
    """Return the names of all arms of a comparison, in order."""
    return [name for name, _ in _entries(arms)]


def _entries(arms: "list[Any] | dict[str, Any]") -> list[tuple[str, dict[str, Any] | None]]:
    """Names and definitions, from a mapping of these or a list of names and such mappings."""
    parts = [arms] if isinstance(arms, dict) else [{part: None} if isinstance(part, str) else part for part in arms]
    entries = [(str(name), entry) for part in parts for name, entry in part.items()]
    for name, entry in entries:
        if entry is not None and not isinstance(entry, dict):
            raise UsageError(f"arms: {name} must hold about, layer, data and training, or nothing, got {entry!r}")
    return entries


def arm_config(config: RunConfig, arm: str, own: Mapping[str, Arm] | None = None) -> RunConfig:
    """Return the settings of one arm of a recipe.

    Args:
        config: the recipe's settings.
        arm: a key of :data:`ARMS` or of ``own``.
        own: the user's own arms.

    Raises:
        UsageError: unknown arm, or a setting of it that there is not.
    """
    own = own or {}
    check_arm(arm, own)
    chosen = own[arm] if arm in own else ARMS[arm]
    changes = {name: content for name in ("layer", "data", "training") if (content := getattr(chosen, name))}
    config = with_changes(config, changes, f"arms: {arm}") if arm in own else cast(RunConfig, _merged(config, changes, changes))
    layer = config.layer
    if arm == "hardness" and arm not in own:
        layer = replace(layer, alpha=None, hardness=layer.hardness or _HARDNESS)
    if not is_own(layer.kind) and "options" not in chosen.layer:
        layer = replace(layer, options={})  # the recipe's are for the arms with a layer of the user's own
    return replace(config, layer=layer)


def with_changes(config: RunConfig, changes: dict[str, Any], what: str) -> RunConfig:
    """Return settings with changes in their parts, nested, whose names and types are checked as those of a recipe are.

    Args:
        config: the settings.
        changes: of the parts layer, data and training, nested.
        what: where they stand, for messages.

    Raises:
        UsageError: a setting that there is not, or that cannot have this value.
    """
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(RunConfig)
    try:
        parsed = parser.parse_object(changes).as_dict()
    except jsonargparse.ArgumentError as error:
        raise UsageError(
            f"{what}: {' '.join(reworded(parser, str(error)).split()).replace('no option --', 'no setting ')}"
        ) from error
    return cast(RunConfig, _merged(config, changes, parsed))


def _merged(config: Any, changes: dict[str, Any], parsed: dict[str, Any]) -> Any:
    def part(name: str) -> Any:
        before = getattr(config, name)
        within = is_dataclass(before) and isinstance(changes[name], dict)
        return _merged(before, changes[name], parsed[name]) if within else parsed[name]

    return replace(config, **{name: part(name) for name in changes})


def needed_arms(config: RunConfig, arm: str, own: Mapping[str, Arm] | None = None) -> list[str]:
    """Name the arms whose finished run, of the same seed, an arm starts from.

    Raises:
        UsageError: unknown arm, or one that is to start from learned tables and cannot.
    """
    from jpegdl.layer.registry import layer_kind

    layer = arm_config(config, arm, own).layer
    kind = layer_kind(layer)
    source = {"sensitivity": "plain", "learned": "jpeg-dl"}.get(layer.tables)
    if source is None or not kind.from_tables:
        return []
    if source == arm:
        raise UsageError("arm jpeg-dl cannot start from its own learned tables: layer.tables learned is for other arms")
    if layer.tables == "learned" and not (kind.single and kind.tables == "steps"):
        raise UsageError(
            f"arm {arm} cannot start from learned tables: with layer.kind {layer.kind} jpeg-dl does not learn two tables"
        )
    if layer.tables == "learned" and layer.trainable_alpha:
        raise UsageError(f"arm {arm} takes over learned tables, but no learned alpha: layer.trainable_alpha must be false")
    return [source]
