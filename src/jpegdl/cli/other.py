"""The commands beside training: recipes, bench, completion."""

import argparse
from typing import TYPE_CHECKING, Any, Literal

from jpegdl.cli.shared import pick

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


def recipes_parser(about: str) -> "ArgumentParser":
    from jpegdl.parsing import plain_parser

    parser = plain_parser("jpegdl recipes [NAME]", about)
    parser.add_argument("recipe", type=str | None, nargs="?", metavar="NAME", help="print the recipe of that name")
    return parser


def recipes(chosen: dict[str, Any]) -> None:
    from jpegdl.parsing import no_recipe
    from jpegdl.recipes import RECIPES, list_recipes, read_recipe

    name = chosen["recipe"]
    if name is not None and name not in RECIPES:
        raise argparse.ArgumentError(None, no_recipe(name))
    print(read_recipe(name).text.rstrip() if name else list_recipes())


def bench_parser(about: str) -> "ArgumentParser":
    from jpegdl.bench import BenchConfig
    from jpegdl.parsing import plain_parser

    parser = plain_parser("jpegdl bench [--KEY VALUE ...]", about)
    parser.add_class_arguments(BenchConfig)
    return parser


def bench(chosen: dict[str, Any]) -> None:
    from jpegdl.bench import BenchConfig
    from jpegdl.bench import bench as measure

    config = pick(BenchConfig, chosen)
    measure(config, print)
    print(f"\nWritten to {config.output}: bench.md, bench.json, bench.png")


def completion_parser(about: str) -> "ArgumentParser":
    from jpegdl.parsing import plain_parser

    parser = plain_parser("jpegdl completion bash|zsh|tcsh", about)
    parser.add_argument("shell", type=Literal["bash", "zsh", "tcsh"], metavar="SHELL", help="bash, zsh or tcsh")
    return parser


def completion(chosen: dict[str, Any]) -> None:
    from jpegdl.cli.completion import script  # which looks at the commands, this one too

    print(script(chosen["shell"]))
