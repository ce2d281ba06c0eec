"""Options that several commands share, and what is made of them."""

import shlex
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import fields, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from jpegdl._version import __version__
from jpegdl.cli.command import Command, Parser
from jpegdl.cli.output import is_first_process
from jpegdl.errors import UsageError, some_of
from jpegdl.files import folder_hint

if TYPE_CHECKING:
    from jpegdl.comparison import CompareConfig
    from jpegdl.runs import RunFolder

T = TypeVar("T")
COMMANDS_FILE = "commands.txt"  # which the report shows
COMMAND_LINE = "command line"  # under which what was chosen keeps what was typed
TRAINING = ("data.path", "data.size", "backbone", "pretrained", "training.epochs", "layer.tables", "device")  # in short help
RUN = ("name", "output", "arm", "seed")


def add_run(parser: Parser) -> None:
    """Add which run of the comparison."""
    parser.add_argument("--arm", type=str, default="jpeg-dl", help="which arm, one of those in --arms")
    parser.add_argument("--seed", type=int, default=0, help="which seed")


def add_seeds(parser: Parser, default: str = "all there are") -> None:
    """Add which seeds of its runs; ``default``: which where none are named, in words."""
    about = f"a number n for the seeds 0 to n-1, or a list of seeds (default: {default})"
    parser.add_argument("--seeds", type=int | list[int] | None, default=None, help=about)


def comparison_folder(chosen: dict[str, Any]) -> Path:
    """Return the folder of the comparison.

    Raises:
        UsageError: there is none.
    """
    folder: Path = Path(chosen["output"]).expanduser() / chosen["name"]
    if not folder.is_dir():
        raise UsageError(f"no comparison in {folder}; {folder_hint(folder) or 'none is there yet'}")
    return folder


def note_command(folder: Path, chosen: dict[str, Any]) -> None:
    """Add the command line to ``commands.txt`` in the folder that it wrote to, if there is one, with date and version."""
    if is_first_process() and folder.is_dir():
        with suppress(OSError), (folder / COMMANDS_FILE).open("a", encoding="utf-8", errors="surrogateescape") as file:
            file.write(f"{datetime.now():%Y-%m-%d %H:%M}  {chosen[COMMAND_LINE]}  # jpegdl {__version__}\n")


def pick(kind: type[T], chosen: dict[str, Any]) -> T:
    """Return the settings of one kind, a dataclass, of all that was chosen."""
    return kind(**{field.name: chosen[field.name] for field in fields(kind)})  # type: ignore[arg-type]


def refuse_idle(command: Command, chosen: dict[str, Any], counting: Collection[str], when: str) -> None:
    """Refuse options that count for nothing.

    Args:
        command: whose options they are.
        chosen: all that was chosen.
        counting: the names of those that count.
        when: that is so, in words.

    Raises:
        UsageError: names those that are not as they are where nobody gives them.
    """
    own = command.parser()
    usual = vars(own.instantiate(own.get_defaults()))
    idle = [
        option
        for name, value in usual.items()
        if name in chosen and name not in counting
        for option in _differing(name, chosen[name], value)
    ]
    _refuse(idle, when)


def _refuse(idle: list[str], when: str) -> None:
    if idle:
        counts, it = ("counts", "it") if len(idle) == 1 else ("count", "them")
        raise UsageError(f"{when}, {some_of(idle, 3)} {counts} for nothing: drop {it}")


#: Settings of a finished run that may be others: where its images are, and what to compute on.
_HERE = ("data.path", "data.workers", "device", "training.devices", "training.num-nodes", "training.strategy")


def refuse_unlike(chosen: dict[str, Any], config: "CompareConfig", folder: "RunFolder", counting: Collection[str] = ()) -> None:
    """Refuse options that are neither a finished run's own settings, which are in use, nor say where its images are or what to
    compute on, nor are among those ``counting``. A recipe or file with other settings is no option, as it may be there to name
    the comparison. Where no run has begun, nothing is refused.

    Raises:
        UsageError: names them; or the run's settings are damaged.
    """
    from jpegdl.runs import RunConfig
    from jpegdl.runs.record import from_dict, settings_of

    if not folder.config_file.is_file():
        return
    run, words = config.run, typed(chosen)
    with suppress(UsageError):  # an arm of the user's own that these settings do not define
        run = config.arm_run(chosen["arm"])
    settings = settings_of(run, chosen["arm"], chosen["seed"])
    here = from_dict(RunConfig, {name: value for name, value in settings.items() if name not in ("arm", "seed")})
    own = folder.config()
    unlike = [name for part in fields(own) for name in _differing(part.name, getattr(here, part.name), getattr(own, part.name))]
    idle = [
        option
        for option in unlike
        if option.removeprefix("--") not in (*_HERE, *counting) and any(_says(word, option) for word in words)
    ]
    _refuse(idle, f"for {folder}, whose own settings are in use")


def check_which(chosen: dict[str, Any], config: "CompareConfig") -> None:
    """Refuse to take the default run where options for several, --arms or --seeds, mean another.

    Raises:
        UsageError: names the option that says which run.
    """
    words = typed(chosen)
    for name, several in (("arm", config.arm_names), ("seed", config.seed_list)):
        if f"--{name}s" in words and f"--{name}" not in words and chosen[name] not in several:
            raise UsageError(f"--{name}s does not say which run, and the default is --{name} {chosen[name]}: give --{name}")


def typed(chosen: dict[str, Any]) -> list[str]:
    """Return the options on the command line, as help writes them."""
    words = shlex.split(chosen[COMMAND_LINE])
    return [word.partition("=")[0].replace("_", "-") for word in words if word.startswith("--")]


def _says(word: str, option: str) -> bool:
    """Whether an option as it was typed is this one, or holds it."""
    return word == option or option.startswith(f"{word}.")


def _differing(name: str, given: Any, usual: Any) -> Iterator[str]:
    """The options of a setting, or of those in it, whose values are not the usual ones."""
    if is_dataclass(usual) and type(given) is type(usual):
        for field in fields(usual):
            yield from _differing(f"{name}.{field.name}", getattr(given, field.name), getattr(usual, field.name))
    elif given != usual:
        yield f"--{name.replace('_', '-')}"


def picked_comparison(chosen: dict[str, Any]) -> "CompareConfig":
    """Return the comparison's settings, of all that was chosen."""
    from jpegdl.comparison import CompareConfig

    return pick(CompareConfig, chosen)


def model_file(chosen: dict[str, Any]) -> Path | None:
    """Return the file of ``--model``."""
    return Path(chosen["model"]) if chosen["model"] else None
