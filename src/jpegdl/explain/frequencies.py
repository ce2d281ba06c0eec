"""What a layer does at each frequency of the test images: saturation, bits of information, transfer curves."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from jpegdl import functional as F
from jpegdl.explain.histograms import FREQUENCIES, Counts
from jpegdl.explain.subject import NotApplicable, Subject, dct_layer, planes_of
from jpegdl.layer import ImageDctLayer, JpegLayer, QuantizingLayer

_CHUNK = 2**22  # probabilities at once
_CURVE_POINTS = 801
_INNER = 0.999  # share of the coefficients that a transfer curve spans


def measure(subject: Subject, left_out: list[dict[str, str]]) -> dict[str, Any]:
    """Return all measurements per frequency, in one pass over the test images, ready for JSON.

    Args:
        subject: what to measure.
        left_out: what does not apply to the layer is added here, with the reason.

    Returns:
        ``images``; ``blocks``, how many of each plane; ``grey``, whether all images are; ``saturation``, (8, 8) shares by
        plane; ``bits``, entropies in bits, (8, 8) by plane: of ``integers``, ``levels``, ``soft``, ``soft_given_z``;
        ``transfer``, curves. What does not apply is None. Planes are ``luma`` and ``chroma``, Cb and Cr together.

    Raises:
        NotApplicable: the layer neither saturates nor works on DCT coefficients.
    """
    layer = subject.layer
    saturates = _saturates(layer)
    try:
        transform: ImageDctLayer | None = dct_layer(layer)
    except NotApplicable as why:
        if not saturates:
            raise
        transform = None
        left_out += [{"what": what, "why": str(why)} for what in ("bits per frequency", "transfer curves")]
    if not saturates:
        left_out.append({"what": "saturation", "why": "the layer has no level cap"})
    levels_of = None if transform is None else _quantizer(transform, left_out)
    measured = _Measured(levels_of)
    with torch.no_grad():
        for _, images, _ in subject.batches():
            measured.images += len(images)
            measured.grey &= bool((images == images[:, :1]).all())
            if saturates:
                measured.saturation += layer.saturation(images).double().cpu() * len(images)  # type: ignore[operator]
            if transform is not None:
                for plane, z in _by_plane(transform, images).items():
                    measured.count(plane, z)
        shares = measured.saturation / measured.images
        return {
            "images": measured.images,
            "grey": measured.grey,
            "blocks": {plane: measured.blocks[plane] for plane in measured.integers} if transform else None,
            "saturation": {"luma": shares[0].tolist(), "chroma": shares[1:].mean(0).tolist()} if saturates else None,
            "cap": F.largest_level(layer.bits) if saturates and isinstance(layer, QuantizingLayer) else None,
            "bits": measured.bits() if transform is not None else None,
            "transfer": None if transform is None else _transfer(subject, transform, measured.integers, left_out),
        }


def _saturates(layer: nn.Module) -> bool:
    """Return whether the layer, or one within it, has a level cap and says how much it holds back."""
    capped = any(isinstance(part, QuantizingLayer) and part.bits is not None for part in layer.modules())
    return capped and callable(getattr(layer, "saturation", None))


def _quantizer(layer: ImageDctLayer, left_out: list[dict[str, str]]) -> JpegLayer | None:
    """The layer, where its levels have an entropy; None where it has no levels, with the reason."""
    what = "bits of the levels"
    if not isinstance(layer, JpegLayer):
        left_out.append({"what": what, "why": f"{type(layer).__name__} does not quantize"})
    elif layer.steps.ndim > 3:
        left_out.append({"what": what, "why": "the layer has separate tables for each region of an image"})
    elif type(layer).alter is not QuantizingLayer.alter:
        left_out.append({"what": what, "why": f"{type(layer).__name__} has a quantizer of its own"})
    elif layer.rounding == "none":
        left_out.append({"what": what, "why": "rounding none has a cap and no levels"})
    else:
        if layer.rounding not in ("soft", "sample"):
            left_out.append({"what": "bits of P(k | z)", "why": f"rounding {layer.rounding} does not use P(k | z)"})
        return layer
    return None


def _by_plane(layer: ImageDctLayer, images: Tensor) -> dict[str, Tensor]:
    """Coefficients as (blocks, 64) for luma and chroma."""
    z = layer.to_coefficients(images)
    return {plane: z[:, where].reshape(-1, FREQUENCIES) for plane, where in planes_of(layer).items()}


class _Measured:
    """What is counted over the test images; ``layer`` is the one whose levels are, if any."""

    def __init__(self, layer: JpegLayer | None) -> None:
        self.layer, self.images, self.grey = layer, 0, True
        self.saturation = torch.zeros(3, F.BLOCK, F.BLOCK, dtype=torch.float64)
        self.integers = {"luma": Counts(), "chroma": Counts()}
        self.levels = {"luma": Counts(), "chroma": Counts()}
        self.soft = {"luma": Counts(), "chroma": Counts()}
        self.blocks = {"luma": 0, "chroma": 0}
        self.given_z = {plane: torch.zeros(FREQUENCIES, dtype=torch.float64) for plane in self.blocks}

    def count(self, plane: str, z: Tensor) -> None:
        """Count coefficients in, (blocks, 64)."""
        self.blocks[plane] += len(z)
        self.integers[plane].add(z.round())
        if self.layer is None:
            return
        table = 0 if plane == "luma" else -1
        q, alpha = (tables[table].flatten().to(z.dtype) for tables in (self.layer.steps, self.layer.alpha))
        self.levels[plane].add(F.quantize_levels(z, q, bits=self.layer.bits))
        if self.layer.rounding not in ("soft", "sample"):
            return
        levels_each = self.layer.window or 2 * (F.largest_level(self.layer.bits) or 0) + 1
        size = max(1, _CHUNK // (FREQUENCIES * levels_each))
        for part in (z[start : start + size] for start in range(0, len(z), size)):
            shares, levels = F.level_probabilities(part, q, alpha, bits=self.layer.bits, window=self.layer.window)
            self.given_z[plane] -= (torch.xlogy(shares, shares).double().sum((0, 2)) / torch.log(torch.tensor(2.0))).cpu()
            if self.layer.window is None:  # the levels are the same everywhere
                self.soft[plane].add(levels[0].T, shares.double().sum(0).T)
            else:
                self.soft[plane].add(*(x.movedim(2, 1).flatten(0, 1) for x in (levels, shares)))

    def bits(self) -> dict[str, Any]:
        """Return entropies in bits, (8, 8) by plane; None of what was not counted."""

        def of(counts: dict[str, Counts]) -> dict[str, Any]:
            return {plane: counts[plane].entropies().tolist() for plane in counts}

        quantized = self.layer is not None
        soft = self.layer is not None and self.layer.rounding in ("soft", "sample")
        given = {plane: (self.given_z[plane] / self.blocks[plane]).reshape(F.BLOCK, F.BLOCK).tolist() for plane in self.blocks}
        return {
            "integers": of(self.integers),
            "levels": of(self.levels) if quantized else None,
            "soft": of(self.soft) if soft else None,
            "soft_given_z": given if soft else None,
        }


def _transfer(
    subject: Subject, layer: ImageDctLayer, integers: dict[str, Counts], left_out: list[dict[str, str]]
) -> list[dict[str, Any]] | None:
    """Curves of the chosen frequencies, luma first.

    Of each ``z`` and ``output``; ``table``, its step, scale or gain, and ``cap``, the largest value that it can become (None
    without); ``numbers`` and ``counts``, the histogram of the test images' coefficients rounded to whole numbers.
    """
    if isinstance(layer, JpegLayer) and layer.steps.ndim > 3:
        left_out.append({"what": "transfer curves", "why": "the layer has separate tables for each region of an image"})
        return None
    curves = []
    for plane in integers:
        for row, column in subject.config.frequencies:
            numbers, counts = integers[plane].of(row * F.BLOCK + column)
            value = _value(layer, plane, row, column)
            step = value if isinstance(layer, JpegLayer) and value is not None else 0.0
            cap = F.largest_level(layer.bits) if isinstance(layer, JpegLayer) else None
            grid = torch.linspace(-1, 1, _CURVE_POINTS) * max(_reach(numbers, counts), 1.5 * step, 1.0)
            curves.append(
                {
                    "plane": plane,
                    "frequency": [row, column],
                    "z": grid.tolist(),
                    "output": transfer_curve(layer, plane, row, column, grid).tolist(),
                    "table": value,
                    "table_kind": (layer.table_kind or "").removesuffix("s"),
                    "cap": None if cap is None else cap * step,
                    "numbers": numbers.tolist(),
                    "counts": counts.long().tolist(),
                }
            )
    return curves


def _value(layer: ImageDctLayer, plane: str, row: int, column: int) -> float | None:
    """The step, scale or gain of a frequency; None where a layer of the user's own has none."""
    if isinstance(layer, JpegLayer):
        return layer.steps[0 if plane == "luma" else -1][row, column].item()
    table = getattr(layer, plane, None)
    return table[row, column].item() if isinstance(table, Tensor) and table.shape == (F.BLOCK, F.BLOCK) else None


def _reach(numbers: Tensor, counts: Tensor) -> float:
    """The magnitude below which nearly all of the data are."""
    sizes, order = numbers.abs().sort()
    below = counts[order].cumsum(0) / counts.sum()
    return float(sizes[int((below < _INNER).sum())]) + 0.5


@torch.no_grad()
def transfer_curve(layer: ImageDctLayer, plane: str, row: int, column: int, z: Tensor) -> Tensor:
    """Return what a layer makes of a coefficient alone in its block: Q(z), in the units of z.

    Args:
        layer: one with the same tables for all blocks; of the random quantizer it is the conditional mean.
        plane: luma or chroma (Cb and Cr are treated alike).
        row, column: vertical and horizontal frequency.
        z: (n,) coefficients.

    Returns:
        (n,), on the CPU.
    """
    if isinstance(layer, QuantizingLayer) and layer.rounding == "sample":
        layer = copy.copy(layer)
        layer.rounding = "soft"
    where = planes_of(layer)[plane].start
    device = next((table.device for table in layer.parameters()), z.device)
    blocks = torch.zeros(len(z), layer.planes or 0, 1, 1, F.BLOCK, F.BLOCK, device=device)
    blocks[:, where, 0, 0, row, column] = z.to(device)
    return layer.alter(blocks)[:, where, 0, 0, row, column].cpu()
