"""Images kept on the training device, cropped and flipped there in batches.

Boxes and flips are drawn on the host, a few numbers per image, so that nothing on the device is waited for; pixels are fetched
by index. A crop that keeps its scale gives the very pixels of the CPU path for the same box; one that is resized is the same
antialiased interpolation, computed as two matrix products.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from jpegdl.data.config import DataConfig
from jpegdl.data.sampling import IGNORED, Key
from jpegdl.errors import UsageError

CHUNK = 2**25  # pixels resized at a time, so that large images take no more memory than the network does
FREE_SHARE = 0.8  # of the device's free memory that images may take

_TRIES = 10  # boxes drawn before the middle is taken, as in torchvision's RandomResizedCrop
_RATIO = (3 / 4, 4 / 3)

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass
class Boxes:
    """Where images are cut: four arrays (N,) of pixels, and whether each is mirrored, (N,) bool."""

    top: Array
    left: Array
    height: Array
    width: Array
    flip: Array


def draws(seeds: Sequence[int], count: int) -> Array:
    """Uniform numbers in [0, 1), (N, count) float64: a hash of (seed, position), and so the same in any batch.

    Source: the finalizer of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
    """

    positions = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)  # wraps around, as it should
    states = _mix(_mix(np.asarray(seeds, dtype=np.uint64)[:, None]) + positions)
    return (states >> np.uint64(11)) * 2.0**-53


def _mix(x: Array) -> Array:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return cast(Array, x ^ (x >> np.uint64(31)))


def random_boxes(height: Array, width: Array, seeds: Sequence[int], config: DataConfig) -> Boxes:
    """Random crops of ``size`` from images (N,) of the given heights and widths, ``pad`` pixels around them included."""
    random, size, pad = draws(seeds, 3), config.pixels, config.pad
    top, left = (
        np.floor(random[:, i] * (side + 2 * pad - size + 1)).astype(np.int64) - pad for i, side in enumerate((height, width))
    )
    side = np.full_like(top, size)
    return Boxes(top, left, side, side, config.flip & (random[:, 2] < 0.5))


def resized_boxes(height: Array, width: Array, seeds: Sequence[int], config: DataConfig) -> Boxes:
    """Random parts of images (N,) of the given heights and widths, distributed as in torchvision's RandomResizedCrop."""
    random = draws(seeds, 2 * _TRIES + 3)
    area = (height * width)[:, None] * (config.scale + (1 - config.scale) * random[:, :_TRIES])
    ratio = np.exp(np.log(_RATIO[0]) + np.log(_RATIO[1] / _RATIO[0]) * random[:, _TRIES : 2 * _TRIES])
    w, h = np.rint(np.sqrt(area * ratio)).astype(np.int64), np.rint(np.sqrt(area / ratio)).astype(np.int64)
    fits = (w > 0) & (w <= width[:, None]) & (h > 0) & (h <= height[:, None])
    first, rows = fits.argmax(1), np.arange(len(height))
    w, h, some = w[rows, first], h[rows, first], fits.any(1)
    # The middle, as much of it as the range of ratios allows.
    w = np.where(some, w, np.minimum(width, np.rint(height * _RATIO[1]).astype(np.int64)))
    h = np.where(some, h, np.minimum(height, np.rint(width / _RATIO[0]).astype(np.int64)))
    top, left = (
        np.where(some, np.floor(random[:, 2 * _TRIES + i] * (room + 1)), room // 2).astype(np.int64)
        for i, room in enumerate((height - h, width - w))
    )
    return Boxes(top, left, h, w, config.flip & (random[:, -1] < 0.5))


def central_boxes(height: Array, width: Array, size: int) -> Boxes:
    """The middle of images (N,) of the given heights and widths."""
    top, left = (np.rint((side - size) / 2).astype(np.int64) for side in (height, width))
    side = np.full_like(top, size)
    return Boxes(top, left, side, side, np.zeros(len(top), dtype=bool))


def resize_weights(start: Tensor, scale: Tensor, length: Tensor, size: int, longest: int, interpolation: str) -> Tensor:
    """Antialiased interpolation along one axis, as a matrix for each image, (N, size, longest); rows sum to 1.

    Args:
        start: (N,) where the first output pixel begins, in input pixels.
        scale: (N,) input pixels to an output pixel.
        length: (N,) input pixels that there are.
        size: output pixels.
        longest: width of the matrices, at least every ``length``.
        interpolation: bicubic or bilinear.

    Source: for bicubic the convolution kernel of Keys (1981) with a = -1/2, for bilinear the triangle; stretched by the scale
    where that is above 1, as Pillow's.
    """
    inputs = torch.arange(longest, device=start.device) + 0.5
    centers = start[:, None] + scale[:, None] * (torch.arange(size, device=start.device) + 0.5)
    x = ((inputs - centers[:, :, None]) / scale.clamp(min=1)[:, None, None]).abs()
    if interpolation == "bilinear":
        kernel = (1 - x).clamp(min=0)
    else:
        near, far = (1.5 * x - 2.5) * x**2 + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
        kernel = torch.where(x < 1, near, torch.where(x < 2, far, 0.0))
    weights = kernel * (inputs < length[:, None, None])
    return weights / weights.sum(-1, keepdim=True)


class DeviceImages(Dataset[Any]):
    """Images of different sizes in one buffer on a device; a DataLoader's batches are cut from it at once.

    ``images[keys]`` by :meth:`__getitems__` takes indices for test-time images, (index, seed) for augmented ones, and None for
    no image, all of one kind except None.

    Args:
        images: (3, H, W) uint8 each, on the host.
        targets: their class indices.
        config: crop and flip.
        device: where they are kept.
        whole: whether these are whole images, to be resized; else their short side is ``resize`` already.

    Raises:
        UsageError: the device has no room for them.
    """

    def __init__(
        self, images: Sequence[Tensor], targets: Sequence[int], config: DataConfig, device: torch.device, *, whole: bool
    ) -> None:
        self._config, self._device, self._whole = config, device, whole
        self._height, self._width = (np.array([image.shape[axis] for image in images]) for axis in (1, 2))
        ends = np.cumsum(self._height * self._width)
        self._start = ends - self._height * self._width
        self._targets = np.array(targets)
        self._pixels = _allocate(int(ends[-1]), device)
        for image, start, end in zip(images, self._start, ends, strict=True):
            self._pixels[start:end] = image.permute(1, 2, 0).reshape(-1, 3).to(device)

    def __len__(self) -> int:
        return len(self._targets)

    def __getitems__(self, keys: Sequence[Key]) -> tuple[Tensor, Tensor]:
        """Images (N, 3, size, size) float32 in [0, 1] and class indices (N,), on the device."""
        pairs = [key if isinstance(key, tuple) else (0 if key is None else key, None) for key in keys]
        index, missing = np.array([i for i, _ in pairs]), np.array([key is None for key in keys])
        seeds = [seed for _, seed in pairs if seed is not None]
        target = np.where(missing, IGNORED, self._targets[index])
        images = self._augmented(index, seeds) if seeds else self._central(index)
        if missing.any():
            images[self._send(np.flatnonzero(missing))] = 0
        return images.float().mul_(1 / 255).contiguous(), self._send(target)

    def _augmented(self, index: Array, seeds: Sequence[int]) -> Tensor:
        height, width = self._height[index], self._width[index]
        if not self._whole:
            return self._cut(index, random_boxes(height, width, seeds, self._config))
        boxes, size = resized_boxes(height, width, seeds, self._config), self._config.pixels
        return self._resample(index, boxes, np.zeros((2, len(index))), np.stack([boxes.height, boxes.width]) / size)

    def _central(self, index: Array) -> Tensor:
        height, width, size, side = self._height[index], self._width[index], self._config.pixels, self._config.side
        if not self._whole:
            return self._cut(index, central_boxes(height, width, size))
        short = np.minimum(height, width)
        high, wide = side * height // short, side * width // short
        box, scale = central_boxes(high, wide, size), np.stack([height / high, width / wide])
        nothing = np.zeros_like(index)
        return self._resample(
            index, Boxes(nothing, nothing, height, width, nothing.astype(bool)), np.stack([box.top, box.left]) * scale, scale
        )

    def _cut(self, index: Array, boxes: Boxes) -> Tensor:
        """(N, 3, size, size) uint8 at the boxes, which are all of that size; zero outside the images."""
        numbers = np.stack([boxes.top, boxes.left, boxes.flip, self._start[index], self._height[index], self._width[index]])
        top, left, flip, start, height, width = self._send(numbers)[:, :, None]
        steps = torch.arange(self._config.pixels, device=self._device)
        rows, columns = top + steps, left + torch.where(flip > 0, steps.flip(0), steps)
        images = self._fetch(start, width, rows.clamp(min=0).minimum(height - 1), columns.clamp(min=0).minimum(width - 1))
        inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
        return cast(Tensor, images * inside[:, None])

    def _resample(self, index: Array, boxes: Boxes, start: Array, scale: Array) -> Tensor:
        """(N, 3, size, size) float32, whole grey levels: boxes resized; ``start`` and ``scale`` (2, N) as in the weights."""
        each = max(1, CHUNK // int(boxes.height.max() * boxes.width.max()))
        parts = [slice(i, i + each) for i in range(0, len(index), each)]
        size, images = self._config.pixels, []
        for part in parts:
            numbers = np.stack(
                [boxes.top, boxes.left, boxes.flip, boxes.height, boxes.width, self._start[index], self._width[index]]
            )
            top, left, flip, height, width, offset, stride = self._send(numbers[:, part])[:, :, None]
            high, wide = int(boxes.height[part].max()), int(boxes.width[part].max())
            rows = (top + torch.arange(high, device=self._device)).minimum(top + height - 1)
            columns = (left + torch.arange(wide, device=self._device)).minimum(left + width - 1)
            regions = self._fetch(offset, stride, rows, columns).float()
            starts, scales = self._send(start[:, part]).float(), self._send(scale[:, part]).float()
            vertical = resize_weights(starts[0], scales[0], height[:, 0], size, high, self._config.filter)
            horizontal = resize_weights(starts[1], scales[1], width[:, 0], size, wide, self._config.filter)
            horizontal = torch.where(flip[:, :, None] > 0, horizontal.flip(1), horizontal)
            images.append(vertical[:, None] @ (regions @ horizontal.mT[:, None]))
        return torch.cat(images).round_().clamp_(0, 255)

    def _fetch(self, start: Tensor, stride: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """(N, 3, rows, columns) uint8 at ``rows`` and ``columns`` (N, ...) of the images at ``start`` (N, 1)."""
        places = (start + rows * stride)[:, :, None] + columns[:, None, :]
        return self._pixels[places].permute(0, 3, 1, 2)

    def _send(self, numbers: Array) -> Tensor:
        return torch.from_numpy(numbers).to(self._device, non_blocking=True)


def _allocate(pixels: int, device: torch.device) -> Tensor:
    needed, free = 3 * pixels, free_bytes(device)
    message = f"data.cache device needs {needed / 2**30:.1f} GiB on {device}"
    way_out = "use --data.cache auto, smaller images (--data.resize) or --data.limit"
    if free is not None and needed > FREE_SHARE * free:
        raise UsageError(f"{message}, of which {free / 2**30:.1f} GiB are free and some are needed for training: {way_out}")
    try:
        return torch.empty(pixels, 3, dtype=torch.uint8, device=device)
    except RuntimeError as error:  # torch's OutOfMemoryError is one; so is what the CPU's allocator says
        raise UsageError(f"{message}, which it does not have: {way_out}") from error


def free_bytes(device: torch.device) -> int | None:
    """Free memory of a GPU; None if unknown."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
