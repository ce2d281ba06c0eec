"""Which images a process sees, in which order, with which random draws."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch.distributed
from torch.utils.data import Sampler
from torch.utils.data.distributed import DistributedSampler

IGNORED = -1  #: class of the entries that fill up the last test batch of some processes; no part of any metric

Key = int | tuple[int, int] | None  # an image's index; with the seed of its augmentation; no image


def processes() -> tuple[int, int]:
    """Return this process's rank and the number of processes that share the work."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def image_seed(seed: int, epoch: int, index: int) -> int:
    """Return what an image's augmentation is drawn from."""
    return ((seed * 1_000_003 + epoch) * 1_000_003 + index) % 2**63


class EpochSampler(DistributedSampler[Any]):
    """Shuffled (index, seed) pairs, a function of the seed and the epoch alone; each process gets its share."""

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for index in super().__iter__():
            yield index, image_seed(self.seed, self.epoch, index)


class Share(Sampler[int | None]):
    """One process's share of an order: positions rank, rank + world, rank + 2 world, ...

    Args:
        order: the order of all images.
        rank: of the process, 0 to world - 1.
        world: number of processes.
        even: end with None, no image, where other processes get one image more: all take equally many batches then, as
            processes that wait for one another must.
    """

    def __init__(self, order: Sampler[int], rank: int, world: int, *, even: bool) -> None:
        self._order, self._rank, self._world, self._even = order, rank, world, even

    def _own(self) -> int:
        return len(range(self._rank, len(self._order), self._world))  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[int | None]:
        yield from islice(self._order, self._rank, None, self._world)
        yield from [None] * (len(self) - self._own())

    def __len__(self) -> int:
        return -(-len(self._order) // self._world) if self._even else self._own()  # type: ignore[arg-type]


class Seeded(Sampler[tuple[int, int]]):
    """An order of images, each with the seed of its augmentation in the first epoch."""

    def __init__(self, order: Sampler[int], seed: int) -> None:
        self._order, self._seed = order, seed

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((index, image_seed(self._seed, 0, index)) for index in self._order)

    def __len__(self) -> int:
        return len(self._order)  # type: ignore[arg-type]
