"""How long a comparison takes with several jobs, with one, and with other commits, alone or beside busy processes.

    python benchmarks/jobs.py --jobs 1 2 --repeats 3
    python benchmarks/jobs.py --jobs 2 --old PATH/TO/ANOTHER/CHECKOUT --busy 5 --options --training.epochs 5

Every way is timed in turn, `--repeats` times over, from the start of the process to its end, imports and figures included;
the table has the median and all times. Ways of an older checkout are timed without `--jobs`, which it may not know. Measure on
a machine that does nothing else: the last column is the load before each measurement.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]


def measure(source: Path, options: list[str], busy: int) -> tuple[float, float]:
    """Seconds that one comparison takes, and the load of the machine before it."""
    load = os.getloadavg()[0]
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    try:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "jpegdl", "compare", *options, "--output", folder]
            environment = {**os.environ, "PYTHONPATH": str(source / "src")}
            start = time.perf_counter()
            subprocess.run(command, env=environment, cwd=folder, check=True, capture_output=True)
            return time.perf_counter() - start, load
    finally:
        for other in others:
            other.kill()
            other.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, nargs="*", default=[1, 2], help="numbers of jobs to time")
    parser.add_argument("--old", type=Path, nargs="*", default=[], help="checkouts of other commits to time too")
    parser.add_argument("--busy", type=int, nargs="*", default=[0], help="numbers of busy processes beside it")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--options", nargs=argparse.REMAINDER, default=[], help="of the command, after --config demo")
    chosen = parser.parse_args()
    ways = [(path.name, path.resolve(), []) for path in chosen.old]
    ways += [(f"--jobs {jobs}", HERE, ["--jobs", str(jobs)]) for jobs in chosen.jobs]
    found: dict[tuple[int, str], list[tuple[float, float]]] = {}
    for _ in range(chosen.repeats):
        for busy in chosen.busy:
            for name, source, options in ways:
                seconds = measure(source, ["--config", "demo", *chosen.options, *options], busy)
                found.setdefault((busy, name), []).append(seconds)
                print(f"{name}, {busy} busy: {seconds[0]:.1f} s", file=sys.stderr, flush=True)
    print(f"jpegdl compare --config demo {' '.join(chosen.options)}, {os.cpu_count()} cores\n")
    print("| busy processes | way | median, s | to the first | all, s | load before |")
    print("|---|---|---|---|---|---|")
    for (busy, name), times in found.items():
        median = statistics.median(seconds for seconds, _ in times)
        first = statistics.median(seconds for seconds, _ in found[busy, ways[0][0]])
        each, loads = (" ".join(f"{number:.1f}" for number in numbers) for numbers in zip(*times, strict=True))
        print(f"| {busy} | {name} | {median:.1f} | x{median / first:.2f} | {each} | {loads} |")


if __name__ == "__main__":
    main()
