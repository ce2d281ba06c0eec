"""Runs for tests of explaining: folders as training leaves them, of models that nothing trained for long."""

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from jpegdl.data import Data, DataConfig
from jpegdl.layer import JpegLayer, LayerConfig, build_layer, describe_tables
from jpegdl.runs import RunConfig, RunFolder
from jpegdl.runs.model import build_model
from jpegdl.tables import standard_tables

SIZE = 16


def config(classes=4, **layer):
    return RunConfig(
        data=DataConfig(name="made-up", classes=classes, limit=10 * classes, size=SIZE, batch_size=16),
        layer=LayerConfig(**{"tables": "standard:60", **layer}),
        backbone="cifar_resnet8",
    )


def make_run(path, run=None, arm="jpeg-dl", steps=30, seed=0, quality=60):
    """A run folder with all files but ``result.json``: standard tables of a quality, a backbone that took a few steps."""
    run = run or config()
    if arm == "plain":
        run = replace(run, layer=LayerConfig(kind="none"))
    torch.manual_seed(seed)
    data = Data(run.data, 0)
    folder = RunFolder(path)
    folder.begin(run, arm, seed, data.fingerprint)
    model = build_model(run, len(data.classes))
    model.layer = build_layer(run.layer, standard_tables(quality), run.data.pixels)
    before = describe_tables(model.layer)
    optimizer = torch.optim.SGD(model.backbone.parameters(), lr=0.02, momentum=0.9)
    images = [data.train[i] for i in range(len(data.train))]
    x, y = torch.stack([image for image, _ in images]), torch.tensor([target for _, target in images])
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    if before["kind"] is not None:
        folder.write_tables({"kind": before["kind"], "before": before["tables"], "after": before["tables"]})
    if isinstance(model.layer, JpegLayer) and model.layer.steps.ndim == 3:
        steps_now = model.layer.steps.detach().numpy()
        history = {"steps": np.stack([steps_now * 2, steps_now]), "epoch": np.array([1, 2])}
        folder.write_layer({**history, "alpha": np.ones((2, 3, 8, 8)), "saturation": np.zeros((2, 3, 8, 8))})
    folder.write_model(model, data.classes)
    return folder


def grey_config(**layer):
    return replace(config(**layer), data=DataConfig(size=SIZE, resize=20, batch_size=16))
