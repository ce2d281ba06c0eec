"""A folder of images to a folder of JPEG files."""

import errno
import hashlib
import io
import itertools
import json
import os
import stat
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from PIL import Image
from torchvision.transforms.v2 import functional as v2

from jpegdl import functional as F
from jpegdl.codec.config import MANIFEST, PICTURE, CompressConfig, check_compress
from jpegdl.codec.encoder import Encoder
from jpegdl.codec.folder_walk import SUFFIX, Entry, walk
from jpegdl.codec.learned import Carried, Learned, as_json, carried, file_tables, learned_tables
from jpegdl.codec.out_folder import Manifest, alone_in, writing
from jpegdl.codec.read_image import BAD, DecodedImage, Other, open_picture, why
from jpegdl.codec.reader_stage import NEEDED, ReaderStage, side_by_side, summary_of
from jpegdl.data.sources.listing import Passed, is_archive, is_image, passed_in_words
from jpegdl.errors import UsageError
from jpegdl.files import printable, remove_strays, replacing, write_text
from jpegdl.opener import BadImage

SOURCES = ".compress.sources"  # a line for each file that was made: what it was made of
SAMPLES = 8  # images that tell how much of a layer the files carry
LONGEST = 255  # bytes of a name that file systems take
TASK = 16  # files that a thread takes at a time: handing them over one by one costs as much as encoding
WINDOW = 2  # tasks under way or waiting, for each thread
_SAMPLE_SIDE = 512  # pixels of each that are looked at, in the middle
_SETTINGS = ("subsampling", "optimize", "progressive", "exact")
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class CompressStanding:
    """Progress on a folder.

    Attributes:
        done, total: files looked at, and how many there are.
        images_per_second: since the start, of those that were encoded.
        bad: a file that was just refused, and why, on one line; else None.
    """

    done: int
    total: int
    images_per_second: float
    bad: str | None = None


@dataclass
class _Found:
    written: int = 0
    skipped: int = 0
    others: Passed = field(default_factory=Passed)
    bytes: int = 0
    before: int = 0
    pixels: int = 0
    bad: list[dict[str, str]] = field(default_factory=list)


def compress_folder(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    config: CompressConfig,
    progress: Callable[[CompressStanding], None] | None = None,
) -> dict[str, Any]:
    """Write every image in a folder, and in those within it, as a JPEG file with learned tables.

    The tree stays as it is, each image under its own name with the suffix .jpg. Every file is there whole or not at all, with
    the time stamp of its original. ``compress.json`` says which settings the files were made with, and ``.compress.sources``
    what each was made of. The same call goes on where it was interrupted, and makes only those files again whose original has
    changed. Images that cannot be compressed are named, and all others done. Files that neither are nor claim to be images are
    passed over.

    Args:
        source: folder of images of any format that Pillow reads as photographs.
        target: folder to write to, outside of ``source``: empty, or written with the same settings before.
        config: tables, and how to encode.
        progress: called with how far it is.

    Returns:
        - ``images``: how many there are: written, skipped and bad. ``written``. ``skipped``: there already. ``bad``: a list of
          ``file`` and ``why``.
        - ``others``: files that are not images, without those that systems leave in folders. ``others_in_words``: their number
          by suffix.
        - ``stale``: files made by earlier calls whose image is not in ``source`` any more.
        - ``bytes`` and ``pixels`` of the files written now, ``bytes_before`` of their originals, and ``bits_per_pixel``; None
          if none was written.
        - ``seconds``, ``images_per_second``.
        - ``tables``: luma and chroma as in the files; None for readers. ``subsampling``: of chroma.
        - ``carried``: how much of the layer the files carry, measured on some of the images, with ``words``; None if nothing
          can be lost.
        - ``mu`` and ``readers``: of files for readers; see :class:`jpegdl.codec.reader_stage.ReaderSummary`.

    Raises:
        UsageError: settings cannot be used; there is no such folder, or no image in it; the target is inside the source, in
            use, or of other settings; or nothing more can be written.
    """
    check_compress(config)
    root, out = _places(Path(source).expanduser(), Path(target).expanduser())
    stage = None if config.reader is None else ReaderStage(config)
    learned = encoder = None
    if stage is None:
        learned = learned_tables(config.model, config.tables)
        encoder = _encoder(config, learned, file_tables(learned.luma, learned.chroma))
    Image.init()  # before threads do
    with alone_in(out), warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # from twice that size on, Pillow refuses
        made = _Tables(encoder, learned) if encoder is not None and learned is not None else stage
        assert made is not None
        try:
            return _Work(root, out, config, made, progress or (lambda standing: None)).run()
        finally:
            if stage is not None:
                stage.close()


@dataclass(frozen=True)
class _Tables:
    """Makes all files with one pair of tables."""

    encoder: Encoder
    learned: Learned
    task = TASK

    @property
    def threads(self) -> int:
        """How many images to work on at the same time by default."""
        return _cores()

    @property
    def source(self) -> str:
        """Where the tables come from, in words."""
        return self.learned.source

    @property
    def subsampling(self) -> str:
        """Of chroma."""
        return self.encoder.subsampling

    @property
    def tables(self) -> dict[str, Any]:
        """Luma and chroma, as in the files."""
        return as_json(self.encoder.luma, self.encoder.chroma)

    def settings(self) -> dict[str, Any]:
        """Return what the files depend on."""
        encoder = self.encoder
        limits = None if not encoder.exact or encoder.limits is None else [limit.tolist() for limit in encoder.limits]
        return {"tables": self.tables, "limits": limits, **{name: getattr(encoder, name) for name in _SETTINGS}}

    def room_for(self, stream: IO[bytes]) -> AbstractContextManager[None]:
        """Do not wait: files with given tables take little memory."""
        return nullcontext()

    def encode(self, picture: DecodedImage) -> tuple[bytes, None]:
        """Return the file of an image.

        Raises:
            BadImage: the image, or what comes with it, is too large for a JPEG file.
        """
        try:
            return self.encoder.encode(picture.image, picture.exif, picture.icc), None
        except ValueError as error:
            raise BadImage(str(error)) from error


def _encoder(config: CompressConfig, learned: Learned, tables: tuple[torch.Tensor, torch.Tensor]) -> Encoder:
    cap = F.largest_level(learned.bits)
    return Encoder(
        *tables,
        limits=None if cap is None else (cap * learned.luma, cap * learned.chroma),
        subsampling=config.subsampling or learned.subsampling or "4:4:4",
        optimize=config.optimize,
        progressive=config.progressive,
        exact=config.exact,
    )


def _places(source: Path, target: Path) -> tuple[Path, Path]:
    if source.is_file() and (is_archive(source.name) or source.suffix.lower() == ".tar"):
        raise UsageError(f"{source} is an archive: unpack it, and give the folder")
    if source.is_file():
        raise UsageError(f"{source} is a file; give its folder")
    if not source.is_dir():
        raise UsageError(f"no folder {source} to compress")
    if target.exists() and not target.is_dir():
        raise UsageError(f"{target} is a file; give a folder to write to")
    root, out = source.resolve(), target.resolve()
    if out.is_relative_to(root) or root.is_relative_to(out):
        raise UsageError(f"{target} and {source} overlap, so images could be overwritten; give a folder beside it")
    return root, out


class _Work:
    def __init__(
        self,
        root: Path,
        out: Path,
        config: CompressConfig,
        made: "_Tables | ReaderStage",
        progress: Callable[[CompressStanding], None],
    ) -> None:
        self.root, self.out, self.config, self.maker = root, out, config, made
        self.progress, self.found = progress, _Found()
        self.done = self.total = self.named = 0  # files; and those of them that are named as images are
        self.names: dict[str, Path] = {}  # of files for readers, what each is made of
        self.over = False  # for threads that are in the middle of a task
        self.manifest = Manifest(out, made.source, {"source": str(root), **made.settings()})
        self.sources = _Sources(out / SOURCES)
        self.left = self.sources.names()  # of files that are there, those that no image has stood for yet
        self.begin = time.monotonic()

    def run(self) -> dict[str, Any]:
        one_case = (self.out / MANIFEST.upper()).exists()

        def entries() -> Iterator[Entry]:
            return walk(self.root, self.out, one_case=one_case)

        for entry in entries():
            self.total += 1
            self.named += entry.refused is None and is_image(entry.name)
        lost, mu = None, None
        if isinstance(self.maker, ReaderStage):
            mu = self.maker.settle(lambda count: self._some(entries(), count), self.manifest, self.named or self.total)
        else:
            lost = self._carried(self.maker, entries())
        self.begin = time.monotonic()
        try:
            self._encode_all(entries())
        finally:
            self.sources.close()
        count, seconds = self.found, time.monotonic() - self.begin
        images = count.written + count.skipped + len(count.bad)
        others = count.others.suffixes
        if not images:
            self.manifest.forget()
            raise UsageError(f"no images in {self.root}, {passed_in_words(others) if others else 'which holds no file'}")
        return {
            "images": images,
            "written": count.written,
            "skipped": count.skipped,
            "bad": count.bad,
            "others": others.total(),
            "others_in_words": passed_in_words(others) if others else "",
            "subsampling": self.maker.subsampling,
            "stale": sum((self.out / name.lstrip("/")).is_file() for name in self.left),
            "bytes": count.bytes,
            "bytes_before": count.before,
            "pixels": count.pixels,
            "bits_per_pixel": 8 * count.bytes / count.pixels if count.pixels else None,
            "seconds": seconds,
            "images_per_second": count.written / seconds if seconds else 0.0,
            "tables": self.maker.tables,
            "mu": mu,
            "readers": None if mu is None else self._of_readers(),
            "carried": lost and {**vars(lost), "faithful": lost.faithful, "words": str(lost)},
        }

    def _some(self, entries: Iterator[Entry], count: int) -> Iterator[DecodedImage]:
        """That many photos, from all over the folder; those that cannot be read are passed over.

        Of files named as images are, where there are any: with a note before each, every second file would be none.
        """
        named = (entry for entry in entries if entry.refused is None and (is_image(entry.name) or not self.named))
        for entry in itertools.islice(named, 0, None, max(1, (self.named or self.total) // count)):
            if entry.path.is_file():
                with suppress(*BAD, Other), entry.path.open("rb") as stream:
                    yield open_picture(stream, entry.name)

    def _of_readers(self) -> dict[str, Any]:
        """What files for readers came to; each of them is noted in the manifest too."""
        assert isinstance(self.maker, ReaderStage)
        places = {name.lstrip("/").replace("//", "/"): path for name, path in self.names.items()}
        known = self.sources.made(self.names)
        made = {name.lstrip("/").replace("//", "/"): one for name, one in known.items()}
        found = asdict(summary_of(made, self.maker))
        self.manifest.note(found=found, files=made)
        if found["worst"]:
            pairs = [(places[one["file"]], self.out / one["file"], one) for one in found["worst"]]
            with writing(self.out):
                write_text(self.out / PICTURE, side_by_side(pairs))
        return found

    def _carried(self, by: "_Tables", entries: Iterator[Entry]) -> Carried | None:
        """Return what the files carry of the layer, on images from all over the folder."""
        learned, tables = by.learned, (by.encoder.luma, by.encoder.chroma)
        whole = torch.equal(learned.luma, tables[0]) and torch.equal(learned.chroma, tables[1])
        if whole and learned.bits is None:
            return None
        images: list[torch.Tensor] = []
        for picture in itertools.islice(self._some(entries, 2 * SAMPLES), SAMPLES):
            image = picture.image.convert("RGB")
            left, top = (max(0, (side - _SAMPLE_SIDE) // 2) for side in image.size)
            middle = image.crop((left, top, min(image.width, left + _SAMPLE_SIDE), min(image.height, top + _SAMPLE_SIDE)))
            images.append(v2.pil_to_tensor(middle)[None].float() / 255)
        if not images:
            return None
        return carried(learned, tables, images, subsampling=by.encoder.subsampling, capped=by.encoder.exact)

    # ------------------------------------------------------------------------------------------------------- encoding

    def _encode_all(self, entries: Iterator[Entry]) -> None:
        """Encode in threads, with no more images under way than these can take."""
        threads = self.config.threads or self.maker.threads
        pool, pending = ThreadPoolExecutor(threads), deque[Future[list[_Done]]]()
        try:
            for task in self._tasks(entries):
                pending.append(pool.submit(self._several, task))
                if len(pending) >= WINDOW * threads:
                    self._count(pending.popleft().result())
            while pending:
                self._count(pending.popleft().result())
        finally:
            self.over = True
            pool.shutdown(cancel_futures=True)

    def _tasks(self, entries: Iterator[Entry]) -> Iterator[list[tuple[Entry, "_Place"]]]:
        """Files of one folder after another with where they go, a few at a time; what is refused is counted at once."""
        task: list[tuple[Entry, _Place]] = []
        place: _Place | None = None
        for entry in entries:
            if entry.refused is None and (place is None or entry.folder != place.inner):
                place = _Place(self.out, entry.folder)
            if refused := entry.refused or (place and place.refused):
                self._count([_Done(entry, bad=refused)])
                continue
            assert place is not None
            if isinstance(self.maker, ReaderStage):
                self.names[f"{place.inner}/{entry.new}"] = entry.path
            task.append((entry, place))
            if len(task) == self.maker.task:
                yield task
                task = []
        if task:
            yield task

    def _several(self, task: list[tuple[Entry, "_Place"]]) -> list["_Done"]:
        return [self._one(entry, place) for entry, place in task if not self.over]

    def _one(self, entry: Entry, place: "_Place") -> "_Done":
        try:
            if not entry.regular and not stat.S_ISREG(entry.path.stat().st_mode):  # opening a pipe would wait for ever
                return _Done(entry, bad="is no regular file")
            with entry.path.open("rb") as stream:
                before = os.fstat(stream.fileno())
                seen = _seen(before)
                name = f"{place.inner}/{entry.new}"
                present = place.state(entry.new)
                there = (
                    entry.rivals is None
                    and present is not None
                    and present[0] == before.st_mtime_ns
                    and present[1] == self.sources.size(name)
                )
                if there and self.sources.untouched(name, seen):
                    return _Done(entry, skipped=True)
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
                if there and self.sources.same(name, digest):
                    return _Done(entry, skipped=True)
                stream.seek(0)
                with self.maker.room_for(stream):
                    picture = open_picture(stream, entry.name)
                    if entry.rivals is not None:
                        return _Done(entry, bad=entry.rivals)
                    content, made = self.maker.encode(picture)
                    pixels = picture.image.width * picture.image.height
                    del picture
        except Other:
            return _Done(entry)
        except BAD as error:
            if isinstance(error, OSError) and error.errno in _FULL:
                raise UsageError(f"{why(error)}: nothing more can be encoded; run the same command again to go on") from error
            return _Done(entry, bad=why(error))
        if len(os.fsencode(entry.new)) > LONGEST:
            return _Done(entry, bad=f"its name would be too long with {SUFFIX}: a name may have {LONGEST} bytes")
        slot = str(threading.get_ident())
        with writing(self.out):
            with replacing(place.made() / entry.new, make_folder=False, slot=slot) as new:
                new.write_bytes(content)
                os.utime(new, ns=(before.st_atime_ns, before.st_mtime_ns))
            # Only after the file is in its place: if the process ends in between, the file is made again.
            self.sources.keep(name, _Source(seen, digest, len(content), made))
        return _Done(entry, len(content), before.st_size, pixels)

    def _count(self, several: list["_Done"]) -> None:
        found = self.found
        for done in several:
            self.done += 1
            line, name = None, f"{done.entry.folder}/{done.entry.new}"
            if done.bad is not None or done.skipped or done.bytes:
                self.left.discard(name)
            if done.bad is not None:
                found.bad.append({"file": done.entry.inner, "why": done.bad})
                self.names.pop(name, None)  # a file of it is of what it was before
                line = printable(f"{done.entry.path}: {done.bad}")
            elif done.skipped:
                found.skipped += 1
            elif not done.bytes:
                found.others.add(done.entry.name)
            else:
                found.written += 1
                found.bytes += done.bytes
                found.before += done.before
                found.pixels += done.pixels
            seconds = time.monotonic() - self.begin
            self.progress(CompressStanding(self.done, self.total, found.written / seconds if seconds else 0.0, line))


class _Place:
    """A folder to write to, cleaned of what a killed process left, looked at once, and made with its first file.

    Attributes:
        inner: where it is below ``out``.
        refused: why nothing is to be written there; None if there is nothing against it.
    """

    def __init__(self, out: Path, inner: str) -> None:
        self.path, self.inner = out / inner, inner
        self.refused: str | None = None
        self._names: set[str] = set()
        self._there = self.path.is_dir()
        if self._there and self.path.resolve() != self.path:
            self.refused = f"{self.path} is a link: nothing is written through it"
        elif self._there:
            with writing(self.path):
                remove_strays(self.path)
                self._names = {entry.name for entry in self.path.iterdir()}

    def state(self, name: str) -> tuple[int, int] | None:
        """When a file was last changed, in ns, and its bytes; None if there was none at first, or an empty one, as a power cut
        leaves."""
        if name in self._names:
            with suppress(FileNotFoundError):
                there = (self.path / name).lstat()
                return (there.st_mtime_ns, there.st_size) if there.st_size else None
        return None

    def made(self) -> Path:
        """The folder, which is there now."""
        if not self._there:
            self.path.mkdir(parents=True, exist_ok=True)
            self._there = True
        return self.path


_Seen = tuple[int, int, int]


def _seen(status: os.stat_result) -> _Seen:
    """Return what a file system says of a file: size, time stamp and, which no program sets at will, when either was last
    changed."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


class _Source(NamedTuple):
    """What a file was made of: what there was to be seen of it, a digest of its content; the bytes of what was made, and
    what readers say of it."""

    seen: _Seen
    digest: str
    size: int
    made: dict[str, Any] | None = None


class _Sources:
    """What each file was made of, in a journal beside them: of each a line of JSON, of which the last counts.

    The time stamp alone does not tell: files out of many archives, and of reproducible builds, all have the same.
    """

    def __init__(self, file: Path) -> None:
        self._file, self._lock = file, threading.Lock()
        self._known: dict[str, _Source] = {}
        self._stream: io.FileIO | None = None
        with suppress(FileNotFoundError), file.open("rb") as stream:
            for line in stream:
                with suppress(ValueError, TypeError):  # half a line, left by a process that was killed
                    name, seen, digest, size, *made = json.loads(line)
                    if made and not set(made[0]) >= NEEDED:  # not ours: its file is made again
                        continue
                    self._known[name] = _Source(tuple(seen), digest, size, *made)

    def names(self) -> set[str]:
        """Return the names of all files that were made."""
        return set(self._known)

    def size(self, name: str) -> int | None:
        """The bytes of the file that was made; None where it is not known what it was made of."""
        return self._known[name].size if name in self._known else None

    def untouched(self, name: str, seen: _Seen) -> bool:
        """Return whether nobody can have changed the file that this one was made of."""
        return self._known[name].seen == seen

    def same(self, name: str, digest: str) -> bool:
        """Return whether a file was made of this content."""
        return self._known[name].digest == digest

    def keep(self, name: str, source: _Source) -> None:
        """Note what a file is made of."""
        line = json.dumps([name, *(source if source.made is not None else source[:-1])]).encode("ascii")
        with self._lock:
            if self._stream is None:
                self._stream = self._file.open("ab", buffering=0)
            self._stream.write(b"\n" + line)  # in one piece, and apart from what may be half a line
            self._known[name] = source

    def made(self, names: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Return what readers say of files, by name; of those that are there."""
        known = {name: self._known[name].made for name in names if name in self._known}
        return {name: made for name, made in known.items() if made is not None}

    def close(self) -> None:
        """Close the journal."""
        if self._stream is not None:
            self._stream.close()


@dataclass(frozen=True)
class _Done:
    """What became of a file; one that is no image has neither bytes nor a reason."""

    entry: Entry
    bytes: int = 0
    before: int = 0
    pixels: int = 0
    skipped: bool = False
    bad: str | None = None


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
