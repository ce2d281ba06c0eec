"""What a long command has found so far, kept piece by piece with what it was made of: it goes on after it was stopped."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jpegdl.files import claimed, remove_strays, write_text


class Pieces:
    """A folder of finished pieces, each a JSON file with what it was made of.

    Args:
        folder: where they are; made with the first of them.
        made_of: what all pieces are made of, to be kept as JSON: model, images, settings.
    """

    def __init__(self, folder: Path, made_of: dict[str, Any]) -> None:
        self.folder = folder
        self._made_of: dict[str, Any] = json.loads(json.dumps(made_of))

    def find(self, name: str, more: dict[str, Any]) -> dict[str, Any] | None:
        """A finished piece; None where there is none, or one that was made of something else, or is damaged.

        Args:
            name: of the piece.
            more: what this one is made of, besides what all are.
        """
        try:
            there = json.loads(self._file(name).read_text(encoding="utf-8"))
            content: dict[str, Any] = there["found"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return content if there.get("made_of") == self._all(more) else None

    def keep(self, name: str, more: dict[str, Any], found: dict[str, Any]) -> None:
        """Write a finished piece, in place of one that was made of something else."""
        write_text(self._file(name), json.dumps({"found": found, "made_of": self._all(more)}))

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

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def _all(self, more: dict[str, Any]) -> dict[str, Any]:
        return {**self._made_of, **json.loads(json.dumps(more))}
