"""Completion for shells: the commands and their options as a plain argparse tree, which shtab writes a script of.

The script is static: to complete starts no Python.
"""

import argparse
import shlex
from typing import Any, Literal, get_args, get_origin

from jpegdl.cli.commands import COMMANDS
from jpegdl.cli.help import explanation
from jpegdl.extras import require

FILES = ("weights", "layer.tables", "tables", "model", "save", "file", "photos")
FOLDERS = ("data.path", "output", "source", "target", "from_files")


def script(shell: str) -> str:
    """The script for bash, zsh or tcsh.

    Raises:
        UsageError: shtab is not installed.
    """
    require("completion needs", "shtab")
    import shtab

    root = argparse.ArgumentParser(prog="jpegdl")
    root.add_argument("--version", action="store_true", help="print the version")
    commands = root.add_subparsers()
    values = _values()
    for name, command in COMMANDS.items():
        own = commands.add_parser(name, help=command.about, description=command.about, add_help=False)
        for action in command.parser()._actions:
            _add(own, action, values, {"files": shtab.FILE, "folders": shtab.DIRECTORY, "config": _recipe_or_file()})
    return shtab.complete(root, shell)


def _add(own: argparse.ArgumentParser, action: argparse.Action, values: dict[str, Any], complete: dict[str, Any]) -> None:
    """Add the same option or argument, with what its value may be."""
    names = [option for option in action.option_strings if not option.endswith("+")] or [action.dest]
    about = explanation(action).replace("%", "%%")
    if action.option_strings and (action.nargs == 0 or action.dest == "print_config"):
        own.add_argument(*names, action="store_true", help=about)
        return
    kind = getattr(action, "_typehint", None)
    choices = values.get(action.dest) or (["true", "false"] if kind is bool else None)
    if get_origin(kind) is Literal:
        choices = get_args(kind)
    nargs = action.nargs if action.nargs in ("?", "*", "+") and not action.option_strings else None
    added = own.add_argument(*names, choices=choices, nargs=nargs, help=about)
    what = "files" if action.dest in FILES else "folders" if action.dest in FOLDERS else action.dest
    if what in complete:
        added.complete = complete[what]  # type: ignore[attr-defined]  # shtab's way to say it


def _values() -> dict[str, Any]:
    """What settings may be whose parsers take any string."""
    from jpegdl.comparison import ARMS
    from jpegdl.data.config import CACHES, CROPS, INTERPOLATIONS
    from jpegdl.data.sources.registry import set_names
    from jpegdl.export import FORMATS
    from jpegdl.layer import LAYER_KINDS, ROUNDINGS
    from jpegdl.recipes import RECIPES

    return {
        "arm": ARMS,
        "data.cache": CACHES,
        "data.crop": CROPS,
        "data.interpolation": INTERPOLATIONS,
        "data.name": set_names(),
        "format": FORMATS,
        "layer.calibration": ("eval", "train"),
        "layer.kind": LAYER_KINDS,
        "recipe": RECIPES,
        "method": ("sensitivity", "magnitude"),
        "rounding": ROUNDINGS,
        "training.accelerator": ("auto", "cpu", "gpu"),
        "training.train": ("both", "layer"),
    }


def _recipe_or_file() -> dict[str, Any]:
    """For --config, by shell: the name of a recipe, or a YAML file."""
    from jpegdl.recipes import RECIPES

    name, names = "_jpegdl_recipe_or_file", " ".join(RECIPES)
    bash = f"""\
{name}() {{
  compgen -W {shlex.quote(names)} -- "$1"
  compgen -f -X '!*.yaml' -- "$1"
  compgen -f -X '!*.yml' -- "$1"
  compgen -d -- "$1"
}}"""
    zsh = f"""\
{name}() {{
  _alternative 'recipes:recipe:({names})' 'files:file:_files -g "*.(yaml|yml)"'
}}"""
    return {"bash": name, "zsh": name, "tcsh": f"({names})", "preamble": {"bash": bash, "zsh": zsh}}
