"""Files that a network chooses and shapes, read by it and by one that had no say: one line of JSON for each image.

    python studies/files/measure.py OUT.jsonl --images ../shared/data/imagenet1000/images.tar --weights FILE [--limit 100]

The middle 224 x 224 pixels of each image are stored, as ``studies/rate`` does it: what readers see, with no scaling in between.
Images that OUT.jsonl has are passed over; a line is written whole or is measured again. ``summarize.py`` makes the tables.
With ``--third`` Lite2 reads as well, and has no say: Lite0 and Lite1 guide files together.
"""

import argparse
import io
import json
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from jpegdl.codec import Encoder, PhotoReader, Shape, each_file, open_reader
from jpegdl.tables import standard_tables
from jpegdl_studies.judges import lite1, lite2

QUALITIES = (6, 8, 10, 15, 20, 30, 50, 65, 80, 90)
Guided = tuple[tuple[float, bool], ...]  # mu, and whether robust
GUIDED: Guided = ((0.25, True), (1.0, True), (0.25, False), (1.0, False), (3.0, False))
BY_BOTH: Guided = ((0.25, True), (1.0, True))
SIDE, BATCH = 224, 8
Photo = tuple[str, int, Image.Image]


def middle(image: Image.Image) -> Image.Image:
    left, top = ((side - SIDE) // 2 for side in image.size)
    return image.convert("RGB").crop((left, top, left + SIDE, top + SIDE))


def images_of(path: Path, limit: int | None, seed: int) -> Iterator[Photo]:
    """(name, class, image): all, or some drawn with a seed."""
    with tarfile.open(path) as tar:
        members = sorted((one for one in tar.getmembers() if one.isfile()), key=lambda one: one.name)
        classes = sorted({Path(one.name).parent.name for one in members})
        order = np.random.RandomState(seed).permutation(len(members))[:limit]
        for index in order:
            member = members[index]
            content = tar.extractfile(member)
            assert content is not None
            with Image.open(io.BytesIO(content.read())) as image:
                yield member.name, classes.index(Path(member.name).parent.name), middle(image)


@torch.no_grad()
def read(readers: dict[str, PhotoReader], original: Image.Image, contents: list[bytes], target: int) -> dict[str, Any]:
    """What each reader says of an image's files: loss, whether it is right, its distance, whether its answer stays."""
    pixels = [torch.from_numpy(np.array(original)).permute(2, 0, 1), *map(decoded, contents)]
    found = {}
    for name, reader in readers.items():
        said = reader.answers(torch.stack([reader.view(one) for one in pixels]))
        own, files = said[:1], said[1:]
        found[name] = {
            "loss": (-files[:, target]).tolist(),
            "right": (files.argmax(1) == target).tolist(),
            "distance": reader.distance(own.expand_as(files), files).tolist(),
            "kept": (files.argmax(1) == own.argmax(1)).tolist(),
            "original": [float(-own[0, target]), bool(own.argmax() == target)],
        }
    return found


def measure(several: list[Photo], readers: dict[str, PhotoReader], guided: Guided) -> list[dict[str, Any]]:
    both = "third" in readers
    guides = [readers["reader"], readers["judge"]] if both else [readers["reader"]]
    images = [image for *_, image in several]
    contents: list[list[bytes]] = [[] for _ in several]
    names = []
    for subsampling in ("4:2:0",) if both else ("4:2:0", "4:4:4"):
        for quality in QUALITIES:
            names.append(f"{subsampling} {quality}")
            encoder = Encoder(*standard_tables(quality), None, subsampling)
            for place, image in enumerate(images):
                contents[place].append(encoder.encode(image))
    seconds = {}
    for mu, robust in guided:
        names.append(f"guided{'-by-both' if both else ''} {mu} {robust}")
        begin = time.process_time()
        shaped = list(each_file(images, guides, Shape(mu=mu, effort=3, robust=robust), threads=1))
        seconds[names[-1]] = (time.process_time() - begin) / len(images)
        for place, file in enumerate(shaped):
            contents[place].append(file.content)
    rows = []
    for (name, target, image), files in zip(several, contents, strict=True):
        bits = [8 * len(content) / SIDE**2 for content in files]
        psnr = [psnr_of(image, content) for content in files]
        row = {"image": name, "target": target, "names": names, "bits_per_pixel": bits, "psnr": psnr, "seconds": seconds}
        rows.append({**row, **read(readers, image, files, target)})
    return rows


def decoded(content: bytes) -> torch.Tensor:
    with Image.open(io.BytesIO(content)) as image:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def psnr_of(image: Image.Image, content: bytes) -> float:
    difference = decoded(content).permute(1, 2, 0).numpy().astype(float) - np.array(image)
    return float(10 * np.log10(255**2 / max(np.mean(difference**2), 1e-9)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True, help="of tf_efficientnet_lite0")
    parser.add_argument("--limit", type=int, default=None, help="images, drawn with --seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--swap", action="store_true", help="Lite1 decides, and Lite0 judges")
    parser.add_argument("--third", action="store_true", help="Lite0 and Lite1 decide, and Lite2 judges")
    parser.add_argument("--no-rounds", action="store_true", help="the choice of quality alone")
    parser.add_argument("--mus", type=float, nargs="+", help="of guided files: these alone, robust")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lite0 = open_reader(f"tf_efficientnet_lite0@{arguments.weights}")
    lite0.resize = SIDE
    pair = [lite0, lite1()]
    readers = dict(zip(("reader", "judge"), reversed(pair) if arguments.swap else pair, strict=True))
    if arguments.third:
        readers["third"] = lite2()
    guided: Guided = () if arguments.no_rounds else BY_BOTH if arguments.third else GUIDED
    guided = guided if arguments.mus is None else tuple((mu, True) for mu in arguments.mus)
    made_with = json.loads(
        json.dumps(
            {
                "networks": {name: reader.record() for name, reader in readers.items()},
                "guided": guided,
                "shape": Shape().record(),
                "seed": arguments.seed,
            }
        )
    )
    done = set()
    if arguments.out.is_file():
        for line in arguments.out.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except ValueError:  # half a line, of a process that was killed
                continue
            if row.get("made_with") != made_with:
                raise SystemExit(f"{arguments.out} has lines of other networks, files or rules: give another file")
            done.add(row["image"])
    batch: list[Photo] = []

    def flush() -> None:
        if batch:
            rows = [{**row, "made_with": made_with} for row in measure(batch, readers, guided)]
            with arguments.out.open("a", encoding="utf-8") as file:
                file.write("".join(f"\n{json.dumps(row)}" for row in rows))
            print(f"{len(done)} images", flush=True)
        batch.clear()

    for name, target, image in images_of(arguments.images, arguments.limit, arguments.seed):
        if name in done:
            continue
        batch.append((name, target, image))
        done.add(name)
        if len(batch) == BATCH:
            flush()
    flush()


if __name__ == "__main__":
    main()
