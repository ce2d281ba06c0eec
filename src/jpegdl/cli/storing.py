"""The commands about real JPEG files: compress, rate, and evaluate on files."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jpegdl.cli.shared import add_comparison, add_seeds, chosen_runs, comparison_folder, note_command, pick, say
from jpegdl.errors import UsageError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from jpegdl.codec import CompressStanding
    from jpegdl.runs import RunFolder


def compress_parser(about: str) -> "ArgumentParser":
    from jpegdl.codec import CompressConfig
    from jpegdl.parsing import plain_parser

    parser = plain_parser("jpegdl compress IN OUT --model RUN [--KEY VALUE ...]", about)
    parser.add_argument("source", type=str, metavar="IN", help="folder of images, with all folders in it")
    parser.add_argument("target", type=str, metavar="OUT", help="folder to write to, beside it")
    parser.add_class_arguments(CompressConfig)
    return parser


def compress(chosen: dict[str, Any]) -> None:
    from jpegdl.codec import CompressConfig, compress_folder
    from jpegdl.runs.progress import Bar

    config = pick(CompressConfig, chosen)
    with Bar(unit="files") as bar:

        def show(standing: "CompressStanding") -> None:
            if standing.bad is not None:
                bar.error(standing.bad)
            bar.show(f"{standing.images_per_second:.0f} images/s", standing.done, standing.total)

        found = compress_folder(chosen["source"], chosen["target"], config, show)
    pixels = found["pixels"]
    now = " of those written now" if found["skipped"] else ""
    rate = f", {8 * found['bytes'] / pixels:.2f} bits per pixel{now}" if pixels else ""
    say(f"{found['written']} images written, {found['skipped']} were there already; {found['subsampling']} chroma{rate}")
    if before := found["bytes_before"]:
        ratio = found["bytes"] / before
        larger = "; the files are LARGER than those they were made of" if ratio > 1 else ""
        say(f"{before / 1e6:.2f} MB became {found['bytes'] / 1e6:.2f} MB, x{ratio:.2f}{now}{larger}")
    if found["stale"]:
        say(f"{found['stale']} JPEG files in OUT have no image in IN any more; they are left as they are")
    if found["others"]:
        say(f"Passed over {found['others_in_words']}")
    if found["carried"]:
        say(found["carried"]["words"])
    if bad := found["bad"]:
        raise UsageError(f"{len(bad)} of the images {'are' if len(bad) > 1 else 'is'} not written, see above; all others are")


def evaluate_files(run: "RunFolder", files: str, path: str | None) -> None:
    """Print what a run's model makes of real JPEG files, and keep it for the report."""
    from jpegdl.codec import file_report, keep_file_report, stored_in_words
    from jpegdl.runs.progress import Bar

    if not Path(files).is_dir():
        raise UsageError(f"--from-files {files} is not a folder; give one of class folders, such as jpegdl compress writes")
    with Bar(unit="images") as bar:
        found = file_report(run, Path(files), path=path, progress=bar.show)
    keep_file_report(run, found)
    say(f"{files}: {stored_in_words(found['stored'])}")
    if found["stored"]["tables"] == "own":
        say(found["carried"]["words"])
    if found["stored"]["images"]:
        say(found["stored"]["images"])
    counts = list(dict.fromkeys(row["images"] for row in found["rows"]))
    if len(counts) > 1:
        say(f"Not the same images: the first rows are of the run's own {counts[0]}, those of real files of {counts[1]}")
    if found["other_images"]:
        say(f"These are not the images that the run was tested with: {found['other_images']}")
    rows = [["", "accuracy, %", "images", "bits per pixel", "24 bits over these"]]
    for row in found["rows"]:
        bits, ratio = ("" if row[name] is None else f"{row[name]:.2f}" for name in ("bits_per_pixel", "ratio"))
        rows.append([row["name"], f"{100 * row['accuracy']:.2f}", str(row["images"]), bits, ratio])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        say(
            "  ".join(
                cell.ljust(width) if i == 0 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
        )
    say(f"Written to {run.path}: files.json; jpegdl report adds it to its page")


def rate_parser(about: str) -> "ArgumentParser":
    from jpegdl.codec import CurveConfig
    from jpegdl.parsing import plain_parser

    parser = plain_parser("jpegdl rate [--name NAME] [--KEY VALUE ...]", about)
    add_comparison(parser)
    parser.add_argument("--arms", type=list[str] | None, default=None, help="whose (default: all that files can stand for)")
    add_seeds(parser)
    parser.add_class_arguments(CurveConfig)
    return parser


def rate(chosen: dict[str, Any]) -> None:
    from jpegdl.codec import (
        CurveConfig,
        check_curve_config,
        rate_comparisons,
        rate_figure,
        rate_rows,
        rate_run,
        rate_text,
        why_no_files,
    )
    from jpegdl.files import replacing, write_csv, write_json
    from jpegdl.runs import RunFolder
    from jpegdl.runs.progress import Bar

    config = pick(CurveConfig, chosen)
    check_curve_config(config)
    folder = comparison_folder(chosen)
    runs = chosen_runs(folder, chosen)
    results: dict[str, dict[int, dict[str, Any]]] = {}
    for begun in sorted(folder.glob("*/*/config.yaml")) if chosen["arms"] is None else []:
        if not RunFolder(begun.parent).finished:
            say(f"left out: {begun.parent.parent.name}, seed {begun.parent.name}, whose training is not finished")
    for arm, by_seed in runs.items():
        for seed, run in by_seed.items():
            if chosen["arms"] is None and (why := why_no_files(run)):
                say(f"left out: {why}")
                continue
            with Bar(f"{arm}, seed {seed}", "points") as bar:
                results.setdefault(arm, {})[seed] = rate_run(run, config, bar.show)
    if not results:
        raise UsageError(f"no run in {folder} has a layer that files can stand for, and none is plain")
    rows = rate_rows(results)
    widths = max(len(row["curve"]) for row in rows), max(len(row["arm"]) for row in rows)
    say(f"{'curve'.ljust(widths[0])}  {'arm'.ljust(widths[1])}  seed        tables  bits per pixel  accuracy, %    loss")
    for row in rows:
        say(
            f"{row['curve'].ljust(widths[0])}  {row['arm'].ljust(widths[1])}  {row['seed']:4d}  {row['tables']:>12}  "
            f"{row['bits_per_pixel']:14.3f}  {100 * row['accuracy']:11.2f}  {row['loss']:6.3f}"
        )
    compared = rate_comparisons(results)
    for between in compared:
        say(rate_text(between))
    write_csv(folder / "rate.csv", rows)
    write_json(folder / "rate.json", [asdict(between) for between in compared])
    with replacing(folder / "rate.png") as file:
        rate_figure(results).savefig(file, dpi=100, facecolor="white", format="png")
    note_command(folder, chosen)
    say(f"Written to {folder}: rate.csv, rate.json, rate.png; jpegdl report adds them to its page")
