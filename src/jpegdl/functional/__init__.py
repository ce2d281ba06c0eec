"""Pure functions on tensors: colour, blocks, DCT, the quantizers with their closed-form gradients, levels and P(k | z).

Everything is in JPEG's own units: pixels 0..255 shifted by -128, coefficients of the orthonormal 8x8 DCT (about
-1024..1016), steps as in a JPEG quantization table. Tables are (8, 8) with rows the vertical and columns the horizontal
frequency. These functions are the reference: they are written to be read, and checked against the published layer.
"""

from jpegdl.functional.bits import RUNS, SIZES, Symbols, code_lengths, coded_bits, expected_symbols, size_category
from jpegdl.functional.checks import check_floating, check_images, check_pixels, check_shape, derived
from jpegdl.functional.companders import log_compand, tanh_compand
from jpegdl.functional.draws import DRAW_BITS, draw_seed, mixed, uniform_draws
from jpegdl.functional.exact import (
    SAMPLING,
    chroma_factors,
    coefficient_levels,
    decode_levels,
    encode_coefficients,
    encode_levels,
    exact_round_trip,
)
from jpegdl.functional.planes import DOUBLED, images_to_planes, planes_to_images, resample_chroma
from jpegdl.functional.quantizers import (
    FAR,
    RANDOM,
    SOFT,
    check_rounding,
    check_window,
    error_slope,
    hard_quantize,
    largest_level,
    level_probabilities,
    noise_quantize,
    quantize,
    quantize_levels,
    sample_quantize,
    saturate,
    soft_quantize,
    ste_quantize,
)
from jpegdl.functional.scan import CODES, estimated_scan_bits, in_scan_order, scan_bits
from jpegdl.functional.transforms import (
    BLOCK,
    DCT,
    KB,
    KG,
    KR,
    MCU,
    ZIGZAG,
    block_dct,
    block_idct,
    check_coefficients,
    coefficients_to_images,
    crop_edges,
    full_precision,
    images_to_coefficients,
    images_to_mcus,
    mcus_to_images,
    remove_dc,
    repeat_edges,
    rgb_to_ycbcr,
    straight_pixels,
    unit_images,
    ycbcr_to_rgb,
)

__all__ = [
    "BLOCK", "CODES", "DCT", "DOUBLED", "DRAW_BITS", "FAR", "KB", "KG", "KR", "MCU", "RANDOM", "RUNS", "SAMPLING", "SIZES",
    "SOFT", "ZIGZAG", "Symbols", "block_dct", "block_idct", "check_coefficients", "check_floating", "check_images",
    "check_pixels", "check_rounding", "check_shape", "check_window", "chroma_factors", "code_lengths", "coded_bits",
    "coefficient_levels", "coefficients_to_images", "crop_edges", "decode_levels", "derived", "draw_seed",
    "encode_coefficients", "encode_levels", "error_slope", "estimated_scan_bits", "exact_round_trip", "expected_symbols",
    "full_precision", "hard_quantize", "images_to_coefficients", "images_to_mcus", "images_to_planes", "in_scan_order",
    "largest_level", "level_probabilities", "log_compand", "mcus_to_images", "mixed", "noise_quantize", "planes_to_images",
    "quantize", "quantize_levels", "remove_dc", "repeat_edges", "resample_chroma", "rgb_to_ycbcr", "sample_quantize",
    "saturate", "scan_bits", "size_category", "soft_quantize", "ste_quantize", "straight_pixels", "tanh_compand",
    "uniform_draws", "unit_images", "ycbcr_to_rgb",
]  # fmt: skip
