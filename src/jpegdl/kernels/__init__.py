"""The round trip of a layer and the exact one, fused for speed on CPUs (numba) and NVIDIA GPUs (Triton)."""

from jpegdl.kernels.dispatch import eager_round_trip, exporting, round_trip, unobserved
from jpegdl.kernels.exact import compiling, exact_gradients, exact_images, to_pixels

__all__ = [
    "compiling",
    "eager_round_trip",
    "exact_gradients",
    "exact_images",
    "exporting",
    "round_trip",
    "to_pixels",
    "unobserved",
]
