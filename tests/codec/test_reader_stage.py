import base64
import io
import json
import re
import shutil
import sys
import time
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import jpegdl.cli
from commands import start_command
from factory import code_module
from jpegdl.codec import CompressConfig, choose, compress_folder, encode_folder, open_reader
from jpegdl.codec.config import MANIFEST, PICTURE
from jpegdl.codec.encode_folder import SOURCES
from jpegdl.codec.out_folder import LOCK
from jpegdl.codec.reader_stage import _LOWEST_MU, search_mu
from jpegdl.codec.trials import Shape, Tables, Trials, ask, decoded, make_trials
from jpegdl.data import Data, DataConfig, photograph
from jpegdl.data.sources.listing import is_image
from jpegdl.errors import UsageError
from jpegdl.tables import standard_tables, write_tables

PHOTO = Image.fromarray(photograph("chelsea")).convert("RGB")
CODE = """
import torch
from torch import nn
from jpegdl import JpegLayer, prepend
from jpegdl.codec import PhotoReader

class Particular(nn.Module):
    # Divides by 0 where all is black.

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        black = (x.amax((1, 2, 3)) < -1.7)[:, None]
        return self.net(x) / torch.where(black, 0.0, 1.0)

def made(seed, classes=4, bad=False, size=24, sharp=60.0, particular=False, **options):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(3, 8, 5, 2), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                        nn.Flatten(), nn.Linear(16, classes))
    with torch.no_grad():
        net[-1].weight *= sharp
        if bad:
            net[-1].weight *= float("nan")
    net = Particular(net) if particular else net
    return PhotoReader(net, f"net {seed}", size=size, resize=28, fast=False, **options)

def one(): return made(0)
def two(): return made(1)
def three(): return made(2)
def others(): return made(0, classes=7)
def broken(): return made(0, bad=True)
class Colours(nn.Module):
    # Sees whether any two columns side by side differ in blue.

    def forward(self, x):
        differ = (x[:, 2].diff(dim=-1).abs().amax((1, 2)) - 2)[:, None] * 10
        return torch.cat((differ, -differ), 1)

def colours(): return PhotoReader(Colours(), "colours", size=24, resize=24, fast=False)
class Blind(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 3))

    @torch.no_grad()
    def forward(self, x):
        return self.net(x)

def blind(): return PhotoReader(Blind(), "blind", size=24, fast=False)
def hard():
    torch.manual_seed(0)
    net = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 3))
    return PhotoReader(prepend(net, JpegLayer.from_quality(50, rounding="hard")), "hard", size=24, fast=False)
def particular(): return made(0, particular=True)
def of_features(): return made(1, features=True)
def follows(): return made(1, orientation="follow")
"""


@pytest.fixture
def readers(tmp_path, monkeypatch):
    yield code_module(tmp_path, monkeypatch, "few_readers", CODE)
    sys.modules.pop("few_readers", None)


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "in"
    (folder / "cats").mkdir(parents=True)
    for number in range(6):
        left = 20 * number
        image = PHOTO.crop((left, left, left + 60 + 8 * number, left + 50))
        image.save(folder / "cats" / f"{number}.png")
    PHOTO.resize((40, 56)).convert("L").save(folder / "grey.png")
    return folder


def files_in(folder):
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in (LOCK, SOURCES, PICTURE)]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(files) if path.name != MANIFEST}


def test_a_folder_for_a_reader(source, tmp_path, readers):
    config = CompressConfig(reader=f"{readers}:one", judge=f"{readers}:two", mu=0.2, threads=3)
    found = compress_folder(source, tmp_path / "out", config)
    assert (found["images"], found["written"], found["bad"], found["mu"]) == (7, 7, [], 0.2)
    files, one = files_in(tmp_path / "out"), open_reader(f"{readers}:one")
    for name, content in files.items():
        with Image.open(next(source.glob(f"{name.removesuffix('.jpg')}.*"))) as image:
            (wanted,) = choose([image], one, 0.2)
        assert content == wanted.content
    there = json.loads((tmp_path / "out" / MANIFEST).read_text(encoding="utf-8"))
    assert set(there["files"]) == set(files)
    assert there["mu"] == 0.2
    assert there["settings"]["readers"][0]["digest"] == one.digest
    first = there["files"]["cats/0.jpg"]
    with Image.open(source / "cats" / "0.png") as image:
        (wanted,) = choose([image], one, 0.2)
    assert (first["quality"], first["rounds"]) == (wanted.quality, 0)
    assert first["distance"] == [round(wanted.distance, 5)]
    said = found["readers"]
    pictures = re.findall(r'base64,([^"]+)"', (tmp_path / "out" / PICTURE).read_text(encoding="utf-8"))
    assert len(pictures) == 2 * 5
    stem = said["worst"][0]["file"].removesuffix(".jpg")
    for picture, path in zip(pictures, (next(source.glob(f"{stem}.*")), tmp_path / "out" / f"{stem}.jpg"), strict=False):
        with Image.open(io.BytesIO(base64.b64decode(picture))) as shown, Image.open(path) as stored:
            assert np.array_equal(shown, stored.convert("RGB"))  # smaller than what pages scale down
    assert said["files"] == 7
    assert sum(said["qualities"].values()) == 7
    assert said["readers"][0]["agreement"] == np.mean([one["kept"][0] for one in there["files"].values()])
    two = open_reader(f"{readers}:two")
    kept = []
    for name, content in files.items():
        with Image.open(next(source.glob(f"{name.removesuffix('.jpg')}.*"))) as image:
            pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
        own, seen = (two.answers(two.view(part)[None]).argmax(1) for part in (pixels, decoded(content)))
        kept.append(bool(own == seen))
    assert said["judges"] == [{"name": "net 1", "agreement": np.mean(kept), "distance": said["judges"][0]["distance"]}]
    assert said["worst"][0]["distance"] == max(max(one["distance"]) for one in there["files"].values())


def test_a_folder_for_a_reader_is_a_data_set_as_any_other(source, tmp_path, readers):
    """Whatever lists images finds those that were compressed, and nothing that was written beside them."""
    (source / "grey.png").rename(source / "cats" / "grey.png")
    shutil.copytree(source / "cats", source / "dogs")
    out = tmp_path / "set" / "train"
    compress_folder(source, out, CompressConfig(reader=f"{readers}:one"))
    shutil.copytree(out, tmp_path / "set" / "test")
    data = Data(DataConfig(name="folder", path=str(tmp_path / "set"), size=32))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data.load()
    assert (len(data.train), len(data.test), data.classes) == (14, 14, ["cats", "dogs"])
    again = compress_folder(out, tmp_path / "again", CompressConfig(tables="standard:50"))
    assert (again["images"], again["written"], again["others"]) == (14, 14, 0)
    assert not [path for path in out.iterdir() if is_image(path.name)]


def test_notes_beside_photos_leave_the_sample_as_it_is(source, tmp_path, readers, monkeypatch):
    """In their order each note comes before its photo: of every fourth file all would be notes."""
    monkeypatch.setattr("jpegdl.codec.reader_stage.SAMPLE", {"bits_per_pixel": 3, "agree": 3})
    (source / "grey.png").unlink()
    config, mu = CompressConfig(reader=f"{readers}:one", bits_per_pixel=1.5), {}
    for name in ("alone", "noted"):
        mu[name] = compress_folder(source, tmp_path / name, config)["mu"]
        for photo in (source / "cats").glob("*.png"):
            photo.with_suffix(".cls").write_text("1", encoding="utf-8")
    assert mu["noted"] == mu["alone"]


def test_it_goes_on_with_what_it_knows(source, tmp_path, readers):
    config = CompressConfig(reader=f"{readers}:one", bits_per_pixel=1.5)
    whole = compress_folder(source, tmp_path / "out", config)
    files, there = files_in(tmp_path / "out"), (tmp_path / "out" / MANIFEST).read_bytes()
    again = compress_folder(source, tmp_path / "out", config)
    assert (again["written"], again["skipped"]) == (0, 7)
    assert again["readers"] == whole["readers"]
    assert (tmp_path / "out" / MANIFEST).read_bytes() == there
    (tmp_path / "out" / "cats" / "1.jpg").unlink()
    (source / "cats" / "5.png").unlink()  # of which mu was found, too
    once_more = compress_folder(source, tmp_path / "out", config)
    assert (once_more["written"], once_more["skipped"], once_more["mu"]) == (1, 5, whole["mu"])
    assert files_in(tmp_path / "out")["cats/1.jpg"] == files["cats/1.jpg"]
    assert once_more["readers"]["files"] == 6


@pytest.mark.parametrize(
    "other", [{"reader": "few_readers:two"}, {"mu": 2.0}, {"robust": False}, {"effort": 3}, {"judge": "few_readers:two"}]
)
def test_files_for_other_readers_are_not_mixed(source, tmp_path, readers, other):
    first = CompressConfig(reader=f"{readers}:one", mu=1.0)
    compress_folder(source, tmp_path / "out", first)
    with pytest.raises(UsageError, match="other settings"):
        compress_folder(source, tmp_path / "out", CompressConfig(**{"reader": f"{readers}:one", "mu": 1.0, **other}))
    with pytest.raises(UsageError, match="other settings"):
        compress_folder(source, tmp_path / "out", CompressConfig(tables="standard:50"))


def test_readers_look_on_each_core_and_leave_threads_as_they_were(source, tmp_path, readers):
    before = torch.get_num_threads()
    for number in range(12):
        shutil.copy(source / "grey.png", source / f"more{number}.png")
    files = {}
    try:
        for cores in (1, 3):
            torch.set_num_threads(cores)
            out = tmp_path / str(cores)
            compress_folder(source, out, CompressConfig(reader=f"{readers}:one", mu=1.0, threads=6))
            files[cores] = {name: content for name, content in files_in(out).items() if name.endswith(".jpg")}
            assert torch.get_num_threads() == cores
    finally:
        torch.set_num_threads(before)
    assert files[1] == files[3]
    assert len(files[1]) > 12


def test_files_with_tables_of_mine_are_not_mixed_with_others(source, tmp_path, readers):
    config, out = CompressConfig(reader=f"{readers}:one", mu=1.0, effort=2, tables="standard:40"), tmp_path / "out"
    compress_folder(source, out, config)
    with pytest.raises(UsageError, match="tables"):
        compress_folder(source, out, replace(config, tables=None))
    assert compress_folder(source, out, config)["written"] == 0


def test_files_of_another_version_s_rule_are_not_mixed(source, tmp_path, readers):
    for robust in (True, False):
        config, out = CompressConfig(reader=f"{readers}:one", mu=1.0, robust=robust), tmp_path / f"out{robust}"
        compress_folder(source, out, config)
        there = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
        assert there["settings"].pop("others", None) == (1.0 if robust else None)  # as it was when distances were smoothed
        (out / MANIFEST).write_text(json.dumps(there), encoding="utf-8")
        if robust:
            with pytest.raises(UsageError, match="others"):
                compress_folder(source, out, config)
        else:
            assert compress_folder(source, out, config)["written"] == 0


def test_rounds_and_the_rate_that_is_wanted(source, tmp_path, readers):
    rates = {}
    for effort in (1, 2, 3):
        rounds = {"rounds": 2} if effort == 3 else {}
        config = CompressConfig(reader=f"{readers}:one", bits_per_pixel=1.2, effort=effort, **rounds)
        found = compress_folder(source, tmp_path / f"out{effort}", config)
        rates[effort] = found["bits_per_pixel"]
    assert rates[1] <= 1.2 * 1.0001
    assert rates[2] <= 1.2 * 1.0001
    assert rates[3] <= 1.2 * 1.2
    there = json.loads((tmp_path / "out3" / MANIFEST).read_text(encoding="utf-8"))
    rounds = [one["rounds"] for one in there["files"].values()]
    assert any(rounds)
    assert found["readers"]["rounds"] == {number: rounds.count(number) for number in sorted(set(rounds))}


def test_the_share_of_first_answers_that_stay(source, tmp_path, readers):
    rates = []
    for agree in (0.4, 0.8, 1.0):
        config = CompressConfig(reader=f"{readers}:one", agree=agree, robust=False)
        found = compress_folder(source, tmp_path / f"out{agree}", config)
        assert found["readers"]["readers"][0]["agreement"] >= agree
        rates.append(found["bits_per_pixel"])
    assert rates[0] <= rates[2]


def test_an_answer_that_hangs_on_fine_chroma_stays(tmp_path, readers):
    pixels = np.full((24, 24, 3), 128, np.uint8)
    pixels[:, ::2, 2], pixels[:, 1::2, 2] = 64, 192
    (tmp_path / "in").mkdir()
    for number in range(3):
        pixels[0, 0, 0] = number
        Image.fromarray(pixels).save(tmp_path / "in" / f"{number}.png")
    found = compress_folder(tmp_path / "in", tmp_path / "out", CompressConfig(reader=f"{readers}:colours", agree=1.0))
    assert found["readers"]["readers"][0]["agreement"] == 1
    there = json.loads((tmp_path / "out" / MANIFEST).read_text(encoding="utf-8"))
    assert {one["kind"] for one in there["files"].values()} == {"finest"}
    with Image.open(tmp_path / "out" / "0.jpg") as image:
        assert image.layer[0][1:3] == image.layer[1][1:3]  # no subsampling
    halved = CompressConfig(reader=f"{readers}:colours", agree=1.0, subsampling="4:2:0")
    with pytest.raises(UsageError, match=r"agree 1\.0"):
        compress_folder(tmp_path / "in", tmp_path / "halved", halved)
    guided = choose([Image.fromarray(pixels)], f"{readers}:colours", mu=0.01, effort=3, keep=1.0, finest="4:4:4")
    assert guided[0].kept == (True,)


def test_the_mu_that_is_found(readers):
    one = open_reader(f"{readers}:one")
    shape = Shape(robust=False)
    several = [make_trials(PHOTO.crop((x, x, x + 48, x + 48)), [one], shape) for x in range(0, 120, 20)]
    ask([one], several)
    pixels = sum(trials.pixels for trials in several)

    def rate(mu):
        return sum(8 * trials.sizes[trials.best(shape, mu)] for trials in several) / pixels

    mu = search_mu(several, shape, 1.4, None)
    assert rate(mu) <= 1.4 < rate(mu * 0.999)
    keeping = Shape(robust=False, keep=1.0)
    assert all(trials.kept[0, trials.best(keeping, 100.0)] for trials in several if trials.kept.any())
    assert [trials.best(Shape(robust=False, keep=1e-9), 0.3) for trials in several] == [
        trials.best(shape, 0.3) for trials in several
    ]
    mu = search_mu(several, shape, None, 0.5)
    assert np.mean([trials.kept[0, trials.best(shape, mu)] for trials in several]) >= 0.5
    assert search_mu(several, shape, 100.0, None) == _LOWEST_MU
    with pytest.raises(UsageError, match="smallest"):
        search_mu(several, shape, 0.01, None)


def test_tables_of_mine_are_among_those_to_choose_from(source, tmp_path, readers, capsys):
    """With steps of 1 files are nearest to the originals: a reader takes them where bits cost nothing."""
    ones = torch.ones(8, 8)
    write_tables(tmp_path / "mine.json", {"luma": ones, "chroma": ones})
    options = ["--reader", f"{readers}:one", "--effort", "2", "--tables", str(tmp_path / "mine.json"), "--mu", "0"]
    assert jpegdl.cli.main(["compress", str(source), str(tmp_path / "out"), *options, "--robust", "false"]) == 0
    made = json.loads((tmp_path / "out" / MANIFEST).read_text(encoding="utf-8"))["files"]
    learned = [name for name, one in made.items() if one["kind"] == "learned"]
    assert f"learned ({len(learned)})" in capsys.readouterr().out
    for name in learned:
        with Image.open(tmp_path / "out" / name) as file:
            assert all(len(set(table)) == 1 for table in file.quantization.values())
    assert any(made[name]["quality"] > 90 for name in learned)  # than which no standard table is finer


def test_one_of_several_is_left_out(source, tmp_path, readers):
    config = CompressConfig(reader=",".join(f"{readers}:{name}" for name in ("one", "two", "three")), mu=0.3, robust=False)
    found = compress_folder(source, tmp_path / "out", config)["readers"]
    assert [one["name"] for one in found["left_out"]] == ["net 0", "net 1", "net 2"]
    pair = [open_reader(f"{readers}:{name}") for name in ("two", "three")]
    left, distances = open_reader(f"{readers}:one"), []
    for file in sorted(source.rglob("*.png")):
        with Image.open(file) as image:
            image = image.convert("RGB") if image.mode == "RGB" else image.copy()
        chosen = choose([image], pair, 0.3, robust=False)[0]
        pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
        own, seen = (left.answers(left.view(part)[None]) for part in (pixels, decoded(chosen.content)))
        distances.append(float(left.distance(own, seen)))
    assert found["left_out"][0]["distance"] == pytest.approx(np.mean(distances), abs=1e-4)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({}, "reader"),
        ({"tables": "standard:50", "reader": "few_readers:one"}, "tables"),
        ({"tables": "standard:50", "reader": "few_readers:one", "effort": 1}, "effort 2"),
        ({"tables": "standard:50", "model": "run", "reader": "few_readers:one"}, "both"),
        ({"tables": "standard:50", "mu": 1.0}, "mu"),
        ({"tables": "standard:50", "effort": 1}, "effort"),
        ({"tables": "standard:50", "robust": False}, "robust"),
        ({"tables": "standard:50", "several": "worst", "device": "cpu"}, "several, device need"),
        ({"reader": "few_readers:one", "effort": 2, "rounds": 2}, "rounds"),
        ({"reader": "few_readers:one", "several": "worst"}, "several"),
        ({"reader": "few_readers:one", "effort": 0}, "effort 0"),
        ({"reader": "few_readers:one", "mu": 1.0, "agree": 0.9}, "mu and agree"),
        ({"reader": "few_readers:one", "agree": 1.5}, "agree"),
        ({"reader": "few_readers:one", "mu": -1.0}, "mu"),
        ({"reader": "few_readers:one", "progressive": True}, "progressive"),
        ({"reader": "few_readers:one", "exact": True}, "exact"),
        ({"reader": "few_readers:one,"}, "reader"),
        ({"reader": "few_readers:one", "judge": ""}, "judge"),
        ({"reader": "few_readers:one", "judge": "few_readers:two,few_readers:two"}, "judge names few_readers:two twice"),
        ({"reader": "few_readers:one,few_readers:others"}, "classes"),
        ({"reader": "few_readers:broken"}, "finite"),
        ({"reader": "few_readers:one", "judge": "few_readers:one"}, "judge"),
        ({"reader": "no_such_network"}, "no_such_network"),
        ({"reader": "no_such_network@"}, "NAME@FILE"),
        ({"reader": "features:few_readers:one", "mu": 1.0}, "features=True"),
        ({"reader": "few_readers:of_features", "agree": 0.9}, "agree"),
        ({"reader": "few_readers:one", "agree": 0.9, "bits_per_pixel": 1.0}, "agree"),
    ],
)
def test_settings_that_cannot_be(source, tmp_path, readers, settings, named):
    with pytest.raises(UsageError, match=named) as error:
        compress_folder(source, tmp_path / "out", CompressConfig(**settings))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists() or not files_in(tmp_path / "out")


@pytest.mark.parametrize("name", ["blind", "hard"])
def test_a_reader_whose_gradients_move_nothing_is_named(source, tmp_path, readers, name):
    with pytest.raises(UsageError, match=name):
        compress_folder(source, tmp_path / "out", CompressConfig(reader=f"{readers}:{name}", effort=3))
    with pytest.raises(UsageError, match=name):
        choose([PHOTO], f"{readers}:{name}", effort=3)
    assert compress_folder(source, tmp_path / "two", CompressConfig(reader=f"{readers}:{name}", effort=2))["written"] == 7


def test_a_judge_whose_answers_are_not_finite_is_called_a_judge(source, tmp_path, readers):
    Image.new("RGB", (40, 40)).save(source / "black.png")
    config = CompressConfig(reader=f"{readers}:two", judge=f"{readers}:particular", mu=0.5)
    (bad,) = compress_folder(source, tmp_path / "out", config)["bad"]
    assert bad["file"] == "black.png"
    assert "net 0 gives answers that are not finite" in bad["why"]
    assert "judge" in bad["why"]
    assert "reader" not in bad["why"]


def test_a_photo_that_is_gone_before_it_is_shown_is_no_failure(source, tmp_path, readers, monkeypatch):
    made = encode_folder.side_by_side

    def gone(pairs):
        for original, *_ in pairs:
            original.unlink()
        return made(pairs)

    monkeypatch.setattr(encode_folder, "side_by_side", gone)
    found = compress_folder(source, tmp_path / "out", CompressConfig(reader=f"{readers}:one"))
    assert (found["written"], found["bad"]) == (7, [])
    assert (tmp_path / "out" / PICTURE).is_file()


def test_readers_whose_code_has_changed_are_named(source, tmp_path, readers):
    """A run's is, too: their weights are the same, and what they say of photos may be another thing."""
    out, config = tmp_path / "out", CompressConfig(reader=f"{readers}:one", judge=f"{readers}:two", mu=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            compress_folder(source, out, config)
    code = tmp_path / "code" / f"{readers}.py"
    code.write_text(code.read_text(encoding="utf-8") + "# changed", encoding="utf-8")
    for _ in range(2):  # until it is as it was
        with pytest.warns(UserWarning, match="net 0, net 1 has changed"):
            assert compress_folder(source, out, config)["skipped"] == 7


def test_a_folder_s_own_notes_that_are_damaged(source, tmp_path, readers):
    out, config = tmp_path / "out", CompressConfig(reader=f"{readers}:one", bits_per_pixel=1.5)
    wanted = compress_folder(source, out, config)["readers"]
    notes, manifest = out / SOURCES, (out / MANIFEST).read_text(encoding="utf-8")
    notes.write_text(notes.read_text(encoding="utf-8").replace('"kept"', '"keep"', 1), encoding="utf-8")
    again = compress_folder(source, out, config)
    assert (again["written"], again["readers"]) == (1, wanted)
    there = json.loads(manifest)
    for mu in (float("nan"), -1, "much"):
        (out / MANIFEST).write_text(json.dumps({**there, "mu": mu}), encoding="utf-8")
        with pytest.raises(UsageError, match="damaged .*mu"):
            compress_folder(source, out, config)


def test_the_summary_leaves_out_the_file_of_a_photo_that_is_another_now(source, tmp_path, readers):
    config = CompressConfig(reader=f"{readers}:one", mu=1.0)
    assert compress_folder(source, tmp_path / "out", config)["readers"]["files"] == 7
    (source / "cats" / "2.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    found = compress_folder(source, tmp_path / "out", config)
    assert (len(found["bad"]), found["skipped"], found["readers"]["files"]) == (1, 6, 6)
    bits = pixels = 0
    for file in (tmp_path / "out").rglob("*.jpg"):
        if file.name != "2.jpg":
            with Image.open(file) as image:
                bits, pixels = bits + 8 * file.stat().st_size, pixels + image.width * image.height
    assert found["readers"]["bits_per_pixel"] == pytest.approx(bits / pixels, rel=1e-5)


def test_photos_that_cannot_be_read_are_named_and_all_others_done(source, tmp_path, readers):
    (source / "cats" / "2.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    found = compress_folder(source, tmp_path / "out", CompressConfig(reader=f"{readers}:one", agree=0.5))
    assert [one["file"] for one in found["bad"]] == ["cats/2.png"]
    assert found["written"] == 6


def test_the_command(source, tmp_path, readers, capsys):
    options = ["--reader", f"{readers}:one", "--judge", f"{readers}:two", "--mu", "0.5", "--effort", "1"]
    assert jpegdl.cli.main(["compress", str(source), str(tmp_path / "out"), *options]) == 0
    said = capsys.readouterr().out
    assert "net 0" in said
    assert "net 1" in said
    assert "bits per pixel" in said
    shutil.rmtree(tmp_path / "out")
    assert jpegdl.cli.main(["compress", str(source), str(tmp_path / "out"), *options[:2], "--effort", "3"]) == 0
    said = capsys.readouterr().out
    assert "--judge" in said
    assert "rounds (files): " in said


def test_one_photo_is_one(source, tmp_path, readers, capsys):
    shutil.rmtree(source / "cats")
    command = ["compress", str(source), str(tmp_path / "out"), "--reader", f"{readers}:one"]
    assert jpegdl.cli.main(command) == 0
    assert "1 image written, 0 were there already" in capsys.readouterr().out
    (source / "grey.png").rename(source / "gray.png")
    (source / "bad.png").write_bytes(b"nothing")
    assert jpegdl.cli.main(command) == 1
    out, err = capsys.readouterr()
    assert "1 JPEG file in OUT no longer has an image" in out
    assert "1 of 2 images is not written, see above; the other is written" in err


def test_a_kill_in_the_middle_leaves_whole_files(source, tmp_path, readers):
    for number in range(60):
        shutil.copy(source / "grey.png", source / f"more{number}.png")
    out = tmp_path / "out"
    command = ["compress", str(source), str(out), "--reader", f"{readers}:one", "--mu", "1"]
    process = start_command(tmp_path / "log", *command)
    begin = time.monotonic()
    while not list(out.glob("*.jpg")) and process.is_alive() and time.monotonic() - begin < 60:
        time.sleep(0.01)
    process.kill()
    process.join()
    # What was being written then has a name that begins with a dot.
    before = {name: content for name, content in files_in(out).items() if name.endswith(".jpg") and name[0] != "."}
    assert before, (tmp_path / "log").read_text(encoding="utf-8")
    found = compress_folder(source, out, CompressConfig(reader=f"{readers}:one", mu=1.0))
    assert found["images"] == 67
    assert found["readers"]["files"] == 67
    after = files_in(out)
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize("settings", [{"mu": 0.5}, {"bits_per_pixel": 2.0}, {"mu": 0.5, "effort": 3, "rounds": 1}])
def test_a_photo_on_which_answers_are_not_finite_is_named_and_all_others_done(source, tmp_path, readers, settings):
    Image.new("RGB", (40, 40)).save(source / "cats" / "black.png")
    found = compress_folder(source, tmp_path / "out", CompressConfig(reader=f"{readers}:particular", threads=4, **settings))
    assert [one["file"] for one in found["bad"]] == ["cats/black.png"]
    assert "finite" in found["bad"][0]["why"]
    assert found["written"] == 7


@pytest.mark.parametrize("effort", [1, 3])
def test_a_turned_photo_is_seen_as_the_reader_would_see_the_file(tmp_path, readers, effort):
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "in").mkdir()
    PHOTO.crop((30, 20, 130, 76)).save(tmp_path / "in" / "turned.png", exif=exif)
    rounds = {"rounds": 1} if effort == 3 else {}
    config = CompressConfig(reader=f"{readers}:follows", judge=f"{readers}:three", mu=0.1, effort=effort, **rounds)
    compress_folder(tmp_path / "in", tmp_path / "out", config)
    made = json.loads((tmp_path / "out" / MANIFEST).read_text(encoding="utf-8"))["files"]["turned.jpg"]
    with Image.open(tmp_path / "out" / "turned.jpg") as file, Image.open(tmp_path / "in" / "turned.png") as original:
        assert file.getexif()[0x0112] == 6
        stored = [image.convert("RGB") for image in (original, file)]
        upright = [image.transpose(Image.Transpose.ROTATE_270) for image in stored]
    for name, images, said in (("follows", upright, made), ("three", stored, made["judges"])):
        one = open_reader(f"{readers}:{name}")
        one.orientation = "stored"
        seen = [(one.view(torch.from_numpy(np.array(image)).permute(2, 0, 1)) * 255).round() / 255 for image in images]
        own, answer = one.answers(torch.stack(seen)).split(1)
        assert said["distance"][0] == pytest.approx(float(one.distance(own, answer)), abs=2e-5)


def test_a_folder_in_which_nothing_was_made_yet_takes_other_settings(source, tmp_path, readers):
    with pytest.raises(UsageError, match="smallest"):
        compress_folder(source, tmp_path / "out", CompressConfig(reader=f"{readers}:one", bits_per_pixel=0.01))
    found = compress_folder(source, tmp_path / "out", CompressConfig(reader=f"{readers}:one", bits_per_pixel=2.0))
    assert found["written"] == 7
    with pytest.raises(UsageError, match="bits_per_pixel"):
        compress_folder(source, tmp_path / "out", CompressConfig(reader=f"{readers}:one", bits_per_pixel=1.9))


def test_a_share_that_a_sample_promises_has_a_margin():
    """Of photos whose answers stay with a chance that falls with mu: what is found on a sample holds for all others."""
    random = np.random.default_rng(0)
    tables = [Tables("standard", quality, *standard_tables(quality)) for quality in (10, 50, 90)]

    def photo():
        kept = np.sort(random.random(3) < (0.8, 0.97, 0.995))[None]
        distances = np.array([[0.5, 0.1, 0.01]]) * random.uniform(0.2, 5)
        return Trials((24, 24), [], [], tables, [0, 0, 0], distances, kept, [40, 100, 250], drawn=random.random())

    shape, short = Shape(robust=False, keep=0.667), []
    unseen = [photo() for _ in range(1000)]
    for _ in range(4):
        mu = search_mu([photo() for _ in range(256)], shape, None, 0.97)
        ways = [
            np.mean([trials.kept[0, trials.best(Shape(robust=False, keep=keep), mu)] for trials in unseen]) for keep in (0, 1)
        ]
        short.append(0.97 - (ways[0] + 2 * ways[1]) / 3)
    assert max(short) <= 0.005
    few = unseen[:60]
    mu = search_mu(few, shape, None, 0.95, whole=True)  # no sample: counted, to the photo
    assert np.mean([trials.kept[0, trials.best(shape, mu)] for trials in few]) >= 0.95
    # Not only just: in other batches distances differ by a last digit.
    assert np.mean([trials.kept[0, trials.best(shape, 1.0001 * mu)] for trials in few]) >= 0.95
    assert np.mean([trials.kept[0, trials.best(shape, 1.05 * mu)] for trials in few]) < 0.95
