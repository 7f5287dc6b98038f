"""`Region`: a typed view of the keys of a cache that begin with one prefix.

It holds no entries itself: two regions of one prefix are equal, and `cache.get(prefix + key)` sees what
`region.set(key, ...)` stored.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, final, get_origin, overload

from cachekit.cache.fill import Fill
from cachekit.decorator.source import named_as, playing
from cachekit.loading.options import LoadOptions
from cachekit.model.display import safe_repr, shown_key
from cachekit.model.types import MISSING, TTL, Tags
from cachekit.model.validation import (
    checked_def,
    checked_key,
    checked_tags,
    not_a_function,
    refuse_misfit,
    seconds,
)
from cachekit.runtime.interrupts import raise_interrupt

if TYPE_CHECKING:
    from cachekit.loading.core import CacheCore
    from cachekit.loading.options import Prefetch
    from cachekit.loading.predictor import PrefetchInfo
    from cachekit.loading.prefetching import Job, Prefetcher

T = TypeVar("T")
V = TypeVar("V")
D = TypeVar("D")


class KeyedCache(Protocol):
    """The methods of a cache that a region uses."""

    def get(self, key: str, default: Any, /) -> Any:
        """Return the value of the key, or `default`."""
        ...

    def set(self, key: str, value: Any, ttl: TTL = ..., *, tags: Tags | None = ...) -> bool:
        """Store a value."""
        ...

    def add(self, key: str, value: Any, ttl: TTL, tags: Tags | None, *, stale_ttl: TTL) -> bool:
        """Store a value if there is no live entry."""
        ...

    def update(
        self, key: str, function: Callable[[Any], V], default: Any, *, ttl: TTL, tags: Tags | None
    ) -> V:
        """Store a value in place of the one that it was made from."""
        ...

    def begin(self, key: str, *, tags: Tags | None) -> Fill[Any]:
        """Return what stores a value that is loaded from now on."""
        ...

    def get_or_set(
        self,
        key: str,
        loader: Callable[[], V],
        *,
        ttl: TTL | Callable[[Any], TTL],
        tags: Tags | None,
        store_if: Callable[[Any], bool] | None,
        stale_ttl: TTL,
        jitter: float,
        load: LoadOptions | None,
    ) -> V:
        """Return the value of the key, loaded if it is missing."""
        ...

    def delete(self, key: str) -> bool:
        """Remove the key."""
        ...

    def contains(self, key: str) -> bool:
        """Return whether there is a live entry."""
        ...

    def invalidate_by_pattern(self, pattern: str) -> int | None:
        """Remove the keys that match; return how many, None if that is not known."""
        ...


@final
class RegionKeys(Generic[V]):
    """The keys, the type, the TTL and the tags of a region, for its sync and its async view."""

    __slots__ = ("_kind", "_tags", "_ttl", "prefix")

    def __init__(self, prefix: str, kind: type[V], ttl: TTL, tags: Tags | None) -> None:
        self.prefix = checked_key(prefix, "prefix")
        self._kind = get_origin(kind) or kind
        if not isinstance(self._kind, type) or self._kind.__module__ in {"types", "typing"}:
            raise TypeError(f"type must be a class, such as User or list[str], not {safe_repr(kind)}")
        try:
            isinstance(None, self._kind)
        except TypeError as error:
            raise_interrupt(error)
            raise TypeError(
                f"type must be a class that isinstance() accepts, not {safe_repr(kind)}: {error}"
            ) from None
        self._ttl = None if ttl is None else seconds(ttl)
        self._tags = checked_tags(tags)

    def full(self, key: str) -> str:
        """Return the key with the prefix."""
        return self.prefix + checked_key(key)

    def ttl(self, ttl: T | None) -> T | float | None:
        """Return the TTL, or the region's TTL if it is None."""
        return self._ttl if ttl is None else ttl

    def tags(self, tags: Tags | None) -> AbstractSet[str]:
        """Return the tags together with those of the region."""
        return self._tags if tags is None else self._tags | checked_tags(tags)

    def checked(self, value: Any, key: str, *, stored: bool = False) -> V:
        """Return the value, which a tier has or a caller gave; raise TypeError if its type is wrong."""
        if not isinstance(value, self._kind):
            name = self._kind.__name__
            remedy = (
                "delete the key, or use another prefix"
                if stored
                else "pass a value of that type, or use a region"
            )
            raise TypeError(
                f"the value of {shown_key(self.full(key))} in region {self.prefix!r} must be of type "
                f"{name}, not {type(value).__name__}; {remedy} for other types"
            )
        checked: V = value
        return checked

    def __repr__(self) -> str:
        return f"Region({self.prefix!r}, {self._kind.__name__})"


@final
class Region(Generic[V]):
    """The keys of `cache` that begin with `prefix`, for values of one type. Keys are given without prefix.

    Safe in any thread. Create it with `IntelligentCache.region`, which documents the arguments.
    """

    __slots__ = ("_acts_on_hits", "_cache", "_keys", "_loader", "_prefetcher")

    def __init__(
        self,
        cache: KeyedCache,
        prefix: str,
        kind: type[V],
        *,
        ttl: TTL,
        tags: Tags | None,
        loader: Callable[[str], V] | None,
        core: CacheCore,
        prefetch: Prefetch | None,
    ) -> None:
        self._cache = cache
        self._keys = RegionKeys(prefix, kind, ttl, tags)
        self._loader = loader
        self._acts_on_hits = core.defaults.load.acts_on_hits
        self._prefetcher: Prefetcher | None = None
        if loader is not None and prefetch is not None:
            keys = self._keys
            self._prefetcher = prefetcher_of(
                keys, core, prefetch, lambda key: keys.checked(loader(key), key), is_async=False
            )

    @property
    def prefix(self) -> str:
        """Return the prefix of every key of the region."""
        return self._keys.prefix

    @overload
    def get(self, key: str) -> V | None: ...
    @overload
    def get(self, key: str, default: D) -> V | D: ...
    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of the key, or `default`.

        Raises:
            TypeError: the key is not a str, or the cache has a value of another type under it.
        """
        value = self._cache.get(self._keys.full(key), MISSING)
        return default if value is MISSING else self._keys.checked(value, key, stored=True)

    def set(self, key: str, value: V, ttl: TTL = None, tags: Tags | None = None) -> bool:
        """Store a value as `IntelligentCache.set` does, with the region's TTL and tags.

        Raises:
            TypeError: the value is not of the region's type.
        """
        self._keys.checked(value, key)
        return self._cache.set(self._keys.full(key), value, self._keys.ttl(ttl), tags=self._keys.tags(tags))

    def add(
        self, key: str, value: V, ttl: TTL = None, tags: Tags | None = None, *, stale_ttl: TTL = None
    ) -> bool:
        """Store a value if there is no live entry, as `IntelligentCache.add`, with the region's TTL and tags.

        Raises:
            TypeError: the value is not of the region's type.
        """
        keys = self._keys
        keys.checked(value, key)
        return self._cache.add(keys.full(key), value, keys.ttl(ttl), keys.tags(tags), stale_ttl=stale_ttl)

    @overload
    def update(
        self, key: str, function: Callable[[V | None], V], *, ttl: TTL = ..., tags: Tags | None = ...
    ) -> V: ...
    @overload
    def update(
        self,
        key: str,
        function: Callable[[V | D], V],
        default: D,
        *,
        ttl: TTL = ...,
        tags: Tags | None = ...,
    ) -> V: ...
    def update(
        self,
        key: str,
        function: Callable[[Any], V],
        default: Any = None,
        *,
        ttl: TTL = None,
        tags: Tags | None = None,
    ) -> V:
        """Store `function(value)` in place of the value, as `IntelligentCache.update` does.

        A new entry gets the region's TTL, and any entry the region's tags.

        Raises:
            TypeError: the value found, or the new one, is not of the region's type. Nothing is changed.
        """
        keys = self._keys
        checked_def("function", "of a value, such as lambda n: n + 1", function)

        def checked(value: Any) -> V:
            if value is not default:
                keys.checked(value, key, stored=True)
            return keys.checked(function(value), key)

        return self._cache.update(keys.full(key), checked, default, ttl=keys.ttl(ttl), tags=keys.tags(tags))

    def begin(self, key: str, *, tags: Tags | None = None) -> Fill[V]:
        """Return what stores a value that is loaded from now on, as `IntelligentCache.begin`.

        Its `store` has the region's TTL, and raises TypeError for a value that is not of the region's type.
        """
        keys = self._keys
        fill = self._cache.begin(keys.full(key), tags=keys.tags(tags))

        def store(value: Any, ttl: TTL, stale_ttl: TTL) -> bool:
            return fill.store(keys.checked(value, key), keys.ttl(ttl), stale_ttl=stale_ttl)

        return Fill(fill.key, store)

    def get_or_set(
        self,
        key: str,
        loader: Callable[[], V] | None = None,
        *,
        ttl: TTL | Callable[[Any], TTL] = None,
        tags: Tags | None = None,
        store_if: Callable[[Any], bool] | None = None,
        stale_ttl: TTL = None,
        jitter: float = 0.0,
        load: LoadOptions | None = None,
    ) -> V:
        """Return the value, loaded on a miss as by `IntelligentCache.get_or_set`, with the region's defaults.

        Without a `loader` the region's own loads the key.

        Raises:
            TypeError: the value found or loaded is not of the region's type; it is not stored. Or there is no
                loader.
        """
        named: Callable[..., V] | None = loader
        if loader is None:
            named = loader_of(self)
            loader = partial(named, key)
            if self._prefetcher is not None and playing.player is None:
                self._prefetcher.missed_unless_held(self._keys.full(key))
        if not callable(loader) or named is None:
            raise not_a_function("loader", "without arguments, such as lambda: load(1)", loader)
        checked: Callable[[], V] = lambda: self._keys.checked(loader(), key)  # noqa: E731
        if self._acts_on_hits or load is not None or playing.player is not None:
            checked = named_as(named, checked)  # for verifications and cassettes
        try:
            value = self._cache.get_or_set(
                self._keys.full(key),
                checked,
                ttl=self._keys.ttl(ttl),
                tags=self._keys.tags(tags),
                store_if=store_if,
                stale_ttl=stale_ttl,
                jitter=jitter,
                load=load,
            )
        except TypeError:
            refuse_loader(named, key, of_region=named is not loader)
            raise
        return self._keys.checked(value, key, stored=True)

    def delete(self, key: str) -> bool:
        """Remove the key; return whether it was there."""
        return self._cache.delete(self._keys.full(key))

    def contains(self, key: str) -> bool:
        """Return whether there is a live entry; it counts no lookup."""
        return self._cache.contains(self._keys.full(key))

    __contains__ = contains

    def clear(self) -> int | None:
        """Remove every key that begins with the prefix; return how many, None if a tier failed."""
        return self._cache.invalidate_by_pattern(re.escape(self._keys.prefix))

    def prefetch_info(self) -> PrefetchInfo | None:
        """Return what prefetching has done for the region; None if it is off."""
        return None if self._prefetcher is None else self._prefetcher.info()

    def __repr__(self) -> str:
        return repr(self._keys)


def loader_of(region: Region[V]) -> Callable[[str], V]:
    """Return the loader of a region.

    Raises:
        TypeError: it has none.
    """
    if region._loader is None:
        raise TypeError(
            f"get_or_set needs a loader, because {region!r} has none; pass one, or region(..., loader=...)"
        )
    return region._loader


def refuse_loader(loader: Callable[..., Any], key: str, *, of_region: bool) -> None:
    """Raise TypeError if a loader takes other arguments than it gets: the key, if it is the region's own."""
    if of_region:
        refuse_misfit("loader", "of a key", loader, key)
    else:
        refuse_misfit("loader", "without arguments", loader)


def prefetcher_of(
    keys: RegionKeys[V], core: CacheCore, options: Prefetch, load: Callable[[str], Any], *, is_async: bool
) -> Prefetcher:
    """Return what prefetches the keys of a region.

    Args:
        keys: of the region.
        core: of its cache, which has a memory tier.
        options: the numbers.
        load: Loads a key without the prefix, and checks the value.
        is_async: whether the result of `load` is awaited.
    """
    from cachekit.loading.prefetching import Prefetcher
    from cachekit.loading.recurrence_record import PrefixRecord

    request = core.defaults.request(keys.ttl(None), keys.tags(None))
    start = len(keys.prefix)

    def job(key: str) -> Job:
        return partial(load, key[start:]), request

    record = PrefixRecord(f"region {keys.prefix}", keys.prefix)
    return Prefetcher(core.prefetches(), options, job, core.lookups, is_async=is_async, record=record)


def keys_of(region: Region[V]) -> RegionKeys[V]:
    """Return the keys of a region, for another view of it."""
    return region._keys


def cache_of(region: Region[V]) -> KeyedCache:
    """Return the cache of a region, for another view of it."""
    return region._cache
