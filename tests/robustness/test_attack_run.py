"""A trained run under attack: the result, going on after a stop, and what is refused."""

import csv
import importlib.util
import json
import re
import shutil
from dataclasses import replace

import pytest
import torch

from factory import rename_classes, run, small_config
from jpegdl.data import Data
from jpegdl.errors import UsageError
from jpegdl.layer import LayerConfig
from jpegdl.robustness import AttackConfig, attack_comparison, attack_run, attack_text
from jpegdl.robustness import trials as attacking
from jpegdl.robustness.robust_accuracy import from_bits
from jpegdl.runs import RunFolder, open_run
from jpegdl.runs.config import DataPlace

pytestmark = pytest.mark.usefixtures("fewer_photos")


def _fewer(patch):
    """Two test images of each of the 18 photographs: what an attack takes grows with their number."""
    patch.setattr("jpegdl.data.sources.photos.PHOTO_TRAIN", 4)
    patch.setattr("jpegdl.data.sources.photos.PHOTO_TEST", 2)


@pytest.fixture
def fewer_photos(monkeypatch):
    _fewer(monkeypatch)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run with a layer and the plain one, five epochs on few photographs."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        _fewer(patch)
        run(small_config(epochs=5, alpha=0.05), folder / "jpeg-dl" / "0")
        run(replace(small_config(epochs=5), layer=LayerConfig(kind="none")), folder / "plain" / "0", "plain")
    return folder


@pytest.fixture
def folders(trained, tmp_path, monkeypatch):
    """Copies, so that every test finds them untouched; and a strong PGD that is not so long."""
    monkeypatch.setattr("jpegdl.robustness.attacks.STRONG_STEPS", 4)
    monkeypatch.setattr("jpegdl.robustness.attacks.STRONG_RESTARTS", 2)
    shutil.copytree(trained, tmp_path / "runs")
    return RunFolder(tmp_path / "runs" / "jpeg-dl" / "0"), RunFolder(tmp_path / "runs" / "plain" / "0")


def _config(**changes):
    few = {"eps": [2.0, 0.5], "eps_l2": [0.5], "attacks": ["fgsm", "pgd"], "corruptions": [], "jpeg": [30], "images": 36}
    return AttackConfig(**{**few, "device": "cpu", **changes})


def _names(folder):
    return {file.stem for file in (folder.path / "attack").glob("*.json")}


# ------------------------------------------------------------------------------------------------------------- the result


def test_a_whole_comparison_in_one_call(folders):
    place, told, each = folders[0].path.parents[1], [], []
    found = attack_comparison(place, _config(), progress=lambda *how_far: told.append(how_far), each=each.append)
    assert [result["arm"] for result in each] == ["plain", "jpeg-dl"]
    assert found.results == {result["arm"]: {0: result} for result in each}
    assert [file.name for file in found.files] == ["attack.csv", "attack.png"]
    assert all(file.is_file() for file in found.files)
    rows = list(csv.DictReader(found.files[0].open(encoding="utf-8")))
    assert {row["arm"] for row in rows} == {"plain", "jpeg-dl"}
    assert any(trial["gradient"] == "plain" for trial in found.results["jpeg-dl"][0]["levels"][0]["trials"])
    shares = [done / total for _, done, total in told]
    assert 0 <= min(shares) <= max(shares) <= 1
    assert {what.partition(":")[0] for what, _, _ in told} == {"plain, seed 0", "jpeg-dl, seed 0"}
    # One arm alone, once more: what is known of the other stays beside it.
    again = attack_comparison(place, _config(), arms=["jpeg-dl"], seeds=1)
    assert {arm: list(by_seed) for arm, by_seed in again.results.items()} == {"plain": [0], "jpeg-dl": [0]}
    assert list(csv.DictReader(found.files[0].open(encoding="utf-8"))) == rows
    for wrong in ({"arms": []}, {"seeds": []}, {"seeds": 0}, {"seeds": -1}):
        with pytest.raises(UsageError, match="must name at least one run"):
            attack_comparison(place, _config(), **wrong)
    with pytest.raises(UsageError, match="no finished run of arm jpeg-dl, seed 1"):
        attack_comparison(place, _config(), arms=["jpeg-dl"], seeds=[1])


def test_the_result_says_what_each_attack_left_and_the_worst_of_all_image_by_image(folders):
    folder, plain = folders
    told = []
    result = attack_run(folder, _config(), plain, lambda *how_far: told.append(how_far))
    assert json.loads((folder.path / "attack.json").read_text(encoding="utf-8")) == result
    assert (result["arm"], result["seed"], result["rounding"], result["draws"]) == ("jpeg-dl", 0, "soft", None)
    assert result["images"] == 36
    assert result["other_images"] is None
    assert result["chance"] == 1 / 18
    assert result["clean"]["accuracy"] == pytest.approx(folder.result()["accuracy"])
    assert result["plain"]["accuracy"] == pytest.approx(plain.result()["accuracy"])
    assert [(level["norm"], level["eps_255"]) for level in result["levels"]] == [("Linf", 0.5), ("Linf", 2), ("L2", 127.5)]
    right = from_bits(result["clean"]["correct"])
    robust = right
    for level in result["levels"]:
        assert {(trial["attack"], trial["gradient"]) for trial in level["trials"]} == {
            (attack, gradient) for attack in ("fgsm", "pgd") for gradient in ("own", "ste", "identity", "plain")
        }
        worst = min(trial["accuracy"] for trial in level["trials"])
        assert level["accuracy"] <= min(worst, level["own_gradient"])
        assert level["own_gradient"] <= min(trial["accuracy"] for trial in level["trials"] if trial["gradient"] == "own")
        robust = robust & from_bits(level["robust"]) if level["norm"] == "Linf" else from_bits(level["robust"])
        assert level["accuracy"] == robust.mean()
        assert all(trial["largest"] <= level["eps"] + 1e-6 for trial in level["trials"])
    assert result["levels"][2]["accuracy"] < result["clean"]["accuracy"]
    assert result["masking"]["check"]["eps_255"] == 64
    assert set(result["jpeg"]["by"]) == {"30"}
    assert result["corruptions"] is None
    assert result["left_out"] == {"gradient none": "not of this layer, or the same as another of its gradients"}

    steps = 2 * 4 * 3 + 3 + 1  # attacks, gradients and transfer, eps; the check; a JPEG quality
    assert told[-1][1:] == (steps, steps)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    with (folder.path / "attack.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 1 + 3 * (2 + 8) + 1
    adaptive = {row["eps_255"]: float(row["accuracy"]) for row in rows if row["gradient"] == "adaptive"}
    assert adaptive == {str(level["eps_255"]): pytest.approx(level["accuracy"], rel=1e-5) for level in result["levels"]}
    text = attack_text(result)
    assert "jpeg-dl, seed 0, rounding soft: 36 test images" in text
    assert all(len(line) <= 80 for line in text.splitlines())


@pytest.mark.skipif(importlib.util.find_spec("pyautoattack") is None, reason="needs the extra attack")
def test_square_is_the_black_box_and_sees_no_gradient(folders):
    folder, _ = folders
    result = attack_run(folder, _config(attacks=["fgsm", "square"], eps=[8.0], eps_l2=[], queries=20, jpeg=[]))
    assert result["levels"][0]["by_attack"].keys() == {"fgsm", "square"}
    assert result["levels"][0]["by_gradient"].keys() == {"own", "ste", "identity", "black-box"}
    assert result["plain"] is None
    assert "pyautoattack" in result["versions"]
    only = attack_run(folder, _config(attacks=["square"], eps=[8.0], eps_l2=[], queries=20, jpeg=[]))
    assert only["levels"][0]["own_gradient"] is None
    assert only["masking"] == {"flags": [], "check": None}


def test_another_rounding_is_attacked_in_files_of_its_own(folders):
    folder, _ = folders
    soft = attack_run(folder, _config(attacks=["fgsm"], eps=[16.0], eps_l2=[], jpeg=[]))
    hard = attack_run(folder, _config(attacks=["fgsm"], eps=[16.0], eps_l2=[], jpeg=[], rounding="hard"))
    assert json.loads((folder.path / "attack.json").read_text(encoding="utf-8")) == soft
    assert json.loads((folder.path / "attack-hard.json").read_text(encoding="utf-8")) == hard
    assert hard["rounding"] == "hard"
    own = next(trial for trial in hard["levels"][0]["trials"] if trial["gradient"] == "own")
    assert own["accuracy"] == hard["clean"]["accuracy"]  # its gradient is 0
    assert own["largest"] == 0
    assert hard["levels"][0]["accuracy"] < own["accuracy"]
    random = attack_run(folder, _config(attacks=["fgsm"], eps=[16.0], eps_l2=[], jpeg=[], rounding="sample", draws=3))
    assert random["draws"] == 3


def test_images_are_drawn_evenly_over_the_classes_and_by_the_seed(folders):
    folder, _ = folders
    config = _config(attacks=[], eps=[], eps_l2=[], images=18)
    first = attack_run(folder, config)["indices"]
    targets = Data(folder.config().data, 0).test.targets
    assert sorted(targets[i] for i in first) == list(range(18))
    assert first == sorted(set(first))
    assert attack_run(folder, config)["indices"] == first
    assert attack_run(folder, replace(config, images_seed=1))["indices"] != first
    assert attack_run(folder, replace(config, images=1000))["images"] == 36


# -------------------------------------------------------------------------------------------------------------- resuming


def test_killed_in_the_middle_and_called_again_it_writes_the_same_file(folders):
    folder, plain = folders
    whole = attack_run(folder, _config(), plain)
    expected = {name: (folder.path / name).read_bytes() for name in ("attack.json", "attack.csv")}
    for name in expected:
        (folder.path / name).unlink()
    shutil.rmtree(folder.path / "attack")

    def kill(what, done, total):
        if done > 19:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attack_run(folder, _config(), plain, kill)
    assert len(_names(folder)) == 19
    assert not (folder.path / "attack.json").exists()
    told = []
    assert attack_run(folder, _config(), plain, lambda what, done, total: told.append(done)) == whole
    assert (min(told), max(told)) == (19, 28)  # what is there is not done again
    assert {name: (folder.path / name).read_bytes() for name in expected} == expected


def test_images_that_were_not_attacked_do_not_count_as_robust(folders, monkeypatch):
    """Another device may know an image more, of which pieces that are there say nothing."""
    folder, _ = folders
    config = _config(attacks=["fgsm"], gradients=["own"], eps=[2.0], eps_l2=[], jpeg=[])
    right = from_bits(attack_run(folder, config)["clean"]["correct"])
    original, told = attacking._Attack._right, []
    one_more = int((~right).nonzero()[0][0])

    def other(self, *args):
        known = original(self, *args)
        known[one_more] = True
        return known

    monkeypatch.setattr(attacking._Attack, "_right", other)
    result = attack_run(folder, config, None, lambda what, done, total: told.append(what))
    assert set(told) == {"Linf-2-fgsm-own", "Linf-64-pgd-strong-own"}
    assert result["levels"][0]["robust"][one_more] == "0"


@pytest.mark.skipif(importlib.util.find_spec("pyautoattack") is None, reason="needs the extra attack")
def test_another_attack_leaves_what_is_there(folders):
    folder, _ = folders
    config = _config(attacks=["fgsm"], gradients=["own"], eps=[2.0], eps_l2=[])
    attack_run(folder, config)
    told = []
    result = attack_run(
        folder, replace(config, attacks=["fgsm", "square"], queries=5), None, lambda what, done, total: told.append(what)
    )
    assert set(told) == {"Linf-2-square-black-box"}
    assert result["versions"].keys() == {"torch", "pyautoattack", "pillow"}


def test_what_robust_accuracy_lacks_is_said(folders):
    folder, plain = folders
    config = _config(attacks=["fgsm"], gradients=["own"], eps=[2.0], eps_l2=[], jpeg=[])
    result = attack_run(folder, config)
    assert result["left_out"].keys() == {"transfer", "gradient ste", "gradient identity"}
    assert "left out: transfer, there is no plain model to take it from" in attack_text(result)
    assert attack_run(folder, config, plain)["left_out"].keys() == {"gradient ste", "gradient identity"}
    assert attack_run(plain, config)["left_out"] == {}
    nothing = replace(config, attacks=[], eps=[], jpeg=[30], gradients=["own", "ste", "none"])  # there is nothing to leave out
    result = attack_run(folder, nothing)
    assert result["left_out"] == {}
    assert "left out" not in attack_text(result)


def test_nothing_is_most_broken_by_what_broke_nothing(folders):
    result = attack_run(folders[0], _config(attacks=["fgsm"], gradients=["own"], eps=[2.0, 4.0], eps_l2=[], jpeg=[]))
    clean = result["clean"]["accuracy"]
    for trial in result["levels"][1]["trials"]:
        trial["accuracy"] = clean
    result["levels"][1]["accuracy"] = clean - 0.01  # broken at 2/255
    row = r" 4/255 [\d. %]+ "
    assert re.search(f"{row}nothing but at a smaller eps", " ".join(attack_text(result).split()))
    result["levels"][1]["accuracy"] = clean
    assert re.search(f"{row}nothing (?!but)", " ".join(attack_text(result).split()))


def test_pieces_of_other_settings_models_or_images_do_not_mix(folders):
    folder, plain = folders
    told = []

    def done(config, other=plain):
        told.clear()
        attack_run(folder, config, other, lambda what, done, total: told.append(what))
        return sorted(set(told))

    config = _config(attacks=["fgsm"], gradients=["own"], eps=[2.0], eps_l2=[])
    everything = ["Linf-2-fgsm-own", "Linf-2-fgsm-plain", "Linf-64-pgd-strong-own", "jpeg-30"]
    assert done(config) == everything
    assert done(config) == []
    assert done(replace(config, eps=[2.0, 3.0])) == ["Linf-3-fgsm-own", "Linf-3-fgsm-plain"]
    assert done(replace(config, data=DataPlace(workers=1))) == []
    for changed in ({"images_seed": 1}, {"images": 20}, {"batch_size": 20}):
        assert done(replace(config, **changed)) == everything
    done(config)
    (folder.path / "attack" / "jpeg-30.json").unlink(missing_ok=True)
    (folder.path / "attack" / "Linf-2-fgsm-own.json").write_text('{"found": ', encoding="utf-8")  # damaged
    assert done(config) == ["Linf-2-fgsm-own"]
    model, _ = open_run(folder).model, folder.model_file.unlink()
    with torch.no_grad():
        model.backbone.get_classifier().bias += 0.01
    folder.write_model(model, folder.data()["classes"])
    assert done(config) == everything


# --------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eps": [1.0, -2.0]}, "eps must each be greater than 0, got -2.0"),
        ({"eps_l2": [float("nan")]}, "eps_l2 must each be finite and greater than 0, got nan"),
        ({"attacks": ["fgsm", "cw"]}, "attacks must be some of fgsm, pgd, .*, got 'cw'"),
        ({"gradients": ["ste"]}, "gradients must include own"),
        ({"attacks": []}, "eps are given but attacks are empty"),
        ({"eps": [], "eps_l2": []}, "attacks are given but eps and eps_l2 are empty"),
        ({"eps": [1.0, 1.0]}, "eps must not repeat"),
        ({"images": 0}, "images must be at least 1, got 0"),
        ({"jpeg": [0]}, "jpeg must each be from 1 to 100"),
        ({"severities": [6]}, "severities must each be from 1 to 5"),
        ({"rounding": "floor"}, "rounding must be one of soft, .*, got 'floor'"),
        ({"device": "abacus"}, "device must be auto, cpu, .*'abacus'"),
        ({"images_seed": -1}, "images_seed must be from 0"),
        ({"attacks": [], "eps": [], "eps_l2": [], "jpeg": []}, "attacks, corruptions and jpeg are all empty"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_opened(tmp_path, changes, message):
    with pytest.raises(UsageError, match=message) as raised:
        attack_run(RunFolder(tmp_path), _config(**changes))
    assert "\n" not in str(raised.value)


def test_a_missing_package_is_one_line_with_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr("jpegdl.extras.installed", lambda name: name != "pyautoattack")
    with pytest.raises(UsageError, match=r"square need pyautoattack, which is not installed: pip install '.\[attack\]'"):
        attack_run(RunFolder(tmp_path), _config(attacks=["fgsm", "square"]))


def test_runs_that_cannot_be_attacked(folders, tmp_path, monkeypatch):
    folder, plain = folders
    with pytest.raises(UsageError, match="no trained model in .*: no run is there"):
        attack_run(RunFolder(tmp_path / "nothing"), _config())
    with pytest.raises(UsageError, match="has no quantizer.* rounding 'hard'"):
        attack_run(plain, _config(rounding="hard"))
    monkeypatch.setattr(attacking, "check_attack", lambda config: None)  # with or without the extra
    with pytest.raises(UsageError, match="32.*have 16"):
        attack_run(folder, _config(corruptions=["fog"]))
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="device 'gpu' cannot be used here"):
            attack_run(folder, _config(device="gpu"))
    classes = folder.data()["classes"]
    for run_of_others in folders:
        rename_classes(run_of_others, [*classes[:3], "elephant", *classes[4:]])
    with pytest.raises(UsageError, match="knows other classes than these data"):
        attack_run(folder, _config())
    rename_classes(folder, classes)
    with pytest.raises(UsageError, match="knows other classes than .*: give a plain run of the same data"):
        attack_run(folder, _config(), plain)


def test_other_images_of_the_same_classes_are_attacked_with_a_word(folders):
    folder, _ = folders
    data = folder.data()
    data["test"]["images"] = 35
    folder.data_file.write_text(json.dumps(data), encoding="utf-8")
    result = attack_run(folder, _config(attacks=["fgsm"], eps=[1.0], eps_l2=[], jpeg=[]))
    assert result["other_images"] == "35 test images then, 36 now"
    assert "other images than those of the run's own test" in attack_text(result)


def test_two_processes_do_not_attack_the_same_run_at_once(folders):
    folder, _ = folders
    caught = []

    def meanwhile(*how_far):
        if not caught:
            with pytest.raises(UsageError, match="is being attacked by another process") as raised:
                attack_run(folder, _config())
            caught.append(raised)

    attack_run(folder, _config(attacks=["fgsm"], eps=[1.0], eps_l2=[], jpeg=[]), None, meanwhile)
    assert caught
