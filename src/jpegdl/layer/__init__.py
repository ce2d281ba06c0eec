"""The trainable JPEG layer, its variants and simplest competitors, and how to put one in front of a model."""

from jpegdl.layer.base import DctLayer, ImageDctLayer, ImageLayer, Layer
from jpegdl.layer.cascade import JpegCascade
from jpegdl.layer.companding import CompandingLayer
from jpegdl.layer.config import LayerConfig, table_source
from jpegdl.layer.describe import describe_tables
from jpegdl.layer.feature_maps import FeatureJpegLayer
from jpegdl.layer.gain import GainLayer
from jpegdl.layer.jpeg import JpegLayer
from jpegdl.layer.normalization import ImageNormalization
from jpegdl.layer.prepend import PrependedModel, parameter_groups, prepend
from jpegdl.layer.quantizing import DEFAULT_ALPHA, ROUNDINGS, STEP_RANGE, QuantizingLayer, Rounding
from jpegdl.layer.regional import RegionalJpegLayer
from jpegdl.layer.registry import LAYER_KINDS, STORABLE, LayerKind, build_layer, check_layer, layer_kind
from jpegdl.layer.subsampled import SubsampledJpegLayer
from jpegdl.layer.zero_dc import ZeroDcJpegLayer

__all__ = [
    "DEFAULT_ALPHA",
    "LAYER_KINDS",
    "ROUNDINGS",
    "STEP_RANGE",
    "STORABLE",
    "CompandingLayer",
    "DctLayer",
    "FeatureJpegLayer",
    "GainLayer",
    "ImageDctLayer",
    "ImageLayer",
    "ImageNormalization",
    "JpegCascade",
    "JpegLayer",
    "Layer",
    "LayerConfig",
    "LayerKind",
    "PrependedModel",
    "QuantizingLayer",
    "RegionalJpegLayer",
    "Rounding",
    "SubsampledJpegLayer",
    "ZeroDcJpegLayer",
    "build_layer",
    "check_layer",
    "describe_tables",
    "layer_kind",
    "parameter_groups",
    "prepend",
    "table_source",
]
