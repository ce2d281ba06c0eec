"""Class folders and tars of them.

The class of an image is the first folder (or tar) below train/ or test/, however deep in it the image is. Names that begin with
a dot, and __MACOSX, are neither classes nor images. Classes and images are ordered by name, numbers in names by their value;
classes, where ``data.class_order`` asks for it, as torchvision's ImageFolder orders them.
"""

import tarfile
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jpegdl.data.config import DataConfig
from jpegdl.data.sources.base import TEST, TRAIN, VALIDATION, Parts, Source, folder_path
from jpegdl.data.sources.encoded import ByteRange, Stored
from jpegdl.data.sources.listing import (
    IMAGES,
    File,
    Part,
    Passed,
    hidden,
    in_folder,
    in_tar,
    is_archive,
    is_compressed,
    is_image,
    natural_key,
    open_tar,
    refuse_compressed,
    refuse_head,
    warn_unread,
)
from jpegdl.data.sources.registry import register_set
from jpegdl.errors import UsageError, some_of, warn_of_data


def _tried(root: Path, synonyms: Sequence[str]) -> list[Path]:
    return [candidate for name in synonyms for candidate in (root / name, root / f"{name}.tar")]


def _there(root: Path, synonyms: Sequence[str]) -> list[Path]:
    return [candidate for candidate in _tried(root, synonyms) if candidate.exists()]


def _find(root: Path, split: str, synonyms: Sequence[str]) -> Path:
    there = _there(root, synonyms)
    packed = [
        file for file in sorted(root.iterdir()) if is_compressed(file) and file.name.lower().partition(".")[0] in synonyms
    ]
    if there:
        beside = _validation(root) if synonyms == TEST else None
        others = [path for path in there[1:] if not path.samefile(there[0]) and path != beside] + packed
        warn_unread(root, split, _shown(there[0]), [_shown(path) for path in others])
        return there[0]
    for file in packed:
        refuse_compressed(file)
    names = ", ".join(map(_shown, _tried(root, synonyms)))
    hint = ""
    if not _there(root, TRAIN) and not _there(root, TEST):
        hint = "; where it holds the class folders themselves, --data.test-share 0.2 keeps a fifth of each class for the test"
    elif synonyms == TEST:
        hint = "; --data.test-share 0.2 keeps a fifth of the training images of each class for the test"
    raise UsageError(f"no {split} images in {root}: expected one of {names} there, with one folder for each class{hint}")


def _validation(root: Path) -> Path | None:
    """Return the part for validation, where there is one beside the test part."""
    test, others = _there(root, TEST[:1]), _there(root, VALIDATION)
    return next((path for path in others if not path.samefile(test[0])), None) if test else None


def _others(root: Path, classes: Iterable[str]) -> list[str]:
    """Return the folders beside the parts that hold class folders too, such as valid/."""
    beside = [path for path in sorted(root.iterdir()) if path.is_dir() and not hidden(path.name)]
    named = [path for path in beside if path.name not in (*TRAIN, *TEST)]
    return [_shown(path) for path in named if any((path / name).is_dir() for name in classes)]


def _shown(path: Path) -> str:
    return path.name if path.suffix else f"{path.name}/"


def _in_tar(tar: tarfile.TarFile, file: str, label: str, stem: str, passed: Passed) -> list[File]:
    """Return what is in a tar, and in tars within it; a folder of the tar's own name around all of it is taken off."""
    found, packed = [], []
    for parts, place in in_tar(tar, label, passed):
        name = parts[-1]
        if place is None:
            found.append(File((*parts, "")))
        elif is_image(name):
            found.append(File(parts, file, *place))
        elif name.lower().endswith(".tar"):
            outer, inside = (*parts[:-1], name[: -len(".tar")]), f"{label}/{'/'.join(parts)}"
            found.append(File((*outer, "")))
            for one in _in_inner(tar, file, inside, outer[-1], place, passed):
                found.append(one._replace(parts=(*outer, *one.parts), start=place[0] + one.start if one.tar else 0))
        else:
            packed += [parts] if is_archive(name) else []
            passed.add(name)
    if all(one.parts[0] == stem and len(one.parts) > 1 for one in found):
        found = [one._replace(parts=one.parts[1:]) for one in found]
        packed = [parts[1:] if parts[0] == stem else parts for parts in packed]
    if lost := [parts for parts in packed if len(parts) == 1]:  # where classes are
        raise UsageError(f"{label}/{lost[0][0]} is a compressed archive: unpack it first, and pack it as a plain tar")
    return found


def _in_inner(tar: tarfile.TarFile, file: str, label: str, stem: str, place: tuple[int, int], passed: Passed) -> list[File]:
    stream = Part(tar, *place)
    refuse_head(stream.read(8), label)
    stream.seek(0)
    with tarfile.open(fileobj=stream, mode="r:") as inner:
        return _in_tar(inner, file, label, stem, passed)


def _in_tars(tars: Sequence[Path], passed: Passed) -> Iterator[File]:
    """Return what is in tars side by side, each of which is a class."""
    folders: list[set[str]] = []
    for file in tars:
        with open_tar(file) as tar:
            found = _in_tar(tar, str(file), str(file), file.stem, passed)
        folders.append({one.parts[0] for one in found if len(one.parts) > 1})
        yield File((file.stem, ""))
        yield from (one._replace(parts=(file.stem, *one.parts)) for one in found)
    if len(tars) > 1 and len(shared := set.intersection(*folders)) > 1:
        names = ", ".join(sorted(shared, key=natural_key)[:5])
        raise UsageError(
            f"{tars[0].name} and the other tars in {tars[0].parent} all hold the folders {names}; expected one tar for each "
            "class, or one tar of all class folders"
        )


def _scan(root: Path, passed: Passed) -> Iterator[File]:
    if root.is_file():
        with open_tar(root) as tar:
            yield from _in_tar(tar, str(root), str(root), root.stem, passed)
        return
    inside = sorted(path for path in root.iterdir() if not hidden(path.name))
    if not any(path.is_dir() for path in inside):
        for path in filter(is_compressed, inside):
            refuse_compressed(path)
        tars = [path for path in inside if path.suffix.lower() == ".tar"]
        passed.suffixes[".tar"] -= len(tars)  # which are no files that are passed over
        yield from _in_tars(tars, passed)
    yield from in_folder(root, passed)


class _Images(NamedTuple):
    """What a part of a set, a folder or a tar, holds."""

    root: Path
    places: list[tuple[str, ByteRange]]  # the class and the place of every image, in order
    folders: set[str]  # all classes, those without an image too
    passed_over: Mapping[str, int]  # files, by suffix

    def source(self, index: Mapping[str, int]) -> Stored:
        """The images, with the indices of their classes."""
        places = self.places
        return Stored(self.root, [place for _, place in places], [index[name] for name, _ in places], self.passed_over)


def _read(root: Path) -> _Images:
    passed = Passed()
    try:
        found = list(_scan(root, passed))
    except (OSError, tarfile.TarError, EOFError) as error:
        raise UsageError(f"no images can be read from {root} ({error}); expected one folder for each class") from error
    images = [one for one in found if one.parts[-1]]
    if loose := [one.parts[0] for one in images if len(one.parts) == 1]:
        more = f", and {len(loose) - 1} more" if len(loose) > 1 else ""
        raise UsageError(
            f"{root / loose[0]} is in no class folder{more}; expected {root.name}/CLASS/{loose[0]}: move it there, or out of "
            f"{root.name}"
        )
    passed.suffixes += Counter()  # without what is counted 0 times
    passed.warn_circles()
    if not images:
        raise UsageError(f"no images can be read from {root}: expected one folder for each class, with {', '.join(IMAGES)}")
    names = _class_names(root, {one.parts[0] for one in found if one.parts[0]})
    places = [(names[one.parts[0]], ByteRange("/".join(one.parts), one.tar, one.start, one.size)) for one in images]
    places.sort(key=lambda image: natural_key(image[1].key))
    return _Images(root, places, set(names.values()), passed.suffixes)


def _class_names(root: Path, folders: Iterable[str]) -> dict[str, str]:
    """The classes of folders: their names in the composed Unicode form, in which those of a Mac are no other ones.

    Raises:
        UsageError: two folders of one part have the same name in it.
    """
    names: dict[str, str] = {}
    for folder in sorted(folders):
        names[folder] = unicodedata.normalize("NFC", folder)
    if twice := [name for name, count in Counter(names.values()).items() if count > 1]:
        raise UsageError(
            f"two folders in {root} are named {twice[0]!r}, and differ in the Unicode form of that name only: put the "
            "images of both into one"
        )
    return names


def class_key(config: DataConfig) -> Callable[[str], Any]:
    """Return what names of classes are sorted by: numbers by their value, or as torchvision's ImageFolder sorts them."""
    return str if config.class_order == "sorted" else natural_key


def open_test(config: DataConfig) -> tuple[Source, Source, list[str]]:
    """Return the test images of class folders alone; the training images are none.

    They are those of :func:`open_folder`; a folder (or a tar) that has neither part is taken for the test part itself.

    Raises:
        UsageError: no test images, or one of them is in no class folder.
    """
    root = folder_path(config, "test/ (or test.tar), or one folder for each class", or_tar=True)
    split = root.is_dir() and any(_there(root, names) for names in (TRAIN, TEST))
    part = _find(root, "test", TEST) if split else root
    images = _read(part)
    classes = sorted({name for name, _ in images.places}, key=class_key(config))
    return Stored(part, [], []), images.source({name: i for i, name in enumerate(classes)}), classes


@register_set("folder", open_test=open_test)
def open_folder(config: DataConfig) -> Parts:
    """Open class folders for training and test; or for each a tar of them, a tar of one tar for each class, or a folder of
    these.

    A class folder that holds no image in either part is left out, with a warning. A part for validation beside the test part
    is taken for that. With ``data.test_share`` there need be no test part; then the folder (or a tar) may be class folders.

    Raises:
        UsageError: one of the parts is missing or empty, they differ in their classes, or an image is in no class folder.
    """
    split = config.test_share is not None
    holds = "train/, or one folder for each class" if split else "train/ and test/ (or train.tar and test.tar)"
    root = folder_path(config, holds, or_tar=split)
    parts: dict[str, _Images] = {}
    if split and not (root.is_dir() and _there(root, TEST)):
        parts["training"] = _read(_find(root, "training", TRAIN) if root.is_dir() and _there(root, TRAIN) else root)
    else:
        parts = {"training": _read(_find(root, "training", TRAIN)), "test": _read(_find(root, "test", TEST))}
        if (validation := _validation(root)) is not None:
            parts["validation"] = _read(validation)
    used = {part: {name for name, _ in images.places} for part, images in parts.items()}
    classes = sorted(set().union(*used.values()), key=class_key(config))
    needed = [part for part in used if part != "validation"]
    if odd := [f"{name} has no {part} image" for name in classes for part in needed if name not in used[part]]:
        raise UsageError(f"{' and '.join(parts)} images in {root} have different classes: {', '.join(odd[:5])}")
    if len(classes) < 2:
        raise UsageError(f"{root} has one class only, {classes[0]!r}; expected one folder for each of two or more")
    if empty := sorted(set().union(*(part.folders for part in parts.values())) - used["training"], key=natural_key):
        warn_of_data(f"class folders in {root} that hold no image are left out: {some_of(list(map(repr, empty)), 5)}")
    if parts["training"].root != root and (others := _others(root, classes)):
        what = "folders of the same classes: a part for validation is named val/ or validation/, beside test/"
        warn_of_data(f"not read in {root}: {some_of(others, 3)}, with {what}")
    index = {name: i for i, name in enumerate(classes)}
    sources = {part: images.source(index) for part, images in parts.items()}
    return Parts(sources["training"], sources.get("test"), classes, sources.get("validation"))
