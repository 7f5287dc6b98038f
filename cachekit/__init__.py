"""cachekit: a multi-tier cache, synchronous and thread-safe.

from cachekit import cache_result

@cache_result
def answer(question): ...
"""

from typing import TYPE_CHECKING, Any

from cachekit.cache import IntelligentCache
from cachekit.decorated import AsyncCachedFunction, CachedFunction, CacheInfo
from cachekit.decorators import cache_result
from cachekit.default import (
    clear_all_caches,
    disabled,
    get_cache_stats,
    get_default_cache,
    invalidate_cache_pattern,
    invalidate_cache_tags,
    optimize_cache_performance,
    override,
    set_default_cache,
    warm_cache_keys,
)
from cachekit.errors import CacheClosedError, CacheError, KeyEncodingError, SerializationError
from cachekit.model import (
    FOREVER,
    MISSING,
    CacheEntry,
    CacheLevel,
    CacheStats,
    CacheStrategy,
    Explanation,
    OptimizationReport,
    RemovalCause,
    WarmReport,
)
from cachekit.regions import Region
from cachekit.tiers.memory import MemoryCache

if TYPE_CHECKING:
    from cachekit.tiers.redis import RedisCache

__version__ = "0.1.0"

__all__ = [
    "FOREVER", "MISSING", "AsyncCachedFunction", "CacheClosedError", "CacheEntry", "CacheError",
    "CacheInfo", "CacheLevel", "CacheStats", "CacheStrategy", "CachedFunction", "Explanation",
    "IntelligentCache", "KeyEncodingError", "MemoryCache", "OptimizationReport", "RedisCache", "Region",
    "RemovalCause", "SerializationError", "WarmReport", "cache_result", "clear_all_caches", "disabled",
    "get_cache_stats", "get_default_cache", "invalidate_cache_pattern", "invalidate_cache_tags",
    "optimize_cache_performance", "override", "set_default_cache", "warm_cache_keys",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    # Not every program that caches has a server; those that do load its tier when they name it.
    if name == "RedisCache":
        from cachekit.tiers.redis import RedisCache

        return RedisCache
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
