"""The settings of a training run."""

import warnings
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from jpegdl.data.config import DEFAULT_SIZE, INTERPOLATIONS, SMALL, DataConfig
from jpegdl.layer.config import LayerConfig
from jpegdl.runs.class_paths import TENSORBOARD, spelled_out
from jpegdl.settings import Count, NotNegative, Positive, Range
from jpegdl.user_code import is_own

if TYPE_CHECKING:
    from jpegdl.backbones.build import OwnInput

Optimizer = Literal["sgd", "adam", "adamw", "log-adam"]
Schedule = Literal["constant", "cosine", "onecycle", "multistep", "exponential"]
#: As Lightning's Trainer takes them, and auto; the short ones are the same as 16-mixed, bf16-mixed, 32-true and 64-true.
Precision = Literal[
    "auto", "32-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true", "64-true", "transformer-engine",
    "transformer-engine-float16", "16", "bf16", "32", "64",
]  # fmt: skip

AUTO = "auto"
FLOAT32: Precision = "32-true"  # what auto is where bfloat16 would not pay
BFLOAT16: Precision = "bf16-mixed"


@dataclass
class OptimizerConfig:
    """An optimizer and its learning rate.

    Args:
        name: sgd, adam or adamw, as in torch.optim; or, for steps, log-adam: Adam on their logarithms, so that a step of 0.01
            and one of 100 change by the same factor.
        lr: learning rate; with onecycle, its peak.
        momentum: momentum of sgd.
        weight_decay: weight decay per step, times the learning rate. What the backbone names in ``no_weight_decay()`` has none,
            such as the position embeddings of timm's transformers.
        schedule: constant, cosine (from the end of the warm-up to 0 at the last epoch), onecycle (up over the first 30 percent,
            then to almost 0), multistep or exponential.
        milestones: when multistep multiplies the learning rate by gamma: epochs or, below 1, shares of all epochs. They count
            from the start of training, warm-up included.
        gamma: factor of multistep at each milestone, or of exponential after each epoch.
        warmup: for how long the learning rate first rises linearly from 0: epochs or, below 1, a share of all epochs.
    """

    name: Optimizer = "sgd"
    lr: Positive = 0.05
    momentum: NotNegative = 0.9
    weight_decay: NotNegative = 5e-4
    schedule: Schedule = "constant"
    milestones: list[Positive] = field(default_factory=list)
    gamma: Positive = 0.1
    warmup: NotNegative = 0.0


@dataclass
class RateConfig:
    """What files with the layer's tables cost in training: loss = task + weight * bits per pixel.

    Args:
        weight: what one bit per pixel costs (lambda), in units of the task's loss; 0 for nothing.
        hardness: hardness of P(level | coefficient) in the rate, in units of the step. The layer's own does not matter here.
        blocks: compute the rate of a batch from at most this many blocks of luma, and as many of chroma; null for all.
        memory: how much of the running code lengths each batch keeps, as a share.
    """

    weight: NotNegative = 0.0
    hardness: Positive = 8.0
    blocks: Count | None = 2048
    memory: Annotated[float, Range(0, 1, below=True)] = 0.9


@dataclass
class TrainingConfig:
    """How long, with what and where to train.

    Args:
        train: both, or layer for the layer alone. The backbone then keeps its weights, in eval mode. It needs pretrained or
            weights, with a head for the classes. An arm with nothing to train is tested after one pass.
        epochs: passes over the training images.
        optimizer: the backbone's optimizer.
        head_lr: learning rate of the backbone's head, the layer that gives the logits, with the schedule of optimizer. A new
            head on pretrained weights needs a larger one. null for optimizer.lr.
        layer_optimizer: the optimizer of the layer's parameters, tables and trained alpha; without weight decay, as published.
        rate: the cost of files with the layer's tables; see docs/how-to/codec.md.
        networks: folders of finished runs, RUNS/NAME/ARM/SEED. With train layer, their networks judge the layer too: the
            task's loss is the mean over all networks. Their own layers are left out, and their weights stay.
        label_smoothing: share of the target that is spread over all classes, 0 to 1.
        mixup: alpha of mixup's Beta distribution; 0 for no mixup. A mixed training image counts as right if the model names
            the class with the larger share.
        cutmix: the same for CutMix. With both, each batch takes one of them.
        clip: largest norm of the backbone's gradient; null for no limit.
        ema: decay per step of an exponential moving average of all parameters and batch statistics. The average is what is
            tested and kept. null for none.
        test_every: epochs between two tests; the last epoch is always tested.
        devices: how many GPUs or processes per host.
        num_nodes: how many hosts.
        strategy: auto, ddp, ... as Lightning's Trainer takes it.
        channels_last: keep the backbone's images as (N, H, W, C) in memory. Convolutions are then faster on most machines, by
            about a tenth on a CPU and more on a GPU. The last digits of results change.
        sync_batchnorm: take batch statistics over all GPUs, as one GPU with the whole batch would. Not on CPUs. Otherwise
            each process normalises its own part of the batch, and the first one's running statistics are tested and kept.
        precision: 32-true, 16-mixed, bf16-mixed, ... as Lightning's Trainer takes it. The layer computes in float32 in all of
            them. auto: bf16-mixed with channels_last where the device computes in bfloat16 by itself, else 32-true. A
            comparison keeps what it began with, on any machine, and so does an arm with its own precision.
        callbacks: Lightning's callbacks, or your own: a list of {class_path: my_module.MyCallback, init_args: {...}}, or of
            class paths. In text arguments, {arm}, {seed} and {folder} stand for the run's own. After an early stop, the last
            epoch is tested as usual.
        loggers: the same for loggers, beside the run's own files and TensorBoard's. save_dir: '{folder}' puts their files into
            the run's folder. wandb, mlflow and csv name these loggers with settings that suit a comparison.
    """

    train: Literal["both", "layer"] = "both"
    epochs: Count = 30
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(schedule="onecycle"))
    head_lr: Positive | None = None
    layer_optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(name="adam", lr=0.003, weight_decay=0.0))
    rate: RateConfig = field(default_factory=RateConfig)
    networks: list[str] = field(default_factory=list)
    label_smoothing: Annotated[float, Range(0, 1, below=True)] = 0.0
    mixup: NotNegative = 0.0
    cutmix: NotNegative = 0.0
    clip: Positive | None = None
    ema: Annotated[float, Range(0, 1, above=True, below=True)] | None = None
    test_every: Count = 1
    devices: Count = 1
    num_nodes: Count = 1
    strategy: str = "auto"
    channels_last: bool = False
    sync_batchnorm: bool = False
    precision: Precision = "32-true"
    callbacks: list[str | dict[str, Any]] = field(default_factory=list)
    loggers: list[str | dict[str, Any]] | str = field(default_factory=list)

    def __post_init__(self) -> None:
        self.callbacks = [spelled_out(entry) for entry in self.callbacks]
        loggers = [self.loggers] if isinstance(self.loggers, str) else self.loggers
        self.loggers = [spelled_out(entry) for entry in loggers if entry != TENSORBOARD]


def with_precision(training: TrainingConfig, precision: Precision, channels_last: bool | None = None) -> TrainingConfig:
    """Return settings with what ``precision`` auto means: one of two, and channels last with the faster one."""
    last = precision == BFLOAT16 if channels_last is None else channels_last
    return replace(training, precision=precision, channels_last=training.channels_last or last)


@dataclass
class RunConfig:
    """Everything that a single run's numbers depend on, except arm and seed.

    If ``data`` does not set size, resize or interpolation, they are filled in. If weights are loaded, or photographs are
    trained on, they are what the backbone's published weights were made for. ``training.precision`` auto is replaced by what it
    means on this machine.
    """

    backbone: str = "cifar_resnet8"
    pretrained: bool = False
    weights: str | None = None
    data: DataConfig = field(default_factory=DataConfig)
    layer: LayerConfig = field(default_factory=LayerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    device: str = "auto"

    def __post_init__(self) -> None:
        data, own = self.data, None
        if self.trained or (data.size is None and data.kind not in SMALL):
            from jpegdl.backbones.build import own_input  # timm, which to read a record of others takes long to import

            own = own_input(self.backbone)
            if not self.trained and own is not None and own.size <= DEFAULT_SIZE:
                own = None
        if own and self.trained and None in (data.size, data.interpolation):  # which in a record nothing is
            _warn_unlike(self.backbone, own)
        if data.size is None:
            resize = own.resize if own and data.resize is None else data.resize
            data = replace(data, size=own.size if own else DEFAULT_SIZE, resize=resize)
        if data.interpolation is None:
            data = replace(data, interpolation=own.interpolation if own else INTERPOLATIONS[0])  # type: ignore[arg-type]
        self.data = data
        if self.training.precision == AUTO:
            from jpegdl.runs.device import bfloat16_pays  # PyTorch, which to read a record takes long to import

            self.training = with_precision(self.training, BFLOAT16 if bfloat16_pays(self.device) else FLOAT32)

    def at(self, here: "RunConfig") -> "RunConfig":
        """Return the same settings, with the device and the place of the data of ``here``, as far as given."""
        data = replace(self.data, path=here.data.path or self.data.path, workers=here.data.workers)
        where = {name: getattr(here.training, name) for name in ("devices", "num_nodes", "strategy")}
        training = replace(self.training, **where, callbacks=[], loggers=[])  # nothing is trained, and they need not be there
        return replace(self, data=data, training=training, device=here.device)

    @property
    def batch(self) -> int:
        """Training images of a step, over all processes."""
        return self.data.batch_size * self.training.devices * self.training.num_nodes

    @property
    def given_weights(self) -> bool:
        """Whether the backbone starts from trained weights that settings name."""
        return self.pretrained or self.weights is not None

    @property
    def trained(self) -> bool:
        """Whether the backbone may start from trained weights: given ones, or those that the user's own code loads."""
        return self.given_weights or is_own(self.backbone)


def _warn_unlike(backbone: str, own: "OwnInput") -> None:
    """Warn where images are prepared in another way than for the published weights' own test."""
    if own.unlike:
        here = f"here photos are scaled ({own.interpolation}), and the middle is cut out, a square"
        warnings.warn(f"the record (pretrained_cfg) of {backbone} has {own.unlike}; {here}", stacklevel=4)
    elif own.squash:
        warnings.warn(
            f"{backbone}: its own test squashes photos to a square; here the middle is cut out, so it may do better or worse",
            stacklevel=4,
        )


@dataclass
class DataPlace:
    """Where a run's data are now.

    Args:
        path: where the images are now (default: as in training).
        workers: processes that load images; 0 loads in the main one.
    """

    path: str | None = None
    workers: Annotated[int, Range(0)] = 0
