"""Pure functions on tensors: colour, blocks, DCT, the quantizers with their closed-form gradients, levels and P(k | z).

Everything is in JPEG's own units: pixels 0..255 shifted by -128, coefficients of the orthonormal 8x8 DCT (about
-1024..1016), steps as in a JPEG quantization table. Tables are (8, 8) with rows the vertical and columns the horizontal
frequency. These functions are the reference: they are written to be read, and checked against the published layer.
"""

from jpegdl.functional.companders import log_compand, tanh_compand
from jpegdl.functional.quantizers import (
    check_window,
    hard_quantize,
    largest_level,
    level_probabilities,
    noise_quantize,
    quantize_levels,
    sample_quantize,
    saturate,
    soft_quantize,
    ste_quantize,
)
from jpegdl.functional.transforms import (
    BLOCK,
    DCT,
    KB,
    KG,
    KR,
    MCU,
    block_dct,
    block_idct,
    coefficients_to_images,
    crop_edges,
    images_to_coefficients,
    images_to_mcus,
    mcus_to_images,
    remove_dc,
    repeat_edges,
    rgb_to_ycbcr,
    unit_images,
    ycbcr_to_rgb,
)

__all__ = [
    "BLOCK",
    "DCT",
    "KB",
    "KG",
    "KR",
    "MCU",
    "block_dct",
    "block_idct",
    "check_window",
    "coefficients_to_images",
    "crop_edges",
    "hard_quantize",
    "images_to_coefficients",
    "images_to_mcus",
    "largest_level",
    "level_probabilities",
    "log_compand",
    "mcus_to_images",
    "noise_quantize",
    "quantize_levels",
    "remove_dc",
    "repeat_edges",
    "rgb_to_ycbcr",
    "sample_quantize",
    "saturate",
    "soft_quantize",
    "ste_quantize",
    "tanh_compand",
    "unit_images",
    "ycbcr_to_rgb",
]
