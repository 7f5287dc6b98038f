"""The tiers of a cache from what its constructor is given: checked, and made where nothing is given."""

from __future__ import annotations

from cachekit.errors import TierUnavailableError
from cachekit.model.types import MISSING, Missing
from cachekit.runtime.clock import SystemClock
from cachekit.tiers.base import FleetTier, HostTier
from cachekit.tiers.memory import MemoryCache


def tiers_of(
    memory: MemoryCache | Missing | None,
    fleet: FleetTier | None,
    host: HostTier | Missing | None,
) -> tuple[MemoryCache | None, FleetTier | None, HostTier | None]:
    """The three tiers of a cache; None for one that it shall not have, MISSING for a default one.

    Raises:
        TypeError: one of them is no such tier.
        ValueError: all of them are None.
        TierUnavailableError: the only one that there would be cannot be opened.
    """
    _check_tier("memory_cache", memory, MemoryCache, "a MemoryCache")
    _check_tier("redis_cache", fleet, FleetTier, "a RedisCache")
    _check_tier("file_cache", host, HostTier, "a FileCache")
    if memory is None and fleet is None and host is None:
        raise ValueError(
            "memory_cache=None leaves a cache without any tier; leave it out to have a default one"
        )
    memory = MemoryCache() if memory is MISSING else memory
    if host is not MISSING:
        return memory, fleet, host
    from cachekit import environment

    made = environment.file_cache(SystemClock() if memory is None else memory._clock)
    if memory is None and fleet is None and made is None:
        raise TierUnavailableError(
            "the file tier of this program cannot be opened (see the log), and memory_cache=None and "
            "redis_cache=None leave no other"
        )
    return memory, fleet, made


def _check_tier(argument: str, tier: object, kind: type, what: str) -> None:
    if hasattr(type(tier), "__aenter__"):
        raise TypeError(
            f"{argument} must be {what} or None, and this one is awaited: {tier!r}; pass its "
            f"`.sync`, or make the cache with cachekit.aio.IntelligentCache"
        )
    if tier is not None and tier is not MISSING and not isinstance(tier, kind):
        raise TypeError(f"{argument} must be {what} or None, not {tier!r} of type {type(tier).__name__}")
