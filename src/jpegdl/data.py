"""Data sets to loaders of un-normalised images: RGB in [0, 1], float32, (N, 3, size, size).

What a loader yields depends only on the settings, the seed and the epoch: the order and every random crop and flip are drawn
anew from (seed, epoch, index), so that a resumed run sees what an uninterrupted one would, and every arm of a comparison
sees the same images in the same order.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import lightning
import numpy as np
import skimage.data
import torch
import torch.distributed
from PIL import Image
from timm.data.readers.reader_factory import create_reader
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from torch.utils.data.distributed import DistributedSampler
from torchvision import datasets
from torchvision.transforms import v2

from jpegdl.errors import UsageError

NAMES = ("photos", "folder", "cifar10", "cifar100")
CACHE_BYTES = 2**30  # sets smaller than this once decoded are kept in memory

# The photographs that ship inside the scikit-image wheel, by their function in skimage.data.
PHOTOGRAPHS = (
    "astronaut", "brick", "camera", "cell", "chelsea", "clock", "coffee", "coins", "grass", "gravel", "hubble_deep_field",
    "immunohistochemistry", "moon", "page", "retina", "rocket", "stereo_motorcycle", "text",
)  # fmt: skip
PHOTO_TRAIN, PHOTO_TEST = 20, 100  # patches of each photograph


@dataclass
class DataConfig:
    """What to train and test on.

    Args:
        name: photos (embedded: grey patches of 18 photographs, one class for each), folder (class folders or tars), cifar10 or
            cifar100 (torchvision, downloaded on first use). Default: folder where a path is given, else photos.
        path: folder: where train/ and test/ (or val/, validation/), or train.tar and test.tar, lie, each with one folder a
            class. cifar10, cifar100: where the archive is kept. photos: none.
        size: side of the square images that the model sees, in pixels.
        resize: short side, in pixels, that images are scaled to before the crop to ``size`` (photos: side of the patches cut
            out). Default: ``size``.
        pad: zero pixels added on each side before the random training crop.
        flip: mirror training images at random.
        batch_size: training images a step and process.
        workers: loader processes; 0 loads in the main one, best for small sets, which are kept decoded in memory.
        skip_corrupt: leave out images that cannot be decoded, instead of stopping at the first.
    """

    name: str | None = None
    path: str | None = None
    size: int = 32
    resize: int | None = None
    pad: int = 0
    flip: bool = True
    batch_size: int = 32
    workers: int = 0
    skip_corrupt: bool = False


class Source(Protocol):
    """Where images come from; picklable, so that loader processes can be started in any way."""

    targets: list[int]

    def read(self, index: int) -> Image.Image:
        """The RGB image, already resized; OSError where its file cannot be decoded."""

    def name(self, index: int) -> str:
        """The image's file or origin, for messages."""


class ImageSet(Dataset[tuple[Tensor, int] | None]):
    """Images and class indices; ``dataset[i]`` is test-time, ``dataset[i, seed]`` augmented with that seed.

    A corrupt image that is to be left out is None, and no part of a batch.

    Args:
        source: images and their class indices.
        config: crop, flip and what to do with corrupt files.
    """

    def __init__(self, source: Source, config: DataConfig) -> None:
        self._source, self._config = source, config
        self.targets = source.targets
        self._cache: list[Tensor] | None = None
        side = config.resize or config.size
        to_unit = [v2.ToDtype(torch.float32, scale=True)]
        self._test = v2.Compose([v2.CenterCrop(config.size), *to_unit])
        flips = [v2.RandomHorizontalFlip()] if config.flip else []
        self._train = v2.Compose([v2.RandomCrop(config.size, padding=config.pad or None), *flips, *to_unit])
        if len(self.targets) * side * side * 3 * 1.5 < CACHE_BYTES:
            self._decode_all()

    def _decode_all(self) -> None:
        images, kept = [], []
        for index, target in enumerate(self.targets):
            try:
                images.append(self._decode(index))
                kept.append(target)
            except UsageError:
                if not self._config.skip_corrupt:
                    raise
        if not images:
            raise UsageError(f"none of the {len(self.targets)} images can be decoded, {self._source.name(0)} for one")
        if left_out := len(self.targets) - len(kept):
            warnings.warn(f"left out {left_out} of {len(self.targets)} images that cannot be decoded", stacklevel=2)
        self._cache, self.targets = images, kept

    def _decode(self, index: int) -> Tensor:
        try:
            return cast(Tensor, v2.functional.pil_to_tensor(self._source.read(index)))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what Pillow raises on bad files
            raise UsageError(
                f"image {self._source.name(index)} cannot be decoded ({error}); mend or remove it, or leave such images out "
                "with --data.skip_corrupt true"
            ) from error

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[Tensor, int] | None:
        index, seed = key if isinstance(key, tuple) else (key, None)
        try:
            image = self._decode(index) if self._cache is None else self._cache[index]
        except UsageError:
            if not self._config.skip_corrupt:
                raise
            return None
        if seed is None:
            return self._test(image), self.targets[index]
        # The CPU's generator alone: torch.manual_seed would queue a call for every other device, at every image.
        state = torch.get_rng_state()
        try:
            torch.default_generator.manual_seed(seed)
            return self._train(image), self.targets[index]
        finally:
            torch.set_rng_state(state)


def _collate(items: list[tuple[Tensor, int] | None]) -> Any:
    sound = [item for item in items if item is not None]
    if not sound:
        raise UsageError(f"none of a batch's {len(items)} images can be decoded")
    return default_collate(sound)


class EpochSampler(DistributedSampler[Any]):
    """Shuffled (index, seed) pairs, a function of the seed and the epoch alone; each process gets its share."""

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for index in super().__iter__():
            yield index, ((self.seed * 1_000_003 + self.epoch) * 1_000_003 + index) % 2**63


class Data(lightning.LightningDataModule):
    """The loaders of one data set.

    Args:
        config: what to load.
        seed: of the training order and augmentation.

    Attributes:
        classes: names of the classes, in the order of their indices.
        train, test: the two :class:`ImageSet`.

    Raises:
        UsageError: unknown name, missing or empty folder, train and test of different classes, corrupt image, no network.
    """

    def __init__(self, config: DataConfig, seed: int = 0) -> None:
        super().__init__()
        _check(config)
        self.config, self.seed = config, seed
        name = config.name or ("folder" if config.path else "photos")
        load = {"photos": _photos, "folder": _folder, "cifar10": _cifar, "cifar100": _cifar}[name]
        self.train, self.test, self.classes = load(config)

    def train_dataloader(self) -> DataLoader[Any]:
        """Augmented training images, in an order of the seed's and the epoch's; the last, smaller batch is dropped."""
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        sampler = EpochSampler(
            self.train,
            num_replicas=torch.distributed.get_world_size() if distributed else 1,
            rank=torch.distributed.get_rank() if distributed else 0,
            shuffle=True,
            seed=self.seed,
        )
        return self._loader(self.train, sampler=sampler, drop_last=len(sampler) >= self.config.batch_size)

    def val_dataloader(self) -> DataLoader[Any]:
        """Test images, center crop, in order."""
        return self._loader(self.test, batch_size=max(self.config.batch_size, 256))

    def calibration_dataloader(self) -> DataLoader[Any]:
        """Training images, center crop, in an order of the seed's."""
        generator = torch.Generator().manual_seed(self.seed)
        return self._loader(self.train, shuffle=True, generator=generator, batch_size=max(self.config.batch_size, 128))

    def _loader(self, dataset: ImageSet, **options: Any) -> DataLoader[Any]:
        workers = self.config.workers
        options.setdefault("batch_size", self.config.batch_size)
        return DataLoader(
            dataset,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            collate_fn=_collate,
            **options,
        )


def _check(config: DataConfig) -> None:
    if config.name is not None and config.name not in NAMES:
        raise UsageError(f"data.name must be one of {', '.join(NAMES)}, got {config.name!r}")
    for name in ("size", "batch_size"):
        if getattr(config, name) < 1:
            raise UsageError(f"data.{name} must be at least 1, got {getattr(config, name)}")
    for name in ("pad", "workers"):
        if getattr(config, name) < 0:
            raise UsageError(f"data.{name} must not be negative, got {getattr(config, name)}")
    if config.resize is not None and config.resize < config.size:
        raise UsageError(f"data.resize must be at least data.size = {config.size}, got {config.resize}")


Loaded = tuple[ImageSet, ImageSet, list[str]]


def _resized(image: Image.Image, side: int) -> Image.Image:
    return cast(Image.Image, v2.functional.resize(image.convert("RGB"), [side], v2.InterpolationMode.BICUBIC, antialias=True))


# ---------------------------------------------------------------------------------------------------------- photos


def photograph(name: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """One of :data:`PHOTOGRAPHS` as it ships: (H, W, 3) or (H, W), 0..255."""
    image = getattr(skimage.data, name)()
    return np.asarray(image[0] if isinstance(image, tuple) else image)


def photo_patches(side: int, *, train: bool, count: int) -> Iterator[tuple[str, int, int]]:
    """Where the patches of ``photos`` lie: (photograph, top, left), ``count`` of each photograph, the same at every call.

    A photograph is divided like a chessboard into squares of twice the patch's side; training patches lie within the black
    squares and test patches within the white ones, so that the two share no pixel.

    Raises:
        UsageError: a photograph is too small for patches of that side.
    """
    cell = 2 * side
    for name in PHOTOGRAPHS:
        height, width = photograph(name).shape[:2]
        cells = [(i, j) for i in range(height // cell) for j in range(width // cell) if (i + j) % 2 == (0 if train else 1)]
        if not cells:
            raise UsageError(f"photos has no room for patches of {side} pixels in {name} ({height}x{width}); take at most 80")
        random = np.random.default_rng([side, int(train), PHOTOGRAPHS.index(name)])
        for _ in range(count):
            i, j = cells[random.integers(len(cells))]
            top, left = random.integers(0, cell - side, size=2, endpoint=True)
            yield name, i * cell + int(top), j * cell + int(left)


class _Patches:
    """Grey patches of the embedded photographs."""

    def __init__(self, side: int, train: bool) -> None:
        self._side = side
        self._places = list(photo_patches(side, train=train, count=PHOTO_TRAIN if train else PHOTO_TEST))
        self._grey = {name: Image.fromarray(photograph(name)).convert("L") for name in PHOTOGRAPHS}
        self.targets = [PHOTOGRAPHS.index(name) for name, _, _ in self._places]

    def read(self, index: int) -> Image.Image:
        name, top, left = self._places[index]
        return self._grey[name].crop((left, top, left + self._side, top + self._side)).convert("RGB")

    def name(self, index: int) -> str:
        return "{} at row {}, column {}".format(*self._places[index])


def _photos(config: DataConfig) -> Loaded:
    if config.path is not None:
        raise UsageError("data.path has no use for photos, which is embedded; for your own images say --data.name folder")
    side = config.resize or config.size
    return ImageSet(_Patches(side, True), config), ImageSet(_Patches(side, False), config), list(PHOTOGRAPHS)


# ---------------------------------------------------------------------------------------------------------- folders


def _find(root: Path, split: str, synonyms: Sequence[str]) -> Path:
    tried = [candidate for name in synonyms for candidate in (root / name, root / f"{name}.tar")]
    for candidate in tried:
        if candidate.exists():
            return candidate
    names = ", ".join(f"{path.name}{'' if path.suffix else '/'}" for path in tried)
    raise UsageError(f"no {split} images in {root}: expected one of {names} there, with one folder for each class")


class _Files:
    """Class folders, on disk or in a tar, read by timm."""

    def __init__(self, root: Path, side: int) -> None:
        self._root, self._side = root, side
        try:
            self._reader: Any = create_reader("", str(root))
        except Exception as error:  # timm raises whatever comes: RuntimeError, AssertionError, ValueError, tarfile's own
            raise UsageError(f"no images can be read from {root} ({error}); expected one folder for each class") from error
        if hasattr(self._reader, "class_to_idx"):
            indices, targets = self._reader.class_to_idx, [target for _, target in self._reader.samples]
        else:
            indices, targets = self._reader.class_name_to_idx, self._reader.targets
        self.classes = sorted(indices, key=indices.get)
        self.targets = [int(target) for target in targets]

    def read(self, index: int) -> Image.Image:
        with self._reader[index][0] as file, Image.open(file) as image:
            return _resized(image, self._side)

    def name(self, index: int) -> str:
        return str(self._root / self._reader.filename(index))


def _folder(config: DataConfig) -> Loaded:
    if config.path is None:
        raise UsageError("data.name folder needs data.path: the folder that holds train/ and test/ (or train.tar and test.tar)")
    root = Path(config.path).expanduser()
    if not root.is_dir():
        raise UsageError(f"data.path {root} is no folder")
    side = config.resize or config.size
    train = _Files(_find(root, "training", ("train", "training")), side)
    test = _Files(_find(root, "test", ("test", "val", "validation")), side)
    if train.classes != test.classes:
        odd = sorted(set(train.classes) ^ set(test.classes))
        raise UsageError(f"training and test images in {root} have different classes: {', '.join(odd[:5])} in one of them only")
    if len(train.classes) < 2:
        raise UsageError(f"{root} has one class only, {train.classes[0]!r}; expected one folder for each of two or more")
    return ImageSet(train, config), ImageSet(test, config), train.classes


# ------------------------------------------------------------------------------------------------------------ CIFAR


class _Arrays:
    """A torchvision data set that holds its images as one array."""

    def __init__(self, part: Any, name: str, side: int) -> None:
        self._data, self._name, self._side, self.targets = part.data, name, side, list(part.targets)

    def read(self, index: int) -> Image.Image:
        return _resized(Image.fromarray(self._data[index]), self._side)

    def name(self, index: int) -> str:
        return f"{self._name}[{index}]"


def _cifar(config: DataConfig) -> Loaded:
    kind = datasets.CIFAR100 if config.name == "cifar100" else datasets.CIFAR10
    root = Path(config.path or Path.home() / ".cache" / "jpegdl").expanduser()
    try:
        parts = [kind(root, train=train, download=True) for train in (True, False)]
    except (OSError, RuntimeError) as error:
        raise UsageError(
            f"{config.name} is not in {root} and could not be downloaded ({error}); put the archive's folder there, or, if you "
            "have it as class folders, say --data.name folder --data.path FOLDER"
        ) from error
    train, test = (ImageSet(_Arrays(part, str(config.name), config.resize or config.size), config) for part in parts)
    return train, test, list(parts[0].classes)
