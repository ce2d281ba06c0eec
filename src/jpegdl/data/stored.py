"""Encoded images, wherever they lie in files."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image


class Place(NamedTuple):
    """Bytes of an image: a whole file, or a part of a tar."""

    file: str
    start: int = 0
    size: int = -1
    member: str = ""


class Stored:
    """Images read by their place, so that threads and processes share no open file.

    Args:
        places: where the images lie.
        targets: their class indices.
    """

    def __init__(self, places: Sequence[Place], targets: Sequence[int]) -> None:
        self._places, self.targets = list(places), [int(target) for target in targets]

    def read(self, index: int) -> Image.Image:
        place = self._places[index]
        with Path(place.file).open("rb") as file:
            file.seek(place.start)
            return Image.open(io.BytesIO(file.read(place.size)))

    def name(self, index: int) -> str:
        place = self._places[index]
        return f"{place.file}/{place.member}" if place.member else place.file
