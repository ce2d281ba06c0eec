"""A JPEG layer in a LightningModule: python examples/trainers/lightning_module.py [--data FOLDER]"""

import argparse

import lightning
import timm
import torch
from photographs import image_sets, report
from torch import Tensor, nn
from torch.utils.data import DataLoader

from jpegdl import JpegLayer, parameter_groups, prepend
from jpegdl.layer import PrependedModel


class Classification(lightning.LightningModule):
    """A timm model behind a JPEG layer.

    Args:
        layer: in front of the model; on the command line ``--model.layer.class_path jpegdl.JpegLayer``.
        backbone: name of a timm model.
        classes: number of classes.
        lr, layer_lr: learning rates of the backbone and of the layer.
    """

    def __init__(
        self, layer: JpegLayer, backbone: str = "resnet18", classes: int = 18, lr: float = 1e-3, layer_lr: float = 3e-3
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["layer"])
        self.model = prepend(timm.create_model(backbone, num_classes=classes), layer)
        self.lr, self.layer_lr = lr, layer_lr

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = nn.functional.cross_entropy(self.model(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("accuracy", (self.model(batch[0]).argmax(1) == batch[1]).float().mean(), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameter_groups(self.model, self.lr, self.layer_lr, weight_decay=0.05))


def main(arguments: list[str] | None = None) -> PrependedModel:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="folder with train/CLASS/ and test/CLASS/")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--steps", type=int, default=-1, help="at most so many")
    options = parser.parse_args(arguments)

    train, test, classes = image_sets(options.data)
    module = Classification(JpegLayer.from_quality(90), classes=classes)
    trainer = lightning.Trainer(
        max_epochs=options.epochs, max_steps=options.steps, logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(module, DataLoader(train, 16, shuffle=True), DataLoader(test, 64))
    report(module.model, test)
    return module.model


if __name__ == "__main__":
    main()
