"""The quantizers once more, one coefficient at a time, written for reading; and JPEG's DCT as its sum reads."""

import math


def probabilities(z: float, q: float, alpha: float, bits: int, window: int | None) -> dict[int, float]:
    """P(k | z) over the levels in use."""
    cap = 2 ** (bits - 1) - 1
    if window is None:
        levels = range(-cap, cap + 1)
    else:
        first = min(max(round(z / q) - window // 2, -cap), cap - window + 1)
        levels = range(first, first + window)
    logits = {k: -alpha * (z - q * k) ** 2 for k in levels}
    largest = max(logits.values())
    weights = {k: math.exp(logit - largest) for k, logit in logits.items()}
    total = math.fsum(weights.values())
    return {k: weight / total for k, weight in weights.items()}


def soft(z: float, q: float, alpha: float, bits: int, window: int | None) -> float:
    """Q_d(z)."""
    return math.fsum(q * k * p for k, p in probabilities(z, q, alpha, bits, window).items())


def level(z: float, q: float, bits: int) -> int:
    """The level nearest to z within the cap."""
    cap = 2 ** (bits - 1) - 1
    return min(max(round(z / q), -cap), cap)


def hard(z: float, q: float, bits: int) -> float:
    """Q_u(z)."""
    return q * level(z, q, bits)


def dct(block: list[list[float]]) -> list[list[float]]:
    """The 8x8 DCT of ITU-T T.81, A.3.3."""

    def c(k: int) -> float:
        return math.sqrt(0.5) if k == 0 else 1.0

    def wave(x: int, u: int) -> float:
        return math.cos((2 * x + 1) * u * math.pi / 16)

    return [
        [0.25 * c(v) * c(u) * sum(block[y][x] * wave(x, u) * wave(y, v) for y in range(8) for x in range(8)) for u in range(8)]
        for v in range(8)
    ]
