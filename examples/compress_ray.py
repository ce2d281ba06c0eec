"""Files for a network on many machines: the work of ``jpegdl compress --reader`` inside Ray Data's ``map_batches``.

    python examples/compress_ray.py IN OUT --reader MODEL [--judge MODEL] [--mu 1] [--effort 1] [--workers 2]

IN and OUT are folders that all machines see. A photo whose file is there is passed over: run it again after whatever has
stopped it. ``summary.json`` in OUT is one over all files, those of earlier calls too.
"""

import argparse
import json
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from jpegdl.codec import Shape, each_file, open_readers


class Compressor:
    """Makes the files of a batch of paths; each worker opens the networks once."""

    def __init__(self, source: str, target: str, reader: str, judge: str | None, mu: float, effort: int) -> None:
        self.source, self.target = Path(source), Path(target)
        self.readers = open_readers(reader.split(","))
        self.judge = open_readers([judge])[0] if judge else None
        self.shape = Shape(mu=mu, effort=effort)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        names = [str(name) for name in batch["name"]]
        photos = []
        for name in names:
            with Image.open(self.source / name) as image:
                photos.append(image.convert("RGB"))
        for name, photo, file in zip(names, photos, each_file(photos, self.readers, self.shape), strict=True):
            place = self.target / Path(name).with_suffix(".jpg")
            place.parent.mkdir(parents=True, exist_ok=True)
            known = {"quality": file.quality, "rounds": file.rounds, "bits": 8 * len(file.content)}
            known |= {"pixels": photo.width * photo.height, "kept": file.kept[0], "distance": file.distance}
            if self.judge is not None:
                known["judge_kept"] = self._same(photo, file.content)
            # The photo's file last: where it is, all is known of it. Both are there whole or not at all.
            for path, content in ((place.with_suffix(".json"), json.dumps(known).encode()), (place, file.content)):
                part = path.with_name(f"{path.name}.part")
                part.write_bytes(content)
                part.replace(path)
        return {"name": batch["name"]}

    @torch.no_grad()
    def _same(self, photo: Image.Image, content: bytes) -> bool:
        """Whether the judge's first answer on the file is that on the photo."""
        import io

        with Image.open(io.BytesIO(content)) as file:
            both = [torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1) for image in (photo, file)]
        first, second = self.judge.answers(torch.stack([self.judge.view(image) for image in both])).argmax(1).tolist()
        return first == second


def missing(source: Path, target: Path) -> list[str]:
    """Photos that have no file yet.

    Raises:
        SystemExit: two would have the same one.
    """
    suffixes = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
    names = sorted(str(path.relative_to(source)) for path in source.rglob("*") if path.suffix.lower() in suffixes)
    files = {name: str(Path(name).with_suffix(".jpg")) for name in names}
    taken = Counter(files.values())
    if twice := [name for name, file in files.items() if taken[file] > 1]:
        raise SystemExit(f"{', '.join(twice[:4])}: some would become one file; rename all but one")
    return [name for name, file in files.items() if not (target / file).is_file()]


def summary(target: Path) -> dict[str, float]:
    """What all files in a folder came to; left in ``summary.json`` too."""
    rows = [
        json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(target.rglob("*.json"))
        if path.with_suffix(".jpg").is_file()
    ]
    found = {"files": len(rows), "bits_per_pixel": sum(row["bits"] for row in rows) / sum(row["pixels"] for row in rows)}
    found |= {"agreement": float(np.mean([row["kept"] for row in rows]))}
    if all("judge_kept" in row for row in rows):
        found["judge_agreement"] = float(np.mean([row["judge_kept"] for row in rows]))
    (target / "summary.json").write_text(json.dumps(found), encoding="utf-8")
    return found


def main(arguments: list[str] | None = None) -> dict[str, float]:
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
    import ray

    names = missing(options.source, options.target)
    if names:
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
    main()
