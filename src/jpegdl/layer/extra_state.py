"""A layer's settings in its state dict, so that a state from a layer with other settings is not loaded without a word."""

import json
import warnings
import zlib
from typing import Any

import torch
from torch import Tensor

from jpegdl.errors import UsageError

_UNIT = 512  # numbers: records of one kind of layer are all of one shape, which loaders compare first
_MARK = b"JDL1"  # what a record begins with
_FREE = "rounding"  # may be set at any time, and is not a reason to refuse a state


def encode(settings: dict[str, Any]) -> Tensor:
    """Write settings into a uint8 tensor that outlives being averaged as if it held weights; on the CPU.

    Half a byte to each number, 16 n + 8: averages of equal records are off by the rounding of their arithmetic, and half a byte
    survives that up to 7 either way.

    Returns:
        (512 n,): a mark, the CRC-32 of the JSON, and the JSON padded with spaces.
    """
    text = json.dumps(settings).encode()
    head = len(_MARK) + 4
    text = text.ljust(-(-2 * (len(text) + head) // _UNIT) * _UNIT // 2 - head)
    record = _MARK + zlib.crc32(text).to_bytes(4, "big") + text
    return torch.tensor([16 * half + 8 for byte in record for half in divmod(byte, 16)], dtype=torch.uint8, device="cpu")


def decode(record: Tensor) -> dict[str, Any] | None:
    """Invert :func:`encode`; also of a record from before there were marks, which is JSON byte by byte.

    Returns:
        The settings; None on the meta device, where tensors have no values, and after a warning where the record is damaged.
    """
    if record.is_meta:
        return None
    try:
        numbers = [round(number) for number in record.double().flatten().tolist()]
        halves = [number // 16 for number in numbers]
        packed = bytes(16 * high + low for high, low in zip(halves[::2], halves[1::2], strict=False))
        if packed.startswith(_MARK):
            head = len(_MARK)
            text = packed[head + 4 :]
            if zlib.crc32(text) != int.from_bytes(packed[head : head + 4], "big"):
                raise ValueError("its checksum is wrong")
        else:
            text = bytes(numbers)
        return dict(json.loads(text))
    except (ValueError, TypeError, OverflowError) as error:
        warnings.warn(
            f"_extra_state in the layer's state holds no settings ({error}), as if it had been averaged with "
            "others. The tables are loaded, but the settings could not be checked. Leave "
            "'_extra_state' out of what you average",
            stacklevel=4,
        )
        return None


def check_settings(saved: dict[str, Any], own: dict[str, Any]) -> None:
    """Compare the settings in a state with those of the layer that loads it; what only one of them knows is left out.

    Raises:
        UsageError: names each setting that differs, with both values. A ``rounding`` that differs is a warning only.
    """
    way_out = "or delete '_extra_state' of the layer from the state to load it all the same"
    if "layer" in saved and saved["layer"] != own["layer"]:
        raise UsageError(
            f"the state is that of a {saved['layer']}, and this layer is a {own['layer']}: build the other, {way_out}"
        )
    differing = [name for name in own if name in saved and saved[name] != own[name]]
    if refused := [name for name in differing if name != _FREE]:
        raise UsageError(
            f"the state is that of a {own['layer']} with {_listed(saved, refused)}, and this one has {_listed(own, refused)}: "
            f"build it with the settings of the state, {way_out}"
        )
    if differing:
        warnings.warn(
            f"the state is that of a {own['layer']} with {_listed(saved, differing)}; this one keeps {_listed(own, differing)}",
            stacklevel=2,
        )


def _listed(settings: dict[str, Any], names: list[str]) -> str:
    return ", ".join(f"{name}={settings[name]!r}" for name in names)
