"""Differences of two arms, paired over the seeds that both have."""

from collections.abc import Mapping

# The one place of the studies that imports from inside the library, until these have a public home.
from jpegdl.comparison.statistics import holm, paired_difference, recounted

__all__ = ["difference", "holm", "paired_difference", "recounted"]


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
