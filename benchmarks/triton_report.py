"""What Triton and ptxas make of the GPU kernels, without a GPU: `python benchmarks/triton_report.py`, some minutes.

For each rounding and kernel, of 4:4:4 images, and of luma and of chroma of 4:2:0: registers and spilled bytes of a thread, and
machine instructions for each pixel, with those among them by which threads exchange numbers. Those of the backward pass include
what is done once at its end. To see how fast they run, use a GPU: `python benchmarks/layer.py --device cuda`. For another
compute capability or another dtype of images: `python benchmarks/triton_report.py 80 bf16`.
"""

import argparse
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from jpegdl import functional as F
from jpegdl.kernels import cuda
from jpegdl.kernels.cuda_planes import ALL, CHROMA, LUMA
from jpegdl.kernels.cuda_quantizers import EXACT
from jpegdl.settings import ROUNDINGS

TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"
IMAGES = {"images", "output", "grad", "grad_images"}
POINTERS = {"samples": "*fp32", "partial": "*fp32", "q": "*fp32", "alpha": "*fp32", "seed": "*i64", "bad": "*u8"}
EXCHANGES = {"STS", "LDS", "LDSM", "STSM", "SHFL", "BAR"}
PARTS = {"4:4:4": ALL.value, "luma": LUMA.value, "chroma": CHROMA.value}  # the latter two of 4:2:0
EVERY = (*ROUNDINGS, "exact")


def compiled(
    kernel: triton.JITFunction, architecture: int, dtype: str, constants: dict[str, Any]
) -> triton.compiler.CompiledKernel:
    """The kernel for contiguous images whose sides are multiples of 16."""
    constants = {name: value for name, value in constants.items() if name in kernel.arg_names} | dict.fromkeys(
        [name for name in ("sw", "ow", "gw") if name in kernel.arg_names], 1
    )
    signature, attributes = {}, {}
    for i, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
        elif name == "cap":
            signature[name] = "fp32"
        else:
            signature[name] = f"*{dtype}" if name in IMAGES else POINTERS.get(name, "i32")
            if name == "samples" and kernel is cuda._forward_kernel and constants["rounding"] >= EXACT.value:
                signature[name] = "*i8"
            if name not in cuda._SIZES:
                attributes[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, attributes)
    options = {"num_warps": cuda._WARPS} | ({"maxnreg": cuda.REGISTERS} if kernel is cuda._backward_kernel else {})
    return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)


def passes(rounding: str, part: str, **changes: object) -> dict[str, tuple[triton.JITFunction, dict[str, Any]]]:
    """The kernels of a rounding for one part of an image, forward, and backward to all gradients, with a cap and with tables
    for all images; but for ``changes``."""
    soft, drawn = rounding in F.SOFT, rounding in F.RANDOM
    kinds = 2 if soft else 5 if rounding == "ste-matched" else 1
    constants = {
        "part": PARTS[part],
        "rounding": EVERY.index(rounding),
        "channels": 3,
        "down": 1 if part == "4:4:4" else 2,
        "tables": 3,
        "each": False,
        "blocks": cuda.BLOCKS,
        "even": part != "chroma",
        "capped": True,
        "scale": 255.0,
        "whole": rounding == "exact",
        "summed": {"4:4:4": 3, "luma": 1, "chroma": 2}[part],
        "kinds": kinds,
        "want_images": True,
        **({} if rounding == "exact" else {"bad": None}),
        **({} if soft else {"alpha": None}),
        **({} if drawn else {"seed": None}),
        **({"samples": None} if part == "4:4:4" else {}),
        **changes,
    }
    spoil = {"NaN": (cuda._spoil_kernel, constants)} if rounding == "exact" and part == "4:4:4" else {}
    return {"forward": (cuda._forward_kernel, constants), "backward": (cuda._backward_kernel, constants), **spoil}


def report(kernel: triton.compiler.CompiledKernel, pixels: int) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage = subprocess.run(
            [TOOLS / "cuobjdump", "-res-usage", file.name],
            capture_output=True,
            text=True,
            check=True,
            encoding="utf-8",
        ).stdout
        code = subprocess.run(
            [TOOLS / "nvdisasm", file.name], capture_output=True, text=True, check=True, encoding="utf-8"
        ).stdout
    instructions = re.findall(r"^\s*/\*[0-9a-f]{4,5}\*/\s+(?:@!?U?P[0-9T]+ )?([A-Z][A-Z0-9]*)", code, re.MULTILINE)
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", usage).groups()
    exchanges = sum(name in EXCHANGES for name in instructions)
    return f"{registers} / {stack} / {len(instructions) / pixels:.0f} / {exchanges / pixels:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("architecture", type=int, nargs="?", default=90)
    parser.add_argument("dtype", choices=["fp32", "bf16", "fp16"], nargs="?", default="fp32")
    chosen = parser.parse_args()
    print(f"Triton {triton.__version__}, {cuda.BLOCKS} blocks per program, {cuda._WARPS} warps;")
    print("registers / spilled bytes / instructions / exchanges among them\n")
    print(f"| sm_{chosen.architecture}, {chosen.dtype} | kernel | {' | '.join(PARTS)} |")
    print("|---" * (2 + len(PARTS)) + "|")
    for rounding in EVERY:
        for name in ("forward", "backward"):
            cells = []
            for part in PARTS:
                kernel, constants = passes(rounding, part)[name]
                made = compiled(kernel, chosen.architecture, chosen.dtype, constants)
                cells.append(report(made, 32 if part == "chroma" else 8))  # that a thread's 8 samples stand for
            print(f"| {rounding} | {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
