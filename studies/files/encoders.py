"""Other encoders, read by the same two networks: one line of JSON for each image, of the kind that ``measure.py`` writes.

    pip install jpeglib pyjpegli mozjpeg-lossless-optimization scikit-image
    python studies/files/encoders.py OUT.jsonl --images ../shared/data/imagenet1000/images.tar --weights FILE [--limit 100]

Beside what ``measure.py`` writes a line has the SSIM of each file (of luma, 7 x 7 windows), the entropy of the image (bits of a
pixel's luma, from its histogram), the class that each network gives the original, and versions. mozjpeg is the 4.0.3 in
jpeglib: 4:2:0, progressive, trellis, its own default table. jpegli is pyjpegli's, 4:2:0, the smaller of its file and the same
made progressive by mozjpeg-lossless-optimization. WebP (method 4) and AVIF (speed 6, one thread) are Pillow's.
Images that OUT.jsonl has are passed over; what is not installed is left out, in all lines or in none.
"""

import argparse
import importlib
import importlib.metadata
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import QUALITIES, SIDE, decoded, images_of, psnr_of, read
from PIL import Image, features
from skimage.metrics import structural_similarity

from jpegdl.codec import PhotoReader, open_reader
from jpegdl_studies.judges import lite1

Encode = Callable[[Image.Image, int], bytes]


def pillow(kind: str, image: Image.Image, quality: int, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, quality=quality, **options)
    return file.getvalue()


def mozjpeg(image: Image.Image, quality: int) -> bytes:
    jpeglib: Any = importlib.import_module("jpeglib")
    jpeglib.version.set("mozjpeg403")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file.jpg"
        jpeglib.from_spatial(np.array(image)).write_spatial(str(path), qt=quality)
        return path.read_bytes()


def jpegli(image: Image.Image, quality: int) -> bytes:
    encoder: Any = importlib.import_module("pyjpegli")
    progressive: Any = importlib.import_module("mozjpeg_lossless_optimization")
    content: bytes = encoder.encode(image.tobytes(), *image.size, quality)
    smaller: bytes = progressive.optimize(content)
    return min(content, smaller, key=len)


#: Name, then what encodes, and at which settings: from 0.2 bits per pixel, or the least there is, to 2 and beyond.
ENCODERS: dict[str, tuple[Encode, tuple[int, ...]]] = {
    "4:2:0": (partial(pillow, "jpeg", optimize=True, subsampling="4:2:0"), (4, *QUALITIES)),
    "4:4:4": (partial(pillow, "jpeg", optimize=True, subsampling="4:4:4"), (3, 6, 10, 20, 40, 65, 75)),
    "progressive 4:2:0": (partial(pillow, "jpeg", progressive=True, optimize=True, subsampling="4:2:0"), (4, *QUALITIES)),
    "progressive 4:4:4": (
        partial(pillow, "jpeg", progressive=True, optimize=True, subsampling="4:4:4"),
        (3, 6, 10, 20, 40, 65, 75),
    ),
    "mozjpeg": (mozjpeg, (6, 9, 14, 22, 36, 55, 75, 86)),
    "jpegli": (jpegli, (1, 3, 5, 10, 20, 35, 55, 70, 85)),
    "webp": (partial(pillow, "webp", method=4), (0, 1, 3, 8, 15, 30, 55, 75, 85)),
    "avif": (partial(pillow, "avif", speed=6, max_threads=1), (10, 20, 28, 36, 45, 54, 64, 77)),
}


def there() -> Iterator[str]:
    """Those that work here; of others a line says why not."""
    grey = Image.new("RGB", (32, 32), (120, 130, 140))
    for name, (encode, settings) in ENCODERS.items():
        try:
            encode(grey, settings[0])
        except (ImportError, OSError, KeyError, ValueError) as error:
            print(f"{name} is left out: {type(error).__name__}: {error}", file=sys.stderr)
        else:
            yield name


def versions() -> dict[str, str]:
    found = {"libjpeg-turbo": features.version_feature("libjpeg_turbo")}
    found |= {f"Pillow's {name}": features.version_module(name) for name in ("webp", "avif") if features.check(name)}
    for package in ("pillow", "jpeglib", "pyjpegli", "mozjpeg-lossless-optimization", "scikit-image", "torch"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {name: str(version) for name, version in found.items()}


def entropy(image: Image.Image) -> float:
    shares = np.array(image.convert("L").histogram()) / (image.width * image.height)
    shares = shares[shares > 0]
    return float(-(shares * np.log2(shares)).sum())


def ssim_of(image: Image.Image, content: bytes) -> float:
    with Image.open(io.BytesIO(content)) as file:
        pair = (np.array(one.convert("L")) for one in (image, file))
        return float(structural_similarity(*pair, data_range=255))  # type: ignore[no-untyped-call]


def measure(name: str, target: int, image: Image.Image, encoders: list[str], readers: dict[str, PhotoReader]) -> dict[str, Any]:
    names, contents, seconds = [], [], {}
    for encoder in encoders:
        encode, settings = ENCODERS[encoder]
        for setting in settings:
            names.append(f"{encoder} {setting}")
            begin = time.process_time()
            contents.append(encode(image, setting))
            seconds[names[-1]] = round(time.process_time() - begin, 5)
    places: dict[bytes, int] = {}  # what has the same pixels is read once
    place = [places.setdefault(decoded(content).numpy().tobytes(), len(places)) for content in contents]
    once = [contents[place.index(number)] for number in range(len(places))]
    psnr, ssim = [psnr_of(image, content) for content in once], [ssim_of(image, content) for content in once]
    said = read(readers, image, once, target)
    for found in said.values():
        found |= {what: [found[what][number] for number in place] for what in found if what != "original"}
    original = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    with torch.no_grad():
        answers = {who: int(one.answers(one.view(original)[None]).argmax()) for who, one in readers.items()}
    return {
        **{"image": name, "target": target, "names": names},
        "bits_per_pixel": [8 * len(content) / SIDE**2 for content in contents],
        **{"psnr": [psnr[number] for number in place], "ssim": [ssim[number] for number in place]},
        **{"seconds": seconds, "entropy": entropy(image), "answers": answers, "versions": versions(), **said},
    }


def found_already(path: Path, names: list[str]) -> set[str]:
    """Images that the file has; it must be of the same encoders in the same versions."""
    done = set()
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
        except ValueError:  # half a line, of a process that was killed; or none
            continue
        if row.get("names") != names or row.get("versions") != versions():
            raise SystemExit(
                f"{path} was begun with other encoders, settings or versions, {row.get('versions')}; here are {versions()}: "
                "install those, or write to another file"
            )
        done.add(row["image"])
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True, help="of tf_efficientnet_lite0")
    parser.add_argument("--limit", type=int, default=None, help="images, drawn with --seed")
    parser.add_argument("--seed", type=int, default=0, help="the order of images, as in measure.py")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    encoders = list(there())
    names = [f"{encoder} {setting}" for encoder in encoders for setting in ENCODERS[encoder][1]]
    done = found_already(arguments.out, names)
    lite0 = open_reader(f"tf_efficientnet_lite0@{arguments.weights}")
    lite0.resize = SIDE
    readers = {"reader": lite0, "judge": lite1()}
    for name, target, image in images_of(arguments.images, arguments.limit, arguments.seed):
        if name in done:
            continue
        row = measure(name, target, image, encoders, readers)
        with arguments.out.open("a", encoding="utf-8") as file:
            file.write(f"\n{json.dumps(row)}")
        done.add(name)
        print(f"{len(done)} images", flush=True)


if __name__ == "__main__":
    main()
