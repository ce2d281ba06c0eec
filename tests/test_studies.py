"""What the studies need of the library, by public names alone, and that pages name and link to what is there."""

import ast
import builtins
import importlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

import jpegdl
from jpegdl.layer import build_layer

ROOT = Path(__file__).parents[1]
STUDIES = ROOT / "studies"
FOLDERS = sorted(file.parent for file in STUDIES.glob("*/FINDINGS.md"))
PAGES = sorted(
    [*ROOT.glob("*.md"), *(page for name in ("docs", "examples", "src", "studies") for page in (ROOT / name).rglob("*.md"))]
)
#: Rooms of the library whose names are for everybody.
PUBLIC = {
    "jpegdl",
    *(f"jpegdl.{name}" for name in ("backbones", "calibrate", "codec", "comparison", "data", "errors", "functional")),
}
PUBLIC |= {f"jpegdl.{name}" for name in ("layer", "runs", "statistics", "tables")}


@pytest.fixture
def installed(monkeypatch):
    """``jpegdl_studies`` as where it is installed."""
    monkeypatch.syspath_prepend(STUDIES)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_study_is_listed_and_runs_by_a_script(folder):
    assert f"({folder.name}/FINDINGS.md)" in (STUDIES / "README.md").read_text(encoding="utf-8")
    assert f"{folder.name}/FINDINGS.md)" in (ROOT / "docs" / "explanation" / "results.md").read_text(encoding="utf-8")
    assert (folder / "run.sh").stat().st_mode & 0o100
    for script in folder.glob("*.sh"):
        if shell := shutil.which("sh"):
            assert subprocess.run([shell, "-n", script], check=False).returncode == 0
        assert "PYTHONPATH" not in script.read_text(encoding="utf-8")


def test_class_paths_are_there(installed):
    found = set()
    for file in STUDIES.rglob("*"):
        if file.suffix in (".yaml", ".sh", ".md"):
            found |= set(re.findall(r"(jpegdl_studies\.\w+):(\w+)(?!\w*\$)", file.read_text(encoding="utf-8")))
    assert len(found) > 10
    for module, name in found:
        assert hasattr(importlib.import_module(module), name), f"{module}:{name}"


@pytest.mark.parametrize("file", sorted(STUDIES.glob("*/arms.yaml")), ids=lambda file: file.parent.name)
def test_arms_have_layers(file, installed):
    config = jpegdl.read_config(file)
    images = torch.rand(2, 3, 16, 16)
    for arm in config.arm_names:
        assert build_layer(config.arm_run(arm).layer, None, 16)(images).shape == images.shape


def test_the_small_network(installed):
    """Its images are normalised as those of the runs that there are: by ImageNet's numbers."""
    from jpegdl_studies.networks import resnet8

    model = jpegdl.prepend(resnet8(num_classes=10), torch.nn.Identity())
    torch.testing.assert_close(model.mean.flatten(), torch.tensor([0.485, 0.456, 0.406]))
    assert round(sum(parameter.numel() for parameter in model.parameters()), -3) == 78_000
    assert model.backbone.conv1.stride == (2, 2)


def test_studies_use_public_names(installed):
    for file in STUDIES.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or not node.module:
                continue
            home = node.module.partition(".")[0]
            if home == "jpegdl":
                assert node.module in PUBLIC, f"{file}: {node.module}"
                assert not [alias.name for alias in node.names if alias.name.startswith("_")]
            # Of another study, by a bare name; a script's neighbours are found beside it.
            assert not (STUDIES / home).is_dir() or home == "jpegdl_studies", f"{file}: {node.module}"
            others = {other.stem for other in STUDIES.glob("*/*.py") if other.parent != file.parent}
            assert home not in others or (file.parent / f"{home}.py").is_file(), f"{file}: {node.module}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for path, anchor in re.findall(r"\]\((?!\w+:)([^)\s#]*)#?([^)\s]*)\)", _without_code(page)):
        target = (page.parent / path) if path else page
        assert target.exists(), f"{page}: {path}"
        if anchor and target.suffix == ".md":
            assert anchor in _anchors(target), f"{page}: {path}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_names_of_the_library_are_there(page):
    """Those that a page imports, and those that it calls by their place; CHANGELOG names what is gone."""
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"(?<![\w/.-])jpegdl(?:\.(?!(?:json|md)\b)[A-Za-z_]\w*)+", text))
    for block in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "jpegdl":
                named |= {f"{node.module}.{alias.name}" for alias in node.names}
    gone = {name for name in named if not _is_there(name)}
    assert page.name == "CHANGELOG.md" or gone == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_on_a_page_imports_what_it_takes_from_the_library(page):
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE))
    nodes = list(ast.walk(ast.parse(code)))
    imports = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
    bound = {alias.asname or alias.name for node in imports for alias in node.names}
    bound |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    used = {node.id for node in nodes if isinstance(node, ast.Name)} - bound
    rooms = [importlib.import_module(module) for module in PUBLIC | {"jpegdl.robustness", "jpegdl.explain"}]
    public = {name for room in rooms for name in getattr(room, "__all__", ())}
    assert len(public) > 100
    assert used & public - set(dir(builtins)) == set()


def test_paths_on_the_page_of_the_architecture_are_there():
    paths = re.findall(r"`([\w./]+(?:/|\.py|\.md))`", (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8"))
    package = Path(jpegdl.__file__).parent
    places = (ROOT, package.parent, package, package / "comparison", package / "training")
    assert len(paths) > 60
    assert [path for path in paths if not any((place / path).exists() for place in places)] == []


def _is_there(name):
    """Whether a dotted name is a module of the library, or something in one."""
    parts = name.split(".")
    try:
        found = importlib.import_module(parts[0])
        for i, part in enumerate(parts[1:], 2):
            found = getattr(found, part) if hasattr(found, part) else importlib.import_module(".".join(parts[:i]))
    except ImportError:
        return False
    return True


def _without_code(page):
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def _anchors(page):
    """Names of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)", _without_code(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def _rows(images, names, sizes, **more):
    """Lines as the scripts of ``studies/files`` write them: answers are better where files are larger, but for a few images."""
    rows = []
    for number in range(images):
        bits = [size * (1 + 0.1 * number) for size in sizes]
        said = {
            "loss": [3 / one for one in bits],
            "right": [one * (number + 1) > 1 for one in bits],
            "distance": [2 / one for one in bits],
            "kept": [one > 0.5 for one in bits],
            "original": [0.5, number % 3 > 0],
        }
        row = {"image": f"{number}.webp", "target": number, "names": names, "bits_per_pixel": bits, "seconds": {}}
        row |= {"psnr": [20 + 5 * one for one in bits], "reader": said, "judge": said}
        rows.append(json.dumps({**row, **{name: make(number, bits) for name, make in more.items()}}))
    return "\n".join(rows)


def test_the_tables_of_the_study_of_files(tmp_path, installed, monkeypatch, capsys):
    monkeypatch.syspath_prepend(STUDIES / "files")
    summarize = importlib.import_module("summarize")
    own = {"ssim": lambda number, bits: [1 - 0.1 / one for one in bits], "entropy": lambda number, bits: 5 + number % 4}
    own["answers"] = lambda number, bits: {"reader": number if number else 1, "judge": number}
    names = ["4:2:0 6", "4:2:0 30", "4:2:0 90", "guided 1.0 True"]
    (tmp_path / "a.jsonl").write_text(_rows(8, names, [0.3, 0.8, 2.5, 0.4]), encoding="utf-8")
    more = _rows(6, ["4:2:0 4", "4:2:0 30", "mozjpeg 20"], [0.2, 0.8, 0.5], **own)
    (tmp_path / "b.jsonl").write_text(more + '\n{"image": "half', encoding="utf-8")
    data = summarize.load([tmp_path / "a.jsonl", tmp_path / "b.jsonl"])
    assert data["images"] == [f"{number}.webp" for number in range(6)]
    assert "2 of 8 images are left out" in capsys.readouterr().err
    assert [data["names"][place] for place in summarize.standard(data)] == ["4:2:0 4", "4:2:0 6", "4:2:0 30", "4:2:0 90"]
    kinds = {**summarize.made(data), **summarize.chosen(data)}
    rows = {(row["files"], row["read by"]): row for row in summarize.table(data, kinds)}
    for quality in (4, 6, 30, 90):  # the reference saves nothing against itself
        row = rows[f"libjpeg 4:2:0 {quality}", "judge"]
        assert (float(row["saved, %"]), float(row["points"])) == (0, 0)
    # Its files lie on the curve loss = 3 / bits, which the reference has between its settings too, but for straight lines.
    assert abs(float(rows["mozjpeg 20", "reader"]["saved, %"])) < 20
    told = rows["control: ten bits, the reader's class of the original", "judge"]
    assert (told["accuracy"], told["agreement"], told["bits per pixel"]) == ("83.3", "83.3", "0.0002")
    # Of images that are to choose, those that gain most take the largest files.
    index = kinds["chosen by the reader"]["mu 1.0"]
    cost = data["reader", "distance"] + data["bits"]
    menu = [place for place in summarize.standard(data) if data["names"][place] != "4:2:0 4"]
    assert index.tolist() == [menu[place] for place in cost[menu].argmin(0)]

    (tmp_path / "c.jsonl").write_text(_rows(6, ["4:2:0 30"], [0.81]), encoding="utf-8")
    with pytest.raises(SystemExit, match="other sizes"):
        summarize.load([tmp_path / "a.jsonl", tmp_path / "c.jsonl"])
