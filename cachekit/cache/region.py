"""Region: a typed view of the keys of a cache that begin with one prefix.

It holds nothing itself: two regions of one prefix are one, and `cache.get(prefix + key)` sees what
`region.set(key, ...)` stored.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Generic, TypeVar, final, get_origin, overload

from cachekit.cache.intelligent import IntelligentCache
from cachekit.loading.options import LoadOptions
from cachekit.model.types import MISSING, TTL, Tags
from cachekit.model.validation import checked_key, checked_tags, seconds

V = TypeVar("V")
D = TypeVar("D")


@final
class Region(Generic[V]):
    """The keys of `cache` that begin with `prefix`, holding values of one type; keys are without it.

    Safe in any thread. Made by `IntelligentCache.region`, which says what the arguments are.
    """

    __slots__ = ("_cache", "_kind", "_prefix", "_tags", "_ttl")

    def __init__(
        self,
        cache: IntelligentCache,
        prefix: str,
        kind: type[V],
        *,
        ttl: TTL,
        tags: Tags | None,
    ) -> None:
        self._cache = cache
        self._prefix = checked_key(prefix, "prefix")
        self._kind = get_origin(kind) or kind
        if not isinstance(self._kind, type) or self._kind.__module__ in {"types", "typing"}:
            raise TypeError(f"type must be a class, such as User or list[str], not {kind!r}")
        try:
            isinstance(None, self._kind)
        except TypeError as error:
            raise TypeError(
                f"type must be a class that values can be told by, not {kind!r}: {error}"
            ) from None
        self._ttl = None if ttl is None else seconds(ttl)
        self._tags = checked_tags(tags)

    @property
    def prefix(self) -> str:
        """What every key of the region begins with."""
        return self._prefix

    @overload
    def get(self, key: str) -> V | None: ...
    @overload
    def get(self, key: str, default: D) -> V | D: ...
    def get(self, key: str, default: Any = None) -> Any:
        """The value of the key, or `default`.

        Raises:
            TypeError: the key is not a str, or another way into the cache stored something there that
                is not of the region's type.
        """
        value = self._cache.get(self._full(key), MISSING)
        return default if value is MISSING else self._checked(value, key)

    def set(self, key: str, value: V, ttl: TTL = None, tags: Tags | None = None) -> bool:
        """`IntelligentCache.set`, with the region's TTL and tags.

        Raises:
            TypeError: the value is not of the region's type.
        """
        self._checked(value, key)
        return self._cache.set(
            self._full(key), value, self._ttl if ttl is None else ttl, tags=self._all_tags(tags)
        )

    def get_or_set(
        self,
        key: str,
        loader: Callable[[], V],
        *,
        ttl: TTL = None,
        tags: Tags | None = None,
        stale_ttl: TTL = None,
        jitter: float = 0.0,
        load: LoadOptions | None = None,
    ) -> V:
        """`IntelligentCache.get_or_set`, with the region's TTL and tags.

        Raises:
            TypeError: what was found or loaded is not of the region's type; it is not stored.
        """
        if not callable(loader):
            raise TypeError(
                f"loader must be a function without arguments, such as lambda: load(1), not {loader!r}"
            )
        value = self._cache.get_or_set(
            self._full(key),
            lambda: self._checked(loader(), key),
            ttl=self._ttl if ttl is None else ttl,
            tags=self._all_tags(tags),
            stale_ttl=stale_ttl,
            jitter=jitter,
            load=load,
        )
        return self._checked(value, key)

    def delete(self, key: str) -> bool:
        """Remove the key; True if it was there."""
        return self._cache.delete(self._full(key))

    def contains(self, key: str) -> bool:
        """Whether there is a live entry; no lookup that counts."""
        return self._cache.contains(self._full(key))

    __contains__ = contains

    def clear(self) -> int:
        """Remove every key that begins with the prefix; how many were there."""
        return self._cache.invalidate_by_pattern(re.escape(self._prefix))

    def _full(self, key: str) -> str:
        return self._prefix + checked_key(key)

    def _all_tags(self, tags: Tags | None) -> frozenset[str]:
        return self._tags if tags is None else self._tags | checked_tags(tags)

    def _checked(self, value: Any, key: str) -> V:
        if not isinstance(value, self._kind):
            raise TypeError(
                f"region {self._prefix!r} holds {self._kind.__name__}, and the value of {key!r} is a "
                f"{type(value).__name__}; delete the key, or use another prefix for other types"
            )
        checked: V = value
        return checked

    def __repr__(self) -> str:
        return f"Region({self._prefix!r}, {self._kind.__name__})"
