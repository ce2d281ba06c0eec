import io
import math

import numpy as np
import pytest
import torch
from PIL import Image, JpegImagePlugin
from test_reader_stage import CODE
from test_shaping import PHOTO, cut_off, reader

from commands import one_error, run_command
from factory import code_module
from jpegdl import functional as F
from jpegdl.codec import Encoder, FileCost, open_reader, search_folder, search_tables
from jpegdl.codec.read_image import DecodedImage, open_photo
from jpegdl.codec.table_search import band_search
from jpegdl.errors import UsageError
from jpegdl.tables import read_tables, standard_tables, tables_by_component

PHOTOS = [PHOTO.crop((x, 60, x + 40, 108)) for x in (60, 120, 180)] + [PHOTO.resize((40, 40)).convert("L")]


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
def test_a_cost_is_that_of_real_files(subsampling):
    readers, tables = [reader(0), reader(1)], standard_tables(20)
    cost, distance, rate = FileCost(PHOTOS, readers, 0.7, subsampling)(*tables)
    sizes, distances = [], []
    for photo in PHOTOS:
        content = Encoder(*tables, None, subsampling).encode(photo)
        sizes.append(8 * len(content) / (photo.width * photo.height))
        with Image.open(io.BytesIO(content)) as file:
            pair = [torch.from_numpy(np.array(one.convert("RGB"))).permute(2, 0, 1) for one in (photo, file)]
        for one in readers:
            own, said = (one.answers((one.view(pixels) * 255).round()[None] / 255) for pixels in pair)
            distances.append(float(one.distance(own, said)))
    assert rate == pytest.approx(np.mean(sizes))
    assert distance == pytest.approx(np.mean(distances), rel=1e-4)
    assert cost == pytest.approx(distance + 0.7 * rate)


def test_tables_cost_less_than_the_best_standard_ones_and_are_what_is_said():
    one, mu = reader(), 0.3
    found = search_tables(PHOTOS, one, mu)
    cost = FileCost(PHOTOS, [one], mu)
    assert found.standard_cost == cost(*standard_tables(found.quality))[0]
    assert found.standard_cost <= min(cost(*standard_tables(quality))[0] for quality in (10, 50, 90))
    assert found.cost < found.standard_cost
    assert (found.cost, found.distance, found.bits_per_pixel) == cost(found.luma, found.chroma)
    for table in (found.luma, found.chroma):
        assert table.shape == (8, 8)
        assert bool(((table == table.round()) & (table >= 1) & (table <= 255)).all())


@pytest.mark.parametrize("tries", [1, 5])
def test_no_more_pairs_are_tried_than_asked_for_and_progress_counts_their_files(tries):
    told = []
    photos = PHOTOS[:2] * 20  # more than go through a reader at once
    search_tables(photos, reader(), 0.3, tries=tries, progress=lambda *said: told.append(said))
    standard = FileCost(photos, [reader()], 0.3)
    standard.quality()
    assert told[-1][:2] == ("files", (len(standard.tried) + tries) * len(photos))
    assert [done for _, done, _ in told[:3]] == [32, 40, 72]
    assert told[-1][1] <= told[-1][2]


def test_a_band_alone_that_the_reader_wants_is_found():
    """Of a cost that is known: the tables of least cost have coarser DC of luma and finer high frequencies of chroma."""
    start, zigzag = standard_tables(50), [F.ZIGZAG.index(place) for place in range(64)]
    wanted = [table.flatten().clone() for table in start]
    wanted[0][0] *= 1.4**2
    wanted[1][[place >= 36 for place in zigzag]] /= 1.4 * 1.2

    class Known(FileCost):
        def __init__(self):
            self.tried = {}

        def __call__(self, luma, chroma):
            off = [(found.flatten() / there).log().square().sum() for found, there in zip((luma, chroma), wanted, strict=True)]
            cost = float(sum(off))
            self.tried[luma.numpy().tobytes() + chroma.numpy().tobytes()] = (cost, cost, 0.0)
            return cost, cost, 0.0

    for found, there, first in zip(band_search(Known(), start, 200), wanted, start, strict=True):
        assert float((found.flatten() / there).log().abs().max()) < 0.5 * math.log(1.2)  # no nearer one can be had
        assert torch.equal(found.flatten() == first.flatten(), there == first.flatten())


def test_a_pair_is_tried_once():
    seen = []
    cost = FileCost(PHOTOS[:1], [reader()], 1.0, looked=seen.append)
    luma, chroma = standard_tables(30)
    assert cost(luma, chroma) == cost(luma + 0.3, chroma - 0.3)
    assert seen == [1]


def test_files_are_opened_for_each_try_and_give_the_same(tmp_path):
    files = [tmp_path / f"{number}.png" for number in range(len(PHOTOS))]
    for photo, file in zip(PHOTOS, files, strict=True):
        photo.save(file)
    tables = standard_tables(20)
    assert FileCost(files, [reader()], 0.3)(*tables) == FileCost(PHOTOS, [reader()], 0.3)(*tables)
    (tmp_path / "notes.txt").write_text("no image", encoding="utf-8")
    with pytest.raises(UsageError, match="notes"):
        search_tables([*files, tmp_path / "notes.txt"], reader(), 0.3)


def test_the_original_is_seen_to_the_last_level():
    one = reader()
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)[0]
    photo = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    ((own,),) = FileCost([photo], [one], 1.0).own([0])
    torch.testing.assert_close(own, one.answers((one.view(pixels) * 255).round()[None] / 255)[0], rtol=0, atol=0)


def test_bits_alone_take_the_coarsest_tables():
    assert search_tables(PHOTOS[:1], reader(), 1e6, tries=1).quality == 6


def test_a_photo_is_seen_as_its_camera_held_it():
    turned = DecodedImage(PHOTOS[0], b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\x01\3\0\1\0\0\0\6\0\0\0\0\0\0\0", None)
    assert turned.note == 6
    one = reader(orientation="follow")
    upright = PHOTOS[0].transpose(Image.Transpose.ROTATE_270)
    (said,), (wanted,) = (FileCost([photo], [one], 1.0).own([0])[0] for photo in (turned, upright))
    torch.testing.assert_close(said, wanted)


@pytest.mark.parametrize(
    ("photos", "settings", "named"),
    [
        ([], {}, "photos"),
        (PHOTOS, {"mu": -1.0}, "mu"),
        (PHOTOS, {"mu": float("nan")}, "mu"),
        (PHOTOS, {"subsampling": "4:1:1"}, "subsampling"),
        (PHOTOS, {"tries": 0}, "tries"),
    ],
)
def test_what_cannot_be_is_named(photos, settings, named):
    with pytest.raises(UsageError, match=named):
        search_tables(photos, reader(), **settings)


def test_one_photo_is_not_several():
    for single in (PHOTOS[0], np.array(PHOTOS[0]), "photo.png"):  # an array's rows would be grey photos
        with pytest.raises(TypeError, match="several"):
            search_tables(single, reader())
    with pytest.raises(ValueError, match="truncated"):
        search_tables([cut_off()], reader())


@pytest.fixture
def network(tmp_path, monkeypatch):
    return f"{code_module(tmp_path, monkeypatch, 'table_readers', CODE)}:one"


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "photos"
    for number, photo in enumerate(PHOTOS):
        (folder / f"{number % 2}").mkdir(parents=True, exist_ok=True)
        photo.save(folder / f"{number % 2}" / f"{number}.png")
    return folder


def test_the_command_writes_tables_that_files_are_made_with(folder, network, tmp_path, capsys):
    (folder / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    options = [
        "--photos",
        str(folder),
        "--mu",
        "0.3",
        "--device",
        "cpu",
        "--save",
        str(tmp_path / "tables.json"),
        "--tries",
        "4",
    ]
    status, out, _ = run_command(capsys, "calibrate", "--reader", network, *options)
    assert status == 0
    assert "bad.png" in out
    there = search_folder(str(folder), network, 0.3, tries=4, device="cpu")
    assert (there.images, there.total, len(there.bad)) == (4, 5, 1)
    assert all(map(torch.equal, read_tables(tmp_path / "tables.json"), (there.found.luma, there.found.chroma)))
    (folder / "bad.png").unlink()
    one = open_reader(network)
    photos = [open_photo(file) for file in (folder / "0" / "0.png", folder / "0" / "2.png", *sorted((folder / "1").iterdir()))]
    alone = search_tables(photos, one, 0.3, tries=4)
    assert torch.equal(alone.luma, there.found.luma)

    status, _, _ = run_command(
        capsys, "compress", str(folder), str(tmp_path / "out"), "--tables", str(tmp_path / "tables.json")
    )
    assert status == 0
    with Image.open(tmp_path / "out" / "0" / "0.jpg") as file:
        assert JpegImagePlugin.get_sampling(file) == 2  # 4:2:0, as they were found for
        assert tables_by_component(file)[0] == there.found.luma.int().flatten().tolist()


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["--reader", "NETWORK"], "--photos"),
        (["--photos", "FOLDER"], "--reader"),
        (["--reader", "NETWORK", "--photos", "none"], "none"),
        (["--reader", "no_such_network", "--photos", "FOLDER"], "no_such_network"),
        (["--reader", "NETWORK", "--photos", "FOLDER", "--method", "magnitude"], "--method"),
        (["--reader", "NETWORK", "--photos", "FOLDER", "--seed", "3"], "--seed counts for nothing"),
        (["--reader", "NETWORK", "--photos", "FOLDER", "--layer.alpha", "3", "--seed", "1"], "--layer.alpha, --seed count"),
        (["--tries", "7", "--layer.images", "8"], "--tries counts for nothing"),
        (["--reader", "NETWORK", "--photos", "FOLDER", "--mu", "-1"], "mu"),
        (["--reader", "NETWORK", "--photos", "FOLDER", "--images", "0"], "images"),
        (["--reader", "NETWORK", "--photos", "FOLDER", "--tries", "0"], "tries"),
        (["--reader", "NETWORK", "--photos", "FOLDER", "--images-seed", "-1"], "seed"),
        (["--reader", "NETWORK", "--photos", "FOLDER", "--save", "nowhere/tables.json"], "nowhere"),
        (["--reader", "NETWORK", "--photos", "FOLDER", "--save", "."], "is a folder"),
        (["--reader", "NETWORK", "--photos", "FOLDER", "--save", "tables.jpg"], "read as a JPEG image"),
        (["--save", "tables.txt"], "whole numbers"),
        (["--reader", "table_readers:broken", "--photos", "FOLDER"], "finite"),
    ],
)
def test_a_mistake_gets_one_line(folder, network, tmp_path, capsys, monkeypatch, given, named):
    monkeypatch.chdir(tmp_path)
    arguments = [{"NETWORK": network, "FOLDER": str(folder)}.get(word, word) for word in given]
    assert named in one_error(capsys, "calibrate", *arguments, "--device", "cpu")
    assert not (tmp_path / "tables.json").exists()
