"""Files that networks choose: of several files of each photo the one that their own answer on the original survives best.

No labels: a reader's answer on a file is held against its answer on the original. What is least is

    distance(answer on the original, answer on the file) + mu x bits per pixel

with the distance in nats (the KL divergence of class probabilities), averaged over the readers.
"""

import io
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from jpegdl import functional as F
from jpegdl.codec.encoder import check_sides, segments
from jpegdl.codec.levels import Array, file_of_levels, nearest_levels
from jpegdl.codec.read_image import DecodedImage, open_photo, storable
from jpegdl.codec.readers import PhotoReader
from jpegdl.data.pixels import loaded
from jpegdl.errors import UsageError
from jpegdl.settings import Count, NotNegative, Quality, Range
from jpegdl.tables import check_table, standard_tables

#: Qualities of libjpeg's scale that files are made at to choose from.
QUALITIES = (6, 8, 10, 15, 20, 30, 50, 65, 80, 90)
UNSEEN = 10  # quality of parts that no reader sees, if files are for other networks too
#: Over the quality: nats that other networks are taken to lose more than the readers, about a tenth of what one trained on
#: ImageNet loses on average. A photo that is easy for its readers need not be so for others.
OTHERS = 1.0
_FINER = 0.7  # of chroma's steps, in a second ladder
_COARSER = 1.05  # of luma's there
FINEST, _FINEST = "finest", (95, 100)  # a kind of tables, and its qualities
_SCALES = tuple(2 ** (power / 2) for power in range(6, -7, -1))  # of learned tables
_STRIP = 128  # rows of a photo, whole units of any subsampling: what is computed of more does not stay in a processor's cache
_LARGE = 2**22  # pixels of a photo whose files are made side by side
LOOKS = 32  # files that go through a reader at once

Share = Annotated[float, Range(0, 1)]
PhotoLike = Image.Image | np.ndarray[Any, Any] | Tensor | DecodedImage | Path | str


@dataclass(frozen=True)
class Shape:
    """How files are made for readers.

    Args:
        mu: what a bit per pixel is worth, in nats. A larger mu makes smaller files.
        effort: 1 chooses the quality of each photo, 2 chooses among more kinds of files, and 3 also moves the rounding of
            coefficients.
        robust: make files that other networks read well too: add 1 / quality to each file's distance, unless it is one of
            features, and at effort 3 take gradients over mirrored, shifted and scaled views.
        floor: the lowest quality, 1 to 100. Parts of a photo that no reader sees get this quality. None means the lowest of
            ``qualities``, but 10 for such parts if ``robust``.
        several: with several readers, whether the mean of their distances counts, or the worst.
        subsampling: chroma subsampling: 4:4:4, 4:2:2 or 4:2:0.
        rounds: how many rounds of gradient, at effort 3.
        qualities: qualities to try, on libjpeg's scale.
        keep: share of photos, drawn by their content, whose first answers must stay if any of the tried files allows it.
        finest: chroma subsampling of two files more, of qualities 95 and 100, for photos whose answers change on any other.
        learned: more tables to choose from at effort 2 or 3: (luma, chroma), each (8, 8) steps. Finer and coarser ones are made
            of them.
    """

    mu: NotNegative = 1.0
    effort: Literal[1, 2, 3] = 1
    robust: bool = True
    floor: Quality | None = None
    several: Literal["mean", "worst"] = "mean"
    subsampling: Literal["4:4:4", "4:2:2", "4:2:0"] = "4:2:0"
    rounds: Count = 4
    qualities: tuple[Quality, ...] = QUALITIES
    keep: Share = 0.0
    finest: Literal["4:4:4", "4:2:2", "4:2:0"] | None = None
    learned: Any = field(default=None, compare=False)

    @property
    def lowest(self) -> int:
        """The lowest quality of a file."""
        return self.floor if self.floor is not None else min(self.qualities)

    @property
    def unseen(self) -> int:
        """The quality of parts that no reader sees, in files that are not coarser."""
        return UNSEEN if self.floor is None and self.robust else self.lowest

    def record(self) -> dict[str, Any]:
        """Return the settings besides ``mu`` that files depend on, ready for JSON."""
        found = {name: value for name, value in asdict(self).items() if name not in ("mu", "learned")}
        if self.learned is not None:
            found["tables"] = [table.tolist() for table in self.learned]
        if self.robust:
            found["others"] = OTHERS
        return {**found, "qualities": list(self.qualities)}


@dataclass(frozen=True)
class ShapedFile:
    """A JPEG file that readers chose.

    Attributes:
        content: the JPEG file.
        quality: its quality on libjpeg's scale. With learned tables, that of standard tables as coarse on average.
        kind: "standard", "finer chroma", "learned" or "finest".
        rounds: of gradient that went into it.
        distance: of the readers' answers to those on the original, mean or worst, in nats.
        distances: of each reader.
        kept: of each reader, whether its first answer is still that on the original; False of features, which have none.
        bits_per_pixel: of the whole file.
    """

    content: bytes
    quality: int
    kind: str
    rounds: int
    distance: float
    distances: tuple[float, ...]
    kept: tuple[bool, ...]
    bits_per_pixel: float


@dataclass(frozen=True)
class Tables:
    """A pair that files are made with.

    Attributes:
        kind: "standard", "finer chroma", "learned" or "finest".
        quality: that they stand for.
        luma, chroma: (8, 8), whole numbers.
    """

    kind: str
    quality: int
    luma: Tensor
    chroma: Tensor

    def of(self, planes: int) -> list[list[int]]:
        """The tables as a file has them."""
        return [[int(entry) for entry in table.flatten().tolist()] for table in (self.luma, self.chroma)[: min(planes, 2)]]

    def steps(self, planes: int) -> list[Array]:
        """Of each plane, (8, 8), int64."""
        return [(self.chroma if number else self.luma).numpy().astype(np.int64) for number in range(planes)]


def ladders(shape: Shape) -> list[list[Tables]]:
    """Return the tables that are tried: of each kind those of all qualities, from coarse to fine; a floor that is given is one.

    Raises:
        UsageError: there are no qualities, or learned tables are none.
    """
    if not shape.qualities:
        raise UsageError("qualities must be one or more, from 1 to 100, got none")
    above = {quality for quality in shape.qualities if quality >= shape.lowest}
    qualities = sorted(above if above and shape.floor is None else above | {shape.lowest})
    standard = [Tables("standard", quality, *standard_tables(quality)) for quality in qualities]
    finest = [Tables(FINEST, quality, *standard_tables(quality)) for quality in _FINEST if quality >= shape.lowest]
    last = [finest] if shape.finest is not None else []
    if shape.effort < 2:
        return [standard, *last]
    finer = [
        Tables(
            "finer chroma",
            tables.quality,
            (tables.luma * _COARSER).round().clamp(1, 255),
            (tables.chroma * _FINER).round().clamp(1, 255),
        )
        for tables in standard
    ]
    if shape.learned is None:
        return [standard, finer, *last]
    luma, chroma = (
        check_table(table, f"learned {name}") for name, table in zip(("luma", "chroma"), shape.learned, strict=True)
    )
    return [standard, finer, _scaled(luma, chroma, shape.lowest), *last]


def _scaled(luma: Tensor, chroma: Tensor, lowest: int) -> list[Tables]:
    """Return learned tables at several scales, from coarse to fine; none coarser than the floor."""
    sizes = {quality: _mean_step(standard_tables(quality)[0]) for quality in range(lowest, 101)}
    found: dict[int, Tables] = {}
    for scale in _SCALES:
        pair = [(table.detach().float() * scale).round().clamp(1, 255) for table in (luma, chroma)]
        size = _mean_step(pair[0])
        if size <= sizes[lowest]:
            quality = min(sizes, key=lambda quality: abs(sizes[quality] - size))
            found.setdefault(quality, Tables("learned", quality, *pair))
    return [found[quality] for quality in sorted(found)]


def _mean_step(table: Tensor) -> float:
    """Return the logarithm of the geometric mean."""
    return float(table.float().log().mean())


# ---------------------------------------------------------------------------------------------------------------- one photo


@dataclass
class Trials:
    """The files of one photo to choose from, and the readers' answers on them.

    Attributes:
        size: (width, height) in pixels.
        views: of each reader, (files + 1, 3, side, side) uint8: what it sees of the original, and then of each file; empty once
            it has answered.
        files: what is in them; empty where only their sizes are wanted any more.
        sizes: of each file, in bytes.
        tables: of each file.
        rounds: 0 for files that nobody moved; of the others 1 and the rounds of gradient.
        distances: (readers, files), in nats.
        kept: (readers, files), whether the first answer stays.
        drawn: a number from 0 to 1 that its content gives.
        own: of each reader, (K,), its answer on the original.
        coefficients: of Y, Cb and Cr, each (rows, columns, 8, 8) float32; kept for rounds of gradient.
        seen: of each plane, (rows, columns): which blocks any reader sees.
        segments: marker segments of the file.
        note: EXIF orientation among them, 1 to 8.
        features: whether distances are of features, which are in no unit that others' losses have.
    """

    size: tuple[int, int]
    views: list[Tensor]
    files: list[bytes]
    tables: list[Tables]
    rounds: list[int]
    distances: Array
    kept: Array
    sizes: list[int] = field(default_factory=list)
    drawn: float = 1.0
    own: list[Tensor] = field(default_factory=list)
    coefficients: list[Array] = field(default_factory=list)
    seen: list[Array] = field(default_factory=list)
    segments: bytes = b""
    note: int = 1
    features: bool = False

    @property
    def pixels(self) -> int:
        """How many pixels the photo has."""
        return self.size[0] * self.size[1]

    @property
    def rates(self) -> Array:
        """(files,): bits per pixel."""
        return np.array(self.sizes) * 8 / self.pixels

    def best(self, shape: Shape, mu: float) -> int:
        """Return the file of least distance + mu x bits; of a photo whose answers are to stay, among those that they do on."""
        cost = together(self.judged(shape), shape) + mu * self.rates
        if self.drawn < shape.keep:
            stays = self.kept.all(0)
            cost = np.where(stays, cost, np.inf) if stays.any() else -self.rates
        return int(cost.argmin())

    def judged(self, shape: Shape) -> Array:
        """(readers, files): distances, and where files are to do for other networks too what these may lose more."""
        if not shape.robust or self.features:
            return self.distances
        found: Array = self.distances + OTHERS / np.array([tables.quality for tables in self.tables])
        return found

    def chosen(self, index: int, shape: Shape) -> ShapedFile:
        """Return the file of that index."""
        content, tables = self.files[index], self.tables[index]
        return ShapedFile(
            content,
            tables.quality,
            tables.kind,
            max(0, self.rounds[index] - 1),
            float(together(self.distances, shape)[index]),
            tuple(self.distances[:, index].tolist()),
            tuple(bool(kept) for kept in self.kept[:, index]),
            8 * len(content) / self.pixels,
        )


def together(distances: Array, shape: Shape) -> Array:
    """(readers, files) to (files,)."""
    found: Array = distances.mean(0) if shape.several == "mean" else distances.max(0)
    return found


def as_photo(photo: PhotoLike) -> DecodedImage:
    """Return a photo as a JPEG file can hold it.

    Args:
        photo: the path of a file, or what :func:`jpegdl.codec.open_photo` returns: then files have its EXIF block and ICC
            profile; a PIL image, of which the pixels count, and no note to turn them; (H, W, 3) or (H, W) uint8 as NumPy has
            images; or (3, H, W) or (1, H, W) as PyTorch has them, uint8 or floating point in [0, 1].

    Raises:
        TypeError, ValueError: something else, or what a JPEG file has no place for.
    """
    photo = open_photo(photo) if isinstance(photo, Path | str) else photo
    return photo if isinstance(photo, DecodedImage) else DecodedImage(_as_picture(photo), b"", None)


def _as_picture(photo: Image.Image | np.ndarray[Any, Any] | Tensor) -> Image.Image:
    """As an image, mode RGB or L."""
    if isinstance(photo, Image.Image):
        loaded(photo)  # it may be open, and not decoded
        return storable(photo)
    if isinstance(photo, Tensor):
        if photo.ndim != 3 or photo.shape[0] not in (1, 3) or not photo.numel():
            raise ValueError(f"a photo must be (3, H, W) or (1, H, W), and have pixels, got {tuple(photo.shape)}")
        if photo.is_floating_point():
            if not bool(photo.isfinite().all()) or float(photo.min()) < 0 or float(photo.max()) > 1:
                raise ValueError("a photo in floating point must lie in [0, 1], and be finite")
            photo = (photo * 255).round().to(torch.uint8)
        if photo.dtype != torch.uint8:
            raise TypeError(f"a photo must be uint8 or floating point, got {photo.dtype}")
        photo = photo.permute(1, 2, 0).cpu().numpy()
        photo = photo[..., 0] if photo.shape[-1] == 1 else photo
    if not isinstance(photo, np.ndarray):
        raise TypeError(f"a photo must be a path, a PIL image, an array or a tensor, got {type(photo).__name__}")
    if photo.dtype != np.uint8 or photo.ndim not in (2, 3) or (photo.ndim == 3 and photo.shape[-1] != 3) or not photo.size:
        raise ValueError(f"a photo must be uint8, (H, W, 3) or (H, W), got {photo.dtype} {photo.shape}")
    return Image.fromarray(photo)


def decoded(content: bytes) -> Tensor:
    """Return the pixels of a file, (3, H, W) uint8; grey ones three times."""
    with Image.open(io.BytesIO(content)) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def levels_of(coefficients: Sequence[Array], seen: Sequence[Array], tables: Tables, floor: Sequence[Array]) -> list[Array]:
    """Return the nearest levels; of what no reader sees, those of the floor's, on the grid of these tables.

    Args:
        coefficients: of each plane, (rows, columns, 8, 8).
        seen: of each plane, (rows, columns).
        tables: of the file.
        floor: of each plane, (8, 8): steps of the floor.
    """
    steps = tables.steps(len(coefficients))
    return [nearest_levels(*plane) for plane in zip(coefficients, steps, floor, seen, strict=True)]


def blocks_seen(
    readers: Sequence[PhotoReader], size: tuple[int, int], planes: Sequence[Array], subsampling: str, note: int = 1
) -> list[Array]:
    """Return of each plane which blocks any reader sees, (rows, columns), with one more around them."""
    down, across = F.chroma_factors(subsampling)
    width, height = size
    found = []
    for number, plane in enumerate(planes):
        rows, columns = plane.shape[:2]
        high, wide = (F.BLOCK * down, F.BLOCK * across) if number else (F.BLOCK, F.BLOCK)
        there = np.zeros((rows, columns), np.bool_)
        for reader in readers:
            top, left, bottom, right = reader.sees(height, width, note)
            spread = 2 if len(planes) > 1 and (down, across) != (1, 1) else 0
            first, last = max(0, top - spread) // high, -(-(bottom + spread) // high)
            there[first:last, max(0, left - spread) // wide : -(-(right + spread) // wide)] = True
        found.append(there)
    return found


def make_trials(
    photo: PhotoLike,
    readers: Sequence[PhotoReader],
    shape: Shape,
    pool: ThreadPoolExecutor | None = None,
    *,
    bare: bool = False,
) -> Trials:
    """Make the files of one photo, and what each reader sees of them; in any thread.

    Args:
        photo: see :func:`as_photo`.
        readers: that look at the files.
        shape: how they are made.
        pool: of threads that make the files of a large photo side by side, since such photos are in work one at a time.
        bare: leave out its EXIF block and ICC profile.

    Raises:
        ValueError: the photo cannot be put into a JPEG file.
    """
    whole = as_photo(photo)
    picture, note, between = whole.image, whole.note, b"" if bare else segments(whole.exif, whole.icc)
    check_sides(picture)
    stored = torch.from_numpy(np.array(picture))
    stored = stored[None] if stored.ndim == 2 else stored.permute(2, 0, 1)
    # Whole numbers, as libjpeg computes them: files of standard tables are libjpeg's own, but for blocks that nobody sees.
    coefficients = _coefficients(stored, shape.subsampling)
    seen = blocks_seen(readers, picture.size, coefficients, shape.subsampling, note)
    planes = {False: (coefficients, seen, shape.subsampling)}
    if shape.finest is not None:
        finest = _coefficients(stored, shape.finest)
        planes[True] = finest, blocks_seen(readers, picture.size, finest, shape.finest, note), shape.finest
    floor = Tables("", shape.unseen, *standard_tables(shape.unseen)).steps(len(coefficients))
    tables = [each for ladder in ladders(shape) for each in ladder]

    def file(each: Tables) -> tuple[bytes, list[Tensor]]:
        of_planes, seen_of_them, subsampling = planes[each.kind == FINEST]
        levels = levels_of(of_planes, seen_of_them, each, floor)
        content = file_of_levels(levels, each.of(len(levels)), picture.size, subsampling, between)
        pixels = decoded(content)
        return content, [seen_bytes(reader, pixels, note) for reader in readers]

    large = picture.width * picture.height > _LARGE
    made = list(pool.map(file, tables) if pool is not None and large else map(file, tables))
    files = [content for content, _ in made]
    original = [seen_bytes(reader, stored.expand(3, -1, -1), note) for reader in readers]
    views = [torch.stack(each) for each in zip(original, *(seen for _, seen in made), strict=True)]
    nothing = np.zeros((len(readers), len(files)))
    trials = Trials(picture.size, views, files, tables, [0] * len(files), nothing, nothing > 0, [len(each) for each in files])
    trials.segments, trials.note, trials.drawn = between, note, zlib.crc32(files[-1]) / 2**32
    trials.features = any(reader.features for reader in readers)
    if shape.effort > 2:
        trials.coefficients = coefficients
    trials.seen = seen
    return trials


def _coefficients(stored: Tensor, subsampling: str) -> list[Array]:
    """Of each plane of (3, H, W) or (1, H, W) pixels, (rows, columns, 8, 8) float32; a strip of the photo at a time."""
    height = stored.shape[1]
    strips = [stored[:, top : top + _STRIP] for top in range(0, height, _STRIP)]
    parts = [[z[0].float().div_(8) for z in F.encode_coefficients(strip[None], subsampling)] for strip in strips]
    return [torch.cat(planes).numpy() for planes in zip(*parts, strict=True)]


def seen_bytes(reader: PhotoReader, pixels: Tensor, note: int = 1) -> Tensor:
    """Return what a reader sees of uint8 pixels of a file with that EXIF orientation, (3, size, size) uint8."""
    return (reader.view(pixels, note) * 255).round().to(torch.uint8)


@torch.no_grad()
def ask(readers: Sequence[PhotoReader], several: Sequence[Trials]) -> None:
    """Let readers answer on the files of several photos, in batches."""
    for number, reader in enumerate(readers):
        views = torch.cat([trials.views[number] for trials in several])
        said = torch.cat([reader.answers(part.float() / 255) for part in torch.split(views, LOOKS)])
        place = 0
        for trials in several:
            count = len(trials.files) + 1
            own, answers = said[place : place + 1], said[place + 1 : place + count]
            place += count
            trials.own.append(own[0].clone())
            trials.distances[number] = reader.distance(own.expand_as(answers), answers).double().numpy()
            if not reader.features:
                trials.kept[number] = (answers.argmax(1) == own.argmax(1)).numpy()
    for trials in several:
        trials.views = []
