"""Differences of two arms, paired over the seeds that both have."""

from collections.abc import Mapping

from jpegdl.statistics import paired_difference


def difference(values: Mapping[int, float], baseline: Mapping[int, float], *, p: bool = False) -> str:
    """Return the difference in points, with the 95 % interval and, if wanted, p of a paired t test.

    Args:
        values, baseline: percentages by seed.

    Returns:
        ``+1.0 [-2.0, +4.0], 0.4``; without interval and p where the test says nothing, empty where they have no seed in common.
    """
    common = sorted(values.keys() & baseline.keys())
    if not common:
        return ""
    found = paired_difference([values[seed] for seed in common], [baseline[seed] for seed in common])
    if found["low"] is None:
        return f"{found['mean']:+.1f}"
    return f"{found['mean']:+.1f} [{found['low']:+.1f}, {found['high']:+.1f}]" + (f", {found['p']:.2g}" if p else "")
