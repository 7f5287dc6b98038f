"""LoadRequest: how a value is loaded and stored. LoadDefaults: what a cache adds to a caller's arguments."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple, final

from cachekit.loading.options import OFF, LeaseScope, LoadOptions, checked_options
from cachekit.loading.permits import PermitPool
from cachekit.model.types import TTL, CacheLevel, Tags
from cachekit.model.validation import (
    checked_def,
    checked_jitter,
    checked_tags,
    refuse_misfits,
    seconds,
    stale_seconds,
)

#: From a loaded value to its TTL in seconds; with None it is not stored.
Life = Callable[[Any], float | None]


class LoadRequest(NamedTuple):
    """How a value is loaded and stored."""

    ttl: float | Life
    tags: frozenset[str]
    level: CacheLevel = CacheLevel.ALL
    stale_ttl: float = 0.0  #: seconds after its TTL in which a value may be served as a stale one
    options: LoadOptions = OFF
    jitter: float = 0.0  #: the share of the TTL that is taken away at random, at most
    replaces: bool = False  #: the load is made even if a tier has the key
    waits: bool = True  #: for a permit; otherwise the load is given up if another process has the lease
    is_asked: bool = True  #: the lookups of the load count as a caller's
    many: bool = False  #: the loader takes a list of keys, and returns a mapping

    def of_many(self) -> LoadRequest:
        """Return the request for one call of a loader of many keys, which would need a lease for each."""
        return self._replace(many=True, options=self.options.shared_by("thread"))

    def of_reload(self) -> LoadRequest:
        """Return the request for a load that replaces the value, which other processes do not share."""
        return self._replace(replaces=True, options=self.options.shared_by("thread"))

    def of_refresh(self) -> LoadRequest:
        """Return the request for a load that replaces a value ahead of time, and waits for no permit."""
        return self._replace(replaces=True, waits=False)

    def of_warming(self, lease: LeaseScope) -> LoadRequest:
        """Return the request for a load ahead of time, with a lease of this scope."""
        return self._replace(options=self.options.shared_by(lease))

    def unasked(self, waits: bool) -> LoadRequest:
        """Return the request for a load for which no caller waits, so its lookups are not counted."""
        return self._replace(is_asked=False, waits=waits)

    def life(self, value: Any, random_fraction: Callable[[], float]) -> float | None:
        """Return the TTL of a loaded value in seconds, less jitter; None if it is not to be stored."""
        ttl = self.ttl(value) if callable(self.ttl) else self.ttl
        return ttl * (1 - self.jitter * random_fraction()) if ttl is not None and self.jitter else ttl

    def timeouts(self, leading: bool, begun: float) -> list[tuple[float | None, bool]]:
        """Return how many seconds to wait, one timeout after the other, and for each whether it is the last.

        Args:
            leading: whether the load is the caller's own.
            begun: when the caller began, on the monotonic clock of the system.
        """
        options, waited = self.options, time.monotonic() - begun
        soft, hard = options.soft_timeout, options.hard_timeout
        limits: list[tuple[float | None, bool]] = []
        if leading and soft is not None and self.stale_ttl:
            limits.append((max(0.0, soft - waited), False))
            waited = max(waited, soft)
        limits.append((None if hard is None else max(0.0, hard - waited), True))
        return limits


@final
class LoadDefaults:
    """What one cache adds to the arguments of a load. Safe in any thread.

    Args:
        permits: of the cache.
        default_ttl: seconds, for callers that give no TTL.
        load: how to load, for callers that do not say.
        has_memory: whether the cache has a memory tier, which holds stale values.
        keeps_warm: whether the cache may keep keys warm.

    All methods refuse a bad argument before anything is loaded.

    Raises:
        TypeError, ValueError: `load` is no LoadOptions, or needs a tier that the cache does not have.
    """

    __slots__ = ("_default_ttl", "_has_memory", "_keeps_warm", "_permits", "load")

    def __init__(
        self, permits: PermitPool, default_ttl: float, load: LoadOptions, has_memory: bool, keeps_warm: bool
    ) -> None:
        self._permits = permits
        self._default_ttl = default_ttl
        self._has_memory = has_memory
        self._keeps_warm = keeps_warm
        self.load = self.options(load)

    def options(self, load: LoadOptions | None) -> LoadOptions:
        """Return how to load; None is the cache's own.

        Raises:
            TypeError, ValueError: as the constructor.
        """
        if load is None:
            return self.load
        self._permits.check(checked_options(load))
        if load.acts_on_hits and not self._has_memory:
            raise ValueError(
                f"{'refresh_ahead' if load.refresh_ahead else 'verify'} needs a memory tier, at whose copies "
                f"it looks, and this cache has none"
            )
        return load

    def life(
        self, ttl: TTL | Callable[[Any], TTL], store_if: Callable[[Any], bool] | None = None
    ) -> float | Life:
        """Return the life of a loaded value, or the function that says it, and whether it is stored.

        Raises:
            TypeError: `store_if` is not a function that can be called, or `ttl` is of the wrong type.
            ValueError: the TTL is NaN.
        """
        default = self._default_ttl
        if store_if is None and not callable(ttl):
            return default if ttl is None else seconds(ttl)
        if store_if is not None:
            checked_def("store_if", "of a value, such as lambda value: value is not None", store_if)
        if callable(ttl):
            checked_def("ttl", "of a value", ttl)
        elif ttl is not None:
            ttl = seconds(ttl)

        def life(value: Any) -> float | None:
            try:
                if store_if is not None and not store_if(value):
                    return None
                chosen = ttl(value) if callable(ttl) else ttl
            except TypeError:
                refuse_misfits(value, store_if=store_if, ttl=ttl)
                raise
            return default if chosen is None else seconds(chosen, "the result of the ttl function")

        return life

    def stale(self, stale_ttl: TTL) -> float:
        """Return for how many seconds a value may be served as a stale one.

        Raises:
            TypeError: `stale_ttl` is neither a number nor a timedelta.
            ValueError: `stale_ttl` is NaN or negative, or there is no memory tier.
        """
        stale = stale_seconds(stale_ttl)
        if stale and not self._has_memory:
            raise ValueError(
                "stale_ttl needs a memory tier, where stale values are kept, and this cache has none"
            )
        return stale

    def request(
        self,
        ttl: TTL | Callable[[Any], TTL],
        tags: Tags | None,
        stale_ttl: TTL = None,
        jitter: float = 0.0,
        load: LoadOptions | None = None,
        store_if: Callable[[Any], bool] | None = None,
    ) -> LoadRequest:
        """Return the request for a load with these arguments.

        Raises:
            TypeError: an argument of the wrong type.
            ValueError: a number out of range, or a `load` that needs a tier that the cache does not have.
        """
        return LoadRequest(
            self.life(ttl, store_if),
            checked_tags(tags),
            stale_ttl=self.stale(stale_ttl),
            options=self.options(load),
            jitter=checked_jitter(jitter),
        )

    def warming_request(
        self, ttl: TTL, tags: Tags | None, load: LoadOptions | None, keep_warm: bool
    ) -> LoadRequest:
        """Return the request for loads ahead of time, by default with the widest lease that the tiers lend.

        Raises:
            TypeError, ValueError: as `request`; or the keys cannot be kept warm.
        """
        request = self.request(ttl, tags, load=load)
        if keep_warm and not self._keeps_warm:
            raise ValueError(
                "keep_warm=True, but the cache was made with enable_cache_warming=False; leave one out"
            )
        if keep_warm and ttl is not None and seconds(ttl) <= 0:
            raise ValueError(f"keep_warm=True needs a ttl of more than 0, not {ttl!r}, which keeps nothing")
        if load is not None or request.options.lease != "thread":
            return request
        return request.of_warming(self._permits.widest())
