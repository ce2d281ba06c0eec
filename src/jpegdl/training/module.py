"""The Lightning module: one loss, two optimizers."""

from collections.abc import Callable
from typing import Any, Literal, Self

import lightning
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy
from torchvision.transforms import v2

from jpegdl.backbones.weights import head_names
from jpegdl.data import IGNORED
from jpegdl.errors import UsageError
from jpegdl.layer import PrependedModel
from jpegdl.layer.prepended import without_decay
from jpegdl.runs.config import OptimizerConfig, TrainingConfig
from jpegdl.training.loss import Objective, Outcome
from jpegdl.training.optimizers import build_optimizer, build_scheduler


class JointTraining(lightning.LightningModule):
    """Training of backbone and layer together on one loss, each with its own optimizer; or of the layer alone.

    After every step the layer's parameters are projected to their range, if they have one. If a loss is not finite, training
    stops before any parameter changes. A layer without trainable parameters has no optimizer. Entries of test batches with the
    target ``IGNORED`` do not count. If images are mixed, accuracy in training goes by the class with the larger share.

    Args:
        model: from :func:`jpegdl.prepend`. Its layer may be replaced as long as training has not started.
        config: optimizers, schedules, and what is done to targets and gradients.
        classes: number of classes.
        seed: of everything random in training (dropout, random quantizers, mixing), which is drawn from (seed, epoch, batch,
            process). In tests it is drawn from the batch and the process alone.

    Attributes:
        test_saturation: (3, 8, 8), the share of coefficients at the level cap over the test images, at the last test; None
            before it, and for layers without a cap.
        test_grey: whether all test images are grey, at the last test; None before it.
        part: which images ``val_dataloader`` returns, ``test`` or ``val``. Their metrics are logged under that name.
        predictions: of each part, the last predictions, in the order of the data set, on the CPU: (images, 5) float32: class,
            predicted class, its probability, rank of the class, cross-entropy in nats.
        counts: of each part, how many images the model had right in the last test, and how many there were. They are exact,
            unlike the float32 metrics.
    """

    def __init__(self, model: PrependedModel, config: TrainingConfig, classes: int, seed: int) -> None:
        super().__init__()
        self.automatic_optimization = False  # two optimizers
        self.model, self.config, self.classes, self.seed = model, config, classes, seed
        if config.train == "layer":
            model.backbone.requires_grad_(False).eval()  # Lightning trains in the mode it finds
        if config.channels_last:
            model.backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload, unused-ignore]
        self.objective = Objective(config)
        kinds = ((v2.MixUp, config.mixup), (v2.CutMix, config.cutmix))
        mixings = [kind(alpha=share, num_classes=classes) for kind, share in kinds if share]
        self.mix = v2.RandomChoice(mixings) if mixings else None
        self.train_accuracy = MulticlassAccuracy(classes, average="micro")
        self.test_accuracy = MulticlassAccuracy(classes, average="micro", ignore_index=IGNORED)
        self.test_loss = MeanMetric(nan_strategy="disable")  # one that is not finite is to be seen
        self.test_saturation: Tensor | None = None
        self.test_grey: bool | None = None
        self.part: Literal["test", "val"] = "test"
        self.counts: dict[str, tuple[int, int]] = {}
        self.predictions: dict[str, Tensor] = {}

    @property
    def saturation(self) -> Callable[[Tensor], Tensor] | None:
        """The layer's method: from images (N, 3, H, W) to the share of coefficients at the level cap, (3, 8, 8); None if it has
        none."""
        return getattr(self.model.layer, "saturation", None)

    @property
    def idle(self) -> bool:
        """Whether nothing trains."""
        return not any(parameter.requires_grad for parameter in self.model.parameters())

    def train(self, mode: bool = True) -> Self:
        """Set training mode. A frozen backbone stays in eval mode, with its BatchNorm and dropout."""
        super().train(mode)
        if self.config.train == "layer":
            self.model.backbone.eval()
        return self

    def configure_optimizers(self) -> Any:
        if self.idle:
            return []
        steps = int(self.trainer.estimated_stepping_batches)
        parts: list[tuple[OptimizerConfig, Any]] = []
        if self.config.train == "both":
            parts.append((self.config.optimizer, self._backbone_groups()))
        if layer_parameters := [p for p in self.model.layer.parameters() if p.requires_grad]:
            parts.append((self.config.layer_optimizer, layer_parameters))
        optimizers = [build_optimizer(config, parameters) for config, parameters in parts]
        schedulers = [
            build_scheduler(config, optimizer, self.config.epochs, steps)
            for (config, _), optimizer in zip(parts, optimizers, strict=True)
        ]
        return optimizers, schedulers

    def _backbone_groups(self) -> list[dict[str, Any]]:
        """The backbone's parameters: those of its head apart if it has a learning rate of its own, and those without decay."""
        named, spared = dict(self.model.backbone.named_parameters()), without_decay(self.model.backbone)
        head: set[str] = set()
        if self.config.head_lr is not None and not (head := set(head_names(self.model.backbone, self.classes))):
            raise UsageError(
                f"training.head_lr is for the layer with {self.classes} outputs, and the backbone has none; leave it null"
            )
        groups = []
        for in_head, rate in ((False, {}), (True, {"lr": self.config.head_lr})):
            part = [parameter for name, parameter in named.items() if (name in head) == in_head]
            for decayed, decay in ((True, {}), (False, {"weight_decay": 0.0})):
                if chosen := [parameter for parameter in part if (id(parameter) not in spared) == decayed]:
                    groups.append({"params": chosen, **rate, **decay})
        return groups

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
        images, target = batch if self.mix is None else self.mix(*batch)
        loss, logits, parts = self._judged(images, target)
        if not torch.isfinite(loss):
            sound = bool(torch.isfinite(images).all())
            way_out = "lower the learning rate" if sound else "the batch has pixels that are NaN or infinite"
            saved = "; the last finished epoch is saved" if self.current_epoch else ""
            raise UsageError(
                f"the loss is {loss.item()} in epoch {self.current_epoch + 1}, step {batch_idx + 1}: {way_out}. Training "
                f"stopped before it reached any parameter{saved}"
            )
        if not self.idle:
            self._step(loss)
        self.train_accuracy(logits, target if self.mix is None else target.argmax(1))
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(images), sync_dist=True)
        for name, part in parts.items():
            self.log(f"train_{name}", part, on_step=False, on_epoch=True, batch_size=len(images), sync_dist=True)
        self.log("train_accuracy", self.train_accuracy, on_step=False, on_epoch=True, batch_size=len(images))

    def _step(self, loss: Tensor) -> None:
        optimizers = self.optimizers()
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in optimizers:
            optimizer.step()
        if (update := getattr(self.trainer.precision_plugin, "update", None)) is not None:
            update()  # of the loss scale, which all have gone by
        project = getattr(self.model.layer, "project_", None)
        if project is not None and any(parameter.requires_grad for parameter in self.model.layer.parameters()):
            project()
        schedulers: Any = self.lr_schedulers()
        for scheduler in schedulers if isinstance(schedulers, list) else [schedulers]:
            scheduler.step()

    def _judged(self, images: Tensor, target: Tensor) -> Outcome:
        try:
            outcome: Outcome = self.objective(self.model, images, target)
        except ValueError as error:
            if "Expected more than 1 value per channel" not in str(error):
                raise
            raise UsageError(
                "a training batch of one image leaves the backbone's BatchNorm a single value in each channel, which has no "
                "variance: raise data.batch_size to 2 or more, and give at least as many training images"
            ) from error
        return outcome

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        # Here mixed precision has its gradients unscaled. The layer's own are not part of the norm.
        if self.config.clip is not None and optimizer is self.trainer.optimizers[0]:
            clip_grad_norm_(self.model.backbone.parameters(), self.config.clip)

    def on_train_epoch_end(self) -> None:
        # Before the checkpoint is written: a loss may be finite while the step that follows from it is not.
        if not all(bool(parameter.isfinite().all()) for parameter in self.model.parameters()):
            raise UsageError(
                f"parameters are no longer finite after epoch {self.current_epoch + 1}: lower the learning "
                f"rate{'. The epoch before is saved' if self.current_epoch else ''}"
            )

    def on_validation_epoch_start(self) -> None:
        self._saturation, self._images = torch.zeros(3, 8, 8, device=self.device), torch.zeros((), device=self.device)
        self._coloured = torch.zeros((), device=self.device)  # batches
        self._said: list[Tensor] = []

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, target = batch
        logits, real = self.model(images), target != IGNORED
        self.test_loss.update(cross_entropy(logits[real].float(), target[real], reduction="none"))
        self.test_accuracy.update(logits, target)
        self.log(f"{self.part}_loss", self.test_loss, batch_size=len(images))
        self.log(f"{self.part}_accuracy", self.test_accuracy, batch_size=len(images))
        self._said.append(_said(logits, target))
        self._coloured += (images != images[:, :1]).any()  # entries that are no images are black
        if self.saturation is not None and real.any():
            self._saturation += self.saturation(images[real]) * real.sum()
            self._images += real.sum()

    def on_validation_epoch_end(self) -> None:
        total, images, coloured = (
            self.trainer.strategy.reduce(x, reduce_op="sum") for x in (self._saturation, self._images, self._coloured)
        )
        self.test_grey = not coloured
        said: Any = self.all_gather(torch.cat(self._said))
        if said.ndim == 3:  # processes take turns, image by image
            said = said.transpose(0, 1).reshape(-1, said.shape[-1])
        found = self.predictions[self.part] = said[said[:, 0] != IGNORED].cpu()
        self.counts[self.part] = int((found[:, 0] == found[:, 1]).sum()), len(found)
        if self.saturation is not None:
            self.test_saturation = total / images


def _said(logits: Tensor, target: Tensor) -> Tensor:
    """What logits (N, classes) say of images of these classes, (N,): see :attr:`JointTraining.predictions`."""
    chances = logits.float().softmax(1)
    probability, predicted = chances.gather(1, logits.argmax(1, keepdim=True))[:, 0], logits.argmax(1)
    own = target.clamp(min=0)
    before = (chances > chances.gather(1, own[:, None])).sum(1)
    rank = torch.where(predicted == target, 1, before.clamp(min=1) + 1)  # of equal ones, the model takes one
    loss = cross_entropy(logits.float(), own, reduction="none")
    return torch.stack([target.float(), predicted.float(), probability, rank.float(), loss], dim=1)
