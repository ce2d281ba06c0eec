"""How fast the layer is, beside what else there is.

    python benchmarks/layer.py --device cpu --repeats 3
    python benchmarks/layer.py --sides 224 --batches 32 --repeats 11

Everything is timed in turn in one run, and medians are compared. The contestants, all at the standard tables of quality 75:

- jpegdl: :class:`jpegdl.JpegLayer`;
- (a): the published formula, a softmax over five levels, in eager PyTorch;
- (b): kornia's differentiable JPEG, where kornia is installed (``pip install '.[bench]'`` in a checkout);
- (c): a copy of the batch, the floor.

A second table has all roundings and samplings, tables for each image, and the exact pixels of files (`jpegdl.jpeg`), beside the
soft rounding, at the standard tables of quality 50.

Without a GPU, memory is measured on Linux only.
"""

import argparse
import ctypes
import importlib
import importlib.metadata
import json
import mmap
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import timm
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from jpegdl import functional as F
from jpegdl import jpeg
from jpegdl.extras import installed
from jpegdl.files import replacing, write_together
from jpegdl.kernels import round_trip
from jpegdl.layer import ROUNDINGS, JpegLayer, prepend
from jpegdl.tables import standard_tables

Call = Callable[[], object]
PASSES = ("forward", "+ tables", "+ tables, images")
QUALITY = 75
_COMPARED = (32, 224)  # batch and side of the bar, of the memory table and of ``bits``
_FAMILY = ((16, 224), (32, 224))  # those of the table of roundings and samplings
_LARGEST = 2**27  # numbers in a batch; 512 x 3 x 224 x 224 is the largest below
_LARGEST_OF_OTHERS = 2**24  # (a) holds 48 times its batch
_SECONDS_A_CALL = 20.0  # that repeating one call may take


class Straightforward(nn.Module):
    """(a): Q_d as its formula reads, a softmax over five levels; autograd keeps all tensors for backward."""

    def __init__(self, luma: Tensor, chroma: Tensor, alpha: float = 5.0, bits: int = 8) -> None:
        super().__init__()
        self.luma, self.chroma = nn.Parameter(luma.clone()), nn.Parameter(chroma.clone())
        self.alpha, self.cap = alpha, 2 ** (bits - 1) - 1

    def forward(self, images: Tensor) -> Tensor:
        z = F.images_to_coefficients(images)[..., None]
        q = torch.stack((self.luma, self.chroma, self.chroma))[:, None, None, ..., None]
        first = ((z / q).detach().round() - 2).clamp(-self.cap, self.cap - 4)
        levels = first + torch.arange(5, device=z.device)
        weights = torch.softmax(-self.alpha * (z - q * levels) ** 2, dim=-1)
        quantized = (weights * q * levels).sum(-1)
        return F.coefficients_to_images(quantized, (images.shape[-2], images.shape[-1]))


class Kornia(nn.Module):
    """(b), with both tables as parameters."""

    def __init__(self, luma: Tensor, chroma: Tensor) -> None:
        super().__init__()
        self.luma, self.chroma = nn.Parameter(luma.clone()), nn.Parameter(chroma.clone())
        self._codec = importlib.import_module("kornia.enhance").jpeg_codec_differentiable

    def forward(self, images: Tensor) -> Tensor:
        quality = torch.full((len(images),), float(QUALITY), device=images.device)
        output: Tensor = self._codec(images, quality, self.luma, self.chroma)
        return output


def contestants(device: str) -> dict[str, nn.Module]:
    """The layers that are compared, by name."""
    kinds: dict[str, type[nn.Module]] = {"jpegdl": JpegLayer, "(a) softmax": Straightforward}
    if installed("kornia"):
        kinds["(b) kornia"] = Kornia
    return {name: kind(*standard_tables(QUALITY)).to(device) for name, kind in kinds.items()}


def passes(module: nn.Module, images: Tensor, grad: Tensor) -> dict[str, Call]:
    """Forward; forward + backward to the tables; and to the images as well."""
    wanting = images.detach().clone().requires_grad_()

    def forward() -> None:
        with torch.no_grad():
            module(images)

    def tables() -> None:
        torch.autograd.grad(module(images), list(module.parameters()), grad)

    def both() -> None:
        torch.autograd.grad(module(wanting), [wanting, *module.parameters()], grad)

    return dict(zip(PASSES, (forward, tables, both), strict=True))


def medians(calls: dict[str, Call], repeats: int, device: str) -> dict[str, float]:
    """Median seconds of each call, all in turn, fewer times where they take long."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(repeats + 1):
        for name, call in calls.items():
            if round_ > 3 and sum(seconds[name]) > _SECONDS_A_CALL:
                continue
            _wait(device)
            start = time.perf_counter()
            call()
            _wait(device)
            if round_:  # the first is to warm up
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def peak_extra(name: str, kind: str, device: str) -> float | None:
    """Most memory that a pass holds beyond what was held before it, in batches of 32x3x224x224; for a process of its own.

    None where the system does not report it: on the CPU only Linux does, and not every sandbox of it.
    """
    torch.manual_seed(0)
    count, side = _COMPARED
    images = torch.rand(count, 3, side, side, device=device)
    module = contestants(device)[name]
    small = images[:1].clone()
    passes(module, small, torch.randn_like(small))[kind]()  # to load and compile
    call = passes(module, images, torch.randn_like(images))[kind]
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return (torch.cuda.max_memory_allocated() - before) / images.nbytes
    if not Path("/proc/self/clear_refs").exists():
        return None

    def fresh() -> None:
        mmap.mmap(-1, images.nbytes).write(bytes(images.nbytes))

    if _resident_at_most(fresh) < images.nbytes / 2:
        return None  # the mark is there and does not move
    return _resident_at_most(call) / images.nbytes


def _resident_at_most(call: Call) -> int:
    """Bytes by which this process grows at most while ``call`` runs."""

    def resident(entry: str) -> int:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return 1024 * int(next(line for line in status.splitlines() if line.startswith(entry)).split()[1])

    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)  # what is freed and kept would serve the call unseen
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # resets the high-water mark
    before = resident("VmRSS")
    call()
    return resident("VmHWM") - before


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    gpu = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=["cpu", "cuda"], default=gpu, help="default: the GPU where there is one")
    parser.add_argument("--sides", type=int, nargs="+", default=[32, 64, 224, 512], help="of the square images, in pixels")
    about = "images in a batch; more than 2^27 numbers are left out, of more than 2^24 the layer and (c) alone are measured"
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 64, 512], help=about)
    parser.add_argument("--repeats", type=int, default=7, help="of each measurement, after one to warm up; the median counts")
    parser.add_argument("--no-resnet", action="store_true", help="leave out the steps of ResNet-18")
    parser.add_argument("--output", type=Path, default=Path("runs/bench"), help="folder for bench.md, .json and .png")
    chosen = parser.parse_args(arguments)
    if min(*chosen.sides, *chosen.batches, chosen.repeats) < 1:
        parser.error("--sides, --batches and --repeats must be at least 1")
    found: dict[str, Any] = {"where": _where(chosen.device), "repeats": chosen.repeats, "times": []}
    lines = []
    for line in _measure(chosen, found):
        print(line, flush=True)
        lines.append(line)
    write_together(
        {chosen.output / "bench.md": "\n".join(lines) + "\n", chosen.output / "bench.json": json.dumps(found, indent=1)}
    )
    with replacing(chosen.output / "bench.png") as file:
        _plot(found["times"], found["where"]).savefig(file, dpi=90, facecolor="white")
    print(f"\nWritten to {chosen.output}: bench.md, bench.json, bench.png")


def _where(device: str) -> str:
    machine = torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()}, {torch.get_num_threads()} threads"
    packages = [f"PyTorch {torch.__version__}"]
    if installed("kornia"):
        packages.append(f"kornia {importlib.metadata.version('kornia')}")
    return f"{machine}; {', '.join(packages)}"


def _measure(chosen: argparse.Namespace, found: dict[str, Any]) -> Iterator[str]:
    """The lines of the report, one by one; the numbers go to ``found``."""
    device = chosen.device
    modules = contestants(device)
    columns = [*modules, "(c) copy"]
    ratios = [f"{name.split()[0]} / jpegdl" for name in modules if name != "jpegdl"] + ["jpegdl / (c)"]
    yield f"{found['where']}; medians of {chosen.repeats}, milliseconds"
    yield ""
    yield f"| batch | pass | {' | '.join(columns)} | {' | '.join(ratios)} |"
    yield "|---" * (2 + len(columns) + len(ratios)) + "|"
    shapes = [(batch, side) for side in chosen.sides for batch in chosen.batches if 3 * batch * side * side <= _LARGEST]
    for batch, side in sorted({_COMPARED, *shapes}, key=lambda shape: (shape[1], shape[0])):
        images = torch.rand(batch, 3, side, side, device=device)
        grad = torch.randn_like(images)
        rivals = modules if images.numel() <= _LARGEST_OF_OTHERS else {"jpegdl": modules["jpegdl"]}
        kinds = {name: passes(module, images, grad) for name, module in rivals.items()}
        for kind in PASSES:
            calls: dict[str, Call] = {name: each[kind] for name, each in kinds.items()} | {"(c) copy": images.clone}
            t = medians(calls, chosen.repeats, device)
            found["times"].append({"batch": batch, "side": side, "pass": kind, "seconds": t})
            others = [f"{t[name] / t['jpegdl']:.1f}" if name in t else "" for name in modules if name != "jpegdl"]
            cells = [f"{1e3 * t[name]:.3g}" if name in t else "" for name in columns]
            yield f"| {batch}x3x{side}x{side} | {kind} | {' | '.join(cells + others)} | {t['jpegdl'] / t['(c) copy']:.1f} |"
    count, side = _COMPARED
    yield ""
    yield f"Peak extra memory at {count}x3x{side}x{side}, in batches of {12 * count * side * side / 2**20:.1f} MiB:"
    yield ""
    yield f"| pass | {' | '.join(modules)} |"
    yield "|---" * (1 + len(modules)) + "|"
    found["memory"] = {}
    for kind in PASSES:
        extra = {}
        for name in modules:
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
                extra[name] = process.submit(peak_extra, name, kind, device).result()
        found["memory"][kind] = extra
        yield f"| {kind} | {' | '.join('not measured' if e is None else f'{e:.1f}' for e in extra.values())} |"
    images = torch.rand(count, 3, side, side, device=device)
    layers = {str(bits): JpegLayer(*standard_tables(QUALITY), bits=bits).to(device) for bits in (3, 8, 11, 16, None)}
    calls = {bits: passes(layer, images, images)["forward"] for bits, layer in layers.items()}
    found["bits"] = medians(calls, chosen.repeats, device)
    flat = ", ".join(f"{bits}: {1e3 * seconds:.3g}" for bits, seconds in found["bits"].items())
    yield ""
    yield f"Forward at {count}x3x{side}x{side} by `bits`, ms: {flat}"
    yield ""
    yield from _family(chosen.repeats, device, found)
    if not chosen.no_resnet:
        yield ""
        yield from _resnet(chosen.repeats, device, found)


#: What each way of the family may take forward, in times of another.
_GOALS = {
    "hard": 1.1, "ste": 1.1, "ste-matched": 1.1, "noise": 1.1, "none": 1.1, "sample": 1.6,
    "soft, tables of each image": 1.1, "soft, 4:2:2": 1.15, "soft, 4:2:0": 1.15, "ste, 4:2:0": 1.15, "exact, 4:4:4": 1.3,
}  # fmt: skip


def _family(repeats: int, device: str, found: dict[str, Any]) -> Iterator[str]:
    """Every rounding, sampling and kind of tables, beside the soft rounding of 4:4:4 with tables for all images; 4:2:2 and
    4:2:0 beside the 4:4:4 of the same rounding."""
    luma, chroma = standard_tables(50)
    steps = torch.stack((luma, chroma)).to(device)
    found["family"] = {}
    for count, side in _FAMILY:
        images = torch.rand(count, 3, side // 4, side // 4, device=device)
        images = nn.functional.interpolate(images, size=side, mode="bicubic").clamp(0, 1)
        ways: dict[str, nn.Module] = {rounding: _Way(steps, rounding, "4:4:4") for rounding in ROUNDINGS}
        ways["soft, tables of each image"] = _Way(steps.expand(count, -1, -1, -1).contiguous(), "soft", "4:4:4")
        ways |= {
            f"{rounding}, {name}": _Way(steps, rounding, name) for rounding in ("soft", "ste") for name in ("4:2:2", "4:2:0")
        }
        ways |= {f"exact, {name}": _Exact(luma.to(device), chroma.to(device), name) for name in ("4:4:4", "4:2:0")}
        calls: dict[str, Call] = {"copy": images.clone}
        for name, way in ways.items():
            kinds = passes(way, images, torch.ones_like(images))
            calls |= {f"{name} | {kind}": kinds[kind] for kind in (PASSES[0], PASSES[2])}
        t = medians(calls, repeats, device)
        found["family"][f"{count}x3x{side}x{side}"] = t
        yield f"Roundings and samplings at {count}x3x{side}x{side}, ms (a copy of the batch takes {1e3 * t['copy']:.3g}):"
        yield ""
        yield f"| way | {PASSES[0]} | {PASSES[2]} | beside | forward, times | gradients, times | goal, forward |"
        yield "|---|---|---|---|---|---|---|"
        for name in ways:
            other = name.partition(",")[0] if name.startswith(("soft, 4", "ste, 4")) else "soft"
            forward, both = (t[f"{name} | {kind}"] for kind in (PASSES[0], PASSES[2]))
            times = [f"{now / t[f'{other} | {kind}']:.2f}" for now, kind in ((forward, PASSES[0]), (both, PASSES[2]))]
            goal = _GOALS.get(name, "")
            yield f"| {name} | {1e3 * forward:.3g} | {1e3 * both:.3g} | {other} | {' | '.join(times)} | {goal} |"
        yield ""


class _Way(nn.Module):
    """One rounding and sampling, with steps (2, 8, 8) or (N, 2, 8, 8)."""

    def __init__(self, steps: Tensor, rounding: str, subsampling: str) -> None:
        super().__init__()
        self.steps, self.rounding, self.subsampling = nn.Parameter(steps.clone()), rounding, subsampling

    def forward(self, images: Tensor) -> Tensor:
        alpha = 5 / self.steps.detach().square()
        options: dict[str, Any] = {"rounding": self.rounding, "subsampling": self.subsampling}
        bits = 16 if self.rounding == "none" else None  # so that steps have a gradient
        return round_trip(images, self.steps, alpha, bits=bits, window=5, **options)


class _Exact(nn.Module):
    """The pixels of a file, with the straight-through gradient."""

    def __init__(self, luma: Tensor, chroma: Tensor, subsampling: str) -> None:
        super().__init__()
        self.luma, self.chroma, self.subsampling = nn.Parameter(luma.clone()), nn.Parameter(chroma.clone()), subsampling

    def forward(self, images: Tensor) -> Tensor:
        return jpeg(images, tables=(self.luma, self.chroma), subsampling=self.subsampling)


def _resnet(repeats: int, device: str, found: dict[str, Any]) -> Iterator[str]:
    """A step of ResNet-18 with and without the layer."""
    gpu = device == "cuda"
    batch, layout = (256, torch.channels_last) if gpu else (32, torch.contiguous_format)
    images = torch.rand(batch, 3, 224, 224, device=device).contiguous(memory_format=layout)
    target = torch.randint(0, 1000, (batch,), device=device)
    # Any trainable layer in front makes the first convolution compute its input's gradient; the second row has that alone.
    inputs = {"plain": images, "plain, to its input": images.clone().requires_grad_(), "with the layer": images}
    calls: dict[str, Call] = {}
    for name, given in inputs.items():
        layer = JpegLayer(*standard_tables(QUALITY)) if name == "with the layer" else nn.Identity()
        model = prepend(timm.create_model("resnet18"), layer).to(device)
        model.to(memory_format=layout)  # type: ignore[call-overload]
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)

        def train(model: nn.Module = model, optimizer: torch.optim.Optimizer = optimizer, given: Tensor = given) -> None:
            optimizer.zero_grad()
            with torch.autocast("cuda", torch.bfloat16) if gpu else nullcontext():
                loss = nn.functional.cross_entropy(model(given), target)
            torch.autograd.backward(loss)
            optimizer.step()

        def infer(model: nn.Module = model) -> None:
            with torch.no_grad(), torch.autocast("cuda", torch.bfloat16) if gpu else nullcontext():
                model(images)

        calls |= {f"training, {name}": train, f"inference, {name}": infer}
    found["resnet18"] = t = medians(calls, repeats, device)
    yield f"ResNet-18, {batch}x3x224x224{', bfloat16, channels_last' if gpu else ''}, one step:"
    yield ""
    yield "| step | ms | against plain |"
    yield "|---|---|---|"
    for name, seconds in t.items():
        plain = t[f"{name.partition(',')[0]}, plain"]
        yield f"| {name} | {1e3 * seconds:.0f} | {100 * (seconds / plain - 1):+.1f} % |"


def _plot(times: list[dict[str, Any]], where: str) -> Figure:
    """Time against pixels, a panel for each pass; dashed, what is proportional to pixels."""
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    panels = figure.subplots(1, len(PASSES), sharey=True)
    names = list(dict.fromkeys(name for entry in times for name in entry["seconds"]))
    for axes, kind in zip(panels, PASSES, strict=True):
        for name in names:
            points = sorted(
                (entry["batch"] * entry["side"] ** 2, 1e3 * entry["seconds"][name])
                for entry in times
                if entry["pass"] == kind and name in entry["seconds"]
            )
            axes.loglog(*zip(*points, strict=True), marker="o", markersize=4, label=name)
            if name == "jpegdl":
                pixels, most = points[-1]
                axes.loglog(
                    [points[0][0], pixels], [most * points[0][0] / pixels, most], color="grey", linestyle="--", zorder=0
                )
        axes.set(xlabel="pixels in the batch", title=kind)
        axes.grid(alpha=0.25)
    panels[0].set_ylabel("time, ms")
    panels[0].legend()
    figure.suptitle(f"{where} (dashed: proportional to pixels)", fontsize=9)
    return figure


if __name__ == "__main__":
    main()
