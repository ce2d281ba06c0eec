"""A JPEG layer in front of a Hugging Face image classifier: python examples/huggingface.py [--checkpoint NAME]

Without a checkpoint a small vision transformer is made from a configuration, and nothing is downloaded. With one, say
google/vit-base-patch16-224 or a folder, the model, its size of image and its normalisation come from there. Needs the
package transformers: pip install '.[examples]' in a checkout.
"""

import sys

from joint_training import PATCH, parser, photographs, train_jointly
from torch import Tensor, nn

try:
    from transformers import AutoImageProcessor, AutoModelForImageClassification, ViTConfig, ViTImageProcessor
except ImportError:
    sys.exit("this example needs the package transformers: pip install '.[examples]' in a checkout")

from jpegdl import JpegLayer, prepend
from jpegdl.data import PHOTOGRAPHS
from jpegdl.layer import PrependedModel


def cross_entropy(model: PrependedModel, images: Tensor, labels: Tensor) -> Tensor:
    # The model returns what the backbone returns: here an object with logits and more.
    return nn.functional.cross_entropy(model(images).logits, labels)


def main(arguments: list[str] | None = None) -> PrependedModel:
    options_of = parser("A JPEG layer in front of a Hugging Face image classifier.")
    options_of.add_argument("--checkpoint", help="name or folder of a model; default: a small one from scratch")
    options = options_of.parse_args(arguments)

    if options.checkpoint:
        processor = AutoImageProcessor.from_pretrained(options.checkpoint)
        backbone = AutoModelForImageClassification.from_pretrained(
            options.checkpoint, num_labels=len(PHOTOGRAPHS), ignore_mismatched_sizes=True
        )
    else:
        processor = ViTImageProcessor()
        config = ViTConfig(
            image_size=PATCH,
            patch_size=8,
            hidden_size=96,
            num_hidden_layers=4,
            num_attention_heads=3,
            intermediate_size=192,
            num_labels=len(PHOTOGRAPHS),
        )
        backbone = AutoModelForImageClassification.from_config(config)

    # The processor would scale, resize and normalise. Here images come in [0, 1] and of the right size, the layer needs
    # them like that, and prepend normalises after it: with the processor's own numbers.
    model = prepend(backbone, JpegLayer(), processor.image_mean, processor.image_std)
    size = getattr(backbone.config, "image_size", PATCH)  # convolutional networks take any
    train_jointly(model, photographs(options.batch_size, size), cross_entropy, options.steps)
    return model


if __name__ == "__main__":
    main()
