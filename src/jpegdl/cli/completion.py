"""``jpegdl completion``: the commands and their options as a plain argparse tree, which shtab writes a script of.

jsonargparse's own scripts know neither the names of recipes nor which settings are folders, say types in place of what an
option is for, and take Python's spelling. This one is static too: to complete starts no Python.
"""

import argparse
import shlex
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

from jpegdl.cli.command import Command, Parser
from jpegdl.cli.help import explanation
from jpegdl.errors import UsageError
from jpegdl.extras import require

FILES = ("weights", "layer.tables", "tables", "model", "save", "file", "photos")
FOLDERS = ("data.path", "output", "source", "target", "from_files")
Shell = Literal["bash", "zsh", "tcsh", "fish"]


class Completion(Command):
    about = "Print a script that lets your shell complete commands, options and their values."
    usage = "bash|zsh|tcsh|fish"
    example = "jpegdl completion bash > ~/.jpegdl.bash  # and in ~/.bashrc: . ~/.jpegdl.bash"
    extra = "completion"

    def __init__(self, commands: Mapping[str, Command]) -> None:
        self._commands = commands

    def add(self, parser: Parser) -> None:
        parser.add_argument("shell", type=Shell, metavar="SHELL", help="bash, zsh, tcsh or fish")

    def run(self, chosen: dict[str, Any]) -> None:
        require("completion needs", "shtab")
        import shtab

        if chosen["shell"] not in shtab.SUPPORTED_SHELLS:
            raise UsageError(f"the installed shtab does not support {chosen['shell']}; update it: pip install -U shtab")
        root = argparse.ArgumentParser(prog="jpegdl")
        root.add_argument("-V", "--version", action="store_true", help="print the version")
        tree = root.add_subparsers()
        open_sets = _open_sets()
        complete = {"files": shtab.FILE, "folders": shtab.DIRECTORY, "config": _recipe_or_file()}
        for name, command in self._commands.items():
            own = tree.add_parser(name, help=command.about, description=command.about, add_help=False)
            for action in command.parser()._actions:
                _add(own, action, open_sets, complete)
        helped = tree.add_parser("help", help="Explain a command.", add_help=False)
        helped.add_argument("command", nargs="?", choices=list(self._commands))
        print(shtab.complete(root, chosen["shell"]))


def _add(own: argparse.ArgumentParser, action: argparse.Action, open_sets: dict[str, Any], complete: dict[str, Any]) -> None:
    """Add the same option or argument, with what its value may be."""
    names = [option for option in action.option_strings if not option.endswith("+")] or [action.dest]
    about = explanation(action).replace("%", "%%")
    if action.option_strings and (action.nargs == 0 or action.dest == "print_config"):
        own.add_argument(*names, action="store_true", help=about)
        return
    nargs = action.nargs if action.nargs in ("?", "*", "+") and not action.option_strings else None
    choices = open_sets.get(action.dest) or _choices(getattr(action, "_typehint", None))
    added = own.add_argument(*names, choices=choices, nargs=nargs, help=about)
    what = "files" if action.dest in FILES else "folders" if action.dest in FOLDERS else action.dest
    if what in complete:
        added.complete = complete[what]  # type: ignore[attr-defined]  # shtab's way to say it


def _choices(kind: Any) -> list[str] | None:
    """Return what values of a type there are, null aside; None where they are not a few."""
    if kind is bool:
        return ["true", "false"]
    kinds = [kind] if get_origin(kind) is Literal else get_args(kind)
    return [str(value) for part in kinds if get_origin(part) is Literal for value in get_args(part)] or None


def _open_sets() -> dict[str, Any]:
    """Return what is usual for settings that may also name something of the user's own, or what the machine has."""
    from jpegdl.comparison import ARMS
    from jpegdl.data.sources.registry import set_names
    from jpegdl.layer import LAYER_KINDS
    from jpegdl.recipes import RECIPES

    return {
        "arm": ARMS,
        "data.name": set_names(),
        "device": ("auto", "cpu", "cuda", "gpu", "mps"),
        "layer.kind": LAYER_KINDS,
        "recipe": RECIPES,
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
    return {"bash": name, "zsh": name, "tcsh": f"({names})", "fish": f"({names})", "preamble": {"bash": bash, "zsh": zsh}}
