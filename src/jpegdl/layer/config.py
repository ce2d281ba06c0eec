"""The settings of the layer in front of a backbone."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from jpegdl.errors import UsageError
from jpegdl.settings import ROUNDINGS as ROUNDINGS
from jpegdl.settings import Count, Range
from jpegdl.settings import Rounding as Rounding

DEFAULT_ALPHA = 5.0


@dataclass
class LayerConfig:
    """The layer in front of the backbone.

    Args:
        kind: one of :data:`jpegdl.layer.LAYER_KINDS`; or your own, my_package.my_module:MyLayer, a class or function. It is
            called with those of these arguments that it takes by name: luma, chroma (initial tables), size (side of the
            images, in pixels), alpha, hardness, bits, window, rounding, trainable_alpha. With ``**settings`` it gets all but
            size.
        train: train the layer, or keep it as it starts.
        tables: initial tables: sensitivity (from the trained plain model of the same seed), pretrained (the same, from the
            backbone with its pretrained weights, whose head must fit), magnitude (from the training images), ones, random
            (log-uniform from 0.01 to q_max, by the seed), learned (the final tables of the arm jpeg-dl with the same seed),
            standard:Q (the standard tables at quality Q, 1 to 100), or a file (JSON with luma and chroma, or a JPEG image).
            Companders start from the level cap of these tables.
        q_max: largest initial luma step of sensitivity tables, in JPEG table units.
        images: compute sensitivity and magnitude tables from at most this many training images.
        calibration: how sensitivities are computed: eval (plain model in eval mode, center crops) or train (in train mode, on
            augmented images, as the authors' code does for CNNs on CIFAR and fine-grained sets).
        alpha: sharpness of P(level | coefficient), in 1 / step^2; larger is harder. One number, or two for luma and chroma.
            Default: 5, or tied to the steps if hardness is given.
        hardness: tie alpha to the steps instead: alpha = hardness / step^2.
        bits: sets the level cap, 2^(bits-1) - 1 levels on each side of 0; null for none.
        window: how many levels the soft quantizer sums over, an odd number; null for all.
        rounding: the quantizer: soft, hard, sample, ste, ste-matched, noise, or none (the level cap alone).
        trainable_alpha: train alpha too, one for each frequency and table; if hardness is given, train the hardness.
        depth: layers in a cascade.
        region: for kind regions: side of each part of the image that has its own tables, in pixels.
        options: further arguments for a layer of your own, by name.
    """

    kind: str = "jpeg"
    train: bool = True
    tables: str = "sensitivity"
    q_max: Annotated[float, Range(0, 255, above=True)] = 5.0
    images: Count = 5000
    calibration: Literal["eval", "train"] = "eval"
    alpha: float | list[float] | None = None
    hardness: float | None = None
    bits: int | None = 8
    window: int | None = 5
    rounding: Rounding = "soft"
    trainable_alpha: bool = False
    depth: Count = 2
    region: int = 32
    options: dict[str, Any] = field(default_factory=dict)


def table_source(config: LayerConfig) -> str:
    """Return the kind of initial tables: sensitivity, pretrained, magnitude, ones, random, learned, standard or file.

    Raises:
        UsageError: ``config.tables`` is neither a known kind nor an existing file.
    """
    kind, _, quality = config.tables.partition(":")
    if config.tables in ("sensitivity", "pretrained", "magnitude", "ones", "random", "learned"):
        return config.tables
    if kind == "standard" and quality.isdecimal() and 1 <= int(quality) <= 100:
        return "standard"
    if Path(config.tables).is_file():
        return "file"
    raise UsageError(
        "layer.tables must be sensitivity, pretrained, magnitude, ones, random, learned, standard:Q with Q from 1 to 100, or "
        f"an existing file, got {config.tables!r}"
    )
