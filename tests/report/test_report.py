"""The page of a comparison."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from conftest import drawing
from matplotlib.figure import Figure

from factory import fake_run
from jpegdl.comparison import CompareConfig, summarize_runs
from jpegdl.comparison.arms import ARMS
from jpegdl.errors import UsageError
from jpegdl.files import digest_of_file
from jpegdl.heatmaps import CURVES
from jpegdl.report import write_report
from jpegdl.report.jpeg_files import read_back_sections
from jpegdl.report.page import MOST_ARMS
from jpegdl.report.svg import inline_svg

DATA = {"name": "photos", "classes": ["a", "b"], "train": {}, "test": {}}


def _run(config, arm, seed, accuracy):
    table = np.linspace(0.5, 5, 64).reshape(8, 8)
    tables = [{"luma": table + i, "chroma": table} for i in range(2)]
    fake_run(
        config.folder, arm, seed, accuracy, config=config.arm_run(arm), data=DATA,
        tested={1: accuracy / 2, 2: accuracy}, tables=None if arm in ("plain", "normalize") else tables,
        epochs=2, train_seconds=100.0, versions={"torch": "2.x"}, machine="a machine",
        saturation=None if arm == "plain" else np.full((3, 8, 8), 0.25).tolist(),
    ).checkpoint.write_bytes(b"")  # fmt: skip


def _config(output):
    return CompareConfig(name="mine & <yours>", output=str(output), seeds=3)


@pytest.fixture
def config(tmp_path, no_figures):  # the page draws its own
    return _config(tmp_path)


def _compared(config, arms=("plain", "jpeg-dl"), seeds=3):
    for i, arm in enumerate(arms):
        for seed in range(seeds):
            _run(config, arm, seed, 0.5 + 0.05 * i + 0.01 * seed * (1 + i))
    summarize_runs(replace(config, arms=list(arms)))
    return write_report(config.folder).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page with its pictures: plain and jpeg-dl, three seeds, the first of which were attacked."""
    config = _config(tmp_path_factory.mktemp("page"))
    with drawing():
        _compared(config)
        for arm in ("plain", "jpeg-dl"):
            _attack(config, arm, 0, 0.3)
        return write_report(config.folder).read_text(encoding="utf-8")


class _Reader(HTMLParser):
    """Ids, what is referred to, and the text outside of styles, of a page whose elements must all be closed."""

    def __init__(self, page):
        super().__init__()
        self.ids, self.references, self.words, self._open = [], [], [], []
        self.feed(page)
        assert not self._open

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "link", "img"):
            self._open.append(tag)
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            if name in ("href", "src", "xlink:href", "srcset", "action"):
                self.references.append(value)
            self.references += re.findall(r"url\((.*?)\)", value or "")

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in ("meta", "link", "img"):
            self._open.pop()

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if "style" not in self._open:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def test_the_verdict_comes_first_and_the_rest_is_there(page):
    page = _Reader(page)
    assert page.text.startswith("mine & <yours>: jpegdl report mine & <yours>: what the layer did jpeg-dl beats plain: +6.00")
    parts = [
        "x1.00 training time", "the recipe's layer, trained jointly", "paired t test", "How they compare", "What was learned",
        "before training", "What the level cap does", "How it was made", "backbone: cifar_resnet8", "torch 2.x", "a machine",
    ]  # fmt: skip
    places = [page.text.index(part) for part in parts]
    assert places == sorted(places)


def test_the_page_needs_nothing_else(page):
    text, page = page, _Reader(page)
    assert page.references
    assert all(reference.startswith(("#", "data:")) for reference in page.references)
    assert len(page.ids) == len(set(page.ids))
    assert {reference[1:] for reference in page.references if reference.startswith("#")} <= set(page.ids)
    assert not re.search(r"<script|@import|javascript:", text)
    assert "default-src 'none'" in text
    assert 'content: "Scroll sideways' in text
    assert "background: none" in text  # no shadows on paper


def test_a_page_of_many_arms_stays_under_5_mb(page, config):
    """With its pictures it is smaller than as many pages of one arm, and shows no more arms than that."""
    assert MOST_ARMS * len(page.encode()) < 5e6
    arms = ["plain", *[arm for arm in ARMS if arm not in ("plain", "normalize")][: MOST_ARMS + 1]]
    many = _compared(config, arms, seeds=2)
    assert many.count("<svg") <= MOST_ARMS * page.count("<svg")
    assert f"the {MOST_ARMS} arms that gained most; the folder has the tables of 1 more." in many
    assert all(f">{arm}<" in many for arm in arms)


def test_own_arms_say_what_they_are(config):
    arms = {"plain": None, "mine": {"about": "my <own>", "layer": {"bits": 4}}}
    own = replace(config, arms=arms)
    for arm in arms:
        for seed in range(2):
            _run(own, arm, seed, 0.5)
    summarize_runs(own)
    assert "my &lt;own&gt;" in write_report(config.folder).read_text(encoding="utf-8")


def test_commands_are_shown_as_typed(config):
    _compared(config)
    (config.folder / "commands.txt").write_text("jpegdl compare --name '<mine>'\n", encoding="utf-8")
    assert "jpegdl compare --name &#39;&lt;mine&gt;&#39;" in write_report(config.folder).read_text(encoding="utf-8")


def test_no_comparison_or_a_damaged_one_is_one_error(config):
    with pytest.raises(UsageError, match="summary.json"):
        write_report(config.folder)
    _compared(config)
    before = (config.folder / "report.html").read_text(encoding="utf-8")
    (config.folder / "jpeg-dl/0/tables.json").write_text("{", encoding="utf-8")
    with pytest.raises(UsageError, match=r"tables.json is damaged"):
        write_report(config.folder)
    assert (config.folder / "report.html").read_text(encoding="utf-8") == before
    (config.folder / "summary.json").write_text(json.dumps({"arms": {}}), encoding="utf-8")
    with pytest.raises(UsageError, match=r"summary.json is damaged"):
        write_report(config.folder)


@pytest.mark.drawn
def test_figures_follow_the_page():
    figure = Figure()
    axes = figure.subplots()
    axes.plot([0, 1], color=CURVES[1], label="a curve")
    axes.set_title('x < "y"')
    axes.legend()
    svg = inline_svg(figure, "one", 'shows "a & b"')
    assert svg.startswith('<svg role="img" aria-label="shows &quot;a &amp; b&quot;"')
    assert "a curve</text>" in svg.replace("\n", "")
    assert "var(--c1)" in svg
    assert "var(--ink)" in svg
    assert "font-family" not in svg
    assert not re.search(r'(?<!aria-label=")\bid="(?!one-)', svg)
    assert inline_svg(figure, "one", 'shows "a & b"') == svg  # the same again

    heat = Figure()
    axes = heat.subplots()
    axes.imshow([[0.0, 1.0]])
    axes.text(0, 0, "cell", color="black")
    assert "#010101" in inline_svg(heat, "two", "")  # the cell does not change with the page, and so its number must not


def _attack(config, arm, seed, robust, gradients=("own",), **changes):
    """An attack.json of two attacks at 1/255 on 10 images."""
    run = config.run_folder(arm, seed)
    run.model_file.write_text(f"{arm} {seed}", encoding="utf-8")
    trials = [
        {
            "attack": attack,
            "gradient": gradient,
            "accuracy": robust + 0.1 * (attack == "fgsm"),
            "alone": 0.0,
            "fools_plain": None,
        }
        for attack in ("fgsm", "pgd")
        for gradient in gradients
    ]
    level = {
        "norm": "Linf", "eps": 1 / 255, "eps_255": 1.0, "accuracy": robust, "own_gradient": robust, "trials": trials,
        "won": {"attack": "pgd", "gradient": gradients[-1]},
    }  # fmt: skip
    found = {
        "arm": arm, "seed": seed, "rounding": None, "model": digest_of_file(run.model_file), "plain": None, "classes": 2,
        "images": 10, "indices": list(range(10)), "data": {}, "other_images": None, "clean": {"accuracy": 0.6 + 0.01 * seed},
        "levels": [level], "masking": {"flags": [], "check": None}, "left_out": {}, "machine": "cpu",
        "corruptions": {"mean": 0.3, "by": {"fog": {"mean": 0.3, "by": {"1": 0.3}}}},
        "jpeg": {"mean": 0.4, "by": {"10": 0.4}}, "settings": {"severities": [1]}, "versions": {"torch": "2.x"},
    }  # fmt: skip
    (run.path / "attack.json").write_text(json.dumps({**found, **changes}), encoding="utf-8")


def test_attacks_side_by_side(config):
    _compared(config)
    for seed in range(3):
        _attack(config, "plain", seed, 0.5)
        _attack(config, "jpeg-dl", seed, 0.2 + 0.01 * seed, ("own", "ste"))
    page = _Reader(write_report(config.folder).read_text(encoding="utf-8")).text
    assert re.search(r": fgsm, pgd; .*own, ste\.", page)
    assert "No sign of masked gradients on these 10 images: no other gradient" in page
    difference = "-29.0 [-31.5, -26.5]"  # of 20, 21 and 22 to 50 %: t of 2 degrees of freedom is 4.303, the error 1 / sqrt(3)
    rows = "jpeg-dl Linf 1/255 31.0 ± 1.0 21.0 ± 1.0 21.0 ± 1.0 21.0 ± 1.0 " + difference + " pgd, ste 0, 1, 2"
    assert rows in page
    assert "fog 30.0 ± 0.0 30.0 ± 0.0" in page
    assert "10 40.0 ± 0.0 40.0 ± 0.0" in page
    _attack(config, "jpeg-dl", 2, 0.2, ("own", "ste"), versions={"torch": "3.x"}, left_out={"gradient none": "not asked for"})
    page = write_report(config.folder).read_text(encoding="utf-8")
    assert "Attacked with different versions: torch 2.x and 3.x." in page
    assert "Left out of jpeg-dl, seed 2: gradient none, not asked for." in page
    for seed in range(3):
        _attack(config, "jpeg-dl", seed, 0.6 + 0.01 * seed)  # as without an attack
    page = _Reader(write_report(config.folder).read_text(encoding="utf-8")).text
    assert re.search(r"jpeg-dl Linf 1/255 [^L]* nothing 0, 1, 2", page)  # as the command says
    for seed in range(3):
        for arm in ("plain", "jpeg-dl"):
            _attack(config, arm, seed, 0.5, levels=[])
    page = write_report(config.folder).read_text(encoding="utf-8")
    assert "Common corruptions" in page
    assert "Under attack" not in page  # nothing was
    assert "masked" not in page


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium here")
@pytest.mark.parametrize(("width", "scheme"), [(380, "light"), (1280, "dark")])
def test_in_a_browser_it_has_no_errors_and_does_not_overflow(page, tmp_path, width, scheme):
    file = tmp_path / "page.html"
    probe = "<script>document.title = document.documentElement.scrollWidth + ' of ' + innerWidth</script></body>"
    text = page.replace("</body>", probe).replace("default-src 'none';", "default-src 'none'; script-src 'unsafe-inline';")
    file.write_text(text, encoding="utf-8")
    done = subprocess.run(
        [
            "chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
            f"--window-size={width},800", f"--blink-settings=preferredColorScheme={int(scheme == 'light')}",
            "--enable-logging=stderr", "--dump-dom", file.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    encoding="utf-8",)  # fmt: skip
    assert "CONSOLE" not in done.stderr
    wide, inner = map(int, re.search(r"<title>(\d+) of (\d+)</title>", done.stdout).groups())
    assert wide <= inner


# ------------------------------------------------------------------------------------------------------ real files


def _rated(config, arm, points, model="weights", **changes):
    run = config.run_folder(arm, 0)
    run.model_file.write_text("weights", encoding="utf-8")
    other = run.path / "other"
    other.write_text(model, encoding="utf-8")
    made_of = {"model": digest_of_file(other), "test": {"images": 8}, "images": None, "optimize": True, "encoder": "Pillow 12"}
    entry = {"subsampling": "4:4:4", "header": 0.1, "right": "f0"}
    content = {
        "made_of": made_of, "arm": arm, "seed": 0, "images": 8, "other_images": None, "accuracy": 0.7, "hard": None,
        "points": [{**entry, "tables": tables, "bits_per_pixel": bits, "accuracy": share} for tables, bits, share in points],
    }  # fmt: skip
    (run.path / "rate.json").write_text(json.dumps({**content, **changes}), encoding="utf-8")


def test_accuracy_against_bits_of_real_files(config):
    arms = ("plain", "rate-0.1", "rate-0.3", "rate-1")
    _compared(config, arms, seeds=1)
    _rated(config, "plain", [("standard:10", 0.3, 0.4), ("standard:50", 1.1, 0.6), ("standard:90", 3.3, 0.7)])
    for arm, bits, share in zip(arms[1:], (2.0, 1.0, 0.4), (0.72, 0.66, 0.5), strict=True):
        _rated(config, arm, [("own", bits, share)])
    page = write_report(config.folder).read_text(encoding="utf-8")
    assert "Accuracy against the bits of real files" in page
    (row,) = re.findall("<tr><td>rate</td><td>4:4:4.*</tr>", page)
    assert re.search(r"<td>4:4:4</td><td>0\.40-2\.00</td><td>accuracy</td><td>\+\d+\.\d\d \[", row)
    assert re.search(r"<td>-\d+\.\d % \[", row)  # bits at the same accuracy
    assert re.search(r"rate against default JPEG 4:4:4: .*\bloss\b", page)
    assert "<td>2.000</td>" in page
    _rated(config, "rate-1", [("own", 0.4, 0.5)], model="others")
    page = write_report(config.folder).read_text(encoding="utf-8")
    assert re.search(r"rate-1, seed 0: .*model.safetensors .*changed.*measured", page)
    assert "no number, a curve has 2 points" in page
    _rated(config, "rate-1", [("own", 0.4, 0.5)], other_images="7 test images then, 8 now", images=7)
    page = write_report(config.folder).read_text(encoding="utf-8")
    assert "tested with: 7 test images then" in page
    (config.run_folder("rate-1", 0).path / "rate.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UsageError, match=r"rate\.json is damaged"):
        write_report(config.folder)


def _files(config, seed, tables="own", images=8, accuracy=0.5, digest="d"):
    run = config.run_folder("jpeg-dl", seed)
    run.path.mkdir(parents=True, exist_ok=True)
    run.model_file.write_text(f"weights {seed}", encoding="utf-8")
    row = {"name": "real file", "accuracy": accuracy, "images": images, "bits_per_pixel": 2.0 + seed, "ratio": 12.0}
    stored = {"tables": tables, "digest": digest, "formats": ["JPEG"], "subsampling": ["4:2:0"], "test": {"images": images}}
    content = {
        "rows": [row], "carried": {"words": "The files stand for the layer"}, "other_images": None, "files": f"small-{seed}",
        "stored": stored, "model": digest_of_file(run.model_file), "arm": "jpeg-dl", "seed": seed,
    }  # fmt: skip
    (run.path / "files.json").write_text(json.dumps(content), encoding="utf-8")


def _shown_files(config):
    """Lines and rows of the section on files that were read back."""
    (section,) = read_back_sections({"jpeg-dl": {seed: config.run_folder("jpeg-dl", seed) for seed in (0, 1)}})
    assert section.title == "In real JPEG files"
    return section.lines, section.table[1:]


def test_files_read_back_are_means_over_seeds_of_the_same_kind(config):
    assert not list(read_back_sections({"jpeg-dl": {0: config.run_folder("jpeg-dl", 0)}}))
    for seed, accuracy in ((0, 0.5), (1, 0.6)):
        _files(config, seed, accuracy=accuracy, digest=f"of seed {seed}")  # each has tables of its own
    lines, rows = _shown_files(config)
    own = "JPEG files with the run's own tables, 4:2:0"
    assert lines[1] == f"jpeg-dl, seed 1: 8 files in small-1, {own}. The files stand for the layer."
    assert rows == [["jpeg-dl", own, "real file", "55.0 ± 7.1", "8", "2.50", "9.60", "0, 1"]]
    apart = "Seeds that read other kinds of files, or other images, have rows of their own."
    assert apart not in lines
    _files(config, 1, tables="other", accuracy=0.6)
    lines, rows = _shown_files(config)
    assert lines[1:] == ["jpeg-dl, seed 1: 8 files in small-1, JPEG files with other tables than the run's, 4:2:0.", apart]
    assert [row[3:] for row in rows] == [["50.0", "8", "2.00", "12.00", "0"], ["60.0", "8", "3.00", "8.00", "1"]]
    _files(config, 1, images=4)
    assert [row[4] for row in _shown_files(config)[1]] == ["8", "4"]


def test_files_that_another_model_read_are_left_out(config):
    for seed in (0, 1):
        _files(config, seed)
    other = config.run_folder("jpeg-dl", 0).path / "files.json"
    (config.run_folder("jpeg-dl", 1).path / "files.json").write_text(other.read_text(encoding="utf-8"), encoding="utf-8")
    lines, rows = _shown_files(config)
    changed = "its model.safetensors has changed since it read the files"
    assert f"jpeg-dl, seed 1: left out, as {changed}; run jpegdl evaluate --from-files again." in lines
    assert [row[-1] for row in rows] == ["0"]
    other.write_text("{}", encoding="utf-8")
    with pytest.raises(UsageError, match=r"files\.json is damaged"):
        _shown_files(config)
