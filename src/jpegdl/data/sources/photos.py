"""The embedded set: patches of photographs that ship with scikit-image."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from jpegdl.data.config import DataConfig
from jpegdl.data.sources.base import Sets, Source
from jpegdl.data.sources.registry import register_set
from jpegdl.errors import UsageError
from jpegdl.extras import require

# The photographs that ship inside the scikit-image wheel, by their function in skimage.data.
PHOTOGRAPHS = (
    "astronaut", "brick", "camera", "cell", "chelsea", "clock", "coffee", "coins", "grass", "gravel", "hubble_deep_field",
    "immunohistochemistry", "moon", "page", "retina", "rocket", "stereo_motorcycle", "text",
)  # fmt: skip
PHOTO_TRAIN, PHOTO_TEST = 20, 100  # patches of each photograph
_SERIES = {True: PHOTO_TRAIN, False: PHOTO_TEST}  # by which a patch's colours are drawn, however many there are


def photograph(name: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return one of :data:`PHOTOGRAPHS` as it ships: (H, W, 3) or (H, W), 0..255."""
    require("the photographs need", "skimage")
    import skimage.data

    image = getattr(skimage.data, name)()
    return np.asarray(image[0] if isinstance(image, tuple) else image)


@cache
def _rgb(name: str) -> Image.Image:
    """A photograph in RGB, decoded once in a process, for nobody to change."""
    return Image.fromarray(photograph(name)).convert("RGB")


def photo_patches(side: int, *, train: bool, count: int) -> Iterator[tuple[str, int, int]]:
    """Return where the patches of ``photos`` are: (photograph, top, left), ``count`` of each photograph, always the same.

    A photograph is divided like a chessboard into squares of twice the patch's side; training patches are within the black
    squares and test patches within the white ones, so that no pixel is in both.

    Raises:
        UsageError: a photograph is too small for patches of that side.
    """
    cell = 2 * side
    for name in PHOTOGRAPHS:
        width, height = _rgb(name).size
        cells = [(i, j) for i in range(height // cell) for j in range(width // cell) if (i + j) % 2 == (0 if train else 1)]
        if not cells:
            raise UsageError(f"photos has no room for patches of {side} pixels in {name} ({height}x{width}); take at most 80")
        random = np.random.default_rng([side, int(train), PHOTOGRAPHS.index(name)])
        for _ in range(count):
            i, j = cells[random.integers(len(cells))]
            top, left = random.integers(0, cell - side, size=2, endpoint=True)
            yield name, i * cell + int(top), j * cell + int(left)


_YCC = np.array([(0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312)])  # of RGB, as in JFIF
_TINT = 0.5  # the largest change of a channel by the light, as a logarithm: to between 61 and 165 % of the others


def _recolouring(random: np.random.Generator) -> list[float]:
    """Draw how to change colours: turn all hues by one angle, and put the scene under light of another colour.

    Eight of the photographs are in colour and ten are grey. As they are, colour alone would tell the eight apart from
    the others, and most of them from one another; after this it tells next to nothing, and all have some.

    Returns:
        a matrix of three rows, [R, G, B, constant], for Pillow. The luma of grey stays as it was.
    """
    angle, light = random.uniform(0, 2 * np.pi), np.exp(random.uniform(-_TINT, _TINT, 3))
    turn = np.array([(1, 0, 0), (0, np.cos(angle), -np.sin(angle)), (0, np.sin(angle), np.cos(angle))])
    matrix = np.diag(light / (light @ _YCC[0])) @ np.linalg.inv(_YCC) @ turn @ _YCC
    return [float(number) for row in matrix for number in (*row, 0)]


class _Patches(Source):
    """Patches of the embedded photographs, each in colours of its own."""

    def __init__(self, side: int, train: bool) -> None:
        self._side, self._train = side, train
        self._count = PHOTO_TRAIN if train else PHOTO_TEST
        self._places = list(photo_patches(side, train=train, count=self._count))
        self._rgb = {name: _rgb(name) for name in PHOTOGRAPHS}
        self.targets = [PHOTOGRAPHS.index(name) for name, _, _ in self._places]

    def read(self, index: int) -> Image.Image:
        name, top, left = self._places[index]
        patch = self._rgb[name].crop((left, top, left + self._side, top + self._side))
        number = self.targets[index] * _SERIES[self._train] + index % self._count
        return patch.convert("RGB", _recolouring(np.random.default_rng([self._side, int(self._train), number])))

    def name(self, index: int) -> str:
        return self.key(index)

    def key(self, index: int) -> str:
        return "{} at row {}, column {}".format(*self._places[index])


@register_set("photos")
def open_photos(config: DataConfig) -> Sets:
    """Patches of the embedded photographs, one class for each, recoloured at random.

    Raises:
        UsageError: a path is given, or patches are too large.
    """
    if config.path is not None:
        raise UsageError("data.path cannot be used with photos, which are built in; for your own images use --data.name folder")
    return _Patches(config.side, True), _Patches(config.side, False), list(PHOTOGRAPHS)
