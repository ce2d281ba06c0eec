"""Files that are there whole or not at all, however a process ends."""

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from jpegdl.errors import UsageError, did_you_mean

_STRAY = ".writing-"


@contextmanager
def replacing(path: str | os.PathLike[str], *, make_folder: bool = True, slot: str | None = None) -> Iterator[Path]:
    """Give a temporary path beside ``path`` to write to; on success it takes ``path``'s place, on failure it is removed.

    Only a process that is killed leaves it behind: see :func:`remove_strays`.

    Args:
        path: the file.
        make_folder: make the folder that it is to be in, where there is none.
        slot: name the temporary file after this instead of after ``path``. File systems are faster where a name in a large
            folder comes again and again; no two that are open at a time may have the same.

    Raises:
        OSError: it cannot be written, because the disk is full or the folder is read-only, say; names ``path``.
    """
    file = Path(path)
    if make_folder:
        file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f"{_STRAY}{os.getpid()}.{slot or file.name}")
    try:
        yield temporary
        temporary.replace(file)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        # Python names the temporary file, or, where the disk is full, none.
        if isinstance(error, OSError) and error.errno is not None and error.filename in (None, str(temporary)):
            raise OSError(error.errno, f"cannot be written: {error.strerror}", str(file)) from error
        raise


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write ``content`` as JSON, in the place of what is there."""
    with replacing(path) as file:
        file.write_text(json.dumps(content, indent=1))


def read_json(path: str | os.PathLike[str], needed: Sequence[str]) -> dict[str, Any] | None:
    """What a JSON file holds; None where there is no file.

    Args:
        path: the file, as a command of this package writes it.
        needed: names without which it is not what it should be.

    Raises:
        UsageError: it is damaged, or something else.
    """
    file = Path(path)
    if not file.is_file():
        return None
    try:
        content = json.loads(file.read_text())
        if not isinstance(content, dict):
            raise ValueError("it is no object")
        if missing := set(needed) - content.keys():
            raise ValueError(f"no {', '.join(sorted(missing))} in it")
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} is damaged ({error}); delete it, and the command that made it writes it again") from error
    return content


def write_csv(path: str | os.PathLike[str], rows: Sequence[Mapping[str, Any]], *, exact: bool = False) -> None:
    """Write rows, whose columns are all the names in them, in the place of what is there."""
    with replacing(path) as file:
        file.write_text(csv_text(rows, exact=exact))


def csv_text(rows: Sequence[Mapping[str, Any]], *, exact: bool = False) -> str:
    """Rows, whose columns are all the names in them, as CSV; what is None or missing is empty.

    Floating-point numbers have 6 significant digits, about what float32 knows: 0.66, not 0.6600000262;
    all of their digits where ``exact``, for what is read back.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: value if exact else _short(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def _short(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def folder_hint(path: str | os.PathLike[str], levels: int = 1) -> str:
    """The part of a message that says which folder was meant, where one is not there.

    Args:
        path: such as ``runs/NAME``.
        levels: how many of its last parts may be misspelt: 3 for ``runs/NAME/ARM/SEED``.

    Returns:
        ``did you mean NAME?``, or else ``there are`` and the names beside the first part that is not there; nothing where
        there is no folder beside it, or the whole path is there.
    """
    folder = Path(path)
    for part in [folder, *folder.parents][levels - 1 :: -1]:
        if not part.is_dir():
            there = sorted(other.name for other in part.parent.glob("*") if other.is_dir() and other.name != "locks")
            return did_you_mean(part.name, there) or (f"there are {', '.join(there)}" if there else "")
    return ""


def digest_of_file(path: str | os.PathLike[str]) -> str:
    """A digest of a file's content, 16 hex digits."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]


def remove_strays(folder: str | os.PathLike[str]) -> None:
    """Remove what killed processes left half-written in ``folder``, where no other process is writing now."""
    for stray in Path(folder).glob(f"{_STRAY}*"):
        stray.unlink(missing_ok=True)
