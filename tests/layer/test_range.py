"""Parameters stay in their range in anybody's training loop: nobody here calls project_."""

import math

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from jpegdl import JpegLayer, prepend
from jpegdl import functional as F
from jpegdl.layer import ROUNDINGS
from jpegdl.layer.bounds import bounded
from jpegdl.tables import read_tables, write_tables
from jpegdl.training.optimizers import LogAdam

IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def tables(layer):
    return [table for name, table in layer.named_parameters()]


def in_range(layer):
    return all(bool(((table >= 1e-5) & (table <= 255)).all()) for table in tables(layer))


def throw_out(layer, lr=1.0):
    """Gradients that take half of the entries far below their range, and half far above it."""
    for table in tables(layer):
        table.grad = torch.ones_like(table)
        table.grad.flatten()[::2] = -1
        table.grad *= 1000 * lr


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 1.0),
    "momentum": lambda p: torch.optim.SGD(p, 1.0, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, 300.0),
    "adamw": lambda p: torch.optim.AdamW(p, 300.0, weight_decay=1e-3),
    "fused": lambda p: torch.optim.AdamW(p, 300.0, weight_decay=1e-3, fused=True),
    "foreach": lambda p: torch.optim.AdamW(p, 300.0, weight_decay=1e-3, foreach=True),
    "log-adam": lambda p: LogAdam(p, 50.0),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_of_pytorch_leaves_steps_in_range(optimizer):
    layer = JpegLayer(2.0, 3.0)
    steps = OPTIMIZERS[optimizer](layer.parameters())
    for _ in range(2):
        throw_out(layer)
        steps.step()
        assert in_range(layer)
    low, high = layer.luma.detach().aminmax()
    assert low == torch.tensor(1e-5)
    assert high == 255


def test_training_is_what_it_is_with_the_published_projection():
    """The published loop projects after each step; here nobody does, and the numbers are the same."""
    results = []
    for by_hand in (True, False):
        layer = JpegLayer(0.002, 0.002)
        optimizer = torch.optim.Adam(layer.parameters(), 0.003)
        for _ in range(5):
            optimizer.zero_grad()
            (layer(IMAGES) - 0.5).square().mean().backward()
            optimizer.step()
            if by_hand:
                with torch.no_grad():
                    for table in (layer.luma, layer.chroma):
                        table.clamp_(1e-5, 255)
        results.append(layer.luma.detach().clone())
    assert torch.equal(*results)
    assert (results[0] == torch.tensor(1e-5)).any()


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_without_an_optimizer_of_pytorch_the_layer_computes_with_steps_in_range(rounding):
    layer, sound = JpegLayer(4.0, 4.0, rounding=rounding), JpegLayer(4.0, 4.0, rounding=rounding)
    for table, wrong, right in ((layer.luma, -3.0, 1e-5), (layer.chroma, 0.0, 1e-5)):
        table.data[0, :3] = wrong
        (sound.luma if table is layer.luma else sound.chroma).data[0, :3] = right
    torch.manual_seed(0)
    output = layer(IMAGES)
    torch.manual_seed(0)
    assert torch.equal(output, sound(IMAGES))
    output.square().sum().backward()
    assert layer.luma.grad.isfinite().all()
    assert (layer.luma[0, :3] == -3).all()  # what the parameter holds is the trainer's own until then
    assert in_range(layer.eval())
    assert (layer.steps > 0).all()


def test_a_step_beyond_its_range_comes_back():
    layer = JpegLayer(4.0, 4.0)
    layer.luma.data[3, 3], layer.luma.data[4, 4] = -0.5, -0.5
    for _ in range(600):  # a loop without an optimizer
        (grad,) = torch.autograd.grad((layer.steps[0] - 2).square().sum(), layer.luma)
        layer.luma.data -= 0.005 * grad
    torch.testing.assert_close(layer.luma.detach(), torch.full((8, 8), 2.0), atol=0.02, rtol=0)


def test_gradients_lead_back_and_not_further_out():
    x = torch.tensor([-1.0, -1.0, 1.0, 5.0, 9.0, 9.0, 3.0], requires_grad=True)
    y = bounded(x, 1.0, 5.0)
    y.backward(torch.tensor([1.0, -1.0, 1.0, 1.0, 1.0, -1.0, 2.0]))
    assert y.tolist() == [1, 1, 1, 5, 5, 5, 3]
    assert x.grad.tolist() == [0, -1, 1, 1, 1, 0, 2]
    assert bounded(torch.tensor(math.nan, requires_grad=True), 0.0, 1.0).isnan()
    _, tangent = torch.func.jvp(lambda x: bounded(x, 1.0, 5.0), (x.detach(),), (torch.ones(7),))
    assert (tangent == 1).all()


def test_state_dicts_and_files_of_tables_are_in_range(tmp_path):
    model = prepend(nn.Conv2d(3, 2, 3), JpegLayer(4.0, 4.0))
    model.layer.luma.data[0] = -1
    assert (model.state_dict()["layer.luma"] >= 1e-5).all()
    model.layer.luma.data[0] = -1
    write_tables(tmp_path / "tables.json", model.layer.named_tables())
    assert (read_tables(tmp_path / "tables.json")[0][0] == torch.tensor(1e-5)).all()


def test_two_forwards_before_one_backward_and_two_optimizers():
    """Neither a state dict, nor a change of mode, nor another model's optimizer in between spoils what a graph has saved."""
    layer, other = JpegLayer(4.0, 4.0), nn.Linear(2, 2)
    optimizers = [torch.optim.SGD(part.parameters(), 0.1) for part in (layer, other)]
    first, second = layer(IMAGES), layer(IMAGES.flip(0))
    other(torch.rand(1, 2)).sum().backward()
    optimizers[1].step()
    layer.eval()
    layer.train()
    layer.state_dict()
    (first.square().mean() + second.square().mean()).backward()
    expected = layer.luma.grad.clone()
    layer.zero_grad()
    layer(IMAGES).square().mean().backward()
    layer(IMAGES.flip(0)).square().mean().backward()
    torch.testing.assert_close(layer.luma.grad, expected)


def test_gradients_accumulate_and_are_unscaled():
    layer = JpegLayer(0.002, 0.002)
    optimizer, scaler = torch.optim.Adam(layer.parameters(), 0.01), torch.amp.GradScaler("cpu")
    for batch in range(4):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = (layer(IMAGES) - 0.5).square().mean()
        scaler.scale(loss).backward()
        if batch % 2:
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
    assert in_range(layer)
    assert layer.luma.dtype == torch.float32


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.soak)])
def test_compiled_training_stays_in_range(backend):
    layer = JpegLayer(0.002, 0.002)
    compiled, optimizer = torch.compile(layer, fullgraph=True, backend=backend), torch.optim.Adam(layer.parameters(), 0.01)
    for _ in range(3):
        optimizer.zero_grad()
        (compiled(IMAGES) - 0.5).square().mean().backward()
        optimizer.step()
    assert in_range(layer)
    layer.luma.data[0, 0] = -1
    torch.testing.assert_close(compiled(IMAGES), layer(IMAGES), atol=1e-5, rtol=0)


def test_frozen_and_given_steps_stay_what_they_are():
    """A file's 16-bit tables are coarser than training goes, and no reason to change them."""
    layer = JpegLayer(1000.0, 4.0, bits=None, rounding="hard")
    assert (layer.steps[0] == 1000).all()
    assert (layer.state_dict()["luma"] == 1000).all()
    fresh = JpegLayer(bits=None, rounding="hard")
    fresh.load_state_dict(layer.state_dict())
    assert (fresh.eval().luma == 1000).all()
    readable = F.coefficients_to_images(fresh.alter(fresh.to_coefficients(IMAGES)), (16, 16))
    torch.testing.assert_close(fresh(IMAGES), readable, atol=1e-5, rtol=0)
    frozen = JpegLayer(4.0, 4.0).requires_grad_(False)
    frozen.luma.fill_(1000.0)
    assert (frozen.eval().luma == 1000).all()


def test_functional_calls_and_meta_layers():
    layer = JpegLayer(4.0, 4.0)
    values = {"luma": torch.full((8, 8), -1.0), "chroma": torch.full((8, 8), 4.0)}
    sound = {**values, "luma": torch.full((8, 8), 1e-5)}
    outputs = [torch.func.functional_call(layer, given, (IMAGES,)) for given in (values, sound)]
    assert torch.equal(*outputs)
    with torch.device("meta"):
        empty = JpegLayer(4.0, 4.0)
    empty.eval()
    filled = empty.to_empty(device="cpu")
    filled.load_state_dict(layer.state_dict())
    torch.optim.SGD(filled.parameters(), 1.0).step()
    assert torch.equal(filled(IMAGES), layer(IMAGES))


@pytest.mark.parametrize("broken", [-3.0, 0.0])
@pytest.mark.parametrize("frozen", [True, False])
def test_states_of_trainers_without_a_range_are_brought_into_it(broken, frozen):
    layer, state = JpegLayer(4.0, 4.0).requires_grad_(not frozen), JpegLayer(4.0, 4.0).state_dict()
    state["luma"].fill_(broken)
    with pytest.warns(UserWarning, match="luma in the state has steps that are not above 0: they become 1e-05"):
        layer.load_state_dict(state)
    assert in_range(layer)
    assert layer.step_range == pytest.approx((1e-5, 255))
    assert layer(IMAGES).isfinite().all()


def test_a_loop_without_an_optimizer_computes_with_no_coarser_steps_than_training_may_reach():
    layer = JpegLayer(4.0, 4.0)
    layer.luma.data.fill_(1e4)
    assert (layer.steps[0] == 255).all()
    assert max(table.max() for table in layer.named_tables().values()) <= 255


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing(rounding, reentrant):
    layer, images = JpegLayer(0.5, 0.5, rounding=rounding), IMAGES.clone().requires_grad_()
    torch.manual_seed(0)
    layer(images).square().sum().backward()
    expected = layer.luma.grad.clone()
    layer.zero_grad()
    torch.manual_seed(0)
    checkpoint(layer, images, use_reentrant=reentrant).square().sum().backward()
    assert torch.equal(layer.luma.grad, expected)
