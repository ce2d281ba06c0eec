"""The settings of a data set."""

import re
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from jpegdl.errors import UsageError
from jpegdl.settings import Count, NotNegative, Quality, Range, check_fields
from jpegdl.user_code import is_own

NAMES = (
    "photos", "folder", "cifar10", "cifar100", "flowers102", "flowers102-official", "pets", "food101", "dtd", "cub200", "dogs",
    "imagenet", "made-up",
)  # fmt: skip
OBJECT = "object"  # the name of a set that is given as Python objects, not by name
PREFIXES = ("hfds/", "hfids/", "tfds/", "torch/", "wds/")  # as in timm; the data set's own name follows
ORDERED = ("folder", "imagenet")  # whose classes are in an order of this package's
Orientation = Literal["stored", "follow"]
ClassOrder = Literal["natural", "sorted"]
CLASS_ORDERS: tuple[ClassOrder, ...] = get_args(ClassOrder)
Interpolation = Literal["bicubic", "bilinear"]
INTERPOLATIONS: tuple[Interpolation, ...] = get_args(Interpolation)
DEFAULT_SIZE = 32
LARGEST = 2**14  # pixels on a side; beyond it Pillow takes a file for an attack, and a single image takes gigabytes

_NUMBER = r"\d+(\.\d+)?"
#: timm's own reading passes over what it does not know, so that a typing error would go unseen.
_AUTO_AUGMENT = re.compile(
    rf"rand(-(m\d+|n\d+|p{_NUMBER}|mstd{_NUMBER}|mmax\d+|inc[01]|t(weights|3a|3aw)))*"
    rf"|(v0r?|originalr?|3a)(-mstd{_NUMBER})?"
    rf"|augmix(-(m\d+|w[1-9]\d*|d[1-9]\d*|a{_NUMBER}|b[01]|mstd{_NUMBER}))*"
)


@dataclass
class DataConfig:
    """What to train and test on.

    Args:
        name: photos (embedded: grey patches of 18 photographs, one class for each), folder (class folders or tars), made-up
            (generated patterns that mean nothing, for trying settings out), imagenet, cub200 or dogs (the official archives'
            layout), cifar10, cifar100, pets, food101, dtd, flowers102 (trained on its train images and tested on its val
            images, as published for JPEG-DL) or flowers102-official (train and val against test), all of torchvision and
            downloaded on first use; or, as timm reads them, hfds/NAME or hfids/NAME (Hugging Face), tfds/NAME, torch/NAME,
            and wds/ (WebDataset shards). Your own: my_package.my_module:make, a function that returns (train, test) or (train,
            test, classes), two data sets as torchvision's, without transforms, and the names of the classes. Default: folder
            where a path is given, else photos.
        path: folder: the folder of train/ and test/ (or val/, validation/), or of train.tar and test.tar, each with one folder
            per class directly below it. Images in no folder are refused, class folders without an image left out with a
            warning, names that begin with a dot passed over, other files that are no images counted in a warning. imagenet: the
            same with WordNet ids for classes, or shards.
            wds/: where the shards are, such as NAME-train-0000.tar and NAME-val-0000.tar. cub200: where CUB_200_2011/ or
            CUB_200_2011.tgz is. dogs: where Images/ and lists/ or images.tar and lists.tar are. Downloaded sets: where they
            are kept. Your own: what its function takes as ``path``. photos, made-up: none. Transparency is dropped; grey of up
            to 16 bits is scaled to 8; of an image more than 64 times as long as wide, the middle is taken.
        orientation: stored takes images as they are stored, whatever their format, as torchvision and timm do with JPEG;
            follow turns them as the camera's note says (EXIF orientation), for people's photographs.
        class_order: order of the classes of folder and imagenet, and so of the network's outputs: natural (2 before 10, A
            beside a, as in timm) or sorted (10 before 2, Z before a, as in torchvision's ImageFolder). Weights that were
            trained elsewhere need the order that they were trained in. Default: natural.
        classes: number of classes of made-up, 10 by default; not for any other set.
        limit: use at most this many training images and this many test images, spread evenly over the classes.
        size: side of the square images that the model sees, in pixels. Default: with pretrained weights the one that they were
            made for, and ``resize`` by their crop share too; else 32.
        resize: short side, in pixels, that images are scaled to before the crop to ``size`` (photos: side of the patches cut
            out). Default: ``size``, unless that comes from pretrained weights.
        interpolation: how images are resized: bicubic or bilinear, both antialiased. Default: with pretrained weights the one
            that they were made with; else bicubic.
        crop: training crop: random (of ``size``, from the image scaled to ``resize``) or resized (a random part of the full
            image, between 3:4 and 4:3, scaled to ``size``). Tests take the middle of the image scaled to ``resize``.
        scale: smallest area of the resized crop, as a share of the image.
        pad: zero pixels added on each side before the random training crop.
        flip: mirror training images at random.
        auto_augment: timm's name of a random change of the cropped and flipped training images, such as
            rand-m9-mstd0.5-inc1 (RandAugment), original-mstd0.5 (AutoAugment) or augmix-m5-w4. Default: none.
        color_jitter: strength of random changes of brightness, contrast and saturation, 0.4 for factors of 0.6 to 1.4, after
            crop and flip; in place of auto_augment, as in timm (with its policy 3a: after it). Default: none.
        erase: probability that a rectangle of a training image is replaced by noise, at the very end, by timm's random erasing.
        jpeg_train: lowest and highest quality, 1 to 100: each training image, cropped, flipped and recoloured, goes through a
            real JPEG file (4:2:0) of a random quality between them, before anything is erased. Default: none.
        jpeg_test: each test image, cropped, goes through a real JPEG file (4:2:0) of this quality. Default: none.
        batch_size: training images per step and process.
        workers: loader processes; 0 loads in the main one, best for sets that are kept decoded. Also the threads that decode
            these.
        cache: what is decoded once: memory (all images, on the host), device (all images, on the GPU, and cropped there in
            batches), none, or auto (memory where that takes less than 1 GiB). With device, the same seeds give other
            crops, and there is no auto_augment, color_jitter, erase or JPEG.
        skip_corrupt: leave out images that cannot be decoded, instead of stopping at the first.
    """

    name: str | None = None
    path: str | None = None
    orientation: Orientation = "stored"
    class_order: ClassOrder | None = None
    classes: Annotated[int, Range(2)] | None = None
    limit: Count | None = None
    size: Count | None = None
    resize: int | None = None
    interpolation: Interpolation | None = None
    crop: Literal["random", "resized"] = "random"
    scale: Annotated[float, Range(0, 1, above=True)] = 0.08
    pad: Annotated[int, Range(0)] = 0
    flip: bool = True
    auto_augment: str | None = None
    color_jitter: NotNegative | None = None
    erase: Annotated[float, Range(0, 1)] = 0.0
    jpeg_train: list[Quality] | None = None
    jpeg_test: Quality | None = None
    batch_size: Count = 32
    workers: Annotated[int, Range(0)] = 0
    cache: Literal["auto", "memory", "device", "none"] = "auto"
    skip_corrupt: bool = False

    @property
    def kind(self) -> str:
        """The name, or its default."""
        return self.name or ("folder" if self.path else "photos")

    @property
    def side(self) -> int:
        """Short side of the images that tests and random crops are cut from, in pixels."""
        return self.resize or self.pixels

    @property
    def pixels(self) -> int:
        """Side of the square images that the model sees, in pixels: ``size``, or its default without pretrained weights."""
        return DEFAULT_SIZE if self.size is None else self.size

    @property
    def filter(self) -> Interpolation:
        """How images are resized: ``interpolation``, or its default without pretrained weights."""
        return self.interpolation or INTERPOLATIONS[0]


def check_data(config: DataConfig) -> None:
    """Refuse settings that no data set could be loaded with.

    Raises:
        UsageError: names the setting.
    """
    name = config.name
    if name is not None and name not in (*NAMES, OBJECT) and not name.startswith(PREFIXES) and not is_own(name):
        names = ", ".join([*NAMES, *(f"{prefix}NAME" for prefix in PREFIXES)])
        raise UsageError(f"data.name must be one of {names}, or your own, my_package.my_module:make, got {name!r}")
    check_fields(config, "data.")
    if config.classes is not None and config.kind != "made-up":
        raise UsageError(f"data.classes is for made-up only, got {config.classes} with {config.kind}")
    if config.class_order is not None and config.kind not in ORDERED:
        raise UsageError(f"data.class_order is for {' and '.join(ORDERED)} only, got {config.class_order} with {config.kind}")
    for name, side in (("size", config.pixels), ("resize", config.side), ("pad", config.pixels + 2 * config.pad)):
        if side > LARGEST:
            given = getattr(config, name)
            raise UsageError(f"data.{name} {given} makes images of {side} pixels per side; take at most {LARGEST}")
    if config.resize is not None and config.resize < config.pixels:
        raise UsageError(f"data.resize must be at least data.size = {config.pixels}, got {config.resize}")
    if config.pad and config.crop == "resized":
        raise UsageError(f"data.pad cannot be combined with data.crop resized, got {config.pad}")
    _check_augmentation(config)
    _check_jpeg(config)


def _check_augmentation(config: DataConfig) -> None:
    policy, jitter = config.auto_augment, config.color_jitter
    if policy is not None and not _AUTO_AUGMENT.fullmatch(policy):
        raise UsageError(
            "data.auto_augment must be a name that timm knows, such as rand-m9-mstd0.5-inc1, original-mstd0.5 or "
            f"augmix-m5-w4, got {policy!r}"
        )
    if policy is not None and jitter is not None and "3a" not in policy:
        raise UsageError(
            f"data.color_jitter {jitter} cannot be combined with data.auto_augment {policy}, which replaces it in timm"
        )
    if config.cache == "device" and (policy is not None or jitter is not None or config.erase):
        raise UsageError(
            "data.auto_augment, data.color_jitter and data.erase work on the CPU, not with data.cache device; "
            "use --data.cache auto"
        )


def _check_jpeg(config: DataConfig) -> None:
    if (low_high := config.jpeg_train) is not None and not (len(low_high) == 2 and low_high[0] <= low_high[1]):
        raise UsageError(f"data.jpeg_train must be the lowest and the highest quality, 1 to 100, got {low_high}")
    if config.cache == "device" and (config.jpeg_train, config.jpeg_test) != (None, None):
        raise UsageError(
            "data.jpeg_train and data.jpeg_test encode on the CPU, not with data.cache device; use --data.cache auto"
        )
