"""Any network on files of any folder of photos: what default JPEG of each quality costs it, and what files for readers cost."""

import hashlib
import itertools
import json
import math
import os
import unicodedata
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from timm.data.imagenet_info import ImageNetInfo

from jpegdl.codec.encoder import Encoder, encoder_version
from jpegdl.codec.learned import learned_tables
from jpegdl.codec.levels import Array
from jpegdl.codec.read_image import DecodedImage, open_photo
from jpegdl.codec.readers import NotFinite, PhotoReader, check_together, names_in, open_reader
from jpegdl.codec.rounds import check_gradients
from jpegdl.codec.shaping import batches, tried
from jpegdl.codec.trials import LOOKS, Shape, Trials, decoded, make_trials, seen_bytes
from jpegdl.data.sources.listing import Passed, in_folder, natural_key, warn_passed
from jpegdl.errors import UsageError, some_of, warn_of_data
from jpegdl.files import digest_of_file, replacing, write_csv, write_json
from jpegdl.heatmaps import CURVES, as_drawn
from jpegdl.random import evenly
from jpegdl.runs.pieces import Pieces
from jpegdl.runs.progress import Progress
from jpegdl.settings import Count, NotNegative, Quality, Seed, check_fields
from jpegdl.statistics import paired_interval, wilson
from jpegdl.tables import standard_tables

_GROUP = 8  # photos at a time


@dataclass
class PhotoRateConfig:
    """How to measure what JPEG files of photos cost a network.

    Args:
        model: the network, named as a reader is: see :func:`jpegdl.codec.open_reader`.
        photos: folder of photos. If it has one folder for each class of the model, these are the labels.
        reader: network to make files for, beside default JPEG, or several separated by commas; None for none.
        judge: other networks that read all files too, separated by commas.
        effort: how files for the reader are made; see :class:`jpegdl.codec.Shape`.
        tables: more tables for the reader to choose from at effort 2 or 3: a file, or standard:Q; None for none.
        mus: values of mu to make them with.
        robust: see :class:`jpegdl.codec.Shape`.
        images: how many photos, evenly over the folder; null for all.
        images_seed: seed that draws them, if not all are taken.
        qualities: qualities of default JPEG, 1 to 100.
        subsampling: its chroma subsampling.
        device: auto (a GPU where there is one), cpu, cuda, ...
    """

    model: str
    photos: str
    reader: str | None = None
    judge: str | None = None
    effort: Literal[1, 2, 3] = 1
    tables: str | None = None
    mus: list[NotNegative] = field(default_factory=lambda: [4.0, 2.0, 1.0, 0.5, 0.25, 0.1])
    robust: bool = True
    images: Count | None = 500
    images_seed: Seed = 0
    qualities: list[Quality] = field(default_factory=lambda: [10, 20, 30, 40, 50, 65, 80, 90])
    subsampling: Literal["4:4:4", "4:2:0"] = "4:2:0"
    device: str = "auto"


@dataclass
class PhotoRate:
    """What it found.

    Attributes:
        rows: each with ``files`` (default or the readers' names), ``setting`` (quality or mu), ``read_by``,
            ``bits_per_pixel`` of whole files, ``megabytes`` (10^6 bytes, of the whole folder), ``agreement`` (share of first
            answers that stay, None of features), ``distance`` (mean, nats), ``accuracy`` (0 to 1), ``points`` against the
            originals, in percent, with a 95 % interval over photos, and ``points_of``: accuracy, or agreement where the folders
            are not this network's classes.
        lines: the same in words, one for each quality.
        images, total: photos that were read, and how many there are.
        labelled: whether the folders are the model's classes.
        bad: photos that cannot be read, and why.
    """

    rows: list[dict[str, Any]]
    lines: list[str]
    images: int
    total: int
    labelled: bool
    bad: list[str]


def rate_photos(
    config: PhotoRateConfig, progress: Progress | None = None, keep: str | os.PathLike[str] | None = None
) -> PhotoRate:
    """Measure what JPEG files of photos cost a network: default JPEG, and files for readers. Nothing is trained.

    Args:
        config: what to measure.
        progress: is told how many photos are done.
        keep: folder for what is found, a few photos at a time, until all is: the same call goes on where it was interrupted,
            and measures anew only what has changed since. None keeps nothing.

    Raises:
        UsageError: settings that cannot be used, no photos, or a network that cannot be opened.
    """
    check_fields(config)
    if not config.qualities:
        raise UsageError("qualities must be one or more, from 1 to 100, got none")
    if not config.mus:
        raise UsageError("mus must be one or more numbers, got none")
    if config.tables is not None and (config.reader is None or config.effort < 2):
        raise UsageError("tables are for a reader to choose from: they need --reader and effort 2 or 3")
    usual = PhotoRateConfig(config.model, config.photos)
    idle = [name for name in ("effort", "mus", "robust") if getattr(config, name) != getattr(usual, name)]
    if config.reader is None and idle:
        raise UsageError(f"{', '.join(idle)} {'needs' if len(idle) == 1 else 'need'} --reader, for which files are made")
    folder, files = photos_in(config.photos)
    model = open_reader(config.model, config.device)
    judges, readers = (
        [] if given is None else [open_reader(name, config.device) for name in names_in(given, setting)]
        for setting, given in (("judge", config.judge), ("reader", config.reader))
    )
    names = [network.name for network in (model, *judges)]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"two networks that read files are called {twice}: drop one, or give its weights another name")
    if readers:
        check_together(readers)
        check_gradients(readers, Shape(effort=config.effort))
    loose, named = [parts[0] for parts in files if len(parts) < 2], {parts[0] for parts in files if len(parts) > 1}
    folders, known = [] if loose else sorted(named), set(_names(model) or ())
    classes = _targets(folders, model)
    strange = sorted(name for name in named if _composed(name) not in known)
    if not classes and len(strange) < len(named):
        odd = some_of([*loose, *strange], 3)
        warn_of_data(f"no labels are used, as {odd} in {folder} stand for no class of {model.name}")
    chosen = evenly([classes.get(parts[0], 0) for parts in files], config.images, config.images_seed)
    targets = [_targets_of_judge(folders, judge, model) if classes else {} for judge in judges]
    measured = _Measured([model, *judges], readers, config, [classes, *targets])
    pieces = None if keep is None else Pieces(Path(keep).expanduser(), measured.made_of(folder))
    alone = nullcontext() if pieces is None else pieces.claimed(f"{pieces.folder} is being written to")
    with ThreadPoolExecutor(max(1, torch.get_num_threads())) as pool, alone:
        for start in range(0, len(chosen), _GROUP):
            measured.add(folder, [files[index] for index in chosen[start : start + _GROUP]], pool, pieces)
            if progress is not None:
                progress("photos", min(start + _GROUP, len(chosen)), len(chosen))
    if not measured.pixels:
        raise UsageError(f"none of the photos in {folder} can be read: {measured.bad[0]}")
    rows = measured.rows(len(files))
    return PhotoRate(rows, _in_words(rows, model, readers), len(measured.pixels), len(files), bool(classes), measured.bad)


def photos_in(photos: str) -> tuple[Path, list[tuple[str, ...]]]:
    """Return a folder of photos, and the parts of each one's path below it, in the order that people count in.

    Raises:
        UsageError: there is no such folder, or no photo in it.
    """
    folder = Path(photos).expanduser()
    if not folder.is_dir():
        raise UsageError(f"no folder {folder} of photos")
    passed = Passed()
    files = [file.parts for file in in_folder(folder, passed) if file.parts[-1]]
    files.sort(key=lambda parts: natural_key("/".join(parts)))
    passed.warn_circles()
    warn_passed(passed.suffixes, folder)
    if not files:
        raise UsageError(f"folder {folder} holds no image file")
    return folder, files


def _targets(folders: Sequence[str], model: PhotoReader) -> dict[str, int]:
    """Return the logit of each folder's name; nothing if they are not the model's classes.

    Raises:
        UsageError: two classes have one of these names.
    """
    names, wanted = _names(model), {folder: _composed(folder) for folder in folders}
    if names is None or not folders or not set(wanted.values()) <= set(names):
        return {}
    if twice := next((name for name in wanted.values() if names.count(name) > 1), None):
        raise UsageError(f"{model.name} has two classes called {twice}: rename that folder, and no labels are used")
    return {folder: names.index(name) for folder, name in wanted.items()}


def _composed(name: str) -> str:
    """The name of a folder in the Unicode form that names of classes have; that of a Mac is another."""
    return unicodedata.normalize("NFC", name)


def _targets_of_judge(folders: Sequence[str], judge: PhotoReader, model: PhotoReader) -> dict[str, int]:
    """Return the logits of another network, in its own order. Without names, it is taken to have the model's, if as many."""
    if _names(judge) is None and judge.outputs == model.outputs and not judge.features:
        return _targets(folders, model)
    return _targets(folders, judge)


def _names(model: PhotoReader) -> list[str] | None:
    """Return the classes of a network, in the order of its logits, if they are known."""
    if model.features:
        return None
    if model.classes is None and model.outputs == 1000:
        names: list[str] = ImageNetInfo().label_names()  # type: ignore[no-untyped-call]
        return names
    return model.classes


def _content(path: Path) -> str:
    """Return a digest of a file's content, as the time stamp does not tell; nothing if it cannot be read."""
    with suppress(OSError):
        return digest_of_file(path)
    return ""


class _Measured:
    """Photo by photo, what networks say of its files."""

    def __init__(
        self,
        networks: list[PhotoReader],
        readers: list[PhotoReader],
        config: PhotoRateConfig,
        classes: list[dict[str, int]],
    ) -> None:
        self.networks, self.readers, self.config = networks, readers, config
        self.classes = classes  # of each network, the logit of each folder's name; empty if photos have no labels
        self.encoders = [
            Encoder(*standard_tables(quality), None, config.subsampling) for quality in dict.fromkeys(config.qualities)
        ]
        self.settings: list[tuple[str, float]] = [("default", quality) for quality in dict.fromkeys(config.qualities)]
        self.shapes: list[Shape] = []
        if readers:
            name = ", ".join(reader.name for reader in readers)
            mus = list(dict.fromkeys(config.mus))
            self.settings += [(f"for {name}, effort {config.effort}", mu) for mu in mus]
            learned = None if config.tables is None else learned_tables(None, config.tables)
            tables = None if learned is None else (learned.luma, learned.chroma)
            plain = Shape(effort=config.effort, robust=config.robust, subsampling=config.subsampling, learned=tables)
            self.shapes = [replace(plain, mu=mu) for mu in mus]
        self.pixels: list[int] = []
        self.sizes: list[list[int]] = []  # of each photo, bytes of each file
        self.said: list[list[Array]] = []  # of each photo, of each network (files + 1, 3): distance, kept, right
        self.bad: list[str] = []

    def made_of(self, folder: Path) -> dict[str, Any]:
        """Return what all that is found depends on, besides the photos."""
        settings = {
            name: value
            for name, value in asdict(self.config).items()
            if name not in ("images", "images_seed", "device", "tables")  # whose numbers the shape records
        }
        every = (*self.networks, *self.readers)
        networks = [{**network.record(), **({"code": network.code} if network.code else {})} for network in every]
        shape = {"shape": self.shapes[0].record()} if self.shapes else {}
        return {**settings, "photos": str(folder.resolve()), "networks": networks, "encoder": encoder_version(), **shape}

    def add(
        self, folder: Path, several: Sequence[tuple[str, ...]], pool: ThreadPoolExecutor, pieces: Pieces | None = None
    ) -> None:
        """Let networks read the files of some photos, or take what they said before."""
        name = ""
        of = {"of": [["/".join(parts), _content(folder.joinpath(*parts)), self._targets(parts)] for parts in several]}
        if pieces is not None:
            name = hashlib.sha256(json.dumps(of["of"]).encode()).hexdigest()[:24]
        found = None if pieces is None else pieces.find(name, of, needed=("pixels", "sizes", "said", "bad"))
        if found is None:
            found = self._measured(folder, several, pool)
            if pieces is not None:
                pieces.keep(name, of, found)
        self.pixels += found["pixels"]
        self.sizes += found["sizes"]
        self.said += [[np.array(said) for said in photo] for photo in found["said"]]
        self.bad += found["bad"]

    def _targets(self, parts: tuple[str, ...]) -> list[int]:
        """Return, for each network, the logit of a photo's class; -1 if it has none."""
        return [classes[parts[0]] if classes else -1 for classes in self.classes]

    def _measured(self, folder: Path, several: Sequence[tuple[str, ...]], pool: ThreadPoolExecutor) -> dict[str, Any]:
        """What networks say of the files of some photos; one on which an answer is not finite is found alone, and named."""
        try:
            return self._said_of(folder, several, pool)
        except NotFinite as error:
            if len(several) == 1:
                return {"pixels": [], "sizes": [], "said": [], "bad": [f"{folder.joinpath(*several[0])}: {error}"]}
            parts = [self._measured(folder, [one], pool) for one in several]
            return {key: [each for part in parts for each in part[key]] for key in parts[0]}

    def _said_of(self, folder: Path, several: Sequence[tuple[str, ...]], pool: ThreadPoolExecutor) -> dict[str, Any]:
        pictures, targets, bad = [], [], []
        for parts in several:
            try:
                pictures.append(open_photo(folder.joinpath(*parts)))
            except UsageError as error:
                bad.append(str(error))
                continue
            targets.append(self._targets(parts))
        contents = [[encoder.encode(picture.image) for encoder in self.encoders] for picture in pictures]
        for found, more in zip(contents, self._for_readers(pictures, pool), strict=True):
            found += more
        said = [
            [self._read(*of, picture, files).tolist() for of in zip(self.networks, each, strict=True)]
            for picture, files, each in zip(pictures, contents, targets, strict=True)
        ]
        pixels = [picture.image.width * picture.image.height for picture in pictures]
        sizes = [[len(content) for content in files] for files in contents]
        return {"pixels": pixels, "sizes": sizes, "said": said, "bad": bad}

    def _for_readers(self, pictures: Sequence[DecodedImage], pool: ThreadPoolExecutor) -> Iterator[list[bytes]]:
        if not self.shapes:
            yield from ([] for _ in pictures)
            return

        def made(shape: Shape) -> list[Trials]:
            found = []
            for few in batches(pictures):
                trials = [pool.submit(make_trials, picture, self.readers, shape, bare=True) for picture in few]
                several = [each.result() for each in trials]
                tried(several, self.readers, shape, pool)
                found += several
            return found

        if self.shapes[0].effort < 3:
            yield from ([each.files[each.best(shape, shape.mu)] for shape in self.shapes] for each in made(self.shapes[0]))
            return
        found: list[list[bytes]] = [[] for _ in pictures]
        for shape in self.shapes:
            for place, each in enumerate(made(shape)):
                found[place].append(each.files[each.best(shape, shape.mu)])
        yield from found

    @torch.no_grad()
    def _read(self, network: PhotoReader, target: int, picture: DecodedImage, contents: Sequence[bytes]) -> Array:
        pixels = torch.from_numpy(np.array(picture.image.convert("RGB"))).permute(2, 0, 1)
        views = torch.stack(
            [seen_bytes(network, each, picture.note) for each in itertools.chain([pixels], map(decoded, contents))]
        )
        said = torch.cat([network.answers(part.float() / 255) for part in torch.split(views, LOOKS)])
        own = said[:1].expand_as(said)
        first = said.argmax(1)
        parts = network.distance(own, said), (first == first[0]).float(), (first == target).float()
        return torch.stack(parts, 1).numpy()

    def rows(self, total: int) -> list[dict[str, Any]]:
        """Of each kind of file, for each network."""
        said: Array = np.array(self.said)
        sizes, pixels = np.array(self.sizes), np.array(self.pixels)
        found = []
        for number, network in enumerate(self.networks):
            for place, (files, setting) in enumerate(self.settings):
                distance, kept, right = said[:, number, place + 1].T
                original = said[:, number, 0, 2]
                labelled = bool(self.classes[number])
                change = right - original if labelled else kept - 1
                if labelled:
                    low, high = paired_interval(int((change < 0).sum()), int((change > 0).sum()), len(change))
                else:
                    low, high = (end - 1 for end in wilson(float(kept.sum()), len(kept)))
                points = None if network.features else 100 * float(change.mean())
                found.append(
                    {
                        "files": files,
                        "setting": setting,
                        "read_by": network.name,
                        "bits_per_pixel": float(8 * sizes[:, place].sum() / pixels.sum()),
                        "megabytes": float(sizes[:, place].mean() * total / 1e6),
                        "agreement": None if network.features else float(kept.mean()),
                        "distance": float(distance.mean()),
                        "accuracy": float(right.mean()) if labelled else None,
                        "points": points,
                        "points_of": None if points is None else "accuracy" if labelled else "agreement",
                        "points_low": None if points is None else 100 * low,
                        "points_high": None if points is None else 100 * high,
                    }
                )
        return found


def _in_words(rows: list[dict[str, Any]], model: PhotoReader, readers: Sequence[PhotoReader]) -> list[str]:
    """What each quality costs, and how small the readers' files of the same distance are."""
    own = [row for row in rows if row["read_by"] == model.name]
    chosen = sorted((row for row in own if row["files"] != "default"), key=lambda row: -row["distance"])
    lines = []
    for row in own:
        if row["files"] != "default":
            continue
        line = f"store at quality {row['setting']}: "
        if row["points"] is not None:
            interval = f"[{row['points_low']:.1f}, {row['points_high']:.1f}]"
            line += f"{row['points']:+.1f} points {interval}, agreement {100 * row['agreement']:.1f} %, "
        line += f"distance {row['distance']:.3f}, {row['megabytes']:.2f} MB for your folder"
        if readers:
            size = _size_at(row["distance"], chosen)
            way = "larger" if row["distance"] > chosen[0]["distance"] else "smaller"  # mu, and with it the distance
            line += "; with --reader: " + (f"not known, add a {way} mu to --mus" if size is None else f"{size:.2f} MB")
        lines.append(line)
    return lines


def _size_at(distance: float, chosen: Sequence[dict[str, Any]]) -> float | None:
    """MB of the readers' files of that mean distance, between those that were made; None beyond them."""
    distances, sizes = [row["distance"] for row in chosen], [row["megabytes"] for row in chosen]
    for (far, small), (near, large) in zip(
        zip(distances, sizes, strict=True), list(zip(distances, sizes, strict=True))[1:], strict=False
    ):
        if near <= distance <= far:
            share = (far - distance) / (far - near) if far > near else 0.0
            return math.exp(math.log(small) + share * (math.log(large) - math.log(small)))
    return None


def write_photo_rate(found: PhotoRate, config: PhotoRateConfig, folder: Path) -> list[Path]:
    """Write ``rate.csv``, ``.json`` and ``.png`` to a folder, and return their paths."""
    files = [folder / name for name in ("rate.csv", "rate.json", "rate.png")]
    write_csv(files[0], found.rows)
    write_json(files[1], {"settings": asdict(config), "encoder": encoder_version(), **asdict(found)})
    with replacing(files[2]) as new:
        photo_rate_figure(found).savefig(new, format="png", dpi=110)
    return files


def photo_rate_figure(found: PhotoRate) -> Figure:
    """Draw the points that are lost, or the distances of features, against bits per pixel, a curve for each kind of file and
    network."""
    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    axes = figure.subplots()
    key = "points" if all(row["points"] is not None for row in found.rows) else "distance"
    curves: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in found.rows:
        curves.setdefault((row["files"], row["read_by"]), []).append(row)
    kinds = sorted({row["points_of"] for row in found.rows} - {None})
    for number, ((files, read_by), rows) in enumerate(curves.items()):
        of = f": {rows[0]['points_of']}" if key == "points" and len(kinds) > 1 else ""
        rows = sorted(rows, key=lambda row: row["bits_per_pixel"])
        line = "--" if files == "default" else "-"
        rates, values = [row["bits_per_pixel"] for row in rows], [row[key] for row in rows]
        colour, label = CURVES[number % len(CURVES)], as_drawn(f"{files}, read by {read_by}{of}")
        axes.plot(rates, values, line, marker="o", markersize=3, color=colour, label=label)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.set_xlabel("bits per pixel of the files")
    axes.set_ylabel(f"points of {' or of '.join(kinds)}, against the originals" if key == "points" else "distance of features")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=7, frameon=False)
    return figure
