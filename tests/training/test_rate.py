"""The rate of JPEG files: against libjpeg's files, an entropy coder written for reading, gradients, and training with it."""

import io
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data as photographs

from factory import run, small_config
from jpegdl import JpegLayer
from jpegdl import functional as F
from jpegdl.errors import UsageError
from jpegdl.layer import LayerConfig, PrependedModel, SubsampledJpegLayer
from jpegdl.runs import RateConfig, RunFolder, TrainingConfig, check_config
from jpegdl.tables import standard_tables, to_zigzag
from jpegdl.training.loss import Objective
from jpegdl.training.optimizers import LogAdam
from jpegdl.training.rate_loss import RateEstimate, scans
from jpegdl.training.starting_weights import other_networks

HARD = 1e5  # a hardness at which nothing is soft


def photograph(size=64):
    return Image.fromarray(photographs.astronaut()[100 : 100 + size, 60 : 60 + size])


def pixels(image):
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() / 255


def counted(levels):
    """Symbols of one plane, (blocks, 64) in zigzag order: ITU-T T.81, F.1.2, step by step."""
    dc, ac, before = Counter(), Counter(), 0
    for block in levels:
        dc[int(abs(block[0] - before)).bit_length()] += 1
        before, passed = block[0], 0
        for level in block[1:]:
            if level == 0:
                passed += 1
                continue
            while passed > 15:
                ac[15, 0] += 1
                passed -= 16
            ac[passed, int(abs(level)).bit_length()] += 1
            passed = 0
        if passed:
            ac[0, 0] += 1
    return dc, ac


def as_tensors(dc, ac):
    found = F.Symbols(torch.zeros(F.SIZES), torch.zeros(F.RUNS, F.SIZES))
    for size, count in dc.items():
        found.dc[size] = count
    for (passed, size), count in ac.items():
        found.ac[passed, size] = count
    return found


@pytest.mark.parametrize("quality", [5, 40, 90, 98])
def test_symbols_are_those_of_an_encoder(quality):
    q = standard_tables(quality)[0]
    z = F.images_to_coefficients(pixels(photograph()))[0, 0].flatten(0, 1)
    levels = to_zigzag((z / q).round()).int().tolist()
    found, expected = F.expected_symbols(z[None], q, HARD), as_tensors(*counted(levels))
    torch.testing.assert_close(found.dc, expected.dc)
    torch.testing.assert_close(found.ac, expected.ac)


def test_rows_start_anew_and_add_up():
    q = standard_tables(60)[1]
    z = F.images_to_coefficients(pixels(photograph()))[0, 1:].flatten(1, 2)
    both, single = F.expected_symbols(z, q, HARD), [F.expected_symbols(row[None], q, HARD) for row in z]
    for name in ("dc", "ac"):
        torch.testing.assert_close(getattr(both, name), sum(getattr(part, name) for part in single))


def test_soft_levels_give_the_mean_of_drawn_ones():
    torch.manual_seed(0)
    z, q, hardness = 3 * torch.randn(2, 5, 8, 8), torch.full((8, 8), 2.0), 2.0
    found = F.expected_symbols(z, q, hardness)
    near = (z / q).round()
    levels = near[..., None] + torch.arange(-1, 2)
    shares = (-hardness * ((z / q)[..., None] - levels) ** 2).softmax(-1)
    draws = 3000
    total = F.Symbols(torch.zeros(F.SIZES), torch.zeros(F.RUNS, F.SIZES))
    picks = torch.multinomial(shares.flatten(0, -2), draws, replacement=True).view(*z.shape, draws) - 1
    for draw in range(draws):
        for row in to_zigzag(near + picks[..., draw]).int().tolist():
            one = as_tensors(*counted(row))
            total.dc.add_(one.dc)
            total.ac.add_(one.ac)
    for name in ("dc", "ac"):
        mean, expected = getattr(total, name) / draws, getattr(found, name)
        assert ((mean - expected).abs() < 5 * (expected.clamp(min=0.01) / draws).sqrt() * 2).all()


def code_lengths_in(file):
    """Huffman code lengths by (class, table) and symbol, of a JPEG file (ITU-T T.81, B.2.4.2), and the bits of its scan."""
    place, lengths = 2, {}
    while file[place + 1] != 0xDA:
        size = int.from_bytes(file[place + 2 : place + 4], "big")
        if file[place + 1] == 0xC4:
            segment = file[place + 4 : place + 2 + size]
            while segment:
                counts, table = segment[1:17], {}
                symbols = iter(segment[17 : 17 + sum(counts)])
                for length, count in enumerate(counts, 1):
                    table |= {next(symbols): length for _ in range(count)}
                lengths[divmod(segment[0], 16)] = table
                segment = segment[17 + sum(counts) :]
        place += 2 + size
    scan = file[place + 2 + int.from_bytes(file[place + 2 : place + 4], "big") : -2].replace(b"\xff\x00", b"\xff")
    return lengths, 8 * len(scan)


@pytest.mark.parametrize(("subsampling", "size"), [("4:4:4", 72), ("4:2:0", 80)])
def test_bits_are_those_of_a_file_of_libjpeg(tmp_path, subsampling, size):
    jpeglib = pytest.importorskip("jpeglib")
    file = tmp_path / "photo.jpg"
    photograph(size).save(file, quality=70, subsampling=subsampling, optimize=True)
    lengths, bits = code_lengths_in(file.read_bytes())
    stored = jpeglib.read_dct(str(file))
    luma, cb, cr = (torch.from_numpy(part.copy()).float() for part in (stored.Y, stored.Cb, stored.Cr))
    if subsampling == "4:2:0":  # four blocks of luma in a unit
        rows, columns = cb.shape[:2]
        luma = luma.view(rows, 2, columns, 2, 8, 8).permute(0, 2, 1, 3, 4, 5)
    parts = {0: luma.reshape(1, -1, 8, 8), 1: torch.stack([part.reshape(-1, 8, 8) for part in (cb, cr)])}
    total = 0.0
    for table, z in parts.items():
        symbols = F.expected_symbols(z, torch.ones(8, 8), HARD)
        of_file = F.Symbols(torch.zeros(F.SIZES), torch.zeros(F.RUNS, F.SIZES))
        for size_, length in lengths[0, table].items():
            of_file.dc[size_] = length
        for symbol, length in lengths[1, table].items():
            of_file.ac[symbol >> 4, symbol & 15] = length
        total += float(F.coded_bits(symbols, of_file))
    assert 0 <= bits - total < 8  # the last byte is filled up


def test_scans_take_blocks_as_an_encoder_does():
    z = torch.arange(2 * 6 * 2 * 3).float().view(2, 6, 2, 3, 1, 1).expand(2, 6, 2, 3, 8, 8)
    luma, chroma = scans(SubsampledJpegLayer(), z)
    assert luma.shape == (2, 24, 8, 8)
    assert luma[0, :6, 0, 0].tolist() == [0, 6, 12, 18, 1, 7]  # the four blocks of the first unit, then of the next
    assert chroma[:, 0, 0, 0].tolist() == [24, 30, 36 + 24, 36 + 30]
    luma, chroma = scans(JpegLayer(), z[:, :3])
    assert luma.shape == (2, 6, 8, 8)
    assert chroma.shape == (4, 6, 8, 8)


def test_gradients():
    torch.manual_seed(0)
    z = (4 * torch.randn(1, 3, 8, 8, dtype=torch.float64)).requires_grad_()
    q = (1 + torch.rand(8, 8, dtype=torch.float64)).requires_grad_()
    lengths = F.code_lengths(F.Symbols(*(part.detach() for part in F.expected_symbols(z, q, 3.0))))
    assert torch.autograd.gradcheck(lambda z, q: F.coded_bits(F.expected_symbols(z, q, 3.0), lengths), (z, q))


def test_blocks_drawn_at_random_stand_for_all():
    q = standard_tables(50)[0]
    z = F.images_to_coefficients(pixels(photograph(256)))[:, 0].flatten(1, 2)
    whole = F.expected_symbols(z, q, 8.0)
    torch.manual_seed(0)
    some = torch.stack([F.expected_symbols(z, q, 8.0, most=200).ac.sum() for _ in range(20)])
    assert abs(some.mean() - whole.ac.sum()) < 4 * some.std() / math.sqrt(20)
    assert some.std() > 0


def test_wrong_shapes_are_refused():
    with pytest.raises(UsageError, match=r"z must be of shape \(R, B, 8, 8\)"):
        F.expected_symbols(torch.zeros(3, 8, 8), torch.ones(8, 8), 8.0)


def test_the_estimate_is_close_to_files_and_falls_with_larger_steps():
    image, rates, files = photograph(256), [], []
    for quality in (20, 50, 80):
        estimate = RateEstimate(RateConfig(blocks=None)).eval()
        rates.append(float(estimate(JpegLayer(*standard_tables(quality)), pixels(image)).detach()))
        stream = io.BytesIO()
        image.save(stream, "jpeg", quality=quality, subsampling="4:4:4", optimize=True)
        files.append(8 * len(stream.getvalue()) / 256**2)
    assert rates == sorted(rates)
    assert rates == pytest.approx(files, rel=0.15)  # of the headers it knows nothing


def test_the_code_runs_on_in_training_and_stays_in_tests():
    estimate, images = RateEstimate(RateConfig(memory=0.5)), torch.rand(2, 3, 32, 32)
    layer = JpegLayer(*standard_tables(50))
    first = estimate(layer, images)
    seen = estimate.seen_ac.clone()
    torch.testing.assert_close(seen.sum((1, 2)), torch.ones(2))
    estimate(layer, torch.zeros(2, 3, 32, 32))
    assert not torch.equal(estimate.seen_ac, seen)
    moved = estimate.seen_ac.clone()
    estimate.eval()(layer, images)
    assert torch.equal(estimate.seen_ac, moved)
    first.backward()
    assert (layer.luma.grad < 0).any()


def test_the_objective_adds_what_files_cost():
    torch.manual_seed(0)
    backbone = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 4))
    model = PrependedModel(backbone, JpegLayer(*standard_tables(50), bits=None), [0.5] * 3, [0.5] * 3)
    images, target = torch.rand(2, 3, 16, 16), torch.tensor([0, 1])
    plain = Objective(TrainingConfig())(model, images, target)
    assert plain.parts == {}
    objective = Objective(TrainingConfig(rate=RateConfig(weight=0.5)))
    found = objective(model, images, target)
    assert found.loss.item() == pytest.approx(plain.loss.item() + 0.5 * found.parts["bits_per_pixel"].item())
    assert found.parts["task"].item() == pytest.approx(plain.loss.item())
    model.layer = torch.nn.Identity()
    assert Objective(TrainingConfig(rate=RateConfig(weight=0.5)))(model, images, target).parts == {}


@pytest.mark.usefixtures("few_photos")
def test_training_for_small_files_makes_steps_larger_and_resumes(tmp_path):
    before = small_config(bits=None)
    config = replace(before, training=replace(before.training, rate=RateConfig(weight=30.0)))
    run(config, tmp_path / "rate")
    run(before, tmp_path / "free")
    steps = {name: RunFolder(tmp_path / name).tables()["after"]["luma"] for name in ("rate", "free")}
    assert np.mean(steps["rate"]) > np.mean(steps["free"])
    rows = RunFolder(tmp_path / "rate").metrics()
    assert rows[-1]["train_bits_per_pixel"] < rows[0]["train_bits_per_pixel"]
    assert rows[-1]["train_loss"] == pytest.approx(rows[-1]["train_task"] + 30 * rows[-1]["train_bits_per_pixel"], rel=1e-4)
    checkpoint = torch.load(tmp_path / "rate" / "last.ckpt", weights_only=True)
    assert "objective.rate.seen_ac" in checkpoint["state_dict"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"weight": -1.0}, "rate.weight must be .*at least 0"),
        ({"weight": math.nan}, "rate.weight must be .*at least 0"),
        ({"hardness": 0.0}, "hardness must be"),
        ({"blocks": 0}, "blocks must be"),
        ({"memory": 1.0}, "memory must be"),
    ],
)
def test_settings_that_cannot_be(wrong, said):
    config = small_config()
    with pytest.raises(UsageError, match=said):
        check_config(replace(config, training=replace(config.training, rate=RateConfig(**wrong))))


def test_a_layer_that_no_file_stands_for_has_no_rate():
    config = small_config(kind="cascade")
    with pytest.raises(UsageError, match=r"layer\.kind cascade"):
        check_config(replace(config, training=replace(config.training, rate=RateConfig(weight=1.0))))


def test_log_adam_is_adam_on_logarithms():
    start = torch.tensor([1e-3, 1.0, 200.0])
    steps = torch.nn.Parameter(start.clone())
    logs = torch.nn.Parameter(start.log())
    for optimizer, parameter, value in (
        (LogAdam([steps], 0.1), steps, lambda: steps),
        (torch.optim.Adam([logs], 0.1), logs, lambda: logs.exp()),
    ):
        for target in (3.0, 50.0):
            optimizer.zero_grad()
            ((value() - target) ** 2).sum().backward()
            optimizer.step()
        assert parameter is not None
    torch.testing.assert_close(steps.detach(), logs.detach().exp(), rtol=1e-4, atol=0)
    assert (steps > 0).all()


def test_log_adam_is_for_steps():
    config = small_config()
    optimizer = replace(config.training.optimizer, name="log-adam")
    with pytest.raises(UsageError, match="log-adam is for layer_optimizer"):
        check_config(replace(config, training=replace(config.training, optimizer=optimizer)))


# ---------------------------------------------------------------------------------------------- several networks


def judged_by(folders, config):
    return replace(config, training=replace(config.training, train="layer", networks=[str(folder) for folder in folders]))


@pytest.mark.usefixtures("few_photos")
def test_other_networks_judge_the_layer_and_stay_as_they_are(tmp_path, run_once):
    for seed in (0, 1):
        run_once(replace(small_config(epochs=1), layer=LayerConfig(kind="none")), tmp_path / f"plain-{seed}", "plain", seed)
    start = replace(small_config(epochs=1, bits=None), weights=str(tmp_path / "plain-0" / "model.safetensors"))
    config = judged_by([tmp_path / "plain-1"], start)
    kept = (tmp_path / "plain-1" / "model.safetensors").read_bytes()
    run(config, tmp_path / "both")
    run(judged_by([], start), tmp_path / "alone")
    assert (tmp_path / "plain-1" / "model.safetensors").read_bytes() == kept
    tables = {name: RunFolder(tmp_path / name).tables()["after"]["luma"] for name in ("both", "alone")}
    assert tables["both"] != tables["alone"]
    assert not any("networks" in key for key in torch.load(tmp_path / "both" / "last.ckpt", weights_only=True)["state_dict"])
    (tmp_path / "plain-1" / "model.safetensors").write_bytes((tmp_path / "plain-0" / "model.safetensors").read_bytes())
    with pytest.raises(UsageError, match="trained with another network"):
        run(config, tmp_path / "both")


def test_the_loss_is_the_mean_over_networks():
    torch.manual_seed(0)
    own, other = (
        PrependedModel(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 4)), layer, [0.5] * 3, [0.5] * 3)
        for layer in (JpegLayer(*standard_tables(50), bits=None), torch.nn.Identity())
    )
    images, target = torch.rand(2, 3, 16, 16), torch.tensor([0, 1])
    objective = Objective(TrainingConfig())
    alone = objective(own, images, target)
    objective.networks = [other]
    both = objective(own, images, target)
    there = torch.nn.functional.cross_entropy(other(own.layer(images)), target)
    assert both.loss.item() == pytest.approx((alone.loss.item() + there.item()) / 2)
    torch.testing.assert_close(both.logits, alone.logits)


@pytest.mark.usefixtures("few_photos")
def test_networks_that_cannot_judge_are_refused(tmp_path, run_once):
    config = small_config()
    with pytest.raises(UsageError, match="training.networks need training.train layer"):
        check_config(replace(config, training=replace(config.training, networks=["runs/a/plain/0"])))
    with pytest.raises(UsageError, match="no trained model"):
        other_networks(judged_by([tmp_path / "nothing"], config), ["a", "b"])
    run_once(replace(small_config(epochs=1), layer=LayerConfig(kind="none")), tmp_path / "plain", "plain")
    with pytest.raises(UsageError, match="knows other classes"):
        other_networks(judged_by([tmp_path / "plain"], config), ["a", "b"])
    judged, classes = judged_by([tmp_path / "plain"], config), RunFolder(tmp_path / "plain").data()["classes"]
    assert len(other_networks(judged, classes)) == 1
    with pytest.raises(UsageError, match="trained on images of 16 pixels, and data.size is 24"):
        other_networks(replace(judged, data=replace(judged.data, size=24)), classes)
