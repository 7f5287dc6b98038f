"""Reads figures all the time, and notes each total that falls."""

from __future__ import annotations

import threading
from typing import Protocol

from cachekit.monitoring.reading import SharedFigures


class Reader(Protocol):
    """What reads figures, of a host or of a fleet."""

    def read(self) -> SharedFigures: ...


class Falling:
    """A thread that reads until `stop`.

    Args:
        reader: what it reads by.
        pause: seconds between two reads, in which other readers and new processes get their turn.
    """

    def __init__(self, reader: Reader, pause: float) -> None:
        self._reader = reader
        self._pause = pause
        self._stop = threading.Event()
        self.fallen: list[str] = []
        self.reads = 0
        self.last = reader.read()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(self._pause):
            now = self._reader.read()
            self.fallen += [
                f"{key}: {before} -> {now.counters.get(key, 0)}"
                for key, before in self.last.counters.items()
                if now.counters.get(key, 0) < before - 1e-9
            ]
            self.last = now
            self.reads += 1

    def stop(self) -> SharedFigures:
        """End the thread, and read once more."""
        self._stop.set()
        self._thread.join()
        return self._reader.read()


def loads(figures: SharedFigures) -> float:
    """How many loads have ended well."""
    return figures.counters.get("loads/ok", 0)
