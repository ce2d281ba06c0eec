"""What tensors must be, and the one voice in which they are refused."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from jpegdl.errors import UsageError


def check_shape(x: Tensor, shape: Sequence[str | Any], name: str, *, empty: bool = True) -> None:
    """Refuse a tensor of another shape.

    Args:
        x: the tensor.
        shape: for each dimension, its length, or a letter if it may have any length.
        name: what to call the tensor.
        empty: accept 0 for a length with a letter. The first may always be 0.

    Raises:
        UsageError: says what was given and what is accepted.

    Example:
        >>> check_shape(torch.rand(2, 3, 8, 8), ("N", 3, "H", "W"), "images")
    """
    fits = x.ndim == len(shape) and (empty or 0 not in x.shape[1:])
    for length, wanted in zip(x.shape, shape, strict=False):
        fits = fits and (isinstance(wanted, str) or length == wanted)
    if fits:
        return
    letters = f", {' and '.join(n for n in shape[1:] if isinstance(n, str))} at least 1" if 0 in x.shape and not empty else ""
    raise UsageError(f"{name} must be of shape ({', '.join(map(str, shape))}){letters}, got {tuple(x.shape)}")


def derived(*tensors: Tensor) -> bool:
    """Return whether a derivative may be asked for: backward, or in forward mode.

    Args:
        *tensors: what something is to be computed from, of any shape.

    Returns:
        True also if only the code outside of a transform of ``torch.func`` could tell.
    """
    if torch.autograd.forward_ad._current_level >= 0:
        return True
    if not torch.is_grad_enabled():
        return False
    for tensor in tensors:  # any() takes longer, and single images are small
        if tensor.requires_grad:
            return True
    # Within vmap, tensors do not say what those outside of it ask for.
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def check_floating(x: Tensor, name: str) -> None:
    """Refuse a tensor of integers.

    Raises:
        TypeError: names its dtype.
    """
    if not x.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {x.dtype}")


#: What pixels may come as; floating point of 8 bits is for weights.
_OF_PIXELS = (torch.float32, torch.uint8, torch.float16, torch.bfloat16, torch.float64)


def check_pixels(images: Any) -> None:
    """Refuse a dtype that pixels cannot have: they are floating point in [0, 1], or uint8 in 0..255.

    Raises:
        TypeError: ``images`` is not a tensor, or neither floating point of 16 bits or more nor uint8.
    """
    if not isinstance(images, Tensor):
        raise TypeError(f"images must be a torch.Tensor, got {type(images).__name__}")
    if images.dtype not in _OF_PIXELS:
        raise TypeError(f"images must be floating point in [0, 1], or torch.uint8 in 0..255, got {images.dtype}")
    if images.is_sparse:
        raise TypeError("images must be dense, got a sparse tensor: images.to_dense()")


def check_images(images: Any, *, grey: bool = False) -> None:
    """Refuse anything but a batch of RGB images, (N, 3, H, W), floating point or uint8, of at least one pixel.

    Args:
        images: anything.
        grey: accept (N, 1, H, W) too.

    Raises:
        TypeError: not a tensor, or of another dtype.
        UsageError: of another shape.
    """
    check_pixels(images)
    shape = images.shape
    if len(shape) == 4 and shape[1] == 3 and shape[2] and shape[3]:  # looked at before each call of a layer
        return
    channels = 1 if grey and images.ndim == 4 and images.shape[1] == 1 else 3
    check_shape(images, ("N", channels, "H", "W"), "images", empty=False)
