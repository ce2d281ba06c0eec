"""Everything there is to explain of a run, into files of its folder."""

from collections.abc import Callable
from typing import Any

from matplotlib.figure import Figure

from jpegdl.explain import explain_figures
from jpegdl.explain.ablation import Counted, ablate
from jpegdl.explain.config import ALPHA, KINDS, SMALLEST_MAP, ExplainConfig, check_explain
from jpegdl.explain.frequencies import measure
from jpegdl.explain.single_images import show
from jpegdl.explain.subject import NotApplicable, Subject, open_subject
from jpegdl.explain.table_history import read_history, trained_tables
from jpegdl.files import digest_of_file, replacing
from jpegdl.heatmaps import DRAWN
from jpegdl.processes import room_for_images
from jpegdl.runs import RunFolder
from jpegdl.runs.pieces import Pieces
from jpegdl.runs.progress import Progress

FOLDER, INDEX, _PARTIAL = "explain", "explain", "ablation-partial"
_FORMAT = 3  # of the files; those of another one are made again
Figures = dict[str, Figure | None]  # by file name
_Made = tuple[dict[str, Any], Figures]

_PICTURES = {
    "tables": "tables*.png",
    "training": "training*.png",
    "frequencies": "frequencies*.png",
    "images": "image-*.png",
    "ablation": "ablation*.png",
}
_SETTINGS = {
    "tables": (),
    "training": ("frequencies",),
    "frequencies": ("images", "images_seed", "frequencies"),
    "images": ("images", "images_seed", "pictures"),
    "ablation": ("images", "images_seed"),
}


def explain_run(
    folder: RunFolder, config: ExplainConfig, plain: RunFolder | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Explain a finished run: tables, their way there, what happens at each frequency, single images, frequency ablation.

    Files go into ``explain/`` of the run folder: for each part its pictures, and a JSON file that says what they were made of.
    A part that is there already, made of the same model, data and settings, is kept. Other parts are made again. The ablation
    goes on where it was interrupted.

    Args:
        folder: the run.
        config: what to explain, and on which images.
        plain: the finished run without a layer of the same data, to compare with.
        progress: told how far it is.

    Returns:
        The content of ``explain/explain.json``: ``made_of``, with digests of ``model`` and ``plain`` (None without one);
        ``files``, names in ``explain/``; ``left_out``, each with ``what`` and ``why``; ``other_images``, how the test images
        differ from those of the run's own test (None if they do not); ``words``, the findings in sentences.

    Raises:
        UsageError: a setting cannot be used, the run is not finished or damaged, the data are others, or another process
            explains the same run.
    """
    check_explain(config)
    subject = open_subject(folder, config, plain)
    maker = _Maker(subject, progress or (lambda what, done, total: None))
    with maker.pieces.claimed(f"{folder} is being explained"), room_for_images():
        return maker.run()


class _Maker:
    """Makes what is missing, part by part."""

    def __init__(self, subject: Subject, progress: Progress) -> None:
        self.subject, self.progress = subject, progress
        self.pieces = Pieces(subject.folder.path / FOLDER, {"format": _FORMAT, **subject.made_of})
        self.left_out: list[dict[str, str]] = list(subject.left_out)
        self.contents: dict[str, dict[str, Any]] = {}

    def run(self) -> dict[str, Any]:
        """Make every part, then the list of all."""
        makers: dict[str, Callable[[list[dict[str, str]]], _Made]] = {
            "tables": self._tables,
            "training": self._training,
            "frequencies": self._frequencies,
            "images": self._images,
            "ablation": self._ablation,
        }
        if not self.subject.config.ablation:
            makers.pop("ablation")
        for done, (part, make) in enumerate(makers.items()):
            self.progress(part, done, len(makers))
            self._bring(part, make)
        if "ablation" in self.contents:
            self.pieces.drop(_PARTIAL)
        files = [name for content in self.contents.values() for name in content["files"]]
        index = {
            "run": self.subject.name,
            "files": files,
            "left_out": self.left_out,
            "other_images": self.subject.other_images,
            "words": self._words(),
        }
        index = self.pieces.keep(INDEX, {"plain": self._plain_digest()}, index)
        self.progress("explain", len(makers), len(makers))
        return index

    def _more(self, part: str) -> dict[str, Any]:
        """Return what a part depends on, besides what all of them do."""
        more: dict[str, Any] = {"settings": {name: getattr(self.subject.config, name) for name in _SETTINGS[part]}}
        if part == "images":
            more["smallest_map"] = SMALLEST_MAP  # maps of before it was known were drawn at any size
            if self.subject.plain is not None:
                more["plain"] = self._plain_digest()
        return more

    def _plain_digest(self) -> str | None:
        plain = self.subject.plain
        return None if plain is None else digest_of_file(plain.folder.model_file)

    def _bring(self, part: str, make: Callable[[list[dict[str, str]]], _Made]) -> None:
        """Make a part, unless it is there already."""
        target, more = self.pieces.folder, self._more(part)
        there = self.pieces.find(part, more, needed=("files", "left_out"))
        if there is None or not all((target / name).is_file() for name in there["files"]):
            # Before its pictures: what has no JSON file is not there. And the list of all is of what was there until now.
            for name in (part, INDEX):
                self.pieces.drop(name)
            for picture in target.glob(_PICTURES[part]):
                picture.unlink()
            left_out: list[dict[str, str]] = []
            try:
                content, drawn = make(left_out)
            except NotApplicable as why:
                self.left_out.append({"what": part, "why": str(why)})
                return
            pictures = [name for name, figure in drawn.items() if figure is not None]
            for name in pictures:
                with replacing(target / name) as path:
                    drawn[name].savefig(path, format="png", dpi=90, facecolor="white")  # type: ignore[union-attr]
            files = [*pictures, self.pieces.file(part).name]
            there = self.pieces.keep(part, more, {"files": files, "left_out": left_out, **content})
        self.contents[part] = there
        self.left_out += there["left_out"]

    def _tables(self, left_out: list[dict[str, str]]) -> _Made:
        content = trained_tables(self.subject)
        figure = explain_figures.tables_figure(self.subject.name, content)
        if figure is None:
            why = "no table is one for all blocks" if content["kind"] in DRAWN else f"what is {content['kind']} is not drawn"
            left_out.append({"what": "picture of the tables", "why": why})
        return content, {"tables.png": figure}

    def _training(self, left_out: list[dict[str, str]]) -> _Made:
        content = read_history(self.subject)
        return content, {"training.png": explain_figures.history_figure(self.subject.name, content)}

    def _frequencies(self, left_out: list[dict[str, str]]) -> _Made:
        content = measure(self.subject, left_out)
        draw = {
            "saturation": explain_figures.saturation_figure,
            "bits": explain_figures.bits_figure,
            "transfer": explain_figures.transfer_figure,
        }
        return content, {f"frequencies-{name}.png": figure(self.subject.name, content) for name, figure in draw.items()}

    def _images(self, left_out: list[dict[str, str]]) -> _Made:
        content, shown = show(self.subject, left_out)
        drawn: Figures = {
            f"{each.name}.png": explain_figures.picture_figure(self.subject.name, content, each) for each in shown
        }
        return content, drawn

    def _ablation(self, left_out: list[dict[str, str]]) -> _Made:
        # What is counted is what differs from the unaltered model, whose answers are another's at the very edge in batches of
        # another size or on another device; so is what a layer draws at random.
        how = {"batch_size": self.subject.config.batch_size, "device": self.subject.device.type}
        more = {**self._more("ablation"), "how": how}
        there = self.pieces.find(_PARTIAL, more, needed=["counted"])
        counted: Counted = there["counted"] if there else {}

        def save(counted: Counted) -> None:
            self.pieces.keep(_PARTIAL, more, {"counted": counted})

        def progress(done: int, total: int) -> None:
            self.progress("ablation", done, total)

        grey = bool(self.contents.get("frequencies", {}).get("grey"))
        content = ablate(self.subject, grey, left_out, counted, save, progress)
        figure = explain_figures.ablation_figure(self.subject.name, content)
        return content, {"ablation.png": figure}

    def _words(self) -> list[str]:
        """Return what came out, in sentences."""
        words = list(self.contents.get("training", {}).get("words", {}).values())
        if ablation := self.contents.get("ablation"):
            words += _ablation_words(ablation)
        if (precision := self.subject.run.config.training.precision) not in ("32-true", "32"):
            words.append(f"Measured in float32. The run's own test was in {precision}: an image at the edge may differ there.")
        return words


def _ablation_words(content: dict[str, Any]) -> list[str]:
    found = {name: entry for name, entry in content["variants"].items() if entry["q"] < ALPHA}
    if not found:
        return [f"None of {len(content['variants'])} alterations of one frequency changes test accuracy significantly."]
    worst = min(found, key=lambda name: found[name]["change"])
    kind, plane, row, column = worst.split("/")
    entry = found[worst]
    return [
        f"{len(found)} of {len(content['variants'])} alterations of one frequency change test accuracy significantly; the "
        f"lowest is {plane} ({row}, {column}) {KINDS[kind]}: {100 * entry['change']:+.2f} points "
        f"[{100 * entry['low']:+.2f}, {100 * entry['high']:+.2f}]."
    ]
