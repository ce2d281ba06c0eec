"""What a comparison shows while several runs train: one line per run, and one for the whole."""

import sys
import time
from typing import Any

from tqdm import tqdm

from jpegdl.runs.progress import SELDOM, Line, Standing, bar, say


class Board:
    """The runs that train side by side. Where stderr is not a terminal: one line per finished run, and one now and then.

    Args:
        runs: how many are to be trained.
    """

    def __init__(self, runs: int) -> None:
        self.runs, self.finished = runs, 0
        self._lines: dict[int, Line] = {}  # by row
        self._shares: dict[int, float] = {}  # of its training that each is past
        self._terminal = sys.stderr.isatty()
        self._since = self._last = time.monotonic()
        self._bar: tqdm[Any] | None = None

    def show(self, row: int, title: str, standing: Standing) -> None:
        """How far the run in one of the rows is."""
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
        say(line)
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
            say(f"{self.finished}/{self.runs} runs finished{running} [{tqdm.format_interval(seconds)}{left}]")

    def close(self) -> None:
        """Nothing more will come."""
        for row in list(self._lines):
            self.drop(row)
        if self._bar is not None:
            self._bar.close()
