"""What the settings of a run do to learning rates, targets, gradients and the model that is kept."""

import copy
import csv
import itertools
import math
from dataclasses import replace

import lightning
import pytest
import timm
import torch
from timm.scheduler.cosine_lr import CosineLRScheduler

from factory import run, small_config, weights
from jpegdl.backbones.build import build_backbone
from jpegdl.calibrate import starting_tables
from jpegdl.data import Data
from jpegdl.errors import UsageError
from jpegdl.layer import PrependedModel, build_layer, prepend
from jpegdl.runs import OptimizerConfig, RunConfig, TrainingConfig, check_config
from jpegdl.training import JointTraining, loss
from jpegdl.training.optimizers import build_optimizer, build_scheduler
from jpegdl.training.trainer import OneScale, _SyncBatchNorm

pytestmark = pytest.mark.usefixtures("few_photos")

STEPS = 4  # batches an epoch


def _rates(monkeypatch, config, folder):
    """The backbone's learning rate at each batch and after the last; the layer's at the end."""
    rates, last = [], []
    read = lambda self: [optimizer.param_groups[0]["lr"] for optimizer in self.optimizers()]  # noqa: E731
    step = JointTraining.training_step
    monkeypatch.setattr(JointTraining, "training_step", lambda self, *a: rates.append(read(self)[0]) or step(self, *a))
    monkeypatch.setattr(JointTraining, "on_train_end", lambda self: last.extend(read(self)))
    run(config, folder)
    return [*rates, last[0]], last[1]


@pytest.mark.parametrize(
    ("schedule", "at"),
    [
        ("constant", lambda t, w: 1.0),
        ("cosine", lambda t, w: (1 + math.cos(math.pi * (t - w) / (3 * STEPS - w))) / 2),
        ("multistep", lambda t, w: 0.1 if t >= 2 * STEPS else 1.0),
        ("exponential", lambda t, w: 0.1 ** (t // STEPS)),
    ],
)
@pytest.mark.parametrize("warmup", [0, 1])
def test_schedules(tmp_path, monkeypatch, schedule, at, warmup):
    config, w = small_config(epochs=3), warmup * STEPS
    config.training.optimizer = OptimizerConfig(lr=0.05, schedule=schedule, milestones=[2], warmup=warmup)
    rates, layer = _rates(monkeypatch, config, tmp_path)
    expected = [0.05 * (t / STEPS if t < w else at(t, w)) for t in range(3 * STEPS + 1)]
    assert rates == pytest.approx(expected, abs=1e-12)
    assert layer == 0.05  # its own, constant


def _planned(epochs, batches, **settings):
    """The learning rate of each step of a training, without the training."""
    config = OptimizerConfig(**settings)
    optimizer = build_optimizer(config, [torch.nn.Parameter(torch.zeros(()))])
    scheduler = build_scheduler(config, optimizer, epochs, epochs * batches)
    rates = []
    for _ in range(epochs * batches):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("warmup", [0, 2, 5])
def test_cosine_starts_where_the_warmup_ends(warmup):
    epochs, batches, lr = 12, 9, 0.002
    rates = _planned(epochs, batches, lr=lr, schedule="cosine", warmup=warmup)
    steps, w = epochs * batches, warmup * batches
    assert rates[w] == lr  # the peak, in one rise and one fall without a jump
    assert rates == sorted(rates[:w]) + sorted(rates[w:], reverse=True)
    largest = max(1 / max(w, 1), math.pi / 2 / (steps - w))
    assert max(abs(one - other) for one, other in itertools.pairwise(rates)) <= lr * largest * (1 + 1e-9)
    assert sum(rates) == pytest.approx(lr * (steps + (w == 0)) / 2)
    timms = CosineLRScheduler(
        torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr),
        t_initial=steps - w,
        warmup_t=w,
        warmup_prefix=True,
        t_in_epochs=False,
    )
    assert rates == pytest.approx([timms._get_lr(step)[0] for step in range(steps)], rel=1e-9)


@pytest.mark.parametrize("epochs", [240, 24, 8])
def test_shares_of_the_epochs_scale_with_them(epochs):
    rates = _planned(epochs, 5, lr=1.0, schedule="multistep", milestones=[0.625, 0.75, 0.875])
    falls = [step / 5 for step in range(1, len(rates)) if rates[step] < rates[step - 1]]
    assert falls == [epochs * share for share in (0.625, 0.75, 0.875)]
    assert rates[-1] == pytest.approx(1e-3)
    if epochs == 240:
        assert rates == _planned(240, 5, lr=1.0, schedule="multistep", milestones=[150, 180, 210])
    rates = _planned(epochs, 6, lr=1.0, schedule="cosine", warmup=1 / 6)
    assert rates.index(max(rates)) == epochs


def test_a_warmup_leaves_a_step_to_the_schedule():
    assert _planned(1, 2, lr=1.0, schedule="cosine", warmup=0.9) == [0, 1]
    assert _planned(1, 1, lr=1.0, schedule="cosine", warmup=0.9) == [1]


@pytest.mark.parametrize("part", ["optimizer", "layer_optimizer"])
@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (
            OptimizerConfig(schedule="multistep", milestones=[5, 10]),
            r"milestones must end before .* = 10, got \[5, 10\]; .*shares",
        ),
        (
            OptimizerConfig(schedule="cosine", warmup=10),
            r"warmup must end before training does, training.epochs = 10, got 10; .*shares",
        ),
        (OptimizerConfig(schedule="multistep", milestones=[math.nan]), "milestones must each be finite and greater than 0"),
        (OptimizerConfig(warmup=math.nan), "warmup must be finite and at least 0"),
    ],
)
def test_what_never_comes_is_refused(part, optimizer, message):
    with pytest.raises(UsageError, match=f"training.{part}.{message}"):
        check_config(RunConfig(training=TrainingConfig(epochs=10, **{part: optimizer})))


def test_milestones_of_another_schedule_do_not_matter():
    one = OptimizerConfig(schedule="onecycle", milestones=[150])
    check_config(RunConfig(training=TrainingConfig(epochs=10, optimizer=one)))
    shares = OptimizerConfig(schedule="multistep", milestones=[0.5, 9.5], warmup=0.25)
    check_config(RunConfig(training=TrainingConfig(epochs=10, optimizer=shares)))


def test_a_single_image_is_too_few_for_batchnorm(tmp_path):
    config = small_config()
    config.backbone, config.data.batch_size = "resnet18", 1  # its last BatchNorms see one pixel of 16 x 16
    with pytest.raises(UsageError, match="BatchNorm.*raise data.batch_size to 2 or more"):
        run(config, tmp_path)


def test_onecycle_rises_and_ends_at_almost_nothing(tmp_path, monkeypatch):
    config = small_config(epochs=2)
    config.training.optimizer = OptimizerConfig(lr=0.05, schedule="onecycle")
    rates, _ = _rates(monkeypatch, config, tmp_path)
    assert rates[0] == pytest.approx(0.002)
    assert max(rates) > 0.045
    assert rates[-1] < 1e-4


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixed_batches(tmp_path, monkeypatch, kind):
    """Images and targets are mixed with the same share; the accuracy is that of the larger one."""
    config = small_config(epochs=1)
    config.training = replace(config.training, label_smoothing=0.2, **{kind: 1.0})
    given, seen, losses = [], [], []
    step, forward, cross_entropy = JointTraining.training_step, PrependedModel.forward, loss.cross_entropy

    def spied_forward(self, images):
        if self.training:
            seen.append(images.clone())
        return forward(self, images)

    def spied_loss(logits, target, **options):
        if logits.requires_grad:
            losses.append((logits.detach(), target, options["label_smoothing"]))
        return cross_entropy(logits, target, **options)

    monkeypatch.setattr(JointTraining, "training_step", lambda self, batch, i: given.append(batch) or step(self, batch, i))
    monkeypatch.setattr(PrependedModel, "forward", spied_forward)
    monkeypatch.setattr(loss, "cross_entropy", spied_loss)
    run(config, tmp_path)
    shares, right = set(), []
    for (images, target), mixed, (logits, soft, smoothing) in zip(given, seen, losses, strict=True):
        one_hot = torch.nn.functional.one_hot(target, 18).float()
        row = int((target != target.roll(1)).nonzero()[0])
        share = soft[row, target[row]].item()
        torch.testing.assert_close(soft, share * one_hot + (1 - share) * one_hot.roll(1, 0))
        if kind == "mixup":
            torch.testing.assert_close(mixed, share * images + (1 - share) * images.roll(1, 0))
        else:
            own, other = (mixed == images).all(1), (mixed == images.roll(1, 0)).all(1)
            assert (own | other).all()
            assert own.float().mean((1, 2)).min().item() >= share - 1e-6
        assert smoothing == 0.2
        shares.add(share)
        right.append((logits.argmax(1) == soft.argmax(1)).float().mean().item())
    assert len(shares) == STEPS  # drawn anew for each batch
    (row,) = csv.DictReader((tmp_path / "metrics.csv").open(encoding="utf-8"))
    assert float(row["train_accuracy"]) == pytest.approx(sum(right) / STEPS)


def test_gradients_of_the_backbone_alone_are_clipped(tmp_path, monkeypatch):
    config = small_config(epochs=1)
    config.training.clip = 0.01
    norms = []

    def norm(part):
        return torch.stack([p.grad.norm() for p in part.parameters()]).norm().item()

    hook = JointTraining.on_before_optimizer_step

    def spy(self, optimizer):
        before = [norm(self.model.backbone), norm(self.model.layer)]
        hook(self, optimizer)
        norms.append((before, [norm(self.model.backbone), norm(self.model.layer)]))

    monkeypatch.setattr(JointTraining, "on_before_optimizer_step", spy)
    run(config, tmp_path)
    (before, after), *_ = norms
    assert before[0] > 0.1
    assert after[0] == pytest.approx(0.01, rel=1e-3)
    assert after[1] == before[1] > 0


def test_the_average_is_tested_and_kept(tmp_path, monkeypatch):
    """Parameters, tables and BatchNorm statistics, from the first step on."""
    config, path = small_config(), []
    config.training.ema = 0.8
    end = JointTraining.on_train_batch_end
    monkeypatch.setattr(
        JointTraining,
        "on_train_batch_end",
        lambda self, *a: path.append({k: v.clone() for k, v in self.model.state_dict().items()}) or end(self, *a),
    )
    tested = []
    monkeypatch.setattr(JointTraining, "on_validation_end", lambda self: tested.append(self.model.backbone.fc.weight.clone()))
    start = JointTraining.on_validation_batch_start
    monkeypatch.setattr(
        JointTraining,
        "on_validation_batch_start",
        lambda self, *a: tested.append(self.model.backbone.fc.weight.clone()) or start(self, *a),
    )
    run(config, tmp_path)
    average = path[0]
    for state in path[1:]:
        average = {name: 0.8 * average[name] + 0.2 * value for name, value in state.items()}
    kept = weights(tmp_path)
    for name in ("backbone.fc.weight", "backbone.bn1.running_mean", "backbone.bn1.running_var", "layer.luma"):
        torch.testing.assert_close(kept[name], average[name], rtol=1e-5, atol=1e-7)
        assert not torch.allclose(kept[name], path[-1][name], rtol=1e-3)
    assert torch.equal(tested[-2], kept["backbone.fc.weight"])  # in the last test
    assert torch.equal(tested[-1], path[-1]["backbone.fc.weight"])  # after it, training would go on from where it was


def test_batch_statistics_over_processes_need_gpus(tmp_path):
    config = small_config()
    config.training.sync_batchnorm = True
    with pytest.raises(UsageError, match="training.sync_batchnorm needs GPUs"):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_batch_statistics_over_processes_leave_activations_alone():
    model = timm.create_model("test_efficientnet", num_classes=3).eval()  # timm's BatchNorm with an activation inside
    images = torch.rand(2, 3, 32, 32)
    expected = model(images)
    synchronized = _SyncBatchNorm().apply(model)
    assert any(isinstance(part, torch.nn.SyncBatchNorm) for part in synchronized.modules())
    assert torch.equal(synchronized(images), expected)


def test_two_optimizers_have_one_loss_scale(tmp_path):
    """float16 with a scaler, as on a GPU: the scale grows once per batch, and both optimizers see unscaled gradients."""
    config, data = small_config(epochs=1), Data(small_config().data)
    layer = build_layer(config.layer, starting_tables(config.layer, data), config.data.size)
    model = prepend(build_backbone(config.backbone, len(data.classes), 0, config.data.size), layer)
    joint = JointTraining(model, config.training, len(data.classes), 0)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=1)
    seen = []

    class Watch(lightning.Callback):
        def on_before_optimizer_step(self, trainer, module, optimizer):
            seen.append((scaler.get_scale(), optimizer.param_groups[0]["params"][0].grad.norm().item()))

    options = {"accelerator": "cpu", "max_steps": 6, "logger": False, "enable_checkpointing": False, "limit_val_batches": 0}
    trainer = lightning.Trainer(
        plugins=[OneScale("16-mixed", "cpu", scaler)], callbacks=[Watch()], use_distributed_sampler=False, **options
    )
    trainer.fit(joint, data)
    assert [scale for scale, _ in seen] == [8, 8, 16, 16, 32, 32]
    assert scaler.get_scale() == 64
    # One step of the same in float32: the same gradients, but for what float16 rounds; a wrong scale is a factor of 2.
    before = copy.deepcopy(seen)
    seen.clear()
    layer = build_layer(config.layer, starting_tables(config.layer, data), config.data.size)
    model = prepend(build_backbone(config.backbone, len(data.classes), 0, config.data.size), layer)
    joint = JointTraining(model, config.training, len(data.classes), 0)
    lightning.Trainer(callbacks=[Watch()], use_distributed_sampler=False, **options).fit(joint, data)
    assert [norm for _, norm in before[:2]] == pytest.approx([norm for _, norm in seen[:2]], rel=0.25)
