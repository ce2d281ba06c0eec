"""Tables of the site that are made from the code whenever it is built: a directive, ``{from-code} arms``.

Each table is a function that returns Markdown; what it says is where the code says it.
"""

import re
import types
from collections.abc import Callable, Iterable
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

if TYPE_CHECKING:
    from sphinx.application import Sphinx


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table; what would end a cell, or be read as markup, is escaped."""
    head = list(head)
    lines = [head, ["---"] * len(head), *([_cell(text) for text in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def commands() -> str:
    """Return all commands, in the order of the help."""
    from jpegdl.cli import COMMANDS

    return table(
        ("command", "what it does", "after an interrupt"),
        (
            (f"[`jpegdl {name}`](#{name})", command.about, f"goes on after the last finished {command.resumes}")
            if command.resumes
            else (f"[`jpegdl {name}`](#{name})", command.about, "begins anew")
            for name, command in COMMANDS.items()
        ),
    )


def command_options() -> str:
    """Return a section for each command: its usage, an example and its options, those of compare by their names alone."""
    from jpegdl.cli import COMMANDS

    shared = {action.dest for action in _options("compare")}
    sections = []
    for name, command in COMMANDS.items():
        own = [action for action in _options(name) if action.dest not in shared or len(_options(name)) < len(shared)]
        parts = [f"## {name}", command.about, f"```sh\n{command.example}\n```"]
        if name == "compare":
            parts.append("Takes every setting: [Settings](settings.md).")
        else:
            if len(own) < len(_options(name)):
                parts.append("Takes every [setting](settings.md), and these options:")
            parts.append(_option_table(own))
        sections.append("\n\n".join(parts))
    return "\n\n".join(sections)


def settings(part: str) -> str:
    """Return the settings of a comparison: those of ``data``, ``layer`` or ``training``, or with ``top`` all others."""
    parts = ("data", "layer", "training")
    found = [
        action
        for action in _options("compare")
        if (action.dest.partition(".")[0] == part if part != "top" else action.dest.partition(".")[0] not in parts)
    ]
    return _option_table([action for action in found if action.dest not in parts])


def arms() -> str:
    """Return all arms, with the settings that differ from the recipe's."""
    from jpegdl.comparison.arms import ARMS
    from jpegdl.settings import as_typed

    def changes(arm: Any) -> str:
        parts = {"layer": arm.layer, "data": arm.data, "training": arm.training}
        found = [entry for part, content in parts.items() for entry in _flat(part, content)]
        return ", ".join(f"`{name} {as_typed(value)}`" for name, value in found)

    return table(("arm", "what it is", "what it sets"), ((f"`{name}`", arm.about, changes(arm)) for name, arm in ARMS.items()))


def kinds() -> str:
    """Return all kinds of layer, with the classes that they are in Python."""
    from jpegdl.layer import LAYER_KINDS

    return table(
        ("`--layer.kind`", "what it is", "its tables hold", "in Python", "as a JPEG file"),
        (
            (
                f"`{name}`",
                kind.about,
                kind.tables or "",
                f"`jpegdl.layer.{kind.layer.__name__}`" if kind.layer else "",
                kind.subsampling or "",
            )
            for name, kind in LAYER_KINDS.items()
        ),
    )


def recipes() -> str:
    """Return all recipes with what they reproduce."""
    from jpegdl.recipes import RECIPES, read_recipe

    found = [read_recipe(name) for name in RECIPES]
    return table(
        ("`--config`", "what it is", "data sets", "backbones", "epochs", "published gain, points"),
        ((f"`{r.name}`", r.about, ", ".join(r.data), ", ".join(r.backbones), str(r.epochs or ""), r.published) for r in found),
    )


def sets() -> str:
    """Return the names that ``--data.name`` takes, and what the help says of them."""
    from jpegdl.data.sources.registry import set_names

    helped = next(action.help for action in _options("compare") if action.dest == "data.name")
    return f"{', '.join(f'`{name}`' for name in set_names())}.\n\n{_cell(' '.join(helped.split()))}"


def exits() -> str:
    """Return the exit statuses of the command, as its main function has them."""
    from jpegdl.cli import main

    found = re.findall(r"(\d+) ([a-z ]+)", (main.__doc__ or "").partition("\n")[0])
    return table(("exit status", "meaning"), ((f"`{number}`", words) for number, words in found))


TABLES: dict[str, Callable[..., str]] = {
    function.__name__: function for function in (commands, command_options, settings, arms, kinds, recipes, sets, exits)
}


def make(arguments: str) -> str:
    """Return the table that the directive names: ``arms``, ``settings data``."""
    name, *rest = arguments.split()
    return TABLES[name](*rest)


# ------------------------------------------------------------------------------------------------------------- options


@cache
def _options(command: str) -> list[Any]:
    from jpegdl.cli import COMMANDS
    from jpegdl.parsing import NO_SETTINGS

    return [action for action in COMMANDS[command].parser()._actions if action.dest not in NO_SETTINGS]


def _option_table(actions: list[Any]) -> str:
    rows = []
    for action in actions:
        name = action.option_strings[0] if action.option_strings else str(action.metavar or action.dest).upper()
        takes = _takes(getattr(action, "_typehint", None))
        meaning = " ".join((action.help or "").split())
        rows.append((f"`{name}`", f"`{takes}`" if takes else "", _default(action.default), meaning))
    return table(("option", "takes", "default", "meaning"), rows)


def _default(value: Any) -> str:
    from jpegdl.settings import as_typed

    return "" if value is None or value == "==SUPPRESS==" else f"`{as_typed(value)}`"


def _takes(hint: Any) -> str:
    """What a type accepts, in few words; None is left out, as settings without a default say that themselves."""
    if hint is None:
        return ""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return f"{_takes(arguments[0])}, {arguments[1]}"
    if origin is Literal:
        return ", ".join(map(str, arguments))
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_takes(part) for part in arguments if part is not type(None)))
    if origin is list:
        return f"list of {_takes(arguments[0])}"
    if origin is dict:
        return "mapping"
    return {"str": "text", "bool": "true, false"}.get(getattr(hint, "__name__", ""), getattr(hint, "__name__", str(hint)))


def _flat(prefix: str, content: dict[str, Any]) -> list[tuple[str, Any]]:
    found = []
    for name, value in content.items():
        found += _flat(f"{prefix}.{name}", value) if isinstance(value, dict) else [(f"{prefix}.{name}", value)]
    return found


def _cell(text: str) -> str:
    """Text as it is in a cell; in code, between backticks, the bar alone would be read."""
    text = re.sub(r"(?<![`\w.-])(--[a-z][\w.-]*\w)", r"`\1`", text.replace("|", "\\|"))  # options are code
    parts = re.split(r"(`+[^`]+`+)", text)
    return "".join(part if part.startswith("`") else part.replace("<", "&lt;").replace("*", "\\*") for part in parts)


# -------------------------------------------------------------------------------------------------------- the directive


def setup(app: "Sphinx") -> dict[str, Any]:
    """Add the directive to Sphinx."""
    from docutils import nodes
    from docutils.statemachine import StringList
    from sphinx.util.docutils import SphinxDirective

    class FromCode(SphinxDirective):
        required_arguments = 1
        final_argument_whitespace = True

        def run(self) -> list[nodes.Node]:
            parent = nodes.section() if self.arguments[0] == "command_options" else nodes.container()
            lines = make(self.arguments[0]).splitlines()
            self.state.nested_parse(StringList(lines, source="from_code"), self.content_offset, parent, match_titles=True)
            options = self.arguments[0].startswith(("settings", "command_options"))
            for made in parent.findall(nodes.table):  # which stand in one column on a phone
                made["classes"] += ["from-code", "options"] if options else ["from-code"]
            return parent.children

    app.add_directive("from-code", FromCode)
    return {"parallel_read_safe": True}
