"""The one exception for what a user can mend, the hint that goes with a misspelt name, and how a terminal's lines are made."""

import difflib
import textwrap
import warnings
from collections.abc import Iterable, Sequence

_ALIKE = 0.65  # share of the letters of two names that must agree


class UsageError(ValueError):
    """Something given cannot be used; the message names it and the way out.

    The command line prints the message on one line, without a traceback. Library code may catch it as
    ``ValueError``.
    """


class DataWarning(UserWarning):
    """Something about a data set that its user should know; said once for a comparison, and not by each of its processes."""


def warn_of_data(text: str) -> None:
    """Say something about a data set that its user should know."""
    warnings.warn(text, DataWarning, stacklevel=4)


def some_of(names: Sequence[str], most: int) -> str:
    """Return ``a, b and 3 more``: as many names as a message has room for."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


WIDTH = 80  #: Characters of a line in a terminal.


def folded(text: str, width: int = WIDTH, first: str = "", later: str = "") -> str:
    """Return a line of text in lines of at most ``width`` characters; a longer word, such as a path, keeps a line of its own.

    A number and its % stay together.

    Args:
        text: words, between single spaces.
        width: characters.
        first: what the first line begins with.
        later: what each other line begins with.
    """
    glued = text.replace(" %", "\0%")
    return textwrap.fill(
        glued, width, initial_indent=first, subsequent_indent=later, break_long_words=False, break_on_hyphens=False
    ).replace("\0", " ")


def how_many(count: int, one: str, several: str | None = None) -> str:
    """Return a number with its noun: ``1 image``, ``1,602 images``.

    Args:
        count: how many.
        one: the noun for one.
        several: the noun for none or several; default: with an s.
    """
    return f"{count:,} {one if count == 1 else several or f'{one}s'}"


def did_you_mean(given: str, accepted: Iterable[str]) -> str:
    """Return the part of a message that names what a misspelt name may have been meant for.

    Names may be dotted, and their last parts alone may be like: ``alpha`` and ``training.lr`` stand for ``layer.alpha`` and
    ``training.optimizer.lr``.

    Returns:
        ``did you mean NAME?``, or nothing where no name is alike.
    """
    likeness = {name: max(_likeness(given, name), _likeness(_end(given), _end(name))) for name in accepted}
    best = max(likeness.values(), default=0.0)
    found = [name for name, value in likeness.items() if value == best]
    return f"did you mean {' or '.join(found[:3])}?" if best > _ALIKE else ""


def _likeness(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()


def _end(name: str) -> str:
    return name.lstrip("-").rpartition(".")[2]
