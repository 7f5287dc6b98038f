"""One cache's hold on the engine of its directory: taken, looked after, taken anew, given back.

It promises that a directory which somebody removed, or put another in place of, is noticed by the next
write, and by a lookup within a tenth of a second; it is then opened anew, and made if need be. What was
copied out of the old one is trusted no more: every token that vouched for it is changed.
"""

from __future__ import annotations

import logging
import os
import time
import weakref
from collections.abc import Callable
from typing import Final, final

from cachekit.errors import CacheClosedError, TierUnavailableError
from cachekit.runtime.clock import Clock
from cachekit.tiers.file.engine.directory import USERS
from cachekit.tiers.file.engine.engine import Engine, EngineStats
from cachekit.tiers.file.engine_registry import engines
from cachekit.tiers.file.entry_codec import EntryCodec
from cachekit.tiers.file.folder import ForeignError
from cachekit.tiers.file.permissions import network_file_system

_OPENING: Final = 30.0  # seconds that the constructor waits for others who are opening the directory
_REOPENING: Final = 2.0  # the same, for an operation
_LOOK_AGAIN: Final = 0.1  # seconds between two looks of readers at whether the directory is the same


@final
class EngineHandle:
    """Safe in any thread, before and after a fork.

    Args:
        path: the directory.
        limit: bytes that it may take.
        clock: the tier's.
        contents: how values are stored where others may write, and where nobody else may.
        unpickles: whether unsigned pickles are read, so that it matters who may write.
        network: whether a network file system will do.

    Raises:
        FileFormatError: others use the directory in a way that we cannot join.
        TierUnavailableError: it cannot be made, read or written, or is on a network file system.
    """

    __slots__ = (
        "__weakref__", "_before", "_clock", "_closed", "_contents", "_due", "_engine", "_finalizer",
        "_identity", "_limit", "_network", "_unpickles", "contents", "path",
    )  # fmt: skip

    contents: EntryCodec  #: how values are stored in the directory as it is now

    def __init__(
        self,
        path: str,
        limit: int,
        clock: Clock,
        contents: tuple[EntryCodec, EntryCodec],
        *,
        unpickles: bool,
        network: bool,
    ) -> None:
        self.path = path
        self._limit = limit
        self._clock = clock
        self._contents = contents
        self._unpickles = unpickles
        self._network = network
        self._closed: EngineStats | None = None
        self._before = EngineStats(0, 0, 0, 0, 0)
        self._attach(_OPENING)

    def _attach(self, opening: float) -> None:
        path = self.path
        kind = "" if self._network else network_file_system(path)
        if kind:
            raise TierUnavailableError(
                f"the cache directory {path} is on a network file system ({kind}), where memory is not "
                f"shared with other hosts and locks may not hold; choose a local directory with cache_dir, "
                f"or say allow_network_fs=True if this host alone uses it"
            )
        try:
            engine, reason = engines.acquire(path, self._limit, self._clock, opening)
            # At once: whatever comes now, also a signal handler's exception, it is given back.
            finalizer = weakref.finalize(self, engines.release, engine)
            finalizer.atexit = False
        except OSError as error:
            remedy = "make it writable for this user"
            if isinstance(error, ForeignError):
                remedy = "remove that, and give the directory to this user alone"
            raise TierUnavailableError(
                f"the cache directory {path} cannot be used: {error.strerror or error}; "
                f"{remedy}, or choose another with cache_dir"
            ) from error
        if reason and self._unpickles:
            logging.getLogger("cachekit").warning(
                "%s; so classes are read from the cache directory %s by an allow-list only. "
                "End that (chmod go-w), or use a secret",
                reason,
                path,
            )
        identity = engine.identity
        self._due = time.monotonic() + _LOOK_AGAIN
        self.contents = self._contents[not reason]
        self._engine = engine
        self._identity = identity
        self._finalizer = finalizer

    def for_reading(self) -> Engine:
        """The engine of the directory, as it was a moment ago.

        Raises:
            FileFormatError, TierUnavailableError: it was removed or replaced, and cannot be opened anew.
            CacheClosedError: after `close`.
        """
        if time.monotonic() < self._due and self._closed is None:
            return self._engine
        return self.for_writing()

    def for_writing(self) -> Engine:
        """The engine of the directory as it is now.

        Raises:
            FileFormatError, TierUnavailableError: it was removed or replaced, and cannot be opened anew.
            CacheClosedError: after `close`.
        """
        if self._closed is not None:
            raise CacheClosedError(f"the cache on {self.path} was closed")
        if not self._is_there():
            self._attach_anew()
        self._due = time.monotonic() + _LOOK_AGAIN
        return self._engine

    def _is_there(self) -> bool:
        try:
            found = os.stat(f"{self.path}/{USERS}")
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            return True  # it may not be looked at, which is no reason to give up what is open
        return (found.st_dev, found.st_ino) == self._identity

    def _attach_anew(self) -> None:
        try:
            with engines.lock:
                if self._closed is not None or self._is_there():
                    return  # another thread was here
                finalizer = self._exchange_engine()
            finalizer()
        finally:
            engines.settle()
        if self._closed is not None:  # meanwhile, by who knew the old finalizer
            self._finalizer()

    def _exchange_engine(self) -> Callable[[], object]:
        """Open the directory as it is now; what gives the engine of before back."""
        old, finalizer = self._engine, self._finalizer
        # First: what was copied out of it is not to be trusted, whether or not there will be another.
        old.invalidate_all_tokens()
        stats = old.stats()
        self._attach(_REOPENING)
        logging.getLogger("cachekit").warning("%s was removed or replaced; it was opened anew", self.path)
        self._before = EngineStats(
            0,
            0,
            self._before.evictions + stats.evictions,
            self._before.expirations + stats.expirations,
            self._before.damaged + stats.damaged,
        )
        return finalizer

    def check_replaced(self) -> None:
        """Something was not there that should be: if a part of the directory was removed, give all of it up.

        Those who go on with what they have open, and those who make it anew, would hold different locks.
        Without the file that stands for the whole, everybody has it opened anew.
        """
        with engines.lock:
            if self._closed is None and self._is_there() and not self._engine.is_whole():
                try:
                    self._engine.give_up()
                except OSError:
                    pass  # somebody was faster, or it cannot be mended
                self._due = 0.0  # or our readers would fail until they look again
        engines.settle()

    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed is not None

    def stats(self) -> EngineStats:
        """The engine's figures, those of engines before it included; without I/O, and also after `close`."""
        if self._closed is not None:
            return self._closed
        now, before = self._engine.stats(), self._before
        return EngineStats(
            now.entries,
            now.bytes,
            now.evictions + before.evictions,
            now.expirations + before.expirations,
            now.damaged + before.damaged,
        )

    def close(self) -> None:
        """Give the engine back; a second call does nothing.

        It waits for no lock of ours: a signal handler may call it in the middle of anything.
        """
        if self._closed is None:
            self._closed = self.stats()
        self._finalizer()
