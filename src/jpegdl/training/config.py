"""The settings of a training run."""

from dataclasses import dataclass, field

from jpegdl.data import DataConfig


@dataclass
class LayerConfig:
    """The layer in front of the backbone.

    Args:
        kind: jpeg; one of its variants: zero-dc (without the blocks' mean values), subsampled (chroma 4:2:0), regions
            (tables of its own for each part of the image), cascade (several in a row); a compander in the quantizer's place,
            log or tanh; the simplest competitors: gain (a factor for each frequency), normalize (each image's brightness and
            contrast); or none.
        train: train it, or leave it as it starts.
        tables: initial tables: sensitivity (from the plain model of the same seed), magnitude (from the training images), ones,
            random (log-uniform from 0.01 to q_max, by the seed), learned (those that the arm jpeg-dl of the same seed ended
            with), standard:Q (the standard tables at quality Q, 1 to 100), or a file (JSON with luma and chroma, or a JPEG
            image). Companders start from the level cap of these tables.
        q_max: largest initial luma step of sensitivity tables, in JPEG table units.
        images: training images that sensitivity and magnitude tables are computed from, at most.
        alpha: softness of the quantizer, in 1 / step^2: one number, or two for luma and chroma. Default: 5, or tied to the
            steps where hardness is given.
        hardness: tie alpha = hardness / step^2 instead.
        bits: level cap 2^(bits-1) - 1; null for none.
        window: odd number of levels the soft quantizer sums over; null for all of them.
        rounding: soft, hard, sample, ste, noise, or none (the level cap alone).
        trainable_alpha: train alpha too, one for each frequency and table; with hardness, train kappa = alpha step^2.
        depth: layers in a cascade.
        region: side of the parts of regions, in pixels.
    """

    kind: str = "jpeg"
    train: bool = True
    tables: str = "sensitivity"
    q_max: float = 5.0
    images: int = 5000
    alpha: float | list[float] | None = None
    hardness: float | None = None
    bits: int | None = 8
    window: int | None = 5
    rounding: str = "soft"
    trainable_alpha: bool = False
    depth: int = 2
    region: int = 32


@dataclass
class OptimizerConfig:
    """An optimizer and its learning rate.

    Args:
        name: sgd, adam or adamw, as in torch.optim.
        lr: learning rate; with onecycle, its peak.
        momentum: of sgd.
        weight_decay: per step, times the learning rate.
        schedule: constant, cosine (to 0), onecycle (up over the first 30 percent, then to almost 0), multistep or exponential.
        milestones: epochs at which multistep multiplies the learning rate by gamma.
        gamma: the factor of multistep, and of each epoch of exponential.
        warmup: epochs over which the learning rate rises linearly from 0 before the schedule; it counts from the start all the
            same, and cosine ends with the last epoch.
    """

    name: str = "sgd"
    lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "constant"
    milestones: list[int] = field(default_factory=list)
    gamma: float = 0.1
    warmup: int = 0


@dataclass
class TrainingConfig:
    """How long, with what and where to train.

    Args:
        epochs: passes over the training images.
        optimizer: of the backbone.
        layer_optimizer: of the layer's parameters: tables (and alpha, where trainable); weight decay 0, as published.
        label_smoothing: share of the target that is spread over all classes, 0 to 1.
        mixup, cutmix: of the Beta distribution that mixing shares are drawn from; 0 for none. With both, each batch takes one.
            A training image counts as right where the class of the larger share is.
        clip: largest norm of the backbone's gradient; null for any.
        ema: decay, a step, of an exponential moving average of all parameters and batch statistics, which is what is tested and
            kept; null for none.
        test_every: epochs between two tests; the last epoch is always tested.
        accelerator: auto, cpu, gpu, ... as Lightning's Trainer takes it.
        devices: how many GPUs or processes a host.
        num_nodes: how many hosts.
        strategy: auto, ddp, ... as Lightning's Trainer takes it.
        sync_batchnorm: batch statistics over all GPUs, as one with the whole batch would have; not on CPUs. Without it each
            process normalises with those of its own part, and the first one's running ones are tested and kept.
        precision: 32-true, 16-mixed, bf16-mixed, ... as Lightning's Trainer takes it; the layer's own arithmetic is float32 in
            any of them.
    """

    epochs: int = 30
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(schedule="onecycle"))
    layer_optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(name="adam", lr=0.003, weight_decay=0.0))
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


@dataclass
class RunConfig:
    """Everything that a single run's numbers depend on, but for arm and seed."""

    backbone: str = "cifar_resnet8"
    data: DataConfig = field(default_factory=DataConfig)
    layer: LayerConfig = field(default_factory=LayerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
