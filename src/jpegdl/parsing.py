"""Settings from a command line: options over recipes and YAML files over defaults, read by jsonargparse."""

import argparse
import json
import os
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import jsonargparse
import yaml

from jpegdl.earlier import DROPPED, todays_name, todays_settings
from jpegdl.errors import UsageError, did_you_mean
from jpegdl.files import read_text
from jpegdl.recipes import FOLDER, RECIPES
from jpegdl.settings import as_typed, in_words

S = TypeVar("S")
NO_SETTINGS = ("help", "help_all", "print_config")  # options that every command has beside its own
_PRINT = "print the settings as YAML, and exit; =skip_default leaves out those that have their default"


class _Recipe(jsonargparse.ActionConfigFile):  # type: ignore[misc, name-defined]
    """--config takes a file or the name of a recipe."""

    def __call__(self, parser, namespace, value, option_string=None):  # type: ignore[no-untyped-def]
        path = Path(value)
        if value in RECIPES and not path.is_file():
            path = Path(str(FOLDER / f"{value}.yaml"))
        if not path.is_file():
            raise jsonargparse.ArgumentError(None, no_recipe(value, "no recipe {!r} and no such file"))
        try:
            text = read_text(path)
            content = yaml.safe_load(text)
            _check_finite(content)
            known, gone = todays_settings(content)
            for name, (value, now) in gone.items():
                raise ValueError(f"{name} {value!r} was removed, and {now!r} is the only one left; leave it out")
            if known != content:
                content, text = known, yaml.safe_dump(known)
            _check_keys(content, _settings(parser))
            # Given a path, it would read in the system's encoding; and text must be ASCII, as it first asks for such a file.
            super().__call__(parser, namespace, text if text.isascii() else yaml.safe_dump(content), option_string)
            parser.own_arms = getattr(parser, "own_arms", {}) | _own_arms(content)
        except RecursionError as error:
            raise jsonargparse.ArgumentError(None, f"in {path}: settings are nested too deeply") from error
        except (TypeError, ValueError, yaml.YAMLError, jsonargparse.ArgumentError) as error:
            raise jsonargparse.ArgumentError(None, f"in {path}: {reworded(parser, str(error))}") from error


def _own_arms(content: dict[str, Any]) -> dict[str, Any]:
    """Return what a file of settings says of the user's own arms, by name."""
    arms = content.get("arms")
    parts = [arms] if isinstance(arms, dict) else [part for part in arms or () if isinstance(part, dict)]
    return {name: entry for part in parts for name, entry in part.items() if entry}


def _defined(arms: Any, own: jsonargparse.ArgumentParser) -> Any:
    """Arms, and of those that are given by their names alone what the files of settings say of them."""
    known = getattr(own, "own_arms", {})
    if isinstance(arms, dict):
        return {name: entry or known.get(name) for name, entry in arms.items()}
    return [{arm: known[arm]} if isinstance(arm, str) and arm in known else arm for arm in arms]


def no_recipe(name: str, what: str = "no recipe {!r}") -> str:
    """Return the message for the name of a recipe that there is not."""
    hint = did_you_mean(name, RECIPES)
    return f"{what.format(name)}; {hint and f'{hint} '}recipes: {', '.join(RECIPES)}"


def _check_finite(content: Any, around: tuple[int, ...] = ()) -> None:
    """Refuse YAML whose aliases lead back to what they are part of: the parser would follow them for ever."""
    if id(content) in around:
        raise ValueError("an alias (*name) refers to something that contains it; write the settings out")
    if isinstance(content, dict | list):
        for part in content.values() if isinstance(content, dict) else content:
            _check_finite(part, (*around, id(content)))


def _check_keys(content: Any, known: list[str], prefix: str = "") -> None:
    """Refuse what is no setting, and ``training: 5``, which the parser would pass over.

    Args:
        content: of the file, or of the part of it below ``prefix``.
        known: all settings, by their dotted names, and their groups.
        prefix: dotted, with a dot at its end; empty for the whole file.
    """
    if not isinstance(content, dict):
        if prefix:
            raise ValueError(f"{prefix[:-1]} must hold settings of its own, got {content!r}")
        raise ValueError(f"settings must be KEY: VALUE lines, got {content!r}")
    for key, value in content.items():
        name = f"{prefix}{key}"
        if any(other.startswith(f"{name}.") for other in known):
            _check_keys(value, known, f"{name}.")
        elif name not in known:
            hint = f"it is called {now} now" if (now := todays_name(name, known)) else did_you_mean(name, known)
            raise ValueError(f"there is no setting {name}{f'; {hint}' if hint else ''}")


class _Help(jsonargparse.DefaultHelpFormatter):
    """Help that fits the terminal, says bounds in words, and nothing of the options that add to a list."""

    def start_section(self, heading: str | None) -> None:
        super().start_section(heading and textwrap.fill(_lower(heading), self._width - 1))

    def _get_help_string(self, action: argparse.Action) -> str:
        text = super()._get_help_string(action).replace("``", "")
        if action.dest in NO_SETTINGS:
            text = _PRINT if action.dest == "print_config" else _lower(text)
        elif text.startswith("Path to a configuration file"):
            text = "a YAML file with these settings"
        if action.default is argparse.SUPPRESS:
            return text
        return text.replace("%(default)s", as_typed(action.default).replace("%", "%%"))

    def _get_type_str(self, action: argparse.Action) -> str | None:
        kind, usual = getattr(action, "_typehint", None), super()._get_type_str(action)
        return usual if kind is None or usual is None else _type_text(kind)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        every, metavar = action.option_strings, action.metavar
        action.option_strings = [option for option in every if not option.endswith("+")]
        try:
            text = super()._format_action_invocation(action)
            if every and len(text) > self._width - 2:  # all choices, which the type names too
                action.metavar = self._get_default_metavar_for_optional(action)
                text = super()._format_action_invocation(action)
            return text
        finally:
            action.option_strings, action.metavar = every, metavar


def _lower(text: str) -> str:
    """A text that begins as all others do, with a small letter, but for JPEG and its like."""
    return text if text[1:2].isupper() else text[:1].lower() + text[1:]


def _type_text(kind: Any) -> str:
    """A type in a few words, its bounds with it."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return " | ".join(map(str, parts))
    if origin in (Union, UnionType):
        return " | ".join(map(_type_text, parts))
    if origin is Annotated:
        return f"{_type_text(parts[0])} {parts[1]}"
    if origin in (list, dict):
        return f"{origin.__name__}[{', '.join(map(_type_text, parts))}]"
    return {NoneType: "null", Any: "any"}.get(kind) or str(getattr(kind, "__name__", kind))


def plain_parser(usage: str, about: str) -> jsonargparse.ArgumentParser:
    """Return the parser of one command, which raises where the arguments are wrong."""
    own = jsonargparse.ArgumentParser(
        usage=usage, description=about, exit_on_error=False, allow_abbrev=False, add_help=False, formatter_class=_Help
    )
    # Whoever runs the command answers these two; here they are listed among the options.
    own.add_argument("-h", "--help", action="help", help="explain the options that most people need, and exit")
    own.add_argument("--help-all", action="help", help="explain all options, and exit")
    return own


def settings_parser(usage: str, about: str, settings: type) -> jsonargparse.ArgumentParser:
    """Return one that takes ``--config`` and an option for each entry of a dataclass."""
    own = plain_parser(usage, about)
    own.add_argument(
        "--config", action=_Recipe, help=f"a YAML file, or a recipe: {', '.join(RECIPES)}; if several are given, the last wins"
    )
    own.add_class_arguments(settings)
    return own


def with_dashes(own: jsonargparse.ArgumentParser) -> jsonargparse.ArgumentParser:
    """Return the parser, its options written with dashes; with the underscores of settings they are taken too."""
    for action in own._actions:
        for option in action.option_strings:
            for same in (_dashed(option), option[:2] + option[2:].replace("-", "_")):
                own._option_string_actions[same] = action
        action.option_strings = [_dashed(option) for option in action.option_strings]
    return own


def _dashed(option: str) -> str:
    return option.replace("_", "-")


def name_first(own: jsonargparse.ArgumentParser, *, new: bool = False) -> jsonargparse.ArgumentParser:
    """Return the parser, whose option ``--name`` may be given as the first argument that is no option, too.

    What is named may be ``new``: then a recipe's name is refused, as its settings are probably meant.
    """
    own.name_first = "new" if new else "old"  # type: ignore[attr-defined]
    return own


def parse(own: jsonargparse.ArgumentParser, arguments: list[str]) -> dict[str, Any]:
    """Return what was chosen, by name.

    The command line wins over recipes wherever they stand; of several recipes, the last wins.

    Lists may be written with commas, ``--seeds 0,1``, as well as in YAML.

    Raises:
        argparse.ArgumentError: names what is wrong, what is accepted, and for a misspelt option the one that may be meant.
    """
    configs: list[str] = []
    others: list[str] = []
    free: list[int] = []  # where among the others what belongs to no option is
    for option, value in _options(own, arguments):
        action = own._option_string_actions.get(option or "")
        if option is None:
            free.append(len(others))
        elif value is not None and action is not None:
            value = _as_list(value, getattr(action, "_typehint", None), more=option.endswith("+"))
        into = configs if option == "--config" else others
        into += [part for part in (option, value) if part is not None]
    try:
        if named := getattr(own, "name_first", None):
            others = _with_name(own, others, free, RECIPES if named == "new" and not configs else ())
        chosen: dict[str, Any] = vars(own.instantiate(own.parse_args([*configs, *others])))
    except argparse.ArgumentError as error:
        raise argparse.ArgumentError(None, reworded(own, str(error), "--")) from error
    if getattr(own, "own_arms", None):
        chosen["arms"] = _defined(chosen["arms"], own)
    return chosen


def _options(own: jsonargparse.ArgumentParser, arguments: list[str]) -> Iterator[tuple[str | None, str | None]]:
    """Each option with its value, None for one that takes none or has none; and each argument of no option, as a value."""
    rest = iter(arguments)
    waiting: str | None = None
    for argument in rest:
        option, equals, value = argument.partition("=") if argument.startswith("--") else (argument, "", "")
        is_option = argument.startswith("-") and len(argument) > 1 and not re.fullmatch(r"-\d+|-\d*\.\d+", argument)
        if waiting is not None and not is_option:
            yield waiting, argument
            waiting = None
            continue
        if waiting is not None:
            yield waiting, None
            waiting = None
        if argument == "--":
            yield from ((None, free) for free in ("--", *rest))
        elif not is_option:
            yield None, argument
        elif equals:
            yield (option, value) if option in own._option_string_actions else (argument, None)
        elif (action := own._option_string_actions.get(option)) is not None and action.nargs != 0:
            waiting = option
        else:
            yield argument, None
    if waiting is not None:
        yield waiting, None


def _with_name(own: jsonargparse.ArgumentParser, arguments: list[str], free: list[int], recipes: Sequence[str]) -> list[str]:
    """Arguments whose first of no option is ``--name``'s value, where there is one more of these than the command takes."""
    words, known = [place for place in free if arguments[place] != "--"], {"--", *own._option_string_actions}
    if len(words) != 1 + sum(not action.option_strings for action in own._actions):
        return arguments
    name = arguments[words[0]]
    if any(other.startswith("--") and other.partition("=")[0] not in known for other in arguments[: words[0]]):
        return arguments  # its value, as likely as not: the parser names the option
    if "--name" in arguments:
        raise argparse.ArgumentError(None, f"the comparison has two names, {name!r} and that of --name; give one of them")
    if name in recipes:
        why = f"{name} is a recipe: --config {name} takes its settings, --name {name} calls a comparison so"
        raise argparse.ArgumentError(None, why)
    others = [*arguments[: words[0]], *arguments[words[0] + 1 :]]
    return ["--name", name, *(others if len(words) > 1 else [other for other in others if other != "--"])]


def _as_list(value: str, kind: Any, *, more: bool = False) -> str:
    """Return what is written with commas, as YAML has it, where an option takes a list; else the value as it is.

    One that adds ``more`` to a list takes a single item as it is.
    """
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    lists = [part for part in kinds if get_origin(part) is list]
    if not lists or not value.strip() or value.lstrip()[0] in "[{" or (value == "null" and NoneType in kinds):
        return value
    others = [part for part in kinds if part not in lists and part is not NoneType and (get_origin(part) or part) is not dict]
    single = more or bool(others)
    (item,) = get_args(lists[0])
    while get_origin(item) is Annotated:
        item = get_args(item)[0]
    if get_origin(item) is list or (single and "," not in value):
        return value
    texts = get_origin(item) is Literal or str in (item, *get_args(item))
    words = [word.strip() for word in value.removesuffix(",").split(",")]
    return f"[{', '.join(json.dumps(word, ensure_ascii=False) if texts else word for word in words)}]"


def read_settings(kind: type[S], source: str | os.PathLike[str], changes: Mapping[str, Any] | None = None) -> S:
    """Read the settings of a recipe or a YAML file.

    Args:
        kind: their dataclass.
        source: the name of a recipe, or a file.
        changes: settings that differ, nested as in the file: ``{"seeds": 5, "training": {"epochs": 3}}``.

    Raises:
        UsageError: no such recipe or file, or a setting that there is not or that cannot have this value.
    """
    own = settings_parser("", "", kind)
    try:
        chosen = own.parse_args(["--config", os.fspath(source)])
        if changes:
            _check_keys(changes, _settings(own))
            chosen = own.parse_object(dict(changes), namespace=chosen)
        found = vars(own.instantiate(chosen))
        if "arms" in found:
            found["arms"] = _defined(found["arms"], own)
    except (argparse.ArgumentError, ValueError) as error:
        raise UsageError(" ".join(reworded(own, str(error)).split())) from error
    return kind(**{field.name: found[field.name] for field in fields(kind)})  # type: ignore[arg-type]


def _settings(own: jsonargparse.ArgumentParser) -> list[str]:
    return [action.dest for action in own._actions if action.dest not in NO_SETTINGS]


def reworded(own: jsonargparse.ArgumentParser, message: str, dashes: str = "") -> str:
    """Return jsonargparse's message in the words of this command line, where it is one of those that users often meet.

    ``dashes`` stand before the names of settings.
    """
    actions = {action.dest: action for action in own._actions}
    if found := re.fullmatch(r".*Parser key \"([^\"]+)\":\s.*(?:Got|Given) value: (.*)", message, re.DOTALL):
        action, value = actions.get(found[1]), " ".join(found[2].split())
        kind = getattr(action, "_typehint", None)
        name = _as_option(found[1], dashes) if action is None or action.option_strings else action.metavar
        return message if kind is None else f"{name} must be {in_words(kind)}, got {value}"
    if found := re.fullmatch(r"the following arguments are required: (\w+)", message):
        return f"{actions[found[1]].metavar} is missing; --help says what it is"
    if found := re.fullmatch(r"unrecognized arguments: (?:.* )?(-[^\s=]+).*", message, re.DOTALL):
        name = found[1]
    elif found := re.fullmatch(r"Group '(.+)' does not accept option '(.+)'", message):
        name = f"--{found[1]}.{found[2]}"
    else:
        return message
    if (setting := name.lstrip("-").replace("-", "_")) in DROPPED:
        return f"no option {name} any more; CHANGELOG.md says what is done now"
    if now := todays_name(setting, actions):
        return f"no option {name}; it is called {_as_option(now, '--')} now"
    options = [option for action in actions.values() for option in action.option_strings if not option.endswith("+")]
    return f"no option {name}; {did_you_mean(name, options) or '--help-all explains all there are'}"


def _as_option(setting: str, dashes: str) -> str:
    return _dashed(f"{dashes}{setting}") if dashes else setting
