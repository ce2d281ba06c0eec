"""What ``jpegdl explain`` found, for the page."""

import base64
import io
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from jpegdl.comparison.summary import named_options
from jpegdl.explain import explain_figures
from jpegdl.files import read_json, reading
from jpegdl.report.section import PagePicture, Runs, Section, drawn
from jpegdl.runs import RunFolder
from jpegdl.runs.pieces import outdated

_WHITE, _SMALLEST, _FILLED = 250, 24, 0.6  # the lightest that is drawn; of photographs, pixels on a side and share of a box
_NARROWEST, _LONG, _SLIM, _MANY = 6, 100, 8, 64  # of the scale of a map: pixels across and along, their ratio, and colours
_PAPER = 22  # of the dark page, see page.html
MOST_EXPLAINED = 6  # runs that are shown, so that the page stays under 5 MB

#: Figures of ``jpegdl explain`` that the page shows; tables and saturation are there anyway. By the file of what is drawn: what
#: draws it, from the run's name and that file's content, what it is, and how to read it.
_FIGURES: list[tuple[str, Callable[[str, dict[str, Any]], Figure | None], str, str]] = [
    (
        "ablation",
        explain_figures.ablation_figure,
        "What each frequency is worth",
        "The change of test accuracy, in points, when one frequency is removed, left uncapped or left unquantized in the "
        "trained layer.",
    ),
    (
        "frequencies",
        explain_figures.bits_figure,
        "Bits of each frequency",
        "Bits of information in the coefficients before and after the layer.",
    ),
    (
        "frequencies",
        explain_figures.transfer_figure,
        "What the layer makes of coefficients",
        "Curves of single frequencies over the histogram of the data.",
    ),
    ("training", explain_figures.history_figure, "Steps during training", "The steps of single frequencies by epoch."),
]
#: Pictures of single images: what they are, and how to read them.
_IMAGES = {
    "image-better-1.png": (
        "The image that gains most",
        "Where the two models differ most: of all these images, the one whose true class gains most probability with "
        "the layer.",
    ),
    "image-worse-1.png": (
        "The image that loses most",
        "The opposite: the image whose true class loses most. Both are extremes, and prove no cause.",
    ),
}


def explained_sections(runs: Runs) -> Iterator[Section]:
    """Show what ``jpegdl explain`` found, run by run."""
    looked_at = [
        (arm, seed, run)
        for arm, by_seed in runs.items()
        for seed, run in by_seed.items()
        if (run.path / "explain" / "explain.json").is_file()
    ]
    for arm, seed, run in looked_at[:MOST_EXPLAINED]:
        yield from _explained(arm, seed, run, runs.get("plain", {}).get(seed))
    if more := looked_at[MOST_EXPLAINED:]:
        names = "; ".join(f"{arm}, seed {seed}" for arm, seed, _ in more)
        yield Section("More close looks", lines=[f"To keep this page small, these are in their own folders: {names}."])


def _explained(arm: str, seed: int, run: RunFolder, plain: RunFolder | None) -> Iterator[Section]:
    """Return what ``jpegdl explain`` found of a run."""
    folder = run.path / "explain"
    found = read_json(folder / "explain.json", ("made_of", "files", "words", "left_out", "other_images"))
    if found is None:
        return
    title = f"A closer look at {arm}, seed {seed}"
    command = f"jpegdl explain {''.join(named_options(run.path.parent.parent))} --arms {arm} --seeds {seed},"
    if why := outdated(run, found, plain):
        yield Section(title, lines=[f"Left out, as {why} since it was looked at; {command} does it again."])
        return
    parts = dict.fromkeys(part for part, *_ in _FIGURES if f"{part}.json" in found["files"])
    contents = {part: read_json(folder / f"{part}.json", ("made_of",)) for part in parts}
    pictures = []
    for part, draw, alt, caption in _FIGURES:
        if (content := contents.get(part)) is not None:
            with reading(folder / f"{part}.json", f"delete it, and {command} will write it again"):
                figure = draw(f"{arm}, seed {seed}", content)
            if figure is not None:
                pictures.append(drawn(figure, f"{arm}-{seed}-{draw.__name__}", alt, caption, wide=True))
    pictures += [
        PagePicture(_embedded(folder / name, alt), alt, caption, wide=True)
        for name, (alt, caption) in _IMAGES.items()
        if name in found["files"] and (folder / name).is_file()
    ]
    lines = [*found["words"], *(f"Left out: {entry['what']}, {entry['why']}." for entry in found["left_out"])]
    if found["other_images"]:
        lines.insert(0, f"These are not the images that the run was tested with: {found['other_images']}.")
    yield Section(title, lines=lines, pictures=pictures)


def _embedded(file: Path, alt: str) -> str:
    """A picture as part of the page, once on white and once for dark pages."""
    with Image.open(file) as opened:
        image = opened.convert("RGB")
    dark = _data_url(Image.fromarray(darkened(np.asarray(image))))
    source = f'<source media="(prefers-color-scheme: dark)" srcset="{dark}"/>'
    return f'<picture>{source}<img alt="{escape(alt)}" src="{_data_url(image)}"></picture>'


def _data_url(image: Image.Image) -> str:
    stream = io.BytesIO()
    image.save(stream, "WEBP", quality=82, method=4)
    return f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode()}"


def darkened(pixels: NDArray[np.uint8], *, photographs: bool = True) -> NDArray[np.uint8]:
    """Turn a drawing on white into one for a dark page: light and dark change places, hues stay, and so do the photographs.

    Args:
        pixels: (H, W, 3). What is not white and fills most of a rectangle of some size is a photograph. A narrow one of many
            colours is the scale of a map, and stays too, without its ticks.
        photographs: whether there are any; otherwise everything turns.
    """
    labels, _ = ndimage.label((pixels < _WHITE).any(2))
    kept = np.zeros(labels.shape, bool)
    for number, place in enumerate(ndimage.find_objects(labels) if photographs else [], 1):
        drawn_here = labels[place] == number
        if min(drawn_here.shape) < _NARROWEST or drawn_here.mean() <= _FILLED:
            continue
        across, along = sorted(drawn_here.shape)
        long = along >= max(_LONG, _SLIM * across)
        if long and len(np.unique(pixels[place].reshape(-1, 3), axis=0)) >= _MANY:
            bar = drawn_here.mean(int(np.argmax(drawn_here.shape)), keepdims=True) > _FILLED
            kept[place] |= ndimage.binary_fill_holes(drawn_here) & bar  # the ticks that hang on it turn like other lines
        elif across >= _SMALLEST:
            kept[place] = True
    turned = pixels.astype(np.int32)
    turned += 255 - turned.max(2, keepdims=True) - turned.min(2, keepdims=True)
    turned = _PAPER + turned.clip(0, 255) * (255 - _PAPER) // 255
    return np.where(kept[..., None], pixels, turned).astype(np.uint8)
