"""How a comparison ends: what the files in its folder show, and which commands go on from there."""

import json
import shlex
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jpegdl.comparison.numbers import recounted, summary_csv, summary_table, verdict
from jpegdl.errors import WIDTH, UsageError, folded
from jpegdl.files import reading
from jpegdl.runs.record import counted

#: What each file in the folder of a comparison shows; ARM, SEED and * stand for any.
SHOWN = {
    "report.html": "all of it on one page, to open in a browser",
    "summary.*": "the table: .md to read, .csv and .tex to take elsewhere, .json with all numbers",
    "curves.png": "loss and accuracy of every run by epoch",
    "accuracy.png": "test accuracy by epoch: each seed, and their mean",
    "gains.png": "each arm's difference from plain: each seed, mean and 95 % interval",
    "tables-ARM.png": "its tables before and after training, and what changed",
    "saturation-ARM.png": "share of the coefficients at the level cap, per frequency",
    "ARM/SEED/metrics.csv": "loss and accuracy of a run by epoch",
    "ARM/SEED/model.safetensors": "its trained model",
}


@dataclass(frozen=True)
class ShownFile:
    """Files of one sort in the folder of a comparison."""

    name: str  # with ARM, SEED or * in it where there are several
    about: str  # what they show
    files: list[Path]


def shown_files(folder: Path) -> list[ShownFile]:
    """Return what there is to look at in the folder of a comparison; sorts of which there is no file are left out."""
    found = []
    for name, about in SHOWN.items():
        files = sorted(folder.glob(name.replace("ARM", "*").replace("SEED", "[0-9]*")))
        if files:
            found.append(ShownFile(files[0].relative_to(folder).as_posix() if len(files) == 1 else name, about, files))
    return found


def closing(folder: Path, summary: dict[str, Any]) -> str:
    """Return what a finished comparison says below its table."""
    files = [(shown.name, shown.about) for shown in shown_files(folder)]
    blocks = (
        [folded(verdict(summary), WIDTH)],
        [f"Run folder: {folder}", *_columns(files)],
        ["Next:", *_columns(_next(folder, summary))],
    )
    return "\n\n".join("\n".join(lines) for lines in blocks)


def _next(folder: Path, summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Commands that go on from a comparison, and what each does."""
    name, named, output = shlex.quote(folder.name), *named_options(folder)
    place = f"{named if name.startswith('-') else name}{output}"
    seeds = {arm: entry["seeds"] for arm, entry in summary["arms"].items() if entry["seeds"]}
    arm = next((arm for arm in ("jpeg-dl", *seeds) if arm in seeds and arm != "plain"), "plain")
    which = "" if arm == "jpeg-dl" else f" --arm {arm}"
    seed = min(seeds[arm])  # the one that predict takes
    exact = f"{place}{which} --seed {seed}" if seed else f"{place}{which}"
    commands = [
        (f"jpegdl evaluate {exact}", f"test the model of {arm}, seed {seed}, again"),
        (f"jpegdl predict {named}{output}{which} PHOTO", "which class it sees in a photo"),
        (f"jpegdl export {exact} model.onnx", "the model for use elsewhere"),
        (f"jpegdl summary {place}", "this table again"),
    ]
    if arm != "plain":
        commands += [
            (
                f"jpegdl explain {place}{which.replace('--arm', '--arms')}{f' --seeds {seed},' if seed else ''}",
                "what its layer does, per frequency and on single images",
            ),
            (f"jpegdl attack {place} --attacks fgsm,pgd --corruptions '[]'", "how easily small changes fool the models"),
        ]
    if next(folder.glob("*/*/**/events.out.tfevents.*"), None):
        commands.append((f"tensorboard --logdir {shlex.quote(str(folder))}", "how training went, in the browser"))
    return commands


def named_options(folder: Path) -> tuple[str, str]:
    """Return the options that name a comparison by its folder: --name, and --output with a space before it, or nothing."""
    name = shlex.quote(folder.name)
    output = "" if str(folder.parent) == "runs" else f" --output {shlex.quote(str(folder.parent))}"
    return f"--name={name}" if name.startswith("-") else f"--name {name}", output


def _columns(rows: list[tuple[str, str]]) -> list[str]:
    """Two columns in lines of at most 80 characters; what does not fit beside its first column goes below it."""
    width = max((len(first) for first, second in rows if len(first) + len(second) <= WIDTH - 4), default=0)
    lines = []
    for first, second in rows:
        if max(width, len(first)) + len(second) <= WIDTH - 4:
            lines.append(f"  {first:{width}}  {second}")
        else:
            lines += [f"  {first}", *(f"      {line}" for line in folded(second, WIDTH - 6).split("\n"))]
    return lines


def read_summary(folder: Path) -> dict[str, Any]:
    """Read the summary of a comparison from its folder. Warn of runs there that have changed since.

    Raises:
        UsageError: there is none, or it is damaged.
    """
    file = folder / "summary.json"
    if not file.exists():
        raise UsageError(f"{file} does not exist; jpegdl compare writes it")
    with reading(file, "run jpegdl compare with the same settings to write it again"):
        summary: dict[str, Any] = recounted(json.loads(file.read_text(encoding="utf-8")))
        summary_table(summary), summary_csv(summary)  # which look at all of it
        unlike = [run.parent for run in sorted(folder.glob("*/*/result.json")) if not _tells_of(summary, run)]
        told_of = [folder / arm / str(seed) for arm, entry in summary["arms"].items() for seed in entry["seeds"]]
    for runs, what in (
        (unlike, "this table is older than some runs"),
        ([run for run in told_of if not (run / "result.json").is_file()], "the results of some runs in this table are gone"),
    ):
        if runs:
            names = ", ".join(str(run.relative_to(folder)) for run in runs)
            warnings.warn(f"{what}: {names}; run jpegdl compare to update it", stacklevel=2)
    return summary


def _tells_of(summary: dict[str, Any], result: Path) -> bool:
    """Return whether the summary has this run, with the accuracy that is in its ``result.json``, or says why it does not
    count."""
    arm, seed = result.parts[-3:-1]
    if any((entry["arm"], str(entry["seed"])) == (arm, seed) for entry in summary["failed"]):
        return True
    if f"{arm}/{seed}" in summary.get("other_settings", ()):
        return True
    entry = summary["arms"].get(arm, {"seeds": [], "accuracy": []})
    accuracies = dict(zip(map(str, entry["seeds"]), entry["accuracy"], strict=True))
    try:
        return seed in accuracies and bool(
            counted(json.loads(result.read_text(encoding="utf-8")))["accuracy"] == accuracies[seed]
        )
    except (ValueError, KeyError, TypeError, AttributeError):  # damaged since
        return False
