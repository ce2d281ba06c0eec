"""The start of a process: large libraries imported with the garbage collector out of the way."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def lean_imports() -> Iterator[None]:
    """While a process imports PyTorch, Lightning and timm for the first time, collect no garbage, and never look at what is
    there at its end again.

    The collector would go through these millions of objects many times while they are made, again as the program runs and once
    more as it ends: a third of the time that ``import jpegdl.comparison`` takes. Where PyTorch is there already, nothing is done.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
