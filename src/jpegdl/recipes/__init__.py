"""The recipes: a YAML file for each published protocol, the demo's, and two to give after any other."""

import re
from dataclasses import dataclass
from importlib import resources

import yaml

from jpegdl.errors import UsageError, folded

FOLDER = resources.files(__name__)
RECIPES = sorted(file.name.removesuffix(".yaml") for file in FOLDER.iterdir() if file.name.endswith(".yaml"))
_FACT = re.compile(r"^# (row|data|backbones|published): (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Recipe:
    """A recipe, and what the comments at its top say about it; empty where they do not."""

    name: str  # what --config takes
    text: str  # the YAML file
    about: str
    row: str  # among the published protocols
    data: list[str]  # sets of that row, the recipe's own first; none if it takes any
    backbones: list[str]
    published: str  # gain of the layer, in points of top-1 accuracy
    epochs: int | None  # None where the recipe it is given after says it


def read_recipe(name: str) -> Recipe:
    """Return the recipe of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in RECIPES:
        raise UsageError(f"no recipe {name!r}; recipes: {', '.join(RECIPES)}")
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    facts = dict(_FACT.findall(text))
    data, backbones = (facts[key].split(", ") if key in facts else [] for key in ("data", "backbones"))
    about = text.partition("\n")[0].removeprefix("# ")
    epochs = yaml.safe_load(text)["training"].get("epochs")
    return Recipe(name, text, about, facts.get("row", ""), data, backbones, facts.get("published", ""), epochs)


def list_recipes() -> str:
    """Return all recipes with what they reproduce, for reading, in lines of at most 80 characters."""
    recipes = [_described(read_recipe(name)) for name in RECIPES]
    return "\n\n".join([*recipes, USE])


USE = """\
One row of a table is one command; give each its own --name:
  jpegdl compare --config cifar100 --backbone cifar_vgg13 --name cifar100-vgg13
Cut down to seconds, on made-up images, to check that everything runs:
  jpegdl compare --config cifar100 --config smoke
Shorter; milestones and warm-up that are shares of the epochs move with them:
  jpegdl compare --config cifar100 --training.epochs 60 --name short
Tables trained for small files too, and accuracy against the bits of real files:
  jpegdl compare --config dtd10 --config rate --data.path FOLDER
  jpegdl rate rate
To change more, save a recipe and edit it:
  jpegdl recipes cifar100 > mine.yaml
  jpegdl compare --config mine.yaml --name mine"""


def _described(recipe: Recipe) -> str:
    facts = {
        "row": recipe.row,
        "data": ", ".join(recipe.data),
        "backbones": ", ".join(recipe.backbones),
        "epochs": str(recipe.epochs or ""),
        "published": recipe.published,
    }
    lines = [f"  {key + ':':<11}{value}" for key, value in facts.items() if value]
    return "\n".join(
        [recipe.name, folded(recipe.about, first="  ", later="  "), *(folded(line, later=" " * 13) for line in lines)]
    )
