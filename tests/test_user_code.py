"""Names of the user's own code."""

import pytest

from jpegdl.errors import UsageError
from jpegdl.user_code import find_object, is_own, source_digest


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A function that writes a module and makes it importable."""

    def write(name, text):
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
        return name

    monkeypatch.syspath_prepend(tmp_path)
    return write


@pytest.mark.parametrize("name", ["my_models:make", "a.b.c:D", "a:B.c"])
def test_own_names(name):
    assert is_own(name)


@pytest.mark.parametrize(
    "name",
    ["resnet18", "resnet18.a1_in1k", "standard:75", "hf-hub:timm/x", "hf_hub:resnet", "local-dir:x", "a/b:c", "a:", ":b"],
)
def test_other_names(name):
    assert not is_own(name)


def test_an_object_is_found_by_its_name(module):
    module("own_found", "class Net:\n    @staticmethod\n    def make():\n        return 7\n")
    assert find_object("own_found:Net.make", "backbone")() == 7


def test_what_is_not_there_is_named(module):
    module("own_absent", "def make_model(): pass\n")
    with pytest.raises(UsageError, match=r"^backbone 'own_nowhere:f': there is no module 'own_nowhere'"):
        find_object("own_nowhere:f", "backbone")
    with pytest.raises(UsageError, match=r"^layer.kind 'own_absent:make_modl': there is no 'make_modl'.*mean make_model\?"):
        find_object("own_absent:make_modl", "layer.kind")


def test_code_that_fails_is_told_from_a_module_that_is_missing(module):
    module("own_failing", "\nraise RuntimeError('no\\nluck')\n")
    module("own_needing", "import surely_not_installed\n")
    with pytest.raises(UsageError, match=r"importing own_failing failed: RuntimeError: no luck \(own_failing.py, line 2\)"):
        find_object("own_failing:f", "backbone")
    with pytest.raises(UsageError, match="own_needing.*'surely_not_installed'"):
        find_object("own_needing:f", "backbone")


def test_the_digest_is_that_of_the_code(module):
    module("own_code_a", "def f(): return 1\n")
    module("own_code_b", "def f(): return 2\n")
    for name in ("own_code_a:f", "own_code_b:f"):
        find_object(name, "backbone")
    assert source_digest("own_code_a:f") != source_digest("own_code_b:f")
    assert source_digest("own_never_imported:f") is None
