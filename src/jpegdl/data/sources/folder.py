"""Class folders and tars of them.

The class of an image is the first folder (or tar) below train/ or test/, however deep in it the image is. Names that begin with
a dot, and __MACOSX, are neither classes nor images. Classes and images are ordered by name, numbers in names by their value.
"""

import os
import re
import tarfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jpegdl.data.config import DataConfig
from jpegdl.data.sources.base import TEST, TRAIN, Sets, folder_path
from jpegdl.data.sources.stored import Place, Stored
from jpegdl.errors import UsageError
from jpegdl.files import as_text

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")


class _Found(NamedTuple):
    """A file or folder below the root: its folders and its name, which for a folder is empty; and where it is in a tar."""

    parts: tuple[str, ...]
    tar: str = ""
    start: int = 0
    size: int = -1


def natural_key(name: str) -> tuple[list[Any], str]:
    """What to sort by, so that 2 comes before 10 and A beside a; the order of timm's readers."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", as_text(name).lower()))], name


def hidden(name: str) -> bool:
    """Whether a file or folder of that name is passed over."""
    return name.startswith(".") or name == "__MACOSX"


def _tried(root: Path, synonyms: Sequence[str]) -> list[Path]:
    return [candidate for name in synonyms for candidate in (root / name, root / f"{name}.tar")]


def _there(root: Path, synonyms: Sequence[str]) -> list[Path]:
    return [candidate for candidate in _tried(root, synonyms) if candidate.exists()]


def _find(root: Path, split: str, synonyms: Sequence[str]) -> Path:
    if there := _there(root, synonyms):
        return there[0]
    names = ", ".join(f"{path.name}{'' if path.suffix else '/'}" for path in _tried(root, synonyms))
    raise UsageError(f"no {split} images in {root}: expected one of {names} there, with one folder for each class")


def _refuse(error: OSError) -> None:
    raise error  # os.walk by itself passes over folders that it may not read


def _in_folder(root: Path) -> Iterator[_Found]:
    for folder, names, files in os.walk(root, onerror=_refuse, followlinks=True):
        names[:] = [name for name in names if not hidden(name)]
        inner = Path(folder).relative_to(root).parts
        yield _Found((*inner, ""))
        yield from (_Found((*inner, file)) for file in files if file.lower().endswith(IMAGES) and not hidden(file))


def _in_tar(tar: tarfile.TarFile, file: str, stem: str) -> list[_Found]:
    """What is in a tar, and in tars within it; a folder of the tar's own name around all of it is taken off."""
    found = []
    for member in tar:
        parts = tuple(part for part in member.name.split("/") if part not in ("", "."))
        if not parts or any(map(hidden, parts)):
            continue
        name = parts[-1].lower()
        if member.isdir():
            found.append(_Found((*parts, "")))
        elif member.isfile() and name.endswith(IMAGES):
            found.append(_Found(parts, file, member.offset_data, member.size))
        elif member.isfile() and name.endswith(".tar"):
            outer = (*parts[:-1], parts[-1][: -len(".tar")])
            with tarfile.open(fileobj=tar.extractfile(member), mode="r:") as inner:
                for one in _in_tar(inner, file, outer[-1]):
                    found.append(one._replace(parts=(*outer, *one.parts), start=member.offset_data + one.start))
    if all(one.parts[0] == stem and len(one.parts) > 1 for one in found):
        found = [one._replace(parts=one.parts[1:]) for one in found]
    return found


def _in_tars(tars: Sequence[Path]) -> Iterator[_Found]:
    """What is in tars side by side, each of which is a class."""
    folders: list[set[str]] = []
    for file in tars:
        with tarfile.open(file, "r:") as tar:
            found = _in_tar(tar, str(file), file.stem)
        folders.append({one.parts[0] for one in found if len(one.parts) > 1})
        yield from (one._replace(parts=(file.stem, *one.parts)) for one in found)
    if len(tars) > 1 and len(shared := set.intersection(*folders)) > 1:
        names = ", ".join(sorted(shared, key=natural_key)[:5])
        raise UsageError(
            f"{tars[0].name} and the other tars in {tars[0].parent} all hold the folders {names}; expected one tar for each "
            "class, or one tar of all class folders"
        )


def _scan(root: Path) -> Iterator[_Found]:
    if root.is_file():
        with tarfile.open(root, "r:") as tar:
            yield from _in_tar(tar, str(root), root.stem)
        return
    inside = sorted(path for path in root.iterdir() if not hidden(path.name))
    if not any(path.is_dir() for path in inside):
        yield from _in_tars([path for path in inside if path.suffix.lower() == ".tar"])
    yield from _in_folder(root)


def _read(root: Path) -> tuple[list[tuple[str, Place]], set[str]]:
    """The class and the place of every image, in order; and all class folders, those without an image too."""
    try:
        found = list(_scan(root))
    except (OSError, tarfile.TarError, EOFError) as error:
        raise UsageError(f"no images can be read from {root} ({error}); expected one folder for each class") from error
    images = [one for one in found if one.parts[-1]]
    if loose := [one.parts[0] for one in images if len(one.parts) == 1]:
        raise UsageError(f"{root / loose[0]} is in no class folder; expected {root.name}/CLASS/{loose[0]}")
    if not images:
        raise UsageError(f"no images can be read from {root}: expected one folder for each class, with {', '.join(IMAGES)}")
    places = [(one.parts[0], Place("/".join(one.parts), one.tar, one.start, one.size)) for one in images]
    places.sort(key=lambda image: natural_key(image[1].key))
    return places, {one.parts[0] for one in found if one.parts[0]}


def open_test(config: DataConfig) -> Sets:
    """The test images of class folders alone; the training images are none.

    They are those of :func:`open_folder`; a folder (or a tar) that has neither part is taken for the test part itself.

    Raises:
        UsageError: no test images, or one of them is in no class folder.
    """
    holds = "test/ (or test.tar), or one folder for each class"
    root = Path(config.path).expanduser() if config.path else None
    if root is None or not root.is_file():
        root = folder_path(config, holds)
    split = root.is_dir() and any(_there(root, names) for names in (TRAIN, TEST))
    part = _find(root, "test", TEST) if split else root
    places, _ = _read(part)
    classes = sorted({name for name, _ in places}, key=natural_key)
    index = {name: i for i, name in enumerate(classes)}
    test = Stored(part, [place for _, place in places], [index[name] for name, _ in places])
    return Stored(part, [], []), test, classes


def open_folder(config: DataConfig) -> Sets:
    """Class folders for training and test; or for each a tar of them, a tar of one tar for each class, or a folder of these.

    A class folder that holds no image in either part is left out, with a warning.

    Raises:
        UsageError: one of the two is missing or empty, they differ in their classes, or an image is in no class folder.
    """
    root = folder_path(config, "train/ and test/ (or train.tar and test.tar)")
    roots = _find(root, "training", TRAIN), _find(root, "test", TEST)
    (train, folders), (test, test_folders) = (_read(part) for part in roots)
    used = [{name for name, _ in part} for part in (train, test)]
    classes = sorted(used[0] | used[1], key=natural_key)
    odd = [
        f"{name} has no {split} image"
        for name in classes
        for split, part in zip(("training", "test"), used, strict=True)
        if name not in part
    ]
    if odd:
        raise UsageError(f"training and test images in {root} have different classes: {', '.join(odd[:5])}")
    if len(classes) < 2:
        raise UsageError(f"{root} has one class only, {classes[0]!r}; expected one folder for each of two or more")
    if empty := sorted((folders | test_folders) - used[0], key=natural_key):
        more = f" and {len(empty) - 5} more" if len(empty) > 5 else ""
        names = ", ".join(map(repr, empty[:5]))
        warnings.warn(f"class folders in {root} that hold no image are left out: {names}{more}", stacklevel=2)
    index = {name: i for i, name in enumerate(classes)}
    sources = [
        Stored(part, [place for _, place in images], [index[name] for name, _ in images])
        for part, images in zip(roots, (train, test), strict=True)
    ]
    return sources[0], sources[1], classes
