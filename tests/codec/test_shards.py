import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import filelock
import numpy as np
import pytest
from PIL import Image
from test_reader_stage import CODE, PHOTO

import jpegdl.cli
from factory import code_module
from jpegdl.codec import CompressConfig, choose, compress_folder, compress_shards, open_reader
from jpegdl.errors import UsageError


@pytest.fixture
def reader(tmp_path, monkeypatch):
    return f"{code_module(tmp_path, monkeypatch, 'shard_readers', CODE)}:one"


def write(path, entries):
    with tarfile.open(path, "w") as tar:
        for name, content in entries.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


def png(left):
    stream = io.BytesIO()
    PHOTO.crop((left, left, left + 48, left + 40)).save(stream, "png")
    return stream.getvalue()


def entries(path):
    with tarfile.open(path) as tar:
        return {entry.name: tar.extractfile(entry).read() for entry in tar}


@pytest.fixture
def shards(tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    for number in range(2):
        samples = {}
        for i in range(3):
            samples |= {f"{number}{i}.png": png(10 * i + number), f"{number}{i}.cls": b"%d" % i}
        write(folder / f"train-{number}.tar", samples)
    return folder


def test_shards_in_and_out(shards, tmp_path, reader):
    paths, out = sorted(shards.glob("*.tar")), tmp_path / "out"
    found = compress_shards(paths, out, CompressConfig(reader=reader, mu=0.3))
    assert (found["shards"], found["written"], found["skipped"], found["images"], found["bad"]) == (2, 2, 0, 6, [])
    assert list(entries(out / "train-0.tar")) == ["00.jpg", "00.cls", "01.jpg", "01.cls", "02.jpg", "02.cls"]
    one = open_reader(reader)
    for path in paths:
        before, after = entries(path), entries(out / path.name)
        for name, content in before.items():
            if name.endswith("cls"):
                assert after[name] == content
            else:
                with Image.open(io.BytesIO(content)) as image:
                    (wanted,) = choose([image], one, 0.3)
                assert after[name.replace("png", "jpg")] == wanted.content
    assert found["readers"]["files"] == 6
    assert found["bytes"] == sum(len(b) for path in paths for n, b in entries(out / path.name).items() if n.endswith("jpg"))


def test_it_goes_on_with_the_next_shard(shards, tmp_path, reader):
    paths, out = sorted(shards.glob("*.tar")), tmp_path / "out"
    config = CompressConfig(reader=reader, bits_per_pixel=2.0)
    first = compress_shards(paths[:1], out, config)
    both = compress_shards(paths, out, config)
    assert (both["written"], both["skipped"], both["images"], both["mu"]) == (1, 1, 6, first["mu"])
    write(paths[0], {"new.png": png(5)})
    again = compress_shards(paths, out, config)
    assert (again["written"], again["skipped"], again["images"]) == (1, 1, 4)
    with pytest.raises(UsageError, match="robust"):
        compress_shards(paths, out, CompressConfig(reader=reader, bits_per_pixel=2.0, robust=False))
    photos = tmp_path / "photos"
    photos.mkdir()
    PHOTO.save(photos / "a.png")
    with pytest.raises(UsageError, match="source, shards"):  # of photos in a folder
        compress_folder(photos, out, config)


def test_an_image_that_cannot_be_read_stays_and_is_named(shards, tmp_path, reader):
    broken = png(0)[:60]
    write(shards / "train-2.tar", {"a.png": broken, "b.png": png(3)})
    found = compress_shards([shards / "train-2.tar"], tmp_path / "out", CompressConfig(reader=reader))
    assert [one["file"] for one in found["bad"]] == ["train-2.tar/a.png"]
    after = entries(tmp_path / "out" / "train-2.tar")
    assert after["a.png"] == broken
    assert set(after) == {"a.png", "b.jpg"}
    again = compress_shards([shards / "train-2.tar"], tmp_path / "out", CompressConfig(reader=reader))
    assert again["bad"] == found["bad"]  # is not forgotten


def test_an_image_of_a_format_that_is_not_read_stays_and_is_named(shards, tmp_path, reader):
    """As in a folder: what is no image by its name alone is of no account."""
    strange = {"b.heic": b"of a phone", "c.qoi": b"damaged", "a.cls": b"1", "a.txt": b"a cat"}
    write(shards / "train-2.tar", {"a.png": png(0), **strange})
    found = compress_shards([shards / "train-2.tar"], tmp_path / "out", CompressConfig(reader=reader))
    assert [one["file"] for one in found["bad"]] == ["train-2.tar/b.heic", "train-2.tar/c.qoi"]
    assert "convert it" in found["bad"][0]["why"]
    after = entries(tmp_path / "out" / "train-2.tar")
    assert {name: after[name] for name in strange} == strange
    write(shards / "train-2.tar", {"b.heic": b"of a phone"})
    assert len(compress_shards([shards / "train-2.tar"], tmp_path / "none", CompressConfig(reader=reader))["bad"]) == 1


def test_one_name_in_two_spellings_is_one(shards, tmp_path, reader):
    write(shards / "train-2.tar", {"./a.png": png(0), "a.webp": png(1)})
    with pytest.raises(UsageError, match=r"a\.webp and \./a\.png would both become a\.jpg"):
        compress_shards([shards / "train-2.tar"], tmp_path / "out", CompressConfig(reader=reader))


def test_another_shard_of_the_same_size_and_time_stamp_is_made_anew(shards, tmp_path, reader):
    """All tars of a build that can be reproduced have the same, and tars are filled up to whole records."""
    path, out, config = shards / "train-0.tar", tmp_path / "out", CompressConfig(reader=reader, mu=0.3)
    compress_shards([path], out, config)
    before, known = path.stat(), json.loads((out / "train-0.tar.json").read_text(encoding="utf-8"))
    samples = {name: png(20) if name == "00.png" else content for name, content in entries(path).items()}
    write(path, samples)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert compress_shards([path], out, config)["written"] == 1
    os.utime(path)  # the same content
    assert compress_shards([path], out, config)["skipped"] == 1
    # Those of earlier versions, which noted size and time stamp alone, are still known, unless something is missing.
    now = path.stat()
    known["made_of"] = [now.st_size, now.st_mtime_ns]
    (out / "train-0.tar.json").write_text(json.dumps(known), encoding="utf-8")
    assert compress_shards([path], out, config)["skipped"] == 1
    del known["files"]["00.jpg"]["kind"]
    (out / "train-0.tar.json").write_text(json.dumps(known), encoding="utf-8")
    assert compress_shards([path], out, config)["written"] == 1


def damaged(path, how):
    """A shard of three samples whose second cannot be reached."""
    write(path, {f"{i}.png": png(i) for i in range(3)})
    content = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        second = tar.getmembers()[1]
    if how == "cut":
        del content[second.offset_data + 100 :]
    elif how == "cut in a header":
        del content[second.offset + 100 :]
    elif how == "header":
        content[second.offset + 10 : second.offset + 60] = b"\xff" * 50
    elif how == "zeros":
        content[second.offset : second.offset + 512] = bytes(512)
    else:
        assert how == "gzip"
        content = gzip.compress(content)
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["cut", "cut in a header", "header", "zeros", "gzip"])
def test_a_damaged_shard_is_left_out_and_named_and_the_others_are_made(shards, tmp_path, reader, how):
    damaged(shards / "train-0.tar", how)
    paths, out, said = sorted(shards.glob("*.tar")), tmp_path / "out", []
    config = CompressConfig(reader=reader, bits_per_pixel=2.0)
    found = compress_shards(paths, out, config, lambda standing: said.append(standing.bad))
    assert [one["shard"] for one in found["left_out"]] == [str(paths[0])]
    assert (found["written"], found["skipped"], found["images"]) == (1, 0, 3)
    assert [text for text in said if text] == [found["left_out"][0]["why"]]
    assert str(paths[0]) in found["left_out"][0]["why"]
    assert sorted(path.name for path in out.glob("*.tar*")) == ["train-1.tar", "train-1.tar.json"]
    write(paths[0], {f"{i}.png": png(i) for i in range(3)})  # mended
    again = compress_shards(paths, out, config)
    assert (again["left_out"], again["written"], again["skipped"], again["images"]) == ([], 1, 1, 6)


def test_a_shard_that_is_left_out_in_its_middle_counts_for_nothing(shards, tmp_path, reader):
    config = CompressConfig(reader=reader, mu=0.3)
    wanted = compress_shards([shards / "train-1.tar"], tmp_path / "one", config)
    samples = {f"{i}.png": png(i) for i in range(3)}
    write(shards / "train-0.tar", {**samples, "0.webp": png(1)})  # there were three files by then
    found = compress_shards(sorted(shards.glob("*.tar")), tmp_path / "both", config)
    assert len(found["left_out"]) == 1
    for name in ("images", "bytes", "bytes_before", "pixels", "bits_per_pixel"):
        assert found[name] == wanted[name]


def test_the_command_says_which_shard_is_left_out_and_fails(shards, tmp_path, reader, capsys):
    damaged(shards / "train-0.tar", "header")
    assert jpegdl.cli.main(["compress", str(shards / "*.tar"), str(tmp_path / "out"), "--reader", reader]) == 1
    printed = capsys.readouterr()
    assert "1 shard written" in printed.out
    assert printed.err.count(str(shards / "train-0.tar")) == 1
    assert "1 of 2 shards is not written" in printed.err


def test_what_cannot_be_is_refused_and_leaves_nothing(shards, tmp_path, reader):
    paths, config = sorted(shards.glob("*.tar")), CompressConfig(reader=reader)
    write(shards / "twice.tar", {"a.png": png(0), "a.bmp": png(1)})
    (shards / "bad.tar").write_bytes(b"no tar at all" * 100)
    for given, named in (([], "no shards"), ([shards / "none.tar"], "none.tar"), ([paths[0], paths[0]], "train-0")):
        with pytest.raises(UsageError, match=named):
            compress_shards(given, tmp_path / "out", config)
    write(shards / "again.tar", {"a.cls": b"1"})
    with tarfile.open(shards / "again.tar", "a") as tar:
        tar.addfile(tarfile.TarInfo("a.cls"))
    both = "a.bmp and a.png would both become a.jpg"
    for name, said in (("twice.tar", both), ("again.tar", "a.cls is there twice"), ("bad.tar", "")):
        with pytest.raises(UsageError, match=f"{name}.*{said}"):
            compress_shards([shards / name], tmp_path / "out", config)
        assert not list((tmp_path / "out").glob("*.tar*"))
    with pytest.raises(UsageError, match="reader"):
        compress_shards(paths, tmp_path / "out", CompressConfig(tables="standard:50"))
    with pytest.raises(UsageError, match="another folder"):
        compress_shards(paths, shards, config)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match="not empty"):
        compress_shards(paths, tmp_path / "full", config)


def test_names_and_sizes_are_new_whatever_the_tar_says_of_them(tmp_path, reader):
    """Extended headers of a tar hold names that are long or no ASCII, and sizes, and count for more than what is set."""
    long, shard = f"{'n' * 120}.png", tmp_path / "train.tar"
    names = [long, "caf\u00e9.png", "plain.png", "plain.cls", "big\u00e9.json"]
    with tarfile.open(shard, "w", format=tarfile.PAX_FORMAT) as tar:
        for i, name in enumerate(names):
            entry, content = tarfile.TarInfo(name), png(3 * i) if name.endswith("png") else b"1"
            entry.size, entry.mtime = len(content), 12.5
            entry.pax_headers = {"size": str(len(content))}
            tar.addfile(entry, io.BytesIO(content))
    found = compress_shards([shard], tmp_path / "out", CompressConfig(reader=reader, mu=0.01))
    after = entries(tmp_path / "out" / "train.tar")
    assert list(after) == [name.replace(".png", ".jpg") for name in names]
    images = [content for name, content in after.items() if name.endswith("jpg")]
    for content in images:
        with Image.open(io.BytesIO(content)) as image:
            image.load()  # which fails where the end is missing
    assert (found["bytes"], found["pixels"]) == (sum(map(len, images)), 3 * 48 * 40)


def test_other_pictures_of_a_sample_stay_as_they_are(shards, tmp_path, reader, capsys):
    """A mask would not be one after JPEG."""
    samples = {"./a.png": png(0), "./a.seg.png": png(1), "./a.cls": b"1", "b.v2.png": png(2), "b.v2.cls": b"0"}
    samples["d/c.1.png"] = png(3)
    write(shards / "train-0.tar", samples)
    given = [str(shards / "train-0.tar"), str(tmp_path / "out"), "--reader", reader]
    assert jpegdl.cli.main(["compress", *given]) == 0
    after = entries(tmp_path / "out" / "train-0.tar")
    assert list(after) == ["./a.jpg", "./a.seg.png", "./a.cls", "b.v2.jpg", "b.v2.cls", "d/c.1.jpg"]
    assert after["./a.seg.png"] == samples["./a.seg.png"]
    assert "1 picture beside an image of its sample, such as a mask, stays" in capsys.readouterr().out


def test_what_is_hidden_in_a_shard_stays_as_it_is(shards, tmp_path, reader):
    hidden = {"._a.png": b"of a Mac", "__MACOSX/._b.png": b"too", ".c.png": png(1)}
    write(shards / "train-0.tar", {**hidden, "./a.png": png(0)})
    found = compress_shards([shards / "train-0.tar"], tmp_path / "out", CompressConfig(reader=reader))
    assert (found["images"], found["bad"]) == (1, [])
    after = entries(tmp_path / "out" / "train-0.tar")
    assert list(after) == [*hidden, "./a.jpg"]
    assert {name: after[name] for name in hidden} == hidden


def test_shards_without_an_image_are_said(shards, tmp_path, reader):
    write(shards / "train-0.tar", {"a.cls": b"1"})
    write(shards / "train-1.tar", {"b.cls": b"1"})
    paths = sorted(shards.glob("*.tar"))
    for given, said in ((paths[:1], r"no images in shard .*train-0\.tar$"), (paths, r"train-0\.tar or in 1 more$")):
        with pytest.raises(UsageError, match=said):
            compress_shards(given, tmp_path / "out", CompressConfig(reader=reader))


def test_a_kill_between_a_shard_and_what_is_known_of_it(shards, tmp_path, reader, monkeypatch):
    """The shard that was there before is of the same size, as tars are filled up to whole records."""
    path, out, config = shards / "train-0.tar", tmp_path / "out", CompressConfig(reader=reader, mu=0.3)
    compress_shards([path], out, config)
    write(path, {"new.png": png(5), "new.cls": b"1", "two.png": png(9)})
    wanted = {"new.jpg", "new.cls", "two.jpg"}

    def killed(self, target):
        if target.suffix == ".tar":
            raise KeyboardInterrupt
        return renamed(self, target)

    renamed = Path.replace
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            compress_shards([path], out, config)
    assert set(entries(out / path.name)) != wanted
    assert compress_shards([path], out, config)["written"] == 1
    assert set(entries(out / path.name)) == wanted


def test_the_command_takes_a_pattern(shards, tmp_path, reader, capsys):
    (shards / "._train-0.tar").write_bytes(b"of a Mac")  # a shell's * does not stand for it either
    assert jpegdl.cli.main(["compress", str(shards / "*.tar"), str(tmp_path / "out"), "--reader", reader, "--mu", "1"]) == 0
    assert "2 shards written" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "compress.json").read_text(encoding="utf-8"))["found"]["files"] == 6
    assert jpegdl.cli.main(["compress", str(shards / "train-1.tar"), str(tmp_path / "one"), "--reader", reader]) == 0
    assert "1 shard written" in capsys.readouterr().out
    assert jpegdl.cli.main(["compress", str(shards / "*.nothing"), str(tmp_path / "out"), "--reader", reader]) == 1


def test_inside_ray(shards, tmp_path, reader, monkeypatch):
    """The worker of the example, and the whole of it where Ray is installed."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "examples")
    import compress_ray

    folder, out = tmp_path / "photos", tmp_path / "out"
    (folder / "cats").mkdir(parents=True)
    for i in range(3):
        (folder / "cats" / f"{i}.png").write_bytes(png(7 * i))
    (folder / "notes.txt").write_text("no photo", encoding="utf-8")
    assert compress_ray.missing(folder, out) == ["cats/0.png", "cats/1.png", "cats/2.png"]
    with pytest.raises(UsageError, match="weights of a reader"):
        compress_ray.Compressor(str(folder), str(out), reader, reader, 0.3, 1)
    work = compress_ray.Compressor(str(folder), str(out), reader, "shard_readers:two", 0.3, 1)
    out.mkdir()
    for _ in range(2):
        compress_ray.settle(out, work.settings())
    work({"name": np.array(["cats/0.png", "cats/2.png"])})
    with Image.open(folder / "cats" / "2.png") as image:
        (wanted,) = choose([image], reader, 0.3)
    assert (out / "cats" / "2.jpg").read_bytes() == wanted.content
    assert compress_ray.missing(folder, out) == ["cats/1.png"]
    found = compress_ray.summary(out)
    assert found["files"] == 2
    assert list(found["agreement"]) == ["net 0"]
    assert {"judge_agreement", "bits_per_pixel"} <= set(found)
    assert found["without"] == {}
    (folder / "dogs").mkdir()
    (folder / "dogs" / "cut.png").write_bytes(png(3)[:60])
    note = Image.Exif()
    note[0x0112] = 6  # a quarter turn
    with Image.open(folder / "cats" / "0.png") as image:
        image.resize((40, 24)).convert("CMYK").save(folder / "dogs" / "turned.jpg", exif=note)
    Image.fromarray(np.full((24, 40), 30_000, np.uint16)).save(folder / "dogs" / "deep.png")
    work({"name": np.array(compress_ray.missing(folder, out))})
    assert compress_ray.missing(folder, out) == ["dogs/cut.png"]
    assert list(compress_ray.summary(out)["without"]) == ["dogs/cut.png"]
    config = CompressConfig(reader=reader, judge="shard_readers:two", mu=0.3, device="cpu")
    wanted, found = compress_folder(folder, tmp_path / "other", config)["readers"], compress_ray.summary(out)
    assert found["files"] == wanted["files"] == 5
    assert found["bits_per_pixel"] == pytest.approx(wanted["bits_per_pixel"], rel=1e-4)
    assert found["agreement"] == {"net 0": wanted["readers"][0]["agreement"]}
    assert found["judge_agreement"] == wanted["judges"][0]["agreement"]
    for name in ("cats/0.jpg", "dogs/turned.jpg", "dogs/deep.jpg"):
        assert (out / name).read_bytes() == (tmp_path / "other" / name).read_bytes()
    with Image.open(out / "dogs" / "turned.jpg") as turned:
        assert turned.getexif()[0x0112] == 6
    (folder / "dogs" / "cut.png").unlink()
    (folder / "cats" / "0.webp").write_bytes((folder / "cats" / "0.png").read_bytes())
    with pytest.raises(UsageError, match=r"0\.png and .*0\.webp"):
        compress_ray.missing(folder, out)
    (folder / "cats" / "0.webp").unlink()
    (folder / "settings.png").write_bytes(png(3))
    with pytest.raises(UsageError, match=r"settings\.png"):
        compress_ray.missing(folder, out)
    (folder / "settings.png").unlink()
    for source, target in ((folder, folder / "out"), (folder, tmp_path)):
        with pytest.raises(UsageError, match="overlap"):
            compress_ray.missing(source, target)
    with pytest.raises(UsageError, match=r"train-0\.tar and no settings"):
        compress_ray.settle(shards, work.settings())  # files of others would pass for those of photos
    assert compress_ray.summary(out)["files"] == 5
    for change in ({"reader": "shard_readers:three"}, {"judge": None}, {"mu": 0.4}, {"effort": 2}, {"source": str(shards)}):
        given = {"reader": reader, "judge": "shard_readers:two", "mu": 0.3, "effort": 1, "source": str(folder), **change}
        other = compress_ray.Compressor(target=str(out), **given)
        with pytest.raises(UsageError, match=next(iter(change))):
            compress_ray.settle(out, other.settings())
    with pytest.raises(UsageError, match="features"):
        compress_ray.Compressor(str(folder), str(out), reader, "shard_readers:of_features", 0.3, 1)
    for mu, effort, name, said in ((-1.0, 1, "one", "mu"), (0.3, 7, "one", "effort"), (0.3, 3, "blind", "blind")):
        with pytest.raises(UsageError, match=said):
            compress_ray.Compressor(str(folder), str(out), f"shard_readers:{name}", None, mu, effort)
    options = ["--reader", reader, "--judge", "shard_readers:two", "--mu", "0.3", "--workers", "1"]
    with filelock.FileLock(out / ".lock"), pytest.raises(UsageError, match="another call"):
        compress_ray.main([str(folder), str(out), *options])
    (out / "cats" / "1.jpg").unlink()
    pytest.importorskip("ray")
    # In a process of its own, whose own classes Ray hands to its workers.
    paths = os.pathsep.join(filter(None, sys.path))
    environment = {**os.environ, "PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": "", "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(
        [sys.executable, compress_ray.__file__, str(folder), str(out), *options],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((out / "summary.json").read_text(encoding="utf-8"))["files"] == 5
