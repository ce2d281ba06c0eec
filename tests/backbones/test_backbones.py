import copy
import math
import re

import pytest
import timm
import torch
import torchvision
from torch import nn

from jpegdl.backbones.build import build_backbone, check_backbone
from jpegdl.backbones.mobilenetv2 import CifarMobileNetV2
from jpegdl.errors import UsageError
from jpegdl.layer import prepend

# Parameters at 100 classes in millions, as published for the networks of RepDistiller's protocol, and the map of
# features that a 32x32 image ends as.
PUBLISHED = {
    "cifar_resnet8": ("0.0839", (64, 8, 8)),
    "cifar_resnet14": ("0.1811", (64, 8, 8)),
    "cifar_resnet20": ("0.2783", (64, 8, 8)),
    "cifar_resnet32": ("0.4728", (64, 8, 8)),
    "cifar_resnet44": ("0.6672", (64, 8, 8)),
    "cifar_resnet56": ("0.8616", (64, 8, 8)),
    "cifar_resnet110": ("1.7366", (64, 8, 8)),
    "cifar_resnet8x4": ("1.2335", (256, 8, 8)),
    "cifar_resnet32x4": ("7.4339", (256, 8, 8)),
    "cifar_resnet50": ("23.7053", (2048, 4, 4)),
    "cifar_wrn_16_1": ("0.1809", (64, 8, 8)),
    "cifar_wrn_16_2": ("0.7033", (128, 8, 8)),
    "cifar_wrn_40_1": ("0.5698", (64, 8, 8)),
    "cifar_wrn_40_2": ("2.2552", (128, 8, 8)),
    "cifar_vgg8": ("3.9650", (512, 4, 4)),
    "cifar_vgg11": ("9.2773", (512, 4, 4)),
    "cifar_vgg13": ("9.4622", (512, 4, 4)),
    "cifar_vgg16": ("14.7744", (512, 4, 4)),
    "cifar_vgg19": ("20.0867", (512, 4, 4)),
    "cifar_mobilenetv2": ("0.8128", (1280, 2, 2)),
    "cifar_shufflenetv1": ("0.9493", (960, 4, 4)),
    "cifar_shufflenetv2": ("1.3555", (1024, 4, 4)),
}
EACH = pytest.mark.parametrize("name", PUBLISHED)
FAMILIES = pytest.mark.parametrize(  # the smallest network of each class
    "name",
    [
        "cifar_resnet8", "cifar_resnet50", "cifar_wrn_16_1", "cifar_vgg8", "cifar_mobilenetv2", "cifar_shufflenetv1",
        "cifar_shufflenetv2",
    ],
)  # fmt: skip


def test_timm_lists_all():
    assert set(timm.list_models("cifar_*")) == set(PUBLISHED)


@EACH
def test_published_parameter_counts(name):
    model = timm.create_model(name, num_classes=100)
    assert f"{sum(p.numel() for p in model.parameters()) / 1e6:.4f}" == PUBLISHED[name][0]


@EACH
def test_one_step_of_training(name):
    """Features of the published size, logits, and a finite gradient other than zero for every parameter."""
    model = timm.create_model(name, num_classes=5)
    features = model.forward_features(torch.randn(2, 3, 32, 32))
    assert features.shape[1:] == PUBLISHED[name][1]
    assert model.num_features == features.shape[1]
    logits = model.forward_head(features)
    assert logits.shape == (2, 5)
    nn.functional.cross_entropy(logits, torch.tensor([1, 3])).backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all(), parameter_name
        # Batch normalisation takes a convolution's bias out again.
        assert parameter.grad.any() or ("vgg" in name and parameter_name.endswith("bias")), parameter_name


@FAMILIES
@pytest.mark.parametrize("size", [(64, 64), (40, 72), (33, 31)])
def test_other_sizes(name, size):
    model = timm.create_model(name).eval()
    assert model(torch.randn(1, 3, *size)).shape == (1, 10)


def test_vgg_halves_large_images_once_more():
    model = timm.create_model("cifar_vgg8").eval()
    assert model.forward_features(torch.randn(1, 3, 64, 64)).shape == (1, 512, 4, 4)
    assert model.forward_features(torch.randn(1, 3, 56, 56)).shape == (1, 512, 7, 7)


@FAMILIES
def test_classifier(name):
    model = timm.create_model(name, num_classes=5, in_chans=1).eval()
    x = torch.randn(2, 1, 32, 32)
    width = model.num_features
    classifier = model.get_classifier()
    assert isinstance(classifier, nn.Linear)
    assert classifier.weight.shape == (5, width)
    pooled = model.forward_head(model.forward_features(x), pre_logits=True)
    torch.testing.assert_close(classifier(pooled), model(x))

    model.reset_classifier(0)
    assert isinstance(model.get_classifier(), nn.Identity)
    torch.testing.assert_close(model(x), pooled)
    assert model.num_classes == 0

    model.reset_classifier(7, "catavgmax")
    assert model.get_classifier().weight.shape == (7, 2 * width)
    assert model(x).shape == (2, 7)

    model.reset_classifier(0, "")
    assert torch.equal(model(x), model.forward_features(x))


@FAMILIES
def test_what_timm_knows(name):
    model = timm.create_model(name)
    config = model.pretrained_cfg
    assert config["input_size"] == (3, 32, 32)
    assert config["num_classes"] == model.num_classes == 10
    assert config["mean"] == pytest.approx((0.507, 0.487, 0.441), abs=1e-3)
    assert config["std"] == pytest.approx((0.267, 0.256, 0.276), abs=1e-3)
    assert model.get_submodule(config["first_conv"]) is next(m for m in model.modules() if isinstance(m, nn.Conv2d))
    assert model.get_submodule(config["classifier"]) is model.get_classifier()
    with pytest.raises(RuntimeError, match="No pretrained weights exist"):
        timm.create_model(name, pretrained=True)


@FAMILIES
def test_copies_and_reloads(name):
    model = timm.create_model(name, num_classes=5)
    x = torch.randn(4, 3, 32, 32)
    model(x)  # moves the running means
    other = timm.create_model(name, num_classes=5)
    other.load_state_dict(model.state_dict())
    for same in (copy.deepcopy(model), other):
        assert torch.equal(same.eval()(x), model.eval()(x))
    model.get_classifier().weight.data.zero_()
    assert other.get_classifier().weight.any()


@FAMILIES
def test_train_and_eval(name):
    model = timm.create_model(name, drop_rate=0.5, num_classes=0)
    x = torch.randn(4, 3, 32, 32)
    dropped, again = model(x), model(x)
    assert not torch.equal(dropped == 0, again == 0)
    before = copy.deepcopy(model.eval().state_dict())
    assert torch.equal(model(x), model(x))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("cifar_resnet8", ["layer2.0.downsample.0.weight", "fc.weight"]),
        ("cifar_resnet50", ["layer1.0.shortcut.1.running_mean", "linear.weight"]),
        ("cifar_wrn_16_2", ["block1.layer.0.convShortcut.weight", "bn1.weight", "fc.weight"]),
        ("cifar_vgg13", ["block4.3.weight", "block4.4.running_var", "classifier.weight"]),
        ("cifar_mobilenetv2", ["conv1.0.weight", "blocks.3.0.conv.7.weight", "conv2.1.bias", "classifier.0.weight"]),
        ("cifar_shufflenetv1", ["layer1.0.conv3.weight", "linear.bias"]),
        ("cifar_shufflenetv2", ["layer3.0.bn5.weight", "layer3.3.bn3.weight", "linear.bias"]),
    ],
)
def test_parameters_have_repdistillers_names(name, keys):
    assert set(keys) <= timm.create_model(name).state_dict().keys()


@FAMILIES
def test_first_weights(name):
    """Spread as the protocol draws them: He's for convolutions but in ShuffleNets; a small classifier in VGG and MobileNet."""
    model = timm.create_model(name, num_classes=100)
    conv = max((m for m in model.modules() if isinstance(m, nn.Conv2d)), key=lambda m: m.weight.numel())
    shuffle, small = "shufflenet" in name, name in ("cifar_vgg8", "cifar_mobilenetv2")
    he = math.sqrt(2 / (conv.out_channels * math.prod(conv.kernel_size)))
    default = 1 / math.sqrt(3 * conv.weight[0].numel())
    assert conv.weight.std().item() == pytest.approx(default if shuffle else he, rel=0.02)
    for classes in (100, 50):
        linear = model.get_classifier()
        assert linear.weight.shape[0] == classes
        std = 0.01 if small else 1 / math.sqrt(3 * linear.in_features)
        assert linear.weight.std().item() == pytest.approx(std, rel=0.05)
        assert linear.bias.any().item() == (not small and "wrn" not in name)
        model.reset_classifier(50)


@pytest.mark.parametrize(
    ("name", "logits"),  # of a transcription of RepDistiller's networks, with these weights and this image
    [
        ("cifar_resnet8", [0.082128483, -0.14454307, 1.2273655]),
        ("cifar_resnet8x4", [-0.78427483, -0.79696986, -0.62902236]),
        ("cifar_resnet50", [-0.81308612, 1.1776081, 3.0793974]),
        ("cifar_wrn_16_1", [1.6148179, 0.71298123, 0.14137554]),
        ("cifar_wrn_16_2", [1.0063374, 0.97713335, 0.94919929]),
        ("cifar_vgg8", [0.58872709, 0.031408129, 0.66598842]),
        ("cifar_vgg13", [0.8195668, 0.7481536, 1.1539707]),
        ("cifar_mobilenetv2", [0.8755715, 1.2851492, 1.6332238]),
        ("cifar_shufflenetv1", [-0.64127677, -6.0502981, 4.0851093]),
        ("cifar_shufflenetv2", [2.4037336, -1.5880425, 1.0678771]),
    ],
)
def test_computes_what_repdistillers_network_does(name, logits):
    model = timm.create_model(name, num_classes=100).double()
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters(), start=1):
            wave = (i * torch.arange(parameter.numel(), dtype=torch.float64).view_as(parameter) + i).cos()
            parameter.copy_(wave / 4 + 1 if parameter.ndim == 1 else wave)
    image = torch.arange(2 * 3 * 32 * 32, dtype=torch.float64).view(2, 3, 32, 32).mul(0.7).sin()
    assert model(image)[1, :3].tolist() == pytest.approx(logits, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "first", "last", "classifier"),  # of a model drawn with seed 0, ever since the first release
    [
        ("cifar_resnet8", [0.18755, -0.048514, -0.100568], [0.088971, 0.056676, -0.051722], [-0.028466, 0.085075, 0.096337]),
        ("cifar_resnet20", [0.089562, 0.090499, -0.065908], [-0.058525, -0.001094, -0.03692], [0.016443, -0.013384, 0.104056]),
    ],
)
def test_a_seed_gives_the_weights_it_always_gave(name, first, last, classifier):
    torch.manual_seed(0)
    model = timm.create_model(name)
    assert model.conv1.weight[0, 0, 0].tolist() == pytest.approx(first, abs=1e-5)
    assert model.layer3[-1].conv2.weight[0, 0, 0].tolist() == pytest.approx(last, abs=1e-5)
    assert model.fc.weight[0, :3].tolist() == pytest.approx(classifier, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("cifar_resnet20", {"depth": 21}, r"depth must be 6 n \+ 2 with a whole n >= 1, got 21"),
        ("cifar_resnet20", {"depth": 2}, r"depth must be 6 n \+ 2 with a whole n >= 1, got 2"),
        ("cifar_resnet20", {"depth": 20.0}, r"depth must be .* got 20.0"),
        ("cifar_resnet20", {"channels": (16, 32, 64)}, r"channels must be four whole numbers >= 1 .* got \(16, 32, 64\)"),
        ("cifar_resnet20", {"channels": (16, 16, 32, 0)}, r"channels must be four whole numbers >= 1"),
        ("cifar_wrn_16_2", {"depth": 20}, r"depth must be 6 n \+ 4 with a whole n >= 1, got 20"),
        ("cifar_wrn_16_2", {"width": 0}, "width must be a whole number >= 1, got 0"),
        ("cifar_wrn_16_2", {"width": 1.5}, "width must be a whole number >= 1, got 1.5"),
        ("cifar_vgg13", {"depth": 12}, "depth must be one of 8, 11, 13, 16, 19, got 12"),
        ("cifar_mobilenetv2", {"width": 0.01}, "width must be a number from 1/16 to 16, got 0.01"),
        ("cifar_mobilenetv2", {"width": float("nan")}, "width must be a number from 1/16 to 16, got nan"),
        ("cifar_mobilenetv2", {"width": "half"}, "width must be a number from 1/16 to 16, got 'half'"),
        ("cifar_resnet8", {"global_pool": "mean"}, "global_pool must be one of 'avg', 'max', .* got 'mean'"),
        ("cifar_resnet8", {"global_pool": ""}, "global_pool='' .* num_classes must be 0, got 10"),
    ],
)
def test_what_cannot_be_built_is_refused(name, settings, message):
    with pytest.raises(UsageError, match=message):
        timm.create_model(name, **settings)


def test_misspelt_arguments_are_refused():
    with pytest.raises(TypeError, match="drop_rat"):
        timm.create_model("cifar_resnet8", drop_rat=0.1)


@pytest.mark.parametrize(("width", "features"), [(1 / 16, 1280), (1, 1280), (1.5, 1920)])
def test_mobilenet_widths(width, features):
    model = CifarMobileNetV2(width).eval()
    assert model(torch.randn(1, 3, 32, 32)).shape == (1, 10)
    assert model.num_features == features


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("resnet18.a1_in1k", "add --pretrained true to load them, or give 'resnet18' to start from random ones"),
        ("cifar_resnet20.mine", "add --pretrained true to load them, or give 'cifar_resnet20' to start"),
        ("hf-hub:timm/resnet18.a1_in1k", "give an architecture"),
        ("local-dir:models/mine", "give an architecture"),
    ],
)
def test_names_of_pretrained_weights_are_refused(name, instead):
    with pytest.raises(UsageError, match=f"'{re.escape(name)}' stands for pretrained weights, which are not loaded; {instead}"):
        check_backbone(name)


@pytest.mark.parametrize("name", ["resnet18", "cifar_resnet20", "torchvision/resnet18", "vit_tiny_patch16_224_in21k"])
def test_names_of_architectures_are_taken(name):
    check_backbone(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet81.a1_in1k", "'resnet81.a1_in1k' is not a timm model; did you mean resnet"),
        ("torchvision/resnet81", "is not a classifier of torchvision; did you mean resnet"),
    ],
)
def test_similar_names_are_suggested(name, message):
    with pytest.raises(UsageError, match=message):
        check_backbone(name)


@pytest.mark.parametrize("name", ["efficientnet_v2_l", "resnet18"])
def test_a_network_of_torchvisions_is_normalised_for_as_its_weights_ask(name):
    with torch.device("meta"):  # one has 119 million parameters
        backbone = build_backbone(f"torchvision/{name}", 7, 0, 64)
    model, asked = prepend(backbone, nn.Identity()), torchvision.models.get_model_weights(name).DEFAULT.transforms()
    assert model.mean.flatten().tolist() == pytest.approx(asked.mean)
    assert model.std.flatten().tolist() == pytest.approx(asked.std)
