"""Other gradients for a layer whose own says too little: its forward pass stays, its backward pass is another's (BPDA)."""

import copy
from typing import cast

import torch
from torch import Tensor, nn

from jpegdl.errors import UsageError
from jpegdl.layer import PrependedModel, Rounding, prepend
from jpegdl.layer.roundings import quantizers
from jpegdl.random import isolated

#: What a layer may be noted to be, by attributes: one whose answers differ from call to call; one with these gradients alone.
RANDOM, OFFERED = "answers_differ", "offered_gradients"


def is_random(layer: nn.Module) -> bool:
    """Return whether the layer draws levels at random in eval mode, or is noted as one whose answers differ."""
    return hasattr(layer, RANDOM) or any(quantizer.rounding == "sample" for quantizer in quantizers(layer))


@torch.no_grad()
def note_if_random(model: PrependedModel, images: Tensor) -> None:
    """Note a model's layer as one whose answers differ from call to call, where those to these images (N, 3, H, W) do."""
    with isolated():
        one, again = model(images), model(images)
    if not torch.allclose(one, again, rtol=1e-3, atol=1e-4, equal_nan=True):
        setattr(model.layer, RANDOM, True)


def gradients_of(layer: nn.Module) -> tuple[str, ...]:
    """Return which gradients an attack may see a layer through, as far as they differ.

    These are own; identity, unless the layer is one; ste for layers that quantize, unless they have that gradient already or do
    not round; and none for several layers in a row that have a level cap. (In a single layer, none differs from ste only for
    coefficients less than half a step beyond the cap.)
    """
    if isinstance(layer, nn.Identity):
        return ("own",)
    if (offered := getattr(layer, OFFERED, None)) is not None:
        return cast(tuple[str, ...], offered)
    found = quantizers(layer)
    roundings = {quantizer.rounding for quantizer in found}
    names = ["own"]
    if roundings - {"ste", "ste-matched", "none"}:
        names.append("ste")
    if roundings - {"none"} and len(found) > 1 and all(quantizer.bits is not None for quantizer in found):
        names.append("none")
    return (*names, "identity")


def with_gradient(model: PrependedModel, gradient: str) -> PrependedModel:
    """Return a model with the logits of ``model``, bit for bit, and another gradient to the images.

    Args:
        model: any layer in front of any backbone. It is not changed; the result shares its backbone and layer.
        gradient: own, and then ``model`` itself is returned; ste, straight through the rounding and stopped by the level cap;
            none, that of the level cap alone; identity, straight through the whole layer.

    Raises:
        UsageError: the layer cannot have that gradient.

    Source: Athalye et al. 2018, backward pass differentiable approximation.
    """
    if gradient == "own":
        return model
    if gradient == "identity":
        stand_in: nn.Module = nn.Identity()
    else:
        stand_in = copy.deepcopy(model.layer)
        found = quantizers(stand_in)
        if gradient not in ("ste", "none") or not found:
            raise UsageError(f"gradient must be one of {', '.join(gradients_of(model.layer))} for this layer, got {gradient!r}")
        for quantizer in found:
            quantizer.rounding = cast(Rounding, gradient)
    layer = _Surrogate(model.layer, stand_in)
    other = prepend(model.backbone, layer, model.mean.flatten().tolist(), model.std.flatten().tolist())
    return other.to(model.mean.device).train(model.training)


class _Surrogate(nn.Module):
    """One layer's output with another's gradient."""

    def __init__(self, layer: nn.Module, stand_in: nn.Module) -> None:
        super().__init__()
        self.layer, self.stand_in = layer, stand_in

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            value: Tensor = self.layer(images)
        if not (torch.is_grad_enabled() and images.requires_grad):
            return value
        stand_in: Tensor = self.stand_in(images)
        return value + (stand_in - stand_in.detach())
