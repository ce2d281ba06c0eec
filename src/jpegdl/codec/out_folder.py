"""A folder that compressed images are written to: one process at a time, and what it says of itself in ``compress.json``."""

import json
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock

from jpegdl.codec.config import MANIFEST
from jpegdl.earlier import DROPPED
from jpegdl.errors import UsageError
from jpegdl.files import is_stray, remove_strays, write_json

LOCK = ".compress.lock"
_FORMAT = 1  # of the manifest


@contextmanager
def alone_in(out: Path) -> Iterator[None]:
    """Keep other processes from writing to the same folder, which is made.

    Raises:
        UsageError: it cannot be made, or another process writes to it.
    """
    lock = filelock.FileLock(out / LOCK)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{out} cannot be made: {error.strerror or error}; give another folder to write to") from error
    with writing(out):
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout as taken:
            raise UsageError(f"{out} is being written to by another process (it holds {lock.lock_file})") from taken
    try:
        remove_strays(out)
        yield
    finally:
        lock.release()


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Turn whatever keeps files from being written, which concerns all of them, into one line.

    Raises:
        UsageError: in place of OSError.
    """
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"{error.filename or out} {error.strerror or error}: nothing more can be written. What is there is "
            "complete; run the same command again to go on"
        ) from error


class Manifest:
    """``compress.json``: the settings that all files of a folder were made with.

    Args:
        out: the folder.
        source: whose tables or answers made the files, in words.
        settings: what the files depend on.

    Attributes:
        new: whether nothing had been made in the folder.

    Raises:
        UsageError: it holds files of other settings, or files that are unknown; it cannot be written to.
    """

    def __init__(self, out: Path, source: str, settings: dict[str, Any]) -> None:
        self.out, self._file = out, out / MANIFEST
        # A manifest alone is what a call left that failed before its first file.
        self.new = all(path.name in (LOCK, MANIFEST) or is_stray(path) for path in out.iterdir())
        settings = json.loads(json.dumps({"format": _FORMAT, **settings}))  # as they are read back
        if self.new:
            self._said: dict[str, Any] = {"from": source, "settings": settings}
            self.note()
        elif self._file.is_file():
            self._said = self._of_same(settings)
        else:
            raise UsageError(f"{out} is not empty and has no {MANIFEST}, so its files are unknown; give a new folder")

    def _of_same(self, settings: dict[str, Any]) -> dict[str, Any]:
        try:
            said: dict[str, Any] = json.loads(self._file.read_text(encoding="utf-8"))
            there = said["settings"]
            differing = [name for name in settings if there.get(name) != settings[name]]
            differing += [name for name in there if name not in settings and there[name] != DROPPED.get(name)]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"{self._file} is damaged ({error}); delete {self.out}, or give another folder") from error
        if differing == ["source"]:
            raise UsageError(
                f"{self.out} holds files made from {there.get('source')}, not from {settings['source']}; give another folder "
                f"or, if the images have only moved, write their new path into {self._file}"
            )
        if differing:
            raise UsageError(
                f"{self.out} holds files made with other settings ({', '.join(differing)}); give another folder, or delete "
                "this one"
            )
        return said

    @property
    def mu(self) -> float | None:
        """What a bit per pixel was worth in its files; None where that has not been found yet.

        Raises:
            UsageError: what stands there is no such number.
        """
        mu = self._said.get("mu")
        if mu is not None and not (isinstance(mu, float | int) and 0 <= mu < math.inf):
            raise UsageError(f"{self._file} is damaged (mu is {mu}); delete {self.out}, or give another folder")
        return None if mu is None else float(mu)

    def note(self, **more: Any) -> None:
        """Write it, with what else is to be known of the files.

        Raises:
            UsageError: it cannot be written.
        """
        with writing(self.out):
            write_json(self._file, self._said | more)
        self._said |= more

    def note_code(self, code: dict[str, str]) -> None:
        """Note the user's own code that the files depend on; warn if it has changed since. The change may be a comment alone.

        Args:
            code: digests of its files, by what they make.
        """
        before = self._said.get("code", code)
        if changed := [name for name in code if before.get(name) != code[name]]:
            warnings.warn(
                f"files in {self.out} were made with other code: the file with {', '.join(changed)} has changed since; if that "
                "changes answers, give another folder, or delete this one",
                stacklevel=2,
            )
        elif code and "code" not in self._said:
            self.note(code=code)

    def forget(self) -> None:
        """Delete it, where no file was made: another source would be refused."""
        if self.new:
            self._file.unlink(missing_ok=True)
