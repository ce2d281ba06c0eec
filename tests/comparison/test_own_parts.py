"""The user's own models, layers and arms in a comparison: nothing of the package is edited."""

import importlib
import shutil
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

import jpegdl
from factory import small_comparison
from jpegdl.comparison import CompareConfig, check_compare, compare, evaluate_run, train_arm
from jpegdl.comparison.summary import read_summary
from jpegdl.data import DataConfig
from jpegdl.errors import UsageError
from jpegdl.layer import JpegLayer, LayerConfig, build_layer, check_layer, layer_kind
from jpegdl.runs import RunConfig, TrainingConfig, open_run
from jpegdl.runs.record import digests_of_code

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def parts(tmp_path, monkeypatch):
    """The example's module, importable from a folder of this test's own."""
    shutil.copy(EXAMPLES / "my_parts.py", tmp_path / "my_parts.py")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_parts", raising=False)
    yield tmp_path / "my_parts.py"
    sys.modules.pop("my_parts", None)


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A function that writes a module and makes it importable."""

    def write(name, text):
        (tmp_path / f"{name}.py").write_text(f"import torch\nfrom torch import nn\n{text}", encoding="utf-8")
        return name

    monkeypatch.syspath_prepend(tmp_path)
    return write


def _config(folder, **changes):
    start = small_comparison(
        folder / "runs", name="own", backbone="my_parts:make_model", layer=LayerConfig(tables="ones"), epochs=1, lr=0.05,
        data=DataConfig(size=16, resize=20, limit=64, batch_size=16),
    )  # fmt: skip
    return replace(start, **changes)


DEAD_ZONE = {"about": "zeros", "layer": {"kind": "my_parts:DeadZoneLayer", "options": {"zone": 0.3}}}
SLOW = {"training": {"layer_optimizer": {"lr": 0.0003}, "epochs": 2}, "data": {"flip": False}}


@pytest.mark.usefixtures("few_photos", "no_figures", "forked_workers")
def test_a_model_a_layer_and_arms_of_the_users_own(tmp_path, parts):
    config = _config(tmp_path, arms={"plain": None, "jpeg-dl": {}, "dead-zone": DEAD_ZONE, "slow": SLOW})
    done = compare(config)
    assert list(done.summary["arms"]) == ["plain", "jpeg-dl", "dead-zone", "slow"]
    assert done.summary["failed"] == []
    assert [(result.arm, result.seed) for result in done.results] == [(arm, 0) for arm in done.summary["arms"]]
    assert done.rows[2]["folder"] == str(tmp_path / "runs/own/dead-zone/0")
    assert done.rows[2]["accuracy"] == done.results[2].accuracy == done.summary["arms"]["dead-zone"]["mean"]

    run = open_run(done.results[2].folder)
    assert type(run.model.layer).__name__ == "DeadZoneLayer"
    assert run.model.layer.zone == 0.3
    assert run.model.layer.alpha.unique().item() == 5
    slow = done.results[3].folder.config()
    assert (slow.training.layer_optimizer.lr, slow.training.epochs, slow.data.flip) == (0.0003, 2, False)
    assert slow.training.layer_optimizer.name == "adam"  # what the arm does not say is the recipe's
    assert done.results[3].epochs == 2

    # Workers import it too.
    two = compare(_config(tmp_path, arms=["plain", {"dead-zone": DEAD_ZONE}], name="two", jobs=2))
    assert two.summary["failed"] == []
    assert [result.loss for result in two.results] == pytest.approx([done.results[i].loss for i in (0, 2)], rel=1e-4)

    # What is trained is used by its folder alone: the settings need not define the arm again.
    plain_settings = _config(tmp_path)
    there = evaluate_run(plain_settings, "dead-zone", 0)
    assert there["accuracy"] == done.results[2].accuracy
    classifier = jpegdl.load(tmp_path / "runs/own/dead-zone/0", "cpu")
    images = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(classifier(images), run.model(images), rtol=0, atol=0)
    with pytest.warns(
        UserWarning, match="left out of the summary: .*dead-zone/0, as these settings do not define an arm dead-z"
    ):
        later = compare(plain_settings)
    assert list(later.summary["arms"]) == ["plain", "jpeg-dl"]
    assert "settings are others: dead-zone/0, slow/0." in later.table
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # that compare were to be run again
        assert read_summary(later.folder) == later.summary


@pytest.mark.usefixtures("few_photos", "no_figures")
def test_changed_code_is_said(tmp_path, parts):
    config = _config(tmp_path)
    train_arm(config, "plain", 0)
    parts.write_text(parts.read_text(encoding="utf-8") + "\n# another line\n", encoding="utf-8")
    with pytest.warns(UserWarning, match="the file with my_parts:make_model has changed since"):
        train_arm(config, "plain", 0)
    with pytest.warns(UserWarning, match="has changed since"):
        open_run(config.run_folder("plain", 0))


@pytest.mark.usefixtures("few_photos", "no_figures")
def test_changed_code_of_a_module_that_is_imported_by_another_is_said(tmp_path, module, monkeypatch):
    """Here inside a function, so that it is known at a run's end alone: mean and sd would be of two networks."""
    sized = "def make(num_classes):\n    from helper import WIDTH\n"
    module("net", f"{sized}    return nn.Sequential(nn.Flatten(), nn.Linear(768, WIDTH), nn.Linear(WIDTH, num_classes))\n")
    config = _config(tmp_path, backbone="net:make", arms=["plain"])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for seed, width in ((0, 4), (1, 6)):
        monkeypatch.delitem(sys.modules, "helper", raising=False)
        module("helper", f"WIDTH = {width}\n")
        importlib.invalidate_caches()
        train_arm(config, "plain", seed)
    with pytest.warns(UserWarning, match="code of helper, parameters of plain changed"):
        summary = compare(replace(config, seeds=2)).summary
    assert [len(summary["mixed"][name]) for name in ("code of helper", "parameters of plain")] == [2, 2]
    with pytest.warns(UserWarning, match="the file with helper has changed since"):
        train_arm(config, "plain", 0)
    monkeypatch.delitem(sys.modules, "helper")
    monkeypatch.delitem(sys.modules, "net")


@pytest.mark.usefixtures("few_photos", "no_figures")
def test_own_weights_need_no_training(tmp_path, module):
    module(
        "own_trained",
        "def make(num_classes):\n"
        "    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, num_classes))\n"
        "    nn.init.constant_(net[2].weight, 0.5)\n"
        "    return net\n",
    )
    config = _config(tmp_path, backbone="own_trained:make")
    metrics = evaluate_run(config, "plain", 0)
    assert metrics["model"] == "own_trained:make"
    frozen = replace(config, training=replace(config.training, train="layer"))
    train_arm(frozen, "jpeg-dl", 0)
    model = open_run(frozen.run_folder("jpeg-dl", 0)).model
    assert (model.backbone[2].weight == 0.5).all()
    assert (model.layer.luma != 1).any()


def test_a_layer_gets_what_it_takes_by_name(parts, module):
    module(
        "own_layers",
        "from jpegdl import JpegLayer\n"
        "class Same(JpegLayer):\n    pass\n"
        "class Bare(nn.Module):\n"
        "    def __init__(self, size):\n"
        "        super().__init__()\n"
        "        self.size, self.shift = size, nn.Parameter(torch.zeros(3, 1, 1))\n"
        "    def forward(self, x):\n        return x + self.shift\n",
    )
    tables = (torch.full((8, 8), 3.0), torch.full((8, 8), 4.0))
    config = LayerConfig(kind="own_layers:Same", bits=6, window=7, rounding="ste", alpha=2.0)
    layer = build_layer(config, tables, 24)
    assert isinstance(layer, JpegLayer)
    assert (layer.bits, layer.window, layer.rounding, layer.luma[0, 0].item()) == (6, 7, "ste", 3)
    kind = layer_kind(config)
    assert (kind.tables, kind.from_tables, kind.single) == ("steps", True, True)
    bare = LayerConfig(kind="own_layers:Bare")
    assert build_layer(bare, None, 24).size == 24
    assert not layer_kind(bare).from_tables
    assert CompareConfig(layer=bare).needed_arms("jpeg-dl") == []  # so it waits for no plain run
    assert CompareConfig(layer=config).needed_arms("jpeg-dl") == ["plain"]


MODELS = """
def failing(num_classes):
    raise RuntimeError("no luck")
def nothing(num_classes):
    return None
def deaf():
    return nn.Identity()
def other(num_classes):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, num_classes + 1))
def small(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(3, num_classes))
number = 7
"""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("failing", r"backbone 'bad_models:failing' failed, called with num_classes=18: RuntimeError: no luck \(bad_models.py"),
        ("nothing", "must return a torch.nn.Module, got NoneType"),
        ("deaf", "must be callable with num_classes alone"),
        ("other", r"must give logits \(2, 18\) for images \(2, 3, 16, 16\), got \(2, 19\)"),
        ("small", r"fails on images \(2, 3, 16, 16\): RuntimeError"),
        ("number", "must be a class or a function that is called with num_classes, got int"),
        ("smal", r"there is no 'smal' in bad_models; did you mean small\?"),
    ],
)
def test_a_bad_model_is_refused_before_anything_is_written(tmp_path, module, few_photos, name, message):
    module("bad_models", MODELS)
    config = _config(tmp_path, backbone=f"bad_models:{name}")
    with pytest.raises(UsageError, match=message):
        train_arm(config, "plain", 0)
    assert not list((tmp_path / "runs").rglob("config.yaml"))


LAYERS = """
class Failing(nn.Module):
    def __init__(self, luma, chroma):
        raise RuntimeError("no luck")
class Smaller(nn.Module):
    def forward(self, x):
        return x[..., 1:]
class Broken(nn.Module):
    def forward(self, x):
        return x / 0
class Takes(nn.Module):
    def __init__(self, strength):
        super().__init__()
"""


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ({"kind": "bad_layers:Failing"}, r"layer.kind 'bad_layers:Failing' failed: RuntimeError: no luck"),
        ({"kind": "bad_layers:Smaller"}, r"must give images \(2, 3, 16, 16\).*got .*\(2, 3, 16, 15\)"),
        ({"kind": "bad_layers:Broken"}, "gives values that are not finite"),
        ({"kind": "bad_layers:Takes"}, "missing 1 required positional argument: 'strength'"),
        ({"kind": "bad_layers:Nowhere"}, "there is no 'Nowhere' in bad_layers"),
        ({"kind": "jpeg", "options": {"zone": 1}}, "layer.options are for a layer.kind of your own"),
    ],
)
def test_a_bad_layer_is_refused(tmp_path, module, layer, message):
    module("bad_layers", LAYERS)
    with pytest.raises(UsageError, match=message):
        check_compare(_config(tmp_path, backbone="cifar_resnet8", layer=LayerConfig(tables="ones", **layer)))


def test_options_are_for_the_arms_with_a_layer_of_ones_own(tmp_path, parts):
    """As ``jpegdl compare --layer.kind my_parts:DeadZoneLayer --layer.options ...`` has them, plain beside it."""
    options = {"zone": 0.3}
    layer = LayerConfig(tables="ones", kind="my_parts:DeadZoneLayer", options=options)
    config = _config(tmp_path, backbone="cifar_resnet8", layer=layer, arms=["plain", "jpeg-dl", "gain", "zero-dc"])
    check_compare(config)
    found = {arm: config.arm_run(arm).layer.options for arm in config.arm_names}
    assert found == {"plain": {}, "jpeg-dl": options, "gain": {}, "zero-dc": {}}
    own = {"plain": None, "dead-zone": {"layer": {"kind": "my_parts:DeadZoneLayer"}}, "ours": {"layer": {"kind": "gain"}}}
    config = replace(config, layer=replace(layer, kind="jpeg"), arms=own)
    check_compare(config)
    assert [config.arm_run(arm).layer.options for arm in own] == [{}, options, {}]
    with pytest.raises(UsageError, match="and no arm has one: plain, jpeg-dl"):
        check_compare(replace(config, arms=["plain", "jpeg-dl"]))
    wrong = {"plain": None, "ours": {"layer": {"kind": "gain", "options": options}}}
    with pytest.raises(UsageError, match="arm ours: layer.options are for a layer.kind of your own"):
        check_compare(replace(config, layer=LayerConfig(tables="ones"), arms=wrong))


@pytest.mark.usefixtures("few_photos", "no_figures")
def test_all_commands_know_the_same_quantizers(tmp_path, module):
    """One that is no JpegLayer: evaluate denied it, attack and export did not."""
    module("coarse", "from jpegdl.layer import FeatureJpegLayer\n\ndef make():\n    return FeatureJpegLayer(0.1)\n")
    config = _config(tmp_path, backbone="cifar_resnet8", layer=LayerConfig(kind="coarse:make"), arms=["plain", "jpeg-dl"])
    train_arm(config, "jpeg-dl", 0)
    assert evaluate_run(config, "jpeg-dl", 0)["rounding"] == "soft"
    assert evaluate_run(config, "jpeg-dl", 0, rounding="hard")["rounding"] == "hard"
    with pytest.raises(UsageError, match="rounding must be one of"):
        evaluate_run(config, "jpeg-dl", 0, rounding="hrad")


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        ({"plain": None, "jpeg-dl": {"layer": {"bits": 4}}}, "arms: jpeg-dl is a built-in arm .*another name"),
        ({"plain": None, "a/b": {"layer": {"bits": 4}}}, "arms: 'a/b' cannot be the name of a folder"),
        ({"plain": None, "mine": {"layr": {}}}, "arms: mine: 'layr' does not belong to an arm; did you mean layer"),
        ({"plain": None, "mine": {"layer": 5}}, "arms: mine: layer must be settings, got 5"),
        ({"plain": None, "mine": 5}, "arms: mine must hold about, layer, data and training, or nothing, got 5"),
        ({"plain": None, "mine": {"layer": {"bit": 4}}}, "arms: mine: .*bit"),
        ({"plain": None, "mine": {"layer": {"bits": "four"}}}, "arms: mine: .*bits"),
        ({"plain": None, "mine": {"layer": {"window": 4}}}, "arm mine: layer.window"),
        (["plain", "mien"], "no arm 'mien'.*those of your own are defined in a YAML file"),
    ],
)
def test_a_bad_arm_is_refused(tmp_path, arms, message):
    with pytest.raises(UsageError, match=message):
        check_compare(_config(tmp_path, backbone="cifar_resnet8", arms=arms))


def test_the_examples_recipe_is_what_the_command_reads(parts, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr("jpegdl.comparison.compare", lambda config, **_: calls.append(config) or 1 / 0)
    from jpegdl.cli import main

    assert main(["compare", "--config", str(EXAMPLES / "my_parts.yaml"), "--seeds", "2"]) == 1
    (config,) = calls
    check_compare(config)
    assert config.arm_names == ["plain", "jpeg-dl", "dead-zone", "slow-tables"]
    assert config.arm_run("slow-tables").training.layer_optimizer.lr == 0.0003
    assert build_layer(config.arm_run("dead-zone").layer, None, 32).zone == 0.3


def test_a_few_of_the_arms_that_a_file_defines(parts, monkeypatch):
    calls = []
    monkeypatch.setattr("jpegdl.comparison.compare", lambda config, **_: calls.append(config) or 1 / 0)
    from jpegdl.cli import main

    mine, other = str(EXAMPLES / "my_parts.yaml"), parts.with_name("other.yaml")
    other.write_text("arms: [plain, {slow-tables: {training: {layer_optimizer: {lr: 0.5}}}}]\n", encoding="utf-8")
    command = ["compare", "--config", mine, "--arms", "[plain, dead-zone, slow-tables]", "--config", str(other)]
    assert main(command) == main(command[:-2]) == 1
    last, first = calls
    for config in calls:
        check_compare(config)
        assert config.arm_names == ["plain", "dead-zone", "slow-tables"]
        assert config.arm_run("dead-zone").layer.options == {"zone": 0.3}
    assert first.arm_run("slow-tables").training.layer_optimizer.lr == 0.0003
    assert last.arm_run("slow-tables").training.layer_optimizer.lr == 0.5  # of two files that define an arm, the last wins
    config = jpegdl.read_config(mine, {"arms": ["slow-tables", "ste"]})
    assert config.arm_names == ["slow-tables", "ste"]
    assert config.arm_run("slow-tables").training.layer_optimizer.lr == 0.0003
    with pytest.raises(UsageError, match="no arm 'dead-zome'"):
        check_compare(jpegdl.read_config(mine, {"arms": ["dead-zome"]}))


def test_settings_from_python():
    config = jpegdl.read_config("demo", {"seeds": 5, "training": {"epochs": 3, "optimizer": {"lr": 0.5}}, "arms": ["plain"]})
    assert (config.seeds, config.training.epochs, config.training.optimizer.lr, config.arms) == (5, 3, 0.5, ["plain"])
    recipe = jpegdl.read_config("demo")
    assert (config.name, config.data, config.layer) == ("demo", recipe.data, recipe.layer)
    assert config.training.optimizer.weight_decay == recipe.training.optimizer.weight_decay  # beside what changed
    mine = jpegdl.read_config(EXAMPLES / "my_parts.yaml")
    assert mine.own_arms["dead-zone"].layer["options"] == {"zone": 0.3}
    for changes, message in (
        ({"seedz": 5}, "there is no setting seedz; did you mean seeds"),
        ({"training": {"epochs": "many"}}, "training.epochs.*many"),
    ):
        with pytest.raises(UsageError, match=message):
            jpegdl.read_config("demo", changes)
    with pytest.raises(UsageError, match=r"no recipe 'dmeo' and no such file; did you mean demo\?"):
        jpegdl.read_config("dmeo")


@pytest.mark.usefixtures("few_photos")
def test_the_package_is_its_own_main_function(tmp_path):
    done = jpegdl.compare(_config(tmp_path, backbone="cifar_resnet8"))
    assert isinstance(done, jpegdl.comparison.Comparison)
    assert str(done).startswith("| arm")
    assert done.verdict in str(done)
    assert {"summary.json", "summary.md", "summary.csv", "summary.tex", "curves.png"} <= {
        path.name for path in done.folder.iterdir()
    }


class _Shades:
    """A data set of grey images, bright ones of class 1."""

    def __init__(self, count):
        self.targets = [index % 2 for index in range(count)]

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        return Image.new("RGB", (20, 20), (3 * index % 90 + 100 * self.targets[index],) * 3), self.targets[index]


@pytest.mark.usefixtures("no_figures")
def test_a_data_set_as_python_objects(tmp_path):
    config = _config(tmp_path, backbone="cifar_resnet8", data=DataConfig(size=16, resize=20, batch_size=16), jobs=None)
    sets = (_Shades(32), _Shades(20), ["dark", "bright"])
    done = jpegdl.compare(config, sets)
    assert done.summary["failed"] == []
    assert done.summary["data"] == "object"
    assert open_run(done.results[1].folder).classes == ["dark", "bright"]
    metrics = evaluate_run(config, "jpeg-dl", 0, sets=(None, _Shades(20), ["dark", "bright"]))
    assert (metrics["accuracy"], metrics["images"], metrics["other_images"]) == (done.results[1].accuracy, 20, None)
    with pytest.raises(UsageError, match="must be given again"):
        evaluate_run(config, "jpeg-dl", 0)
    with pytest.raises(UsageError, match="was trained on other data"):
        jpegdl.compare(config, (_Shades(32), _Shades(22), ["dark", "bright"]))
    with pytest.raises(UsageError, match="jobs must be 1 .* Python objects, got 2"):
        jpegdl.compare(replace(config, jobs=2), sets)
    with pytest.raises(UsageError, match="data.name is 'photos'.* Python objects"):
        jpegdl.compare(replace(config, data=replace(config.data, name="photos")), sets)


def test_changed_code_is_said_of_data_sets_and_layers_as_python_objects(tmp_path, module, monkeypatch):
    """No name in the settings says where they are from: all modules that are imported and the user's count."""
    module("shades", "from test_own_parts import _Shades\nclass Layer(nn.Identity): pass\n")
    shades = importlib.import_module("shades")
    small = {"data": DataConfig(size=16, resize=20, batch_size=16), "jobs": None}
    config = _config(tmp_path, backbone="cifar_resnet8", arms=["plain"], **small)
    sets = (shades._Shades(32), shades._Shades(20), ["dark", "bright"])
    assert "shades" in jpegdl.compare(config, sets).results[0].folder.result()["code"]
    # A set by its name has nothing of them, and what a script happens to import has no hand in its numbers.
    assert digests_of_code(replace(config.arm_run("plain"), data=replace(config.data, name="photos"))) == {}
    module("shades", "# other code\n")
    with pytest.warns(UserWarning, match="was trained with other code: the file with shades has changed since"):
        jpegdl.compare(config, sets)
    monkeypatch.delitem(sys.modules, "shades")


def test_the_code_of_loggers_and_of_classes_by_either_name(module, monkeypatch):
    module("own_loggers", "class Mine: pass\n")
    importlib.import_module("own_loggers")
    for path in ("own_loggers.Mine", "own_loggers:Mine"):
        for setting in ("callbacks", "loggers"):
            found = digests_of_code(RunConfig(training=TrainingConfig(**{setting: [path, "CSVLogger"]})))
            assert "own_loggers:Mine" in found
            assert "own_loggers" not in found
    monkeypatch.delitem(sys.modules, "own_loggers")


@pytest.mark.usefixtures("few_photos", "no_figures")
def test_what_is_wrong_from_the_start_leaves_nothing_behind(tmp_path, module):
    module("bad_models", MODELS)
    with pytest.raises(
        UsageError, match=r"^backbone 'bad_models:failing' failed, called with num_classes=18: RuntimeError: no luck"
    ):
        compare(_config(tmp_path, backbone="bad_models:failing"))
    pickled = tmp_path / "weights.pth"
    torch.save(torch.nn.Linear(2, 2), pickled)
    with pytest.raises(UsageError, match=r"^weights .*weights.pth .*hold code"):
        compare(_config(tmp_path, backbone="resnet18", weights=str(pickled)))
    assert not (tmp_path / "runs").exists()


CLASSES = """
class Late(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, num_classes))
    def forward(self, x):
        if len(x) > 2:
            raise ValueError("only two images")
        return self.net(x)
def leaving(num_classes):
    raise SystemExit(0)
def endless(num_classes):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, num_classes), Nan())
class Nan(nn.Module):
    def forward(self, x):
        return x / 0
"""


@pytest.mark.usefixtures("few_photos", "no_figures")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Late", r"late_models:Late failed in training: ValueError: only two images \(late_models.py, line 10\)"),
        ("leaving", "backbone 'late_models:leaving' failed, called with num_classes=18: SystemExit: 0"),
        ("endless", "gives logits that are not finite for black images"),
    ],
)
def test_the_users_code_is_named_where_it_fails(tmp_path, module, name, message):
    module("late_models", CLASSES)
    with pytest.raises(UsageError, match=message):
        train_arm(_config(tmp_path, backbone=f"late_models:{name}"), "plain", 0)


def test_a_layer_with_any_arguments_gets_them_all(module):
    module(
        "own_any",
        "from jpegdl import JpegLayer\n"
        "class Any(JpegLayer):\n"
        "    def __init__(self, *args, **kwargs):\n        super().__init__(*args, **kwargs)\n"
        "class Bare(nn.Module):\n    def forward(self, x):\n        return x\n",
    )
    config = LayerConfig(kind="own_any:Any", alpha=1.0, bits=11)
    layer = build_layer(config, (torch.full((8, 8), 3.0), torch.full((8, 8), 4.0)), 16)
    assert (layer.luma[0, 0].item(), layer.bits, layer.alpha.unique().tolist()) == (3, 11, [1])
    assert layer_kind(config).from_tables
    with pytest.warns(UserWarning, match=r"'own_any:Bare' does not take layer.alpha 1.0, layer.tables 'ones'"):
        check_layer(LayerConfig(kind="own_any:Bare", alpha=1.0, tables="ones"), 16)


def test_compare_says_what_it_takes():
    with pytest.raises(UsageError, match="config must be a CompareConfig, got str; jpegdl.read_config makes one"):
        jpegdl.compare("demo")


@pytest.mark.usefixtures("few_photos", "no_figures")
def test_a_saved_model_says_which_code_it_needs(tmp_path, parts):
    config = _config(tmp_path)
    train_arm(config, "plain", 0)
    jpegdl.load(config.run_folder("plain", 0).path, "cpu").save_pretrained(tmp_path / "saved")
    card = (tmp_path / "saved/README.md").read_text(encoding="utf-8")
    assert "must be importable where it is opened: my_parts:make_model" in card
    assert 'jpegdl.load("FOLDER")' in card
    images = torch.rand(2, 3, 16, 16)
    again = jpegdl.load(tmp_path / "saved", "cpu")
    assert torch.equal(again(images), open_run(config.run_folder("plain", 0)).model(images))
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UsageError, match="file/x cannot be made: Not a directory"):
        again.save_pretrained(tmp_path / "file/x")
