"""Optuna looks for the layer's alpha, first steps and learning rate: python examples/trainers/optuna_search.py [--data FOLDER]

A fifth of each class of the training images is held out, as by --data.holdout 0.2, and decides; the test images are not
looked at. Where plain and the layer are to be tuned alike, jpegdl tune does that without a line of code.
Needs optuna: pip install '.[examples]' in a checkout.
"""

import argparse

import optuna
import timm
import torch
from torch import nn

from jpegdl import JpegLayer, parameter_groups, prepend
from jpegdl.data import Data, DataConfig


def main(arguments: list[str] | None = None) -> optuna.Study:
    parser = argparse.ArgumentParser(description="Optuna looks for settings of a JPEG layer.")
    parser.add_argument("--data", help="folder with train/CLASS/ and test/CLASS/")
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10**9, help="at most so many in an epoch")
    options = parser.parse_args(arguments)

    limit = None if options.data else 108  # of the embedded photographs, a few of each
    data = Data(DataConfig(path=options.data, size=64, batch_size=16, holdout=0.2, limit=limit)).blind()
    held_out = data.test  # what is held out; the test images are not there

    def loss_of(trial: optuna.Trial) -> float:
        torch.manual_seed(0)
        quality, alpha = trial.suggest_int("quality", 50, 100), trial.suggest_float("alpha", 0.1, 10, log=True)
        model = prepend(
            timm.create_model("resnet10t", num_classes=len(data.classes)), JpegLayer.from_quality(quality, alpha=alpha)
        )
        layer_lr = trial.suggest_float("layer_lr", 1e-4, 1e-1, log=True)
        optimizer = torch.optim.AdamW(parameter_groups(model, lr=1e-3, layer_lr=layer_lr, weight_decay=0.05))
        loader = data.train_dataloader()
        for epoch in range(options.epochs):
            loader.sampler.set_epoch(epoch)  # another order and other flips than in the epoch before
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
        return sum(losses).item() / len(held_out)

    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(loss_of, n_trials=options.trials)
    print(f"{study.best_params}: loss {study.best_value:.3f} on the held-out images")
    return study


if __name__ == "__main__":
    main()
