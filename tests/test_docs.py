"""What users read and run: code and commands on the pages, examples in docstrings, tables that the site makes of the code."""

import doctest
import importlib
import json
import re
import shlex
import sys
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image

import jpegdl
from jpegdl.cli import COMMANDS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
#: The README and the pages of the site, without what the notebook writes where it is run.
PAGES = [ROOT / "README.md", *sorted(page for page in DOCS.rglob("*.md") if "runs" not in page.relative_to(DOCS).parts)]
SRC = ROOT / "src"
#: Modules with examples in their docstrings.
WITH_EXAMPLES = [
    ".".join(file.relative_to(SRC).with_suffix("").parts)
    for file in sorted(SRC.rglob("*.py"))
    if ">>> " in file.read_text(encoding="utf-8")
]
#: What examples on the pages have larger than a test needs it, and names that stand for a reader's own.
SMALLER = {
    "224": "32",
    "AttackConfig(eps=[4, 8])": "AttackConfig(eps=[4, 8], attacks=['fgsm'], images=6, corruptions=[], jpeg=[])",
    "images=500": "images=6",
    "resnet18": "resnet10t",
    "runs/NAME": "runs/mine",
}


@pytest.fixture
def photos(mine):
    """Photographs in the current folder, which has the comparison runs/mine."""
    Path("IN").mkdir()
    for name in ("photo.jpg", "a.jpg", "b.png", "IN/c.png"):
        Image.effect_noise((40, 32), 60).convert("RGB").save(name)
    return mine


@pytest.fixture
def no_hub(monkeypatch):
    """What is pushed to the Hub comes from the folder that it was saved in."""
    monkeypatch.setattr(jpegdl.Classifier, "push_to_hub", lambda *_: None)
    monkeypatch.setattr(jpegdl.Classifier, "from_pretrained", lambda name: jpegdl.load(Path(name).name))


# ------------------------------------------------------------------------------------------------------------- docstrings


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_examples_in_docstrings(module, photos):
    found = doctest.testmod(importlib.import_module(module))
    assert found.attempted > 0
    assert found.failed == 0


def test_what_is_used_most_has_an_example():
    used = (jpegdl.JpegLayer, jpegdl.RandomJpeg, jpegdl.jpeg, jpegdl.load, jpegdl.parameter_groups, jpegdl.prepend)
    assert [thing.__name__ for thing in used if ">>> " not in thing.__doc__] == []


# ------------------------------------------------------------------------------------------------------- code on the pages


def blocks(page, kind):
    """The code blocks of one kind, but those after a comment ``<!-- not run: WHY -->``."""
    text = page.read_text(encoding="utf-8")
    text = re.sub(r"<!-- not run: [^>]+-->\s*```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.findall(rf"^```{kind}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def with_blocks(kind):
    return [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES if blocks(page, kind)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", with_blocks("python"))
def test_code_on_a_page_runs(page, photos, no_hub):
    """From top to bottom, each block with the names of those before; what a reader has of their own is given."""
    images, labels = torch.rand(4, 3, 64, 64), torch.arange(4)
    names = {
        "images": images,
        "labels": labels,
        "model": jpegdl.prepend(timm.create_model("cifar_resnet8", num_classes=4), jpegdl.JpegLayer.from_quality(90)).eval(),
        "timm": timm,
        "torch": torch,
        "train_loader": [(images, labels)],
    }
    for block in blocks(page, "python"):
        for large, small in SMALLER.items():
            block = block.replace(large, small)
        exec(compile(block, str(page), "exec"), names)


def commands(page):
    """The commands of a page's shell blocks, a line each, without comments, pipes and what follows."""
    for kind in ("", "sh", "bash"):
        for block in blocks(page, kind):
            for line in block.replace("\\\n", " ").splitlines():
                command = re.split(r"\s#\s|\s[|>&]|;", line.strip())[0]
                if command.startswith("jpegdl "):
                    yield command


@pytest.mark.parametrize("page", [page for page in PAGES if any(commands(page))], ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_on_a_page_have_options_that_are_there(page):
    for command in commands(page):
        name, *arguments = shlex.split(command)[1:]
        if name in ("help", "-V"):
            continue
        options = {option for action in COMMANDS[name].parser()._actions for option in action.option_strings}
        used = [argument.partition("=")[0] for argument in arguments if re.match(r"--?[a-zA-Z]", argument)]
        assert set(used) <= options, f"{page.name}: {command}"


# ------------------------------------------------------------------------------------------------------ tables of the site


@pytest.fixture(scope="module")
def from_code():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DOCS / "_ext")
        yield importlib.import_module("from_code")
        sys.modules.pop("from_code")


def rows(text):
    """The first column of a table, without its head."""
    return [row.split(" | ")[0].strip("|` ") for row in text.splitlines() if row.startswith("| ")][2:]


def test_tables_of_the_site_are_those_of_the_code(from_code):
    from jpegdl.comparison.arms import ARMS
    from jpegdl.layer import LAYER_KINDS
    from jpegdl.recipes import RECIPES

    assert rows(from_code.make("arms")) == list(ARMS)
    assert rows(from_code.make("kinds")) == list(LAYER_KINDS)
    assert rows(from_code.make("recipes")) == list(RECIPES)
    assert rows(from_code.make("exits")) == ["0", "1", "2", "130", "143"]
    assert [row.split("`")[1].removeprefix("jpegdl ") for row in rows(from_code.make("commands"))] == list(COMMANDS)
    assert "`wds/`" in from_code.make("sets")


def test_every_setting_is_on_the_page_of_settings_once(from_code):
    page = (DOCS / "reference" / "settings.md").read_text(encoding="utf-8")
    parts = re.findall(r"\{from-code\} settings (\w+)", page)
    found = [row for part in parts for row in rows(from_code.make(f"settings {part}"))]
    wanted = {
        f"--{action.dest}".replace("_", "-") for action in COMMANDS["compare"].parser()._actions if action.option_strings
    } - {"--help", "--help-all", "--print-config", "--data", "--layer", "--training"}
    assert len(found) == len(set(found)) > 80
    assert wanted <= set(found) | {f"--{part}" for part in ("training.optimizer", "training.layer-optimizer", "training.rate")}
    line = next(line for line in from_code.make("settings layer").splitlines() if line.startswith("| `--layer.q-max`"))
    assert line.split(" | ")[1:3] == ["`float, greater than 0 and at most 255`", "`5.0`"]


def test_every_command_has_a_section(from_code):
    text = from_code.make("command_options")
    assert re.findall(r"^## (\w+)", text, re.MULTILINE) == list(COMMANDS)
    for name, command in COMMANDS.items():
        assert command.example in text, name


def test_the_directives_of_the_pages_are_there(from_code):
    found = [name for page in PAGES for name in re.findall(r"^```\{from-code\} (.+)$", page.read_text(encoding="utf-8"), re.M)]
    assert len(found) >= 10
    assert all(from_code.make(name) for name in found)


def test_every_page_is_in_a_table_of_contents():
    """But the first one; the site could not be built with one that is not."""
    listed = set()
    for page in PAGES[1:]:
        for block in re.findall(r"^```\{toctree\}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
            for entry in re.findall(r"^(?:.*<)?([\w/.-]+)>?$", block, re.MULTILINE):
                listed |= {file for end in (".md", ".ipynb") if (file := (page.parent / f"{entry}{end}").resolve()).is_file()}
    pages = {*PAGES[1:], *DOCS.glob("*/*.ipynb")} - {DOCS / "index.md"}
    assert pages - listed == set()


def test_every_public_room_has_its_page_of_the_api():
    pages = {page.stem: page.read_text(encoding="utf-8") for page in (DOCS / "reference" / "api").glob("*.md")}
    rooms = re.findall(r"from jpegdl import (\w+) as", Path(jpegdl.__file__).read_text(encoding="utf-8"))
    assert len(rooms) > 10
    assert set(rooms) <= pages.keys()
    assert all(f".. automodule:: jpegdl.{name}\n" in pages[name] for name in rooms)
    assert [name for name in jpegdl.__all__ if f"jpegdl.{name}\n" not in pages["jpegdl"]] == []


def all_markdown():
    """On pages, in studies, beside the code."""
    found = [page for folder in ("src", "studies", "tests", "examples", "benchmarks") for page in (ROOT / folder).rglob("*.md")]
    others = [page for page in found if "runs" not in page.relative_to(ROOT).parts]
    assert {"kernels", "headline", "oracle"} <= {page.parent.name for page in others}
    return [*PAGES[1:], *ROOT.glob("*.md"), *others]


def test_lines_of_markdown_are_short():
    """At most 100 characters, but for tables, and links that cannot be broken."""
    for page in all_markdown():
        for line in page.read_text(encoding="utf-8").splitlines():
            assert len(line) <= 100 or line.startswith("|") or len(line.split()) == 1, f"{page.name}: {line}"


def anchors(page):
    """What GitHub and the site call the headings of a page."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_links_between_files_lead_somewhere():
    """The site checks those of its pages; README is not one of them."""
    count = 0
    for page in all_markdown():
        text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            if link.startswith(("http://", "https://")):
                continue
            name, _, anchor = link.partition("#")
            target = page.parent / name if name else page
            assert target.exists(), f"{page.relative_to(ROOT)}: {link}"
            assert not anchor or anchor in anchors(target), f"{page.relative_to(ROOT)}: {link}"
            count += 1
    assert count > 200


def test_the_cpu_build_is_installed_in_the_versions_that_make_keeps():
    page = (DOCS / "how-to" / "install.md").read_text(encoding="utf-8")
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found = re.findall(r"\b(?:torch|torchvision)==[\d.]+\d", page)
    assert len(found) == 2
    assert set(found) <= set(pinned)


# ------------------------------------------------------------------------------------------------------- files and pictures


def test_the_page_of_files_names_all_that_a_run_leaves(trained):
    """Every file of a comparison, and every key of its JSON files."""
    page = (DOCS / "reference" / "run-folder.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([^`\n]+)`", page))
    for file in trained.rglob("*"):
        if not file.is_file() or "locks" in file.parts:
            continue
        name = re.sub(r"^events\.out\..*", "events.out.tfevents.*", file.name).replace("jpeg-dl", "ARM")
        assert name in named, f"{file.relative_to(trained)} is not on the page"
        if file.suffix == ".json":
            keys = set(json.loads(file.read_text(encoding="utf-8")))
            assert keys <= named, f"{file.name}: {keys - named}"


def test_pictures_are_small_and_have_words():
    for page in PAGES:
        for words, picture in re.findall(r"!\[([^\]]*)\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            assert len(words.split()) > 3, f"{page.name}: {picture} needs a text that says what it shows"
    for picture in (DOCS / "pictures").iterdir():
        assert picture.stat().st_size < 200_000


# ------------------------------------------------------------------------------------------------------------ the notebook


@pytest.fixture
def own_style():
    """A style of figures that a test may change: other tests do not see it."""
    import matplotlib

    matplotlib.use("agg")
    with matplotlib.rc_context():
        yield


@pytest.mark.drawn
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("own_style")
def test_the_notebook_runs(tmp_path, monkeypatch, few_photos):
    """Its cells in order, with the settings of its first cell made small."""
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((DOCS / "tutorials" / "first_steps.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(cells) == 8
    names = {"__name__": "notebook"}
    for number, cell in enumerate(cells):
        exec(compile(cell, f"cell {number + 1}", "exec"), names)
        if number == 0:
            assert {"EPOCHS", "SEEDS", "JOBS"} <= names.keys()
            names.update(EPOCHS=1, SEEDS=1, JOBS=1)
    assert [row["arm"] for row in names["comparison"].rows] == ["plain", "jpeg-dl"]


def test_the_notebook_holds_no_outputs_and_its_links_lead_somewhere():
    file = DOCS / "tutorials" / "first_steps.ipynb"
    assert file.stat().st_size < 200_000
    cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    words = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    links = re.findall(r"\]\(([^)#]+)", words)
    assert len(links) > 5
    assert [link for link in links if not (file.parent / link).exists()] == []


# --------------------------------------------------------------------------------------------------- for code assistants


def test_llms_txt_leads_to_what_is_there():
    text = (ROOT / "llms.txt").read_text(encoding="utf-8")
    assert text.startswith("# jpegdl\n\n> ")
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).exists()] == []
