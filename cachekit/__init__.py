"""cachekit: a multi-tier cache, synchronous and thread-safe.

from cachekit import cache_result

@cache_result
def area(width, height): ...
"""

TYPE_CHECKING = False  # type checkers take it for True; `typing` costs as much as the rest of an import
if TYPE_CHECKING:
    from cachekit import aio as aio
    from cachekit import errors as errors
    from cachekit import health as health
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
    from cachekit.cache.fill import Fill
    from cachekit.cache.intelligent import IntelligentCache
    from cachekit.cache.region import Region
    from cachekit.cassettes.cassette import Cassette, cassette
    from cachekit.decorator.source import disabled
    from cachekit.decorator.types import AsyncCachedFunction, CachedFunction, CacheInfo
    from cachekit.errors import (
        CacheClosedError,
        CacheError,
        CassetteMissError,
        FileFormatError,
        KeyEncodingError,
        LoadTimeoutError,
        SerializationError,
        TierUnavailableError,
        ValueTooLargeError,
    )
    from cachekit.loading.options import LoadOptions, Prefetch
    from cachekit.loading.predictor import PrefetchInfo
    from cachekit.model.entry import CacheEntry
    from cachekit.model.reports import (
        Explanation,
        LoadTimeGain,
        Miss,
        OptimizationReport,
        SizeEstimate,
        Verified,
        WarmReport,
    )
    from cachekit.model.stats import CacheStats
    from cachekit.model.types import FOREVER, MISSING, CacheLevel, CacheStrategy, RemovalCause
    from cachekit.tiers.dynamodb.tier import DynamoDBCache
    from cachekit.tiers.file.front import FileCache
    from cachekit.tiers.memcached.tier import MemcachedCache
    from cachekit.tiers.memory.tier import MemoryCache
    from cachekit.tiers.redis.tier import RedisCache
    from cachekit.tiers.redis.tls import TLS

__version__ = "0.2.0"

__all__ = [
    "FOREVER", "MISSING", "TLS", "AsyncCachedFunction", "CacheClosedError", "CacheEntry", "CacheError",
    "CacheInfo", "CacheLevel", "CacheStats", "CacheStrategy", "CachedFunction", "Cassette",
    "CassetteMissError", "DynamoDBCache", "Explanation", "FileCache", "FileFormatError", "Fill",
    "IntelligentCache", "KeyEncodingError", "LoadOptions", "LoadTimeGain", "LoadTimeoutError",
    "MemcachedCache", "MemoryCache", "Miss", "OptimizationReport", "Prefetch", "PrefetchInfo",
    "RedisCache", "Region", "RemovalCause", "SerializationError", "SizeEstimate", "TierUnavailableError",
    "ValueTooLargeError", "Verified", "WarmReport", "cache_result", "cassette", "clear_all_caches",
    "disabled", "get_cache_stats", "get_default_cache", "invalidate_cache_pattern",
    "invalidate_cache_tags", "optimize_cache_performance", "override", "set_default_cache",
    "warm_cache_keys",
]  # fmt: skip

#: The module of each public name. It is imported when the name is first used (PEP 562).
_MODULES = {
    name: f"cachekit.{module}"
    for module, names in {
        "cache.cache_result": "cache_result",
        "cache.default": "clear_all_caches get_cache_stats get_default_cache invalidate_cache_pattern"
        " invalidate_cache_tags optimize_cache_performance override set_default_cache warm_cache_keys",
        "cache.fill": "Fill",
        "cache.intelligent": "IntelligentCache",
        "cache.region": "Region",
        "cassettes.cassette": "Cassette cassette",
        "decorator.source": "disabled",
        "decorator.types": "AsyncCachedFunction CachedFunction CacheInfo",
        "errors": "CacheClosedError CacheError CassetteMissError FileFormatError KeyEncodingError"
        " LoadTimeoutError SerializationError TierUnavailableError ValueTooLargeError",
        "loading.options": "LoadOptions Prefetch",
        "loading.predictor": "PrefetchInfo",
        "model.entry": "CacheEntry",
        "model.reports": "Explanation LoadTimeGain Miss OptimizationReport SizeEstimate Verified WarmReport",
        "model.stats": "CacheStats",
        "model.types": "FOREVER MISSING CacheLevel CacheStrategy RemovalCause",
        "tiers.dynamodb.tier": "DynamoDBCache",
        "tiers.file.front": "FileCache",
        "tiers.memcached.tier": "MemcachedCache",
        "tiers.memory.tier": "MemoryCache",
        "tiers.redis.tier": "RedisCache",
        "tiers.redis.tls": "TLS",
    }.items()
    for name in names.split()
}

#: Submodules that are attributes of the package without an import of their own.
_SUBMODULES = frozenset({
    "aio", "cache", "cassettes", "cli", "coherence", "dashboard", "decorator", "errors", "health", "http",
    "integrations", "loading", "model", "monitoring", "runtime", "serialization", "testing", "tiers",
})  # fmt: skip


if not TYPE_CHECKING:  # for a type checker, every name would exist

    def __getattr__(name: str) -> object:
        if name not in _MODULES and name not in _SUBMODULES:
            raise AttributeError(f"module 'cachekit' has no attribute {name!r}")
        import importlib

        if name in _SUBMODULES:
            return importlib.import_module(f"cachekit.{name}")
        found = getattr(importlib.import_module(_MODULES[name]), name)
        return globals().setdefault(name, found)  # another thread may have put a replacement there


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_SUBMODULES})


def _refuse_mixed_files() -> None:
    """Raise ImportError if pip has put another project's files into this folder, over some of these."""
    import os

    parent = os.path.dirname(os.path.dirname(__file__))
    try:
        names = os.listdir(parent)
    except OSError:  # a zip file
        return
    for name in names:
        if name.startswith("cachekit-") and name.endswith(".dist-info"):
            raise ImportError(
                f"the unrelated distribution {name.removesuffix('.dist-info')} is installed in {parent} too, "
                f"and both have the folder `cachekit`: run `pip uninstall cachekit cachekit-tiered`, then "
                f"install cachekit-tiered again"
            )


_refuse_mixed_files()
