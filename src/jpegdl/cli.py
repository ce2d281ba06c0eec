"""The command ``jpegdl``: settings in, one call, the outcome printed."""

import logging
import sys
import warnings
from importlib import resources
from pathlib import Path
from typing import Any

import jsonargparse
import torch
from lightning.pytorch.utilities import rank_zero_only

from jpegdl import __version__
from jpegdl.compare import ARMS, CompareConfig, calibrate_run, check_compare, compare, evaluate_run, train_arm
from jpegdl.data import Data
from jpegdl.errors import UsageError
from jpegdl.tables import write_tables

RECIPES = sorted(
    file.name.removesuffix(".yaml") for file in resources.files("jpegdl.recipes").iterdir() if file.name.endswith(".yaml")
)


class _Recipe(jsonargparse.ActionConfigFile):  # type: ignore[misc, name-defined]
    """--config takes a file or the name of a recipe."""

    def __call__(self, parser, namespace, value, option_string=None):  # type: ignore[no-untyped-def]
        path = Path(value)
        if value in RECIPES and not path.is_file():
            path = Path(str(resources.files("jpegdl.recipes") / f"{value}.yaml"))
        if not path.is_file():
            raise jsonargparse.ArgumentError(None, f"no recipe {value!r} and no such file; recipes: {', '.join(RECIPES)}")
        try:
            super().__call__(parser, namespace, str(path), option_string)
        except (TypeError, ValueError, jsonargparse.ArgumentError) as error:
            raise jsonargparse.ArgumentError(None, f"in {path}: {error}") from error


def _parser() -> jsonargparse.ArgumentParser:
    parser = jsonargparse.ArgumentParser(
        prog="jpegdl",
        description="A JPEG layer that trains with the network: train, compare with the plain network, measure.",
        version=__version__,
        exit_on_error=False,
    )
    commands = parser.add_subcommands(title="commands", metavar="COMMAND", dest="command")

    def command(name: str, about: str) -> jsonargparse.ArgumentParser:
        usage = f"jpegdl {name} [--config RECIPE] [--KEY VALUE ...]"
        own = jsonargparse.ArgumentParser(description=about, usage=usage, exit_on_error=False)
        own.add_argument("--config", action=_Recipe, help=f"a YAML file, or a recipe: {', '.join(RECIPES)}")
        own.add_class_arguments(CompareConfig)
        commands.add_subcommand(name, own, help=about)
        return own

    def run(own: jsonargparse.ArgumentParser) -> None:
        own.add_argument("--arm", type=str, default="jpeg-dl", help=f"which arm: {', '.join(ARMS)}")
        own.add_argument("--seed", type=int, default=0, help="which seed")

    command("compare", "Train every arm with every seed and compare with plain; a killed comparison resumes.")
    run(command("train", "Train one arm with one seed in the comparison's run folder, or resume it."))
    evaluate = command("evaluate", "Test a finished run's model on the test images.")
    run(evaluate)
    evaluate.add_argument(
        "--model", type=str | None, default=None, help="a model.safetensors to test in place of the run's own"
    )
    evaluate.add_argument(
        "--rounding", type=str | None, default=None, help="quantizer to test with in place of the trained one"
    )
    calibrate = command("calibrate", "Compute initial quantization tables from training images, and write them as JSON.")
    calibrate.add_argument("--method", type=str, default="sensitivity", help="sensitivity or magnitude")
    calibrate.add_argument("--seed", type=int, default=0, help="whose plain model gives the sensitivities")
    calibrate.add_argument("--model", type=str | None, default=None, help="a plain model.safetensors in place of the run's own")
    calibrate.add_argument("--tables", type=str, default="tables.json", help="the file to write")
    return parser


_say = rank_zero_only(print)  # once, however many processes train


def _run(arguments: list[str]) -> None:
    parser = _parser()
    if not arguments:
        parser.print_help()
        return
    settings = parser.parse_args(arguments)
    chosen: dict[str, Any] = vars(parser.instantiate_classes(settings)[settings.command])
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
        _say(f"test accuracy {100 * metrics['accuracy']:.2f} %, loss {metrics['loss']:.4f}")
    elif settings.command == "calibrate":
        check_compare(config)
        luma, chroma = calibrate_run(config, Data(config.data, chosen["seed"]), chosen["seed"], chosen["method"], model)
        write_tables(chosen["tables"], {"luma": luma, "chroma": chroma})
        for name, steps in (("luma", luma), ("chroma", chroma)):
            _say(f"{name} (rows: vertical frequency)")
            _say("\n".join(" ".join(f"{step:8.3g}" for step in row) for row in steps.tolist()))
        _say(f"Written to {chosen['tables']}")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted.

    Args:
        arguments: without the program's name; default ``sys.argv``.
    """
    warnings.filterwarnings("ignore", module=r"lightning\..*|torch\.optim\.lr_scheduler")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.set_float32_matmul_precision("highest")
    try:
        _run(sys.argv[1:] if arguments is None else arguments)
    except (jsonargparse.ArgumentError, UsageError, OSError) as error:
        print(f"jpegdl: error: {_one_line(error)}", file=sys.stderr)
        return 2 if isinstance(error, jsonargparse.ArgumentError) else 1
    except KeyboardInterrupt:
        print("jpegdl: interrupted; the same command resumes at the last finished epoch", file=sys.stderr)
        return 130
    return 0


def _one_line(error: BaseException) -> str:
    # From a loader process the message comes wrapped in a traceback, the message itself last.
    text = str(error)
    if "Original Traceback" in text:
        text = text.rstrip().rpartition("\n")[2].partition(": ")[2]
    return " ".join(text.split())


if __name__ == "__main__":
    sys.exit(main())
