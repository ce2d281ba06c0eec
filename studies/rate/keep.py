"""What jpegdl rate found of a comparison, small enough to keep: python studies/rate/keep.py RUNS/rate-NAME FOLDER [ARMS]

FOLDER/NAME.csv are its points. FOLDER/tables/NAME/ARM.json are the tables of the arms whose names match the pattern ARMS, in
whole numbers as in their files, for jpegdl compress --tables; with several seeds ARM-SEED.json.
"""

import argparse
import shutil
from pathlib import Path

import torch

from jpegdl.codec import read_rate
from jpegdl.runs import RunFolder
from jpegdl.tables import write_tables


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("arms", nargs="?", default="*")
    options = parser.parse_args()
    name = options.comparison.name.removeprefix("rate-")
    tables = options.folder / "tables" / name
    tables.mkdir(parents=True, exist_ok=True)
    shutil.copy(options.comparison / "rate.csv", options.folder / f"{name}.csv")
    several = len({file.parent.name for file in options.comparison.glob("*/*/rate.json")}) > 1
    for file in sorted(options.comparison.glob(f"{options.arms}/*/rate.json")):
        found = read_rate(RunFolder(file.parent))
        assert found is not None
        for point in found["points"]:
            if point["tables"] == "own":
                entries = {plane: torch.tensor(point["entries"][plane]) for plane in ("luma", "chroma")}
                own = f"{found['arm']}-{found['seed']}" if several else found["arm"]
                write_tables(tables / f"{own}.json", entries, subsampling=point["subsampling"])


if __name__ == "__main__":
    main()
