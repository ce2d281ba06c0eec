"""What Triton and ptxas make of the GPU kernels, without a GPU: `python benchmarks/triton_report.py`.

For each architecture, dtype and kernel: registers and spilled bytes per thread, programs that the registers of a processor
hold, shared memory per program, and machine instructions, by kind, for each of the 24 numbers (8 pixels, 3 colours) that a
thread works on; those of the backward pass include what is done once at its end. To see how fast they run, use a GPU:
`jpegdl bench --device cuda`.
"""

import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from jpegdl.kernels import cuda

NUMBERS_A_THREAD = 24
REGISTERS_A_PROCESSOR = 65536  # compute capability 8 and 9
TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"
POINTERS = {"images": None, "output": None, "grad": None, "grad_images": None, "tables": "*fp32", "partial": "*fp32"}
KINDS = {
    "arithmetic": {"FADD", "FMUL", "FFMA", "FMNMX", "FSEL", "FSETP"},
    "special": {"MUFU"},
    "exchange": {"STS", "LDS", "LDSM", "STSM", "SHFL", "BAR"},
    "memory": {"LDG", "STG", "LDL", "STL"},
}


def compiled(
    kernel: triton.JITFunction, architecture: int, dtype: str, constants: dict[str, object]
) -> triton.compiler.CompiledKernel:
    """The kernel for contiguous images whose sides are multiples of 16."""
    constants = {name: value for name, value in constants.items() if name in kernel.arg_names} | dict.fromkeys(
        [name for name in ("sw", "ow", "gw") if name in kernel.arg_names], 1
    )
    signature, attributes = {}, {}
    for i, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
        elif name == "centre_cap":
            signature[name] = "fp32"
        else:
            signature[name] = (POINTERS[name] or f"*{dtype}") if name in POINTERS else "i32"
            if name not in cuda._SIZES:
                attributes[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, attributes)
    options = {"num_warps": cuda._WARPS} | ({"maxnreg": cuda.REGISTERS} if kernel is cuda._backward_kernel else {})
    return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)


def report(kernel: triton.compiler.CompiledKernel) -> str:
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
    counts = Counter(instructions)
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", usage).groups()
    programs = REGISTERS_A_PROCESSOR // (-(-int(registers) // 8) * 8 * 32 * cuda._WARPS)  # given out 8 per thread at a time
    cells = [registers, stack, str(programs), str(kernel.metadata.shared), f"{len(instructions) / NUMBERS_A_THREAD:.0f}"]
    cells += [f"{sum(counts[name] for name in names) / NUMBERS_A_THREAD:.1f}" for names in KINDS.values()]
    return " | ".join(cells)


def main() -> None:
    print(f"Triton {triton.__version__}, {cuda.BLOCKS} blocks per program, {cuda._WARPS} warps\n")
    print(
        "| target | images | kernel | registers | spilled bytes | programs | shared bytes | instructions per number | "
        f"{' | '.join(KINDS)} |"
    )
    print("|---" * (8 + len(KINDS)) + "|")
    for architecture in (80, 90):
        for dtype in ("fp32", "bf16"):
            constants = {"blocks": cuda.BLOCKS, "whole": True, "capped": True, "scale": 255.0}
            kernels = {
                "forward": (cuda._forward_kernel, constants),
                "backward to the tables": (cuda._backward_kernel, constants | {"want_images": False}),
                "backward to the images too": (cuda._backward_kernel, constants | {"want_images": True}),
            }
            for name, (kernel, values) in kernels.items():
                print(
                    f"| sm_{architecture} | {dtype} | {name} | {report(compiled(kernel, architecture, dtype, values))} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
