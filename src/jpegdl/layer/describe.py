"""What a layer's tables are, for files that others read."""

from typing import Any

from torch import Tensor, nn

from jpegdl.layer.base import Layer
from jpegdl.layer.quantizing import QuantizingLayer


def describe_tables(layer: nn.Module) -> dict[str, Any]:
    """Describe a layer's tables and what they mean, ready for JSON.

    Args:
        layer: any module. If it holds layers of this package, or is a cascade, each of them is described.

    Returns:
        ``layer``, the name of its class; ``kind``, what the numbers in its tables are (one of :data:`jpegdl.tables.KINDS`,
        ``mixed`` where it holds layers of several kinds, None where there are no such layers); the layer's settings (of those
        that quantize ``bits``, ``window``, ``hardness``, ``rounding``; of those for images ``subsampling``); ``parts``, the
        settings of each layer within it, by name, where there are any; and ``tables``, by name and as nested lists: all
        parameters, and alpha where there is one, trained or not.
    """
    parts = {name: part for name, part in layer.named_modules() if isinstance(part, Layer)}
    settings = {name: part.settings for name, part in parts.items()}
    kinds = {part.table_kind for part in parts.values()} - {None}
    for part in parts.values():
        part.project_()  # whoever trained it: what is written down is in range
    own = settings.pop("", {"layer": type(layer).__name__})
    tables: dict[str, Tensor] = dict(layer.named_parameters())
    for prefix, part in parts.items():
        if isinstance(part, QuantizingLayer):
            tables |= {f"{prefix}.{name}" if prefix else name: table for name, table in part.named_tables().items()}
    return {
        "layer": own.pop("layer"),
        "kind": "mixed" if len(kinds) > 1 else next(iter(kinds), None),
        **own,
        **({"parts": settings} if settings else {}),
        "tables": {name: table.detach().cpu().tolist() for name, table in tables.items()},
    }
