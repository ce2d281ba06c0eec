"""The command ``jpegdl``: settings in, one call, the outcome printed."""

import itertools
import logging
import os
import sys
import warnings
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, cast, get_type_hints

import jsonargparse
import yaml
from lightning.pytorch.utilities import rank_zero_only

from jpegdl import __version__
from jpegdl.bench import BenchConfig, bench
from jpegdl.compare import ARMS, CompareConfig, calibrate_run, check_compare, compare, evaluate_run, train_arm
from jpegdl.data import Data
from jpegdl.errors import UsageError
from jpegdl.recipes import FOLDER, RECIPES, list_recipes, read_recipe
from jpegdl.tables import write_tables


class _Recipe(jsonargparse.ActionConfigFile):  # type: ignore[misc, name-defined]
    """--config takes a file or the name of a recipe."""

    def __call__(self, parser, namespace, value, option_string=None):  # type: ignore[no-untyped-def]
        path = Path(value)
        if value in RECIPES and not path.is_file():
            path = Path(str(FOLDER / f"{value}.yaml"))
        if not path.is_file():
            raise jsonargparse.ArgumentError(None, f"no recipe {value!r} and no such file; recipes: {', '.join(RECIPES)}")
        try:
            _check_mappings(yaml.safe_load(path.read_text()), CompareConfig)
            super().__call__(parser, namespace, str(path), option_string)
        except (TypeError, ValueError, yaml.YAMLError, jsonargparse.ArgumentError) as error:
            raise jsonargparse.ArgumentError(None, f"in {path}: {error}") from error


def _check_mappings(content: Any, config: type) -> None:
    """Refuse ``training: 5``, which the parser would pass over."""
    if not isinstance(content, dict):
        raise ValueError(f"settings must be KEY: VALUE lines, got {content!r}")
    for name, kind in get_type_hints(config).items():
        if name in content and is_dataclass(kind):
            if not isinstance(content[name], dict):
                raise ValueError(f"{name} must hold settings of its own, got {content[name]!r}")
            _check_mappings(content[name], cast(type, kind))


def _parser() -> jsonargparse.ArgumentParser:
    parser = jsonargparse.ArgumentParser(
        prog="jpegdl",
        description="A JPEG layer that trains with the network: train, compare with the plain network, measure.",
        version=__version__,
        exit_on_error=False,
        allow_abbrev=False,
    )
    commands = parser.add_subcommands(title="commands", metavar="COMMAND", dest="command")

    def command(name: str, about: str) -> jsonargparse.ArgumentParser:
        usage = f"jpegdl {name} [--config RECIPE] [--KEY VALUE ...]"
        own = jsonargparse.ArgumentParser(description=about, usage=usage, exit_on_error=False, allow_abbrev=False)
        own.add_argument(
            "--config", action=_Recipe, help=f"a YAML file, or a recipe: {', '.join(RECIPES)}; of several the last wins"
        )
        own.add_class_arguments(CompareConfig)
        commands.add_subcommand(name, own, help=about)
        return own

    def run(own: jsonargparse.ArgumentParser) -> None:
        own.add_argument("--arm", type=str, default="jpeg-dl", help=f"which arm: {', '.join(ARMS)}")
        own.add_argument("--seed", type=int, default=0, help="which seed")

    command("compare", "Train every arm with every seed and compare with plain; a killed comparison resumes.")
    run(command("train", "Train one arm with one seed in the comparison's run folder, or resume it."))
    evaluate = command(
        "evaluate", "Test a finished run's model, with the run's own settings; all others count with --model only."
    )
    run(evaluate)
    evaluate.add_argument(
        "--model", type=str | None, default=None, help="a model.safetensors to test in place of the run's own"
    )
    evaluate.add_argument(
        "--rounding", type=str | None, default=None, help="quantizer to test with in place of the trained one"
    )
    calibrate = command("calibrate", "Compute initial quantization tables from training images, and write them as JSON.")
    calibrate.add_argument("--method", type=str | None, default=None, help="sensitivity or magnitude; default: layer.tables")
    calibrate.add_argument("--seed", type=int, default=0, help="whose plain model gives the sensitivities")
    calibrate.add_argument("--model", type=str | None, default=None, help="a plain model.safetensors in place of the run's own")
    calibrate.add_argument("--save", type=str, default="tables.json", help="the file to write")
    about = "List the recipes and the published protocols they follow, or print one."
    recipes = jsonargparse.ArgumentParser(
        description=about, usage="jpegdl recipes [NAME]", exit_on_error=False, allow_abbrev=False
    )
    recipes.add_argument("name", type=str | None, nargs="?", help=f"print this one: {', '.join(RECIPES)}")
    commands.add_subcommand("recipes", recipes, help=about)
    about = "Measure the layer's speed and memory beside other differentiable JPEGs, and write a table and a plot."
    measure = jsonargparse.ArgumentParser(
        description=about, usage="jpegdl bench [--KEY VALUE ...]", exit_on_error=False, allow_abbrev=False
    )
    measure.add_class_arguments(BenchConfig)
    commands.add_subcommand("bench", measure, help=about)
    return parser


_say = rank_zero_only(print)  # once, however many processes train


def _configs_first(arguments: list[str]) -> list[str]:
    """The command line wins over recipes wherever they stand; among recipes, the last one wins."""
    configs: list[str] = []
    others = arguments[:1]
    rest = iter(arguments[1:])
    for argument in rest:
        if argument == "--config":
            configs += [argument, *itertools.islice(rest, 1)]
        elif argument.startswith("--config="):
            configs.append(argument)
        else:
            others.append(argument)
    return [*others[:1], *configs, *others[1:]]


def _run(arguments: list[str]) -> None:
    arguments = _configs_first(arguments)
    parser = _parser()
    if not arguments:
        parser.print_help()
        return
    settings = parser.parse_args(arguments)
    chosen: dict[str, Any] = vars(parser.instantiate(settings)[settings.command])
    if settings.command == "recipes":
        _say(read_recipe(chosen["name"]).text.rstrip() if chosen["name"] else list_recipes())
        return
    if settings.command == "bench":
        bench(BenchConfig(**{name: chosen[name] for name in BenchConfig.__dataclass_fields__}), _say)
        _say(f"\nWritten to {chosen['output']}: bench.md, bench.json, bench.png")
        return
    config = CompareConfig(**{name: chosen[name] for name in CompareConfig.__dataclass_fields__})
    model = Path(chosen["model"]) if chosen.get("model") else None
    if settings.command == "compare":
        _, table = compare(config)
        _say(f"\n{table}\nRun folder: {config.folder} (tables, figures, models and logs)")
    elif settings.command == "train":
        result = train_arm(config, chosen["arm"], chosen["seed"])
        _say(f"{result['arm']}, seed {result['seed']}: test accuracy {100 * result['accuracy']:.2f} %")
        _say(f"Run folder: {config.folder / chosen['arm'] / str(chosen['seed'])}")
    elif settings.command == "evaluate":
        metrics = evaluate_run(config, chosen["arm"], chosen["seed"], model, chosen["rounding"])
        rounding = f", rounding {metrics['rounding']}" if metrics["rounding"] else ""
        _say(f"{metrics['model']} ({metrics['backbone']}, {metrics['arm']}, seed {metrics['seed']}{rounding})")
        _say(f"test accuracy {100 * metrics['accuracy']:.2f} %, loss {metrics['loss']:.4f}")
    elif settings.command == "calibrate":
        check_compare(config)
        if not Path(chosen["save"]).absolute().parent.is_dir():
            raise UsageError(f"--save {chosen['save']}: there is no folder {Path(chosen['save']).parent}")
        method = chosen["method"] or ("magnitude" if config.layer.tables == "magnitude" else "sensitivity")
        luma, chroma = calibrate_run(config, Data(config.data, chosen["seed"]), chosen["seed"], method, model)
        write_tables(chosen["save"], {"luma": luma, "chroma": chroma})
        for name, steps in (("luma", luma), ("chroma", chroma)):
            _say(f"{name} (rows: vertical frequency)")
            _say("\n".join(" ".join(f"{step:8.3g}" for step in row) for row in steps.tolist()))
        _say(f"Written to {chosen['save']}")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted.

    Args:
        arguments: without the program's name; default ``sys.argv``.
    """
    warnings.filterwarnings("ignore", module=r"lightning\..*|torch\.optim\.lr_scheduler")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.showwarning = lambda message, *_: print(f"jpegdl: warning: {_one_line(message)}", file=sys.stderr)
    try:
        _run(sys.argv[1:] if arguments is None else arguments)
    except (jsonargparse.ArgumentError, UsageError, OSError) as error:
        hint = "; a list is written '[one, two]'" if "list" in str(error) and "Parser key" in str(error) else ""
        print(f"jpegdl: error: {_one_line(error)}{hint}", file=sys.stderr)
        return 2 if isinstance(error, jsonargparse.ArgumentError) else 1
    except KeyboardInterrupt:
        print("jpegdl: interrupted; the same command resumes after the last finished epoch, if there is one", file=sys.stderr)
        return 130
    except Exception as error:
        if os.environ.get("JPEGDL_TRACEBACK"):
            raise
        text = f"{type(error).__name__}: {_one_line(error)} (set JPEGDL_TRACEBACK=1 to see where)"
        print(f"jpegdl: error: {text}", file=sys.stderr)
        return 1
    return 0


def _one_line(error: BaseException | Warning | str) -> str:
    # From a loader process the message comes wrapped in a traceback, the message itself last.
    text = str(error)
    if "Original Traceback" in text:
        text = text.rstrip().rpartition("\n")[2].partition(": ")[2]
    return " ".join(text.split())


if __name__ == "__main__":
    sys.exit(main())
