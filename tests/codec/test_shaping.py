import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from jpegdl import functional as F
from jpegdl.codec import Encoder, PhotoReader, Shape, choose, each_file, guide, open_photo
from jpegdl.codec import trials as trials_module
from jpegdl.codec.rounds import _to_coefficients
from jpegdl.codec.shaping import batches
from jpegdl.codec.trials import QUALITIES, Trials, blocks_seen, decoded, ladders, make_trials
from jpegdl.data import photograph
from jpegdl.errors import UsageError
from jpegdl.tables import standard_tables

PHOTO = Image.fromarray(photograph("chelsea")).convert("RGB")
PHOTOS = [PHOTO.resize((64, 48)), PHOTO.crop((100, 60, 150, 120)), PHOTO.resize((40, 40)).convert("L")]


def network(seed=0, classes=5):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 12, 5, 2),
        nn.ReLU(),
        nn.Conv2d(12, 24, 3, 2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, classes),
    )


def reader(seed=0, sharp=60.0, **options):
    model = network(seed)
    with torch.no_grad():
        model[-1].weight *= sharp  # answers that depend on details
    return PhotoReader(model, f"net {seed}", **{"size": 32, "resize": 36, "fast": False, **options})


def test_a_photo_s_file_keeps_what_came_with_it(tmp_path):
    exif, one = Image.Exif(), reader()
    exif[0x0112], exif[0x010E] = 6, "mine"
    PHOTOS[0].save(tmp_path / "turned.png", exif=exif)
    (file,), (again,) = choose([tmp_path / "turned.png"], one), choose([open_photo(tmp_path / "turned.png")], one)
    (by_name,) = choose([str(tmp_path / "turned.png")], one)
    assert file.content == again.content == by_name.content
    with Image.open(io.BytesIO(file.content)) as image:
        assert (image.size, dict(image.getexif())) == (PHOTOS[0].size, dict(exif))
    with pytest.raises(TypeError, match="several"):
        choose(str(tmp_path / "turned.png"), one)
    with pytest.raises(UsageError, match="none.png"):
        choose([tmp_path / "none.png"], one)


def test_bits_alone_or_answers_alone():
    one = reader()
    cheap = choose(PHOTOS, one, 1e6)
    assert [file.quality for file in cheap] == [min(QUALITIES)] * 3
    assert [file.quality for file in guide(PHOTOS, one, 1e6)] == [min(QUALITIES)] * 3
    assert [file.quality for file in choose(PHOTOS, one, 1e6, floor=37)] == [37] * 3
    free = choose(PHOTOS, one, 0.0, robust=False)
    assert all(file.distance <= other.distance for file, other in zip(free, cheap, strict=True))
    assert sum(file.bits_per_pixel for file in free) > sum(file.bits_per_pixel for file in cheap)


def test_what_is_said_of_a_file_is_true():
    one = reader()
    for photo, file in zip(PHOTOS, choose(PHOTOS, one, 0.05, robust=False), strict=True):
        pixels = torch.from_numpy(np.array(photo.convert("RGB"))).permute(2, 0, 1)
        with Image.open(io.BytesIO(file.content)) as image:
            assert (image.size, image.mode, image.format) == (photo.size, photo.mode, "JPEG")
        own, seen = (one.answers(one.view(part)[None]) for part in (pixels, decoded(file.content)))
        assert file.distance == pytest.approx(float(one.distance(own, seen)), abs=1e-5)
        assert file.kept == (int(own.argmax()) == int(seen.argmax()),)
        assert file.bits_per_pixel == 8 * len(file.content) / (photo.width * photo.height)


def test_the_least_of_distance_and_bits_is_taken():
    one, mu = reader(), 0.3
    files = {q: choose(PHOTOS[:1], one, 0.0, robust=False, qualities=(q,), floor=q)[0] for q in QUALITIES}
    wanted = min(QUALITIES, key=lambda q: files[q].distance + mu * files[q].bits_per_pixel)
    found = choose(PHOTOS[:1], one, mu, robust=False)[0]
    assert (found.quality, found.content) == (wanted, files[wanted].content)


def test_a_photo_that_is_seen_whole_has_libjpegs_own_file():
    one = reader(size=40, resize=40)
    file = choose([PHOTOS[2].convert("RGB")], one, 0.0, qualities=(50,), floor=50)[0]
    theirs = Encoder(*standard_tables(50), None, "4:2:0").encode(PHOTOS[2].convert("RGB"))
    assert np.array_equal(decoded(file.content), decoded(theirs))
    for colour in ("black", "white", "blue"):
        flat = Image.new("RGB", (40, 40), colour)
        file = choose([flat], one, 0.0, qualities=(100,), floor=100)[0]
        assert np.array_equal(decoded(file.content), decoded(Encoder(*standard_tables(100), None, "4:2:0").encode(flat)))


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
def test_what_no_reader_sees_gets_the_floor_and_what_it_sees_does_not_change(subsampling):
    photo = PHOTO.resize((160, 64))
    one = reader(size=32, resize=64)
    trials = make_trials(photo, [one], Shape(qualities=(95,), floor=20, subsampling=subsampling))
    assert [tables.quality for tables in trials.tables] == [20, 95]
    content = trials.files[1]
    plain = Encoder(*standard_tables(95), None, subsampling).encode(photo)
    assert len(content) < 0.6 * len(plain)
    pixels = [decoded(content), decoded(plain)]
    assert torch.equal(*(one.view(part) for part in pixels))
    assert not torch.equal(*pixels)
    coarse = decoded(Encoder(*standard_tables(20), None, subsampling).encode(photo))
    stored = torch.from_numpy(np.array(photo)).permute(2, 0, 1).float()
    edge = slice(0, 24)
    error, floor = ((part.float() - stored)[..., edge].square().mean() for part in (pixels[0], coarse))
    assert 0.5 < float(error / floor) < 2


def test_blocks_that_are_seen():
    one = reader(size=32, resize=64)
    planes = [np.zeros((8, 20, 8, 8)), np.zeros((4, 10, 8, 8)), np.zeros((4, 10, 8, 8))]
    seen = blocks_seen([one], (160, 64), planes, "4:2:0")
    assert [part.shape for part in seen] == [(8, 20), (4, 10), (4, 10)]
    assert seen[0][2:6, 8:12].all()  # 32 of 64 rows, columns 64 to 96
    assert not seen[0][0].any()
    assert not seen[0][:, :7].any()


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("grey", [False, True])
def test_the_gradient_to_coefficients_is_that_of_the_decoder(subsampling, grey):
    torch.manual_seed(0)
    height, width = 21, 35
    pixels = (torch.rand(1, 1 if grey else 3, height, width) * 255).to(torch.uint8)
    planes = [part[0].numpy().astype(np.float32) / 8 for part in F.encode_coefficients(pixels, subsampling)]
    gradient = torch.randn(3, height, width)
    found = _to_coefficients(gradient, planes, subsampling)
    for number, place in ((0, (1, 2, 3, 1)), *(() if grey else ((1, (0, 1, 0, 2)), (2, (1, 1, 2, 0))))):
        moved = [torch.from_numpy(plane.copy()) for plane in planes]
        moved[number][place] += 8
        images = []
        for parts in ([torch.from_numpy(plane) for plane in planes], moved):
            chroma = None if grey else torch.stack(parts[1:])[None]
            images.append(F.planes_to_images(parts[0][None, None], chroma, (height, width), subsampling)[0].expand(3, -1, -1))
        change = float(((images[1] - images[0]) * gradient).sum())
        assert change == pytest.approx(8 * float(found[number][place]), rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("robust", [False, True])
def test_rounds_bring_answers_back(robust):
    one, mu = reader(), 0.05
    plain = choose(PHOTOS, one, mu, robust=robust)
    moved = guide(PHOTOS, one, mu, robust=robust)
    cost = [[file.distance + mu * file.bits_per_pixel for file in files] for files in (plain, moved)]
    assert any(file.rounds for file in moved)
    if not robust:  # what is compared there is more than the distance
        assert all(after <= before + 1e-9 for before, after in zip(*cost, strict=True))
    assert sum(cost[1]) < sum(cost[0])
    for photo, file in zip(PHOTOS, moved, strict=True):
        pixels = torch.from_numpy(np.array(photo.convert("RGB"))).permute(2, 0, 1)
        own, seen = (one.answers(one.view(part)[None]) for part in (pixels, decoded(file.content)))
        assert file.distance == pytest.approx(float(one.distance(own, seen)), abs=1e-4)


def test_several_readers_mean_and_worst():
    readers = [reader(0), reader(1)]
    for several, number in (("mean", np.mean), ("worst", np.max)):
        for file in choose(PHOTOS, readers, 0.1, several=several):
            assert file.distance == pytest.approx(number(file.distances))
            assert len(file.kept) == 2


def test_a_photo_that_is_easy_for_its_reader_need_not_be_so_for_others():
    tables = ladders(Shape())[0]
    assert [each.quality for each in tables] == list(QUALITIES)
    count = len(tables)
    nothing = np.zeros((1, count))
    trials = Trials(
        (100, 100), [], [b""] * count, tables, [0] * count, nothing, nothing > 1, [1000 + 10 * q for q in QUALITIES]
    )
    assert np.allclose(trials.judged(Shape()), [[1 / q for q in QUALITIES]])
    assert trials.best(Shape(robust=False), 0.1) == 0
    # 1 / q + mu x 0.008 q: least where q is the root of 1 / (0.008 mu).
    assert [QUALITIES[trials.best(Shape(), 1 / (0.008 * q * q))] for q in QUALITIES] == list(QUALITIES)
    assert not trials.distances.any()  # what is said of files is what was found
    trials.features = True  # whose distances are in no unit that others' losses have
    assert not trials.judged(Shape()).any()


def test_parts_that_no_reader_sees_do_for_others():
    photo, one = PHOTO.resize((160, 64)), reader(size=32, resize=64)
    for shape, unseen in ((Shape(), 10), (Shape(robust=False), min(QUALITIES)), (Shape(floor=30), 30)):
        trials, plain = (make_trials(photo, [one], each) for each in (shape, Shape(qualities=(unseen,), floor=unseen)))
        edges = [decoded(each.files[place])[..., :24].float() for each, place in ((trials, -1), (plain, 0))]
        assert (edges[0] - edges[1]).abs().mean() < 1  # of quality 90, on another grid


def test_an_iterator_takes_no_more_than_it_needs():
    taken = []

    def photos():
        for number in range(200):
            taken.append(number)
            yield PHOTOS[0]

    files = each_file(photos(), reader(), Shape(qualities=(50,)))
    next(files)
    assert len(taken) < 200
    files.close()
    assert [len(batch) for batch in batches([PHOTOS[0]] * 40)] == [32, 8]
    assert list(each_file([], reader())) == []


def cut_off():
    """A file that is open, and half of which is missing."""
    stream = io.BytesIO()
    PHOTOS[0].save(stream, "png")
    return Image.open(io.BytesIO(stream.getvalue()[: len(stream.getvalue()) // 2]))


def test_arrays_and_tensors_are_photos_too():
    one, array = reader(), np.array(PHOTOS[0])
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    files = choose([PHOTOS[0], array, tensor, tensor / 255], one, 0.1)
    assert len({file.content for file in files}) == 1
    for bad, error in (
        (tensor / 255 * 2, ValueError),
        (tensor.int(), TypeError),
        (array[..., :2], ValueError),
        (tensor[:, :0] / 255, ValueError),
        (cut_off(), ValueError),
        ("no such file", UsageError),
        (b"a", TypeError),
    ):
        with pytest.raises(error):
            choose([bad], one)
    with pytest.raises(ValueError, match="finite"):
        choose([tensor / 255 * float("nan")], one)
    for single in (PHOTOS[0], array, tensor):  # whose rows are no photos
        with pytest.raises(TypeError, match="several"):
            choose(single, one)


def test_images_of_any_mode_are_stored_as_compress_stores_them():
    one, grey = reader(), PHOTOS[0].convert("L")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)  # which Pillow alone would clip to white
    assert len({file.content for file in choose([grey, deep], one, 0.1)}) == 1
    clear = PHOTOS[0].convert("RGBA")
    assert choose([clear], one, 0.1)[0].content == choose([PHOTOS[0]], one, 0.1)[0].content
    clear.putalpha(128)
    for bad, named in ((clear, "transparent"), (grey.convert("F"), "range"), (Image.new("RGB", (0, 4)), "pixels")):
        with pytest.raises(ValueError, match=named):
            choose([bad], one)


def test_what_is_no_reader_is_refused():
    for bad in (torch.nn.Identity(), [torch.nn.Identity()], 3):
        with pytest.raises(UsageError, match="PhotoReader"):
            choose(PHOTOS, bad)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"mu": -1.0}, "mu"),
        ({"mu": float("nan")}, "mu"),
        ({"floor": 0}, "floor"),
        ({"qualities": ()}, "qualities"),
        ({"several": "best"}, "several"),
        ({"rounds": 0}, "rounds"),
        ({"subsampling": "4:1:1"}, "subsampling"),
        ({"learned": standard_tables(50)}, "learned"),  # which count for nothing at effort 1
        ({"effort": 2, "learned": (torch.ones(8, 8), -torch.ones(8, 8))}, "learned chroma"),
        ({"effort": 2, "rounds": 8}, "rounds"),
    ],
)
def test_settings_that_cannot_be(settings, named):
    with pytest.raises(UsageError, match=named):
        list(each_file(PHOTOS, reader(), Shape(**settings)))


def test_learned_tables_are_one_more_kind():
    luma, chroma = standard_tables(50)
    found = ladders(Shape(effort=2, learned=(luma * 0.9, chroma * 0.5)))
    assert [ladder[0].kind for ladder in found] == ["standard", "finer chroma", "learned"]
    learned = found[2]
    qualities = [tables.quality for tables in learned]
    assert qualities == sorted(set(qualities))
    assert qualities[0] >= min(QUALITIES)
    assert any(torch.equal(tables.luma, (luma * 0.9).round()) for tables in learned)
    assert len(ladders(Shape(learned=(luma, chroma)))) == 1
    # Tables by which nothing is lost that this reader looks for win over those by which much is.
    photo = PHOTOS[2].convert("RGB")
    files = choose([photo], reader(), 0.0, effort=2, robust=False, qualities=(6,), learned=(torch.ones(8, 8), torch.ones(8, 8)))
    assert files[0].kind == "learned"


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_a_photo_of_several_strips_is_one(monkeypatch, subsampling):
    photo = PHOTO.crop((0, 0, 45, 145))
    one = reader()
    with ThreadPoolExecutor(2) as pool:
        monkeypatch.setattr(trials_module, "_LARGE", 0)
        aside = make_trials(photo, [one], Shape(subsampling=subsampling), pool=pool)
    monkeypatch.setattr(trials_module, "_STRIP", 4096)
    whole = make_trials(photo, [one], Shape(subsampling=subsampling))
    assert aside.files == whole.files
    assert torch.equal(aside.views[0], whole.views[0])
