import pytest

from jpegdl.errors import folded


@pytest.mark.parametrize("width", range(12, 40))
def test_words_paths_and_percentages_stay_whole(width):
    text = "motion blur 23.6 %, zoom-blur 30.0 % of /a/long-path/without-a-space-in-it, or so"
    lines = folded(text, width, first="* ", later="  ").split("\n")
    assert " ".join(line[2:] for line in lines) == text
    assert [line[:2] for line in lines] == ["* ", *["  "] * (len(lines) - 1)]
    assert not any(line.lstrip().startswith("%") for line in lines)
    assert all(len(line) <= width for line in lines if "/" not in line)
