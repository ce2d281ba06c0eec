"""What to compute on: the names that every ``--device`` takes, for PyTorch and for Lightning."""

import re
from typing import Any

import torch

from jpegdl.errors import UsageError


def check_device(name: str) -> tuple[str, int | None]:
    """Return the two parts of a device's name, whether or not there is such a device here: its kind and its number.

    Raises:
        UsageError: it is no such name.
    """
    if (found := re.fullmatch(r"(auto|cpu|gpu|cuda|mps)(?:(?<=cuda):(\d+))?", name)) is None:
        raise UsageError(f"device must be auto, cpu, gpu, cuda, cuda:N (as cuda:0) or mps, got {name!r}")
    return found[1], int(found[2]) if found[2] else None


def compute_device(name: str | None) -> torch.device:
    """Return the device of a name.

    Args:
        name: cpu; cuda, or one of several, cuda:1; mps; gpu, which of these two there is; auto or None, cuda where there is
            one and else the CPU, as mps lacks the float64 that many measurements take.

    Raises:
        UsageError: it is none of these names, or there is no such device here.
    """
    wanted, number = check_device("auto" if name is None else name)
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    gpus = [kind for kind, available in there.items() if available]
    kind = {"auto": "cuda" if there["cuda"] else "cpu", "gpu": next(iter(gpus), "cuda")}.get(wanted, wanted)
    if not there.get(kind, True):
        raise UsageError(f"device {name!r} cannot be used here, give {' or '.join(['auto', 'cpu', *gpus])}")
    if number is not None and number >= (count := torch.cuda.device_count()):
        raise UsageError(f"device {name!r} cannot be used here: of {count} GPUs the last is cuda:{count - 1}")
    return torch.device(kind) if number is None else torch.device(kind, number)


def has_bfloat16(device: torch.device) -> bool:
    """Return whether a device computes in bfloat16 by itself, so that it is faster than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    known = [getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    return device.type == "cpu" and any(bool(has()) for has in known if has is not None)


def bfloat16_pays(name: str) -> bool:
    """Return what :func:`has_bfloat16` does of a device by its name (:func:`compute_device`); no where it is not here."""
    try:
        return has_bfloat16(compute_device(name))
    except UsageError:  # said when it is to compute
        return False


def trainer_device(name: str, devices: int) -> dict[str, Any]:
    """Return the options of Lightning's Trainer for a device's name: ``accelerator``, and ``devices``.

    Args:
        name: see :func:`compute_device`.
        devices: how many GPUs or processes.

    Raises:
        UsageError: see :func:`compute_device`; or one GPU is named, and several are asked for.
    """
    device = compute_device(name)
    if device.index is not None and devices > 1:
        raise UsageError(f"device {name} is one GPU, and training.devices asks for {devices}: give device cuda")
    return {"accelerator": device.type, "devices": devices if device.index is None else [device.index]}
