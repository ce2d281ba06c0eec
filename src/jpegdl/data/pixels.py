"""From an image in any mode to 8-bit RGB, and to the size that crops are cut from."""

import numpy as np
from PIL import Image

FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")


def to_rgb(image: Image.Image) -> Image.Image:
    """The image in 8-bit RGB.

    - 16-bit grey is scaled by its range: 0..65535 to 0..255, rounded (Pillow alone would clip it to white).
    - 1-bit, grey, palette, CMYK, YCbCr and others are converted as Pillow does.
    - Transparency is dropped, and the colours below it come to light: nothing says what would be behind the image.

    Raises:
        ValueError: 32-bit integer or floating-point pixels, whose range no file says, or a mode that Pillow does not convert.
    """
    if image.mode == "RGB":
        return image
    # Pillow opens 16-bit PNG and PGM in the 32-bit mode I in some of its versions, with values of 16 bits.
    if image.mode in SIXTEEN_BITS or (image.mode == "I" and image.format in ("PNG", "PPM")):
        grey = (np.asarray(image).astype(np.uint32) + 128) // 257
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        kind = "32-bit integer" if image.mode == "I" else "floating-point"
        raise ValueError(f"mode {image.mode}: {kind} pixels have no fixed range to scale to 0..255; save it with 8 or 16 bits")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # straight to RGB, Pillow warns at every image
    return image.convert("RGB")


def resized(image: Image.Image, side: int, interpolation: str) -> Image.Image:
    """The image in RGB with a short side of ``side`` pixels, by bicubic or bilinear interpolation.

    Raises:
        ValueError: as :func:`to_rgb`.
    """
    image = to_rgb(image)
    short = min(image.size)
    width, height = (side * length // short for length in image.size)
    return image if image.size == (width, height) else image.resize((width, height), FILTERS[interpolation])
