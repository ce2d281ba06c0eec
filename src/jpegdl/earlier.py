"""What earlier versions called things and had besides, in one place: to read what they wrote, and to name what is done now."""

from collections.abc import Container
from typing import Any

#: Settings, options and keys of files by their former names, with today's.
RENAMED = {
    "accelerator": "device",
    "arm": "arms",  # of explain
    "attack_seed": "images_seed",
    "data_path": "data.path",
    "path": "data.path",
    "seed": "seeds",  # of explain
    "training.accelerator": "device",
    "workers": "data.workers",
}
#: Settings that are no more, with their former defaults, which are what is done now.
DROPPED: dict[str, Any] = {"drop_alpha": False, "training.rate.kind": "symbols", "wide": False}
#: Values that are no more, with what takes their place.
VALUES: dict[str, dict[Any, Any]] = {"data.cache": {"device": "auto"}}
#: Prefixes of data sets that are no more, and what to take instead.
SETS = {"hfids/": "hfds/NAME", "tfds/": "wds/ or folders", "torch/": "the set's own name, wds/ or folders"}
#: Commands that are no more, and what to do instead.
COMMANDS = {"bench": "python benchmarks/layer.py in a checkout measures the layer"}


def todays_name(name: str, known: Container[str]) -> str | None:
    """Return what a setting or option is called now, if that is among those that are known."""
    return now if (now := RENAMED.get(name)) is not None and now in known else None


def todays_settings(settings: Any, path: str = "") -> tuple[Any, dict[str, tuple[Any, Any]]]:
    """Leave out of nested settings those that are no more, in definitions of arms too.

    Args:
        settings: as YAML or JSON holds them.
        path: the dotted name of what ``settings`` belong to.

    Returns:
        The settings, and of those that asked for what is no more, by their dotted names: what for, and what is done now.
    """
    gone: dict[str, tuple[Any, Any]] = {}
    if isinstance(settings, list):
        each = [todays_settings(entry, path) for entry in settings]
        return [found for found, _ in each], {name: pair for _, more in each for name, pair in more.items()}
    if not isinstance(settings, dict):
        return settings, gone
    found = {}
    for key, value in settings.items():
        place = f"{path}.{key}"
        dropped = next((name for name in DROPPED if "." in name and place.endswith(f".{name}")), None)
        values = next((name for name in VALUES if place.endswith(f".{name}")), None)
        if dropped is not None:
            gone |= {} if value == DROPPED[dropped] else {dropped: (value, DROPPED[dropped])}
        elif values is not None and isinstance(value, str) and value in VALUES[values]:
            found[key] = VALUES[values][value]
            gone[values] = (value, found[key])
        else:
            found[key], more = todays_settings(value, place)
            gone |= more
    return found, gone


def todays_record(settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, tuple[Any, Any]]]:
    """Return what :func:`todays_settings` does of a run's record, whose settings are called as they are today then."""
    found, gone = todays_settings(settings)
    for old, new in RENAMED.items():
        group, dot, name = old.partition(".")
        if dot and isinstance(there := found.get(group), dict) and name in there:
            found.setdefault(new, there.pop(name))
    return found, gone
