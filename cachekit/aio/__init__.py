"""cachekit, awaited: the same names as in `cachekit`, for code on asyncio.

from cachekit.aio import IntelligentCache, cache_result

All calls are awaited, except those that only make a view or read counters: `region`, `cached`, `get_stats`
of a tier, properties, and switching the default cache. A memory hit stays on the loop. Calls that may touch a
disk or a socket run in threads.
"""

from typing import TYPE_CHECKING

from cachekit.aio.cache import IntelligentCache
from cachekit.aio.default import (
    clear_all_caches,
    get_cache_stats,
    get_default_cache,
    invalidate_cache_pattern,
    invalidate_cache_tags,
    optimize_cache_performance,
    override,
    set_default_cache,
    warm_cache_keys,
)
from cachekit.aio.fill import Fill
from cachekit.aio.memory import MemoryCache
from cachekit.aio.regions import Region
from cachekit.cache.cache_result import cache_result
from cachekit.decorator.source import disabled
from cachekit.loading.options import LoadOptions
from cachekit.model.entry import CacheEntry
from cachekit.model.stats import CacheStats
from cachekit.model.types import FOREVER, MISSING, CacheLevel, CacheStrategy

if TYPE_CHECKING:
    from cachekit.aio.dynamodb import DynamoDBCache
    from cachekit.aio.file import FileCache
    from cachekit.aio.memcached import MemcachedCache
    from cachekit.aio.redis import RedisCache

__all__ = [
    "FOREVER", "MISSING", "CacheEntry", "CacheLevel", "CacheStats", "CacheStrategy", "DynamoDBCache",
    "FileCache", "Fill", "IntelligentCache", "LoadOptions", "MemcachedCache", "MemoryCache", "RedisCache",
    "Region", "cache_result", "clear_all_caches", "disabled", "get_cache_stats", "get_default_cache",
    "invalidate_cache_pattern", "invalidate_cache_tags", "optimize_cache_performance", "override",
    "set_default_cache", "warm_cache_keys",
]  # fmt: skip

#: As in `cachekit`: the modules for a directory or a server are imported on first use.
_ON_FIRST_USE = {
    "DynamoDBCache": "cachekit.aio.dynamodb",
    "FileCache": "cachekit.aio.file",
    "MemcachedCache": "cachekit.aio.memcached",
    "RedisCache": "cachekit.aio.redis",
}


def __getattr__(name: str) -> object:
    if name not in _ON_FIRST_USE:
        raise AttributeError(f"module 'cachekit.aio' has no attribute {name!r}")
    import importlib

    found = globals()[name] = getattr(importlib.import_module(_ON_FIRST_USE[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
