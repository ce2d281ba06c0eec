"""A JPEG layer in the Trainer of Transformers: python examples/trainers/transformers_trainer.py [--data FOLDER]

Needs transformers and accelerate: pip install '.[examples]' in a checkout.
"""

import argparse
import tempfile
from typing import Any

import torch
from photographs import SIZE, image_sets, report
from transformers import AutoModelForImageClassification, Trainer, TrainingArguments, ViTConfig

from jpegdl import JpegLayer, parameter_groups, prepend
from jpegdl.layer import PrependedModel


def collate(items: list[tuple[torch.Tensor, Any]]) -> dict[str, torch.Tensor]:
    return {
        "pixel_values": torch.stack([image for image, _ in items]),
        "labels": torch.tensor([int(label) for _, label in items]),
    }


def main(arguments: list[str] | None = None) -> PrependedModel:
    parser = argparse.ArgumentParser(description="A JPEG layer in the Trainer of Transformers.")
    parser.add_argument("--data", help="folder with train/CLASS/ and test/CLASS/")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--steps", type=int, default=-1, help="in place of epochs")
    options = parser.parse_args(arguments)

    train, test, classes = image_sets(options.data)
    config = ViTConfig(image_size=SIZE, patch_size=8, hidden_size=96, num_hidden_layers=3, num_attention_heads=3)
    config.num_labels = classes
    # mean and std are those of the model's image processor, which must then not normalise (do_normalize=False).
    model = prepend(AutoModelForImageClassification.from_config(config), JpegLayer.from_quality(90), (0.5,) * 3, (0.5,) * 3)
    optimizer = torch.optim.AdamW(parameter_groups(model, lr=1e-3, layer_lr=3e-3, weight_decay=0.05))
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            folder,
            num_train_epochs=options.epochs,
            max_steps=options.steps,
            per_device_train_batch_size=16,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
        )
        trainer = Trainer(
            model,
            settings,
            data_collator=collate,
            train_dataset=train,
            # Without these the Trainer makes one optimizer with one rate, and spares the tables in weight decay too.
            optimizers=(optimizer, None),
        )
        trainer.train()
    report(model, test)
    return model


if __name__ == "__main__":
    main()
