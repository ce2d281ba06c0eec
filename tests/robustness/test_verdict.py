"""What single attacks say together, from made-up outcomes, and figures of several runs."""

import copy

import numpy as np
import pytest

from jpegdl.errors import UsageError
from jpegdl.robustness import attack_figure, attack_rows
from jpegdl.robustness.robust_accuracy import AttackOutcome, Trial, bits, from_bits, levels, masking, sign_test


def _outcome(attack, gradient, broken, eps=8 / 255, norm="Linf"):
    return AttackOutcome(Trial(attack, gradient, norm, eps), from_bits(broken), eps, None)


RIGHT = from_bits("1111111100")


def test_the_worst_over_all_attacks_and_who_broke_what_alone():
    (level,) = levels(
        [
            _outcome("pgd", "own", "1000000000"),
            _outcome("pgd", "ste", "1110000000"),
            _outcome("apgd-ce", "own", "1001000000"),
            _outcome("square", "black-box", "0000100000"),
        ],
        RIGHT,
    )
    assert level["accuracy"] == 0.3
    assert level["robust"] == "0000011100"
    assert level["own_gradient"] == 0.6
    assert level["won"] == {"attack": "pgd", "gradient": "ste"}
    assert [trial["alone"] for trial in level["trials"]] == [0, 0.2, 0.1, 0.1]
    assert [trial["accuracy"] for trial in level["trials"]] == [0.7, 0.5, 0.6, 0.7]
    assert level["by_gradient"] == {
        "own": {"accuracy": 0.6, "alone": 0.1},
        "ste": {"accuracy": 0.5, "alone": 0.2},
        "black-box": {"accuracy": 0.7, "alone": 0.1},
    }
    assert level["by_attack"]["pgd"] == {"accuracy": 0.5, "alone": 0.2}


def test_what_is_broken_at_one_eps_is_broken_at_every_larger_one_of_the_norm():
    found = levels(
        [
            _outcome("fgsm", "own", "0010000000", 4 / 255),
            _outcome("fgsm", "own", "1000000000", 2 / 255),
            _outcome("fgsm", "own", "0001000000", 3.0, "L2"),
        ],
        RIGHT,
    )
    assert [(level["norm"], round(level["eps_255"]), level["accuracy"]) for level in found] == [
        ("Linf", 2, 0.7),
        ("Linf", 4, 0.6),
        ("L2", 765, 0.7),
    ]
    assert found[1]["own_gradient"] == 0.6
    assert found[1]["trials"][0]["accuracy"] == 0.7  # of the attack itself


def test_flags_where_others_break_what_the_own_gradient_cannot():
    right = np.ones(20, dtype=bool)
    some, many = bits(np.arange(20) < 2), bits((np.arange(20) >= 2) & (np.arange(20) < 14))
    own = _outcome("pgd", "own", some)
    for rival, name in (
        (_outcome("square", "black-box", many), "the black box attack"),
        (_outcome("pgd", "plain", many), "transfer from the plain model"),
        (_outcome("pgd", "ste", many), "the surrogate gradient ste"),
    ):
        (flag,) = masking([own, rival], [], right, 0.1)["flags"]
        assert flag["text"].startswith(
            f"{name} broke 12 images that no attack through the layer's own gradient did, and missed 2"
        )
        assert flag["eps_255"] == 8
        turned = [_outcome("pgd", "own", many), _outcome(rival.trial.attack, rival.trial.gradient, some)]
        assert masking(turned, [], right, 0.1) == {"flags": [], "check": None}
    one_more = bits(np.arange(20) < 3)
    assert masking([own, _outcome("square", "black-box", one_more)], [], right, 0.1)["flags"] == []


def test_flags_where_the_check_leaves_accuracy():
    right = np.ones(20, dtype=bool)
    check = [_outcome("pgd-strong", gradient, bits(np.arange(20) < n), 64 / 255) for gradient, n in (("own", 10), ("ste", 19))]
    found = masking([], check, right, 0.1)
    assert found["check"] == {
        "attack": "pgd-strong", "norm": "Linf", "eps_255": 64.0, "own_gradient": 0.5, "accuracy": pytest.approx(0.05),
    }  # fmt: skip
    own, every = (flag["text"] for flag in found["flags"])
    assert own.startswith("pgd-strong through the layer's own gradient leaves 50.0 % at 64/255, where nothing should be left")
    assert own.endswith("(above chance, 10.0 %)")
    assert every.startswith("pgd-strong with all of the gradients own, ste leaves 5.0 % at 64/255")
    assert every.endswith("(not above chance, 10.0 %)")
    assert masking([], [_outcome("pgd-strong", "own", "1" * 20, 64 / 255)], right, 0.1)["flags"] == []


def test_two_surrogates_are_not_two_tries_against_one():
    """Three gradients that each break another half of the images: none of them is better than the others."""
    right = np.ones(40, dtype=bool)
    own, ste, identity = (
        _outcome("pgd", gradient, bits((np.arange(40) // width) % 2 == 0))
        for gradient, width in (("own", 1), ("ste", 2), ("identity", 4))
    )
    assert masking([own, ste, identity], [], right, 0.1)["flags"] == []


def test_a_check_through_the_own_gradient_alone_says_nothing_of_others():
    (flag,) = masking([], [_outcome("pgd-strong", "own", "0" * 20, 64 / 255)], np.ones(20, dtype=bool), 0.1)["flags"]
    assert flag["text"].startswith("pgd-strong through the layer's own gradient leaves 100.0 %")


def test_the_sign_test():
    assert sign_test(5, 0) == 1 / 32
    assert sign_test(1, 1) == 3 / 4
    assert sign_test(0, 0) == 1


# ---------------------------------------------------------------------------------------------------------------- figures


def _result(arm, seed, shift=0):
    broken = {2: 2 + shift, 4: 4 + shift, 8: 7}
    outcomes = [
        _outcome(attack, gradient, bits(np.arange(10) < n - less), eps / 255)
        for eps, n in broken.items()
        for attack, gradient, less in (("pgd", "own", 1), ("pgd", "ste", 0))
    ]
    return {
        "arm": arm, "seed": seed, "rounding": "soft", "classes": 4, "images": 10, "indices": list(range(10)),
        "data": {"name": "photos"}, "plain": None, "clean": {"accuracy": 0.8}, "levels": levels(outcomes, RIGHT),
        "corruptions": {"mean": 0.5, "by": {"fog": {"mean": 0.5, "by": {"1": 0.5}}}}, "jpeg": {"mean": 0.6, "by": {"10": 0.6}},
        "settings": {"eps": [2, 4, 8], "accelerator": "cpu"},
    }  # fmt: skip


def test_rows_of_several_runs():
    rows = attack_rows({"jpeg-dl": {0: _result("jpeg-dl", 0)}, "plain": {0: _result("plain", 0)}})
    assert len(rows) == 2 * (1 + 3 * 4 + 2)
    assert {tuple(row) for row in rows} == {tuple(rows[0])}
    assert [(row["attack"], row["gradient"], row["accuracy"]) for row in rows[:5]] == [
        ("none", "", 0.8), ("all", "adaptive", 0.6), ("all", "own", 0.7), ("pgd", "own", 0.7), ("pgd", "ste", 0.6),
    ]  # fmt: skip
    assert [(row["attack"], row["gradient"]) for row in rows[13:15]] == [("corruption", "fog 1"), ("jpeg", "10")]


def test_the_figure_shows_each_arm_adaptive_and_through_its_own_gradient(tmp_path):
    results = {
        "plain": {seed: _result("plain", seed, seed) for seed in (0, 1, 2)},
        "jpeg-dl": {seed: _result("jpeg-dl", seed) for seed in (0, 1, 2)},
    }
    figure = attack_figure(results)
    (axes,) = figure.axes
    solid, dashed = axes.lines[0], axes.lines[1]
    assert solid.get_label() == "plain"
    assert list(solid.get_xdata()) == [0, 2, 4, 8]
    assert list(solid.get_ydata()) == pytest.approx([80, 50, 30, 10])
    assert list(dashed.get_ydata()) == pytest.approx([80, 60, 40, 20])
    assert (solid.get_linestyle(), dashed.get_linestyle()) == ("-", "--")
    assert len(axes.collections) == 2  # bands
    figure.savefig(tmp_path / "attack.png")
    two = attack_figure({"plain": {seed: _result("plain", seed, seed) for seed in (0, 1)}})  # an interval would say nothing
    assert not two.axes[0].collections
    solid, *thin, dashed = two.axes[0].lines
    assert [list(line.get_ydata()) for line in thin] == [pytest.approx([80, y, y - 20, 10]) for y in (60, 50)]
    assert "thin: each of two seeds" in two.get_suptitle()
    one = attack_figure({"plain": {0: _result("plain", 0)}})
    assert not one.axes[0].collections
    nothing = _result("plain", 0)
    nothing["levels"] = []
    assert attack_figure({"plain": {0: nothing}}) is None


def test_runs_that_were_attacked_differently_are_not_put_in_one_figure():
    first = _result("plain", 0)
    for part, value in (("indices", [1]), ("settings", {"eps": [1], "accelerator": "cpu"})):
        other = copy.deepcopy(first)
        other[part] = value
        with pytest.raises(UsageError, match=r"plain, seed 0 and jpeg-dl, seed 0 were attacked differently \("):
            attack_figure({"plain": {0: first}, "jpeg-dl": {0: other}})
    other = copy.deepcopy(first)
    other["settings"]["accelerator"] = "gpu"
    assert attack_figure({"plain": {0: first}, "jpeg-dl": {0: other}}) is not None
    with pytest.raises(UsageError, match="at least one run"):
        attack_figure({})


def test_what_an_earlier_version_found_stands_beside_what_is_found_now():
    older, newer = _result("plain", 0), _result("jpeg-dl", 0)
    older["settings"] |= {"attack_seed": 0, "accelerator": "cpu", "data_path": None, "workers": 0}
    where = {"device": "auto", "data": {"path": None, "workers": 0}}
    newer["settings"] = {"eps": older["settings"]["eps"], "images_seed": 0, **where}
    for first, second in ((older, newer), (newer, older)):
        assert attack_figure({"plain": {0: first}, "jpeg-dl": {0: second}}) is not None
    newer["settings"]["images_seed"] = 1
    for first, second in ((older, newer), (newer, older)):
        with pytest.raises(UsageError, match=r"attacked differently \(settings.images_seed\)"):
            attack_figure({"plain": {0: first}, "jpeg-dl": {0: second}})


def test_seeds_with_and_without_transfer_are_not_averaged():
    with_plain = {**_result("jpeg-dl", 1), "plain": {"accuracy": 0.8}}
    with pytest.raises(UsageError, match="some seeds of jpeg-dl .*plain model"):
        attack_figure({"jpeg-dl": {0: _result("jpeg-dl", 0), 1: with_plain}})
