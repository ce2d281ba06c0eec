"""WebDataset shards: tars of samples, each an image and its class under one name.

timm streams them; here the tars are indexed once and samples read by their place, so that order and augmentation are the
seed's, and every process sees each test image once.
"""

import json
import re
import tarfile
from collections.abc import Sequence
from pathlib import Path

from jpegdl.data.config import DataConfig
from jpegdl.data.sources.base import TEST, TRAIN, Sets, folder_path
from jpegdl.data.sources.stored import Place, Stored
from jpegdl.errors import UsageError

IMAGES = ("jpg", "jpeg", "png", "webp")


def find_shards(root: Path, split: str, synonyms: Sequence[str]) -> list[Path]:
    """The tars whose name, or whose folder's, has one of ``synonyms`` as a word.

    Raises:
        UsageError: there are none.
    """
    tars = sorted([*root.glob("*.tar"), *root.glob("*/*.tar")])
    for word in synonyms:
        if found := [tar for tar in tars if re.search(rf"(?<![a-z]){word}(?![a-z])", str(tar.relative_to(root)).lower())]:
            return found
    words = " or ".join(synonyms)
    raise UsageError(
        f"no {split} shards in {root}: expected tars with {words} in their names there, such as {synonyms[0]}-0000.tar"
    )


def read_shards(root: Path, files: Sequence[Path]) -> Stored:
    """Samples NAME.jpg (jpeg, png, webp) with NAME.cls, a number, or NAME.json, which holds ``label``; in the tars' order.

    Raises:
        UsageError: a tar is damaged, a sample has no class, or there are no samples.
    """
    places: list[Place] = []
    targets: list[int] = []
    for file in files:
        images: dict[str, Place] = {}
        labels: dict[str, int] = {}
        try:
            with tarfile.open(file, "r:") as tar:
                for member in tar:
                    folder, _, base = member.name.rpartition("/")
                    stem, _, ending = base.partition(".")
                    name = f"{folder}/{stem}"
                    if ending.lower() in IMAGES:
                        images[name] = Place(member.name, str(file), member.offset_data, member.size)
                    elif ending in ("cls", "json") and (stream := tar.extractfile(member)) is not None:
                        text = stream.read()
                        if (label := text if ending == "cls" else json.loads(text).get("label")) is not None:
                            labels[name] = int(label)
        except (tarfile.TarError, OSError, ValueError, AttributeError) as error:
            raise UsageError(f"shard {file} cannot be read: {error}") from error
        if without := [place.key for name, place in images.items() if name not in labels]:
            raise UsageError(f"{without[0]} in shard {file} has no .cls, nor a .json with a label, beside it")
        places += images.values()
        targets += [labels[name] for name in images]
    if not places:
        raise UsageError(
            f"no images in shard {files[0]}, nor in {len(files) - 1} more: expected NAME.jpg with NAME.cls in them"
        )
    return Stored(root, places, targets)


def open_shards(config: DataConfig) -> Sets:
    """WebDataset shards of training and test images; classes are numbered.

    Raises:
        UsageError: there are none, or they hold no images with classes.
    """
    root = folder_path(config, "shards such as NAME-train-0000.tar and NAME-val-0000.tar")
    train = read_shards(root, find_shards(root, "training", TRAIN))
    test = read_shards(root, find_shards(root, "test", TEST))
    return train, test, [str(i) for i in range(max(*train.targets, *test.targets) + 1)]
