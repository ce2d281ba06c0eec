"""How fast the layer is, beside what else there is: `python benchmarks/layer.py` (pip install -e '.[bench]' for kornia).

Interleaved in one run, medians: the layer; (a) the five-level softmax in eager PyTorch as the published formula reads; (b)
kornia's differentiable JPEG at quality 75; (c) a copy of the batch, the floor. Forward, forward + backward to the tables, and
to the tables and the images; peak extra memory; a training and an inference step of ResNet-18 with and without the layer.
Writes layer.md and layer.png into --output.
"""

import argparse
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import kornia
import timm
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from jpegdl import JpegLayer, prepend
from jpegdl import functional as F
from jpegdl.tables import standard_tables

Call = Callable[[], object]


class Straightforward(nn.Module):
    """(a): Q_d as its formula reads, a softmax over five levels; all tensors of autograd kept for backward."""

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

    def forward(self, images: Tensor) -> Tensor:
        quality = torch.full((len(images),), 75.0, device=images.device)
        return kornia.enhance.jpeg_codec_differentiable(images, quality, self.luma, self.chroma)


def medians(calls: dict[str, Call], repeats: int, synchronize: Call) -> dict[str, float]:
    """Seconds of each call, all of them in turn, ``repeats`` times."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(repeats + 1):
        for name, call in calls.items():
            synchronize()
            start = time.perf_counter()
            call()
            synchronize()
            if round_:  # the first is to warm up
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def peak_extra(name: str, kind: str, device: str) -> float:
    """Most memory that a pass holds beyond what was held before it, in batches of 32x3x224x224; in a process of its own."""
    torch.manual_seed(0)
    images = torch.rand(32, 3, 224, 224, device=device)
    module = build()[name].to(device)
    small = images[:1].clone()
    passes(module, small, torch.randn_like(small))[kind]()  # to load and compile
    call = passes(module, images, torch.randn_like(images))[kind]
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return (torch.cuda.max_memory_allocated() - before) / images.nbytes
    status = Path("/proc/self/status")

    def resident(field: str) -> int:
        return 1024 * int(next(line for line in status.read_text().splitlines() if line.startswith(field)).split()[1])

    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    before = resident("VmRSS")
    call()
    return (resident("VmHWM") - before) / images.nbytes


def build() -> dict[str, nn.Module]:
    """The contestants, at the standard tables of quality 75."""
    tables = standard_tables(75)
    return {"jpegdl": JpegLayer(*tables), "(a) softmax": Straightforward(*tables), "(b) kornia": Kornia(*tables)}


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

    return {"forward": forward, "+ tables": tables, "+ tables, images": both}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one size, few repeats, no ResNet-18")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--output", type=Path, default=Path("runs/bench"))
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    synchronize: Call = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    options.output.mkdir(parents=True, exist_ok=True)
    tables = standard_tables(75)
    modules = {name: module.to(device) for name, module in build().items()}
    where = (
        torch.cuda.get_device_name() if device.type == "cuda" else f"{platform.machine()}, {torch.get_num_threads()} threads"
    )
    lines = [
        f"{where}; PyTorch {torch.__version__}, kornia {kornia.__version__}; medians of {options.repeats}, milliseconds",
        "",
    ]
    lines += ["| batch | pass | jpegdl | (a) softmax | (b) kornia | (c) copy | (a) / jpegdl | (b) / jpegdl | jpegdl / (c) |"]
    lines += ["|---|---|---|---|---|---|---|---|---|"]
    shapes = [(32, 224)] if options.quick else [(512, 32), (1, 64), (128, 64), (1, 224), (32, 224), (8, 512)]
    pixels, times = [], []
    for count, side in shapes:
        images = torch.rand(count, 3, side, side, device=device)
        grad = torch.randn_like(images)
        kinds = {name: passes(module, images, grad) for name, module in modules.items()}
        for kind in ("forward", "+ tables", "+ tables, images"):
            calls = {name: each[kind] for name, each in kinds.items()} | {"(c) copy": images.clone}
            t = medians(calls, options.repeats, synchronize)
            ours, copy = t["jpegdl"], t["(c) copy"]
            cells = [f"{1e3 * t[name]:.2f}" for name in calls]
            ratios = [t["(a) softmax"] / ours, t["(b) kornia"] / ours, ours / copy]
            lines.append(f"| {count}x3x{side}x{side} | {kind} | {' | '.join(cells + [f'{r:.1f}' for r in ratios])} |")
            print(lines[-1], flush=True)
            if kind == "forward":
                pixels.append(images.numel())
                times.append(t)
    lines += ["", "Peak extra memory at 32x3x224x224, in batches (18.4 MiB each):", ""]
    lines += ["| pass | jpegdl | (a) softmax | (b) kornia |", "|---|---|---|---|"]
    for kind in ("forward", "+ tables", "+ tables, images"):
        extra = []
        for name in modules:
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
                extra.append(process.submit(peak_extra, name, kind, device.type).result())
        lines.append(f"| {kind} | {' | '.join(f'{e:.1f}' for e in extra)} |")
    images = torch.rand(32, 3, 224, 224, device=device)
    grad = torch.randn_like(images)
    flat = {bits: JpegLayer(*tables, bits=bits).to(device) for bits in (3, 8, 11, 16, None)}
    t = medians(
        {str(bits): passes(layer, images, grad)["forward"] for bits, layer in flat.items()}, options.repeats, synchronize
    )
    lines += ["", "Forward at 32x3x224x224 by `bits`, ms: " + ", ".join(f"{bits}: {1e3 * s:.1f}" for bits, s in t.items())]
    if not options.quick:
        lines += ["", *resnet(device, images, synchronize, options.repeats)]
        figure = Figure(figsize=(6.4, 4), layout="constrained")
        axes = figure.subplots()
        order = sorted(range(len(pixels)), key=pixels.__getitem__)
        for name in times[0]:
            axes.loglog([pixels[i] / 3 for i in order], [1e3 * times[i][name] for i in order], marker="o", label=name)
        axes.set(xlabel="pixels in the batch", ylabel="forward, ms", title=where)
        axes.grid(alpha=0.25)
        axes.legend()
        figure.savefig(options.output / "layer.png", dpi=90)
    text = "\n".join(lines) + "\n"
    (options.output / "layer.md").write_text(text)
    print(f"\n{text}")


def resnet(device: torch.device, images: Tensor, synchronize: Call, repeats: int) -> list[str]:
    """A step of ResNet-18 with and without the layer."""
    target = torch.randint(0, 1000, (len(images),), device=device)
    calls: dict[str, Call] = {}
    # Any trainable layer in front makes the first convolution compute its input's gradient; the second row has that cost alone.
    wanting = images.clone().requires_grad_()
    inputs = {"plain": images, "plain, to its input": wanting, "with the layer": images}
    for name, given in inputs.items():
        layer = JpegLayer(*standard_tables(75)) if name == "with the layer" else nn.Identity()
        model = prepend(timm.create_model("resnet18"), layer).to(device)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)

        def train(model: nn.Module = model, optimizer: torch.optim.Optimizer = optimizer, given: Tensor = given) -> None:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(given), target).backward()
            optimizer.step()

        def infer(model: nn.Module = model) -> None:
            with torch.no_grad():
                model(images)

        calls |= {f"training, {name}": train, f"inference, {name}": infer}
    t = medians(calls, repeats, synchronize)
    lines = ["ResNet-18, 32x3x224x224, one step:", "", "| step | ms | against plain |", "|---|---|---|"]
    for name, seconds in t.items():
        overhead = 100 * (seconds / t[f"{name.partition(',')[0]}, plain"] - 1)
        lines.append(f"| {name} | {1e3 * seconds:.0f} | {overhead:+.1f} % |")
    return lines


if __name__ == "__main__":
    main()
