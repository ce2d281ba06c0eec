"""What is lost on the way into files: python studies/rate/files.py RUNS/NAME ARM [ARM ...]

Of each arm, mean over the seeds that have finished: accuracy and bits per pixel of the model as trained, of its hard rounding,
and of real JPEG files of the test images as the model sees them, made by libjpeg and with exact levels (the layer's cap; takes
jpeglib), read by the network alone or with the layer kept in front of it. A table in Markdown.
"""

import argparse
import sys
from pathlib import Path
from statistics import mean

from jpegdl.codec import file_report
from jpegdl.runs import RunFolder
from jpegdl_studies.tables import header, row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", type=Path)
    parser.add_argument("arms", nargs="+")
    options = parser.parse_args()
    what = ["what the network reads", "accuracy, %", "change from as trained", "bits per pixel", "24 over them"]
    print(header(["arm", "seeds", *what]))
    for arm in options.arms:
        found = [_rows(run) for seed in sorted((options.comparison / arm).glob("*")) if (run := RunFolder(seed)).finished]
        if not found:
            sys.exit(f"{options.comparison} has no finished run of {arm}")
        for name, *_ in found[0]:
            ways = [way for of_seed in found for way in of_seed if way[0] == name]
            accuracy, change = 100 * mean(way[1] for way in ways), 100 * mean(way[2] for way in ways)
            bits = mean(way[3] for way in ways)
            print(row([arm, len(found), name, f"{accuracy:.2f}", f"{change:+.2f}", f"{bits:.3f}", f"{24 / bits:.2f}"]))


def _rows(run: RunFolder) -> list[tuple[str, float, float, float]]:
    """Return name, accuracy, what it is more than as trained, and bits per pixel of each way."""
    normal, exact = file_report(run)["rows"], file_report(run, exact=True)["rows"]
    renamed = [(row["name"], row) for row in normal[:2]]
    renamed += [(row["name"].replace("real", "libjpeg"), row) for row in normal[2:]]
    renamed += [(row["name"].replace("real", "exact"), row) for row in exact[2:]]
    return [(name, row["accuracy"], row["accuracy"] - normal[0]["accuracy"], row["bits_per_pixel"]) for name, row in renamed]


if __name__ == "__main__":
    main()
