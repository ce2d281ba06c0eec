"""The settings of a training run, and the checks that refuse bad ones."""

import math
from dataclasses import dataclass, field, replace
from typing import Any

from jpegdl.backbones.build import check_backbone, own_input, pretrained_source
from jpegdl.data import DataConfig
from jpegdl.data.config import DEFAULT_SIZE, INTERPOLATIONS
from jpegdl.data.config import check as check_data
from jpegdl.errors import UsageError
from jpegdl.layer import STORABLE, LayerConfig, check_layer
from jpegdl.runs.class_paths import TENSORBOARD, spelled_out
from jpegdl.user_code import is_own

_OPTIMIZERS = ("sgd", "adam", "adamw", "log-adam")
_TRAINED = ("both", "layer")
#: As Lightning's Trainer takes them; the short ones are the same as 16-mixed, bf16-mixed, 32-true and 64-true.
PRECISIONS = (
    "32-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true", "64-true", "transformer-engine",
    "transformer-engine-float16", "16", "bf16", "32", "64",
)  # fmt: skip
_RATE_KINDS = ("symbols", "frequencies")
_SCHEDULES = ("constant", "cosine", "onecycle", "multistep", "exponential")


@dataclass
class OptimizerConfig:
    """An optimizer and its learning rate.

    Args:
        name: sgd, adam or adamw, as in torch.optim; or, for steps, log-adam: Adam on their logarithms, so that a step of 0.01
            and one of 100 move by the same share of themselves.
        lr: learning rate; with onecycle, its peak.
        momentum: of sgd.
        weight_decay: per step, times the learning rate.
        schedule: constant, cosine (from the end of the warm-up to 0 at the last epoch), onecycle (up over the first 30 percent,
            then to almost 0), multistep or exponential.
        milestones: when multistep multiplies the learning rate by gamma: epochs or, below 1, shares of all epochs, which a
            shorter or longer training keeps. They count from the start of training, with a warm-up too.
        gamma: factor of multistep; for exponential, applied every epoch from the start of training.
        warmup: how long the learning rate rises linearly from 0, before the schedule: epochs or, below 1, a share of them all.
    """

    name: str = "sgd"
    lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "constant"
    milestones: list[float] = field(default_factory=list)
    gamma: float = 0.1
    warmup: float = 0.0


@dataclass
class RateConfig:
    """What the files that the layer's tables would make are to cost: loss = task + weight * bits per pixel.

    Args:
        weight: lambda, of one bit per pixel against the task's loss; 0 for none.
        kind: symbols (those of a JPEG encoder: DC differences, runs of zeros, ends of blocks) or frequencies (the entropy of
            the levels of each frequency, as J4D has it).
        hardness: of P(level | coefficient) in the rate, in units of the step; independent of the layer's own.
        blocks: most blocks of luma, and of chroma, that the rate of a batch is taken from; null for all.
        memory: share of the running code that is kept at each batch.
    """

    weight: float = 0.0
    kind: str = "symbols"
    hardness: float = 8.0
    blocks: int | None = 2048
    memory: float = 0.9


@dataclass
class TrainingConfig:
    """How long, with what and where to train.

    Args:
        train: both, or the layer alone: the backbone stays as its weights are, in eval mode. It needs pretrained or weights,
            with a head for the classes; an arm without anything to train is tested after one pass.
        epochs: passes over the training images.
        optimizer: of the backbone.
        head_lr: learning rate of the backbone's head, the layer that gives the logits, in place of optimizer.lr, with the same
            schedule; null for the same. A new head on pretrained weights learns from a larger one.
        layer_optimizer: of the layer's parameters: tables (and alpha, where trainable); weight decay 0, as published.
        rate: what the files that the layer's tables would make are to cost; see docs/codec.md.
        networks: folders of finished runs, RUNS/NAME/ARM/SEED, whose networks judge the layer too, without the layer they were
            trained with and as they are: the task's loss is the mean over all. With train layer: tables for several networks.
        label_smoothing: share of the target that is spread over all classes, 0 to 1.
        mixup: of the Beta distribution that mixing shares are drawn from; 0 for none. A mixed training image counts as right
            where the class of the larger share is.
        cutmix: the same for CutMix. With both, each batch takes one.
        clip: largest norm of the backbone's gradient; null for any.
        ema: decay per step of an exponential moving average of all parameters and batch statistics, which is then what is
            tested and kept; null for none.
        test_every: epochs between two tests; the last epoch is always tested.
        accelerator: auto, cpu, gpu, ... as Lightning's Trainer takes it.
        devices: how many GPUs or processes per host.
        num_nodes: how many hosts.
        strategy: auto, ddp, ... as Lightning's Trainer takes it.
        sync_batchnorm: take batch statistics over all GPUs, as a single GPU with the whole batch would; not on CPUs. Without
            it each process normalises with the statistics of its own part, and the running statistics of the first process are
            tested and kept.
        precision: 32-true, 16-mixed, bf16-mixed, ... as Lightning's Trainer takes it; the layer's own arithmetic is float32 in
            any of them.
        callbacks: Lightning's, or your own, by class path as in its command line: a list of {class_path: my_module.MyCallback,
            init_args: {...}}, or of class paths alone. In texts among the arguments {arm}, {seed} and {folder} stand for the
            run's own. One may stop training early: the last epoch is tested all the same.
        loggers: the same for loggers, beside the run's own files and TensorBoard's; save_dir: '{folder}' puts their files
            there too. wandb, mlflow and csv are short for those with settings that suit a comparison.
    """

    train: str = "both"
    epochs: int = 30
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(schedule="onecycle"))
    head_lr: float | None = None
    layer_optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(name="adam", lr=0.003, weight_decay=0.0))
    rate: RateConfig = field(default_factory=RateConfig)
    networks: list[str] = field(default_factory=list)
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    clip: float | None = None
    ema: float | None = None
    test_every: int = 1
    accelerator: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    strategy: str = "auto"
    sync_batchnorm: bool = False
    precision: str = "32-true"
    callbacks: list[str | dict[str, Any]] = field(default_factory=list)
    loggers: list[str | dict[str, Any]] | str = field(default_factory=list)

    def __post_init__(self) -> None:
        self.callbacks = [spelled_out(entry) for entry in self.callbacks]
        loggers = [self.loggers] if isinstance(self.loggers, str) else self.loggers
        self.loggers = [spelled_out(entry) for entry in loggers if entry != TENSORBOARD]


@dataclass
class RunConfig:
    """Everything that a single run's numbers depend on, except arm and seed.

    What ``data`` leaves open of size, resize and interpolation is filled in: where weights are loaded, with what they were made
    for.
    """

    backbone: str = "cifar_resnet8"
    pretrained: bool = False
    weights: str | None = None
    data: DataConfig = field(default_factory=DataConfig)
    layer: LayerConfig = field(default_factory=LayerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        data, own = self.data, own_input(self.backbone) if self.trained else None
        if data.size is None:
            resize = own.resize if own and data.resize is None else data.resize
            data = replace(data, size=own.size if own else DEFAULT_SIZE, resize=resize)
        if data.interpolation is None:
            data = replace(data, interpolation=own.interpolation if own else INTERPOLATIONS[0])
        self.data = data

    @property
    def trained(self) -> bool:
        """Whether the backbone may start from trained weights: given ones, or those that the user's own code gives it."""
        return self.pretrained or self.weights is not None or is_own(self.backbone)


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
    if config.kind not in _RATE_KINDS:
        raise UsageError(f"training.rate.kind must be one of {', '.join(_RATE_KINDS)}, got {config.kind!r}")
    if not 0 < config.hardness < math.inf:
        raise UsageError(f"training.rate.hardness must be a number greater than 0, got {config.hardness}")
    if config.blocks is not None and config.blocks < 1:
        raise UsageError(f"training.rate.blocks must be at least 1, or null for all, got {config.blocks}")
    if not 0 <= config.memory < 1:
        raise UsageError(f"training.rate.memory must be at least 0 and less than 1, got {config.memory}")
    if config.weight and layer.kind not in (*STORABLE, "none"):
        raise UsageError(
            f"training.rate is the rate of JPEG files, which have one pair of tables of steps, and layer.kind {layer.kind} is "
            f"not of that sort; give {' or '.join(STORABLE)}, or training.rate.weight 0"
        )
