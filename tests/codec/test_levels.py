import io
import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from jpegdl import functional as F
from jpegdl.codec import Encoder
from jpegdl.codec.encoder import segments
from jpegdl.codec.levels import _LONGEST, _ZZ, _fit, cheap_levels, file_of_levels, fitted_codes
from jpegdl.codec.read_back import header_bytes
from jpegdl.data import photograph
from jpegdl.functional import scan
from jpegdl.tables import standard_tables

PHOTO = Image.fromarray(photograph("chelsea")).convert("RGB").resize((96, 80))


def levels_and_tables(image, quality, subsampling):
    pixels = torch.from_numpy(np.array(image))
    pixels = pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)
    tables = standard_tables(quality)
    levels = [part[0].numpy() for part in F.encode_levels(pixels[None], *tables, subsampling)]
    return levels, [[int(entry) for entry in table.flatten()] for table in tables][: len(image.getbands())]


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0", "4:2:2"])
@pytest.mark.parametrize("size", [(96, 80), (33, 17), (9, 40), (1, 1)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_file_of_libjpegs_levels_is_libjpegs_file(size, subsampling, mode):
    image = PHOTO.crop((0, 0, *size)).convert(mode)
    for quality in (5, 60, 100):
        levels, tables = levels_and_tables(image, quality, subsampling)
        own = file_of_levels(levels, tables, image.size, subsampling)
        theirs = Encoder(*standard_tables(quality), None, subsampling).encode(image)
        with Image.open(io.BytesIO(own)) as a, Image.open(io.BytesIO(theirs)) as b:
            assert (a.size, a.mode, a.quantization) == (b.size, b.mode, b.quantization)
            assert np.array_equal(np.array(a), np.array(b))
        assert own[header_bytes(own) :] == theirs[header_bytes(theirs) :]  # the very bytes of the scan
        planes = tuple(torch.from_numpy(plane)[None] for plane in levels)
        bits = int(F.scan_bits(planes, subsampling, "optimal"))
        assert 8 * (len(own) - header_bytes(own) - 2) == bits


def test_codes_are_those_of_the_readable_path():
    """Also where Huffman's own would be far longer than 16 bits, and must be made shorter."""
    draw, longest = np.random.default_rng(0), []
    for case in range(12):
        count = int(draw.integers(1, 257))
        kinds = draw.integers(1, 4, count), np.exp(draw.uniform(0, 20, count)), 2.0 ** np.minimum(np.arange(count), 40)
        numbers = np.zeros(256, np.int64)
        numbers[draw.permutation(256)[:count]] = kinds[case % 3]
        words, lengths, counts, symbols = (np.zeros(width, np.int64) for width in (256, 256, _LONGEST + 1, 256))
        _fit(numbers, words, lengths, counts, symbols)
        expected = scan._optimal(numbers.tolist())
        assert (tuple(counts[1:]), bytes(symbols[:count].tolist())) == expected
        assert (words.tolist(), lengths.tolist()) == scan._code(*expected)
        longest.append(int(lengths.max()))
    assert min(longest) < max(longest) == _LONGEST


def test_segments_are_kept():
    levels, tables = levels_and_tables(PHOTO, 50, "4:2:0")
    exif = Image.Exif()
    exif[274] = 6
    content = file_of_levels(levels, tables, PHOTO.size, "4:2:0", segments(exif.tobytes(), b"profile" * 20_000))
    with Image.open(io.BytesIO(content)) as image:
        assert image.getexif()[274] == 6
        assert image.info["icc_profile"] == b"profile" * 20_000


def test_levels_that_no_file_holds_are_refused():
    levels, tables = levels_and_tables(PHOTO, 50, "4:4:4")
    levels[1][0, 0, 3, 3] = 1024
    with pytest.raises(ValueError, match="1024"):
        file_of_levels(levels, tables, PHOTO.size, "4:4:4")


def test_the_cheapest_levels_of_a_block_by_trying_all():
    rho = 0.3
    z = np.zeros((1, 1, 64))
    places, values = [1, 2, 9, 30, 31, 62], [2.6, -0.8, 1.4, 0.6, -0.55, 0.9]  # in zigzag order
    z[0, 0, _ZZ[places]] = values
    z[0, 0, 0], z[0, 0, _ZZ[50]] = 7.3, 0.3
    nearest = np.rint(z).astype(np.int32)
    lengths = fitted_codes(nearest[0][:, _ZZ], np.zeros(1, np.bool_)).lengths[2]
    lengths = np.where(lengths == 0, 16, lengths)

    def cost(levels):
        bits, last = 0, 0
        for place, level in zip(places, levels, strict=True):
            if level:
                run, size = place - last - 1, int(abs(level)).bit_length()
                bits += (run >> 4) * lengths[0xF0] + lengths[(run & 15) << 4 | size] + size
                last = place
        bits += lengths[0] if last < 63 else 0
        return sum((value - level) ** 2 for value, level in zip(values, levels, strict=True)) + rho * bits

    choices = [{0, int(np.rint(v)), int(np.rint(v) - np.sign(v)) if abs(np.rint(v)) > 1 else 0} for v in values]
    best = min(itertools.product(*choices), key=cost)
    found = cheap_levels([z.reshape(1, 1, 8, 8)], rho)[0].reshape(64)
    assert tuple(found[_ZZ[places]]) == best
    assert found[0] == 7
    assert np.count_nonzero(found) == 1 + np.count_nonzero(best)
    assert best != tuple(np.rint(values).astype(int))  # or this would test nothing


def test_levels_that_cost_nothing_are_the_nearest():
    levels, tables = levels_and_tables(PHOTO, 50, "4:2:0")
    steps = [np.array(tables[min(i, 1)]).reshape(8, 8) for i in range(3)]
    pixels = torch.from_numpy(np.array(PHOTO)).permute(2, 0, 1)[None]
    z = [part[0].numpy() / 8 / step for part, step in zip(F.encode_coefficients(pixels), steps, strict=True)]
    for own, theirs in zip(cheap_levels(z, 0), levels, strict=True):
        assert (own != theirs).mean() < 0.01  # halves alone round another way
    smaller = file_of_levels(cheap_levels(z, 0.05), tables, PHOTO.size, "4:2:0")
    assert len(smaller) < 0.97 * len(file_of_levels(levels, tables, PHOTO.size, "4:2:0"))
