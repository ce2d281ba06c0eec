"""Settings that earlier versions had: what they wrote down is still read, where it asks for what is done now anyway."""

from typing import Any

from jpegdl.errors import UsageError

#: By their dotted names, what is done now: their former defaults.
DROPPED: dict[str, Any] = {"training.rate.kind": "symbols"}
#: Prefixes of data sets that are no more, and what to take instead.
DROPPED_SETS = {"hfids/": "hfds/NAME", "tfds/": "wds/ or folders", "torch/": "the set's own name, wds/ or folders"}


def without_dropped(settings: Any, file: object = None, path: str = "") -> Any:
    """Leave out of nested settings those that are no more, in definitions of arms too.

    Args:
        settings: as YAML or JSON holds them.
        file: that they are from, for messages.
        path: the dotted name of what ``settings`` belong to.

    Raises:
        UsageError: one of them is not what is done now.
    """
    if isinstance(settings, list):
        return [without_dropped(entry, file, path) for entry in settings]
    if not isinstance(settings, dict):
        return settings
    found = {}
    for key, value in settings.items():
        name = f"{path}.{key}"
        dropped = next((other for other in DROPPED if name.endswith(f".{other}")), None)
        if dropped is None:
            found[key] = without_dropped(value, file, name)
        elif value != DROPPED[dropped]:
            raise UsageError(
                f"{'' if file is None else f'in {file}: '}{dropped} {value!r} is no more: there is {DROPPED[dropped]!r} alone, "
                "without a setting; leave it out, or use the version of jpegdl that wrote it"
            )
    return found
