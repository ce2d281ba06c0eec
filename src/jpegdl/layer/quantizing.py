"""Tables of steps, the sharpness alpha of each, and the roundings that use them."""

import math
import warnings
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any, TypedDict

import torch
from torch import Tensor, nn

from jpegdl import functional as F
from jpegdl.errors import UsageError
from jpegdl.layer.base import Layer, Table, compute_dtype, in_kernel, initial_table
from jpegdl.layer.bounds import bounded, project, seen_within
from jpegdl.layer.config import DEFAULT_ALPHA, LayerConfig, Rounding
from jpegdl.tables import is_abstract

STEP_RANGE = (1e-5, 255.0)  # where the published training keeps the steps
SMALLEST_ALPHA = 1e-5
SMALLEST_HARDNESS = 1e-5
LARGEST_HARDNESS = 1e6  # exp(-hardness) is 0 in float32 long before


class QuantizerOptions(TypedDict, total=False):
    """What every layer that quantizes takes by name; :class:`jpegdl.JpegLayer` says what each does."""

    alpha: Table | tuple[Table, Table]
    hardness: float | None
    bits: int | None
    window: int | None
    rounding: Rounding
    trainable_alpha: bool


def quantizer_options(config: LayerConfig) -> QuantizerOptions:
    """Return the options of a quantizer that settings ask for; without ``alpha`` where they leave it open.

    Raises:
        UsageError: ``alpha`` is a list of another length than two.
    """
    options: Any = {name: getattr(config, name) for name in QuantizerOptions.__annotations__}
    if isinstance(config.alpha, list):
        if len(config.alpha) != 2:
            raise UsageError(f"layer.alpha must be one number, or two for luma and chroma, got {config.alpha}")
        options["alpha"] = tuple(config.alpha)
    elif config.alpha is None:
        del options["alpha"]
    return options  # type: ignore[no-any-return]


class QuantizingLayer(Layer):
    """A layer that quantizes. A subclass names its tables; :attr:`steps` and :attr:`alpha` say which plane has which.

    Steps stay in :attr:`step_range` whatever trains them: [1e-5, 255], as in the published training. The range is wider if the
    layer was built with steps beyond it, or has loaded such steps. You need not call anything.

    For each name in ``tables`` there is a parameter of that name, the steps. Beside it stands ``alpha_NAME``, a buffer or a
    parameter of the same shape. If hardness is given and trained, the parameter ``hardness_NAME`` takes its place.

    Args:
        tables: initial steps by name, each (..., 8, 8).
        alpha: sharpness of P(k | z) for all tables, or a tuple with one for each.
        hardness, bits, window, rounding, trainable_alpha: as in :class:`jpegdl.JpegLayer`.

    Attributes:
        step_range: the smallest and the largest step that training may reach.

    Raises:
        UsageError: an argument is out of its range, or ``hardness`` is given together with an ``alpha`` other than the default.
    """

    table_kind = "steps"

    def __init__(
        self,
        tables: Mapping[str, Tensor],
        *,
        alpha: Table | tuple[Table, ...] = DEFAULT_ALPHA,
        hardness: float | None = None,
        bits: int | None = 8,
        window: int | None = 5,
        rounding: Rounding = "soft",
        trainable_alpha: bool = False,
    ) -> None:
        super().__init__()
        bits, window = (int(n) if isinstance(n, Integral) and not isinstance(n, bool) else n for n in (bits, window))
        F.check_window(bits, window)
        self.bits, self.window, self.hardness = bits, window, _check_hardness(hardness, alpha)
        self.rounding = rounding
        self.table_names = tuple(tables)
        self.step_range = STEP_RANGE
        for name, steps in tables.items():
            self.register_parameter(name, nn.Parameter(steps))
        alphas = alpha if isinstance(alpha, tuple | list) and len(alpha) == len(tables) else (alpha,) * len(tables)
        for (name, steps), value in zip(tables.items(), alphas, strict=True):
            free = None
            if self.hardness is None:
                free = initial_table(
                    value, f"alpha_{name}" if alphas is alpha else "alpha", steps.shape[:-2], steps.dtype, steps.device
                )
            if free is None or not trainable_alpha:
                self.register_buffer(f"alpha_{name}", free)
            else:
                self.register_parameter(f"alpha_{name}", nn.Parameter(free))
            tied = nn.Parameter(torch.full_like(steps, self.hardness)) if self.hardness and trainable_alpha else None
            self.register_parameter(f"hardness_{name}", tied)
        self._widen()

    def _widen(self) -> None:
        """Make room in :attr:`step_range` for the steps that the layer has been given."""
        steps = [table.detach() for name in self.table_names if not is_abstract(table := getattr(self, name))]
        usable = [table[(table > 0) & table.isfinite()] for table in steps]
        given = [edge.item() for table in usable if table.numel() for edge in table.aminmax()]
        self.step_range = (min((STEP_RANGE[0], *given)), max((STEP_RANGE[1], *given)))

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        for name in self.table_names:
            table = getattr(self, name).detach()
            if not is_abstract(table) and bool((table <= 0).any()):  # of a trainer that kept no range
                table.clamp_(min=STEP_RANGE[0])
                warnings.warn(
                    f"{name} in the state has steps that are not above 0: they become {STEP_RANGE[0]:g}", stacklevel=3
                )
        self._widen()

    def _in_range(self, steps: Tensor) -> Tensor:
        """Steps as the layer computes with them: frozen ones may be coarser than any that training reaches."""
        low, high = self.step_range
        if seen_within(steps, low, high):
            return steps
        trained = any(getattr(self, name).requires_grad for name in self.table_names)
        return bounded(steps, low, high if trained else math.inf)

    @property
    def rounding(self) -> Rounding:
        """The quantizer in use, one of :data:`jpegdl.layer.ROUNDINGS`."""
        return self._rounding

    @rounding.setter
    def rounding(self, value: Rounding) -> None:
        F.check_rounding(value)
        if value == "none" and self.bits is None:
            raise UsageError("rounding='none' keeps only the level cap, and bits=None removes that too; give only one of them")
        self._rounding = value

    @property
    def settings(self) -> dict[str, Any]:
        hardness = "trained" if self._trained_hardness() else self.hardness
        own = {"bits": self.bits, "window": self.window, "hardness": hardness, "rounding": self.rounding}
        return {**super().settings, **own}

    @property
    def steps(self) -> Tensor:
        """(planes, ..., 8, 8): the steps of each plane."""
        raise NotImplementedError

    @property
    def alpha(self) -> Tensor:
        """(planes, ..., 8, 8): the sharpness of P(k | z) of each plane, free or tied to the steps; larger is harder."""
        raise NotImplementedError

    def named_tables(self) -> dict[str, Tensor]:
        """Return the tables in effect by name, trained or not: steps as ``NAME``, and ``alpha_NAME``."""
        raise NotImplementedError

    def _alpha_of(self, name: str) -> Tensor:
        """alpha of the table ``name``, in its shape."""
        if self.hardness is None:
            alpha: Tensor = getattr(self, f"alpha_{name}")
            return bounded(alpha, SMALLEST_ALPHA) if isinstance(alpha, nn.Parameter) else alpha
        steps: Tensor = getattr(self, name).detach().clamp(min=self.step_range[0])
        steps = steps.to(compute_dtype(steps))
        trained: Tensor | None = getattr(self, f"hardness_{name}")
        hardness = self.hardness if trained is None else bounded(trained, SMALLEST_HARDNESS).to(steps.dtype)
        return (steps**2).reciprocal() * hardness

    def _trained_hardness(self) -> bool:
        return any(getattr(self, f"hardness_{name}") is not None for name in self.table_names)

    @in_kernel("4:4:4")
    def at_blocks(self, tables: Tensor) -> Tensor:
        """Return ``tables``, shaped like :attr:`steps`, in a shape that broadcasts to coefficients (N, planes, h, w, 8, 8)."""
        return tables[..., None, None, :, :]

    @in_kernel()
    def alter(self, z: Tensor) -> Tensor:
        """Quantize and de-quantize with the layer's tables and ``rounding``; see :meth:`Layer.alter`."""
        z = self.checked(z)
        q, rounding = self.at_blocks(self.steps.to(z.dtype)), self.rounding_now
        alpha = self.at_blocks(self.alpha.to(z.dtype)) if rounding in F.SOFT else None
        seed = F.draw_seed(z) if rounding in F.RANDOM else None
        return F.quantize(z, q, alpha, rounding, bits=self.bits, window=self.window, seed=seed)

    @property
    def rounding_now(self) -> Rounding:
        """The rounding in the layer's mode: ``noise`` is ``hard`` in evaluation."""
        return "hard" if self.rounding == "noise" and not self.training else self.rounding

    @torch.no_grad()
    def saturation(self, images: Tensor) -> Tensor:
        """Measure how much of each frequency the level cap holds back.

        With fine steps and few bits a layer saturates low frequencies more than it quantizes them. This tells the two apart. It
        compares coefficients with steps, whatever ``rounding`` is.

        Args:
            images: a batch as :meth:`forward` takes it.

        Returns:
            (planes, 8, 8), of images (3, 8, 8) for Y, Cb, Cr: the share, 0 to 1, of coefficients whose nearest level is the
            first or the last of the alphabet or lies beyond it, ``|round(z / q)| >= L``. All 0 where ``bits`` is None.
        """
        self.check(images)
        cap = F.largest_level(self.bits)
        z = self.to_coefficients(images)
        levels = F.quantize_levels(z, self.at_blocks(self.steps.to(z.dtype)), bits=self.bits)
        return (levels.abs() >= (float("inf") if cap is None else cap)).float().mean(dim=(0, 2, 3))

    def project_(self) -> None:
        """Bring trainable steps back into :attr:`step_range`, and a trained alpha or hardness to at least 1e-5, in place.

        Optimizers, ``train``, ``eval`` and ``state_dict`` call this, so you need not.
        """
        for name in self.table_names:
            project(getattr(self, name), *self.step_range)
            for kind, smallest in (("alpha", SMALLEST_ALPHA), ("hardness", SMALLEST_HARDNESS)):
                if (table := getattr(self, f"{kind}_{name}")) is not None:
                    project(table, smallest)

    def extra_repr(self) -> str:
        sharpness = "alpha" if self.hardness is None else "hardness"
        parts = [f"{name}={_span(getattr(self, name))}" for name in self.table_names]
        given = [getattr(self, f"{sharpness}_{name}") for name in self.table_names]
        values = dict.fromkeys(f"{self.hardness:g}" if value is None else _span(value) for value in given)
        trained = ", trainable" if any(isinstance(value, nn.Parameter) for value in given) else ""
        parts.append(f"{sharpness}={' and '.join(values)}{trained}")
        return ", ".join((self.rounding, *parts, f"bits={self.bits}, window={self.window}"))


def _span(table: Tensor) -> str:
    """The smallest and the largest entry of a table; one of them where all are equal."""
    if is_abstract(table):
        return "?"
    low, high = (edge.item() for edge in table.detach().aminmax())
    return f"{low:.4g}" if low == high else f"{low:.4g}..{high:.4g}"


def check_hardness(hardness: object) -> float:
    """Return the hardness of P(k | z), alpha q^2, as a number.

    Raises:
        UsageError: it is none, or out of range.
    """
    if isinstance(hardness, bool) or not isinstance(hardness, Real) or not 0 < float(hardness) <= LARGEST_HARDNESS:
        raise UsageError(f"hardness must be a number greater than 0 and at most {LARGEST_HARDNESS:g}, got {hardness!r}")
    return float(hardness)


def _check_hardness(hardness: float | None, alpha: Table | tuple[Table, ...]) -> float | None:
    if hardness is None:
        return None
    # The default counts as not given, wherever it comes from: settings files spell it out.
    if not isinstance(alpha, Real) or alpha != DEFAULT_ALPHA:
        raise UsageError("alpha and hardness cannot be combined, as hardness=h sets alpha = h / q^2; give only one of them")
    return check_hardness(hardness)
