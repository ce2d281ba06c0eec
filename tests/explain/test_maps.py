"""Grad-CAM++ against closed forms, what else there is to see of single images, and which are chosen."""

import numpy as np
import pytest
import timm
import torch
from torch import nn

from factory import made_up_config, make_run
from jpegdl import functional as F
from jpegdl.explain import ExplainConfig
from jpegdl.explain.grad_cam import first_maps, grad_cam
from jpegdl.explain.single_images import BANDS, _choose, _scores, band_energies, difference_scale, show
from jpegdl.explain.subject import NotApplicable, open_subject
from jpegdl.layer import GainLayer, JpegLayer, prepend


class Linear(nn.Module):
    """A linear head on the global average of features that are given: Grad-CAM++ has a closed form."""

    def __init__(self, features, weights, named):
        super().__init__()
        self.stored, self.body = features, nn.Conv2d(3, features.shape[1], 1)
        self.pool, self.fc = nn.Identity(), nn.Linear(*reversed(weights.shape))
        with torch.no_grad():
            self.fc.weight.copy_(weights)
        if named:
            self.forward_features = self._features
            self.forward_head = lambda features: self.fc(features.mean((2, 3)))

    def _features(self, x):
        return self.pool(self.stored + 0 * self.body(x))

    def forward(self, x):
        return self.fc(self._features(x).mean((2, 3)))


@pytest.mark.parametrize("named", [True, False])
def test_grad_cam_of_a_linear_head_is_its_closed_form(named):
    features, weights = torch.rand(2, 5, 4, 3), torch.randn(6, 5)
    weights[4, 2] = 0
    classes = torch.tensor([4, 1])
    maps, where = grad_cam(prepend(Linear(features, weights, named), nn.Identity()), torch.rand(2, 3, 4, 3), classes)
    assert where == ("output of forward_features" if named else "last 4-D output before the head, that of pool")
    for image in range(2):
        expected = torch.zeros(4, 3)
        for channel in range(5):
            # g = w / hw at every place: a = g^2 / (2 g^2 + g^3 sum A), and hw of these times relu(g).
            g = weights[classes[image], channel] / 12
            if g > 0:
                a = features[image, channel]
                expected += 12 * g / (2 + g * a.sum()) * a
        torch.testing.assert_close(maps[image], expected / expected.max())
    assert maps.max() == 1


def _published(model, images, classes):
    """Grad-CAM++ written from the paper, place by place, derivatives of exp(logit) by autograd."""
    x = (model.layer(images) - model.mean) / model.std
    with torch.enable_grad():
        features = model.backbone.forward_features(x).detach().double().requires_grad_()
        logit = model.backbone.double().forward_head(features)[0, classes[0]]
        (g,) = torch.autograd.grad(logit, features)
    a, g = features[0].detach(), g[0]
    out = torch.zeros(a.shape[1:], dtype=torch.float64)
    for channel in range(len(a)):
        weight = 0.0
        for i in range(a.shape[1]):
            for j in range(a.shape[2]):
                d = g[channel, i, j].item()
                below = 2 * d**2 + a[channel].sum().item() * d**3
                weight += (d**2 / below if below else 0.0) * max(d, 0.0)
        out += weight * a[channel]
    return out.clamp(min=0) / out.clamp(min=0).max()


def test_grad_cam_of_a_network_with_a_layer():
    model = prepend(timm.create_model("cifar_resnet8", num_classes=5), JpegLayer(20.0, 30.0)).eval()
    images = torch.rand(2, 3, 32, 32)
    classes = torch.tensor([3, 0])
    maps, _ = grad_cam(model, images, classes)
    assert maps.shape == (2, 8, 8)
    assert not maps.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    expected = _published(model, images[1:], classes[1:])
    torch.testing.assert_close(maps[1].double(), expected, atol=1e-4, rtol=1e-3)


def test_backbones_with_channels_last_and_without_a_map():
    swin = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=32, window_size=2, embed_dim=12, depths=(1, 1), num_heads=(1, 2), num_classes=3
    )
    model, images, classes = prepend(swin.eval(), nn.Identity()), torch.rand(1, 3, 32, 32), torch.tensor([1])
    assert grad_cam(model, images, classes)[0].shape == (1, 4, 4)
    assert first_maps(model, images)[1]
    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, embed_dim=12, num_heads=1, num_classes=3)
    with pytest.raises(NotApplicable, match=r"forward_features.*\(1, 5, 12\)"):
        grad_cam(prepend(vit.eval(), nn.Identity()), images, classes)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3072, 3))
    with pytest.raises(NotApplicable, match="no forward_features, and no part of it"):
        grad_cam(prepend(flat, nn.Identity()), images, classes)
    with pytest.raises(NotApplicable, match="no convolution"):
        first_maps(prepend(flat, nn.Identity()), images)
    features = Linear(torch.rand(1, 4, 4, 4), torch.ones(3, 4), named=False)
    features.forward = lambda x: features.fc(features._features(x).detach().mean((2, 3)))
    with pytest.raises(NotApplicable, match="the logits do not depend"):
        grad_cam(prepend(features, nn.Identity()), torch.rand(1, 3, 4, 4), classes)


def test_first_maps_are_the_output_of_the_first_stage():
    for name, stage in (("cifar_resnet8", "conv1"), ("resnet18", "act1")):
        model = prepend(timm.create_model(name, num_classes=5), JpegLayer(20.0, 30.0)).eval()
        images = torch.rand(1, 3, 32, 32)
        maps, where = first_maps(model, images)
        assert where == stage
        with torch.no_grad():
            x = model.backbone.conv1((model.layer(images) - model.mean) / model.std)
            expected = x if name == "cifar_resnet8" else model.backbone.act1(model.backbone.bn1(x))
        torch.testing.assert_close(maps, expected)


def test_what_the_bands_lose():
    assert sum(high - low + 1 for low, high in BANDS.values()) == 15
    image = torch.rand(1, 3, 16, 24)
    layer = GainLayer()
    with torch.no_grad():
        layer.luma[0, 0] = 0
        layer.luma[1, 2] = 0.5  # low AC
        layer.chroma[3, 4] = -1  # middle AC
    energy = band_energies(image, layer(image.double()).detach())
    z = F.images_to_coefficients(image.double())
    total = {plane: sum(parts["before"] for parts in energy[plane].values()) for plane in energy}
    assert total["luma"] == pytest.approx(float((z[:, 0] ** 2).sum()) / 6)
    assert total["chroma"] == pytest.approx(float((z[:, 1:] ** 2).sum()) / 6)
    dc, low, middle = energy["luma"]["DC"], energy["luma"]["low AC"], energy["chroma"]["middle AC"]
    assert dc["after"] == pytest.approx(0, abs=1e-9)
    assert dc["difference"] == pytest.approx(dc["before"])
    lost = float((z[:, 0, :, :, 1, 2] ** 2).sum()) / 6
    assert low["after"] == pytest.approx(low["before"] - 0.75 * lost)
    assert low["difference"] == pytest.approx(0.25 * lost)
    assert middle["after"] == pytest.approx(middle["before"])
    assert middle["difference"] == pytest.approx(4 * float((z[:, 1:, :, :, 3, 4] ** 2).sum()) / 6)


@pytest.mark.parametrize(("largest", "scale"), [(0.5, 1), (0.6, 0.5), (0.24, 2), (0.001, 256), (1e-9, 256), (0, 1), (3, 0.125)])
def test_the_scale_of_a_difference_is_a_power_of_two_that_fits(largest, scale):
    assert difference_scale(torch.full((1, 3, 8, 8), -largest)) == scale


def test_images_are_chosen_by_rule():
    scores = {
        "before": torch.tensor([0.5, 0.1, 0.9, 0.4, 0.2]),
        "after": torch.tensor([0.5, 0.9, 0.2, 0.3, 0.3]),
        "distance": torch.tensor([0.0, 2.0, 5.0, 1.0, 5.0]),
    }
    assert _choose(scores, 2, by_class=True) == [
        ("image-better-1", 1), ("image-better-2", 4), ("image-worse-1", 2), ("image-worse-2", 3),
    ]  # fmt: skip
    # No more than there are, in either direction.
    assert [at for _, at in _choose(scores, 4, by_class=True)] == [1, 4, 2, 3]
    assert _choose(scores, 1, by_class=False) == [("image-changed-1", 2), ("image-changed-2", 4)]


def test_what_is_written_of_an_image(tmp_path):
    folder, plain = make_run(tmp_path / "jpeg-dl", steps=3), make_run(tmp_path / "plain", arm="plain", steps=3, seed=1)
    subject = open_subject(folder, ExplainConfig(pictures=2, batch_size=3), plain)
    left_out = []
    content, shown = show(subject, left_out)
    assert left_out == []
    assert content["images"] == 16
    assert content["models"] == ["plain", "with layer"]
    gains = []
    for index in range(16):
        image, target = subject.data.test[index]
        with torch.no_grad():
            before, after = (m(image[None]).softmax(1)[0, target].item() for m in (subject.plain.model, subject.model))
        gains.append(after - before)
    assert [each.numbers["index"] for each in shown[:1]] == [int(np.argmax(gains))]
    for each in shown:
        numbers, (image, target) = each.numbers, subject.data.test[each.numbers["index"]]
        gain = gains[numbers["index"]]
        assert numbers["chosen"].startswith(f"true class {'more' if gain > 0 else 'less'} probable with the layer, rank ")
        assert numbers["class"] == subject.run.classes[target]
        assert numbers["probability"]["with layer"] - numbers["probability"]["plain"] == pytest.approx(
            gains[numbers["index"]], abs=1e-5
        )
        with torch.no_grad():
            torch.testing.assert_close(each.output, subject.layer(image[None])[0])
            maps, _ = grad_cam(subject.model, image[None], torch.tensor([target]))
        torch.testing.assert_close(each.attention["with layer"], maps[0])
        assert each.maps["plain"].shape == (8, 16, 16)
        spread = each.maps["plain"].std((1, 2))
        assert (spread.diff() <= 1e-6).all()


def test_without_a_plain_run_the_layer_is_what_differs(tmp_path):
    subject = open_subject(make_run(tmp_path, made_up_config(), steps=3), ExplainConfig(pictures=1), None)
    models = subject.model.without_layer(), subject.model
    scores = _scores(subject, *models)
    for index in (0, 7):
        image = subject.data.test[index][0][None]
        with torch.no_grad():
            x = (image - subject.model.mean) / subject.model.std
            distance = (subject.model(image) - subject.model.backbone(x)).norm()
        assert scores["distance"][index] == pytest.approx(distance.item(), rel=1e-4)


def test_a_feature_map_too_small_to_point_is_left_out():
    for size in (1, 2):
        model = prepend(Linear(torch.rand(1, 5, size, 4), torch.randn(6, 5), named=True), nn.Identity()).eval()
        with pytest.raises(NotApplicable, match=r"feature map .*3 places|no part .*output"):
            grad_cam(model, torch.rand(1, 3, size, 4), torch.tensor([0]))


def test_where_the_last_feature_map_is_too_small_an_earlier_one_points():
    backbone = timm.create_model("resnet18", num_classes=5).eval()
    model, images, classes = prepend(backbone, JpegLayer(20.0, 30.0)).eval(), torch.rand(2, 3, 64, 64), torch.tensor([1, 4])
    maps, where = grad_cam(model, images, classes)
    assert maps.shape == (2, 4, 4)
    assert where == "last 4-D output of at least 3 x 3 places, that of layer3"
    earlier = backbone.layer4
    backbone.layer4, backbone.forward_features = (
        nn.Identity(),
        nn.Sequential(
            backbone.conv1, backbone.bn1, backbone.act1, backbone.maxpool, backbone.layer1, backbone.layer2, backbone.layer3
        ).forward,
    )
    backbone.forward_head = lambda features: backbone.fc(earlier(features).mean((2, 3)))
    expected, where = grad_cam(model, images, classes)
    assert where == "output of forward_features"
    torch.testing.assert_close(maps, expected, atol=1e-4, rtol=1e-3)
