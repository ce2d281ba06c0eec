"""What a long command has found so far, kept piece by piece with what it was made of: it goes on after it was stopped."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jpegdl.files import claimed, digest_of_file, remove_strays, write_json
from jpegdl.runs.folder import RunFolder


class Pieces:
    """A folder of finished pieces, each a JSON file with what it was made of.

    Args:
        folder: where they are; made with the first of them.
        made_of: what all pieces are made of: model, images, settings.
    """

    def __init__(self, folder: Path, made_of: dict[str, Any]) -> None:
        self.folder = folder
        self._made_of: dict[str, Any] = json.loads(json.dumps(made_of))

    def find(self, name: str, more: dict[str, Any] | None = None, *, needed: Sequence[str] = ()) -> dict[str, Any] | None:
        """Return a finished piece; None where there is none, or one that was made of something else, or is damaged.

        Args:
            name: of the piece.
            more: what this one is made of, besides what all are.
            needed: names of entries without which it is damaged.
        """
        try:
            there = json.loads(self.file(name).read_text(encoding="utf-8"))
            made_of, found = there["made_of"], there.get("found", there)  # earlier versions kept what attacks found apart
            whole = set(needed) <= found.keys()
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return found if whole and made_of == self._all(more) else None

    def keep(self, name: str, more: dict[str, Any] | None, found: dict[str, Any]) -> dict[str, Any]:
        """Write a finished piece, in place of one that was made of something else; return it with ``made_of``."""
        whole = {**found, "made_of": self._all(more)}
        write_json(self.file(name), whole)
        return whole

    def drop(self, name: str) -> None:
        """Delete a piece, if it is there."""
        self.file(name).unlink(missing_ok=True)

    @contextmanager
    def claimed(self, what: str) -> Iterator[None]:
        """Keep other processes from writing to the same folder, and clear away what killed ones left half-written.

        Args:
            what: is done, for the message.

        Raises:
            BusyError: one of them is at it.
        """
        with claimed(self.folder / "lock", what):
            remove_strays(self.folder)
            yield

    def file(self, name: str) -> Path:
        """Return where a piece is."""
        return self.folder / f"{name}.json"

    def _all(self, more: dict[str, Any] | None) -> dict[str, Any]:
        return {**self._made_of, **json.loads(json.dumps(more or {}))}


def outdated(run: RunFolder, found: dict[str, Any], plain: RunFolder | None) -> str | None:
    """Return why a result is out of date, as its run's model, or the plain one beside it, has changed; None if it is not.

    Args:
        run: whose result it is.
        found: the result, with the digests of the models that it was made with.
        plain: the plain run of the same seed; None where there is none to look at.
    """
    made_of = found if "model" in found else found["made_of"]
    rival = made_of.get("plain")
    rival = rival["model"] if isinstance(rival, dict) else rival
    if rival is not None and plain is not None and (what := _differs(plain, rival)):
        return f"the plain {plain.model_file.name} {what}"
    what = _differs(run, made_of.get("model"))
    return what and f"its {run.model_file.name} {what}"


def _differs(run: RunFolder, digest: str | None) -> str | None:
    """Return what became of a run's trained model, where it is not the one of that digest any more; None if it is."""
    try:
        return None if digest_of_file(run.model_file) == digest else "has changed"
    except FileNotFoundError:
        return "is gone"
