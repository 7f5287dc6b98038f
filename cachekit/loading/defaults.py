"""From what a caller of a load says to its terms: the cache's own where nothing is said, and chance.

It promises that an argument which cannot be is refused before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

from cachekit.loading.options import LoadOptions, checked_jitter, checked_options
from cachekit.loading.path import Loads
from cachekit.loading.request import Life, LoadRequest
from cachekit.model.types import TTL, Tags
from cachekit.model.validation import checked_tags, seconds, stale_seconds
from cachekit.runtime.backoff import random_fraction


@final
class LoadDefaults:
    """What loads of one cache are asked with. Safe in any thread.

    Args:
        loads: of the cache.
        default_ttl: seconds, where no TTL is said.
        load: how to load, where that is not said.
        has_memory: whether the cache has a memory tier, where stale values are.
        keeps_warm: whether it may keep keys warm.

    Raises:
        TypeError, ValueError: `load` is no LoadOptions, or needs a tier that the cache does not have.
    """

    __slots__ = ("_default_ttl", "_has_memory", "_keeps_warm", "_loads", "load", "random_fraction")

    def __init__(
        self, loads: Loads, default_ttl: float, load: LoadOptions, has_memory: bool, keeps_warm: bool
    ) -> None:
        self._loads = loads
        self._default_ttl = default_ttl
        self._has_memory = has_memory
        self._keeps_warm = keeps_warm
        #: From 0 to 1, for jitter; tests replace it.
        self.random_fraction: Callable[[], float] = random_fraction
        self.load = self.options(load)

    def options(self, load: LoadOptions | None) -> LoadOptions:
        """How to load; None is the cache's own.

        Raises:
            TypeError, ValueError: as the constructor.
        """
        if load is None:
            return self.load
        self._loads.turns.check(checked_options(load))
        if load.refresh_ahead and not self._has_memory:
            raise ValueError(
                "refresh_ahead needs a memory tier, at whose copies it looks, and this cache has none"
            )
        return load

    def stale(self, stale_ttl: TTL) -> float:
        """Seconds for which a value may be fallen back on.

        Raises:
            TypeError: it is neither a number nor a timedelta.
            ValueError: it is NaN or negative, or there is no memory tier.
        """
        stale = stale_seconds(stale_ttl)
        if stale and not self._has_memory:
            raise ValueError(
                "stale_ttl needs a memory tier, where stale values are kept, and this cache has none"
            )
        return stale

    def spread(self, life: Life, jitter: float) -> Life:
        """The life, less what chance takes of it."""
        if not jitter:
            return life

        def spread(value: Any) -> float | None:
            ttl = life(value)
            return None if ttl is None else ttl * (1 - jitter * self.random_fraction())

        return spread

    def request(
        self,
        ttl: TTL,
        tags: Tags | None,
        stale_ttl: TTL = None,
        jitter: float = 0.0,
        load: LoadOptions | None = None,
    ) -> LoadRequest:
        """The terms of a load.

        Raises:
            TypeError: an argument of the wrong type.
            ValueError: a number out of range, or a `load` that needs a tier that is not there.
        """
        life = self._default_ttl if ttl is None else seconds(ttl)
        spread = self.spread(lambda _: life, checked_jitter(jitter))
        return LoadRequest(
            spread, checked_tags(tags), stale_ttl=self.stale(stale_ttl), options=self.options(load)
        )

    def warming_request(
        self, ttl: TTL, tags: Tags | None, load: LoadOptions | None, keep_warm: bool
    ) -> LoadRequest:
        """The terms of a load ahead of time, which all who can share it do unless something else is said.

        Raises:
            TypeError, ValueError: as `request`; or `keep_warm` cannot be.
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
        return request._replace(options=request.options.shared_by(self._loads.turns.widest()))
