"""How fast `jpegdl.jpeg` is, beside what else there is: `python benchmarks/jpeg.py --threads 2`.

Everything takes turns in one run, call by call, so that whatever else the machine does slows all. Prints a Markdown table for
each batch: the median milliseconds of a call, and how many times those of the soft ``JpegLayer`` that is, forward beside its
forward, with gradients beside its gradients to images and tables. With `--threads 1` it is the time that the processor worked
on it (CPU time), which tells more on a busy machine. Diff-JPEG is its paper's formula, written out in `diff_jpeg.py`; kornia is
there where it is installed; Pillow encodes and decodes, on as many threads, images that are bytes already, and so does
torchvision, on one.
"""

import argparse
import importlib.util
import io
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from diff_jpeg import diff_jpeg
from PIL import Image
from torchvision.transforms import v2

from jpegdl import JpegLayer, jpeg
from jpegdl.kernels.exact import _readable
from jpegdl.tables import standard_tables

QUALITY = 50
SHAPES = ((16, 224), (1, 224), (64, 32), (1, 32))  # batch, side
LAYER = "JpegLayer, soft"


def calls(batch: int, side: int, threads: int) -> dict[str, dict[str, object]]:
    """Of each contestant its passes."""
    images = torch.nn.functional.interpolate(torch.rand(batch, 3, side // 4, side // 4), size=side, mode="bicubic").clamp(0, 1)
    pixels, wanting = (images * 255).round().byte(), images.clone().requires_grad_()
    upstream = torch.randn(batch, 3, side, side)
    qualities = torch.linspace(30, 70, batch)
    layer = JpegLayer.from_quality(QUALITY)

    def forward(call):
        def timed():
            with torch.no_grad():
                call(images)

        return timed

    def gradients(call, *others):
        return lambda: torch.autograd.grad(call(wanting), (wanting, *others), upstream)

    ways = {LAYER: {"forward": forward(layer), "+ images, tables": gradients(layer, *layer.parameters())}}
    for subsampling in ("4:4:4", "4:2:2", "4:2:0"):

        def fixed(x, subsampling=subsampling):
            return jpeg(x, QUALITY, subsampling=subsampling)

        each = qualities.clone().requires_grad_()

        def of_each(x, subsampling=subsampling, each=each):
            return jpeg(x, each, subsampling=subsampling)

        ways[f"jpeg, {subsampling}"] = {"forward": forward(fixed), "+ images": gradients(fixed)}
        ways[f"jpeg, {subsampling}, a quality for each image"] = {
            "forward": forward(of_each),
            "+ images, tables": gradients(of_each, each),
        }
        ways[f"jpeg, {subsampling}, uint8"] = {"forward": lambda s=subsampling: jpeg(pixels, QUALITY, subsampling=s)}
    for name, options in (("gradient='soft'", {"gradient": "soft"}), ("rounding='soft'", {"rounding": "soft"})):

        def other(x, options=options):
            return jpeg(x, QUALITY, **options)

        ways[f"jpeg, 4:2:0, {name}"] = {"forward": forward(other), "+ images": gradients(other)}
    ways["jpeg, 4:2:0, readable path"] = {"forward": lambda: _readable(images, *standard_tables(QUALITY), "4:2:0")}
    each = qualities.clone().requires_grad_()
    others = {"Diff-JPEG's formula, 4:2:0": lambda x: diff_jpeg(x, each)}
    if importlib.util.find_spec("kornia"):
        from kornia.enhance import jpeg_codec_differentiable

        def kornias(x):
            return jpeg_codec_differentiable(x, each)

        others["kornia, 4:2:0"] = kornias
    for name, other in others.items():
        ways[name] = {
            "forward": forward(other),
            "+ images": gradients(other),
            "+ images, tables": gradients(other, each),
        }
    arrays = [image.permute(1, 2, 0).numpy() for image in pixels]
    pool = ThreadPoolExecutor(threads)

    def pillow(array):
        file = io.BytesIO()
        Image.fromarray(array).save(file, "JPEG", quality=QUALITY, subsampling="4:2:0")
        return np.asarray(Image.open(file))

    ways["Pillow, 4:2:0"] = {"forward": lambda: list((pool.map if threads > 1 else map)(pillow, arrays))}
    ways["torchvision's v2.JPEG, 4:2:0"] = {"forward": lambda: [v2.functional.jpeg(image, QUALITY) for image in pixels]}
    return ways


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--only", type=int, nargs=2, metavar=("BATCH", "SIDE"), help="of the sizes measured, this one alone")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    clock = time.thread_time if options.threads == 1 else time.perf_counter
    for batch, side in [tuple(options.only)] if options.only else SHAPES:
        ways = calls(batch, side, options.threads)
        seconds = {(name, kind): [] for name, passes in ways.items() for kind in passes}
        for round_ in range(options.repeats + 1):
            for name, kind in seconds:
                if sum(seconds[name, kind]) > 10:
                    continue
                start = clock()
                ways[name][kind]()
                if round_:  # the first is to warm up
                    seconds[name, kind].append(clock() - start)
        medians = {key: 1000 * statistics.median(values) for key, values in seconds.items()}
        base = {"forward": medians[LAYER, "forward"]}
        base["+ images"] = base["+ images, tables"] = medians[LAYER, "+ images, tables"]
        print(f"\n{batch} x 3 x {side} x {side}, {options.threads} threads\n")
        print("| | " + " | ".join(base) + " |")
        print("|---|" + "---|" * len(base))
        for name, passes in ways.items():
            cells = [
                f"{medians[name, kind]:.3g} ({medians[name, kind] / base[kind]:.2f}x)" if kind in passes else ""
                for kind in base
            ]
            print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
