"""Random numbers from seeds, and images drawn evenly over classes."""

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
