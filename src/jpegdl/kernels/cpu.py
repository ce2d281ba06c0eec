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
from jpegdl.kernels.cpu_exact import EXACT_JOB, ExactJob, images_of_bytes, images_of_floats
from jpegdl.kernels.cpu_exact_gradients import gradients
from jpegdl.kernels.cpu_strips import (
    JOB,
    Job,
    image_gradient_team,
    image_team,
    subsampled_gradient_team,
    subsampled_team,
)
from jpegdl.kernels.cpu_vectors import BESIDE
from jpegdl.kernels.trip import Trip
from jpegdl.settings import ROUNDINGS

_EXACT_TEAMS = (images_of_floats, images_of_bytes, gradients)
_WORTH_A_THREAD = 1 << 14  # numbers, 0.05 milliseconds of work
_TABLE_BYTES = BLOCK * BLOCK * ctypes.sizeof(ctypes.c_float)
_Together = ctypes.c_float * (4 * BLOCK * BLOCK)  # steps and alpha of luma and chroma
_LONG = 8  # strips of 4:2:0 that lie below one another: at each end, chroma of one more is computed


def forward(images: Tensor, q: Tensor, alpha: Tensor | None, seed: Tensor | None, trip: Trip) -> Tensor:
    """Take images through the codec; see :func:`jpegdl.kernels.round_trip`.

    Args:
        images: (N, C, H, W) of any strides, C 3 or 1, floating point in [0, 1] or uint8.
        q, alpha: (T, 8, 8) or (N, T, 8, 8).

    Returns:
        The same shape, contiguous, and dtype (float32 for uint8); computed in float32.
    """
    held = {"images": F.unit_images(images).contiguous(), **_tables_of(q, alpha)}
    output = _through(_job(held, q, seed, trip), held)
    return output if images.dtype in (torch.float32, torch.uint8) else output.to(images.dtype)


def forward_of_tables(
    images: Tensor, tables: tuple[Tensor, ...], alphas: tuple[Tensor, ...], within: tuple[float, float], trip: Trip
) -> Tensor | None:
    """The same for float32 images with the tables of luma and chroma, (8, 8), contiguous float32, which need not be put into
    one tensor for it; None where a step lies beyond ``within``. No alphas where they do not count."""
    held = {"images": images.contiguous()}
    job = Job.from_buffer_copy(_template(images.shape, len(tables), False, trip))
    job.together = _Together()
    job.q = ctypes.addressof(job.together)
    job.alpha = job.q + len(tables) * _TABLE_BYTES if alphas else 0
    for i, table in enumerate(tables + alphas):
        ctypes.memmove(job.q + i * _TABLE_BYTES, table.data_ptr(), _TABLE_BYTES)
    job.low, job.high = within
    output = _through(job, held)
    return None if job.beyond else output


def _through(job: Job, held: dict[str, Tensor]) -> Tensor:
    held["output"] = output = torch.empty_like(held["images"])
    bad = _flags(job) if job.whole else None
    if job.across > 1:
        _share_out(subsampled_team, job, job.n * -(-job.rows // BLOCK), held, run=_LONG if job.down == 2 else 1)
    else:
        _share_out(image_team, job, job.n * -(-job.height // BLOCK), held)
    if bad is not None and (found := _raised(bad)) is not None:
        output.masked_fill_(found[:, None, None, None], torch.nan)
    return output


def _flags(job: Job | ExactJob) -> Any:
    """A byte for each image, which a team sets where there is NaN: a tensor takes longer to make and to look at."""
    job.flags = (ctypes.c_uint8 * job.n)()
    job.bad = ctypes.addressof(job.flags)
    return job.flags


def _raised(flags: Any) -> Tensor | None:
    """(N,), bool: which flags are set; None for none."""
    return torch.tensor(list(flags), dtype=torch.bool, device="cpu") if 1 in bytes(flags) else None


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
    if job.across > 1:
        sums = _summed(subsampled_gradient_team, job, -(-job.rows // BLOCK), held)
    else:
        sums = _summed(image_gradient_team, job, -(-job.height // BLOCK), held)
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
    job = Job.from_buffer_copy(_template(held["images"].shape, q.shape[-3], q.ndim == 4 and len(q) > 1, trip))
    if seed is not None:
        job.seed = int(seed)
    return job


@lru_cache(maxsize=64)
def _template(shape: torch.Size, tables: int, each: bool, trip: Trip) -> Job:
    """A job without its memory and its seed, to be copied: to fill one takes as long as a small image."""
    n, channels, height, width = shape
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
        tables=tables,
        each=each,
        cap=trip.cap,
        far=F.FAR,
    )


def _summed(team: Callable[..., None], job: Job, strips: int, held: dict[str, Tensor]) -> Tensor:
    """Run a team that sums up gradients of tables: (T, sums, 64), or (N, T, sums, 64), float64, in the order of the strips."""
    held["partial"] = torch.zeros(job.n, strips, job.tables, SUMS, dtype=torch.float32, device="cpu")
    _share_out(team, job, job.n * strips, held)
    q = held["q"]
    sums = held["partial"].sum(1 if job.each else (0, 1), dtype=torch.float64)
    return _of_blocks(sums.reshape(*q.shape[:-2], SUMS // GROUP, GROUP))


def _of_blocks(sums: Tensor) -> Tensor:
    """(.., GROUP) of blocks side by side to (.., 64)."""
    return sums.reshape(*sums.shape[:-1], BLOCK, BESIDE, BLOCK).sum(-2).flatten(-2)


def exact(images: Tensor, luma: Tensor, chroma: Tensor, factors: tuple[int, int]) -> tuple[Tensor, Tensor | None]:
    """Compute the exact round trip.

    Args:
        images: (N, C, H, W), C 1 or 3, of any strides, float32 in [0, 1] or uint8.
        luma, chroma: steps (8, 8) or (N, 8, 8).
        factors: pixels that share a chroma sample, (down, across).

    Returns:
        The same shape, contiguous, and dtype; and (N,), bool, which images have NaN, of which the rest is not to be used: None
        where none has.
    """
    pixels, output = images.contiguous(), torch.empty_like(images, memory_format=torch.contiguous_format)
    held = {"images": pixels, "output": output, "luma": _in_order(luma), "chroma": _in_order(chroma)}
    job = _exact_job(held, factors)
    bad = _flags(job)
    team = images_of_bytes if pixels.dtype == torch.uint8 else images_of_floats
    _share_out(team, job, job.n * (job.rows // BLOCK), held, run=_LONG if job.down == 2 else 1)
    return output, _raised(bad)


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
    """Compute gradients of the exact round trip: straight through its roundings, or those that it has.

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
    held = {"images": pixels, "grad": grad, "luma": _in_order(luma), "chroma": _in_order(chroma)}
    job = _exact_job(held, factors)
    job.straight = float(straight)
    n, subsampled = job.n, job.across > 1
    want_images, unchanged = want_images and subsampled, want_images and not subsampled
    grad_images = torch.empty_like(pixels) if want_images else None
    if grad_images is not None:
        held["grad_images"] = grad_images
    strips = job.rows // BLOCK
    if want_tables:
        held["partial"] = pixels.new_zeros(n, strips, 2, GROUP)
    if want_images or want_tables:
        _share_out(gradients, job, n * strips, held)
    if not want_tables:
        return grad if unchanged else grad_images, None, None
    sums = _of_blocks(held["partial"].sum(1, dtype=torch.float64)).transpose(0, 1)
    # From vertical frequency fastest, and from pixels in 0..255.
    by_luma, by_chroma = sums.float().div(255).reshape(2, n, BLOCK, BLOCK).transpose(2, 3).unbind()
    return grad if unchanged else grad_images, by_luma, by_chroma


def _exact_job(held: dict[str, Tensor], factors: tuple[int, int]) -> ExactJob:
    lumas, chromas = (held[name].numel() // BLOCK**2 for name in ("luma", "chroma"))
    return ExactJob.from_buffer_copy(_exact_template(held["images"].shape, factors, lumas, chromas))


@lru_cache(maxsize=64)
def _exact_template(shape: torch.Size, factors: tuple[int, int], lumas: int, chromas: int) -> ExactJob:
    n, channels, height, width = shape
    down, across = factors if channels == 3 else (1, 1)
    rows, columns = (-(-side // (BLOCK * factor)) * BLOCK for side, factor in ((height, down), (width, across)))
    sizes = {"n": n, "channels": channels, "height": height, "width": width, "rows": rows, "columns": columns}
    return ExactJob(down=down, across=across, lumas=lumas, chromas=chromas, **sizes)


def _in_order(tensor: Tensor) -> Tensor:
    return tensor.float().contiguous()


# ------------------------------------------------------------------------------------------------------------- threads


def _share_out(team: Callable[..., None], job: Job | ExactJob, strips: int, held: dict[str, Tensor], run: int = 1) -> None:
    """Run a team on all strips of a pass, on as many threads as PyTorch uses; on this one alone where starting others takes
    longer.

    Args:
        team: what each thread does, from a module that numba compiles.
        job: what they work on, but for where in memory it lies.
        strips: how many there are.
        held: the tensors, by the names that a job has for them.
        run: strips that a piece has at least, where there are enough for all threads.
    """
    job.taken, job.strips = 0, strips
    for name, tensor in held.items():
        setattr(job, name, tensor.data_ptr())
    numbers = held["images"].numel()
    threads = min(torch.get_num_threads(), strips, 1 + numbers // _WORTH_A_THREAD)
    # Several pieces per thread: one that shares its core with another process takes fewer.
    job.pieces = 1 if threads == 1 else max(threads, min(4 * threads, strips // run))
    native, parallel = _native(team), _openmp()
    if threads == 1:
        native(ctypes.byref(job))
    elif parallel is not None:
        # Keep the team's size: another one would make new threads.
        parallel(native, ctypes.byref(job), torch.get_num_threads(), 0)
    else:
        with ThreadPoolExecutor(threads) as pool:  # a new one each time: safe under fork
            for done in [pool.submit(_run, native, job, held) for _ in range(threads)]:
                done.result()


def _run(native: Any, job: Any, tensors: dict[str, Tensor]) -> None:
    """A thread of the pool, which holds the job and its tensors: whoever started it may leave before it ends, by Ctrl+C."""
    native(ctypes.byref(job))


@lru_cache(maxsize=16)
def _native(team: Callable[..., None]) -> Any:
    """The team's function, compiled; called without the interpreter's lock."""
    compiled = numba.cfunc(types.void(EXACT_JOB if team in _EXACT_TEAMS else JOB), cache=True)
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
