"""One cache's hold on the engine of its directory: opens it, watches the directory, and returns it.

If the directory is removed, or another one takes its place, the next write notices that, and a lookup
notices it within a tenth of a second. The directory is then opened again, and made if it is gone. Copies of
entries of the old directory are no longer trusted: every token that confirmed them is changed.
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
from cachekit.runtime.interrupts import is_interrupt
from cachekit.tiers.file.engine.directory import USERS
from cachekit.tiers.file.engine.engine import Engine, EngineStats
from cachekit.tiers.file.engine_registry import engines
from cachekit.tiers.file.folder import ForeignError
from cachekit.tiers.file.permissions import network_file_system, remedy_for
from cachekit.tiers.file.record_codec import RecordCodec

_OPENING: Final = 30.0  # seconds that the constructor waits while other processes open the directory
_REOPENING: Final = 2.0  # the same, for an operation
_FRESH: Final = 0.1  # seconds for which readers do not check again that the directory is the same
_SIZES: Final = 0.1  # seconds for which no file is looked at again whether it was cut
_CHECKED: Final = 0.005  # the same, for writes; one that finds its lock file removed checks at once


@final
class EngineHandle:
    """Safe in any thread, before and after a fork.

    Args:
        path: the directory.
        limit: Bytes that it may take.
        clock: the tier's clock.
        codecs: for a directory that other users may write to, and for one that only this user may.
        unpickles: whether unsigned pickles are read. Then it matters which users may write.
        network: whether a network file system is accepted.

    Raises:
        FileFormatError: other processes use the directory in a format or state that this one cannot join.
        TierUnavailableError: it cannot be made, read or written, or is on a network file system.
    """

    __slots__ = (
        "__weakref__", "_before", "_clock", "_closed", "_codecs", "_finalizer", "_identity", "_limit",
        "_network", "_sizes_until", "_unpickles", "checked_until", "engine", "fresh_until", "opened", "path",
    )  # fmt: skip

    engine: Engine  #: of the directory as it was when it was last checked
    #: The engine, and the codec for its directory. One value: the codec of another directory may trust
    #: bytes that other users have written into this one.
    opened: tuple[Engine, RecordCodec]
    fresh_until: float  #: by the monotonic clock, until when readers use `engine` without `for_reading`
    checked_until: float  #: the same, for writes of single keys, which use `engine` without `for_writing`

    def __init__(
        self,
        path: str,
        limit: int,
        clock: Clock,
        codecs: tuple[RecordCodec, RecordCodec],
        *,
        unpickles: bool,
        network: bool,
    ) -> None:
        self.path = path
        self._limit = limit
        self._clock = clock
        self._codecs = codecs
        self._unpickles = unpickles
        self._network = network
        self._closed: EngineStats | None = None
        self._sizes_until = 0.0
        self._before = EngineStats(0, 0, 0, 0, 0)
        self._open(_OPENING)

    def _open(self, opening: float) -> None:
        path = self.path
        kind = "" if self._network else network_file_system(path)
        if kind:
            raise TierUnavailableError(
                f"the cache directory {path} is on a network file system ({kind}), where hosts share no "
                f"memory and locks may not hold; choose a local directory with cache_dir, "
                f"or pass allow_network_fs=True if only this host uses it"
            )
        try:
            engine, reason = engines.acquire(path, self._limit, self._clock, opening)
            # At once, so that an exception of a signal handler cannot come in between and lose the engine.
            finalizer = weakref.finalize(self, engines.release, engine)
            finalizer.atexit = False
            # Another cache of this process may have had it open for long.
            engine.regrow()
        except OSError as error:
            if is_interrupt(error):
                raise
            remedy = remedy_for(error)
            if isinstance(error, ForeignError):
                remedy = "remove that, and give the directory to this user alone"
            raise TierUnavailableError(
                f"the cache directory {path} cannot be used: {error.strerror or error}; "
                f"{remedy}, or choose another with cache_dir"
            ) from error
        if reason and self._unpickles:
            logging.getLogger("cachekit").warning(
                "%s; classes are read from the cache directory %s by an allow-list only. "
                "Remove write permission for others (chmod go-w), or use a secret",
                reason,
                path,
            )
        identity = engine.identity
        now = time.monotonic()
        self.fresh_until, self.checked_until = now + _FRESH, now + _CHECKED
        self.opened = engine, self._codecs[not reason]
        self.engine = engine
        self._identity = identity
        self._finalizer = finalizer

    def for_reading(self) -> Engine:
        """Return the engine of the directory as it was at most a tenth of a second ago.

        Raises:
            FileFormatError, TierUnavailableError: it was removed or replaced, and cannot be opened again.
            CacheClosedError: after `close`.
        """
        return self.engine if time.monotonic() < self.fresh_until else self.for_writing()

    def for_writing(self) -> Engine:
        """Return the engine of the directory as it is now.

        Raises:
            FileFormatError, TierUnavailableError: it was removed or replaced, and cannot be opened again.
            CacheClosedError: after `close`.
        """
        if self._closed is not None:
            raise CacheClosedError(f"the cache on {self.path} was closed")
        if not self._is_there():
            self._reopen()
        now = time.monotonic()
        if now >= self._sizes_until:
            self._look_at_sizes(now)
        self.fresh_until, self.checked_until = now + _FRESH, now + _CHECKED
        if self._closed is not None:
            self.fresh_until = self.checked_until = 0.0  # closed by another thread since the check above
        return self.engine

    def _look_at_sizes(self, now: float) -> None:
        self._sizes_until = now + _SIZES
        self.engine.regrow()

    def _is_there(self) -> bool:
        try:
            found = os.stat(f"{self.path}/{USERS}")
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            if is_interrupt(error):
                raise
            return True  # no permission to look is no reason to give up an open directory
        return (found.st_dev, found.st_ino) == self._identity

    def _reopen(self) -> None:
        try:
            with engines.lock:
                if self._closed is not None or self._is_there():
                    return  # another thread has reopened it
                finalizer = self._exchange_engine()
            finalizer()
        finally:
            engines.close_returned()
        if self._closed is not None:  # close() came in between, and called the old finalizer
            self._finalizer()

    def _exchange_engine(self) -> Callable[[], object]:
        """Open the directory as it is now; return the finalizer of the engine before."""
        old, finalizer = self.engine, self._finalizer
        # First: copies of its entries must not be trusted, even if the directory cannot be opened again.
        old.invalidate_all_tokens()
        stats = old.stats()
        self._open(_REOPENING)
        logging.getLogger("cachekit").warning("%s was removed or replaced; it was opened again", self.path)
        self._before = EngineStats(
            0,
            0,
            self._before.evictions + stats.evictions,
            self._before.expirations + stats.expirations,
            self._before.damaged + stats.damaged,
        )
        return finalizer

    def check_replaced(self) -> None:
        """Give up the whole directory if a part of it was removed.

        Processes that keep the open parts, and processes that make them again, would hold different locks.
        Without the file that stands for the whole directory, all of them open it again.
        """
        with engines.lock:
            if self._closed is None and self._is_there() and not self.engine.is_whole():
                try:
                    self.engine.give_up()
                except OSError as error:
                    if is_interrupt(error):
                        raise
                    # Another process was faster, or the directory cannot be repaired.
                self.fresh_until = self.checked_until = 0.0  # readers must not use the old engine any longer
        engines.close_returned()

    def is_closed(self) -> bool:
        """Tell whether `close` was called."""
        return self._closed is not None

    def stats(self) -> EngineStats:
        """Return the statistics of this engine and those before it; works after `close`.

        The only I/O is a look for files that were cut, ten times a second at most: the use of a word that is
        gone is SIGBUS.
        """
        if self._closed is not None:
            return self._closed
        try:
            now = time.monotonic()
            if now >= self._sizes_until:
                self._look_at_sizes(now)
        except OSError as error:  # such as a full disk: the figures are worth no error
            if is_interrupt(error):
                raise
        current, before = self.engine.stats(), self._before
        return EngineStats(
            current.entries,
            current.bytes,
            current.evictions + before.evictions,
            current.expirations + before.expirations,
            current.damaged + before.damaged,
        )

    def close(self) -> None:
        """Return the engine; a second call does nothing.

        It waits for no lock of this class, because a signal handler may call it at any point.
        """
        if self._closed is None:
            self._closed = self.stats()
        self.fresh_until = self.checked_until = 0.0
        self._finalizer()
