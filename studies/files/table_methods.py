"""Four ways to one pair of tables for all files, compared once: found on one half of the images, tested on the other.

    python studies/files/table_methods.py OUT.jsonl --images ../shared/data/imagenet1000/images.tar --weights FILE [--second]

All search for tables of least mean KL (EfficientNet-Lite0's answer on the original, on the file) + mu x bits per pixel of real
files, 4:2:0 with fitted Huffman codes, on the same images without labels, from the same standard tables:

- gradient: along that of ``jpegdl.jpeg`` and of its bits, straight through the rounding; after each pass over the images the
  scale by cost, since the gradient says little of it;
- sensitivity: entries in proportion to a power (-1, -1/2, -1/4) of how much the loss against the network's own first answer
  feels each frequency, the power and the scale by cost;
- sorted random search: entries drawn from a range around the start and sorted along the zigzag (after arXiv 2003.02874);
- coordinate search, as ``jpegdl.codec.search_tables``: six bands of frequencies of each table, up or down by 40 %, then by
  20 %, as long as it helps.

A line for each pair of tables that was found, and for each pair that was tested; what is there is not computed again.
"""

import argparse
import csv
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from measure import QUALITIES, SIDE, decoded, images_of
from PIL import Image
from summarize import line
from torch import Tensor, nn

from jpegdl import jpeg, prepend
from jpegdl.calibrate import sensitivity_tables
from jpegdl.codec import Encoder, FileCost, PhotoReader, file_tables, open_reader, search_tables
from jpegdl.functional import ZIGZAG
from jpegdl.tables import standard_tables

NETWORK = "tf_efficientnet_lite0"
MUS = (2.0, 0.5)
TRIES = 30  # files of all images, of random and of coordinate search
PASSES, BATCH, RATE = 4, 8, 0.1  # of the gradient: over the images, images for each step, how far a step moves logarithms
Found = tuple[Tensor, Tensor]
Pixels = list[Image.Image]


def unit(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def units(cost: FileCost) -> Tensor:
    return torch.stack([unit(photo) for photo in cost.photos if isinstance(photo, Image.Image)])


def gradient(cost: FileCost, start: Found, weights: Path) -> Found:
    images, standard = units(cost), torch.stack(start)
    best, found, logs = cost(*standard)[0], standard, standard.log().requires_grad_()
    optimizer = torch.optim.Adam([logs], RATE)
    total = PASSES * -(-len(cost.photos) // BATCH)
    slower = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total)
    for number in range(PASSES):
        order = np.random.default_rng((0, number)).permutation(len(cost.photos)).tolist()
        for first in range(0, len(order), BATCH):
            optimizer.zero_grad()
            add_gradient(cost, images, order[first : first + BATCH], logs)
            optimizer.step()
            slower.step()
            with torch.no_grad():
                logs.clamp_(0, math.log(255))
        now, there = best_scale(cost, logs.detach().exp())
        with torch.no_grad():
            logs.copy_(there.log())
        if now < best:
            best, found = now, there
    return found[0], found[1]


def add_gradient(cost: FileCost, images: Tensor, numbers: list[int], logs: Tensor) -> None:
    (reader,) = cost.readers
    luma, chroma = logs.exp().clamp(1, 255)  # of which exp(log) may be a little more
    files, bits = jpeg(images[numbers], tables=(luma, chroma), gradient="ste-matched", return_bits="optimal")
    seen = torch.stack([reader.view(file) for file in files])
    own = torch.stack([answers for (answers,) in cost.own(numbers)])
    (cost.mu * bits / SIDE**2 + reader.distance(own, reader.answers(seen))).mean().backward()  # type: ignore[no-untyped-call]


def best_scale(cost: FileCost, steps: Tensor) -> tuple[float, Tensor]:
    """What tables (2, 8, 8) cost that are finer or coarser than these, as far as it falls, and these tables."""
    best, found = cost(*steps)[0], steps
    for factor in (2**-0.25, 2**0.25):
        improved = False
        while (now := cost(*(there := (found * factor).clamp(1, 255)))[0]) < best:
            best, found, improved = now, there, True
        if improved:
            break
    return best, found


def sensitivity(cost: FileCost, start: Found, weights: Path) -> Found:
    network = timm.create_model(NETWORK, checkpoint_path=str(weights))
    answers = torch.stack([one[0] for one in cost.own(range(len(cost.photos)))]).argmax(1)
    batches = list(zip(torch.split(units(cost), 8), torch.split(answers, 8), strict=True))
    shape = sensitivity_tables(prepend(network, nn.Identity()), batches, q_max=1.0)
    best, least = start, math.inf
    for power in (1.0, 0.5, 0.25):
        luma, chroma = (table.pow(power) for table in shape)
        scale = float((start[0].log().mean() - luma.log().mean()).exp())
        seen: dict[int, float] = {}

        def at(place: int, pair: Found = (luma, chroma), scale: float = scale, seen: dict[int, float] = seen) -> float:
            if place not in seen:
                seen[place] = cost(*scaled(pair, scale * 2 ** (place / 2)))[0]
            return seen[place]

        place = 0
        for way in (-1, 1):
            while at(place + way) < at(place):
                place += way
        if at(place) < least:
            best, least = scaled((luma, chroma), scale * 2 ** (place / 2)), at(place)
    return best


def scaled(pair: Found, scale: float) -> Found:
    return (pair[0] * scale).clamp(1, 255), (pair[1] * scale).clamp(1, 255)


def sorted_random(cost: FileCost, start: Found, weights: Path) -> Found:
    random = np.random.default_rng(0)
    best, least = start, math.inf
    for _ in range(TRIES):
        pair = []
        for table in start:
            middle = float(table.log().mean()) + math.log(2) * random.uniform(-0.75, 0.75)
            width = math.log(2) * random.uniform(0.25, 2.5)
            entries = np.sort(random.uniform(middle - width, middle + width, 64))
            drawn = torch.zeros(64)
            drawn[list(ZIGZAG)] = torch.from_numpy(entries).float()
            pair.append(drawn.view(8, 8).exp().clamp(1, 255))
        now = cost(*pair)[0]
        if now < least:
            best, least = (pair[0], pair[1]), now
    return best


def coordinate(cost: FileCost, start: Found, weights: Path) -> Found:
    found = search_tables(cost.photos, cost.readers, cost.mu, subsampling=cost.subsampling, tries=TRIES)
    return found.luma, found.chroma


METHODS: dict[str, Callable[[FileCost, Found, Path], Found]] = {
    "gradient": gradient,
    "sensitivity": sensitivity,
    "sorted random search": sorted_random,
    "coordinate search": coordinate,
}


class Lines:
    """What the file has, by what it is of; half a line, of a process that was killed, is passed over."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.there: dict[tuple[Any, ...], dict[str, Any]] = {}
        for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
            try:
                row = json.loads(text)
            except ValueError:
                continue
            self.there[tuple(row["of"])] = row

    def get(self, of: tuple[Any, ...], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        if of not in self.there:
            self.there[of] = {"of": of, **make()}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(f"\n{json.dumps(self.there[of])}")
            print(*of, {name: value for name, value in self.there[of].items() if isinstance(value, float)}, flush=True)
        return self.there[of]


def search(
    method: str, photos: Pixels, reader: PhotoReader, mu: float, weights: Path, lines: Lines, of: tuple[Any, ...]
) -> dict[str, Any]:
    cost = FileCost(photos, [reader], mu)
    start = lines.get(("start", *of), lambda: {"quality": cost.quality()})["quality"]
    begin = time.process_time()
    luma, chroma = file_tables(*METHODS[method](cost, standard_tables(start), weights))
    seconds = time.process_time() - begin
    return {
        **{
            "cost": cost(luma, chroma)[0],
            "standard": cost(*standard_tables(start))[0],
            "seconds": seconds,
            "images": len(photos),
        },
        **{"luma": luma.int().tolist(), "chroma": chroma.int().tolist()},
    }


@torch.no_grad()
def test(pair: Found, images: Pixels, targets: list[int], reader: PhotoReader) -> dict[str, Any]:
    encoder = Encoder(*pair, None, "4:2:0")
    found: dict[str, list[float]] = {"bits": [], "loss": [], "right": [], "kept": [], "distance": []}
    for first in range(0, len(images), 32):
        some, target = images[first : first + 32], torch.tensor(targets[first : first + 32])
        contents = [encoder.encode(image) for image in some]
        own = reader.answers(torch.stack([unit(image) for image in some]))
        said = reader.answers(torch.stack([decoded(content).float() / 255 for content in contents]))
        found["bits"] += [8 * len(content) / SIDE**2 for content in contents]
        found["loss"] += (-said.gather(1, target[:, None])[:, 0]).tolist()
        found["right"] += (said.argmax(1) == target).float().tolist()
        found["kept"] += (said.argmax(1) == own.argmax(1)).float().tolist()
        found["distance"] += reader.distance(own, said).tolist()
    return {name: [round(one, 6) for one in values] for name, values in found.items()}


def table(lines: Lines, half: str, images: int) -> Iterator[dict[str, Any]]:
    """Bits saved at the same loss, and points at the same rate, against standard tables."""
    tested = {of[3:]: row for of, row in lines.there.items() if of[:3] == ("test", half, images)}
    if any(("standard", quality) not in tested for quality in QUALITIES):  # not measured yet
        return
    standard = [tested["standard", quality] for quality in QUALITIES]
    bits, loss, right = (np.array([row[name] for row in standard], dtype=float) for name in ("bits", "loss", "right"))
    for (method, mu), row in tested.items():
        if method == "standard":
            continue
        parts = [*(np.array(row[name]) for name in ("bits", "loss", "right", "kept")), np.full(images, np.nan)]
        found = lines.there["search", half, method, mu]
        more = {"cost where searched": f"{found['cost']:.3f}", "of standard tables": f"{found['standard']:.3f}"}
        done = line(f"{method}, mu {mu}", f"Lite0, {half} half", parts, (bits, loss, right))
        del done["psnr"]
        yield {**done, **more, "seconds": f"{found['seconds']:.0f}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True, help=f"of {NETWORK}")
    parser.add_argument("--count", type=int, default=64, help="images to search on")
    parser.add_argument("--second", action="store_true", help="search on the second half, and test on the first")
    parser.add_argument("--limit", type=int, default=None, help="images of the other half to test on")
    parser.add_argument("--csv", type=Path, default=None)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    reader = open_reader(f"{NETWORK}@{arguments.weights}")
    reader.resize = SIDE
    every = list(images_of(arguments.images, None, 0))
    halves = every[: len(every) // 2], every[len(every) // 2 :]
    own, other = reversed(halves) if arguments.second else halves
    half = "second" if arguments.second else "first"
    photos = [image for *_, image in own[: arguments.count]]
    tests = [image for *_, image in other[: arguments.limit]]
    targets = [target for _, target, _ in other[: arguments.limit]]
    lines = Lines(arguments.out)
    for quality in QUALITIES:
        make = partial(test, standard_tables(quality), tests, targets, reader)
        lines.get(("test", half, len(tests), "standard", quality), make)
    for mu in MUS:
        for method in METHODS:
            make = partial(search, method, photos, reader, mu, arguments.weights, lines, (half, mu))
            found = lines.get(("search", half, method, mu), make)
            pair = torch.tensor(found["luma"]).float(), torch.tensor(found["chroma"]).float()
            lines.get(("test", half, len(tests), method, mu), partial(test, pair, tests, targets, reader))
    rows = [row for each in ("first", "second") for row in table(lines, each, len(tests))]
    with arguments.csv.open("w", encoding="utf-8", newline="") if arguments.csv else sys.stdout as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
