import numpy as np
import pytest
import timm
import torch
from conftest import ORACLE, ORACLE_CASES
from PIL import Image

import jpegdl.backbones  # noqa: F401, registers the CIFAR networks
from jpegdl import JpegLayer, prepend
from jpegdl import functional as F
from jpegdl.data import PHOTOGRAPHS, photograph
from jpegdl.errors import UsageError
from jpegdl.layer import ROUNDINGS, JpegCascade
from jpegdl.tables import standard_tables


def test_two_lines_in_front_of_a_model():
    backbone = timm.create_model("resnet18", num_classes=7)
    model = prepend(backbone, JpegLayer())
    images = torch.rand(2, 3, 40, 40)
    model(images).sum().backward()
    assert model(images).shape == (2, 7)
    assert model.layer.luma.grad.abs().sum() > 0
    assert model.layer.chroma.grad.abs().sum() > 0
    assert sum(parameter.numel() for parameter in model.layer.parameters()) == 128
    assert backbone(images).shape == (2, 7)  # unwrapped, it stays usable


# --------------------------------------------------------------------------------------------------------- round trip


@pytest.mark.parametrize("name", ORACLE_CASES)
def test_the_layer_is_the_published_one(name):
    """The oracle through JpegLayer itself, in float64, with trainable alpha."""
    case = {key: torch.from_numpy(np.asarray(value)) for key, value in np.load(ORACLE / f"{name}.npz").items()}
    layer = JpegLayer(bits=int(case["bits"]), window=int(case["window"]), trainable_alpha=True).double()
    parameters = {"luma": "q_luma", "chroma": "q_chroma", "alpha_luma": "alpha_luma", "alpha_chroma": "alpha_chroma"}
    layer.load_state_dict({ours: case[theirs] for ours, theirs in parameters.items()})
    image = (case["image"].double() / 255).requires_grad_()
    output = layer(image) * 255
    output.backward(case["grad_output"])

    def close(ours, theirs):
        return (ours - theirs).abs().max() <= 1e-9 * theirs.abs().max()

    assert close(layer.alter(layer.to_coefficients(image)), case["quantized"])
    assert close(output, case["output"])
    assert close(image.grad / 255, case["grad_image"])
    for ours, theirs in parameters.items():
        assert close(getattr(layer, ours).grad, case[f"grad_{theirs}"]), ours


def test_gradcheck_through_the_layer():
    layer = JpegLayer(3.3, 2.7, alpha=0.11, trainable_alpha=True).double()
    images = torch.rand(1, 3, 9, 8, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in layer.named_parameters()]

    def call(images, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (images,))

    assert torch.autograd.gradcheck(call, (images, *layer.parameters()), fast_mode=True)


@pytest.mark.parametrize(
    ("rounding", "bits", "window"),
    [(rounding, *levels) for rounding in ROUNDINGS for levels in [(8, 5), (8, None), (3, 3), (2, None)]]
    + [(rounding, None, 3) for rounding in ROUNDINGS if rounding != "none"],
)
@pytest.mark.parametrize("training", [True, False])
def test_every_rounding_runs_forward_and_backward(rounding, bits, window, training):
    layer = JpegLayer(*standard_tables(50), rounding=rounding, bits=bits, window=window).train(training)
    images = torch.rand(2, 3, 11, 13, requires_grad=True)
    output = layer(images)
    output.square().mean().backward()
    assert output.shape == images.shape
    assert output.isfinite().all()
    assert layer.luma.grad.isfinite().all()
    assert images.grad.isfinite().all()


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (7, 8), (8, 8), (9, 17), (33, 5)])
def test_any_size(size):
    fine = JpegLayer(0.01, 0.01, bits=None, rounding="hard")
    images = torch.rand(2, 3, *size)
    blocks = tuple(-(-side // 8) for side in size)
    assert fine.to_coefficients(images).shape == (2, 3, *blocks, 8, 8)
    torch.testing.assert_close(fine(images), images, atol=2e-4, rtol=0)


def test_edges_are_repeated():
    layer = JpegLayer(5.0, 5.0)
    images = torch.rand(1, 3, 13, 11)
    padded = torch.nn.functional.pad(images, (0, 5, 0, 3), mode="replicate")
    assert torch.equal(layer.to_coefficients(images), layer.to_coefficients(padded))


def test_the_layer_is_its_three_parts():
    layer = JpegLayer(*standard_tables(30))
    images = torch.rand(2, 3, 20, 20)
    z = layer.to_coefficients(images)
    assert z.dtype == torch.float32
    parts = layer.to_images(layer.alter(z), (20, 20))
    torch.testing.assert_close(layer(images), parts, atol=1e-4, rtol=0)  # fused and not: float32 rounding
    layer.rounding = "hard"
    torch.testing.assert_close(layer(images), layer.to_images(layer.alter(z), (20, 20)), atol=1e-4, rtol=0)


def test_luma_quantizes_y_and_chroma_the_rest():
    layer = JpegLayer(50.0, 2.0, bits=None, rounding="hard")
    levels = layer.alter(layer.to_coefficients(torch.rand(1, 3, 16, 16)))
    assert torch.equal(levels[:, :1], (levels[:, :1] / 50).round() * 50)
    assert not torch.equal(levels[:, 1:], (levels[:, 1:] / 50).round() * 50)
    assert torch.equal(levels[:, 1:], (levels[:, 1:] / 2).round() * 2)


def test_noise_is_hard_in_evaluation():
    layer, images = JpegLayer(20.0, 20.0, rounding="noise"), torch.rand(1, 3, 16, 16)
    assert not torch.equal(layer(images), layer(images))
    noisy = layer.eval()(images)
    layer.rounding = "hard"
    assert torch.equal(noisy, layer(images))


def test_real_photograph_survives_fine_tables_and_not_coarse_ones():
    image = torch.from_numpy(photograph("astronaut")).permute(2, 0, 1)[None] / 255
    errors = [
        (JpegLayer(*standard_tables(quality), bits=None, rounding="hard")(image) - image).abs().mean().item()
        for quality in (95, 50, 5)
    ]
    assert errors[0] < 0.01 < errors[2]
    assert errors == sorted(errors)


# ------------------------------------------------------------------------------------------------- against libjpeg-turbo


def _integer_tables(kind):
    if isinstance(kind, int):
        return standard_tables(kind)
    generator = torch.Generator().manual_seed(7)
    return tuple(torch.randint(1, 100, (8, 8), generator=generator).float() for _ in range(2))


def _as_file(path, rgb, tables):
    """Write a 4:4:4 JPEG file; its levels (3, h, w, 8, 8) and decoded pixels (3, H, W)."""
    jpeglib = pytest.importorskip("jpeglib")
    qtables = [[int(q) for q in table.flatten()] for table in tables]
    Image.fromarray(rgb).save(path, "jpeg", qtables=qtables, subsampling=0)
    file = jpeglib.read_dct(str(path))
    decoded = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)
    return torch.from_numpy(np.stack((file.Y, file.Cb, file.Cr)).astype(np.float32)), decoded


def _blocks_of(name):
    """A photograph in colour, its upper left corner of whole blocks: (H, W, 3) and (1, 3, H, W) in [0, 1]."""
    rgb = np.array(Image.fromarray(photograph(name)).convert("RGB"))[:352, :352]
    rgb = np.ascontiguousarray(rgb[: rgb.shape[0] // 8 * 8, : rgb.shape[1] // 8 * 8])
    return rgb, torch.from_numpy(rgb).permute(2, 0, 1)[None] / 255


@pytest.mark.parametrize("kind", [10, 50, 75, 95, "random"])
def test_hard_is_what_libjpeg_turbo_writes(tmp_path, kind):
    """Levels and pixels of all embedded photographs.

    An encoder rounds YCbCr to integers first. That moves a coefficient by up to 8 * 0.5 = 4 units (a flat block's DC) and a
    level by at most ceil(4 / q): by one for every step from 4 up, by more only for steps of 1 to 3. A decoder rounds and
    clips YCbCr before it goes back to RGB, which the layer does not.
    """
    tables = _integer_tables(kind)
    layer = JpegLayer(*tables, bits=None, rounding="hard")
    q = layer.steps.detach()[:, None, None]
    same, same_after_rounding, errors = [], [], []
    for name in PHOTOGRAPHS:
        rgb, images = _blocks_of(name)
        theirs, decoded = _as_file(tmp_path / "a.jpg", rgb, tables)
        with torch.no_grad():
            z = layer.to_coefficients(images)
            ours = (layer.alter(z) / q)[0].round()
            output = layer(images)[0]
        difference = (ours - theirs).abs()
        assert (difference <= torch.ceil(4 / q)).all(), name
        boundary = ((z[0] / q - (ours + theirs) / 2) * q).abs()  # from z to midway between the two levels
        assert (boundary[difference == 1] < 4).all(), name
        same.append((difference == 0).flatten())
        integer = F.rgb_to_ycbcr(images.double() * 255 - 128).round().float()
        same_after_rounding.append(((F.block_dct(integer)[0] / q).round() == theirs).flatten())
        errors.append((output.clamp(0, 1) * 255 - decoded).abs().flatten())
    assert torch.cat(same).float().mean() >= 0.98
    assert torch.cat(same_after_rounding).float().mean() >= 0.99
    pooled = torch.cat(errors)
    assert pooled.mean() < 1
    assert pooled.kthvalue(int(0.99 * pooled.numel())).values <= 10


@pytest.mark.parametrize("quality", [10, 50, 75, 95])
def test_inverse_path_is_libjpeg_turbos_decoder(tmp_path, quality):
    """From a file's own levels to its pixels, rounding and clipping YCbCr as a decoder does: within 3 grey levels."""
    tables = standard_tables(quality)
    q = JpegLayer(*tables).steps.detach()[:, None, None]
    for name in PHOTOGRAPHS:
        theirs, decoded = _as_file(tmp_path / "a.jpg", _blocks_of(name)[0], tables)
        ycbcr = (F.block_idct((theirs * q)[None]) + 128).round().clamp(0, 255) - 128
        rgb = (F.ycbcr_to_rgb(ycbcr) + 128).round().clamp(0, 255)[0]
        assert (rgb - decoded).abs().max() <= 3, name


# ---------------------------------------------------------------------------------------------- dtypes, memory, copies


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_compiles_in_one_graph(rounding):
    torch._dynamo.reset()
    layer = JpegLayer(*standard_tables(50), rounding=rounding)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    gradients = []
    for call in (layer, compiled):
        torch.manual_seed(3)
        images = torch.linspace(0, 1, 3 * 17 * 9).view(1, 3, 17, 9).requires_grad_()
        output = call(images)
        gradients.append((output, *torch.autograd.grad(output.square().sum(), [images, layer.luma])))
    for eager, traced in zip(*gradients, strict=True):
        torch.testing.assert_close(traced, eager, rtol=1e-4, atol=1e-5)


# -------------------------------------------------------------------------------------------------- sharpness, saturation


def test_hardness_ties_alpha_to_the_steps():
    tied = JpegLayer(*standard_tables(50), hardness=0.7)
    torch.testing.assert_close(tied.alpha * tied.steps**2, torch.full((3, 8, 8), 0.7))
    free = JpegLayer(*standard_tables(50), alpha=(0.7 / tied.luma.detach() ** 2, 0.7 / tied.chroma.detach() ** 2))
    images = torch.rand(1, 3, 16, 16)
    for layer in (tied, free):
        layer(images).square().sum().backward()
    torch.testing.assert_close(tied(images), free(images))
    torch.testing.assert_close(tied.luma.grad, free.luma.grad)  # none through the tie
    with torch.no_grad():
        tied.luma.mul_(2)
    torch.testing.assert_close((tied.alpha * tied.steps**2)[0], torch.full((8, 8), 0.7))


@pytest.mark.parametrize("default", [5, 5.0, float("5.0"), np.float32(5)])
def test_the_default_alpha_is_no_choice_against_hardness(default):
    assert torch.equal(JpegLayer(alpha=default, hardness=0.7).alpha, JpegLayer(hardness=0.7).alpha)


@pytest.mark.parametrize("options", [{}, {"hardness": 0.7}, {"trainable_alpha": True}])
def test_what_a_state_dict_holds(options):
    alphas = set() if "hardness" in options else {"alpha_luma", "alpha_chroma"}
    assert set(JpegLayer(**options).state_dict()) == {"luma", "chroma", "_extra_state"} | alphas


def test_alpha_can_be_one_number_two_or_tables_and_can_train():
    table = torch.rand(8, 8) + 0.1
    layer = JpegLayer(alpha=(2.0, table), trainable_alpha=True)
    assert torch.equal(layer.alpha[0], torch.full((8, 8), 2.0))
    assert torch.equal(layer.alpha[1], table)
    layer(torch.rand(1, 3, 16, 16)).square().sum().backward()
    assert layer.alpha_luma.grad.abs().sum() > 0
    assert len(list(layer.parameters())) == 4
    assert torch.equal(JpegLayer(alpha=table).alpha, table.expand(3, 8, 8))


def test_saturation_counts_levels_at_the_cap():
    images = torch.zeros(1, 3, 8, 8)  # black: the DC of Y is -1024, all else 0
    assert JpegLayer(5.0, 5.0, bits=8).saturation(images)[0, 0, 0] == 1
    assert JpegLayer(9.0, 9.0, bits=8).saturation(images)[0, 0, 0] == 0  # -1024 / 9 = -113.8
    assert JpegLayer(5.0, 5.0, bits=8).saturation(images).sum() == 1
    assert JpegLayer(5.0, 5.0, bits=None).saturation(images).sum() == 0


def test_projection():
    layer = JpegLayer(trainable_alpha=True)
    with torch.no_grad():
        layer.luma[0, 0], layer.luma[0, 1], layer.chroma[1, 1], layer.alpha_luma[2, 2] = -3, 400, 0, -1
    layer.project_()
    assert layer.luma[0, 0].item() == pytest.approx(1e-5)
    assert layer.luma[0, 1].item() == 255
    assert layer.chroma[1, 1].item() == pytest.approx(1e-5)
    assert layer.alpha_luma[2, 2].item() == pytest.approx(1e-5)
    assert layer.luma[1, 1].item() == 1


# ------------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_a_bad_pixel_stays_within_its_block(value, rounding):
    images = torch.rand(2, 3, 24, 24)
    layer = JpegLayer(*standard_tables(50), rounding=rounding)
    torch.manual_seed(1)
    clean = layer(images)
    images[1, 2, 9, 17] = value
    torch.manual_seed(1)
    dirty = layer(images)
    touched = torch.zeros(2, 3, 24, 24, dtype=torch.bool)
    touched[1, :, 8:16, 16:24] = True
    assert torch.equal(dirty[~touched], clean[~touched])
    if value != value:
        assert not dirty[touched].isfinite().any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"luma": 0}, "luma must be finite and greater than 0"),
        ({"luma": -1.0}, "luma must be finite and greater than 0"),
        ({"chroma": float("nan")}, "chroma must be finite"),
        ({"chroma": torch.full((8, 8), float("inf"))}, "chroma must be finite"),
        ({"luma": torch.ones(64)}, r"luma .*shape \(8, 8\), got shape \(64,\)"),
        ({"luma": 1e-20}, "luma must lie between 1e-12 and 1e12"),
        ({"alpha": 1e38}, "alpha must lie between"),
        ({"luma": torch.ones(8, 8, dtype=torch.bool)}, "luma must be a number"),
        ({"luma": "fine"}, "luma must be a number"),
        ({"luma": None}, "luma must be a number"),
        ({"alpha": 0}, "alpha must be finite and greater than 0"),
        ({"alpha": (1.0, -1.0)}, "alpha_chroma must be"),
        ({"alpha": 5.5, "hardness": 0.7}, "alpha and hardness"),
        ({"alpha": torch.full((8, 8), 5.0), "hardness": 0.7}, "alpha and hardness"),
        ({"alpha": 1.0, "hardness": 0.7, "trainable_alpha": True}, "alpha and hardness"),
        ({"hardness": 0.0}, "hardness must be"),
        ({"hardness": float("nan")}, "hardness must be"),
        ({"window": 4}, "odd"),
        ({"bits": 2, "window": 5}, "3 levels"),
        ({"bits": 20}, "from 2 to 16"),
        ({"rounding": "none", "bits": None}, "only the level cap"),
        ({"rounding": "round"}, "soft, hard, sample, ste, ste-matched, noise, none"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        JpegLayer(**options)


def test_a_refused_table_says_which_number():
    table = torch.ones(8, 8)
    table[2, 3] = -0.25
    with pytest.raises(UsageError, match="luma.*0 everywhere, got -0.25"):
        JpegLayer(table)


def test_bad_rounding_is_refused_later_too():
    layer = JpegLayer()
    with pytest.raises(UsageError, match="rounding must be one of"):
        layer.rounding = "fuzzy"


def test_numpy_numbers_are_numbers():
    layer = JpegLayer(np.float32(2), np.ones((8, 8)), bits=np.int64(8), hardness=np.float32(0.5))
    assert (layer.luma == 2).all()
    assert layer.bits == 8


def test_bad_coefficients_are_refused():
    with pytest.raises(UsageError, match="coefficients of 20x20 images"):
        JpegLayer().to_images(torch.zeros(1, 3, 1, 1, 8, 8), (20, 20))
    with pytest.raises(UsageError, match="coefficients must be"):
        JpegLayer().alter(torch.zeros(1, 3, 8, 8))


# -------------------------------------------------------------------------------------------------------------- prepend


class _Recorder(torch.nn.Module):
    def forward(self, x):
        self.seen = x
        return x


def test_prepend_normalises_after_the_layer():
    images = torch.rand(2, 3, 8, 8)
    given = prepend(_Recorder(), torch.nn.Identity(), mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 4.0))
    given(images)
    expected = (images - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / torch.tensor([1.0, 2.0, 4.0]).view(3, 1, 1)
    torch.testing.assert_close(given.backbone.seen, expected)


def test_prepend_takes_the_backbones_own_normalisation():
    model = prepend(timm.create_model("cifar_resnet8"), JpegLayer())
    assert model.mean.flatten().tolist() == pytest.approx([0.5071, 0.4867, 0.4408])
    assert prepend(_Recorder(), JpegLayer()).mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert {name.split(".")[0] for name in model.state_dict()} == {"layer", "backbone"}


@pytest.mark.parametrize("bad", [{"mean": (0.5,)}, {"std": (0.0, 1.0, 1.0)}, {"mean": 0.5}, {"std": (1.0, 1.0, float("nan"))}])
def test_prepend_refuses_bad_normalisation(bad):
    with pytest.raises(UsageError, match="three finite numbers"):
        prepend(_Recorder(), JpegLayer(), **bad)


@pytest.mark.parametrize("layer", [JpegLayer(), JpegCascade([JpegLayer()])])
def test_prepend_refuses_swapped_arguments(layer):
    with pytest.raises(UsageError, match=rf"backbone first .* got {type(layer).__name__} as the backbone and _Recorder as the"):
        prepend(layer, _Recorder())


def test_prepend_refuses_what_is_not_a_module():
    with pytest.raises(UsageError, match=r"backbone must be a torch.nn.Module, got str"):
        prepend("resnet18", JpegLayer())
    with pytest.raises(UsageError, match=r"layer must be a torch.nn.Module, got type"):
        prepend(_Recorder(), JpegLayer)
