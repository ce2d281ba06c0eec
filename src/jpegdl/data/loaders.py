"""From settings to the loaders of training, validation, test and calibration."""

import copy
import functools
from collections import Counter
from dataclasses import replace
from typing import Any

import lightning
import numpy as np
import torch
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler

from jpegdl.data.checks import check_data
from jpegdl.data.config import DataConfig
from jpegdl.data.images import ImageSet
from jpegdl.data.sampling import EpochSampler, Seeded, Share, processes
from jpegdl.data.sources import open_sets
from jpegdl.errors import UsageError, warn_of_data
from jpegdl.files import as_text
from jpegdl.processes import count_cores

TEST_BATCH, CALIBRATION_BATCH = 256, 128  # images at least
BATCH_BYTES = 2**36
_NAMED = 3  # of the pictures under several classes, and of the images that show one, in messages


def _shared(part: ImageSet, other: ImageSet) -> int:
    """How many images of a part are in another one too."""
    return int((np.isin(part.contents, other.contents) & (part.contents != b"")).sum())


def chosen_images(config: DataConfig) -> str:
    """Return what of settings may choose images: without those that only say what becomes of them in training."""
    augmentation = ("auto_augment", "color_jitter", "erase", "flip", "jpeg_test", "jpeg_train", "pad", "scale")
    usual = DataConfig()
    return repr(replace(config, **{name: getattr(usual, name) for name in (*augmentation, "batch_size", "workers")}))


class Data(lightning.LightningDataModule):
    """The loaders of one data set, each of this process's share; for ``Trainer(use_distributed_sampler=False)``.

    Making one lists the images. :meth:`load` decodes them, or the first loader does.

    Args:
        config: what to load.
        seed: of the training order and augmentation.
        test_only: only the test images are wanted: class folders need no training part, and ``train`` is empty.
        sets: for the name ``object`` the data set itself: (train, test), (train, test, classes) or (train, test, classes,
            validation), map-style data sets with items (image, class index), as torchvision's without transforms, and the names
            of the classes.

    Attributes:
        classes: names of the classes, in the order of their indices.
        train, test: the two :class:`ImageSet`.
        validation: what is looked at while training, in place of the test images; None where nothing is held out.
        blinded: whether the test images are those that were held out, and the set's own are not there (:meth:`blind`).

    Raises:
        UsageError: unknown name, missing or empty folder, train and test of different classes, corrupt image, no network, a
            package that is not installed.
    """

    def __init__(
        self, config: DataConfig, seed: int = 0, *, test_only: bool = False, sets: tuple[Any, ...] | None = None
    ) -> None:
        super().__init__()
        check_data(config)
        self.config, self.seed, self._sets, self.blinded = config, seed, sets, False
        train, test, classes, validation = open_sets(config, sets, test_only=test_only)
        assert test is not None  # else it was taken from the training images, or refused
        self.classes = [as_text(name) for name in classes]
        _check_memory(config, max(len(part.targets) for part in (train, test, validation) if part is not None))
        self.train, self.test = ImageSet(train, config, train=True), ImageSet(test, config, train=False)
        self.validation = None if validation is None else ImageSet(validation, config, train=False, called="held-out")

    def with_config(self, config: DataConfig) -> "Data":
        """Return the data of ``config`` with the same seed.

        Where these choose the same images, nothing is listed again, and what is to be said of them is said once; where only
        JPEG settings differ, nothing is decoded again.

        Raises:
            UsageError: as the class itself.
        """
        check_data(config)
        if chosen_images(config) != chosen_images(self.config):
            fresh = Data(config, self.seed, sets=self._sets)
            return fresh.blind() if self.blinded else fresh
        _ = self.fingerprint  # once for both
        other = copy.copy(self)
        other.config, other.trainer = config, None
        if replace(config, jpeg_train=self.config.jpeg_train, jpeg_test=self.config.jpeg_test) == self.config:
            self.load()  # once for both
            other._take({name: part.with_config(config) for name, part in self.parts.items()})
        else:
            _check_memory(config, max(len(part.targets) for part in self.parts.values()))
            other._take({name: part.undecoded(config) for name, part in self.parts.items()})
        return other

    @property
    def parts(self) -> dict[str, ImageSet]:
        """The training, test and, where there are any, validation images, by ``train``, ``test`` and ``validation``."""
        held_out = {} if self.validation is None else {"validation": self.validation}
        return {"train": self.train, "test": self.test, **held_out}

    def blind(self) -> "Data":
        """Return the same data without its test images, for tuning: what is held out of training is what is tested on.

        Raises:
            UsageError: nothing is held out.
        """
        if self.validation is None:
            raise UsageError("no training images are held out: give data.holdout, such as 0.2, or data.folds and data.fold")
        other = copy.copy(self)
        other.__dict__.pop("fingerprint", None)
        other.trainer, other.test, other.validation, other.blinded = None, self.validation, None, True
        return other

    def _take(self, parts: dict[str, ImageSet]) -> None:
        self.train, self.test, self.validation = parts["train"], parts["test"], parts.get("validation")

    @functools.cached_property
    def fingerprint(self) -> dict[str, Any]:
        """What is trained and tested on, to be kept as JSON: the set's name, its classes, and of each part number and digests.

        It is the same wherever the set is kept, and for folders and tars of them. ``content`` differs where an image is added,
        removed, changed or of another class; each file is read for it once, see :mod:`jpegdl.data.digests`. Nothing is decoded
        but what has no files. ``digest`` is what earlier versions wrote, of names, sizes and classes. ``validation`` is there
        where images are held out of training. ``test_in_train``, ``validation_in_train`` and ``test_in_validation``, where
        they are there, say how many images of the one part are in the other too; ``several_classes``, how many pictures of
        each part come under more than one class; ``passed_over``, how many files were no images, by suffix.
        """
        found: dict[str, Any] = {"name": self.config.kind, "classes": list(self.classes)}
        found |= {name: part.fingerprint for name, part in self.parts.items()}
        apart = self.config.kind in ("photos", "made-up")  # drawn so that they share nothing; flat patches may be alike
        for name, part in self.parts.items():
            if name == "train" or apart:
                continue
            if shared := _shared(part, self.train):
                found[f"{name}_in_train"] = shared
                are = "is a training image too" if shared == 1 else "are training images too"
                warn_of_data(
                    f"{shared} of {len(part.contents)} {part.called} images {are}: accuracy on them says how well they are "
                    "remembered"
                )
        if not apart and self.validation is not None and (shared := _shared(self.test, self.validation)):
            found["test_in_validation"] = shared
            are = "is a held-out image too" if shared == 1 else "are held-out images too"
            warn_of_data(
                f"{shared} of {len(self.test)} test images {are}: what is chosen by those is no longer tested on others"
            )
        if not apart and (several := self._several_classes()):
            found["several_classes"] = several
        if passed := sum((Counter(part.passed_over) for part in self.parts.values()), Counter()):
            found["passed_over"] = dict(sorted(passed.items()))
        return found

    def _several_classes(self) -> dict[str, int]:
        """Return how many pictures of each part come under more than one class, by the part's name; warns of them."""
        found = {}
        for part, images in self.parts.items():
            name = images.called
            if not (pictures := images.in_several_classes()):
                continue
            found[part] = len(pictures)
            some = "; ".join(" = ".join(same[:_NAMED]) for same in pictures[:_NAMED])
            more = f"; and {len(pictures) - _NAMED} more" if len(pictures) > _NAMED else ""
            subject = f"1 {name} picture comes" if len(pictures) == 1 else f"{len(pictures)} {name} pictures come"
            warn_of_data(
                f"{subject} under more than one class, as copies or links: {some}{more}; at most one of the classes is right"
            )
        return found

    @property
    def left_out(self) -> list[str]:
        """The names of images that cannot be decoded, once :meth:`load` has left them out."""
        return [name for part in self.parts.values() for name in part.left_out]

    def load(self) -> None:
        """Decode the images that are kept decoded. Further calls do nothing.

        Raises:
            UsageError: an image cannot be decoded.
        """
        for part in self.parts.values():
            part.load()

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the loader of augmented training images, in an order that depends on seed and epoch. A last, smaller batch is
        dropped.

        Any number of processes sees the same images in the same steps, where the global batch is the same. In a loop of your
        own, call ``loader.sampler.set_epoch(epoch)`` before each epoch: Lightning does, and without it all are the first.
        """
        self.train.load()
        rank, world = processes()
        full = len(self.train) // world >= self.config.batch_size  # else all take the one small batch there is
        sampler = EpochSampler(self.train, num_replicas=world, rank=rank, shuffle=True, seed=self.seed, drop_last=full)
        return self._loader(self.train, sampler=sampler, drop_last=full)

    def val_dataloader(self) -> DataLoader[Any]:
        """Return the loader of what is looked at while training: what is held out or, without any, the test images."""
        return self._in_order(self.test if self.validation is None else self.validation)

    def test_dataloader(self) -> DataLoader[Any]:
        """Return the loader of test images, center crop, in order, each once over all processes.

        Every process gets equally many batches; entries that fill up have the target ``IGNORED``.
        """
        return self._in_order(self.test)

    def _in_order(self, images: ImageSet) -> DataLoader[Any]:
        images.load()
        sampler = Share(SequentialSampler(images), *processes(), even=True)
        return self._loader(images, sampler=sampler, batch_size=max(self.config.batch_size, TEST_BATCH))

    def calibration_dataloader(self, augmented: bool = False) -> DataLoader[Any]:
        """Return a loader of training images in an order that depends on the seed, each once over all processes, and nothing
        else.

        They are the center crops or, ``augmented``, as in the first epoch of training, in batches of that size.
        """
        self.train.load()
        generator = torch.Generator().manual_seed(self.seed)
        sampler: Any = Share(RandomSampler(self.train, generator=generator), *processes(), even=False)
        if augmented:
            sampler = Seeded(sampler, self.seed)
        # In train mode, BatchNorm's statistics depend on the batch: there it is that of training.
        batch_size = self.config.batch_size if augmented else max(self.config.batch_size, CALIBRATION_BATCH)
        return self._loader(self.train, sampler=sampler, generator=generator, batch_size=batch_size)

    def _loader(self, images: ImageSet, **options: Any) -> DataLoader[Any]:
        options.setdefault("batch_size", self.config.batch_size)
        workers = min(self.config.workers, count_cores())
        return DataLoader(
            images, num_workers=workers, persistent_workers=workers > 0, pin_memory=torch.cuda.is_available(), **options
        )


class TestImages(lightning.LightningDataModule):
    """The test images of a data set where Lightning asks for those to look at while training."""

    __test__ = False  # it is not a test of pytest

    def __init__(self, data: Data) -> None:
        super().__init__()
        self._data = data

    def val_dataloader(self) -> DataLoader[Any]:
        """Return :meth:`Data.test_dataloader`: the test images, in order."""
        return self._data.test_dataloader()


def _check_memory(config: DataConfig, images: int) -> None:
    largest = min(max(config.batch_size, TEST_BATCH), images)
    if (needed := 12 * config.pixels**2 * largest) > BATCH_BYTES:
        raise UsageError(
            f"data.size {config.pixels}: a batch of {largest} images takes {needed / 2**30:,.0f} GiB of memory; take a smaller "
            f"--data.size{', or a smaller --data.batch-size' if config.batch_size > TEST_BATCH else ''}"
        )
