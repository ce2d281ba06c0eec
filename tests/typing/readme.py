"""The code of README.md, for `make lint`: mypy checks it strictly, and nothing runs it.

tests/layer/test_typing.py makes sure that it is README's.
"""
# mypy: allow-untyped-calls
# PyTorch's own Tensor.backward has no annotations.
# ruff: noqa: E401, F821, I001

from typing import Any, Literal, assert_type

from torch import Tensor
from torch.utils.data import DataLoader

train_loader: DataLoader[Any]


def two_lines(images: Tensor) -> None:
    import timm
    from jpegdl import JpegLayer, prepend

    backbone = timm.create_model("resnet18", num_classes=102)
    model = prepend(backbone, JpegLayer())  # images in [0, 1] in, logits out

    assert_type(model.layer, JpegLayer)
    model(images)


def loop() -> None:
    import timm, torch
    from torch import nn
    from jpegdl import JpegLayer, prepend
    from jpegdl.calibrate import sensitivity_tables

    plain = prepend(timm.create_model("resnet18", num_classes=102), nn.Identity())
    ...  # train plain as usual, then
    tables = sensitivity_tables(plain, train_loader)  # where the plain model's loss is least sensitive, steps are largest

    model = prepend(timm.create_model("resnet18", num_classes=102), JpegLayer(*tables))
    optimizer = torch.optim.SGD(model.backbone.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    layer_optimizer = torch.optim.Adam(model.layer.parameters(), lr=0.003)
    for images, labels in train_loader:
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        layer_optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        layer_optimizer.step()  # after which steps are within [1e-5, 255]
    torch.save(model.state_dict(), "model.pt")  # plain keys: layer.* and backbone.*


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
