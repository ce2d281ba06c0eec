"""CIFAR backbones that timm lacks, registered with timm: ``timm.create_model("cifar_resnet20", num_classes=10)``.

``import jpegdl.backbones`` registers them: the networks of RepDistiller's protocol, for 32x32 images.
"""

from itertools import product
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from jpegdl.backbones.base import CifarBackbone
from jpegdl.backbones.mobilenetv2 import CifarMobileNetV2
from jpegdl.backbones.resnet import CifarResNet, CifarResNet50
from jpegdl.backbones.shufflenet import CifarShuffleNetV1, CifarShuffleNetV2
from jpegdl.backbones.vgg import CONVOLUTIONS, CifarVGG
from jpegdl.backbones.wrn import CifarWideResNet

_NETWORKS: dict[str, tuple[type[CifarBackbone], dict[str, Any]]] = {
    **{f"cifar_resnet{depth}": (CifarResNet, {"depth": depth}) for depth in (8, 14, 20, 32, 44, 56, 110)},
    **{f"cifar_resnet{depth}x4": (CifarResNet, {"depth": depth, "channels": (32, 64, 128, 256)}) for depth in (8, 32)},
    "cifar_resnet50": (CifarResNet50, {}),
    **{
        f"cifar_wrn_{depth}_{width}": (CifarWideResNet, {"depth": depth, "width": width})
        for depth, width in product((16, 40), (1, 2))
    },
    **{f"cifar_vgg{depth}": (CifarVGG, {"depth": depth}) for depth in CONVOLUTIONS},
    "cifar_mobilenetv2": (CifarMobileNetV2, {"width": 0.5}),
    "cifar_shufflenetv1": (CifarShuffleNetV1, {}),
    "cifar_shufflenetv2": (CifarShuffleNetV2, {}),
}

default_cfgs = generate_default_cfgs(
    {
        name: {
            "num_classes": 10,
            "input_size": (3, 32, 32),
            "mean": (0.5071, 0.4867, 0.4408),  # CIFAR-100's own
            "std": (0.2675, 0.2565, 0.2761),
            "first_conv": network.FIRST_CONV,
            "classifier": network.CLASSIFIER,
        }
        for name, (network, _) in _NETWORKS.items()
    }
)


def _register(name: str) -> None:
    network, arguments = _NETWORKS[name]

    def create(pretrained: bool = False, **kwargs: Any) -> CifarBackbone:
        model: CifarBackbone = build_model_with_cfg(network, name, pretrained, **(arguments | kwargs))
        return model

    # timm registers a function by its name, with what this module's default_cfgs has under it.
    create.__name__ = create.__qualname__ = name
    create.__doc__ = network.__doc__
    globals()[name] = register_model(create)


for _name in _NETWORKS:
    _register(_name)
