"""Where exported figures come from: caches of this process by name, or all processes of a host."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from cachekit import aio
from cachekit.cache.default import checked_cache, core_of
from cachekit.cache.intelligent import IntelligentCache
from cachekit.loading.core import CacheCore
from cachekit.model.display import safe_repr, typed_repr
from cachekit.monitoring.reading import FiguresReader, HostReader
from cachekit.monitoring.snapshot import Numbers, Totals, snapshot
from cachekit.monitoring.wanted import changing
from cachekit.tiers.base import DirectoryTier

if TYPE_CHECKING:
    from cachekit.monitoring.fleet import FleetReader
    from cachekit.tiers.redis.tier import RedisCache

AnyCache: TypeAlias = IntelligentCache | aio.IntelligentCache
Directory: TypeAlias = DirectoryTier | str | os.PathLike[str]


class Figures(NamedTuple):
    """What is exported of one cache."""

    counters: Numbers
    gauges: Numbers


Source: TypeAlias = Callable[[], Figures]


def cores(caches: Mapping[str, AnyCache]) -> dict[str, CacheCore]:
    """Return the cores of caches by name.

    Raises:
        TypeError: `caches` is not a mapping of names to caches.
    """
    if not isinstance(caches, Mapping):
        raise TypeError(
            f'caches must map names to caches, such as {{"main": cache}}, not {safe_repr(caches)}'
        )
    found = {}
    for name, cache in caches.items():
        sync: Any = cache.sync if isinstance(cache, aio.IntelligentCache) else cache
        found[checked_name(name)] = core_of(checked_cache(sync))
    return found


def checked_name(name: object) -> str:
    """Return the name of a cache in the figures; raise TypeError if it is not a str."""
    if not isinstance(name, str):
        raise TypeError(f"the name of a cache must be a str, not {typed_repr(name)}")
    return name


def of_process(caches: Mapping[str, AnyCache]) -> dict[str, Source]:
    """Return sources of caches in this process."""
    return {name: _source_of(core) for name, core in cores(caches).items()}


def _source_of(core: CacheCore) -> Source:
    totals = Totals()

    def read() -> Figures:
        one = snapshot(core)
        with changing:  # several readers
            totals.add(one.parts)
            return Figures(totals.counters.copy(), one.gauge_values())

    return read


def of_hosts(directories: Mapping[str, Directory | None]) -> dict[str, Source]:
    """Return sources of all processes that share a directory; None is the caches of this user without files.

    Raises:
        TierUnavailableError: a directory cannot be used.
    """
    sources: dict[str, Source] = {}
    for name, directory in directories.items():
        path = directory.path if isinstance(directory, DirectoryTier) else directory
        sources |= of_reader(name, HostReader(path))
    return sources


def of_reader(name: str, reader: FiguresReader) -> dict[str, Source]:
    """Return the source of all processes that a reader reads, by a name.

    Raises:
        TypeError: the name is not a str.
        TierUnavailableError: the directory cannot be used, or the server does not answer.
    """
    name = checked_name(name)
    reader.begin()

    def read() -> Figures:
        shared = reader.read()
        return Figures(shared.counters, shared.gauges)

    return {name: read}


def fleet_reader(redis_cache: RedisCache) -> FleetReader:
    """Return the reader of all processes over the server of a tier; raise TypeError for another one."""
    from cachekit.monitoring.fleet import FleetReader
    from cachekit.tiers.redis.tier import RedisCache

    if not isinstance(redis_cache, RedisCache):
        raise TypeError(
            f"redis_cache must be a RedisCache, not {safe_repr(redis_cache)}; pass the redis_cache of a cache"
        )
    return FleetReader(redis_cache)
