"""The true size of a JPEG file's scan: its levels in the order of a file, as Huffman codes, to the last stuffed byte.

A baseline scan (ITU-T T.81, F.1.2) is what a file holds beside its header: :mod:`jpegdl.functional.bits` says which symbols it
is made of, and estimates their number; here they are written out.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from jpegdl.errors import UsageError
from jpegdl.functional.bits import RUNS, SIZES, Symbols, coded_bits, expected_symbols, size_category
from jpegdl.functional.exact import check_levels, chroma_factors
from jpegdl.functional.transforms import BLOCK, ZIGZAG

#: Whose lengths the codes have: those of ITU-T T.81, Annex K, as encoders use them unless told otherwise, or the file's own.
CODES = ("standard", "optimal")
_END, _ZEROS = 0x00, 0xF0  # symbols of AC: end of block, 16 zeros
_LONGEST = 16  # bits of a code
# T.81, tables K.3 to K.6: how many codes there are of 1, 2, .. 16 bits, and their symbols in order, luma and chroma.
_DC = (
    ((0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0), bytes(range(12))),
    ((0, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0), bytes(range(12))),
)
_AC = (
    (
        (0, 2, 1, 3, 3, 2, 4, 3, 5, 5, 4, 4, 0, 0, 1, 125),
        bytes.fromhex(
            "01020300041105122131410613516107227114328191a1082342b1c11552d1f02433627282090a161718191a25262728292a3435363738393a"
            "434445464748494a535455565758595a636465666768696a737475767778797a838485868788898a92939495969798999aa2a3a4a5a6a7a8a9"
            "aab2b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae1e2e3e4e5e6e7e8e9eaf1f2f3f4f5f6f7f8f9fa"
        ),
    ),
    (
        (0, 2, 1, 2, 4, 4, 3, 4, 7, 5, 4, 4, 0, 1, 2, 119),
        bytes.fromhex(
            "000102031104052131061241510761711322328108144291a1b1c109233352f0156272d10a162434e125f11718191a262728292a3536373839"
            "3a434445464748494a535455565758595a636465666768696a737475767778797a82838485868788898a92939495969798999aa2a3a4a5a6a7"
            "a8a9aab2b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae2e3e4e5e6e7e8e9eaf2f3f4f5f6f7f8f9fa"
        ),
    ),
)


class _Code(NamedTuple):
    """A Huffman code: of each symbol 0..255 the bits, and how many they are (0: no code)."""

    words: list[int]
    lengths: list[int]


def in_scan_order(blocks: Tensor, factors: tuple[int, int]) -> Tensor:
    """Return the blocks of a plane in the order of a file.

    Minimum coded units are whole. Where the plane ends within one, an encoder fills it with the blocks that cost least: flat
    ones, with the DC of the block before.

    Args:
        blocks: (N, rows, columns, 8, 8), levels or coefficients.
        factors: (down, across), how many blocks of the plane a minimum coded unit has.

    Returns:
        (N, units, down * across, 8, 8).

    Source: ITU-T T.81, A.2.3; libjpeg's jccoefct.c.
    """
    n, rows, columns = blocks.shape[:3]
    down, across = factors
    if columns % across:
        blocks = torch.cat((blocks, _flat(blocks[:, :, -1:])), 2)
    if rows % down:
        last = blocks[:, -1:, across - 1 :: across]  # of the row above, the last block in the unit
        blocks = torch.cat((blocks, _flat(last).repeat_interleave(across, 2)), 1)
    high, wide = blocks.shape[1] // down, blocks.shape[2] // across
    units = blocks.reshape(n, high, down, wide, across, BLOCK, BLOCK).transpose(2, 3)
    return units.reshape(n, high * wide, down * across, BLOCK, BLOCK)


def _flat(blocks: Tensor) -> Tensor:
    """The DC of each block, and nothing else."""
    flat = blocks.flatten(-2)
    return torch.cat((flat[..., :1], torch.zeros_like(flat[..., 1:])), -1).reshape(blocks.shape)


def scan_bits(levels: tuple[Tensor, ...], subsampling: str = "4:2:0", codes: str = "standard") -> Tensor:
    """Return the size of each image's scan in a baseline JPEG file.

    Args:
        levels: of Y, Cb and Cr, or of Y alone, as from :func:`jpegdl.functional.encode_levels`.
        subsampling: as there.
        codes: ``"standard"`` Huffman codes, or ``"optimal"`` ones as libjpeg fits them to each file.

    Returns:
        (N,), int64, in bits: whole bytes, with those that are stuffed in after 0xFF. The header does not count, nor do the
        codes in it.

    Raises:
        TypeError: levels of a floating-point dtype.
        UsageError: there are no such codes or no such subsampling, the levels are those of another subsampling, or a baseline
            file cannot hold them.
    """
    return torch.tensor([bits for bits, _ in _scans(levels, subsampling, codes)], device=levels[0].device)


def estimated_scan_bits(
    levels: tuple[Tensor, ...],
    coefficients: tuple[Tensor, Tensor | None],
    luma: Tensor,
    chroma: Tensor,
    subsampling: str,
    codes: str,
    hardness: float,
) -> Tensor:
    """Return :func:`scan_bits`, with the gradient of the bits that are expected of levels drawn around the coefficients.

    Args:
        levels, subsampling, codes: as in :func:`scan_bits`.
        coefficients: of the same images, as from :func:`jpegdl.functional.images_to_planes`.
        luma, chroma: steps (8, 8) or (N, 8, 8).
        hardness: as in :func:`jpegdl.functional.expected_symbols`.

    Returns:
        (N,), dtype of the coefficients, differentiable in these and in the steps.
    """
    factors = (1, 1) if len(levels) == 1 else chroma_factors(subsampling)
    totals = []
    for i, (bits, lengths) in enumerate(_scans(levels, subsampling, codes)):
        expected = coefficients[0].new_zeros(())
        for number, (z, table) in enumerate(zip(coefficients, (luma, chroma), strict=True)):
            if z is None:
                continue
            blocks = in_scan_order(z[i], factors if number == 0 else (1, 1)).flatten(1, 2)  # (planes, blocks, 8, 8)
            step = (table if table.ndim == 2 else table[min(i, len(table) - 1)]).to(z.dtype)
            cost = Symbols(*(part.to(z.device, z.dtype) for part in lengths[number]))
            expected = expected + coded_bits(expected_symbols(blocks, step, hardness), cost)
        totals.append(bits + (expected - expected.detach()))
    return torch.stack(totals) if totals else coefficients[0].new_zeros(0)


def _scans(levels: tuple[Tensor, ...], subsampling: str, codes: str) -> list[tuple[int, list[Symbols]]]:
    """Of each image, the bits, and the lengths of its codes of luma and of chroma."""
    if codes not in CODES:
        raise UsageError(f"codes must be standard or optimal, got {codes!r}")
    check_levels(levels)
    factors = (1, 1) if len(levels) == 1 else chroma_factors(subsampling)
    parts = []
    for number, plane in enumerate(levels):
        units = in_scan_order(plane.int(), factors if number == 0 else (1, 1)).flatten(-2)[..., ZIGZAG]
        dc = units[..., 0].flatten(1)
        before = torch.cat((torch.zeros_like(dc[:, :1]), dc[:, :-1]), 1)
        parts.append(torch.cat(((dc - before).reshape(*units.shape[:-1], 1), units[..., 1:]), -1))
    if len({part.shape[:2] for part in parts}) > 1:
        shapes = ", ".join(str(tuple(plane.shape)) for plane in levels)
        raise UsageError(f"levels of shapes {shapes} are not those of the planes of {subsampling} images")
    blocks = torch.cat(parts, 2)  # (N, units, blocks in a unit, 64)
    chroma = torch.arange(blocks.shape[2], device=blocks.device) >= factors[0] * factors[1]
    if blocks.numel() and (int(blocks[..., 0].abs().max()) > 2047 or int(blocks[..., 1:].abs().max()) > 1023):
        raise UsageError("levels are larger than a baseline JPEG file can hold: 2047 of DC differences, 1023 of AC")
    return [_scan(image.flatten(0, 1), chroma.repeat(len(image)).long(), codes) for image in blocks]


def _scan(blocks: Tensor, table: Tensor, codes: str) -> tuple[int, list[Symbols]]:
    """Of one image: (B, 64) differences of DC and levels of AC in zigzag order, and (B,) which table each block has."""
    size = size_category(blocks)
    place = torch.arange(64, device=blocks.device).expand_as(blocks)
    ac = place > 0
    filled = torch.where((blocks != 0) & ac, place, 0)  # DC counts as filled
    last = filled.cummax(1).values
    run = torch.where(ac, place - 1 - torch.cat((torch.zeros_like(last[:, :1]), last[:, :-1]), 1), 0)
    here = (filled > 0) | ~ac
    # In each place at most three times 16 zeros, then the level's symbol; and at the end of a block, its end.
    zeros = torch.where(here, run // RUNS, 0)[..., None] > torch.arange(3, device=blocks.device)
    ended = last[:, -1:] < 63
    used = torch.cat((torch.cat((zeros, here[..., None]), -1).flatten(1), ended), 1)
    symbol = torch.full_like(zeros, _ZEROS, dtype=torch.long)
    symbol = torch.cat((symbol, (run % RUNS * RUNS + size)[..., None]), -1).flatten(1)
    symbol = torch.cat((symbol, torch.full_like(symbol[:, :1], _END)), 1)[used]
    kind = torch.zeros_like(used, dtype=torch.long)  # 0 and 1: DC of luma, of chroma; 2 and 3: AC
    kind[:, 4:] = 2
    kind = (kind + table[:, None])[used]
    # The bits of sign and magnitude come after the level's symbol: of negative levels, those of the level less 1.
    bits = torch.zeros_like(zeros, dtype=torch.long)
    own = torch.where(blocks < 0, blocks - 1, blocks).long() & ((1 << size) - 1)
    bits = torch.cat((bits, own[..., None]), -1).flatten(1)
    count = torch.cat((torch.zeros_like(zeros, dtype=torch.long), size[..., None]), -1).flatten(1)
    none = torch.zeros_like(bits[:, :1])
    bits, count = torch.cat((bits, none), 1)[used], torch.cat((count, none), 1)[used]

    written = torch.bincount(kind * 256 + symbol, minlength=1024).reshape(4, 256).tolist()
    if codes == "standard":
        chosen = [_code(*given) for given in (*_DC, *_AC)]
    else:
        chosen = [_code(*_optimal(numbers)) for numbers in written]
    words = torch.tensor([code.words for code in chosen], device=blocks.device)[kind, symbol]
    lengths = torch.tensor([code.lengths for code in chosen], device=blocks.device)[kind, symbol]
    total = _size((words << count) | bits, lengths + count)
    return total, [Symbols(*_costs(chosen[number], chosen[2 + number])) for number in range(2)]


def _size(words: Tensor, lengths: Tensor) -> int:
    """Bits of a scan with these words one after the other: filled up with 1 to whole bytes, and a byte 0 after each 0xFF."""
    ends = lengths.cumsum(0)
    total = int(ends[-1])
    word = torch.repeat_interleave(lengths)
    place = ends[word] - 1 - torch.arange(total, device=words.device)  # of each bit in its word, from the right
    stream = (words[word] >> place) & 1
    stream = torch.cat((stream, stream.new_ones(-total % 8)))
    return len(stream) + 8 * int(stream.reshape(-1, 8).all(1).sum())


def _code(counts: tuple[int, ...], symbols: bytes) -> _Code:
    """From how many codes there are of each length, and their symbols in order; ITU-T T.81, C.2."""
    words, lengths = [0] * 256, [0] * 256
    word, place = 0, 0
    for length, count in enumerate(counts, 1):
        for symbol in symbols[place : place + count]:
            words[symbol], lengths[symbol] = word, length
            word += 1
        place, word = place + count, word << 1
    return _Code(words, lengths)


def _optimal(numbers: list[int]) -> tuple[tuple[int, ...], bytes]:
    """Lengths of codes that fit to numbers of 256 symbols, at most 16 bits, and none all 1; ITU-T T.81, K.2."""
    left = {symbol: count for symbol, count in enumerate([*numbers, 1]) if count}  # 256 takes the word that is all 1
    groups = {symbol: [symbol] for symbol in left}
    size = dict.fromkeys(left, 0)
    while len(left) > 1:
        # The two rarest; of equals the one with the largest symbol.
        first = min(left, key=lambda symbol: (left[symbol], -symbol))
        count = left.pop(first)
        second = min(left, key=lambda symbol: (left[symbol], -symbol))
        left[first] = count + left.pop(second)
        groups[first] += groups.pop(second)
        for symbol in groups[first]:
            size[symbol] += 1
    counts = [0] * 258
    for length in size.values():
        counts[length] += 1
    for length in range(257, _LONGEST, -1):
        while counts[length] > 0:
            shorter = length - 2
            while counts[shorter] == 0:
                shorter -= 1
            counts[length] -= 2
            counts[length - 1] += 1
            counts[shorter + 1] += 2
            counts[shorter] -= 1
    longest = max(length for length in range(_LONGEST + 1) if counts[length])
    counts[longest] -= 1
    symbols = sorted((symbol for symbol in size if symbol < 256), key=lambda symbol: (size[symbol], symbol))
    return tuple(counts[1 : _LONGEST + 1]), bytes(symbols)


def _costs(dc: _Code, ac: _Code) -> tuple[Tensor, Tensor]:
    """(SIZES,) and (RUNS, SIZES): lengths of the codes, the longest where there is none."""
    known = [[length or _LONGEST for length in code.lengths] for code in (dc, ac)]
    by_run = torch.tensor(known[1], device="cpu").reshape(RUNS, 16)
    by_size = torch.tensor(known[0][:SIZES], device="cpu")
    return by_size, torch.cat((by_run, torch.full((RUNS, SIZES - 16), _LONGEST, device="cpu")), 1)
