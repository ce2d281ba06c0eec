"""What ``jpegdl attack`` found, for the page."""

from collections.abc import Iterator
from typing import Any

from jpegdl.errors import UsageError, how_many
from jpegdl.report.section import Results, Runs, Section, current, difference_text, drawn, each_run, filled_columns, mean_text
from jpegdl.robustness import GRADIENTS, attack_figure, attack_left_out, attack_notes, read_attack
from jpegdl.robustness.text import nothing_broken


def attacked_sections(runs: Runs) -> Iterator[Section]:
    """Show what ``jpegdl attack`` found of all runs that were attacked."""
    results: Results = {}
    title, notes = "Under attack", list[str]()
    for arm, seed, result in current(runs, read_attack, "was attacked; run jpegdl attack", notes):
        results.setdefault(arm, {})[seed] = result
    if not results:
        if notes:
            yield Section(title, lines=notes)
        return
    try:
        figure, pictures = attack_figure(results, list(runs)), []
    except UsageError as error:  # attacked in different ways, which no figure and no table may put side by side
        notes.append(f"The runs cannot be compared: {error}.")
        yield Section(title, lines=notes, table=[["arm", "seed", "images"], *each_run(results)])
        return
    notes += attack_notes(results)
    first = next(iter(next(iter(results.values())).values()))
    if figure is not None:
        caption = (
            "Accuracy against the strength of the attack. Solid lines count an image as robust only if no attack broke it."
        )
        pictures.append(drawn(figure, "attack", "Accuracy of each arm against the strength of the attack", caption))
        yield Section(
            title,
            "How many images stay right after small changes that were made to fool the model, up to the given size. Go by the "
            "column 'any attack': there an image counts as right only if no attack fooled the model on it. These were "
            f"run: {_tried(results)}. More attacks could only lower the accuracy. What is usually published is FGSM and PGD of "
            "5 steps, with the layer's own gradient. They flatter a layer whose gradient says little. 'own gradient' "
            "counts all attacks that follow it. "
            f"{how_many(first['images'], 'image')}; means over seeds, ± sample sd; differences from plain paired over seeds.",
            lines=[*notes, *attack_left_out(results), *_masking_lines(results)],
            table=_attack_table(results),
            pictures=pictures,
        )
        notes = []
    for name, what in (("corruptions", "Common corruptions"), ("jpeg", "Test images as JPEG files")):
        if first[name]:
            how = (
                f"The kinds of ImageNet-C, mean over severities ({', '.join(map(str, first['settings']['severities']))})."
                if name == "corruptions"
                else "Accuracy by the quality of the files (4:2:0)."
            )
            text = f"{how} {how_many(first['images'], 'image')}; means over seeds, ± sample sd."
            yield Section(what, text, lines=notes, table=_shifted_table(results, name))
            notes = []
    if notes:
        yield Section(title, lines=notes)


def _tried(results: Results) -> str:
    """Return which attacks were run, through which gradients, in words."""
    every = [result for by_seed in results.values() for result in by_seed.values()]
    trials = [trial for result in every for level in result["levels"] for trial in level["trials"]]
    gradients = sorted({trial["gradient"] for trial in trials}, key=[*GRADIENTS, "plain", "black-box"].index)
    names = {"plain": "transfer from the plain model", "black-box": "logits alone"}
    through = ", ".join(names.get(gradient, gradient) for gradient in gradients)
    return f"{', '.join(dict.fromkeys(trial['attack'] for trial in trials))}; through the gradients {through}"


def _masking_lines(results: Results) -> list[str]:
    """Signs of masked gradients; where there are none, what was looked at."""
    flags = {
        f"{arm}, seed {seed}: {flag['norm']}, {flag['eps_255']:g}/255: {flag['text']}."
        for arm, by_seed in results.items()
        for seed, result in by_seed.items()
        for flag in result["masking"]["flags"]
    }
    if flags:
        return ["Signs of masked gradients:", *sorted(flags)]
    every = [result for by_seed in results.values() for result in by_seed.values()]
    looked = []
    if any(trial["gradient"] != "own" for result in every for level in result["levels"] for trial in level["trials"]):
        looked.append("no other gradient, transfer or black box broke significantly more than the layer's own gradient")
    if any(result["masking"]["check"] for result in every):
        check = next(result["masking"]["check"] for result in every if result["masking"]["check"])
        looked.append(f"{check['attack']} leaves nothing at {check['eps_255']:g}/255")
    if not looked:
        return ["No attack tested whether gradients are masked."]
    images = every[0]["images"]
    these = "this image" if images == 1 else f"these {images:,} images"
    return [f"No sign of masked gradients on {these}: {'; '.join(looked)}."]


def _attack_table(results: Results) -> list[list[str]]:
    """Means over seeds, a row for each arm, norm and eps."""
    rows = [[
        "arm", "measured by", "size", "FGSM, %", "PGD-5, %", "own gradient, %", "any attack, %", "difference from plain [95 %]",
        "strongest attack", "seeds",
    ]]  # fmt: skip
    for arm, by_seed in results.items():
        first, *_ = some = list(by_seed.values())
        seeds = ", ".join(map(str, by_seed))
        clean = mean_text([result["clean"]["accuracy"] for result in some])
        rows.append([arm, "not attacked", "", "", "", "", clean, _to_plain(arm, results, None), "", seeds])
        for index, level in enumerate(first["levels"]):
            here = [result["levels"][index] for result in some]
            eps = f"{level['eps_255']:g}/255" if level["norm"] == "Linf" else f"{level['eps']:g}"
            published = [mean_text([_alone(entry, attack) for entry in here]) for attack in ("fgsm", "pgd")]
            own, adaptive = (mean_text([entry[part] for entry in here]) for part in ("own_gradient", "accuracy"))
            to_plain = _to_plain(arm, results, index)
            won = [
                nothing_broken(result["levels"][index], result["clean"]["accuracy"]) or _won(result["levels"][index])
                for result in some
            ]
            rows.append([arm, level["norm"], eps, *published, own, adaptive, to_plain, "; ".join(dict.fromkeys(won)), seeds])
    return filled_columns(rows)


def _won(level: dict[str, Any]) -> str:
    return f"{level['won']['attack']}, {level['won']['gradient']}"


def _alone(level: dict[str, Any], attack: str) -> float | None:
    """Accuracy under one attack through the layer's own gradient, as it is published; None where it was not run."""
    return next((t["accuracy"] for t in level["trials"] if (t["attack"], t["gradient"]) == (attack, "own")), None)


def _to_plain(arm: str, results: Results, level: int | None) -> str:
    """Write the difference from plain at a level, or unchanged, in points, paired over the seeds that both have.

    It is empty for plain, and where they have no seed in common."""
    seeds = sorted(results[arm].keys() & results.get("plain", {}).keys())
    if arm == "plain":
        return ""

    def accuracies(of: str) -> list[float | None]:
        found = [results[of][seed] for seed in seeds]
        return [(result["clean"] if level is None else result["levels"][level])["accuracy"] for result in found]

    return difference_text(accuracies(arm), accuracies("plain"))


def _shifted_table(results: Results, name: str) -> list[list[str]]:
    """Accuracy by corruption, or by quality of JPEG files, a column for each arm."""
    measured = {arm: [result[name] for result in by_seed.values()] for arm, by_seed in results.items()}
    rows = [["corruption" if name == "corruptions" else "quality", *(f"{arm}, %" for arm in measured)]]
    for which in next(iter(measured.values()))[0]["by"]:
        cells = []
        for found in measured.values():
            entries = [result["by"][which] for result in found]
            cells.append(mean_text([entry["mean"] if isinstance(entry, dict) else entry for entry in entries]))
        rows.append([which.replace("_", " "), *cells])
    rows.append(["mean", *(mean_text([result["mean"] for result in found]) for found in measured.values())])
    return rows
