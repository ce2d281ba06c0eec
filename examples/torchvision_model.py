"""A JPEG layer in front of a torchvision model: python examples/torchvision_model.py [--pretrained]"""

from joint_training import parser, photographs, train_jointly
from torch import Tensor, nn
from torchvision.models import ResNet18_Weights, resnet18

from jpegdl import JpegLayer, prepend
from jpegdl.data import PHOTOGRAPHS
from jpegdl.layer import PrependedModel


def cross_entropy(model: PrependedModel, images: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(model(images), labels)


def main(arguments: list[str] | None = None) -> PrependedModel:
    options_of = parser(__doc__)
    options_of.add_argument("--pretrained", action="store_true", help="download ImageNet weights and go on from there")
    options = options_of.parse_args(arguments)

    weights = ResNet18_Weights.DEFAULT
    backbone = resnet18(weights=weights if options.pretrained else None)
    backbone.fc = nn.Linear(backbone.fc.in_features, len(PHOTOGRAPHS))
    # torchvision keeps mean and standard deviation with the weights, not with the model: hand them over. (Without,
    # prepend takes ImageNet's, which these are.)
    preset = weights.transforms()
    model = prepend(backbone, JpegLayer(), preset.mean, preset.std)
    train_jointly(model, photographs(options.batch_size), cross_entropy, options.steps)
    return model


if __name__ == "__main__":
    main()
