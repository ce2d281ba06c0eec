"""What a run's model makes of real JPEG files."""

import copy
import hashlib
import io
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, JpegImagePlugin
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from torchvision.transforms.v2 import functional as v2

from jpegdl import functional as F
from jpegdl.codec.config import MANIFEST
from jpegdl.codec.encoder import Encoder, planes, write_levels
from jpegdl.codec.learned import Learned, as_json, carried, file_tables, of_run
from jpegdl.data.config import DataConfig
from jpegdl.data.sources.class_folders import open_test
from jpegdl.errors import UsageError
from jpegdl.files import digest_of_file, read_json, write_json
from jpegdl.layer import JpegLayer, PrependedModel
from jpegdl.random import evenly
from jpegdl.runs import RunFolder, TrainedRun
from jpegdl.runs.config import DataPlace
from jpegdl.runs.opened import open_for_test
from jpegdl.runs.progress import Progress
from jpegdl.tables import SUBSAMPLINGS, tables_by_component

if TYPE_CHECKING:
    from jpegdl.data import Data

FILES = "files.json"  # in the folder of a run
STORED = 24.0  # bits per pixel of an RGB image that nothing compresses
_SUBSAMPLING = {0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}  # of Pillow's numbers


@dataclass(frozen=True)
class Row:
    """One way to store images, and what the model makes of them.

    Attributes:
        name: soft, or what the layer was trained with (the model as it is, nothing stored); hard (its layer rounds, and the
            levels are stored); real file (JPEG files take the layer's place); or real file, layer kept (the model, layer and
            all, sees decoded files).
        accuracy: share of the images, 0 to 1.
        images: how many.
        bits_per_pixel: of what is stored; None where it cannot be stored or jpeglib, which counts it, is not installed.
        header: how many of these bits are the file's header, with its tables and Huffman codes; it weighs in small images. None
            where the files were there before.
    """

    name: str
    accuracy: float
    images: int
    bits_per_pixel: float | None = None
    header: float | None = None

    @property
    def ratio(self) -> float | None:
        """How many times smaller it is than 24-bit RGB."""
        return None if not self.bits_per_pixel else STORED / self.bits_per_pixel


def file_report(
    folder: RunFolder,
    files: Path | None = None,
    *,
    place: DataPlace | None = None,
    device: str = "cpu",
    images: int | None = None,
    exact: bool = False,
    optimize: bool = True,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Test a finished run soft, hard, and on real JPEG files with its tables.

    Without ``files``, each test image is encoded as the model sees it, scaled and cropped, and all rows are of the same
    pixels. With ``files``, real files are those in that folder, decoded, scaled and cropped as the run's images are. Their bits
    per pixel are those of the stored files. If class and name, without suffix, say that files are the run's test images, all
    rows are of the images that both have. If no file is, or files do not look like their images, there are only the rows of
    real files. Decoders round to 8 bits and clip; the layer does neither.

    Args:
        folder: the run's.
        files: folder of one folder for each class, with any images that Pillow reads; such as
            :func:`jpegdl.codec.compress_folder` writes.
        place: where the run's own data are now; default: where they were when it was trained.
        device: see :func:`jpegdl.runs.device.compute_device`.
        images: test on this many, evenly over the classes; default: all of them.
        exact: make files with levels as the layer computes them, with its cap; takes jpeglib. Not with ``files``.
        optimize: fit Huffman codes to each image.
        batch_size: images that go through the model at once.
        progress: told which row is being made, images done, and their number.

    Returns:
        - ``rows``, each with ``name``, ``accuracy`` (0 to 1), ``images``, ``bits_per_pixel``, ``header`` (bits of these that
          are headers) and ``ratio`` (24 over the bits per pixel).
        - ``tables``: those of files made here; None with ``files``. ``carried``: how much of the layer such files carry.
        - ``other_images``: how the test images differ from those of the run's own test; None if they do not.
        - ``files``: the folder; None without ``files``.
        - ``stored``: what is in it; None without ``files``. It has ``tables`` (own, other, mixed, or None if none is a JPEG
          file), ``digest`` of all tables, ``formats``, ``subsampling``, ``of_layer`` (that of the run), ``exact`` (made within
          the level cap, by the ``compress.json`` above them; None if there is none) and ``test`` (number of images, and a
          digest of their names and sizes).
        - ``same``: whether all rows are of the same images; None if names cannot tell. ``missing``: test images without a
          file. ``foreign``: files that are no test image. ``unlike``: files that do not look like the image of their name.
          ``images``: these in words.
        - ``model`` (digest of its file), ``arm`` and ``seed``: whose numbers they are.

    Raises:
        UsageError: a run that is not finished, or whose layer no JPEG file can stand for, or with ``data.jpeg_test``; data of
            other classes; no images.
    """
    if exact and files is not None:
        raise UsageError("exact is for files that are made here, and those in a folder are made already: give only one of them")
    of_run(folder)
    if why := files_of_files(folder):
        raise UsageError(why)
    model = digest_of_file(folder.model_file) if folder.model_file.is_file() else None  # opening it says what is missing
    opened, tell = open_for_test(folder, place or DataPlace(), device), progress or (lambda what, done, total: None)
    run, data = opened.run, opened.data
    layer = _layer(run.model)
    learned = replace(of_run(folder), luma=layer.luma.detach().cpu(), chroma=layer.chroma.detach().cpu())  # the steps in use
    data.load()
    tables = file_tables(learned.luma, learned.chroma)
    cap = F.largest_level(learned.bits)
    limits = None if cap is None else (cap * learned.luma, cap * learned.chroma)
    encoder = Encoder(*tables, limits, learned.subsampling or "4:4:4", optimize=optimize, exact=exact)
    test = _Test(run, learned, opened.device, batch_size, tell)
    chosen = opened.images(images, 0)
    stored, subsampling, capped = None, encoder.subsampling, exact
    if files is None:
        rows = test.without_files(data, chosen, optimize)
        rows += test.of_crops(data, chosen, encoder)
    else:
        rows, stored = test.of_folder(files, images, tables, data)
        if stored["same"] is None:
            rows = test.without_files(data, chosen, optimize) + rows
        elif stored["same"]:
            rows = test.without_files(data, stored["indices"], optimize) + rows
        del stored["indices"]
        stored |= {"of_layer": encoder.subsampling, "exact": made_exact(files)}
        capped = bool(stored["exact"])
        if len(stored["subsampling"]) == 1 and stored["subsampling"][0] in SUBSAMPLINGS:
            (subsampling,) = stored["subsampling"]
    samples = [data.test[i] for i in opened.images(8, 0)]
    lost = carried(
        learned,
        tables,
        [item[0][None] for item in samples if item is not None],
        subsampling=subsampling,
        capped=capped,
    )
    words = str(lost)
    if stored is not None and stored["exact"] is None and learned.bits is not None:
        words += f" (no {MANIFEST} says how they were made: taken as made without the cap)"
    return {
        "rows": [{**asdict(row), "ratio": row.ratio} for row in rows],
        "tables": as_json(*tables) if files is None else None,
        "carried": {**vars(lost), "faithful": lost.faithful, "words": words},
        "other_images": opened.other_images,
        "files": None if files is None else str(files),
        "stored": stored,
        "model": model,
        **{name: folder.settings()[name] for name in ("arm", "seed")},
    }


def files_of_files(folder: RunFolder) -> str | None:
    """Return why no files can be made of what a run's model sees of its test images, in words; None if they can."""
    quality = folder.config().data.jpeg_test
    if quality is None:
        return None
    return (
        f"the test images of {folder} go through JPEG of quality {quality} (data.jpeg_test): files made of them would be files "
        "of files, smaller than those of the images"
    )


def keep_file_report(folder: RunFolder, found: dict[str, Any]) -> None:
    """Write what :func:`file_report` found of a folder of files to the run's ``files.json``, for the report."""
    write_json(folder.path / FILES, found)


def read_file_report(folder: RunFolder) -> dict[str, Any] | None:
    """Read a run's ``files.json``, as :func:`file_report` returned it; None if there is none.

    Raises:
        UsageError: it is damaged.
    """
    found = read_json(folder.path / FILES, ("rows", "carried", "other_images", "files", "stored", "model", "arm", "seed"))
    try:
        if found is not None:
            [(row["name"], float(row["accuracy"]), int(row["images"]), row["bits_per_pixel"]) for row in found["rows"]]
            stored_in_words(found["stored"])
            str(found["carried"]["words"])
    except (KeyError, TypeError, ValueError) as error:
        why = f"{type(error).__name__}: {error}"
        raise UsageError(f"{folder.path / FILES} is damaged ({why}); delete it, and test on the files again") from error
    return found


def stored_in_words(stored: dict[str, Any]) -> str:
    """Return what files are: their kind, whose tables they have, and the subsampling of chroma."""
    if stored["tables"] is None:
        return f"{' and '.join(stored['formats'])} files"
    whose = {"own": "the run's own tables", "other": "other tables than the run's", "mixed": "the run's own and other tables"}
    others = [form for form in stored["formats"] if form != "JPEG"]
    subsampling = f", {' and '.join(stored['subsampling'])}" if stored["subsampling"] else ""
    if stored["subsampling"] and (of_layer := stored.get("of_layer")) and stored["subsampling"] != [of_layer]:
        subsampling += f" where the layer has {of_layer}"
    return f"JPEG files with {whose[stored['tables']]}{subsampling}{' and '.join(['', *others])}"


def made_exact(files: Path) -> bool | None:
    """Return whether files were made with exact levels, by the ``compress.json`` in their folder or above it; None where
    none says."""
    for folder in (files.resolve(), *files.resolve().parents):
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            settings = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["settings"]
            return bool(settings.get("exact"))  # of which those of files for readers say nothing
    return None


class _Test:
    def __init__(self, run: TrainedRun, learned: Learned, device: torch.device, batch_size: int, tell: Progress) -> None:
        self.run, self.learned, self.device, self.batch_size, self.tell = run, learned, device, batch_size, tell
        model = run.model
        self.bare = model.without_layer()
        self.hard = copy.deepcopy(model)
        _layer(self.hard).rounding = "hard"

    def batches(self, data: "Data", chosen: list[int], name: str) -> Iterator[tuple[Tensor, Tensor]]:
        done = 0
        for images, targets in DataLoader(Subset(data.test, chosen), batch_size=self.batch_size):
            yield images, targets
            done += len(images)
            self.tell(name, done, len(chosen))

    def right(self, model: nn.Module, images: Tensor, targets: Tensor) -> int:
        return int(are_right(model(images.to(self.device)).cpu(), targets).sum())

    @torch.no_grad()
    def without_files(self, data: "Data", chosen: list[int], optimize: bool) -> list[Row]:
        """Return the rows soft and hard."""
        soft, hard, count, stored = 0, 0, 0, FileSizes()
        storable = True
        for images, targets in self.batches(data, chosen, "soft and hard"):
            soft += self.right(self.run.model, images, targets)
            hard += self.right(self.hard, images, targets)
            count += len(images)
            if storable:
                try:
                    for image in images:
                        stored.add(self._stored(image[None], optimize))
                except (UsageError, ValueError):  # no jpeglib, or levels beyond what a file holds
                    storable = False
        return [
            Row(_layer(self.run.model).rounding, soft / count, count, STORED),
            Row("hard", hard / count, count, *(stored.rates(_pixels(data)) if storable else ())),
        ]

    def _stored(self, image: Tensor, optimize: bool) -> bytes:
        """The layer's own levels in a JPEG file: its length is true, whatever the steps are that they are to be read with."""
        levels = []
        for z, steps in zip(
            planes(image, self.learned.subsampling or "4:4:4"),
            (self.learned.luma, self.learned.chroma, self.learned.chroma),
            strict=True,
        ):
            levels.append(F.quantize_levels(z, steps, bits=self.learned.bits).numpy().astype(np.int32))
        size = image.shape[-1], image.shape[-2]
        return write_levels(levels, [[1] * F.BLOCK**2] * 2, size, self.learned.subsampling or "4:4:4", optimize)

    @torch.no_grad()
    def of_crops(self, data: "Data", chosen: list[int], encoder: Encoder) -> list[Row]:
        """Return the rows of files made of the very pixels that the model sees."""
        counts, size = _Counts(), FileSizes()
        for images, targets in self.batches(data, chosen, "real file"):
            counts.add(self, torch.stack([size.through(image, encoder) for image in images]), targets)
        return counts.rows(*size.rates(_pixels(data)))

    @torch.no_grad()
    def of_folder(
        self, files: Path, wanted: int | None, own: tuple[Tensor, Tensor], test: "Data"
    ) -> tuple[list[Row], dict[str, Any]]:
        """Return the rows of the files in a folder, and what these are.

        Args:
            files: the folder.
            wanted: how many, evenly over the classes; None for all.
            own: the entries of the run's tables.
            test: the run's own test images.
        """
        config = replace(
            self.run.config.data,
            name="folder",
            path=str(files),
            classes=None,
            limit=None,
            test_share=None,
            jpeg_test=None,
            workers=0,
            cache="none",
        )
        from jpegdl.data import Data  # imports Lightning, which readers of finished results do not need

        data = Data(config, test_only=True)
        self.run.folder.other_images(data.fingerprint)  # refuses other classes; other bytes are expected
        counts = _Counts()
        pairs = _pairs(test, data)
        if pairs:
            pairs = [pairs[i] for i in evenly([test.test.targets[image] for image, _ in pairs], wanted, 0)]
            chosen = [file for _, file in pairs]
        else:
            chosen = evenly(list(data.test.targets), wanted, 0)
        for images, targets in self.batches(data, chosen, "real file"):
            counts.add(self, images, targets)
        rate, stored = _stored(config, chosen, own)
        return counts.rows(rate), {
            **stored,
            "test": data.fingerprint["test"],
            **_sameness(pairs, _pairs(test, data), test, data),
            "indices": [image for image, _ in pairs or []],
        }


def are_right(logits: Tensor, targets: Tensor) -> Tensor:
    """Return which of logits (N, classes) are right, (N,) bool; those that are not finite are no answer."""
    return (logits.argmax(1) == targets) & logits.isfinite().all(1)


class _Counts:
    """Count the images that are right, with files in place of the layer, and with the layer."""

    def __init__(self) -> None:
        self.images = self.bare = self.full = 0

    def add(self, test: _Test, images: Tensor, targets: Tensor) -> None:
        self.images += len(images)
        self.bare += test.right(test.bare, images, targets)
        self.full += test.right(test.run.model, images, targets)

    def rows(self, rate: float, header: float | None = None) -> list[Row]:
        return [
            Row("real file", self.bare / self.images, self.images, rate, header),
            Row("real file, layer kept", self.full / self.images, self.images, rate, header),
        ]


class FileSizes:
    """Sizes of files, and of their headers."""

    def __init__(self) -> None:
        self.files = self.bytes = self.headers = 0

    def add(self, file: bytes) -> None:
        self.files, self.bytes, self.headers = self.files + 1, self.bytes + len(file), self.headers + header_bytes(file)

    def through(self, image: Tensor, encoder: Encoder) -> Tensor:
        """Return an image (3, H, W) in [0, 1] as it comes out of a JPEG file, whose size counts."""
        file = encoder.encode(v2.to_pil_image((image * 255).round().to(torch.uint8)))
        self.add(file)
        with Image.open(io.BytesIO(file)) as there:
            decoded: Tensor = v2.pil_to_tensor(there).float() / 255
        return decoded

    def rates(self, pixels: int) -> tuple[float, float]:
        """Bits per pixel of all, and of the headers, for images of that many pixels."""
        return 8 * self.bytes / (self.files * pixels), 8 * self.headers / (self.files * pixels)


def header_bytes(file: bytes) -> int:
    """Return the bytes of a JPEG file before its first entropy-coded data (ITU-T T.81, B.1.1.4: segments have a length)."""
    place = 2
    while file[place + 1] != 0xDA:  # start of scan
        place += 2 + int.from_bytes(file[place + 2 : place + 4], "big")
    return place + 2 + int.from_bytes(file[place + 2 : place + 4], "big")


def _layer(model: PrependedModel) -> JpegLayer:
    assert isinstance(model.layer, JpegLayer), "of_run takes no other"
    return model.layer


def _pixels(data: "Data") -> int:
    """Pixels of one image as the model sees it."""
    return data.config.pixels**2


def _pairs(test: "Data", files: "Data") -> list[tuple[int, int]] | None:
    """Of each file that is named as a test image is, but for its suffix, the indices of both; None where no names can tell."""
    keys = [test.test.key(i) for i in range(len(test.test))]
    if test.config.kind != "folder" and not all("/" in key for key in keys):
        return None
    stems: dict[str, int] = {}
    for i, key in reversed(list(enumerate(keys))):
        stems[_stem(key)] = i
    stems |= {key: i for i, key in enumerate(keys)}  # a.png and a.bmp become a.png.jpg and a.bmp.jpg, or keep their names
    pairs = {}
    for file in range(len(files.test)):
        key = files.test.key(file)
        if (image := stems.get(key, stems.get(_stem(key)))) is not None and image not in pairs:
            pairs[image] = file
    return sorted(pairs.items())


def _stem(key: str) -> str:
    return str(PurePosixPath(key).with_suffix(""))


def _sameness(
    chosen: list[tuple[int, int]] | None, pairs: list[tuple[int, int]] | None, test: "Data", files: "Data"
) -> dict[str, Any]:
    """Return whether files are a run's test images; see :func:`file_report`."""
    if chosen is None or pairs is None:
        words = "Whether these are the run's own test images cannot be told, as those have no names in class folders."
        return {"same": None, "missing": None, "foreign": None, "unlike": None, "images": words}
    missing, foreign = len(test.test) - len(pairs), len(files.test) - len(pairs)
    if not pairs:
        words = f"None of the {foreign} files is one of the run's {missing} test images, by class and name: these are others."
        return {"same": False, "missing": missing, "foreign": foreign, "unlike": 0, "images": words}
    unlike, said = _unlike(chosen, test, files), []
    if missing:
        said.append(f"{missing} of the run's {len(test.test)} test images have no file here")
    if foreign:
        said.append(f"{foreign} of the {len(files.test)} files are none of the run's test images, by class and name")
    if said:
        said = [f"{' and '.join(said)}: left out of all rows."]
    same = unlike <= max(1, len(chosen) // 4)
    if not same:
        said.append(f"{unlike} of {len(chosen)} files do not look like the test image of their name: these are other images.")
    return {"same": same, "missing": missing, "foreign": foreign, "unlike": unlike, "images": " ".join(said) or None}


def _unlike(pairs: list[tuple[int, int]], test: "Data", files: "Data") -> int:
    """Return how many files look less like the test image of their name than like that of the next."""
    unlike, images = 0, [image for image, _ in pairs]
    for (image, file), other in zip(pairs, [*images[1:], *images[:1]], strict=True):
        there, own, next_one = files.test[file], test.test[image], test.test[other]
        if image != other and there is not None and own is not None and next_one is not None:
            unlike += bool((there[0] - own[0]).abs().mean() > (there[0] - next_one[0]).abs().mean())
    return unlike


def _stored(config: DataConfig, chosen: list[int], own: tuple[Tensor, Tensor]) -> tuple[float, dict[str, Any]]:
    """Bits per pixel of image files as they are stored, and what they are; see :func:`file_report`."""
    _, files, _ = open_test(config)
    mine = [[int(entry) for entry in table.flatten().tolist()] for table in own]
    tables, formats, subsampling = set(), set(), set()
    size = pixels = 0
    for i in chosen:
        image = files.read(i)
        pixels += image.width * image.height
        size += files.size(i)
        formats.add(str(image.format))
        if isinstance(image, JpegImagePlugin.JpegImageFile):
            tables.add(_tables_of(image))
            if image.mode != "L":
                subsampling.add(_SUBSAMPLING.get(JpegImagePlugin.get_sampling(image), "another subsampling"))
    luma, chroma = mine
    # A grey file has the luma table alone.
    kinds = {"own" if json.loads(each) in ([luma, chroma, chroma], [luma]) else "other" for each in tables}
    return 8 * size / pixels, {
        "tables": None if not kinds else "mixed" if len(kinds) > 1 else kinds.pop(),
        "digest": hashlib.sha256("".join(sorted(tables)).encode()).hexdigest()[:16],
        "formats": sorted(formats),
        "subsampling": sorted(subsampling),
    }


def _tables_of(image: JpegImagePlugin.JpegImageFile) -> str:
    """The tables of a file as text; in the order of its components, where these are luma and chroma."""
    with suppress(UsageError):
        return json.dumps(tables_by_component(image))
    return json.dumps([[list(table)] for table in image.quantization.values()])
