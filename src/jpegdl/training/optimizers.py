"""Optimizers and learning-rate schedules from their settings."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from jpegdl.layer.bounds import unbounded_steps
from jpegdl.runs.config import OptimizerConfig


def build_optimizer(
    config: OptimizerConfig, parameters: Iterable[nn.Parameter] | list[dict[str, Any]]
) -> torch.optim.Optimizer:
    """Return the optimizer that settings ask for; of one group of parameters or, as in torch.optim, of several."""
    if config.name == "sgd":
        return torch.optim.SGD(parameters, config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
    kinds: dict[str, type[torch.optim.Adam]] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "log-adam": LogAdam}
    return kinds[config.name](parameters, config.lr, weight_decay=config.weight_decay)


class LogAdam(torch.optim.Adam):
    """Adam on the logarithms of parameters that are greater than 0; the parameters themselves stay what they are.

    Adam moves every number by about its learning rate, whatever its size: steps of a quantization table span five decades, and
    a rate that moves the large ones throws the small ones about. Here the rate is relative: 0.01 is 1 percent.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        moved = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        for parameter in moved:
            parameter.grad.mul_(parameter)  # d loss / d log p
            parameter.log_()
        with unbounded_steps():  # which the logarithms are not
            super().step()
        for parameter in moved:
            parameter.exp_()
        return loss


def build_scheduler(config: OptimizerConfig, optimizer: torch.optim.Optimizer, epochs: int, steps: int) -> LRScheduler:
    """Build a learning-rate schedule to be stepped after every batch; ``epochs`` and ``steps`` are those of the whole training.

    With T steps, w of them warm-up, the rate of step t = 0 .. T - 1 is each group's own times t / w in the warm-up, and then

    - constant: 1
    - cosine: (1 + cos(pi (t - w) / (T - w))) / 2; the factors of warm-up and cosine add up to T / 2 for any w > 0
    - multistep: gamma for each milestone up to t; exponential: gamma for each whole epoch up to t. Both count from the start of
      training, not from the end of the warm-up

    onecycle is PyTorch's, which warms up by itself.
    """
    if config.schedule == "onecycle":
        peaks = [group["lr"] for group in optimizer.param_groups]
        return OneCycleLR(optimizer, peaks, total_steps=steps + 1, cycle_momentum=False)

    def step_at(when: float) -> int:
        """The step at a time in epochs or, below 1, at that share of the training."""
        return round(steps * (when if when < 1 else when / epochs))

    warmup = min(step_at(config.warmup), steps - 1)  # rounded up it could leave the schedule no step
    milestones, epoch = [step_at(when) for when in config.milestones], steps // epochs

    def factor(step: int) -> float:
        if step < warmup:
            return step / warmup
        if config.schedule == "cosine":
            return (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2
        if config.schedule == "multistep":
            return config.gamma ** sum(step >= milestone for milestone in milestones)
        if config.schedule == "exponential":
            return config.gamma ** (step // epoch)
        return 1.0

    return LambdaLR(optimizer, factor)
