"""One pair of tables for many photos, found by what readers say of the files and by what these weigh.

``studies/files/table_methods.py`` holds it against sensitivities, sorted random search and coordinate search.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from jpegdl.codec.encoder import Encoder
from jpegdl.codec.learned import LARGEST, file_tables
from jpegdl.codec.photo_rates import photo_at, photos_in
from jpegdl.codec.read_image import DecodedImage
from jpegdl.codec.readers import PhotoReader, open_readers
from jpegdl.codec.shaping import LARGEST_BATCH, as_readers
from jpegdl.codec.trials import LOOKS, QUALITIES, PhotoLike, as_picture, decoded, seen_bytes
from jpegdl.errors import UsageError
from jpegdl.layer.jpeg_function import jpeg
from jpegdl.random import evenly
from jpegdl.runs.progress import Progress
from jpegdl.settings import Count, Seed, check_value
from jpegdl.tables import standard_tables

PASSES = 4  # over the photos
_BATCH = 8  # photos for each step of the tables
_RATE = 0.1  # of learning: how far a step moves the logarithm of a table's entries, at first
_SCALE = 2**0.25  # between scales of a pair that are tried
_FIRST = 30  # quality, from which the best standard tables are looked for

Photo = PhotoLike | DecodedImage
Answers = list[list[Tensor]]  # of each photo, of each reader


@dataclass(frozen=True)
class FoundTables:
    """A pair of tables, and what files with it cost readers, mean over the photos that it was found on.

    Attributes:
        luma, chroma: (8, 8), whole numbers from 1 to 255, float32.
        cost: distance + mu x bits per pixel, in nats.
        distance: of the readers' answers to those on the originals, in nats.
        bits_per_pixel: of whole files, with Huffman codes that fit each.
        quality: of the standard tables that cost least, which the search began with.
        standard_cost: of these.
    """

    luma: Tensor
    chroma: Tensor
    cost: float
    distance: float
    bits_per_pixel: float
    quality: int
    standard_cost: float


class FileCost:
    """What real files of certain photos cost readers, with any tables: mean distance + mu x bits per pixel.

    Args:
        photos: at least one; each is opened anew at each call, if the sequence does so.
        readers: whose answers on the originals count; of several, the mean of their distances.
        mu: what a bit per pixel is worth, in nats.
        subsampling: of chroma: 4:4:4 or 4:2:0.

    Raises:
        UsageError: no photos, or settings that cannot be.
    """

    def __init__(self, photos: Sequence[Photo], readers: Sequence[PhotoReader], mu: float, subsampling: str = "4:2:0") -> None:
        if not len(photos):
            raise UsageError("there are no photos to search tables on")
        if not mu >= 0 or not math.isfinite(mu):
            raise UsageError(f"mu must be a finite number, 0 or more, got {mu}")
        if subsampling not in ("4:4:4", "4:2:0"):
            raise UsageError(f"subsampling must be 4:4:4 or 4:2:0, got {subsampling!r}")
        self.photos, self.readers, self.mu, self.subsampling = photos, readers, mu, subsampling
        self._own: dict[int, list[Tensor]] = {}

    @torch.no_grad()
    def own(self, numbers: Sequence[int]) -> Answers:
        """Return the readers' answers on the originals of photos of these numbers."""
        for number in numbers:
            if number not in self._own:
                picture, note = opened(self.photos[number])
                pixels = stored_pixels(picture)
                self._own[number] = [
                    reader.answers(seen_bytes(reader, pixels, note)[None].float() / 255)[0] for reader in self.readers
                ]
        return [self._own[number] for number in numbers]

    @torch.no_grad()
    def __call__(self, luma: Tensor, chroma: Tensor) -> tuple[float, float, float]:
        """Return (cost, distance, bits per pixel) of files with these tables, each (8, 8), rounded to whole numbers."""
        encoder = Encoder(*file_tables(luma, chroma), None, self.subsampling)
        distance, rate = 0.0, 0.0
        for start in range(0, len(self.photos), LOOKS):
            numbers = range(start, min(start + LOOKS, len(self.photos)))
            views: list[list[Tensor]] = []
            for number in numbers:
                picture, note = opened(self.photos[number])
                content = encoder.encode(picture)
                rate += 8 * len(content) / (picture.width * picture.height)
                pixels = decoded(content)
                views.append([seen_bytes(reader, pixels, note) for reader in self.readers])
            for reader, seen, own in zip(
                self.readers, zip(*views, strict=True), zip(*self.own(numbers), strict=True), strict=True
            ):
                answers = reader.answers(torch.stack(seen).float() / 255)
                distance += float(reader.distance(torch.stack(own), answers).sum()) / len(self.readers)
        distance, rate = distance / len(self.photos), rate / len(self.photos)
        return distance + self.mu * rate, distance, rate

    def quality(self) -> int:
        """Return the quality of the standard tables that cost least, of those that files for readers are tried at."""
        costs: dict[int, float] = {}

        def cost(place: int) -> float:
            if place not in costs:
                costs[place] = self(*standard_tables(QUALITIES[place]))[0]
            return costs[place]

        place = QUALITIES.index(_FIRST)
        for way in (-1, 1):
            while 0 <= place + way < len(QUALITIES) and cost(place + way) < cost(place):
                place += way
        return QUALITIES[place]


def opened(photo: Photo) -> tuple[Image.Image, int]:
    """Return a photo as a picture, mode RGB or L, and its EXIF orientation where it is known, else 1."""
    return (photo.image, photo.note) if isinstance(photo, DecodedImage) else (as_picture(photo), 1)


def stored_pixels(picture: Image.Image) -> Tensor:
    """Return its pixels, (3, H, W) uint8; grey ones three times."""
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)


def search_tables(
    photos: Sequence[Photo],
    readers: PhotoReader | str | Sequence[PhotoReader | str],
    mu: float = 1.0,
    *,
    subsampling: str = "4:2:0",
    passes: int = PASSES,
    seed: int = 0,
    progress: Progress | None = None,
) -> FoundTables:
    """Learn one pair of tables for files of such photos, along the gradient of what readers lose and of the files' bits.

    It begins with the standard tables that cost least. Gradients come straight through the rounding, by :func:`jpegdl.jpeg`,
    and say little of how coarse tables should be as a whole. So after each pass real files of all photos are made, with the
    tables finer and coarser, and the next pass goes on from those that cost least. The best of all passes are kept. No labels
    are used. On other photos tables may do worse than on these: give a hundred or more.

    Args:
        photos: see :func:`jpegdl.codec.choose`; a sequence that opens them one by one keeps memory small.
        readers: one or more, opened or by name, see :func:`jpegdl.codec.open_reader`.
        mu: what a bit per pixel is worth, in nats. More makes smaller files.
        subsampling: of chroma: 4:4:4 or 4:2:0.
        passes: over the photos.
        seed: of their order; the same seed gives the same tables.
        progress: is told how many photos are done.

    Raises:
        UsageError, TypeError, ValueError: settings that cannot be, a photo that is none, answers that are not finite.

    Example::

        found = jpegdl.codec.search_tables(photos, "mobilenetv4_conv_small.e2400_r224_in1k", mu=0.5)
        jpegdl.tables.write_tables("tables.json", {"luma": found.luma, "chroma": found.chroma}, subsampling="4:2:0")
    """
    check_value(passes, Count, "passes")
    check_value(seed, Seed, "seed")
    cost = FileCost(photos, as_readers(readers), mu, subsampling)
    quality = cost.quality()
    steps = torch.stack(standard_tables(quality))
    standard = cost(*steps)
    best, found = standard, steps.clone()
    logs = steps.log().requires_grad_()
    optimizer = torch.optim.Adam([logs], _RATE)
    total = passes * -(-len(photos) // _BATCH)
    slower = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total)
    for number in range(passes):
        order = np.random.default_rng((seed, number)).permutation(len(photos)).tolist()
        for start in range(0, len(order), _BATCH):
            optimizer.zero_grad()
            batch = order[start : start + _BATCH]
            for group in _small_groups(cost, batch):
                _add_gradient(cost, group, logs, len(batch))
            optimizer.step()
            slower.step()
            with torch.no_grad():
                logs.clamp_(0, math.log(LARGEST))
            if progress is not None:
                progress("photos", number * len(order) + start + len(batch), passes * len(order))
        now, there = _best_scale(cost, logs.detach().exp())
        with torch.no_grad():
            logs.copy_(there.log())
        if now[0] < best[0]:
            best, found = now, there
    return FoundTables(*file_tables(found[0], found[1]), *best, quality, standard[0])


def _best_scale(cost: FileCost, steps: Tensor) -> tuple[tuple[float, float, float], Tensor]:
    """What tables (2, 8, 8) cost that are finer or coarser than these, as far as it falls, and these tables."""
    best, found = cost(*steps), steps
    for factor in (1 / _SCALE, _SCALE):
        improved = False
        while True:
            there = (found * factor).clamp(1, LARGEST)
            if torch.equal(there, found) or not (now := cost(*there))[0] < best[0]:
                break
            best, found, improved = now, there, True
        if improved:
            break
    return best, found


def _small_groups(cost: FileCost, numbers: Sequence[int]) -> Iterator[list[tuple[int, Image.Image, int]]]:
    """(number, picture, orientation) of photos, as many at a time as memory is sure to hold."""
    group: list[tuple[int, Image.Image, int]] = []
    pixels = 0
    for number in numbers:
        picture, note = opened(cost.photos[number])
        size = picture.width * picture.height
        if group and pixels + size > LARGEST_BATCH // 4:
            yield group
            group, pixels = [], 0
        group.append((number, picture, note))
        pixels += size
    yield group


def _add_gradient(cost: FileCost, group: Sequence[tuple[int, Image.Image, int]], logs: Tensor, count: int) -> None:
    """Add to the gradient of the tables' logarithms that of what photos cost, as a share of ``count`` photos."""
    seen, rate = [], torch.zeros(())
    luma, chroma = logs.exp().clamp(1, LARGEST)  # of which exp(log) may be a little more
    for _, picture, note in group:
        pixels = stored_pixels(picture)[: len(picture.getbands())].float() / 255
        file, bits = jpeg(
            pixels,
            tables=(luma, chroma),
            subsampling=cost.subsampling,
            gradient="ste-matched",
            return_bits="optimal",
        )
        rate = rate + bits / (picture.width * picture.height)
        seen.append([reader.view(file.expand(3, -1, -1), note) for reader in cost.readers])
    total = cost.mu * rate
    own = cost.own([number for number, *_ in group])
    for reader, views, wanted in zip(cost.readers, zip(*seen, strict=True), zip(*own, strict=True), strict=True):
        distance = reader.distance(torch.stack(wanted), reader.answers(torch.stack(views)))
        total = total + distance.sum() / len(cost.readers)
    (total / count).backward()  # type: ignore[no-untyped-call]


class _Photos(Sequence[DecodedImage]):
    """Photos in files, each opened when it is asked for: so many large ones do not fill memory."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    @overload
    def __getitem__(self, index: int) -> DecodedImage: ...
    @overload
    def __getitem__(self, index: slice) -> "_Photos": ...
    def __getitem__(self, index: int | slice) -> "DecodedImage | _Photos":
        return _Photos(self.files[index]) if isinstance(index, slice) else photo_at(self.files[index])


@dataclass
class FolderTables:
    """What :func:`search_folder` found.

    Attributes:
        found: the tables.
        images, total: photos that they were found on, and how many there are.
        bad: of these, photos that cannot be read, and why.
    """

    found: FoundTables
    images: int
    total: int
    bad: list[str]


def search_folder(
    photos: str,
    reader: str,
    mu: float = 1.0,
    *,
    subsampling: str = "4:2:0",
    images: int | None = 128,
    seed: int = 0,
    device: str | None = "auto",
    progress: Progress | None = None,
) -> FolderTables:
    """Learn tables from photos of a folder, as :func:`search_tables` does.

    Args:
        photos: the folder, with its subfolders.
        reader: one or more networks, separated by commas; see :func:`jpegdl.codec.open_reader`.
        mu, subsampling: as there.
        images: how many photos, drawn by ``seed``; None for all.
        seed: of these, and of their order.
        device: auto (a GPU where there is one), cpu, cuda, ...
        progress: is told how many photos are done.

    Raises:
        UsageError: no folder, no photo that can be read, or as :func:`search_tables`.
    """
    if images is not None:
        check_value(images, Count, "images")
    check_value(seed, Seed, "seed")
    folder, every = photos_in(photos)
    files = [folder.joinpath(*every[index]) for index in evenly([0] * len(every), images, seed)]
    readers = open_readers([name.strip() for name in reader.split(",")], device)
    good, bad = [], []
    for file in files:
        try:
            photo_at(file)
        except UsageError as error:
            bad.append(str(error))
        else:
            good.append(file)
    if not good:
        raise UsageError(f"none of the photos in {folder} can be read: {bad[0]}")
    found = search_tables(_Photos(good), readers, mu, subsampling=subsampling, seed=seed, progress=progress)
    return FolderTables(found, len(good), len(every), bad)
