"""Where images come from: one file per reader, on the contract in :mod:`jpegdl.data.sources.base`.

Readers list images and read them, and know nothing of crops, devices or loaders. What a reader needs beyond Pillow and NumPy
(timm, torchvision, scipy, scikit-image) it imports when it is used.
"""

from typing import TYPE_CHECKING

from jpegdl.extras import on_first_use

if TYPE_CHECKING:
    from jpegdl.data.sources.base import Sets, Source
    from jpegdl.data.sources.registry import open_sets

__all__ = ["Sets", "Source", "open_sets"]

__getattr__, __dir__ = on_first_use(__name__)
