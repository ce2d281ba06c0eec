"""From learned steps to the tables of a JPEG file, and how much of a layer these carry."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jpegdl import functional as F
from jpegdl.errors import UsageError
from jpegdl.layer import JpegLayer, SubsampledJpegLayer, storable_kinds
from jpegdl.runs import RunFolder
from jpegdl.tables import meant_for, read_tables, standard_tables

LARGEST = 255  # in a table of 8-bit entries, which every decoder reads


@dataclass(frozen=True)
class Learned:
    """A pair of tables, and what it is meant for.

    Attributes:
        luma, chroma: steps of any size, each (8, 8), in JPEG table units.
        bits: of the level cap that they were learned with; None for no cap. A JPEG file does not record it.
        subsampling: of chroma, 4:4:4 or 4:2:0; None if it is not recorded.
        source: where they come from, in words.
    """

    luma: Tensor
    chroma: Tensor
    bits: int | None
    subsampling: str | None
    source: str

    def layer(self, subsampling: str | None = None) -> JpegLayer:
        """Return the layer with these tables, with hard rounding. ``subsampling`` replaces its own."""
        kind = SubsampledJpegLayer if (subsampling or self.subsampling) == "4:2:0" else JpegLayer
        return kind(self.luma, self.chroma, bits=self.bits, rounding="hard").requires_grad_(False)


def learned_tables(model: str | None, tables: str | None) -> Learned:
    """Open the tables of a run, of a file or the standard ones.

    Args:
        model: folder of a finished run; or
        tables: a file, as :func:`jpegdl.tables.read_tables` reads it, or ``standard:Q``.

    Raises:
        UsageError: they cannot be read, or a JPEG file cannot stand for that layer.
    """
    if model is not None:
        return of_run(RunFolder(Path(model).expanduser()))
    assert tables is not None
    if tables.startswith("standard:"):
        quality = tables.removeprefix("standard:")
        if not quality.isdecimal():
            raise UsageError(f"tables must be a file or standard:Q with Q from 1 to 100, got {tables!r}")
        return Learned(*standard_tables(int(quality)), None, None, tables)
    file = Path(tables).expanduser()
    return Learned(*read_tables(file), *meant_for(file), str(file))


def of_run(folder: RunFolder) -> Learned:
    """Return the tables that a run's layer has learned.

    Raises:
        UsageError: the run is not finished, or its layer is none that a JPEG file can stand for.
    """
    if not folder.config_file.is_file():
        raise UsageError(f"no run in {folder}{folder.hint or '; give the folder of a run, RUNS/NAME/ARM/SEED'}")
    layer = folder.config().layer
    storable = storable_kinds()
    if layer.kind not in storable:
        raise UsageError(
            f"the layer of {folder} is of kind {layer.kind!r}: JPEG files have one pair of tables, and can stand only for "
            f"the kinds {' and '.join(storable)}"
        )
    if layer.rounding == "none":
        raise UsageError(f"the layer of {folder} does not quantize (layer.rounding none): no JPEG file does the same")
    if not folder.tables_file.is_file():
        raise UsageError(f"no tables in {folder}: its training is not finished")
    return Learned(*read_tables(folder.tables_file), layer.bits, storable[layer.kind], str(folder))


def file_tables(luma: Tensor, chroma: Tensor) -> tuple[Tensor, Tensor]:
    """Round learned steps to the entries of a JPEG file's tables: to the nearest integer from 1 up.

    Its files are the closest to what the layer itself makes of photographs, or within 1 % of the closest. The others tried are
    the nearest on a logarithmic scale, up, and down (root mean square difference of the coefficients, steps from 0.05 to 60:
    tests/codec/test_codec.py). Up makes smaller files and down larger ones, but of another quality than the one that was
    learned.

    Args:
        luma, chroma: steps > 0, each (8, 8).

    Returns:
        (luma, chroma), each (8, 8), integers as float32. Steps beyond 255, the largest entry of 8 bits, become 255.
    """
    rounded = [table.detach().float().round().clamp(1, LARGEST) for table in (luma, chroma)]
    return rounded[0], rounded[1]


@dataclass(frozen=True)
class Carried:
    """How much of a layer's work files with certain tables do.

    Attributes:
        other_levels: share, 0 to 1, of coefficients that the layer would put on another level if it saw the file's value.
        displaced: share, 0 to 1, of coefficients whose value in the file is more than one learned step from the layer's.
        rms: root mean square difference of the file's coefficients from the layer's, in grey levels of Y, Cb and Cr.
        held_back: share, 0 to 1, of coefficients beyond the layer's level cap.
        below_half: how many of the 128 steps lie below 0.5, where a file's step of 1 is more than twice the learned one.
        clipped: how many of them lie beyond the largest entry.
        capped: whether files are made with the cap (``exact``).
    """

    other_levels: float
    displaced: float
    rms: float
    held_back: float
    below_half: int
    clipped: int
    capped: bool

    @property
    def faithful(self) -> bool:
        """Whether at most 1 % of the coefficients are more than a learned step from the layer's, and the cap is not lost.

        DC is one coefficient of 64 and weighs the most: a lost cap shows at once in what the network sees.
        """
        return self.displaced <= 0.01 and (self.capped or self.held_back <= 0.001)

    def __str__(self) -> str:
        verdict = "The files stand for the layer" if self.faithful else "The files do not stand for the layer"
        said = [
            f"{verdict}: {100 * self.displaced:.1f} % of their coefficients are more than a learned step from the layer's, "
            f"{100 * self.other_levels:.1f} % are on another level",
            f"The difference is {self.rms:.2f} grey levels (RMS)",
        ]
        if self.below_half:
            said.append(f"{self.below_half} of 128 steps are below 0.5, and a file's smallest step is 1")
        if self.held_back > 0.001:
            files = "in the files too" if self.capped else "but not in the files (--exact true does so)"
            said.append(f"The level cap holds {100 * self.held_back:.1f} % of the coefficients back in the layer, {files}")
        if self.clipped:
            said.append(f"{self.clipped} of 128 steps are beyond the largest entry, {LARGEST}")
        if not self.faithful:
            said.append("Keep the layer in front of the network that reads them, or first test the network without it")
        return ". ".join(said)


@torch.no_grad()
def carried(
    learned: Learned, tables: tuple[Tensor, Tensor], images: Iterable[Tensor], *, subsampling: str, capped: bool
) -> Carried:
    """Measure how much of a layer files with ``tables`` carry.

    Args:
        learned: the layer's steps and cap.
        tables: of the files, (luma, chroma), integers.
        images: each (1, 3, H, W) in [0, 1]; at least one.
        subsampling: of the files' chroma.
        capped: whether coefficients are capped before they are encoded (``exact``).
    """
    layer, steps = learned.layer(subsampling), (learned.luma, learned.chroma)
    of_file = Learned(*tables, None, subsampling, "").layer()
    q, entries = layer.at_blocks(layer.steps), layer.at_blocks(of_file.steps)
    cap = F.largest_level(learned.bits)
    count, other, displaced, beyond, squares = 0, 0.0, 0.0, 0.0, 0.0
    for image in images:
        z = layer.to_coefficients(image)
        values = entries * ((z if cap is None or not capped else F.saturate(z, q, bits=learned.bits)) / entries).round()
        levels = F.quantize_levels(z, q, bits=learned.bits)
        count += z.numel()
        other += float((F.quantize_levels(values, q, bits=learned.bits) != levels).sum())
        off = values - q * levels
        displaced += float((off.abs() > 1.001 * q).sum())
        squares += float(off.double().square().sum())
        beyond += 0.0 if cap is None else float((z.abs() > (cap + 0.5) * q).sum())
    largest = max(float(table.max()) for table in tables)
    return Carried(
        other / count,
        displaced / count,
        math.sqrt(squares / count),
        beyond / count,
        sum(int((table < 0.5).sum()) for table in steps),
        sum(int((table > largest + 0.5).sum()) for table in steps),
        capped,
    )


def as_json(luma: Tensor, chroma: Tensor) -> dict[str, Any]:
    """Return integer tables as nested lists."""
    return {name: table.int().tolist() for name, table in (("luma", luma), ("chroma", chroma))}
