"""ImageNet-1K as folders, tars or shards."""

import re
from collections.abc import Callable

from jpegdl.data.config import DataConfig
from jpegdl.data.sources.base import TEST, TRAIN, Parts, Sets, folder_path
from jpegdl.data.sources.class_folders import open_folder, open_test
from jpegdl.data.sources.registry import register_set
from jpegdl.data.sources.shards import open_shards
from jpegdl.errors import UsageError


def open_imagenet_test(config: DataConfig) -> Parts:
    """Open ImageNet's test images; where they are in folders or tars, the training images need not be there.

    Raises:
        UsageError: as :func:`open_imagenet`.
    """
    return open_imagenet(config, open_test)


@register_set("imagenet", open_test=open_imagenet_test)
def open_imagenet(config: DataConfig, folders: Callable[[DataConfig], Sets] = open_folder) -> Parts:
    """Open ImageNet-1K: folders or tars of WordNet ids (n01440764, ...), which ``folders`` opens, or WebDataset shards.

    Raises:
        UsageError: neither is there, or the classes are not WordNet ids.
    """
    root = folder_path(config, "train/ and val/ of WordNet ids (or train.tar and val.tar, or WebDataset shards)")
    there = any((root / name).exists() for split in (TRAIN, TEST) for name in (*split, *(f"{part}.tar" for part in split)))
    if not there and config.test_share is None:  # else the class folders may be there themselves
        if any(root.glob("ILSVRC2012_img_*.tar")):
            raise UsageError(
                f"{root} holds ImageNet's archives as downloaded; torchvision.datasets.ImageNet(PATH, 'train') and (PATH, "
                "'val') unpack them, with ILSVRC2012_devkit_t12.tar.gz, into the train/ and val/ that are expected there"
            )
        return open_shards(config)
    parts = Parts(*folders(config))
    if odd := [name for name in parts.classes if not re.fullmatch(r"n\d{8}", name)]:
        raise UsageError(
            f"classes in {root} are not WordNet ids such as n01440764 ({odd[0]!r}, for example); use --data.name folder, or "
            "wds/ for shards"
        )
    return parts
