"""What a round trip is, beside its tensors."""

from typing import NamedTuple

from jpegdl import functional as F


class Trip(NamedTuple):
    """The settings of :func:`jpegdl.kernels.round_trip`.

    Attributes:
        rounding: one of :data:`jpegdl.layer.ROUNDINGS`.
        subsampling: of chroma, 4:4:4, 4:2:2 or 4:2:0.
        bits, window: as in :func:`jpegdl.functional.quantize`.
        whole: whether pixels are rounded and clipped on both sides, straight through.
    """

    rounding: str = "soft"
    subsampling: str = "4:4:4"
    bits: int | None = 8
    window: int | None = 5
    whole: bool = False

    @property
    def cap(self) -> float:
        """The largest level; infinity where there is none."""
        cap = F.largest_level(self.bits)
        return float("inf") if cap is None else float(cap)

    @property
    def soft(self) -> bool:
        """Whether alpha counts."""
        return self.rounding in F.SOFT
