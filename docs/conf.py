"""The site: ``make docs``. Its source is the whole repository, so that links between pages are those that they have there."""

import _collections
import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent / "src")]

from sphinx.application import Sphinx  # noqa: E402
from sphinx.ext.napoleon import GoogleDocstring  # noqa: E402

from jpegdl import __version__  # noqa: E402
from jpegdl.layer import ROUNDINGS  # noqa: E402

project = "jpegdl"
author = "The jpegdl developers"
release = version = __version__
root_doc = "docs/index"
include_patterns = [
    "docs/**",
    "studies/README.md",
    "studies/*/FINDINGS.md",
    "studies/files/judges.md",
    "src/jpegdl/kernels/README.md",
    "*.md",
]
exclude_patterns = ["README.md", ".venv*", "build", "runs", "docs/tutorials/runs", "**/.ipynb_checkpoints"]
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "from_code",
    "dark_pictures",
]

myst_enable_extensions = ["deflist", "colon_fence"]
highlight_language = "text"  # of blocks that do not say theirs
myst_heading_anchors = 4
nb_execution_mode = "off"  # the tests run the notebook
nb_merge_streams = True

autodoc_inherit_docstrings = False  # those of Lightning and PyTorch are written for other tools
autodoc_typehints = "signature"
autodoc_member_order = "groupwise"
autodoc_default_options = {"members": True, "show-inheritance": True}
maximum_signature_line_length = 90
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_attr_annotations = False  # the signature has them

html_theme = "furo"
html_title = f"jpegdl {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_extra_path = ["_extra"]
html_show_copyright = False
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b62a3", "color-brand-content": "#0b62a3"},
    "dark_css_variables": {"color-brand-primary": "#6cb6ff", "color-brand-content": "#6cb6ff"},
}


def _returns(self: GoogleDocstring, *_: bool, **__: bool) -> list[tuple[str, str, list[str]]]:
    """What a function returns, all of it words: what stands before a colon is a shape, and no type."""
    lines = self._dedent(self._consume_to_next_section())
    return [("", "", lines)] if lines else []


def _inline(self: GoogleDocstring) -> tuple[str, list[str]]:
    """The same of what a property is."""
    return "", GoogleDocstring(self._dedent(self._consume_to_end()), self._config).lines()


def _is_field(app: Sphinx, what: str, name: str, thing: object, *_: object) -> bool | None:
    """Whether it is a field of a named tuple, which its docstring describes already."""
    return True if isinstance(thing, _collections._tuplegetter) else None


def _plain_types(
    app: Sphinx, what: str, name: str, thing: object, options: object, *texts: str | None
) -> tuple[str | None, ...]:
    """Return a signature with plain types: bounds of settings stand in words beside it, and roundings have a name."""
    roundings = re.compile(r"~?(typing\.)?Literal\[" + ", ".join(map(repr, ROUNDINGS)) + r"\]")
    bounded = re.compile(r"~?(?:typing\.)?Annotated\[(\w+), [~\w.]*Range\([^()]*\)\]")
    return tuple(text and roundings.sub("Rounding", bounded.sub(r"\1", text)) for text in texts)


def setup(app: Sphinx) -> None:
    """Leave out what is said twice."""
    app.connect("autodoc-skip-member", _is_field)
    app.connect("autodoc-process-signature", _plain_types)


GoogleDocstring._consume_returns_section = _returns
GoogleDocstring._consume_inline_attribute = _inline
