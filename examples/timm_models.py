"""A JPEG layer in front of timm models, one CNN and one transformer: python examples/timm_models.py"""

import timm
from joint_training import PATCH, parser, photographs, train_jointly
from torch import Tensor, nn

from jpegdl import JpegLayer, prepend
from jpegdl.data import PHOTOGRAPHS
from jpegdl.layer import PrependedModel

# What each is told besides the number of classes: transformers are made for one size of image.
MODELS = {
    "resnet18": {},
    "vit_tiny_patch16_224": {"img_size": PATCH, "patch_size": 8},
}


def cross_entropy(model: PrependedModel, images: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(model(images), labels)


def main(arguments: list[str] | None = None) -> list[PrependedModel]:
    options = parser(__doc__).parse_args(arguments)
    models = []
    for name, settings in MODELS.items():
        print(name)
        # With pretrained=True timm downloads weights, here they are random.
        backbone = timm.create_model(name, num_classes=len(PHOTOGRAPHS), **settings)
        # timm models know the mean and the standard deviation that they want: prepend takes them from there.
        model = prepend(backbone, JpegLayer())
        train_jointly(model, photographs(options.batch_size), cross_entropy, options.steps)
        models.append(model)
    return models


if __name__ == "__main__":
    main()
