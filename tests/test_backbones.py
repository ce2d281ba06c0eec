import pytest
import timm
import torch

import jpegdl  # noqa: F401  registers the backbones


@pytest.mark.parametrize(
    ("depth", "millions"),  # at 100 classes, as RepDistiller's protocol has them
    [(8, 0.0839), (20, 0.2783), (32, 0.4728), (56, 0.8616), (110, 1.7366)],
)
def test_parameter_counts_are_the_published_ones(depth, millions):
    model = timm.create_model(f"cifar_resnet{depth}", num_classes=100)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=5e-5)


def test_timm_interface():
    model = timm.create_model("cifar_resnet8", num_classes=5, in_chans=1)
    x = torch.randn(2, 1, 32, 32)
    assert model(x).shape == (2, 5)
    assert model.forward_features(x).shape == (2, 64, 8, 8)
    model.reset_classifier(0)
    assert model(x).shape == (2, 64)
    assert timm.list_models("cifar_resnet*") == [f"cifar_resnet{depth}" for depth in (8, 20, 32, 56, 110)]


def test_weights_follow_the_seed():
    def weights(seed):
        torch.manual_seed(seed)
        return timm.create_model("cifar_resnet8").fc.weight

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))
