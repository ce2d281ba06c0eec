"""The commands that train and test: compare, train, evaluate, calibrate."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from jpegdl.cli.shared import SETTINGS, add_run, model, note_command, one_line, print_error, say, settings, settings_parser
from jpegdl.cli.storing import evaluate_files
from jpegdl.errors import UsageError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


def compare_parser(about: str) -> "ArgumentParser":
    return settings_parser(f"jpegdl compare {SETTINGS}", about)


def compare(chosen: dict[str, Any]) -> None:
    from jpegdl.comparison import compare as run
    from jpegdl.comparison.summary import closing
    from jpegdl.report import write_report

    config = settings(chosen)
    try:
        done = run(config)
    finally:
        note_command(config.folder, chosen)
    try:
        write_report(done.folder)
    except (UsageError, OSError) as error:
        print_error(f"warning: there is no report: {one_line(error)}")
    say(f"\n{done.table}\n{closing(done.folder, done.summary)}")
    asked = [
        entry for entry in done.summary["failed"] if entry["arm"] in config.arm_names and entry["seed"] in config.seed_list
    ]
    if asked:
        one = f"{len(asked)} of the runs have" if len(asked) > 1 else "one of the runs has"
        raise UsageError(f"{one} no result: the reason is below the table; all others are in {config.folder}")


def train_parser(about: str) -> "ArgumentParser":
    parser = settings_parser(f"jpegdl train {SETTINGS}", about)
    add_run(parser)
    return parser


def train(chosen: dict[str, Any]) -> None:
    from jpegdl.comparison import train_arm

    config = settings(chosen)
    try:
        result = train_arm(config, chosen["arm"], chosen["seed"])
    finally:
        note_command(config.folder, chosen)
    say(f"{result['arm']}, seed {result['seed']}: test accuracy {100 * result['accuracy']:.2f} %")
    say(f"Run folder: {config.folder / chosen['arm'] / str(chosen['seed'])}")


def evaluate_parser(about: str) -> "ArgumentParser":
    parser = settings_parser(
        f"jpegdl evaluate {SETTINGS}",
        f"{about} Its settings come from the run folder. Of the options below, --name, --output, --arm and --seed say which "
        "run; --data.path and --data.workers, --training.accelerator, devices, num_nodes and strategy say where to find the "
        "images and what to compute on; all others count only with --model.",
    )
    add_run(parser)
    parser.add_argument(
        "--model",
        type=str | None,
        default=None,
        help="test this model.safetensors, of the other options",
    )
    parser.add_argument("--rounding", type=str | None, default=None, help="test with this quantizer, such as hard")
    parser.add_argument(
        "--from-files", type=str | None, default=None, help="test on these JPEG files too, class folders as of compress"
    )
    return parser


def evaluate(chosen: dict[str, Any]) -> None:
    from jpegdl.comparison import evaluate_run
    from jpegdl.comparison.config import check_run

    if chosen["from_files"] is not None:
        config = settings(chosen)
        check_run(config, chosen["arm"], chosen["seed"])
        evaluate_files(config.run_folder(chosen["arm"], chosen["seed"]), chosen["from_files"], config.data.path)
        return
    metrics = evaluate_run(settings(chosen), chosen["arm"], chosen["seed"], model(chosen), chosen["rounding"])
    rounding = f", rounding {metrics['rounding']}" if metrics["rounding"] else ""
    if metrics["other_images"]:
        say(f"These are not the images that the run was tested with: {metrics['other_images']}")
    say(f"{metrics['model']} ({metrics['backbone']}, {metrics['arm']}, seed {metrics['seed']}{rounding})")
    say(f"test accuracy {100 * metrics['accuracy']:.2f} % of {metrics['images']} images, loss {metrics['loss']:.4f}")


def calibrate_parser(about: str) -> "ArgumentParser":
    parser = settings_parser(
        f"jpegdl calibrate {SETTINGS}",
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
        help="take the sensitivities of this model.safetensors",
    )
    parser.add_argument("--save", type=str, default="tables.json", help="the file to write")
    return parser


def calibrate(chosen: dict[str, Any]) -> None:
    from jpegdl.comparison import calibrate_run
    from jpegdl.tables import write_tables

    config = settings(chosen)
    if not Path(chosen["save"]).absolute().parent.is_dir():
        raise UsageError(f"--save {chosen['save']}: there is no folder {Path(chosen['save']).parent}")
    method = chosen["method"] or ("magnitude" if config.layer.tables == "magnitude" else "sensitivity")
    luma, chroma = calibrate_run(config, chosen["seed"], method, model(chosen))
    write_tables(chosen["save"], {"luma": luma, "chroma": chroma}, bits=config.layer.bits, window=config.layer.window)
    for name, steps in (("luma", luma), ("chroma", chroma)):
        say(f"{name} (rows: vertical frequency)")
        say("\n".join(" ".join(f"{step:8.3g}" for step in row) for row in steps.tolist()))
    say(f"Written to {chosen['save']}")
