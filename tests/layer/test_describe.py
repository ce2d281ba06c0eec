"""What is said of a layer's tables in files."""

import json

import pytest
import torch
from torch import nn

from jpegdl import JpegLayer
from jpegdl.errors import UsageError
from jpegdl.layer import (
    LAYER_KINDS,
    CompandingLayer,
    FeatureJpegLayer,
    GainLayer,
    JpegCascade,
    LayerConfig,
    RegionalJpegLayer,
    SubsampledJpegLayer,
    build_layer,
    describe_tables,
)
from jpegdl.tables import KINDS, before_and_after, read_tables, standard_tables


def _numbers(tables):
    return {name: tuple(torch.tensor(table).shape) for name, table in tables.items()}


def test_a_jpeg_layer():
    layer = JpegLayer(*standard_tables(50), hardness=0.7, bits=11, window=3, rounding="hard")
    description = describe_tables(layer)
    tables = description.pop("tables")
    assert description == {
        "layer": "JpegLayer",
        "kind": "steps",
        "subsampling": "4:4:4",
        "bits": 11,
        "window": 3,
        "hardness": 0.7,
        "rounding": "hard",
    }
    assert list(tables) == ["luma", "chroma", "alpha_luma", "alpha_chroma"]
    assert torch.equal(torch.tensor(tables["luma"]), standard_tables(50)[0])
    assert torch.equal(torch.tensor(tables["alpha_chroma"]), layer.alpha[2])


@pytest.mark.parametrize(
    ("layer", "kind", "shapes"),
    [
        (
            JpegLayer(hardness=0.7, trainable_alpha=True),
            "steps",
            dict.fromkeys(["luma", "chroma", "hardness_luma", "hardness_chroma", "alpha_luma", "alpha_chroma"], (8, 8)),
        ),
        (
            RegionalJpegLayer(size=(64, 96)),
            "steps",
            dict.fromkeys(["luma", "chroma", "alpha_luma", "alpha_chroma"], (2, 3, 8, 8)),
        ),
        (FeatureJpegLayer(channels=5), "steps", dict.fromkeys(["table", "alpha_table"], (5, 8, 8))),
        (CompandingLayer(3.0, 4.0), "scales", dict.fromkeys(["luma", "chroma"], (8, 8))),
        (GainLayer(), "gains", dict.fromkeys(["luma", "chroma"], (8, 8))),
        (nn.Identity(), None, {}),
        (nn.Linear(3, 2), None, {"weight": (2, 3), "bias": (2,)}),
    ],
)
def test_every_layer_says_what_its_numbers_are(layer, kind, shapes):
    description = json.loads(json.dumps(describe_tables(layer)))
    assert description["layer"] == type(layer).__name__
    assert description["kind"] == kind
    assert _numbers(description["tables"]) == shapes


@pytest.mark.parametrize("wrap", [JpegCascade, lambda layers: nn.Sequential(*layers)])
def test_layers_within_a_layer_are_described_one_by_one(wrap):
    description = describe_tables(wrap([JpegLayer(bits=9, window=3), SubsampledJpegLayer()]))
    assert description["kind"] == "steps"
    assert [description["parts"][name]["bits"] for name in ("0", "1")] == [9, 8]
    assert [description["parts"][name]["subsampling"] for name in ("0", "1")] == ["4:4:4", "4:2:0"]
    names = ["luma", "chroma", "alpha_luma", "alpha_chroma"]
    assert set(description["tables"]) == {f"{part}.{name}" for part in "01" for name in names}
    assert describe_tables(wrap([JpegLayer(), GainLayer()]))["kind"] == "mixed"


def test_steps_in_effect_are_described():
    class Squared(JpegLayer):
        @property
        def steps(self):
            return super().steps ** 2

    assert describe_tables(Squared(3.0))["tables"]["luma"] == [[9.0] * 8] * 8


@pytest.mark.parametrize("kind", LAYER_KINDS)
def test_the_records_of_kinds_are_right(kind):
    layer = build_layer(LayerConfig(kind=kind), (torch.full((8, 8), 2.0), torch.full((8, 8), 3.0)), 64)
    record, description = LAYER_KINDS[kind], describe_tables(layer)
    assert description["kind"] == record.tables
    assert record.tables in (None, *KINDS)
    assert record.single == (_numbers(description["tables"]).get("luma", (8, 8)) == (8, 8) and "parts" not in description)
    assert record.from_tables == (record.tables in ("steps", "scales"))


def test_a_run_file_is_read_back_where_it_holds_steps(tmp_path):
    file = tmp_path / "tables.json"

    def write(before, after):
        file.write_text(json.dumps(before_and_after(describe_tables(before), describe_tables(after))), encoding="utf-8")
        return json.loads(file.read_text(encoding="utf-8"))

    content = write(JpegLayer(2.0, 3.0), JpegLayer(4.0, 5.0, bits=11))
    assert (content["kind"], content["bits"], content["window"], content["subsampling"]) == ("steps", 11, 5, "4:4:4")
    assert (content["before"]["luma"][0][0], content["after"]["luma"][0][0]) == (2, 4)
    luma, chroma = read_tables(file)
    assert (luma == 4).all()
    assert (chroma == 5).all()
    write(GainLayer(), GainLayer())
    with pytest.raises(UsageError, match=r"tables of kind 'gains' \(factors of the coefficients\);.*'steps'"):
        read_tables(file)
    write(CompandingLayer(2.0, 3.0), CompandingLayer(2.0, 3.0))
    with pytest.raises(UsageError, match=r"tables of kind 'scales' \(scales of a compander\)"):
        read_tables(file)
    write(JpegCascade([JpegLayer()]), JpegCascade([JpegLayer()]))
    with pytest.raises(UsageError, match=r"no tables for luma and chroma, but 0.luma, 0.chroma"):
        read_tables(file)
    write(nn.Identity(), nn.Identity())
    with pytest.raises(UsageError, match=r"no tables for luma and chroma: it should be JSON"):
        read_tables(file)
