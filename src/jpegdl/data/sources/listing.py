"""What is in a folder or a tar: the one lister of class folders, shards and photos.

Names that begin with a dot, and __MACOSX, are passed over without a word, and so is what systems leave in folders (Thumbs.db).
Links are followed, in folders and in tars, but never in circles. What else is no image is counted, see :class:`Passed`.
"""

import io
import os
import posixpath
import re
import tarfile
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from PIL import features

from jpegdl.errors import UsageError, how_many, some_of, warn_of_data
from jpegdl.files import as_text

# Those that some builds of Pillow read, and whether this one does.
_AT_TIMES = (
    ((".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"), features.check_codec("jpg_2000")),
    ((".avif",), "avif" in features.modules and features.check_module("avif")),
)
#: Suffixes of the files that are taken for images, as Pillow reads them here.
IMAGES = (
    ".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".jpe", ".jfif", ".gif", ".apng", ".pbm", ".pnm",
    *(suffix for suffixes, read in _AT_TIMES if read for suffix in suffixes),
)  # fmt: skip
#: Those of photographs that Pillow does not read here, and that are more than files beside them.
UNREAD = (
    ".heic", ".heif", ".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".psd",
    *(suffix for suffixes, read in _AT_TIMES if not read for suffix in suffixes),
)  # fmt: skip
#: Compressed archives: how they begin, what they are compressed with, and what undoes it.
_COMPRESSED = (
    (b"\x1f\x8b", "gzip", "gunzip it"),
    (b"BZh", "bzip2", "bunzip2 it"),
    (b"\xfd7zXZ\x00", "xz", "unxz it"),
    (b"\x28\xb5\x2f\xfd", "zstd", "unzstd it"),
    (b"\x04\x22\x4d\x18", "lz4", "unlz4 it"),
    (b"PK\x03\x04", "zip", "unzip it into a folder"),
    (b"7z\xbc\xaf\x27\x1c", "7z", "unpack it into a folder"),
    (b"Rar!", "rar", "unpack it into a folder"),
)
_ARCHIVE = re.compile(r"\.(tar\.(gz|bz2|xz|zst|lz4|z)|t(gz|bz2?|xz|zst)|zip|7z|rar)$", re.IGNORECASE)
_BY_SYSTEMS = ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "compress.json", "compress.html")  # the last two are ours
BROKEN = "broken link"  # in place of a suffix
_HOPS = 40  # links that lead to links, as in Linux


class File(NamedTuple):
    """A file or folder below a root: its folders and its name, which for a folder is empty; and where it is in a tar."""

    parts: tuple[str, ...]
    tar: str = ""
    start: int = 0
    size: int = -1


@dataclass
class Passed:
    """What a listing passed over.

    Attributes:
        suffixes: how many files of each suffix, in lower case; "no suffix" for those without one, "broken link" for links
            that lead nowhere.
        circles: links to a folder that they are in.
    """

    suffixes: Counter[str] = field(default_factory=Counter)
    circles: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        """Count a file, unless it is one that systems leave in folders."""
        if name.lower() not in _BY_SYSTEMS:
            self.suffixes[_suffix(name)] += 1

    def warn_circles(self) -> None:
        """Say where links go in circles."""
        if self.circles:
            links = "a link to a folder that it is in" if len(self.circles) == 1 else "links to a folder that they are in"
            warn_of_data(f"not followed: {some_of(self.circles, 3)}, {links}")


def warn_passed(suffixes: Mapping[str, int], root: object) -> None:
    """Say in one line what was passed over in ``root``; nothing where that is nothing."""
    if suffixes:
        warn_of_data(f"passed over {passed_in_words(suffixes)} in {root}")


def warn_unread(root: object, split: str, read: str, others: Sequence[str]) -> None:
    """Say which of several places that may hold the images of one part is read, and which are not; nothing of one place."""
    if others:
        warn_of_data(f"the {split} images in {root} are read from {read}, and not from {some_of(others, 3)}")


def passed_in_words(suffixes: Mapping[str, int]) -> str:
    """Return ``3 files: 2 .heic, 1 .txt``, the most first."""
    each = ", ".join(f"{count} {suffix}" for suffix, count in sorted(suffixes.items(), key=lambda item: (-item[1], item[0])))
    return f"{how_many(sum(suffixes.values()), 'file')}: {each}"


def _suffix(name: str) -> str:
    found = _ARCHIVE.search(name)
    return (found[0] if found else posixpath.splitext(name)[1]).lower() or "no suffix"


def natural_key(name: str) -> tuple[list[Any], str]:
    """Return what to sort by, so that 2 comes before 10 and A beside a; the order of timm's readers.

    The two Unicode forms of an accented name are in the same place.
    """
    name = unicodedata.normalize("NFC", as_text(name))
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", name.lower()))], name


def hidden(name: str) -> bool:
    """Return whether a file or folder of that name is passed over without a word."""
    return name.startswith(".") or name == "__MACOSX"


def is_image(name: str) -> bool:
    """Return whether a file of that name is taken for an image."""
    return name.lower().endswith(IMAGES)


# ------------------------------------------------------------------------------------------------------------------- folders


Above = frozenset[tuple[int, int]]  # device and inode of the folders that a folder is in, by whatever link


def above(root: Path) -> Above:
    """Return what :func:`enter` begins with: all folders that ``root`` is in."""
    found = set()
    for folder in root.resolve().parents:
        try:
            status = folder.stat()
        except OSError:  # it may not be looked at, and nothing can be followed to it either
            continue
        found.add((status.st_dev, status.st_ino))
    return frozenset(found)


def enter(folder: str | os.PathLike[str], within: Above) -> Above | None:
    """Return what is above the entries of ``folder``; None if that is a link to a folder that it is in.

    Raises:
        OSError: it is not there, or may not be read.
    """
    status = os.stat(folder)  # noqa: PTH116 - for speed
    place = (status.st_dev, status.st_ino)
    return None if place in within else within | {place}


def in_folder(root: Path, passed: Passed) -> Iterator[File]:
    """List all folders and images below ``root``, in no order; links are followed, but not in circles.

    Raises:
        OSError: a folder may not be read.
    """
    waiting = [((), above(root))]  # type: list[tuple[tuple[str, ...], Above]]
    while waiting:
        parts, within = waiting.pop()
        folder = root.joinpath(*parts)
        inside = enter(folder, within)
        if inside is None:
            passed.circles.append(str(folder))
            continue
        yield File((*parts, ""))
        with os.scandir(folder) as entries:
            for entry in entries:
                if hidden(entry.name):
                    continue
                try:
                    is_folder = entry.is_dir()
                except OSError:  # a link to itself
                    passed.suffixes[BROKEN] += 1
                    continue
                if is_folder:
                    waiting.append(((*parts, entry.name), inside))
                elif is_image(entry.name) and (entry.is_file() or entry.is_symlink()):  # a broken link is a missing image
                    yield File((*parts, entry.name))
                elif entry.is_symlink() and not entry.is_file():
                    passed.suffixes[BROKEN] += 1  # of a folder, it may be
                else:
                    passed.add(entry.name)


# ---------------------------------------------------------------------------------------------------------------------- tars


def is_archive(name: str) -> bool:
    """Return whether a file of that name is a compressed archive."""
    return _ARCHIVE.search(name) is not None


def is_compressed(path: Path) -> bool:
    """Return whether that is a file, and a compressed archive by its name."""
    return is_archive(path.name) and path.is_file()


def refuse_compressed(path: Path, name: str | None = None) -> None:
    """Refuse an archive that is named like a compressed one, or begins like one.

    Args:
        path: the file.
        name: what to call it; default: its path.

    Raises:
        UsageError: says what it is compressed with, and what to do.
    """
    with path.open("rb") as stream:
        refuse_head(stream.read(8), name or str(path), named=_ARCHIVE.search(path.name))


def refuse_head(head: bytes, name: str, named: object = None) -> None:
    """Refuse an archive that begins like a compressed one, or is ``named`` like one.

    Raises:
        UsageError: says what it is compressed with, and what to do.
    """
    for magic, kind, way_out in _COMPRESSED:
        if head.startswith(magic):
            raise UsageError(
                f"{name} is compressed with {kind}: {way_out} first; images are read from where they are in a plain tar"
            )
    if named:
        raise UsageError(f"{name} is a compressed archive by its name: unpack it first, into a folder or a plain .tar")


@contextmanager
def open_tar(path: Path) -> Iterator[tarfile.TarFile]:
    """Open a tar that is not compressed.

    Raises:
        UsageError: it is compressed.
        OSError, tarfile.TarError: it cannot be read.
    """
    refuse_compressed(path)
    with tarfile.open(path, "r:") as tar:
        yield tar


class Part(io.RawIOBase):
    """The bytes of a file in a tar, such as a tar within it, to be read and sought in."""

    def __init__(self, tar: tarfile.TarFile, start: int, size: int) -> None:
        self._stream: Any = tar.fileobj
        self._start, self._size, self._at = start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self._size - self._at)
        self._stream.seek(self._start + self._at)
        content: bytes = self._stream.read(left if size is None or size < 0 else min(size, left))
        self._at += len(content)
        return content


class _Member(NamedTuple):
    """A file in a tar; or, with ``link``, where a symbolic link leads to. ``at`` is its place in the order of the tar."""

    at: int
    start: int
    size: int
    link: tuple[str, ...] | None = None


def in_tar(tar: tarfile.TarFile, label: str, passed: Passed, *, twice: bool = True) -> Iterator[tuple[tuple[str, ...], Any]]:
    """List what is in a tar, in its order: folders and names, with (start, size) of its bytes; None for a folder.

    Hard and symbolic links are followed to what they lead to in the tar. Of several entries of one name, as ``tar -r`` makes
    them, the last counts, as it does where the tar is unpacked.

    Args:
        tar: open, not compressed.
        label: its name, for messages.
        passed: told of links in circles.
        twice: whether a name may come twice.

    Raises:
        UsageError: a link leads out of the tar or in a ring, an entry's bytes cannot be read where they are, a name comes
            twice, or a second tar comes after the first.
    """
    found = _Tree(tar, label, passed, twice).below((), (), frozenset({()}))
    yield from ((parts, place) for _, parts, place in sorted(found, key=itemgetter(0)))
    check_end(tar, label)


def _parts(name: str) -> tuple[str, ...]:
    return tuple(part for part in posixpath.normpath(name).split("/") if part not in ("", "."))


class _Tree:
    def __init__(self, tar: tarfile.TarFile, label: str, passed: Passed, twice: bool) -> None:
        self.label, self.passed = label, passed
        self.content: dict[tuple[str, ...], _Member | None] = {}  # None for folders, with and without an entry of their own
        for entry in tar:
            parts = _parts(entry.name)
            if not parts:
                continue
            member = self._member(entry, parts)
            if member is not None and self.content.pop(parts, None) is not None and not twice:
                raise UsageError(f"{'/'.join(parts)} is in {label} twice: take one of the two out, or give it another name")
            for length in range(1, len(parts)):
                self.content.setdefault(parts[:length], None)
            self.content[parts] = member
        self.children: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
        for parts in self.content:
            self.children.setdefault(parts[:-1], []).append(parts)

    def _member(self, entry: tarfile.TarInfo, parts: tuple[str, ...]) -> _Member | None:
        if entry.isdir():
            return None
        if entry.issparse():
            raise UsageError(f"{'/'.join(parts)} in {self.label} is stored as a sparse file: pack it without --sparse")
        if entry.islnk():
            target = _parts(entry.linkname)
            if (found := self.content.get(target)) is not None:
                return found._replace(at=entry.offset)
            return _Member(entry.offset, 0, 0, target)
        if entry.issym():
            inner = posixpath.normpath(posixpath.join("/".join(parts[:-1]), entry.linkname))
            return _Member(entry.offset, 0, 0, tuple(inner.split("/")) if inner != "." else ())
        if entry.isfile():
            return _Member(entry.offset, entry.offset_data, entry.size)
        return _Member(entry.offset, 0, -1)  # a pipe or device

    def below(
        self, shown: tuple[str, ...], folder: tuple[str, ...], within: frozenset[tuple[str, ...]], at: int | None = None
    ) -> Iterator[tuple[int, tuple[str, ...], tuple[int, int] | None]]:
        """List what is in a folder: its place in the order of the tar, its name, and where its bytes are.

        Args:
            shown: the name of the folder, by whatever link.
            folder: its own name in the tar.
            within: the folders that it is in, by whatever link, and itself.
            at: the place of the link that leads to it; None where no link does.
        """
        for child in self.children.get(folder, ()):
            if hidden(child[-1]):
                continue
            own, name = self.content[child], (*shown, child[-1])
            real = child if own is None or own.link is None else self._resolved(own.link)
            order = at if at is not None or own is None else own.at
            if real is None or (real and real not in self.content):
                self._broken(name, own)
            elif (member := self.content.get(real)) is not None:
                if member.size >= 0:
                    yield order or 0, name, (member.start, member.size)
            elif real in within:
                self.passed.circles.append(f"{self.label}/{'/'.join(name)}")
            else:
                yield order or 0, name, None
                yield from self.below(name, real, within | {real}, order)
            if own is not None and child in self.children:  # a tar may hold files below the name of a file or of a link
                yield from self.below(name, child, within | {child}, at)

    def _broken(self, name: tuple[str, ...], member: _Member | None) -> None:
        """Count a link that leads nowhere; refuse it where an image or a class may be lost."""
        if not is_image(name[-1]) and posixpath.splitext(name[-1])[1]:
            self.passed.suffixes[BROKEN] += 1
            return
        leads = "/".join(member.link or ()) if member else ""
        raise UsageError(
            f"{'/'.join(name)} in {self.label} is a link to {leads or '.'}, which is not in it: pack with tar --dereference"
        )

    def _resolved(self, target: tuple[str, ...]) -> tuple[str, ...] | None:
        """The file or folder that a path leads to, through links in its middle too; None if it leads nowhere in the tar."""
        for _ in range(_HOPS):
            for length in range(1, len(target) + 1):
                member = self.content.get(target[:length])
                if member is not None and member.link is not None:
                    target = (*member.link, *target[length:])
                    break
            else:
                return None if target[:1] in (("..",), ("",)) else target
        return None


def check_end(tar: tarfile.TarFile, label: str) -> None:
    """Refuse a tar that goes on after what was read of it, and warn of one that just stops.

    ``tarfile`` ends without a word at a damaged header, and at the end of the first of two tars that ``cat`` put together.

    Args:
        tar: read to its end.
        label: its name, for messages.

    Raises:
        UsageError: something comes after its end.
    """
    stream: Any = tar.fileobj
    stream.seek(tar.offset)
    if not stream.read(1):
        warn_of_data(f"{label} has no end mark: it may have been cut off, with images lost")
    while block := stream.read(2**20):
        if block.strip(b"\0"):
            raise UsageError(f"{label} goes on after its end mark: it is damaged, or holds two tars: unpack it with tar -i")
