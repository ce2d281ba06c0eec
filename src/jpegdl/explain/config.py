"""What to explain of a run, and on which images."""

from dataclasses import dataclass, field
from typing import Annotated

from jpegdl.errors import UsageError
from jpegdl.functional import BLOCK
from jpegdl.runs.config import DataPlace
from jpegdl.runs.device import compute_device
from jpegdl.settings import Count, Range, Seed, check_fields

TableIndex = Annotated[int, Range(0, BLOCK - 1)]  # a row or a column

#: What may be done to a frequency, in words.
KINDS = {"removed": "removed (set to 0)", "uncapped": "without the level cap", "unquantized": "capped, but not quantized"}
ALPHA = 0.05  # of the cells called significant, at most this share is by chance
SMALLEST_MAP = 3  # places on a side of a feature map that can show where something is


@dataclass
class ExplainConfig:
    """What to explain of a run, and on which images.

    Args:
        data: where the run's test images are now.
        images: measure on this many test images, evenly over the classes. Default: all.
        images_seed: seed that draws them, if not all are taken.
        frequencies: draw curves of these frequencies, each as [row, column] of a table, 0 to 7. The row is the vertical
            frequency.
        pictures: how many single images to show at each end: those that the layer helps most, and those that it harms most.
        ablation: test the model without each frequency, without its cap and without its quantizer. These are three tests for
            each of 128 frequencies, by far the longest part.
        batch_size: images that go through the model at once.
        device: auto (cuda where there is one, else cpu), cpu, gpu, cuda, cuda:N or mps.
    """

    data: DataPlace = field(default_factory=DataPlace)
    images: Count | None = None
    images_seed: Seed = 0
    frequencies: list[list[TableIndex]] = field(default_factory=lambda: [[0, 0], [0, 1], [3, 3], [7, 7]])
    pictures: Annotated[int, Range(0)] = 3
    ablation: bool = True
    batch_size: Count = 256
    device: str = "auto"


def check_explain(config: ExplainConfig) -> None:
    """Refuse settings that nothing could be explained with.

    Raises:
        UsageError: names the setting.
    """
    check_fields(config)
    compute_device(config.device)
    if not config.frequencies:
        raise UsageError("frequencies must name at least one, such as '[[0, 0]]'")
    for frequency in config.frequencies:
        if len(frequency) != 2:
            raise UsageError(
                f"frequencies must each be the row and the column of a table, 0 to {BLOCK - 1}, such as [0, 1], got {frequency}"
            )
