"""A JPEG layer in LightningCLI, chosen in YAML. --data.folder FOLDER takes class folders of your own:

python examples/trainers/lightning_cli.py fit --config examples/trainers/lightning_cli.yaml
"""

import lightning
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning_module import Classification
from photographs import image_sets, report
from torch import Tensor
from torch.utils.data import DataLoader


class Images(lightning.LightningDataModule):
    """Images in [0, 1].

    Args:
        folder: with train/CLASS/ and test/CLASS/; None for the embedded photographs.
    """

    def __init__(self, folder: str | None = None) -> None:
        super().__init__()
        self.train_set, self.test_set, self.classes = image_sets(folder)

    def train_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        return DataLoader(self.train_set, 16, shuffle=True)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        return DataLoader(self.test_set, 64)


class CommandLine(LightningCLI):
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.link_arguments("data.classes", "model.classes", apply_on="instantiate")


def main(arguments: list[str] | None = None) -> LightningCLI:
    done = CommandLine(Classification, Images, args=arguments, save_config_callback=None)
    report(done.model.model, done.datamodule.test_set)
    return done


if __name__ == "__main__":
    main()
