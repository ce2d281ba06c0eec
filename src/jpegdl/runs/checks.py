"""The checks that refuse settings of a run which would fail later."""

import math

from jpegdl.backbones.build import check_backbone, pretrained_source
from jpegdl.data.config import check_data
from jpegdl.errors import UsageError
from jpegdl.layer import LayerConfig, check_layer, storable_kinds
from jpegdl.runs.config import OptimizerConfig, RateConfig, RunConfig, TrainingConfig
from jpegdl.user_code import is_own

_OPTIMIZERS = ("sgd", "adam", "adamw", "log-adam")
_TRAINED = ("both", "layer")
#: As Lightning's Trainer takes them; the short ones are the same as 16-mixed, bf16-mixed, 32-true and 64-true.
PRECISIONS = (
    "32-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true", "64-true", "transformer-engine",
    "transformer-engine-float16", "16", "bf16", "32", "64",
)  # fmt: skip
_SCHEDULES = ("constant", "cosine", "onecycle", "multistep", "exponential")


def check_config(config: RunConfig) -> None:
    """Refuse settings that would fail later.

    Raises:
        UsageError: names the setting, what it is and what it may be.
    """
    check_data(config.data)
    check_backbone(config.backbone, trained=config.trained)
    if config.pretrained and config.weights is None and pretrained_source(config.backbone) is None:
        instead = "what makes it may load some itself" if is_own(config.backbone) else "give a file with --weights"
        raise UsageError(f"pretrained: no weights of backbone {config.backbone!r} are published; {instead}")
    if config.training.train == "layer" and not config.trained:
        raise UsageError("training.train layer leaves the backbone as it is, so it needs trained ones: pretrained or weights")
    if config.layer.tables == "pretrained" and not config.trained:
        raise UsageError("layer.tables pretrained takes the sensitivities of trained weights: give pretrained or weights")
    check_layer(config.layer, config.data.pixels)
    _check_rate(config.training.rate, config.layer)
    _check_training(config.training)


def _check_training(training: TrainingConfig) -> None:
    for name in ("epochs", "test_every", "devices", "num_nodes"):
        if getattr(training, name) < 1:
            raise UsageError(f"training.{name} must be at least 1, got {getattr(training, name)}")
    if training.train not in _TRAINED:
        raise UsageError(f"training.train must be both or layer, got {training.train!r}")
    if training.precision not in PRECISIONS:
        raise UsageError(f"training.precision must be one of {', '.join(PRECISIONS)}, got {training.precision!r}")
    if training.networks and training.train != "layer":
        raise UsageError("training.networks are for tables that suit several networks as they are: give training.train layer")
    if training.head_lr is not None and not 0 < training.head_lr < math.inf:
        raise UsageError(f"training.head_lr must be a finite number greater than 0, or null, got {training.head_lr}")
    if not 0 <= training.label_smoothing < 1:
        raise UsageError(f"training.label_smoothing must be at least 0 and less than 1, got {training.label_smoothing}")
    for name in ("mixup", "cutmix"):
        if not 0 <= getattr(training, name) < math.inf:
            raise UsageError(f"training.{name} must be 0, for none, or a number above, got {getattr(training, name)}")
    if training.clip is not None and not 0 < training.clip < math.inf:
        raise UsageError(f"training.clip must be a number greater than 0, or null, got {training.clip}")
    if training.ema is not None and not 0 < training.ema < 1:
        raise UsageError(f"training.ema must be between 0 and 1, or null, got {training.ema}")
    for name in ("optimizer", "layer_optimizer"):
        _check_optimizer(getattr(training, name), f"training.{name}", training.epochs)
    if training.optimizer.name == "log-adam":
        raise UsageError("training.optimizer.name log-adam is for layer_optimizer: only steps are all greater than 0")


def _check_optimizer(optimizer: OptimizerConfig, name: str, epochs: int) -> None:
    if optimizer.name not in _OPTIMIZERS:
        raise UsageError(f"{name}.name must be one of {', '.join(_OPTIMIZERS)}, got {optimizer.name!r}")
    if optimizer.schedule not in _SCHEDULES:
        raise UsageError(f"{name}.schedule must be one of {', '.join(_SCHEDULES)}, got {optimizer.schedule!r}")
    if not optimizer.lr > 0 or not math.isfinite(optimizer.lr):
        raise UsageError(f"{name}.lr must be a finite number greater than 0, got {optimizer.lr}")
    for option in ("momentum", "weight_decay"):
        if not 0 <= getattr(optimizer, option) < math.inf:
            raise UsageError(f"{name}.{option} must not be negative, got {getattr(optimizer, option)}")
    if not 0 < optimizer.gamma < math.inf:
        raise UsageError(f"{name}.gamma must be a finite number greater than 0, got {optimizer.gamma}")
    if not all(0 < milestone < math.inf for milestone in optimizer.milestones):
        raise UsageError(f"{name}.milestones must be greater than 0, got {optimizer.milestones}")
    if not 0 <= optimizer.warmup < math.inf:
        raise UsageError(f"{name}.warmup must not be negative, got {optimizer.warmup}")
    if optimizer.warmup and optimizer.schedule == "onecycle":
        raise UsageError(f"{name}.warmup has no use with schedule onecycle, which warms up by itself")
    late = max(optimizer.milestones, default=0.0) if optimizer.schedule == "multistep" else 0.0
    for option, end in (("milestones", late), ("warmup", optimizer.warmup)):
        if end >= epochs:
            raise UsageError(
                f"{name}.{option} must end before training does, training.epochs = {epochs}, got {getattr(optimizer, option)}; "
                "give earlier epochs, or numbers below 1, which are shares of all epochs"
            )


def _check_rate(config: RateConfig, layer: LayerConfig) -> None:
    if not 0 <= config.weight < math.inf:
        raise UsageError(f"training.rate.weight must be 0, for none, or a number above, got {config.weight}")
    if not 0 < config.hardness < math.inf:
        raise UsageError(f"training.rate.hardness must be a number greater than 0, got {config.hardness}")
    if config.blocks is not None and config.blocks < 1:
        raise UsageError(f"training.rate.blocks must be at least 1, or null for all, got {config.blocks}")
    if not 0 <= config.memory < 1:
        raise UsageError(f"training.rate.memory must be at least 0 and less than 1, got {config.memory}")
    if config.weight and layer.kind not in (*storable_kinds(), "none"):
        raise UsageError(
            f"training.rate is the rate of JPEG files, which have one pair of tables of steps, and layer.kind {layer.kind} is "
            f"not of that sort; give {' or '.join(storable_kinds())}, or training.rate.weight 0"
        )
