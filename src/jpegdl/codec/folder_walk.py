"""The files of a folder in a fixed order, through links but never in circles, and what each is to be called."""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from jpegdl.data.sources.listing import Above, above, enter, hidden, is_image, natural_key

SUFFIX = ".jpg"


@dataclass(frozen=True)
class Entry:
    """One file, or something that cannot be gone into.

    Attributes:
        path: where it is.
        folder: the folder that it is in, below the root and with a slash at its end; empty for the root itself.
        name: its own name there.
        new: that of its JPEG file, in the same folder.
        regular: whether it is known to be a file, and no link to one.
        rivals: why there is to be none if it turns out to be an image, which by its suffix it is not; None for all others.
        refused: why there is to be none; None if there is nothing against it so far.
    """

    path: Path
    folder: str
    name: str
    new: str
    regular: bool = False
    rivals: str | None = None
    refused: str | None = None

    @property
    def inner(self) -> str:
        """Where it is below the root."""
        return self.folder + self.name


def walk(root: Path, target: Path, *, one_case: bool) -> Iterator[Entry]:
    """All files below ``root``, folder by folder; names that begin with a dot, and __MACOSX, are passed over.

    Args:
        root: the folder, resolved.
        target: where files are written to, resolved: what lies in there, by whatever link, is refused.
        one_case: whether names that differ in case alone are one name there; then those that differ in their Unicode form
            alone are taken for one too, as on a Mac.
    """
    yield from _folder(root, "", target, one_case, above(root))


class _Kind(NamedTuple):
    folder: bool
    link: bool
    regular: bool

    @classmethod
    def of(cls, entry: "os.DirEntry[str]") -> "_Kind":
        try:
            return cls(entry.is_dir(), entry.is_symlink(), entry.is_file(follow_symlinks=False))
        except OSError:  # a link to itself, or to where nobody may look: of that file alone, which is opened later
            return cls(folder=False, link=True, regular=False)


def _folder(folder: Path, inner: str, target: Path, one_case: bool, within: Above) -> Iterator[Entry]:
    try:
        inside_of = enter(folder, within)
        with os.scandir(folder) as there:  # which knows of most entries what they are, without a look at each
            inside = {entry.name: _Kind.of(entry) for entry in there if not hidden(entry.name)}
    except OSError as error:
        yield Entry(folder, inner, "", "", refused=error.strerror or str(error))
        return
    if inside_of is None:
        yield Entry(folder, inner, "", "", refused="is a link to a folder that it is in")
        return
    if folder.resolve().is_relative_to(target):
        yield Entry(folder, inner, "", "", refused=f"is a link into {target}, which is written to")
        return
    names = sorted(inside, key=natural_key)
    folders = [name for name in names if inside[name].folder]
    renamed = {name: f"{os.path.splitext(name)[0]}{SUFFIX}" for name in names if not inside[name].folder}  # noqa: PTH122 - for speed

    def same(name: str) -> str:
        return unicodedata.normalize("NFC", name).casefold() if one_case else name

    # A note beside an image, a.txt beside a.png, does not take its name: the one that has an image's suffix gets it.
    claims = {name for name in renamed if is_image(name)}
    claimed = Counter(same(renamed[name]) for name in claims)
    wanted = Counter(map(same, renamed.values()))
    taken = {same(name) for name in folders}
    for name, new in renamed.items():
        path, refused, rivals = folder / name, None, None
        if wanted[same(new)] > 1:
            others = [other for other in renamed if other != name and same(renamed[other]) == same(new)]
            rivals = f"would become {new}, and so would {', '.join(others)}: rename all but one"
        if name in claims and claimed[same(new)] > 1:
            refused = rivals
        elif same(new) in taken:
            refused = f"would become {new}, which is a folder beside it: rename one"
        elif inside[name].link and Path(os.path.realpath(path)).is_relative_to(target):  # which takes links to themselves
            refused = f"is a link into {target}, which is written to"
        yield Entry(path, inner, name, new, inside[name].regular, None if name in claims else rivals, refused)
    clashing = Counter(map(same, folders))
    for name in folders:
        if clashing[same(name)] > 1:
            twins = ", ".join(other for other in folders if other != name and same(other) == same(name))
            why = f"would be one folder with {twins} where files are written to: rename all but one"
            yield Entry(folder / name, f"{inner}{name}/", "", "", refused=why)
            continue
        yield from _folder(folder / name, f"{inner}{name}/", target, one_case, inside_of)
