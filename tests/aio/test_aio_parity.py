"""The facade has whatever the core has: the same names, parameters, defaults and docstrings, awaited."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any

import pytest

import cachekit
from cachekit import aio
from cachekit.aio.facade import Facade
from cachekit.cache import fill, region

PAIRS: list[tuple[Any, Any]] = [
    (cachekit.IntelligentCache, aio.IntelligentCache),
    (cachekit.MemoryCache, aio.MemoryCache),
    (cachekit.FileCache, aio.FileCache),
    (cachekit.RedisCache, aio.RedisCache),
    (cachekit.MemcachedCache, aio.MemcachedCache),
    (cachekit.DynamoDBCache, aio.DynamoDBCache),
    (region.Region, aio.Region),
    (fill.Fill, aio.Fill),
]

#: What is not awaited: views, and figures that are there without asking anybody.
PLAIN = {
    "IntelligentCache.cached", "IntelligentCache.region", "IntelligentCache.verifications",
    "IntelligentCache.prefetch_info", "Region.prefetch_info", "MemoryCache.get_stats", "FileCache.get_stats",
    "RedisCache.get_stats", "RedisCache.cluster", "RedisCache.sentinel", "MemcachedCache.get_stats",
    "DynamoDBCache.get_stats",
}  # fmt: skip

#: What the facade has beyond the core: `contains` in place of `in`, and the ways between the two.
MORE = {"aclose", "contains", "of", "sync"}


def public(owner: type) -> dict[str, Any]:
    names = {name for kind in owner.__mro__ for name in vars(kind)}
    return {name: inspect.getattr_static(owner, name) for name in names if not name.startswith("_")}


def parameters(member: Any) -> list[tuple[str, Any, Any]]:
    signature = inspect.signature(getattr(member, "__func__", member))
    return [(one.name, one.kind, one.default) for one in signature.parameters.values()]


@pytest.mark.parametrize(("core", "facade"), PAIRS, ids=[core.__name__ for core, _ in PAIRS])
def test_methods(core: type, facade: type) -> None:
    """Each public method is there, takes the same, is described, and is awaited unless it is plain."""
    for name, theirs in public(core).items():
        if isinstance(theirs, property):
            continue
        ours, full_name = public(facade)[name], f"{core.__name__}.{name}"
        assert parameters(ours) == parameters(theirs), full_name
        assert inspect.getdoc(ours), full_name
        is_awaited = inspect.iscoroutinefunction(getattr(ours, "__func__", ours))
        assert is_awaited is (full_name not in PLAIN), full_name


@pytest.mark.parametrize(("core", "facade"), PAIRS, ids=[core.__name__ for core, _ in PAIRS])
def test_classes(core: type, facade: type) -> None:
    """The same properties, no other names, and the same arguments to make one."""
    ours, theirs = public(facade), public(core)
    assert set(ours) - set(theirs) <= MORE
    assert set(theirs) <= set(ours)
    properties = {name for name, member in theirs.items() if isinstance(member, property)}
    assert properties == {name for name, member in ours.items() if isinstance(member, property)} - {"sync"}
    assert all(inspect.getdoc(ours[name]) for name in properties)
    if core not in (region.Region, fill.Fill):  # which caches make
        assert parameters(facade.__init__)[1:] == parameters(core.__init__)[1:]  # type: ignore[misc]


def test_docstrings_are_carried_over() -> None:
    """A method that is the core's says what the core's says."""
    assert aio.IntelligentCache.set.__doc__ == cachekit.IntelligentCache.set.__doc__
    assert aio.FileCache.touch.__doc__ == cachekit.FileCache.touch.__doc__
    assert "Args:" in (aio.RedisCache.set_value.__doc__ or "")


FUNCTIONS = [
    "clear_all_caches", "disabled", "get_cache_stats", "get_default_cache", "invalidate_cache_pattern",
    "invalidate_cache_tags", "optimize_cache_performance", "override", "set_default_cache",
    "warm_cache_keys",
]  # fmt: skip


def test_functions() -> None:
    """Each function of the default cache is there, and takes the same; switching is not awaited."""
    for name in FUNCTIONS:
        ours, theirs = getattr(aio, name), getattr(cachekit, name)
        assert parameters(ours) == parameters(theirs), name
        is_plain = name in {"disabled", "override", "set_default_cache"}
        assert inspect.iscoroutinefunction(ours) is not is_plain, name


def test_the_functions_are_all() -> None:
    """A function that the core gets is one that the facade must have; a cassette serves both."""
    there = {name for name in cachekit.__all__ if inspect.isfunction(getattr(cachekit, name))}
    assert there == {*FUNCTIONS, "cache_result", "cassette"}


def test_names() -> None:
    """One decorator and one set of nouns, whichever side they are imported from."""
    same = {
        "FOREVER", "MISSING", "CacheEntry", "CacheLevel", "CacheStats", "CacheStrategy", "LoadOptions",
        "cache_result", "disabled",
    }  # fmt: skip
    assert all(getattr(aio, name) is getattr(cachekit, name) for name in same)
    assert set(aio.__all__) == same | set(FUNCTIONS) | {core.__name__ for core, _ in PAIRS}
    assert all(issubclass(facade, Facade) for _, facade in PAIRS)
    assert set(dir(aio)) >= set(aio.__all__)
    with pytest.raises(AttributeError, match=r"module 'cachekit\.aio' has no attribute 'Cache'"):
        aio.Cache  # noqa: B018


def test_importing_loads_no_tier_that_is_not_asked_for() -> None:
    """Neither a driver nor the room of files comes with `import cachekit.aio`, and no thread begins."""
    heavy = [
        "redis",
        "filelock",
        "portalocker",
        "platformdirs",
        "cachekit.tiers.file.tier",
        "cachekit.tiers.redis.tier",
    ]
    code = (
        f"import sys, threading, cachekit.aio; "
        f"print([name for name in {heavy!r} if name in sys.modules], threading.active_count())"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[] 1"
