"""Explaining a run as a whole: its files, what is left out, what is made again, what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from factory import code_module, made_up_config, make_run
from jpegdl.data import Data, DataConfig
from jpegdl.errors import UsageError
from jpegdl.explain import ExplainConfig, explain_comparison, explain_run, explain_runs
from jpegdl.explain import parts as runs
from jpegdl.files import digest_of_file
from jpegdl.runs import RunFolder, open_run
from jpegdl.runs.config import DataPlace

QUICK = ExplainConfig(ablation=False, pictures=1, images=16, frequencies=[[0, 0], [0, 1]])


@pytest.fixture(scope="module")
def pair(tmp_path_factory, make_once):
    folder = tmp_path_factory.mktemp("runs")
    return make_once(folder / "jpeg-dl"), make_once(folder / "plain", arm="plain", seed=1)


def _content(folder, part):
    return json.loads((folder.path / "explain" / f"{part}.json").read_text(encoding="utf-8"))


@pytest.mark.drawn
def test_all_parts_and_what_they_were_made_of(pair):
    folder, plain = pair
    told = []
    done = explain_run(folder, QUICK, plain, lambda *each: told.append(each))
    there = {file.name for file in (folder.path / "explain").iterdir()}
    assert there - {"lock"} == {*done["files"], "explain.json"}
    assert {"tables.png", "training.png", "frequencies-bits.png", "frequencies-transfer.png", "image-better-1.png"} <= there
    assert done["left_out"] == []
    assert done["made_of"]["plain"] == digest_of_file(plain.model_file)
    assert done["other_images"] is None
    assert done == _content(folder, "explain")
    assert told[0] == ("tables", 0, 4)
    assert told[-1] == ("explain", 4, 4)
    for name in done["files"]:
        if name.endswith(".png"):
            with Image.open(folder.path / "explain" / name) as picture:
                assert min(picture.size) > 300
        else:
            made_of = json.loads((folder.path / "explain" / name).read_text(encoding="utf-8"))["made_of"]
            assert made_of["model"] == done["made_of"]["model"]
            assert made_of["data"]["test"] == folder.data()["test"]
            assert ("plain" in made_of) == (name == "images.json")


def test_a_second_call_makes_only_what_is_missing_or_of_other_settings(pair, monkeypatch):
    folder, plain = pair
    first = explain_run(folder, QUICK, plain)
    made = []
    monkeypatch.setattr(runs.explain_figures, "tables_figure", lambda *a: made.append("tables"))
    monkeypatch.setattr(runs, "measure", lambda *a: pytest.fail("measured again"))
    original = runs.show
    monkeypatch.setattr(runs, "show", lambda *a: made.append("images") or original(*a))
    assert explain_run(folder, QUICK, plain) == first
    assert made == []
    picture = next((folder.path / "explain").glob("image-*.png"))
    picture.unlink()
    assert explain_run(folder, QUICK, plain) == first
    assert made == ["images"]
    assert picture.is_file()
    without = explain_run(folder, QUICK, None)  # another choice: the pictures of the last one go
    assert made == ["images", "images"]
    assert "image-changed-1.png" in without["files"]
    assert not list((folder.path / "explain").glob("image-better*"))
    assert _content(folder, "images")["rule"].startswith("Chosen by rule: where the layer changes the model's logits most")


def test_another_model_replaces_all(tmp_path):
    folder = make_run(tmp_path / "run", steps=1)
    explain_run(folder, QUICK)
    before = {part: _content(folder, part) for part in ("tables", "training", "frequencies", "images")}
    make_run(tmp_path / "run", steps=2)
    explain_run(folder, QUICK)
    for part, content in before.items():
        after = _content(folder, part)
        assert after["made_of"]["model"] != content["made_of"]["model"], part
        assert after["made_of"]["data"] == content["made_of"]["data"]


@pytest.mark.parametrize(
    ("layer", "left_out"),
    [
        ({"kind": "gain"}, {"training", "saturation", "bits of the levels", "ablation: uncapped, unquantized"}),
        ({"kind": "log"}, {"training", "saturation", "bits of the levels", "ablation: uncapped, unquantized"}),
        ({"kind": "faint-dc"}, {"tables", "training", "saturation", "bits of the levels", "ablation: uncapped, unquantized"}),
        ({"kind": "normalize"}, {"tables", "training", "frequencies", "ablation"}),
        ({"kind": "cascade", "depth": 2}, {"training", "bits per frequency", "transfer curves", "ablation"}),
        (
            {"kind": "regions", "region": 8},
            {"picture of the tables", "training", "bits of the levels", "transfer curves"},
        ),
        ({"kind": "subsampled"}, set()),
        ({"rounding": "hard"}, {"bits of P(k | z)"}),
        ({"rounding": "none"}, {"bits of the levels", "ablation: unquantized"}),
        ({"bits": None}, {"saturation", "ablation: uncapped", "ablation: unquantized"}),
        ({"rounding": "sample", "window": None, "bits": 4}, {"ablation: uncapped"}),
    ],
)
def test_what_does_not_apply_is_left_out_with_the_reason(tmp_path, monkeypatch, layer, left_out):
    monkeypatch.setattr("jpegdl.explain.ablation.BLOCK", 1)  # one frequency will do
    monkeypatch.setattr(runs.explain_figures, "ablation_figure", lambda *a: None)
    folder = make_run(tmp_path, made_up_config(**layer), steps=0)
    done = explain_run(folder, replace(QUICK, ablation=True, images=4))
    assert {entry["what"] for entry in done["left_out"]} == left_out
    assert all(len(entry["why"]) > 10 for entry in done["left_out"])
    assert [name for name in done["files"] if name.startswith("image-changed")]


def test_a_run_without_a_layer(tmp_path, pair, make_once):
    plain = make_once(tmp_path, arm="plain", steps=0)
    done = explain_run(plain, replace(QUICK, ablation=True))
    assert done["files"] == []
    assert {entry["what"] for entry in done["left_out"]} == {"tables", "training", "frequencies", "images", "ablation"}
    # Beside another model there is something to choose by.
    assert [name for name in explain_run(plain, QUICK, pair[0])["files"] if name.startswith(("image-better", "image-worse"))]


def test_files_that_are_no_longer_whole_are_made_again(tmp_path, make_once):
    folder = make_once(tmp_path, steps=0)
    settings = replace(QUICK, ablation=True)
    explain_run(folder, settings)
    before = {part: _content(folder, part) for part in ("tables", "ablation")}
    for part, content in (("tables", {"made_of": before["tables"]["made_of"]}), ("tables", [1]), ("ablation", "{")):
        file = folder.path / "explain" / f"{part}.json"
        file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        partial = folder.path / "explain" / "ablation-partial.json"
        partial.write_text(json.dumps({"made_of": {}}), encoding="utf-8")
        explain_run(folder, settings)
        assert _content(folder, part) == before[part]
        assert not partial.exists()


def test_two_processes_do_not_explain_the_same_run_at_once(tmp_path, make_once):
    folder, caught = make_once(tmp_path, steps=0), []

    def meanwhile(*standing):
        if not caught:
            with pytest.raises(UsageError, match="is being explained by another process") as raised:
                explain_run(folder, QUICK)
            caught.append(raised)

    explain_run(folder, QUICK, None, meanwhile)
    assert caught


def test_what_a_random_layer_draws_for_pictures_is_the_same_in_each_call(tmp_path):
    folder = make_run(tmp_path, made_up_config(rounding="sample", alpha=0.001), steps=0)
    explain_run(folder, QUICK)
    before = _content(folder, "images")["shown"]
    (folder.path / "explain" / "images.json").unlink()
    explain_run(folder, QUICK)
    assert _content(folder, "images")["shown"] == before


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_it_says_that_the_table_was_measured_in_another_precision(tmp_path, precision):
    config = made_up_config()
    config.training.precision = precision
    words = explain_run(make_run(tmp_path, config, steps=0), QUICK)["words"]
    assert any(precision in sentence for sentence in words) == (precision != "32-true")


def test_grey_images(tmp_path):
    for place in ("train/a", "train/b", "test/a", "test/b"):
        (tmp_path / "images" / place).mkdir(parents=True)
        Image.effect_noise((16, 16), 60).save(tmp_path / "images" / place / "1.png")
    data = DataConfig(path=str(tmp_path / "images"), size=16, batch_size=2)
    folder = make_run(tmp_path / "run", replace(made_up_config(), data=data), steps=0)
    done = explain_run(folder, replace(QUICK, images=8))
    assert _content(folder, "frequencies")["grey"]
    assert np.max(_content(folder, "frequencies")["bits"]["integers"]["chroma"]) == 0
    assert "frequencies-transfer.png" in done["files"]


def test_files_that_came_without_the_rest_of_the_run(tmp_path, make_once):
    folder = make_once(tmp_path, steps=0)
    folder.tables_file.unlink()
    folder.layer_file.unlink()
    left_out = {entry["what"]: entry["why"] for entry in explain_run(folder, QUICK)["left_out"]}
    assert left_out == {"tables": "the run has no tables.json", "training": "the run has no layer.npz"}


def test_the_steps_that_ended_at_the_floor_are_named(tmp_path, make_once):
    folder = make_once(tmp_path, steps=0)
    state = open_run(folder)
    with torch.no_grad():
        state.model.layer.luma[0, 1] = state.model.layer.luma[2, 0] = 1e-5
        state.model.layer.chroma[7, 7] = 255
    folder.write_model(state.model, state.classes)
    words = explain_run(folder, QUICK)["words"]
    assert words[0].startswith("2 of the 64 luma steps ended at the floor, 1e-05: (0, 1), (2, 0).")
    assert words[1].startswith("One chroma step ended at the top, 255: (7, 7).")
    history = _content(folder, "training")
    assert history["epoch"] == [0, 1, 2]
    assert history["at_floor"] == {"luma": [[0, 1], [2, 0]], "chroma": []}
    assert np.array(history["luma"]).shape == (3, 8, 8)
    np.testing.assert_allclose(history["luma"][1], 2 * np.array(history["luma"][2]))


def test_images_are_drawn_evenly_over_the_classes_and_by_seed(pair):
    def drawn(**changes):
        subject = runs.open_subject(pair[0], replace(QUICK, **changes), None)
        targets = [subject.data.test.targets[i] for i in subject.indices]
        return subject.indices, np.bincount(targets, minlength=4).tolist()

    assert drawn(images=8)[1] == [2, 2, 2, 2]
    assert sorted(drawn(images=10)[1]) == [2, 2, 3, 3]
    assert drawn(images=8) == drawn(images=8)
    assert drawn(images=8)[0] != drawn(images=8, images_seed=1)[0]
    assert drawn(images=None) == drawn(images=1000) == (list(range(16)), [4, 4, 4, 4])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"frequencies": [[8, 0]]}, "frequencies must each be from 0 to 7, got 8"),
        ({"frequencies": [[1]]}, r"got \[1\]"),
        ({"frequencies": []}, "at least one"),
        ({"images": 0}, "images must be at least 1, or null, got 0"),
        ({"pictures": -1}, "pictures must be at least 0, got -1"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"device": "abacus"}, "device must be auto, cpu, .*'abacus'"),
    ],
)
def test_settings_that_cannot_be(pair, changes, words):
    with pytest.raises(UsageError, match=words) as raised:
        explain_run(pair[0], replace(QUICK, **changes))
    assert "\n" not in str(raised.value)


def test_runs_and_data_that_do_not_fit(tmp_path, pair, make_once):
    with pytest.raises(UsageError, match="no trained model in .*: no run is there"):
        explain_run(RunFolder(tmp_path / "nothing"), QUICK)
    assert not (tmp_path / "nothing").exists()
    other = replace(made_up_config(), data=DataConfig(name="made-up", classes=3, limit=12, size=16))
    with pytest.raises(UsageError, match="knows other classes than .* give a plain run of the same data"):
        explain_run(pair[0], QUICK, make_run(tmp_path / "other", other, arm="plain", steps=0))
    folder = make_once(tmp_path / "damaged", steps=0)
    folder.layer_file.write_bytes(b"PK nonsense")
    with pytest.raises(UsageError, match=r"layer.npz is damaged"):
        explain_run(folder, QUICK)


def _folder_of_images(path, colour):
    for part in ("train", "test"):
        for name in ("a", "b"):
            (path / part / name).mkdir(parents=True)
            for i in range(3):
                array = np.random.default_rng(i + colour).integers(0, 256, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(array).save(path / part / name / f"{i}.png")


def test_data_that_moved_and_other_data(tmp_path):
    _folder_of_images(tmp_path / "here", 0)
    run = replace(made_up_config(), data=DataConfig(path=str(tmp_path / "here"), size=16))
    folder = make_run(tmp_path / "run", run, steps=0)
    first = explain_run(folder, QUICK)
    (tmp_path / "here").rename(tmp_path / "there")
    with pytest.raises(UsageError, match="here"):
        explain_run(folder, QUICK)
    assert explain_run(folder, replace(QUICK, data=DataPlace(str(tmp_path / "there")))) == first
    (tmp_path / "there" / "test" / "a" / "2.png").unlink()
    done = explain_run(folder, replace(QUICK, data=DataPlace(str(tmp_path / "there"))))
    assert done["other_images"] == "6 test images then, 5 now"
    assert _content(folder, "frequencies")["images"] == 5
    (tmp_path / "there" / "test" / "b").rename(tmp_path / "there" / "test" / "c")
    with pytest.raises(UsageError, match="knows other classes than these data"):
        explain_run(folder, replace(QUICK, data=DataPlace(str(tmp_path / "there"))))


def test_a_list_of_what_is_being_replaced_is_not_left_there(tmp_path, monkeypatch, make_once):
    folder = make_once(tmp_path, steps=0)
    explain_run(folder, QUICK)

    def kill(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "show", kill)
    explain_run(folder, QUICK)  # nothing is to be made
    assert (folder.path / "explain" / "explain.json").exists()
    with pytest.raises(KeyboardInterrupt):
        explain_run(folder, replace(QUICK, images=5))
    assert not (folder.path / "explain" / "explain.json").exists()


def test_several_runs_in_one_call(tmp_path):
    for arm in ("jpeg-dl", "plain"):
        folder = make_run(tmp_path / arm / "0", arm=arm)
        numbers = {"accuracy": 0.5, "loss": 1.0, "train_seconds": 1.0, "parameters": 1, "layer_parameters": 128}
        data = Data(folder.config().data, 0).fingerprint
        folder.write_result({"arm": arm, "seed": 0, **numbers, "saturation": None, "data": data})
    told = []
    found = explain_comparison(tmp_path, QUICK, progress=lambda *each: told.append(each))
    assert {arm: list(by_seed) for arm, by_seed in found.items()} == {"jpeg-dl": [0]}
    assert found["jpeg-dl"][0] == _content(RunFolder(tmp_path / "jpeg-dl" / "0"), "explain")
    assert found["jpeg-dl"][0]["made_of"]["plain"] == digest_of_file(folder.model_file)  # the plain run beside it
    assert told[0] == ("jpeg-dl, seed 0: tables", 0, 4)
    with pytest.raises(UsageError, match="no finished run of arm jpeg-dl, seed 1"):
        explain_comparison(tmp_path, QUICK, seeds=2)


def test_the_lowest_seed_of_each_arm_and_one_progress_of_all(tmp_path, monkeypatch):
    for place in ("jpeg-dl/3", "jpeg-dl/4", "cap-only/1", "plain/0"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "result.json").write_text("{}", encoding="utf-8")
    told = []
    monkeypatch.setattr(explain_runs, "explain_run", lambda run, config, plain, say: say("tables", 4, 4) or {})
    arms = ["jpeg-dl", "cap-only"]
    found = explain_comparison(tmp_path, QUICK, arms=arms, seeds="lowest", progress=lambda *each: told.append(each[1:]))
    assert {arm: list(by_seed) for arm, by_seed in found.items()} == {"jpeg-dl": [3], "cap-only": [1]}
    assert told == [(4, 8), (8, 8)]


@pytest.mark.parametrize(
    ("made", "why"), [("JpegLayer(luma, chroma)", []), ("Sequential(JpegLayer(), GainLayer())", ["mixed"])]
)
def test_a_layer_that_a_function_of_ones_own_makes_has_tables(tmp_path, monkeypatch, made, why):
    code = "from torch.nn import Sequential\nfrom jpegdl.layer import GainLayer, JpegLayer\n\n\n"
    name = code_module(
        tmp_path, monkeypatch, f"layers_of_ones_own_{len(why)}", f"{code}def make(luma, chroma):\n    return {made}\n"
    )
    done = explain_run(make_run(tmp_path / "run", made_up_config(kind=f"{name}:make"), steps=0), QUICK)
    assert "tables.json" in done["files"]
    assert ("tables.png" in done["files"]) != bool(why)
    assert [entry["why"].split()[2] for entry in done["left_out"] if entry["what"] == "picture of the tables"] == why


@pytest.mark.parametrize("method", ["forward", "round_trip"])
def test_of_a_layer_that_does_more_than_its_steps_no_number_is_given(tmp_path, monkeypatch, method):
    own = f"    def {method}(self, x):\n        return (x + super().{method}(x)) / 2\n"
    code = f"from jpegdl import JpegLayer\n\n\nclass Half(JpegLayer):\n{own}"
    name = code_module(tmp_path, monkeypatch, f"layers_with_{method}", code)
    folder = make_run(tmp_path / "run", made_up_config(kind=f"{name}:Half"), steps=0)
    done = explain_run(folder, replace(QUICK, ablation=True))
    left_out = {entry["what"]: entry["why"] for entry in done["left_out"]}
    assert left_out["ablation"] == left_out["bits per frequency"] == left_out["transfer curves"]
    assert f"Half has a {method} of its own" in left_out["ablation"]
    assert {"tables.json", "training.json", "frequencies.json", "images.json"} <= {*done["files"]}  # which are as true
