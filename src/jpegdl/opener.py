"""The one opener of image files: by content, of formats that hold photographs, with words for whatever is wrong."""

import functools
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, TypeVar

from PIL import Image, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError

T = TypeVar("T")

#: What is read, by content and not by name. Others of Pillow's formats start programs (EPS), or hold no photographs.
FORMATS = ("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "QOI", "TIFF", "WEBP")
LARGEST_PIXELS = 2**29  # in an image: 1.5 GiB in RGB, room for the largest photographs of telephones
LARGEST_TEXT = 2**26  # bytes of a PNG's text or colour profile, unpacked

_PILLOWS = (89_478_485, 2**20)  # Pillow's own limits of pixels and text


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
        source = io.BytesIO(Path(source).read_bytes())
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
    """Return why Pillow does not know a file, from how it begins."""
    source.seek(0)
    head = source.read(16)
    if not head:
        return "the file is empty"
    for name, (_, accepts) in Image.OPEN.items():
        if accepts is None or not accepts(head.ljust(16, b"\0")):
            continue
        if name == "TIFF" and (kind := _tiff_kind(source)):
            return f"TIFF files of {kind} are not read: save it with 8 or 16 bits a sample, unsigned, or as PNG"
        if name in FORMATS:
            return f"the file begins as {name} does, and is truncated, damaged or of a kind that Pillow does not read"
        return f"{name} files are not read: save it as PNG or JPEG"
    return "the file is not an image, or has a format that Pillow does not read"


def _tiff_kind(source: IO[bytes]) -> str | None:
    """Return what pixels a TIFF file holds that Pillow does not know, in words; None where its directory cannot be read."""
    try:
        source.seek(0)
        head = source.read(8)
        directory = TiffImagePlugin.ImageFileDirectory_v2(head + source.read(8) if head[2:3] == b"\x2b" else head)
        source.seek(directory.next)
        directory.load(source)
        bits, signs = directory.get(258, (1,)), directory.get(339, (1,))
        compression = directory.get(259, 1)
        short = any(tag not in directory for tag in (256, 257, 273 if 322 not in directory else 324))
    except Exception:  # whatever a damaged directory makes Pillow raise
        return None
    if short:
        return None
    many = "" if len(bits) < 2 else f" in {len(bits)} samples"
    size = f"{bits[0]}-bit" if len(set(bits)) == 1 else f"{'/'.join(map(str, bits))}-bit"
    kind = {2: "signed integer ", 3: "floating-point ", 5: "complex integer ", 6: "complex "}.get(signs[0], "")
    how = "" if compression in TiffImagePlugin.COMPRESSION_INFO else f", compressed by method {compression},"
    return f"{size} {kind}pixels{many}{how}"


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
