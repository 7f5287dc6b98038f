"""`RegionMapping`: a region as a `MutableMapping`, for code that takes a dict, such as that of cachetools."""

from __future__ import annotations

import re
from collections.abc import Iterator, MutableMapping
from typing import TypeVar, final, overload

from cachekit.cache.intelligent import IntelligentCache
from cachekit.cache.region import Region, cache_of, keys_of
from cachekit.errors import TierUnavailableError
from cachekit.model.display import safe_repr
from cachekit.model.types import MISSING

V = TypeVar("V")
D = TypeVar("D")


@final
class RegionMapping(MutableMapping[str, V]):
    """The entries of a region, as a mapping from key to value. Keys are given without the prefix.

    Args:
        region: The region of an `IntelligentCache`: `RegionMapping(cache.region("users:", User))`.

    Raises:
        TypeError: `region` is not one.

    An entry may expire, be evicted, or be written by another process at any time, also between two calls.
    `setdefault` is atomic, as `Region.add`; the other methods of two steps are not. Iteration and `len` go
    through the keys of all tiers, so they are for tools and small regions. A tier that is out is left out.
    """

    __slots__ = ("_cache", "_keys", "_region")

    def __init__(self, region: Region[V]) -> None:
        cache = cache_of(region) if isinstance(region, Region) else None
        if not isinstance(cache, IntelligentCache):
            raise TypeError(f"region must be a region of an IntelligentCache, not {safe_repr(region)}")
        self._region = region
        self._cache = cache
        self._keys = keys_of(region)

    def __getitem__(self, key: str) -> V:
        found = self._cache.get(self._keys.full(key), MISSING)
        if found is MISSING:
            raise KeyError(key)
        return self._keys.checked(found, key, stored=True)

    def __setitem__(self, key: str, value: V) -> None:
        self._region.set(key, value)

    def __delitem__(self, key: str) -> None:
        if not self._region.delete(key):
            raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._region.contains(key)

    def __iter__(self) -> Iterator[str]:
        prefix = self._keys.prefix
        names: dict[str, None] = {}
        for tier in (self._cache.memory_cache, self._cache.redis_cache, self._cache.file_cache):
            try:
                names.update(dict.fromkeys(() if tier is None else tier.keys(re.escape(prefix))))
            except TierUnavailableError:
                pass
        for name in names:
            # A tier may hold what another one knows to be over.
            if self._cache.contains(name):
                yield name[len(prefix) :]

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def setdefault(self, key: str, default: V) -> V:
        """Return the value of the key; without one, store `default` and return it."""
        name, value = self._keys.full(key), self._keys.checked(default, key)
        found = self._cache.get(name, MISSING)
        if found is MISSING and not self._region.add(key, value):
            found = self._cache.get(name, MISSING)  # another caller was first, or no tier can hold it
        return value if found is MISSING else self._keys.checked(found, key, stored=True)

    @overload
    def pop(self, key: str) -> V: ...
    @overload
    def pop(self, key: str, default: D) -> V | D: ...
    def pop(self, key: str, default: object = MISSING) -> object:
        """Remove the key and return its value; without one, return `default` or raise KeyError."""
        found = self._cache.get(self._keys.full(key), MISSING)
        if found is not MISSING and self._region.delete(key):
            return self._keys.checked(found, key, stored=True)
        if default is MISSING:
            raise KeyError(key)
        return default

    def clear(self) -> None:
        """Remove all entries of the region."""
        self._region.clear()

    def __repr__(self) -> str:
        return f"RegionMapping({self._region!r})"
