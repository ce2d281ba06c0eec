"""What several commands share: a comparison's settings, and printing."""

import sys
from contextlib import suppress
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from jpegdl._version import __version__
from jpegdl.errors import UsageError
from jpegdl.files import folder_hint

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from jpegdl.comparison import CompareConfig
    from jpegdl.runs import RunFolder

T = TypeVar("T")
COMMANDS_FILE = "commands.txt"  # which the report shows
COMMAND_LINE = "command line"  # under which what was chosen keeps what was typed
SETTINGS = "[--config RECIPE] [--KEY VALUE ...]"


def settings_parser(usage: str, about: str) -> "ArgumentParser":
    """A parser of all settings of a comparison."""
    from jpegdl.comparison import CompareConfig
    from jpegdl.parsing import settings_parser as parser

    return parser(usage, about, CompareConfig)


def add_run(parser: "ArgumentParser") -> None:
    """Which run of the comparison."""
    parser.add_argument("--arm", type=str, default="jpeg-dl", help="which of the arms that --arms names")
    parser.add_argument("--seed", type=int, default=0, help="which seed")


def add_comparison(parser: "ArgumentParser") -> None:
    """Which comparison."""
    parser.add_argument("--name", type=str, default="run", help="of the comparison")
    parser.add_argument("--output", type=str, default="runs", help="folder of all comparisons")


def add_seeds(parser: "ArgumentParser") -> None:
    """Which seeds of its runs."""
    parser.add_argument(
        "--seeds", type=int | list[int] | None, default=None, help="a number n for 0 to n-1, or a list (default: all there are)"
    )


def chosen_runs(folder: Path, chosen: dict[str, Any]) -> "dict[str, dict[int, RunFolder]]":
    """The finished runs of the arms and seeds that were chosen, of each arm by seed.

    Raises:
        UsageError: one of them is not there, or there are none to be.
    """
    from jpegdl.runs import finished_runs

    seeds = chosen["seeds"]
    if seeds in (0, []) or chosen["arms"] == []:
        raise UsageError("--arms and --seeds must name at least one run")
    return finished_runs(folder, chosen["arms"], list(range(seeds)) if isinstance(seeds, int) else seeds)


def comparison_folder(chosen: dict[str, Any]) -> Path:
    """The folder of the comparison.

    Raises:
        UsageError: there is none.
    """
    folder: Path = Path(chosen["output"]).expanduser() / chosen["name"]
    if not folder.is_dir():
        raise UsageError(f"no comparison in {folder}: {folder_hint(folder) or 'there are none'}")
    return folder


def note_command(folder: Path, chosen: dict[str, Any]) -> None:
    """Add the command line to ``commands.txt`` in the folder that it wrote to, if there is one, with date and version."""
    from lightning.pytorch.utilities import rank_zero_only

    if not getattr(rank_zero_only, "rank", 0) and folder.is_dir():
        with suppress(OSError), (folder / COMMANDS_FILE).open("a", encoding="utf-8", errors="surrogateescape") as file:
            file.write(f"{datetime.now():%Y-%m-%d %H:%M}  {chosen[COMMAND_LINE]}  # jpegdl {__version__}\n")


def pick(kind: type[T], chosen: dict[str, Any]) -> T:
    """The settings of one kind, a dataclass, of all that was chosen."""
    return kind(**{field.name: chosen[field.name] for field in fields(kind)})  # type: ignore[arg-type]


def settings(chosen: dict[str, Any]) -> "CompareConfig":
    """The comparison's settings, of all that was chosen."""
    from jpegdl.comparison import CompareConfig

    return pick(CompareConfig, chosen)


def model(chosen: dict[str, Any]) -> Path | None:
    """The file of ``--model``."""
    return Path(chosen["model"]) if chosen["model"] else None


def say(text: str) -> None:
    """Print it once, however many processes train."""
    from lightning.pytorch.utilities import rank_zero_only

    rank_zero_only(print)(text)


def print_error(text: str) -> None:
    """Print a line about what is wrong, beside the output."""
    print(f"jpegdl: {text}", file=sys.stderr)


def one_line(error: BaseException | Warning | str) -> str:
    """What an exception or a warning says, without what a traceback would add."""
    text = str(error)
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        text = f"{error.filename}: {error.strerror}"
    if "Original Traceback" in text:
        # From a loader process the message comes wrapped in a traceback, the message itself last.
        text = text.rstrip().rpartition("\n")[2].partition(": ")[2]
    return " ".join(text.split())
