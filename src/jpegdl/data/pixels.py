"""From an opened image of any kind to 8-bit RGB, and to the size that crops are cut from: the one way for all commands."""

from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageFile
from PIL.Image import Transpose

from jpegdl.data.config import Orientation
from jpegdl.opener import LARGEST_PIXELS, BadImage, decoding

FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")

LONGEST = 64  # of an image that is more than so many times as long as wide, the middle is taken

_NO_RANGE = "have no fixed range to scale to 0..255: save it with 8 or 16 bits, unsigned"
# What an EXIF orientation asks for, and what undoes it.
_TURNS = {
    2: (Transpose.FLIP_LEFT_RIGHT, Transpose.FLIP_LEFT_RIGHT),
    3: (Transpose.ROTATE_180, Transpose.ROTATE_180),
    4: (Transpose.FLIP_TOP_BOTTOM, Transpose.FLIP_TOP_BOTTOM),
    5: (Transpose.TRANSPOSE, Transpose.TRANSPOSE),
    6: (Transpose.ROTATE_270, Transpose.ROTATE_90),
    7: (Transpose.TRANSVERSE, Transpose.TRANSVERSE),
    8: (Transpose.ROTATE_90, Transpose.ROTATE_270),
}


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
        EXIF orientation says; None for not at all. Pillow turns TIFF files when it decodes them, and no others.

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
    - Pixels come as they are stored, in all formats, or turned as the EXIF orientation says.

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
