"""How long a run takes beside timm's own training script, on the same images with the same network.

    python benchmarks/timm_script.py --script PATH/TO/train.py --data FOLDER

The script is train.py of https://github.com/huggingface/pytorch-image-models, which timm's wheel does not have; its version
should be that of the timm that is installed. FOLDER has train/CLASS/ and test/CLASS/. Both train on the CPU without the layer:
random resized crops and flips, SGD with momentum, a test after every epoch, checkpoints; with as many workers and threads.
They take turns, --rounds times over, each from the start of its process to its end, once with one epoch and once with more; the
difference is what an epoch takes. jpegdl keeps decoded images from the second epoch on, and timm's script decodes them anew.

Wall time is that of the machine as it was; CPU time, of the process and its workers, depends less on what else runs there.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import timm
import torch

HERE = Path(__file__).resolve().parents[1]


def commands(chosen: argparse.Namespace, epochs: int, folder: str) -> dict[str, list[str]]:
    """The command of each way."""
    size, batch, workers = str(chosen.size), str(chosen.batch), str(chosen.workers)
    classes = sum(entry.is_dir() for entry in (chosen.data / "train").iterdir())
    theirs = ["--data-dir", str(chosen.data), "--train-split", "train", "--val-split", "test", "--model", chosen.model]
    theirs += ["--num-classes", str(classes), "--img-size", size, "--batch-size", batch, "--workers", workers]
    theirs += ["--epochs", str(epochs), "--warmup-epochs", "0", "--opt", "sgd", "--lr", "0.05", "--weight-decay", "5e-4"]
    theirs += ["--color-jitter", "0", "--device", "cpu", "--output", folder, "--crop-pct", "1"]
    ours = ["train", "time", "--output", folder, "--arm", "plain", "--backbone", chosen.model, "--data.path", str(chosen.data)]
    ours += ["--data.size", size, "--data.crop", "resized", "--data.batch_size", batch, "--data.workers", workers]
    ours += [
        "--training.epochs",
        str(epochs),
        "--training.test_every",
        "1",
        "--training.optimizer.name",
        "sgd",
        "--device",
        "cpu",
    ]
    ours += ["--training.optimizer.lr", "0.05", "--training.optimizer.weight_decay", "0.0005"]
    return {
        "timm's train.py": [sys.executable, str(chosen.script), *theirs],
        "jpegdl train": [sys.executable, "-m", "jpegdl", *ours],
    }


def seconds(command: list[str], threads: int) -> tuple[float, float]:
    """Wall and CPU time of one process and its children."""
    environment = {
        **os.environ,
        "PYTHONPATH": f"{HERE / 'src'}",
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
    }
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", check=False)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-1000:]}{done.stderr[-2000:]}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--script", type=Path, required=True, help="timm's train.py")
    parser.add_argument("--data", type=Path, required=True, help="folder with train/CLASS/ and test/CLASS/")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--workers", type=int, default=1, help="processes that load images; timm's script needs one at least")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=4, help="of the longer run; the shorter one has one")
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    found: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for number in range(chosen.rounds):
        for epochs in (1, chosen.epochs):
            with tempfile.TemporaryDirectory() as folder:
                ways = commands(chosen, epochs, folder)
                for way in ways if number % 2 else reversed(ways):
                    found.setdefault((way, epochs), []).append(seconds(ways[way], chosen.threads))
                    print(f"{way}, {epochs} epochs: {found[way, epochs][-1]}", file=sys.stderr, flush=True)
    print(f"{chosen.model}, {chosen.size} pixels, batch {chosen.batch}, {chosen.workers} workers, {chosen.threads} threads;")
    print(f"timm {timm.__version__}, PyTorch {torch.__version__}, {os.cpu_count()} cores; median of {chosen.rounds} rounds\n")
    print("| what | timm's train.py, s | jpegdl train, s | ratio | ratio of each round |")
    print("|---|---|---|---|---|")
    theirs, ours = commands(chosen, 1, "")
    for clock, name in enumerate(("wall", "CPU")):
        times = {key: [each[clock] for each in several] for key, several in found.items()}
        for way in (theirs, ours):
            pairs = zip(times[way, chosen.epochs], times[way, 1], strict=True)
            times[way, 0] = [(long - short) / (chosen.epochs - 1) for long, short in pairs]
        for what, epochs in ((f"run of {chosen.epochs} epochs", chosen.epochs), ("an epoch more", 0)):
            both = times[theirs, epochs], times[ours, epochs]
            ratios = [own / other for other, own in zip(*both, strict=True)]
            cells = [f"{statistics.median(several):.1f}" for several in both]
            cells += [f"x{statistics.median(ratios):.2f}", ", ".join(f"{ratio:.2f}" for ratio in ratios)]
            print(f"| {what}, {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
