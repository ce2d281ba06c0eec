"""What a backbone looks at: Grad-CAM++, and the feature maps of its first stage."""

from typing import Any

import torch
from torch import Tensor, nn

from jpegdl.explain.config import SMALLEST_MAP
from jpegdl.explain.subject import NotApplicable
from jpegdl.layer import PrependedModel


def grad_cam(model: PrependedModel, images: Tensor, classes: Tensor) -> tuple[Tensor, str]:
    r"""Compute Grad-CAM++: which places of a backbone's last feature map of at least 3 x 3 places speak for a class.

    With the feature map A of channels c, and the gradient g = d logit / dA::

        a_c(i) = g_c(i)^2 / (2 g_c(i)^2 + g_c(i)^3 sum_j A_c(j))
        w_c    = sum_i a_c(i) relu(g_c(i))
        map(i) = relu(sum_c w_c A_c(i)), scaled to a largest value of 1

    Args:
        model: the layer, normalisation and backbone.
        images: (N, 3, H, W) in [0, 1].
        classes: (N,), of each image the class whose logit counts.

    Returns:
        maps: (N, h, w) in [0, 1], in the resolution of the feature map; all 0 where nothing speaks for the class.
        where: which feature map it is, in words.

    Raises:
        NotApplicable: the backbone has no feature map, or none of at least 3 x 3.

    Source: Chattopadhay et al. 2018, "Grad-CAM++", equations 10, 11 and 19 (the exponential of the logit for a score).
    """
    with torch.no_grad():
        x = (model.layer(images) - model.mean) / model.std
    with torch.enable_grad():
        features, logits, where = _features_and_logits(model.backbone, x.detach().requires_grad_())
        chosen = logits.gather(1, classes[:, None]).sum()
        (gradient,) = torch.autograd.grad(chosen, features, allow_unused=True)
    if gradient is None:
        raise NotApplicable(f"the logits do not depend on the backbone's {where}")
    a, g = features.detach(), gradient
    below = 2 * g**2 + g**3 * a.sum((2, 3), keepdim=True)
    shares = torch.where(below == 0, 0, g**2 / torch.where(below == 0, 1, below))
    weights = (shares * g.relu()).sum((2, 3), keepdim=True)
    maps = (weights * a).sum(1).relu()
    largest = maps.amax((1, 2), keepdim=True)
    return maps / torch.where(largest == 0, 1, largest), where


def _features_and_logits(backbone: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, str]:
    """The last feature map (N, C, h, w) that is large enough, the logits, and which map it is, in words."""
    body: Any = getattr(backbone, "forward_features", None)
    head: Any = getattr(backbone, "forward_head", None)
    if callable(body) and callable(head):
        features = body(x)
        if not isinstance(features, Tensor) or features.ndim != 4:
            kind = f"of shape {tuple(features.shape)}" if isinstance(features, Tensor) else type(features).__name__
            raise NotApplicable(f"the backbone has no feature map: forward_features gives an output {kind}, no (N, C, h, w)")
        channels = getattr(backbone, "num_features", features.shape[1])
        if features.shape[1] != channels and features.shape[3] == channels:
            # Channels are last, as in timm's Swin: the map that counts is a view of the one that goes on to the head.
            features = features.movedim(3, 1)
            if (size := min(features.shape[2:])) < SMALLEST_MAP:
                raise NotApplicable(
                    f"the backbone's last feature map has {size} places on a side at this image size, too few to point"
                )
            return features, head(features.movedim(1, 3)), "output of forward_features"
        if min(features.shape[2:]) >= SMALLEST_MAP:
            return features, head(features), "output of forward_features"
    found: list[tuple[str, Tensor]] = []

    def keep(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] * output.shape[3] > 1:
                found.append((name, output))

        return hook

    hooks = [module.register_forward_hook(keep(name)) for name, module in backbone.named_modules() if name]
    try:
        logits = backbone(x)
    finally:
        for hook in hooks:
            hook.remove()
    if not found or not isinstance(logits, Tensor) or logits.ndim != 2:
        raise NotApplicable("the backbone has no forward_features, and no part of it gives an output (N, C, h, w)")
    large = [(name, features) for name, features in found if min(features.shape[2:]) >= SMALLEST_MAP]
    if not large:
        raise NotApplicable(f"at this image size no feature map has {SMALLEST_MAP} places on a side, too few to point")
    name, features = large[-1]
    last = "before the head" if features is found[-1][1] else f"of at least {SMALLEST_MAP} x {SMALLEST_MAP} places"
    return features, logits, f"last 4-D output {last}, that of {name}"


@torch.no_grad()
def first_maps(model: PrependedModel, images: Tensor) -> tuple[Tensor, str]:
    """Return the feature maps of a backbone's first stage.

    Returns:
        maps: (N, C, h, w), the output of the stage that timm lists first, or else of the first convolution.
        where: its name.

    Raises:
        NotApplicable: there is neither.
    """
    name = _first_stage(model.backbone)
    found: list[Tensor] = []
    stage = model.backbone.get_submodule(name)
    hook = stage.register_forward_hook(lambda module, inputs, output: found.append(output.clone()))  # a ReLU may follow
    try:
        model(images)
    finally:
        hook.remove()
    if not found or found[0].ndim != 4:
        raise NotApplicable(f"the backbone's first stage, {name}, gives no feature maps")
    return found[0], name


def _first_stage(backbone: nn.Module) -> str:
    info = getattr(backbone, "feature_info", None)
    names = dict(backbone.named_modules())
    listed = info[0].get("module") if isinstance(info, list) and info and isinstance(info[0], dict) else None
    if isinstance(listed, str) and listed in names:
        return listed
    for name, module in names.items():
        if isinstance(module, nn.Conv2d):
            return str(name)
    raise NotApplicable("the backbone has no convolution, and so no feature maps of a first stage")
