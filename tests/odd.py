"""Files that no program of today writes."""

import struct
import zlib


def png(width, height, chunks=b"", data=None):
    """A grey PNG that says it is of that size; ``data`` in place of its pixels, which are black."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    rows = chunk(b"IDAT", zlib.compress(bytes((width + 1) * height) if data is None else data))
    return b"\x89PNG\r\n\x1a\n" + header + chunks + rows + chunk(b"IEND", b"")
