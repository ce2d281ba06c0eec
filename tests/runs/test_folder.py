"""The folder of a run: whose settings and whose data it holds, and what is said of files that are missing or damaged."""

import json
import shutil
import unicodedata
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from factory import rename_classes, run, small_comparison, small_config
from jpegdl.comparison import CompareConfig, calibrate_run, compare, evaluate_run, train_arm
from jpegdl.comparison.config import read_config
from jpegdl.data import Data, DataConfig
from jpegdl.errors import DataWarning, UsageError
from jpegdl.layer import JpegLayer, LayerConfig, prepend
from jpegdl.runs import OptimizerConfig, RateConfig, RunFolder, finished_runs, open_run
from jpegdl.runs.model import load_state
from jpegdl.runs.opened import open_plain
from jpegdl.tables import write_tables

pytestmark = pytest.mark.usefixtures("few_photos")


def _images(root, classes=("cat", "dog"), train=8, test=4):
    """Class folders of noise around a grey level of the class."""
    random = np.random.default_rng(0)
    for part, count in (("train", train), ("test", test)):
        for level, name in enumerate(classes):
            for i in range(count):
                file = root / part / name / f"{i}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                pixels = random.normal(60 + 90 * level, 30, (16, 16, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(file)
    return root


def _config(folder, path, **changes):
    settings = {
        "name": "test",
        "data": DataConfig(path=str(path), size=16, batch_size=8),
        "layer": LayerConfig(tables="standard:75", images=8),
        "epochs": 1,
        "test_every": 1,
        "lr": 0.01,
    }
    return replace(small_comparison(folder, **settings), **changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A comparison and the images that it was trained on, which nobody may change."""
    folder = tmp_path_factory.mktemp("finished")
    compare(_config(folder, _images(folder / "pets")))
    return folder


@pytest.fixture
def compared(finished, tmp_path):
    """The settings of a copy of it in ``tmp_path``, with its images in pets/."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return _config(tmp_path, tmp_path / "pets")


# ------------------------------------------------------------------------------------------------------------- settings


def test_a_setting_that_a_run_does_not_know_yet_has_its_default(tmp_path, run_once):
    config = small_config(epochs=1)
    result = run_once(config, tmp_path)
    settings = yaml.safe_load((tmp_path / "config.yaml").read_text(encoding="utf-8"))
    del settings["training"]["ema"], settings["layer"]["depth"], settings["data"]["pad"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    assert run(config, tmp_path) == result
    config.training.ema = 0.9
    with pytest.raises(UsageError, match=r"other settings \(training.ema was None, now 0.9\)"):
        run(config, tmp_path)


def test_a_setting_that_earlier_versions_called_otherwise_is_read_and_resumed(tmp_path, run_once):
    config = small_config(epochs=1)
    result = run_once(config, tmp_path)
    settings = yaml.safe_load((tmp_path / "config.yaml").read_text(encoding="utf-8"))
    settings["training"]["accelerator"] = settings.pop("device")
    assert settings["training"]["accelerator"] == "cpu"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    assert RunFolder(tmp_path).config().device == "cpu"
    assert run(config, tmp_path) == result
    config.device = "auto"  # says where, not what
    assert RunFolder(tmp_path).difference(config, "jpeg-dl", 0) is None
    (tmp_path / "result.json").unlink()
    (tmp_path / "failure.json").write_text(json.dumps({"settings": settings, "message": "too warm"}), encoding="utf-8")
    assert RunFolder(tmp_path).failure(config, "jpeg-dl", 0) == "too warm"


def test_a_setting_that_nobody_knows_is_named(tmp_path, run_once):
    run_once(small_config(epochs=1), tmp_path)
    settings = yaml.safe_load((tmp_path / "config.yaml").read_text(encoding="utf-8"))
    settings["layer"]["magic"] = 3
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    with pytest.raises(UsageError, match=r"config.yaml is damaged \(unknown setting magic: a newer version wrote it"):
        RunFolder(tmp_path).config()


def test_a_setting_that_was_dropped_is_read_where_it_had_its_default(tmp_path, run_once):
    config = small_config(epochs=1)
    result = run_once(config, tmp_path)
    settings = yaml.safe_load((tmp_path / "config.yaml").read_text(encoding="utf-8"))
    settings["training"]["rate"]["kind"] = "symbols"  # as earlier versions wrote it
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    assert RunFolder(tmp_path).config().training == config.training
    assert run(config, tmp_path) == result  # nor is it trained again
    settings["training"]["rate"]["kind"] = "frequencies"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    assert open_run(RunFolder(tmp_path)).config.training == config.training  # to be tested, attacked, used
    with pytest.raises(UsageError, match=r"other settings \(training.rate.kind was 'frequencies', now 'symbols'\)"):
        run(config, tmp_path)


def test_a_run_that_kept_its_images_on_the_device_is_opened_but_not_resumed(tmp_path, run_once):
    config = small_config(epochs=1)
    run_once(config, tmp_path)
    settings = yaml.safe_load((tmp_path / "config.yaml").read_text(encoding="utf-8"))
    settings["data"]["cache"] = "device"  # as earlier versions had it, whose test images were the same
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    assert open_run(RunFolder(tmp_path)).config.data == config.data
    with pytest.raises(UsageError, match="data.cache was 'device', now 'auto'"):  # its crops were drawn otherwise
        RunFolder(tmp_path).check(config, "jpeg-dl", 0)


@pytest.mark.parametrize(
    "arms", [["plain"], {"plain": None, "mine": {"training": {"rate": {"kind": "symbols", "weight": 0.5}}}}]
)
def test_the_settings_of_a_comparison_of_an_earlier_version_are_read(tmp_path, arms):
    file = tmp_path / "compare.yaml"
    settings = {"training": {"rate": {"kind": "symbols", "blocks": 100}}, "arms": arms}
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    config = read_config(file)
    assert config.training.rate == RateConfig(blocks=100)
    assert "mine" not in config.arms or config.arms["mine"] == {"training": {"rate": {"weight": 0.5}}}
    file.write_text(yaml.safe_dump({"training": {"rate": {"kind": "frequencies"}}}), encoding="utf-8")
    with pytest.raises(UsageError, match=r"compare.yaml: training.rate.kind 'frequencies'"):
        read_config(file)


def test_a_default_that_is_spelled_out_is_the_default(tmp_path, run_once):
    run_once(small_config(epochs=1), tmp_path)
    RunFolder(tmp_path).check(small_config(epochs=1, alpha=5.0), "jpeg-dl", 0)
    with pytest.raises(UsageError, match="layer.alpha was 5.0, now 1.0"):
        RunFolder(tmp_path).check(small_config(epochs=1, alpha=1.0), "jpeg-dl", 0)


def test_a_run_without_a_finished_epoch_takes_new_settings(tmp_path):
    config = small_config(epochs=1)
    RunFolder(tmp_path).begin(config, "jpeg-dl", 0, Data(config.data).fingerprint)
    other = small_config(epochs=1, alpha=1.0)
    run(other, tmp_path)
    assert RunFolder(tmp_path).config().layer.alpha == 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"name": "a::b"}, "name must be a folder on this machine"), ({"output": "s3://runs"}, "output must be a folder on")],
)
def test_places_that_are_addresses_are_refused_before_training(tmp_path, changes, message):
    with pytest.raises(UsageError, match=message):
        train_arm(_config(tmp_path, tmp_path, **changes), "plain", 0)


def test_a_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert _config("~/runs", tmp_path).folder == tmp_path / "runs" / "test"


# ----------------------------------------------------------------------------------------------------------------- data


@pytest.mark.usefixtures("compared")
def test_other_data_under_the_same_name_are_refused(tmp_path):
    moved = tmp_path / "moved"
    shutil.move(tmp_path / "pets", moved)
    compare(_config(tmp_path, moved))  # the same images somewhere else

    (moved / "train" / "cat" / "0.png").rename(moved / "train" / "dog" / "new.png")
    with pytest.raises(UsageError, match=r"plain/0 was trained on other data \(as many training images, but other ones"):
        compare(_config(tmp_path, moved))
    (moved / "train" / "dog" / "new.png").unlink()
    with pytest.raises(UsageError, match="16 training images then, 15 now"):
        compare(_config(tmp_path, moved))
    others = _images(tmp_path / "others", classes=("cat", "horse"))
    with pytest.raises(UsageError, match="class 'dog' is in only one of them .2 classes differ"):
        train_arm(_config(tmp_path, others), "jpeg-dl", 0)
    with pytest.raises(UsageError, match="was trained on other data"):  # a run that is not there yet, beside one that is
        compare(_config(tmp_path, others, seeds=2))


def test_runs_of_other_data_are_never_compared(tmp_path, compared):
    """Whichever runs a call asks for, and in whatever order they were trained."""
    config = replace(compared, seeds=[0])
    others = _config(tmp_path, _images(tmp_path / "others", classes=("cow", "hen")), seeds=[1])
    with pytest.raises(UsageError, match=r"plain/0 was trained on other data \(class 'cat' is in only one of them"):
        compare(others)
    train_arm(others, "plain", 1)
    with pytest.raises(UsageError, match=r"plain/1 was trained on other data"):
        compare(config)
    shutil.rmtree(tmp_path / "pets")
    with pytest.warns(UserWarning, match="was not compared"), pytest.raises(UsageError, match="plain/1 was trained on other"):
        compare(config)


def test_images_of_the_same_names_and_other_content_are_other_images(tmp_path, compared):
    file = tmp_path / "pets" / "train" / "cat" / "3.png"
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(file)
    with pytest.raises(UsageError, match=r"as many training images, but other ones"):
        compare(compared)


def _as_before_contents(folder):
    """Make a run's records those of a version that knew names and sizes only."""
    for name in ("data.json", "result.json"):
        content = json.loads((folder / name).read_text(encoding="utf-8"))
        record = content if name == "data.json" else content["data"]
        for part in ("train", "test"):
            del record[part]["content"]
        (folder / name).write_text(json.dumps(content), encoding="utf-8")


def test_runs_that_know_names_and_sizes_only_go_on(tmp_path):
    config = _config(tmp_path, _images(tmp_path / "pets"))
    first = train_arm(config, "plain", 0)
    _as_before_contents(tmp_path / "test" / "plain" / "0")
    assert [result.accuracy for result in compare(config).results if result.arm == "plain"] == [first["accuracy"]]
    assert evaluate_run(config, "plain", 0)["other_images"] is None
    (tmp_path / "pets" / "train" / "cat" / "0.png").rename(tmp_path / "pets" / "train" / "cat" / "00.png")
    with pytest.raises(UsageError, match="plain/0 was trained on other data .as many training images, but other ones"):
        compare(config)


def test_what_is_said_of_the_data_is_in_the_summary(tmp_path):
    config = _config(tmp_path, _images(tmp_path / "pets"))
    shutil.copy(tmp_path / "pets" / "train" / "cat" / "0.png", tmp_path / "pets" / "test" / "cat" / "copy.png")
    (tmp_path / "pets" / "train" / "cat" / "a.heic").write_bytes(b"?")
    shutil.copy(tmp_path / "pets" / "train" / "cat" / "1.png", tmp_path / "pets" / "train" / "dog" / "copy.png")
    with pytest.warns(DataWarning, match="1 of 9 test images is a training image too|passed over 1 file: 1 .heic"):
        found = compare(config)
    assert (found.summary["passed_over"], found.summary["test_in_train"]) == ({".heic": 1}, 1)
    assert found.summary["several_classes"] == {"train": 1}
    notes = ["1 of these is also a training image.", "1 training picture is in more than one class."]
    assert "\n".join([*notes, "Passed over 1 file: 1 .heic.\n"]) in found.table
    result = json.loads((tmp_path / "test" / "plain" / "0" / "result.json").read_text(encoding="utf-8"))
    assert result["data"]["passed_over"] == {".heic": 1}


def test_what_is_said_of_the_same_images_is_said_once_for_all_arms(tmp_path):
    """Arms with other batches or augmentation have the images of the recipe; those with a limit are listed once more."""
    config = _config(tmp_path, _images(tmp_path / "pets"))
    shutil.copy(tmp_path / "pets" / "train" / "cat" / "0.png", tmp_path / "pets" / "test" / "cat" / "copy.png")
    (tmp_path / "pets" / "train" / "cat" / "a.heic").write_bytes(b"?")
    own = {"other": {"batch_size": 4, "erase": 0.5}, "few": {"limit": 6}}
    arms = {"plain": None, **{name: {"data": data} for name, data in own.items()}}
    with pytest.warns(DataWarning) as said:
        compare(replace(config, arms=arms, seeds=2))
    texts = [str(warning.message) for warning in said if issubclass(warning.category, DataWarning)]
    assert sum("passed over" in text for text in texts) <= 3  # once for the recipe's, and for each run of few
    assert sum("1 of 9 test images is" in text for text in texts) == 1


def test_a_finished_comparison_needs_no_data(tmp_path, recwarn, compared):
    table = (tmp_path / "test" / "summary.md").read_text(encoding="utf-8")
    shutil.rmtree(tmp_path / "pets")
    assert compare(compared).table == table
    assert any("was not compared with that of the finished runs" in str(warning.message) for warning in recwarn)
    with pytest.raises(UsageError, match="is not a folder"):
        compare(replace(compared, seeds=2))


def test_evaluation_on_other_images_says_so_and_on_other_classes_is_refused(tmp_path, compared):
    assert evaluate_run(compared, "plain", 0)["other_images"] is None
    more = _images(tmp_path / "more", test=6)
    metrics = evaluate_run(_config(tmp_path, more), "plain", 0)
    assert metrics["images"] == 12
    assert metrics["other_images"] == "8 test images then, 12 now"
    remembered = evaluate_run(_config(tmp_path, tmp_path / "pets" / "train"), "plain", 0)
    assert remembered["other_images"] == "they are the images that it was trained on"
    others = _images(tmp_path / "others", classes=("cat", "horse"))
    for model in (None, RunFolder(tmp_path / "test" / "plain" / "0").model_file):
        with pytest.raises(UsageError, match="knows other classes than these data .class 'dog' is in only one of them"):
            evaluate_run(_config(tmp_path, others), "plain", 0, model)


def test_a_model_beside_the_data_of_another_run_is_refused(compared):
    folder = compared.run_folder("plain", 0)
    assert open_run(folder).classes == ["cat", "dog"]
    folder.data_file.write_text(folder.data_file.read_text(encoding="utf-8").replace('"dog"', '"cow"'), encoding="utf-8")
    with pytest.raises(UsageError, match=r"knows other classes than .*data.json .class 'cow' .*copy both files from one run"):
        open_run(folder)


def test_a_file_of_tables_that_changes_is_noticed(tmp_path):
    path, file = _images(tmp_path / "pets"), tmp_path / "mine.json"
    write_tables(file, {"luma": torch.full((8, 8), 2.0), "chroma": torch.full((8, 8), 3.0)})
    config = _config(tmp_path, path, layer=LayerConfig(tables=str(file)))
    train_arm(config, "jpeg-dl", 0)
    train_arm(config, "jpeg-dl", 0)
    write_tables(file, {"luma": torch.full((8, 8), 2.5), "chroma": torch.full((8, 8), 3.0)})
    with pytest.raises(UsageError, match="started from other tables: .*mine.json has changed since"):
        train_arm(config, "jpeg-dl", 0)


def test_tables_come_from_a_plain_model_of_the_same_settings(tmp_path):
    path = _images(tmp_path / "pets")
    config = _config(tmp_path, path, layer=LayerConfig(images=8))
    train_arm(config, "plain", 0)
    longer = replace(config, training=replace(config.training, epochs=2))
    with pytest.raises(UsageError, match=r"plain/0 holds a run with other settings \(training.epochs was 1, now 2\)"):
        train_arm(longer, "jpeg-dl", 0)
    assert not (tmp_path / "test" / "jpeg-dl" / "0" / "last.ckpt").exists()


def test_calibration_takes_the_settings_of_the_plain_run(tmp_path, compared):
    tables = calibrate_run(compared, 0)
    bare = CompareConfig(output=str(tmp_path), name="test", layer=LayerConfig(images=8))
    bare.device = "cpu"
    for one, other in zip(tables, calibrate_run(bare, 0), strict=True):
        assert torch.equal(one, other)
    halved = replace(bare, layer=LayerConfig(images=8, q_max=2.5))
    assert torch.allclose(calibrate_run(halved, 0)[0], tables[0] / 2)
    others = replace(bare, data=DataConfig(path=str(_images(tmp_path / "others", classes=("cat", "horse")))))
    for method in ("sensitivity", "magnitude"):
        with pytest.raises(UsageError, match="was trained on other data"):
            calibrate_run(others, 0, method)
    model = RunFolder(tmp_path / "test" / "plain" / "0").model_file
    with pytest.raises(UsageError, match="knows other classes than these data"):
        calibrate_run(replace(others, name="none"), 0, "sensitivity", model)


def test_a_failure_belongs_to_its_settings(tmp_path):
    path = _images(tmp_path / "pets")
    config = _config(tmp_path, path)
    diverging = replace(config, training=replace(config.training, optimizer=OptimizerConfig(lr=1e38, weight_decay=1e30)))
    with pytest.raises(
        UsageError, match="no plain run in .* has a result to compare with: plain, seed 0; jpeg-dl, seed 0: the loss is"
    ):
        compare(diverging)
    summary = json.loads((tmp_path / "test" / "summary.json").read_text(encoding="utf-8"))  # written all the same
    assert [entry["seed"] for entry in summary["failed"] if entry["arm"] == "plain"] == [0]
    later = compare(replace(config, seeds=[1])).summary
    assert later["failed"] == []
    again = compare(config).summary
    assert again["arms"]["plain"]["seeds"] == [0, 1]


# ---------------------------------------------------------------------------------------------- missing and damaged files


@pytest.mark.parametrize("name", ["result.json", "model.safetensors", "tables.json", "metrics.csv", "config.yaml", "data.json"])
@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_file_that_is_missing_or_damaged_is_named_with_the_way_out(tmp_path, compared, name, damage):
    config, file = compared, tmp_path / "test" / "jpeg-dl" / "0" / name
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        middle = len(content) // 2 - 3
        file.write_bytes(content[: content.rfind(b":", 0, middle) if name == "config.yaml" else middle])  # within a name
    if name == "result.json" and damage == "missing":  # it was killed just before its result
        compare(config)
        assert json.loads(file.read_text(encoding="utf-8")) == json.loads(content)
        return
    use = evaluate_run if name == "model.safetensors" else lambda config, arm, seed: compare(config)
    with pytest.raises(UsageError, match=rf"jpeg-dl/0/{name} .*delete .*jpeg-dl/0") as error:
        use(config, "jpeg-dl", 0)
    # What the message says, done.
    way_out = str(error.value)
    if "result.json, and the command" in way_out:
        (file.parent / "result.json").unlink()
    else:
        shutil.rmtree(file.parent)
    compare(config)
    use(config, "jpeg-dl", 0)
    # Some hold the seconds it took, one where the data are.
    assert file.read_bytes() == content or name in ("result.json", "metrics.csv", "config.yaml")


def test_nobody_is_told_to_delete_a_result_that_is_missing(tmp_path):
    (tmp_path / "last.ckpt").touch()
    with pytest.raises(UsageError, match=r"result\.json is missing; run the command that trained it again"):
        RunFolder(tmp_path).result()


@pytest.mark.parametrize(("arms", "seed", "whose"), [(None, 7, "any arm"), (["plain"], 1, "arm plain")])
def test_a_seed_that_is_not_there_is_not_passed_over(tmp_path, arms, seed, whose):
    for place in ("plain/0", "jpeg-dl/0", "jpeg-dl/1"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "result.json").write_text("{}", encoding="utf-8")
    assert {arm: list(by_seed) for arm, by_seed in finished_runs(tmp_path, None, [1]).items()} == {"plain": [], "jpeg-dl": [1]}
    with pytest.raises(UsageError, match=f"{whose}, seed {seed}"):
        finished_runs(tmp_path, arms, [0, seed])


def test_a_model_of_earlier_versions_whose_record_of_its_layer_is_shorter_is_loaded(tmp_path):
    model, steps = prepend(torch.nn.Flatten(), JpegLayer()), torch.full((8, 8), 3.0)
    record = json.dumps({"layer": "JpegLayer", "bits": 8, "rounding": "soft"}).encode().ljust(256)
    state = {**model.state_dict(), "layer.luma": steps, "layer._extra_state": torch.tensor(list(record), dtype=torch.uint8)}
    load_state(state, tmp_path / "model.safetensors", model)
    assert torch.equal(model.layer.luma, steps)
    state["layer._extra_state"] = torch.tensor(list(record.replace(b"8", b"9")), dtype=torch.uint8)
    with pytest.raises(UsageError, match="bits=9"):  # read, not passed over
        load_state(state, tmp_path / "model.safetensors", model)


def test_classes_in_another_unicode_form_are_the_same(make_once, tmp_path):
    plain = make_once(tmp_path, arm="plain", steps=0)
    names = [f"caf\u00e9 {number}" for number in range(4)]
    rename_classes(plain, names)
    beside = SimpleNamespace(run=SimpleNamespace(classes=[unicodedata.normalize("NFD", name) for name in names]), device="cpu")
    assert open_plain(plain, beside).classes == names
    beside.run.classes = names[::-1]
    with pytest.raises(UsageError, match="another order"):
        open_plain(plain, SimpleNamespace(**vars(beside), folder="here"))
