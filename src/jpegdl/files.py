"""Files that are there whole or not at all, however a process ends."""

import csv
import hashlib
import io
import itertools
import json
import os
import platform
import re
import secrets
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from jpegdl.errors import UsageError, did_you_mean

_STRAY = ".writing-"
_OWNER = re.compile(rf"{re.escape(_STRAY)}([0-9a-f]{{8}})-(\d+)-([0-9a-f]{{8}})-")  # place, process and token
_OLD = 24 * 3600.0  # seconds after which nobody is still writing a file
_LONGEST = 60  # characters of a name that the temporary one ends in: file systems take 255 bytes
_numbers = itertools.count()


@cache
def _place() -> str:
    """This machine, as 8 hex digits, told from a container that has its name: process ids are of such a place."""
    parts = [platform.node()]
    for known in (Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")):
        with suppress(OSError):
            parts.append(str(known.readlink()) if known.is_symlink() else known.read_text(encoding="ascii"))
    return hashlib.sha256("\0".join(parts).encode(errors="surrogateescape")).hexdigest()[:8]


@cache
def _token(process: int) -> str:
    """A random name of a process, 8 hex digits: another that later has its id has another; so has a fork of it."""
    return secrets.token_hex(4)


def _temporary(file: Path, slot: str | None) -> Path:
    """A name that no other process has, nor another call; with ``slot`` the same again in each call of this process."""
    process = os.getpid()
    last = slot or f"{next(_numbers)}.{file.name[-_LONGEST:]}"
    return file.with_name(f"{_STRAY}{_place()}-{process}-{_token(process)}-{last}")


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
    temporary = _temporary(file, slot)
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


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write text as UTF-8, whatever the system's own encoding is, in the place of what is there.

    Names of files that are no text in the system's encoding come out as the bytes that they are.
    """
    write_together({path: text})


def write_together(contents: Mapping[str | os.PathLike[str], str | bytes]) -> None:
    """Write several files that belong together: all are whole, each beside its place, before the first takes its own.

    A process that is killed while they take their places leaves the first of them new and the others as they were.

    Args:
        contents: by path, in the order in which they take their places; text is written as UTF-8.

    Raises:
        OSError: one cannot be written; then none has changed. Or one cannot take its place, where a folder is, say; then those
            before it have taken theirs.
    """
    with ExitStack() as open_files:
        for path, content in reversed(list(contents.items())):  # the last to be opened is the first to take its place
            file = open_files.enter_context(replacing(path))
            file.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogateescape"))


def read_text(path: str | os.PathLike[str]) -> str:
    """Return the text of a file that people write, in UTF-8, with or without the mark that editors put at its beginning.

    Raises:
        ValueError: it is in another encoding.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ValueError(f"it is not text in UTF-8 (line {line}): save it in that encoding") from error


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write ``content`` as JSON, in the place of what is there."""
    write_text(path, json.dumps(content, indent=1))


def read_json(path: str | os.PathLike[str], needed: Sequence[str]) -> dict[str, Any] | None:
    """Return what a JSON file holds, as a command of this package writes it; None where there is no file.

    Raises:
        UsageError: it is damaged, or lacks a name that is needed.
    """
    file = Path(path)
    if not file.is_file():
        return None
    with reading(file, "delete it, and run the command that made it again"):
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it is not an object")
        return with_all(content, needed)


def with_all(content: dict[str, Any], needed: Iterable[str]) -> dict[str, Any]:
    """Return what a file holds, if all that is needed is in it.

    Raises:
        ValueError: names what is not.
    """
    if missing := set(needed) - content.keys():
        raise ValueError(f"no {', '.join(sorted(missing))} in it")
    return content


@contextmanager
def reading(file: Path, way_out: str, *others: type[Exception]) -> Iterator[None]:
    """Say that a file is missing or damaged, whatever its content leads to inside, and the way out.

    Args:
        file: as a command of this package writes it.
        way_out: what to do, for the message.
        others: what else its reader raises.
    """
    damage: tuple[type[Exception], ...] = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, *others)
    try:
        yield
    except UsageError:
        raise
    except damage as error:
        why = f"no {error} in it" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise UsageError(f"{file} {f'is damaged ({why})' if file.is_file() else 'is missing'}; {way_out}") from error


def write_csv(path: str | os.PathLike[str], rows: Sequence[Mapping[str, Any]], *, exact: bool = False) -> None:
    """Write rows, whose columns are all the names in them, in the place of what is there."""
    write_text(path, csv_text(rows, exact=exact))


def csv_text(rows: Sequence[Mapping[str, Any]], *, exact: bool = False) -> str:
    """Return rows, whose columns are all the names in them, as CSV; what is None or missing is empty.

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
    """Return the part of a message that says which folder was meant, where one is not there.

    Args:
        path: such as ``runs/NAME``.
        levels: how many of its last parts may be misspelt: 3 for ``runs/NAME/ARM/SEED``.

    Returns:
        ``did you mean NAME?``, or else ``available:`` and the names beside the first part that is not there; nothing where
        there is no folder beside it, or the whole path is there.
    """
    folder = Path(path)
    for part in [folder, *folder.parents][levels - 1 :: -1]:
        if not part.is_dir():
            there = sorted(other.name for other in part.parent.glob("*") if other.is_dir() and other.name != "locks")
            return did_you_mean(part.name, there) or (f"available: {', '.join(there)}" if there else "")
    return ""


def digest_of_file(path: str | os.PathLike[str]) -> str:
    """Return a digest of a file's content, 16 hex digits."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]


def as_text(name: str) -> str:
    """Return the name of a file or folder as it reads in UTF-8, which most disks have, whatever the system's encoding."""
    with suppress(UnicodeError):
        return os.fsencode(name).decode("utf-8")
    return name


def printable(text: str) -> str:
    """Return text on one line, whatever names of files there are in it; bytes that are no text of the system's stay."""
    # In an encoding of 8 bits, a letter of a name in UTF-8 can read as one of U+0080 to U+009F.
    upper = "\x7f-\x9f" if sys.getfilesystemencoding() == "utf-8" else "\x7f"
    return re.sub(f"[\0-\x1f{upper}\u2028\u2029]", lambda one: ascii(one[0])[1:-1], text)


class BusyError(UsageError):
    """Another process is at work there."""


@contextmanager
def claimed(lock: str | os.PathLike[str], what: str) -> Iterator[None]:
    """Keep other processes, on this machine or another that shares the folder, from doing the same inside.

    The operating system gives the lock back when a process ends, however it ends.

    Args:
        lock: the file that is locked; its folder is made.
        what: is done, for the message: "runs/mine is being attacked".

    Raises:
        BusyError: another process does it.
    """
    import filelock  # of an extra

    file = Path(lock)
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(file, blocking=False):
            yield
    except filelock.Timeout as taken:
        raise BusyError(f"{what} by another process (it holds {file})") from taken


def is_stray(path: Path) -> bool:
    """Return whether a file is one that a process is writing, or has left half-written."""
    return path.name.startswith(_STRAY)


def remove_strays(folder: str | os.PathLike[str]) -> None:
    """Remove what killed processes left half-written in ``folder``; what a living one is writing stays.

    Whether a process lives can be told of this machine's alone: what others left, or one without a name, goes after a day.
    """
    for stray in Path(folder).glob(f"{_STRAY}*"):
        with suppress(FileNotFoundError):  # it has just taken its place
            if _ended(stray.name) or time.time() - stray.stat().st_mtime > _OLD:
                stray.unlink()


def _ended(name: str) -> bool:
    """Return whether the process that was writing a file of that name is known to have ended."""
    owner = _OWNER.match(name)
    if owner is None or owner[1] != _place() or sys.platform == "win32":  # where to ask for a process may end it
        return False
    process = int(owner[2])
    if process == os.getpid():
        return owner[3] != _token(process)
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except OSError:  # it is another user's
        return False
    return False
