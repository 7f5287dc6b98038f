"""Progress of a long call: a bar on a terminal, one line at the end anywhere else, or a callback.

The bar is redrawn a few times a second. It needs only the standard library, and never fails: a stream that
cannot be written to shows nothing.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Final, Protocol, TextIO, TypeAlias, final

from cachekit.model.display import typed_repr
from cachekit.runtime.interrupts import is_interrupt

#: Called as `progress(done, total)`.
ProgressCallback: TypeAlias = Callable[[int, int], object]

_INTERVAL: Final = 0.1  # seconds between two redraws
_WIDEST: Final = 40  # characters of a bar


class Progress(Protocol):
    """Something that one thread tells how far it has come."""

    @property
    def patience(self) -> float | None:
        """Seconds without `update` after which to call `draw`; None is never."""
        ...

    def update(self, done: int) -> None:
        """Note how many are done."""
        ...

    def draw(self) -> None:
        """Show the time that has passed."""
        ...

    def end(self, summary: str | None) -> None:
        """Show the summary; None if the call was broken off."""
        ...


def progress_for(progress: ProgressCallback | bool | None, label: str, total: int) -> Progress:
    """Return the display for a `progress` argument: a bar for True, nothing for None and False.

    Raises:
        TypeError: as `check_progress`.
    """
    check_progress(progress)
    if progress is True:
        return ProgressBar(label, total, sys.stderr)
    return CallbackProgress(progress or None, total)


def check_progress(progress: object) -> None:
    """Refuse a `progress` argument of the wrong type.

    Raises:
        TypeError: it is neither a bool, nor None, nor a function.
    """
    if progress is not None and not isinstance(progress, bool) and not callable(progress):
        raise TypeError(
            f"progress must be True, for a display on stderr, or a function of done and total, or None, "
            f"not {typed_repr(progress)}"
        )


@final
class CallbackProgress:
    """Calls a function of the caller, or nothing. An exception of the function reaches the caller."""

    patience = None

    def __init__(self, callback: ProgressCallback | None, total: int) -> None:
        self._callback = callback
        self._total = total

    def update(self, done: int) -> None:
        """Call the function."""
        if self._callback is not None:
            self._callback(done, self._total)

    def draw(self) -> None:
        """Do nothing."""

    def end(self, summary: str | None) -> None:
        """Do nothing."""


@final
class ProgressBar:
    """A bar on a terminal, or a last line anywhere else.

    Args:
        label: what the call does, as a participle.
        total: how many keys there are.
        stream: where to show the bar; None shows nothing.
        now: the clock, in seconds.
    """

    def __init__(
        self, label: str, total: int, stream: TextIO | None, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._label = label
        self._total = total
        self._stream = stream
        self._now = now
        self._begun = now()
        self._due = self._begun
        self._done = 0
        self._drawn = 0  # characters on the line
        self._moves = _is_terminal(stream)
        self.patience: float | None = _INTERVAL if self._moves else None
        self.draw()

    def update(self, done: int) -> None:
        """Note how many are done, and redraw the bar at most ten times a second."""
        self._done = done
        if self._moves and self._now() >= self._due:
            self.draw()

    def draw(self) -> None:
        """Redraw the bar, on a terminal."""
        if self._stream is None or not self._moves:
            return
        now = self._now()
        self._due = now + _INTERVAL
        seconds = now - self._begun
        share = self._done / self._total if self._total else 1.0
        text = f"{share:4.0%}  {self._done:,} of {self._total:,} keys  {_duration(seconds)}"
        if 0 < self._done < self._total:
            text += f", {_duration(seconds / self._done * (self._total - self._done))} left"
        room = _width(self._stream) - len(self._label) - len(text) - 6
        if room >= 10:
            length = min(room, _WIDEST)
            text = f"[{'#' * int(share * length):.<{length}}] {text}"
        self._write(f"{self._label}  {text}")

    def end(self, summary: str | None) -> None:
        """End the line with the summary."""
        took = _duration(self._now() - self._begun)
        if summary is None:
            summary = f"broken off after {self._done:,} of {self._total:,} keys"
        self._write(f"{self._label}  {summary}, {took}", "\n")

    def _write(self, text: str, end: str = "") -> None:
        if self._stream is None:
            return
        if self._moves:
            text = text[: max(1, _width(self._stream) - 1)]
            text, self._drawn = "\r" + text.ljust(self._drawn), len(text)
        try:
            self._stream.write(text + end)
            self._stream.flush()
        except Exception as error:  # the stream is closed, a broken pipe, or an object of the user
            if is_interrupt(error):
                raise
            self._stream = None
            self._moves, self.patience = False, None


def _is_terminal(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"
    except Exception as error:  # the stream is closed, or has no more than `write`
        if is_interrupt(error):
            raise
        return False


def _width(stream: TextIO) -> int:
    try:
        # A terminal that does not know its width reports 0.
        return os.get_terminal_size(stream.fileno()).columns or 80
    except Exception as error:  # the stream is a terminal by its own word alone
        if is_interrupt(error):
            raise
        return 80


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} h" if hours else f"{minutes}:{rest:02} min"
