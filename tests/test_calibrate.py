import copy
from functools import partial

import pytest
import torch
from torch import nn

from jpegdl import functional as F
from jpegdl.backbones.build import build_backbone
from jpegdl.calibrate import magnitude_tables, model_tables, sensitivity_tables
from jpegdl.data import Data, DataConfig
from jpegdl.errors import UsageError
from jpegdl.layer import LayerConfig, check_layer, prepend


class Linear(nn.Module):
    """Logits linear in the pixels, so that gradients are known; with dropout, to see that eval mode is used."""

    def __init__(self, size=16, classes=3):
        super().__init__()
        self.fc = nn.Linear(3 * size * size, classes).double()
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        return self.fc(self.dropout(x.flatten(1).double()))


def _batches(count=12, size=16, batch=5):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, 3, size, size, generator=generator)
    target = torch.randint(0, 3, (count,), generator=generator)
    return list(zip(images.split(batch), target.split(batch), strict=True))


def _by_hand(model, batches, images):
    """S_f, one image and block at a time, by the chain rule through the inverse transform alone."""
    total, blocks = torch.zeros(3, 8, 8, dtype=torch.float64), 0
    seen = 0
    for batch, target in batches:
        for image, label in zip(batch, target, strict=True):
            if seen == images:
                return total / blocks
            seen += 1
            x = image[None].clone().requires_grad_()
            nn.functional.cross_entropy(model(x), label[None]).backward()
            # z -> x is orthonormal blocks, a colour matrix and 1/255: its transpose takes dL/dx to dL/dz.
            grad = x.grad.double() / 255
            r, g, b = grad.unbind(1)
            cb = (2 * (1 - F.KB)) * (b - F.KB / F.KG * g)
            cr = (2 * (1 - F.KR)) * (r - F.KR / F.KG * g)
            dz = F.block_dct(torch.stack((r + g + b, cb, cr), dim=1))[0]
            total += dz.square().sum((1, 2))
            blocks += dz.shape[1] * dz.shape[2]
    return total / blocks


@pytest.mark.parametrize("images", [12, 7, 5])
def test_sensitivity_is_the_formula(images):
    model, batches = Linear().eval(), _batches()
    s = _by_hand(model, batches, images)
    luma, chroma = sensitivity_tables(model, batches, q_max=5.0, images=images)
    scale = 5.0 / (1 / s[0]).max()
    torch.testing.assert_close(luma, (scale / s[0]).float(), rtol=1e-4, atol=0)
    torch.testing.assert_close(chroma, (scale * 2 / (s[1] + s[2])).float().clamp(1e-5, 255), rtol=1e-4, atol=0)
    assert luma.max().item() == pytest.approx(5.0)


def test_sensitivity_uses_eval_mode_and_leaves_the_model_as_it_was():
    model, batches = Linear(), _batches()
    model.train()
    model.dropout.eval()
    model.fc.weight.grad = torch.ones_like(model.fc.weight)
    first = sensitivity_tables(model, batches)
    assert model.training
    assert not model.dropout.training
    assert (model.fc.weight.grad == 1).all()
    model.eval()
    assert torch.equal(first[0], sensitivity_tables(model, batches)[0])


class Normed(Linear):
    """With batch statistics too."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3 * 16 * 16).double()

    def forward(self, x):
        return self.fc(self.dropout(self.norm(x.flatten(1).double())))


def test_train_mode_uses_batch_statistics_and_dropout_and_leaves_the_model_as_it_was():
    model, batches = Normed().eval(), _batches(batch=4)
    model.norm.running_mean += 0.3
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(5)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    trained = sensitivity_tables(model, batches, train_mode=True)
    assert torch.equal(torch.rand(1), drawn)  # the global generator too
    assert not any(part.training for part in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    torch.manual_seed(6)
    assert all(map(torch.equal, trained, sensitivity_tables(model, batches, train_mode=True)))
    without_dropout = Normed().eval()
    without_dropout.load_state_dict(before)
    without_dropout.dropout.p = 0.0
    modes = [sensitivity_tables(one, batches, train_mode=mode)[0] for one in (model, without_dropout) for mode in (True, False)]
    assert torch.equal(modes[1], modes[3])  # eval mode knows no dropout
    for one, other in ((0, 1), (0, 2), (2, 3)):
        assert not torch.allclose(modes[one], modes[other], rtol=1e-3)


@pytest.mark.parametrize("train_mode", [False, True])
def test_a_loss_averaged_over_equal_batches_gives_the_same_tables(train_mode):
    """By hand, each batch through a copy of the model in that mode: all squares have one factor more, which cancels."""
    model, batches = Normed().eval(), _batches(batch=4)
    model.dropout.p = 0.0
    total = torch.zeros(3, 8, 8, dtype=torch.float64)
    for images, target in batches:
        z = F.images_to_coefficients(images).requires_grad_()
        logits = copy.deepcopy(model).train(train_mode)(F.coefficients_to_images(z, (16, 16)))
        nn.functional.cross_entropy(logits.float(), target, reduction="mean").backward()
        total += z.grad.double().square().sum((0, 2, 3))
    luma, chroma = 1 / total[0], 2 / (total[1] + total[2])
    found = sensitivity_tables(model, batches, q_max=5.0, train_mode=train_mode)
    torch.testing.assert_close(found[0], (5 / luma.max() * luma).float(), rtol=1e-4, atol=0)
    torch.testing.assert_close(found[1], (5 / luma.max() * chroma).clamp(1e-5, 255).float(), rtol=1e-4, atol=0)


def test_train_mode_refuses_a_single_image_with_batchnorm():
    model = Normed()
    with pytest.raises(UsageError, match="BatchNorm.*layer.calibration eval"):
        sensitivity_tables(model, _batches(count=5, batch=4), train_mode=True)
    assert model.norm.num_batches_tracked == 0
    sensitivity_tables(model, _batches(count=5, batch=4))


@pytest.mark.parametrize("calibration", ["eval", "train"])
def test_settings_say_how_sensitivities_are_computed(few_photos, monkeypatch, calibration):
    """Train mode comes with images as training sees them, eval mode with center crops."""
    data = Data(DataConfig(size=16, resize=20))
    asked = []
    loader = Data.calibration_dataloader
    monkeypatch.setattr(
        Data, "calibration_dataloader", lambda self, augmented=False: asked.append(augmented) or loader(self, augmented)
    )
    modes = []
    model = prepend(build_backbone("cifar_resnet8", len(data.classes), 0, 16), nn.Identity()).eval()
    model.register_forward_hook(lambda module, *_: modes.append(module.training))
    config = LayerConfig(calibration=calibration, q_max=3.0, images=30)
    luma, _ = model_tables(config, model, data)
    assert luma.max().item() == pytest.approx(3.0)
    assert asked == [calibration == "train"]
    assert modes == [calibration == "train"]
    expected = sensitivity_tables(
        model, loader(data, calibration == "train"), q_max=3.0, images=30, train_mode=calibration == "train"
    )
    assert torch.equal(luma, expected[0])
    with pytest.raises(UsageError, match="layer.calibration.*'test'"):
        check_layer(LayerConfig(calibration="test"), 16)


@pytest.mark.usefixtures("few_photos")
def test_images_as_training_sees_them_may_have_noise_beyond_their_range():
    config = DataConfig(size=16, resize=20, auto_augment="rand-m9-mstd0.5-inc1", erase=1.0)
    loader = Data(config).calibration_dataloader(augmented=True)
    assert next(iter(loader))[0].max().item() > 1.1
    assert magnitude_tables(loader)[0].isfinite().all()
    with pytest.raises(UsageError, match="normalisation"):  # and those that are normalised have not
        magnitude_tables([((images - 0.45) / 0.225, target) for images, target in loader])


def test_batch_size_does_not_matter():
    model = Linear().eval()
    one, other = (sensitivity_tables(model, _batches(batch=batch)) for batch in (12, 1))
    torch.testing.assert_close(one, other)


def test_sizes_that_are_no_multiple_of_8():
    luma, chroma = sensitivity_tables(Linear(size=13).eval(), _batches(size=13))
    assert luma.shape == chroma.shape == (8, 8)


def test_magnitude_is_the_formula():
    batches = _batches()
    z = F.images_to_coefficients(torch.cat([images for images, _ in batches])).abs()
    luma, chroma = magnitude_tables(batches, bits=11)
    torch.testing.assert_close(luma, 2 * z[:, 0].mean((0, 1, 2)) / 32)
    torch.testing.assert_close(chroma, 2 * z[:, 1:].mean((0, 1, 2, 3)) / 32)


def test_magnitude_on_photographs():
    loader = Data(DataConfig(size=32, resize=40)).calibration_dataloader()
    luma, chroma = magnitude_tables(loader, images=100)
    assert luma[0, 0] > luma[4, 4] > 0  # photographs have their energy at low frequencies
    assert chroma[0, 0] > chroma[4, 4] > 0


@pytest.mark.parametrize("images", [12, 7, 1])
def test_processes_share_the_images_and_get_the_tables_of_all(monkeypatch, images):
    """Three processes that take turns in the order of the images; with one image alone, two of them have none."""
    model, world = Linear().eval(), 3
    shares = [[(image[rank::world], target[rank::world]) for image, target in _batches(batch=12)] for rank in range(world)]
    for tables in (lambda loader: sensitivity_tables(model, loader, images=images), partial(magnitude_tables, images=images)):
        expected, sent = tables(_batches()), []

        def gather(into, own, sent=sent):
            sent.append(own)
            into[:] = sent

        with monkeypatch.context() as patch:
            patch.setattr("jpegdl.calibrate.distributed.all_gather_object", gather)
            for rank, share in enumerate(shares):
                patch.setattr("jpegdl.calibrate.processes", lambda rank=rank: (rank, world))
                found = tables(share)  # of the processes so far
        torch.testing.assert_close(found, expected)


def test_bad_input():
    model, batches = Linear().eval(), _batches()
    with pytest.raises(UsageError, match="q_max"):
        sensitivity_tables(model, batches, q_max=0)
    with pytest.raises(UsageError, match="images must be at least 1"):
        sensitivity_tables(model, batches, images=0)
    with pytest.raises(UsageError, match="no images"):
        sensitivity_tables(model, [])
    with pytest.raises(UsageError, match="no images"):
        magnitude_tables([])
    with pytest.raises(UsageError, match="bits"):
        magnitude_tables(batches, bits=None)
    with pytest.raises(UsageError, match="not finite"):
        magnitude_tables([(torch.full((1, 3, 8, 8), float("nan")), torch.zeros(1))])
    for call in (lambda batches: sensitivity_tables(model, batches), magnitude_tables):
        with pytest.raises(UsageError, match=r"must lie in \[0, 1\].*normalisation"):
            call([(images * 255, target) for images, target in batches])
    nn.init.zeros_(model.fc.weight)
    with pytest.raises(UsageError, match="zero or not finite"):
        sensitivity_tables(model, batches)
