"""What a layer keeps in its state dict, and what becomes of its tables in other precisions."""

import functools
import json

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from jpegdl import JpegLayer, prepend
from jpegdl import functional as F
from jpegdl.errors import UsageError
from jpegdl.layer import (
    CompandingLayer,
    FeatureJpegLayer,
    GainLayer,
    ImageNormalization,
    JpegCascade,
    RegionalJpegLayer,
    ZeroDcJpegLayer,
)
from jpegdl.layer.extra_state import decode

TABLES = (torch.rand(8, 8, generator=torch.Generator().manual_seed(1)) * 9 + 1, torch.full((8, 8), 4.0))
IMAGES = torch.linspace(0, 1, 2 * 3 * 16 * 16).view(2, 3, 16, 16)


# -------------------------------------------------------------------------------------------------- settings in the state


@pytest.mark.parametrize(
    ("saved", "loading", "message"),
    [
        (lambda: JpegLayer(bits=8), lambda: JpegLayer(bits=11), "a JpegLayer with bits=8, and this one has bits=11"),
        (lambda: JpegLayer(), lambda: JpegLayer(bits=None), "bits=8, and this one has bits=None"),
        (lambda: JpegLayer(window=3), lambda: JpegLayer(), "window=3, and this one has window=5"),
        (lambda: JpegLayer(), lambda: JpegLayer(hardness=0.7), "hardness=None, and this one has hardness=0.7"),
        (lambda: JpegLayer(hardness=0.7), lambda: JpegLayer(), "hardness=0.7, and this one has hardness=None"),
        (lambda: JpegLayer(hardness=0.7), lambda: JpegLayer(hardness=3), "hardness=0.7, and this one has hardness=3.0"),
        (lambda: JpegLayer(hardness=0.7, trainable_alpha=True), lambda: JpegLayer(hardness=0.7), "hardness='trained'"),
        (lambda: JpegLayer(bits=4, window=3), lambda: JpegLayer(), "bits=4, window=3, and this one has bits=8, window=5"),
        (lambda: JpegLayer(), lambda: ZeroDcJpegLayer(), "is that of a JpegLayer, and this layer is a ZeroDcJpegLayer"),
        (lambda: RegionalJpegLayer(size=64), lambda: JpegLayer(), "is that of a RegionalJpegLayer"),
        (lambda: RegionalJpegLayer(size=64), lambda: RegionalJpegLayer(size=40), r"size=\[64, 64\], and .* size=\[40, 40\]"),
        (
            lambda: CompandingLayer(1.0, 1.0),
            lambda: CompandingLayer(1.0, 1.0, curve="tanh"),
            "curve='log', and .* curve='tanh'",
        ),
        (lambda: GainLayer(), lambda: CompandingLayer(1.0, 1.0), "is that of a GainLayer"),
        (lambda: FeatureJpegLayer(bits=4), lambda: FeatureJpegLayer(), "a FeatureJpegLayer with bits=4"),
        (lambda: ImageNormalization(0.4), lambda: ImageNormalization(0.5), "mean=0.4, and this one has mean=0.5"),
        (lambda: JpegCascade([JpegLayer(bits=9)]), lambda: JpegCascade([JpegLayer()]), "bits=9, and this one has bits=8"),
    ],
)
def test_the_state_of_a_layer_with_other_settings_is_refused(saved, loading, message):
    layer = loading()
    before = {name: table.clone() for name, table in layer.named_parameters()}
    with pytest.raises(UsageError, match=message):
        prepend(nn.Identity(), layer).load_state_dict(prepend(nn.Identity(), saved()).state_dict(), strict=False)
    assert all(torch.equal(table, before[name]) for name, table in layer.named_parameters())  # nothing is half loaded


def test_another_rounding_is_a_warning_and_stays():
    layer = JpegLayer(rounding="hard")
    with pytest.warns(UserWarning, match="with rounding='soft';.*rounding='hard'"):
        layer.load_state_dict(JpegLayer(3.0).state_dict())
    assert layer.rounding == "hard"
    assert (layer.luma == 3).all()


@pytest.mark.filterwarnings("error")
def test_what_is_no_setting_is_no_reason_to_refuse():
    """Where a table that is trained starts, and settings that a state does not hold."""
    JpegLayer(hardness=0.8, trainable_alpha=True).load_state_dict(JpegLayer(hardness=0.7, trainable_alpha=True).state_dict())
    JpegLayer(alpha=1.0).load_state_dict(JpegLayer(alpha=2.0, trainable_alpha=True).state_dict())
    JpegLayer(bits=11).load_state_dict({name: value for name, value in JpegLayer().state_dict().items() if "extra" not in name})


def test_a_safetensors_file_of_another_layer_is_refused(tmp_path):
    safetensors.torch.save_file(JpegLayer(bits=4, window=3).state_dict(), tmp_path / "a.safetensors")
    with pytest.raises(UsageError, match="bits=4.* bits=8"):
        safetensors.torch.load_model(JpegLayer(window=3), tmp_path / "a.safetensors")


def test_missing_and_unknown_tables_are_still_told():
    state = JpegLayer().state_dict()
    state["violet"] = state.pop("chroma")
    with pytest.raises(RuntimeError, match=r'(?s)Missing key.*"chroma".*Unexpected key.*"violet"'):
        JpegLayer().load_state_dict(state)
    assert JpegLayer().load_state_dict(state, strict=False).missing_keys == ["chroma"]


@pytest.mark.parametrize("record", [torch.zeros(5), torch.full((256,), 300.0), torch.full((512,), 200, dtype=torch.uint8)])
def test_a_broken_record_is_said_and_the_tables_are_loaded(record):
    layer, state = JpegLayer(), JpegLayer(3.0).state_dict()
    state["_extra_state"] = record
    with pytest.warns(UserWarning, match="_extra_state .* holds no settings"):
        layer.load_state_dict(state)
    assert (layer.luma == 3).all()


AVERAGES = {
    "of two, as timm's avg_checkpoints": lambda a, b: ((a.double() + b.double()) / 2).float(),
    "weighted": lambda a, b: 0.3 * a + 0.7 * b,
    "weighted, back to its dtype": lambda a, b: (0.3 * a + 0.7 * b).to(a.dtype),
    "in half precision": lambda a, b: 0.3 * a.half() + 0.7 * b.half(),
    "in bfloat16": lambda a, b: 0.3 * a.bfloat16() + 0.7 * b.bfloat16(),
    "by numbers of samples": lambda a, b: torch.from_numpy((a.float().numpy() * 24 + b.float().numpy() * 37) / 61),
    "moving": lambda a, b: functools.reduce(lambda s, _: 0.999 * s + 0.001 * b, range(50), a),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("average", AVERAGES)
def test_state_dicts_averaged_entry_by_entry_keep_the_settings(average):
    a, b = JpegLayer(2.0, 3.0, bits=6, window=3).state_dict(), JpegLayer(4.0, 3.0, bits=6, window=3).state_dict()
    mean = {name: AVERAGES[average](a[name], b[name]) for name in a}
    JpegLayer(bits=6, window=3).load_state_dict(mean)
    with pytest.raises(UsageError, match="bits=6, window=3,.*bits=8, window=5"):
        JpegLayer().load_state_dict(mean)


def test_records_survive_every_weight_and_damage_is_never_taken_for_settings():
    record = JpegLayer(bits=6).state_dict()["_extra_state"]
    for w in torch.arange(1, 100) / 100:
        assert decode((w * record + (1 - w) * record).to(torch.uint8)) == JpegLayer(bits=6).settings
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        damaged = record.clone()
        damaged[torch.randint(len(record), (1,), generator=generator)] += 16  # half a byte, as overflow would
        with pytest.warns(UserWarning, match="holds no settings"):
            assert decode(damaged) is None


def test_records_of_earlier_versions_are_read():
    state = JpegLayer(bits=6).state_dict()
    text = json.dumps(JpegLayer(bits=6).settings).encode().ljust(256)
    state["_extra_state"] = torch.tensor(list(text), dtype=torch.uint8)
    JpegLayer(bits=6).load_state_dict(state)
    with pytest.raises(UsageError, match="bits=6, and this one has bits=8"):
        JpegLayer().load_state_dict(state)


def test_states_of_one_kind_of_layer_are_of_one_shape():
    shapes = {
        JpegLayer(hardness=hardness, bits=bits).state_dict()["_extra_state"].shape
        for hardness in (None, 0.7)
        for bits in (8, None)
    }
    assert shapes == {(512,)}


def test_a_subclass_adds_settings_of_its_own():
    class Sharp(JpegLayer):
        edge = 1

        @property
        def settings(self):
            return {**super().settings, "edge": self.edge}

    layer = Sharp()
    layer.edge = 2
    with pytest.raises(UsageError, match="a Sharp with edge=1, and this one has edge=2"):
        layer.load_state_dict(Sharp().state_dict())
    with pytest.raises(UsageError, match="Sharp,.*JpegLayer"):
        JpegLayer().load_state_dict(layer.state_dict())


# --------------------------------------------------------------------------------------------------------- casts, devices


def test_a_layer_of_half_precision_goes_on_training():
    """Adam's step of 0.003 is less than half of what bfloat16 tells apart at 5: rounded tables would stand still."""
    layer = JpegLayer(5.0, 5.0).bfloat16()
    optimizer = torch.optim.Adam(layer.parameters(), 0.003)
    layer(IMAGES.bfloat16()).float().square().sum().backward()
    optimizer.step()
    assert (layer.luma != 5).any()
    assert layer.luma.grad.dtype == torch.float32


@pytest.mark.parametrize("as_given", [lambda table: table, lambda table: table.numpy()])
def test_tables_given_in_float64_are_kept(as_given):
    luma = torch.rand(8, 8, dtype=torch.float64) + 1
    layer = JpegLayer(as_given(luma), 0.1, alpha=0.3)
    assert torch.equal(layer.luma, luma)
    assert layer.chroma[0, 0].item() == 0.1
    assert layer.alpha_luma[0, 0].item() == 0.3
    images = IMAGES.double()
    q = torch.stack((luma, *[torch.full((8, 8), 0.1, dtype=torch.float64)] * 2))[:, None, None]
    by_hand = F.coefficients_to_images(F.soft_quantize(F.images_to_coefficients(images), q, 0.3), (16, 16))
    torch.testing.assert_close(layer(images), by_hand, rtol=1e-12, atol=1e-12)
    assert layer(IMAGES).dtype == torch.float32
    for other in (CompandingLayer(as_given(luma), 1.0), RegionalJpegLayer(as_given(luma), size=16, region=8)):
        assert torch.equal(other.luma, luma.expand_as(other.luma))
    assert torch.equal(FeatureJpegLayer(as_given(luma)).table, luma)


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16])
def test_numbers_and_lists_become_float32_whatever_the_default_is(default):
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        layers = [JpegLayer(0.1, [[0.1] * 8] * 8, alpha=0.3), GainLayer(), CompandingLayer(0.1, np.float32(0.1))]
    finally:
        torch.set_default_dtype(before)
    assert all(parameter.dtype == torch.float32 for layer in layers for parameter in layer.parameters())
    for table in (layers[0].luma, layers[0].chroma, layers[2].luma, layers[2].chroma):
        assert (table == torch.tensor(0.1)).all()
    assert (layers[0].alpha == torch.tensor(0.3)).all()


def test_all_tables_follow_those_given_as_tensors():
    with torch.device("meta"):
        real = JpegLayer(3.0, torch.ones(8, 8, device="cpu"), trainable_alpha=True)
    assert {tensor.device.type for tensor in real.parameters()} == {"cpu"}
    bare = JpegLayer(1.0, TABLES[0].to("meta"))
    assert all(tensor.is_meta for tensor in (*bare.parameters(), *bare.buffers()))


def test_wrong_numbers_are_refused_and_wrong_shapes_on_the_meta_device_too():
    with torch.device("meta"), pytest.raises(UsageError, match=r"of shape \(8, 8\), got shape \(8,\)"):
        JpegLayer(torch.ones(8))
    with torch.device("meta"), pytest.raises(UsageError, match="luma must be finite and greater than 0"):
        JpegLayer(-1.0)
