"""One training in every trainer: do the steps stay in range, and are the numbers those of jpegdl's own trainer?

    python benchmarks/trainers.py --data FOLDER

FOLDER has train/CLASS/ and test/CLASS/. Every trainer gets the same ResNet-18 and the same images in the same order (nothing
is shuffled), AdamW with 0.001 and for the layer 0.003, and steps that start at 0.002, as sensitivity tables do: half of them
try to leave their range at once. "Loop, projected by hand" is what the published code does.
"""

import argparse
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn
from torch.utils.data import DataLoader

from jpegdl import JpegLayer, parameter_groups, prepend
from jpegdl.layer import PrependedModel

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "trainers"))
from photographs import image_sets

BATCH, RATES = 20, {"lr": 1e-3, "layer_lr": 3e-3, "weight_decay": 0.05}


class Setting:
    """The data, and a fresh model for each trainer."""

    def __init__(self, folder: str | None, epochs: int) -> None:
        train, test, self.classes = image_sets(folder)
        self.train, self.test = ([(x, int(y)) for x, y in part] for part in (train, test))  # decoded once
        self.epochs = epochs

    def model(self) -> PrependedModel[JpegLayer]:
        torch.manual_seed(0)
        return prepend(timm.create_model("resnet18", num_classes=self.classes), JpegLayer(0.002, 0.002))

    def loader(self) -> DataLoader[Any]:
        return DataLoader(self.train, BATCH)  # type: ignore[arg-type]

    def judge(self, model: nn.Module) -> tuple[float, float]:
        model.eval()
        with torch.no_grad():
            parts = [(model(x), y) for x, y in DataLoader(self.test, BATCH)]  # type: ignore[arg-type]
        logits, labels = (torch.cat(part) for part in zip(*parts, strict=True))
        return nn.functional.cross_entropy(logits, labels).item(), (logits.argmax(1) == labels).float().mean().item()


def loop(setting: Setting, *, by_hand: bool = False, compiled: bool = False) -> PrependedModel:
    model = setting.model()
    called = torch.compile(model) if compiled else model
    optimizer = torch.optim.AdamW(parameter_groups(model, **RATES))
    for _ in range(setting.epochs):
        for images, labels in setting.loader():
            optimizer.zero_grad()
            nn.functional.cross_entropy(called(images), labels).backward()
            optimizer.step()
            if by_hand:
                with torch.no_grad():
                    for table in (model.layer.luma, model.layer.chroma):
                        table.clamp_(1e-5, 255)
    return model


def own(setting: Setting) -> PrependedModel:
    import lightning

    from jpegdl.runs.config import OptimizerConfig, TrainingConfig
    from jpegdl.training.module import JointTraining

    both = OptimizerConfig(name="adamw", lr=RATES["lr"], weight_decay=RATES["weight_decay"], schedule="constant")
    layer = OptimizerConfig(name="adamw", lr=RATES["layer_lr"], weight_decay=0.0, schedule="constant")
    module = JointTraining(
        setting.model(), TrainingConfig(epochs=setting.epochs, optimizer=both, layer_optimizer=layer), setting.classes, 0
    )
    _trainer(lightning, setting).fit(module, setting.loader())
    return module.model


def _trainer(lightning: Any, setting: Setting) -> Any:
    return lightning.Trainer(
        max_epochs=setting.epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        num_sanity_val_steps=0,
        limit_val_batches=0,
    )


def in_lightning(setting: Setting) -> PrependedModel:
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = setting.model()

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(parameter_groups(self.model, **RATES))

    module = Module()
    _trainer(lightning, setting).fit(module, setting.loader())
    return module.model


def in_transformers(setting: Setting) -> PrependedModel:
    from torch.utils.data import SequentialSampler
    from transformers import Trainer, TrainingArguments

    class Ordered(Trainer):
        def _get_train_sampler(self, *_: Any) -> Any:
            return SequentialSampler(self.train_dataset)

        def compute_loss(self, model: Any, inputs: Any, *_: Any, **__: Any) -> Any:  # timm models compute no loss
            return nn.functional.cross_entropy(model(inputs["pixel_values"]), inputs["labels"])

    model = setting.model()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            num_train_epochs=setting.epochs,
            per_device_train_batch_size=BATCH,
            lr_scheduler_type="constant",
            max_grad_norm=0,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            remove_unused_columns=False,
            logging_strategy="no",
        )
        Ordered(
            model,
            arguments,
            data_collator=lambda items: {
                "pixel_values": torch.stack([x for x, _ in items]),
                "labels": torch.tensor([y for _, y in items]),
            },
            train_dataset=setting.train,
            optimizers=(torch.optim.AdamW(parameter_groups(model, **RATES)), None),
        ).train()
    return model


def in_accelerate(setting: Setting) -> PrependedModel:
    from accelerate import Accelerator

    accelerator, model = Accelerator(cpu=True), setting.model()
    optimizer = torch.optim.AdamW(parameter_groups(model, **RATES))
    prepared, optimizer, loader = accelerator.prepare(model, optimizer, setting.loader())
    for _ in range(setting.epochs):
        for images, labels in loader:
            optimizer.zero_grad()
            accelerator.backward(nn.functional.cross_entropy(prepared(images), labels))
            optimizer.step()
    unwrapped: PrependedModel = accelerator.unwrap_model(prepared)
    return unwrapped


def in_timm(setting: Setting) -> PrependedModel:
    from timm.optim import create_optimizer_v2

    model = setting.model()
    optimizer = create_optimizer_v2(model, opt="adamw", lr=RATES["lr"], weight_decay=RATES["weight_decay"])
    for _ in range(setting.epochs):
        for images, labels in setting.loader():
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
    return model


def in_fastai(setting: Setting) -> PrependedModel:
    from fastai.vision.all import DataLoader as FastaiLoader
    from fastai.vision.all import DataLoaders, Learner, params

    model = setting.model()
    loaders = DataLoaders(
        FastaiLoader(setting.train, bs=BATCH, shuffle=False, device="cpu"), FastaiLoader(setting.test, bs=BATCH, device="cpu")
    )
    learner = Learner(
        loaders, model, loss_func=nn.CrossEntropyLoss(), splitter=lambda m: [params(m.backbone), params(m.layer)], wd=0.05
    )
    with learner.no_bar(), learner.no_logging():
        learner.fit(setting.epochs, lr=[RATES["lr"], RATES["layer_lr"]])
    return model


TRAINERS: dict[str, Callable[[Setting], PrependedModel]] = {
    "loop, projected by hand": lambda setting: loop(setting, by_hand=True),
    "jpegdl's own": own,
    "loop": loop,
    "loop, torch.compile": lambda setting: loop(setting, compiled=True),
    "Lightning": in_lightning,
    "Transformers Trainer": in_transformers,
    "Accelerate": in_accelerate,
    "timm, create_optimizer_v2": in_timm,
    "fastai": in_fastai,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder with train/CLASS/ and test/CLASS/; default: the embedded photographs")
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)  # one order of sums
    setting = Setting(options.data, options.epochs)
    reference = None
    print("| trainer | luma steps out of range | smallest step | test loss | test accuracy | largest difference of a step |")
    print("|---|---|---|---|---|---|")
    for name, train in TRAINERS.items():
        try:
            model = train(setting)
        except ImportError as error:
            print(f"| {name} | not installed: {error.name} | | | | |")
            continue
        luma = model.layer.luma.detach()
        reference = luma.clone() if reference is None else reference
        outside = int(((luma < torch.tensor(1e-5)) | (luma > 255)).sum())
        loss, accuracy = setting.judge(model)
        away = (luma - reference).abs().max().item()
        print(f"| {name} | {outside} of 64 | {luma.min():.3g} | {loss:.4f} | {accuracy:.1%} | {away:.2g} |", flush=True)


if __name__ == "__main__":
    main()
