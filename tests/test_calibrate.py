from functools import partial

import pytest
import torch
from torch import nn

from jpegdl import functional as F
from jpegdl.calibrate import magnitude_tables, sensitivity_tables
from jpegdl.data import Data, DataConfig
from jpegdl.errors import UsageError


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
    assert (chroma <= 1e-4).all()  # grey ones none in their colour


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
