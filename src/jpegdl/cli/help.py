"""Help that is short: all commands at a glance, and of one command what most people need."""

import argparse
import re
import shutil
import textwrap
from collections.abc import Mapping

from jpegdl.cli.command import SETTINGS, Command
from jpegdl.settings import as_typed

ABOUT = "A JPEG layer that trains with the network: train models with and without it, compare them, measure."

LINE = 54  # characters that an explanation may take on a terminal of 80 columns, its default included

#: Settings in few words, for those that are explained in more.
BRIEF = {
    "config": "a recipe (see jpegdl recipes), or a YAML file",
    "backbone": "timm's name of a model",
    "pretrained": "start from its published weights",
    "arms": "what to compare",
    "seeds": "how many, or a list of them",
    "jobs": "runs side by side (default: one per GPU or CPU core)",
    "data.path": "folder with train/ and test/, one folder per class",
    "data.size": "side of the images, in pixels (default: the network's own)",
    "data.holdout": "share of training images to validate on, 0 for none",
    "data.workers": "processes that load images",
    "predictions": "write the predictions for each image to this CSV file",
    "layer.tables": "initial steps of the layer",
    "layer.q_max": "largest luma step, in JPEG table units",
    "layer.images": "use at most this many training images",
    "method": "sensitivity or magnitude (default: sensitivity)",
    "format": "onnx, torch or aotinductor (default: by the name)",
    "dynamic_size": "take any multiple of 8 pixels",
    "eps": "largest changes, in 1/255 (default: 1, 2, 4 and 8)",
    "attacks": "which attacks (default: all but fab-t)",
    "rounding": "use another quantizer, such as hard",
    "corruptions": "kinds, [] for none (default: all 15)",
    "images": "how many test images",
    "pictures": "single images to show, at each end",
    "ablation": "test without each frequency, which takes longest",
    "source": "folder of images, with its subfolders",
    "target": "folder to write to, outside of IN",
    "tables": "instead of a run: a file of tables, or standard:Q",
    "subsampling": "chroma subsampling: 4:4:4, 4:2:0",
    "qualities": "qualities of default JPEG (default: 5, 10, ..., 95)",
    "optimize": "make smaller files, in more time",
    "progressive": "write progressive files",
    "exact": "the layer's own levels, with its cap",
    "threads": "images to encode at a time (default: one per core)",
    "reader": "the network to make files for",
    "judge": "another network, which only reads the files",
    "effort": "1: qualities (default), 2: more kinds, 3: gradients",
    "mu": "what a bit per pixel is worth, in nats (default: 1)",
    "agree": "instead of mu: share of first answers to keep",
    "from_files": "test on these JPEG files too, in class folders",
    "device": "cpu, cuda, ... (default: a GPU where there is one)",
}


def overview(commands: Mapping[str, Command]) -> str:
    """Return what ``jpegdl --help`` says: all commands."""
    width, indent = _width(), max(len(name) for name in commands) + 4
    lines = [f"  {name}".ljust(indent) + command.about for name, command in commands.items()]
    table = "\n".join(textwrap.fill(line, width, subsequent_indent=" " * indent) for line in lines)
    return f"""\
usage: jpegdl COMMAND {SETTINGS}

{textwrap.fill(ABOUT, width)}

commands:
{table}

jpegdl help COMMAND         explains the options that most people need
jpegdl COMMAND --help       does the same
jpegdl COMMAND --help-all   explains all options, with units and defaults
jpegdl -V, --version        prints the version
python -m jpegdl            is the same command"""


def short_help(command: Command) -> str:
    """Return what ``jpegdl COMMAND --help`` says: what it does, an example and the options that most people need."""
    from jpegdl.parsing import NO_SETTINGS

    parser = command.parser()
    actions = {action.dest: action for action in parser._actions if action.dest not in NO_SETTINGS}
    shown = sorted((actions[name] for name in command.short or actions), key=lambda action: bool(action.option_strings))
    names = [_name(action) for action in shown]
    indent = max(map(len, names)) + 4
    lines = [f"  {name}".ljust(indent) + explanation(action) for name, action in zip(names, shown, strict=True)]
    some = len(shown) < len(actions)
    return "\n".join(
        [
            f"usage: {parser.usage}",
            "",
            textwrap.fill(command.about, _width()),
            "",
            "example:",
            textwrap.indent(command.example, "  "),
            "",
            f"options{' that most people need' if some else ''}:",
            *(textwrap.fill(line, _width(), subsequent_indent=" " * indent, break_on_hyphens=False) for line in lines),
            "",
            f"--help-all explains all {len(actions)} options" if some else "--help-all says more about them",
        ]
    )


def explanation(action: argparse.Action) -> str:
    """Return an option or argument in one line, with its default."""
    whole = " ".join((action.help or "").replace("``", "").split()).rstrip(".")
    line = whole + _default(action, whole)
    brief = BRIEF.get(action.dest, whole)
    if "(default:" not in brief and (said := re.search(r"\(default: [^)]*\)$|Default: \w+$", whole)):
        brief += f" ({said[0].strip('()').lower()})"
    return line if len(line) <= LINE else brief + _default(action, brief)


def _default(action: argparse.Action, line: str) -> str:
    if action.default is None or action.default == argparse.SUPPRESS or action.nargs == 0 or "(default:" in line:
        return ""
    return f" (default: {as_typed(action.default)})"


def _name(action: argparse.Action) -> str:
    return action.option_strings[0] if action.option_strings else str(action.metavar)


def _width() -> int:
    return min(shutil.get_terminal_size().columns, 100)
