"""WebDataset's shards in and out: tars of samples, of which the images are made anew and all else stays."""

import io
import itertools
import json
import os
import posixpath
import tarfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jpegdl.codec.config import CompressConfig, check_compress
from jpegdl.codec.encode_folder import CompressStanding
from jpegdl.codec.out_folder import Manifest, alone_in, writing
from jpegdl.codec.read_image import BAD, DecodedImage, Other, is_picture, open_picture, why
from jpegdl.codec.reader_stage import NEEDED, ReaderStage, summary_of
from jpegdl.data.sources.listing import check_end, hidden, open_tar
from jpegdl.errors import UsageError
from jpegdl.files import digest_of_file, printable, replacing, write_json

SUFFIX = ".tar"
_AHEAD = 4  # samples for each thread that wait for those before them
#: Of an image that was made anew what is known of it, the bytes that it was made of, and its pixels; or why it stays as it is;
#: None of files that are none.
_Done = tuple[dict[str, Any], int, int] | str | None


def compress_shards(
    shards: Sequence[str | os.PathLike[str]],
    target: str | os.PathLike[str],
    config: CompressConfig,
    progress: Callable[[CompressStanding], None] | None = None,
) -> dict[str, Any]:
    """Copy tars of samples, with their images as JPEG files for readers, named .jpg. Everything else in them stays as it is.

    Another picture of a sample, such as the mask ``a.seg.png`` beside ``a.png``, stays as it is too. A shard is there whole or
    not at all, under its own name. ``NAME.tar.json`` beside it says how its files were made. The same call goes on where it was
    interrupted. An image that cannot be read stays as it is, and is named. A shard that cannot be read is left out, and named.
    One process at a time writes to a folder: with several machines, give each its own folder and shards.

    Args:
        shards: tar files, not compressed, of different names.
        target: folder to write to: empty, or written with the same settings before.
        config: settings, with ``reader``.
        progress: called with how many shards are done.

    Returns:
        - ``shards``: how many there are; ``written`` and ``skipped`` of them; ``left_out``: a list of ``shard`` and ``why``.
        - ``images``; ``beside``: other pictures of samples; ``bad``: a list of ``file`` and ``why``.
        - ``bytes``, ``bytes_before``, ``pixels`` and ``bits_per_pixel`` of the images written now; ``seconds``.
        - ``mu`` and ``readers``: as :func:`jpegdl.codec.compress_folder` returns them, over all shards.

    Raises:
        UsageError: settings cannot be used; there are no shards, or no image in them; none of them can be read; the target is
            in use, or of other settings.
    """
    check_compress(config)
    if config.reader is None:
        raise UsageError("shards need --reader; to use tables, unpack them first")
    paths = [Path(shard).expanduser() for shard in shards]
    _check(paths)
    out = Path(target).expanduser()
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; give a folder to write to")
    if any(path.resolve().parent == out.resolve() for path in paths):
        raise UsageError(f"{out} is the folder of the shards; give another folder")
    stage = ReaderStage(config)
    try:
        with alone_in(out.resolve()):
            return _Shards(paths, out.resolve(), config, stage, progress or (lambda standing: None)).run()
    finally:
        stage.close()


def _check(paths: Sequence[Path]) -> None:
    if not paths:
        raise UsageError("no shards are given: name tar files, such as FOLDER/*.tar")
    for path in paths:
        if not path.is_file():
            raise UsageError(f"there is no shard {path}")
    names = [path.name.casefold() for path in paths]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"two shards are named {twice}: rename one")
    if other := next((path for path in paths if path.suffix != SUFFIX), None):
        raise UsageError(f"shard {other} is not a {SUFFIX} file")


class _ShardError(UsageError):
    """A shard that cannot be made anew, whatever the others are."""


class _Shards:
    def __init__(
        self,
        paths: Sequence[Path],
        out: Path,
        config: CompressConfig,
        stage: ReaderStage,
        progress: Callable[[CompressStanding], None],
    ) -> None:
        self.paths, self.out, self.config, self.stage, self.progress = paths, out, config, stage, progress
        self.written = self.bytes = self.before = self.pixels = 0
        self.begin = time.monotonic()

    def run(self) -> dict[str, Any]:
        manifest = Manifest(self.out, self.stage.source, {"shards": True, **self.stage.settings()})
        self.stage.settle(self._some, manifest)
        skipped, images, left_out = 0, 0, {}
        with ThreadPoolExecutor(self.config.threads or self.stage.threads) as pool:
            for number, path in enumerate(self.paths):
                if self._there(path):
                    skipped += 1
                else:
                    try:
                        images += self._shard(path, pool)
                    except _ShardError as error:
                        left_out[path] = str(error)
                        self._say(str(error))
                seconds = time.monotonic() - self.begin
                self.progress(CompressStanding(number + 1, len(self.paths), images / seconds if seconds else 0.0))
        if len(left_out) == len(self.paths):
            raise UsageError(next(iter(left_out.values())))
        made: dict[str, dict[str, Any]] = {}
        bad, beside = [], 0
        for path in self.paths:
            if path in left_out:
                continue
            there = json.loads(self._beside(path).read_text(encoding="utf-8"))
            made |= {f"{path.name}/{name}": one for name, one in there["files"].items()}
            bad += there["bad"]
            beside += there.get("beside", 0)  # earlier versions did not know of such
        if not made and not bad:
            more = f" or in {len(self.paths) - 1} more" if len(self.paths) > 1 else ""
            raise UsageError(f"no images in shard {self.paths[0]}{more}")
        found = asdict(summary_of(made, self.stage))
        manifest.note(found=found)
        return {
            "shards": len(self.paths),
            "written": self.written,
            "skipped": skipped,
            "left_out": [{"shard": str(path), "why": why} for path, why in left_out.items()],
            "images": len(made),
            "beside": beside,
            "bad": bad,
            "bytes": self.bytes,
            "bytes_before": self.before,
            "pixels": self.pixels,
            "bits_per_pixel": 8 * self.bytes / self.pixels if self.pixels else None,
            "seconds": time.monotonic() - self.begin,
            "mu": self.stage.mu,
            "readers": found,
        }

    def _say(self, text: str) -> None:
        self.progress(CompressStanding(self.written, len(self.paths), 0.0, printable(text)))

    def _some(self, count: int) -> Iterator[DecodedImage]:
        """That many photos, equally many of the first of each shard."""
        share = -(-count // len(self.paths))
        several = itertools.chain.from_iterable(itertools.islice(_photos(path), share) for path in self.paths)
        yield from itertools.islice(several, count)

    def _beside(self, path: Path) -> Path:
        return self.out / f"{path.name}.json"

    def _there(self, path: Path) -> bool:
        """Return whether a shard was made, of the file that is there now, and all is known of it."""
        try:
            there = json.loads(self._beside(path).read_text(encoding="utf-8"))
            known = isinstance(there["bad"], list) and all(set(one) >= NEEDED for one in there["files"].values())
            same = there["bytes"] == (self.out / path.name).stat().st_size and _is_same(path, *there["made_of"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return False
        return known and same

    def _shard(self, path: Path, pool: ThreadPoolExecutor) -> int:
        made: dict[str, dict[str, Any]] = {}
        bad: list[dict[str, str]] = []
        sizes: list[tuple[int, int, int]] = []
        names: dict[str, str] = {}  # in the new shard, and in the old one
        state, beside = [*_seen(path), _digest(path)], _beside_an_image(path)
        with writing(self.out), replacing(self.out / path.name) as new:
            with tarfile.open(new, "w") as tar:
                for entry, content, done in self._members(path, pool, beside):
                    name = entry.name
                    if isinstance(done, str):
                        bad.append({"file": f"{path.name}/{name}", "why": done})
                        self._say(f"{path}/{name}: {done}")
                    elif done is not None:
                        made_of, before, pixels = done
                        name = f"{posixpath.splitext(name)[0]}.jpg"
                        made[name] = made_of
                        sizes.append((len(content), before, pixels))
                    if (other := names.get(posixpath.normpath(name))) is not None:
                        both = "is there twice" if other == entry.name else f"and {other} would both become {name}"
                        raise _ShardError(printable(f"{path}: {entry.name} {both}; write the shard anew without one of them"))
                    names[posixpath.normpath(name)] = entry.name
                    tar.addfile(_renamed(entry, name, len(content)), io.BytesIO(content))
            size = new.stat().st_size
        with writing(self.out):
            # Once it is in its place: if the process ends in between, it is made again. Sizes of tars are often the same.
            write_json(self._beside(path), {"made_of": state, "bytes": size, "beside": len(beside), "bad": bad, "files": made})
        self.written += 1
        self.bytes, self.before, self.pixels = map(sum, zip((self.bytes, self.before, self.pixels), *sizes, strict=True))
        return len(made)

    def _members(
        self, path: Path, pool: ThreadPoolExecutor, beside: set[str]
    ) -> Iterator[tuple[tarfile.TarInfo, bytes, _Done]]:
        """The files of a shard in its order: bytes, and what is known of images, or why one stays as it is."""
        pending: deque[tuple[tarfile.TarInfo, bytes | Future[tuple[bytes, _Done]]]] = deque()
        most = _AHEAD * (self.config.threads or self.stage.threads)
        for entry, content in _entries(path):
            made = _is_photo(entry.name) and entry.name not in beside
            later = pool.submit(self._one, entry.name, content) if made else content
            pending.append((entry, later))
            if len(pending) >= most:
                yield self._finished(*pending.popleft())
        while pending:
            yield self._finished(*pending.popleft())

    @staticmethod
    def _finished(entry: tarfile.TarInfo, later: bytes | Future[tuple[bytes, _Done]]) -> tuple[tarfile.TarInfo, bytes, _Done]:
        return (entry, later, None) if isinstance(later, bytes) else (entry, *later.result())

    def _one(self, name: str, content: bytes) -> tuple[bytes, _Done]:
        try:
            stream = io.BytesIO(content)
            with self.stage.room_for(stream):
                picture = open_picture(stream, name)
                made, known = self.stage.encode(picture)
        except (*BAD, Other) as error:
            return content, why(error)
        return made, (known, len(content), picture.image.width * picture.image.height)


def _renamed(entry: tarfile.TarInfo, name: str, size: int) -> tarfile.TarInfo:
    """What a tar says of a plain file, but for its name and size.

    Made anew, as an entry keeps what its tar said in extended headers (of long names and those with accents, of sizes), which
    would count for more than what is set; and how it was stored, such as with holes.
    """
    new = tarfile.TarInfo(name)
    new.size = size
    for kept in ("mtime", "mode", "uid", "gid", "uname", "gname"):
        setattr(new, kept, getattr(entry, kept))
    return new


def _entries(path: Path) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """The files in a tar, in its order.

    Raises:
        _ShardError: it cannot be read, or holds links.
    """
    with _reading(path) as tar:
        for entry in tar:
            if entry.isdir():
                continue
            stream = tar.extractfile(entry) if entry.isreg() else None
            if stream is None:
                raise _ShardError(f"{entry.name} in {path} is a link or a device: a shard may hold only files")
            yield entry, stream.read()


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Whatever is wrong with a shard, as what concerns it alone."""
    try:
        yield
    except UsageError as error:  # which names it
        raise _ShardError(str(error)) from error
    except (OSError, tarfile.TarError) as error:
        raise _ShardError(f"shard {path} cannot be read: {error}") from error


@contextmanager
def _reading(path: Path) -> Iterator[tarfile.TarFile]:
    with _named(path), open_tar(path) as tar:
        yield tar


def _is_photo(name: str) -> bool:
    """Whether it is named as an image is, and not hidden, as what a Mac puts into tars beside each file."""
    return is_picture(name) and not any(hidden(part) for part in name.split("/") if part not in (".", ".."))


def _beside_an_image(path: Path) -> set[str]:
    """The images of a shard that are other pictures of a sample, as its reader has it: a.seg.png beside a.png."""
    with _reading(path) as tar:
        images = [name for name in tar.getnames() if _is_photo(name)]
        check_end(tar, f"shard {path}")
    stems = {posixpath.splitext(name)[0] for name in images}
    found = set()
    for name in images:
        folder, base = posixpath.split(name)
        first = posixpath.join(folder, base.partition(".")[0])
        if first in stems and first != posixpath.splitext(name)[0]:
            found.add(name)
    return found


def _photos(path: Path) -> Iterator[DecodedImage]:
    """The images of a shard that can be read, as far as it can be read itself: what cannot is said when its turn comes."""
    with suppress(_ShardError):
        beside = _beside_an_image(path)
        for entry, content in _entries(path):
            if _is_photo(entry.name) and entry.name not in beside:
                with suppress(*BAD, Other):
                    yield open_picture(io.BytesIO(content), entry.name)


def _seen(path: Path) -> list[int]:
    """Size, time stamp and, which no program sets at will, when either was last changed."""
    with _named(path):
        status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _digest(path: Path) -> str:
    with _named(path):
        return digest_of_file(path)


def _is_same(path: Path, size: int, time_stamp: int, changed: int | None = None, digest: str | None = None) -> bool:
    """Return whether a shard is what it was; of one that earlier versions made, by size and time stamp alone."""
    now = _seen(path)
    if digest is None:
        return now[:2] == [size, time_stamp]
    return now == [size, time_stamp, changed] or (now[0] == size and _digest(path) == digest)
