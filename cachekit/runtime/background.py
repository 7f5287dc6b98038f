"""Work that may outlive the call that began it, in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import copy_context
from typing import Any, Final, final

_PAUSE: Final = 60.0  # seconds between two entries in the log


@final
class BackgroundCall:
    """Something to be done in a daemon thread, in a copy of the context of whoever begins it.

    Args:
        work: what; it hands its result, or an exception, to those who wait for it by itself.
        failed: told of an exception that nobody waits for.

    A process that ends does not wait for it.
    """

    __slots__ = ("_exit", "_failed", "_thread", "_work", "is_unwatched")

    def __init__(self, work: Callable[[], Any], failed: Callable[[BaseException], None]) -> None:
        self._work = work
        self._failed = failed
        self._thread: threading.Thread | None = None
        self._exit: BaseException | None = None
        #: Whether nobody waits for it.
        self.is_unwatched = False

    def start(self) -> bool:
        """Begin; False if no thread is to be had, and then nothing was done."""
        try:
            thread = threading.Thread(
                target=copy_context().run, args=(self._run,), name="cachekit-load", daemon=True
            )
            thread.start()
        except RuntimeError:  # as in upkeep
            return False
        self._thread = thread
        return True

    def _run(self) -> None:
        # Once it is done nothing here knows it: an error's traceback has this frame, and work has the error.
        work = self._work
        del self._work
        try:
            work()
        except BaseException as error:  # noqa: BLE001  # for whoever waits, or else see `failed`
            if self.is_unwatched:
                self._failed(error)
            elif not isinstance(error, Exception):  # SystemExit, of which the work has told nobody
                self._exit = error
        finally:
            del work

    @property
    def is_over(self) -> bool:
        """Whether it does nothing any more, also because this is a child of a fork."""
        return self._thread is None or not self._thread.is_alive()

    def raise_exit(self) -> None:
        """Wait until it is over, and raise what ended it if that was no Exception, such as SystemExit."""
        if self._thread is not None:
            self._thread.join()
        error, self._exit = self._exit, None
        if error is not None:
            context = error.__context__
            try:
                raise error
            finally:
                error.__context__ = context  # and not what the caller is in the middle of handling
                del error  # its traceback holds this frame


@final
class RateLimitedLog:
    """The log of failures that no caller is told of. One in a minute says enough; all are counted elsewhere.

    Args:
        monotonic: the clock, in seconds.
    """

    __slots__ = ("_last", "_monotonic")

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._last: float | None = None

    def add(self, key: str, error: BaseException) -> None:
        """A load of the key failed, and nobody gets the error."""
        now = self._monotonic()
        if self._last is not None and now < self._last + _PAUSE:
            return
        self._last = now
        import logging

        logging.getLogger("cachekit").warning(
            "loading %r failed; what is there serves on as long as it may: %s: %s",
            key, type(error).__name__, error,
        )  # fmt: skip
