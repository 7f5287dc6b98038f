"""A signal handler may run, and raise, between any two lines of a write: every one of them is tried."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import inside
import pytest
import traced
from racing import in_thread
from tracing import at_line

from cachekit import CacheClosedError, CacheEntry, MemoryCache
from cachekit.tiers.memory import removal
from cachekit.tiers.memory.entry import MemoryEntry

Operation = Callable[[MemoryCache], object]


@pytest.fixture(params=[removal._SLICE, 1], ids=["at once", "in slices"], autouse=True)
def slices(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Removals of many entries: all in one hold of the lock, and one entry in each."""
    monkeypatch.setattr(removal, "_SLICE", request.param)


def set_if(cache: MemoryCache) -> object:
    fence = cache.fence("new", {"n"})
    return cache.set_if("new", CacheEntry("new", "loaded", tags={"n"}), fence)


def refused_set_if(cache: MemoryCache) -> object:
    fence = cache.fence("a")
    cache.delete("a")
    return cache.set_if("a", CacheEntry("a", "loaded"), fence)


OPERATIONS: dict[str, Operation] = {
    "overwrite": lambda cache: cache.set_value("a", "new", tags={"y", "z"}),
    "insert and evict": lambda cache: cache.set_value("new", "new", tags={"n"}),
    "delete": lambda cache: cache.delete("a"),
    "touch": lambda cache: cache.touch("a", 60),
    "by tag": lambda cache: cache.invalidate_by_tags({"x"}),
    "by pattern": lambda cache: cache.invalidate_by_pattern("[ab]"),
    "clear": lambda cache: cache.clear(),
    "get": lambda cache: cache.get("a"),
    "peek": lambda cache: cache.peek("a"),
    "set_if": set_if,
    "refused set_if": refused_set_if,
}


def full_cache() -> tuple[MemoryCache, list[MemoryEntry]]:
    cache = MemoryCache(max_size=3, cleanup_interval=None)
    for key in "abc":
        cache.set_value(key, f"old {key}", tags={"x", key})
    return cache, inside.entries(cache)


class Struck(Exception):
    pass


def test_an_exception_between_any_two_lines(subtests: pytest.Subtests) -> None:
    """Bounds hold, tags find what is alive, nothing outside looks alive, the lock is free, a retry works."""
    for name in OPERATIONS:
        with subtests.test(name=name):
            operation = OPERATIONS[name]

            def strike() -> None:
                raise Struck

            number, came = 0, True
            while came:
                number += 1
                cache, before = full_cache()
                try:
                    came = at_line(number, traced.MEMORY_WRITES, strike, partial(operation, cache))
                except Struck:
                    pass
                assert inside.store(cache)._state == 0, number
                left = inside.entries(cache)
                assert len(left) <= 3, number
                for held in before:
                    assert held in left or held.deadline == float("-inf"), number
                for held in left:
                    if held.deadline > 0:
                        assert all(
                            held.key in inside.store(cache)._tags.having({tag}) for tag in held.tags
                        ), number
                assert in_thread(partial(cache.delete, "none"))() is False, number
                operation(cache)
                live = {key for key in cache.keys() if cache.get_value(key) is not None}  # noqa: SIM118
                assert cache.invalidate_by_tags({"x", "y", "z", "n"}) == len(live), number
                assert cache.keys() == [], number
            assert number > 3


@pytest.mark.parametrize("refuses", [False, True])
def test_a_call_between_any_two_lines(subtests: pytest.Subtests, refuses: bool) -> None:
    """What a handler asks for is done when the interrupted call is over, and the answers are whole."""
    for name in OPERATIONS:
        with subtests.test(name=name):
            operation = OPERATIONS[name]

            def handler(cache: MemoryCache) -> None:
                cache.delete("a")
                cache.delete("new")
                cache.set_value("b", "handler's")
                if refuses:
                    raise Struck

            number, came = 0, True
            while came:
                number += 1
                cache, _ = full_cache()
                happened: list[int] = []

                def happens(cache: MemoryCache = cache, happened: list[int] = happened) -> None:
                    happened.append(1)
                    handler(cache)

                try:
                    came = at_line(number, traced.MEMORY_WRITES, happens, partial(operation, cache))
                except Struck:
                    pass
                assert inside.store(cache)._deferred == [], number
                for key in cache.keys():  # noqa: SIM118
                    entry = cache.get(key)
                    assert entry is not None
                    assert entry.value is not None, number
                assert not happened or cache.get_value("a") in {None, "new"}, number
                cache._check() if not refuses else None
            assert number > 3


def test_closing_between_any_two_lines(subtests: pytest.Subtests) -> None:
    """A handler may close the cache in the middle of a write; then it is closed."""
    for name in OPERATIONS:
        with subtests.test(name=name):
            number, came = 0, True
            while came:
                number += 1
                cache, _ = full_cache()
                try:
                    came = at_line(
                        number, traced.MEMORY_WRITES, cache.close, partial(OPERATIONS[name], cache)
                    )
                except CacheClosedError:
                    pass
                if came:
                    with pytest.raises(CacheClosedError):
                        cache.set_value("k", 1)
                    assert len(inside.store(cache)) == 0


def test_a_value_that_dies_at_close_finds_it_closed() -> None:
    """Values are let go of without the lock, and after the cache is closed."""
    cache = MemoryCache()
    seen: list[str] = []

    class Value:
        def __del__(self) -> None:
            try:
                cache.set_value("alive", 1)
            except CacheClosedError:
                seen.append("closed")
            other = threading.Thread(target=lambda: seen.append(repr(cache)), daemon=True)
            other.start()
            other.join(60)

    cache.set_value("k", Value())
    cache.close()
    assert seen == ["closed", "MemoryCache(max_size=1000, default_ttl=None, size=0)"]
