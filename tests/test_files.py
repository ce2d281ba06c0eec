import ast
import contextlib
import errno
import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from jpegdl import files
from jpegdl.files import csv_text, folder_hint, read_text, remove_strays, replacing, write_text, write_together
from jpegdl.training.trainer import _WholeCheckpoints

SOURCES = Path(__file__).parents[1]


def _stray(file, monkeypatch):
    """The temporary file of the next call."""
    monkeypatch.setattr(files, "_numbers", itertools.repeat(7))
    return files._temporary(file, None)


def test_whole_or_not_at_all(tmp_path):
    file = tmp_path / "new" / "file.txt"
    with replacing(file) as temporary:
        temporary.write_text("first", encoding="utf-8")
        assert not file.exists()
    with contextlib.suppress(KeyboardInterrupt), replacing(file) as temporary:
        temporary.write_text("second", encoding="utf-8")
        raise KeyboardInterrupt
    assert file.read_text(encoding="utf-8") == "first"
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("file", ["file.txt", Path("file.txt")])
def test_what_cannot_be_written_is_named(tmp_path, monkeypatch, file):
    """A full disk has no file in Python's error, a read-only folder the temporary one."""
    monkeypatch.chdir(tmp_path)
    _stray(tmp_path / "file.txt", monkeypatch).symlink_to("/dev/full")
    with (
        pytest.raises(OSError, match="cannot be written: No.*'file.txt'") as caught,
        replacing(file) as temporary,
    ):
        temporary.write_text("text", encoding="utf-8")
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(PermissionError, match="cannot be written: Permission denied: 'file.txt'"), replacing(file) as temporary:
        raise PermissionError(errno.EACCES, "Permission denied", str(temporary))
    (tmp_path / "file.txt").mkdir()
    with pytest.raises(IsADirectoryError, match="cannot be written: .*'file.txt'"), replacing(file) as temporary:
        temporary.write_text("text", encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]


def test_errors_of_other_files_stay_as_they_are(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No such file or directory: '.*missing'"), replacing(tmp_path / "file.txt"):
        (tmp_path / "missing").read_text(encoding="utf-8")
    with pytest.raises(OSError, match=r"^neither number nor file$"), replacing(tmp_path / "file.txt"):
        raise OSError("neither number nor file")


def test_a_checkpoint_on_a_full_disk(tmp_path, monkeypatch):
    """torch.save, given a path, would hide the reason behind a RuntimeError of its own."""
    file = tmp_path / "last.ckpt"
    _WholeCheckpoints().save_checkpoint({"epoch": 1}, file)
    _stray(file, monkeypatch).symlink_to("/dev/full")
    with pytest.raises(OSError, match="cannot be written: No.*'.*last.ckpt'"):
        _WholeCheckpoints().save_checkpoint({"epoch": 2, "weights": torch.zeros(100_000)}, file)
    assert torch.load(file) == {"epoch": 1}
    assert list(tmp_path.iterdir()) == [file]


def test_csv_has_the_shortest_numbers():
    rows = [{"a": 0.6600000262260437, "n": 12345678}, {"a": 3e-9 / 7, "b": "0.6600000262"}, {"a": float("nan"), "n": None}]
    assert csv_text(rows) == "a,n,b\n0.66,12345678,\n4.28571e-10,,0.6600000262\nnan,,\n"


def test_the_folder_that_was_meant(tmp_path):
    (tmp_path / "runs/mine/jpeg-dl/0").mkdir(parents=True)
    (tmp_path / "runs/mine/locks").mkdir()
    runs = tmp_path / "runs"
    assert folder_hint(runs / "mime") == folder_hint(runs / "mime/jpeg-dl/0", 3) == "did you mean mine?"
    assert folder_hint(runs / "mine/jpgdl/0", 3) == "did you mean jpeg-dl?"
    assert folder_hint(runs / "mine/plain/0", 3) == "available: jpeg-dl"
    assert folder_hint(runs / "mine/jpeg-dl/0", 3) == folder_hint(tmp_path / "none/mine") == ""


# ------------------------------------------------------------------------------------------- what others are writing


def test_only_strays_of_dead_processes_are_removed(tmp_path, monkeypatch):
    """A living attack or report writes beside a comparison that ends."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    here, token, old = files._place(), "0" * 8, time.time() - 25 * 3600
    kept = {
        "of this very process": f".writing-{here}-{os.getpid()}-{files._token(os.getpid())}-3.a",
        "of a living process": f".writing-{here}-{os.getppid()}-{token}-3.a",
        "of another machine": f".writing-{'f' * 8}-{dead.pid}-{token}-3.a",
        "of an earlier version": ".writing-1.a",
        "no stray": "writing-1",
    }
    gone = {
        "of a dead process": f".writing-{here}-{dead.pid}-{token}-3.a",
        "of a dead process that had our id": f".writing-{here}-{os.getpid()}-{token}-3.a",
        "of another machine, old": f".writing-{'f' * 8}-{dead.pid}-{token}-4.a",
        "of an earlier version, old": ".writing-1.b",
    }
    for what, name in (kept | gone).items():
        (tmp_path / name).touch()
        if what.endswith(", old"):
            os.utime(tmp_path / name, (old, old))
    with replacing(tmp_path / "attack.csv") as file:
        file.touch()
        remove_strays(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*kept.values(), "attack.csv"}
    calls = []

    def not_ours(process, signal):
        calls.append((process, signal))
        raise PermissionError

    monkeypatch.setattr(os, "kill", not_ours)
    (tmp_path / gone["of a dead process"]).touch()
    remove_strays(tmp_path)
    assert (tmp_path / gone["of a dead process"]).exists(), "a process of another user lives"
    assert (dead.pid, 0) in calls


def test_no_two_writers_share_a_temporary_file(tmp_path, monkeypatch):
    """Two containers whose processes have one id, two threads, a fork; and a name as long as file systems take."""
    file = tmp_path / ("ä" * 120 + ".json")
    names = {files._temporary(file, None).name for _ in range(3)}
    names.add(files._temporary(file, "slot").name)
    with monkeypatch.context() as patch:
        patch.setattr(files, "_place", lambda: "0" * 8)
        names.add(files._temporary(file, "slot").name)
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: 4711)
        names.add(files._temporary(file, "slot").name)
    assert len(names) == 6
    write_text(file, "{}")
    assert file.read_text(encoding="utf-8") == "{}"
    assert files._temporary(file, "slot") == files._temporary(file, "slot")


def test_files_that_belong_together(tmp_path):
    write_together({tmp_path / "a": "old", tmp_path / "b": b"old"})
    (tmp_path / "c").write_text("no folder", encoding="utf-8")
    with pytest.raises(OSError, match="c"):
        write_together({tmp_path / "a": "new", tmp_path / "c" / "d": "new", tmp_path / "b": "new"})
    assert {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()} == {
        "a": "old",
        "b": "old",
        "c": "no folder",
    }


# ---------------------------------------------------------------------------------------------------------- encodings


def test_text_is_utf8_wherever_it_is_written(tmp_path):
    write_text(tmp_path / "a", "\u2212 ü \udcfc")
    assert (tmp_path / "a").read_bytes() == b"\xe2\x88\x92 \xc3\xbc \xfc"
    (tmp_path / "b").write_bytes(b"\xef\xbb\xbfgr\xc3\xbcn")
    assert read_text(tmp_path / "b") == "grün"
    (tmp_path / "c").write_bytes(b"a\nb\ngr\xfcn")
    with pytest.raises(ValueError, match=r"not text in UTF-8 \(line 3\)"):
        read_text(tmp_path / "c")


def _in_binary(call, place):
    mode = next((k.value for k in call.keywords if k.arg == "mode"), None) or (call.args[place:] or [None])[0]
    return isinstance(mode, ast.Constant) and "b" in str(mode.value)


def _system_encoded(tree):
    """Calls that read or write text in whatever encoding the system has."""
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call) or {"encoding", None} & (names := {k.arg for k in call.keywords}):
            continue
        function = call.func
        name = getattr(function, "attr", getattr(function, "id", ""))
        owner = getattr(getattr(function, "value", None), "id", "")
        method = isinstance(function, ast.Attribute)
        if (
            (name in ("read_text", "write_text") and method and not (name == "read_text" and call.args))
            or (name == "open" and not method and not _in_binary(call, 1))
            or (name == "open" and method and owner in ("io", "codecs", "gzip", "bz2", "lzma") and not _in_binary(call, 1))
            or (name == "open" and method and owner != "tarfile" and _is_path(function.value, call) and not _in_binary(call, 0))
            or (name in ("TemporaryFile", "NamedTemporaryFile") and (call.args or "mode" in names) and not _in_binary(call, 0))
            or (name == "fdopen" and not _in_binary(call, 1))
            or name in ("FileHandler", "TextIOWrapper", "popen")
            or (owner == "subprocess" and names & {"text", "universal_newlines"})
        ):
            yield call


def _is_path(value, call):
    """Whether something whose ``open`` is called is a path: FOLDER / "name", or opened in a mode."""
    modes = [a for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str) and len(a.value) < 4]
    return isinstance(value, ast.BinOp) or bool(modes) or bool({k.arg for k in call.keywords} & {"mode", "newline"})


@pytest.mark.parametrize("root", ["src", "tests", "studies", "benchmarks", "examples"])
def test_no_text_in_the_encoding_of_the_system(root):
    """PLW1514 of ruff sees no more than what is a path beyond doubt, and no subprocesses."""
    found = [
        f"{file.relative_to(SOURCES)}:{call.lineno}: {ast.unparse(call)}"
        for file in sorted((SOURCES / root).rglob("*.py"))
        for call in _system_encoded(ast.parse(file.read_text(encoding="utf-8")))
    ]
    assert not found, "\n".join(["give them an encoding:", *found])


@pytest.mark.parametrize("name", ["a\nb", "a\x85b", "a\x9b31mb", "a\u2028b", "a\x7fb"])
def test_a_name_keeps_to_its_line(name):
    shown = files.printable(f"{name} \u4e2d \udcff")
    assert shown == ascii(name)[1:-1] + " \u4e2d \udcff"  # letters of any script stay, and bytes that are no text
    assert len(shown.splitlines()) == 1
