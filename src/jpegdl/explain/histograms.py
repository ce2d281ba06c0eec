"""How often whole numbers occur at each frequency, and the entropy of that."""

import torch
from torch import Tensor

from jpegdl.functional import BLOCK

FREQUENCIES = BLOCK * BLOCK
_SPAN = 2**33  # numbers between -2^32 and 2^32 have a key of their own at each frequency


class Counts:
    """Weights of whole numbers at each of the 64 frequencies, however large the numbers are."""

    def __init__(self) -> None:
        self._keys = torch.empty(0, dtype=torch.int64)
        self._weights = torch.empty(0, dtype=torch.float64)

    def add(self, numbers: Tensor, weights: Tensor | None = None) -> None:
        """Count numbers in.

        Args:
            numbers: (n, 64) whole numbers of any dtype, a column for each frequency.
            weights: the same shape; 1 for each by default.
        """
        first = torch.arange(FREQUENCIES, device=numbers.device) * _SPAN
        keys, places = _unique((numbers.to(torch.int64) + first).flatten())
        ones = torch.ones_like(places, dtype=torch.float64) if weights is None else weights.flatten().to(torch.float64)
        sums = torch.zeros(len(keys), dtype=torch.float64, device=keys.device).scatter_add_(0, places, ones)
        self._keys, places = _unique(torch.cat((self._keys, keys.cpu())))
        self._weights = torch.zeros(len(self._keys), dtype=torch.float64).scatter_add_(
            0, places, torch.cat((self._weights, sums.cpu()))
        )

    def of(self, frequency: int) -> tuple[Tensor, Tensor]:
        """Return the numbers that occur at a frequency, 0 to 63, ascending, and their weights in float64."""
        numbers = self._keys - frequency * _SPAN
        here = numbers.abs() < _SPAN // 2
        return numbers[here], self._weights[here]

    def entropies(self) -> Tensor:
        """Return (8, 8) float64: the entropy at each frequency, -sum p log2 p over the shares p of its numbers, in bits."""
        bits = []
        for frequency in range(FREQUENCIES):
            weights = self.of(frequency)[1]
            shares = weights / weights.sum()
            bits.append(-torch.xlogy(shares, shares).sum() / torch.log(torch.tensor(2.0, dtype=torch.float64)))
        return torch.stack(bits).reshape(BLOCK, BLOCK).clamp(min=0) + 0.0  # which makes -0 a 0


def _unique(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """The different numbers, ascending, and which of them each is."""
    found: tuple[Tensor, Tensor] = numbers.unique(return_inverse=True)  # type: ignore[no-untyped-call]
    return found
