"""``jpegdl recipes``."""

import argparse
from typing import Any

from jpegdl.cli.command import Command, Parser


class Recipes(Command):
    about = "List the recipes and the published protocols they follow, or print one."
    usage = "[NAME]"
    example = "jpegdl recipes cifar100 > mine.yaml"

    def add(self, parser: Parser) -> None:
        parser.add_argument("recipe", type=str | None, nargs="?", metavar="NAME", help="print the recipe of that name")

    def run(self, chosen: dict[str, Any]) -> None:
        from jpegdl.parsing import no_recipe
        from jpegdl.recipes import RECIPES, list_recipes, read_recipe

        name = chosen["recipe"]
        if name is not None and name not in RECIPES:
            raise argparse.ArgumentError(None, no_recipe(name))
        print(read_recipe(name).text.rstrip() if name else list_recipes())
