"""The commands about real JPEG files: compress, rate, and evaluate on files."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from jpegdl.cli.shared import add_comparison, comparison_folder, note_command, pick, print_error, say
from jpegdl.errors import UsageError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from jpegdl.codec import CompressStanding
    from jpegdl.training import RunFolder


def compress_parser(about: str) -> "ArgumentParser":
    from jpegdl.arguments import plain_parser
    from jpegdl.codec import CompressConfig

    parser = plain_parser("jpegdl compress IN OUT --model RUN [--KEY VALUE ...]", about)
    parser.add_argument("source", type=str, metavar="IN", help="folder of images, with all folders in it")
    parser.add_argument("target", type=str, metavar="OUT", help="folder to write to, beside it")
    parser.add_class_arguments(CompressConfig)
    return parser


def compress(chosen: dict[str, Any]) -> None:
    from tqdm import tqdm

    from jpegdl.codec import CompressConfig, compress_folder

    config = pick(CompressConfig, chosen)
    with tqdm(
        unit="file", bar_format="{percentage:3.0f}%, {n_fmt} of {total_fmt} files [{elapsed}<{remaining}] {postfix}"
    ) as bar:

        def show(standing: "CompressStanding") -> None:
            bar.n, bar.total = standing.done, standing.total
            bar.set_postfix_str(f"{standing.images_per_second:.0f} images/s", refresh=False)
            if standing.bad is not None:
                with tqdm.external_write_mode():
                    print_error(f"error: {standing.bad}")
            bar.refresh()

        found = compress_folder(chosen["source"], chosen["target"], config, show)
    pixels = found["pixels"]
    rate = f", {8 * found['bytes'] / pixels:.2f} bits per pixel" if pixels else ""
    say(f"{found['written']} images written, {found['skipped']} were there already{rate}")
    if found["others"]:
        say(f"{found['others']} other files were passed over")
    if found["carried"]:
        say(found["carried"]["words"])
    if bad := found["bad"]:
        raise UsageError(f"{len(bad)} of the images {'are' if len(bad) > 1 else 'is'} not written, see above; all others are")


def evaluate_files(run: "RunFolder", files: str, path: str | None) -> None:
    """Print what a run's model makes of real JPEG files."""
    from tqdm import tqdm

    from jpegdl.codec import file_report

    if not Path(files).is_dir():
        raise UsageError(f"--from-files {files} is not a folder; give one of class folders, such as jpegdl compress writes")
    with tqdm(bar_format="{desc} {n_fmt} of {total_fmt} [{elapsed}]", leave=False) as bar:

        def show(what: str, done: int, total: int) -> None:
            bar.n, bar.total = done, total
            bar.set_description_str(what, refresh=True)

        found = file_report(run, Path(files), path=path, progress=show)
    if found["carried"]:
        say(found["carried"]["words"])
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


def rate_parser(about: str) -> "ArgumentParser":
    from jpegdl.arguments import plain_parser
    from jpegdl.codec import RateConfig

    parser = plain_parser("jpegdl rate [--name NAME] [--KEY VALUE ...]", about)
    add_comparison(parser)
    parser.add_argument("--arms", type=list[str] | None, default=None, help="whose (default: all that files can stand for)")
    parser.add_argument(
        "--seeds", type=int | list[int] | None, default=None, help="a number n for 0 to n-1, or a list (default: all there are)"
    )
    parser.add_class_arguments(RateConfig)
    return parser


def rate(chosen: dict[str, Any]) -> None:
    from tqdm import tqdm

    from jpegdl.codec import (
        RateConfig,
        check_rate_config,
        rate_comparisons,
        rate_figure,
        rate_rows,
        rate_run,
        rate_text,
        why_no_files,
    )
    from jpegdl.files import replacing, write_csv, write_json
    from jpegdl.training import finished_runs

    config = pick(RateConfig, chosen)
    check_rate_config(config)
    folder, seeds = comparison_folder(chosen), chosen["seeds"]
    runs = finished_runs(folder, chosen["arms"], list(range(seeds)) if isinstance(seeds, int) else seeds)
    results: dict[str, dict[int, dict[str, Any]]] = {}
    for arm, by_seed in runs.items():
        for seed, run in by_seed.items():
            if chosen["arms"] is None and (why := why_no_files(run)):
                say(f"left out: {why}")
                continue
            with tqdm(bar_format="{desc} {n_fmt} of {total_fmt} [{elapsed}]", leave=False) as bar:

                def show(what: str, done: int, total: int, bar: Any = bar, who: str = f"{arm}, seed {seed}") -> None:
                    bar.n, bar.total = done, total
                    bar.set_description_str(f"{who}: {what}", refresh=True)

                results.setdefault(arm, {})[seed] = rate_run(run, config, show)
    if not results:
        raise UsageError(f"no run in {folder} has a layer that files can stand for, and none is plain")
    rows = rate_rows(results)
    widths = max(len(row["curve"]) for row in rows), max(len(row["arm"]) for row in rows)
    say(f"{'curve'.ljust(widths[0])}  {'arm'.ljust(widths[1])}  seed        tables  bits per pixel  accuracy, %")
    for row in rows:
        say(
            f"{row['curve'].ljust(widths[0])}  {row['arm'].ljust(widths[1])}  {row['seed']:4d}  {row['tables']:>12}  "
            f"{row['bits_per_pixel']:14.3f}  {100 * row['accuracy']:11.2f}"
        )
    compared = rate_comparisons(results)
    for between in compared:
        say(rate_text(between))
    write_csv(folder / "rate.csv", rows)
    write_json(folder / "rate.json", [vars(between) for between in compared])
    with replacing(folder / "rate.png") as file:
        rate_figure(results).savefig(file, dpi=100, facecolor="white", format="png")
    note_command(folder, chosen)
    say(f"Written to {folder}: rate.csv, rate.json, rate.png; jpegdl report adds them to its page")
