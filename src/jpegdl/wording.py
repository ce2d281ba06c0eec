"""What is wrong with settings, in the words of the command line in place of the parser's."""

import re
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import jsonargparse

from jpegdl.errors import did_you_mean


def reworded(own: jsonargparse.ArgumentParser, message: str, dashes: str = "") -> str:
    """jsonargparse's message in the words of this command line, where it is one of those that users often meet.

    Args:
        own: the parser.
        message: what it says.
        dashes: before the names of settings.
    """
    actions = {action.dest: action for action in own._actions}
    if found := re.fullmatch(r".*Parser key \"([^\"]+)\":\s.*(?:Got|Given) value: (.*)", message, re.DOTALL):
        action, value = actions.get(found[1]), " ".join(found[2].split())
        kind = getattr(action, "_typehint", None)
        name = f"{dashes}{found[1]}" if action is None or action.option_strings else action.metavar
        return message if kind is None else f"{name} must be {_in_words(kind)}, got {value}"
    if found := re.fullmatch(r"the following arguments are required: (\w+)", message):
        return f"there is no {actions[found[1]].metavar}; --help says what goes there"
    if found := re.fullmatch(r"unrecognized arguments: (?:.* )?(-[^\s=]+).*", message, re.DOTALL):
        name = found[1]
    elif found := re.fullmatch(r"Group '(.+)' does not accept option '(.+)'", message):
        name = f"--{found[1]}.{found[2]}"
    else:
        return message
    options = [option for action in actions.values() for option in action.option_strings if not option.endswith("+")]
    return f"no option {name}; {did_you_mean(name, options) or '--help-all explains all there are'}"


_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    NoneType: "null",
    dict: "settings of its own",
}
_LISTS = {int: "whole numbers ('[1, 2]')", float: "numbers ('[1, 2.5]')"}
_NAMES = "names ('[one, two]')"


def _in_words(kind: Any) -> str:
    """What values of a type are on a command line."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return f"one of {', '.join(map(str, parts))}"
    if origin in (Union, UnionType):
        return " or ".join(map(_in_words, parts))
    if origin is list:
        return f"a list of {_LISTS.get(parts[0], _NAMES)}"
    return _WORDS.get(origin or kind, str(kind))
