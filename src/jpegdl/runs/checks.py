"""The checks that refuse settings of a run which would fail later."""

from jpegdl.backbones.build import check_backbone, pretrained_source
from jpegdl.data.checks import check_data
from jpegdl.errors import UsageError
from jpegdl.layer import check_layer, storable_kinds
from jpegdl.runs.config import OptimizerConfig, RunConfig, TrainingConfig
from jpegdl.runs.device import check_device
from jpegdl.settings import check_fields
from jpegdl.user_code import is_own


def check_config(config: RunConfig) -> None:
    """Refuse settings that would fail later.

    Raises:
        UsageError: names the setting, what it is and what it may be.
    """
    check_data(config.data)
    check_fields(config.training, "training.")
    check_device(config.device)
    check_backbone(config.backbone, trained=config.trained)
    if config.pretrained and config.weights is None and pretrained_source(config.backbone) is None:
        instead = "what makes it may load some itself" if is_own(config.backbone) else "give a file with --weights"
        raise UsageError(f"pretrained: no weights of backbone {config.backbone!r} are published; {instead}")
    if config.training.train == "layer" and not config.trained:
        raise UsageError("training.train layer keeps the backbone, so it needs trained weights: give pretrained or weights")
    if config.layer.tables == "pretrained" and not config.trained:
        raise UsageError("layer.tables pretrained takes the sensitivities of trained weights: give pretrained or weights")
    check_layer(config.layer, config.data.pixels)
    if config.training.rate.weight and config.layer.kind not in (*storable_kinds(), "none"):
        raise UsageError(
            "training.rate needs a layer with one pair of tables, as JPEG files have, which layer.kind "
            f"{config.layer.kind} has not; give {' or '.join(storable_kinds())}, or training.rate.weight 0"
        )
    _check_training(config.training)


def _check_training(training: TrainingConfig) -> None:
    if training.networks and training.train != "layer":
        raise UsageError("training.networks need training.train layer, which trains the tables and keeps the networks")
    for name in ("optimizer", "layer_optimizer"):
        _check_optimizer(getattr(training, name), f"training.{name}", training.epochs)
    if training.optimizer.name == "log-adam":
        raise UsageError("training.optimizer.name log-adam is for layer_optimizer only: weights may be negative")


def _check_optimizer(optimizer: OptimizerConfig, name: str, epochs: int) -> None:
    if optimizer.warmup and optimizer.schedule == "onecycle":
        raise UsageError(f"{name}.warmup cannot be combined with schedule onecycle, which warms up by itself")
    late = max(optimizer.milestones, default=0.0) if optimizer.schedule == "multistep" else 0.0
    for option, end in (("milestones", late), ("warmup", optimizer.warmup)):
        if end >= epochs:
            raise UsageError(
                f"{name}.{option} must end before training does, training.epochs = {epochs}, got {getattr(optimizer, option)}; "
                "give earlier epochs, or shares of all epochs, below 1"
            )
