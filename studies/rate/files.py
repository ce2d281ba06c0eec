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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", type=Path)
    parser.add_argument("arms", nargs="+")
    options = parser.parse_args()
    print("| arm | seeds | what the network reads | accuracy, % | change from as trained | bits per pixel | 24 over them |")
    print("|---|---|---|---|---|---|---|")
    for arm in options.arms:
        found = [_rows(run) for seed in sorted((options.comparison / arm).glob("*")) if (run := RunFolder(seed)).finished]
        if not found:
            sys.exit(f"{options.comparison} has no finished run of {arm}")
        for name, *_ in found[0]:
            rows = [row for of_seed in found for row in of_seed if row[0] == name]
            accuracy, change = 100 * mean(row[1] for row in rows), 100 * mean(row[2] for row in rows)
            bits = mean(row[3] for row in rows)
            print(f"| {arm} | {len(found)} | {name} | {accuracy:.2f} | {change:+.2f} | {bits:.3f} | {24 / bits:.2f} |")


def _rows(run: RunFolder) -> list[tuple[str, float, float, float]]:
    """Name, accuracy, what it is more than as trained, and bits per pixel of each way."""
    normal, exact = file_report(run)["rows"], file_report(run, exact=True)["rows"]
    renamed = [(row["name"], row) for row in normal[:2]]
    renamed += [(row["name"].replace("real", "libjpeg"), row) for row in normal[2:]]
    renamed += [(row["name"].replace("real", "exact"), row) for row in exact[2:]]
    return [(name, row["accuracy"], row["accuracy"] - normal[0]["accuracy"], row["bits_per_pixel"]) for name, row in renamed]


if __name__ == "__main__":
    main()
