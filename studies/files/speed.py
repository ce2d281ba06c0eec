"""Photos a second that ``jpegdl compress --reader`` makes at each effort, for EfficientNet-Lite0, of 224 x 224 pixels.

    python studies/files/speed.py --images ../shared/data/imagenet1000/images.tar --weights FILE [--limit 32] [--threads 2]
        [--rounds 3]

The whole command counts, from opening the reader to the last file in its place; photos are read from PNG files. Efforts take
turns; of each the median is printed, by the clock and by the processor. mu is 1. On a busy machine only the processor's time
tells something.
"""

import argparse
import contextlib
import io
import statistics
import tempfile
import time
from pathlib import Path
from typing import Literal

import torch
from measure import images_of

from jpegdl.codec import CompressConfig, compress_folder

EFFORTS: tuple[Literal[1, 2, 3], ...] = (1, 2, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True, help="of tf_efficientnet_lite0")
    parser.add_argument("--limit", type=int, default=32, help="photos, drawn with a seed")
    parser.add_argument("--threads", type=int, default=2, help="of the encoder and of the reader")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    reader = f"tf_efficientnet_lite0@{arguments.weights.resolve()}"
    seconds: dict[tuple[int, bool], list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        photos = Path(folder) / "photos"
        photos.mkdir()
        for number, (*_, image) in enumerate(images_of(arguments.images, arguments.limit, 0)):
            image.save(photos / f"{number:04}.png")
        for turn in range(arguments.rounds):
            for effort in EFFORTS:
                for robust in (True, False):
                    config = CompressConfig(
                        reader=reader,
                        effort=effort,
                        mu=1.0,
                        robust=robust,
                        threads=arguments.threads,
                        device="cpu",
                    )
                    start = time.perf_counter(), time.process_time()
                    with contextlib.redirect_stderr(io.StringIO()):
                        compress_folder(photos, Path(folder) / f"{turn}-{effort}-{robust}", config)
                    found = time.perf_counter() - start[0], time.process_time() - start[1]
                    seconds.setdefault((effort, robust), []).append(found)
    print("| effort | robust | photos a second | seconds of one core a photo |")
    print("|---|---|---|---|")
    for (made, robust), several in seconds.items():
        clock, processor = (statistics.median(part) / arguments.limit for part in zip(*several, strict=True))
        print(f"| {made} | {'yes' if robust else 'no'} | {1 / clock:.1f} | {processor:.3f} |")


if __name__ == "__main__":
    main()
