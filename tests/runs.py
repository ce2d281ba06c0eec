"""Small runs for tests of training: the embedded photographs, a CIFAR ResNet-8, two epochs on the CPU."""

import safetensors.torch
from torch import nn

from jpegdl.calibrate import starting_tables
from jpegdl.data import Data, DataConfig
from jpegdl.layer import LayerConfig, build_layer
from jpegdl.runs import OptimizerConfig, RunConfig, RunFolder, TrainingConfig
from jpegdl.training import train_run


def small_config(epochs=2, test_every=1, **layer):
    return RunConfig(
        data=DataConfig(size=16, resize=20, batch_size=16),
        layer=LayerConfig(**{"tables": "standard:75", **layer}),
        device="cpu",
        training=TrainingConfig(
            epochs=epochs,
            test_every=test_every,
            layer_optimizer=OptimizerConfig(name="adam", lr=0.05, weight_decay=0.0),
        ),
    )


def run(config, folder, arm="jpeg-dl", seed=0):
    data = Data(config.data, seed)

    def make_layer():
        return (
            nn.Identity()
            if arm == "plain"
            else build_layer(config.layer, starting_tables(config.layer, data), config.data.size)
        )

    return train_run(config, data, make_layer, RunFolder(folder), arm, seed)


def weights(folder):
    return safetensors.torch.load_file(folder / "model.safetensors")
