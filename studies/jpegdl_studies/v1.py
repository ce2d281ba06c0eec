"""A fixed front end after the primary visual cortex: Gabor energy with divisive normalisation."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d

PHASES = 4  # of simple cells, a quarter of a cycle apart: half-wave rectified, they lose no sign
CYCLES = 0.4  # standard deviation of a cell's window over its wavelength


class GaborEnergy(nn.Module):
    r"""Simple and complex cells of each colour, normalised by what the cells around them answer. Nothing is trained.

    Of each colour, orientation and wavelength there is a pair of Gabor filters in quadrature, whose answers e and o are those
    of simple cells, rectified: max(e, 0), max(o, 0), max(-e, 0), max(-o, 0); and of a complex cell, the energy
    c = sqrt((e^2 + o^2) / 2). All are divided by sqrt(s^2 + m), with m the mean of c^2 over all cells within a small square
    around the place.

    A filter has a round Gaussian window, no answer to a uniform image, and an answer of 1 to a grating of its own wavelength
    and orientation whose amplitude is 1.

    Args:
        orientations: how many, evenly over half a turn.
        wavelengths: in pixels, each > 2.
        stride: of the cells, in pixels.
        saturation: s, the contrast at which normalisation sets in, in the units of the images.
        reach: side of that square, in cells, an odd number.

    Shape:
        (N, C, H, W) to (N, 5 C orientations len(wavelengths), ceil(H / stride), ceil(W / stride)).

    Source: Dapello, Marques, Schrimpf, Geiger, Cox and DiCarlo, "Simulating a Primary Visual Cortex at the Front of CNNs
    Improves Robustness to Image Perturbations" (NeurIPS 2020), for the bank of simple and complex cells, here on a grid of
    settings in place of their draws from measured cells, and without their noise; Heeger, "Normalization of cell responses in
    cat striate cortex" (Visual Neuroscience 1992), for the division.
    """

    def __init__(
        self,
        orientations: int = 4,
        wavelengths: Sequence[float] = (3.0, 5.0, 8.0),
        stride: int = 2,
        saturation: float = 0.2,
        reach: int = 3,
    ) -> None:
        super().__init__()
        self.stride, self.saturation, self.reach = stride, saturation, reach
        self.cells = orientations * len(wavelengths)
        for number, wavelength in enumerate(wavelengths):
            self.register_buffer(f"bank{number}", gabor_pairs(orientations, wavelength), persistent=False)

    @property
    def banks(self) -> list[Tensor]:
        """The filters of each wavelength, (2 orientations, 1, side, side): even and odd, one orientation after the other."""
        return [bank for name, bank in self.named_buffers() if name.startswith("bank")]

    def forward(self, images: Tensor) -> Tensor:
        """Return what the cells answer; see the class."""
        count, colours = images.shape[:2]
        planes = images.flatten(0, 1)[:, None]
        answers = torch.cat([conv2d(_mirrored(planes, bank), bank, stride=self.stride) for bank in self.banks], 1)
        answers = answers.view(count, colours * self.cells, 2, *answers.shape[2:])
        energy = answers.square().sum(2) / 2
        around = avg_pool2d(energy.mean(1, keepdim=True), self.reach, 1, self.reach // 2, count_include_pad=False)
        complex_cells = (energy + 1e-8).sqrt()  # a slope at 0
        simple_cells = torch.cat((answers, -answers), 2).clamp(min=0).flatten(1, 2)
        return torch.cat((simple_cells, complex_cells), 1) / (around + self.saturation**2).sqrt()

    def channels(self, colours: int = 3) -> int:
        """How many channels it gives for images of so many colours."""
        return (PHASES + 1) * colours * self.cells


def gabor_pairs(orientations: int, wavelength: float) -> Tensor:
    """Make Gabor filters in quadrature.

    Args:
        orientations: how many, evenly over half a turn, the first with waves along the rows.
        wavelength: in pixels.

    Returns:
        (2 orientations, 1, side, side) float32, even and odd in turn; the sum of each is 0.
    """
    sigma = CYCLES * wavelength
    reach = round(2.5 * sigma)
    y, x = torch.meshgrid(*(2 * [torch.arange(-reach, reach + 1, dtype=torch.float64)]), indexing="ij")
    window = torch.exp(-(x.square() + y.square()) / (2 * sigma**2))
    filters = []
    for number in range(orientations):
        angle = math.pi * number / orientations
        phase = 2 * math.pi / wavelength * (x * math.cos(angle) + y * math.sin(angle))
        even, odd = window * phase.cos(), window * phase.sin()
        even = even - window * (even.sum() / window.sum())
        filters += [even / (even * phase.cos()).sum(), odd / (odd * phase.sin()).sum()]
    return torch.stack(filters)[:, None].float()


def _mirrored(planes: Tensor, bank: Tensor) -> Tensor:
    """(N, 1, H, W) with a border for the filters, the image's mirrored one, or where it is too small for that its edge."""
    reach = bank.shape[-1] // 2
    mode = "reflect" if reach < min(planes.shape[-2:]) else "replicate"
    return nn.functional.pad(planes, (reach, reach, reach, reach), mode=mode)
