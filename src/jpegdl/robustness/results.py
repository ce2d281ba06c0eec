"""What attacks left in the run folders of a comparison, read back."""

from typing import Any

from jpegdl.errors import UsageError
from jpegdl.files import read_json, reading
from jpegdl.robustness.attack_figures import Results, attack_rows, check_same
from jpegdl.runs import RunFolder
from jpegdl.runs.pieces import outdated

_KEYS = (
    "model", "plain", "classes", "images", "indices", "data", "other_images", "clean", "levels", "masking", "corruptions",
    "jpeg", "left_out", "settings", "versions", "machine",
)  # fmt: skip


def read_attack(run: RunFolder, rounding: str | None = None) -> dict[str, Any] | None:
    """Read a run's ``attack.json``, or that of an attack with another ``rounding``; None if there is none.

    Raises:
        UsageError: it is damaged.
    """
    file = run.path / f"{attack_name(rounding)}.json"
    found = read_json(file, _KEYS)
    if found is not None:
        with reading(file, "delete it, and jpegdl attack will write it again"):
            attack_rows({"": {0: found}})
            [(flag["norm"], float(flag["eps_255"]), flag["text"]) for flag in found["masking"]["flags"]]
    return found


def attack_name(rounding: str | None) -> str:
    """Return the name of an attack's files, without the ending."""
    return "attack" if rounding is None else f"attack-{rounding}"


def with_earlier(results: Results, runs: dict[str, dict[int, RunFolder]], rounding: str | None) -> tuple[Results, list[str]]:
    """Add the results of earlier calls that can be compared with these.

    Args:
        results: what this call found.
        runs: all finished runs of the comparison.
        rounding: the quantizer that ``results`` were attacked with, if it is not the trained one.

    Returns:
        The results, in the order of ``runs``, of all runs that were attacked with the same settings on the same images, and
        whose model has not changed since. And which earlier results are left out and why, in sentences.
    """
    together: Results = {}
    notes = []
    for arm, by_seed in runs.items():
        for seed, run in by_seed.items():
            if (found := results.get(arm, {}).get(seed)) is None:
                try:
                    if (found := read_attack(run, rounding)) is None:
                        continue
                except UsageError as damaged:  # no reason to lose what was found now
                    notes.append(f"Without {arm}, seed {seed}, of an earlier call: {damaged}.")
                    continue
                if (why := _not_beside(found, run, runs.get("plain", {}).get(seed), results)) is not None:
                    notes.append(f"Without {arm}, seed {seed}, of an earlier call: {why}.")
                    continue
            together.setdefault(arm, {})[seed] = found
    return together, notes


def _not_beside(found: dict[str, Any], run: RunFolder, plain: RunFolder | None, results: Results) -> str | None:
    """Return why what was found of a run earlier may not stand beside results; None where it may."""
    if why := outdated(run, found, plain):
        return f"{why} since"
    try:
        check_same({**results, "": {0: found}})
    except UsageError:
        return "it was attacked with other settings, or on other images"
    return None
