"""What layers cost in time: python studies/cost/cost.py RUNS/NAME ARM ... [--size 64] [--batch 32] [--rounds 15]

Models of the first finished run of each arm, on random images, a batch at a time: the forward and backward pass of training
(the layer's parameters included, without the optimizer's step) and prediction. Arms take turns in each round, so that all see
the same machine. A table in Markdown: the median over rounds of the milliseconds a batch takes, and of the ratio to plain in
the same round, with its quartiles.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles

import torch
from torch import nn
from torch.nn import functional as torch_functional

from jpegdl.runs import finished_runs, open_run
from jpegdl_studies.tables import header, row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", type=Path)
    parser.add_argument("arms", nargs="+")
    parser.add_argument("--against", default="plain", help="the arm that the others are compared with")
    parser.add_argument("--size", type=int, default=64, help="pixels of a side")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    runs = finished_runs(options.comparison)
    arms = list(dict.fromkeys([options.against, *options.arms]))
    if missing := [arm for arm in arms if arm not in runs]:
        sys.exit(f"{options.comparison} has no finished run of {', '.join(missing)}")
    models: dict[str, nn.Module] = {arm: open_run(next(iter(runs[arm].values()))).model for arm in arms}
    images = torch.rand(options.batch, 3, options.size, options.size)
    steps: dict[str, Callable[[nn.Module, torch.Tensor], None]] = {"forward and backward": _train, "prediction": _predict}
    print(f"{options.size} pixels, batches of {options.batch}, {options.rounds} rounds, {torch.get_num_threads()} threads\n")
    columns = [column for name in steps for column in (f"{name}, ms", f"to {options.against} [quartiles]")]
    print(header(["arm", "parameters more", *columns]))
    times = {name: _times(models, step, images, options.rounds) for name, step in steps.items()}
    count = {arm: sum(p.numel() for p in model.parameters()) for arm, model in models.items()}
    for arm in arms:
        cells = [arm, str(count[arm] - count[options.against])]
        for taken in times.values():
            ratios = [own / plain for own, plain in zip(taken[arm], taken[options.against], strict=True)]
            low, middle, high = quantiles(ratios, n=4)
            cells += [f"{median(taken[arm]):.1f}", f"x{middle:.2f} [{low:.2f}, {high:.2f}]"]
        print(row(cells))


def _times(
    models: dict[str, nn.Module], step: Callable[[nn.Module, torch.Tensor], None], images: torch.Tensor, rounds: int
) -> dict[str, list[float]]:
    """Return milliseconds of each arm in each round, after two rounds that do not count."""
    taken: dict[str, list[float]] = {arm: [] for arm in models}
    for _ in range(2 + rounds):
        for arm, model in models.items():
            start = time.perf_counter()
            step(model, images)
            taken[arm].append(1000 * (time.perf_counter() - start))
    return {arm: all_of[2:] for arm, all_of in taken.items()}


def _train(model: nn.Module, images: torch.Tensor) -> None:
    model.train()
    model.zero_grad()
    loss = torch_functional.cross_entropy(model(images), torch.zeros(len(images), dtype=torch.long))
    loss.backward()  # type: ignore[no-untyped-call]


@torch.no_grad()
def _predict(model: nn.Module, images: torch.Tensor) -> None:
    model.eval()(images)


if __name__ == "__main__":
    main()
