"""Draw the pictures of the notebook: ``python docs/_ext/first_steps.py`` in the repository, for docs/pictures."""

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
from PIL import Image

DOCS = Path(__file__).resolve().parents[1]
CELLS = (1, 2, 3)  # whose pictures the pages show


def draw(folder: Path) -> None:
    """Run the first cells of the notebook, and write the figure of each."""
    notebook = json.loads((DOCS / "tutorials" / "first_steps.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    names: dict[str, Any] = {}
    for number in CELLS:
        exec(compile(cells[number - 1], f"cell {number}", "exec"), names)
        file = folder / f"first-steps-{number}.png"
        plt.gcf().savefig(file, dpi=100)
        if file.stat().st_size > 150_000:
            picture = Image.open(file).convert("RGB")
            picture.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.FLOYDSTEINBERG).save(file, optimize=True)


if __name__ == "__main__":
    draw(DOCS / "pictures")
