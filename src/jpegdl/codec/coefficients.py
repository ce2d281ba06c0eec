"""What a JPEG file holds before it is decoded: levels, tables and sampling, as tensors; from files and to files."""

import io
import os
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from jpegdl import functional as F
from jpegdl.codec.encoder import FACTORS, LARGEST_SIDE, write_levels
from jpegdl.codec.read_image import exif_of, note_in
from jpegdl.data.pixels import orientation_note
from jpegdl.errors import UsageError
from jpegdl.extras import require
from jpegdl.files import replacing
from jpegdl.opener import BadImage, open_image
from jpegdl.tables import LARGEST_ENTRY, tables_by_component

File = str | os.PathLike[str] | IO[bytes]

_JFIF = b"\xff\xe0\x00\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0"
_SCAN, _ARITHMETIC = 0xDA, (0xC9, 0xCA, 0xCB)  # markers: start of scan; frames that are coded arithmetically
_BARE = {0x01, *range(0xD0, 0xD9)}  # markers without a segment


@dataclass(frozen=True, eq=False)
class Coefficients:
    """The quantized DCT coefficients of one JPEG file, or of several with the same size, subsampling and tables.

    Attributes:
        levels: of Y, Cb and Cr, or of a grey image's Y alone: each (N, rows, columns, 8, 8), integers, rows the vertical
            frequency, as :func:`jpegdl.functional.encode_levels` makes and :func:`jpegdl.functional.decode_levels` takes them.
            Y has ceil(H/8) x ceil(W/8) blocks. Cb and Cr have as many as cover ceil(H/down) x ceil(W/across) samples.
        tables: (3, 8, 8) steps of Y, Cb and Cr, or (1, 8, 8) of a grey image's Y; integers from 1 to 32767.
        size: (H, W) of the images in pixels, as they are stored. The EXIF orientation is not followed.
        subsampling: of chroma, 4:4:4, 4:2:2, 4:2:0 or 4:4:0; 4:4:4 for grey images.
        exif: EXIF block, which may hold an orientation, also one that XMP alone said.
        icc: ICC profile, or None.

    Raises:
        UsageError: the parts do not fit together.
    """

    levels: tuple[Tensor, ...]
    tables: Tensor
    size: tuple[int, int]
    subsampling: str = "4:4:4"
    exif: bytes = b""
    icc: bytes | None = None

    def __post_init__(self) -> None:
        if self.subsampling not in FACTORS:
            raise UsageError(f"subsampling must be one of {', '.join(FACTORS)}, got {self.subsampling!r}")
        if len(self.levels) not in (1, 3):
            raise UsageError(f"levels must be those of Y, or of Y, Cb and Cr, got {len(self.levels)} tensors")
        height, width = self.size
        if not all(isinstance(side, int) and 1 <= side <= LARGEST_SIDE for side in (height, width)):
            raise UsageError(f"size must be (H, W), each from 1 to {LARGEST_SIDE} pixels, got {self.size}")
        for tensor, name in ((self.tables, "tables"), *((levels, "levels") for levels in self.levels)):
            if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
                raise UsageError(f"{name} must be whole numbers of an integer dtype, got {tensor.dtype}: {name}.round().int()")
        F.check_shape(self.tables, (len(self.levels), F.BLOCK, F.BLOCK), "tables")
        if int(self.tables.min()) < 1 or int(self.tables.max()) > LARGEST_ENTRY:
            raise UsageError(
                f"tables must hold steps from 1 to {LARGEST_ENTRY}, got {self.tables.min()} to {self.tables.max()}"
            )
        down, across = FACTORS[self.subsampling]
        for index, levels in enumerate(self.levels):
            samples = (-(-height // down), -(-width // across)) if index else self.size
            blocks = tuple(-(-side // F.BLOCK) for side in samples)
            F.check_shape(levels, (len(self.levels[0]), *blocks, F.BLOCK, F.BLOCK), f"levels of {('Y', 'Cb', 'Cr')[index]}")

    @property
    def luma(self) -> Tensor:
        """(8, 8): the steps of Y."""
        return self.tables[0]

    @property
    def chroma(self) -> Tensor:
        """(8, 8): the steps of Cb and Cr; of a grey image, those of Y.

        Raises:
            UsageError: Cb and Cr have different tables; ``tables`` has both.
        """
        if len(self.tables) == 3 and not torch.equal(self.tables[1], self.tables[2]):
            raise UsageError("Cb and Cr have different tables, so there is no single chroma table: use tables[1] and tables[2]")
        return self.tables[-1]

    @property
    def orientation(self) -> int:
        """The EXIF orientation: how to turn the stored pixels, 1 (as they are) to 8."""
        return note_in(self.exif)

    @property
    def planes(self) -> tuple[Tensor, Tensor | None]:
        """Levels times steps, float32, as the layers and :func:`jpegdl.functional.planes_to_images` have them.

        Returns:
            (luma, chroma). Luma is (N, 1, rows, columns, 8, 8) DCT coefficients for pixels in 0..255. Chroma, of Cb and Cr, is
            (N, 2, rows, columns, 8, 8); None for grey images. With 4:4:4, ``torch.cat(planes, 1)`` is what ``JpegLayer.alter``
            takes.
        """
        y, *chroma = ((levels.long() * table.long()).float() for levels, table in zip(self.levels, self.tables, strict=True))
        return y[:, None], torch.stack(chroma, 1) if chroma else None


def read_coefficients(file: File) -> Coefficients:
    """Read the levels, tables and sampling of a JPEG file, baseline or progressive, without decoding it to pixels.

    The exact pixels are those of the levels:
    ``decode_levels(found.levels, found.luma, found.chroma, found.size, found.subsampling)`` of :mod:`jpegdl.functional`, but
    for 4:4:0, which it does not know.

    Args:
        file: its path, or an open binary file. Of MPO files the first picture is read.

    Returns:
        One image's, N = 1, int32.

    Raises:
        UsageError: names the file: it is no JPEG file, truncated or damaged; CMYK, RGB as it is, or another sampling than
            4:4:4, 4:2:2, 4:2:0 and 4:4:0; coded arithmetically. Or jpeglib (the extra ``codec``) is not installed.
        OSError: it cannot be opened.

    Source: ITU-T T.81; libjpeg, by way of jpeglib.

    Example::

        found = read_coefficients("photo.jpg")
        image = functional.planes_to_images(*found.planes, found.size, found.subsampling)
    """
    require("reading coefficients needs", "jpeglib")
    name, content = _content(file)
    try:
        return _read(content)
    except (BadImage, UsageError) as error:
        raise UsageError(f"{name}: {error}") from error


def write_coefficients(file: File, coefficients: Coefficients, *, optimize: bool = True) -> None:
    """Write the levels, tables and sampling of an image to a baseline JPEG file, without loss.

    What :func:`read_coefficients` has read comes back the same, and decodes to the same pixels. EXIF block and ICC profile are
    written too; other segments, such as XMP and comments, and progressive scans are not kept. Steps above 255 make an extended
    file, which not all programs read.

    Args:
        file: its path, or a binary file that is open for writing. At a path the file is there whole or not at all.
        coefficients: of one image.
        optimize: fit Huffman codes to it.

    Raises:
        UsageError: there are several images; a level is too large for a JPEG file of 8-bit samples (AC 1023, DC 1024), or the
            EXIF block; or jpeglib (the extra ``codec``) is not installed.
        OSError: the file cannot be written.
    """
    require("writing coefficients needs", "jpeglib")
    if len(coefficients.levels[0]) != 1:
        raise UsageError(f"a JPEG file holds one image, got levels of {len(coefficients.levels[0])}: write them one by one")
    levels = [_as_levels(component) for component in coefficients.levels]
    tables = [table.flatten().tolist() for table in coefficients.tables]
    if len(tables) == 3 and tables[1] == tables[2]:
        del tables[2]
    height, width = coefficients.size
    try:
        with _objections():
            content = write_levels(
                levels, tables, (width, height), coefficients.subsampling, optimize, coefficients.exif, coefficients.icc
            )
    except ValueError as error:
        raise UsageError(str(error)) from error
    if isinstance(file, str | os.PathLike):
        with replacing(file, make_folder=False) as temporary:
            temporary.write_bytes(content)
    else:
        file.write(content)


def _as_levels(levels: Tensor) -> np.ndarray[Any, Any]:
    """(rows, columns, 8, 8), int16; what that has no room for stays too large for a file."""
    return levels[0].detach().cpu().long().clamp(-32767, 32767).numpy().astype(np.int16)


def _content(file: File) -> tuple[str, bytes]:
    if isinstance(file, str | os.PathLike):
        return os.fspath(file), Path(file).read_bytes()
    content = file.read()
    if not isinstance(content, bytes):
        raise UsageError("the file must be open in binary mode: open(path, 'rb')")
    return str(getattr(file, "name", "the file")), content


def _read(content: bytes) -> Coefficients:
    with open_image(io.BytesIO(content)) as image:
        if image.format not in ("JPEG", "MPO"):
            raise UsageError(f"it is a {image.format} file, and only JPEG files hold levels")
        header: Any = image
        if image.mode == "CMYK" or len(header.layer) == 4:
            raise UsageError("it holds CMYK instead of luma and chroma: convert it to RGB first")
        tables = torch.tensor(tables_by_component(image), dtype=torch.int32).view(-1, F.BLOCK, F.BLOCK)
        subsampling = _subsampling([(down, across) for _, across, down, _ in header.layer])
        exif, icc, (width, height) = exif_of(image, orientation_note(image)), image.info.get("icc_profile"), image.size
    read = _levels(_without_notes(content))
    if not np.array_equal(read.qt[read.quant_tbl_no], tables.numpy()):
        raise UsageError("it changes a table between its scans, so its levels have no single table")
    components = [read.Y] if len(tables) == 1 else [read.Y, read.Cb, read.Cr]
    levels = tuple(torch.from_numpy(component.astype(np.int32))[None] for component in components)
    return Coefficients(levels, tables, (height, width), subsampling, exif, icc)


def _subsampling(factors: list[tuple[int, int]]) -> str:
    """From the samples (down, across) that each component has in a unit."""
    (down, across), *chroma = factors
    if not chroma:
        return "4:4:4"
    ratios: set[tuple[float, float]] = {(down / part[0], across / part[1]) for part in chroma}
    name = next((name for name, factor in FACTORS.items() if ratios == {factor}), None)
    if name is None:
        samples = ", ".join(f"{h}x{v}" for v, h in factors)
        raise UsageError(f"its components are sampled {samples}, and only these can be read: {', '.join(FACTORS)}")
    return name


def _without_notes(content: bytes) -> bytes:
    """A JPEG file with a JFIF header and without its own APP segments and comments: jpeglib has room for few of them, and
    takes the colours from some.

    Raises:
        UsageError: it ends before its first scan, or is coded arithmetically.
    """
    place, kept = 2, [content[:2], _JFIF]
    while True:
        while content[place : place + 2] == b"\xff\xff":  # a marker may be filled up
            place += 1
        if len(content) < place + 4 or content[place] != 0xFF:
            raise UsageError("it is truncated or damaged: its header does not end in a scan")
        marker = content[place + 1]
        if marker in _ARITHMETIC:
            raise UsageError("it uses arithmetic coding, which jpeglib does not read: save it with Huffman codes")
        end = place + 2 + (0 if marker in _BARE else int.from_bytes(content[place + 2 : place + 4], "big"))
        if marker == _SCAN:
            return b"".join((*kept, content[place:]))
        if not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            kept.append(content[place:end])
        place = end


def _levels(content: bytes) -> Any:
    """What jpeglib reads of a file.

    Raises:
        UsageError: libjpeg has found something wrong with it.
    """
    import jpeglib

    found = None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "levels.jpg"
        path.write_bytes(content)
        with _objections() as said:
            try:
                found = jpeglib.read_dct(str(path))
                found.load()
            except OSError as error:
                said.append(str(error).replace(str(path), "it"))
                _remove_copy(error)
    if said:
        raise UsageError(f"it is truncated or damaged ({' '.join(said)})")
    return found


def _remove_copy(error: OSError) -> None:
    """Remove the file that jpeglib leaves behind where it fails."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        copy = frame.f_locals.get("tmp")
        if copy is not None:
            Path(copy.name).unlink(missing_ok=True)


_QUIET = threading.Lock()
#: How those of libjpeg's warnings begin after which it goes on with other levels than were stored (jerror.h).
_WARNINGS = ("Corrupt JPEG data", "Premature end of JPEG", "Inconsistent progression", "Invalid SOS parameters")


@contextmanager
def _objections() -> Iterator[list[str]]:
    """Collect what libjpeg has against a file, each thing once. It writes that to the process's own standard error, goes on
    after most of it, and jpeglib hands on nothing. What else was written there meanwhile is written when it is over."""
    said: list[str] = []
    with _QUIET, tempfile.TemporaryFile() as caught:
        sys.stderr.flush()
        kept = os.dup(2)
        try:
            os.dup2(caught.fileno(), 2)
            try:
                yield said
            finally:
                sys.stderr.flush()
                os.dup2(kept, 2)
                caught.seek(0)
                failed, others = bool(said), b""
                for line in caught:
                    text = line.decode(errors="replace").strip()
                    if not (failed or text.startswith(_WARNINGS)):
                        others += line
                    elif text not in said:
                        said.append(text)
                os.write(2, others)
        finally:
            os.close(kept)
