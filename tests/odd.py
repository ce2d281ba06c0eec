"""Files that no program of today writes."""

import struct
import zlib


def chunk(name, content):
    """A part of a PNG."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width, height, chunks=b"", data=None, bits=8, kind=0):
    """A grey PNG (RGB of ``kind`` 2) that says it is of that size; ``data`` in place of its pixels, which are black."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
    rows = chunk(b"IDAT", zlib.compress(bytes((width + 1) * height) if data is None else data))
    return b"\x89PNG\r\n\x1a\n" + header + chunks + rows + chunk(b"IEND", b"")
