import io
import json

import pytest
import torch
from PIL import Image

from jpegdl.errors import UsageError
from jpegdl.tables import from_zigzag, read_tables, standard_tables, to_zigzag, write_tables


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
        ("a.jpg", "no image", "not a JPEG"),
    ],
)
def test_bad_files_are_named(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UsageError, match=message):
        read_tables(tmp_path / name)
