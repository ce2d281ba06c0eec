"""Images that are generated, for trying settings out without any files."""

import numpy as np
from PIL import Image

from jpegdl.data.config import DataConfig
from jpegdl.data.sources.base import Sets, Source
from jpegdl.data.sources.registry import register_set
from jpegdl.errors import UsageError

MADE_UP_TRAIN, MADE_UP_TEST, MADE_UP_CLASSES = 8, 4, 10  # images of each class; classes by default


class _MadeUp(Source):
    """Coarse random patterns, one per class, under noise: they can be learnt, and mean nothing."""

    def __init__(self, classes: int, side: int, train: bool) -> None:
        self._side, self._train = side, train
        self.targets = [target for target in range(classes) for _ in range(MADE_UP_TRAIN if train else MADE_UP_TEST)]

    def read(self, index: int) -> Image.Image:
        pattern = np.random.default_rng(self.targets[index]).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        enlarged = Image.fromarray(pattern).resize((self._side, self._side), Image.Resampling.BICUBIC)
        noise = np.random.default_rng([index, int(self._train)]).normal(0, 30, (self._side, self._side, 3))
        return Image.fromarray((np.asarray(enlarged) + noise).clip(0, 255).astype(np.uint8))

    def name(self, index: int) -> str:
        return f"made-up image {index}"


@register_set("made-up")
def open_made_up(config: DataConfig) -> Sets:
    """Open images that are generated, the same at every call, for trying settings out without any files.

    Raises:
        UsageError: a path is given.
    """
    if config.path is not None:
        raise UsageError("data.path cannot be used with made-up, whose images are generated")
    classes = config.classes or MADE_UP_CLASSES
    train, test = (_MadeUp(classes, config.side, train) for train in (True, False))
    return train, test, [f"made-up {i}" for i in range(classes)]
