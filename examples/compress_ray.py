"""Files for a network on many machines: the work of ``jpegdl compress --reader`` inside Ray Data's ``map_batches``.

    python examples/compress_ray.py IN OUT --reader MODEL [--judge MODEL] [--mu 1] [--effort 1] [--workers 2]

IN and OUT are folders that all machines see. A photo whose file is there is passed over: run it again after whatever has
stopped it. One that cannot be read is named at the end, and tried again the next time. ``summary.json`` in OUT is one over all
files, those of earlier calls too, so ``settings.json`` keeps what they were made with, and other settings are refused.
"""

import argparse
import io
import json
import sys
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

import filelock
import numpy as np
import torch
from PIL import Image

from jpegdl.codec import DecodedImage, Shape, ShapedFile, each_file, open_photo, open_reader, open_readers, photos_in
from jpegdl.errors import UsageError

OWN = ("settings.json", "summary.json")  # in OUT, of no photo


class Compressor:
    """Makes the files of a batch of names; each worker opens the networks once."""

    def __init__(self, source: str, target: str, reader: str, judge: str | None, mu: float, effort: int) -> None:
        self.source, self.target = Path(source), Path(target)
        self.readers = open_readers([name.strip() for name in reader.split(",")])
        self.judge = open_reader(judge) if judge else None
        if self.judge is not None and self.judge.features:
            raise UsageError(f"judge {judge} gives features, and its first answers are what counts here")
        if self.judge is not None and self.judge.digest in {reader.digest for reader in self.readers}:
            raise UsageError(f"judge {judge} has the weights of a reader: give a network that has no say in the files")
        self.shape = Shape(mu=mu, effort=effort)
        list(each_file([], self.readers, self.shape))  # refuses settings before any photo is named for them

    def settings(self) -> dict[str, Any]:
        """What the files depend on."""
        return {
            "source": str(self.source.resolve()),
            "readers": [reader.record() for reader in self.readers],
            "judge": self.judge.record() if self.judge else None,
            "mu": self.shape.mu,
            **self.shape.record(),
        }

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        photos: dict[str, DecodedImage] = {}
        for name in map(str, batch["name"]):
            try:
                photos[name] = open_photo(self.source / name)
            except UsageError as error:
                self._write(name, {"why": str(error)})
        for (name, photo), file in zip(photos.items(), self._files(list(photos.values())), strict=True):
            if isinstance(file, str):
                self._write(name, {"why": file})
                continue
            known = {"quality": file.quality, "rounds": file.rounds, "bits": 8 * len(file.content)}
            known |= {"pixels": photo.image.width * photo.image.height, "kept": file.kept, "distance": file.distance}
            if self.judge is not None:
                known["judge_kept"] = self._same(photo, file.content)
            self._write(name, known, file.content)
        return {"name": batch["name"]}

    def _files(self, photos: list[DecodedImage]) -> list[ShapedFile | str]:
        """The file of each photo, or why it has none."""
        try:
            return list(each_file(photos, self.readers, self.shape))
        except ValueError as error:  # of one of them, which is found alone
            return [str(error)] if len(photos) == 1 else [file for photo in photos for file in self._files([photo])]

    def _write(self, name: str, known: dict[str, Any], content: bytes | None = None) -> None:
        place = self.target / PurePosixPath(name).with_suffix(".jpg")
        place.parent.mkdir(parents=True, exist_ok=True)
        # The photo's file last: where it is, all is known of it. Both are there whole or not at all.
        write(place.with_suffix(".json"), json.dumps({"name": name, **known}).encode())
        if content is not None:
            write(place, content)

    @torch.no_grad()
    def _same(self, photo: DecodedImage, content: bytes) -> bool:
        """Whether the judge's first answer on the file is that on the photo."""
        with Image.open(io.BytesIO(content)) as file:
            views = [
                self.judge.view(torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1), photo.note)
                for image in (photo.image, file)
            ]
        first, second = self.judge.answers(torch.stack(views)).argmax(1).tolist()
        return first == second


def write(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(content)
    part.replace(path)


def missing(source: Path, target: Path) -> list[str]:
    """Photos that have no file yet.

    Raises:
        UsageError: there are no photos; two that would have one file, or one whose notes would be in the place of files of OUT.
    """
    folder, every = photos_in(str(source))
    here, there = folder.resolve(), target.resolve()
    if there.is_relative_to(here) or here.is_relative_to(there):
        raise UsageError(f"{target} and {source} overlap, so that photos and files could not be told apart: give one beside it")
    names = ["/".join(parts) for parts in every]
    files = [str(PurePosixPath(name).with_suffix(".jpg")) for name in names]
    if twice := [name for name, count in Counter(files).items() if count > 1]:
        rivals = [name for name, file in zip(names, files, strict=True) if file == twice[0]]
        raise UsageError(f"{' and '.join(rivals)} would both become {twice[0]}: rename all but one")
    if taken := [name for name in names if str(PurePosixPath(name).with_suffix(".json")) in OWN]:
        raise UsageError(f"{taken[0]} would have its notes in place of OUT's {Path(taken[0]).with_suffix('.json')}: rename it")
    return [name for name, file in zip(names, files, strict=True) if not (target / file).is_file()]


def settle(target: Path, settings: dict[str, Any]) -> None:
    """Note what the files of a folder are made with, or refuse to go on with something else.

    Raises:
        UsageError: names what differs; or files are there of which nothing is known.
    """
    file, settings = target / OWN[0], json.loads(json.dumps(settings))  # as they are read back
    if not file.is_file():
        if strange := sorted({path.name for path in target.iterdir()} - {".lock", f"{OWN[0]}.part"}):
            raise UsageError(f"{target} holds {strange[0]} and no {OWN[0]}, so its files are unknown: give a new folder")
        write(file, json.dumps(settings).encode())
        return
    there = json.loads(file.read_text(encoding="utf-8"))
    if other := [f"{name} {there.get(name)}, not {value}" for name, value in settings.items() if there.get(name) != value]:
        raise UsageError(f"the files in {target} are made with {'; '.join(other)}: give the same, or another folder")


def summary(target: Path) -> dict[str, Any]:
    """What all files in a folder came to, and photos that are there and have none; left in ``summary.json`` too."""
    settings = json.loads((target / OWN[0]).read_text(encoding="utf-8"))
    places = [path for path in sorted(target.rglob("*.json")) if path not in [target / name for name in OWN]]
    notes = [(path, json.loads(path.read_text(encoding="utf-8"))) for path in places]
    rows = [note for path, note in notes if path.with_suffix(".jpg").is_file()]
    found: dict[str, Any] = {"files": len(rows)}
    if rows:
        found["bits_per_pixel"] = sum(row["bits"] for row in rows) / sum(row["pixels"] for row in rows)
        found["agreement"] = {  # of features there is none
            reader["name"]: float(np.mean([row["kept"][number] for row in rows]))
            for number, reader in enumerate(settings["readers"])
            if not reader["features"]
        }
        if all("judge_kept" in row for row in rows):
            found["judge_agreement"] = float(np.mean([row["judge_kept"] for row in rows]))
    left = [note for path, note in notes if not path.with_suffix(".jpg").is_file()]
    found["without"] = {note["name"]: note["why"] for note in left if (Path(settings["source"]) / note["name"]).is_file()}
    write(target / OWN[1], json.dumps(found).encode())
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
    source, target = options.source.resolve(), options.target.resolve()
    given = (str(source), str(target), options.reader, options.judge, options.mu, options.effort)
    missing(source, target)  # before anything is there
    settings = Compressor(*given).settings()
    target.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(target / ".lock", blocking=False):
            settle(target, settings)
            if names := missing(source, target):
                make_files(names, given, options.batch_size, options.workers)
            found = summary(target)
    except filelock.Timeout:
        raise UsageError(f"{target} is being written to by another call") from None
    print(found)
    return found


def make_files(names: list[str], given: tuple[Any, ...], batch_size: int, workers: int) -> None:
    """Have Ray's workers make the files of photos."""
    import ray

    data = ray.data.from_items([{"name": name} for name in names])
    work = data.map_batches(Compressor, fn_constructor_args=given, batch_size=batch_size, concurrency=workers)
    work.materialize()


if __name__ == "__main__":
    try:
        left = main()["without"]
    except UsageError as error:
        sys.exit(f"error: {error}")
    if left:
        sys.exit(f"error: {len(left)} without a file: {', '.join(left)}")
