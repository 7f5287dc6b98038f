"""`CacheKitCache`: Django's cache interface over an `IntelligentCache`."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from inspect import iscoroutinefunction
from math import inf
from typing import TYPE_CHECKING, Any, Final

from asgiref.sync import sync_to_async
from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache
from django.db import transaction
from django.db.backends.dummy.base import DatabaseWrapper as NoDatabase

from cachekit.aio.cache import IntelligentCache as AsyncCache
from cachekit.cache.intelligent import IntelligentCache
from cachekit.integrations.django.location import NOT_OPENED, cache_of
from cachekit.integrations.django.values import Values
from cachekit.loading.options import LoadOptions
from cachekit.model.types import MISSING, Tags

#: Stands for the caller's pattern, to find what `make_key` puts around it.
_MARK: Final = "\0pattern\0"


class CacheKitCache(BaseCache):
    """A cache backend over memory, a directory, a server, or an `IntelligentCache` of your own.

    Args:
        location: "memory", "memory:name", an absolute directory, an address such as "redis://host:6379/0", a
            list of a directory and an address, or "module:attribute" of a cache.
        params: The other settings of the alias: `TIMEOUT`, `KEY_PREFIX`, `VERSION`, `KEY_FUNCTION` and
            `OPTIONS` (see docs/integrations.md).

    A wrong location or option raises InvalidCacheBackendError at the first use. Django makes every backend
    when it checks the settings, and must come as far as the check that reports the error.

    Backends of one location share one cache in each process. The methods are those of Django. `set`, `add`
    and `get_or_set` also take `tags` and `stale_ttl`. A value that cannot be unpickled counts as missing.
    """

    def __init__(self, location: Any, params: Mapping[str, Any]) -> None:
        params = dict(params)
        super().__init__(params)
        options = params.get("OPTIONS", {})
        self._stale_ttl: float | None = options.get("stale_ttl")
        self._load: LoadOptions | None = options.get("load")
        self._location = location
        self._options = options
        with suppress(*NOT_OPENED):
            self._open()

    def _open(self) -> None:
        shared = cache_of(self._location, self._options)
        self._values = Values(shared.is_signed)
        #: The same cache, awaited.
        self.async_cache = AsyncCache.of(shared.cache)
        #: The cache, for what Django's interface does not have.
        self.cache: IntelligentCache = shared.cache

    if not TYPE_CHECKING:  # mypy would take every name for an attribute

        def __getattr__(self, name: str) -> Any:
            # Called only for what is missing, so a backend that is open costs nothing more.
            if name not in ("_values", "async_cache", "cache"):
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            self._open()
            return self.__dict__[name]

    # -- arguments ----------------------------------------------------------------------------------

    def get_backend_timeout(self, timeout: Any = DEFAULT_TIMEOUT) -> float:
        """Return the TTL in seconds; infinity for no expiry."""
        if timeout is DEFAULT_TIMEOUT:
            timeout = self.default_timeout
        return inf if timeout is None else float(timeout)

    def _tags(self, tags: Tags | None) -> frozenset[str] | None:
        # A site sees its own tags only, as it sees its own keys.
        return None if tags is None else frozenset(f"{self.key_prefix}:{tag}" for tag in tags)

    def _stale(self, stale_ttl: float | None) -> float | None:
        return self._stale_ttl if stale_ttl is None else stale_ttl

    def _decoded(self, key: str, stored: Any, default: Any) -> Any:
        value = MISSING if stored is MISSING else self._values.decode(key, stored)
        return default if value is MISSING else value

    def _summed(self, key: str, delta: int) -> Callable[[Any], Any]:
        def add(stored: Any) -> Any:
            value = self._decoded(key, stored, MISSING)
            if value is MISSING:
                raise ValueError(f"Key '{key}' not found")
            return self._values.encode(key, value + delta)

        return add

    def _pattern(self, pattern: str, version: int | None) -> re.Pattern[str]:
        before, mark, after = self.make_key(_MARK, version).partition(_MARK)
        if not mark:
            raise ValueError(
                "delete_pattern needs keys that contain what they are made of, and KEY_FUNCTION changes it; "
                "use tags and invalidate_tags()"
            )
        middle = fnmatch.translate(pattern)  # it ends with \Z
        return re.compile(re.escape(before) + middle.removesuffix(r"\Z") + re.escape(after) + r"\Z")

    # -- one key ------------------------------------------------------------------------------------

    def get(self, key: str, default: Any = None, version: int | None = None) -> Any:
        """Return the value of the key, or `default`."""
        key = self.make_and_validate_key(key, version)
        return self._decoded(key, self.cache.get(key, MISSING), default)

    async def aget(self, key: str, default: Any = None, version: int | None = None) -> Any:
        """Do what `get` does. A hit in memory stays on the event loop."""
        key = self.make_and_validate_key(key, version)
        return self._decoded(key, await self.async_cache.get(key, MISSING), default)

    def set(
        self,
        key: str,
        value: Any,
        timeout: Any = DEFAULT_TIMEOUT,
        version: int | None = None,
        *,
        tags: Tags | None = None,
        stale_ttl: float | None = None,
    ) -> None:
        """Store a value."""
        key = self.make_and_validate_key(key, version)
        ttl, stale = self.get_backend_timeout(timeout), self._stale(stale_ttl)
        self.cache.set(key, self._values.encode(key, value), ttl, tags=self._tags(tags), stale_ttl=stale)

    async def aset(
        self,
        key: str,
        value: Any,
        timeout: Any = DEFAULT_TIMEOUT,
        version: int | None = None,
        *,
        tags: Tags | None = None,
        stale_ttl: float | None = None,
    ) -> None:
        """Do what `set` does."""
        key = self.make_and_validate_key(key, version)
        ttl, stale = self.get_backend_timeout(timeout), self._stale(stale_ttl)
        encoded = self._values.encode(key, value)
        await self.async_cache.set(key, encoded, ttl, tags=self._tags(tags), stale_ttl=stale)

    def add(
        self,
        key: str,
        value: Any,
        timeout: Any = DEFAULT_TIMEOUT,
        version: int | None = None,
        *,
        tags: Tags | None = None,
        stale_ttl: float | None = None,
    ) -> bool:
        """Store a value if the key has none; return whether it was stored. One of several callers wins."""
        key = self.make_and_validate_key(key, version)
        encoded, ttl = self._values.encode(key, value), self.get_backend_timeout(timeout)
        if ttl <= 0:  # Django's backends store a value that is over at once, and say so
            return not self.cache.contains(key)
        return self.cache.add(key, encoded, ttl, self._tags(tags), stale_ttl=self._stale(stale_ttl))

    async def aadd(
        self,
        key: str,
        value: Any,
        timeout: Any = DEFAULT_TIMEOUT,
        version: int | None = None,
        *,
        tags: Tags | None = None,
        stale_ttl: float | None = None,
    ) -> bool:
        """Do what `add` does."""
        key = self.make_and_validate_key(key, version)
        encoded, ttl = self._values.encode(key, value), self.get_backend_timeout(timeout)
        if ttl <= 0:
            return not await self.async_cache.contains(key)
        return await self.async_cache.add(
            key, encoded, ttl, self._tags(tags), stale_ttl=self._stale(stale_ttl)
        )

    def get_or_set(
        self,
        key: str,
        default: Any,
        timeout: Any = DEFAULT_TIMEOUT,
        version: int | None = None,
        *,
        tags: Tags | None = None,
        stale_ttl: float | None = None,
        load: LoadOptions | None = None,
    ) -> Any:
        """Return the value of the key; on a miss store `default`, or the result of calling it, and return it.

        Of several callers one calls it, and the others wait. With `stale_ttl` a caller gets the stale value
        if the call fails. `load` says how to load, for all processes or hosts (see `cachekit.LoadOptions`).
        """
        name = key
        key = self.make_and_validate_key(key, version)

        def loader() -> int | bytes:
            return self._values.encode(key, default() if callable(default) else default)

        stored = self.cache.get_or_set(
            key,
            loader,
            ttl=self.get_backend_timeout(timeout),
            tags=self._tags(tags),
            stale_ttl=self._stale(stale_ttl),
            load=self._load if load is None else load,
        )
        value = self._values.decode(key, stored)
        if value is MISSING:  # of a class that is gone, or not ours: it is replaced
            value = default() if callable(default) else default
            self.set(name, value, timeout, version, tags=tags, stale_ttl=stale_ttl)
        return value

    async def aget_or_set(
        self,
        key: str,
        default: Any,
        timeout: Any = DEFAULT_TIMEOUT,
        version: int | None = None,
        *,
        tags: Tags | None = None,
        stale_ttl: float | None = None,
        load: LoadOptions | None = None,
    ) -> Any:
        """Do what `get_or_set` does. A coroutine function is awaited; another one runs by `sync_to_async`."""
        name = key
        key = self.make_and_validate_key(key, version)

        async def made() -> Any:
            if iscoroutinefunction(default):
                return await default()
            return await sync_to_async(default, thread_sensitive=True)() if callable(default) else default

        async def loader() -> int | bytes:
            return self._values.encode(key, await made())

        stored = await self.async_cache.get_or_set(
            key,
            loader,
            ttl=self.get_backend_timeout(timeout),
            tags=self._tags(tags),
            stale_ttl=self._stale(stale_ttl),
            load=self._load if load is None else load,
        )
        value = self._values.decode(key, stored)
        if value is MISSING:
            value = await made()
            await self.aset(name, value, timeout, version, tags=tags, stale_ttl=stale_ttl)
        return value

    def touch(self, key: str, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """Give the key a new timeout from now; return whether it was there."""
        key = self.make_and_validate_key(key, version)
        return self.cache.touch(key, self.get_backend_timeout(timeout))

    async def atouch(self, key: str, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """Do what `touch` does."""
        key = self.make_and_validate_key(key, version)
        return await self.async_cache.touch(key, self.get_backend_timeout(timeout))

    def delete(self, key: str, version: int | None = None) -> bool:
        """Remove the key; return whether it was there."""
        return self.cache.delete(self.make_and_validate_key(key, version))

    async def adelete(self, key: str, version: int | None = None) -> bool:
        """Do what `delete` does."""
        return await self.async_cache.delete(self.make_and_validate_key(key, version))

    def has_key(self, key: str, version: int | None = None) -> bool:
        """Return whether the key has a value."""
        return self.cache.contains(self.make_and_validate_key(key, version))

    async def ahas_key(self, key: str, version: int | None = None) -> bool:
        """Do what `has_key` does."""
        return await self.async_cache.contains(self.make_and_validate_key(key, version))

    def incr(self, key: str, delta: int = 1, version: int | None = None) -> Any:
        """Add to the value of the key, and return the sum; no call of another process is lost.

        Raises:
            ValueError: the key has no value.
        """
        key = self.make_and_validate_key(key, version)
        return self._values.decode(key, self.cache.update(key, self._summed(key, delta), MISSING))

    async def aincr(self, key: str, delta: int = 1, version: int | None = None) -> Any:
        """Do what `incr` does."""
        key = self.make_and_validate_key(key, version)
        return self._values.decode(key, await self.async_cache.update(key, self._summed(key, delta), MISSING))

    # -- many keys ----------------------------------------------------------------------------------

    def get_many(self, keys: Iterable[str], version: int | None = None) -> dict[str, Any]:
        """Return the values of the keys that have one."""
        names = {self.make_and_validate_key(key, version): key for key in keys}
        return self._found(names, self.cache.get_many(names))

    async def aget_many(self, keys: Iterable[str], version: int | None = None) -> dict[str, Any]:
        """Do what `get_many` does. Hits in memory stay on the event loop."""
        names = {self.make_and_validate_key(key, version): key for key in keys}
        return self._found(names, await self.async_cache.get_many(names))

    def _found(self, names: Mapping[str, str], stored: Mapping[str, Any]) -> dict[str, Any]:
        values = {names[key]: self._values.decode(key, value) for key, value in stored.items()}
        return {name: value for name, value in values.items() if value is not MISSING}

    def set_many(
        self,
        data: Mapping[str, Any],
        timeout: Any = DEFAULT_TIMEOUT,
        version: int | None = None,
        *,
        tags: Tags | None = None,
    ) -> list[str]:
        """Store the values; return an empty list."""
        self.cache.set_many(
            self._encoded(data, version), self.get_backend_timeout(timeout), tags=self._tags(tags)
        )
        return []

    async def aset_many(
        self,
        data: Mapping[str, Any],
        timeout: Any = DEFAULT_TIMEOUT,
        version: int | None = None,
        *,
        tags: Tags | None = None,
    ) -> list[str]:
        """Do what `set_many` does."""
        await self.async_cache.set_many(
            self._encoded(data, version), self.get_backend_timeout(timeout), tags=self._tags(tags)
        )
        return []

    def _encoded(self, data: Mapping[str, Any], version: int | None) -> dict[str, int | bytes]:
        named = {self.make_and_validate_key(key, version): value for key, value in data.items()}
        return {key: self._values.encode(key, value) for key, value in named.items()}

    def delete_many(self, keys: Iterable[str], version: int | None = None) -> None:
        """Remove the keys."""
        self.cache.delete_many([self.make_and_validate_key(key, version) for key in keys])

    async def adelete_many(self, keys: Iterable[str], version: int | None = None) -> None:
        """Do what `delete_many` does."""
        await self.async_cache.delete_many([self.make_and_validate_key(key, version) for key in keys])

    # -- invalidation -------------------------------------------------------------------------------

    def clear(self) -> bool:
        """Remove everything from the cache, also what other prefixes and versions stored."""
        return self.cache.clear()

    async def aclear(self) -> bool:
        """Do what `clear` does."""
        return await self.async_cache.clear()

    def delete_pattern(self, pattern: str, version: int | None = None) -> int | None:
        """Remove the keys that match a shell pattern such as "user:*"; return how many, if that is known."""
        return self.cache.invalidate_by_pattern(self._pattern(pattern, version))

    async def adelete_pattern(self, pattern: str, version: int | None = None) -> int | None:
        """Do what `delete_pattern` does."""
        return await self.async_cache.invalidate_by_pattern(self._pattern(pattern, version))

    def invalidate_tags(self, *tags: str, using: str | None = None) -> None:
        """Drop the values with any of the tags, when the transaction is committed; at once without one.

        Before the commit other connections still read the old rows. What they load then is refused.

        Args:
            tags: The tags.
            using: The database of the transaction (default: the default database).
        """
        names = self._tags(tags) or frozenset()
        if isinstance(transaction.get_connection(using), NoDatabase):
            self.cache.invalidate_by_tags(names)
        else:
            transaction.on_commit(lambda: self.cache.invalidate_by_tags(names), using=using)
