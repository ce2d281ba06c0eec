import io
import json
import math

import pytest
import torch
from PIL import Image

from jpegdl.errors import UsageError
from jpegdl.tables import from_zigzag, meant_for, read_tables, standard_tables, to_zigzag, write_tables


@pytest.mark.parametrize("quality", [1, 10, 25, 49, 50, 51, 75, 90, 95, 100])
def test_standard_tables_are_libjpegs(quality):
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "jpeg", quality=quality)
    theirs = Image.open(stream).quantization
    for index, table in enumerate(standard_tables(quality)):
        assert table.dtype == torch.float32
        assert table.flatten().tolist() == theirs[index]


@pytest.mark.parametrize("quality", [0, 101, 75.0, True, "75"])
def test_other_qualities_are_refused(quality):
    with pytest.raises(UsageError, match="from 1 to 100"):
        standard_tables(quality)


def test_zigzag():
    # The first positions of ITU-T T.81, figure A.6, and the last.
    order = to_zigzag(torch.arange(64).view(8, 8)).tolist()
    assert order[:10] == [0, 1, 8, 16, 9, 2, 3, 10, 17, 24]
    assert order[-4:] == [47, 55, 62, 63]
    tables = torch.randn(3, 8, 8)
    assert torch.equal(from_zigzag(to_zigzag(tables)), tables)
    with pytest.raises(UsageError, match="8, 8"):
        to_zigzag(torch.zeros(64))
    with pytest.raises(UsageError, match="64"):
        from_zigzag(torch.zeros(8, 8))


def test_json_keeps_every_bit(tmp_path):
    luma, chroma = torch.rand(8, 8) + 1e-5, torch.rand(8, 8) * 200 + 1
    write_tables(tmp_path / "deep" / "tables.json", {"luma": luma, "chroma": chroma})
    for written, read in zip((luma, chroma), read_tables(tmp_path / "deep" / "tables.json"), strict=True):
        assert torch.equal(written, read)
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["tables.json"]


def test_tables_of_a_jpeg_file(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg", quality=60)
    for ours, theirs in zip(standard_tables(60), read_tables(tmp_path / "a.jpg"), strict=True):
        assert torch.equal(ours, theirs)
    Image.new("L", (8, 8)).save(tmp_path / "grey.jpeg", quality=60)
    luma, chroma = read_tables(tmp_path / "grey.jpeg")
    assert torch.equal(luma, chroma)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", None, "no table file"),
        ("a.json", "{", "holds no tables"),
        ("a.json", json.dumps({"luma": [[1.0] * 8] * 8}), "holds no tables"),
        ("a.json", json.dumps({"luma": [[1.0] * 8] * 8, "chroma": 3}), r"chroma in .*\(8, 8\)"),
        ("a.json", json.dumps({"luma": [[0.0] * 8] * 8, "chroma": [[1.0] * 8] * 8}), "luma in .*greater than 0"),
        ("a.jpg", "no image", "a.jpg cannot be read as a JPEG"),
    ],
)
def test_bad_files_are_named(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match=message):
        read_tables(tmp_path / name)


def test_a_file_says_what_its_tables_are(tmp_path):
    file, tables = tmp_path / "a.json", {"luma": torch.full((8, 8), 2.0), "chroma": torch.full((8, 8), 3.0)}
    write_tables(file, tables, bits=8, window=5, subsampling="4:2:0")
    content = json.loads(file.read_text(encoding="utf-8"))
    assert content.pop("tables") == {name: table.tolist() for name, table in tables.items()}
    assert content == {"kind": "steps", "bits": 8, "window": 5, "subsampling": "4:2:0"}
    assert (read_tables(file)[0] == 2).all()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("gains", r"kind 'gains' \(factors of the coefficients\); only tables of kind 'steps' can be read"),
        ("scales", r"kind 'scales' \(scales of a compander\); only"),
        ("weights", "kind 'weights'; only tables of kind 'steps' can be read"),
        ("", "kind ''; only"),
    ],
)
def test_only_steps_are_read_as_steps(tmp_path, kind, message):
    tables, file = {"luma": [[1.0] * 8] * 8, "chroma": [[1.0] * 8] * 8}, tmp_path / "a.json"
    for content in (
        {"kind": kind, "tables": tables},
        {"kind": kind, "before": tables, "after": tables},
        {"kind": kind, **tables},
    ):
        file.write_text(json.dumps(content), encoding="utf-8")
        with pytest.raises(UsageError, match=message):
            read_tables(file)


def test_other_kinds_are_not_written(tmp_path):
    with pytest.raises(UsageError, match="kind.*'weights'"):
        write_tables(tmp_path / "a.json", {}, kind="weights")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("wrapping", [lambda tables: tables, lambda tables: {"before": {}, "after": tables}])
def test_files_that_do_not_say_what_they_hold_are_read(tmp_path, wrapping):
    (tmp_path / "a.json").write_text(json.dumps(wrapping({"luma": [[2] * 8] * 8, "chroma": [[0.5] * 8] * 8})), encoding="utf-8")
    luma, chroma = read_tables(tmp_path / "a.json")
    assert luma.dtype == chroma.dtype == torch.float32
    assert (luma == 2).all()
    assert (chroma == 0.5).all()


@pytest.mark.parametrize("content", ["3", "[]", '{"after": 3}', '{"tables": [1, 2]}', "null", '"luma"', '{"tables": {}}'])
def test_json_of_another_shape_is_refused(tmp_path, content):
    (tmp_path / "a.json").write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match=r"a.json holds no tables"):
        read_tables(tmp_path / "a.json")


def _jpeg(folder, *tables, image="RGB", **options):
    file = folder / "a.jpg"
    Image.new(image, (16, 16)).save(file, qtables=[[entry] * 64 for entry in tables], **options)
    return file


def _patched(file, marker, place, values):
    """The file with some bytes of a segment changed, counted from the byte after its marker."""
    content = bytearray(file.read_bytes())
    start = content.index(bytes([0xFF, marker])) + 2 + place
    content[start : start + len(values)] = bytes(values)
    file.write_bytes(content)
    return file


def _entries(file):
    return [table.unique().tolist() for table in read_tables(file)]


def test_tables_of_a_jpeg_file_go_by_component(tmp_path):
    """The header of a frame names the table of each component, which are stored in any order (T.81, B.2.2)."""
    file = _jpeg(tmp_path, 3, 40)
    assert _entries(file) == [[3], [40]]
    names = [8, 11, 14]  # where SOF0 has them: length 2, precision 1, sides 4, count 1, then id, sampling and table of each
    for place, name in zip(names, (1, 0, 0), strict=True):
        _patched(file, 0xC0, place + 2, [name])
    assert _entries(file) == [[40], [3]]
    assert _entries(_jpeg(tmp_path, 5)) == [[5], [5]]
    assert _entries(_jpeg(tmp_path, 5, 6, 6)) == [[5], [6]]
    assert _entries(_jpeg(tmp_path, 300, 400)) == [[300], [400]]
    assert _entries(_jpeg(tmp_path, 7, 8, image="L")) == [[7], [7]]
    assert _entries(_jpeg(tmp_path, 7, 8, progressive=True)) == [[7], [8]]
    ycck = _patched(_jpeg(tmp_path, 9, 10, image="CMYK"), 0xEE, 13, [2])  # Adobe's marker says how colours are stored
    for place, name in ((10, 0), (13, 1), (16, 1), (19, 0)):
        _patched(ycck, 0xC0, place, [name])
    assert _entries(ycck) == [[9], [10]]


def test_jpeg_files_whose_tables_are_not_of_luma_and_chroma(tmp_path):
    with pytest.raises(UsageError, match="different tables for Cb and Cr"):
        read_tables(_jpeg(tmp_path, 5, 6, 7))
    with pytest.raises(UsageError, match="a.jpg: it holds RGB as it is"):
        read_tables(_jpeg(tmp_path, 5, 6, keep_rgb=True))
    with pytest.raises(UsageError, match="a.jpg: it holds CMYK as it is"):
        read_tables(_jpeg(tmp_path, 5, 6, image="CMYK"))
    with pytest.raises(UsageError, match="it uses table 3, but does not define it"):
        read_tables(_patched(_jpeg(tmp_path, 5, 6), 0xC0, 13, [3]))


@pytest.mark.parametrize(("name", "message"), [("a.json", "finite and greater than 0"), ("a.txt", "integers from 1")])
@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_steps_that_are_none_are_not_written(tmp_path, name, message, bad):
    table = torch.ones(8, 8)
    table[3, 4] = bad
    with pytest.raises(UsageError, match=message):
        write_tables(tmp_path / name, {"luma": torch.ones(8, 8), "chroma": table})
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("step", [1e5, 1e-6, 65536.0, 9e-6])
def test_steps_that_no_jpeg_file_holds_are_not_written(tmp_path, step):
    table = torch.ones(8, 8)
    table[3, 4] = step
    message = rf"chroma has a step of {step:g}; steps must be from 1e-05 \(which a JPEG file rounds to 1\) to 65535"
    with pytest.raises(UsageError, match=message):
        write_tables(tmp_path / "a.json", {"luma": torch.ones(8, 8), "chroma": table})
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int32])
def test_what_is_written_is_read_back(tmp_path, dtype):
    table = torch.tensor([[1e-5, 65535.0, 0.3, 255.0, 1.0, 7.0, 99.5, 2.0]] * 8).clamp(
        max=32768 if dtype == torch.float16 else 65535
    )
    table = table.clamp(min=1 if dtype == torch.int32 else 1e-5, max=32768 if dtype == torch.bfloat16 else 65535).to(dtype)
    write_tables(tmp_path / "a.json", {"luma": table, "chroma": 1 + table / 2 if dtype.is_floating_point else table})
    assert torch.equal(read_tables(tmp_path / "a.json")[0], table.float())


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"luma": torch.ones(8, 8)}, "tables must hold luma and chroma, but chroma is missing"),
        ({"luma": torch.ones(8, 8), "chroma": torch.ones(2, 8, 8)}, r"chroma must be of shape \(8, 8\), got \(2, 8, 8\)"),
        ({"luma": torch.ones(16, 8), "chroma": torch.ones(8, 8)}, r"luma must be of shape \(8, 8\), got \(16, 8\)"),
    ],
)
def test_what_could_not_be_read_back_is_not_written(tmp_path, tables, message):
    for name in ("a.json", "a.txt"):
        with pytest.raises(UsageError, match=f"{name} is not written: {message}"):
            write_tables(tmp_path / name, tables)
    assert not any(tmp_path.iterdir())


def test_a_file_that_would_be_read_as_an_image_is_not_written(tmp_path):
    with pytest.raises(UsageError, match=r"a\.JPG would be read as a JPEG image"):
        write_tables(tmp_path / "a.JPG", {"luma": torch.ones(8, 8), "chroma": torch.ones(8, 8)})
    assert not any(tmp_path.iterdir())


def test_gains_may_be_zero_or_negative(tmp_path):
    table = torch.ones(8, 8)
    table[3, 4], table[0, 0] = -0.5, 0.0
    write_tables(tmp_path / "a.json", {"luma": table, "chroma": table}, kind="gains")
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["tables"]["luma"] == table.tolist()


# ------------------------------------------------------------------------------------------------ libjpeg's text format


def test_text_as_libjpeg_has_it(tmp_path):
    file = tmp_path / "a.txt"
    luma, chroma = standard_tables(75)
    write_tables(file, {"luma": luma, "chroma": chroma, "alpha_luma": luma / 3})
    text = file.read_text(encoding="utf-8")
    assert text.startswith("# luma\n   8    6    5    8   12   20   26   31\n")
    for ours, read in zip((luma, chroma), read_tables(file), strict=True):
        assert torch.equal(ours, read)
    numbers = [int(word) for line in text.splitlines() for word in line.partition("#")[0].split()]
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "jpeg", qtables=[numbers[:64], numbers[64:]])
    assert Image.open(stream).quantization == {0: luma.flatten().tolist(), 1: chroma.flatten().tolist()}


def test_one_table_is_for_both_and_more_than_two_are_there(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("# one\n" + " 7" * 32 + "\n" + "\t7" * 32 + " # 8 8 8\n", encoding="utf-8")
    luma, chroma = read_tables(file)
    assert (luma == 7).all()
    assert torch.equal(luma, chroma)
    file.write_text(" ".join(["1"] * 64 + ["2"] * 64 + ["3"] * 64), encoding="utf-8")
    assert [int(table[0, 0]) for table in read_tables(file)] == [1, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds 0 numbers"),
        ("1 " * 63, "holds 63 numbers"),
        ("1 " * 320, "holds 320 numbers"),
        ("1.5 " * 64, "not in libjpeg's text format"),
        ("0 " * 64, "holds 0; steps"),
        ("32768 " * 64, "holds 32768; steps"),
        ("eight", "not in libjpeg's text format"),
    ],
)
def test_other_text_is_refused(tmp_path, text, message):
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=message):
        read_tables(tmp_path / "a.txt")


@pytest.mark.parametrize("entry", [0.0, 1.5, 32768.0])
def test_only_whole_steps_go_into_text(tmp_path, entry):
    luma = torch.ones(8, 8)
    luma[3, 4] = entry
    with pytest.raises(UsageError, match=r"luma has .*name the file .json"):
        write_tables(tmp_path / "a.txt", {"luma": luma, "chroma": torch.ones(8, 8)})
    with pytest.raises(UsageError, match="holds steps, not factors"):
        write_tables(tmp_path / "a.txt", {"luma": torch.ones(8, 8), "chroma": torch.ones(8, 8)}, kind="gains")
    assert not any(tmp_path.iterdir())


def test_what_tables_are_meant_for(tmp_path):
    tables = dict(zip(("luma", "chroma"), standard_tables(75), strict=True))
    write_tables(tmp_path / "a.json", tables, bits=8, subsampling="4:2:0")
    write_tables(tmp_path / "a.txt", tables)
    assert meant_for(tmp_path / "a.json") == (8, "4:2:0")
    assert meant_for(tmp_path / "a.txt") == (None, None)
    for subsampling in ("4:4:4", "4:2:0", "4:2:2"):
        Image.new("RGB", (16, 16)).save(tmp_path / "a.jpg", subsampling=subsampling)
        assert meant_for(tmp_path / "a.jpg") == (None, None if subsampling == "4:2:2" else subsampling)
    Image.new("L", (16, 16)).save(tmp_path / "grey.jpg")
    assert meant_for(tmp_path / "grey.jpg") == (None, None)
    (tmp_path / "a.json").write_text(
        json.dumps({"tables": {k: v.tolist() for k, v in tables.items()}, "bits": 40}), encoding="utf-8"
    )
    with pytest.raises(UsageError, match=r"a\.json: bits must be"):
        meant_for(tmp_path / "a.json")
    for wrong in ({"bits": 40}, {"subsampling": "4:2:2"}):  # which would not be read back
        with pytest.raises(UsageError, match=next(iter(wrong))):
            write_tables(tmp_path / "c.json", tables, **wrong)
    assert not (tmp_path / "c.json").exists()
    with pytest.raises(UsageError, match="no table file"):
        meant_for(tmp_path / "b.json")
