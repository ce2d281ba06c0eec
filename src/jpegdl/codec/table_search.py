"""One pair of tables for many photos, found by what readers say of the files and by what these weigh.

``studies/files/table_methods.py`` holds it against gradients, sensitivities and sorted random search.
"""

import math
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from jpegdl.codec.encoder import Encoder
from jpegdl.codec.learned import LARGEST, file_tables
from jpegdl.codec.photo_rates import photos_in
from jpegdl.codec.read_image import open_photo
from jpegdl.codec.readers import NotFinite, PhotoReader, names_in, open_readers
from jpegdl.codec.shaping import as_readers, check_several
from jpegdl.codec.trials import LOOKS, QUALITIES, PhotoLike, as_photo, decoded, seen_bytes
from jpegdl.errors import UsageError
from jpegdl.functional import ZIGZAG
from jpegdl.opener import decoding
from jpegdl.random import evenly
from jpegdl.runs.progress import Progress
from jpegdl.settings import Count, Seed, check_value
from jpegdl.tables import standard_tables

TRIES = 30  # pairs of tables
_FIRST = 30  # quality, from which the best standard tables are looked for
_BANDS = (0, 1, 3, 6, 15, 36, 64)  # of frequencies along the zigzag that become coarser or finer together
_FAR = (1.4, 1.2)  # how much coarser or finer, first and then

Cost = tuple[float, float, float]  # cost, distance, bits per pixel
Seen = tuple[float, list[Tensor]]  # bits per pixel of a file, and what each reader sees of it


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
    """The cost of real files of given photos, for any tables: mean distance of the readers + mu x bits per pixel.

    Args:
        photos: at least one; see :func:`search_tables`.
        readers: whose answers on the originals count; of several, the mean of their distances.
        mu: what a bit per pixel is worth, in nats.
        subsampling: of chroma: 4:4:4 or 4:2:0.
        looked: called every few files with the number of files that were made and read.

    Attributes:
        tried: the cost of each pair of tables. A pair is tried once.

    Raises:
        UsageError: no photos, or settings that cannot be used.
        TypeError: one photo in place of several.
    """

    def __init__(
        self,
        photos: Sequence[PhotoLike],
        readers: Sequence[PhotoReader],
        mu: float,
        subsampling: str = "4:2:0",
        looked: Callable[[int], None] | None = None,
    ) -> None:
        check_several(photos)
        if not len(photos):
            raise UsageError("photos must hold at least one to search tables on")
        if not mu >= 0 or not math.isfinite(mu):
            raise UsageError(f"mu must be a finite number, 0 or more, got {mu}")
        if subsampling not in ("4:4:4", "4:2:0"):
            raise UsageError(f"subsampling must be 4:4:4 or 4:2:0, got {subsampling!r}")
        self.photos, self.readers, self.mu, self.subsampling, self.looked = photos, readers, mu, subsampling, looked
        self.tried: dict[bytes, Cost] = {}
        self._own: dict[int, list[Tensor]] = {}
        self._opening = threading.Lock()  # a sequence that makes photos is the user's, and may not expect threads

    def _photo(self, number: int) -> PhotoLike:
        with self._opening:
            photo = self.photos[number]
            if isinstance(photo, Image.Image):
                decoding(photo.load)
        return photo

    @torch.no_grad()
    def own(self, numbers: Sequence[int]) -> list[list[Tensor]]:
        """Return the readers' answers on the originals of these photos, photo by photo."""
        for number in numbers:
            if number not in self._own:
                photo = as_photo(self._photo(number))
                pixels, note = stored_pixels(photo.image), photo.note
                views = [seen_bytes(reader, pixels, note)[None].float() / 255 for reader in self.readers]
                try:
                    self._own[number] = [reader.answers(view)[0] for reader, view in zip(self.readers, views, strict=True)]
                except NotFinite as error:
                    raise NotFinite(f"{self._photo(number)}: {error}: leave it out") from error
        return [self._own[number] for number in numbers]

    def __call__(self, luma: Tensor, chroma: Tensor) -> Cost:
        """Return (cost, distance, bits per pixel) of files with these tables, each (8, 8), rounded to whole numbers."""
        pair = file_tables(luma, chroma)
        key = torch.stack(pair).to(torch.uint8).numpy().tobytes()
        if key not in self.tried:
            self.tried[key] = self._measured(Encoder(*pair, None, self.subsampling))
        return self.tried[key]

    @torch.no_grad()
    def _measured(self, encoder: Encoder) -> Cost:
        distance, rate = 0.0, 0.0
        groups = [range(start, min(start + LOOKS, len(self.photos))) for start in range(0, len(self.photos), LOOKS)]
        with closing(self._files(encoder, groups)) as files:  # so that its threads end whatever happens
            for numbers, made in zip(groups, files, strict=True):
                rates, views = zip(*made, strict=True)
                rate += sum(rates)
                answers_on_originals = zip(*self.own(numbers), strict=True)
                for reader, seen, own in zip(self.readers, zip(*views, strict=True), answers_on_originals, strict=True):
                    answers = reader.answers(torch.stack(seen).float() / 255)
                    distance += float(reader.distance(torch.stack(own), answers).sum()) / len(self.readers)
                if self.looked is not None:
                    self.looked(len(numbers))
        distance, rate = distance / len(self.photos), rate / len(self.photos)
        return distance + self.mu * rate, distance, rate

    def _files(self, encoder: Encoder, groups: Sequence[range]) -> Generator[list[Seen], None, None]:
        """The files of each group of photos; threads make those of the next one meanwhile."""

        def file(number: int) -> Seen:
            photo = as_photo(self._photo(number))
            picture, note = photo.image, photo.note
            content = encoder.encode(picture)
            pixels = decoded(content)
            bits = 8 * len(content) / (picture.width * picture.height)
            return bits, [seen_bytes(reader, pixels, note) for reader in self.readers]

        pool = ThreadPoolExecutor(torch.get_num_threads())
        try:
            later = [pool.submit(file, number) for number in groups[0]]
            for following in [*groups[1:], range(0)]:
                now, later = later, [pool.submit(file, number) for number in following]
                yield [each.result() for each in now]
        finally:
            pool.shutdown(cancel_futures=True)

    def quality(self) -> int:
        """Return the quality whose standard tables cost least, among those that files for readers are tried at."""

        def cost(place: int) -> float:
            return self(*standard_tables(QUALITIES[place]))[0]

        place = QUALITIES.index(_FIRST)
        for way in (-1, 1):
            while 0 <= place + way < len(QUALITIES) and cost(place + way) < cost(place):
                place += way
        return QUALITIES[place]


def stored_pixels(picture: Image.Image) -> Tensor:
    """Return its pixels, (3, H, W) uint8; grey ones three times."""
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)


def search_tables(
    photos: Sequence[PhotoLike],
    readers: PhotoReader | str | Sequence[PhotoReader | str],
    mu: float = 1.0,
    *,
    subsampling: str = "4:2:0",
    tries: int = TRIES,
    progress: Progress | None = None,
) -> FoundTables:
    """Find one pair of tables for files of such photos, by real files of all photos: what readers lose, and bits.

    The search begins with the standard tables that cost least. It makes six bands of frequencies of each table coarser or
    finer, one after another, by 40 % and in the end by 20 %, as long as files cost less. No labels are used. On other photos
    the tables may do worse than on these: give a hundred or more.

    Args:
        photos: see :func:`jpegdl.codec.choose`; or files, each of which is opened for each try, so that many large ones do not
            fill memory.
        readers: one or more, opened or by name, see :func:`jpegdl.codec.open_reader`.
        mu: what a bit per pixel is worth, in nats. More makes smaller files.
        subsampling: of chroma: 4:4:4 or 4:2:0.
        tries: pairs of tables to try at most, besides standard ones; files of all photos are made for each.
        progress: called with how many files are made and read, and how many there are at most.

    Raises:
        UsageError, TypeError, ValueError: settings that cannot be used, something that is not a photo, answers that are not
            finite.

    Example::

        found = jpegdl.codec.search_tables(photos, "mobilenetv4_conv_small.e2400_r224_in1k", mu=0.5)
        jpegdl.tables.write_tables("tables.json", {"luma": found.luma, "chroma": found.chroma}, subsampling="4:2:0")
    """
    check_value(tries, Count, "tries")
    done = 0

    def looked(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress("files", done, (len(QUALITIES) + tries) * len(photos))

    cost = FileCost(photos, as_readers(readers), mu, subsampling, looked)
    quality = cost.quality()
    standard = standard_tables(quality)
    luma, chroma = band_search(cost, standard, tries)
    return FoundTables(*file_tables(luma, chroma), *cost(luma, chroma), quality, cost(*standard)[0])


def band_search(cost: FileCost, start: tuple[Tensor, Tensor], tries: int) -> tuple[Tensor, Tensor]:
    """Return the tables that cost least of those that are tried, band by band.

    Args:
        cost: of files with two tables; it keeps what was tried.
        start: luma and chroma, each (8, 8), to begin with.
        tries: how many more pairs to measure.

    Returns:
        Luma and chroma, each (8, 8), not rounded.

    Raises:
        UsageError: a reader fails on a photo or its answers are not finite.
    """
    best, most = torch.stack(start), len(cost.tried) + tries
    least = cost(*best)[0]
    bands = []
    for table in (0, 1):
        for first, last in pairwise(_BANDS):
            band = torch.zeros(2, 64, dtype=torch.bool)
            band[table, list(ZIGZAG[first:last])] = True
            bands.append(band.view(2, 8, 8))
    for far in _FAR:
        improved = True
        while improved:
            improved = False
            for band in bands:
                for factor in (far, 1 / far):
                    if len(cost.tried) >= most:
                        return best[0], best[1]
                    there = torch.where(band, best * factor, best).clamp(1, LARGEST)
                    now = cost(*there)[0]
                    if now < least:
                        best, least, improved = there, now, True
                        break
    return best[0], best[1]


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
    tries: int = TRIES,
    images_seed: int = 0,
    device: str | None = "auto",
    progress: Progress | None = None,
) -> FolderTables:
    """Find tables for photos of a folder, as :func:`search_tables` does.

    Args:
        photos: the folder, with its subfolders.
        reader: one or more networks, separated by commas; see :func:`jpegdl.codec.open_reader`.
        mu, subsampling: as there.
        images: how many photos, drawn by ``images_seed``; None for all.
        tries: as there.
        images_seed: seed that draws them, if not all are taken.
        device: auto (a GPU where there is one), cpu, cuda, ...
        progress: as there.

    Raises:
        UsageError: no folder, no photo that can be read, or as :func:`search_tables`.
    """
    if images is not None:
        check_value(images, Count, "images")
    check_value(images_seed, Seed, "images_seed")
    folder, every = photos_in(photos)
    files = [folder.joinpath(*every[index]) for index in evenly([0] * len(every), images, images_seed)]
    readers = open_readers(names_in(reader, "reader"), device)
    good, bad = [], []
    for file in files:
        try:
            open_photo(file)
        except UsageError as error:
            bad.append(str(error))
        else:
            good.append(file)
    if not good:
        raise UsageError(f"none of the photos in {folder} can be read: {bad[0]}")
    found = search_tables(good, readers, mu, subsampling=subsampling, tries=tries, progress=progress)
    return FolderTables(found, len(good), len(every), bad)
