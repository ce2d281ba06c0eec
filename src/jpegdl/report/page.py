"""The page of a comparison, from the files of its run folder alone."""

import base64
import io
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import jinja2
import yaml
from matplotlib.figure import Figure
from PIL import Image

from jpegdl import __version__
from jpegdl.codec import (
    RATE_COLUMNS,
    rate_comparisons,
    rate_figure,
    rate_notes,
    rate_rows,
    rate_table,
    read_file_report,
    read_rate,
    stored_in_words,
)
from jpegdl.compare.arms import ARMS
from jpegdl.compare.closing import read_summary
from jpegdl.compare.figures import accuracy_figure, curves_figure, gains_figure, saturation_figure, tables_figure
from jpegdl.compare.statistics import summary_notes, summary_rows, verdict
from jpegdl.errors import UsageError
from jpegdl.files import digest_of_file, read_json, replacing
from jpegdl.report.svg import inline_svg
from jpegdl.robustness import attack_figure, attack_rows
from jpegdl.training import RunFolder

REPORT = "report.html"
COMMANDS = "commands.txt"  # the command lines that made what is in a folder
MOST_ARMS = 8  # whose tables are shown, so that the page stays under 5 MB

_ATTACKED = (
    "model", "plain", "classes", "images", "indices", "data", "other_images", "clean", "levels", "masking", "corruptions",
    "jpeg", "settings",
)  # fmt: skip
_Runs = dict[str, dict[int, RunFolder]]


@dataclass(frozen=True)
class Picture:
    """A figure of the page.

    Attributes:
        html: the element.
        alt: what it shows, for those who do not see it.
        caption: how to read it.
        wide: whether it keeps its width on a narrow screen, and scrolls there.
    """

    html: str
    alt: str
    caption: str = ""
    wide: bool = False


@dataclass(frozen=True)
class Section:
    """A part of the page: a title and, below it, a text, a list of what was found, a table whose first row is its header, and
    pictures; without any of the last three it is left out."""

    title: str
    text: str = ""
    lines: list[str] = field(default_factory=list)
    table: list[list[str]] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)


def write_report(folder: Path) -> Path:
    """Write ``report.html`` into the folder of a comparison, of what its files say now; returns its path.

    The page is one file: it loads nothing, and is complete without JavaScript.

    Raises:
        UsageError: there is no comparison, or a file of it is missing or damaged.
    """
    summary = read_summary(folder)
    runs = {
        arm: {seed: RunFolder(folder / arm / str(seed)) for seed in entry["seeds"]} for arm, entry in summary["arms"].items()
    }
    settings = _text(folder / "compare.yaml")
    header, *rows = summary_rows(summary)
    page = _template().render(
        name=summary["name"],
        verdict=verdict(summary),
        header=header,
        rows=[(row, _about(row[0], settings)) for row in rows],
        notes=[note for note in summary_notes(summary) if note],
        sections=[
            section for section in _sections(folder, runs, summary) if section.pictures or section.table or section.lines
        ],
        settings=settings,
        commands=_text(folder / COMMANDS),
        versions={**summary["versions"], "jpegdl": __version__},
        machine=summary["machine"],
    )
    with replacing(folder / REPORT) as file:
        file.write_text(page)
    return folder / REPORT


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("jpegdl.report", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    return environment.get_template("page.html")


def _text(file: Path) -> str:
    return file.read_text() if file.is_file() else ""


def _about(arm: str, settings: str) -> str:
    """What an arm is, in a few words."""
    if arm in ARMS:
        return ARMS[arm].about
    own = (yaml.safe_load(settings) or {}).get("arms")
    entry = (
        own.get(arm) if isinstance(own, dict) else next((e[arm] for e in own or () if isinstance(e, dict) and arm in e), None)
    )
    return str((entry or {}).get("about", ""))


def _sections(folder: Path, runs: _Runs, summary: dict[str, Any]) -> Iterator[Section]:
    """What there is to show, in the order of the page."""
    yield Section("How they compare", pictures=list(_comparing(runs, summary)))
    with_layer = [arm for arm, by_seed in runs.items() if by_seed and arm != "plain"]
    shown = _gaining_most(with_layer, summary)
    left = len(with_layer) - len(shown)
    more = f" Shown are the {len(shown)} arms that gained most; {left} more have theirs in the folder." if left else ""
    yield Section(
        "What was learned",
        "The quantization tables before and after training. A large step keeps little of its frequency, a small one much. Rows "
        f"are vertical frequencies, columns horizontal ones; the top left cell is the blocks' mean.{more}",
        pictures=[picture for arm in shown for picture in _tables(arm, runs[arm])],
    )
    yield Section(
        "What the level cap does",
        "Where steps are fine, the level cap holds large coefficients back: the layer then saturates more than it quantizes.",
        pictures=[picture for arm in shown for picture in _saturation(arm, runs[arm])],
    )
    for arm, by_seed in runs.items():
        for seed, run in by_seed.items():
            yield from _explained(arm, seed, run, runs.get("plain", {}).get(seed))
    yield from _attacked(runs)
    yield from _stored(runs)
    yield from _read_back(runs)


def _gaining_most(arms: list[str], summary: dict[str, Any]) -> list[str]:
    """jpeg-dl and those that gained most, in the order of the table."""

    def gain(arm: str) -> float:
        difference = summary["arms"][arm]["difference"]
        return float("inf") if arm == "jpeg-dl" else difference["mean"] if difference else float("-inf")

    best = sorted(arms, key=gain, reverse=True)[:MOST_ARMS]
    return [arm for arm in arms if arm in best]


def _comparing(runs: _Runs, summary: dict[str, Any]) -> Iterator[Picture]:
    if (gains := gains_figure(summary)) is not None:
        yield _drawn(
            gains,
            "gains",
            "Difference of each arm's test accuracy to plain, with intervals",
            "Test accuracy against the plain model, paired by seed. An interval that contains 0 shows no difference.",
        )
    yield _drawn(
        accuracy_figure(runs, summary),
        "accuracy",
        "Test accuracy of each arm by epoch",
        "Test accuracy by epoch. What counts is the last epoch, which the table compares.",
    )
    yield _drawn(
        curves_figure(runs, summary),
        "curves",
        "Accuracy, loss, mean step and saturation of each arm by epoch",
        "All that was measured by epoch: accuracy and loss in test and training, the mean luma step, and the share of luma "
        "coefficients at the level cap.",
        wide=True,
    )


def _tables(arm: str, runs: dict[int, RunFolder]) -> Iterator[Picture]:
    if (figure := tables_figure(arm, runs)) is not None:
        yield _drawn(figure, f"tables-{arm}", f"Tables of {arm} before and after training", wide=True)


def _saturation(arm: str, runs: dict[int, RunFolder]) -> Iterator[Picture]:
    if (figure := saturation_figure(arm, runs)) is not None:
        yield _drawn(figure, f"saturation-{arm}", f"Share of coefficients of {arm} at the level cap", wide=True)


def _drawn(figure: Figure, name: str, alt: str, caption: str = "", *, wide: bool = False) -> Picture:
    prefix = "".join(character if character.isalnum() else "-" for character in name)
    return Picture(inline_svg(figure, prefix, alt), alt, caption, wide)


#: Pictures of ``jpegdl explain`` that the page shows, and how to read them; tables and saturation are there anyway.
_EXPLAINED = {
    "ablation.png": "What each frequency is worth: the change of test accuracy, in points, when it alone is removed, left "
    "uncapped or left unquantized in the trained layer.",
    "frequencies-bits.png": "How many bits of information the layer leaves at each frequency.",
    "frequencies-transfer.png": "What the layer makes of coefficients: curves over the histogram of the data.",
    "training.png": "The steps of single frequencies over training.",
    "image-better-1.png": "Where the two models differ most, one way: of all these images the one whose true class gains most "
    "probability with the layer.",
    "image-worse-1.png": "The other way: the one whose true class loses most. Both are extremes, and no proof of a cause.",
}


def _explained(arm: str, seed: int, run: RunFolder, plain: RunFolder | None) -> Iterator[Section]:
    """What ``jpegdl explain`` found of a run."""
    folder = run.path / "explain"
    found = read_json(folder / "explain.json", ("made_of", "files", "words", "left_out", "other_images"))
    if found is None:
        return
    title = f"A closer look at {arm}, seed {seed}"
    if not _of_model(run, found, plain):
        yield Section(
            title, lines=[f"Left out: another model was looked at; jpegdl explain --arm {arm} --seed {seed} does it again."]
        )
        return
    pictures = [
        Picture(_embedded(folder / name, caption), caption, caption, wide=True)
        for name, caption in _EXPLAINED.items()
        if name in found["files"] and (folder / name).is_file()
    ]
    lines = [*found["words"], *(f"Left out: {entry['what']}, {entry['why']}." for entry in found["left_out"])]
    if found["other_images"]:
        lines.insert(0, f"These are not the images that the run was tested with: {found['other_images']}.")
    yield Section(title, lines=lines, pictures=pictures)


def _embedded(file: Path, alt: str) -> str:
    """A picture as part of the page."""
    stream = io.BytesIO()
    with Image.open(file) as image:
        image.convert("RGB").save(stream, "WEBP", quality=82, method=4)
    return f'<img alt="{escape(alt)}" src="data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode()}">'


def _attacked(runs: _Runs) -> Iterator[Section]:
    """What ``jpegdl attack`` found of all runs that were attacked."""
    results: dict[str, dict[int, dict[str, Any]]] = {}
    title, notes, pictures = "Under attack", list[str](), []
    for arm, seed, result in _current(runs, _read_attack, "was attacked; run jpegdl attack", notes):
        results.setdefault(arm, {})[seed] = result
    if not results:
        if notes:
            yield Section(title, lines=notes)
        return
    try:
        figure = attack_figure(results)
    except UsageError as error:  # attacked in different ways, which no figure and no table may put side by side
        notes.append(f"The runs cannot be compared: {error}.")
        yield Section(title, lines=notes, table=[["arm", "seed", "images"], *_each(results)])
        return
    if figure is not None:
        caption = (
            "Accuracy against the strength of the attack. Solid lines count an image as robust only if no attack broke it."
        )
        pictures.append(_drawn(figure, "attack", "Accuracy of each arm against the strength of the attack", caption))
    images, settings = next((r["images"], r["settings"]) for by_seed in results.values() for r in by_seed.values())
    if len({tuple(by_seed) for by_seed in results.values()}) > 1:
        notes.append("Not all arms were attacked in the same seeds: a part of their differences may come from that.")
    flags = {
        f"{arm}, seed {seed}: {flag['norm']}, {flag['eps_255']:g}/255: {flag['text']}."
        for arm, by_seed in results.items()
        for seed, result in by_seed.items()
        for flag in result["masking"]["flags"]
    }
    lines = (
        ["Signs of masked gradients:", *sorted(flags)]
        if flags
        else [f"These attacks found no sign of masked gradients on these {images} images."]
    )
    yield Section(
        title,
        "Accuracy under attacks that know the model. Adaptive is the honest figure: image by image the worst over all that "
        f"were run: {', '.join(settings['attacks'])}, through the gradients {', '.join(settings['gradients'])} where the layer "
        "has them, and what fools the plain model, where there is one. What was not run can only lower it. The figure with the "
        "layer's own gradient alone is what is usually published.",
        lines=[*notes, *lines],
        table=_attack_table(results),
        pictures=pictures,
    )


def _stored(runs: _Runs) -> Iterator[Section]:
    """What ``jpegdl rate`` found of all runs that it measured."""
    results: dict[str, dict[int, dict[str, Any]]] = {}
    lines: list[str] = []
    for arm, seed, result in _current(runs, read_rate, "was measured; run jpegdl rate", lines):
        results.setdefault(arm, {})[seed] = result
    title = "Accuracy against the bits of real files"
    if not results:
        if lines:
            yield Section(title, lines=lines)
        return
    try:
        figure, compared, rows = rate_figure(results), rate_comparisons(results), rate_rows(results)
    except UsageError as error:  # measured in different ways
        lines.append(f"The runs cannot be compared: {error}.")
        yield Section(title, lines=lines, table=[["arm", "seed", "images"], *_each(results)])
        return
    caption = (
        "Test accuracy and loss on decoded JPEG files against their bits per pixel, of learned tables and of default JPEG."
    )
    yield Section(
        title,
        "Every test image was stored as a JPEG file and decoded. The plain network reads default JPEG; that of every other "
        "arm, without its layer, reads files with the arm's own tables, rounded to whole numbers. Bits are of whole files. The "
        "table has the mean difference between two curves at the same rate, of accuracy in points and of loss in nats, with "
        "its 95 % interval over the test images and, where there are several, over seeds; the least and the most it is at any "
        "rate; and how many more or fewer bits the same accuracy, or the same loss, takes.",
        lines=[*lines, *rate_notes(compared)],
        table=[RATE_COLUMNS, *table] if (table := rate_table(compared)) else [],
        pictures=[_drawn(figure, "rate", caption, caption)],
    )
    yield Section(
        "The points of these curves",
        table=[
            ["curve", "arm", "seed", "tables", "bits per pixel", "accuracy, %", "test loss, nats", "layer rounding, %"],
            *(
                [
                    row["curve"],
                    row["arm"],
                    str(row["seed"]),
                    row["tables"],
                    f"{row['bits_per_pixel']:.3f}",
                    f"{100 * row['accuracy']:.2f}",
                    "" if row["loss"] is None else f"{row['loss']:.3f}",
                    "" if row["hard"] is None else f"{100 * row['hard']:.2f}",
                ]
                for row in rows
            ),
        ],
    )


def _read_back(runs: _Runs) -> Iterator[Section]:
    """What ``jpegdl evaluate --from-files`` found; files of different kinds are kept apart."""
    lines: list[str] = []
    alike: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    again = "read the files; run jpegdl evaluate --from-files"
    for arm, seed, found in _current(runs, read_file_report, again, lines):
        stored = found["stored"]
        words = f". {found['carried']['words']}" if stored["tables"] == "own" else ""
        files = f"{stored['test']['images']} files in {found['files']}"
        lines.append(f"{arm}, seed {seed}: {files}, {stored_in_words(stored)}{words}.")
        same: list[Any] = [[row["name"], row["images"]] for row in found["rows"]]
        same += [found["other_images"], "" if stored["tables"] == "own" else stored["digest"]]
        alike.setdefault((arm, stored_in_words(stored), repr(same)), []).append(found)
    if not lines:
        return
    if any(sum(other == arm for other, *_ in alike) > 1 for arm, *_ in alike):
        lines.append("Seeds of an arm that read files of different kinds, or other images, have rows of their own.")
    rows = [["arm", "files", "what the model reads", "accuracy, %", "images", "bits per pixel", "24 bits over these", "seeds"]]
    for (arm, words, _), some in alike.items():
        for each in zip(*(found["rows"] for found in some), strict=True):
            bits = [row["bits_per_pixel"] for row in each if row["bits_per_pixel"]]
            rate = (
                [f"{statistics.fmean(bits):.2f}", f"{24 / statistics.fmean(bits):.2f}"] if len(bits) == len(each) else ["", ""]
            )
            accuracy = _percent([row["accuracy"] for row in each])
            seeds = ", ".join(str(found["seed"]) for found in some)
            rows.append([arm, words, each[0]["name"], accuracy, str(each[0]["images"]), *rate, seeds])
    yield Section(
        "In real JPEG files",
        "The row hard is the model with its layer rounding, the one above it the model as it was trained. Real files take the "
        "layer's place, or the whole model reads them, layer kept. Accuracies are means over the seeds named, ± sample sd.",
        lines=lines,
        table=rows if len(rows) > 1 else [],
    )


def _current(
    runs: _Runs,
    read: Callable[[RunFolder], dict[str, Any] | None],
    again: str,
    notes: list[str],
) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """What was found of all runs whose model is still the one that was looked at: arm, seed and what was found.

    Args:
        runs: of the comparison.
        read: what there is of a run; None where there is nothing.
        again: what happened to another model, and the command that does it to this one.
        notes: is told what was left out and, after each that was handed on, whether its images were others.
    """
    for arm, by_seed in runs.items():
        for seed, run in by_seed.items():
            if (found := read(run)) is None:
                continue
            if not _of_model(run, found, runs.get("plain", {}).get(seed)):
                notes.append(f"{arm}, seed {seed}: left out, as another model {again} again.")
                continue
            yield arm, seed, found
            if found["other_images"]:
                notes.append(f"{arm}, seed {seed}: not the images that the run was tested with: {found['other_images']}.")


def _read_attack(run: RunFolder) -> dict[str, Any] | None:
    """A run's ``attack.json``; None where there is none.

    Raises:
        UsageError: it is damaged.
    """
    file = run.path / "attack.json"
    found = read_json(file, _ATTACKED)
    if found is not None:
        try:
            attack_rows({"": {0: found}})
            [(flag["norm"], float(flag["eps_255"]), flag["text"]) for flag in found["masking"]["flags"]]
        except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
            why = f"{type(error).__name__}: {error}"
            raise UsageError(f"{file} is damaged ({why}); delete it, and jpegdl attack writes it again") from error
    return found


def _of_model(run: RunFolder, found: dict[str, Any], plain: RunFolder | None) -> bool:
    """Whether what was found of a run is of the model that is there now and, where it is beside the plain one, of that too."""
    made_of = found if "model" in found else found["made_of"]
    rival = made_of.get("plain")
    rival = rival["model"] if isinstance(rival, dict) else rival
    if rival is not None and plain is not None and digest_of_file(plain.model_file) != rival:
        return False
    return digest_of_file(run.model_file) == made_of.get("model")


def _attack_table(results: dict[str, dict[int, dict[str, Any]]]) -> list[list[str]]:
    """Means over seeds, a row for each arm, norm and eps."""
    rows = [["arm", "attack", "eps", "own gradient alone, %", "accuracy (adaptive), %", "images", "seeds"]]
    for arm, by_seed in results.items():
        first, *_ = some = list(by_seed.values())
        images, seeds = str(first["images"]), str(len(some))
        rows.append([arm, "none", "", "", _percent([result["clean"]["accuracy"] for result in some]), images, seeds])
        for index, level in enumerate(first["levels"]):
            here = [result["levels"][index] for result in some]
            eps = f"{level['eps_255']:g}/255" if level["norm"] == "Linf" else f"{level['eps']:g}"
            own, adaptive = ([entry[part] for entry in here] for part in ("own_gradient", "accuracy"))
            rows.append([arm, level["norm"], eps, _percent(own), _percent(adaptive), images, seeds])
        for name, what in (("corruptions", "common corruptions, mean"), ("jpeg", "JPEG files, mean")):
            if all(result[name] for result in some):
                rows.append([arm, what, "", "", _percent([result[name]["mean"] for result in some]), images, seeds])
    return rows


def _each(results: dict[str, dict[int, dict[str, Any]]]) -> list[list[str]]:
    return [[arm, str(seed), str(result["images"])] for arm, by_seed in results.items() for seed, result in by_seed.items()]


def _percent(shares: list[float | None]) -> str:
    known = [share for share in shares if share is not None]
    if len(known) < len(shares):
        return ""
    spread = f" ± {100 * statistics.stdev(known):.1f}" if len(known) > 1 else ""
    return f"{100 * statistics.fmean(known):.1f}{spread}"
