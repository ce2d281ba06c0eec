"""Settings from a command line: options over recipes and YAML files over defaults, read by jsonargparse."""

import itertools
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, cast, get_type_hints

import jsonargparse
import yaml

from jpegdl.recipes import FOLDER, RECIPES


class _Recipe(jsonargparse.ActionConfigFile):  # type: ignore[misc, name-defined]
    """--config takes a file or the name of a recipe."""

    def __call__(self, parser, namespace, value, option_string=None):  # type: ignore[no-untyped-def]
        path = Path(value)
        if value in RECIPES and not path.is_file():
            path = Path(str(FOLDER / f"{value}.yaml"))
        if not path.is_file():
            raise jsonargparse.ArgumentError(None, f"no recipe {value!r} and no such file; recipes: {', '.join(RECIPES)}")
        try:
            content = yaml.safe_load(path.read_text())
            _check_finite(content)
            _check_mappings(content, self.settings)
            super().__call__(parser, namespace, str(path), option_string)
        except RecursionError as error:
            raise jsonargparse.ArgumentError(None, f"in {path}: settings are nested too deeply") from error
        except (TypeError, ValueError, yaml.YAMLError, jsonargparse.ArgumentError) as error:
            raise jsonargparse.ArgumentError(None, f"in {path}: {error}") from error


def _check_finite(content: Any, around: tuple[int, ...] = ()) -> None:
    """Refuse YAML whose aliases lead back to what they are part of: the parser would follow them for ever."""
    if id(content) in around:
        raise ValueError("an alias (*name) refers to something that contains it; write the settings out")
    if isinstance(content, dict | list):
        for part in content.values() if isinstance(content, dict) else content:
            _check_finite(part, (*around, id(content)))


def _check_mappings(content: Any, config: type) -> None:
    """Refuse ``training: 5``, which the parser would pass over."""
    if not isinstance(content, dict):
        raise ValueError(f"settings must be KEY: VALUE lines, got {content!r}")
    for name, kind in get_type_hints(config).items():
        if name in content and is_dataclass(kind):
            if not isinstance(content[name], dict):
                raise ValueError(f"{name} must hold settings of its own, got {content[name]!r}")
            _check_mappings(content[name], cast(type, kind))


def plain_parser(usage: str, about: str) -> jsonargparse.ArgumentParser:
    """The parser of one command, which raises where the arguments are wrong."""
    return jsonargparse.ArgumentParser(usage=usage, description=about, exit_on_error=False, allow_abbrev=False)


def settings_parser(usage: str, about: str, settings: type) -> jsonargparse.ArgumentParser:
    """One that takes ``--config`` and an option for each entry of a dataclass."""
    own = plain_parser(usage, about)
    recipe = type("Recipe", (_Recipe,), {"settings": settings})
    own.add_argument(
        "--config",
        action=recipe,
        help=f"a YAML file, or a recipe: {', '.join(RECIPES)}; if several are given, the last wins",
    )
    own.add_class_arguments(settings)
    return own


def parse(own: jsonargparse.ArgumentParser, arguments: list[str]) -> dict[str, Any]:
    """What was chosen, by name. The command line wins over recipes wherever they stand; of several recipes, the last wins."""
    configs: list[str] = []
    others: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument == "--config":
            configs += [argument, *itertools.islice(rest, 1)]
        elif argument.startswith("--config="):
            configs.append(argument)
        else:
            others.append(argument)
    chosen: dict[str, Any] = vars(own.instantiate(own.parse_args([*configs, *others])))
    return chosen
