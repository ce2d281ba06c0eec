"""Ray Tune looks for the layer's alpha, first steps and learning rate: python examples/trainers/ray_search.py [--data FOLDER]

As optuna_search.py, on many machines: a fifth of each class of the training images is held out and decides, and trials that
do badly end early (ASHA). A trial goes on from its last epoch when its machine was lost. The test images are not looked at.
Needs Ray: pip install 'ray[tune]'. FOLDER and --output have to be where all machines see them.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import ray
import timm
import torch
from ray import tune
from torch import nn

from jpegdl import JpegLayer, parameter_groups, prepend
from jpegdl.data import Data, DataConfig


def network(data: Data) -> nn.Module:
    """Make a network for these classes; apart from ``train``, as Ray cannot send a function with ``torch`` and ``.classes``."""
    return timm.create_model("resnet10t", num_classes=len(data.classes))


def train(chosen: dict[str, Any], options: argparse.Namespace) -> None:
    """Train one trial, and report the loss on the held-out images after each epoch."""
    limit = None if options.data else 108  # of the embedded photographs, a few of each
    data = Data(DataConfig(path=options.data, size=64, batch_size=16, holdout=0.2, limit=limit)).blind()
    held_out = data.test  # what is held out; the test images are not there
    torch.manual_seed(0)
    layer = JpegLayer.from_quality(chosen["quality"], alpha=chosen["alpha"])
    model = prepend(network(data), layer)
    optimizer = torch.optim.AdamW(parameter_groups(model, lr=1e-3, layer_lr=chosen["layer_lr"], weight_decay=0.05))
    first = 0
    if (checkpoint := tune.get_checkpoint()) is not None:
        with checkpoint.as_directory() as folder:
            state = torch.load(Path(folder, "state.pt"), weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["epoch"] + 1
    loader = data.train_dataloader()
    for epoch in range(first, options.epochs):
        loader.sampler.set_epoch(epoch)  # another order and other flips than in the epoch before, in a resumed trial too
        model.train()
        for _, (batch, labels) in zip(range(options.steps), loader, strict=False):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(batch), labels).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            losses = [
                nn.functional.cross_entropy(model(batch), labels) * len(labels) for batch, labels in data.test_dataloader()
            ]
        with tempfile.TemporaryDirectory() as folder:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}
            torch.save(state, Path(folder, "state.pt"))
            found = {"loss": sum(losses).item() / len(held_out), "images": len(held_out)}
            tune.report(found, checkpoint=tune.Checkpoint.from_directory(folder))


def main(arguments: list[str] | None = None) -> tune.ResultGrid:
    parser = argparse.ArgumentParser(description="Ray Tune looks for settings of a JPEG layer.")
    parser.add_argument("--data", help="folder with train/CLASS/ and test/CLASS/")
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10**9, help="at most so many in an epoch")
    parser.add_argument("--cores", type=int, default=1, help="of each trial")
    parser.add_argument("--output", default="ray-trials", help="folder for the trials; the same one resumes them")
    options = parser.parse_args(arguments)
    options.data = options.data and str(Path(options.data).resolve())  # trials run in folders of their own

    place = Path(options.output).resolve() / "layer"
    trainable = tune.with_resources(tune.with_parameters(train, options=options), {"cpu": options.cores})
    if tune.Tuner.can_restore(str(place)):
        tuner = tune.Tuner.restore(str(place), trainable, resume_unfinished=True, restart_errored=True)
    else:
        space = {
            "quality": tune.randint(50, 101),
            "alpha": tune.loguniform(0.1, 10),
            "layer_lr": tune.loguniform(1e-4, 1e-1),
        }
        scheduler = tune.schedulers.ASHAScheduler(max_t=options.epochs, grace_period=1)
        tuner = tune.Tuner(
            trainable,
            param_space=space,
            tune_config=tune.TuneConfig(metric="loss", mode="min", num_samples=options.trials, scheduler=scheduler),
            run_config=tune.RunConfig(name=place.name, storage_path=str(place.parent)),
        )
    found = tuner.fit()
    best = found.get_best_result("loss", "min")
    print(f"{best.config}: loss {best.metrics['loss']:.3f} on the held-out images")
    return found


if __name__ == "__main__":
    ray.init(include_dashboard=False)
    main()
