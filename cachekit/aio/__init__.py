"""cachekit, awaited: the same names as in `cachekit`, for code on asyncio.

from cachekit.aio import IntelligentCache, cache_result

Everything is awaited but what only makes a view or reads figures: `region`, `cached`, a tier's
`get_stats`, properties, and switching the default cache. A hit in memory is answered on the loop;
whatever may touch a disk or a socket is carried out in threads.
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
from cachekit.aio.memory import MemoryCache
from cachekit.aio.regions import Region
from cachekit.cache.cache_result import cache_result
from cachekit.decorator.source import disabled
from cachekit.loading.options import LoadOptions
from cachekit.model.entry import CacheEntry
from cachekit.model.stats import CacheStats
from cachekit.model.types import FOREVER, MISSING, CacheLevel, CacheStrategy

if TYPE_CHECKING:
    from cachekit.aio.file import FileCache
    from cachekit.aio.redis import RedisCache

__all__ = [
    "FOREVER", "MISSING", "CacheEntry", "CacheLevel", "CacheStats", "CacheStrategy", "FileCache",
    "IntelligentCache", "LoadOptions", "MemoryCache", "RedisCache", "Region", "cache_result",
    "clear_all_caches", "disabled", "get_cache_stats", "get_default_cache", "invalidate_cache_pattern",
    "invalidate_cache_tags", "optimize_cache_performance", "override", "set_default_cache",
    "warm_cache_keys",
]  # fmt: skip

#: As in `cachekit`: what a directory or a server needs is loaded when it is named.
_ON_FIRST_USE = {"FileCache": "cachekit.aio.file", "RedisCache": "cachekit.aio.redis"}


def __getattr__(name: str) -> object:
    if name not in _ON_FIRST_USE:
        raise AttributeError(f"module 'cachekit.aio' has no attribute {name!r}")
    import importlib

    found = globals()[name] = getattr(importlib.import_module(_ON_FIRST_USE[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
