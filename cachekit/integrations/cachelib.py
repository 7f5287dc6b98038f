"""`CacheKitCache`: cachelib's interface over an `IntelligentCache`, for Flask-Session and others."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from copy import deepcopy
from datetime import timedelta
from math import inf
from pickle import PicklingError
from typing import Any, Final

from cachelib.base import BaseCache

from cachekit.cache.intelligent import IntelligentCache
from cachekit.errors import SerializationError
from cachekit.model.display import safe_repr
from cachekit.model.types import Tags

#: Values of these types cannot be changed, so they are not copied.
_CONSTANT: Final = frozenset({bool, bytes, complex, float, int, str, type(None)})


class CacheKitCache(BaseCache):
    """A cache for what takes one of cachelib.

    Args:
        cache: The cache that holds the values.
        default_timeout: Seconds, or a timedelta, that a value lives (default 300); 0 for no expiry.
        ignore_delete_many_errors: As in cachelib. No key exists after `delete_many`, so it never raises.
        key_prefix: The beginning of all keys in the cache (default: none). `clear` removes only these.

    Raises:
        TypeError: `cache` is not an `IntelligentCache`, or `key_prefix` is not a str.

    Callers get copies of values, as from cachelib's own caches. Safe in any thread, before and after a fork.
    """

    def __init__(
        self,
        cache: IntelligentCache,
        default_timeout: int | timedelta = 300,
        ignore_delete_many_errors: bool = True,
        key_prefix: str = "",
    ) -> None:
        if not isinstance(cache, IntelligentCache):
            raise TypeError(f"cache must be an IntelligentCache, not {safe_repr(cache)}")
        if not isinstance(key_prefix, str):
            raise TypeError(f"key_prefix must be a str, not {safe_repr(key_prefix)}")
        super().__init__(default_timeout, ignore_delete_many_errors)
        self.cache = cache  #: the cache, for what cachelib's interface does not have
        self.key_prefix = key_prefix

    def _ttl(self, timeout: int | timedelta | None) -> float:
        return self._normalize_timeout(timeout) or inf

    def get(self, key: str) -> Any:
        """Return a copy of the value of the key; None if there is none."""
        return _copied(self.cache.get(self.key_prefix + key))

    def get_many(self, *keys: str) -> list[Any]:
        """Return copies of the values of the keys, None for those without one."""
        names = [self.key_prefix + key for key in keys]
        found = self.cache.get_many(names)
        return [_copied(found.get(name)) for name in names]

    def set(
        self, key: str, value: Any, timeout: int | timedelta | None = None, *, tags: Tags | None = None
    ) -> bool:
        """Store a copy of a value; return whether every tier has it.

        Raises:
            PicklingError: a tier cannot store the value.
        """
        return _stored(self.cache.set, self.key_prefix + key, _copied(value), self._ttl(timeout), tags=tags)

    def add(
        self, key: str, value: Any, timeout: int | timedelta | None = None, *, tags: Tags | None = None
    ) -> bool:
        """Store a copy of a value if the key has none; return whether it was stored. One of several wins.

        Raises:
            PicklingError: a tier cannot store the value.
        """
        return _stored(self.cache.add, self.key_prefix + key, _copied(value), self._ttl(timeout), tags=tags)

    def set_many(
        self,
        mapping: Mapping[str, Any],
        timeout: int | timedelta | None = None,
        *,
        tags: Tags | None = None,
    ) -> list[str]:
        """Store copies of the values; return the keys, or an empty list if a tier failed.

        Raises:
            PicklingError: a tier cannot store one of the values.
        """
        values = {self.key_prefix + key: _copied(value) for key, value in mapping.items()}
        done = _stored(self.cache.set_many, values, self._ttl(timeout), tags=tags)
        return list(mapping) if done else []

    def delete(self, key: str) -> bool:
        """Remove the key; return whether it was there."""
        return self.cache.delete(self.key_prefix + key)

    def delete_many(self, *keys: str) -> list[str]:
        """Remove the keys; return them, also those that were not there."""
        self.cache.delete_many([self.key_prefix + key for key in keys])
        return list(keys)

    unlink = delete_many

    def has(self, key: str) -> bool:
        """Return whether the key has a value; it counts no lookup."""
        return self.cache.contains(self.key_prefix + key)

    def clear(self) -> bool:
        """Remove all keys with the prefix; return whether every tier did it."""
        if not self.key_prefix:
            return self.cache.clear()
        return self.cache.invalidate_by_pattern(re.escape(self.key_prefix)) is not None

    def inc(self, key: str, delta: int = 1) -> int:
        """Add to the value of the key, 0 if there is none; return the sum. No call is lost."""
        ttl = self._ttl(None)
        total: int = self.cache.update(self.key_prefix + key, lambda value: value + delta, 0, ttl=ttl)
        return total

    def dec(self, key: str, delta: int = 1) -> int:
        """Do what `inc` does with `-delta`."""
        return self.inc(key, -delta)


def _copied(value: Any) -> Any:
    return value if type(value) in _CONSTANT else deepcopy(value)


def _stored(operation: Callable[..., bool], *args: Any, **kwargs: Any) -> bool:
    try:
        return operation(*args, **kwargs)
    except SerializationError as error:
        raise PicklingError(str(error)) from error
