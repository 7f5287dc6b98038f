"""Where the time of the longest step went: garbage collection, work, waiting for a CPU, and other waiting.

Garbage collection is counted apart. It stops every thread of the process, whatever the thread calls.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Final, NamedTuple, final

if TYPE_CHECKING:
    from types import FrameType

_LOOK: Final = 0.01  # seconds between two looks at steps under way
_SHORTEST: Final = 0.02  # seconds of a step whose place is looked for
_PACKAGE: Final = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class Stall(NamedTuple):
    """A step that took long. All times are seconds."""

    seconds: float  #: without garbage collection
    operation: str
    collecting: float  #: garbage collection, in any thread of the process
    working: float  #: on a CPU
    queued: float | None  #: waiting for a CPU; None if the system does not say
    place: str  #: the line of cachekit that was seen in it; empty if the step was too short

    def __str__(self) -> str:
        """Return the cause in words."""
        waited = max(0.0, self.seconds - self.working - (self.queued or 0.0))
        parts = [f"{milliseconds(self.working)} of work", f"{milliseconds(waited)} of waiting"]
        if self.queued is not None:
            parts.append(f"{milliseconds(self.queued)} without a CPU")
        where = f", at {self.place}" if self.place else ""
        return f"{milliseconds(self.seconds)} in {self.operation}: {', '.join(parts)}{where}"


#: Before the first step.
NO_STALL: Final = Stall(0.0, "no step", 0.0, 0.0, None, "")


def milliseconds(seconds: float) -> str:
    """Return a time in words."""
    return f"{seconds * 1000:,.1f} ms"


@final
class StallWatch:
    """Finds the longest step of a process. `close` ends its thread."""

    def __init__(self) -> None:
        self.longest = NO_STALL
        self.longest_collection = 0.0
        self.collected = 0.0
        self._collection_began = 0.0
        self._stopwatches: list[Stopwatch] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="soak-watch", daemon=True)
        gc.callbacks.append(self._note_collection)
        self._thread.start()

    def stopwatch(self) -> Stopwatch:
        """Return a stopwatch for the steps of the current thread."""
        stopwatch = Stopwatch(self)
        self._stopwatches.append(stopwatch)
        return stopwatch

    def forget(self, stopwatch: Stopwatch) -> None:
        """Drop a stopwatch."""
        self._stopwatches.remove(stopwatch)

    def close(self) -> None:
        """End the thread."""
        gc.callbacks.remove(self._note_collection)
        self._ended.set()
        self._thread.join()

    def _note_collection(self, phase: str, _: object) -> None:
        now = time.monotonic()
        if phase == "start":
            self._collection_began = now
        else:
            took = now - self._collection_began
            self.collected += took
            self.longest_collection = max(self.longest_collection, took)

    def _run(self) -> None:
        while not self._ended.wait(_LOOK):
            late = [
                one
                for one in self._stopwatches.copy()
                # From half of the longest on: a step that becomes the longest by little was seen before.
                if one.elapsed() > max(_SHORTEST, self.longest.seconds / 2)
            ]
            frames = sys._current_frames() if late else {}
            for stopwatch in late:
                frame = frames.get(stopwatch.thread)
                if frame is not None and frame.f_code.co_filename != __file__:  # else the step has just ended
                    stopwatch.place = _place(frame)
            frame = None
            del frames, late  # a frame keeps what its function holds


@final
class Stopwatch:
    """Measures the steps of one thread, one after the other."""

    def __init__(self, watch: StallWatch) -> None:
        self._watch = watch
        self.thread = threading.get_ident()
        self.place = ""
        self._begun: float | None = None
        self._operation = ""
        self._collected = self._worked = 0.0
        self._queued: float | None = None
        try:
            self._statistics = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
        except OSError:  # no Linux, or a kernel without these statistics
            self._statistics = -1

    def begin(self, operation: str) -> None:
        """Note that a step begins."""
        self._operation, self.place = operation, ""
        self._collected, self._worked, self._queued = self._watch.collected, time.thread_time(), self._queue()
        self._begun = time.monotonic()

    def end(self) -> None:
        """Note that the step ended."""
        begun, self._begun = self._begun, None
        if begun is None:
            return
        collecting = self._watch.collected - self._collected
        seconds = time.monotonic() - begun - collecting
        if seconds > self._watch.longest.seconds:
            queued = None if self._queued is None else (self._queue() or 0.0) - self._queued
            working = max(0.0, time.thread_time() - self._worked - collecting)
            self._watch.longest = Stall(seconds, self._operation, collecting, working, queued, self.place)

    def elapsed(self) -> float:
        """Return how long the step has taken so far; 0 between steps."""
        begun = self._begun
        return 0.0 if begun is None else time.monotonic() - begun

    def close(self) -> None:
        """End the measurements of this thread."""
        self._watch.forget(self)
        if self._statistics >= 0:
            os.close(self._statistics)

    def _queue(self) -> float | None:
        return None if self._statistics < 0 else int(os.pread(self._statistics, 99, 0).split()[1]) / 1e9


def _place(frame: FrameType) -> str:
    """Return the innermost line of cachekit in a stack, or else the innermost one."""
    found: FrameType | None = frame
    while found is not None:
        name = found.f_code.co_filename
        if name.startswith(_PACKAGE + os.sep) and f"{os.sep}soak{os.sep}" not in name:
            return f"cachekit/{os.path.relpath(name, _PACKAGE)}:{found.f_lineno} ({found.f_code.co_name})"
        found = found.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno} ({frame.f_code.co_name})"
