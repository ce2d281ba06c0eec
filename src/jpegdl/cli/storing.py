"""The commands about real JPEG files: compress, and evaluate on files."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from jpegdl.cli.shared import pick, print_error, say
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
