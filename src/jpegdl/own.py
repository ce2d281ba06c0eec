"""The user's own code by name: ``my_package.my_module:thing``."""

import difflib
import hashlib
import importlib
import inspect
import re
import sys
from pathlib import Path
from typing import Any

from jpegdl.errors import UsageError

_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
_OTHERS = ("hf_hub:",)  # timm's


def is_own(name: str) -> bool:
    """Whether a name stands for something in a module: ``module:attribute``, both of identifiers with dots between them."""
    return _NAME.fullmatch(name) is not None and not name.startswith(_OTHERS)


def find_object(name: str, setting: str) -> Any:
    """What a name stands for; its module is imported.

    Args:
        name: ``module:attribute``.
        setting: that holds the name, for messages, such as ``backbone``.

    Raises:
        UsageError: no such module or attribute, or the module's code fails.
    """
    module, _, attribute = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise UsageError(f"{setting} {name!r}: {module} needs a module {error.name!r}, which is not there") from error
        raise UsageError(
            f"{setting} {name!r}: there is no module {error.name!r}; Python looks for it in the current folder, in PYTHONPATH "
            "and among installed packages"
        ) from error
    except Exception as error:  # whatever the user's code raises
        raise UsageError(f"{setting} {name!r}: importing {module} failed: {said(error)}") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            similar = difflib.get_close_matches(part, [other for other in dir(found) if not other.startswith("_")], n=1)
            hint = f"; did you mean {similar[0]}?" if similar else ""
            raise UsageError(f"{setting} {name!r}: there is no {part!r} in {module}{hint}")
        found = getattr(found, part)
    return found


def said(error: BaseException) -> str:
    """What the user's code raised, in one line: kind, message and the line of code it came from."""
    frames = inspect.getinnerframes(error.__traceback__) if error.__traceback__ else []
    text = " ".join(str(error).split())
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}{': ' if text else ''}{text}{where}"


def source_digest(name: str) -> str | None:
    """A digest of the file of code that a name's module was imported from, 16 hex digits; None where it has none."""
    module = sys.modules.get(name.partition(":")[0])
    file = getattr(module, "__file__", None)
    return None if file is None else hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]
