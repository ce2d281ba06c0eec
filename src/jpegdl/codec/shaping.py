"""Files of many photos that networks choose and shape: lists, and an iterator for pipelines."""

import math
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from jpegdl.codec.read_image import DecodedImage
from jpegdl.codec.readers import PhotoReader, check_together, open_readers
from jpegdl.codec.rounds import check_gradients, guide_trials
from jpegdl.codec.trials import LOOKS, PhotoLike, Shape, ShapedFile, Trials, as_photo, ask, ladders, make_trials
from jpegdl.errors import UsageError
from jpegdl.settings import check_fields

LARGEST_BATCH = 2**23  # pixels of photos that are in work at once


def as_readers(readers: PhotoReader | str | Sequence[PhotoReader | str]) -> list[PhotoReader]:
    """Return readers opened; names are opened as :func:`jpegdl.codec.open_reader` does.

    Raises:
        UsageError: something else is among them.
    """
    if isinstance(readers, nn.Module) or not isinstance(readers, PhotoReader | str | Sequence):
        readers = [readers]  # type: ignore[list-item]  # and is refused
    given = [readers] if isinstance(readers, PhotoReader | str) else list(readers)
    for reader in given:
        if not isinstance(reader, PhotoReader | str):
            raise UsageError(f"a reader must be a PhotoReader or a name, got {type(reader).__name__}: PhotoReader(network)")
    opened = [reader if isinstance(reader, PhotoReader) else open_readers([reader])[0] for reader in given]
    check_together(opened)
    return opened


def check_file_shape(shape: Shape) -> None:
    """Refuse settings that no file can be made with.

    Raises:
        UsageError: names the setting.
    """
    check_fields(shape)
    if not math.isfinite(shape.mu):
        raise UsageError(f"mu must be a finite number, got {shape.mu}")
    if shape.learned is not None and shape.effort < 2:
        raise UsageError("learned tables are to choose from, which needs effort 2 or 3")
    if shape.rounds != Shape.rounds and shape.effort < 3:
        raise UsageError("rounds are steps along the gradient, which need effort 3")
    ladders(shape)


def each_file(
    photos: Iterable[PhotoLike],
    readers: PhotoReader | str | Sequence[PhotoReader | str],
    shape: Shape | None = None,
    *,
    threads: int | None = None,
) -> Iterator[ShapedFile]:
    """Make files for readers, photo by photo. No more photos than a batch are held at a time.

    Args:
        photos: any number of them, see :func:`as_photo`.
        readers: one or more, opened or by name.
        shape: how to make them. Default: ``Shape()``, which chooses the quality alone.
        threads: threads that make files while the readers look at others. Default: one for each core.

    Yields:
        A :class:`ShapedFile` for each photo, in their order.

    Raises:
        UsageError: see :func:`open_reader`, :func:`check_file_shape`.
        TypeError, ValueError: something is not a photo.
    """
    shape = shape or Shape()
    check_file_shape(shape)
    opened = as_readers(readers)
    check_gradients(opened, shape)
    with ThreadPoolExecutor(threads or (torch.get_num_threads())) as pool:
        pending: list[Future[Trials]] = []
        for several in batches(photos):
            later = [pool.submit(make_trials, photo, opened, shape) for photo in several]
            if pending:
                yield from _finish(pending, opened, shape, pool)
            pending = later
        if pending:
            yield from _finish(pending, opened, shape, pool)


def batches(photos: Iterable[PhotoLike]) -> Iterator[list[DecodedImage]]:
    """Photos a few at a time, fewer of large ones.

    Raises:
        TypeError: see :func:`check_several`.
    """
    check_several(photos)
    batch: list[DecodedImage] = []
    pixels = 0
    for photo in photos:
        one = as_photo(photo)
        size = one.image.width * one.image.height
        if batch and (pixels + size > LARGEST_BATCH or len(batch) >= LOOKS):
            yield batch
            batch, pixels = [], 0
        batch.append(one)
        pixels += size
    if batch:
        yield batch


def check_several(photos: Any) -> None:
    """Refuse one photo in place of several.

    Raises:
        TypeError: it is one, whose rows would be taken for photos.
    """
    rows = isinstance(photos, np.ndarray | Tensor) and photos.ndim == 3 and 3 in photos.shape
    if rows or isinstance(photos, Image.Image | DecodedImage | str | Path):
        raise TypeError("photos must be several, got one: [photo]")


def _finish(
    pending: Sequence[Future[Trials]], readers: Sequence[PhotoReader], shape: Shape, pool: ThreadPoolExecutor
) -> Iterator[ShapedFile]:
    several = [each.result() for each in pending]
    tried(several, readers, shape, pool)
    for trials in several:
        yield trials.chosen(trials.best(shape, shape.mu), shape)


def tried(several: list[Trials], readers: Sequence[PhotoReader], shape: Shape, pool: ThreadPoolExecutor) -> None:
    """Let readers answer on all files of several photos, and at effort 3 make more, guided by them."""
    ask(readers, several)
    if shape.effort > 2:
        guide_trials(several, readers, shape, pool)


def choose(
    photos: Iterable[PhotoLike],
    readers: PhotoReader | str | Sequence[PhotoReader | str],
    mu: float = 1.0,
    **settings: Any,
) -> list[ShapedFile]:
    """Make a JPEG file of each photo, and let readers choose its quality by their own answers on the original.

    Args:
        photos: see :func:`as_photo`.
        readers: one or more, opened or by name, see :func:`jpegdl.codec.open_reader`.
        mu: what a bit per pixel is worth, in nats.
        settings: other settings of :class:`Shape`, by name.

    Returns:
        A :class:`ShapedFile` for each photo.

    Raises:
        UsageError, TypeError, ValueError: as :func:`each_file`.

    Example::

        for file in jpegdl.codec.choose(photos, "mobilenetv4_conv_small.e2400_r224_in1k", mu=0.5):
            print(file.quality, len(file.content))
    """
    return list(each_file(photos, readers, Shape(mu=mu, **{"effort": 1, **settings})))


def guide(
    photos: Iterable[PhotoLike],
    readers: PhotoReader | str | Sequence[PhotoReader | str],
    mu: float = 1.0,
    **settings: Any,
) -> list[ShapedFile]:
    """Make a JPEG file of each photo, let readers choose its quality, and move its rounding along their gradient.

    Args:
        photos, readers, mu, settings: as in :func:`jpegdl.codec.choose`.

    Returns:
        A :class:`ShapedFile` for each photo.

    Raises:
        UsageError, TypeError, ValueError: as :func:`jpegdl.codec.each_file`.
    """
    return list(each_file(photos, readers, Shape(mu=mu, **{"effort": 3, **settings})))
