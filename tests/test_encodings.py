"""Systems whose encoding is not UTF-8: the command in a process of its own, with settings and classes that ASCII lacks."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from commands import run_command

RECIPE = """\
# Gr\u00fc\u00dfe: gr\u00f6\u00dfer
backbone: cifar_resnet8
data: {name: folder, size: 16, resize: 16, batch_size: 4}
layer: {tables: ones}
arms:
  plain:
  mine: {about: "sch\u00f6n \u2212 gr\u00fcn", layer: {alpha: 2.0}}
device: cpu
training: {epochs: 1}
"""
ENCODINGS = {"ascii": None, "iso8859-1": "ISO-8859-1", "euc_jp": "EUC-JP"}


def _environment(encoding, place):
    """That of a system with this encoding; a locale is made for the test, as most machines have none but UTF-8 and C."""
    environment = {**os.environ, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1] / "src"), environment.get("PYTHONPATH", "")])
    name = "C"
    if charmap := ENCODINGS[encoding]:
        if shutil.which("localedef") is None:
            pytest.skip("no localedef")
        name = "xx_TEST"
        language = "ja_JP" if encoding == "euc_jp" else "de_DE"  # whose numbers have a decimal comma
        made = subprocess.run(["localedef", "-c", "-i", language, "-f", charmap, place / name], capture_output=True)
        if not (place / name).is_dir():
            pytest.skip(f"localedef makes no such locale: {made.stderr!r}")
    environment |= {"LOCPATH": str(place), "LC_ALL": name}
    return environment


COMPARE = ["--config", "recipe.yaml", "--data.path", "data", "--seeds", "1", "--jobs", "1"]
#: In one process, which takes seconds to start: a comparison, and what its model says of photos, twice.
COMMANDS = f"""
import codecs, locale, sys
from jpegdl.cli import main

encoding, *photos = sys.argv[1:]
found = codecs.lookup(locale.getpreferredencoding(False)).name
print(found, end="\\f")
if found != encoding:
    sys.exit()
assert main(["compare", *{COMPARE}]) == 0
for more in [photos, ["--json", *photos[:2]]] if photos else []:
    print(end="\\f")
    main(["predict", "--arm", "mine", *more])
"""


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_comparison_and_its_report(encoding, tmp_path, monkeypatch, capsys):
    for part, count in (("train", 4), ("test", 2)):
        for place, name in enumerate(("M\u00fcller", "\u00d6l")):
            folder = tmp_path / "data" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (16, 16), (120 * place + 10 * number, 90, 30)).save(folder / f"\u00fc{number}.png")
    (tmp_path / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    photos = []
    if encoding != "euc_jp":  # where Python reads arguments by the C library, and writes names by a codec that differs
        # Names of photos come out as the bytes that they are on the disk, and in JSON as text.
        photos = [b"caf\xe9 \xc3\xbc.png", "data/test/\u00d6l/\u00fc1.png".encode(), "gone \u00fc.png".encode()]
        shutil.copyfile(tmp_path / "data/test/\u00d6l/\u00fc0.png", tmp_path / os.fsdecode(photos[0]))
        (tmp_path / os.fsdecode(photos[2])).touch()
    environment = _environment(encoding, tmp_path)
    command = [sys.executable, "-c", COMMANDS, encoding, *photos]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, timeout=600)
    found, *said = done.stdout.split(b"\f")
    assert done.returncode == 0, done.stderr
    if found != encoding.encode():
        pytest.skip(f"the system's encoding is {found} there")
    assert b"| mine" in said[0]
    folder = tmp_path / "runs" / "run"
    assert json.loads((folder / "mine/0/data.json").read_text(encoding="ascii"))["classes"] == ["M\u00fcller", "\u00d6l"]
    page = (folder / "report.html").read_bytes().decode("utf-8")
    assert "sch\u00f6n \u2212 gr\u00fcn" in page
    assert "\ufffd" not in page
    if photos:
        assert [photo in said[1] for photo in photos] == [True, True, False], done
        assert photos[2] in done.stderr
        assert b"Traceback" not in done.stderr
        named = [json.loads(line)["photo"] for line in said[2].splitlines()]
        assert named == [photos[0].decode(encoding, "surrogateescape"), photos[1].decode("utf-8")]
    # What was begun there goes on where the encoding is UTF-8, as here.
    monkeypatch.chdir(tmp_path)
    status, out, _ = run_command(capsys, "compare", *COMPARE)
    assert status == 0
    assert "| mine" in out
