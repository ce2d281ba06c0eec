"""Do files for one network suit those of other families, other crops, and training? The parts that no command of jpegdl does.

    python studies/files/judges.py squares TAR OUT --side 96 [--of-each-class N] [--classes N]
    python studies/files/judges.py ladder PHOTOS OUT
    python studies/files/judges.py like FILES PHOTOS OUT
    python studies/files/judges.py read PHOTOS FILES ANSWERS NAME=NETWORK ... [--views]
    python studies/files/judges.py tables ANSWERS ... --csv CSV
    python studies/files/judges.py seeds ANSWERS ... --csv CSV

squares: photos as lossless squares. ladder: default libjpeg at ten qualities. like: libjpeg at the quality whose files are
nearest in bits. read: what networks say of each photo and of its files, in all folders in FILES that ``jpegdl compress`` made;
with ``--views`` under other crops. tables: what files save for whom. seeds: two ways to train, paired over seeds.
``judges.sh`` calls them in their order. All resume: what is there is not made again.
"""

import argparse
import csv
import io
import os
import sys
import tarfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import QUALITIES, decoded
from PIL import Image
from summarize import Numbers, line
from timm.data.imagenet_info import ImageNetInfo
from torch import Tensor

from jpegdl.codec import CompressConfig, Encoder, PhotoReader, compress_folder, open_reader
from jpegdl.statistics import paired_difference
from jpegdl.tables import standard_tables

STEPS = {f"libjpeg/quality-{quality:02}": quality for quality in QUALITIES}  # folders of the reference's files
BATCH = 32


def squares(tar: Path, out: Path, side: int, of_each_class: int | None, classes: int | None, seed: int) -> None:
    """The middle square of each photo, scaled to one side, as PNG in class folders; some drawn with a seed."""
    if out.is_dir():
        return
    new = out.with_name(f".{out.name}.new")
    with tarfile.open(tar) as opened:
        members: dict[str, list[str]] = defaultdict(list)
        for name in sorted(member.name for member in opened.getmembers() if member.isfile()):
            members[Path(name).parent.name].append(name)
        random = np.random.RandomState(seed)
        names = sorted(members) if classes is None else sorted(random.permutation(sorted(members))[:classes])
        for folder in names:
            (new / folder).mkdir(parents=True, exist_ok=True)
            for name in sorted(random.permutation(members[folder])[:of_each_class]):
                content = opened.extractfile(name)
                assert content is not None
                image = Image.open(io.BytesIO(content.read())).convert("RGB")
                short = min(image.size)
                left, top = ((length - short) // 2 for length in image.size)
                image = image.crop((left, top, left + short, top + short))
                if short != side:
                    image = image.resize((side, side), Image.Resampling.BICUBIC)
                image.save(new / folder / f"{Path(name).stem}.png")
    new.rename(out)


def ladder(photos: Path, out: Path) -> None:
    """Default libjpeg, 4:2:0, with fitted Huffman codes."""
    for name, quality in STEPS.items():
        compress_folder(photos, out / name, CompressConfig(tables=f"standard:{quality}", subsampling="4:2:0"))


def like(files: Path, photos: Path, out: Path) -> None:
    """Default libjpeg at the quality whose files are nearest in bits to other files of the same photos."""
    if len(list(out.rglob("*.jpg"))) == len(list(photos.rglob("*.png"))):
        return
    wanted = sum(path.stat().st_size for path in files.rglob("*.jpg"))
    images = [Image.open(path).convert("RGB") for path in sorted(photos.rglob("*.png"))]

    def size(quality: int) -> int:
        encoder = Encoder(*standard_tables(quality), None, "4:2:0")
        return sum(len(encoder.encode(image)) for image in images)

    low, high = 1, 100
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(middle) <= wanted else (low, middle)
    quality = min((low, high), key=lambda quality: abs(size(quality) - wanted))
    compress_folder(photos, out, CompressConfig(tables=f"standard:{quality}", subsampling="4:2:0"))
    print(f"{out}: quality {quality}, {size(quality)} bytes for {wanted}")


# ------------------------------------------------------------------------------------------------------------------ reading

View = Callable[[PhotoReader, Tensor], Tensor]


def _cut(shift: int) -> View:
    def view(reader: PhotoReader, pixels: Tensor) -> Tensor:
        """The middle, shifted towards a corner; of photos of the size that it scales to."""
        top, left = ((side - reader.size) // 2 + shift for side in pixels.shape[-2:])
        return pixels[:, top : top + reader.size, left : left + reader.size] / 255

    return view


def _scaled(resize: int) -> View:
    def view(reader: PhotoReader, pixels: Tensor) -> Tensor:
        own, reader.resize = reader.resize, resize
        try:
            return reader.view(pixels)
        finally:
            reader.resize = own

    return view


#: What networks that see the middle 224 of 256 pixels may see instead.
VIEWS: dict[str, View] = {
    "own": lambda reader, pixels: reader.view(pixels),
    "whole photo, scaled to 224": _scaled(224),
    "shifted by 16, to the corner": _cut(16),
    "mirrored": lambda reader, pixels: reader.view(pixels).flip(-1),
    "scaled to 288": _scaled(288),
    "shifted by 8": _cut(8),
}


@torch.no_grad()
def _said(reader: PhotoReader, view: View, several: Sequence[Tensor]) -> Tensor:
    parts = (several[start : start + BATCH] for start in range(0, len(several), BATCH))
    return torch.cat([reader.answers(torch.stack([view(reader, pixels) for pixels in part])) for part in parts])


def read(photos: Path, files: Path, answers: Path, networks: list[str], views: bool) -> None:
    """Write what each network says of each photo in each folder of files, an archive of arrays for each."""
    originals = sorted(photos.rglob("*.png"))
    whole = [decoded(path.read_bytes()) for path in originals]
    pixels = sum(image[0].numel() for image in whole)
    folders = [str(path.parent.relative_to(files)) for path in sorted(files.rglob("compress.json"))]
    opened = {name: open_reader(spec, fast=views) for name, _, spec in (network.partition("=") for network in networks)}
    for view_name, view in (VIEWS if views else {"own": VIEWS["own"]}).items():
        for label, reader in opened.items():
            classes = reader.classes or ImageNetInfo().label_names()  # type: ignore[no-untyped-call]
            targets = torch.tensor([classes.index(path.parent.name) for path in originals])
            name = f"{label}, {view_name}" if views else label
            own: Tensor | None = None
            for place in ("originals", *folders):
                out = answers / place / f"{name}.npz"
                if out.is_file():
                    continue
                files_of = [] if place == "originals" else [files / place / path.relative_to(photos) for path in originals]
                if not all(path.with_suffix(".jpg").is_file() for path in files_of):
                    print(f"{files / place} is not whole yet: passed over")
                    continue
                own = _said(reader, view, whole) if own is None else own
                contents = [path.with_suffix(".jpg").read_bytes() for path in files_of]
                seen = _said(reader, view, [decoded(content) for content in contents]) if contents else own
                found = {
                    "bits": np.array([8 * len(content) for content in contents] or [0] * len(whole)) * len(whole) / pixels,
                    "loss": -seen[torch.arange(len(seen)), targets].numpy(),
                    "right": (seen.argmax(1) == targets).numpy(),
                    "kept": (seen.argmax(1) == own.argmax(1)).numpy(),
                    "distance": reader.distance(own, seen).numpy(),
                }
                _keep(out, found)
            print(f"{photos}: {name} has read {len(folders)} folders", flush=True)


def _keep(out: Path, found: dict[str, Any]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    new = out.with_name(f".{os.getpid()}.npz")
    np.savez_compressed(new, **found)
    new.rename(out)


def answers_in(folder: Path) -> dict[str, dict[str, dict[str, Numbers]]]:
    """By network, by folder of files."""
    found: dict[str, dict[str, dict[str, Numbers]]] = defaultdict(dict)
    for path in sorted(folder.rglob("*.npz")):
        with np.load(path) as there:
            found[path.stem][str(path.parent.relative_to(folder))] = {key: there[key].astype(float) for key in there}
    return found


def _reference(by_files: dict[str, dict[str, Numbers]], lost: str) -> tuple[Numbers, Numbers, Numbers]:
    bits, loss, right = (np.array([by_files[step][key] for step in STEPS]) for key in ("bits", lost, "right"))
    return bits, loss, right


def tables(folders: list[Path]) -> Iterator[dict[str, Any]]:
    """What files save for whom, against default libjpeg read by the same network in the same way."""
    for folder in folders:
        for network, by_files in answers_in(folder).items():
            if missing := {"originals", *STEPS} - set(by_files):
                print(f"{folder}: {network} has not read {', '.join(sorted(missing))} yet: left out", file=sys.stderr)
                continue
            original = 100 * by_files["originals"]["right"].mean()
            for name, found in by_files.items():
                if name == "originals" or name in STEPS:
                    continue
                row: dict[str, Any] = {"set": folder.name}
                for lost in ("loss", "distance"):  # the distance needs no labels, and is less of chance
                    parts = [found[key] for key in ("bits", lost, "right", "kept")]
                    there = line(name, network, [*parts, np.full(len(parts[0]), np.nan)], _reference(by_files, lost))
                    same = {key.replace("saved", f"saved at the same {lost}"): value for key, value in there.items()}
                    row |= {key: value for key, value in same.items() if key not in ("loss", "psnr")}
                    row |= {lost: there["loss"]}
                yield row | {"accuracy of originals": f"{original:.1f}"}


def seeds(folders: list[Path], networks: str, baseline: str) -> Iterator[dict[str, Any]]:
    """Two ways to train, NAME-SEED and BASELINE-SEED, on each kind of file, paired over seeds."""
    for folder in folders:
        answers = answers_in(folder)
        pairs = [(name, name.replace(networks, baseline)) for name in answers if name.startswith(f"{networks}-")]
        pairs = [(one, other) for one, other in pairs if other in answers]
        for name in answers[pairs[0][0]] if pairs else ():
            if not all(name in answers[one] for pair in pairs for one in pair):
                continue
            ours, theirs = ([100 * answers[pair[side]][name]["right"].mean() for pair in pairs] for side in (0, 1))
            found = paired_difference(ours, theirs)
            row: dict[str, Any] = {
                "set": folder.name,
                "files": name,
                "bits per pixel": f"{answers[pairs[0][0]][name]['bits'].mean():.3f}",
            }
            row |= {"seeds": len(pairs), baseline: f"{np.mean(theirs):.1f}", networks: f"{np.mean(ours):.1f}"}
            numbers = {"points": found["mean"], "from": found["low"], "to": found["high"]}
            row |= {key: "" if value is None else f"{value:+.1f}" for key, value in numbers.items()}
            yield row | {"p": "" if found["p"] is None else f"{found['p']:.2g}"}


def _write(rows: list[dict[str, Any]], path: Path | None) -> None:
    with path.open("w", encoding="utf-8", newline="") if path else sys.stdout as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


COMMANDS: dict[str, Callable[..., Any]] = {
    "squares": squares,
    "ladder": ladder,
    "like": like,
    "read": read,
    "tables": tables,
    "seeds": seeds,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("squares")
    one.add_argument("tar", type=Path)
    one.add_argument("out", type=Path)
    one.add_argument("--side", type=int, required=True)
    one.add_argument("--of-each-class", type=int, default=None)
    one.add_argument("--classes", type=int, default=None)
    one.add_argument("--seed", type=int, default=0)
    one = commands.add_parser("ladder")
    for name in ("photos", "out"):
        one.add_argument(name, type=Path)
    one = commands.add_parser("like")
    for name in ("files", "photos", "out"):
        one.add_argument(name, type=Path)
    one = commands.add_parser("read")
    for name in ("photos", "files", "answers"):
        one.add_argument(name, type=Path)
    one.add_argument("networks", nargs="+")
    one.add_argument("--views", action="store_true")
    for name in ("tables", "seeds"):
        one = commands.add_parser(name)
        one.add_argument("folders", nargs="+", type=Path)
        one.add_argument("--csv", type=Path, default=None)
    one.add_argument("--networks", default="some-files")
    one.add_argument("--baseline", default="plain")
    given = vars(parser.parse_args())
    command = given.pop("command")
    torch.set_num_threads(1)
    found = COMMANDS[command](**{name: value for name, value in given.items() if name != "csv"})
    if found is not None:
        _write(list(found), given["csv"])


if __name__ == "__main__":
    main()
