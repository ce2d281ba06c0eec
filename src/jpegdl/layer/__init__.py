"""The trainable JPEG layer, its variants and simplest competitors, and how to put one in front of a model."""

from typing import TYPE_CHECKING

from jpegdl.extras import on_first_use

if TYPE_CHECKING:
    from jpegdl.layer.base import ImageDctLayer, ImageLayer, Layer
    from jpegdl.layer.cascade import JpegCascade
    from jpegdl.layer.companding import CompandingLayer
    from jpegdl.layer.config import DEFAULT_ALPHA, ROUNDINGS, LayerConfig, Rounding, table_source
    from jpegdl.layer.describe import describe_tables
    from jpegdl.layer.faint_dc import FaintDcLayer
    from jpegdl.layer.feature_maps import FeatureJpegLayer
    from jpegdl.layer.gain import GainLayer
    from jpegdl.layer.jpeg import JpegLayer
    from jpegdl.layer.local_contrast import LocalContrastLayer
    from jpegdl.layer.normalization import ImageNormalization
    from jpegdl.layer.prepended import PrependedModel, parameter_groups, prepend
    from jpegdl.layer.quantizing import STEP_RANGE, QuantizerOptions, QuantizingLayer
    from jpegdl.layer.random_jpeg import RandomJpeg
    from jpegdl.layer.regional import RegionalJpegLayer
    from jpegdl.layer.registry import (
        LAYER_KINDS,
        LayerKind,
        build_layer,
        check_layer,
        layer_kind,
        register_layer,
        storable_kinds,
    )
    from jpegdl.layer.subsampled import SubsampledJpegLayer
    from jpegdl.layer.zero_dc import ZeroDcJpegLayer

__all__ = [
    "DEFAULT_ALPHA", "LAYER_KINDS", "ROUNDINGS", "STEP_RANGE", "CompandingLayer", "FaintDcLayer", "FeatureJpegLayer",
    "GainLayer", "ImageDctLayer", "ImageLayer", "ImageNormalization", "JpegCascade", "JpegLayer", "Layer", "LayerConfig",
    "LayerKind", "LocalContrastLayer", "PrependedModel", "QuantizerOptions", "QuantizingLayer", "RandomJpeg",
    "RegionalJpegLayer", "Rounding", "SubsampledJpegLayer", "ZeroDcJpegLayer", "build_layer", "check_layer", "describe_tables",
    "layer_kind", "parameter_groups", "prepend", "register_layer", "storable_kinds", "table_source",
]  # fmt: skip

__getattr__, __dir__ = on_first_use(__name__)
