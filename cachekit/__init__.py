"""cachekit: a multi-tier cache, synchronous and thread-safe.

from cachekit import cache_result

@cache_result
def area(width, height): ...
"""

from typing import TYPE_CHECKING

from cachekit.cache.cache_result import cache_result
from cachekit.cache.default import (
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
from cachekit.cache.intelligent import IntelligentCache
from cachekit.cache.region import Region
from cachekit.decorator.source import disabled
from cachekit.decorator.types import AsyncCachedFunction, CachedFunction, CacheInfo
from cachekit.errors import (
    CacheClosedError,
    CacheError,
    FileFormatError,
    KeyEncodingError,
    LoadTimeoutError,
    SerializationError,
    TierUnavailableError,
    ValueTooLargeError,
)
from cachekit.loading.options import LoadOptions
from cachekit.model.entry import CacheEntry
from cachekit.model.reports import Explanation, OptimizationReport, WarmReport
from cachekit.model.stats import CacheStats
from cachekit.model.types import FOREVER, MISSING, CacheLevel, CacheStrategy, RemovalCause
from cachekit.tiers.memory import MemoryCache

if TYPE_CHECKING:
    from cachekit.tiers.file.tier import FileCache
    from cachekit.tiers.redis import RedisCache

__version__ = "0.1.0"

__all__ = [
    "FOREVER", "MISSING", "AsyncCachedFunction", "CacheClosedError", "CacheEntry", "CacheError",
    "CacheInfo", "CacheLevel", "CacheStats", "CacheStrategy", "CachedFunction", "Explanation",
    "FileCache", "FileFormatError", "IntelligentCache", "KeyEncodingError", "LoadOptions",
    "LoadTimeoutError", "MemoryCache",
    "OptimizationReport", "RedisCache", "Region", "RemovalCause", "SerializationError",
    "TierUnavailableError", "ValueTooLargeError", "WarmReport", "cache_result", "clear_all_caches",
    "disabled", "get_cache_stats", "get_default_cache", "invalidate_cache_pattern", "invalidate_cache_tags",
    "optimize_cache_performance", "override", "set_default_cache", "warm_cache_keys",
]  # fmt: skip


#: Imported when they are first used (PEP 562), because many programs use no directory and no server.
_ON_FIRST_USE = {"FileCache": "cachekit.tiers.file.tier", "RedisCache": "cachekit.tiers.redis"}


def __getattr__(name: str) -> object:
    if name not in _ON_FIRST_USE:
        raise AttributeError(f"module 'cachekit' has no attribute {name!r}")
    import importlib

    found = globals()[name] = getattr(importlib.import_module(_ON_FIRST_USE[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
