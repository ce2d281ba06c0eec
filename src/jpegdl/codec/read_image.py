"""One file of any format to what a JPEG file can hold: pixels, EXIF block, ICC profile."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from PIL import ExifTags, Image

from jpegdl.codec.encoder import check_sides
from jpegdl.data.images import bad_file
from jpegdl.data.pixels import eight_bits, loaded, orientation_note
from jpegdl.data.sources.listing import UNREAD, is_image
from jpegdl.errors import UsageError
from jpegdl.opener import FORMATS, BadImage, NotAnImage, decoding, open_image

BAD = (BadImage, OSError, MemoryError)
_TRANSPARENT = "is transparent, which JPEG has no place for: put it on a background first"
_RAW_EXIF = ("AVIF", "JPEG", "MPO", "PNG", "WEBP")  # formats that hold the block as JPEG does
_XMP = {"xmp", "XML:com.adobe.xmp"}  # where Pillow looks for an orientation that EXIF does not say
_SPACES = {"RGB": b"RGB ", "L": b"GRAY"}  # of ICC profiles, by the mode they fit


class Other(Exception):  # noqa: N818
    """A file that is no image, and does not say it is one."""


@dataclass(frozen=True)
class DecodedImage:
    """A photo as a JPEG file can hold it.

    Attributes:
        image: mode L or RGB.
        exif: block for APP1, or nothing.
        icc: ICC profile of that mode, if there was one.
    """

    image: Image.Image
    exif: bytes
    icc: bytes | None

    @property
    def note(self) -> int:
        """The EXIF orientation that goes into the file, 1 to 8; 1 where there is none."""
        return note_in(self.exif)


def note_in(exif: bytes) -> int:
    """Return the orientation in an EXIF block, 1 to 8; 1 where there is none or it cannot be read."""
    if not exif:
        return 1
    there = Image.new("L", (1, 1))
    there.info["exif"] = exif
    return orientation_note(there)


def open_photo(path: str | os.PathLike[str]) -> DecodedImage:
    """Return a photo of any format that Pillow reads as a photograph, as ``jpegdl compress`` does.

    Args:
        path: of its file.

    Raises:
        UsageError: names the file, and says why it cannot be read, or put into a JPEG file.
    """
    file = Path(path).expanduser()
    try:
        with file.open("rb") as stream:
            photo = open_picture(stream, file.name)
        check_sides(photo.image)
    except Other:
        raise UsageError(f"{file} is no image file") from None
    except BAD as error:
        raise UsageError(f"{file}: {why(error)}") from error
    except ValueError as error:  # a side is too long
        raise UsageError(f"{file}: {error}") from error
    return photo


def open_picture(stream: IO[bytes], name: str) -> DecodedImage:
    """Read an image file, opened; ``name`` is its name.

    - Grey stays grey; grey of up to 16 bits is scaled to 8 bits; palette, CMYK and others become RGB as Pillow converts them.
    - The EXIF block stays, and of formats that have none of JPEG's kind the orientation, also where XMP alone says it.
    - An ICC profile stays where it is one of the pixels' colour space: not for CMYK, which it no longer is.
    - Of an MPO file, as some cameras and phones write it, the first picture is taken.

    Raises:
        Other: it is no image, neither by content nor by name.
        Exception: one of ``BAD``, which :func:`why` puts into words: damaged, animated, transparent, of no fixed range.
    """
    try:
        source = open_image(stream)
    except NotAnImage:
        if (suffix := Path(name).suffix.lower()) in UNREAD:
            raise BadImage(f"Pillow does not read {suffix} files here: convert it first") from None
        if is_picture(name):
            raise
        raise Other from None
    with source:
        return decoding(lambda: _picture(source))


def is_picture(name: str) -> bool:
    """Return whether a file says by its name that it is an image, of whatever format."""
    suffix = Path(name).suffix.lower()
    return is_image(name) or suffix in UNREAD or Image.registered_extensions().get(suffix) in FORMATS


def _picture(source: Image.Image) -> DecodedImage:
    frames = getattr(source, "n_frames", 1)
    if frames > 1 and source.format != "MPO":
        raise BadImage(f"has {frames} pictures ({source.format}), and a JPEG file holds one")
    note = orientation_note(source)  # Pillow deletes that of a TIFF file as it decodes
    _, turn, _ = loaded(source)
    image = storable(source) if turn is None else storable(source).transpose(turn)
    return DecodedImage(image, exif_of(source, note), _profile(source, image.mode))


def storable(image: Image.Image) -> Image.Image:
    """Bring a decoded image to mode L or RGB, of 8 bits.

    Raises:
        BadImage: its pixels have no fixed range, or are transparent.
    """
    _refuse_keyed(image)
    image = eight_bits(image)
    if image.has_transparency_data:
        image = image.convert("LA" if image.mode in ("L", "LA", "La", "1") else "RGBA")
        if image.getchannel("A").getextrema()[0] != 255:
            raise BadImage(_TRANSPARENT)
    grey = image.mode in ("1", "L", "LA")
    return image if image.mode in ("L", "RGB") else image.convert("L" if grey else "RGB")


def _refuse_keyed(image: Image.Image) -> None:
    """Refuse pixels of 16 bits of the value that stands for transparency, which Pillow loses on the way to 8 bits."""
    key = image.info.get("transparency")
    if isinstance(key, int) and image.mode not in ("1", "L", "P"):
        seen = bool((np.asarray(image) == key).any())
    elif isinstance(key, tuple) and max(key) > 255:  # of which Pillow has kept the upper byte of pixels
        seen = bool((np.asarray(image) == [value >> 8 for value in key]).all(-1).any())
    else:
        return
    if seen:
        raise BadImage(_TRANSPARENT)


def exif_of(image: Image.Image, note: int) -> bytes:
    """Return the EXIF block for a JPEG file of an image, with its orientation ``note``, which XMP alone may have said."""
    raw: bytes = image.info.get("exif", b"") if image.format in _RAW_EXIF else b""
    raw = raw if not raw or raw.startswith(b"Exif\0\0") else b"Exif\0\0" + raw
    if raw and not image.info.keys() & _XMP:
        return raw
    if note == note_in(raw):
        return raw
    own = Image.Exif()
    own.load(raw)
    own[ExifTags.Base.Orientation] = note
    return own.tobytes()


def _profile(image: Image.Image, mode: str) -> bytes | None:
    profile = image.info.get("icc_profile")
    return profile if profile and profile[16:20] == _SPACES[mode] else None


def why(error: BaseException) -> str:
    """Return what is wrong with a file, on one line."""
    if isinstance(error, MemoryError):
        return "there is not enough memory for it"
    return bad_file(error) if isinstance(error, Exception) else str(error)
