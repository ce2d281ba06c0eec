"""The pictures of the site for dark pages: light and dark change places, hues stay, and so do photographs.

Pages name the pictures on white, as GitHub shows them. A style sheet puts the dark ones in their place where the page is dark.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.config import Config

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "dark"
#: Maps of differences: their white is no change, and becomes the ground of the page. All others keep the colours of maps.
DIFFERENCES = "ablation"


def draw(file: Path, to: Path) -> None:
    """Write the dark form of a picture, unless it is there already."""
    import numpy as np
    from PIL import Image

    from jpegdl.report.explanations import darkened

    if to.is_file() and to.stat().st_mtime >= file.stat().st_mtime:
        return
    with Image.open(file) as opened:
        pixels = np.asarray(opened.convert("RGB"))
    Image.fromarray(darkened(pixels, photographs=DIFFERENCES not in file.stem)).save(to, optimize=True)


def rules(name: str) -> str:
    """Return what puts the dark form of a picture in its place: chosen by the reader, or by their system."""
    picture, dark = f'article img[src$="/{name}"]', f'{{ content: url("dark/{name}"); }}'
    chosen = f'body[data-theme="dark"] {picture} {dark}'
    return f'{chosen}\n@media (prefers-color-scheme: dark) {{ body:not([data-theme="light"]) {picture} {dark} }}\n'


def make(app: "Sphinx", config: "Config") -> None:
    """Write all dark pictures and their style sheet to a folder that the site copies."""
    (FOLDER / "dark").mkdir(parents=True, exist_ok=True)
    files = sorted([*ROOT.glob("docs/pictures/*.png"), *ROOT.glob("studies/*/*.png")])
    for file in files:
        draw(file, FOLDER / "dark" / file.name)
    (FOLDER / "dark.css").write_text("".join(rules(file.name) for file in files), encoding="utf-8")
    config["html_static_path"] += [str(FOLDER)]
    config["html_css_files"] += ["dark.css"]


def setup(app: "Sphinx") -> dict[str, bool]:
    app.connect("config-inited", make)
    return {"parallel_read_safe": True}
