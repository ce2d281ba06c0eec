"""The settings of a data set."""

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from jpegdl.settings import Count, NotNegative, Quality, Range, Seed

OBJECT = "object"  # the name of a set that is given as Python objects, not by name
ORDERED = ("folder", "imagenet")  # whose classes are in an order of this package's
Orientation = Literal["stored", "follow"]
ClassOrder = Literal["natural", "sorted"]
CLASS_ORDERS: tuple[ClassOrder, ...] = get_args(ClassOrder)
Interpolation = Literal["bicubic", "bilinear"]
INTERPOLATIONS: tuple[Interpolation, ...] = get_args(Interpolation)
DEFAULT_SIZE = 32
SMALL = ("photos", "made-up", "cifar10", "cifar100")  # sets whose images are of that size, or drawn at any
LARGEST = 2**14  # pixels on a side; beyond it Pillow takes a file for an attack, and a single image takes gigabytes


@dataclass
class DataConfig:
    """What to train and test on.

    Args:
        name: photos (embedded: patches of 18 photographs in random colours, one class for each), folder (class folders or
            tars), made-up (generated patterns that mean nothing, for trying settings out), imagenet, cub200 or dogs (the
            official archives' layout), cifar10, cifar100, pets, food101, dtd, flowers102 (trained on its train images and
            tested on its val images, as published for JPEG-DL) or flowers102-official (train and val against test), all of
            torchvision and downloaded on first use; or, as timm reads them, hfds/NAME (Hugging Face) and wds/ (WebDataset
            shards). Your own: my_package.my_module:make, a function that returns (train, test), (train, test, classes) or
            (train, test, classes, validation): data sets like torchvision's, without transforms, and class names. Default:
            folder if a path is given, else photos.
        path: for folder: the one with train/ and test/ (or val/ or validation/ instead), or with train.tar and test.tar. Each
            has one folder per class directly below it. Images outside of class folders are refused. Empty class folders are
            left out, and other files are passed over, both with a warning; names that begin with a dot are ignored. imagenet:
            the same with WordNet ids for classes, or shards. wds/: the folder of the shards, such as NAME-train-0000.tar and
            NAME-val-0000.tar. cub200: the folder of CUB_200_2011/ or CUB_200_2011.tgz. dogs: the folder of Images/ and lists/,
            or of images.tar and lists.tar. Downloaded sets: where to keep them. Your own: what your function takes as ``path``.
            photos, made-up: none. Transparency is dropped. Grey of up to 16 bits is scaled to 8. Of an image more than 64
            times as long as wide, the middle is taken.
        orientation: stored takes images as they are stored, as torchvision and timm do with JPEG. follow turns them as the
            camera noted (EXIF orientation); take it for photographs straight from cameras and phones.
        class_order: order of the classes of folder and imagenet, and so of the network's outputs: natural (2 before 10, A
            beside a, as in timm) or sorted (10 before 2, Z before a, as in torchvision's ImageFolder). Weights that were
            trained elsewhere need the order that they were trained in. Default: natural.
        classes: number of classes of made-up, 10 by default; not for any other set.
        limit: use at most this many training images and this many test images, spread evenly over the classes.
        test_share: if a set has no test images, take this share of each class as the test images. For one folder of class
            folders (or a tar of them), hfds/, and your own.
        holdout: hold this share of each class out of training, at least one image of a class with two or more. Callbacks,
            early stopping and tuning then go by these images (val_loss, val_accuracy), and the test images are read once, at
            the end. Default: the images in validation/ or val/, if there is a test/ too. 0 for none.
        folds: instead of a share, deal each class of the training images into this many folds, and hold one of them out.
        fold: which of the folds to hold out, 0 to folds - 1.
        split_seed: seed of these splits, which are the same for every arm and seed.
        size: side of the square images that the model sees, in pixels. Default: the size of the backbone's published weights,
            loaded or not; their crop share then gives ``resize`` too. 32 for CIFAR networks, for cifar10, cifar100, photos and
            made-up, and where no weights are published.
        resize: scale images to this short side, in pixels, before the crop to ``size`` (photos: side of the patches cut out).
            Default: ``size``, unless that comes from published weights.
        interpolation: how images are resized: bicubic or bilinear, both antialiased. Default: as the pretrained weights were
            made; else bicubic.
        crop: training crop: random (of ``size``, from the image scaled to ``resize``) or resized (a random part of the full
            image, between 3:4 and 4:3, scaled to ``size``). Tests take the middle of the image scaled to ``resize``.
        scale: smallest area of the resized crop, as a share of the image.
        pad: zero pixels added on each side before the random training crop.
        flip: mirror training images at random.
        auto_augment: change the cropped and flipped training images at random, by a policy that timm knows, such as
            rand-m9-mstd0.5-inc1 (RandAugment), original-mstd0.5 (AutoAugment) or augmix-m5-w4. Default: none.
        color_jitter: change brightness, contrast and saturation at random, after crop and flip: 0.4 means factors of 0.6 to
            1.4. As in timm, it takes the place of auto_augment, or follows it if that is the policy 3a. Default: none.
        erase: probability that a rectangle of a training image is replaced by noise, at the very end, by timm's random erasing.
        jpeg_train: lowest and highest quality, 1 to 100: each training image, cropped, flipped and recoloured, goes through a
            real JPEG file (4:2:0) of a random quality between them, before anything is erased. Default: none.
        jpeg_test: each test image, cropped, goes through a real JPEG file (4:2:0) of this quality. Default: none.
        batch_size: training images per step and process.
        workers: processes that load images, at most one per core. 0 loads in the main process, which is best for sets that
            are kept decoded. As many threads decode those.
        cache: memory (decode all images once, and keep them), none, or auto (memory where that takes less than 1 GiB).
        skip_corrupt: leave out images that cannot be decoded, instead of stopping at the first.
    """

    name: str | None = None
    path: str | None = None
    orientation: Orientation = "stored"
    class_order: ClassOrder | None = None
    classes: Annotated[int, Range(2)] | None = None
    limit: Count | None = None
    test_share: Annotated[float, Range(0, 1, above=True, below=True)] | None = None
    holdout: Annotated[float, Range(0, 1, below=True)] | None = None
    folds: Annotated[int, Range(2)] | None = None
    fold: Annotated[int, Range(0)] | None = None
    split_seed: Seed = 0
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
    cache: Literal["auto", "memory", "none"] = "auto"
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
