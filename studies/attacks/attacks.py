"""What attacks and corruptions leave, arm by arm: python studies/attacks/attacks.py RUNS/NAME [--against plain]

Reads the attack.csv that ``jpegdl attack --name NAME`` left in a comparison's folder; prints tables in Markdown: mean and
sample sd over seeds, in percent of the attacked images, and differences in points, paired over seeds, with the 95 % interval
and p of a paired t test.
"""

import argparse
import csv
import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean

from jpegdl_studies.pairing import difference
from jpegdl_studies.tables import header, percent, row

Shares = dict[str, dict[int, float]]  # of each arm, by seed
WEAK = {
    "FGSM, own gradient": ("fgsm", "own"),
    "PGD of 5, own gradient": ("pgd", "own"),
    "Square": ("square", "black-box"),
    "transfer": ("pgd-strong", "plain"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", type=Path)
    parser.add_argument("--against", default="plain", help="the arm that the others are compared with")
    options = parser.parse_args()
    try:
        with (options.comparison / "attack.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        sys.exit(f"{options.comparison} has no attacks: {error}")
    if options.against not in {each["arm"] for each in rows}:
        sys.exit(f"{options.comparison / 'attack.csv'} has no arm {options.against}")

    found: dict[tuple[str, str, str, str], Shares] = defaultdict(lambda: defaultdict(dict))
    for each in rows:
        key = (each["norm"], each["eps_255"], each["attack"], each["gradient"])
        found[key][_arm(each)][int(each["seed"])] = float(each["accuracy"])
    arms = list(dict.fromkeys(_arm(each) for each in rows))
    print(f"{rows[0]['images']} images of each model; seeds {', '.join(sorted({each['seed'] for each in rows}))}\n")

    print(header(["norm, eps", "arm", "clean", *WEAK, "own gradient, all", "all", f"all, to {options.against}"]))
    clean = found["", "0.0", "none", ""]
    for norm, eps in dict.fromkeys((each["norm"], each["eps_255"]) for each in rows if each["norm"]):
        for arm in arms:
            own, every = found[norm, eps, "all", "own"], found[norm, eps, "all", "adaptive"]
            cells = [_share(clean[arm]), *(_share(found[norm, eps, *trial].get(arm)) for trial in WEAK.values())]
            cells += [_share(own.get(arm)), _share(every.get(arm)), _difference(every, arm, options.against)]
            print(row([f"{norm} {_eps(norm, eps)}", arm, *cells]))

    changes = {"corruptions, mean": _mean_over(found, "corruption"), "JPEG files, mean": _mean_over(found, "jpeg")}
    kinds = dict.fromkeys(key[3].split(" ")[0] for key in found if key[2] == "corruption")
    changes |= {kind: _mean_over(found, "corruption", kind) for kind in kinds}
    changes |= {f"JPEG, quality {key[3]}": found[key] for key in list(found) if key[2] == "jpeg"}
    changes = {name: shares for name, shares in changes.items() if shares}
    if changes:
        others = [arm for arm in arms if arm != options.against]
        print(f"\n{header(['images', *arms, *(f'{arm}, to {options.against}' for arm in others)])}")
    for name, shares in changes.items():
        cells = [_share(shares.get(arm)) for arm in arms] + [_difference(shares, arm, options.against) for arm in others]
        print(row([name, *cells]))


def _arm(each: dict[str, str]) -> str:
    return each["arm"] + (f", {each['rounding']} rounding" if each["rounding"] not in ("", "soft") else "")


def _eps(norm: str, eps_255: str) -> str:
    return f"{float(eps_255):g}/255" if norm == "Linf" else f"{float(eps_255) / 255:g}"


def _mean_over(found: dict[tuple[str, str, str, str], Shares], what: str, kind: str | None = None) -> Shares:
    """Return means over the severities of each corruption and over corruptions, or over qualities; of one kind, if given."""
    values: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for (_, _, attack, which), shares in found.items():
        if attack == what and kind in (None, which.split(" ")[0]):
            for arm, by_seed in shares.items():
                for seed, share in by_seed.items():
                    values[arm][seed].append(share)
    return {arm: {seed: mean(several) for seed, several in by_seed.items()} for arm, by_seed in values.items()}


def _share(by_seed: dict[int, float] | None) -> str:
    return percent(list(by_seed.values())) if by_seed else ""


def _difference(shares: Shares, arm: str, against: str) -> str:
    if arm == against:
        return ""
    values, baseline = ({seed: 100 * share for seed, share in shares.get(of, {}).items()} for of in (arm, against))
    return difference(values, baseline, p=True)


if __name__ == "__main__":
    main()
