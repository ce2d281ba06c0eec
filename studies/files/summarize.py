"""Tables of what ``measure.py`` and ``encoders.py`` left: bits saved at the same loss, and points at the same rate.

    python studies/files/summarize.py OUT.jsonl [ENCODERS.jsonl ...] [--csv TABLE.csv] [--rates RATES.csv]

Reference: libjpeg, standard tables, 4:2:0, Huffman codes fitted, ten qualities (eleven with ``encoders.py``'s lines); loss and
accuracy interpolated in the logarithm of the rate. Intervals: 95 %, 400 draws of images with replacement. Of several files the
images count that all have. ``--rates``: every kind of file at eight rates, interpolated alike, as CSV, and on the screen as
Markdown.
"""

import argparse
import csv
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jpegdl.codec import Shape
from jpegdl_studies import tables

OTHERS = Shape().record()["others"]  # over the quality: what robust files allow other networks to lose more, in nats
MUS = (4.0, 2.0, 1.0, 0.5, 0.25, 0.12, 0.06)
RATES = (0.2, 0.28, 0.39, 0.54, 0.75, 1.04, 1.44, 2.0)  # bits per pixel
PSNRS, SSIMS = (24, 26, 28, 30, 32, 34, 36), (0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98)  # of images that are to be alike good
SLOPES = (-2, -1, -0.5, 0.5, 1, 2)  # qualities up, of ten, for an image whose entropy is one deviation above the mean
ROBUST = {"True": ", robust", "False": ""}
LOWEST = 6  # quality that images are given to choose from
LABEL, CLASSES, PIXELS = 10, 1000, 224**2  # bits of a stored label
DRAWS = 400
NEAR = 1e-9  # sums of the same numbers may differ by this
WHO = ("reader", "judge", "third")  # the last where measure.py had --third
Numbers = NDArray[np.float64]
Reference = tuple[Numbers, Numbers, Numbers]  # bits per pixel, loss and whether it is right: (qualities, images)


def rows_of(path: Path) -> dict[str, dict[str, Any]]:
    """By image; half a line, of a process that was killed, is passed over."""
    rows: dict[str, dict[str, Any]] = {}
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(text)
        except ValueError:
            continue
        rows[row["image"]] = row
    first = next(iter(rows.values()), None)
    if first is None:
        raise SystemExit(f"{path} holds no images yet")
    if other := [name for name, row in rows.items() if row["names"] != first["names"]]:
        raise SystemExit(f"{path}: {len(other)} images were measured with other settings than the first, such as {other[0]}")
    return rows


def load(paths: Sequence[Path], after: int = 0) -> dict[Any, Any]:
    """Arrays (names, images) of all files, of the images that all of them have, without the first ones of the first file."""
    files = [rows_of(path) for path in paths]
    files[0] = dict(list(files[0].items())[after:])
    images = [image for image in files[0] if all(image in table for table in files)]
    for path, table in zip(paths, files, strict=True):
        if len(table) > len(images):
            print(f"{path}: {len(table) - len(images)} of {len(table)} images are left out, others lack them", file=sys.stderr)
    if not images:
        raise SystemExit("the files have no image in common")
    who_read = tuple(who for who in WHO if all(who in table[images[0]] for table in files))
    keys = [(who, what) for who in who_read for what in ("loss", "right", "distance", "kept")]
    lists: dict[Any, list[Any]] = {key: [] for key in ("bits", "psnr", "ssim", *keys)}
    found: dict[Any, Any] = {"names": [], "seconds": {}, "images": images, "who": who_read}
    for path, table in zip(paths, files, strict=True):
        rows = [table[image] for image in images]
        for place, name in enumerate(rows[0]["names"]):
            bits = [row["bits_per_pixel"][place] for row in rows]
            ssim = [row["ssim"][place] if "ssim" in row else np.nan for row in rows]
            if name in found["names"]:
                before = found["names"].index(name)
                if bits != lists["bits"][before]:
                    raise SystemExit(f"{path}: files of {name} have other sizes than in {paths[0]}: another version made them")
                if np.isnan(lists["ssim"][before]).all():  # which measure.py does not look at
                    lists["ssim"][before] = ssim
                continue
            found["names"].append(name)
            lists["bits"].append(bits)
            lists["psnr"].append([row["psnr"][place] for row in rows])
            lists["ssim"].append(ssim)
            for who, what in keys:
                lists[who, what].append([float(row[who][what][place]) for row in rows])
        found["seconds"] |= {name: np.mean([row["seconds"][name] for row in rows]) for name in rows[0]["seconds"]}
        for who in who_read:
            found[who, "original"] = np.array([row[who]["original"] for row in rows], dtype=float).T
        if "answers" in rows[0]:
            found["entropy"] = np.array([row["entropy"] for row in rows])
            found["told"] = np.array([row["answers"]["reader"] == row["target"] for row in rows])
            found["alike"] = np.array([row["answers"]["reader"] == row["answers"]["judge"] for row in rows])
    return {**found, **{key: np.array(values) for key, values in lists.items()}}


def between(bits: float, loss: float, right: float, reference: tuple[Numbers, ...]) -> tuple[float, float]:
    """Percent of bits saved at the loss, points at the rate; nan where the reference does not reach.

    Where a higher rate of the reference loses more, as it can where images were JPEG files before, its smallest rate counts.
    """
    rates, losses, rights = reference  # rates ascend
    losses = np.minimum.accumulate(losses)
    saved = np.nan
    if losses.min() - NEAR <= loss <= losses.max() + NEAR:
        saved = 100 * (1 - bits / np.exp(np.interp(loss, losses[::-1], np.log(rates[::-1]))))
    points = np.nan
    if rates.min() - NEAR <= bits <= rates.max() + NEAR:
        points = 100 * (right - np.interp(np.log(bits), np.log(rates), rights))
    return saved, points


def weights(count: int) -> Numbers:
    """(draws + 1, images): how much each image counts, all alike first, then in each draw with replacement."""
    random = np.random.RandomState(0)
    drawn = [np.bincount(random.randint(0, count, count), minlength=count) for _ in range(DRAWS)]
    found: Numbers = np.stack([np.ones(count), *drawn]) / count
    return found


def interval(draws: Numbers) -> tuple[float, float]:
    """95 %, where at least half of the draws have a number."""
    there = draws[np.isfinite(draws)]
    low, high = np.percentile(there, [2.5, 97.5]) if len(there) > DRAWS // 2 else (np.nan, np.nan)
    return float(low), float(high)


def tenths(value: float) -> str:
    return f"{round(value, 1) + 0.0:.1f}"  # without a minus before 0


def line(label: str, who: str, parts: Sequence[Numbers], reference: Reference) -> dict[str, Any]:
    """One row of the table, with intervals; parts: bits, loss, right, kept, PSNR, and SSIM where it is known."""
    bits, loss, right, kept, psnr = parts[:5]
    each = weights(len(bits))
    means = [each @ part for part in (bits, loss, right)]
    against = [each @ part.T for part in reference]
    pairs = []
    for number, (rate, mean, share) in enumerate(zip(*means, strict=True)):
        pairs.append(between(rate, mean, share, tuple(part[number] for part in against)))
    draws = np.array(pairs)
    found = {
        "files": label,
        "read by": who,
        "images": len(bits),
        "bits per pixel": f"{bits.mean():.3f}" if bits.mean() >= 0.001 else f"{bits.mean():.2g}",
        "loss": f"{loss.mean():.3f}",
        "accuracy": f"{100 * right.mean():.1f}",
        "agreement": f"{100 * kept.mean():.1f}",
        "psnr": f"{psnr.mean():.2f}",
    }
    if len(parts) > 5 and np.isfinite(parts[5].mean()):
        found["ssim"] = f"{parts[5].mean():.4f}"
    for number, name in enumerate(("saved, %", "points")):
        low, high = interval(draws[1:, number])
        found |= {name: tenths(draws[0, number]), f"{name} from": tenths(low), f"{name} to": tenths(high)}
    return found


Choices = dict[str, dict[str, NDArray[np.int64]]]  # of each kind of files, of each of its settings, which file of each image


def quality_of(name: str) -> int:
    return int(name.rsplit(" ", 1)[-1])


def standard(data: dict[Any, Any]) -> list[int]:
    """Places of default files, by quality: they come from several tables."""
    names = data["names"]
    return sorted((n for n, name in enumerate(names) if name.startswith("4:2:0 ")), key=lambda n: quality_of(names[n]))


def made(data: dict[Any, Any]) -> Choices:
    """Files that are what they are: of encoders, and guided ones."""
    found: Choices = {}
    for index, name in enumerate(data["names"]):
        kind, setting = name.rsplit(" ", 1)
        if name.startswith("guided"):
            guided, mu, robust = name.split()
            kind, setting = f"{guided.replace('-', ' ')}{ROBUST[robust]}", f"mu {mu}"
        elif "4:" in kind:
            kind = f"libjpeg {kind}"
        found.setdefault(kind, {})[setting] = np.full(len(data["images"]), index)
    return found


def chosen(data: dict[Any, Any]) -> Choices:
    """Default files of a quality that each image has for itself, by networks, and by what needs none."""
    menu = np.array([index for index in standard(data) if quality_of(data["names"][index]) >= LOWEST])
    qualities = np.array([quality_of(data["names"][index]) for index in menu])
    bits, reader, judge = data["bits"][menu], data["reader", "distance"][menu], data["judge", "distance"][menu]
    rules = {
        "chosen by the reader": reader,
        "chosen by the reader, robust": reader + OTHERS / qualities[:, None],
        "chosen by the judge (which then had a say)": judge,
        "chosen by both": (reader + judge) / 2,
        "chosen by both, robust": (reader + judge) / 2 + OTHERS / qualities[:, None],
        "control: least squared error": 10 ** (-data["psnr"][menu] / 10) * 1e3,
    }
    alike: dict[str, tuple[Numbers, tuple[float, ...]]] = {"PSNR": (data["psnr"][menu], PSNRS)}
    if np.isfinite(data["ssim"][menu]).all():
        rules["control: least 1 - SSIM"] = 10 * (1 - data["ssim"][menu])
        alike["SSIM"] = (data["ssim"][menu], SSIMS)
    found = {rule: {f"mu {mu}": menu[(part + mu * bits).argmin(0)] for mu in MUS} for rule, part in rules.items()}
    for what, (good, least) in alike.items():
        places = {one: np.where((good >= one).any(0), (good >= one).argmax(0), len(menu) - 1) for one in least}
        found[f"control: the same {what}"] = {f"{one}": menu[place] for one, place in places.items()}
    if "entropy" in data:
        found["control: by the entropy of the image"] = _by_entropy(data, menu)
    return found


def _by_entropy(data: dict[Any, Any], menu: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """Qualities up or down with an image's entropy; which way and how far is what saved most on the other half."""
    count = len(data["images"])
    z = (data["entropy"] - data["entropy"].mean()) / data["entropy"].std()
    files = {
        slope: [menu[np.rint(base + slope * z).astype(int).clip(0, len(menu) - 1)] for base in range(len(menu))]
        for slope in SLOPES
    }
    odd, images = np.arange(count) % 2 == 1, np.arange(count)
    best = {}
    keys: list[Any] = ["bits", ("reader", "loss"), ("reader", "right")]
    for half in (False, True):
        some = images[odd == half]
        against = tuple(data[key][standard(data)][:, some].mean(1) for key in keys)

        def saved(slope: float, some: Any = some, against: Any = against) -> float:
            each = []
            for file in files[slope]:
                bits, loss, right = (data[key][file[some], some].mean() for key in keys)
                each.append(between(bits, loss, right, against))
            return float(np.nanmean([part[0] for part in each]))

        best[not half] = max(SLOPES, key=saved)  # for the others
    print(f"control by entropy: slopes {best[False]} and {best[True]}, each found on the other half", file=sys.stderr)
    return {
        f"around quality {quality_of(data['names'][menu[base]])}": np.where(
            odd, files[best[True]][base], files[best[False]][base]
        )
        for base in range(len(menu))
    }


def parts_of(data: dict[Any, Any], who: str, index: NDArray[np.int64]) -> list[Numbers]:
    keys: list[Any] = ["bits", (who, "loss"), (who, "right"), (who, "kept"), "psnr", "ssim"]
    return [data[key][index, np.arange(len(index))] for key in keys]


def label(data: dict[Any, Any], who: str) -> list[Numbers]:
    """No image at all: the reader's class of the original, in ten bits; how sure to be of it is taken from the other half."""
    told, count = data["told"].astype(float), len(data["told"])
    odd = np.arange(count) % 2 == 1
    wrong = np.where(odd, 1 - told[~odd].mean(), 1 - told[odd].mean()).clip(1 / count)
    loss = -np.log(np.where(told > 0, 1 - wrong, wrong / (CLASSES - 1)))
    kept = np.ones(count) if who == "reader" else data["alike"].astype(float)
    return [np.full(count, LABEL / PIXELS), loss, told, kept, np.full(count, np.nan), np.full(count, np.nan)]


def table(data: dict[Any, Any], kinds: Choices) -> Iterator[dict[str, Any]]:
    plain = standard(data)
    reference = {who: (data["bits"][plain], data[who, "loss"][plain], data[who, "right"][plain]) for who in data["who"]}
    for kind, settings in kinds.items():
        for setting, index in settings.items():
            front, comma, end = kind.partition(", robust")  # which stands last
            name = f"{front}{' ' if setting.isdecimal() and 'control' not in kind else ', '}{setting}{comma}{end}"
            for who in data["who"]:
                yield line(name, who, parts_of(data, who, index), reference[who])
    if "told" in data:
        for who in data["who"]:
            yield line("control: ten bits, the reader's class of the original", who, label(data, who), reference[who])


def at_rate(rate: float, rates: Numbers, values: Numbers) -> Numbers:
    """(draws,): between settings (draws, settings), of which some may lack a value; nan where there are none."""
    there = np.isfinite(values[0])
    if not there.any():
        return np.full(len(values), np.nan)
    found = []
    for x, y in zip(np.log(rates[:, there]), values[:, there], strict=True):
        order = np.argsort(x)
        found.append(np.interp(np.log(rate), x[order], y[order], left=np.nan, right=np.nan))
    return np.array(found)


def curves(data: dict[Any, Any], kinds: Choices) -> Iterator[dict[str, Any]]:
    """Every kind of file at every rate that it reaches."""
    each = weights(len(data["images"]))
    names = ("loss", "accuracy", "agreement", "psnr", "ssim")
    for kind, settings in kinds.items():
        for who in data["who"]:
            parts = [np.stack(part) for part in zip(*(parts_of(data, who, index) for index in settings.values()), strict=True)]
            means = [each @ part.T for part in parts]  # (draws + 1, settings)
            seconds = [data["seconds"].get(f"{kind.removeprefix('libjpeg ')} {setting}", np.nan) for setting in settings]
            for rate in RATES:
                if not means[0][0].min() <= rate <= means[0][0].max():
                    continue
                found: dict[str, Any] = {"files": kind, "read by": who, "images": len(data["images"]), "bits per pixel": rate}
                for name, mean in zip(names, means[1:], strict=True):
                    value = at_rate(rate, means[0], mean) * (100 if name in ("accuracy", "agreement") else 1)
                    low, high = interval(value[1:])
                    digits = {"loss": 3, "psnr": 2, "ssim": 4}.get(name, 1)
                    found[name] = f"{value[0]:.{digits}f}"
                    if name in ("loss", "accuracy"):
                        found |= {f"{name} from": f"{low:.{digits}f}", f"{name} to": f"{high:.{digits}f}"}
                (time,) = at_rate(rate, means[0][:1], np.array([seconds]))
                yield {**found, "seconds": f"{time:.5f}"}


def held_out(data: dict[Any, Any], share: float, sample: int, robust: bool, draws: int = 100) -> tuple[float, float, float]:
    """Let mu be found on some images as ``jpegdl compress --agree`` finds it; what there is on all others.

    Returns:
        Agreement there, its spread over draws of the some, and bits per pixel there.
    """
    plain = [index for index in standard(data) if quality_of(data["names"][index]) >= LOWEST]
    bits, kept, distances = data["bits"][plain], data["reader", "kept"][plain], data["reader", "distance"][plain]
    if robust:
        distances = distances + OTHERS / np.array([[quality_of(data["names"][index])] for index in plain])
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


def markdown(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Accuracy, or the loss, of every kind of file at every rate."""
    kinds = list(dict.fromkeys(row["files"] for row in rows))
    for what, (who, name) in itertools.product(("accuracy", "loss"), zip(WHO, ("Lite0", "Lite1"), strict=False)):
        yield f"\n{what}, read by {name}\n"
        yield tables.header(["files", *map(str, RATES)])
        for kind in kinds:
            there = {each["bits per pixel"]: each for each in rows if (each["files"], each["read by"]) == (kind, who)}
            cells = ["" if rate not in there else _with_interval(there[rate], what) for rate in RATES]
            yield tables.row([kind, *cells])


def _with_interval(row: dict[str, Any], what: str) -> str:
    return f"{row[what]} [{row[f'{what} from']}, {row[f'{what} to']}]"


def write(path: Path | None, rows: list[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") if path else sys.stdout as file:
        writer = csv.DictWriter(file, max(rows, key=len).keys())
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lines", type=Path, nargs="+")
    parser.add_argument("--csv", type=Path, default=None)
    parser.add_argument("--rates", type=Path, default=None)
    parser.add_argument("--after", type=int, default=0, help="leave the first images of the first file out")
    arguments = parser.parse_args()
    data = load(arguments.lines, arguments.after)
    for who in data["who"]:
        loss, right = data[who, "original"].mean(1)
        print(f"originals, {who}: loss {loss:.3f}, accuracy {100 * right:.1f} %", file=sys.stderr)
    for name, seconds in data["seconds"].items():
        print(f"{name}: {seconds:.4f} s of one core a photo", file=sys.stderr)
    count = data["bits"].shape[1]
    sample = min(256, count // 2)
    for share in (0.9, 0.95, 0.98):
        for robust in (True, False):
            mean, spread, bits = held_out(data, share, sample, robust)
            print(
                f"agree {share}, {'robust' if robust else 'not robust'}: mu found on {sample} of {count} images, the others: "
                f"{100 * mean:.1f} % ± {100 * spread:.1f} over draws, {bits:.2f} bits per pixel",
                file=sys.stderr,
            )
    kinds = {**made(data), **chosen(data)}
    write(arguments.csv, list(table(data, kinds)))
    if arguments.rates:
        found = list(curves(data, kinds))
        write(arguments.rates, found)
        print("\n".join(markdown(found)))


if __name__ == "__main__":
    main()
