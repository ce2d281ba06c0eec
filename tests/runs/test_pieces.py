import json

import pytest

from jpegdl.files import BusyError
from jpegdl.runs.pieces import Pieces

MADE_OF = {"model": "abc", "images": (1, 2)}


def test_what_is_kept_is_found_by_what_it_was_made_of(tmp_path):
    pieces = Pieces(tmp_path, MADE_OF)
    kept = pieces.keep("one", {"eps": 1}, {"broken": "01"})
    assert kept == {"broken": "01", "made_of": {"model": "abc", "images": [1, 2], "eps": 1}}
    again = Pieces(tmp_path, MADE_OF)
    assert again.find("one", {"eps": 1}) == kept
    assert again.find("one", {"eps": 2}) is None
    assert again.find("one") is None
    assert again.find("two", {"eps": 1}) is None
    assert Pieces(tmp_path, {**MADE_OF, "model": "other"}).find("one", {"eps": 1}) is None
    assert again.find("one", {"eps": 1}, needed=["broken", "largest"]) is None
    again.drop("one")
    again.drop("one")
    assert again.find("one", {"eps": 1}) is None


def test_what_earlier_versions_kept_of_attacks_is_found(tmp_path):
    made_of = json.loads(json.dumps({**MADE_OF, "eps": 1}))
    (tmp_path / "one.json").write_text(json.dumps({"found": {"broken": "01"}, "made_of": made_of}), encoding="utf-8")
    assert Pieces(tmp_path, MADE_OF).find("one", {"eps": 1}, needed=["broken"]) == {"broken": "01"}


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"3", b'{"found": 3}', b'{"found": 3, "made_of": {}}', b"\xff"])
def test_what_is_damaged_is_not_there(tmp_path, content):
    (tmp_path / "one.json").write_bytes(content)
    assert Pieces(tmp_path, {}).find("one") is None


def test_one_process_at_a_time(tmp_path):
    pieces = Pieces(tmp_path / "new", {})
    with pieces.claimed("it is being made"):
        with pytest.raises(BusyError, match="it is being made"), Pieces(tmp_path / "new", {}).claimed("it is being made"):
            pass
        pieces.keep("one", None, {"a": 1})
    assert pieces.find("one", needed=["a"]) is not None
