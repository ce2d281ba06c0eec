"""A smooth compander in place of the JPEG layer's quantizer."""

from typing import Any, Self

import torch
from torch import Tensor, nn

from jpegdl import functional as F
from jpegdl.errors import UsageError
from jpegdl.layer.base import ImageDctLayer, Table, initial_tables
from jpegdl.layer.bounds import bounded, project
from jpegdl.layer.config import LayerConfig
from jpegdl.layer.registry import register_layer

CURVES = {"log": F.log_compand, "tanh": F.tanh_compand}
SMALLEST_SCALE = 1e-5


@register_layer("log", "a logarithmic compander in place of the quantizer")
@register_layer("tanh", "a tanh compander in place of the quantizer")
class CompandingLayer(ImageDctLayer):
    """Colour, DCT, a compander with a trainable scale for each frequency, and back: saturation without levels.

    ``layer.luma`` and ``layer.chroma``, parameters of shape (8, 8), are the scales c of Y and of Cb and Cr, in the units of the
    coefficients, as steps are. By ``curve``, a coefficient z becomes

    - ``"log"``: ``c sign(z) log(1 + |z| / c)``, which never saturates;
    - ``"tanh"``: c tanh(z / c), which saturates at +-c.

    Args:
        luma, chroma: initial scales, a number or (8, 8); finite and > 0. The cap of a table of steps q is L q, with L =
            2^(bits-1) - 1: ``CompandingLayer(127 * q_luma, 127 * q_chroma)`` starts from that of 8 bits.
        curve: one of the two above.

    Raises:
        UsageError: an argument is out of its range.
    """

    table_kind = "scales"

    def __init__(self, luma: Table, chroma: Table, *, curve: str = "log") -> None:
        super().__init__()
        if curve not in CURVES:
            raise UsageError(f"curve must be one of {', '.join(CURVES)}, got {curve!r}")
        self.curve = curve
        tables = initial_tables({"luma": luma, "chroma": chroma})
        self.luma, self.chroma = nn.Parameter(tables["luma"]), nn.Parameter(tables["chroma"])

    @classmethod
    def from_config(cls, config: LayerConfig, tables: tuple[Tensor, Tensor], size: int) -> Self:
        cap = F.largest_level(config.bits)
        if cap is None:
            raise UsageError(f"layer.kind {config.kind} starts from the level cap; give layer.bits, an integer from 2 to 16")
        return cls(cap * tables[0], cap * tables[1], curve=config.kind)

    @property
    def settings(self) -> dict[str, Any]:
        return {**super().settings, "curve": self.curve}

    def alter(self, z: Tensor) -> Tensor:
        z = self.checked(z)
        scales = bounded(torch.stack((self.luma, self.chroma, self.chroma)), SMALLEST_SCALE).to(z.dtype)
        return CURVES[self.curve](z, scales[:, None, None])

    def project_(self) -> None:
        """Bring the scales back to at least 1e-5, in place; see :meth:`jpegdl.JpegLayer.project_`."""
        project(self.luma, SMALLEST_SCALE)
        project(self.chroma, SMALLEST_SCALE)

    def extra_repr(self) -> str:
        return self.curve
