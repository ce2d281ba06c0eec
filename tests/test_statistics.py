import csv
import warnings

import numpy as np
import pytest
from scipy import stats

import jpegdl
from commands import one_error, run_command
from jpegdl.errors import UsageError
from jpegdl.statistics import bootstrap, holm, mcnemar, paired, paired_words, wilson

PLAIN, OTHER = [70.0, 71.0, 70.5, 69.5], [72.0, 73.1, 72.2, 71.9]


def _write(place, runs, columns=("arm", "seed", "accuracy")):
    file = place / "results.csv"
    with file.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([columns, *runs])
    return file


def _runs(**arms):
    return [(arm.replace("_", "-"), seed, value) for arm, values in arms.items() for seed, value in enumerate(values)]


def test_a_table_of_anybodys_results(tmp_path):
    file = _write(tmp_path, [*_runs(plain=PLAIN, mine=OTHER, worse=[70.5, 70.2, 70.1])][::-1])
    found = jpegdl.statistics.paired(file)
    assert list(found) == ["worse", "mine"]
    assert {arm: sorted(entry["seeds"]) for arm, entry in found.items()} == {"mine": list("0123"), "worse": list("012")}
    expected = stats.ttest_rel(OTHER, PLAIN)
    assert found["mine"]["p"] == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval()
    assert (found["mine"]["low"], found["mine"]["high"]) == pytest.approx((interval.low, interval.high))
    assert [found[arm]["p_holm"] for arm in found] == pytest.approx(holm([found[arm]["p"] for arm in found]))
    swapped = paired(file, baseline="mine")["plain"]
    assert swapped["mean"] == pytest.approx(-found["mine"]["mean"])
    assert "mine is above plain" in paired_words("mine", found["mine"])
    assert "plain is below mine" in paired_words("plain", swapped, baseline="mine")
    assert "worse is not significantly different from plain" in paired_words("worse", found["worse"], several=True)


def test_another_column_and_what_no_test_says_anything_of(tmp_path):
    file = _write(tmp_path, [("a", "s", 0.5, ""), ("b", "s", 0.6, ""), ("c", "t", 1, "")], ("arm", "seed", "f1", "accuracy"))
    with pytest.raises(UsageError, match="c and a share no seed"):
        paired(file, baseline="a", value="f1")
    file = _write(tmp_path, [("a", "s", 0.5), ("b", "s", 0.6)], ("arm", "seed", "f1"))
    found = paired(file, baseline="a", value="f1")["b"]
    assert found["mean"] == pytest.approx(0.1)
    nothing = ("low", "high", "p", "p_holm", "bootstrap")
    assert [found[name] for name in nothing] == [None] * 5
    alike = paired(_write(tmp_path, _runs(plain=[1, 2], x=[2, 3])))["x"]
    assert [alike[name] for name in nothing] == [None] * 5
    assert "one seed says nothing about chance" in paired_words("b", found, baseline="a")


def test_tables_as_other_programs_write_them(tmp_path):
    file = _write(tmp_path, _runs(plain=PLAIN, mine=OTHER))
    expected, text = paired(file), file.read_text(encoding="utf-8")
    for other in (
        "\ufeff" + text,
        text.replace(",", ";"),
        text.replace(",", ";").replace(".", ","),
        text.replace(",", "\t"),
        text.replace(",", ", "),
        "sep=|\r\n" + text.replace(",", "|"),
        "sep=;\n" + text.replace(",", ";").replace(".", ","),
    ):
        file.write_text(other, encoding="utf-8")
        assert paired(file) == expected
    file.write_text(text.replace("mine", '"mine, too"'), encoding="utf-8")
    assert paired(file)["mine, too"] == expected["mine"]


def test_seeds_of_one_arm_alone_are_named(tmp_path):
    file = _write(tmp_path, [*_runs(plain=PLAIN, mine=OTHER), ("mine", "04", 70)])
    found = paired(file)["mine"]
    assert (found["seeds"], found["left_out"]) == (list("0123"), ["04"])
    assert paired_words("mine", found).endswith("seed 04.")


@pytest.mark.parametrize("value", ["accuracy", "Balanced accuracy", "test_acc"])
def test_shares_beside_percentages_are_warned_of(tmp_path, value):
    file = _write(tmp_path, _runs(plain=PLAIN, mine=[value / 100 for value in OTHER]), ("arm", "seed", value))
    with pytest.warns(UserWarning, match="shares and percentages"):
        paired(file, value=value)
    paired(_write(tmp_path, _runs(plain=[0.9, 0.8], mine=[30.0, 20.0]), ("arm", "seed", "loss")), value="loss")


@pytest.mark.parametrize(("last", "warned"), [("0.75", True), ("0.750", False), ("0.7501", False), ("0.76", False)])
def test_differences_that_rounding_makes_are_warned_of(tmp_path, last, warned):
    file = _write(tmp_path, _runs(plain=["0.71", "0.72", "0.73"], mine=["0.72", "0.73", last]))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert paired(file)["mine"]["p"] is not None
    assert ["last digit that is written" in str(warning.message) for warning in caught] == [True] * warned


def test_the_bootstrap_is_scipys():
    values, base = np.random.default_rng(0).normal(size=(2, 30))
    other = stats.bootstrap((values - base,), np.mean, method="percentile", rng=np.random.default_rng(1), n_resamples=20000)
    assert bootstrap(values, base, draws=20000) == pytest.approx(tuple(other.confidence_interval), abs=0.02)
    assert bootstrap(values, base) == bootstrap(values, base)
    assert bootstrap([1.0], [0.0]) is None


@pytest.mark.parametrize(
    ("runs", "columns", "words"),
    [
        ([], ("arm", "accuracy"), "no column 'seed'; available: arm, accuracy"),
        ([("x", 0, 1)], ("arm", "seed", "accuracy"), "no arm 'plain' .* available: x"),
        (_runs(plain=[1]), ("arm", "seed", "accuracy"), "plain is the only arm"),
        (_runs(plain=[1, "good"], x=[1, 2]), ("arm", "seed", "accuracy"), "line 3: .* got 'plain', '1', 'good'"),
        (_runs(plain=[1, "nan"], x=[1, 2]), ("arm", "seed", "accuracy"), "line 3: .* 'nan'"),
        ([("plain", 0)], ("arm", "seed", "accuracy"), "line 2: .* ''"),
        ([("plain", 0, 71), ("x", 0, 72, 9)], ("arm", "seed", "accuracy"), "line 3: more cells"),
        ([("plain", 0, 71, 70)], ("arm", "seed", "accuracy", "accuracy"), "'accuracy' appears twice"),
        ([*_runs(plain=[1], x=[1]), ("x", 0, 3)], ("arm", "seed", "accuracy"), "line 4: arm x, seed 0 "),
    ],
)
def test_what_is_no_table_of_results_is_one_line(tmp_path, capsys, runs, columns, words):
    file = _write(tmp_path, runs, columns)
    with pytest.raises(UsageError, match=words):
        paired(file)
    assert "results.csv" in one_error(capsys, "paired", str(file))


LINES = ["arm,seed,accuracy,note", *(f"{arm},{seed},{value},ok" for arm, seed, value in _runs(plain=PLAIN, mine=OTHER))]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('mine,4,40,"ok', "line 10.*quote"),  # which took the runs below it into its cell
        ("mine,mean,72.3,ok", "line 10.*'mean'"),  # which counted as one more seed
        ("mine,Average,72.3,ok", "line 10.*'Average'"),
        (f"mine,4,40,{'x' * 140_000}", "line 10.*limit"),
    ],
)
def test_lines_that_would_change_what_is_compared(tmp_path, line, words):
    file = tmp_path / "results.csv"
    file.write_text("\n".join([*LINES, line, "plain,4,1,ok"]), encoding="utf-8")
    with pytest.raises(UsageError, match=words):
        paired(file)


def test_points_and_commas_in_one_column_are_refused(tmp_path):
    file = tmp_path / "results.csv"
    file.write_text("arm;seed;accuracy\nplain;0;1.050\nplain;1;998,5\nmine;0;999,1\nmine;1;999,9\n", encoding="utf-8")
    with pytest.raises(UsageError, match="line 3.*998,5.*thousands"):
        paired(file)
    file.write_text("sep=;\n" + file.read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(UsageError, match="line 4.*998,5.*thousands"):
        paired(file)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\nmine,", "\n,,,\nmine,"),  # an empty line of a spreadsheet
        lambda text: text.replace("mine,0,", "mine,0.0,"),  # a column of pandas with a gap
        lambda text: text.replace("plain,0,", 'plain, "0",'),
        lambda text: text.replace(",", ";").replace("note", '"note, ours"'),
    ],
)
def test_other_spellings_of_the_same_table(tmp_path, change):
    file = tmp_path / "results.csv"
    file.write_text("\n".join(LINES), encoding="utf-8")
    expected = paired(file)
    file.write_text(change("\n".join(LINES)), encoding="utf-8")
    assert paired(file) == expected


def test_the_command(tmp_path, capsys):
    file = _write(tmp_path, _runs(plain=PLAIN, mine=OTHER))
    status, out, _ = run_command(capsys, "paired", str(file))
    assert status == 0
    table, sentence = out.strip().split("\n\n")
    assert table.splitlines()[1].split()[:3] == ["mine", "4", "+2.05"]
    assert "mine is above plain" in sentence
    assert "Holm" not in sentence
    assert "No such file" in one_error(capsys, "paired", str(tmp_path / "none.csv"))
    file.write_bytes("arm,seed,accuracy\nplain,0,1\nmäß,0,2\n".encode("latin-1"))
    assert "UTF-8" in one_error(capsys, "paired", str(file))


def test_the_command_keeps_to_80_columns(tmp_path, capsys):
    names = {"a-name-of-30-characters-or-more": OTHER, "x\ny": PLAIN[::-1]}
    _, out, _ = run_command(capsys, "paired", str(_write(tmp_path, [*_runs(plain=[-0.0123] * 4, **names)])))
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1] == "a-name-of-30-characters-or-more"
    assert next(line for line in lines if line.startswith("x")).startswith(r"x\ny")
    assert lines[0].index("difference") + len("difference") == lines[2].index("+72.31") + len("+72.31")


def test_wilsons_interval():
    assert wilson(45, 50) == pytest.approx((0.78640, 0.95652), abs=1e-5)
    assert wilson(0, 10) == pytest.approx((0, 0.27753), abs=1e-5)
    assert wilson(0, 0) == (0, 1)


def test_mcnemars_exact_p():
    assert mcnemar(0, 0) == 1
    assert mcnemar(5, 5) == mcnemar(3, 4) == 1
    assert mcnemar(0, 6) == pytest.approx(2 / 2**6)
    assert mcnemar(3, 14) == pytest.approx(stats.binomtest(3, 17).pvalue)
