"""The CPU kernel of this checkout against that of another: `python benchmarks/kernel_versions.py ../older`.

Each runs in a process of its own; they take turns, call by call, so that whatever else the machine does slows both. Prints a
Markdown table: median and least milliseconds of each, and by how much this checkout is faster. With `--threads 1` it is the
time that the processor worked on it (CPU time), which tells more on a busy machine.

    git worktree add ../older v0.1
    python benchmarks/kernel_versions.py ../older --threads 2
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
SHAPES = ((1, 32), (64, 32), (1, 224), (32, 224))  # batch, side
PASSES = ("forward", "+ tables", "+ tables, images")
TABLES = ("quality 75", "saturating")  # the second: nearly every level lies at the cap, as where steps start far below 1


class Version:
    """A process with the package of one checkout."""

    def __init__(self, checkout: Path, threads: int) -> None:
        command = [sys.executable, __file__, str(checkout), "--threads", str(threads), "--serve"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8")

    def seconds(self, batch: int, side: int, tables: str, kind: str) -> float:
        print(json.dumps([batch, side, tables, kind]), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("a version stopped; what it said is above")
        return float(line)


def serve(checkout: Path, threads: int) -> None:
    """Answer each line, batch, side, tables and pass, with the seconds that a call took."""
    sys.path.insert(0, str(checkout.resolve() / "src"))
    import torch

    import jpegdl
    from jpegdl.tables import standard_tables

    assert Path(jpegdl.__file__).is_relative_to(checkout.resolve()), jpegdl.__file__
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    calls = {}
    clock = time.thread_time if threads == 1 else time.perf_counter

    def prepare(batch, side, tables, kind):
        layer = jpegdl.JpegLayer(*standard_tables(75)) if tables == TABLES[0] else jpegdl.JpegLayer(0.003, 0.003, alpha=5.0)
        images = torch.rand(batch, 3, side, side, requires_grad=kind == PASSES[2])
        upstream = torch.randn(batch, 3, side, side)
        wanted = [tensor for tensor in (images, *layer.parameters()) if tensor.requires_grad]

        def call():
            if kind == PASSES[0]:
                with torch.no_grad():
                    layer(images)
            else:
                torch.autograd.grad(layer(images), wanted, upstream)

        return call

    for line in sys.stdin:
        case = tuple(json.loads(line))
        if case not in calls:
            calls = {case: prepare(*case)}
            calls[case]()
        repeats = max(1, 2**17 // (case[0] * case[1] ** 2 * 3))
        time.sleep(0.01)  # the other's threads spin for a while before they sleep
        calls[case]()
        start = clock()
        for _ in range(repeats):
            calls[case]()
        print((clock() - start) / repeats, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("other", type=Path, help="folder of the other checkout")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.other, options.threads)
        return
    before, now = (Version(checkout, options.threads) for checkout in (options.other, HERE))
    kind = "CPU time" if options.threads == 1 else "wall time"
    print(f"{options.threads} thread(s), {options.repeats} turns; {kind} in ms, median (least)\n")
    print("| batch | tables | pass | before | now | faster |")
    print("|---|---|---|---|---|---|")
    for batch, side in SHAPES:
        for tables in TABLES:
            for kind in PASSES:
                turns = [[each.seconds(batch, side, tables, kind) for each in (before, now)] for _ in range(options.repeats)]
                seconds = list(zip(*turns, strict=True))
                medians, least = [statistics.median(each) for each in seconds], [min(each) for each in seconds]
                cells = [f"{1e3 * m:.3g} ({1e3 * s:.3g})" for m, s in zip(medians, least, strict=True)]
                ratios = f"{medians[0] / medians[1]:.2f} ({least[0] / least[1]:.2f})"
                print(f"| {batch}x3x{side}x{side} | {tables} | {kind} | {' | '.join(cells)} | {ratios} |", flush=True)


if __name__ == "__main__":
    main()
