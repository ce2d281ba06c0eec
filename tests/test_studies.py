"""What the studies need of the library, by public names alone, and that pages name and link to what is there."""

import ast
import builtins
import importlib
import json
import re
import runpy
import shutil
import subprocess
from pathlib import Path

import numpy as np
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


def test_gabor_cells(installed):
    """A grating finds its own cells, a uniform image none, and contrast far above saturation makes no difference."""
    from jpegdl_studies.v1 import GaborEnergy

    cells, waves = GaborEnergy(orientations=4, wavelengths=(3.0, 8.0), saturation=0.2), 2 * torch.pi / 8
    across = torch.cos(waves * torch.arange(32.0)).expand(1, 3, 32, 32)
    answers = cells(across)
    assert answers.shape == (1, cells.channels(), 16, 16) == (1, 120, 16, 16)
    assert cells(torch.rand(2, 1, 9, 5)).shape == (2, 40, 5, 3)
    assert not list(cells.parameters())
    torch.testing.assert_close(cells(torch.full((1, 3, 32, 32), 0.7))[:, :96], torch.zeros(1, 96, 16, 16), atol=1e-5, rtol=0)
    energy = answers[0, 96:].view(3, 2, 4, 16, 16)[:, :, :, 4:12, 4:12].mean((0, 3, 4))  # by wavelength and orientation
    assert energy.argmax() == 4  # of 8 pixels, waves along the rows
    assert energy[1, 0] > 5 * energy[1, 2]
    torch.testing.assert_close(cells(300 * across), cells(900 * across), atol=1e-4, rtol=1e-4)
    # An amplitude of 1 gives 1 before the division: even and odd answers on a circle of that radius.
    even, odd = (torch.nn.functional.conv2d(across[:, :1], cells.banks[1][part : part + 1])[0, 0] for part in (0, 1))
    torch.testing.assert_close(even.square() + odd.square(), torch.ones_like(even), atol=0.02, rtol=0)


def test_gradients_of_gabor_cells(installed):
    from jpegdl_studies.networks import v1_resnet8
    from jpegdl_studies.v1 import GaborEnergy

    cells = GaborEnergy(orientations=2, wavelengths=(3.0,)).double()
    assert torch.autograd.gradcheck(cells, torch.rand(1, 2, 6, 6, dtype=torch.float64, requires_grad=True))
    model, grey = v1_resnet8(num_classes=7), torch.full((2, 3, 64, 64), 0.5, requires_grad=True)
    model(grey).sum().backward()
    assert grey.grad.isfinite().all()
    assert model(torch.rand(2, 3, 64, 64)).shape == (2, 7)


@pytest.mark.parametrize(("off", "level"), [(0.0, True), (-0.03, False), (-0.019, False)])
def test_the_rule_for_bf16(tmp_path, capsys, monkeypatch, off, level):
    """Level is a mean difference whose interval does not reach down to -2 points."""
    float32, jitter = [0.5, 0.52, 0.48], [0.001, -0.001, 0.0]
    both = dict(zip("012", float32, strict=True))
    moved = {seed: share + off + more for (seed, share), more in zip(both.items(), jitter, strict=True)}
    arms = {name: {"accuracy": both} for name in ("plain", "jpeg-dl")}
    arms |= {f"{name}-bf16": {"accuracy": moved} for name in ("plain", "jpeg-dl")}
    (tmp_path / "kept.json").write_text(json.dumps({"one": arms, "two": arms}), encoding="utf-8")
    monkeypatch.syspath_prepend(STUDIES)
    file = STUDIES / "bf16" / "rule.py"
    monkeypatch.setattr("sys.argv", [str(file), str(tmp_path / "kept.json")])
    runpy.run_path(str(file), run_name="__main__")
    printed = capsys.readouterr().out
    assert f"| mean over these | 3 | {100 * off:+.1f} [" in printed
    assert ("is level with" in printed) == level
    assert ("not shown" in printed) == (not level)


@pytest.mark.parametrize("label", ["v1", None])
def test_table_of_corruptions(tmp_path, capsys, monkeypatch, label):
    """The mean over kinds of means over severities; of another folder's plain under its own name."""
    rows = ["arm,seed,attack,gradient,accuracy,images"]
    kinds = "gaussian_noise shot_noise impulse_noise defocus_blur glass_blur motion_blur zoom_blur snow frost fog brightness "
    kinds = (kinds + "contrast elastic_transform pixelate jpeg_compression").split()
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder, arms in zip(folders, (("plain", "jpeg-dl"), ("plain",)), strict=True):
        lines = list(rows)
        for arm in arms:
            for seed in range(3):
                gain = {"one": {"plain": 0.0, "jpeg-dl": 0.1 + 0.01 * seed}, "two": {"plain": -0.2 + 0.01 * seed}}
                more = gain[folder.name][arm]
                lines.append(f"{arm},{seed},none,,{0.6 + more:.3f},50")
                for k, kind in enumerate(kinds):
                    for severity in range(1, 6):
                        lines.append(f"{arm},{seed},corruption,{kind} {severity},{0.4 + more + (k == 0) * 0.15:.3f},50")
        folder.mkdir()
        (folder / "attack.csv").write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.syspath_prepend(STUDIES)
    other = f"{folders[1]}={label}" if label else str(folders[1])
    code = [str(STUDIES / "corruptions" / "corruptions.py"), str(folders[0]), other, "--csv", str(tmp_path / "runs.csv")]
    monkeypatch.setattr("sys.argv", code)
    if label is None:  # two arms of one name
        with pytest.raises(SystemExit, match="appears twice"):
            runpy.run_path(code[0], run_name="__main__")
        return
    runpy.run_path(code[0], run_name="__main__")
    printed = capsys.readouterr().out
    assert "| jpeg-dl | 71.0 ± 1.0 | 52.0 ± 1.0 | +11.0 [+8.5, +13.5] | 0.0027 | 0.0027 |" in printed
    assert "| v1 | 41.0 ± 1.0 | 22.0 ± 1.0 | -19.0 [-21.5, -16.5] | 0.00092 | 0.0018 |" in printed
    assert "| gaussian noise | 55.0 ± 0.0 | +11.0 [+8.5, +13.5] |" in printed
    monkeypatch.setattr("sys.argv", [code[0], str(tmp_path / "runs.csv")])  # what it wrote is as good as the folders
    runpy.run_path(code[0], run_name="__main__")
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize("name", ["vgg8", "mobilenetv2"])
def test_small_networks_of_other_families(installed, name):
    model = jpegdl.prepend(
        getattr(importlib.import_module("jpegdl_studies.families"), name)(num_classes=7), torch.nn.Identity()
    )
    torch.testing.assert_close(model.mean.flatten(), torch.tensor([0.485, 0.456, 0.406]))
    assert model.eval()(torch.rand(2, 3, 64, 64)).shape == (2, 7)


def test_some_images_of_a_batch_come_out_of_files(installed):
    from jpegdl_studies.families import SomeFiles

    torch.manual_seed(0)
    layer, images = SomeFiles(10, 10), torch.rand(40, 3, 16, 16)
    assert layer.eval()(images).equal(images)
    seen = layer.train()(images)
    changed = (seen != images).flatten(1).any(1)
    assert 10 < int(changed.sum()) < 30
    stored = torch.cat([jpegdl.jpeg(images, 10, subsampling=name)[None] for name in ("4:2:0", "4:4:4")])
    assert (stored == seen).flatten(2).all(2).any(0).equal(changed)


def test_studies_and_examples_use_public_names(installed):
    for file in [*STUDIES.rglob("*.py"), *(ROOT / "examples").rglob("*.py")]:
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
    assert summarize.load([tmp_path / "a.jsonl"], after=6)["images"] == ["6.webp", "7.webp"]
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


def test_of_rates_that_lose_alike_the_smallest_counts(installed, monkeypatch):
    monkeypatch.syspath_prepend(STUDIES / "files")
    between = importlib.import_module("summarize").between
    rates, losses = np.array([1.0, 2, 4, 8]), np.array([0.8, 0.4, 0.6, 0.2])
    assert between(1, 0.6, 0, (rates, losses, losses))[0] == pytest.approx(100 * (1 - 1 / 2**0.5))  # not 75
    assert between(1, 0.4, 0, (rates, losses, losses))[0] == pytest.approx(50)
    assert np.isnan(between(1, 0.1, 0, (rates, losses, losses))[0])


def test_a_third_network_reads_files_that_two_others_chose(tmp_path, installed, monkeypatch):
    monkeypatch.syspath_prepend(STUDIES / "files")
    summarize = importlib.import_module("summarize")
    names, sizes = ["4:2:0 10", "4:2:0 30", "4:2:0 90", "guided-by-both 1.0 True"], [0.4, 0.8, 2.5, 0.5]

    def worse(number, bits):
        said = {"loss": [6 / one for one in bits], "right": [False] * 4, "distance": [9 / one for one in bits]}
        return {**said, "kept": [True] * 4, "original": [0.7, True]}

    (tmp_path / "a.jsonl").write_text(_rows(8, names, sizes, third=worse), encoding="utf-8")
    (tmp_path / "b.jsonl").write_text(_rows(8, ["4:2:0 10"], [0.4]), encoding="utf-8")
    assert summarize.load([tmp_path / "a.jsonl", tmp_path / "b.jsonl"])["who"] == ("reader", "judge")
    data = summarize.load([tmp_path / "a.jsonl"])
    kinds = {**summarize.made(data), **summarize.chosen(data)}
    rows = {(row["files"], row["read by"]): row for row in summarize.table(data, kinds)}
    assert {who for _, who in rows} == {"reader", "judge", "third"}
    guided = rows["guided by both, mu 1.0, robust", "third"]
    assert (guided["accuracy"], guided["bits per pixel"]) == ("0.0", f"{0.5 * 1.35:.3f}")
    assert rows["guided by both, mu 1.0, robust", "judge"]["accuracy"] != "0.0"
    # What the third says of files has no part in their choice.
    judged = data["reader", "distance"][:3] + 1 / np.array([[10.0], [30.0], [90.0]]) + data["bits"][:3]
    assert kinds["chosen by both, robust"]["mu 1.0"].tolist() == judged.argmin(0).tolist()


def test_rules_of_choice_for_the_reader_and_for_others(installed, monkeypatch):
    monkeypatch.syspath_prepend(STUDIES / "files")
    rules = importlib.import_module("rules")
    sizes = np.geomspace(0.3, 2.5, 10)[:, None] * np.ones(8)
    easy = 0.02 / sizes[:, :4] ** 2
    hard = 0.5 / sizes[:, :4] ** 2
    reader, other = np.concatenate((easy, hard), 1), np.concatenate((hard, easy), 1)
    rates, mus = np.array([0.9, 1.2]), np.geomspace(8, 0.02, 40)

    def saved(rule, *losses, distances=reader):
        return [found[0] for found in rules.saved(sizes, distances, np.stack(losses), rule, rates, mus, 0)]

    for rule in ("the distance alone", "+ 1 / quality"):  # photos that are alike have nothing to choose
        alike = np.tile(hard, 2)
        assert np.allclose(saved(rule, alike, distances=alike), 0)
    alone, more = saved("the distance alone", reader, other), saved("+ 1 / quality", reader, other)
    assert (alone[0] > more[0]).all()
    assert (more[0] > 0).all()
    assert (alone[1] < more[1]).all()
