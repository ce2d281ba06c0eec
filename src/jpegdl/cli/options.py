"""Options that several commands share, and what is made of them."""

import itertools
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from jpegdl._version import __version__
from jpegdl.cli.output import is_first_process
from jpegdl.errors import UsageError
from jpegdl.files import folder_hint

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from jpegdl.comparison import CompareConfig

T = TypeVar("T")
COMMANDS_FILE = "commands.txt"  # which the report shows
COMMAND_LINE = "command line"  # under which what was chosen keeps what was typed
SETTINGS = "[--config RECIPE] [--KEY VALUE ...]"
TRAINING = ("data.path", "data.size", "backbone", "pretrained", "training.epochs", "layer.tables", "device")  # in short help
RUN = ("name", "output", "arm", "seed")


def comparison_parser(usage: str, about: str, *, new: bool = False) -> "ArgumentParser":
    """Return a parser of all settings of a comparison, whose name may come first; ``new``: it need not be there yet."""
    from jpegdl.comparison import ARMS, CompareConfig
    from jpegdl.layer import LAYER_KINDS
    from jpegdl.parsing import name_first, settings_parser

    parser = settings_parser(usage, about, CompareConfig)
    lists: dict[str, Mapping[str, Any]] = {"jpegdl.layer.LAYER_KINDS": LAYER_KINDS, "jpegdl.comparison.ARMS": ARMS}
    for action, (name, entries) in itertools.product(parser._actions, lists.items()):
        listed = ", ".join(f"{key} ({entry.about})" for key, entry in entries.items())
        action.help = (action.help or "").replace(f"one of :data:`{name}`", listed)
    return name_first(parser, new=new)


def finished_parser(usage: str, about: str, *, first: bool = True) -> "ArgumentParser":
    """Return a parser of which comparison, one that is there.

    Args:
        usage: how its arguments are given.
        about: what the command does.
        first: whether its name may come first.
    """
    from jpegdl.parsing import name_first, plain_parser

    own = plain_parser(usage, about)
    own.add_argument("--name", type=str, default="run", help="name of the comparison")
    own.add_argument("--output", type=str, default="runs", help="folder of all comparisons")
    return name_first(own) if first else own


def add_run(parser: "ArgumentParser") -> None:
    """Add which run of the comparison."""
    parser.add_argument("--arm", type=str, default="jpeg-dl", help="which arm, one of those in --arms")
    parser.add_argument("--seed", type=int, default=0, help="which seed")


def add_seeds(parser: "ArgumentParser", default: str = "all there are") -> None:
    """Add which seeds of its runs; ``default``: which where none are named, in words."""
    about = f"a number n for the seeds 0 to n-1, or a list of seeds (default: {default})"
    parser.add_argument("--seeds", type=int | list[int] | None, default=None, help=about)


def comparison_folder(chosen: dict[str, Any]) -> Path:
    """Return the folder of the comparison, which must be there."""
    folder: Path = Path(chosen["output"]).expanduser() / chosen["name"]
    if not folder.is_dir():
        raise UsageError(f"no comparison in {folder}: {folder_hint(folder) or 'there are none'}")
    return folder


def note_command(folder: Path, chosen: dict[str, Any]) -> None:
    """Add the command line to ``commands.txt`` in the folder that it wrote to, if there is one, with date and version."""
    if is_first_process() and folder.is_dir():
        with suppress(OSError), (folder / COMMANDS_FILE).open("a", encoding="utf-8", errors="surrogateescape") as file:
            file.write(f"{datetime.now():%Y-%m-%d %H:%M}  {chosen[COMMAND_LINE]}  # jpegdl {__version__}\n")


def pick(kind: type[T], chosen: dict[str, Any]) -> T:
    """Return the settings of one kind, a dataclass, of all that was chosen."""
    return kind(**{field.name: chosen[field.name] for field in fields(kind)})  # type: ignore[arg-type]


def picked_comparison(chosen: dict[str, Any]) -> "CompareConfig":
    """Return the comparison's settings, of all that was chosen."""
    from jpegdl.comparison import CompareConfig

    return pick(CompareConfig, chosen)


def model_file(chosen: dict[str, Any]) -> Path | None:
    """Return the file of ``--model``."""
    return Path(chosen["model"]) if chosen["model"] else None
