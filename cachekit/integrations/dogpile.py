"""`CacheKitBackend`: the backend "cachekit" of dogpile.cache, whose mutex lets one process create a value."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any, final
from weakref import WeakValueDictionary

from dogpile.cache.api import NO_VALUE, CacheBackend, CachedValue, CacheMutex

from cachekit.cache.default import core_of
from cachekit.cache.fill import Fill
from cachekit.cache.intelligent import IntelligentCache
from cachekit.loading.options import LoadOptions
from cachekit.loading.permits import LoadPermit, PermitPool
from cachekit.model.display import safe_repr
from cachekit.model.types import FOREVER, MISSING, TTL, Missing, Tags
from cachekit.model.validation import checked_tags, seconds
from cachekit.runtime import fork
from cachekit.runtime.backoff import wait_for
from cachekit.runtime.reentrant_lock import RLock


class CacheKitBackend(CacheBackend):
    """A backend: `make_region().configure("cachekit", arguments={"cache": cache})`.

    Args:
        arguments: `cache`, the IntelligentCache. `ttl`, the life of a value in the cache (default: no
            expiry, because the region knows when a value is old). `tags` of every value (default: none).
            `key_prefix`, the beginning of all keys in the cache (default: none). `lease_timeout`, the seconds
            that a creator waits for the one of another process (default: that of `LoadOptions`). Others are
            ignored, as by dogpile's backends.

    Raises:
        TypeError, ValueError: a wrong argument.

    What a creator made is stored unless its key, or a tag, was written or invalidated since it began.
    Safe in any thread, before and after a fork.
    """

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        cache = arguments.get("cache")
        if not isinstance(cache, IntelligentCache):
            raise TypeError(f"arguments must have a cache, an IntelligentCache, not {safe_repr(cache)}")
        ttl: TTL = arguments.get("ttl")
        tags: Tags | None = arguments.get("tags")
        timeout = arguments.get("lease_timeout")
        self.cache = cache  #: the cache, for what a region does not have
        self._ttl = FOREVER if ttl is None else seconds(ttl)
        self._tags = checked_tags(tags)
        self._prefix: str = arguments.get("key_prefix", "")
        self._permits = core_of(cache).loads.path.permits
        scope = self._permits.widest()
        options: dict[str, Any] = {} if timeout is None else {"lease_timeout": timeout}
        self._lease = LoadOptions(lease=scope, **options)
        self._mutexes: WeakValueDictionary[str, Mutex] = WeakValueDictionary()
        self._lock = RLock()
        fork.register(self)

    # -- creators -----------------------------------------------------------------------------------

    def get_mutex(self, key: str) -> Mutex:
        """Return the mutex of a key, the same one for all callers."""
        with self._lock:
            mutex = self._mutexes.get(key)
            if mutex is None:
                mutex = self._mutexes.setdefault(
                    key, Mutex(self.cache, self._prefix + key, self._tags, self._permits, self._lease)
                )
            return mutex

    def _fill(self, key: str) -> Fill[Any] | None:
        mutex = self._mutexes.get(key)
        return None if mutex is None else mutex.fill()

    # -- values -------------------------------------------------------------------------------------

    def get(self, key: str) -> Any:
        """Return what was stored under the key, or NO_VALUE."""
        return _found(self.cache.get(self._prefix + key, MISSING))

    def get_multi(self, keys: Iterable[str]) -> list[Any]:
        """Return what was stored under each key, or NO_VALUE."""
        names = [self._prefix + key for key in keys]
        found = self.cache.get_many(names)
        return [_found(found.get(name, MISSING)) for name in names]

    def set(self, key: str, value: CachedValue | bytes) -> None:
        """Store a value; one that this thread has created, only if nothing came in between."""
        fill = self._fill(key)
        if fill is None:
            self.cache.set(self._prefix + key, _stored(value), self._ttl, tags=self._tags)
        else:
            fill.store(_stored(value), self._ttl)

    def set_multi(self, mapping: Mapping[str, CachedValue | bytes]) -> None:
        """Do what `set` does for each value."""
        others = {}
        for key, value in mapping.items():
            if self._fill(key) is None:
                others[self._prefix + key] = _stored(value)
            else:
                self.set(key, value)
        if others:
            self.cache.set_many(others, self._ttl, tags=self._tags)

    def delete(self, key: str) -> None:
        """Remove the key."""
        self.cache.delete(self._prefix + key)

    def delete_multi(self, keys: Iterable[str]) -> None:
        """Remove the keys."""
        self.cache.delete_many([self._prefix + key for key in keys])

    # -- forks --------------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Take the lock of the table."""
        self._lock.acquire()

    def after_fork(self, in_child: bool) -> None:
        """Release it. In the child, drop the mutexes, which threads may hold that are not there."""
        if in_child:
            self._lock = RLock()
            self._mutexes = WeakValueDictionary()
        else:
            self._lock.release()


@final
class Mutex(CacheMutex):
    """A lock of this process, and a lease among the processes or hosts that share the cache.

    A process that ends gives its lease back. One that hangs is waited for until `lease_timeout`.
    """

    def __init__(
        self,
        cache: IntelligentCache,
        key: str,
        tags: frozenset[str],
        permits: PermitPool,
        options: LoadOptions,
    ) -> None:
        self._cache = cache
        self._key = key
        self._tags = tags
        self._permits = permits
        self._options = options
        self._lock = threading.Lock()
        self._permit: LoadPermit | None = None
        self._fill: Fill[Any] | None = None
        self._owner = 0

    def acquire(self, wait: bool = True) -> bool:
        """Acquire it; return whether that was possible, always true if the caller waits."""
        if not self._lock.acquire(wait):
            return False
        permit = self._permits.permit(self._key, self._options, _nothing, _nothing)
        done = False
        try:
            deadline = time.monotonic() + (self._options.lease_timeout if wait else 0.0)
            # At the deadline the creator runs without a lease: the process that has it may hang.
            done = wait_for(permit.try_acquire, deadline) is not None or wait
            if done:
                self._permit = permit
                self._owner = threading.get_ident()
                self._fill = self._cache.begin(self._key, tags=self._tags)
        finally:
            if not done or self._fill is None:
                permit.release()
                self._lock.release()
        return done

    def release(self) -> None:
        """Release it, in any thread."""
        permit, self._permit, self._fill = self._permit, None, None
        if permit is not None:
            permit.release()
        self._lock.release()

    def locked(self) -> bool:
        """Return whether a thread of this process has it."""
        return self._lock.locked()

    def fill(self) -> Fill[Any] | None:
        """Return what stores the value that this thread creates; None if it does not hold the mutex."""
        return self._fill if self._owner == threading.get_ident() else None


def _nothing() -> Missing:
    return MISSING


def _stored(value: CachedValue | bytes) -> tuple[Any, dict[str, Any]] | bytes:
    # A plain tuple: tiers that check classes need not know one of dogpile.
    return value if isinstance(value, bytes) else (value.payload, dict(value.metadata))


def _found(stored: Any) -> Any:
    if isinstance(stored, bytes):
        return stored
    if type(stored) is tuple and len(stored) == 2:
        return CachedValue(*stored)
    return NO_VALUE
