"""The fused round trip on the CPU, compiled by numba at first use (a few seconds; then cached on disk).

Threads (PyTorch's own) take strips of 8 pixel rows, on which :mod:`jpegdl.kernels.cpu_strips` does the work.
"""

import ctypes
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import numba
import torch
from numba.core import types
from torch import Tensor

from jpegdl import functional as F
from jpegdl.functional import BLOCK
from jpegdl.kernels.cpu_strips import JOB, Job, backward_team, forward_team

_WORTH_A_THREAD = 1 << 14  # numbers, 0.05 milliseconds of work


def forward(images: Tensor, q: Tensor, alpha: Tensor, cap: float) -> Tensor:
    """Images through the layer, with steps and alpha (3, 8, 8).

    Args:
        images: (N, 3, H, W) of any strides, floating point in [0, 1] or uint8.

    Returns:
        The same shape, contiguous, and dtype (float32 for uint8); computed in float32.
    """
    pixels = F.unit_images(images.detach()).contiguous()
    output = torch.empty_like(pixels)
    _share_out(forward_team, cap, images=pixels, output=output, q=_in_order(q), alpha=_in_order(alpha))
    return output if images.dtype == torch.uint8 else output.to(images.dtype)


def backward(
    images: Tensor, grad: Tensor, q: Tensor, alpha: Tensor, cap: float, *, want_images: bool
) -> tuple[Tensor | None, Tensor]:
    """Gradients from that of the output, of any strides: of the images (where wanted), and (2, 3, 8, 8), of q and alpha."""
    pixels, grad = F.unit_images(images.detach()).contiguous(), _in_order(grad)
    partial = pixels.new_zeros(_count_strips(pixels), 3, 2 * BLOCK * BLOCK)
    tensors = {"images": pixels, "grad": grad, "q": _in_order(q), "alpha": _in_order(alpha), "partial": partial}
    grad_images = torch.empty_like(pixels) if want_images else None
    if grad_images is not None:
        tensors["grad_images"] = grad_images
    _share_out(backward_team, cap, **tensors)
    # From vertical frequency fastest.
    sums = partial.sum(dim=0, dtype=torch.float64).float().reshape(3, 2, BLOCK, BLOCK).permute(1, 0, 3, 2).contiguous()
    return None if grad_images is None else grad_images.to(images.dtype), sums


def _in_order(tensor: Tensor) -> Tensor:
    return tensor.detach().float().contiguous()


def _count_strips(images: Tensor) -> int:
    return len(images) * -(-images.shape[2] // BLOCK)


# ------------------------------------------------------------------------------------------------------------- threads


def _share_out(team: Callable[..., None], cap: float, **tensors: Tensor) -> None:
    """Run all strips on as many threads as PyTorch uses; on this one alone where starting others takes longer."""
    images = tensors["images"]
    strips = _count_strips(images)
    threads = min(torch.get_num_threads(), strips, 1 + images.numel() // _WORTH_A_THREAD)
    # Several pieces a thread: one that shares its core with another process takes fewer.
    pieces = 1 if threads == 1 else min(4 * threads, strips)
    places = {name: tensor.data_ptr() for name, tensor in tensors.items()}
    n, _, height, width = images.shape
    job = Job(pieces=pieces, strips=strips, n=n, height=height, width=width, cap=cap, **places)
    native, parallel = _native(team), _openmp()
    if threads == 1:
        native(ctypes.byref(job))
    elif parallel is not None:
        # The team as it is: another size would make threads anew.
        parallel(native, ctypes.byref(job), torch.get_num_threads(), 0)
    else:
        with ThreadPoolExecutor(threads) as pool:  # made anew each time: safe under fork
            for done in [pool.submit(_run, native, job, tensors) for _ in range(threads)]:
                done.result()


def _run(native: Any, job: Job, tensors: dict[str, Tensor]) -> None:
    """A thread of the pool, which holds the job and its tensors: whoever started it may leave before it ends, by Ctrl+C."""
    native(ctypes.byref(job))


@lru_cache(maxsize=2)
def _native(team: Callable[..., None]) -> Any:
    """The team's function, compiled; called without the interpreter's lock."""
    compiled = numba.cfunc(types.void(JOB), cache=True)
    try:
        return compiled(team).ctypes
    except (RuntimeError, OSError):  # numba can write its cache neither beside the package nor in the user's folder
        numba.config.CACHE_DIR = tempfile.mkdtemp(prefix="jpegdl-numba-")  # type: ignore[attr-defined]
        return compiled(team).ctypes


@lru_cache(maxsize=1)
def _openmp() -> Any:
    """PyTorch's own threads, where it uses GNU OpenMP: they spin for a while after each operation, in the way of any others."""
    libraries = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    return getattr(ctypes.CDLL(str(libraries[0])), "GOMP_parallel", None) if libraries else None
