"""Entries in one cache directory: what `tier.FileCache` does once its arguments are checked.

It counts, takes fences in the right order, turns entries into records of the engine, and every failure of
the disk into TierUnavailableError. A record that cannot be read is no entry, and is counted.
"""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, NoReturn, ParamSpec, TypeVar, final

from cachekit.errors import (
    CacheClosedError,
    CacheError,
    FileFormatError,
    LockTimeoutError,
    TierUnavailableError,
    UnreadableError,
)
from cachekit.model.counters import LatencyHistogram, Lookups, TierCounters
from cachekit.model.entry import CacheEntry
from cachekit.model.stats import CacheStats
from cachekit.model.types import MISSING, NO_TAGS, Missing
from cachekit.runtime.clock import Clock
from cachekit.tiers.base import FencedEntry
from cachekit.tiers.fences import ServerTokens, SharedFence, TagTokens
from cachekit.tiers.file.engine.engine import Engine
from cachekit.tiers.file.engine.format import Record
from cachekit.tiers.file.engine_handle import EngineHandle

P = ParamSpec("P")
T = TypeVar("T")

_SAMPLED: Final = 0.01  # seconds between two hits that are timed
#: The disk, the quota, or the size that a file of this process may have, is at its end; removing goes on.
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_PATIENCE: Final = 2.0  # seconds that touch tries again while others write the key
_PAUSE: Final = 1e-3
_FAILURES: Final = (OSError, TierUnavailableError, FileFormatError, CacheClosedError)


@final
class Entries:
    """The entries of an opened directory. Safe in any thread, before and after a fork.

    Args:
        attachment: to the directory.
        clock: the tier's.

    Every method but `stats` may raise TierUnavailableError, and CacheClosedError when it was closed.
    """

    __slots__ = (
        "__weakref__", "_attachment", "_clock", "_latency", "_lookups", "_sample_due", "_unavailable",
        "counter",
    )  # fmt: skip

    def __init__(self, attachment: EngineHandle, clock: Clock) -> None:
        self._attachment = attachment
        self._clock = clock
        self._lookups = Lookups()
        self._unavailable = 0
        self.counter = TierCounters()
        self._latency = LatencyHistogram()
        self._sample_due = 0.0

    # -- looking ------------------------------------------------------------------------------------

    def value(self, key: str) -> Any | Missing:
        """The value of the live entry; a lookup that counts."""
        started = time.monotonic()
        record = self._lookup(Engine.get, key)
        value = (
            MISSING if record is None else self._read(self._attachment.contents.value, key, record, MISSING)
        )
        self._count_lookup(value is not MISSING, started)
        return value

    def entry(self, key: str) -> CacheEntry | None:
        """The live entry; a lookup that counts."""
        started = time.monotonic()
        record = self._lookup(Engine.get, key)
        found = None if record is None else self._read(self._attachment.contents.entry, key, record, None)
        self._count_lookup(found is not None, started)
        return None if found is None else found[0]

    def look(self, key: str) -> FencedEntry | None:
        """The live entry with a fence that was taken before it was read; a lookup that counts."""
        started = time.monotonic()
        fence, record = self._lookup(_fenced, key)
        found = None if record is None else self._read(self._attachment.contents.entry, key, record, None)
        self._count_lookup(found is not None, started)
        if record is None or found is None:
            return None
        entry, origin = found
        if record.tags:
            # Its own tokens of them: an invalidation since its value was made is one of this entry.
            fence = _over(fence, fence.token, entry.tags, record.tags)
        return FencedEntry(entry, fence, origin)

    def peek(self, key: str) -> CacheEntry | None:
        """The live entry; no lookup."""
        record = self.do(self.engine().get, key)
        found = None if record is None else self._read(self._attachment.contents.entry, key, record, None)
        return None if found is None else found[0]

    def fence(self, key: str, names: frozenset[str]) -> SharedFence:
        """The fence over a key and tags."""
        try:
            return self._attachment.for_reading().fence(key, names)
        except _FAILURES as error:
            self._fail(error)

    def keys(self, pattern: re.Pattern[str] | None) -> Iterator[str]:
        """The keys of live entries, as they are asked for."""
        return self._keys(self.engine(), pattern)

    def _keys(self, engine: Engine, pattern: re.Pattern[str] | None) -> Iterator[str]:
        try:
            yield from engine.keys(pattern)
        except _FAILURES as error:
            self._fail(error)

    # -- writing ------------------------------------------------------------------------------------

    def put_value(self, key: str, value: Any, ttl: float, names: frozenset[str]) -> None:
        """Store a value made now, in place of whatever the key held."""
        engine = self.writer()
        packed = self._attachment.contents.pack_value(key, value, None, ttl, names)
        if packed is None:
            self.remove(key, False)
            return
        tags = engine.tag_tokens(names) if names else ()
        self.do(engine.put, key, packed.payload, expiry=packed.expiry, tags=tags)
        self.counter.sets += 1

    def put(
        self, entry: CacheEntry, origin: ServerTokens | None, expect: SharedFence | None, in_flux: bool
    ) -> SharedFence | None:
        """Store an entry in place of whatever its key held; None if the expected fence is broken."""
        key, names = entry.key, entry.tags
        engine = self.writer()
        packed = self._attachment.contents.pack(entry, origin)
        if packed is None and expect is None:
            return self.remove(key, in_flux)[1]
        fence = self.do(engine.fence, key, names) if expect is None else expect
        if expect is not None and not (engine.owns(expect) and expect.is_current()):
            self.counter.refusals += 1
            return None
        if packed is None:
            return self._remove_behind(fence, in_flux)
        tags = _tokens_of(engine, fence, names)
        token = self.do(
            engine.put,
            key,
            packed.payload,
            expiry=packed.expiry,
            rt=packed.rt,
            tags=tags,
            expect=None if expect is None else expect.token,
            in_flux=in_flux,
        )
        if token is None:
            self.counter.refusals += 1
            return None
        self.counter.sets += 1
        return _over(fence, token, names, tags)

    def _remove_behind(self, fence: SharedFence, in_flux: bool) -> SharedFence | None:
        """`remove`, if the fence stands; None if it is broken."""
        outcome = self.do(self.writer().delete_if, fence.key, fence.token, in_flux=in_flux)
        if outcome is None:
            self.counter.refusals += 1
            return None
        removed, token = outcome
        if removed:
            self.counter.deletes += 1
        return _over(fence, token, NO_TAGS, ())

    def add(self, entry: CacheEntry, fence: SharedFence, origin: ServerTokens | None) -> CacheEntry | bool:
        """Store an entry behind its fence, unless a live one came first."""
        engine = self.writer()
        packed = self._attachment.contents.pack(entry, origin)
        if not (engine.owns(fence) and fence.is_current()):
            self.counter.refusals += 1
            return False
        if packed is None:
            return False
        payload, expiry, rt = packed
        tags = _tokens_of(engine, fence, entry.tags)
        outcome = self.do(engine.add, entry.key, payload, fence.token, expiry=expiry, rt=rt, tags=tags)
        if isinstance(outcome, Record):
            there = self._read(self._attachment.contents.entry, entry.key, outcome, None)
            if there is not None:
                return there[0]
            # Nobody can read what came first, so it shall not stand in the way for ever.
            outcome = bool(
                self.do(engine.put, entry.key, payload, expiry=expiry, rt=rt, tags=tags, expect=fence.token)
            )
        if not outcome:
            self.counter.refusals += 1
            return False
        self.counter.sets += 1
        return True

    def touch(self, key: str, life: float) -> bool:
        """Write a live entry again, with so many seconds left; True if there is one."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            engine = self.writer()
            fence = self.do(engine.fence, key)
            record = self.do(engine.get, key)
            found = None if record is None else self._read(self._attachment.contents.entry, key, record, None)
            if record is None or found is None:
                # A load may be under way all the same, and what it loads is as old as this call: so the
                # token changes, but nothing goes that somebody stored meanwhile.
                if self.do(engine.delete_if, key, fence.token) is not None:
                    return False
                self._pause(key, deadline)
                continue
            entry, origin = found
            entry.ttl = self._clock.time() - entry.created_timestamp + life
            if self.put(entry, origin, _over(fence, fence.token, entry.tags, record.tags), False):
                return True
            self._pause(key, deadline)

    def _pause(self, key: str, deadline: float) -> None:
        if time.monotonic() >= deadline:
            self.counter.errors += 1
            raise LockTimeoutError(
                f"{key!r} in {self._attachment.path} was written by others for {_PATIENCE} s"
            )
        time.sleep(_PAUSE)

    def remove(self, key: str, in_flux: bool) -> tuple[bool, SharedFence]:
        """Remove a key; whether it was there, and the fence that holds from this write on."""
        engine = self.writer()
        fence = self.do(engine.fence, key)
        removed, token = self.do(engine.delete, key, in_flux=in_flux)
        if removed:
            self.counter.deletes += 1
        return removed, _over(fence, token, NO_TAGS, ())

    # -- figures and life ---------------------------------------------------------------------------

    def stats(self) -> CacheStats:
        """What has been counted; see `FileCache.get_stats`."""
        lookups, counter, unavailable = self._lookups, self.counter, self._unavailable
        engine = self._attachment.stats()
        return CacheStats(
            hits=lookups.hits,
            misses=lookups.misses,
            unavailable=unavailable,
            size=engine.entries,
            memory_usage_bytes=engine.bytes,
            sets=counter.sets,
            deletes=counter.deletes,
            invalidations=counter.invalidations,
            evictions=engine.evictions,
            expirations=engine.expirations,
            refusals=counter.refusals,
            errors=counter.errors + engine.damaged,
            latency_p50=self._latency.quantile(0.5),
            latency_p99=self._latency.quantile(0.99),
            requests=lookups.hits + lookups.misses + unavailable,
            request_hits=lookups.hits,
        )

    def engine(self) -> Engine:
        """The engine, to look at something; its failures are for `do`."""
        return self.do(self._attachment.for_reading)

    def writer(self) -> Engine:
        """The engine, to change something."""
        return self.do(self._attachment.for_writing)

    def do(self, operation: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call something of the engine; a failure is counted, and becomes TierUnavailableError."""
        try:
            return operation(*args, **kwargs)
        except _FAILURES as error:
            self._fail(error)

    def tend(self) -> None:
        """Remove what is over, and let go of files that others removed."""
        try:
            self.do(self.writer().remove_expired)
            self.do(self.writer().tick)
        except CacheError:
            pass  # it was counted, and lookups meet it too; the next round tries again

    # -- inside -------------------------------------------------------------------------------------

    def _lookup(self, operation: Callable[[Engine, str], T], key: str) -> T:
        try:
            return operation(self._attachment.for_reading(), key)
        except _FAILURES as error:
            if not self._attachment.is_closed():
                self._unavailable += 1
            self._fail(error)

    def _fail(self, error: OSError | CacheError) -> NoReturn:
        path = self._attachment.path
        if isinstance(error, CacheClosedError):
            if self._attachment.is_closed():
                raise error
            error = TierUnavailableError(f"the cache directory {path} was replaced at this moment")
        self.counter.errors += 1
        if isinstance(error, FileFormatError):  # of what came in the place of the directory
            raise TierUnavailableError(str(error)) from error
        if isinstance(error, OSError):
            if isinstance(error, FileNotFoundError):
                self._attachment.check_replaced()
            raise TierUnavailableError(
                f"the cache directory {path} failed: {error.strerror or error}",
                full=error.errno in _NO_ROOM,
            ) from error
        raise error

    def _read(self, reader: Callable[[str, Record], T], key: str, record: Record, otherwise: T) -> T:
        try:
            return reader(key, record)
        except UnreadableError:
            self.counter.errors += 1
            return otherwise

    def _count_lookup(self, hit: bool, started: float) -> None:
        if not hit:
            self._lookups.misses += 1
            return
        self._lookups.hits += 1
        if started > self._sample_due:
            self._sample_due = started + _SAMPLED
            self._latency.record(time.monotonic() - started)


def _fenced(engine: Engine, key: str) -> tuple[SharedFence, Record | None]:
    # The fence first: what changes from here on breaks it.
    return engine.fence(key), engine.get(key)


def _over(fence: SharedFence, token: int, names: frozenset[str], tags: TagTokens) -> SharedFence:
    """The fence with another token, and over tags whose tokens were read no earlier than its epoch."""
    return SharedFence(fence.tokens, fence.key, fence.bucket, token, fence.epoch, names, tags)


def _tokens_of(engine: Engine, fence: SharedFence, names: frozenset[str]) -> TagTokens:
    """What the fence knows of these of its tags."""
    if names == fence.names:
        return fence.tags
    known = dict(fence.tags)
    return tuple([(bucket, known[bucket]) for bucket, _ in engine.tag_tokens(names)])
