"""``jpegdl compress``."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from jpegdl.cli.command import Command, Parser
from jpegdl.cli.options import pick
from jpegdl.cli.output import say_folded
from jpegdl.errors import UsageError, how_many
from jpegdl.files import printable

if TYPE_CHECKING:
    from jpegdl.codec import CompressStanding


class Compress(Command):
    about = "Write a folder of images as ordinary JPEG files: made for a network that reads them, or with learned tables."
    usage = "IN OUT --reader MODEL | --model RUN [--KEY VALUE ...]"
    example = "jpegdl compress PHOTOS SMALLER --reader MODEL --judge OTHER"
    short = (
        *("source", "target", "reader", "judge", "effort", "mu", "bits_per_pixel", "agree"),
        *("model", "tables", "subsampling", "optimize", "threads"),
    )
    resumes = "image"

    def add(self, parser: Parser) -> None:
        from jpegdl.codec import CompressConfig

        what = "folder of images, with its subfolders; with --reader also WebDataset shards, as 'FOLDER/*.tar'"
        parser.add_argument("source", type=str, metavar="IN", help=what)
        parser.add_argument("target", type=str, metavar="OUT", help="folder to write to, outside of IN")
        parser.add_class_arguments(CompressConfig)

    def run(self, chosen: dict[str, Any]) -> None:
        from jpegdl.codec import CompressConfig, compress_folder, compress_shards
        from jpegdl.runs.progress import Bar

        config = pick(CompressConfig, chosen)
        shards = _shards(chosen["source"])
        with Bar(unit="files") as bar:

            def show(standing: "CompressStanding") -> None:
                if standing.bad is not None:
                    bar.error(standing.bad)
                speed = standing.images_per_second
                bar.show(f"{speed:.{0 if speed >= 10 else 1}f} images/s", standing.done, standing.total)

            if shards:
                found = compress_shards(shards, chosen["target"], config, show)
            else:
                found = compress_folder(chosen["source"], chosen["target"], config, show)
        if shards:
            _say_of_shards(found, config.effort)
            return
        pixels = found["pixels"]
        now = " of those written now" if found["skipped"] else ""
        rate = f", {8 * found['bytes'] / pixels:.2f} bits per pixel{now}" if pixels else ""
        say_folded(f"{how_many(found['written'], 'image')} written, {_there(found)}; {found['subsampling']} chroma{rate}")
        if before := found["bytes_before"]:
            ratio = found["bytes"] / before
            larger = "; the files are LARGER than the originals" if ratio > 1 else ""
            say_folded(f"{before / 1e6:.2f} MB became {found['bytes'] / 1e6:.2f} MB, x{ratio:.2f}{now}{larger}")
        if found["stale"] == 1:
            say_folded("1 JPEG file in OUT no longer has an image in IN; it is kept")
        elif found["stale"]:
            say_folded(f"{found['stale']} JPEG files in OUT no longer have an image in IN; they are kept")
        if found["others"]:
            say_folded(f"Passed over {found['others_in_words']}")
        if found["readers"]:
            _say_of_readers(found["readers"], config.effort, "; compress.html in OUT shows them")
        if found["carried"]:
            say_folded(found["carried"]["words"])
        if bad := found["bad"]:
            are = "are" if len(bad) > 1 else "is"
            raise UsageError(f"{len(bad)} of {how_many(found['images'], 'image')} {are} not written, see above{_others(found)}")


def _shards(source: str) -> list[Path]:
    """A tar, or those that a pattern with * stands for, as in a shell, in order; none where it is a folder's name."""
    from jpegdl.data.sources.listing import hidden

    path = Path(source).expanduser()
    if path.is_file() and path.suffix == ".tar":
        return [path]
    if "*" not in source or path.exists():
        return []
    found = sorted(file for file in path.parent.glob(path.name) if not hidden(file.name))
    if not found:
        raise UsageError(f"no files match {source}")
    return found


def _there(found: dict[str, Any]) -> str:
    return f"{found['skipped']} {'was' if found['skipped'] == 1 else 'were'} there already"


def _others(found: dict[str, Any]) -> str:
    left = found["images"] - len(found["bad"])
    return "" if not left else "; the other is written" if left == 1 else "; all others are written"


def _say_of_shards(found: dict[str, Any], effort: int | None) -> None:
    rate = "" if found["bits_per_pixel"] is None else f", {found['bits_per_pixel']:.2f} bits per pixel of those written now"
    say_folded(f"{how_many(found['written'], 'shard')} written, {_there(found)}; {how_many(found['images'], 'image')}{rate}")
    if found["beside"] == 1:
        say_folded("1 picture beside an image of its sample, such as a mask, stays as it is")
    elif found["beside"]:
        say_folded(f"{found['beside']} pictures beside an image of their sample, such as masks, stay as they are")
    _say_of_readers(found["readers"], effort)
    wrong = []
    if left := found["left_out"]:
        are = "is" if len(left) == 1 else "are"
        wrong.append(f"{len(left)} of {how_many(found['shards'], 'shard')} {are} not written, see above")
    if bad := found["bad"]:
        were = "was" if len(bad) == 1 else "were"
        words = f"{how_many(len(bad), 'image')} cannot be read and {were} copied unchanged"
        wrong.append(printable(f"{words}: {bad[0]['file']}: {bad[0]['why']}"))
    if wrong:
        raise UsageError("; ".join(wrong))


def _say_of_readers(found: dict[str, Any], effort: int | None, where: str = "") -> None:
    """What files for readers came to, and what networks say of them that had no say."""
    qualities, kinds, rounds = (
        ", ".join(f"{name} ({count})" for name, count in found[key].items()) for key in ("qualities", "kinds", "rounds")
    )
    moved = f"; rounds (files): {rounds}" if effort == 3 else ""
    rate = "" if found["bits_per_pixel"] is None else f", {found['bits_per_pixel']:.3g} bits per pixel"
    whole = f"{how_many(found['files'], 'file')} in all{rate}, mu {found['mu']:.3g}"
    say_folded(f"{whole}; qualities (files): {qualities}; tables (files): {kinds}{moved}")
    what = {"readers": "reader", "left_out": "left out, with files the others chose", "judges": "judge, which had no say"}
    for key, words in what.items():
        for one in found[key]:
            agreement = "" if one["agreement"] is None else f"{100 * one['agreement']:.1f} % of the first answers stay, "
            say_folded(f"{words}: {one['name']}: {agreement}distance {one['distance']:.3f} on average")
    if not found["judges"] and not found["left_out"]:
        say_folded("No other network has read the files; give one with --judge MODEL")
    if found["worst"]:
        named = ", ".join(f"{one['file']} ({one['distance']:.2f}, quality {one['quality']})" for one in found["worst"])
        say_folded(f"Furthest from their originals: {named}{where}")
