"""``jpegdl recipes``."""

import argparse
from typing import TYPE_CHECKING, Any

from jpegdl.cli.command import Command

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


class Recipes(Command):
    about = "List the recipes and the published protocols they follow, or print one."
    example = "jpegdl recipes cifar100 > mine.yaml"

    def build(self) -> "ArgumentParser":
        from jpegdl.parsing import plain_parser

        parser = plain_parser("jpegdl recipes [NAME]", self.about)
        parser.add_argument("recipe", type=str | None, nargs="?", metavar="NAME", help="print the recipe of that name")
        return parser

    def run(self, chosen: dict[str, Any]) -> None:
        from jpegdl.parsing import no_recipe
        from jpegdl.recipes import RECIPES, list_recipes, read_recipe

        name = chosen["recipe"]
        if name is not None and name not in RECIPES:
            raise argparse.ArgumentError(None, no_recipe(name))
        print(read_recipe(name).text.rstrip() if name else list_recipes())
