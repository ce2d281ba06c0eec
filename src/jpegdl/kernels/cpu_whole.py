"""The DCT and levels of a JPEG file for numba: what is done to blocks, in vectors of integers of 32 bits.

The formulas are those of :mod:`jpegdl.functional.exact`, whose DCT is used here with the processor's vectors in place of
tensors.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, attr-defined"

from collections.abc import Callable
from typing import Any

import numba
from numba import float32, int32

from jpegdl.functional.exact import forward_pass, inverse_pass
from jpegdl.kernels.cpu_blocks import GROUP
from jpegdl.kernels.cpu_vectors import BESIDE, LANES, transpose, vector_function, where

# Without fast math: pixels are to be rounded as PyTorch rounds them, and NaN is to be seen.
compiled: Callable[..., Any] = numba.njit(error_model="numpy", nogil=True)


@vector_function()
def code(plane, x, width, steps, inverses):
    """The blocks from column x of a (8, width) plane of samples 0..255 on to what a decoder makes of them, in place.

    ``steps`` are q and half of 8 q, (2, GROUP), whole numbers; ``inverses`` 1 / (8 q).
    """
    builder, zero = plane.builder, x.type(0)
    place = [builder.add(x, builder.mul(width, x.type(y))) for y in range(8)]
    rows = [plane.load(place[y]).bits() - 128 for y in range(8)]
    z = forward_pass(transpose(forward_pass(transpose(rows), first=True)), first=False)
    for v in range(8):
        q, half = steps.load(zero, LANES * v).bits(), steps.load(zero, GROUP + LANES * v).bits()
        magnitude = z[v].where(">", 0, z[v] * -1) + half
        # Exact: the quotient's error is smaller than 2^-23 of it, and that of whole numbers less than 2^22 lies, with the half
        # that is added, at least 1 / (16 q) from the next whole number.
        level = ((magnitude.floats() + 0.5) * inverses.load(zero, LANES * v)).whole()
        value = level * q
        z[v] = value.where_not_negative(z[v])
    samples = transpose(inverse_pass(transpose(inverse_pass(z, first=True)), first=False))
    for y in range(8):
        plane.store((samples[y] + 128).clamp(0, 255).bits(), place[y])


@vector_function()
def residuals(plane, x, width, steps, inverses, straight, out):
    """What a step's gradient is made of, from the blocks from column x of a plane of samples on: k - z / q of each coefficient
    to ``out``, GROUP, vertical frequency fastest; where ``straight`` is 0 in place of 1, k alone."""
    builder, zero = plane.builder, x.type(0)
    rows = [plane.load(builder.add(x, builder.mul(width, x.type(y)))).bits() - 128 for y in range(8)]
    z = forward_pass(transpose(forward_pass(transpose(rows), first=True)), first=False)
    found = []
    for v in range(8):
        half, inverse = steps.load(zero, GROUP + LANES * v).bits(), inverses.load(zero, LANES * v)
        magnitude = z[v].where(">", 0, z[v] * -1)
        level = (((magnitude + half).floats() + 0.5) * inverse).whole().floats()
        rest = level - magnitude.floats() * inverse * straight
        found.append(where(z[v].floats() < 0.0, -rest, rest))
    for u, column in enumerate(transpose(found)):
        out.store(column, zero, LANES * u)


@compiled
def prepare(table, steps, inverses):
    for v in range(8):
        for u in range(8):
            q = int32(table[v, u])
            for block in range(BESIDE):
                place = LANES * v + 8 * block + u
                steps[0, place], steps[1, place] = q, 4 * q
                inverses[place] = float32(1) / float32(8 * q)
