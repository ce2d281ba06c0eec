"""How far runs are, and the lines that show it: one for a run, and all of several side by side."""

import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, Self

from tqdm import tqdm

#: Told what is being done, and how much of it, of how much, is.
Progress = Callable[[str, float, float], None]
SELDOM = 30.0  # seconds between two lines where they stay, as in a log
_WIDEST = 100  # columns: a longer bar says no more


def one_of_several(progress: Progress | None, title: str, number: int, count: int) -> Progress | None:
    """Return what is to be told how far run ``number`` of ``count`` is, so that ``progress`` hears how far all of them are."""
    if progress is None:
        return None
    return lambda what, done, total: progress(f"{title}: {what}", number * total + done, count * total)


@dataclass(frozen=True)
class Standing:
    """How far a run is."""

    done: int  # batches
    total: int
    epoch: int  # in training, from 1 on
    epochs: int
    loss: float | None = None  # mean over the last finished epoch
    accuracy: float | None = None  # share of the images of ``part``, 0 to 1, when they were last looked at
    resumed: int = 0  # the last epoch that was finished before this process took over
    part: str = "test"  # or validation

    def __str__(self) -> str:
        accuracy = "" if self.accuracy is None else f"{self.part} {100 * self.accuracy:.1f} %, "
        loss = "" if self.loss is None else f", loss {self.loss:.3f}"
        return f"{accuracy}epoch {self.epoch}/{self.epochs}{loss}"


class Display(Protocol):
    """Where a run's standing is shown."""

    def show(self, standing: Standing) -> None:
        """Show how far the run is; called after every batch."""

    def close(self) -> None:
        """Training is over, or was interrupted."""


class Line:
    """One run's line: in a terminal a bar that fits it, else a plain line now and then.

    With a ``row`` it is one of several lines in a terminal, and goes when the run is over.
    """

    def __init__(self, title: str, row: int | None = None) -> None:
        self.title, self.row = title, row
        self._bar: tqdm[Any] | None = None
        self._standing: Standing | None = None
        self._first: tuple[float, int] = (0.0, 0)  # when, and how many batches were done
        self._last = 0.0

    def show(self, standing: Standing) -> None:
        now = time.monotonic()
        if self._standing is None:
            if standing.resumed:
                self.title += f" (resumed after epoch {standing.resumed})"
            self._first, self._last = (now, standing.done), now
            if sys.stderr.isatty():
                # What matters most comes first, as a narrow terminal cuts the end off; the bar takes what room is left.
                self._bar = bar(
                    standing.total,
                    f"{self.title}: {{percentage:3.0f}}%{{postfix}} |{{bar}}| [{{elapsed}}<{{remaining}}]",
                    row=self.row,
                    initial=standing.done,
                    postfix=str(standing),
                )
        if self._bar is not None:
            self._bar.set_postfix_str(str(standing), refresh=str(standing) != str(self._standing))
            self._bar.update(standing.done - self._bar.n)
        elif now - self._last >= SELDOM:
            self._last = now
            self._write(standing)
        self._standing = standing

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._standing is not None:
            self._write(self._standing)

    def _write(self, standing: Standing) -> None:
        seconds, done = time.monotonic() - self._first[0], standing.done - self._first[1]
        times = tqdm.format_interval(seconds)
        if done > 0 and standing.done < standing.total:
            times += f"<{tqdm.format_interval(seconds * (standing.total - standing.done) / done)}"
        write_line(f"{self.title}: {100 * standing.done / max(1, standing.total):.0f}%, {standing} [{times}]")


def bar(total: float, form: str, *, row: int | None = None, initial: float = 0, postfix: str = "") -> "tqdm[Any]":
    """Return a bar on stderr that fits the terminal; one with a row, of several, goes when it is closed."""
    columns = min(shutil.get_terminal_size().columns - 1, _WIDEST)
    return tqdm(
        total=total, initial=initial, postfix=postfix, bar_format=form, ncols=columns, file=sys.stderr, position=row,
        leave=row is None, smoothing=0,
    )  # fmt: skip


def write_line(line: str) -> None:
    """A line that stays, above all bars."""
    tqdm.write(line, file=sys.stderr)
    sys.stderr.flush()


class Lines:
    """The runs that train side by side. Where stderr is not a terminal: one line per finished run, and one now and then."""

    def __init__(self, runs: int) -> None:
        self.runs, self.finished = runs, 0
        self._lines: dict[int, Line] = {}  # by row
        self._shares: dict[int, float] = {}  # of its training that each is past
        self._terminal = sys.stderr.isatty()
        self._since = self._last = time.monotonic()
        self._bar: tqdm[Any] | None = None

    def show(self, row: int, title: str, standing: Standing) -> None:
        """Show how far the run in one of the rows is."""
        self._shares[row] = standing.done / max(1, standing.total)
        if self._terminal:
            if row not in self._lines:
                self._lines[row] = Line(title, row + 1)  # below the whole
            self._lines[row].show(standing)
        self.tick()

    def end(self, row: int, line: str) -> None:
        """The run in one of the rows is over, as the line says."""
        self.drop(row)
        self.finished += 1
        write_line(line)
        self.tick()

    def drop(self, row: int) -> None:
        """Nothing is in one of the rows any more."""
        self._shares.pop(row, None)
        if row in self._lines:
            self._lines.pop(row).close()

    def tick(self) -> None:
        """Show how far the whole is."""
        past = self.finished + sum(self._shares.values())
        if self._terminal:
            if self._bar is None:
                self._bar = bar(self.runs, "{desc} runs finished |{bar}| [{elapsed}<{remaining}]", row=0)
            self._bar.set_description_str(f"{self.finished}/{self.runs}", refresh=False)
            self._bar.n = past
            self._bar.refresh()
        elif (now := time.monotonic()) - self._last >= SELDOM:
            self._last = now
            seconds = now - self._since
            left = f", {tqdm.format_interval(seconds * (self.runs - past) / past)} left" if past else ""
            running = f", {len(self._shares)} in training" if self._shares else ""
            write_line(f"{self.finished}/{self.runs} runs finished{running} [{tqdm.format_interval(seconds)}{left}]")

    def close(self) -> None:
        """Nothing more will come."""
        for row in list(self._lines):
            self.drop(row)
        if self._bar is not None:
            self._bar.close()


class Bar:
    """How far a command is: in a terminal a bar, elsewhere a line now and then, so that logs stay short."""

    def __init__(self, title: str = "", unit: str = "") -> None:
        self._title, self._unit, self._last = title, unit, time.monotonic()
        self._bar: tqdm[Any] | None = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            self._bar = bar(1, "{desc} {percentage:3.0f}% [{elapsed}<{remaining}]")
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def show(self, what: str, done: float, total: float) -> None:
        """Say that ``done`` of ``total`` are done of ``what``."""
        text = f"{self._title}: {what}" if self._title and what else self._title or what
        if self._bar is not None:
            self._bar.total, self._bar.n = total, done
            self._bar.set_description_str(text, refresh=True)
        elif time.monotonic() - self._last >= SELDOM:
            self._last = time.monotonic()
            write_line(f"{text}, {done:.0f} of {total:.0f} {self._unit}".rstrip())

    def say(self, text: str) -> None:
        """Print lines of output, above the bar."""
        tqdm.write(text)

    def error(self, text: str) -> None:
        """A line about what is wrong, above the bar."""
        write_line(f"jpegdl: error: {text}")
