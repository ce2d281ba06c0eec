"""The result of an attack in words."""

from typing import Any

from jpegdl.errors import WIDTH, folded, how_many

_GRADIENTS = {
    "own": "the layer's own gradient",
    "ste": "the straight-through gradient",
    "none": "the gradient of the level cap alone",
    "identity": "the gradient straight through the layer",
    "plain": "transfer from the plain model",
    "black-box": "logits alone",
}


def attack_text(result: dict[str, Any]) -> str:
    """Return what :func:`jpegdl.robustness.attack_run` found, a few lines for a terminal."""
    rounding = f", rounding {result['rounding']}" if result["rounding"] else ""
    lines = [
        f"{result['arm']}, seed {result['seed']}{rounding}: {how_many(result['images'], 'test image')}, "
        f"{_percent(result['clean']['accuracy'])} right unchanged, {_percent(result['chance'])} by chance"
    ]
    if result["other_images"]:
        lines.append(f"other images than those of the run's own test: {result['other_images']}")
    if result["levels"]:
        lines += ["", "norm               size  own gradient  any attack  plain too  strongest attack"]
    for level in result["levels"]:
        eps = f"{level['eps_255']:g}/255" if level["norm"] == "Linf" else f"{level['eps']:g} = {level['eps_255']:g}/255"
        own = "" if level["own_gradient"] is None else _percent(level["own_gradient"])
        won = level["won"]
        whose = "" if not result["rounding"] and result["arm"] == "plain" else f", {_GRADIENTS[won['gradient']]}"
        by = nothing_broken(level, result["clean"]["accuracy"]) or f"{won['attack']}{whose}"
        adaptive, fools = _percent(level["accuracy"]), _fools_plain(level)
        row = f"{level['norm']:<5} {eps:>17}  {own:>12}  {adaptive:>10}  {fools:>9}  "
        lines += folded(by, first=row, later=" " * len(row)).split("\n")
    for flag in result["masking"]["flags"]:
        lines.append(f"! {flag['norm']}, {flag['eps_255']:g}/255: {flag['text']}")
    for name, why in result["left_out"].items():
        lines.append(f"left out: {name}, {why}")
    if result["corruptions"] or result["jpeg"]:
        lines.append("")
    if result["corruptions"]:
        by = ", ".join(f"{kind} {_percent(entry['mean'])}" for kind, entry in result["corruptions"]["by"].items())
        lines.append(f"corruptions: mean {_percent(result['corruptions']['mean'])} ({by})")
    if result["jpeg"]:
        by = ", ".join(f"{quality}: {_percent(share)}" for quality, share in result["jpeg"]["by"].items())
        lines.append(f"JPEG files by quality: mean {_percent(result['jpeg']['mean'])} ({by})")
    # Those of the table are short, and have spaces of their own.
    return "\n".join(line if len(line) <= WIDTH else folded(line, later="  ") for line in lines)


def nothing_broken(level: dict[str, Any], clean: float) -> str | None:
    """Say that no attack broke an image at a level of a result, where none did; ``clean``: the accuracy without attacks."""
    if level["accuracy"] == clean:
        return "nothing"
    return "nothing but at a smaller eps" if all(trial["accuracy"] == clean for trial in level["trials"]) else None


def _fools_plain(level: dict[str, Any]) -> str:
    """Of the images that the winner broke and the plain model knew: the share that the plain model takes for another too."""
    won = level["won"]
    found = next(t for t in level["trials"] if (t["attack"], t["gradient"]) == (won["attack"], won["gradient"]))
    return "" if found["fools_plain"] is None else _percent(found["fools_plain"])


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
