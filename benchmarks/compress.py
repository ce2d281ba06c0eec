"""Images per second of `compress_folder` against Pillow alone in one run, and its memory meanwhile.

Makes a folder of photographs as JPEG files (500x375, by default 2,000 of 40 kinds), and encodes it in turns with
`compress_folder` and with a bare loop: as many threads, Pillow's `save` with the same standard tables, plain files, nothing
kept and nothing checked. Both read, decode, encode and write. With `--exact` a third one writes exact levels by jpeglib. Prints
a Markdown table, in which on a busy machine the processor's time tells more than the clock, and the memory in use (resident,
MB) after each tenth of the last run.

    python benchmarks/compress.py --images 10000 --threads 2
"""

import argparse
import shutil
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from jpegdl.codec import CompressConfig, compress_folder
from jpegdl.data import PHOTOGRAPHS, photograph
from jpegdl.tables import standard_tables

SIZE = (500, 375)
BASE = "Pillow alone"
KINDS = 40  # different images; the rest are copies of them


def make(folder: Path, count: int) -> None:
    """Photographs in folders of 1,000, all different files but of a few kinds."""
    kinds = []
    for i in range(min(KINDS, count)):
        image = (
            Image.fromarray(photograph(PHOTOGRAPHS[i % len(PHOTOGRAPHS)])).convert("RGB").rotate(5 * (i // len(PHOTOGRAPHS)))
        )
        image.resize(SIZE).save(folder / "kind.jpg", quality=92)
        kinds.append((folder / "kind.jpg").read_bytes())
    (folder / "kind.jpg").unlink()
    for i in range(count):
        place = folder / f"{i // 1000:03d}"
        place.mkdir(exist_ok=True)
        (place / f"{i:06d}.jpg").write_bytes(kinds[i % len(kinds)])


def timed(call, *arguments) -> tuple[float, float]:
    """Seconds by the clock, and on the processor."""
    start = time.perf_counter(), time.process_time()
    call(*arguments)
    return time.perf_counter() - start[0], time.process_time() - start[1]


def bare(source: Path, target: Path, threads: int) -> None:
    """A loop of Pillow alone."""
    qtables = [[int(q) for q in table.flatten()] for table in standard_tables(75)]

    def one(file: Path) -> None:
        with Image.open(file) as image:
            image.save(target / file.relative_to(source), "jpeg", qtables=qtables, subsampling=0)

    for folder in source.iterdir():
        (target / folder.name).mkdir(parents=True)
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(one, sorted(source.rglob("*.jpg"))):
            pass


def resident() -> float:
    """MB of memory that this process has in use now (Linux)."""
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * 4096 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--exact", action="store_true")
    parser.add_argument("--folder", type=Path, default=None, help="where to work (default: the system's temporary folder)")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=chosen.folder) as place:
        source, target = Path(place) / "in", Path(place) / "out"
        source.mkdir()
        make(source, chosen.images)
        ways = {BASE: None, "compress_folder": {}, "compress_folder, exact": {"exact": True}}
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways if chosen.exact or "exact" not in name}
        memory: list[float] = []
        for _ in range(chosen.rounds):
            for name in seconds:
                shutil.rmtree(target, ignore_errors=True)
                if ways[name] is None:
                    seconds[name].append(timed(bare, source, target, chosen.threads))
                    continue
                memory = []

                def look(standing, memory=memory):
                    if standing.done % max(1, chosen.images // 10) == 0:
                        memory.append(resident())

                config = CompressConfig(tables="standard:75", optimize=False, threads=chosen.threads, **ways[name])
                seconds[name].append(timed(compress_folder, source, target, config, look))
        print(f"{chosen.images} images of {SIZE[0]}x{SIZE[1]}, {chosen.threads} threads, {chosen.rounds} rounds\n")
        print("| | images/s, median | best | against Pillow alone | CPU ms an image | against Pillow alone |")
        print("|---|---|---|---|---|---|")
        wall, cpu = ({name: statistics.median(pair[i] for pair in pairs) for name, pairs in seconds.items()} for i in (0, 1))
        for name, pairs in seconds.items():
            best = chosen.images / min(pair[0] for pair in pairs)
            print(
                f"| {name} | {chosen.images / wall[name]:.0f} | {best:.0f} | {wall[BASE] / wall[name]:.2f} "
                f"| {1000 * cpu[name] / chosen.images:.2f} | {cpu[BASE] / cpu[name]:.2f} |"
            )
        print(f"\nMB in use: {', '.join(f'{value:.0f}' for value in memory)}")


if __name__ == "__main__":
    main()
