import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from jpegdl import JpegLayer
from jpegdl import functional as F
from jpegdl.codec import Encoder, Learned, file_tables, learned_tables
from jpegdl.codec.encoder import planes
from jpegdl.codec.learned import carried
from jpegdl.codec.read_back import header_bytes
from jpegdl.data import PHOTOGRAPHS, photograph
from jpegdl.errors import UsageError
from jpegdl.layer import LayerConfig, SubsampledJpegLayer
from jpegdl.runs import RunConfig, RunFolder
from jpegdl.tables import standard_tables, write_tables

RGB = Image.fromarray(photograph("chelsea")).convert("RGB")


def crop(width, height, image=RGB):
    return image.crop((40, 30, 40 + width, 30 + height))


def unit(image):
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None] / 255


def read_levels(tmp_path, content):
    jpeglib = pytest.importorskip("jpeglib")
    (tmp_path / "a.jpg").write_bytes(content)
    file = jpeglib.read_dct(str(tmp_path / "a.jpg"))
    return [torch.from_numpy(plane.astype(np.float32)) for plane in (file.Y, file.Cb, file.Cr) if plane is not None]


def decoded(content):
    return Image.open(io.BytesIO(content))


# --------------------------------------------------------------------------------------------------------------- steps


def test_steps_become_valid_entries():
    luma = torch.tensor([1e-5, 0.4, 1.49, 1.51, 254.6, 255.0, 300.0, 40000.0]).repeat(8, 1)
    tables = file_tables(luma, luma + 1)
    assert tables[0][0].tolist() == [1, 1, 1, 2, 255, 255, 255, 255]
    assert tables[1][0].tolist() == [1, 1, 2, 3, 255, 255, 255, 255]


def test_rounding_to_the_nearest_loses_least():
    """What :func:`file_tables` says of the rules there are."""

    def on_a_logarithmic_scale(table):
        below = table.floor().clamp(min=1)
        return torch.where(table > (below * (below + 1)).sqrt(), below + 1, below)

    generator = torch.Generator().manual_seed(0)
    images = [unit(crop(128, 128, Image.fromarray(photograph(name)).convert("RGB"))) for name in PHOTOGRAPHS[:4]]
    for low, high in ((0.05, 2), (1, 5), (1, 20), (5, 60)):
        luma, chroma = (low * torch.exp(torch.rand(8, 8, generator=generator) * math.log(high / low)) for _ in range(2))
        learned = Learned(luma, chroma, None, "4:4:4", "")

        def distance(rule, learned=learned):
            tables = tuple(rule(table).clamp(1, 255) for table in (learned.luma, learned.chroma))
            return carried(learned, tables, images, subsampling="4:4:4", capped=False).rms

        nearest = distance(torch.round)
        found = file_tables(luma, chroma)
        assert carried(learned, found, images, subsampling="4:4:4", capped=False).rms == nearest
        assert all(nearest < 1.01 * distance(rule) for rule in (on_a_logarithmic_scale, torch.ceil, torch.floor)), (low, high)
        assert low < 1 or nearest < 0.95 * distance(torch.ceil)


def test_whole_steps_without_a_cap_are_carried_whole():
    tables = standard_tables(75)
    found = carried(Learned(*tables, None, "4:4:4", ""), tables, [unit(RGB)], subsampling="4:4:4", capped=False)
    assert (found.other_levels, found.displaced, found.rms, found.held_back) == (0, 0, 0, 0)
    assert found.faithful
    assert str(found).startswith("The files stand for the layer: 0.0 %")


def test_what_is_lost_of_fine_steps_with_a_cap():
    """Steps of 0.02 with 8 bits: the layer holds coefficients within 2.54, which files of step 1 cannot."""
    fine = torch.full((8, 8), 0.02)
    learned, ones = Learned(fine, fine, 8, "4:4:4", ""), (torch.ones(8, 8), torch.ones(8, 8))
    lost = carried(learned, ones, [unit(RGB)], subsampling="4:4:4", capped=False)
    assert not lost.faithful
    assert lost.below_half == 128
    z = learned.layer().to_coefficients(unit(RGB))
    assert lost.held_back == pytest.approx(float((z.abs() > 2.55).float().mean()))
    assert lost.rms > 10
    assert "128 of 128 steps are below 0.5" in str(lost)
    assert "level cap holds" in str(lost)
    assert "not in the files (--exact true" in str(lost)
    assert "Keep the layer" in str(lost)
    capped = carried(learned, ones, [unit(RGB)], subsampling="4:4:4", capped=True)
    assert capped.rms < 0.5
    assert not capped.faithful


def test_tables_of_a_run(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(UsageError, match=r"no run in .*ARM/SEED"):
        learned_tables(str(folder), None)
    luma, chroma = torch.rand(8, 8) + 0.1, torch.rand(8, 8) + 2
    tables = {"kind": "steps", "before": {}, "after": {"luma": luma.tolist(), "chroma": chroma.tolist()}}
    folder.begin(RunConfig(layer=LayerConfig(kind="subsampled", bits=11)), "a", 0, {})
    with pytest.raises(UsageError, match="not finished"):
        learned_tables(str(folder), None)
    folder.write_tables(tables)
    found = learned_tables(str(folder), None)
    assert torch.equal(found.luma, luma)
    assert torch.equal(found.chroma, chroma)
    assert (found.bits, found.subsampling) == (11, "4:2:0")
    assert isinstance(found.layer(), SubsampledJpegLayer)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ({"kind": "cascade"}, "kind 'cascade'"),
        ({"kind": "zero-dc"}, "kind 'zero-dc'"),
        ({"kind": "none"}, "kind 'none'"),
        ({"rounding": "none"}, "does not quantize"),
    ],
)
def test_layers_that_no_file_stands_for(tmp_path, layer, message):
    folder = RunFolder(tmp_path)
    folder.begin(RunConfig(layer=LayerConfig(**layer)), "a", 0, {})
    with pytest.raises(UsageError, match=message):
        learned_tables(str(tmp_path), None)


def test_tables_of_a_file_or_by_name(tmp_path):
    write_tables(
        tmp_path / "a.json", dict(zip(("luma", "chroma"), standard_tables(60), strict=True)), bits=9, subsampling="4:2:0"
    )
    found = learned_tables(None, str(tmp_path / "a.json"))
    assert (found.bits, found.subsampling) == (9, "4:2:0")
    assert torch.equal(found.luma, learned_tables(None, "standard:60").luma)
    for name in ("standard:", "standard:x", "standard:-3"):
        with pytest.raises(UsageError, match=r"standard:Q"):
            learned_tables(None, name)


# ------------------------------------------------------------------------------------------------------------- encoding


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
@pytest.mark.parametrize("size", [(64, 48), (61, 43), (8, 8), (24, 8), (1, 1)])
@pytest.mark.parametrize("bits", [None, 4])
def test_exact_levels_are_the_layers(tmp_path, subsampling, size, bits):
    tables = standard_tables(85)
    cap = F.largest_level(bits)
    limits = None if cap is None else (cap * tables[0], cap * tables[1])
    image = crop(*size)
    content = Encoder(*tables, limits, subsampling, exact=True).encode(image)
    assert decoded(content).size == size
    assert [decoded(content).quantization[i] for i in (0, 1)] == [table.flatten().tolist() for table in tables]
    layer = Learned(*tables, bits, subsampling, "").layer()
    with torch.no_grad():
        values = layer.alter(layer.to_coefficients(unit(image)))
        q = layer.at_blocks(layer.steps)
    ours = (values / q).round()[0]
    if subsampling == "4:2:0":
        rows, columns = ours.shape[1:3]
        luma = ours[:4].view(2, 2, rows, columns, 8, 8).permute(2, 0, 3, 1, 4, 5).reshape(2 * rows, 2 * columns, 8, 8)
        ours = [luma[: -(-size[1] // 8), : -(-size[0] // 8)], ours[4], ours[5]]
    for one, other in zip(ours, read_levels(tmp_path, content), strict=True):
        assert torch.equal(one, other)
        assert cap is None or other.abs().max() <= cap


def test_the_cap_brings_coefficients_back_before_they_are_encoded(tmp_path):
    """At learned steps that are no table entries, the file's levels are those of coefficients within L q."""
    luma, chroma = torch.full((8, 8), 0.3), torch.full((8, 8), 2.6)
    tables = file_tables(luma, chroma)
    content = Encoder(*tables, (127 * luma, 127 * chroma), exact=True).encode(RGB)
    levels = read_levels(tmp_path, content)
    for z, found, learned, table in zip(
        planes(unit(RGB), "4:4:4"), levels, (luma, chroma, chroma), (*tables, tables[1]), strict=True
    ):
        assert torch.equal(found, (z.clamp(-127 * learned, 127 * learned) / table).round())
    assert levels[0].abs().max() == 38  # round(127 * 0.3)


@pytest.mark.parametrize("options", [{}, {"optimize": False}, {"progressive": True}, {"subsampling": "4:2:0"}])
def test_by_pillow_levels_are_the_layers_but_for_the_encoders_own_rounding(tmp_path, options):
    tables = standard_tables(50)
    image = crop(256, 240)
    content = Encoder(*tables, **options).encode(image)
    file = decoded(content)
    assert [file.quantization[i] for i in (0, 1)] == [table.flatten().tolist() for table in tables]
    assert bool(file.info.get("progressive")) == options.get("progressive", False)
    ours = planes(unit(image), options.get("subsampling", "4:4:4"))
    for z, theirs, q in zip(ours, read_levels(tmp_path, content), (*tables, tables[1]), strict=True):
        difference = ((z / q).round() - theirs).abs()
        assert (difference <= torch.ceil(8 / q)).all()
        assert (difference == 0).float().mean() > 0.98
    hard = JpegLayer(*tables, bits=None, rounding="hard")
    if not options.get("subsampling"):
        assert (hard(unit(image)).clamp(0, 1) - unit(file)).abs().mean() < 1 / 255


def test_optimized_files_are_smaller_and_the_same():
    plain, optimized = (Encoder(*standard_tables(75), optimize=optimize).encode(RGB) for optimize in (False, True))
    assert len(optimized) < len(plain)
    assert decoded(optimized).tobytes() == decoded(plain).tobytes()


@pytest.mark.parametrize("options", [{"optimize": True}, {"progressive": True}])
def test_noise_in_fine_steps_outgrows_no_buffer(options):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8))
    ones = torch.ones(8, 8)
    content = Encoder(ones, ones, **options).encode(noise)
    assert len(content) > 2 * 300 * 300
    assert np.abs(np.asarray(decoded(content)).astype(int) - np.asarray(noise)).max() < 8


@pytest.mark.parametrize("exact", [False, True])
def test_grey_metadata_and_wide_entries(tmp_path, exact, capfd):
    wide = torch.full((8, 8), 300.0)
    exif, icc = b"Exif\0\0" + Image.Exif().tobytes()[6:], bytes(range(256)) * 300  # two segments
    content = Encoder(wide, wide, exact=exact).encode(RGB.convert("L"), exif, icc)
    file = decoded(content)
    assert file.mode == "L"
    assert file.quantization[0] == [300] * 64
    assert file.info["icc_profile"] == icc
    assert file.info["exif"] == exif
    file.load()
    assert len(read_levels(tmp_path, content)) == 1
    assert content[header_bytes(content) - 10 :][:2] == b"\xff\xda"  # one component: ten bytes


def test_levels_are_computed_once_for_grey(tmp_path):
    grey = RGB.convert("L")
    tables = standard_tables(75)
    levels = Encoder(*tables, exact=True).levels(grey)
    assert len(levels) == 1
    assert (levels[0] == (planes(unit(grey), "4:4:4")[0] / tables[0]).round().numpy()).all()


def test_an_encoder_takes_what_files_hold():
    """Pillow would cut off what comes after the point, and take 4:1:1 for 4:2:0."""
    luma, chroma = standard_tables(75)
    for wrong in (luma + 0.7, luma * 0, luma * 40_000, luma.flatten(), luma * float("nan")):
        with pytest.raises(UsageError, match="chroma must be .* file_tables"):
            Encoder(luma, wrong)
    Encoder(luma.int(), chroma.int())
    with pytest.raises(UsageError, match="subsampling"):
        Encoder(luma, chroma, subsampling="4:1:1")
    pytest.importorskip("jpeglib")
    with pytest.raises(UsageError, match="4:2:2"):
        Encoder(luma, chroma, subsampling="4:2:2", exact=True)


def test_what_jpeglib_cannot_do_is_refused(monkeypatch):
    with pytest.raises(UsageError, match="progressive"):
        Encoder(*standard_tables(75), exact=True, progressive=True)
    monkeypatch.setitem(__import__("sys").modules, "jpeglib", None)
    with pytest.raises(UsageError, match=r"pip install '.\[codec\]'"):
        Encoder(*standard_tables(75), exact=True)


def test_too_large_for_a_file(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="65500 on a side"):
        Encoder(*standard_tables(75)).encode(Image.new("L", (65501, 1)))
    from jpegdl.codec.encoder import write_levels

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    level = np.zeros((1, 1, 8, 8), dtype=np.int32)
    level[0, 0, 3, 3] = 1024
    with pytest.raises(ValueError, match="level of 1024"):
        write_levels([level], [[1] * 64], (8, 8), "4:4:4", True)
    assert not any(tmp_path.iterdir())
