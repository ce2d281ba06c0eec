"""What is about to be trained, and how long it will take: the lines before a comparison."""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from jpegdl.backbones.build import build_backbone
from jpegdl.comparison.config import CompareConfig
from jpegdl.comparison.jobs import count_jobs, threads_each
from jpegdl.comparison.schedule import Run
from jpegdl.data import Data
from jpegdl.data.config import DEFAULT_SIZE, SMALL
from jpegdl.errors import UsageError, folded, how_many
from jpegdl.layer import build_layer, layer_kind, prepend
from jpegdl.processes import count_cores
from jpegdl.random import isolated
from jpegdl.runs import RunConfig
from jpegdl.runs.config import BFLOAT16, with_precision
from jpegdl.runs.device import compute_device, has_bfloat16
from jpegdl.tables import standard_tables

_ENOUGH = 2.0  # seconds, that one measurement takes at most where a step takes less
_WORTH_IT = 120.0  # seconds of training, beyond which a shorter way is looked for
_LOOKED_AT = 9  # images
_FEW = 200  # steps, below which a network from random weights has hardly begun


def header(config: CompareConfig, data: Data, asked: Sequence[Run]) -> str:
    """Describe what a comparison is about to train, in lines of at most 80 characters; nothing need be decoded.

    The time is measured: a few steps of plain and of the layer are trained on noise, on the device and with the threads that
    the runs will have.
    """
    left = [(seed, arm) for seed, arm in asked if not config.run_folder(arm, seed).finished]
    plain = config.arm_run("plain")
    rows = {"data": _data_line(config, data), "images": _images_line(config, data)}
    with isolated():
        backbone = build_backbone(config.backbone, len(data.classes), 0, plain.data.pixels)
    parameters = sum(p.numel() for p in backbone.parameters())
    rows["network"] = f"{config.backbone}, {_millions(parameters)} parameters{', pretrained' if config.given_weights else ''}"
    optimizer, steps = plain.training.optimizer, max(1, len(data.train) // plain.batch)
    batch = how_many(min(plain.batch, len(data.train)), "image")
    rows["training"] = (
        f"{how_many(plain.training.epochs, 'epoch')} of {how_many(steps, 'step')} of {batch}, {optimizer.name}, "
        f"rate {optimizer.lr:g} ({optimizer.schedule}), {plain.training.precision}"
        f"{', channels last' if plain.training.channels_last else ''}"
    )
    if (total := plain.training.epochs * steps) < _FEW and not config.trained and config.data.kind != "made-up":
        rows["training"] += (
            f"; {how_many(total, 'step')} in all, few for a new network: a smaller --data.batch-size or more "
            "--training.epochs gives more"
        )
    if config.tuned and (changed := config.changed_since_tuned(data.fingerprint)):
        rows["tuned"] = f"not for this comparison: {'; '.join(changed)}"
    arms = list(dict.fromkeys(arm for _, arm in asked))
    seeds = len({seed for seed, _ in asked})
    done = len(asked) - len(left)
    rows["runs"] = f"{how_many(len(arms), 'arm')} x {how_many(seeds, 'seed')}: {', '.join(arms)}"
    rows["runs"] += f"; {done} done" if done else ""
    jobs = min(count_jobs(config), len(left))
    threads = threads_each(config)
    try:
        device = compute_device(config.device)
    except UsageError:  # one that Lightning alone knows
        device = torch.device("cpu")
    side = f"{how_many(jobs, 'run')} at a time" + (f", {how_many(threads, 'thread')} each" if device.type == "cpu" else "")
    rows["device"] = f"{device.type}, {side}"
    if not config.together:
        with suppress(Exception):  # whatever the user's model raises: it is said when it trains
            rows |= _time_rows(config, data, left, backbone, device, threads, max(1, jobs))
    if done:  # a comparison keeps its precision
        rows.pop("faster", None)
    if starts := [arm for arm in arms if config.needed_arms(arm) and arm != "plain"]:
        needed = config.needed_arms(starts[0])[0]
        rows["cost"] = (
            f"{', '.join(starts)}: tables start from the trained {needed} of the same seed, so each run needs two trainings"
        )
    return "\n".join(folded(text, first=f"{name:<10}", later=" " * 10) for name, text in rows.items())


def _millions(count: int) -> str:
    return f"{count / 1e6:.3g} million" if count >= 1e6 else f"{count:,}"


def _data_line(config: CompareConfig, data: Data) -> str:
    where = f" in {config.data.path}" if config.data.path else ""
    validation = "" if data.validation is None else f", {how_many(len(data.validation), 'validation image')}"
    classes = len(data.classes)
    return (
        f"{config.data.kind}{where}: {how_many(classes, 'class', 'classes')} (chance {100 / classes:.3g} %), "
        f"{how_many(len(data.train), 'training image')}{validation}, {how_many(len(data.test), 'test image')}"
    )


def _images_line(config: CompareConfig, data: Data) -> str:
    pixels, side = config.data.pixels, config.data.side
    line = f"{pixels} x {pixels} pixels" + (f", cut from {side}" if side != pixels else "")
    if config.data.kind in SMALL:
        return line
    sizes = []
    for index in range(0, len(data.train), max(1, len(data.train) // _LOOKED_AT)):
        with suppress(Exception):  # said when it is decoded
            sizes.append(min(data.train.stored_size(index)))
    median = sorted(sizes)[len(sizes) // 2] if sizes else 0
    if pixels <= DEFAULT_SIZE and median >= 2 * pixels:
        return f"{line}, of images whose short side is {median}: this keeps little of them; --data.size 64 or more keeps more"
    return line


def _time_rows(
    config: CompareConfig,
    data: Data,
    left: Sequence[Run],
    backbone: nn.Module,
    device: torch.device,
    threads: int,
    jobs: int,
) -> dict[str, str]:
    """How long the runs that are left will take, by a measurement, and what would shorten that."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with isolated():
            plain = _step_seconds(config.arm_run("plain"), None, backbone, data, device)
            first = next((arm for _, arm in left if layer_kind(config.arm_run(arm).layer).from_tables), None)
            layer = plain if first is None else _step_seconds(config.arm_run(first), first, backbone, data, device)
            image = data.train.seconds()
            total = sum(_run_seconds(config.arm_run(arm), data, layer if arm != "plain" else plain, image) for _, arm in left)
            rows = {"time": f"about {_duration(total / jobs)} of training: {_seconds(plain)} a step, measured"}
            if first is not None:
                rows["time"] += f"; {first} x{layer / plain:.2f}"
            if (loading := _waited(config.arm_run("plain"), data, plain, image)) > plain / 10:
                rows["time"] += f"; {_seconds(loading)} more to wait for images"
                if device.type != "cpu" and config.data.workers < count_cores():  # where the CPU trains, they take its time
                    rows["time"] += ", which more --data.workers shorten"
            mixed = config.training.precision in ("32-true", "32")
            if total / jobs > _WORTH_IT and mixed and has_bfloat16(device):
                run = config.arm_run("plain")
                run = replace(run, training=with_precision(run.training, BFLOAT16))
                fast = _step_seconds(run, None, backbone, data, device) / plain
                if fast < 0.95:
                    rows["faster"] = f"--training.precision auto takes x{fast:.2f} of that for a step, measured here"
    finally:
        torch.set_num_threads(before)
        backbone.to("cpu")
    return rows


def _step_seconds(run: RunConfig, arm: str | None, backbone: nn.Module, data: Data, device: torch.device) -> float:
    """Measure one training step on noise, forward and backward, in seconds: the shortest of a few, unless one takes long."""
    layer: nn.Module = nn.Identity()
    if arm is not None:
        layer = build_layer(replace(run.layer, tables="standard:75"), standard_tables(75), run.data.pixels)
    model = prepend(backbone, layer).to(device).train()
    if run.training.channels_last:
        model.backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload, unused-ignore]
    batch = max(2, min(run.data.batch_size, len(data.train)))
    images = torch.rand(batch, 3, run.data.pixels, run.data.pixels, device=device)
    target = torch.zeros(batch, dtype=torch.long, device=device)
    kind = {"bf16-mixed": torch.bfloat16, "bf16": torch.bfloat16, "16-mixed": torch.float16, "16": torch.float16}
    dtype = kind.get(run.training.precision)

    def step(images: torch.Tensor = images, target: torch.Tensor = target) -> float:
        start = time.perf_counter()
        with torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None):
            loss = cross_entropy(model(images).float(), target)
        loss.backward()  # type: ignore[no-untyped-call]
        loss.item()  # waits for a GPU
        model.zero_grad(set_to_none=True)
        return time.perf_counter() - start

    step(images[:2], target[:2])  # compiles what is compiled on first use
    first, spent, best = step(), 0.0, float("inf")
    if first > _ENOUGH:
        return first
    for _ in range(5):
        best = min(best, took := step())
        spent += took
        if spent > _ENOUGH:
            break
    return best


def _batch(run: RunConfig, data: Data) -> int:
    return max(1, min(run.data.batch_size, len(data.train)))


def _waited(run: RunConfig, data: Data, step: float, image: float) -> float:
    """For how long a step waits for its images: all of their time where nobody loads them meanwhile."""
    loading, workers = image * _batch(run, data), min(run.data.workers, count_cores())
    return max(0.0, loading / workers - step) if workers else loading


def _run_seconds(run: RunConfig, data: Data, step: float, image: float) -> float:
    """How long one run takes: its steps and what they wait for, and its tests at a third of a step's time an image."""
    training, batch = run.training, _batch(run, data)
    tests = max(1, training.epochs // training.test_every)
    looked_at = len(data.test) if data.validation is None else len(data.validation)
    steps = training.epochs * max(1, len(data.train) // batch)
    return steps * (step + _waited(run, data, step, image)) + step * tests * looked_at / batch / 3


def _seconds(value: float) -> str:
    return f"{1000 * value:.0f} ms" if value < 1 else f"{value:.1f} s"


def _duration(seconds: float) -> str:
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= 1.5 * length:
            count: Any = f"{seconds / length:.2g}" if seconds < 10 * length else f"{seconds / length:.0f}"
            return f"{count} {unit}s"
    return "a minute" if seconds > 45 else how_many(max(1, round(seconds)), "second")
