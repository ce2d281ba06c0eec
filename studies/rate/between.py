"""What lies between two curves that jpegdl rate has measured: python studies/rate/between.py RUNS/NAME CURVE REFERENCE

Such as matched420 and "default JPEG 4:2:0", or matched420 and rate420: the sentence that jpegdl rate prints of curves and
default JPEG, and between which bits per pixel the curve is behind, by accuracy and by the test loss, and by how much at most.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from jpegdl.codec import compare_curves, rate_curves, rate_text, read_rate
from jpegdl.runs import RunFolder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", type=Path)
    parser.add_argument("curve")
    parser.add_argument("reference")
    options = parser.parse_args()
    results: dict[str, dict[int, dict[str, Any]]] = {}
    for file in sorted(options.comparison.glob("*/*/rate.json")):
        found = read_rate(RunFolder(file.parent))
        assert found is not None
        results.setdefault(found["arm"], {})[found["seed"]] = found
    curves = rate_curves(results)
    images = next(found["images"] for by_seed in results.values() for found in by_seed.values())
    between = compare_curves(curves, options.curve, options.reference, images)
    print(rate_text(between))
    if between.rates is None:
        return
    references = {curve.seed: curve for curve in curves if curve.name == options.reference}
    for own in curves:
        if own.name == options.curve and own.seed in references:
            other = references[own.seed]
            low, high = max(own.rates[0], other.rates[0]), min(own.rates[-1], other.rates[-1])
            rates = np.geomspace(low, high, 1000)
            for what, sign in (("accuracies", -1), ("losses", 1)):
                a, b = (PchipInterpolator(np.log(c.rates), getattr(c, what))(np.log(rates)) for c in (own, other))
                print(f"Seed {own.seed}, {what}, behind: {_stretches(rates, sign * (a - b))}")


def _stretches(rates: NDArray[np.float64], behind: NDArray[np.float64]) -> str:
    """Say where ``behind`` is above 0, and the most it is there."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], behind > 0, [0]]).astype(int)))
    parts = [f"{rates[a]:.2f} to {rates[b - 1]:.2f} (by {behind[a:b].max():.4f})" for a, b in edges.reshape(-1, 2)]
    return ", ".join(parts) or "nowhere"


if __name__ == "__main__":
    main()
