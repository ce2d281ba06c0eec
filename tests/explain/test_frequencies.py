"""Entropies, saturation and transfer curves against direct computations."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from factory import made_up_config, make_run
from jpegdl import functional as F
from jpegdl.explain import ExplainConfig
from jpegdl.explain.frequencies import measure, transfer_curve
from jpegdl.explain.histograms import Counts
from jpegdl.explain.subject import open_subject
from jpegdl.layer import CompandingLayer, GainLayer, JpegLayer, SubsampledJpegLayer, ZeroDcJpegLayer

SETTINGS = ExplainConfig(frequencies=[[0, 0], [2, 1]], batch_size=5)


def _measured(folder, settings=SETTINGS):
    subject = open_subject(folder, settings, None)
    images = torch.stack([subject.data.test[i][0] for i in range(len(subject.data.test))])
    left_out = []
    return measure(subject, left_out), subject.layer, images, left_out


def _entropy(values):
    counts = Counter(values)
    return -sum(n / len(values) * math.log2(n / len(values)) for n in counts.values())


def test_entropies_of_known_distributions():
    counts = Counts()
    numbers = torch.zeros(8, 64)
    numbers[:, 1] = torch.arange(8) - 4  # 3 bits
    numbers[:4, 2] = 1e6  # 1 bit
    numbers[:1, 3] = -(2.0**31)  # one of eight
    counts.add(numbers[:3])
    counts.add(numbers[3:])
    expected = [0, 3, 1, -(math.log2(1 / 8) / 8 + 7 / 8 * math.log2(7 / 8)), *[0] * 60]
    np.testing.assert_allclose(counts.entropies().flatten(), expected, atol=1e-12)
    there, weights = counts.of(2)
    assert there.tolist() == [0, 1_000_000]
    assert weights.tolist() == [4, 4]
    weighted = Counts()
    weighted.add(torch.tensor([[0.0] * 64, [1.0] * 64]), torch.tensor([[0.25] * 64, [0.75] * 64]))
    np.testing.assert_allclose(weighted.entropies(), np.full((8, 8), 2 - 0.75 * math.log2(3)))


@pytest.mark.parametrize("window", [5, None])
def test_bits_and_saturation_of_every_frequency(tmp_path, window):
    folder = make_run(tmp_path, made_up_config(window=window, bits=5, alpha=0.05), steps=0)
    found, layer, images, left_out = _measured(folder)
    assert left_out == []
    assert found["images"] == len(images) == 16
    assert found["blocks"] == {"luma": 16 * 4, "chroma": 2 * 16 * 4}
    assert not found["grey"]
    assert found["cap"] == 15
    with torch.no_grad():
        z = layer.to_coefficients(images)
        saturation = layer.saturation(images)
        planes = {"luma": (z[:, :1], layer.luma), "chroma": (z[:, 1:], layer.chroma)}
        for plane, (there, steps) in planes.items():
            expected = saturation[0] if plane == "luma" else saturation[1:].mean(0)
            np.testing.assert_allclose(found["saturation"][plane], expected, atol=1e-6)
            for row, column in [(0, 0), (0, 1), (5, 3)]:
                at, q = there[..., row, column].flatten(), steps[row, column]
                bits = {what: table[plane][row][column] for what, table in found["bits"].items()}
                assert bits["integers"] == pytest.approx(_entropy(at.round().tolist()))
                levels = (at / q).round().clamp(-15, 15).tolist()
                assert bits["levels"] == pytest.approx(_entropy(levels))
                # P over the whole alphabet, its levels in the window alone being above 0.
                shares, used = F.level_probabilities(at, q, 0.05, bits=5, window=window)
                marginal = torch.zeros(31, dtype=torch.float64)
                for k in range(-15, 16):
                    marginal[k + 15] = shares[used == k].double().sum() / len(at)
                assert bits["soft"] == pytest.approx(-torch.xlogy(marginal, marginal).sum().item() / math.log(2), rel=1e-5)
                given = -torch.xlogy(shares, shares).sum(-1).mean().item() / math.log(2)
                assert bits["soft_given_z"] == pytest.approx(given, rel=1e-4, abs=1e-6)
    assert max(map(max, found["bits"]["levels"]["luma"])) > 1


def test_curves_are_over_the_histogram_of_the_test_images(tmp_path):
    found, layer, images, _ = _measured(make_run(tmp_path, steps=0))
    curves = found["transfer"]
    assert [(curve["plane"], curve["frequency"]) for curve in curves] == [
        ("luma", [0, 0]), ("luma", [2, 1]), ("chroma", [0, 0]), ("chroma", [2, 1]),
    ]  # fmt: skip
    z = layer.to_coefficients(images)
    for curve in curves:
        row, column = curve["frequency"]
        at = z[:, :1] if curve["plane"] == "luma" else z[:, 1:]
        histogram = Counter(at[..., row, column].round().long().flatten().tolist())
        assert dict(zip(curve["numbers"], curve["counts"], strict=True)) == histogram
        table = layer.luma if curve["plane"] == "luma" else layer.chroma
        assert curve["table"] == pytest.approx(table[row, column].item())
        assert curve["cap"] == pytest.approx(127 * table[row, column].item())
        expected = F.soft_quantize(torch.tensor(curve["z"]), table[row, column], layer.alpha_luma[0, 0])
        np.testing.assert_allclose(curve["output"], expected.detach(), atol=1e-4)
        inside = [abs(value) <= curve["z"][-1] for value in at[..., row, column].flatten().tolist()]
        assert np.mean(inside) > 0.99


@pytest.mark.parametrize("rounding", ["soft", "hard", "sample", "ste", "noise", "none"])
def test_a_curve_is_the_layers_quantizer(rounding):
    luma, chroma = torch.rand(8, 8) + 0.5, torch.rand(8, 8) + 5
    layer = JpegLayer(luma, chroma, alpha=0.7, bits=4, rounding=rounding).eval()
    z = torch.linspace(-40, 40, 501)
    for plane, table in (("luma", luma), ("chroma", chroma)):
        expected = {
            "soft": lambda q: F.soft_quantize(z, q, 0.7, bits=4),
            "sample": lambda q: F.soft_quantize(z, q, 0.7, bits=4),  # its mean
            "none": lambda q: F.saturate(z, q, bits=4),
        }.get(rounding, lambda q: F.hard_quantize(z, q, bits=4))(table[3, 5])
        torch.testing.assert_close(transfer_curve(layer, plane, 3, 5, z), expected)
    assert layer.rounding == rounding


@pytest.mark.parametrize("kind", [SubsampledJpegLayer, ZeroDcJpegLayer])
def test_curves_of_variants(kind):
    layer, z = kind(torch.full((8, 8), 2.0), torch.full((8, 8), 9.0), bits=4), torch.linspace(-200, 200, 201)
    torch.testing.assert_close(transfer_curve(layer, "chroma", 0, 0, z), F.soft_quantize(z, 9.0, 5.0, bits=4))
    torch.testing.assert_close(transfer_curve(layer, "luma", 0, 0, z), F.soft_quantize(z, 2.0, 5.0, bits=4))


def test_curves_of_gains_and_companders():
    z = torch.linspace(-50, 50, 101)
    gain = GainLayer()
    with torch.no_grad():
        gain.chroma[1, 2] = -0.5
    torch.testing.assert_close(transfer_curve(gain, "chroma", 1, 2, z), -0.5 * z)
    compander = CompandingLayer(torch.full((8, 8), 3.0), torch.full((8, 8), 4.0), curve="tanh")
    torch.testing.assert_close(transfer_curve(compander, "luma", 0, 1, z), 3 * torch.tanh(z / 3))


def test_fewer_images_are_the_ones_measured(tmp_path):
    folder = make_run(tmp_path, steps=0)
    settings = replace(SETTINGS, images=4)
    found, layer, images, _ = _measured(folder, settings)
    chosen = open_subject(folder, settings, None).indices
    assert found["images"] == len(chosen) == 4
    np.testing.assert_allclose(found["saturation"]["luma"], layer.saturation(images[chosen])[0], atol=1e-6)
