"""Companders: smooth curves for coefficients, in the place of the quantizer."""

import torch
from torch import Tensor

from jpegdl.functional.quantizers import broadcast_like


def log_compand(z: Tensor, c: Tensor | float) -> Tensor:
    """Compute ``c sign(z) log(1 + |z| / c)``: the identity for ``|z|`` well below c, a logarithm well above.

    Args:
        z: coefficients of any shape, floating point.
        c: where the curve bends, > 0, in the units of ``z``; broadcasts to ``z``. Not checked, as steps are not.

    Returns:
        Shape and dtype of ``z``.

    Raises:
        UsageError: ``c`` does not broadcast to ``z``.
    """
    c = broadcast_like(c, z, "c")
    zero = z.new_zeros(())
    # At a tie, maximum gives half the gradient to each side: at z = 0 the slopes add up to 1, where sign(z) would give 0.
    return c * (torch.log1p(torch.maximum(z, zero) / c) - torch.log1p(torch.maximum(-z, zero) / c))


def tanh_compand(z: Tensor, c: Tensor | float) -> Tensor:
    """Compute c tanh(z / c): the identity for ``|z|`` well below c, a smooth cap at +-c.

    Args:
        z, c: as in :func:`log_compand`.

    Returns:
        Shape and dtype of ``z``.
    """
    c = broadcast_like(c, z, "c")
    return c * torch.tanh(z / c)
