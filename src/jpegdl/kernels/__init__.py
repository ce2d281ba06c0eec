"""The round trip of a layer and the exact one, fused for speed on CPUs (numba) and NVIDIA GPUs (Triton)."""

from jpegdl.kernels.dispatch import eager_round_trip, exporting, round_trip, round_trip_of_tables, unobserved
from jpegdl.kernels.exact import compiling, exact_gradients, exact_images, gradients_work, to_pixels
from jpegdl.kernels.trip import Trip

__all__ = [
    "Trip",
    "compiling",
    "eager_round_trip",
    "exact_gradients",
    "exact_images",
    "exporting",
    "gradients_work",
    "round_trip",
    "round_trip_of_tables",
    "to_pixels",
    "unobserved",
]
