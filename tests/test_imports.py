"""What is imported when; each in a process of its own, because this one has imported everything."""

import gc
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import jpegdl
from jpegdl.extras import EXTRAS, pip_name
from jpegdl.processes import lean_imports

HEAVY = ("PIL", "jsonargparse", "lightning", "matplotlib", "numba", "scipy", "skimage", "timm", "torch._dynamo", "torchvision")


def _imported(code, *names):
    """Which of ``names`` a process has imported that ran ``code``."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{_report(names)}"], capture_output=True, timeout=300, check=False, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    return done.stderr.split()


def _report(names):
    return f"import sys; print(*[name for name in {names!r} if name in sys.modules], file=sys.stderr)"


@pytest.mark.parametrize(
    "code",
    [
        "from jpegdl import JpegLayer, prepend; import torch\n"
        "prepend(torch.nn.Flatten(), JpegLayer())(torch.rand(1, 3, 8, 8).double())",
        "from jpegdl import RandomJpeg, jpeg; import torch; RandomJpeg(rounding='soft')(torch.rand(1, 1, 8, 8).double())",
        "import jpegdl; jpegdl.functional.block_dct; jpegdl.tables.standard_tables; jpegdl.layer.JpegCascade",
    ],
    ids=["the layer", "the codec as a function", "submodules as attributes"],
)
def test_these_bring_pytorch_alone(fresh, code):
    done = fresh(f"{code}\n{_report(HEAVY)}")
    assert (done.returncode, done.stderr) == (0, "\n")


def test_each_room_brings_what_it_needs(fresh):
    """In this order, so that each step shows what it has brought."""
    steps = [
        ("jpegdl.calibrate.sensitivity_tables; jpegdl.data.DataConfig; jpegdl.runs.RunConfig", []),
        ("import jpegdl.runs.opened, jpegdl.runs.progress, jpegdl.runs.pieces, jpegdl.report", ["timm"]),
        ("import jpegdl.backbones; assert sys.modules['timm'].is_model('cifar_resnet20')", ["timm"]),
        ("jpegdl.training.train_run", ["timm", "lightning"]),
    ]
    told = _report(("timm", "lightning"))
    done = fresh("import jpegdl, sys\n" + "\n".join(f"{code}\n{told}" for code, _ in steps))
    assert done.returncode == 0, done.stderr
    assert [line.split() for line in done.stderr.splitlines()] == [brought for _, brought in steps]


def test_a_page_without_what_other_commands_found_brings_no_networks(fresh):
    done = fresh(f"from jpegdl.report import write_report\n{_report(('lightning', 'timm', 'torchvision'))}")
    assert (done.returncode, done.stderr) == (0, "\n")


def test_what_the_package_does_not_have():
    with pytest.raises(AttributeError, match="module 'jpegdl' has no attribute 'JpegLayr'"):
        jpegdl.JpegLayr  # noqa: B018
    with pytest.raises(ImportError, match="prepent"):
        from jpegdl import prepent  # noqa: F401
    assert {"JpegLayer", "prepend", "functional", "tables", "calibrate", "__version__"} <= set(dir(jpegdl))


@pytest.mark.parametrize(("arguments", "status"), [([], 0), (["--help"], 0), (["--version"], 0), (["paint"], 2)])
def test_the_command_without_a_command_imports_nothing(arguments, status):
    code = f"import sys; sys.stderr = sys.stdout; from jpegdl.cli import main; assert main({arguments}) == {status}"
    assert _imported(f"{code}; sys.stderr = sys.__stderr__", "torch", "numpy", "yaml", *HEAVY) == []


def test_listing_recipes_needs_no_pytorch():
    assert _imported("from jpegdl.cli import main; main(['recipes'])", "torch", "lightning", "timm") == []


def test_the_console_script_imports_nothing_before_main():
    """What it imports is imported outside ``main``, which could not catch an interrupt there."""
    assert _imported("import jpegdl.cli", "torch", "numpy", "yaml", *HEAVY) == []


def test_no_garbage_is_collected_while_a_process_first_imports(monkeypatch):
    with lean_imports():
        assert gc.isenabled()  # as PyTorch is there
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(gc.isenabled()))
    frozen = []
    with lean_imports():
        assert not gc.isenabled()
    assert gc.isenabled()
    assert frozen == [False]


# ------------------------------------------------------------------------------------------------- without the extras' packages

ALL = tuple(package for packages in EXTRAS.values() for package in packages)


def test_the_layer_trains_and_calibrates_with_pytorch_numpy_and_numba_alone(fresh):
    code = """
import torch, jpegdl
from torch import nn
from jpegdl import JpegLayer, parameter_groups, prepend
from jpegdl.calibrate import magnitude_tables, sensitivity_tables
loader = [(torch.rand(4, 3, 16, 16), torch.tensor([0, 1, 1, 0]))]
net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
tables = sensitivity_tables(prepend(net, nn.Identity()), loader)
model = prepend(net, JpegLayer(*tables))
optimizer = torch.optim.AdamW(parameter_groups(model, lr=1e-3, layer_lr=3e-3))
nn.functional.cross_entropy(model(loader[0][0]), loader[0][1]).backward()
optimizer.step()
print(len(magnitude_tables(loader)), jpegdl.tables.standard_tables(75)[0].shape)
"""
    done = fresh(code, ALL)
    assert (done.returncode, done.stdout) == (0, "2 torch.Size([8, 8])\n"), done.stderr


def test_without_numba_pytorchs_own_operations_take_over(fresh):
    code = "import torch, warnings; from jpegdl import JpegLayer\n"
    code += "with warnings.catch_warnings(record=True) as said:\n    warnings.simplefilter('always')\n"
    code += "    JpegLayer()(torch.rand(1, 3, 16, 16, requires_grad=True)).sum().backward()\n"
    code += "print(*[warning.message for warning in said])"
    done = fresh(code, [*ALL, "numba", "llvmlite"])
    assert done.returncode == 0, done.stderr
    assert re.search("kernels for cpu do not work.*PyTorch's own", done.stdout)
    assert done.stdout.count("import of numba halted") == 1


@pytest.mark.parametrize("name", ["compare", "load", "read_config", "training", "report", "explain.explain_run"])
def test_a_larger_room_without_its_packages_says_what_to_install(fresh, name):
    done = fresh(f"import jpegdl\ntry: jpegdl.{name}\nexcept ImportError as error: print(error)", ALL)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(", which is not installed: pip install '.[train]' in a checkout of jpegdl\n")


@pytest.mark.parametrize(
    "code",
    [
        "import jpegdl.training.trainer",
        "from jpegdl.data.images import ImageSet",
        "from jpegdl.data.sources.photos import photograph",
        "from jpegdl.training.plugins import check_plugins",
        "from jpegdl.classifier import load",
        "import jpegdl.robustness.trials",
    ],
)
def test_a_module_deep_within_a_larger_room_says_so_too(fresh, code):
    done = fresh(f"try: {code}\nexcept ImportError as error: print(type(error).__name__, error)", ALL)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("MissingPackageError this needs ")
    assert done.stdout.endswith(", which is not installed: pip install '.[train]' in a checkout of jpegdl\n")
    assert done.stdout.count("\n") == 1


def test_other_modules_that_are_missing_are_pythons_to_name(fresh):
    done = fresh("import importlib.util as util\nprint(util.find_spec('wandb_'))\nimport jpegdl.no_such_module")
    assert done.stdout == "None\n"
    assert done.stderr.endswith("ModuleNotFoundError: No module named 'jpegdl.no_such_module'\n")


@pytest.mark.parametrize(
    ("arguments", "packages", "extra"),
    [
        (["attack"], ["PIL"], "attack"),
        (["export", "model.onnx"], ["jsonargparse"], "export"),
        (["compare"], ["lightning"], "train"),
        (["recipes", "demo"], ["yaml"], "train"),
        (["compare", "--config", "demo", "--output", "{folder}"], ["skimage"], "demo"),
        (["completion", "bash"], ["shtab"], "completion"),
    ],
)
def test_a_command_without_its_packages_says_so_on_one_line(fresh, arguments, packages, extra, tmp_path):
    arguments = [argument.format(folder=tmp_path) for argument in arguments]
    code = f"import sys; from jpegdl.cli import main; sys.exit(main({arguments!r}))"
    done = fresh(code, packages)
    assert done.returncode == 1, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("jpegdl: error:")]
    assert len(lines) == 1
    assert f"pip install '.[{extra}]' in a checkout of jpegdl" in lines[0]
    assert "Traceback" not in done.stderr


def test_every_package_of_an_extra_is_one_that_pip_installs():
    content = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for extra, packages in EXTRAS.items():
        listed = " ".join(content["optional-dependencies"][extra])
        for package in packages:
            assert re.search(rf"(^|\s){pip_name(package)}\b", listed), (extra, package)
    assert {re.split(r"[><=]", line)[0] for line in content["dependencies"]} == {
        "torch", "numpy", "numba", "llvmlite", "typing-extensions",
    }  # fmt: skip


def test_hooks_of_others_are_asked_before_ours():
    code = """
import sys
class Hook:
    asked = []
    def find_spec(self, name, path=None, target=None): self.asked.append(name)
sys.meta_path.insert(0, Hook())
import jpegdl.errors
assert "jpegdl.errors" in Hook.asked
"""
    assert _imported(code, "torch") == []
