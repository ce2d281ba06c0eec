"""All commands, in the order of the help: each is a class of its own name, in a module of that name."""

from importlib import import_module

from jpegdl.cli.command import Command
from jpegdl.cli.completion import Completion

_NAMES = (
    "compare", "train", "tune", "evaluate", "predict", "calibrate", "export", "compress", "rate", "summary", "paired", "attack",
    "explain", "report", "recipes",
)  # fmt: skip

COMMANDS: dict[str, Command] = {name: getattr(import_module(f"jpegdl.cli.{name}"), name.capitalize())() for name in _NAMES}
COMMANDS["completion"] = Completion(COMMANDS)  # which is to complete all of them, itself too
