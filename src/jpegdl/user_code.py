"""The user's own code by name: ``my_package.my_module:thing``."""

import importlib
import re
import sys
import sysconfig
import traceback
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from jpegdl.errors import UsageError, did_you_mean
from jpegdl.files import digest_of_file

_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
_OTHERS = ("hf_hub:",)  # timm's
#: Where this package and what is installed are.
_NOT_USERS = (
    Path(__file__).parent, *(Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
)  # fmt: skip


def is_own(name: str) -> bool:
    """Return whether a name stands for something in a module: ``module:attribute``, both of identifiers with dots between
    them."""
    return _NAME.fullmatch(name) is not None and not name.startswith(_OTHERS)


def find_object(name: str, setting: str) -> Any:
    """Return what a name stands for; its module is imported.

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
            raise UsageError(f"{setting} {name!r}: {module} needs the module {error.name!r}, which is not installed") from error
        better = did_you_mean(module, [file.stem for file in Path.cwd().glob("*.py")])
        if module.endswith(".py"):
            better = f"did you mean {module.removesuffix('.py')}:{attribute}?"
        raise UsageError(
            f"{setting} {name!r}: there is no module {error.name!r}; "
            + (better or "Python looks for it in the current folder, in PYTHONPATH and among installed packages")
        ) from error
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        raise UsageError(f"{setting} {name!r}: importing {module} failed: {said(error)}") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            hint = did_you_mean(part, [other for other in dir(found) if not other.startswith("_")])
            raise UsageError(f"{setting} {name!r}: there is no {part!r} in {module}{hint and f'; {hint}'}")
        found = getattr(found, part)
    return found


def said(error: BaseException) -> str:
    """Return what the user's code raised, in one line: kind, message and the innermost line of it, where there is one."""
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(Path(frame.filename))]
    text = " ".join(str(error).split())
    where = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    return f"{type(error).__name__}{': ' if text else ''}{text}{where}"


def blamed(error: BaseException, names: Iterable[str]) -> str | None:
    """Return the first of some names of own code whose file an error came by; None if it came by none of them."""
    files = {frame.filename for frame in traceback.extract_tb(error.__traceback__)}
    for name in names:
        if is_own(name) and getattr(sys.modules.get(name.partition(":")[0]), "__file__", None) in files:
            return name
    return None


def _is_users(file: Path) -> bool:
    """Return whether a file of code is neither this package's nor installed."""
    if {"site-packages", "dist-packages"} & set(file.parts):  # of another environment that this one sees
        return False
    return not any(file.is_relative_to(place) for place in _NOT_USERS) and file.is_file()


def source_digest(name: str) -> str | None:
    """Return a digest of the file of code that a name's module was imported from, 16 hex digits; None where it has none, or
    that has gone since."""
    module = sys.modules.get(name.partition(":")[0])
    file = getattr(module, "__file__", None)
    return None if file is None or not Path(file).is_file() else digest_of_file(file)


def own_modules(without: Collection[str] = ()) -> dict[str, str]:
    """Return digests of the files of all imported modules that are the user's own, 16 hex digits, by the module's name.

    Args:
        without: names of modules to leave out. The script that is run is left out too: what it asks for are settings, and it
            is another in each process.
    """
    found = {}
    for name, module in sorted(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and name not in ("__main__", "__mp_main__", *without) and _is_users(Path(file)):
            found[name] = digest_of_file(file)
    return found
