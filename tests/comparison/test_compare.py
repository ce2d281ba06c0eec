import json
import shutil
from dataclasses import replace

import lightning
import pytest
import torch

from factory import small_comparison
from jpegdl.comparison import CompareConfig, calibrate_run, compare, evaluate_run, train_arm
from jpegdl.data import DataConfig
from jpegdl.errors import UsageError
from jpegdl.layer import LayerConfig
from jpegdl.runs import TrainingConfig
from jpegdl.training import JointTraining

pytestmark = pytest.mark.usefixtures("few_photos")


def _config(folder, **changes):
    data = DataConfig(size=16, resize=20, batch_size=16)
    return small_comparison(folder, **{"name": "test", "seeds": 2, "data": data, "lr": 0.01, **changes})


# ----------------------------------------------------------------------------------------------------------- comparisons


def test_compare_end_to_end(mine, monkeypatch):
    config = small_comparison("runs", seeds=2)
    written = {file.name: file.read_bytes() for file in mine.glob("summary.*")}
    done = compare(config)
    assert {file.name: file.read_bytes() for file in mine.glob("summary.*")} == written
    summary, table, folder = done.summary, done.table, mine
    assert json.loads((folder / "summary.json").read_text(encoding="utf-8")) == summary
    assert (folder / "summary.md").read_text(encoding="utf-8") == table
    assert {file.name for file in folder.glob("*.png")} == {
        "accuracy.png", "curves.png", "gains.png", "tables-jpeg-dl.png", "saturation-jpeg-dl.png",
    }  # fmt: skip
    assert summary["arms"]["jpeg-dl"]["layer_parameters"] == 128
    assert summary["arms"]["plain"]["parameters"] + 128 == summary["arms"]["jpeg-dl"]["parameters"]
    for arm in ("plain", "jpeg-dl"):
        for seed, accuracy in zip((0, 1), summary["arms"][arm]["accuracy"], strict=True):
            assert accuracy == json.loads((folder / arm / str(seed) / "result.json").read_text(encoding="utf-8"))["accuracy"]
            assert evaluate_run(config, arm, seed)["accuracy"] == pytest.approx(accuracy)

    # Again: nothing is trained, and one run that is missing is the only one.
    shutil.rmtree(folder / "jpeg-dl" / "1")
    trained = []
    fit = lightning.Trainer.fit
    monkeypatch.setattr("lightning.Trainer.fit", lambda *args, **kwargs: trained.append(1) or fit(*args, **kwargs))
    again = compare(config).summary
    assert len(trained) == 1
    assert again["arms"]["jpeg-dl"]["accuracy"] == summary["arms"]["jpeg-dl"]["accuracy"]


@pytest.mark.usefixtures("no_figures")
def test_accuracies_are_numbers_of_images(tmp_path):
    """float32 shares differ where the numbers of images do not; those of earlier versions are counted when they are read."""
    config = _config(tmp_path, arms=["plain"], seeds=1)
    (result,) = compare(config).results
    file = result.folder.result_file
    written = json.loads(file.read_text(encoding="utf-8"))
    assert written["accuracy"] == written["correct"] / written["images"] == result.accuracy
    assert written["images"] == written["data"]["test"]["images"] == 72
    assert {"jpegdl", "python", "torch", "torchvision", "timm", "lightning", "numpy", "numba", "pillow", "libjpeg"} == (
        written["versions"].keys()
    )
    there = evaluate_run(config, "plain", 0)
    assert [there[name] for name in ("accuracy", "correct", "images")] == [
        written[name] for name in ("accuracy", "correct", "images")
    ]
    assert result.folder.metrics()[-1]["test_accuracy"] == result.accuracy
    old = {name: value for name, value in written.items() if name not in ("correct", "images", "code")}
    old |= {"accuracy": float(torch.tensor(17 / 72, dtype=torch.float32)), "versions": {"torch": torch.__version__}}
    assert old["accuracy"] != 17 / 72
    file.write_text(json.dumps(old), encoding="utf-8")
    again = result.folder.result()
    assert (again["accuracy"], again["correct"], again["images"]) == (17 / 72, 17, 72)
    old["accuracy"] = 17 / 71  # one image was corrupt, and left out: of how many it is the share is not known
    file.write_text(json.dumps(old), encoding="utf-8")
    assert "correct" not in result.folder.result()


@pytest.mark.usefixtures("no_figures")
def test_arms_with_data_of_their_own(tmp_path):
    """Each run is held against the data of its own arm, and no difference is taken over other test images."""
    arms = {"plain": None, "few": {"layer": {"kind": "none"}, "data": {"limit": 20}}, "ones": {"layer": {"tables": "ones"}}}
    first = compare(_config(tmp_path, arms=arms, seeds=1)).summary["arms"]
    assert first["few"]["difference"] is None
    assert first["few"]["other_images"] == "20 in place of 72"
    assert first["few"]["time_ratio"] > 0
    assert first["ones"]["difference"]["seeds"] == [0]
    again = compare(_config(tmp_path, arms=arms, seeds=2))  # it can be resumed, and have more seeds
    assert again.summary["failed"] == []
    assert again.summary["arms"]["few"]["seeds"] == [0, 1]
    assert "other test images" in again.table


def test_sensitivity_tables_come_from_the_plain_model_of_the_seed(mine):
    config = small_comparison("runs", seeds=2)
    with pytest.raises(UsageError, match="train arm plain with seed 2 first"):
        train_arm(config, "jpeg-dl", 2)
    assert not (mine / "jpeg-dl/2").exists()
    luma, _ = calibrate_run(config, 0)
    before = json.loads((mine / "jpeg-dl/0/tables.json").read_text(encoding="utf-8"))["before"]
    assert torch.equal(torch.tensor(before["luma"]), luma)
    assert luma.max() == pytest.approx(5)


@pytest.mark.usefixtures("mine")
def test_evaluation_with_another_quantizer():
    config = small_comparison("runs", seeds=2)
    soft, hard = evaluate_run(config, "jpeg-dl", 0), evaluate_run(config, "jpeg-dl", 0, rounding="hard")
    assert soft["loss"] != hard["loss"]
    with pytest.raises(UsageError, match="rounding must be one of"):
        evaluate_run(config, "jpeg-dl", 0, rounding="up")
    with pytest.raises(UsageError, match="no trained model in"):
        evaluate_run(config, "jpeg-dl", 2)
    with pytest.raises(UsageError, match="plain/0 has no quantizer"):
        evaluate_run(config, "plain", 0, rounding="hard")


def test_evaluation_uses_the_runs_own_settings(tmp_path):
    config = _config(tmp_path, layer=LayerConfig(tables="standard:75", bits=4))
    result = train_arm(config, "jpeg-dl", 0)
    other = CompareConfig(name="test", output=str(tmp_path))
    other.device = "cpu"
    metrics = evaluate_run(other, "jpeg-dl", 0)
    assert metrics["loss"] == pytest.approx(result["loss"], rel=1e-5)
    assert metrics["rounding"] == "soft"


def test_evaluation_computes_where_it_is_told_to(tmp_path):
    trained = _config(tmp_path).run
    where = {"devices": 4, "num_nodes": 2, "strategy": "ddp"}
    asked = CompareConfig(
        data=DataConfig(name="flowers102", path="/elsewhere", workers=3, size=64),
        layer=LayerConfig(bits=3),
        training=TrainingConfig(epochs=7, precision="16-mixed", **where),
        device="gpu",
    )
    expected = replace(
        trained,
        data=replace(trained.data, path="/elsewhere", workers=3),
        training=replace(trained.training, **where),
        device="gpu",
    )
    assert trained.at(asked.run) == expected
    asked.data.path = None
    there = replace(trained, data=replace(trained.data, path="/images"))
    assert there.at(asked.run).data.path == "/images"


@pytest.mark.usefixtures("no_figures")
def test_every_arm_sees_the_same_images_in_the_same_order_and_starts_alike(tmp_path, monkeypatch):
    seen = {}
    step = JointTraining.training_step

    def spy(self, batch, batch_idx):
        arm = "plain" if self.saturation is None else "jpeg-dl"
        if not seen.get(arm):
            seen.setdefault(arm, []).extend(p.detach().clone() for p in self.model.backbone.parameters())
        seen[arm].append(batch[0].clone())
        return step(self, batch, batch_idx)

    monkeypatch.setattr(JointTraining, "training_step", spy)
    config = _config(tmp_path, seeds=[3])
    compare(config)
    assert len(seen["plain"]) == len(seen["jpeg-dl"]) > 8
    assert all(torch.equal(one, other) for one, other in zip(seen["plain"], seen["jpeg-dl"], strict=True))


def test_a_run_with_other_settings_is_found_before_any_training(tmp_path, monkeypatch):
    train_arm(_config(tmp_path, layer=LayerConfig(tables="standard:75")), "jpeg-dl", 1)
    monkeypatch.setattr(lightning.Trainer, "fit", lambda *_, **__: pytest.fail("trained first"))
    with pytest.raises(UsageError, match="jpeg-dl/1 holds a run with other settings .layer.tables"):
        compare(_config(tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": ["plain", "magic"]}, "'magic'"),
        ({"arms": ["jpeg-dl"]}, "arms must include plain"),
        ({"seeds": 0}, "seeds must be"),
        ({"seeds": [1, 1]}, "seeds must be"),
        ({"seeds": [-1]}, "seeds must each be from 0"),
        ({"seeds": [2**40]}, "seeds must each be from 0"),
        ({"name": "../up"}, "plain folder name"),
        ({"name": ""}, "plain folder name"),
    ],
)
def test_bad_settings_are_named(tmp_path, changes, message):
    with pytest.raises(UsageError, match=message):
        compare(_config(tmp_path, **changes))


def test_unknown_arms_and_methods(tmp_path):
    config = _config(tmp_path)
    for call in (train_arm, evaluate_run):
        with pytest.raises(UsageError, match="'magic'"):
            call(config, "magic", 0)
        with pytest.raises(UsageError, match="seed must be from 0"):
            call(config, "plain", -1)
    with pytest.raises(UsageError, match="sensitivity or magnitude"):
        calibrate_run(config, 0, method="guess")
