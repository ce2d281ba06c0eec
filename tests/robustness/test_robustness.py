"""Attacks and surrogate gradients, on models whose worst case is known in closed form."""

import importlib.util

import pytest
import torch
from torch import nn

from jpegdl import JpegLayer, prepend
from jpegdl.errors import UsageError
from jpegdl.layer import CompandingLayer, GainLayer, JpegCascade, SubsampledJpegLayer, ZeroDcJpegLayer
from jpegdl.robustness import ATTACKS, attack_images, gradients_of, with_gradient
from jpegdl.robustness.attack_batch import answers
from jpegdl.robustness.attacks import GradientSource, distance, pgd, project_to_ball
from jpegdl.robustness.surrogates import is_random
from jpegdl.tables import standard_tables

OWN = ("fgsm", "pgd", "pgd-strong")
NORMS = ("Linf", "L2")
needs_autoattack = pytest.mark.skipif(importlib.util.find_spec("pyautoattack") is None, reason="needs the extra attack")
EVERY = [*OWN, *(pytest.param(name, marks=needs_autoattack) for name in ATTACKS if name not in OWN)]


def _linear(classes, layer=None, size=8):
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(3 * size * size, classes))
    return prepend(backbone, layer or nn.Identity(), (0, 0, 0), (1, 1, 1)).eval()


def _margins(model, images, labels):
    """(N, classes - 1): how far the logit of the class lies above each other; and the differences of their weights."""
    weight = model.backbone[1].weight
    logits = model(images)
    others = torch.tensor([[k for k in range(logits.shape[1]) if k != label] for label in labels])
    margins = logits.gather(1, labels[:, None]) - logits.gather(1, others)
    return margins, weight[labels][:, None] - weight[others]


def _network(layer):
    backbone = nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.Conv2d(6, 8, 3, 2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5))
    model = prepend(backbone, layer)
    model(torch.rand(1, 3, 16, 16))
    return model.eval()


# ------------------------------------------------------------------------------------------------------------ worst cases


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("attack", [*OWN, pytest.param("apgd-ce", marks=needs_autoattack)])
@torch.no_grad()
def test_the_worst_case_of_a_linear_model_is_reached_and_not_passed(attack, norm):
    """Of two classes the margin falls by eps times the dual norm of the weights' difference, and by no more."""
    model, labels = _linear(2), torch.zeros(16, dtype=torch.long)
    way = model.backbone[1].weight[0] - model.backbone[1].weight[1]
    images = 0.5 + 0.1 * (torch.rand(16, 3, 8, 8) - 0.5)
    images += ((0.05 - _margins(model, images, labels)[0]) / way.square().sum() * way).view_as(images)
    assert torch.allclose(_margins(model, images, labels)[0], torch.tensor(0.05))
    assert images.min() > 0.2
    assert images.max() < 0.8
    reach = 0.05 / float(way.abs().sum() if norm == "Linf" else way.norm())
    slack = 1.05 if (attack, norm) == ("pgd", "L2") else 1.01  # five steps turn the random start not all the way
    assert attack_images(model, images, labels, attack, norm, slack * reach).fooled.all()
    assert not attack_images(model, images, labels, attack, norm, 0.99 * reach).fooled.any()


@needs_autoattack
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("attack", ["apgd-t", "fab-t"])
@torch.no_grad()
def test_targeted_attacks_find_the_nearest_of_several_classes(attack, norm):
    model = _linear(5)
    images = 0.5 + 0.1 * (torch.rand(32, 3, 8, 8) - 0.5)
    labels = model(images).argmax(1)
    margins, ways = _margins(model, images, labels)
    reach = (margins / (ways.abs().sum(2) if norm == "Linf" else ways.norm(dim=2))).amin(1)
    eps = float(reach.median())
    fooled = attack_images(model, images, labels, attack, norm, eps).fooled
    assert fooled[reach < 0.97 * eps].all()
    assert not fooled[reach > 1.001 * eps].any()


def test_the_gradient_is_that_of_finite_differences():
    layer = JpegLayer(*(table.double() for table in standard_tables(50)), alpha=0.01)
    model = _network(layer).double()
    images, labels = torch.rand(3, 3, 16, 16, dtype=torch.float64), torch.tensor([0, 3, 4])
    gradient, _ = GradientSource(model).look(images, labels)
    for _ in range(5):
        way = torch.randn_like(images)
        with torch.no_grad():
            ahead, behind = (
                nn.functional.cross_entropy(model(images + sign * 1e-6 * way), labels, reduction="none") for sign in (1, -1)
            )
        assert torch.allclose((gradient * way).flatten(1).sum(1), (ahead - behind) / 2e-6, rtol=1e-5, atol=1e-9)


# ---------------------------------------------------------------------------------------------------------- what they keep


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("attack", EVERY)
def test_examples_stay_within_eps_and_the_range_of_pixels_and_leave_no_trace(attack, norm):
    model = _network(JpegLayer(*standard_tables(90)))
    images = torch.rand(4, 3, 16, 16).round()  # black and white: every other step leads out of the range
    labels = model(images).argmax(1)
    labels[0] = (labels[0] + 1) % 5
    eps = 8 / 255 if norm == "Linf" else 0.5
    state, before = torch.get_rng_state(), [parameter.clone() for parameter in model.parameters()]
    examples = attack_images(model, images, labels, attack, norm, eps, queries=20)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(now, then) for now, then in zip(model.parameters(), before, strict=True))
    assert examples.images.min() >= 0
    assert examples.images.max() <= 1
    assert (examples.distances <= eps + 1e-6).all()
    assert torch.allclose(examples.distances, distance(examples.images, images, norm))
    assert torch.equal(examples.fooled, model(examples.images).argmax(1) != labels)
    assert examples.fooled[0]
    again = attack_images(model, images, labels, attack, norm, eps, queries=20)
    assert torch.equal(again.images, examples.images)


@pytest.mark.parametrize("norm", NORMS)
def test_projection(norm):
    images, moved = torch.rand(3, 3, 4, 4), torch.rand(3, 3, 4, 4)
    moved[0, 0, 0, 0] = torch.nan
    back = project_to_ball(moved, images, norm, 0.1)
    assert back.isfinite().all()
    assert (distance(back, images, norm) <= 0.1 + 1e-6).all()
    near = images + 0.001 * (0.5 - images)
    assert torch.allclose(project_to_ball(near, images, norm, 0.1), near)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attack": "cw"}, "attack must be one of fgsm, pgd, .*, got 'cw'"),
        ({"norm": "L1"}, "norm must be Linf or L2, got 'L1'"),
        ({"eps": -0.1}, "eps must be a finite number greater than 0, got -0.1"),
        ({"gradient": "noise"}, "gradient must be one of own, ste, identity for this layer, got 'noise'"),
        ({"attack": "fab-t", "source": nn.Identity()}, "transfers are made with fgsm, pgd, pgd-strong, apgd-ce, got 'fab-t'"),
    ],
)
def test_bad_arguments(change, message):
    model = _linear(3, JpegLayer())
    call = {"attack": "fgsm", "norm": "Linf", "eps": 0.1, **change}
    with pytest.raises(UsageError, match=message):
        attack_images(model, torch.rand(2, 3, 8, 8), torch.zeros(2, dtype=torch.long), **call)


def test_a_model_in_training_mode_is_refused():
    with pytest.raises(UsageError, match="model is in training mode"):
        attack_images(_linear(3).train(), torch.rand(2, 3, 8, 8), torch.zeros(2, dtype=torch.long), "fgsm", "Linf", 0.1)


@needs_autoattack
def test_too_few_classes_for_a_targeted_attack():
    with pytest.raises(UsageError, match="apgd-t.*4.*3"):
        attack_images(_linear(3), torch.rand(2, 3, 8, 8), torch.zeros(2, dtype=torch.long), "apgd-t", "Linf", 0.1)


# -------------------------------------------------------------------------------------------------------------- surrogates

_LAYERS = {
    "soft": JpegLayer(*standard_tables(30), alpha=0.01),
    "hard": JpegLayer(*standard_tables(30), rounding="hard"),
    "noise": JpegLayer(*standard_tables(30), rounding="noise"),
    "saturating": JpegLayer(0.05, 0.05),
    "zero-dc": ZeroDcJpegLayer(*standard_tables(30)),
    "subsampled": SubsampledJpegLayer(*standard_tables(30)),
    "cascade": JpegCascade([JpegLayer(*standard_tables(60)), JpegLayer(*standard_tables(30), rounding="hard")]),
    "compander": CompandingLayer(30.0, 30.0),
}


@pytest.mark.parametrize("name", _LAYERS)
def test_a_surrogate_has_the_logits_of_the_model_to_the_bit_and_another_gradient(name):
    model = _network(_LAYERS[name])
    images, labels = torch.rand(2, 3, 16, 16), torch.tensor([1, 2])
    expected = model(images)
    gradients = {}
    for gradient in gradients_of(model.layer):
        other = with_gradient(model, gradient)
        assert torch.equal(other(images), expected)
        assert torch.equal(other(images.clone().requires_grad_()), expected)
        gradients[gradient], _ = GradientSource(other).look(images, labels)
    assert (gradients["identity"] - gradients["own"]).abs().max() > 1e-5
    with torch.no_grad():
        passed = model.layer(images)
    behind, _ = GradientSource(prepend(model.backbone, nn.Identity())).look(passed, labels)
    assert torch.equal(gradients["identity"], behind)


def test_which_gradients_a_layer_has():
    assert gradients_of(nn.Identity()) == ("own",)
    assert gradients_of(GainLayer()) == gradients_of(CompandingLayer(3.0, 3.0)) == ("own", "identity")
    assert gradients_of(JpegLayer()) == gradients_of(JpegLayer(rounding="hard")) == ("own", "ste", "identity")
    assert gradients_of(JpegLayer(rounding="ste-matched")) == gradients_of(JpegLayer(rounding="ste"))
    assert gradients_of(JpegLayer(rounding="ste")) == gradients_of(JpegLayer(rounding="none")) == ("own", "identity")
    assert gradients_of(JpegCascade([JpegLayer(), JpegLayer()])) == ("own", "ste", "none", "identity")
    assert gradients_of(JpegCascade([JpegLayer(), JpegLayer(bits=None)])) == ("own", "ste", "identity")
    model = _linear(2, GainLayer())
    with pytest.raises(UsageError, match="gradient.*'ste'"):
        with_gradient(model, "ste")


def _margin_of(model, images, share, eps):
    """Move the bias so that every image has a margin of a share of what the worst change of eps takes away."""
    linear = model.backbone[1]
    way = linear.weight[0] - linear.weight[1]
    with torch.no_grad():
        linear.bias[0] += share * eps * way.abs().sum() - (model(images)[:, 0] - model(images)[:, 1]).min()


@pytest.mark.parametrize("rounding", ["hard", "noise"])
def test_hard_rounding_is_broken_through_surrogates_and_not_through_its_own_gradient(rounding):
    model = _linear(2, JpegLayer(2.0, 2.0, rounding=rounding), size=16)
    images, labels, eps = (0.5 + 0.001 * torch.randn(8, 3, 1, 1)).expand(8, 3, 16, 16).clone(), torch.zeros(8).long(), 8 / 255
    _margin_of(model, images, 0.4, eps)
    assert answers(model, images, labels).all()
    blind = attack_images(model, images, labels, "fgsm", "Linf", eps)
    assert torch.equal(blind.images, images)
    for attack in ("pgd", "pgd-strong"):
        assert not attack_images(model, images, labels, attack, "Linf", eps).fooled.any()
        for gradient in ("ste", "none", "identity"):
            assert attack_images(model, images, labels, attack, "Linf", eps, gradient=gradient).fooled.all()


def test_a_transfer_follows_the_other_model_and_is_judged_by_this_one():
    victim, source = _linear(3), _linear(3)
    images = 0.5 + 0.1 * torch.rand(6, 3, 8, 8)
    labels = victim(images).argmax(1)
    examples = attack_images(victim, images, labels, "fgsm", "Linf", 0.05, source=source)
    gradient, _ = GradientSource(source).look(images, labels)
    assert torch.equal(examples.images, (images + 0.05 * gradient.sign()).clamp(0, 1))
    assert torch.equal(examples.fooled, victim(examples.images).argmax(1) != labels)
    source.load_state_dict(victim.state_dict())
    own, same = (attack_images(victim, images, labels, "pgd", "Linf", 0.02, source=other) for other in (None, source))
    assert torch.equal(own.images, same.images)


@needs_autoattack
def test_a_transfer_by_apgd_moves_images_that_the_other_model_knows_well():
    victim, source = _linear(4), _linear(4)
    images = 0.5 + 0.1 * torch.rand(6, 3, 8, 8)
    labels = victim(images).argmax(1)
    examples = attack_images(victim, images, labels, "apgd-ce", "Linf", 0.01, source=source)
    before, after = (nn.functional.cross_entropy(source(x), labels, reduction="none") for x in (images, examples.images))
    assert (after > before).all()
    assert (examples.distances > 0.0099).all()


# ------------------------------------------------------------------------------------------------------------ random layers


def test_gradients_of_a_random_layer_are_averaged_and_its_answers_are_those_of_the_majority():
    # Steps so wide and so soft that neighbouring levels are about as likely.
    layer = JpegLayer(60.0, 60.0, hardness=0.2, rounding="sample")
    assert is_random(layer)
    model = _network(layer)
    images, labels = torch.rand(8, 3, 16, 16), torch.randint(0, 5, (8,))

    def spread(draws):
        looks = torch.stack([GradientSource(model, draws).look(images, labels)[0] for _ in range(8)])
        return float(looks.std(0).norm())

    assert spread(16) < 0.5 * spread(1)
    right = answers(model, images, labels, 9)
    assert torch.equal(right, answers(model, images, labels, 9))
    with torch.no_grad():
        torch.manual_seed(0)
        share = torch.stack([model(images).argmax(1) == labels for _ in range(200)]).float().mean(0)
    assert right[share > 0.9].all()
    assert not right[share < 0.1].any()
    first, second = (attack_images(model, images, labels, "pgd", "Linf", 0.03, draws=4, seed=1) for _ in range(2))
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.fooled, ~answers(model, first.images, labels, 4))


class _Noisy(nn.Module):
    """Bright images are of class 0, with noise."""

    def forward(self, images):
        score = images.mean((1, 2, 3)) - 0.5 + 0.1 * torch.randn(len(images))
        return torch.stack((score, -score), 1)


def test_an_image_that_a_random_model_mistakes_in_some_draws_is_not_done_with():
    images, labels = torch.full((4, 3, 8, 8), 0.52), torch.zeros(4, dtype=torch.long)
    generator = torch.Generator().manual_seed(0)
    made = pgd(GradientSource(_Noisy(), 200), images, labels, "Linf", 0.2, steps=5, restarts=1, generator=generator)
    # From the first step on most draws are wrong; the worst case is all of eps away, and there 3 % of draws are right still.
    assert torch.allclose(made, images - 0.2)
