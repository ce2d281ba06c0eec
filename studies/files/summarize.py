"""Tables of what ``measure.py`` left: bits saved at the same loss, and points at the same rate, against default libjpeg.

    python studies/files/summarize.py OUT.jsonl [--csv TABLE.csv]

Reference: libjpeg, standard tables, 4:2:0, Huffman codes fitted, ten qualities; loss and accuracy interpolated in the
logarithm of the rate. Intervals: 95 %, 400 draws of images with replacement.
"""

import argparse
import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MUS = (4.0, 2.0, 1.0, 0.5, 0.25, 0.12, 0.06)
DRAWS = 400
Numbers = NDArray[np.float64]
Reference = tuple[Numbers, Numbers, Numbers]  # bits per pixel, loss and whether it is right: (qualities, images)


def load(path: Path) -> dict[Any, Any]:
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    rows = [row for row in rows if row["names"] == rows[0]["names"]]
    found: dict[Any, Any] = {"names": rows[0]["names"], "bits": np.array([row["bits_per_pixel"] for row in rows]).T}
    for who in ("reader", "judge"):
        for what in ("loss", "right", "distance", "kept"):
            found[who, what] = np.array([row[who][what] for row in rows], dtype=float).T
        found[who, "original"] = np.array([row[who]["original"] for row in rows], dtype=float).T
    found["psnr"] = np.array([row["psnr"] for row in rows]).T
    found["seconds"] = {name: np.mean([row["seconds"][name] for row in rows]) for name in rows[0]["seconds"]}
    return found


def smoothed(distances: Numbers) -> Numbers:
    """With those of the next qualities, 1 : 2 : 1, as ``jpegdl compress --robust`` has it."""
    wide = np.concatenate((distances[:1], distances, distances[-1:]))
    found: Numbers = (wide[:-2] + 2 * wide[1:-1] + wide[2:]) / 4
    return found


def between(bits: float, loss: float, right: float, reference: Reference) -> tuple[float, float]:
    """Percent of bits saved at the loss, points at the rate; nan where the reference does not reach."""
    rates, losses, rights = reference
    saved = np.nan
    if losses.min() <= loss <= losses.max():
        order = np.argsort(losses)
        saved = 100 * (1 - bits / np.exp(np.interp(loss, losses[order], np.log(rates[order]))))
    points = np.nan
    if rates.min() <= bits <= rates.max():
        points = 100 * (right - np.interp(np.log(bits), np.log(rates), rights))
    return saved, points


def line(label: str, who: str, parts: list[Numbers], reference: Reference) -> dict[str, Any]:
    """One row of the table, with intervals."""
    bits, loss, right, kept, psnr = parts
    count, random, drawn = len(bits), np.random.RandomState(0), []
    for draw in range(DRAWS + 1):
        chosen = np.arange(count) if draw == 0 else random.randint(0, count, count)
        rates, losses, rights = (part[:, chosen].mean(1) for part in reference)
        against = rates, losses, rights
        drawn.append(between(bits[chosen].mean(), loss[chosen].mean(), right[chosen].mean(), against))
    draws = np.array(drawn)
    found = {
        "files": label,
        "read by": who,
        "images": count,
        "bits per pixel": f"{bits.mean():.3f}",
        "loss": f"{loss.mean():.3f}",
        "accuracy": f"{100 * right.mean():.1f}",
        "agreement": f"{100 * kept.mean():.1f}",
        "psnr": f"{psnr.mean():.2f}",
    }
    for number, name in enumerate(("saved, %", "points")):
        there = draws[1:, number][np.isfinite(draws[1:, number])]
        low, high = np.percentile(there, [2.5, 97.5]) if len(there) > DRAWS // 2 else (np.nan, np.nan)
        found |= {name: f"{draws[0, number]:.1f}", f"{name} from": f"{low:.1f}", f"{name} to": f"{high:.1f}"}
    return found


def table(data: dict[Any, Any]) -> Iterator[dict[str, Any]]:
    names = data["names"]
    plain = [index for index, name in enumerate(names) if name.startswith("4:2:0")]
    images = np.arange(data["bits"].shape[1])
    reference = {who: (data["bits"][plain], data[who, "loss"][plain], data[who, "right"][plain]) for who in WHO}

    def row(label: str, index: Numbers) -> Iterator[dict[str, Any]]:
        for who in WHO:
            keys: list[Any] = ["bits", (who, "loss"), (who, "right"), (who, "kept"), "psnr"]
            yield line(label, who, [data[key][index, images] for key in keys], reference[who])

    for index, name in enumerate(names):
        if name.startswith("4:"):
            yield from row(f"libjpeg {name}", np.full(len(images), index))
    qualities = [int(names[index].split()[1]) for index in plain]
    rules = {
        "chosen by the reader": data["reader", "distance"][plain],
        "chosen by the reader, smoothed, floor 10": np.where(
            np.array(qualities)[:, None] < 10, np.inf, smoothed(data["reader", "distance"][plain])
        ),
        "chosen by the judge (which then had a say)": data["judge", "distance"][plain],
        "chosen by both": (data["reader", "distance"][plain] + data["judge", "distance"][plain]) / 2,
        "control: least squared error": 10 ** (-data["psnr"][plain] / 10) * 1e3,
    }
    for rule, distances in rules.items():
        for mu in MUS:
            chosen = (distances + mu * data["bits"][plain]).argmin(0)
            yield from row(f"{rule}, mu {mu}", np.array(plain)[chosen])
    for index, name in enumerate(names):
        if name.startswith("guided"):
            _, mu, robust = name.split()
            yield from row(f"guided, mu {mu}{', robust' if robust == 'True' else ''}", np.full(len(images), index))


def held_out(data: dict[Any, Any], share: float, sample: int, smooth: bool, draws: int = 100) -> tuple[float, float, float]:
    """Let mu be found on some images as ``jpegdl compress --agree`` finds it; what there is on all others.

    Returns:
        Agreement there, its spread over draws of the some, and bits per pixel there.
    """
    plain = [index for index, name in enumerate(data["names"]) if name.startswith("4:2:0")]
    bits, kept, distances = data["bits"][plain], data["reader", "kept"][plain], data["reader", "distance"][plain]
    if smooth:
        distances = smoothed(distances)
    mus = np.exp(np.linspace(np.log(1e-4), np.log(1e3), 200))
    count = bits.shape[1]
    images = np.arange(count)
    free = np.stack([(distances + mu * bits).argmin(0) for mu in mus])
    finest = np.where(kept.any(0), np.inf, -bits)  # where the answer stays on no file
    sure = np.stack([np.where(kept > 0, distances + mu * bits, finest).argmin(0) for mu in mus])
    stays, rates = ((part[free, images], part[sure, images]) for part in (kept, bits))
    random, found = np.random.RandomState(0), []
    for _ in range(draws):
        order = random.permutation(count)
        expected = (stays[0] / 3 + stays[1] * 2 / 3)[:, order[:sample]].mean(1)
        low, high = 0, len(mus) - 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if expected[middle] >= share else (low, middle)
        others, insist = order[sample:], random.rand(count - sample) < 2 / 3
        found.append([np.where(insist, part[1][low, others], part[0][low, others]).mean() for part in (stays, rates)])
    agreements, sizes = np.array(found).T
    return float(agreements.mean()), float(agreements.std()), float(sizes.mean())


WHO = ("reader", "judge")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lines", type=Path)
    parser.add_argument("--csv", type=Path, default=None)
    arguments = parser.parse_args()
    data = load(arguments.lines)
    for who in WHO:
        loss, right = data[who, "original"].mean(1)
        print(f"originals, {who}: loss {loss:.3f}, accuracy {100 * right:.1f} %", file=sys.stderr)
    for name, seconds in data["seconds"].items():
        print(f"{name}: {seconds:.3f} s of one core a photo", file=sys.stderr)
    count = data["bits"].shape[1]
    sample = min(256, count // 2)
    for share in (0.9, 0.95, 0.98):
        for smooth in (True, False):
            mean, spread, bits = held_out(data, share, sample, smooth)
            print(
                f"agree {share}, {'robust' if smooth else 'not robust'}: mu found on {sample} of {count} images, the others: "
                f"{100 * mean:.1f} % ± {100 * spread:.1f} over draws, {bits:.2f} bits per pixel",
                file=sys.stderr,
            )
    rows = list(table(data))
    with arguments.csv.open("w", encoding="utf-8", newline="") if arguments.csv else sys.stdout as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
