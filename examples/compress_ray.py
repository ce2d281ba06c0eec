"""Files for a network on many machines: the work of ``jpegdl compress --reader`` inside Ray Data's ``map_batches``.

    python examples/compress_ray.py IN OUT --reader MODEL [--judge MODEL] [--mu 1] [--effort 1] [--workers 2]

IN and OUT are folders that all machines see. A photo whose file is there is passed over: run it again after whatever has
stopped it. One that cannot be read is named at the end, and tried again the next time. Photos are turned as their EXIF
orientation says; other metadata is not kept. ``summary.json`` in OUT is one over all files, those of earlier calls too, so
``settings.json`` keeps what they were made with, and other settings are refused.
"""

import argparse
import io
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from jpegdl.codec import Shape, ShapedFile, each_file, open_readers
from jpegdl.codec.read_image import BAD, Other, open_picture, why
from jpegdl.codec.readers import NotFinite, upright
from jpegdl.data.sources.listing import is_image
from jpegdl.errors import UsageError
from jpegdl.files import write_json

OWN = ("settings.json", "summary.json")  # in OUT, of no photo


class Compressor:
    """Makes the files of a batch of paths; each worker opens the networks once."""

    def __init__(self, source: str, target: str, reader: str, judge: str | None, mu: float, effort: int) -> None:
        self.source, self.target = Path(source), Path(target)
        self.readers = open_readers(reader.split(","))
        self.judge = open_readers([judge])[0] if judge else None
        self.shape = Shape(mu=mu, effort=effort)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        photos: dict[str, torch.Tensor] = {}
        for name in map(str, batch["name"]):
            try:
                photos[name] = self._opened(name)
            except (*BAD, Other) as error:
                self._write(name, {"why": "is no image" if isinstance(error, Other) else why(error)})
        files = self._files(list(photos.values()))
        for (name, photo), file in zip(photos.items(), files, strict=True):
            if isinstance(file, str):
                self._write(name, {"why": file})
                continue
            known = {"quality": file.quality, "rounds": file.rounds, "bits": 8 * len(file.content)}
            known |= {"pixels": photo.shape[1] * photo.shape[2], "kept": file.kept[0], "distance": file.distance}
            if self.judge is not None:
                known["judge_kept"] = self._same(photo, file.content)
            self._write(name, known, file.content)
        return {"name": batch["name"]}

    def _opened(self, name: str) -> torch.Tensor:
        """(1 or 3, H, W) uint8: the pixels of a photo, upright."""
        with (self.source / name).open("rb") as stream:
            picture = open_picture(stream, name)
        pixels = torch.from_numpy(np.array(picture.image))
        return upright(pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1), picture.note)

    def _files(self, photos: Sequence[torch.Tensor]) -> list[ShapedFile | str]:
        """The file of each photo, or why it has none."""
        try:
            return list(each_file(photos, self.readers, self.shape))
        except (NotFinite, ValueError) as error:  # of one of them, which is found alone
            return [str(error)] if len(photos) == 1 else [file for photo in photos for file in self._files([photo])]

    def _write(self, name: str, known: dict[str, Any], content: bytes | None = None) -> None:
        place = self.target / Path(name).with_suffix(".jpg")
        place.parent.mkdir(parents=True, exist_ok=True)
        # The photo's file last: where it is, all is known of it. Both are there whole or not at all.
        for path, text in ((place.with_suffix(".json"), json.dumps({"name": name, **known}).encode()), (place, content)):
            if text is not None:
                part = path.with_name(f"{path.name}.part")
                part.write_bytes(text)
                part.replace(path)

    @torch.no_grad()
    def _same(self, photo: torch.Tensor, content: bytes) -> bool:
        """Whether the judge's first answer on the file is that on the photo."""
        with Image.open(io.BytesIO(content)) as file:
            seen = torch.from_numpy(np.array(file.convert("RGB"))).permute(2, 0, 1)
        both = torch.stack([self.judge.view(image) for image in (photo.expand(3, -1, -1), seen)])
        first, second = self.judge.answers(both).argmax(1).tolist()
        return first == second


def missing(source: Path, target: Path) -> list[str]:
    """Photos that have no file yet.

    Raises:
        UsageError: two that would have one, or one whose notes would be in the place of files of OUT.
    """
    names = sorted(str(path.relative_to(source)) for path in source.rglob("*") if path.is_file() and is_image(path.name))
    files = [str(Path(name).with_suffix(".jpg")) for name in names]
    if twice := [name for name, count in Counter(files).items() if count > 1]:
        rivals = [name for name, file in zip(names, files, strict=True) if file == twice[0]]
        raise UsageError(f"{' and '.join(rivals)} would both become {twice[0]}: rename all but one")
    if taken := [name for name in names if str(Path(name).with_suffix(".json")) in OWN]:
        raise UsageError(f"{taken[0]} would have its notes in {Path(taken[0]).with_suffix('.json')}, which is OUT's: rename it")
    return [name for name, file in zip(names, files, strict=True) if not (target / file).is_file()]


def settle(target: Path, settings: dict[str, Any]) -> None:
    """Note what the files of a folder are made with, or refuse to go on with something else.

    Raises:
        UsageError: names what differs.
    """
    file = target / OWN[0]
    if not file.is_file():
        target.mkdir(parents=True, exist_ok=True)
        write_json(file, settings)
        return
    there = json.loads(file.read_text(encoding="utf-8"))
    if other := [f"{name} {there.get(name)}, not {value}" for name, value in settings.items() if there.get(name) != value]:
        raise UsageError(f"the files in {target} are made with {'; '.join(other)}: give the same, or another folder")


def summary(target: Path) -> dict[str, Any]:
    """What all files in a folder came to, and photos that have none; left in ``summary.json`` too."""
    places = [path for path in sorted(target.rglob("*.json")) if path not in [target / name for name in OWN]]
    notes = [(path, json.loads(path.read_text(encoding="utf-8"))) for path in places]
    rows = [note for path, note in notes if path.with_suffix(".jpg").is_file()]
    found: dict[str, Any] = {"files": len(rows)}
    if rows:
        found["bits_per_pixel"] = sum(row["bits"] for row in rows) / sum(row["pixels"] for row in rows)
        found["agreement"] = float(np.mean([row["kept"] for row in rows]))
        if all("judge_kept" in row for row in rows):
            found["judge_agreement"] = float(np.mean([row["judge_kept"] for row in rows]))
    found["without"] = {note["name"]: note["why"] for path, note in notes if not path.with_suffix(".jpg").is_file()}
    (target / "summary.json").write_text(json.dumps(found), encoding="utf-8")
    return found


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--reader", required=True)
    parser.add_argument("--judge", default=None)
    parser.add_argument("--mu", type=float, default=1.0)
    parser.add_argument("--effort", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=32)
    options = parser.parse_args(arguments)
    names = missing(options.source, options.target)
    settle(options.target, {name: getattr(options, name) for name in ("reader", "judge", "mu", "effort")})
    if names:
        import ray

        given = (str(options.source), str(options.target), options.reader, options.judge, options.mu, options.effort)
        data = ray.data.from_items([{"name": name} for name in names])
        work = data.map_batches(
            Compressor, fn_constructor_args=given, batch_size=options.batch_size, concurrency=options.workers
        )
        work.materialize()
    found = summary(options.target)
    print(found)
    return found


if __name__ == "__main__":
    try:
        main()
    except UsageError as error:
        sys.exit(f"error: {error}")
