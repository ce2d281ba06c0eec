"""The kinds of layer: how one becomes a kind, and that documents and help name those there are."""

from pathlib import Path

import pytest
import torch
from torch import nn

import jpegdl
from jpegdl.cli import COMMANDS
from jpegdl.comparison import ARMS
from jpegdl.errors import UsageError
from jpegdl.layer import (
    LAYER_KINDS,
    GainLayer,
    ImageLayer,
    LayerConfig,
    build_layer,
    check_layer,
    layer_kind,
    register_layer,
    registry,
    storable_kinds,
)

TABLES = (torch.full((8, 8), 2.0), torch.full((8, 8), 3.0))
DOCS = Path(jpegdl.__file__).parents[2] / "docs"


@pytest.fixture
def registered(monkeypatch):
    """What is registered in a test is forgotten after it."""
    list(LAYER_KINDS)
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    yield
    registry._kinds.cache_clear()


@pytest.mark.usefixtures("registered")
def test_a_layer_is_a_kind_by_what_stands_above_its_class():
    @register_layer("inverse", "images with white for black")
    class Inverse(ImageLayer):
        def round_trip(self, images):
            return 1 - images

    config = LayerConfig(kind="inverse")
    check_layer(config, 16)
    helped = " ".join(COMMANDS["compare"].parser().format_help().split())
    assert helped.count("inverse (images with white for black)") == 2  # among the kinds, and the arms
    layer = build_layer(config, TABLES, 16)
    assert isinstance(layer, Inverse)
    assert torch.equal(layer(torch.zeros(1, 3, 8, 8)), torch.ones(1, 3, 8, 8))
    assert (layer_kind(config).tables, layer_kind(config).from_tables) == (None, False)
    assert next(iter(LAYER_KINDS)) == "jpeg"
    assert list(LAYER_KINDS)[-1] == "none"
    with pytest.raises(UsageError, match="inverse,.*none, or your own.*got 'invers'.*did you mean inverse"):
        layer_kind(LayerConfig(kind="invers"))


@pytest.mark.usefixtures("registered")
def test_two_layers_of_one_kind_are_refused():
    with pytest.raises(ValueError, match="kind 'gain' already: a trained gain"):
        register_layer("gain", "another")(GainLayer)


def test_kinds_are_found_whatever_is_imported_first(fresh):
    code = "from jpegdl.layer.registry import LAYER_KINDS; print(*LAYER_KINDS)"
    assert fresh(code).stdout.split() == list(LAYER_KINDS)


def test_only_these_kinds_are_stored():
    assert storable_kinds() == {"jpeg": "4:4:4", "subsampled": "4:2:0"}


def test_the_class_of_every_kind_is_one_import_away():
    classes = {kind.layer.__name__: kind.layer for kind in LAYER_KINDS.values() if kind.layer is not None}
    assert set(classes) <= set(jpegdl.layer.__all__), "src/jpegdl/layer/__init__.py lists what may be imported from it"
    assert {name: getattr(jpegdl.layer, name) for name in classes} == classes


@pytest.mark.parametrize("kind", LAYER_KINDS)
def test_what_the_record_says_is_what_is_built(kind):
    layer = build_layer(LayerConfig(kind=kind), TABLES, 16)
    assert type(layer) is (LAYER_KINDS[kind].layer or nn.Identity)


def test_options_by_type_are_options_by_name():
    """A layer that unpacks a typed dictionary takes the names in it, and no others."""
    kind = LayerConfig(kind="jpegdl.layer:FeatureJpegLayer", alpha=2.0, bits=6, options={"channels": 3})
    layer = build_layer(kind, TABLES, 16)
    assert (layer.bits, layer.alpha.shape, layer.alpha[0, 0, 0].item()) == (6, (3, 8, 8), 2)
    assert not layer_kind(kind).from_tables
    regional = LayerConfig(kind="jpegdl.layer:RegionalJpegLayer", bits=6, options={"region": 8})
    layer = build_layer(regional, TABLES, 16)
    assert (layer.size, layer.bits, layer.luma.shape) == ((16, 16), 6, (2, 2, 8, 8))
    assert layer_kind(regional).from_tables
    assert not layer_kind(regional).single  # no other arm can start from its tables


# ------------------------------------------------------------------------------------------------------------ documents


def test_every_kind_but_those_of_the_recipe_has_an_arm_of_its_name():
    for name, kind in LAYER_KINDS.items():
        if name not in ("jpeg", "none"):
            assert ARMS[name].layer == {"kind": name}
            assert ARMS[name].about == kind.about


def test_the_help_names_every_kind_and_every_arm():
    helped = {action.dest: " ".join(action.help.split()) for action in COMMANDS["compare"].parser()._actions if action.help}
    for setting, entries in (("layer.kind", LAYER_KINDS), ("arms", ARMS)):
        assert ", ".join(f"{name} ({entry.about})" for name, entry in entries.items()) in helped[setting]


def test_the_table_of_kinds_is_that_of_the_registry():
    if not DOCS.is_dir():
        pytest.skip("an installed package has no docs")
    trained = {"steps": "steps", "scales": "scales", "gains": "gains", None: ""}
    rows = [f"| `{name}` | {kind.about} | {trained[kind.tables]} |" for name, kind in LAYER_KINDS.items()]
    table = "\n".join(["| kind | what it is | its tables |", "|---|---|---|", *rows])
    assert table in (DOCS / "reference" / "controls.md").read_text(encoding="utf-8"), (
        f"docs/reference/controls.md needs this table:\n{table}"
    )
