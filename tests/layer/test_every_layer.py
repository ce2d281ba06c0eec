"""What every layer does, whatever it is for: one set of checks over all kinds there are."""

import copy
import io
import pickle
import warnings
from functools import partial

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from jpegdl import JpegLayer, prepend
from jpegdl.errors import UsageError
from jpegdl.layer import (
    LAYER_KINDS,
    CompandingLayer,
    FeatureJpegLayer,
    ImageLayer,
    JpegCascade,
    LayerConfig,
    QuantizingLayer,
    RegionalJpegLayer,
    ZeroDcJpegLayer,
    build_layer,
)
from jpegdl.tables import standard_tables

SIZE = (19, 21)
TABLES = standard_tables(85)
SOFT = 0.05  # alpha of steps around 10 of which a neighbour's level is felt

# Each way to build a layer, made afresh at every call. A kind of the registry is here by being there.
BUILDS = {
    name: partial(build_layer, LayerConfig(kind=name, alpha=SOFT), TABLES, SIZE)
    for name, kind in LAYER_KINDS.items()
    if kind.layer is not None
} | {
    "hard": lambda: JpegLayer(*TABLES, rounding="hard"),
    "cap alone": lambda: JpegLayer(0.7, 0.4, rounding="none"),
    "trained hardness": lambda: JpegLayer(*TABLES, hardness=0.7, trainable_alpha=True),
    "trained alpha": lambda: RegionalJpegLayer(*TABLES, size=SIZE, region=16, alpha=SOFT, trainable_alpha=True),
    "features": lambda: FeatureJpegLayer(0.1, channels=3, alpha=60.0),
    "shared features": lambda: FeatureJpegLayer(0.1, alpha=60.0, trainable_alpha=True),
    "mixed cascade": lambda: JpegCascade([ZeroDcJpegLayer(*TABLES, alpha=SOFT), CompandingLayer(90.0, 40.0)]),
}


def _images(*shape, **options):
    return torch.rand(*(shape or (2, 3, *SIZE)), **options)


def _close(ours, theirs, **tolerance):
    torch.testing.assert_close(ours, theirs, **{"atol": 1e-5, "rtol": 0, **tolerance})


def _thrown_out(layer):
    """Gradients that take half of the entries far below any range, and half far above it."""
    for table in layer.parameters():
        table.grad = torch.full_like(table, 1000.0)
        table.grad.flatten()[::2] = -1000


@pytest.fixture(params=BUILDS)
def build(request):
    return BUILDS[request.param]


@pytest.fixture
def layer(build):
    return build()


class LayerTester:
    """Checks of any layer that fixtures ``build`` and ``layer`` give. Subclasses may leave out what cannot hold for theirs."""

    # ------------------------------------------------------------------------------------------------- images in and out

    def test_takes_any_precision(self, layer):
        for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            images = _images().to(dtype)
            output = layer(images)
            assert output.dtype == dtype
            assert output.shape == images.shape
            _close(output, layer(images.float()).to(dtype))

    def test_takes_any_size_or_says_which(self, layer):
        for size in ((1, 1), (1, 30), (7, 8), (16, 16), (17, 33)):
            images = _images(2, 3, *size)
            if any(isinstance(part, RegionalJpegLayer) for part in layer.modules()):
                with pytest.raises(UsageError, match="19x21"):
                    layer(images)
            else:
                assert layer(images).shape == images.shape
                assert layer(images).isfinite().all()

    def test_takes_no_images(self, layer):
        images = _images(0, 3, *SIZE, requires_grad=True)
        output = layer(images)
        assert output.shape == images.shape
        output.sum().backward()
        assert all(not parameter.grad.any() for parameter in layer.parameters())

    def test_keeps_the_memory_format(self, layer):
        images = _images()
        output = layer(images.contiguous(memory_format=torch.channels_last))
        assert output.is_contiguous(memory_format=torch.channels_last)
        _close(output, layer(images))
        strided = _images(2, 3, 2 * SIZE[0], 2 * SIZE[1])[:, :, ::2, ::2]
        _close(layer(strided), layer(strided.contiguous()))

    def test_computes_the_same_under_autocast(self, layer):
        images = _images()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            inside = layer(images)
        assert torch.equal(inside, layer(images))

    def test_takes_pixels_of_8_bits_or_says_what_else(self, layer):
        pixels = torch.randint(0, 256, (2, 3, *SIZE), dtype=torch.uint8)
        if not isinstance(layer, ImageLayer):
            with pytest.raises(TypeError, match="features.*floating.*uint8"):
                layer(pixels)
            return
        output = layer(pixels)
        assert output.dtype == torch.float32
        _close(output, layer(pixels.float() / 255), atol=1e-4)

    def test_refuses_what_is_no_batch(self, layer):
        for batch, error, named in (
            (np.zeros((1, 3, *SIZE), np.float32), TypeError, "torch.Tensor.*ndarray"),
            (torch.zeros(1, 3, *SIZE, dtype=torch.int32), TypeError, "floating point.*int32"),
            (torch.zeros(1, 3, *SIZE, dtype=torch.complex64), TypeError, "floating point.*complex64"),
            (torch.zeros(3, *SIZE), UsageError, r"N, .*H, W.*\(3, 19, 21\)"),
            (torch.zeros(1, 3, 0, 21), UsageError, r"H and W.*\(1, 3, 0, 21\)"),
            (torch.zeros(1, 4, *SIZE), UsageError, r"N, 3, H, W.*\(1, 4, 19, 21\)"),
        ):
            if isinstance(layer, FeatureJpegLayer) and layer.planes is None and batch.shape[1] == 4:
                continue
            with pytest.raises(error, match=named):
                layer(batch)

    def test_refuses_images_and_tables_on_two_devices(self, layer):
        if not any(True for _ in layer.parameters()):
            pytest.skip("no tables")
        for part in layer.modules():
            if isinstance(part, QuantizingLayer):
                part.alter = part.alter  # an instance's own: it is not served by the kernels, which have a check of their own
        with pytest.raises(UsageError, match=r"input .*meta .*tables .*cpu.* layer.to\('meta'\)"):
            layer(_images().to("meta"))
        with pytest.raises(UsageError, match=r"input .*cpu .*tables .*meta.* layer.to\('cpu'\)"):
            layer.to("meta")(_images())

    def test_says_nothing_in_ordinary_use(self, layer):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            layer(_images(requires_grad=True)).sum().backward()

    def test_prints_what_it_is(self, layer):
        assert type(layer).__name__ in repr(layer)
        assert "object at" not in repr(layer)

    # --------------------------------------------------------------------------------------------------------- training

    def test_gradcheck(self, layer):
        layer = layer.double()
        images = _images(1, 3, *SIZE, dtype=torch.float64, requires_grad=True)
        parameters = dict(layer.named_parameters())
        if getattr(layer, "hardness", None) is not None:  # the tie of alpha to the steps has no gradient, though it has a slope
            parameters = {name: parameter for name, parameter in parameters.items() if name.startswith("hardness")}

        def call(images, *values):
            return torch.func.functional_call(layer, dict(zip(parameters, values, strict=True)), (images,))

        assert torch.autograd.gradcheck(call, (images, *parameters.values()), fast_mode=True)

    def test_trains_in_front_of_a_model(self, layer):
        model = prepend(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 17 * 19, 5)), layer)
        optimizer, before = torch.optim.Adam(model.parameters(), 0.01), copy.deepcopy(layer.state_dict())
        images = _images(requires_grad=True)
        nn.functional.cross_entropy(model(images), torch.tensor([1, 3])).backward()
        assert images.grad.isfinite().all()
        if not any(getattr(part, "rounding", "soft") == "hard" for part in layer.modules()):  # which has no slope
            assert images.grad.any()
            optimizer.step()
            for name, parameter in layer.named_parameters():
                assert not torch.equal(parameter, before[name]), name
        assert model(images).isfinite().all()

    def test_stays_in_range_however_large_a_step(self, build):
        """With its copies, and nobody calls ``project_``, which has nothing left to do."""
        for layer in (build(), copy.deepcopy(build()), pickle.loads(pickle.dumps(build()))):
            parameters = list(nn.Sequential(layer).parameters())
            if not parameters:
                return
            _thrown_out(layer)
            torch.optim.SGD(parameters, 1.0).step()
            for part in layer.modules():
                own = list(part.parameters(recurse=False))
                if own and part.table_kind in ("steps", "scales"):
                    assert min(table.min().item() for table in own) == pytest.approx(1e-5)
                for name in getattr(part, "table_names", ()):
                    assert getattr(part, name).max().item() == 255
            before = [parameter.detach().clone() for parameter in parameters]
            layer.project_()
            assert all(map(torch.equal, parameters, before))
            layer(_images()).square().mean().backward()
            assert all(parameter.grad.isfinite().all() for parameter in parameters)

    def test_evaluation_changes_nothing(self, layer):
        images = _images()
        before = {name: value.clone() for name, value in layer.state_dict().items()}
        trained = layer(images)
        with torch.no_grad():
            assert torch.equal(layer.eval()(images), trained)
        assert not any(part.training for part in layer.modules())
        assert torch.equal(layer.train()(images), trained)
        assert all(part.training for part in layer.modules())
        assert layer.state_dict().keys() == before.keys()
        assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())

    # --------------------------------------------------------------------------------------- copies, states, casts, averages

    def test_copies_and_pickles(self, layer):
        for parameter in layer.parameters():
            parameter.data.mul_(torch.rand_like(parameter) + 0.5)
        images = _images()
        for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            assert torch.equal(twin(images), layer(images))
            assert getattr(twin, "settings", None) == getattr(layer, "settings", None)
            twin.load_state_dict(layer.state_dict())

    @pytest.mark.filterwarnings("error")
    def test_its_state_goes_through_every_format(self, build, tmp_path):
        model, images = prepend(nn.Linear(2, 2), build()), _images()
        for parameter in model.layer.parameters():
            parameter.data.mul_(torch.rand_like(parameter) + 0.5)
        safetensors.torch.save_file(model.state_dict(), tmp_path / "a.safetensors")
        safetensors.torch.save_model(model, str(tmp_path / "b.safetensors"))
        stream = io.BytesIO()
        torch.save(model.state_dict(), stream)
        stream.seek(0)
        states = [safetensors.torch.load_file(tmp_path / name) for name in ("a.safetensors", "b.safetensors")]
        states.append(torch.load(stream, weights_only=True))
        without_settings = {name: value for name, value in model.state_dict().items() if not name.endswith("_extra_state")}
        for state in (*states, without_settings):
            fresh = prepend(nn.Linear(2, 2), build())
            assert str(fresh.load_state_dict(state)) == "<All keys matched successfully>"
            assert torch.equal(fresh.layer(images), model.layer(images))
        empty = prepend(nn.Linear(2, 2), build()).to("meta")
        empty.load_state_dict(states[-1], assign=True)
        assert torch.equal(empty.layer(images), model.layer(images))

    @pytest.mark.parametrize(
        "cast", [nn.Module.half, nn.Module.bfloat16, lambda m: m.to(torch.float16), lambda m: m.to("cpu", torch.bfloat16)]
    )
    def test_its_tables_stay_exact_in_a_model_of_half_precision(self, build, cast):
        model, reference = prepend(nn.Conv2d(3, 2, 3), build()), build()
        for table, other in zip(model.layer.parameters(), reference.parameters(), strict=True):
            table.data.copy_(1e-5 + 1e-9 * torch.rand(table.shape))  # 0 as float16
            other.data.copy_(table.data)
        dtype = cast(model).backbone.weight.dtype
        assert dtype != torch.float32
        assert all(map(torch.equal, model.layer.parameters(), reference.parameters()))
        images = _images().to(dtype)
        output = model(images)
        assert output.dtype == dtype
        assert torch.equal(model.layer(images), reference(images))
        assert model.layer(images).isfinite().all()

    def test_casts_up_and_back_are_obeyed(self, layer):
        assert all(parameter.dtype == torch.float64 for parameter in layer.double().parameters())
        assert all(parameter.dtype == torch.float32 for parameter in layer.float().parameters())

    def test_averages_of_a_model_keep_its_settings(self, build):
        for use_buffers in (True, False):
            model, images = prepend(nn.Linear(2, 2), build()), _images()
            average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=use_buffers)
            average.update_parameters(model)
            for parameter in model.parameters():
                parameter.data.mul_(3)
            average.update_parameters(model)
            for ours, theirs in zip(average.module.parameters(), model.parameters(), strict=True):
                torch.testing.assert_close(ours, theirs * 2 / 3)
            model.load_state_dict(average.module.state_dict())
            assert torch.equal(model.layer(images), average.module.layer(images))

    # ----------------------------------------------------------------------------------- tracers, transforms, other devices

    def test_has_shapes_on_the_meta_device(self, layer):
        images = torch.empty(2, 3, *SIZE, device="meta")
        assert layer.to("meta")(images).shape == images.shape

    def test_is_made_on_the_meta_device_and_filled_later(self, build, monkeypatch):
        monkeypatch.setitem(globals(), "TABLES", tuple(table.tolist() for table in TABLES))  # tensors would stay where they are
        if isinstance(build, partial):
            build = partial(build.func, build.args[0], None, SIZE)
        with torch.device("meta"):
            layer = build()
        assert all(tensor.is_meta for tensor in (*layer.parameters(), *layer.buffers()))
        assert layer(torch.empty(2, 3, *SIZE, device="meta")).shape == (2, 3, *SIZE)
        layer.to_empty(device="cpu").load_state_dict(build().state_dict())
        images = _images()
        assert torch.equal(layer(images), build()(images))

    def test_forward_never_waits_for_the_device(self, layer):
        """Fake tensors have shapes but no values: asking for one, as a host synchronisation does, raises."""
        with FakeTensorMode(allow_non_fake_inputs=True):
            assert layer(_images()).shape == (2, 3, *SIZE)

    def test_compiles_in_one_graph(self, layer):
        torch._dynamo.reset()
        images = _images()
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
        _close(compiled(images), layer(images), atol=1e-4)

    def test_vmap_over_channels_last(self, layer):
        images = _images(4, 2, 3, *SIZE)
        expected = layer(images.flatten(0, 1)).unflatten(0, (4, 2))
        last = images.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, (4, 2))
        _close(torch.func.vmap(layer)(last), expected)
        _close(torch.func.vmap(layer)(images), expected)
        _close(torch.func.vmap(layer, in_dims=1, out_dims=1)(last), expected)

    def test_gradients_of_each_sample(self, layer):
        images, parameters = _images(3, 1, 3, *SIZE), dict(layer.named_parameters())
        if not parameters:
            pytest.skip("no tables")

        def loss(parameters, images):
            return torch.func.functional_call(layer, parameters, (images,)).square().sum()

        each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, images)
        for index in range(3):
            alone = torch.autograd.grad(loss(parameters, images[index]), parameters.values())
            for ours, theirs in zip(each.values(), alone, strict=True):
                _close(ours[index], theirs, atol=1e-3, rtol=1e-4)

    @pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:`torch.jit.trace:DeprecationWarning")
    def test_jit_trace(self, layer):
        traced, images = torch.jit.trace(layer, _images()), _images(requires_grad=True)
        _close(traced(images), layer(images))
        file = io.BytesIO()
        torch.jit.save(traced, file)  # which refuses what only Python can compute
        file.seek(0)
        loaded = torch.jit.load(file)
        _close(loaded(images), layer(images))
        for one, other in zip(
            *(torch.autograd.grad(module(images).square().sum(), [images, *module.parameters()]) for module in (loaded, layer)),
            strict=True,
        ):
            _close(one, other, rtol=1e-3, atol=1e-3)

    def test_make_fx(self, layer):
        traced, images = make_fx(layer)(_images()), _images()
        _close(traced(images), layer(images))
        assert not torch.equal(traced(images), traced(1 - images))

    def test_export(self, layer):
        program, images = torch.export.export(layer, (_images(),)), _images()
        _close(program.module()(images), layer(images))


class TestEveryLayer(LayerTester):
    """Of this package."""
