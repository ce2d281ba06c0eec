"""Digests of images' contents, kept in the user's cache so that a file is read for its digest once.

Files and parts of tars are known there by their path, size, times and inode; a file that was changed a moment ago is not kept,
since one that is changed again in the same tick of the clock could not be told from it. Where there is no place for a cache,
everything is read at every call.
"""

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from jpegdl.data.pixels import to_rgb
from jpegdl.files import replacing

UNKNOWN = ""  #: in place of a digest: the image cannot be read, or is one of too many to read them all
DIGITS = 32  # hexadecimal, of SHA-256
CACHE_LIMIT = 2**28  # bytes; beyond it, what was not in use for longest is removed
_FORMAT = 1
_RECENT = 2.0  # seconds; the coarsest clock of a file system in use, FAT's
_BLOCK = 2**20
_TOGETHER = 64  # pieces that a thread reads at a time


class Piece(NamedTuple):
    """A whole file; or, where ``size`` is not negative, that many bytes of it from ``start`` on."""

    path: str
    start: int = 0
    size: int = -1


def cache_folder() -> Path | None:
    """Return the folder of the user's that caches of this package are kept in; None where there is no such place."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    try:
        if Path(given).is_absolute():
            base = Path(given)
        elif sys.platform == "win32":
            base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
        else:
            base = Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    except RuntimeError:  # a user without a home
        return None
    return base / "jpegdl"


def pixel_digest(image: Image.Image) -> str:
    """Return a digest of an image's pixels in RGB.

    Raises:
        Exception: the image cannot be decoded, or has no range.
    """
    image = to_rgb(image)
    return hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()[:DIGITS]


def bytes_digest(content: bytes) -> str:
    """Return a digest of an encoded image, the one that its file has."""
    return hashlib.sha256(content).hexdigest()[:DIGITS]


def piece_digests(pieces: Sequence[Piece]) -> list[str]:
    """Return a digest of the bytes of each piece, from the cache where they did not change; ``UNKNOWN`` of what is unreadable.

    The digest of a file and that of the same bytes in a tar are the same.
    """
    found = [UNKNOWN] * len(pieces)
    stores: dict[str, _Store] = {}
    held: dict[str, tuple[str, _Store]] = {}  # of each file, its stamp and where its digests are
    missing: list[int] = []
    for index, piece in enumerate(pieces):
        if piece.path not in held:
            if (stamp := _stamp(piece.path)) is None:
                continue
            place = _place(piece)
            if place not in stores:
                stores[place] = _Store(place)
            held[piece.path] = stamp, stores[place]
        stamp, store = held[piece.path]
        if (known := store.get(_name(piece), stamp)) is None:
            missing.append(index)
        else:
            found[index] = known
    missing.sort(key=lambda index: pieces[index])  # a tar from its beginning to its end
    tasks = [missing[start : start + _TOGETHER] for start in range(0, len(missing), _TOGETHER)]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for some, digests in zip(tasks, pool.map(lambda some: _read(pieces, some), tasks), strict=True):
            for index, digest in zip(some, digests, strict=True):
                found[index] = digest
                piece = pieces[index]
                stamp, store = held[piece.path]
                if digest != UNKNOWN and not _is_recent(stamp) and _stamp(piece.path) == stamp:
                    store.put(_name(piece), stamp, digest)
    for store in stores.values():
        store.close()
    if any(store.written for store in stores.values()):
        _prune()
    return found


def _place(piece: Piece) -> str:
    """Return what has a file of digests of its own: a folder of images, or a tar."""
    path = os.path.abspath(piece.path)  # noqa: PTH100 - for speed
    return path if piece.size >= 0 else os.path.dirname(path)  # noqa: PTH120


def _name(piece: Piece) -> str:
    return f"{piece.start}+{piece.size}" if piece.size >= 0 else os.path.basename(piece.path)  # noqa: PTH119


def _stamp(path: str) -> str | None:
    """Return what changes where a file does: size, time of its content, time of its entry, which no program can set back,
    inode."""
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return f"{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}:{status.st_ino}"


def _is_recent(stamp: str) -> bool:
    return time.time() - max(map(int, stamp.split(":")[1:3])) / 1e9 < _RECENT


def _read(pieces: Sequence[Piece], indices: Iterable[int]) -> list[str]:
    """Digests of some pieces; those of one file with the file opened once."""
    digests = []
    path, stream = None, None
    try:
        for index in indices:
            piece = pieces[index]
            try:
                if piece.path != path or stream is None:
                    if stream is not None:
                        stream.close()
                    path, stream = piece.path, None
                    stream = open(piece.path, "rb", buffering=0)  # noqa: SIM115, PTH123 - for speed
                digests.append(_of_stream(stream, piece))
            except OSError:  # found out when it is trained on
                digests.append(UNKNOWN)
    finally:
        if stream is not None:
            stream.close()
    return digests


def _of_stream(stream: Any, piece: Piece) -> str:
    digest, left = hashlib.sha256(), piece.size
    stream.seek(piece.start)
    while block := stream.read(_BLOCK if left < 0 else min(_BLOCK, left)):
        digest.update(block)
        left -= len(block) if left >= 0 else 0
        if left == 0 and piece.size >= 0:
            break
    return digest.hexdigest()[:DIGITS]


class _Store:
    """Digests of what is in one place, in a file of the cache; whoever writes last wins, and what is lost is read again."""

    def __init__(self, place: str) -> None:
        root = cache_folder()
        name = hashlib.sha256(os.fsencode(place)).hexdigest()[:DIGITS]
        self._file = None if root is None else root / "digests" / f"{name}.json"
        self._known: dict[str, list[str]] = {}
        self._new: dict[str, list[str]] = {}
        self.written = False
        if self._file is not None:
            self._known = self._there()

    def _there(self) -> dict[str, list[str]]:
        assert self._file is not None
        with suppress(OSError, ValueError, KeyError, TypeError):
            content = json.loads(self._file.read_text(encoding="utf-8"))
            if content["format"] == _FORMAT and isinstance(content["known"], dict):
                return dict(content["known"])
        return {}

    def get(self, name: str, stamp: str) -> str | None:
        known = self._known.get(name)
        return known[1] if isinstance(known, list) and len(known) == 2 and known[0] == stamp else None

    def put(self, name: str, stamp: str, digest: str) -> None:
        self._new[name] = [stamp, digest]

    def close(self) -> None:
        """Write down what is new; where nothing is, say that the rest was in use."""
        if self._file is None:
            return
        with suppress(OSError):  # a cache that is read-only or full
            if self._new:
                self._file.parent.mkdir(parents=True, exist_ok=True)
                with replacing(self._file) as file:
                    known = {**self._there(), **self._new}
                    file.write_text(json.dumps({"format": _FORMAT, "known": known}), encoding="utf-8")
                self.written = True
            elif self._known and time.time() - self._file.stat().st_mtime > 86400:
                os.utime(self._file)


def _prune() -> None:
    """Keep the cache within its limit."""
    root = cache_folder()
    if root is None:
        return
    with suppress(OSError):
        files = []
        for entry in os.scandir(root / "digests"):
            with suppress(OSError):
                status = entry.stat()
                files.append((status.st_mtime, status.st_size, entry.path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= CACHE_LIMIT:
                break
            with suppress(OSError):
                os.unlink(path)  # noqa: PTH108
                total -= size
