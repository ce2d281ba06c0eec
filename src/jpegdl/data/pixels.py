"""From an image file of any kind to 8-bit RGB, and to the size that crops are cut from: the one way in for all commands."""

import functools
import io
import os
from collections.abc import Callable
from typing import IO, Any, TypeVar

import numpy as np
from PIL import ExifTags, Image, ImageFile, PngImagePlugin, UnidentifiedImageError
from PIL.Image import Transpose

from jpegdl.data.config import Orientation

T = TypeVar("T")
FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")

#: What is read, by content and not by name. Others of Pillow's formats start programs (EPS), or hold no photographs.
FORMATS = ("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "QOI", "TIFF", "WEBP")
LARGEST_PIXELS = 2**29  # in an image: 1.5 GiB in RGB, room for the largest photographs of telephones
LARGEST_TEXT = 2**26  # bytes of a PNG's text or colour profile, unpacked
LONGEST = 64  # of an image that is more than so many times as long as wide, the middle is taken

_NO_RANGE = "have no fixed range to scale to 0..255: save it with 8 or 16 bits, unsigned"
_PILLOWS = (89_478_485, 2**20)  # Pillow's own limits of pixels and text
# What a camera's note (EXIF orientation) asks for, and what undoes it.
_TURNS = {
    2: (Transpose.FLIP_LEFT_RIGHT, Transpose.FLIP_LEFT_RIGHT),
    3: (Transpose.ROTATE_180, Transpose.ROTATE_180),
    4: (Transpose.FLIP_TOP_BOTTOM, Transpose.FLIP_TOP_BOTTOM),
    5: (Transpose.TRANSPOSE, Transpose.TRANSPOSE),
    6: (Transpose.ROTATE_270, Transpose.ROTATE_90),
    7: (Transpose.TRANSVERSE, Transpose.TRANSVERSE),
    8: (Transpose.ROTATE_90, Transpose.ROTATE_270),
}


class BadImage(ValueError):  # noqa: N818
    """An image that cannot be read; its text says why, on one line."""


class NotAnImage(BadImage):
    """A file that is none of the formats that are read."""


def open_image(source: IO[bytes] | str | os.PathLike[str]) -> Image.Image:
    """Open an image file, by its content; its pixels are decoded when they are asked for.

    Raises:
        BadImage: it is damaged, or too large.
        NotAnImage: it is of another format, or none.
        OSError: the file cannot be opened.
    """
    _make_room()
    if isinstance(source, str | os.PathLike):
        # Never by name: Pillow maps some TIFF files into memory then, with the sides of a turned one swapped.
        with open(source, "rb") as file:  # noqa: PTH123
            source = io.BytesIO(file.read())
    try:
        return decoding(lambda: Image.open(source, formats=_formats()))
    except UnidentifiedImageError:
        raise NotAnImage(_what_it_is(source)) from None


@functools.cache
def _formats() -> tuple[str, ...]:
    """Of ``FORMATS``, those that this Pillow reads."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


@functools.cache
def _make_room() -> None:
    """Raise Pillow's limits, which are for servers that open anybody's files, unless the user has set others."""
    if _PILLOWS[0] == Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = 2 * LARGEST_PIXELS  # beyond which Pillow warns of an attack; loaded() is stricter
    if _PILLOWS[1] == PngImagePlugin.MAX_TEXT_CHUNK:
        PngImagePlugin.MAX_TEXT_CHUNK = LARGEST_TEXT


def _what_it_is(source: IO[bytes]) -> str:
    """Why Pillow does not know a file, from how it begins."""
    source.seek(0)
    head = source.read(16)
    if not head:
        return "the file is empty"
    for name, (_, accepts) in Image.OPEN.items():
        if accepts is None or not accepts(head.ljust(16, b"\0")):
            continue
        if name in FORMATS:
            return f"the file begins as {name} does, and is truncated, damaged or of a kind that Pillow does not read"
        return f"{name} files are not read: save it as PNG or JPEG"
    return "the file is no image, or of a format that Pillow does not read"


def decoding(decode: Callable[[], T]) -> T:
    """Call ``decode``, and put whatever a reader raises at a file into words: Pillow's raise any kind of error."""
    try:
        return decode()
    except (UnidentifiedImageError, BadImage):
        raise
    except MemoryError:
        raise BadImage("there is not enough memory for it") from None
    except Image.DecompressionBombError:
        raise BadImage(f"it is larger than {LARGEST_PIXELS / 1e6:.0f} megapixels: make it smaller") from None
    except OSError as error:
        if error.filename is not None:  # of the system, not of a decoder
            raise
        raise BadImage(_words(error)) from error
    except Exception as error:
        raise BadImage(_words(error)) from error


def _words(error: Exception) -> str:
    text = " ".join(str(error).split())
    if "MAX_TEXT_CHUNK" in text or "MAX_TEXT_MEMORY" in text:
        return (
            f"its text or colour profile takes more than {LARGEST_TEXT // 2**20} MiB unpacked: save it without, say with "
            "exiftool -all="
        )
    if isinstance(error, OSError | SyntaxError | ValueError) and text and "decoder object" not in text:
        return text
    return f"the file is truncated or damaged ({type(error).__name__}{': ' if text else ''}{text})"


def orientation_note(image: Image.Image) -> int:
    """Return the EXIF orientation of an image, 1 to 8; 1, as stored, where there is none or it cannot be read."""
    try:
        note = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a damaged EXIF block is no reason not to read the image
        return 1
    return note if note in _TURNS else 1


def loaded(image: Image.Image) -> tuple[Image.Image, Transpose | None, Transpose | None]:
    """Decode the pixels of an image.

    Returns:
        (image, to_stored, to_upright): the image itself, and how to turn it to get its pixels as they are stored, and as the
        camera's note says; None for not at all. Pillow turns TIFF files when it decodes them, and no others.

    Raises:
        BadImage: it cannot be decoded, has no pixels, or too many.
    """
    width, height = image.size
    if width < 1 or height < 1:
        raise BadImage(f"it has no pixels: it is {width} wide and {height} high")
    if width * height > LARGEST_PIXELS:
        raise BadImage(
            f"it has {width * height / 1e6:.0f} megapixels, and at most {LARGEST_PIXELS / 1e6:.0f} are read: make it smaller"
        )
    note = orientation_note(image)
    if note != 1 and image.format == "TIFF" and isinstance(image, ImageFile.ImageFile):
        image.filename = ""  # of an image that somebody else opened by its name: see open_image
    decoding(image.load)
    if note == 1:
        return image, None, None
    turn, undo = _TURNS[note]
    if orientation_note(image) == note:
        return image, None, turn
    return image, undo, None


def eight_bits(image: Image.Image) -> Image.Image:
    """Bring a decoded image of one 16-bit channel to 8 bits, mode L: 0 to its largest value become 0 to 255, rounded.

    The largest value is that of the bits that the file says it has (12 in some TIFF files); where it says that 0 is white, 0
    becomes 255. Pillow alone would clip such pixels to white. Other images are returned as they are.

    Raises:
        BadImage: pixels whose range no file says: 32-bit or signed integers, or floating point.
    """
    tags: Any = getattr(image, "tag_v2", {})
    if 2 in tags.get(339, ()) and image.mode not in ("I", "F"):  # sample format: two's complement
        raise BadImage(f"signed {tags.get(258, (8,))[0]}-bit integer pixels {_NO_RANGE}")
    # Pillow opens 16-bit PNG and PGM in the 32-bit mode I in some of its versions, with values of 16 bits.
    if image.mode in SIXTEEN_BITS or (image.mode == "I" and image.format in ("PNG", "PPM")):
        bits = tags.get(258, (16,))[0]
        top = 2 ** int(bits) - 1
        grey = (np.asarray(image).astype(np.uint32).clip(0, top) * 255 + top // 2) // top
        if tags.get(262) == 0:  # photometric interpretation: white is zero
            grey = 255 - grey
        return Image.fromarray(grey.astype(np.uint8))
    if image.mode in ("I", "F"):
        if image.mode == "F":
            kind = "floating-point"
        else:
            bits, sign = tags.get(258, (32,))[0], "signed " if tags.get(339, (1,))[0] == 2 else ""
            kind = f"{sign}{bits}-bit integer"
        raise BadImage(f"{kind} pixels {_NO_RANGE}")
    return image


def to_rgb(image: Image.Image, orientation: Orientation = "stored") -> Image.Image:
    """Decode an image and bring it to 8-bit RGB.

    - Grey of up to 16 bits is scaled by its range, see :func:`eight_bits`.
    - 1-bit, grey, palette, CMYK, YCbCr and others are converted as Pillow does.
    - Transparency is dropped, and the colours below it come to light: nothing says what would be behind the image.
    - Pixels come as they are stored, in all formats, or turned as the camera's note (EXIF orientation) says.

    Raises:
        BadImage: it cannot be decoded, or its pixels have no fixed range or a mode that Pillow does not convert.
    """
    image, to_stored, to_upright = loaded(image)
    turn = to_upright if orientation == "follow" else to_stored
    return decoding(lambda: _converted(eight_bits(image), turn))


def _converted(image: Image.Image, turn: Transpose | None) -> Image.Image:
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # straight to RGB, Pillow warns at every image
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    return rgb if turn is None else rgb.transpose(turn)


def middle(image: Image.Image) -> Image.Image:
    """Cut out the middle of an image that is more than 64 times as long as wide; return others as they are.

    Scaled to a short side, such an image would take any amount of memory, and all but its middle is cut off after.
    """
    width, height = image.size
    most = LONGEST * min(width, height)
    if max(width, height) <= most:
        return image
    wide, high = min(width, most), min(height, most)
    left, top = (width - wide) // 2, (height - high) // 2
    return image.crop((left, top, left + wide, top + high))


def resized(image: Image.Image, side: int, interpolation: str, orientation: Orientation = "stored") -> Image.Image:
    """Bring an image to RGB and a short side of ``side`` pixels, by bicubic or bilinear interpolation.

    Raises:
        BadImage: as :func:`to_rgb`.
    """
    image = middle(to_rgb(image, orientation))
    short = min(image.size)
    width, height = (side * length // short for length in image.size)
    if image.size == (width, height):
        return image
    return decoding(lambda: image.resize((width, height), FILTERS[interpolation]))
