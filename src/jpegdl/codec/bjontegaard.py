"""Accuracy against true bits per pixel: curves over the points of several runs, and what lies between two of them.

The Bjontegaard measures say how far one curve lies from another on average: *BD-accuracy* is the mean difference of accuracy
over the rates that both reach, on a logarithmic scale, and *BD-rate* the mean ratio of rates over the accuracies that both
reach. Between points both follow monotone cubic interpolation (pchip), which adds no dips of its own. A BD-rate needs one rate
for every accuracy: it exists only where both curves rise all the way, and is given only where they reach enough of the same.

Accuracy counts images that are right, and moves by one at a time; the test loss moves with each image. Both measures are
therefore taken of the loss too, which tells differences from chance with far fewer images.
"""

import math
import re
import statistics
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator
from scipy.special import stdtrit

from jpegdl.errors import UsageError, how_many
from jpegdl.runs.record import same_images

#: By arm and seed, what :func:`jpegdl.codec.rate_run` returned.
Rates = dict[str, dict[int, dict[str, Any]]]

#: What curves of the standard tables are called, before their subsampling.
DEFAULT = "default JPEG "
FEWEST = 3  # points of a curve that anything is interpolated between
NARROWEST = 1.1  # the highest rate in common over the lowest: what lies between less says nothing of the curves
SHARED = 0.25  # of the values of the flatter of two curves: a ratio of rates over fewer is chance at their ends
DRAWS = 2000  # of test images, for intervals
RATIO_DRAWS = 400  # for those of ratios of rates, which take longer
_STEM = re.compile(r"(.+?)[-_]?(\d+(?:\.\d+)?(?:e-?\d+)?)")
_Array = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """Accuracy at several file sizes, with one seed: of one network, or of arms that were trained for one point each.

    Attributes:
        name: default JPEG with its chroma subsampling, or what the names of its arms have in common.
        seed: of its runs.
        points: dictionaries as :func:`jpegdl.codec.rate_run` returns them, with ``arm``; ascending in bits per pixel.
    """

    name: str
    seed: int
    points: list[dict[str, Any]]

    @property
    def rates(self) -> _Array:
        """Bits per pixel of its points, ascending."""
        return np.array([point["bits_per_pixel"] for point in self.points])

    @property
    def accuracies(self) -> _Array:
        """Their accuracies, 0 to 1."""
        return np.array([point["accuracy"] for point in self.points])

    @property
    def losses(self) -> _Array:
        """Their mean cross-entropies, nats.

        Raises:
            ValueError: they were measured before losses were kept.
        """
        if any("losses" not in point for point in self.points):
            raise ValueError("measured before losses were kept: jpegdl rate measures them")
        return np.array([point["loss"] for point in self.points])

    def each_loss(self, images: int) -> _Array:
        """Return (points, images): the cross-entropy of each test image at each point, nats."""
        return np.stack([np.frombuffer(bytes.fromhex(p["losses"]), "<f2")[:images].astype(float) for p in self.points])

    def right(self, images: int) -> NDArray[np.bool_]:
        """Return (points, images), bool: which of the test images each point is right about."""
        return np.stack(
            [np.unpackbits(np.frombuffer(bytes.fromhex(p["right"]), np.uint8))[:images].astype(bool) for p in self.points]
        )


def rate_curves(results: Rates) -> list[Curve]:
    """Return the curves through the points of several runs, default JPEG first.

    Arms whose names are the same up to a number at their end, such as ``rate-0.1`` and ``rate-0.3``, are one curve.

    Raises:
        UsageError: the runs were tested on different images, or their files were made with different settings.
    """
    _check_same(results)
    curves: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for arm, by_seed in results.items():
        for seed, result in by_seed.items():
            for point in result["points"]:
                name = f"{DEFAULT}{point['subsampling']}" if point["tables"] != "own" else _stem(arm, results)
                if point["tables"] != "own" and arm != "plain":
                    name += f", {arm}"
                curves.setdefault((name, seed), []).append({**point, "arm": arm, "hard": result["hard"]})
    ordered = sorted(curves, key=lambda key: not key[0].startswith(DEFAULT))
    return [Curve(*key, sorted(curves[key], key=lambda point: point["bits_per_pixel"])) for key in ordered]


def _stem(arm: str, arms: Rates) -> str:
    """Return what an arm's name has in common with the other arms of its curve; all of it, if there are none."""
    match = _STEM.fullmatch(arm)
    others = [other for other in arms if other != arm and (m := _STEM.fullmatch(other)) and match and m[1] == match[1]]
    return match[1] if match and others else arm


def _check_same(results: Rates) -> None:
    everything = [(f"{arm}, seed {seed}", r) for arm, by_seed in results.items() for seed, r in by_seed.items()]
    for who, result in everything[1:]:
        first, other = everything[0][1]["made_of"], result["made_of"]
        if first.keys() != other.keys():
            raise UsageError(f"{everything[0][0]} and {who} were measured by different versions of jpegdl: measure all again")
        for name in first.keys() - {"model"}:
            if not (same_images(first[name], other[name]) if name == "test" else first[name] == other[name]):
                raise UsageError(
                    f"{everything[0][0]} and {who} were measured with different {name} ({first[name]} and {other[name]}): "
                    "measure all arms with the same options and data"
                )


@dataclass(frozen=True)
class Difference:
    """Of accuracy (shares, -1 to 1) or of the test loss (nats) between a curve and a reference.

    Attributes:
        mean: over the rates that both reach, log scale: BD-accuracy, or the same of the loss. None where ``why`` says why.
        interval: 95 % interval of it over the test images (percentiles of a bootstrap, the same images for both curves).
        spread: 95 % interval over seeds (Student's t of the differences); None with one seed.
        least, most: the smallest and the largest difference, each with the bits per pixel where it is; of single seeds.
        rate: BD-rate: -0.5 for half the bits at the same value; None where ``why_no_rate`` says why.
        rate_interval: 95 % interval of it over the test images, of the draws in which there is one; None where that is fewer
            than half of them.
        why, why_no_rate: in words.
    """

    mean: float | None = None
    interval: tuple[float, float] | None = None
    spread: tuple[float, float] | None = None
    least: tuple[float, float] | None = None
    most: tuple[float, float] | None = None
    rate: float | None = None
    rate_interval: tuple[float, float] | None = None
    why: str | None = None
    why_no_rate: str | None = None


@dataclass(frozen=True)
class Between:
    """How far a curve lies from a reference.

    Attributes:
        curve, reference: their names.
        seeds: how many curves of each it is the mean of.
        rates: between which bits per pixel it was taken; None where they have none in common.
        accuracy: the curve is better where it is positive.
        loss: the curve is better where it is negative.
    """

    curve: str
    reference: str
    seeds: int
    rates: tuple[float, float] | None
    accuracy: Difference
    loss: Difference


def bd_accuracy(rates: _Array, accuracies: _Array, reference_rates: _Array, reference_accuracies: _Array) -> _Array:
    """Compute the Bjontegaard difference of accuracies: the mean over the bits per pixel that both curves reach.

    Curves are interpolated by pchip over the logarithm of the bits. Losses may stand in place of accuracies.

    Args:
        rates, reference_rates: bits per pixel, ascending.
        accuracies, reference_accuracies: of the same points; either may have leading axes, (..., points).

    Returns:
        The mean difference from the reference, in units of the accuracies, positive if the first is larger. It has the shape of
        the leading axes.

    Raises:
        ValueError: there are fewer than 3 points, two of the same rate, or no common rates.
    """
    low, high = common(rates, reference_rates)
    own, other = _mean(rates, accuracies, low, high), _mean(reference_rates, reference_accuracies, low, high)
    return own - other


def common(first: _Array, second: _Array) -> tuple[float, float]:
    """Return the least and the largest value that lie in the range of both.

    Raises:
        ValueError: there are fewer than 3 points, two of the same value, or no common values.
    """
    for values in (first, second):
        if len(values) < FEWEST:
            raise ValueError(f"a curve has {how_many(len(values), 'point')}, and at least {FEWEST} are needed")
        if (np.diff(values) <= 0).any():
            raise ValueError("two points of a curve have the same value, or they are not in order")
    low, high = max(first[0], second[0]), min(first[-1], second[-1])
    if not low < high:
        raise ValueError("the curves have no rates in common")
    return float(low), float(high)


def between_points(rates: _Array, values: _Array, at: _Array) -> _Array:
    """Return the values of a curve at other rates within its own, log scale, pchip."""
    return np.asarray(PchipInterpolator(np.log(rates), values)(np.log(at)))


def _mean(x: _Array, y: _Array, low: float, high: float) -> _Array:
    """Mean of the interpolation over log x between two values."""
    a, b = math.log(low), math.log(high)
    return np.asarray(PchipInterpolator(np.log(x), y, axis=-1).integrate(a, b)) / (b - a)


def bd_rate(rates: _Array, accuracies: _Array, reference_rates: _Array, reference_accuracies: _Array) -> float:
    """Compute the Bjontegaard rate: the mean ratio of bits at the same accuracy, less 1. -0.5 is half the bits.

    Curves are interpolated by pchip. For the bits at the same loss, give losses with a minus sign. Arguments are those of
    :func:`bd_accuracy`.

    Raises:
        ValueError: an accuracy falls or stays the same as the rate rises, there are fewer than 3 points, or no common
            accuracies.
    """
    for values, whose in ((accuracies, "its"), (reference_accuracies, "the reference's")):
        if (np.diff(values) <= 0).any():
            falls = int((np.diff(values) <= 0).argmax())
            words = f"{_value(values[falls])} and then {_value(values[falls + 1])}"
            if (values < 0).any():
                raise ValueError(f"{whose} loss does not fall all the way: {words}")
            raise ValueError(f"{whose} accuracy does not rise all the way: {words}")
    low, high = common(accuracies, reference_accuracies)
    means = [
        PchipInterpolator(y, np.log(x)).integrate(low, high) / (high - low)
        for x, y in ((rates, accuracies), (reference_rates, reference_accuracies))
    ]
    return math.exp(means[0] - means[1]) - 1


def _value(value: float) -> str:
    """An accuracy in percent, or a loss, which comes with a minus."""
    return f"{-value:.3f} nats" if value < 0 else f"{100 * value:.2f} %"


def compare_curves(curves: Sequence[Curve], name: str, reference: str, images: int) -> Between:
    """Return how far the curves called ``name`` lie from those called ``reference``, seed by seed.

    Args:
        curves: from :func:`rate_curves`.
        name, reference: whose.
        images: how many test images there were.
    """
    pairs = [
        (own, other)
        for own in curves if own.name == name
        for other in curves if other.name == reference and other.seed == own.seed
    ]  # fmt: skip
    if not pairs:
        return _nothing(name, reference, 0, "they have no seed in common")
    try:
        ranges = [common(own.rates, other.rates) for own, other in pairs]
        if narrow := [f"{low:.2f} to {high:.2f}" for low, high in ranges if high < NARROWEST * low]:
            raise ValueError(f"the curves have only {narrow[0]} bits per pixel in common")
    except ValueError as error:
        return _nothing(name, reference, len(pairs), str(error))
    accuracy = _difference(pairs, ranges, lambda curve: curve.accuracies, lambda curve: curve.right(images))
    try:
        loss = _difference(pairs, ranges, lambda curve: curve.losses, lambda curve: curve.each_loss(images), falling=True)
    except ValueError as error:
        loss = Difference(why=str(error), why_no_rate=str(error))
    rates = min(low for low, _ in ranges), max(high for _, high in ranges)
    return Between(name, reference, len(pairs), rates, accuracy, loss)


def _nothing(name: str, reference: str, seeds: int, why: str) -> Between:
    nothing = Difference(why=why, why_no_rate=why)
    return Between(name, reference, seeds, None, nothing, nothing)


_Pairs = Sequence[tuple[Curve, Curve]]


def _difference(
    pairs: _Pairs,
    ranges: Sequence[tuple[float, float]],
    values: Callable[[Curve], _Array],
    each: Callable[[Curve], NDArray[Any]],
    *,
    falling: bool = False,
) -> Difference:
    """Of ``values`` (points,), the means of ``each`` (points, images), between the curves of each pair.

    Args:
        pairs: a curve and its reference, for each seed.
        ranges: the rates that both of a pair reach.
        values, each: of a curve.
        falling: whether better values are smaller.

    Raises:
        ValueError: a curve does not have these values.
    """
    found = [float(bd_accuracy(own.rates, values(own), other.rates, values(other))) for own, other in pairs]
    apart: list[tuple[float, float]] = []
    for (own, other), (low, high) in zip(pairs, ranges, strict=True):
        grid = np.geomspace(low, high, 400)
        difference = between_points(own.rates, values(own), grid) - between_points(other.rates, values(other), grid)
        apart += zip(difference.tolist(), grid.tolist(), strict=True)
    sign = -1 if falling else 1
    rate, why_no_rate = None, None
    try:
        rate = _ratio([(own.rates, sign * values(own), other.rates, sign * values(other)) for own, other in pairs])
    except ValueError as error:
        why_no_rate = str(error).replace("no rates", "no such values")
    return Difference(
        statistics.fmean(found),
        interval=_over_images(pairs, each),
        spread=_over_seeds(found),
        least=min(apart),
        most=max(apart),
        rate=rate,
        rate_interval=None if rate is None else _ratio_over_images(pairs, each, sign),
        why_no_rate=why_no_rate,
    )


def _ratio(pairs: Sequence[tuple[_Array, _Array, _Array, _Array]]) -> float:
    """BD-rate, geometric mean over the pairs, each given as for :func:`bd_rate`.

    Raises:
        ValueError: there is none, or it would be of too little.
    """
    ratios = [bd_rate(*pair) for pair in pairs]
    for _, values, _, reference_values in pairs:
        low, high = common(values, reference_values)
        if high - low < SHARED * min(np.ptp(values), np.ptp(reference_values)):
            raise ValueError(f"both reach only {' to '.join(_value(value) for value in sorted((low, high), key=abs))}")
    return math.exp(statistics.fmean(map(math.log1p, ratios))) - 1


def _drawn(pairs: _Pairs, each: Callable[[Curve], NDArray[Any]], count: int) -> list[tuple[_Array, _Array, _Array, _Array]]:
    """Of each pair, as for :func:`bd_accuracy`, the rates and the means of ``each`` (points, images) over ``count`` draws of
    the images, the same for all: (count, points)."""
    images = each(pairs[0][0]).shape[1]
    draws = np.random.default_rng(0).multinomial(images, np.full(images, 1 / images), size=count) / images
    return [(own.rates, draws @ each(own).T, other.rates, draws @ each(other).T) for own, other in pairs]


def _ratio_over_images(pairs: _Pairs, each: Callable[[Curve], NDArray[Any]], sign: int) -> tuple[float, float] | None:
    """Of the BD-rate at the same mean of ``each``; ``sign`` is -1 where better values are smaller."""
    drawn, found = _drawn(pairs, each, RATIO_DRAWS), []
    for i in range(RATIO_DRAWS):
        with suppress(ValueError):
            found.append(_ratio([(rates, sign * own[i], others, sign * other[i]) for rates, own, others, other in drawn]))
    if len(found) < RATIO_DRAWS / 2:
        return None
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


def _over_images(pairs: _Pairs, each: Callable[[Curve], NDArray[Any]]) -> tuple[float, float]:
    """Of the mean of ``each`` (points, images) between the curves of each pair."""
    means = [bd_accuracy(*pair) for pair in _drawn(pairs, each, DRAWS)]
    low, high = np.percentile(np.mean(means, axis=0), [2.5, 97.5])
    return float(low), float(high)


def _over_seeds(found: Sequence[float]) -> tuple[float, float] | None:
    if len(found) < 2:
        return None
    half = float(stdtrit(len(found) - 1, 0.975)) * statistics.stdev(found) / math.sqrt(len(found))
    return statistics.fmean(found) - half, statistics.fmean(found) + half
