"""The command ``jpegdl``: settings in, one call, the outcome printed.

The list of commands is known without importing anything. What a command needs, PyTorch first of all, is imported when it runs.
"""

import argparse
import json
import logging
import os
import shutil
import signal
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from jpegdl import __version__
from jpegdl.errors import UsageError

if TYPE_CHECKING:
    import jsonargparse

    from jpegdl.compare import CompareConfig

ABOUT = "A JPEG layer that trains with the network: train models with and without it, compare them, measure."
USAGE = "jpegdl {} [--config RECIPE] [--KEY VALUE ...]"


def _compare(about: str, arguments: list[str]) -> None:
    config, _ = _settings(_settings_parser("compare", about), arguments)
    from jpegdl.compare import compare

    done = compare(config)
    _say(f"\n{done.table}\nRun folder: {config.folder} (tables, figures, models and logs)")
    asked = [
        entry for entry in done.summary["failed"] if entry["arm"] in config.arm_names and entry["seed"] in config.seed_list
    ]
    if asked:
        one = f"{len(asked)} of the runs have" if len(asked) > 1 else "one of the runs has"
        raise UsageError(f"{one} no result: the reason is below the table; all others are in {config.folder}")


def _train(about: str, arguments: list[str]) -> None:
    parser = _settings_parser("train", about)
    _add_run(parser)
    config, chosen = _settings(parser, arguments)
    from jpegdl.compare import train_arm

    result = train_arm(config, chosen["arm"], chosen["seed"])
    _say(f"{result['arm']}, seed {result['seed']}: test accuracy {100 * result['accuracy']:.2f} %")
    _say(f"Run folder: {config.folder / chosen['arm'] / str(chosen['seed'])}")


def _evaluate(about: str, arguments: list[str]) -> None:
    parser = _settings_parser(
        "evaluate",
        f"{about} Its settings come from the run folder. Of the options below, --name, --output, --arm and --seed say which "
        "run; --data.path and --data.workers, --training.accelerator, devices, num_nodes and strategy say where to find the "
        "images and what to compute on; all others count only with --model.",
    )
    _add_run(parser)
    parser.add_argument(
        "--model",
        type=str | None,
        default=None,
        help="test this model.safetensors instead; the options describe its model and data",
    )
    parser.add_argument(
        "--rounding", type=str | None, default=None, help="test with this quantizer in place of the trained one, such as hard"
    )
    config, chosen = _settings(parser, arguments)
    from jpegdl.compare import evaluate_run

    metrics = evaluate_run(config, chosen["arm"], chosen["seed"], _model(chosen), chosen["rounding"])
    rounding = f", rounding {metrics['rounding']}" if metrics["rounding"] else ""
    if metrics["other_images"]:
        _say(f"These are not the images that the run was tested with: {metrics['other_images']}")
    _say(f"{metrics['model']} ({metrics['backbone']}, {metrics['arm']}, seed {metrics['seed']}{rounding})")
    _say(f"test accuracy {100 * metrics['accuracy']:.2f} % of {metrics['images']} images, loss {metrics['loss']:.4f}")


def _predict(about: str, arguments: list[str]) -> None:
    from jpegdl.arguments import parse, plain_parser

    parser = plain_parser("jpegdl predict [--name NAME] PHOTO [PHOTO ...]", about)
    parser.add_argument("photos", type=str, nargs="+", help="image files, and folders of them")
    parser.add_argument("--name", type=str, default="run", help="of the comparison whose model to use")
    parser.add_argument("--output", type=str, default="runs", help="folder of all comparisons")
    parser.add_argument("--arm", type=str | None, default=None, help="which arm (default: jpeg-dl)")
    parser.add_argument("--seed", type=int | None, default=None, help="which seed (default: the lowest that is trained)")
    parser.add_argument("--top", type=int, default=1, help="how many of the likeliest classes to print")
    parser.add_argument("--device", type=str | None, default=None, help="cpu, cuda, ... (default: cuda where there is a GPU)")
    parser.add_argument("--json", action="store_true", help="print a JSON object for each photo, one a line")
    chosen = parse(parser, arguments)
    import torch

    from jpegdl.use import ARM, find_photos, load

    folder = Path(chosen["output"]) / chosen["name"]
    if chosen["arm"] is not None or chosen["seed"] is not None:
        folder /= chosen["arm"] or ARM
    if chosen["seed"] is not None:
        folder /= str(chosen["seed"])
    model = load(folder, chosen["device"] or ("cuda" if torch.cuda.is_available() else "cpu"))
    photos = find_photos(chosen["photos"])
    widths = [max(map(len, names)) for names in (["photo", *map(str, photos)], ["label", *model.classes])]
    if not chosen["json"]:
        print(f"{'photo':{widths[0]}}  {'label':{widths[1]}}  probability")
    unread = 0
    for photo, found in zip(photos, model.predict_each(photos, chosen["top"]), strict=True):
        if isinstance(found, UsageError):
            unread += 1
            _print_error(f"error: {_one_line(found)}")
        elif chosen["json"]:
            print(json.dumps({"photo": str(photo), "labels": found.labels, "probabilities": found.probabilities}))
        else:
            for rank, (label, share) in enumerate(zip(found.labels, found.probabilities, strict=True)):
                print(f"{'' if rank else str(photo):{widths[0]}}  {label:{widths[1]}}  {100 * share:9.2f} %")
    if unread:
        raise UsageError(f"{unread} of {len(photos)} photos cannot be read")


def _calibrate(about: str, arguments: list[str]) -> None:
    parser = _settings_parser(
        "calibrate",
        f"{about} The data and the backbone are those of the trained plain model, whose run folder --name, --output and --seed "
        "point to. Of the options below, --layer.q_max, images, calibration and bits say how to compute the tables; "
        "--data.path, --data.workers and --training.accelerator say where to find the images and what to compute on. With "
        "--model, and for magnitude tables without a plain run, all options count.",
    )
    parser.add_argument(
        "--method",
        type=str | None,
        default=None,
        help="sensitivity or magnitude (default: magnitude where layer.tables is magnitude, else sensitivity)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the plain run")
    parser.add_argument(
        "--model",
        type=str | None,
        default=None,
        help="take the sensitivities of this plain model.safetensors instead",
    )
    parser.add_argument("--save", type=str, default="tables.json", help="the file to write")
    config, chosen = _settings(parser, arguments)
    from jpegdl.compare import calibrate_run
    from jpegdl.tables import write_tables

    if not Path(chosen["save"]).absolute().parent.is_dir():
        raise UsageError(f"--save {chosen['save']}: there is no folder {Path(chosen['save']).parent}")
    method = chosen["method"] or ("magnitude" if config.layer.tables == "magnitude" else "sensitivity")
    luma, chroma = calibrate_run(config, chosen["seed"], method, _model(chosen))
    write_tables(chosen["save"], {"luma": luma, "chroma": chroma}, bits=config.layer.bits, window=config.layer.window)
    for name, steps in (("luma", luma), ("chroma", chroma)):
        _say(f"{name} (rows: vertical frequency)")
        _say("\n".join(" ".join(f"{step:8.3g}" for step in row) for row in steps.tolist()))
    _say(f"Written to {chosen['save']}")


def _export(about: str, arguments: list[str]) -> None:
    parser = _settings_parser(
        "export",
        f"{about} Of the options below, --name, --output, --arm and --seed say which run; all others count for nothing.",
    )
    _add_run(parser)
    parser.add_argument("file", type=str, help="the file to write, such as model.onnx or model.pt2")
    parser.add_argument(
        "--format",
        type=str | None,
        default=None,
        help="onnx, torch (torch.export) or aotinductor (default: onnx for a file named .onnx, torch for .pt2)",
    )
    parser.add_argument(
        "--size", type=int | list[int] | None, default=None, help="pixels, or '[height, width]' (default: data.size of the run)"
    )
    parser.add_argument(
        "--dynamic_size", type=bool, default=False, help="take images of any size that is a multiple of 8 (of 16 with 4:2:0)"
    )
    parser.add_argument(
        "--rounding", type=str | None, default=None, help="export with this quantizer in place of the trained one, such as hard"
    )
    config, chosen = _settings(parser, arguments)
    from jpegdl.compare.config import check_run
    from jpegdl.export import export_run

    check_run(config, chosen["arm"], chosen["seed"])
    options = {name: chosen[name] for name in ("size", "format", "dynamic_size", "rounding")}
    check = export_run(config.run_folder(chosen["arm"], chosen["seed"]), chosen["file"], **options)
    sizes = " and ".join(f"{height}x{width}" for height, width in check.sizes)
    _say(
        f"Checked against PyTorch on {check.images} photographs ({sizes} pixels): logits differ by at most "
        f"{check.difference:.1e} (allowed {check.allowed:.1e}), the same class for {100 * check.agreement:.1f} %"
    )
    _say(f"Written to {chosen['file']}")


def _recipes(about: str, arguments: list[str]) -> None:
    from jpegdl.arguments import parse, plain_parser
    from jpegdl.recipes import RECIPES, list_recipes, read_recipe

    parser = plain_parser("jpegdl recipes [NAME]", about)
    parser.add_argument("name", type=str | None, nargs="?", help=f"print this one: {', '.join(RECIPES)}")
    name = parse(parser, arguments)["name"]
    print(read_recipe(name).text.rstrip() if name else list_recipes())


def _bench(about: str, arguments: list[str]) -> None:
    from jpegdl.arguments import parse, plain_parser
    from jpegdl.bench import BenchConfig, bench

    parser = plain_parser("jpegdl bench [--KEY VALUE ...]", about)
    parser.add_class_arguments(BenchConfig)
    config = BenchConfig(**parse(parser, arguments))
    bench(config, print)
    print(f"\nWritten to {config.output}: bench.md, bench.json, bench.png")


# ------------------------------------------------------------------------------------------- what several commands share


def _settings_parser(command: str, about: str) -> "jsonargparse.ArgumentParser":
    from jpegdl.arguments import settings_parser
    from jpegdl.compare import CompareConfig

    for name in ("lightning.pytorch", "lightning.fabric"):  # importing them makes them talk
        logging.getLogger(name).setLevel(logging.ERROR)
    return settings_parser(USAGE.format(command), about, CompareConfig)


def _add_run(parser: "jsonargparse.ArgumentParser") -> None:
    parser.add_argument("--arm", type=str, default="jpeg-dl", help="which arm; see --arms below")
    parser.add_argument("--seed", type=int, default=0, help="which seed")


def _settings(parser: "jsonargparse.ArgumentParser", arguments: list[str]) -> tuple["CompareConfig", dict[str, Any]]:
    """The comparison's settings, and all that was chosen, by name."""
    from jpegdl.arguments import parse
    from jpegdl.compare import CompareConfig

    chosen = parse(parser, arguments)
    return CompareConfig(**{name: chosen[name] for name in CompareConfig.__dataclass_fields__}), chosen


def _model(chosen: dict[str, Any]) -> Path | None:
    return Path(chosen["model"]) if chosen["model"] else None


def _say(text: str) -> None:
    """Print it once, however many processes train."""
    from lightning.pytorch.utilities import rank_zero_only

    rank_zero_only(print)(text)


# ----------------------------------------------------------------------------------------------------------- the command


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        about: what it does, in one line.
        run: given ``about`` and the arguments that follow the command's name, does it.
        resumes: whether the same command goes on where it was interrupted.
    """

    about: str
    run: Callable[[str, list[str]], None]
    resumes: bool = False


COMMANDS = {
    "compare": Command(
        "Train every arm with every seed and compare with plain; a killed comparison resumes.", _compare, resumes=True
    ),
    "train": Command("Train one arm with one seed of a comparison, or resume it.", _train, resumes=True),
    "evaluate": Command("Test a finished run's model on the test images.", _evaluate),
    "predict": Command("Say what is on photos, with a finished run's model.", _predict),
    "calibrate": Command("Compute initial quantization tables from training images, and write them as JSON.", _calibrate),
    "export": Command("Write a finished run's model as an ONNX file, or for torch.export or AOTInductor; check it.", _export),
    "recipes": Command("List the recipes and the published protocols they follow, or print one.", _recipes),
    "bench": Command(
        "Measure the layer's speed and memory beside other differentiable JPEGs; write a table and a plot.", _bench
    ),
}


def _overview() -> str:
    width, indent = min(shutil.get_terminal_size().columns, 100), max(len(name) for name in COMMANDS) + 4
    lines = [f"  {name}".ljust(indent) + command.about for name, command in COMMANDS.items()]
    commands = "\n".join(textwrap.fill(line, width, subsequent_indent=" " * indent) for line in lines)
    return f"""\
usage: {USAGE.format("COMMAND")}

{textwrap.fill(ABOUT, width)}

commands:
{commands}

jpegdl COMMAND --help   explains all options of a command, with units and defaults
jpegdl --version        prints the version"""


def _run(arguments: list[str]) -> None:
    name = arguments[0] if arguments else "--help"
    if name in COMMANDS:
        COMMANDS[name].run(COMMANDS[name].about, arguments[1:])
    elif name in ("-h", "--help"):
        print(_overview())
    elif name == "--version":
        print(f"jpegdl {__version__}")
    else:
        raise argparse.ArgumentError(None, f"no command {name!r}; commands: {', '.join(COMMANDS)}")


class _Interrupts:
    """While the command runs, Ctrl+C and SIGTERM raise KeyboardInterrupt; ``signal`` is the one that came, None before."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "_Interrupts":
        if threading.current_thread() is threading.main_thread():
            for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
                if signal.getsignal(number) == usual:  # what the parent process has us ignore stays ignored
                    self._before[number] = signal.signal(number, self._raise)
        return self

    def _raise(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        raise KeyboardInterrupt

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, KeyboardInterrupt):
            self.signal = self.signal or signal.SIGINT
        for number, handler in self._before.items():
            signal.signal(number, handler)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted, 143 terminated.

    Args:
        arguments: without the program's name; default ``sys.argv``.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    interrupts = _Interrupts()
    try:
        with interrupts, warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*|torch\.optim\.lr_scheduler")
            warnings.showwarning = lambda message, *_: _print_error(f"warning: {_one_line(message)}")
            _run(arguments)
    except BaseException as error:
        # An interrupt may come out as another exception: of an import that it cut short, or SystemExit from Lightning.
        if interrupts.signal is not None:
            return _interrupted(interrupts.signal, arguments)
        if isinstance(error, argparse.ArgumentError | UsageError | OSError):
            hint = "; a list is written '[one, two]'" if "list" in str(error) and "Parser key" in str(error) else ""
            _print_error(f"error: {_one_line(error)}{hint}")
            return 2 if isinstance(error, argparse.ArgumentError) else 1
        if not isinstance(error, Exception) or os.environ.get("JPEGDL_TRACEBACK"):
            raise
        _print_error(f"error: {type(error).__name__}: {_one_line(error)} (set JPEGDL_TRACEBACK=1 to see where)")
        return 1
    return 0


def _interrupted(number: int, arguments: list[str]) -> int:
    if os.environ.get("LOCAL_RANK", "0") == "0":  # of the processes that train one model, the first tells
        resumes = bool(arguments) and arguments[0] in COMMANDS and COMMANDS[arguments[0]].resumes
        way_on = "; the same command resumes after the last finished epoch, if there is one" if resumes else ""
        _print_error(f"{'terminated' if number == signal.SIGTERM else 'interrupted'}{way_on}")
    return 128 + number


def _print_error(text: str) -> None:
    print(f"jpegdl: {text}", file=sys.stderr)


def _one_line(error: BaseException | Warning | str) -> str:
    text = str(error)
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        text = f"{error.filename}: {error.strerror}"
    if "Original Traceback" in text:
        # From a loader process the message comes wrapped in a traceback, the message itself last.
        text = text.rstrip().rpartition("\n")[2].partition(": ")[2]
    return " ".join(text.split())


if __name__ == "__main__":
    sys.exit(main())
