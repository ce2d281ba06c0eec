"""One image to the bytes of a JPEG file."""

import errno
import functools
import io
import os
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from PIL import Image, ImageFile, features
from torch import Tensor

from jpegdl import functional as F
from jpegdl.errors import UsageError
from jpegdl.extras import require
from jpegdl.tables import LARGEST_ENTRY, SUBSAMPLINGS

LARGEST_SIDE = 65500  # pixels, libjpeg's JPEG_MAX_DIMENSION
#: Pixels that share one chroma sample, down and across, of all that is read and written; 4:4:0 is seen in turned photographs.
FACTORS = {**F.SAMPLING, "4:4:0": (2, 1)}
_LARGEST_AC, _LARGEST_DC = 1023, 1024  # levels that baseline Huffman codes have room for, of 8-bit images
_SEGMENT = 65533  # bytes in a marker segment, without the two of its length
_CHUNK = _SEGMENT - 14  # of a colour profile, in each of 255 segments
_ROOM = threading.Lock()


def encoder_version() -> str:
    """The Pillow and the libjpeg that make files here; another one may make others."""
    turbo = features.version_feature("libjpeg_turbo")
    return f"Pillow {PIL.__version__}, " + (f"libjpeg-turbo {turbo}" if turbo else f"libjpeg {features.version_codec('jpg')}")


@dataclass(frozen=True)
class Encoder:
    """An encoder of images with a pair of tables.

    Args:
        luma, chroma: integer tables, each (8, 8); :func:`jpegdl.codec.file_tables` makes them.
        limits: for ``exact``: the largest magnitudes of coefficients of luma and chroma, each (8, 8): the level cap times the
            learned step. Larger coefficients are clipped. None for no cap.
        subsampling: of chroma, 4:4:4 or 4:2:0.
        optimize: fit Huffman codes to each image.
        progressive: write progressive files.
        exact: compute levels as the layer does, and write them by jpeglib.

    Raises:
        UsageError: tables that no file can hold, or another subsampling; jpeglib is wanted and not installed, or is to write
            progressive files, which it cannot.
    """

    luma: Tensor
    chroma: Tensor
    limits: tuple[Tensor, Tensor] | None = None
    subsampling: str = "4:4:4"
    optimize: bool = True
    progressive: bool = False
    exact: bool = False

    def __post_init__(self) -> None:
        F.chroma_factors(self.subsampling)  # Pillow takes others for 4:2:0
        if self.exact and self.subsampling not in SUBSAMPLINGS:
            raise UsageError(f"exact levels are for {' and '.join(SUBSAMPLINGS)}, got {self.subsampling}")
        for name, table in (("luma", self.luma), ("chroma", self.chroma)):
            whole = (table == table.round()) & (table >= 1) & (table <= LARGEST_ENTRY)
            if table.shape != (F.BLOCK, F.BLOCK) or not bool(whole.all()):
                raise UsageError(f"{name} must be (8, 8) whole numbers from 1 to {LARGEST_ENTRY}: file_tables makes them")
        if self.exact and self.progressive:  # of which jpeglib would say nothing
            raise UsageError("exact and progressive cannot be combined: jpeglib does not write progressive files")
        if self.exact:
            _jpeglib()

    def encode(self, image: Image.Image, exif: bytes = b"", icc: bytes | None = None) -> bytes:
        """Return a JPEG file.

        Args:
            image: mode L or RGB.
            exif: EXIF block to put into it.
            icc: ICC profile to put into it.

        Raises:
            ValueError: the image is too large for JPEG, or the EXIF block or the ICC profile is.
        """
        check_sides(image)
        _check_segments(exif, icc)
        if self.exact:
            return write_levels(self.levels(image), self._tables(image), image.size, self.subsampling, self.optimize, exif, icc)
        return self._by_pillow(image, exif, icc)

    def levels(self, image: Image.Image) -> list[np.ndarray[Any, Any]]:
        """Return the levels of Y, and of Cb and Cr unless the image is grey: each (rows, columns, 8, 8), int16."""
        pixels = torch.from_numpy(np.asarray(image.convert("RGB")).copy()).permute(2, 0, 1)[None].float() / 255
        luma, chroma = self.limits or (None, None)
        found = []
        for index, z in enumerate(planes(pixels, self.subsampling)[: len(image.getbands())]):
            limit, table = (chroma, self.chroma) if index else (luma, self.luma)
            z = z if limit is None else torch.maximum(torch.minimum(z, limit), -limit)
            found.append((z / table).round().numpy().astype(np.int16))
        return found

    @functools.cached_property
    def _pair(self) -> list[list[int]]:
        return [[int(entry) for entry in table.flatten().tolist()] for table in (self.luma, self.chroma)]

    def _tables(self, image: Image.Image) -> list[list[int]]:
        return self._pair[: len(image.getbands())]

    def _by_pillow(self, image: Image.Image, exif: bytes, icc: bytes | None) -> bytes:
        options: dict[str, Any] = {
            "qtables": self._tables(image),
            "optimize": self.optimize,
            "progressive": self.progressive,
            "icc_profile": icc,
            "exif": exif,
            "comment": b"",  # Pillow would hand on that of the image it read
        }
        if image.mode == "RGB":
            options["subsampling"] = self.subsampling
        try:
            return _saved(image, options)
        except OSError:
            # Pillow gives libjpeg a buffer of two bytes a pixel for all of an optimized file. With steps near 1 a noisy image
            # takes more; ImageFile.MAXBLOCK is the least that Pillow makes it.
            if not (self.optimize or self.progressive):
                raise
        with _ROOM:
            before, ImageFile.MAXBLOCK = ImageFile.MAXBLOCK, max(ImageFile.MAXBLOCK, 8 * image.width * image.height)
            try:
                return _saved(image, options)
            finally:
                ImageFile.MAXBLOCK = before


def _saved(image: Image.Image, options: dict[str, Any]) -> bytes:
    """Return what Pillow makes of it. It lets other threads run while it writes to a file, not while it fills an object of
    Python's: so through a file in memory, where the system has such."""
    with os.fdopen(os.memfd_create("jpegdl"), "w+b", 0) if hasattr(os, "memfd_create") else io.BytesIO() as stream:
        image.save(stream, "jpeg", **options)
        stream.seek(0)
        return stream.read()


def planes(pixels: Tensor, subsampling: str) -> list[Tensor]:
    """Return the DCT coefficients of Y, Cb and Cr as they lie in the image.

    Args:
        pixels: (1, 3, H, W) in [0, 1].
        subsampling: of chroma; with 4:2:0 Cb and Cr have half the blocks.

    Returns:
        Three tensors (rows, columns, 8, 8); Y's has no blocks beyond those that hold pixels.
    """
    if subsampling == "4:4:4":
        return list(F.images_to_coefficients(pixels)[0])
    units = F.images_to_mcus(pixels)[0]
    rows, columns = units.shape[1:3]
    luma = units[:4].view(2, 2, rows, columns, F.BLOCK, F.BLOCK).permute(2, 0, 3, 1, 4, 5)
    luma = luma.reshape(2 * rows, 2 * columns, F.BLOCK, F.BLOCK)
    height, width = (-(-side // F.BLOCK) for side in pixels.shape[-2:])
    return [luma[:height, :width], units[4], units[5]]


def write_levels(
    levels: list[np.ndarray[Any, Any]],
    tables: list[list[int]],
    size: tuple[int, int],
    subsampling: str,
    optimize: bool,
    exif: bytes = b"",
    icc: bytes | None = None,
) -> bytes:
    """Return a JPEG file of these levels, by jpeglib.

    Args:
        levels: of Y, or of Y, Cb and Cr, each (rows, columns, 8, 8).
        tables: of Y, of chroma, or of Cb and Cr, row by row.
        size: (width, height) in pixels.
        subsampling: of chroma.
        optimize: fit Huffman codes to them.
        exif: EXIF block to put in behind the JFIF header.
        icc: ICC profile to put in there.

    Raises:
        UsageError: jpeglib is not installed.
        ValueError: a level is too large for baseline JPEG, or the EXIF block for a segment.
    """
    jpeglib, between = _jpeglib(), segments(exif, icc)
    for component in levels:  # jpeglib would leave two half-made files behind
        flat = np.abs(component.reshape(-1, F.BLOCK**2))
        if flat[:, 0].max() > _LARGEST_DC or flat[:, 1:].max() > _LARGEST_AC:
            raise ValueError(f"a level of {flat.max()} is too large for a JPEG file of 8-bit samples")
    qt = np.array(tables, dtype=np.uint16).reshape(-1, F.BLOCK, F.BLOCK)
    file = jpeglib.from_dct(*levels, qt=qt, quant_tbl_no=[0, 1, len(tables) - 1][: len(levels)])
    file.width, file.height = size
    if len(levels) > 1:  # which jpeglib infers from the shapes, wrongly for small images
        file.samp_factor = np.array([FACTORS[subsampling], (1, 1), (1, 1)])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "levels.jpg"
        file.write_dct(str(path), flags=["+OPTIMIZE_CODING"] if optimize else [])
        content = path.read_bytes()
    if not content.endswith(b"\xff\xd9"):  # libjpeg does not look whether what it wrote has arrived
        raise OSError(errno.ENOSPC, f"no room for a temporary file in {tempfile.gettempdir()}")
    header = 4 + int.from_bytes(content[4:6], "big")  # SOI, then the JFIF header, whose length counts itself
    return content[:header] + between + content[header:]


def segments(exif: bytes, icc: bytes | None) -> bytes:
    """Return EXIF and ICC as marker segments APP1 and APP2 (ICC.1:2010, B.4).

    Raises:
        ValueError: the EXIF block or the ICC profile is too long for a JPEG file.
    """
    _check_segments(exif, icc)
    parts = [(0xE1, exif)] if exif else []
    chunks = [icc[start : start + _CHUNK] for start in range(0, len(icc), _CHUNK)] if icc else []
    parts += [(0xE2, b"ICC_PROFILE\0" + bytes([i + 1, len(chunks)]) + chunk) for i, chunk in enumerate(chunks)]
    return b"".join(bytes([0xFF, marker]) + (len(data) + 2).to_bytes(2, "big") + data for marker, data in parts)


def check_sides(image: Image.Image) -> None:
    """Refuse an image that no JPEG file has room for.

    Raises:
        ValueError: a side is too long.
    """
    if max(image.size) > LARGEST_SIDE:
        raise ValueError(f"{image.width} x {image.height} pixels: a JPEG file has at most {LARGEST_SIDE} on a side")


def _check_segments(exif: bytes, icc: bytes | None) -> None:
    for block, most, what in ((exif, _SEGMENT, "EXIF block"), (icc or b"", 255 * _CHUNK, "colour profile")):
        if len(block) > most:
            raise ValueError(
                f"its {what} has {len(block)} bytes, and a JPEG file holds {most}: save it without, say with exiftool -all="
            )


def _jpeglib() -> Any:
    require("exact levels need", "jpeglib")
    import jpeglib

    return jpeglib
