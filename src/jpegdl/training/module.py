"""The Lightning module: one loss, two optimizers."""

from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LRScheduler, MultiStepLR, OneCycleLR
from torchmetrics.classification import MulticlassAccuracy

from jpegdl.errors import UsageError
from jpegdl.layer import JpegLayer, PrependedModel
from jpegdl.training.config import OptimizerConfig, TrainingConfig


def _optimizer(config: OptimizerConfig, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    if config.name == "sgd":
        return torch.optim.SGD(parameters, config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
    kind = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
    return kind(parameters, config.lr, weight_decay=config.weight_decay)


def _scheduler(config: OptimizerConfig, optimizer: torch.optim.Optimizer, epochs: int, steps: int) -> LRScheduler:
    """A scheduler to be stepped after every batch; ``steps`` batches in all."""
    if config.schedule == "onecycle":
        return OneCycleLR(optimizer, config.lr, total_steps=steps + 1, cycle_momentum=False)
    if config.schedule == "cosine":
        return CosineAnnealingLR(optimizer, steps)
    if config.schedule == "multistep":
        return MultiStepLR(optimizer, [milestone * (steps // epochs) for milestone in config.milestones], config.gamma)
    return ConstantLR(optimizer, factor=1.0, total_iters=0)


class JointTraining(lightning.LightningModule):
    """Cross-entropy training of backbone and layer together, each with its own optimizer.

    After every step the layer's parameters are projected to their range. Training stops, before any parameter is touched, at
    a loss that is not finite.

    Args:
        model: from :func:`jpegdl.prepend`.
        config: optimizers and schedules.
        classes: number of classes.
        seed: of everything random in training (dropout, random quantizers), drawn anew from (seed, epoch, batch). In tests it
            is drawn from the batch's number alone.
    """

    def __init__(self, model: PrependedModel, config: TrainingConfig, classes: int, seed: int) -> None:
        super().__init__()
        self.automatic_optimization = False  # two optimizers
        self.model, self.config, self.seed = model, config, seed
        self.jpeg = model.layer if isinstance(model.layer, JpegLayer) else None
        self.train_accuracy = MulticlassAccuracy(classes, average="micro")
        self.test_accuracy = MulticlassAccuracy(classes, average="micro")
        # (3, 8, 8), over the test images at the last test; a buffer, so that it is in the checkpoint.
        self.register_buffer("test_saturation", torch.zeros(3, 8, 8))

    def configure_optimizers(self) -> Any:
        steps = int(self.trainer.estimated_stepping_batches)
        parts = [(self.config.optimizer, list(self.model.backbone.parameters()))]
        if layer_parameters := list(self.model.layer.parameters()):
            parts.append((self.config.layer_optimizer, layer_parameters))
        optimizers = [_optimizer(config, parameters) for config, parameters in parts]
        schedulers = [
            _scheduler(config, optimizer, self.config.epochs, steps)
            for (config, _), optimizer in zip(parts, optimizers, strict=True)
        ]
        return optimizers, schedulers

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self._reseed(self.seed, self.current_epoch, batch_idx, self.global_rank)

    def on_validation_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._reseed(0, 0, batch_idx, self.global_rank)

    def _reseed(self, *key: int) -> None:
        """Make what is random in a batch a function of ``key``, whatever was drawn before."""
        seed = 0
        for number in key:
            seed = (seed * 1_000_003 + number) % 2**63
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, target = batch
        logits = self.model(images)
        loss = cross_entropy(logits, target)
        if not torch.isfinite(loss):
            sound = bool(torch.isfinite(images).all())
            way_out = (
                "a smaller learning rate is the usual way out" if sound else "the batch has pixels that are NaN or infinite"
            )
            raise UsageError(
                f"the loss is {float(loss)} in epoch {self.current_epoch + 1}, step {batch_idx + 1}: {way_out}. Training "
                "stopped before it reached any parameter; the last finished epoch is saved"
            )
        optimizers = self.optimizers()
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in optimizers:
            optimizer.step()
        if self.jpeg is not None:
            self.jpeg.project_()
        schedulers: Any = self.lr_schedulers()
        for scheduler in schedulers if isinstance(schedulers, list) else [schedulers]:
            scheduler.step()
        self.train_accuracy(logits, target)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(images), sync_dist=True)
        self.log("train_accuracy", self.train_accuracy, on_step=False, on_epoch=True, batch_size=len(images))

    def on_train_epoch_end(self) -> None:
        # Before the checkpoint is written: a loss may be finite while the step that follows from it is not.
        if not all(bool(parameter.isfinite().all()) for parameter in self.model.parameters()):
            raise UsageError(
                f"parameters are no longer finite after epoch {self.current_epoch + 1}: a smaller learning rate is the usual "
                "way out. The last epoch before is saved"
            )

    def on_validation_epoch_start(self) -> None:
        self._saturation, self._images = torch.zeros(3, 8, 8, device=self.device), 0

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, target = batch
        logits = self.model(images)
        self.test_accuracy(logits, target)
        self.log("test_loss", cross_entropy(logits, target), batch_size=len(images), sync_dist=True)
        self.log("test_accuracy", self.test_accuracy, batch_size=len(images))
        if self.jpeg is not None:
            self._saturation += self.jpeg.saturation(images) * len(images)
            self._images += len(images)

    def on_validation_epoch_end(self) -> None:
        if self.jpeg is not None:
            self.test_saturation: Tensor = self.trainer.strategy.reduce(self._saturation / self._images, reduce_op="mean")
