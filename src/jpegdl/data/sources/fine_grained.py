"""CUB-200-2011 and Stanford Dogs as their archives lay them out."""

import tarfile
import tempfile
from pathlib import Path

from jpegdl.data.config import DataConfig
from jpegdl.data.sources.base import Sets, folder_path
from jpegdl.data.sources.encoded import ByteRange, Stored
from jpegdl.data.sources.listing import check_end
from jpegdl.data.sources.registry import register_set
from jpegdl.errors import UsageError


def extract(archive: Path, folder: Path) -> None:
    """Unpack a tar into ``folder``, whole or not at all; a folder of that name in the tar becomes it, else all its content.

    Another process may do the same at the same time.

    Raises:
        UsageError: the archive is damaged or unsafe, goes on after its end, or this place is not writable.
    """
    try:
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
            content = Path(temporary) / "content"
            with tarfile.open(archive) as tar:
                tar.extractall(content, filter="data")
                check_end(tar, str(archive))
            inner = content / folder.name
            (inner if inner.is_dir() else content).rename(folder)
    except (tarfile.TarError, OSError, EOFError) as error:
        if not folder.is_dir():  # else another process was faster
            raise UsageError(f"{archive} cannot be unpacked into {folder}: {error}") from error


def _unpacked(root: Path, folder: str, archives: tuple[str, ...]) -> Path:
    """``root / folder``, unpacked from the first of ``archives`` where it is not there yet."""
    target = root / folder
    if not target.is_dir():
        for archive in archives:
            if (root / archive).is_file():
                extract(root / archive, target)
                break
    return target


def _expect(files: list[Path], source: str) -> None:
    for file in files:
        if not file.exists():
            raise UsageError(f"{file} is not there: {source}")


def _column(file: Path) -> dict[str, str]:
    """Lines of an image's number and its entry."""
    lines = (line.split(maxsplit=1) for line in file.read_text(encoding="utf-8").splitlines() if line.strip())
    try:
        return {number: entry.strip() for number, entry in lines}
    except ValueError as error:
        raise UsageError(f"{file} is damaged: expected an image's number and its entry in every line") from error


@register_set("cub200")
def open_cub200(config: DataConfig) -> Sets:
    """Open CUB-200-2011, official split: 5,994 training and 5,794 test images of 200 birds.

    Raises:
        UsageError: a file of the archive is missing or damaged.
    """
    given = folder_path(config, "CUB_200_2011/ or CUB_200_2011.tgz")
    inside = (given / "images.txt").is_file()
    root = (
        given if inside else _unpacked(given, "CUB_200_2011", ("CUB_200_2011.tgz", "CUB_200_2011.tar.gz", "CUB_200_2011.tar"))
    )
    parts = ("images", "images.txt", "image_class_labels.txt", "train_test_split.txt")
    _expect([root / part for part in parts], f"cub200 expects {', '.join(parts)} of CUB_200_2011.tgz there")
    files, labels, split = (_column(root / part) for part in parts[1:])
    try:
        entries = [(split[number] == "1", file, int(labels[number]) - 1) for number, file in files.items()]
    except (KeyError, ValueError) as error:
        raise UsageError(
            f"image_class_labels.txt or train_test_split.txt in {root} do not fit images.txt at {error}"
        ) from error
    names = {target: file.partition("/")[0].partition(".")[2].replace("_", " ") for _, file, target in entries}
    return _sets(root / "images", entries, names, root)


@register_set("dogs")
def open_dogs(config: DataConfig) -> Sets:
    """Open Stanford Dogs, official split: 12,000 training and 8,580 test images of 120 breeds.

    Raises:
        UsageError: a file of the archives is missing or damaged.
    """
    from scipy.io import loadmat

    root = folder_path(config, "Images/ and lists/, or images.tar and lists.tar")
    images = _unpacked(root, "Images", ("images.tar",))
    lists = root if (root / "train_list.mat").is_file() else _unpacked(root, "lists", ("lists.tar",))
    files = {True: lists / "train_list.mat", False: lists / "test_list.mat"}
    _expect(
        [images, *files.values()],
        "dogs expects Images/ of images.tar, and train_list.mat and test_list.mat of lists.tar, there",
    )
    entries: list[tuple[bool, str, int]] = []
    for train, file in files.items():
        try:
            content = loadmat(file, squeeze_me=True)
            paths, targets = content["file_list"].tolist(), (content["labels"].astype(int) - 1).tolist()
            entries += [(train, path, target) for path, target in zip(paths, targets, strict=True)]
        except Exception as error:  # scipy raises whatever its reader met
            raise UsageError(f"{file} is damaged: expected file_list and labels in it ({error})") from error
    return _sets(images, entries, {target: path.partition("/")[0].partition("-")[2] for _, path, target in entries}, root)


def _sets(images: Path, entries: list[tuple[bool, str, int]], names: dict[int, str], root: Path) -> Sets:
    """Both parts, from entries of whether an image is for training, its file and its class."""
    parts = [[(file, target) for train, file, target in entries if train is part] for part in (True, False)]
    if sorted(names) != list(range(len(names))) or not all(parts):
        raise UsageError(f"the lists in {root} name no training images, no test images, or classes that are not 1, 2, 3, ...")
    train, test = (Stored(images, [ByteRange(file) for file, _ in part], [target for _, target in part]) for part in parts)
    return train, test, [names[i] for i in sorted(names)]
