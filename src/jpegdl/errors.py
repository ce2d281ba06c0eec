"""The one exception for what a user can mend, and the hint that goes with a misspelt name."""

import difflib
from collections.abc import Iterable


class UsageError(ValueError):
    """Something given cannot be used; the message names it and the way out.

    The command line prints the message on one line, without a traceback. Library code may catch it as
    ``ValueError``.
    """


def did_you_mean(given: str, accepted: Iterable[str]) -> str:
    """The part of a message that names what a misspelt name may have been meant for.

    Names may be dotted: ``alpha`` and ``training.lr`` stand for ``layer.alpha`` and ``training.optimizer.lr``.

    Returns:
        ``did you mean NAME?``, or nothing where no name is similar.
    """
    ends: dict[str, list[str]] = {}  # the full names, by their last parts
    for name in accepted:
        ends.setdefault(_end(name), []).append(name)
    found = ends.get(_end(given), [])
    if not found:
        found = difflib.get_close_matches(given, [name for names in ends.values() for name in names], n=1)
    if not found:
        found = [name for end in difflib.get_close_matches(_end(given), ends, n=1) for name in ends[end]]
    return f"did you mean {' or '.join(found[:3])}?" if found else ""


def _end(name: str) -> str:
    return name.lstrip("-").rpartition(".")[2]
