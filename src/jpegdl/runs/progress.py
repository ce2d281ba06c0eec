"""How far a run is, and the line that shows it."""

import shutil
import sys
import time
from dataclasses import dataclass
from typing import Any, Protocol

import lightning
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm

SELDOM = 30.0  # seconds between two lines where they stay, as in a log
_WIDEST = 100  # columns: a longer bar says no more


@dataclass(frozen=True)
class Standing:
    """How far a run is.

    Attributes:
        done, total: batches.
        epoch, epochs: the epoch in training, from 1 on, and how many there are.
        loss: mean over the last finished epoch.
        accuracy: share of the test images, 0 to 1, at the last test.
        resumed: the last epoch that was finished before this process took over; 0 for a run from scratch.
    """

    done: int
    total: int
    epoch: int
    epochs: int
    loss: float | None = None
    accuracy: float | None = None
    resumed: int = 0

    def __str__(self) -> str:
        accuracy = "" if self.accuracy is None else f"test {100 * self.accuracy:.1f} %, "
        loss = "" if self.loss is None else f", loss {self.loss:.3f}"
        return f"{accuracy}epoch {self.epoch}/{self.epochs}{loss}"


class Display(Protocol):
    """Where a run's standing is shown."""

    def show(self, standing: Standing) -> None:
        """Show how far the run is; called after every batch."""

    def close(self) -> None:
        """Training is over, or was interrupted."""


class Progress(ProgressBar):
    """Tells a display how far the run is."""

    def __init__(self, display: Display) -> None:
        super().__init__()
        self._display, self._silent = display, False
        self._loss: float | None = None
        self._accuracy: float | None = None
        self._resumed = 0

    def disable(self) -> None:
        """Lightning's way to silence processes other than the first."""
        self._silent = True

    def on_train_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        self._resumed = trainer.current_epoch
        self._show(trainer, 0)

    def on_train_batch_end(self, trainer: lightning.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._show(trainer, batch_idx + 1)

    def on_train_epoch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        found = trainer.callback_metrics
        self._loss = float(found["train_loss"])
        if "test_accuracy" in found:
            self._accuracy = float(found["test_accuracy"])
        self._show(trainer, int(trainer.num_training_batches))

    def on_train_end(self, *_: Any) -> None:
        self._display.close()

    def on_exception(self, *_: Any) -> None:
        self._display.close()

    def _show(self, trainer: lightning.Trainer, batches: int) -> None:
        if self._silent:
            return
        each, epochs, epoch = int(trainer.num_training_batches), int(trainer.max_epochs or 0), trainer.current_epoch
        done = min(each * epoch + batches, each * epochs)
        standing = Standing(done, each * epochs, min(epoch + 1, epochs), epochs, self._loss, self._accuracy, self._resumed)
        self._display.show(standing)


class Line:
    """One run's line: in a terminal a bar that fits it, else a plain line now and then.

    Args:
        title: which run.
        row: of several lines in a terminal, which; those with a row go when the run is over.
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
        say(f"{self.title}: {100 * standing.done / max(1, standing.total):.0f}%, {standing} [{times}]")


def bar(total: float, form: str, *, row: int | None = None, initial: float = 0, postfix: str = "") -> "tqdm[Any]":
    """A bar on stderr that fits the terminal; one with a row, of several, goes when it is closed."""
    columns = min(shutil.get_terminal_size().columns - 1, _WIDEST)
    return tqdm(
        total=total, initial=initial, postfix=postfix, bar_format=form, ncols=columns, file=sys.stderr, position=row,
        leave=row is None, smoothing=0,
    )  # fmt: skip


def say(line: str) -> None:
    """A line that stays, above all bars."""
    tqdm.write(line, file=sys.stderr)
    sys.stderr.flush()
