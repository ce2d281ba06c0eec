"""What numba's cache on disk may confuse: compiled functions of one name."""

import gc
from collections import Counter

from numba.core.dispatcher import Dispatcher


def test_no_two_compiled_functions_have_one_name():
    """Two processes that compile and cache two functions of one name make a third one, which loads both, corrupt its memory."""
    import jpegdl.codec.levels
    import jpegdl.kernels.cpu  # noqa: F401

    gc.unfreeze()  # or it would not tell of what was imported with the tests
    functions = {id(found): found.py_func for found in gc.get_objects() if issubclass(type(found), Dispatcher)}.values()
    gc.freeze()
    ours = [function for function in functions if function.__module__.startswith("jpegdl.")]
    names = Counter(f"{function.__module__}.{function.__qualname__}" for function in ours)
    assert len(names) > 50
    assert [name for name, count in names.items() if count > 1] == []
