"""A JPEG layer in LightningCLI, chosen in YAML:

python examples/trainers/lightning_cli.py fit --config examples/trainers/lightning_cli.yaml
"""

import lightning
from lightning.pytorch.cli import LightningCLI
from lightning_module import Classification
from photographs import image_sets
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


def main(arguments: list[str] | None = None) -> LightningCLI:
    return LightningCLI(Classification, Images, args=arguments, save_config_callback=None)


if __name__ == "__main__":
    main()
