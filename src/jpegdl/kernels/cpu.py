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
from jpegdl.kernels.cpu_blocks import GROUP, SUMS
from jpegdl.kernels.cpu_exact import EXACT_JOB, TEAMS, ExactJob
from jpegdl.kernels.cpu_exact_gradients import chroma_gradient, image_gradient
from jpegdl.kernels.cpu_strips import (
    JOB,
    Job,
    chroma_gradient_team,
    chroma_team,
    image_gradient_team,
    image_team,
)
from jpegdl.kernels.cpu_vectors import BESIDE
from jpegdl.kernels.trip import Trip
from jpegdl.settings import ROUNDINGS

_WORTH_A_THREAD = 1 << 14  # numbers, 0.05 milliseconds of work


def forward(images: Tensor, q: Tensor, alpha: Tensor | None, seed: Tensor | None, trip: Trip) -> Tensor:
    """Images through the codec; see :func:`jpegdl.kernels.round_trip`.

    Args:
        images: (N, C, H, W) of any strides, C 3 or 1, floating point in [0, 1] or uint8.
        q, alpha: (T, 8, 8) or (N, T, 8, 8).

    Returns:
        The same shape, contiguous, and dtype (float32 for uint8); computed in float32.
    """
    pixels = F.unit_images(images.detach()).contiguous()
    output = torch.empty_like(pixels)
    held = {"images": pixels, "output": output, **_tables_of(q, alpha)}
    if trip.whole:
        held["bad"] = torch.zeros(len(pixels), dtype=torch.uint8)
    job = _job(held, q, seed, trip)
    if job.across > 1:
        held["samples"] = torch.empty(job.n, 2, job.rows, job.columns, dtype=torch.float32)
        _share_out(chroma_team, job, job.n * -(-job.rows // BLOCK), held)
    _share_out(image_team, job, job.n * -(-job.height // BLOCK), held)
    if trip.whole and held["bad"].any():
        output.masked_fill_(held["bad"].bool()[:, None, None, None], torch.nan)
    return output if images.dtype == torch.uint8 else output.to(images.dtype)


def backward(
    images: Tensor,
    grad: Tensor,
    q: Tensor,
    alpha: Tensor | None,
    seed: Tensor | None,
    trip: Trip,
    *,
    want_images: bool,
) -> tuple[Tensor | None, Tensor]:
    """Gradients from that of the output, of any strides: of the images (where wanted), and (2, ..), of q and alpha, each like
    q; (1, ..), of q alone, where alpha does not count."""
    pixels = F.unit_images(images.detach()).contiguous()
    held = {"images": pixels, "grad": _in_order(grad), **_tables_of(q, alpha)}
    grad_images = torch.empty_like(pixels) if want_images else None
    if grad_images is not None:
        held["grad_images"] = grad_images
    job = _job(held, q, seed, trip)
    of_chroma = None
    if job.across > 1:
        held["samples"] = torch.empty(job.n, 2, job.rows, job.columns + 1, dtype=torch.float32)
        of_chroma = _summed(chroma_gradient_team, job, -(-job.rows // BLOCK), held)
    sums = _summed(image_gradient_team, job, -(-job.height // BLOCK), held)
    sums = sums if of_chroma is None else sums + of_chroma
    if trip.rounding == "ste-matched":
        within, beyond, *errors = sums.unbind(-2)
        sums = (within * F.error_slope(*errors) / 2 + beyond)[..., None, :]
    # From vertical frequency fastest.
    tables = (
        sums[..., : 2 if trip.soft else 1, :].float().reshape(*q.shape[:-2], -1, BLOCK, BLOCK).transpose(-1, -2).movedim(-3, 0)
    )
    return None if grad_images is None else grad_images.to(images.dtype), tables.contiguous()


def _tables_of(q: Tensor, alpha: Tensor | None) -> dict[str, Tensor]:
    return {"q": _in_order(q)} if alpha is None else {"q": _in_order(q), "alpha": _in_order(alpha)}


def _job(held: dict[str, Tensor], q: Tensor, seed: Tensor | None, trip: Trip) -> Job:
    n, channels, height, width = held["images"].shape
    down, across = F.SAMPLING[trip.subsampling] if channels == 3 else (1, 1)
    return Job(
        n=n,
        channels=channels,
        height=height,
        width=width,
        down=down,
        across=across,
        rows=-(-height // down) if across > 1 else 0,
        columns=-(-width // across) if across > 1 else 0,
        kind=ROUNDINGS.index(trip.rounding),
        whole=trip.whole,
        tables=q.shape[-3],
        each=q.ndim == 4 and len(q) > 1,
        seed=0 if seed is None else int(seed),
        cap=trip.cap,
        far=F.FAR,
    )


def _summed(team: Callable[..., None], job: Job, strips: int, held: dict[str, Tensor]) -> Tensor:
    """Run a team that sums up gradients of tables: (T, sums, 64), or (N, T, sums, 64), float64, in the order of the strips."""
    held["partial"] = torch.zeros(job.n, strips, job.tables, SUMS, dtype=torch.float32)
    _share_out(team, job, job.n * strips, held)
    q = held["q"]
    sums = held["partial"].sum(1 if job.each else (0, 1), dtype=torch.float64)
    return _of_blocks(sums.reshape(*q.shape[:-2], SUMS // GROUP, GROUP))


def _of_blocks(sums: Tensor) -> Tensor:
    """(.., GROUP) of blocks side by side to (.., 64)."""
    return sums.reshape(*sums.shape[:-1], BLOCK, BESIDE, BLOCK).sum(-2).flatten(-2)


def exact(images: Tensor, luma: Tensor, chroma: Tensor, factors: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The exact round trip.

    Args:
        images: (N, C, H, W), C 1 or 3, of any strides, float32 in [0, 1] or uint8.
        luma, chroma: steps (8, 8) or (N, 8, 8).
        factors: pixels that share a chroma sample, (down, across).

    Returns:
        The same shape, contiguous, and dtype; and (N,), uint8, 1 for images with NaN, of which the rest is not to be used.
    """
    pixels, tables = images.detach().contiguous(), [_in_order(table).reshape(-1, BLOCK, BLOCK) for table in (luma, chroma)]
    shapes = _shapes(pixels, tables, factors)
    subsampled = shapes["across"] > 1
    samples = torch.empty((len(pixels), 2, shapes["rows"], shapes["columns"]) if subsampled else 0, dtype=torch.uint8)
    output, bad = torch.empty_like(pixels), torch.zeros(len(pixels), dtype=torch.uint8)
    tensors = {"images": pixels, "output": output, "luma": tables[0], "chroma": tables[1], "samples": samples, "bad": bad}
    places = {name: tensor.data_ptr() for name, tensor in tensors.items()}
    for_chroma, for_images = TEAMS[pixels.dtype == torch.uint8]
    if subsampled:
        job = ExactJob(strips=len(pixels) * (shapes["rows"] // BLOCK), **shapes, **places)
        share_out(for_chroma, EXACT_JOB, job, pixels.numel(), tensors)
    job = ExactJob(strips=_count_strips(pixels), **shapes, **places)
    share_out(for_images, EXACT_JOB, job, pixels.numel(), tensors)
    return output, bad


def exact_backward(
    images: Tensor,
    grad: Tensor,
    luma: Tensor,
    chroma: Tensor,
    factors: tuple[int, int],
    *,
    straight: bool,
    want_images: bool,
    want_tables: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of the exact round trip: straight through its roundings, or those that it has.

    Args:
        images, luma, chroma, factors: as in :func:`exact`; images in floating point.
        grad: of the output, shaped like the images.
        straight: through the rounding of levels, too, of the steps.
        want_images: those that go straight through, to the images.
        want_tables: to the steps.

    Returns:
        Of the images, float32, and of luma and chroma, (N, 8, 8); None for what is not wanted.
    """
    pixels, grad = _in_order(images), _in_order(grad)
    tables = [_in_order(table).reshape(-1, BLOCK, BLOCK) for table in (luma, chroma)]
    shapes = _shapes(pixels, tables, factors)
    n, subsampled = len(pixels), shapes["across"] > 1
    want_images, unchanged = want_images and subsampled, want_images and not subsampled
    tensors = {"images": pixels, "grad": grad, "luma": tables[0], "chroma": tables[1]}
    tensors["samples"] = pixels.new_empty((n, 2, shapes["rows"], shapes["columns"]) if subsampled else 0)
    grad_images = torch.empty_like(pixels) if want_images else None
    if grad_images is not None:
        tensors["grad_images"] = grad_images
    sums = pixels.new_zeros(2, n, BLOCK * BLOCK, dtype=torch.float64)

    def run(team: Callable[..., None], strips: int, partial: Tensor) -> None:
        held = {**tensors, "partial": partial} if want_tables else tensors
        places = {name: tensor.data_ptr() for name, tensor in held.items()}
        job = ExactJob(strips=n * strips, straight=float(straight), **shapes, **places)
        share_out(team, EXACT_JOB, job, pixels.numel(), held)

    if subsampled:
        strips = shapes["rows"] // BLOCK
        partial = pixels.new_zeros(n, strips, GROUP)
        run(chroma_gradient, strips, partial)
        sums[1] += _of_blocks(partial.sum(1, dtype=torch.float64))
    if want_images or want_tables:
        strips = -(-pixels.shape[2] // BLOCK)
        partial = pixels.new_zeros(n, strips, 2, GROUP)
        run(image_gradient, strips, partial)
        sums += _of_blocks(partial.sum(1, dtype=torch.float64)).transpose(0, 1)
    # From vertical frequency fastest, and from pixels in 0..255.
    by_luma, by_chroma = sums.float().div(255).reshape(2, n, BLOCK, BLOCK).transpose(2, 3).unbind()
    return grad if unchanged else grad_images, *((by_luma, by_chroma) if want_tables else (None, None))


def _shapes(pixels: Tensor, tables: list[Tensor], factors: tuple[int, int]) -> dict[str, int]:
    n, channels, height, width = pixels.shape
    down, across = factors if channels == 3 else (1, 1)
    rows, columns = (-(-side // (BLOCK * factor)) * BLOCK for side, factor in ((height, down), (width, across)))
    shapes = {"n": n, "channels": channels, "height": height, "width": width, "down": down, "across": across}
    return shapes | {"rows": rows, "columns": columns, "lumas": len(tables[0]), "chromas": len(tables[1])}


def _in_order(tensor: Tensor) -> Tensor:
    return tensor.detach().float().contiguous()


def _count_strips(images: Tensor) -> int:
    return len(images) * -(-images.shape[2] // BLOCK)


# ------------------------------------------------------------------------------------------------------------- threads


def _share_out(team: Callable[..., None], job: Job, strips: int, held: dict[str, Tensor]) -> None:
    """Run all strips of a pass over what is held."""
    job.taken, job.strips = 0, strips
    for name, tensor in held.items():
        setattr(job, name, tensor.data_ptr())
    share_out(team, JOB, job, held["images"].numel(), held)


def share_out(team: Callable[..., None], kind: Any, job: Any, numbers: int, tensors: dict[str, Tensor]) -> None:
    """Run a team on as many threads as PyTorch uses; on this one alone where starting others takes longer.

    Args:
        team: what each thread does, from a module that numba compiles.
        kind: numba's type of a pointer to the job.
        job: has ``strips``, and ``pieces``, which are chosen here.
        numbers: how many there are to work on.
        tensors: what the job points at.
    """
    threads = min(torch.get_num_threads(), job.strips, 1 + numbers // _WORTH_A_THREAD)
    # Several pieces per thread: one that shares its core with another process takes fewer.
    job.pieces = 1 if threads == 1 else min(4 * threads, job.strips)
    native, parallel = _native(team, kind), _openmp()
    if threads == 1:
        native(ctypes.byref(job))
    elif parallel is not None:
        # Keep the team's size: another one would make new threads.
        parallel(native, ctypes.byref(job), torch.get_num_threads(), 0)
    else:
        with ThreadPoolExecutor(threads) as pool:  # a new one each time: safe under fork
            for done in [pool.submit(_run, native, job, tensors) for _ in range(threads)]:
                done.result()


def _run(native: Any, job: Any, tensors: dict[str, Tensor]) -> None:
    """A thread of the pool, which holds the job and its tensors: whoever started it may leave before it ends, by Ctrl+C."""
    native(ctypes.byref(job))


@lru_cache(maxsize=16)
def _native(team: Callable[..., None], kind: Any) -> Any:
    """The team's function, compiled; called without the interpreter's lock."""
    compiled = numba.cfunc(types.void(kind), cache=True)
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
