"""Encoded images, in files of their own or inside tars."""

import io
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from jpegdl.data.digests import Piece, piece_digests
from jpegdl.data.sources.base import Source
from jpegdl.files import as_text
from jpegdl.opener import open_image


class ByteRange(NamedTuple):
    """An image's name within its set; and where in which tar its bytes are, unless it is a file of that name."""

    key: str
    tar: str = ""
    start: int = 0
    size: int = -1


class Stored(Source):
    """Images read by their place, so that threads and processes share no open file; files are below ``root``."""

    def __init__(
        self, root: Path, places: Sequence[ByteRange], targets: Sequence[int], passed_over: Mapping[str, int] | None = None
    ) -> None:
        self._root, self._places, self.targets = root, list(places), list(targets)
        self.passed_over = dict(passed_over or {})

    def read(self, index: int) -> Image.Image:
        place = self._places[index]
        with (Path(place.tar) if place.tar else self._root / place.key).open("rb") as file:
            file.seek(place.start)
            return open_image(io.BytesIO(file.read(place.size)))

    def name(self, index: int) -> str:
        place = self._places[index]
        return str(Path(place.tar or self._root) / place.key)

    def key(self, index: int) -> str:
        return as_text(self._places[index].key)

    def size(self, index: int) -> int:
        place = self._places[index]
        if place.tar:
            return place.size
        with suppress(OSError):  # what is missing is found out when it is read
            return (self._root / place.key).stat().st_size
        return 0

    def contents(self, indices: Sequence[int]) -> list[str]:
        places = [self._places[index] for index in indices]
        root = os.fspath(self._root)
        return piece_digests(
            [
                Piece(place.tar, place.start, place.size) if place.tar else Piece(os.path.join(root, place.key))  # noqa: PTH118
                for place in places
            ]
        )
