"""Work that may outlive the call that began it, in a thread of its own; and a log for its failures."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import copy_context
from typing import Any, Final, final

from cachekit.runtime.clock import Clock
from cachekit.runtime.interrupts import raise_interrupt
from cachekit.runtime.outcome import Outcome

_PAUSE: Final = 60.0  # seconds between two entries in the log


@final
class BackgroundCall:
    """A function to call in a daemon thread, in a copy of the context of the thread that begins it.

    Args:
        work: the function. It hands its result or its exception to its callers by itself.

    A process that ends does not wait for it.
    """

    __slots__ = ("_exit", "_thread", "_work")

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work
        self._thread: threading.Thread | None = None
        self._exit: BaseException | None = None

    def start(self) -> bool:
        """Begin. Return False if there is no thread to be had; then nothing was done."""
        try:
            thread = threading.Thread(
                target=copy_context().run, args=(self._run,), name="cachekit-load", daemon=True
            )
            thread.start()
        except RuntimeError as error:  # the interpreter ends, or the system has no thread left
            raise_interrupt(error)
            return False
        self._thread = thread
        return True

    def _run(self) -> None:
        # The traceback of an error refers to this frame, and the work may refer to the error.
        work = self._work
        del self._work
        try:
            work()
        except BaseException as error:  # noqa: BLE001  # for `raise_exit`
            if not isinstance(error, Exception):  # SystemExit, which the work has handed to no caller
                self._exit = error
        finally:
            del work

    @property
    def is_over(self) -> bool:
        """Whether the thread has ended, or is not of this process because this is a child of a fork."""
        return self._thread is None or not self._thread.is_alive()

    def wait(self, seconds: float) -> None:
        """Wait until the thread has ended, for so many seconds; it returns at once in that thread itself."""
        if not self.is_over and self._thread is not threading.current_thread():
            assert self._thread is not None
            self._thread.join(seconds)

    def raise_exit(self) -> None:
        """Wait until the thread has ended, and raise what ended it if that is no Exception."""
        if self._thread is not None:
            self._thread.join()
        error, self._exit = self._exit, None
        if error is not None:
            try:
                Outcome[None](error=error).get()
            finally:
                del error  # its traceback refers to this frame


@final
class RateLimitedLog:
    """The log of failures that no caller gets. It takes one a minute; counters count all of them.

    Args:
        clock: of the minutes.
    """

    __slots__ = ("_clock", "_last")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last: float | None = None

    def add(self, event: str) -> None:
        """Log what happened, in a text that holds no secret."""
        now = self._clock.monotonic()
        if self._last is not None and now < self._last + _PAUSE:
            return
        self._last = now
        import logging

        logging.getLogger("cachekit").warning("%s", event)
