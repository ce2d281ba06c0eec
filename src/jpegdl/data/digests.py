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
from jpegdl.files import write_text

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
    held: dict[str, tuple[str | None, str]] = {}  # of each file, its stamp and the place that its digests are kept for
    known: dict[str, dict[str, Any]] = {}  # by place, then by name: stamp and digest
    new: dict[str, dict[str, Any]] = {}
    missing: list[int] = []
    for index, piece in enumerate(pieces):
        if piece.path not in held:
            held[piece.path] = _stamp(piece.path), _place(piece)
        stamp, place = held[piece.path]
        if stamp is None:
            continue
        if place not in known:
            known[place] = _kept(place)
        match known[place].get(_name(piece)):
            case [then, digest] if then == stamp:
                found[index] = digest
            case _:
                missing.append(index)
    missing.sort(key=lambda index: pieces[index])  # a tar from its beginning to its end
    tasks = [missing[start : start + _TOGETHER] for start in range(0, len(missing), _TOGETHER)]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for some, digests in zip(tasks, pool.map(lambda some: _read(pieces, some), tasks), strict=True):
            for index, digest in zip(some, digests, strict=True):
                found[index] = digest
                piece = pieces[index]
                stamp, place = held[piece.path]
                if digest != UNKNOWN and stamp and not _is_recent(stamp) and _stamp(piece.path) == stamp:
                    new.setdefault(place, {})[_name(piece)] = [stamp, digest]
    for place in known:
        _keep(place, new.get(place), in_use=bool(known[place]))
    if new:
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


def _file(place: str) -> Path | None:
    """Return the file of the cache that the digests of what is in one place are in; None where there is no cache."""
    root = cache_folder()
    return None if root is None else root / "digests" / f"{hashlib.sha256(os.fsencode(place)).hexdigest()[:DIGITS]}.json"


def _kept(place: str) -> dict[str, Any]:
    """Return what the cache knows of a place, by name."""
    if (file := _file(place)) is not None:
        with suppress(OSError, ValueError, KeyError, TypeError):
            content = json.loads(file.read_text(encoding="utf-8"))
            if content["format"] == _FORMAT and isinstance(content["known"], dict):
                return dict(content["known"])
    return {}


def _keep(place: str, new: dict[str, Any] | None, *, in_use: bool) -> None:
    """Write down what is new of a place; where nothing is, say that the rest was in use. Whoever writes last wins, and what is
    lost is read again."""
    if (file := _file(place)) is None:
        return
    with suppress(OSError):  # a cache that is read-only or full
        if new:
            write_text(file, json.dumps({"format": _FORMAT, "known": {**_kept(place), **new}}))
        elif in_use and time.time() - file.stat().st_mtime > 86400:
            os.utime(file)


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
