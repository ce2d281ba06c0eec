"""Levels to the bytes of an ordinary JPEG file, and rounding that knows what each level costs: compiled by numba.

:mod:`jpegdl.functional.scan` says what a scan is made of, and how many bits it takes; here the same is written out, fast
enough to try several files of each photo. Huffman codes are fitted to each file, as libjpeg fits them.
"""

# numba infers the types of what it compiles:
# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np

from jpegdl import functional as F
from jpegdl.functional import BLOCK, ZIGZAG

Array = np.ndarray[Any, Any]
LARGEST_AC, LARGEST_DC = 1023, 1024  # levels that baseline Huffman codes have room for, of 8-bit images
_LONGEST = 16  # bits of a code
_ZZ = np.array(ZIGZAG, dtype=np.int64)
_compiled = numba.njit(cache=True, nogil=True)


@dataclass(frozen=True)
class HuffmanCodes:
    """The Huffman codes of a file: of luma's DC, chroma's DC, luma's AC, chroma's AC.

    Attributes:
        words, lengths: (4, 256), of each symbol its code and how many bits that has; 0 for none.
        counts: (4, 17), how many codes there are of each length.
        symbols: (4, 256), the symbols in the order of their codes.
    """

    words: Array
    lengths: Array
    counts: Array
    symbols: Array


def coded_blocks(levels: Sequence[Array], factors: tuple[int, int]) -> tuple[Array, Array]:
    """Bring levels into the order of a scan, zigzag, DC as the difference to the block before.

    Args:
        levels: of Y, or of Y, Cb and Cr, each (rows, columns, 8, 8), whole numbers.
        factors: blocks of luma in a unit, (down, across); (1, 1) for Y alone.

    Returns:
        (B, 64) int32 and (B,) whether a block is chroma's.

    Raises:
        ValueError: a level is too large for baseline JPEG.

    Source: ITU-T T.81, A.2.3; where a unit is not full, blocks as libjpeg's jccoefct.c adds them.
    """
    shapes = [(factors if number == 0 else (1, 1)) for number in range(len(levels))]
    down, across = shapes[0]
    units = -(-levels[0].shape[0] // down) * -(-levels[0].shape[1] // across)
    blocks = np.empty((units, sum(down * across for down, across in shapes), BLOCK**2), np.int32)
    place = 0
    for plane, (down, across) in zip(levels, shapes, strict=True):
        flat = np.ascontiguousarray(plane, dtype=np.int32).reshape(*plane.shape[:2], BLOCK**2)
        dc, ac = _fill_units(flat, down, across, blocks, place)
        if dc > LARGEST_DC or ac > LARGEST_AC:
            raise ValueError(f"a level of {max(dc, ac)} is too large for a JPEG file of 8-bit samples")
        place += down * across
    chroma = np.zeros(blocks.shape[:2], dtype=np.bool_)
    chroma[:, factors[0] * factors[1] :] = True
    return blocks.reshape(-1, BLOCK**2), chroma.reshape(-1)


@_compiled
def _fill_units(plane, down, across, blocks, place):
    """Put a plane, (rows, columns, 64), into the units of a scan, (units, blocks in one, 64), from the block ``place`` of each
    on: zigzag, DC as differences. Blocks beyond the plane have the DC of one beside them alone. Returns the largest magnitudes
    of DC and AC levels."""
    rows, columns = plane.shape[0], plane.shape[1]
    high, wide = (rows + down - 1) // down, (columns + across - 1) // across
    before, largest_dc, largest_ac = 0, 0, 0
    for i in range(high):
        for j in range(wide):
            for a in range(down):
                for b in range(across):
                    y, x = i * down + a, j * across + b
                    block = blocks[i * wide + j, place + a * across + b]
                    if y < rows and x < columns:
                        for k in range(1, 64):
                            value = plane[y, x, _ZZ[k]]
                            block[k] = value
                            largest_ac = max(largest_ac, abs(value))
                    else:
                        block[1:] = 0
                        if y >= rows:
                            y, x = rows - 1, (j + 1) * across - 1
                        x = min(x, columns - 1)
                    dc = plane[y, x, 0]
                    block[0] = dc - before
                    before = dc
                    largest_dc = max(largest_dc, abs(dc))
    return largest_dc, largest_ac


@_compiled
def _size(value):
    value, bits = abs(value), 0
    while value:
        value >>= 1
        bits += 1
    return bits


@_compiled
def _count(blocks, chroma):
    """How often each symbol is written, (4, 256)."""
    numbers = np.zeros((4, 256), np.int64)
    for b in range(blocks.shape[0]):
        kind = np.int64(chroma[b])
        numbers[kind, _size(blocks[b, 0])] += 1
        run = 0
        for k in range(1, 64):
            value = blocks[b, k]
            if value == 0:
                run += 1
                continue
            while run > 15:
                numbers[2 + kind, 0xF0] += 1
                run -= 16
            numbers[2 + kind, (run << 4) | _size(value)] += 1
            run = 0
        if run:
            numbers[2 + kind, 0] += 1
    return numbers


@_compiled
def _fit(numbers, words, lengths, counts, symbols):
    """One code that fits to numbers of 256 symbols, at most 16 bits, and none all 1; ITU-T T.81, K.2 and C.2."""
    frequency = np.zeros(257, np.int64)
    frequency[:256] = numbers
    frequency[256] = 1
    size, other = np.zeros(257, np.int64), np.full(257, -1, np.int64)
    while True:
        first, second = -1, -1  # the two rarest; of equals the one with the largest symbol
        for symbol in range(257):
            if frequency[symbol] and (first < 0 or frequency[symbol] <= frequency[first]):
                first = symbol
        for symbol in range(257):
            if frequency[symbol] and symbol != first and (second < 0 or frequency[symbol] <= frequency[second]):
                second = symbol
        if second < 0:
            break
        frequency[first] += frequency[second]
        frequency[second] = 0
        last = first
        size[last] += 1
        while other[last] >= 0:
            last = other[last]
            size[last] += 1
        other[last] = second
        last = second
        size[last] += 1
        while other[last] >= 0:
            last = other[last]
            size[last] += 1
    number = np.zeros(258, np.int64)
    for symbol in range(257):
        if size[symbol]:
            number[size[symbol]] += 1
    for length in range(257, 16, -1):
        while number[length] > 0:
            shorter = length - 2
            while number[shorter] == 0:
                shorter -= 1
            number[length] -= 2
            number[length - 1] += 1
            number[shorter + 1] += 2
            number[shorter] -= 1
    longest = 16
    while longest and number[longest] == 0:
        longest -= 1
    number[longest] -= 1
    counts[:] = 0
    for length in range(1, 17):
        counts[length] = number[length]
    place = 0
    for length in range(1, 258):
        for symbol in range(256):
            if size[symbol] == length:
                symbols[place] = symbol
                place += 1
    words[:] = 0
    lengths[:] = 0
    word, place = 0, 0
    for length in range(1, 17):
        for _ in range(counts[length]):
            words[symbols[place]] = word
            lengths[symbols[place]] = length
            word += 1
            place += 1
        word <<= 1


@_compiled
def _fit_all(numbers, words, lengths, counts, symbols):
    for kind in range(4):
        if numbers[kind].sum():
            _fit(numbers[kind], words[kind], lengths[kind], counts[kind], symbols[kind])


def fitted_codes(blocks: Array, chroma: Array) -> HuffmanCodes:
    """Return the Huffman codes that libjpeg would fit to blocks, as from :func:`coded_blocks`."""
    codes = HuffmanCodes(*(np.zeros((4, width), np.int64) for width in (256, 256, _LONGEST + 1, 256)))
    _fit_all(_count(blocks, chroma), codes.words, codes.lengths, codes.counts, codes.symbols)
    return codes


@_compiled
def _put(out, place, held, bits, word, length):
    """Append a word to ``held``, of which ``bits`` bits are not written yet; whole bytes go to ``out``."""
    held = (held << length) | word
    bits += length
    while bits >= 8:
        byte = (held >> (bits - 8)) & 0xFF
        out[place] = byte
        place += 1
        if byte == 0xFF:
            out[place] = 0
            place += 1
        bits -= 8
    return place, held & ((1 << bits) - 1), bits


@_compiled
def _write(blocks, chroma, words, lengths, out):
    """The scan; returns its bytes."""
    place, held, bits = 0, 0, 0
    for b in range(blocks.shape[0]):
        kind = np.int64(chroma[b])
        value = np.int64(blocks[b, 0])
        size = _size(value)
        place, held, bits = _put(out, place, held, bits, words[kind, size], lengths[kind, size])
        place, held, bits = _put(out, place, held, bits, (value if value > 0 else value - 1) & ((1 << size) - 1), size)
        kind += 2
        run = 0
        for k in range(1, 64):
            value = np.int64(blocks[b, k])
            if value == 0:
                run += 1
                continue
            while run > 15:
                place, held, bits = _put(out, place, held, bits, words[kind, 0xF0], lengths[kind, 0xF0])
                run -= 16
            size = _size(value)
            symbol = (run << 4) | size
            place, held, bits = _put(out, place, held, bits, words[kind, symbol], lengths[kind, symbol])
            place, held, bits = _put(out, place, held, bits, (value if value > 0 else value - 1) & ((1 << size) - 1), size)
            run = 0
        if run:
            place, held, bits = _put(out, place, held, bits, words[kind, 0], lengths[kind, 0])
    if bits:
        place, held, bits = _put(out, place, held, bits, (1 << (8 - bits)) - 1, 8 - bits)
    return place


def file_of_levels(
    levels: Sequence[Array],
    tables: Sequence[Sequence[int]],
    size: tuple[int, int],
    subsampling: str,
    segments: bytes = b"",
) -> bytes:
    """Return a baseline JPEG file of these very levels, with Huffman codes that fit it.

    Args:
        levels: of Y, or of Y, Cb and Cr, each (rows, columns, 8, 8): the blocks that cover a plane, as from
            :func:`jpegdl.functional.encode_levels`.
        tables: of luma, and of chroma unless the image is grey, 64 whole numbers from 1 to 255 each, row by row.
        size: (width, height) in pixels.
        subsampling: of chroma, 4:4:4, 4:2:2 or 4:2:0.
        segments: marker segments to put in behind the JFIF header.

    Raises:
        ValueError: a level is too large for baseline JPEG.

    Source: ITU-T T.81, annexes B and F; JFIF 1.01.
    """
    factors = (1, 1) if len(levels) == 1 else F.chroma_factors(subsampling)
    blocks, chroma = coded_blocks(levels, factors)
    codes = fitted_codes(blocks, chroma)
    room = np.empty(blocks.shape[0] * 512 + 64, np.uint8)  # at most 64 * 26 bits a block, each byte followed by a 0
    scan = room[: _write(blocks, chroma, codes.words, codes.lengths, room)].tobytes()
    parts = [b"\xff\xd8", _segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0"), segments]
    for number, table in enumerate(tables):
        parts.append(_segment(0xDB, bytes([number, *(int(table[k]) for k in _ZZ)])))
    width, height = size
    components = bytearray()
    for number in range(len(levels)):
        down, across = factors if number == 0 else (1, 1)
        components += bytes([number + 1, across << 4 | down, min(number, 1)])
    frame = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    parts.append(_segment(0xC0, b"\x08" + frame + bytes([len(levels)]) + components))
    for number in range(len(tables)):
        for kind in (number, 2 + number):
            count = codes.counts[kind, 1:]
            symbols = codes.symbols[kind, : int(count.sum())]
            head = bytes([(kind >= 2) << 4 | number, *count.tolist()])
            parts.append(_segment(0xC4, head + bytes(symbols.tolist())))
    chosen = b"".join(bytes([number + 1, 0x11 * min(number, 1)]) for number in range(len(levels)))
    parts += [_segment(0xDA, bytes([len(levels)]) + chosen + b"\0\x3f\0"), scan, b"\xff\xd9"]
    return b"".join(parts)


def _segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content


# ------------------------------------------------------------------------------------------------------------ rounding


@_compiled
def _round(z, step, coarse, seen, levels):
    """(B, 64) coefficients to the nearest levels, halves away from 0; of blocks that are not seen, by way of coarser steps."""
    for b in range(z.shape[0]):
        for k in range(64):
            value = z[b, k]
            if not seen[b] and coarse[k] > step[k]:
                value = np.rint(value / coarse[k]) * coarse[k]
            level = np.floor(abs(value) / step[k] + 0.5)
            most = 1024.0 if k == 0 and value < 0 else 1023.0
            levels[b, k] = np.int32(min(level, most)) if value > 0 else -np.int32(min(level, most))


def nearest_levels(z: Array, step: Array, coarse: Array, seen: Array) -> Array:
    """Return the nearest levels of a plane's coefficients, within the room of baseline Huffman codes.

    Args:
        z: (rows, columns, 8, 8), float32.
        step: (8, 8): the file's.
        coarse: (8, 8): of blocks that nobody sees, values are multiples of these first, where they are larger.
        seen: (rows, columns), bool.

    Returns:
        The shape of ``z``, int32; halves are rounded away from 0, as libjpeg does.
    """
    levels = np.empty(z.shape, np.int32)
    fine, floor = (part.reshape(-1).astype(np.float32) for part in (step, coarse))
    blocks, there = np.ascontiguousarray(z).reshape(-1, BLOCK**2), np.ascontiguousarray(seen).reshape(-1)
    _round(blocks, fine, floor, there, levels.reshape(-1, BLOCK**2))
    return levels


# ---------------------------------------------------------------------------------------- rounding by what levels cost


@_compiled
def _cheap_ac(z, rho, lengths, levels):
    """(B, 64) coefficients over their steps, zigzag, to levels of least squared error + rho x bits; DC stays as it is."""
    cost, before, value, at = np.empty(64), np.empty(64, np.int64), np.empty(64, np.int64), np.empty(64, np.int64)
    dropped = np.empty(64)
    for b in range(z.shape[0]):
        dropped[0] = 0.0
        for k in range(1, 64):
            dropped[k] = dropped[k - 1] + z[b, k] * z[b, k]
        count = 1
        at[0], cost[0] = 0, 0.0
        for k in range(1, 64):
            size = abs(z[b, k])
            nearest = min(int(size + 0.5), 1023)
            if nearest == 0:
                continue
            best, best_before, best_value = 1e300, 0, 0
            for level in range(nearest, max(nearest - 2, 0), -1):
                bits = _size(level)
                error = (size - level) ** 2
                for j in range(count - 1, -1, -1):
                    run = k - at[j] - 1
                    price = (run >> 4) * lengths[0xF0] + lengths[((run & 15) << 4) | bits] + bits
                    total = cost[j] + dropped[k - 1] - dropped[at[j]] + error + rho * price
                    if total < best:
                        best, best_before, best_value = total, j, level
            at[count], cost[count], before[count] = k, best, best_before
            value[count] = best_value if z[b, k] > 0 else -best_value
            count += 1
        best, last = 1e300, 0
        for j in range(count):
            total = cost[j] + dropped[63] - dropped[at[j]] + (rho * lengths[0] if at[j] < 63 else 0.0)
            if total < best:
                best, last = total, j
        for k in range(1, 64):
            levels[b, k] = 0
        while last > 0:
            levels[b, at[last]] = value[last]
            last = before[last]


def cheap_levels(z: Sequence[Array], rho: float) -> list[Array]:
    """Round coefficients so that squared error, in steps, + rho x bits is least, with the true lengths of Huffman codes.

    The codes are those that fit to the nearest levels. AC alone: a DC level that is off shows as a block.

    Args:
        z: coefficients over their steps, of Y, or of Y, Cb and Cr, each (rows, columns, 8, 8), float32 or float64.
        rho: what a bit is worth, in squared steps; 0 rounds to the nearest.

    Returns:
        Levels, shaped alike, int32, within the room of baseline Huffman codes.

    Source: trellis quantization: Ramchandran and Vetterli, "Rate-distortion optimal fast thresholding" (1994).
    """
    nearest = [np.rint(part).clip(-LARGEST_AC, LARGEST_AC).astype(np.int32) for part in z]
    if rho <= 0:
        return nearest
    found = []
    for number, part in enumerate(z):
        if number == 0:
            blocks = [nearest[0]]
        elif number == 1:
            blocks = nearest[1:]
        own = np.concatenate([block.reshape(-1, BLOCK**2)[:, _ZZ] for block in blocks])
        if number < 2:
            lengths = fitted_codes(own, np.zeros(len(own), np.bool_)).lengths[2].astype(np.float64)
            lengths[lengths == 0] = _LONGEST
        zigzag = np.ascontiguousarray(part.reshape(-1, BLOCK**2)[:, _ZZ], dtype=np.float64)
        levels = nearest[number].reshape(-1, BLOCK**2)[:, _ZZ].copy()
        _cheap_ac(zigzag, rho, lengths, levels)
        back = np.empty_like(levels)
        back[:, _ZZ] = levels
        found.append(back.reshape(part.shape))
    return found
