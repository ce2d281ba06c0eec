"""``jpegdl evaluate``."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from jpegdl.cli.command import Parser, WithSettings
from jpegdl.cli.options import RUN, add_run, check_which, model_file, note_command, picked_comparison, refuse_unlike
from jpegdl.cli.output import say, say_folded, say_table
from jpegdl.errors import UsageError, how_many

if TYPE_CHECKING:
    from jpegdl.comparison import CompareConfig
    from jpegdl.runs import RunFolder


class Evaluate(WithSettings):
    about = "Test a finished run's model on the test images."
    more = (
        "Its settings come from the run folder. --name, --output, --arm and --seed say which run; "
        "--data.path, --data.workers, --device and --training.devices, num-nodes and strategy say where to find the images and "
        "what to compute on; all others count only with --model. Without it, options that are not the run's own are refused."
    )
    example = "jpegdl evaluate mine --rounding hard"
    short = (*RUN, "predictions", "rounding", "model", "from_files", "data.path", "data.workers", "device")

    def add(self, parser: Parser) -> None:
        from jpegdl.layer import Rounding

        add_run(parser)
        parser.add_argument("--model", type=str | None, default=None, help="test this model.safetensors instead")
        parser.add_argument("--rounding", type=Rounding | None, default=None, help="test with this quantizer, such as hard")
        parser.add_argument(
            "--from-files", type=str | None, default=None, help="test on these JPEG files too, in class folders"
        )
        parser.add_argument(
            "--predictions",
            type=str | None,
            default=None,
            help="write what is said of each image to this CSV file, replacing it",
        )

    def run(self, chosen: dict[str, Any]) -> None:
        from jpegdl.comparison import evaluate_run
        from jpegdl.comparison.steps import without_run

        config = picked_comparison(chosen)
        check_which(chosen, config)
        folder = config.run_folder(chosen["arm"], chosen["seed"])
        if chosen["predictions"] is not None and Path(chosen["predictions"]).is_dir():  # before a test that may take long
            raise UsageError(f"--predictions {chosen['predictions']} is a folder; give a file, such as predictions.csv in it")
        if chosen["from_files"] is not None:
            if odd := [name for name in ("predictions", "rounding", "model") if chosen[name] is not None]:
                raise UsageError(f"--{odd[0]} is for the run's own test images: leave it out, or --from-files")
            refuse_unlike(chosen, config, folder)
            _evaluate_files(config, chosen["arm"], chosen["seed"], chosen["from_files"])
            note_command(config.folder, chosen)
            return
        if chosen["model"] is None and not without_run(config, folder):
            refuse_unlike(chosen, config, folder)
        metrics = evaluate_run(config, chosen["arm"], chosen["seed"], model_file(chosen), chosen["rounding"])
        rounding = f", rounding {metrics['rounding']}" if metrics["rounding"] else ""
        if metrics["other_images"]:
            say_folded(f"These are not the images that the run was tested with: {metrics['other_images']}")
        say_folded(f"{metrics['model']} ({metrics['backbone']}, {metrics['arm']}, seed {metrics['seed']}{rounding})")
        images = how_many(metrics["images"], "image")
        say(f"test accuracy {100 * metrics['accuracy']:.2f} % of {images}, loss {metrics['loss']:.4f}")
        _say_more(metrics)
        _keep(folder, metrics, chosen)


def _say_more(metrics: dict[str, Any]) -> None:
    """Print metrics beyond accuracy, the worst classes and the pairs that are mixed up most."""
    from jpegdl.comparison.per_image import WORST, class_accuracies, worst_pairs

    found, said = metrics["predictions"], metrics["metrics"]
    names = {"top5": "top-5 accuracy", "balanced_accuracy": "balanced accuracy", "calibration_error": "calibration error"}
    say(", ".join(f"{words} {100 * said[name]:.2f} %" for name, words in names.items() if said[name] is not None))
    classes = sorted(class_accuracies([found]), key=lambda one: one.accuracy)
    say(f"\nThe {WORST} worst classes:" if len(classes) > WORST else "\nBy class:")
    rows = [["class", "accuracy, %", "95 %", "images"]]
    rows += [
        [_short(one.name), f"{100 * one.accuracy:.1f}", f"[{100 * one.low:.0f}, {100 * one.high:.0f}]", str(one.images)]
        for one in classes[:WORST]
    ]
    say_table(rows)
    if pairs := worst_pairs([found]):
        say("\nMost often mixed up:")
        pair_rows = [[_short(name), _short(other), f"{n:.0f}", f"{100 * share:.0f}"] for name, other, n, share in pairs]
        say_table([["class", "taken for", "images", "of the class, %"], *pair_rows])


def _short(name: str) -> str:
    return name if len(name) <= 24 else f"{name[:23]}…"


def _keep(folder: "RunFolder", metrics: dict[str, Any], chosen: dict[str, Any]) -> None:
    """Write the predictions where they are wanted; of a run whose own are missing or cannot be used, to its folder too."""
    from jpegdl.comparison.per_image import predictions_of
    from jpegdl.runs.predictions import predictions_file, write_predictions

    if chosen["predictions"] is not None:
        write_predictions(Path(chosen["predictions"]), metrics["predictions"])
        say(f"\nWritten: {chosen['predictions']}")
    own = metrics["model"] == str(folder.model_file) and chosen["rounding"] is None and not metrics["other_images"]
    if not own or not predictions_of({metrics["arm"]: {metrics["seed"]: folder}})[1]:
        return
    before = folder.result().get("correct") if folder.finished else None
    say("")
    if before not in (None, metrics["correct"]):  # which the page would refuse
        say_folded(
            f"The predictions are not kept in {folder}: its own test had {before:,} of these images right, and this one has "
            f"{metrics['correct']:,}. Another device or other versions may do that."
        )
    else:
        write_predictions(predictions_file(folder), metrics["predictions"])
        note_command(folder.path.parent.parent, chosen)
        say_folded(f"Written: {predictions_file(folder)}; jpegdl report adds it to its page")


def _evaluate_files(config: "CompareConfig", arm: str, seed: int, files: str) -> None:
    """Print what a run's model makes of real JPEG files, and keep it for the report."""
    from jpegdl.codec import file_report, keep_file_report, stored_in_words
    from jpegdl.comparison.config import check_run
    from jpegdl.runs import DataPlace
    from jpegdl.runs.progress import Bar

    check_run(config, arm, seed)
    run = config.run_folder(arm, seed)
    if not Path(files).is_dir():
        raise UsageError(f"--from-files {files} is not a folder; give one of class folders, such as jpegdl compress writes")
    with Bar(unit="images") as bar:
        found = file_report(
            run, Path(files), place=DataPlace(config.data.path, config.data.workers), device=config.device, progress=bar.show
        )
    keep_file_report(run, found)
    say_folded(f"{files}: {stored_in_words(found['stored'])}")
    if found["stored"]["tables"] == "own":
        say_folded(found["carried"]["words"])
    if found["stored"]["images"]:
        say_folded(found["stored"]["images"])
    counts = list(dict.fromkeys(row["images"] for row in found["rows"]))
    if len(counts) > 1:
        say_folded(f"Not the same images: the first rows are of the run's own {counts[0]}, those of real files of {counts[1]}")
    if found["other_images"]:
        say_folded(f"These are not the images that the run was tested with: {found['other_images']}")
    rows = [["", "accuracy, %", "images", "bits per pixel", "times smaller than raw"]]
    for row in found["rows"]:
        bits, ratio = ("" if row[name] is None else f"{row[name]:.2f}" for name in ("bits_per_pixel", "ratio"))
        rows.append([row["name"], f"{100 * row['accuracy']:.2f}", str(row["images"]), bits, ratio])
    say_table(rows)
    say(f"Written to {run.path}: files.json; jpegdl report adds it to its page")
