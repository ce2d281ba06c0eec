"""The one check of class indices, for sets from wherever."""

import operator
from collections.abc import Sequence
from typing import Any

from jpegdl.data.sources.base import Source
from jpegdl.errors import UsageError, some_of, warn_of_data

MOST = 2**20  # classes that may be numbered, and not named
_SAID = 5  # classes that a message names


def class_index(value: Any, name: str) -> int:
    """Return what a set gives for an image's class as a class index.

    Raises:
        UsageError: it is no whole number: a truth value, say, or an array or tensor of one; names the image.
    """
    if type(value) is int:
        return value
    try:
        # Some of NumPy's and PyTorch's truth values, and arrays of one element, pass for an index.
        if getattr(value, "shape", ()) != () or "bool" in str(getattr(value, "dtype", type(value).__name__)):
            raise TypeError
        return operator.index(value)
    except TypeError as error:
        raise UsageError(f"{name} must have a class index, 0, 1, ..., got {_shown(value)}") from error


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def numbered_classes(*sources: Source) -> list[str]:
    """Return the names of classes that have numbers only.

    Raises:
        UsageError: a class index below 0, or one that is too high to be one.
    """
    highest = max((max(source.targets) for source in sources if source.targets), default=-1)
    check_range(sources, min(highest + 1, MOST), named=False)
    return [str(number) for number in range(highest + 1)]


def check_range(sources: Sequence[Source], count: int, *, named: bool = True) -> None:
    """Refuse class indices that are not 0 to ``count`` - 1.

    Raises:
        UsageError: names the first image with such an index.
    """
    for source in sources:
        if not source.targets or (min(source.targets) >= 0 and max(source.targets) < count):
            continue
        index, wrong = next((i, target) for i, target in enumerate(source.targets) if not 0 <= target < count)
        why = f"{count} classes are named, 0 to {count - 1}" if named and count else "expected 0, 1, ..."
        if wrong < 0:
            why += "; where it stands for an image without a class, leave such images out"
        raise UsageError(f"{source.name(index)}: class index {wrong} is out of range: {why}")


def check_classes(
    train: Source,
    test: Source,
    classes: Sequence[str],
    label: str,
    *,
    known: bool = False,
    instead: str = "",
    limited: bool = False,
) -> None:
    """Refuse classes that cannot be trained or tested, and say which have no images.

    Args:
        train: the training images; none where the test images alone are wanted, which may be of any class then.
        test: the test images.
        classes: their names.
        label: of the set, for messages.
        known: whether a network may know classes without a training image.
        instead: what to do where a class has a test image and no training image.
        limited: whether these are a few of the set's images, so that some classes may have none.

    Raises:
        UsageError: a class index that is no class's, or a class with a test image and without a training image.
    """
    check_range((train, test), len(classes))
    if not train.targets:
        return
    trained, tested = set(train.targets), set(test.targets)
    if unseen := sorted(tested - trained):
        found = f"{label}: test has images of class {unseen[0]}, {classes[unseen[0]]}, and train has none"
        if not known:
            one = test.name(next(i for i, target in enumerate(test.targets) if target == unseen[0]))
            raise UsageError(f"{found} ({one}){instead and f'; {instead}'}")
        others = len(unseen) - 1
        more = f", nor of {others} other{'' if others == 1 else 's'}" if others else ""
        warn_of_data(f"{found}{more}: only a network that knows {'them' if others else 'it'} can be right")
    if limited:
        return
    for split, used in (("training", trained), ("test", tested | (set(range(len(classes))) - trained))):
        if without := [name for index, name in enumerate(classes) if index not in used]:
            have = f"{len(without)} of {len(classes)} classes {'has' if len(without) == 1 else 'have'}"
            warn_of_data(f"{label}: {have} no {split} image: {some_of(without, _SAID)}")
