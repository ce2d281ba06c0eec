"""What a training step takes in bf16-mixed and with channels last, over float32's: python studies/bf16/step_times.py

Three networks, alone and behind the layer, forward and backward on noise; the ways take turns, the shortest of six counts.
"""

import time

import timm
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import jpegdl.backbones  # noqa: F401 - registers cifar_resnet8
from jpegdl import JpegLayer, prepend
from jpegdl_studies.tables import header, row

WAYS = ((False, False), (False, True), (True, False), (True, True))  # whether in bf16, and with channels last


def step(model: nn.Module, images: torch.Tensor, bf16: bool) -> float:
    labels = torch.zeros(len(images), dtype=torch.long)
    start = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = cross_entropy(model(images).float(), labels)
    loss.backward()  # type: ignore[no-untyped-call]
    model.zero_grad(set_to_none=True)
    return time.perf_counter() - start


def main() -> None:
    columns = ["float32, ms", "channels last", "bf16-mixed", "both"]
    print(header(["network", "pixels", "batch", "with the layer", *columns]))
    for name, pixels, batch in (("resnet18", 64, 32), ("cifar_resnet8", 64, 32), ("resnet18", 224, 8)):
        images = torch.rand(batch, 3, pixels, pixels)
        for layer in (False, True):
            ways: dict[tuple[bool, bool], nn.Module] = {}
            for bf16, last in WAYS:
                backbone = timm.create_model(name, num_classes=10)
                model = prepend(backbone, JpegLayer.from_quality(75) if layer else nn.Identity()).train()
                if last:
                    model.backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload, unused-ignore]
                ways[bf16, last] = model
            times = [{way: step(model, images, way[0]) for way, model in ways.items()} for _ in range(6)]
            first, *others = (min(each[way] for each in times) for way in WAYS)
            print(
                row(
                    [
                        name,
                        pixels,
                        batch,
                        "yes" if layer else "no",
                        f"{1000 * first:.0f}",
                        *(f"x{each / first:.2f}" for each in others),
                    ]
                ),
                flush=True,
            )


if __name__ == "__main__":
    main()
