import contextlib
import errno
import os
from pathlib import Path

import pytest
import torch

from jpegdl.files import csv_text, folder_hint, replacing
from jpegdl.training.run import _WholeCheckpoints


def _stray(file):
    return file.with_name(f".writing-{os.getpid()}.{file.name}")


def test_whole_or_not_at_all(tmp_path):
    file = tmp_path / "new" / "file.txt"
    with replacing(file) as temporary:
        temporary.write_text("first")
        assert not file.exists()
    with contextlib.suppress(KeyboardInterrupt), replacing(file) as temporary:
        temporary.write_text("second")
        raise KeyboardInterrupt
    assert file.read_text() == "first"
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("file", ["file.txt", Path("file.txt")])
def test_what_cannot_be_written_is_named(tmp_path, monkeypatch, file):
    """A full disk has no file in Python's error, a read-only folder the temporary one."""
    monkeypatch.chdir(tmp_path)
    _stray(tmp_path / "file.txt").symlink_to("/dev/full")
    with (
        pytest.raises(OSError, match="cannot be written: No space left on device: 'file.txt'") as caught,
        replacing(file) as temporary,
    ):
        temporary.write_text("text")
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(PermissionError, match="cannot be written: Permission denied: 'file.txt'"), replacing(file) as temporary:
        raise PermissionError(errno.EACCES, "Permission denied", str(temporary))
    (tmp_path / "file.txt").mkdir()
    with pytest.raises(IsADirectoryError, match="cannot be written: .*'file.txt'"), replacing(file) as temporary:
        temporary.write_text("text")
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]


def test_errors_of_other_files_stay_as_they_are(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No such file or directory: '.*missing'"), replacing(tmp_path / "file.txt"):
        (tmp_path / "missing").read_text()
    with pytest.raises(OSError, match=r"^neither number nor file$"), replacing(tmp_path / "file.txt"):
        raise OSError("neither number nor file")


def test_a_checkpoint_on_a_full_disk(tmp_path):
    """torch.save, given a path, would hide the reason behind a RuntimeError of its own."""
    file = tmp_path / "last.ckpt"
    _WholeCheckpoints().save_checkpoint({"epoch": 1}, file)
    _stray(file).symlink_to("/dev/full")
    with pytest.raises(OSError, match="cannot be written: No space left on device: '.*last.ckpt'"):
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
    assert folder_hint(runs / "mine/plain/0", 3) == "there are jpeg-dl"
    assert folder_hint(runs / "mine/jpeg-dl/0", 3) == folder_hint(tmp_path / "none/mine") == ""
