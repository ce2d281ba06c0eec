"""How a comparison ends: what the files in its folder show, and which commands go on from there."""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jpegdl.compare.statistics import summary_table, verdict
from jpegdl.errors import UsageError, did_you_mean

#: What each file in the folder of a comparison shows; ARM and SEED stand for any.
SHOWN = {
    "summary.md": "the table",
    "summary.csv": "the table for spreadsheets and pandas",
    "summary.tex": "the table for LaTeX",
    "summary.json": "all its numbers, for programs",
    "curves.png": "loss and accuracy of every run by epoch",
    "accuracy.png": "test accuracy by epoch: each seed, and their mean",
    "gains.png": "each arm's difference to plain: each seed, mean and 95 % interval",
    "tables-ARM.png": "its tables before and after training, and what changed",
    "saturation-ARM.png": "share of the coefficients at the level cap, per frequency",
    "ARM/SEED/metrics.csv": "loss and accuracy of a run by epoch",
    "ARM/SEED/model.safetensors": "its trained model",
}


@dataclass(frozen=True)
class Shown:
    """Files of one sort in the folder of a comparison.

    Attributes:
        name: of the file; with ARM and SEED in it where there are several.
        about: what it shows.
        files: all there are.
    """

    name: str
    about: str
    files: list[Path]


def shown_files(folder: Path) -> list[Shown]:
    """What there is to look at in the folder of a comparison; sorts of which there is no file are left out."""
    found = []
    for name, about in SHOWN.items():
        files = sorted(folder.glob(name.replace("ARM", "*").replace("SEED", "[0-9]*")))
        if files:
            found.append(Shown(files[0].relative_to(folder).as_posix() if len(files) == 1 else name, about, files))
    return found


def closing(folder: Path, summary: dict[str, Any]) -> str:
    """What a finished comparison says below its table.

    Args:
        folder: of the comparison.
        summary: what is in its ``summary.json``.
    """
    files = [(shown.name, shown.about) for shown in shown_files(folder)]
    blocks = (
        [verdict(summary)],
        [f"Run folder: {folder}", *_columns(files)],
        ["Next:", *_columns(_next(folder, summary))],
    )
    return "\n\n".join("\n".join(lines) for lines in blocks)


def _next(folder: Path, summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Commands that go on from a comparison, and what each does."""
    place = f"--name {shlex.quote(folder.name)}"
    if str(folder.parent) != "runs":
        place += f" --output {shlex.quote(str(folder.parent))}"
    seeds = {arm: entry["seeds"] for arm, entry in summary["arms"].items() if entry["seeds"]}
    arm = next((arm for arm in ("jpeg-dl", *seeds) if arm in seeds and arm != "plain"), "plain")
    which = place if arm == "jpeg-dl" else f"{place} --arm {arm}"
    exact = which if 0 in seeds[arm] else f"{which} --seed {seeds[arm][0]}"
    commands = [
        (f"jpegdl evaluate {exact}", "test its model again, on this machine or another"),
        (f"jpegdl predict {which} PHOTO", "what is on a photo"),
        (f"jpegdl export {exact} model.onnx", "use the model elsewhere"),
        (f"jpegdl summary {place}", "this table again"),
    ]
    if next(folder.glob("*/*/**/events.out.tfevents.*"), None):
        commands.append((f"tensorboard --logdir {shlex.quote(str(folder))}", "how training went, in the browser"))
    return commands


def _columns(rows: list[tuple[str, str]]) -> list[str]:
    width = max((len(first) for first, _ in rows), default=0)
    return [f"  {first:{width}}  {second}" for first, second in rows]


def read_summary(folder: Path) -> dict[str, Any]:
    """The summary that a comparison left in its folder.

    Raises:
        UsageError: there is none, or it is damaged.
    """
    file = folder / "summary.json"
    again = "jpegdl compare with the same settings writes it"
    try:
        summary: dict[str, Any] = json.loads(file.read_text())
        summary_table(summary)  # which looks at all of it
    except FileNotFoundError as error:
        hint = did_you_mean(folder.name, sorted(path.parent.name for path in folder.parent.glob("*/summary.json")))
        raise UsageError(f"there is no {file}; {hint or again}") from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UsageError(f"{file} is damaged ({type(error).__name__}: {error}); {again} again") from error
    return summary
