import csv
import json
import math
import re

import numpy as np
import pytest
from scipy import stats

from factory import fake_result, fake_summary
from jpegdl.comparison.numbers import (
    NOT_TRAINED,
    narrow_table,
    recounted,
    summarize,
    summary_csv,
    summary_latex,
    summary_notes,
    summary_rows,
    summary_table,
    verdict,
    without_result,
)
from jpegdl.errors import folded
from jpegdl.statistics import holm, paired_difference


def _run(accuracy, seconds=10, layer=0, loss=1.0, **changes):
    return {
        "accuracy": accuracy, "loss": loss, "train_seconds": seconds, "layer_parameters": layer, "parameters": 1000 + layer,
        "versions": {"torch": "2.6"}, "machine": "one", **changes,
    }  # fmt: skip


def _runs(*accuracies, **changes):
    return {seed: _run(accuracy, **changes) for seed, accuracy in enumerate(accuracies)}


def _summary(results, failed=None, **changes):
    return fake_summary(results, failed, **{"backbone": "net", **changes})


def _table(results, failed=None, **changes):
    summary = _summary(results, failed, **changes)
    lines = summary_table(summary).splitlines()
    rows = [line for line in lines if line.startswith("| ")]
    assert len({len(line) for line in [*rows, lines[1]]}) == 1  # aligned
    header, *cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows]
    return [dict(zip(header, row, strict=True)) for row in cells], lines[len(rows) + 2 :]


# ---------------------------------------------------------------------------------------------------------------- tests


def test_paired_difference_is_students_t():
    values, baseline = [0.52, 0.535, 0.51, 0.54], [0.50, 0.51, 0.505, 0.50]
    ours = paired_difference(values, baseline)
    differences = [0.02, 0.025, 0.005, 0.04]
    mean = sum(differences) / 4
    sd = math.sqrt(sum((d - mean) ** 2 for d in differences) / 3)
    half = 3.182446 * sd / 2  # t quantile 0.975 for 3 degrees of freedom, from tables
    assert ours["mean"] == pytest.approx(mean)
    assert ours["low"] == pytest.approx(mean - half, rel=1e-5)
    assert ours["high"] == pytest.approx(mean + half, rel=1e-5)
    assert ours["p"] == pytest.approx(stats.ttest_rel(values, baseline).pvalue)
    assert paired_difference(baseline, values)["p"] == pytest.approx(ours["p"])


@pytest.mark.parametrize(("values", "baseline"), [([0.75], [0.5]), ([0.61, 0.72], [0.6, 0.71]), ([0.5, 0.5], [0.5, 0.5])])
def test_no_interval_where_there_is_none(values, baseline):
    mean = pytest.approx(values[0] - baseline[0])
    assert paired_difference(values, baseline) == {"mean": mean, "low": None, "high": None, "p": None}


@pytest.mark.parametrize("images", [60, 100, 400, 1602, 50_000])
def test_no_p_value_out_of_the_rounding_of_float32(images):
    """Every seed gains two images; their float32 shares differ by other amounts, 1e-8 apart."""
    right = np.arange(images // 4, images // 4 + 200)
    values, baseline = ((np.float32(counts) / np.float32(images)).astype(float).tolist() for counts in (right + 2, right))
    assert paired_difference(values, baseline)["p"] is None
    assert paired_difference(values, baseline, 1 / images)["p"] is None
    percent = ([100 * share for share in shares] for shares in (values, baseline))
    assert paired_difference(*percent)["p"] is None
    right[0] -= 1  # one image in one seed is a difference
    exact = [(right / images).tolist(), (np.arange(images // 4, images // 4 + 200) - 2) / images]
    found = paired_difference(exact[0], exact[1].tolist(), 1 / images)
    assert found["p"] == pytest.approx(stats.ttest_rel(*exact).pvalue, rel=1e-6)


def _counted_run(correct, images, exact=True, digest="1", **changes):
    accuracy = {"correct": correct, "images": images} if exact else {}
    share = correct / images if exact else float(np.float32(correct) / np.float32(images))
    test = {"images": images, "digest": digest}
    return _run(share, **accuracy, data={"classes": ["a"], "train": test, "test": test}, **changes)


def test_summaries_of_earlier_versions_are_counted_again():
    """400 images, three seeds, two more right in each: their p value was 4e-12."""
    plain, more = [129, 104, 106], [131, 106, 108]
    both = [
        summarize({"plain": runs[0], "jpeg-dl": runs[1], "ste": runs[1]}, {})
        for exact in (True, False)
        for runs in [[{s: _counted_run(c, 400, exact) for s, c in enumerate(counts)} for counts in (plain, more)]]
    ]
    new, old = both
    assert new["arms"]["jpeg-dl"]["difference"] == {
        "seeds": [0, 1, 2], "mean": pytest.approx(0.005), "low": None, "high": None, "p": None, "p_holm": None,
    }  # fmt: skip
    old["arms"]["ste"]["difference"] |= {"p": 4e-12, "low": 0.005, "high": 0.005, "p_holm": 4e-12}
    for entry in old["arms"].values():
        del entry["other_images"]
    assert recounted(old)["arms"] == recounted(new)["arms"] == new["arms"]
    assert verdict({"data": "x", **recounted(old)}).endswith("against plain; all seeds differ alike, and no test applies.")
    equal = [{s: _counted_run(200, 400, True) for s in range(2)} for _ in range(2)]
    level = summarize(dict(zip(("plain", "ste"), equal, strict=True)), {})
    assert verdict({"data": "x", **level}).endswith("no seed differs, and no test applies.")


def test_no_difference_of_runs_that_were_tested_on_other_images():
    plain = {seed: _counted_run(20 + seed, 48) for seed in range(3)}
    others = {
        "fewer": ({seed: _counted_run(9 + seed, 20) for seed in range(3)}, "20 in place of 48"),
        "others": ({seed: _counted_run(30 + seed, 48, digest="2") for seed in range(3)}, "as many test images, but other ones"),
    }
    for arm, (runs, why) in others.items():
        results = {"plain": plain, arm: runs}
        rows, notes = _table(results)
        assert rows[1]["difference from plain [95 % interval]"] == "other test images"
        assert rows[1]["p"] == ""
        assert any(note.startswith(f"{arm} was tested on other images than plain ({why}") for note in notes)
        assert verdict({"data": "x", **summarize(results, {})}) == (
            "There is nothing to compare: no arm beside plain has a result on the test images of plain."
        )
    # A seed whose images are the same counts, and no other.
    summary = summarize({"plain": plain, "mixed": {0: others["fewer"][0][0], 1: plain[1]}}, {})
    assert summary["arms"]["mixed"]["difference"]["seeds"] == [1]


def test_code_and_sizes_that_changed_between_runs_are_said():
    runs = {
        0: _run(0.5, parameters=260, code={"helper": "1", "net:make": "3"}),
        1: _run(0.5, parameters=772, code={"helper": "2"}),
    }
    summary = summarize({"plain": runs}, {})
    assert summary["mixed"] == {"code of helper": ["1", "2"], "parameters of plain": ["260", "772"]}
    assert any(
        "code of helper changed; parameters of plain 260 or 772" in note for note in summary_notes({"backbone": "x", **summary})
    )


@pytest.mark.parametrize(
    ("raw", "corrected"),
    [
        # By hand: 0.005 x 4, 0.01 x 3, then 0.03 x 2, and 0.04 x 1, which may not be less than the one before.
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.5, 0.9, 0.4], [1.0, 1.0, 1.0]),  # 0.4 x 3 is capped
        ([0.02, 0.02], [0.04, 0.04]),
        ([0.3], [0.3]),
        ([], []),
    ],
)
def test_holm(raw, corrected):
    assert holm(raw) == pytest.approx(corrected)


# -------------------------------------------------------------------------------------------------------------- summary


def test_everything_is_a_share_of_one():
    summary = summarize({"plain": _runs(0.50, 0.52, 0.51), "jpeg-dl": _runs(0.55, 0.56, 0.57, layer=128)}, {})
    arm = summary["arms"]["jpeg-dl"]
    assert arm["accuracy"] == [0.55, 0.56, 0.57]
    assert arm["mean"] == pytest.approx(0.56)
    assert arm["sd"] == pytest.approx(0.01)
    assert arm["difference"]["mean"] == pytest.approx(0.05)
    assert (arm["difference"]["low"], arm["difference"]["high"]) == pytest.approx((0.02516, 0.07484), abs=1e-5)
    assert "p_holm" not in arm["difference"]  # nothing to correct with one arm beside plain
    assert summary["seeds"] == [0, 1, 2]
    assert summary["failed"] == []
    assert summary["mixed"] == {}
    assert json.loads(json.dumps(summary)) == summary


def test_arms_are_paired_over_the_seeds_that_both_have():
    plain = {0: _run(0.5, seconds=10), 1: _run(0.6, seconds=20), 3: _run(0.9)}
    arm = {3: _run(0.95, seconds=20), 1: _run(0.67, seconds=20), 2: _run(0.1)}
    summary = summarize({"plain": plain, "gain": arm}, {"plain": {2: "the disk was full"}})
    entry = summary["arms"]["gain"]
    assert summary["seeds"] == [0, 1, 2, 3]
    assert (entry["seeds"], entry["accuracy"]) == ([1, 2, 3], [0.67, 0.1, 0.95])
    assert entry["difference"]["seeds"] == [1, 3]
    assert entry["difference"]["mean"] == pytest.approx(0.06)
    assert entry["time_ratio"] == pytest.approx(1.5)
    assert summary["failed"] == [
        {"arm": "plain", "seed": 2, "why": "the disk was full"},
        {"arm": "gain", "seed": 0, "why": NOT_TRAINED},
    ]


@pytest.mark.parametrize("bad", [{"accuracy": math.nan}, {"loss": math.nan}, {"loss": math.inf}])
@pytest.mark.parametrize("arm", ["plain", "gain"])
def test_a_result_that_is_not_finite_costs_its_seed_alone(arm, bad):
    results = {"plain": _runs(0.5, 0.6, 0.7), "gain": _runs(0.6, 0.8, 0.8)}
    results[arm][1] |= bad
    summary = summarize(results, {})
    assert summary["arms"][arm]["seeds"] == [0, 2]
    assert summary["arms"]["gain"]["difference"]["seeds"] == [0, 2]
    assert summary["arms"]["gain"]["difference"]["mean"] == pytest.approx(0.1)
    assert summary["failed"] == [{"arm": arm, "seed": 1, "why": "loss is not finite"}]
    assert "NaN" not in json.dumps(summary)


def test_p_is_corrected_over_the_arms_that_have_one():
    results = {
        "plain": _runs(0.50, 0.52, 0.51),
        "jpeg-dl": _runs(0.55, 0.56, 0.57),
        "gain": _runs(0.52, 0.53, 0.55),
        "same": _runs(0.51, 0.53, 0.52),  # always 0.01 more: nothing to test
        "one": {0: _run(0.6)},
    }
    gains = {arm: entry["difference"] for arm, entry in summarize(results, {})["arms"].items()}
    tested = [gains["jpeg-dl"]["p"], gains["gain"]["p"]]
    assert tested[0] < tested[1]
    assert gains["jpeg-dl"]["p_holm"] == pytest.approx(2 * tested[0])
    assert gains["gain"]["p_holm"] == pytest.approx(max(2 * tested[0], tested[1]))
    assert gains["same"]["p_holm"] is gains["one"]["p_holm"] is gains["plain"] is None


def test_an_arm_without_results_is_there():
    summary = summarize({"plain": _runs(0.5, 0.6), "gain": {0: _run(math.nan)}}, {"ste": {0: "it diverged"}, "gain": {1: "no"}})
    nothing = {
        "seeds": [], "accuracy": [], "mean": None, "sd": None, "difference": None, "layer_parameters": None,
        "parameters": None, "time_ratio": None, "other_images": None,
    }  # fmt: skip
    assert summary["arms"]["ste"] == summary["arms"]["gain"] == nothing
    assert [(entry["arm"], entry["seed"], entry["why"]) for entry in summary["failed"]] == [
        ("gain", 0, "loss is not finite"),
        ("gain", 1, "no"),
        ("ste", 0, "it diverged"),
        ("ste", 1, NOT_TRAINED),
    ]


def test_mixed_versions_and_machines_are_said():
    results = {"plain": _runs(0.5, 0.6), "gain": _runs(0.6, 0.8)}
    results["gain"][1] |= {"versions": {"torch": "2.7"}, "machine": "another"}
    assert summarize(results, {})["mixed"] == {"torch": ["2.6", "2.7"], "machine": ["one", "another"]}
    _, notes = _table(results)
    assert any("torch 2.6 or 2.7; machine one or another" in note for note in notes)


# ---------------------------------------------------------------------------------------------------------------- table


def test_the_table_of_two_arms():
    results = {
        "plain": _runs(0.50, 0.52, 0.51),
        "jpeg-dl": {s: _run(a, 11 + s, 128) for s, a in enumerate((0.55, 0.56, 0.57))},
    }
    summary = {"backbone": "net", "data": "photos", **summarize(results, {})}
    assert summary_table(summary) == (
        "| arm     | test accuracy, % | difference from plain [95 % interval] | p     | extra parameters | training time |\n"
        "|---------|------------------|---------------------------------------|-------|------------------|---------------|\n"
        "| plain   | 51.00 ± 1.00     |                                       |       | 0                | x1.00         |\n"
        "| jpeg-dl | 56.00 ± 1.00     | +5.00 [+2.52, +7.48]                  | 0.013 | 128              | x1.20         |\n"
        "\n"
        "net, seeds 0, 1, 2; mean ± sample sd over 3 seeds. Interval and p: paired t test over seeds.\n"
    )


def test_the_table_of_many_arms():
    results = {
        "plain": _runs(0.50, 0.52, 0.51),
        "jpeg-dl": _runs(0.55, 0.56, 0.57),
        "gain": {0: _run(0.52), 2: _run(0.56)},
        "alone": {1: _run(0.53)},
    }
    failed = {"gain": {1: "the loss is nan\nin  epoch 3"}, "ste": {0: "it diverged", 1: "it diverged", 2: "it was killed"}}
    rows, notes = _table(results, failed)
    plain, jpeg, gain, alone, ste = rows
    assert plain["test accuracy, %"] == "51.00 ± 1.00"
    assert plain["p (Holm)"] == plain["difference from plain [95 % interval]"] == ""
    assert (jpeg["p"], jpeg["p (Holm)"]) == ("0.013", "0.026")
    assert gain["test accuracy, %"] == "54.00 ± 2.83 (2 of 3 seeds)"
    assert gain["difference from plain [95 % interval]"].endswith("] (2 of 3 seeds)")
    assert alone["test accuracy, %"] == "53.00 (1 of 3 seeds)"
    assert alone["difference from plain [95 % interval]"] == "+1.00 (1 of 3 seeds)"
    assert list(ste.values()) == ["ste", "failed", *[""] * 5]
    assert notes[0].endswith("Interval and p: paired t test over the seeds that both arms have.")
    assert "tested against plain, 2." in notes[1]
    assert notes[notes.index("Without a result:") + 2 :] == [
        "- gain, seed 1: the loss is nan in epoch 3",
        "- alone, seeds 0, 2: not trained",
        "- ste, seeds 0, 1: it diverged",
        "- ste, seed 2: it was killed",
    ]


def test_one_reason_is_said_once_with_all_runs_it_holds_for():
    failed = [{"arm": arm, "seed": seed, "why": "no room\nleft"} for arm in ("plain", "ste") for seed in (0, 1)]
    failed.insert(2, {"arm": "plain", "seed": 2, "why": "it diverged"})
    assert without_result(failed) == ["plain, seeds 0, 1; ste, seeds 0, 1: no room left", "plain, seed 2: it diverged"]


def test_an_arm_that_shares_no_seed_with_plain():
    (plain, gain), _ = _table({"plain": {0: _run(0.5)}, "gain": {1: _run(0.6)}})
    assert plain["test accuracy, %"] == "50.00 (1 of 2 seeds)"
    assert gain["difference from plain [95 % interval]"] == "no seed in common"
    assert gain["training time"] == ""


def test_one_seed_and_made_up_images_are_said():
    _, notes = _table({"plain": {4: _run(0.5)}, "gain": {4: _run(0.6)}}, data="made-up")
    assert notes == [
        "net, seed 4 alone: no interval, and a difference may be chance.",
        "Made-up images: these numbers mean nothing.",
    ]


def test_a_small_p_keeps_a_digit():
    rows, _ = _table({"plain": _runs(0.5, 0.5, 0.5), "gain": _runs(0.7, 0.701, 0.702)})
    assert rows[1]["p"] == "8e-06"


def test_the_verdict_says_what_is_shown_and_no_more():
    plain = _runs(0.50, 0.51, 0.52)
    gaining = _summary({"plain": plain, "jpeg-dl": _runs(0.61, 0.60, 0.63, seconds=11)})
    p = stats.ttest_rel([0.61, 0.60, 0.63], [0.50, 0.51, 0.52]).pvalue
    assert verdict(gaining).startswith("jpeg-dl beats plain: +10.33 points of test accuracy [")
    assert f"p = {p:.3f}, 3 seeds, x1.10 training time." in verdict(gaining)
    losing = _summary({"plain": _runs(0.61, 0.60, 0.63), "jpeg-dl": plain})
    assert verdict(losing).startswith("jpeg-dl loses to plain: -10.33 points")
    unclear = _summary({"plain": plain, "jpeg-dl": _runs(0.80, 0.51, 0.52)})
    assert verdict(unclear).startswith("jpeg-dl is not significantly different from plain: +10.00 points")
    alone = _summary({"plain": _runs(0.5), "jpeg-dl": _runs(0.6)})
    assert verdict(alone) == (
        "jpeg-dl: +10.00 points of test accuracy against plain; one seed says nothing about chance: give at least 3."
    )
    assert "nothing to compare" in verdict(_summary({"plain": plain}))
    assert "mean nothing" in verdict(_summary({"plain": plain, "jpeg-dl": _runs(0.6, 0.6, 0.7)}, data="made-up"))


def test_the_verdict_over_several_arms_is_corrected():
    plain = _runs(0.50, 0.51, 0.52)
    arms = {"plain": plain, "jpeg-dl": _runs(0.53, 0.55, 0.545), "gain": _runs(0.62, 0.60, 0.63)}
    summary = _summary(arms)
    assert summary["arms"]["jpeg-dl"]["difference"]["p"] < 0.05
    assert verdict(summary).startswith("gain, the best of 2 arms, beats plain: +10.67")
    assert "after Holm's correction" in verdict(summary)
    assert verdict(summary).endswith("So does jpeg-dl.")
    noise = {f"arm{i}": _runs(0.5, 0.52, 0.5) for i in range(20)}
    assert "So do" not in verdict(_summary({**arms, **noise}))


def test_csv_holds_the_numbers_of_the_summary():
    summary = _summary({"plain": _runs(0.50, 0.51), "a,b": _runs(0.53, 0.56), "dead": {}}, {"dead": {0: "it died"}})
    rows = {row["arm"]: row for row in csv.DictReader(summary_csv(summary).splitlines())}
    assert list(rows) == ["plain", "a,b", "dead"]
    gain = summary["arms"]["a,b"]["difference"]
    for name in ("mean", "low", "high", "p", "p_holm"):
        assert float(rows["a,b"][f"difference_{name}"]) == pytest.approx(gain[name], rel=1e-5)
    assert float(rows["plain"]["accuracy_mean"]) == 0.505
    assert rows["plain"]["difference_mean"] == rows["dead"]["accuracy_mean"] == ""
    assert rows["a,b"]["difference_seeds"] == "2"


def test_csv_has_no_noise_of_float32():
    summary = _summary({"plain": _runs(float(np.float32(0.66))), "b": _runs(0.7)})
    assert summary["arms"]["plain"]["mean"] != 0.66
    assert summary_csv(summary).splitlines()[1].split(",")[4] == "0.66"


def test_notes_say_how_much_one_image_is_and_when_times_are_too_short():
    runs = {0: {**_runs(0.5)[0], "data": {"test": {"images": 400}}, "train_seconds": 3.0}}
    notes = summary_notes(_summary({"plain": runs, "b": runs}))
    assert "400 test images: one of them is 0.25 points." in notes
    assert "Plain trained for 3.0 seconds, too short to compare training times." in notes
    runs[0]["train_seconds"] = 30.0
    assert not any("too short" in note for note in summary_notes(_summary({"plain": runs, "b": runs})))


def test_notes_name_the_part_whose_pictures_come_under_several_classes():
    counts = {"train": 1, "test": 2, "validation": 3}
    notes = " ".join(summary_notes({**_summary({"plain": _runs(0.5)}), "several_classes": counts}))
    assert all(words in notes for words in ("1 training picture", "2 test pictures", "3 held-out pictures"))


@pytest.mark.parametrize("noisy", [(0.9,), (0.5, 0.9, 0.5)])
def test_the_verdict_names_an_arm_that_gained_behind_one_that_may_not_have(noisy):
    arms = {"plain": _runs(0.50, 0.51, 0.52), "gain": _runs(*noisy), "jpeg-dl": _runs(0.60, 0.612, 0.621)}
    assert verdict(_summary(arms)).startswith("gain, the best of 2 arms")
    assert verdict(_summary(arms)).endswith(" But jpeg-dl beats plain.")


def test_notes_say_which_test_images_were_seen_before():
    notes = summary_notes({**_summary({"plain": _runs(0.5)}), "test_in_train": 1, "test_in_validation": 2})
    assert "1 of these is also a training image." in notes
    assert "2 of these are also held-out images." in notes


def test_latex_escapes_what_latex_reads():
    summary = _summary({"plain": _runs(0.50, 0.51), "my_arm": _runs(0.48, 0.50)}, backbone="net_a & b")
    text = summary_latex(summary)
    assert r"my\_arm" in text
    assert r"net\_a \& b" in text
    assert r"$\pm$" in text
    assert "±" not in text
    assert "$-$1.50" in text  # a minus, not a hyphen
    body = re.search(r"\\midrule\n(.*?)\s*\\bottomrule", text, re.S).group(1).splitlines()
    assert len(body) == 2
    columns = len(re.search(r"\\begin{tabular}{(\w+)}", text).group(1))
    assert all(len(re.split(r"(?<!\\)&", row)) == columns for row in body)
    assert not re.search(r"(?<!\\)[%#]", text)


def test_a_table_for_a_screen_fits_it():
    arms = ("plain", "jpeg-dl", "local-contrast", "faint-dc")
    results = {arm: {seed: fake_result(0.5 + 0.01 * len(arm) * seed) for seed in range(5)} for arm in arms}
    del results["faint-dc"][3]
    summary = fake_summary(results)
    lines = narrow_table(summary).splitlines()
    assert max(map(len, lines)) <= 80
    body = " ".join(" ".join(lines).split())
    for row in summary_rows(summary)[1:]:
        for cell in row:
            for piece in re.findall(r"\[.*?\]|\S+ ± \S+|[^ ]+(?= \[)", cell):  # an interval is on one line
                assert piece in body
    assert sum("(4 of 5 seeds)" in line for line in lines) >= 1
    assert body.count("x1.00") == 4
    assert all(len(folded(note)) >= len(note) for note in summary_notes(summary))
