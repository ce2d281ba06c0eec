"""A layer's settings in its state dict, so that a state from a layer with other settings is not loaded without a word."""

import json
import warnings
from typing import Any

import torch
from torch import Tensor

from jpegdl.errors import UsageError

_UNIT = 256  # bytes: records of one kind of layer are all of one shape, which loaders compare first
_FREE = "rounding"  # may be set at any time, and is not a reason to refuse a state


def encode(settings: dict[str, Any]) -> Tensor:
    """Settings as JSON in a uint8 tensor of shape (256 n,), padded with spaces; on the CPU."""
    text = json.dumps(settings).encode()
    text = text.ljust(-(-len(text) // _UNIT) * _UNIT)
    return torch.tensor(list(text), dtype=torch.uint8, device="cpu")


def decode(record: Tensor) -> dict[str, Any] | None:
    """Invert :func:`encode`; None on the meta device, where tensors have no values.

    Raises:
        UsageError: it is something else.
    """
    if record.is_meta:
        return None
    try:
        settings = json.loads(bytes(record.to(torch.uint8).tolist()))
        return dict(settings)
    except (ValueError, TypeError) as error:
        raise UsageError(f"_extra_state in the layer's state is not a record of its settings ({error})") from error


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
