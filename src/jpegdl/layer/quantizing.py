"""Step tables, each with its softness, and the roundings that use them."""

from collections.abc import Mapping
from numbers import Integral, Real

import torch
from torch import Tensor, nn

from jpegdl import functional as F
from jpegdl.errors import UsageError
from jpegdl.layer.base import CoefficientLayer, Table, compute_dtype, initial_table

ROUNDINGS = ("soft", "hard", "sample", "ste", "noise", "none")
STEP_RANGE = (1e-5, 255.0)  # where the published training keeps the steps
SMALLEST_ALPHA = 1e-5
SMALLEST_KAPPA = 1e-5
LARGEST_HARDNESS = 1e6  # exp(-hardness) is 0 in float32 long before
DEFAULT_ALPHA = 5.0


class QuantizingLayer(CoefficientLayer):
    """A layer that quantizes; a subclass names its tables and says in :attr:`steps` and :attr:`alpha` what plane has which.

    For each name in ``tables`` there is a parameter of that name, the steps, and of the same shape its softness: a buffer or
    parameter ``alpha_NAME``, a parameter ``kappa_NAME`` where hardness is given and trained, nothing where it is given.

    Args:
        tables: initial steps by name, each (..., 8, 8).
        alpha: softness of all tables, or a tuple of as many as there are tables.
        hardness, bits, window, rounding, trainable_alpha: as in :class:`jpegdl.JpegLayer`.

    Raises:
        UsageError: an argument is out of its range, or ``alpha`` is given together with ``hardness``.
    """

    def __init__(
        self,
        tables: Mapping[str, Tensor],
        *,
        alpha: Table | tuple[Table, ...],
        hardness: float | None,
        bits: int | None,
        window: int | None,
        rounding: str,
        trainable_alpha: bool,
    ) -> None:
        super().__init__()
        bits, window = (int(n) if isinstance(n, Integral) and not isinstance(n, bool) else n for n in (bits, window))
        F.check_window(bits, window)
        self.bits, self.window, self.hardness = bits, window, _check_hardness(hardness, alpha)
        self.rounding = rounding
        self.table_names = tuple(tables)
        for name, steps in tables.items():
            self.register_parameter(name, nn.Parameter(steps))
        alphas = alpha if isinstance(alpha, tuple | list) and len(alpha) == len(tables) else (alpha,) * len(tables)
        for (name, steps), value in zip(tables.items(), alphas, strict=True):
            softness = None if hardness is not None else initial_table(value, f"alpha_{name}", steps.shape[:-2])
            if softness is None or not trainable_alpha:
                self.register_buffer(f"alpha_{name}", softness)
            else:
                self.register_parameter(f"alpha_{name}", nn.Parameter(softness))
            kappa = nn.Parameter(torch.full_like(steps, self.hardness)) if self.hardness and trainable_alpha else None
            self.register_parameter(f"kappa_{name}", kappa)

    @property
    def rounding(self) -> str:
        """Which quantizer is in use; one of :data:`ROUNDINGS`."""
        return self._rounding

    @rounding.setter
    def rounding(self, value: str) -> None:
        if value not in ROUNDINGS:
            raise UsageError(f"rounding must be one of {', '.join(ROUNDINGS)}, got {value!r}")
        if value == "none" and self.bits is None:
            raise UsageError("rounding='none' leaves the level cap alone, and bits=None removes that too; give one of them")
        self._rounding = value

    @property
    def steps(self) -> Tensor:
        """(planes, ..., 8, 8): the steps of each plane."""
        raise NotImplementedError

    @property
    def alpha(self) -> Tensor:
        """(planes, ..., 8, 8): the softness of each plane, free or tied to the steps."""
        raise NotImplementedError

    def _softness(self, name: str) -> Tensor:
        """alpha of the table ``name``, in its shape."""
        if self.hardness is None:
            alpha: Tensor = getattr(self, f"alpha_{name}")
            return alpha
        steps: Tensor = getattr(self, name).detach()
        steps = steps.to(compute_dtype(steps))
        kappa: Tensor | None = getattr(self, f"kappa_{name}")
        return (steps**2).reciprocal() * (self.hardness if kappa is None else kappa.to(steps.dtype))

    def _at_blocks(self, tables: Tensor) -> Tensor:
        """Shape ``tables``, as :attr:`steps` are, so that they broadcast to coefficients."""
        return tables[..., None, None, :, :]

    def quantize(self, coefficients: Tensor) -> Tensor:
        """Quantize and de-quantize with the layer's tables and ``rounding``.

        Args:
            coefficients: (N, 3, h, w, 8, 8), as from :meth:`coefficients`.

        Returns:
            The same shape, in the same units.

        Raises:
            UsageError: not of that shape.
        """
        return self.process(coefficients)

    def _alter(self, z: Tensor) -> Tensor:
        q = self._at_blocks(self.steps.to(z.dtype))
        if self.rounding == "none":
            return F.saturate(z, q, bits=self.bits)
        if self.rounding == "ste":
            return F.ste_quantize(z, q, bits=self.bits)
        if self.rounding == "noise" and self.training:
            return F.noise_quantize(z, q, bits=self.bits)
        if self.rounding in ("hard", "noise"):
            return F.hard_quantize(z, q, bits=self.bits)
        alpha = self._at_blocks(self.alpha.to(z.dtype))
        quantizer = F.soft_quantize if self.rounding == "soft" else F.sample_quantize
        return quantizer(z, q, alpha, bits=self.bits, window=self.window)

    @torch.no_grad()
    def saturation(self, images: Tensor) -> Tensor:
        """How much of each frequency the level cap holds back.

        Args:
            images: (N, 3, H, W) RGB as :meth:`forward` takes it.

        Returns:
            (3, 8, 8) for Y, Cb, Cr: the share, 0 to 1, of coefficients whose nearest level is the first or last of the
            alphabet or lies beyond it, |round(z / q)| >= L. All 0 where ``bits`` is None.
        """
        cap = F.largest_level(self.bits)
        z = self.coefficients(images)
        levels = (z / self._at_blocks(self.steps.to(z.dtype))).round().abs()
        return (levels >= (float("inf") if cap is None else cap)).float().mean(dim=(0, 2, 3))

    @torch.no_grad()
    def project_(self) -> None:
        """Bring steps back into [1e-5, 255], and a free alpha or a kappa to at least 1e-5, in place; call it after each
        optimizer step."""
        for name in self.table_names:
            getattr(self, name).clamp_(*STEP_RANGE)
            for softness, smallest in (("alpha", SMALLEST_ALPHA), ("kappa", SMALLEST_KAPPA)):
                if (table := getattr(self, f"{softness}_{name}")) is not None:
                    table.clamp_(min=smallest)

    def extra_repr(self) -> str:
        trained = any(name.startswith("kappa_") for name, _ in self.named_parameters())
        softness = "alpha free" if self.hardness is None else f"hardness={self.hardness}{' trainable' if trained else ''}"
        return f"{self.rounding}, {softness}, bits={self.bits}, window={self.window}"


def _check_hardness(hardness: float | None, alpha: Table | tuple[Table, ...]) -> float | None:
    if hardness is None:
        return None
    # An alpha that was given is another object than the default, even where it is the same number.
    if alpha is not DEFAULT_ALPHA:
        raise UsageError("alpha and hardness exclude each other: hardness=h sets alpha = h / q^2; give one of them")
    if isinstance(hardness, bool) or not isinstance(hardness, Real) or not 0 < hardness <= LARGEST_HARDNESS:
        raise UsageError(f"hardness must be a number greater than 0 and at most {LARGEST_HARDNESS:g}, got {hardness!r}")
    return float(hardness)
