"""Shares of several processes: every test image once, equally many batches; and made-up sets that need no files."""

import lightning
import pytest
import torch
from torch.utils.data import RandomSampler, SequentialSampler

from jpegdl.data import IGNORED, Data, DataConfig
from jpegdl.data.sampling import Share, processes
from jpegdl.data.sources.synthetic import _MadeUp
from jpegdl.random import evenly

CONFIG = {"name": "made-up", "classes": 3, "size": 16, "batch_size": 5}


def _shares(monkeypatch, world, loader):
    for rank in range(world):
        monkeypatch.setattr("jpegdl.data.loaders.processes", lambda rank=rank: (rank, world))
        yield list(getattr(Data(DataConfig(**CONFIG), seed=1), loader)())


def test_alone_without_a_process_group():
    assert processes() == (0, 1)


@pytest.mark.parametrize("even", [True, False])
@pytest.mark.parametrize(("count", "world"), [(7, 1), (7, 2), (7, 3), (2, 4), (8, 4)])
def test_shares_cover_an_order_once(count, world, even):
    shares = [list(Share(SequentialSampler(range(count)), rank, world, even=even)) for rank in range(world)]
    assert sorted(index for share in shares for index in share if index is not None) == list(range(count))
    assert all(
        len(share) == len(Share(SequentialSampler(range(count)), rank, world, even=even)) for rank, share in enumerate(shares)
    )
    lengths = {len(share) for share in shares}
    assert len(lengths) == 1 if even else all(None not in share for share in shares)


@pytest.mark.parametrize("world", [1, 2, 5, 7])
def test_every_test_image_is_seen_once_and_all_take_as_many_batches(monkeypatch, world):
    shares = list(_shares(monkeypatch, world, "val_dataloader"))
    assert len({tuple(len(target) for _, target in share) for share in shares}) == 1
    images, target = (torch.cat([batch[i] for share in shares for batch in share]) for i in (0, 1))
    assert target.shape == (world * -(-12 // world),)
    assert not images[target == IGNORED].any()
    assert sorted(target[target != IGNORED].tolist()) == [0] * 4 + [1] * 4 + [2] * 4
    test = Data(DataConfig(**CONFIG)).test
    seen = {image.numpy().tobytes() for image in images[target != IGNORED]}
    assert seen == {test[i][0].numpy().tobytes() for i in range(12)}


def test_calibration_is_the_same_order_shared_out(monkeypatch):
    (alone,) = _shares(monkeypatch, 1, "calibration_dataloader")
    order = torch.cat([images for images, _ in alone])
    for rank, share in enumerate(_shares(monkeypatch, 5, "calibration_dataloader")):
        assert torch.equal(torch.cat([images for images, _ in share]), order[rank::5])


def test_share_follows_the_order_it_is_given():
    orders = [RandomSampler(range(9), generator=torch.Generator().manual_seed(3)) for _ in range(2)]
    assert list(Share(orders[0], 1, 2, even=False)) == list(orders[1])[1::2]


def test_training_is_shared_out(monkeypatch):
    shares = list(_shares(monkeypatch, 2, "train_dataloader"))
    assert [len(share) for share in shares] == [2, 2]  # 12 each, the smaller last batch dropped
    first, second = ({image.numpy().tobytes() for images, _ in share for image in images} for share in shares)
    assert not first & second


class _Numbers(list):
    """In place of images: their numbers."""

    def load(self):
        pass


class _Reader(lightning.LightningModule):
    """Counts what the Trainer hands it."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.train_images, self.test_targets = [], []

    def training_step(self, batch, _):
        self.train_images.append(batch[0])

    def validation_step(self, batch, _):
        self.test_targets += batch[1].tolist()

    def configure_optimizers(self):
        return None


@pytest.mark.parametrize(("count", "batch", "world"), [(31, 16, 2), (1020, 32, 8), (1020, 256, 8), (31, 16, 16), (7, 16, 4)])
def test_any_number_of_processes_takes_the_same_steps(monkeypatch, count, batch, world):
    """One epoch's steps, of which images each, where the global batch is the same."""

    def steps(world):
        loaders = []
        for rank in range(world):
            monkeypatch.setattr("jpegdl.data.loaders.processes", lambda rank=rank: (rank, world))
            data = object.__new__(Data)
            data.train, data.seed, data.config = _Numbers(range(count)), 4, DataConfig(batch_size=batch // world)
            monkeypatch.setattr(Data, "_loader", lambda self, images, sampler, drop_last: (list(sampler), drop_last))
            order, dropped = data.train_dataloader()
            own = [order[i : i + batch // world] for i in range(0, len(order), batch // world)]
            loaders.append([step for step in own if len(step) == batch // world or not dropped])
        return [sorted(entry for part in step for entry in part) for step in zip(*loaders, strict=True)]

    if count >= batch:
        assert steps(world) == steps(1)
        assert len(steps(1)) == count // batch
    else:
        assert len(steps(world)) == len(steps(1)) == 1


@pytest.mark.parametrize("cache", ["auto", "none"])
def test_lightning_takes_the_loaders(cache):
    data, module = Data(DataConfig(**CONFIG, cache=cache), seed=1), _Reader()
    trainer = lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, data)
    assert module.test_targets == 2 * ([0] * 4 + [1] * 4 + [2] * 4)
    first, second = module.train_images[:4], module.train_images[4:]
    assert len(second) == 4
    assert not torch.equal(first[0], second[0])  # the epoch was set
    loader = data.train_dataloader()
    loader.sampler.set_epoch(1)
    assert torch.equal(next(iter(loader))[0], second[0])


# ----------------------------------------------------------------------------------------------------- limit, made-up


def test_limit_takes_as_many_of_every_class():
    targets = [0, 0, 0, 1, 2, 2, 2, 2]
    assert evenly(targets, 5) == [0, 1, 3, 4, 5]
    assert evenly(targets, 3) == [0, 3, 4]
    assert evenly(targets, 2) == [0, 3]
    assert evenly(targets, 99) == list(range(8))


def test_limit_is_applied_to_training_and_test_images():
    data, every = (Data(DataConfig(**CONFIG, limit=limit)) for limit in (7, None))
    assert (len(data.train), len(data.test)) == (7, 7)
    assert data.train.targets == [0, 0, 0, 1, 1, 2, 2]
    assert torch.equal(data.train[3][0], every.train[8][0])


def test_limit_is_applied_before_anything_is_decoded(monkeypatch):
    reads, read = [], _MadeUp.read
    monkeypatch.setattr(_MadeUp, "read", lambda self, index: reads.append(index) or read(self, index))
    data = Data(DataConfig(**CONFIG, limit=4))
    assert not reads
    data.load()
    assert len(reads) == 8


def test_made_up_images_are_the_same_at_every_call_and_differ():
    first, second = (Data(DataConfig(name="made-up", size=24, resize=28)) for _ in range(2))
    assert len(first.classes) == 10
    assert all(torch.equal(first.train[i][0], second.train[i][0]) for i in range(80))
    seen = [part[i][0].numpy().tobytes() for part in (first.train, first.test) for i in range(len(part))]
    assert len(set(seen)) == len(seen) == 120


def test_made_up_images_can_be_learnt():
    data = Data(DataConfig(name="made-up", size=16))
    means = torch.stack([torch.stack([data.train[8 * c + i][0] for i in range(8)]).mean(0) for c in range(10)])
    nearest = [int((means - image).square().sum((1, 2, 3)).argmin()) for image, _ in (data.test[i] for i in range(40))]
    assert nearest == data.test.targets
