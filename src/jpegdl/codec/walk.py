"""The files of a folder in a fixed order, through links but never in circles, and what each is to be called."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jpegdl.data.sources.folder import hidden, natural_key

SUFFIX = ".jpg"


@dataclass(frozen=True)
class Entry:
    """One file, or something that cannot be gone into.

    Attributes:
        path: where it is.
        inner: the same below the folder, with slashes.
        name: what its JPEG file is to be called, in the same folder.
        refused: why there is to be none; None if there is nothing against it so far.
    """

    path: Path
    inner: str
    name: str
    refused: str | None = None


def walk(root: Path, target: Path, *, one_case: bool) -> Iterator[Entry]:
    """All files below ``root``, folder by folder; names that begin with a dot, and __MACOSX, are passed over.

    Args:
        root: the folder, resolved.
        target: where files are written to, resolved: what lies in there, by whatever link, is refused.
        one_case: whether names that differ in case alone are one name there.
    """
    yield from _folder(root, "", target, one_case, ())


def _folder(folder: Path, inner: str, target: Path, one_case: bool, above: tuple[tuple[int, int], ...]) -> Iterator[Entry]:
    try:
        status = folder.stat()
        place = status.st_dev, status.st_ino
        names = sorted(os.listdir(folder), key=natural_key)  # noqa: PTH208 - of a large folder, names take least
    except OSError as error:
        yield Entry(folder, inner, "", error.strerror or str(error))
        return
    if place in above:
        yield Entry(folder, inner, "", "is a link to a folder that it is in")
        return
    if folder.resolve().is_relative_to(target):
        yield Entry(folder, inner, "", f"is a link into {target}, which is written to")
        return
    names = [name for name in names if not hidden(name)]
    folders = [name for name in names if (folder / name).is_dir()]
    inside = set(folders)
    files = [name for name in names if name not in inside]

    def same(name: str) -> str:
        return name.casefold() if one_case else name

    wanted = Counter(same(_renamed(name)) for name in files)
    taken = {same(name) for name in folders}
    for name in files:
        path, new = folder / name, _renamed(name)
        refused = None
        if wanted[same(new)] > 1:
            others = ", ".join(other for other in files if other != name and same(_renamed(other)) == same(new))
            refused = f"would become {new}, and so would {others}: rename all but one"
        elif same(new) in taken:
            refused = f"would become {new}, and so is a folder called beside it: rename one"
        elif path.is_symlink() and path.resolve().is_relative_to(target):
            refused = f"is a link into {target}, which is written to"
        yield Entry(path, f"{inner}{name}", new, refused)
    for name in folders:
        yield from _folder(folder / name, f"{inner}{name}/", target, one_case, (*above, place))


def _renamed(name: str) -> str:
    return f"{Path(name).stem}{SUFFIX}"
