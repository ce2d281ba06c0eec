"""Random numbers from seeds, and images drawn evenly over classes."""

import hashlib
import math
import os
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def seed_everything(seed: int) -> None:
    """Seed the generators of Python, NumPy and PyTorch, and name the seed to processes that Lightning will start."""
    import torch  # late, as in all of this module: who draws images evenly need not wait for it

    os.environ["PL_GLOBAL_SEED"] = str(seed)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@contextmanager
def isolated(seed: int | None = None, device: "torch.device | None" = None) -> Iterator[None]:
    """Leave all generators outside as they were.

    Args:
        seed: of PyTorch's generators within; None to go on from where they are.
        device: the one whose generator counts beside the CPU's; default: all.
    """
    import torch

    others = random.getstate(), np.random.get_state()
    devices = None if device is None else [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            if seed is not None:
                torch.manual_seed(seed)
            yield
    finally:
        random.setstate(others[0])
        np.random.set_state(others[1])


@contextmanager
def seeded(seed: int, *, everywhere: bool) -> Iterator[None]:
    """Draw from ``seed`` alone within, on the CPU, in microseconds; the global generators are left as they were.

    Args:
        seed: of PyTorch's generator on the CPU.
        everywhere: seed Python's and NumPy's generators too, from which timm draws; takes 0.1 ms.
    """
    import torch

    # torch.manual_seed would queue a call for every other device, at every image.
    state = torch.get_rng_state()
    others = (random.getstate(), np.random.get_state()) if everywhere else None
    try:
        torch.default_generator.manual_seed(seed)
        if others:
            random.seed(seed)
            # All three are Mersenne Twisters. Seeded with an array, and one that ends in 1, NumPy's draws other numbers than
            # PyTorch's and Python's: with the same seed alone crops and colours would go together.
            np.random.seed([seed % 2**32, seed >> 32, 1])
        yield
    finally:
        torch.set_rng_state(state)
        if others:
            random.setstate(others[0])
            np.random.set_state(others[1])


def evenly(targets: Sequence[int], count: int | None, seed: int | None = None) -> list[int]:
    """Choose images so that classes have equally many, as far as they have them.

    Args:
        targets: the class of each image.
        count: how many images, at most; None for all.
        seed: draw them; None takes the first of every class, then the second of every class, and so on.

    Returns:
        Their indices, ascending.
    """
    if count is None or count >= len(targets):
        return list(range(len(targets)))
    order = range(len(targets)) if seed is None else np.random.default_rng(seed).permutation(len(targets)).tolist()
    seen: Counter[int] = Counter()
    ranked = []
    for place, index in enumerate(order):
        target = targets[index]
        ranked.append((seen[target], target if seed is None else place, index))
        seen[target] += 1
    return sorted(index for _, _, index in sorted(ranked)[:count])


def stratified(targets: Sequence[int], share: float, seed: int, purpose: str) -> list[int]:
    """Choose a share of each class, at random: never all, and at least one image where there are two.

    The draw is a function of its arguments alone, on any machine and with any version of NumPy.

    Args:
        targets: the class of each image.
        share: of each class, 0 to 1.
        seed: of the draw.
        purpose: what they are for; draws for different purposes have nothing to do with one another.

    Returns:
        Their indices, ascending. Classes with one image have none among them.
    """
    chosen: list[int] = []
    for order in _shuffled_classes(targets, seed, purpose):
        chosen += order[: min(len(order) - 1, max(1, math.floor(len(order) * share + 0.5)))]
    return sorted(chosen)


def dealt(targets: Sequence[int], folds: int, fold: int, seed: int) -> list[int]:
    """Choose one of several folds, into which each class is dealt at random, as evenly as its images allow.

    Args:
        targets: the class of each image.
        folds: how many; every image of a class of two or more is in one of them.
        fold: which one, 0 to ``folds`` - 1.
        seed: of the draw.

    Returns:
        The indices of its images, ascending. Classes with one image are in no fold.
    """
    place, chosen = 0, []
    for order in _shuffled_classes(targets, seed, "folds"):
        if len(order) > 1:
            chosen += [index for position, index in enumerate(order, place) if position % folds == fold]
            place += len(order)  # where one class ends the next begins, so that folds are of one size
    return sorted(chosen)


def _shuffled_classes(targets: Sequence[int], seed: int, purpose: str) -> list[list[int]]:
    """The indices of each class, in the order of classes, shuffled."""
    classes: dict[int, list[int]] = {}
    for index, target in enumerate(targets):
        classes.setdefault(int(target), []).append(index)

    def drawn(index: int) -> bytes:
        return hashlib.sha256(f"{purpose} {seed} {index}".encode()).digest()

    return [sorted(classes[target], key=drawn) for target in sorted(classes)]
