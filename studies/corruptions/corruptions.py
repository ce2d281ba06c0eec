"""What corruptions leave, arm by arm: python studies/corruptions/corruptions.py RUNS/NAME RUNS/OTHER=LABEL ... [--csv FILE]

Reads the attack.csv that ``jpegdl attack`` left in the folders of comparisons; LABEL is what the arm plain of a folder is
called, where its network is another. Prints tables in Markdown: percent of the attacked images, mean and sample sd over seeds,
and differences from plain in points, paired over seeds, with the 95 % interval, p of a paired t test, and p after Holm's
correction for the arms. With --csv also a file with a line for each run, for ``jpegdl paired`` and to keep. In place of
folders, one such file: the same tables.
"""

import argparse
import csv
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

from jpegdl.errors import UsageError
from jpegdl.statistics import paired
from jpegdl_studies.tables import header, percent, row

GROUPS = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}
KINDS = [kind for kinds in GROUPS.values() for kind in kinds]
SEVERITIES = range(1, 6)
Run = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparisons", nargs="+", help="folders of comparisons, FOLDER or FOLDER=LABEL; or a file of --csv")
    parser.add_argument("--csv", type=Path, help="where to write a line for each run")
    options = parser.parse_args()
    runs = [run for source in options.comparisons for run in _runs(source)]
    with tempfile.TemporaryDirectory() as folder:
        file = options.csv or Path(folder) / "runs.csv"
        with file.open("w", newline="", encoding="utf-8") as opened:
            writer = csv.DictWriter(opened, list(runs[0]))
            writer.writeheader()
            writer.writerows(runs)
        _print(runs, file)


def _runs(source: str) -> list[Run]:
    """Return of each run ``arm``, ``seed``, ``images``, and shares: ``clean``, ``corrupted`` (the mean over all kinds), the
    four groups, each kind, and ``lost``, what corruption takes of what is known clean."""
    place, _, label = source.partition("=")
    if place.endswith(".csv"):
        with Path(place).open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    shares: dict[tuple[str, str, str], dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    clean = {}
    try:
        with (Path(place) / "attack.csv").open(newline="", encoding="utf-8") as file:
            for each in csv.DictReader(file):
                key = (label if label and each["arm"] == "plain" else each["arm"], each["seed"], each["images"])
                if each["attack"] == "none":
                    clean[key] = float(each["accuracy"])
                elif each["attack"] == "corruption":
                    kind, severity = each["gradient"].split()
                    shares[key][kind][int(severity)] = float(each["accuracy"])
    except OSError as error:
        sys.exit(f"{place} has no corruptions: {error}")
    runs = []
    for key, kinds in shares.items():
        if missing := [f"{kind} {severity}" for kind in KINDS for severity in SEVERITIES if severity not in kinds[kind]]:
            sys.exit(f"{place}: arm {key[0]}, seed {key[1]} is without {missing[0]}; run jpegdl attack again with all")
        of = {kind: fmean(kinds[kind].values()) for kind in KINDS}
        whole = {"clean": clean[key], "corrupted": fmean(of.values())}
        whole["lost"] = whole["clean"] - whole["corrupted"]
        whole |= {group: fmean(of[kind] for kind in members) for group, members in GROUPS.items()} | of
        runs.append(dict(zip(("arm", "seed", "images"), key, strict=True)) | {k: round(v, 5) for k, v in whole.items()})
    return runs


def _print(runs: list[Run], file: Path) -> None:
    arms = list(dict.fromkeys(run["arm"] for run in runs))
    if len({run["images"] for run in runs}) > 1:
        sys.exit("the runs were tried on different numbers of images")
    print(f"{runs[0]['images']} images of each model; seeds {', '.join(dict.fromkeys(str(run['seed']) for run in runs))}\n")
    found = {column: _paired(file, column) for column in ("clean", "corrupted", "lost", *GROUPS, *KINDS)}

    print(header(["arm", "clean, %", "corrupted, %", "corrupted, to plain [95 % interval]", "p", "p, Holm", "lost, to plain"]))
    for arm in arms:
        cells = [percent([float(run[column]) for run in runs if run["arm"] == arm]) for column in ("clean", "corrupted")]
        one = found["corrupted"].get(arm)
        cells += ["", "", "", ""] if one is None else [_difference(one), _p(one["p"]), _p(one["p_holm"])]
        if one is not None:
            cells.append(_difference(found["lost"][arm]))
        print(row([arm, *cells]))

    others = [arm for arm in arms if arm != "plain"]
    print(f"\n{header(['corrupted by', 'plain, %', *(f'{arm}, to plain' for arm in others)])}")
    for column in ("clean", *GROUPS, *KINDS):
        plain = percent([float(run[column]) for run in runs if run["arm"] == "plain"])
        print(row([column.replace("_", " "), plain, *(_difference(found[column][arm]) for arm in others)]))


def _paired(file: Path, column: str) -> dict[str, dict[str, Any]]:
    try:
        return paired(file, value=column)
    except UsageError as error:
        sys.exit(str(error))


def _difference(found: dict[str, Any]) -> str:
    if found["low"] is None:
        return f"{100 * found['mean']:+.1f}"
    return f"{100 * found['mean']:+.1f} [{100 * found['low']:+.1f}, {100 * found['high']:+.1f}]"


def _p(p: float | None) -> str:
    return "" if p is None else f"{p:.2g}"


if __name__ == "__main__":
    main()
