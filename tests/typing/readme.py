"""The code of README.md, for `make lint`: mypy checks it strictly, and nothing runs it.

tests/layer/test_typing.py makes sure that it is README's.
"""
# mypy: allow-untyped-calls
# PyTorch's own Tensor.backward has no annotations.
# ruff: noqa: F841, I001

from typing import Literal, assert_type

from torch import Tensor


def start() -> None:
    import timm
    import torch
    from jpegdl import JpegLayer, parameter_groups, prepend

    layer = JpegLayer.from_quality(30)  # two tables of 8x8 steps, which train
    model = prepend(timm.create_model("resnet18", num_classes=10), layer)  # RGB in [0, 1] to logits
    optimizer = torch.optim.AdamW(parameter_groups(model, lr=1e-3, layer_lr=3e-3, weight_decay=0.05))
    images, labels = torch.rand(8, 3, 64, 64), torch.randint(10, (8,))
    torch.nn.functional.cross_entropy(model(images), labels).backward()
    optimizer.step()  # moves the steps together with the weights

    assert_type(model.layer, JpegLayer)


def codec(images: Tensor) -> None:
    import torch

    from jpegdl import RandomJpeg, jpeg

    decoded = jpeg(images, quality=torch.tensor([10, 20, 30, 50, 70, 80, 90, 95]))  # one per image
    noisy = RandomJpeg(quality=(30, 95))(images)  # an augmentation, or noise to train through

    assert_type(decoded, Tensor)


def use() -> None:
    import jpegdl

    model = jpegdl.load("runs/mine/jpeg-dl/0", device="cpu")
    print(model.classes, model.predict("photo.jpg").label)
    for prediction in model.predict(["a.jpg", "b.png"], top=3):
        print(prediction.labels, prediction.probabilities)
    model.save_pretrained("flowers")  # a folder to hand on: jpegdl.load opens it too
    model.push_to_hub("user/flowers")  # the same on the Hugging Face Hub, for
    model = jpegdl.Classifier.from_pretrained("user/flowers")


def roundings(name: Literal["hard", "ste"], anything: str) -> None:
    from jpegdl import JpegLayer

    layer = JpegLayer(rounding=name)
    layer.rounding = "sample"
    layer.rounding = anything  # type: ignore[assignment]
    JpegLayer(rounding="sotf")  # type: ignore[arg-type]


def any_layer(plain: bool) -> None:
    """A model with a JpegLayer is a model with some layer."""
    from torch import nn

    from jpegdl import JpegLayer, prepend
    from jpegdl.layer import PrependedModel

    model: PrependedModel = prepend(nn.Identity(), nn.Identity() if plain else JpegLayer())
    same: PrependedModel[nn.Module] = prepend(nn.Identity(), JpegLayer())
    assert_type(model.layer, nn.Module)
    assert_type(same.backbone, nn.Module)
