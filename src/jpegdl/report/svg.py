"""Figures as part of an HTML page: text stays text, and colours follow the page's light or dark scheme."""

import io
import re
from html import escape

import matplotlib
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from jpegdl.heatmaps import CURVES

#: Colours of figures that the page gives names to; all others stay as they are.
_NAMES = {
    "#000000": "ink",
    "#ffffff": "paper",
    "#808080": "faint",
    "#666666": "faint",
    "#d9d9d9": "grid",
    "#b0b0b0": "grid",
    "#cccccc": "grid",
    "#f5f5f5": "panel",
    "#ff00ff": "mark",
    "#020202": "on-light",
    "#fdfdfd": "on-deep",
} | {colour: f"c{number}" for number, colour in enumerate(CURVES)}
_ALMOST = {"#000000": "#010101", "#ffffff": "#fefefe"}  # of numbers in cells, which keep their colour as the cell does
_AROUND_WHITE = ("RdBu", "PiYG")  # colours whose middle is the paper: on a dark page the middle is dark, and the ends are light
_ON_TURNED = {"#000000": "#020202", "#ffffff": "#fdfdfd"}  # of numbers in such cells, which turn along


def inline_svg(figure: Figure, prefix: str, alt: str) -> str:
    """Return a figure as an ``<svg>`` element to put into a page.

    Args:
        figure: any; its background is left out.
        prefix: put in front of all ids in it; no two figures of a page may share one.
        alt: what the figure shows, for those who do not see it.

    Returns:
        The element, whose text is text in the page's font. Black, white, grey and the ten colours of curves are the page's CSS
        variables ``--ink``, ``--paper``, ``--faint``, ``--grid``, ``--panel``, ``--mark`` and ``--c0`` to ``--c9``. Heat maps
        around white have the class ``turned``, and their numbers ``--on-light`` and ``--on-deep``.
    """
    turned = 0
    for axes in figure.axes:
        cells = [part for part in (*axes.images, *axes.collections) if isinstance(part, AxesImage | QuadMesh)]
        around_white = any(part.get_cmap().name.removesuffix("_r") in _AROUND_WHITE for part in cells)
        for text in axes.texts if axes.images else []:
            colour = to_hex(text.get_color())
            text.set_color((_ON_TURNED if around_white else _ALMOST).get(colour, colour))
        for part in cells if around_white else []:
            # A colour bar is drawn as pixels, whose own element has no name: it is the first picture of its axes.
            (axes if part.get_rasterized() else part).set_gid(f"turned-{'bar-' if part.get_rasterized() else ''}{turned}")
            turned += 1
    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": prefix}):
        figure.savefig(file, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*|<!--.*?-->\s*", "", svg, flags=re.S)
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', svg))
    svg = re.sub(r'( id="turned-bar-\d+".*?<image )', r'\1class="turned" ', svg, flags=re.S)
    svg = re.sub(r' id="turned-\d+"', ' class="turned"', svg)
    svg = re.sub(r' id="([^"]+)"', lambda found: f' id="{prefix}-{found[1]}"' if found[1] in used else "", svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\g<1>{prefix}-", svg)
    svg = re.sub(r"font: [^\"';]*?([\d.]+px) [^;\"]*", r"font-size: \1", svg)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    svg = re.sub(r"#[0-9a-f]{6}\b", lambda found: f"var(--{_NAMES[found[0]]})" if found[0] in _NAMES else found[0], svg)
    width = re.search(r'width="([\d.]+)pt"', svg)
    assert width is not None
    head = f'<svg role="img" aria-label="{escape(alt)}" style="max-width: {float(width[1]) * 4 / 3:.0f}px"'
    return re.sub(r'(width|height)="[\d.]+pt" ', "", svg.replace("<svg", head, 1), count=2).strip()
