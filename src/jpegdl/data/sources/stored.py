"""Encoded images, in files of their own or inside tars."""

import io
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from jpegdl.files import as_text


class Place(NamedTuple):
    """An image's name within its set; and where in which tar its bytes are, unless it is a file of that name."""

    key: str
    tar: str = ""
    start: int = 0
    size: int = -1


class Stored:
    """Images read by their place, so that threads and processes share no open file.

    Args:
        root: the folder that the names of images that are files begin at.
        places: the images.
        targets: their class indices.
    """

    def __init__(self, root: Path, places: Sequence[Place], targets: Sequence[int]) -> None:
        self._root, self._places, self.targets = root, list(places), [int(target) for target in targets]

    def read(self, index: int) -> Image.Image:
        place = self._places[index]
        with (Path(place.tar) if place.tar else self._root / place.key).open("rb") as file:
            file.seek(place.start)
            return Image.open(io.BytesIO(file.read(place.size)))

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
