"""Frequency ablation against altering the layer by hand."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from factory import made_up_config, make_run
from jpegdl import functional as F
from jpegdl.explain import ExplainConfig, ablation, explain_run
from jpegdl.explain.ablation import Ablation, alternative, judge, variants_of
from jpegdl.explain.subject import open_subject
from jpegdl.layer import GainLayer, JpegLayer, SubsampledJpegLayer
from jpegdl.statistics import paired_interval


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model that is right on most of its images, behind coarse steps and a low cap."""
    return make_run(tmp_path_factory.mktemp("ablation") / "run", made_up_config(classes=10, bits=3), steps=12, quality=10)


def _by_hand(subject, kind, plane, row, column):
    """Accuracy and per-image correctness with one frequency altered, the plain way: a whole model for it."""
    layer, right = subject.layer, []
    for index in range(len(subject.data.test)):
        image, target = subject.data.test[index]
        with torch.no_grad():
            z = layer.to_coefficients(image[None])
            q, alpha = layer.steps[:, None, None], layer.alpha[:, None, None]
            out = F.soft_quantize(z, q, alpha, bits=layer.bits, window=layer.window)
            for channel in (0,) if plane == "luma" else (1, 2):
                at = z[:, channel, :, :, row, column]
                step, sharp = layer.steps[channel, row, column], layer.alpha[channel, row, column]
                altered = {
                    "removed": torch.zeros_like(at),
                    "uncapped": F.soft_quantize(at, step, sharp, bits=None, window=5),
                    "unquantized": F.saturate(at, step, bits=layer.bits),
                }
                out[:, channel, :, :, row, column] = altered[kind]
            x = F.coefficients_to_images(out, image.shape[1:])
            logits = subject.model.backbone((x - subject.model.mean) / subject.model.std)
        right.append(int(logits.argmax()) == target)
    return right


def test_the_same_accuracy_as_by_hand(folder, monkeypatch):
    subject = open_subject(folder, ExplainConfig(batch_size=7), None)
    chosen = [
        ("removed", "luma", 0, 0), ("removed", "luma", 0, 1), ("removed", "chroma", 0, 0), ("uncapped", "luma", 0, 0),
        ("uncapped", "chroma", 1, 0), ("unquantized", "luma", 0, 0), ("unquantized", "chroma", 0, 0),
    ]  # fmt: skip
    counted, saved = {}, []
    images, correct = Ablation(subject).run([chosen[:3], chosen[3:]], counted, lambda c: saved.append(len(c)), lambda *a: None)
    with torch.no_grad():
        whole = [int(subject.model(subject.data.test[i][0][None]).argmax()) == subject.data.test[i][1] for i in range(images)]
    assert correct == sum(whole)
    assert saved == [3, 7]
    judged = judge(counted, images, correct)
    changes = 0
    for variant in chosen:
        right = _by_hand(subject, *variant)
        lost, gained = counted[ablation.name_of(variant)]
        assert lost == sum(w and not r for w, r in zip(whole, right, strict=True)), variant
        assert gained == sum(r and not w for w, r in zip(whole, right, strict=True)), variant
        assert judged[ablation.name_of(variant)]["accuracy"] == pytest.approx(sum(right) / images)
        changes += lost + gained
    assert changes > 5  # else nothing was compared


def test_images_that_nothing_changes_are_not_tested(folder, monkeypatch):
    subject = open_subject(folder, ExplainConfig(), None)
    run = Ablation(subject)
    with torch.no_grad():
        subject.layer.luma[5, 5] = 200.0  # never at the cap
    right, tested = run._test_all(), []
    monkeypatch.setattr(run, "_are_right", lambda z, *args: tested.append(len(z)) or [True] * len(z))
    run._test([("uncapped", "luma", 5, 5)], right)
    assert tested == []
    run._test([("removed", "luma", 0, 0), ("removed", "luma", 0, 1)], right)
    assert sum(tested) == 2 * len(right)


def test_alternatives_are_the_layers_own_quantizer():
    class Dead(JpegLayer):
        def alter(self, z):
            return super().alter(z).masked_fill(z.abs() < 3, 0)

    z = torch.randn(2, 3, 1, 1, 8, 8) * 20
    layer = Dead(1.0, 2.0, bits=3)
    uncapped = alternative(layer, "uncapped", z)
    q = layer.steps[:, None, None]
    expected = F.soft_quantize(z, q, layer.alpha[:, None, None], bits=None).masked_fill(z.abs() < 3, 0)
    torch.testing.assert_close(uncapped, expected)
    expected = F.saturate(z, q, bits=3).masked_fill(z.abs() < 3, 0)
    torch.testing.assert_close(alternative(layer, "unquantized", z), expected)
    assert (layer.bits, layer.rounding) == (3, "soft")
    cap_only = JpegLayer(1.0, 2.0, bits=3, rounding="none")
    assert torch.equal(alternative(cap_only, "uncapped", z), z)
    z = torch.randn(2, 6, 1, 1, 8, 8) * 20
    assert alternative(SubsampledJpegLayer(1.0, 2.0, bits=3), "uncapped", z).abs().max() > 20


def test_which_variants_there_are():
    left_out = []
    groups = variants_of(JpegLayer(), False, left_out)
    assert (len(groups), sum(map(len, groups)), left_out) == (48, 384, [])
    assert groups[0][0] == ("removed", "luma", 0, 0)
    assert len(variants_of(JpegLayer(), True, left_out)) == 24
    assert left_out == [{"what": "ablation: chroma", "why": "all test images are grey"}]
    assert len(variants_of(GainLayer(), False, [])) == 16


def test_intervals_and_significance():
    # Agresti and Min's interval in its own terms: Wald's with b + 1/2, c + 1/2, n + 2.
    low, high = paired_interval(20, 5, 100)
    difference, error = (5.5 - 20.5) / 102, np.sqrt((20.5 + 5.5) - (5.5 - 20.5) ** 2 / 102) / 102
    np.testing.assert_allclose([low, high], [difference - 1.959964 * error, difference + 1.959964 * error], rtol=1e-6)
    assert paired_interval(0, 0, 10)[0] < 0 < paired_interval(0, 0, 10)[1]
    assert paired_interval(1, 0, 1)[0] >= -1
    judged = judge({"a": [20, 5], "b": [0, 0], "c": [3, 4], "d": [0, 6]}, 100, 60)
    # Two-sided binomial: 2 P(X <= 5) for X of 25 fair coins is 68406 / 2^24.
    assert judged["a"]["p"] == pytest.approx(2 * sum([1, 25, 300, 2300, 12650, 53130]) / 2**25)
    assert judged["d"]["p"] == pytest.approx(2 / 2**6)
    assert [judged[name]["p"] for name in "bc"] == [1, 1]
    assert judged["a"]["q"] == pytest.approx(4 * judged["a"]["p"])  # Benjamini and Hochberg: p m / rank
    assert judged["d"]["q"] == pytest.approx(2 * judged["d"]["p"])
    assert judged["a"]["accuracy"] == pytest.approx(0.45)
    assert judged["a"]["change"] == pytest.approx(-0.15)


def test_an_interrupted_ablation_goes_on(folder, monkeypatch):
    settings = ExplainConfig(pictures=0, images=8)
    tested = []
    original = Ablation._test

    def test(self, group, right):
        if len(tested) == 3:
            raise KeyboardInterrupt
        tested.append(group)
        return original(self, group, right)

    monkeypatch.setattr(Ablation, "_test", test)
    with pytest.raises(KeyboardInterrupt):
        explain_run(folder, settings)
    assert not (folder.path / "explain" / "ablation.json").exists()
    partial = json.loads((folder.path / "explain" / "ablation-partial.json").read_text(encoding="utf-8"))
    assert len(partial["counted"]) == 24
    told = []
    # In batches of another size the unaltered model may answer otherwise at the very edge: what is counted is of no use then.
    monkeypatch.setattr(Ablation, "_test", lambda self, group, right: pytest.fail(f"began with {group[0]}"))
    with pytest.raises(pytest.fail.Exception, match="began with .'removed', 'luma', 0, 0.$"):
        explain_run(folder, replace(settings, batch_size=5))
    monkeypatch.setattr(Ablation, "_test", lambda self, group, right: tested.append(group) or original(self, group, right))
    done = explain_run(folder, settings, None, lambda *each: told.append(each))
    assert len(tested) == 48
    assert len({ablation.name_of(variant) for group in tested for variant in group}) == 384
    assert ("ablation", 24, 384) in told
    assert told[-2:] == [("ablation", 384, 384), ("explain", 5, 5)]
    assert not (folder.path / "explain" / "ablation-partial.json").exists()
    content = json.loads((folder.path / "explain" / "ablation.json").read_text(encoding="utf-8"))
    assert {name: [content["variants"][name][which] for which in ("lost", "gained")] for name in partial["counted"]} == (
        partial["counted"]
    )
    assert "alterations of one frequency" in done["words"][-1]
    # Again: nothing is tested; on other images: all.
    explain_run(folder, settings)
    assert len(tested) == 48
    monkeypatch.setattr(Ablation, "_test", lambda self, group, right: pytest.fail("as it should"))
    with pytest.raises(pytest.fail.Exception, match="as it should"):
        explain_run(folder, replace(settings, images_seed=3))


def test_the_random_quantizer_is_drawn_alike_for_every_variant(tmp_path):
    """What is lost and gained comes from the frequency, not from another draw of all others."""
    subject = open_subject(
        make_run(tmp_path, made_up_config(rounding="sample", alpha=0.05), steps=0), ExplainConfig(batch_size=5), None
    )
    run = Ablation(subject)
    assert run._test_all() == run._test_all()
    with torch.no_grad():
        first, second = ([subject.layer(images) for _, images, _ in subject.batches()] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
