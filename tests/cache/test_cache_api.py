"""What IntelligentCache offers beyond get and set: warming, regions, explain, pickling, closing, errors."""

from __future__ import annotations

import asyncio
import inspect
import io
import math
import os
import pickle
import re
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from types import MappingProxyType
from typing import Any

import inside
import pytest
from drivers import Driver
from forking import in_fork
from redis_server import wait_until

from cachekit import (
    FOREVER,
    CacheClosedError,
    CacheLevel,
    CacheStats,
    Explanation,
    IntelligentCache,
    MemoryCache,
    SerializationError,
    aio,
)
from cachekit.loading import flights
from cachekit.loading.core import HoldsEntries
from cachekit.model.display import shown_key, shown_tags
from cachekit.testing import ManualClock


@pytest.fixture
def cache(build: None, clock: ManualClock) -> Iterator[IntelligentCache]:
    with IntelligentCache(MemoryCache(clock=clock), file_cache=None) as cache:
        yield cache


def test_ttls(cache: IntelligentCache, clock: ManualClock) -> None:
    """Seconds, timedeltas, the default, FOREVER, and 0."""
    cache.set("int", 1, ttl=10)
    cache.set("delta", 1, ttl=timedelta(seconds=20))
    cache.set("default", 1)
    cache.set("forever", 1, ttl=FOREVER)
    assert cache.set("zero", 1, ttl=0) is True
    assert not cache.contains("zero")
    for seconds, left in [(10, ["delta", "default", "forever"]), (10, ["default", "forever"])]:
        clock.advance(seconds)
        assert [key for key in ("int", "delta", "default", "forever") if cache.contains(key)] == left
    clock.advance(3600)
    assert [key for key in ("default", "forever") if key in cache] == ["forever"]


def test_a_wall_clock_that_jumps_changes_nothing(cache: IntelligentCache, clock: ManualClock) -> None:
    """Memory goes by the monotonic clock."""
    cache.set("k", 1, ttl=10)
    for jump in (1e6, -2e6):
        clock.jump(jump)
        assert cache.get("k") == 1
        assert cache.explain("k").remaining == 10
    clock.advance(10)
    assert cache.get("k") is None


def test_levels(cache: IntelligentCache) -> None:
    """A level that has no tier here is an error, not a silent miss."""
    assert cache.set("k", 1, cache_level=CacheLevel.MEMORY | CacheLevel.FILE) is True
    assert cache.get("k", cache_level=CacheLevel.MEMORY) == 1
    for call in (
        lambda: cache.get("k", cache_level=CacheLevel.REDIS),
        lambda: cache.set("k", 1, cache_level=CacheLevel.FILE),
        lambda: cache.clear(CacheLevel.REDIS | CacheLevel.FILE),
    ):
        with pytest.raises(ValueError, match="names no tier of this cache, which has: MEMORY"):
            call()
    with pytest.raises(TypeError, match="cache_level must be a CacheLevel"):
        cache.get("k", cache_level="memory")  # type: ignore[call-overload]


def test_explain(cache: IntelligentCache, clock: ManualClock) -> None:
    """It says what a person wants to know, and changes no figure."""
    cache.set("k", 1, ttl=60, tags={"b", "a"})
    cache.get("k")
    clock.advance(15)
    explanation = cache.explain("k")
    assert explanation == Explanation("k", CacheLevel.MEMORY, 15, 45, frozenset({"a", "b"}), 1)
    assert (
        str(explanation) == f"{shown_key('k')} is in MEMORY: 15.0 s old, expires in 45.0 s, "
        f"{shown_tags({'a', 'b'})}, served 1 times"
    )
    assert str(cache.explain("x")) == f"{shown_key('x')} is in no tier: never stored"
    cache.set("f", 1, ttl=FOREVER)
    assert "does not expire" in str(cache.explain("f"))
    assert cache.get_stats()["combined"].requests == 1


def test_warming(cache: IntelligentCache, driver: Driver) -> None:
    """Missing keys are loaded, fresh ones are not, failures are reported, progress is told."""
    cache.set("fresh", 0)
    loaded: list[str] = []
    progress: list[tuple[int, int]] = []

    def loader(key: str) -> str:
        loaded.append(key)
        if key == "bad":
            raise LookupError(key)
        return key.upper()

    report = driver.warm(
        cache,
        ["a", "b", "fresh", "bad", "a"],
        loader,
        ttl=60,
        tags={"warm"},
        progress=lambda done, total: progress.append((done, total)),
    )
    assert sorted(loaded) == ["a", "b", "bad"]
    assert (sorted(report.loaded), report.fresh) == (["a", "b"], ["fresh"])
    assert {key: str(error) for key, error in report.failed.items()} == {"bad": "bad"}
    assert progress == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert cache.get("a") == "A"
    assert cache.invalidate_by_tags({"warm"}) == 2
    assert driver.warm(cache, [], loader) == ([], [], {})


@pytest.mark.parametrize("concurrency", [1, 3])
def test_warming_is_bounded(cache: IntelligentCache, driver: Driver, concurrency: int) -> None:
    """No more loaders run at once than was said, and that many do."""
    running, most = 0, 0
    lock = threading.Lock()
    together = threading.Barrier(concurrency)

    def loader(key: str) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        together.wait(60)
        with lock:
            running -= 1
        return 1

    driver.warm(cache, [f"k{number}" for number in range(12)], loader, concurrency=concurrency)
    assert most == concurrency


def test_a_failing_progress_callback_stops_the_warming(cache: IntelligentCache, driver: Driver) -> None:
    """It is the caller's own error, and reaches the caller."""

    def progress(done: int, total: int) -> None:
        raise RuntimeError("display gone")

    with pytest.raises(RuntimeError, match="display gone"):
        driver.warm(cache, ["a"], str.upper, progress=progress)


def test_regions(cache: IntelligentCache, clock: ManualClock) -> None:
    """A prefix, a type, a TTL and tags of its own; nothing else of its own."""
    users = cache.region("user:", dict[str, str], ttl=10, tags={"users"})
    assert users.get("1") is None
    assert users.get("1", "default") == "default"
    users.set("1", {"name": "Ada"}, tags={"admins"})
    assert cache.get("user:1") == {"name": "Ada"}
    assert users.get_or_set("2", lambda: {"name": "Bob"}) == {"name": "Bob"}
    assert cache.explain("user:1").tags == {"users", "admins"}
    assert cache.explain("user:2").remaining == 10
    assert "1" in users
    assert users.delete("1") is True
    cache.set("userx", 1)
    cache.set("user.3", 1)
    assert users.clear() == 1
    assert cache.contains("user.3"), "the prefix is text, not a pattern"
    with pytest.raises(
        TypeError, match=f"the value of {shown_key('user:1')} in region .* must be of type dict, not str"
    ):
        users.set("1", "Ada")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="must be of type dict"):
        users.get_or_set("1", lambda: "Ada")  # type: ignore[arg-type, return-value]
    assert not cache.contains("user:1")
    cache.set("user:9", "someone else's")
    with pytest.raises(TypeError, match="must be of type dict"):
        users.get("9")
    assert repr(users) == "Region('user:', dict)"
    assert users.prefix == "user:"


def test_statistics_for_people_and_machines(cache: IntelligentCache) -> None:
    """Attributes, items, a dict for JSON; frozen; picklable."""
    cache.set("k", 1)
    cache.get("k")
    cache.get("x")
    stats = cache.get_stats()
    assert list(stats) == ["memory", "combined"]
    combined = stats["combined"]
    assert (combined.hits, combined["hits"], combined["hit_rate"], combined.hit_rate) == (1, 1, 0.5, 0.5)
    assert combined.to_dict()["request_hit_rate"] == 0.5
    assert len(combined) == len(list(combined)) == len(combined.to_dict())
    assert pickle.loads(pickle.dumps(combined)) == combined
    with pytest.raises(AttributeError, match="frozen"):
        combined.hits = 2
    with pytest.raises(AttributeError, match="frozen"):
        del combined.hits
    with pytest.raises(KeyError):
        combined["nonsense"]
    with pytest.raises(TypeError, match="nonsense"):
        CacheStats(nonsense=1)
    assert CacheStats().hit_rate == 0


def test_two_caches_over_one_memory_tier(clock: ManualClock) -> None:
    """Each knows its own requests; the tier knows them all; closing one leaves the other."""
    memory = MemoryCache(clock=clock)
    first = IntelligentCache(memory, close_tiers=False, file_cache=None)
    second = IntelligentCache(memory, file_cache=None)
    first.set("k", 1)
    assert (first.get("k"), second.get("k"), second.get("x"), memory.get_value("k")) == (1, 1, None, 1)
    assert first.get_stats()["combined"].requests == 1
    assert second.get_stats()["combined"].requests == 2
    assert memory.get_stats().hits == 3
    first.close()
    with pytest.raises(CacheClosedError):
        first.get("k")
    assert second.get("k") == 1
    second.close()
    with pytest.raises(CacheClosedError):
        memory.get_value("k")


def test_after_close(cache: IntelligentCache, subtests: pytest.Subtests) -> None:
    """Every method but those that only read counters raises; a new method takes a place in one list."""
    cache.set("k", 1)
    cache.close()
    cache.close()
    calls: dict[str, tuple[object, ...]] = {
        "get": ("k",), "set": ("k", 1), "get_or_set": ("k", lambda: 1), "delete": ("k",), "touch": ("k",),
        "contains": ("k",), "explain": ("k",), "add": ("k", 1), "update": ("k", str), "begin": ("k",),
        "get_many": (["k"],), "set_many": ({"k": 1},), "delete_many": (["k"],),
        "get_or_set_many": (["k"], lambda keys: {}), "clear": (), "invalidate_by_pattern": ("k",),
        "invalidate_by_tags": ({"k"},), "warm_cache": (["k"], str), "optimize_cache": (), "health": (),
        "region": ("p", int), "cached": (),
    }  # fmt: skip
    for name, arguments in calls.items():
        for one in (cache, aio.IntelligentCache.of(cache)):
            with subtests.test(name=name, type=type(one)), pytest.raises(CacheClosedError):
                asyncio.run(_awaited(getattr(one, name), arguments))
    assert cache.get_stats()["memory"].sets == 1
    assert cache.prefetch_info() is None
    assert cache.verifications() == {}
    methods = {name for name, _ in inspect.getmembers(IntelligentCache, inspect.isfunction) if name[0] != "_"}
    assert methods == calls.keys() | {"close", "get_stats", "prefetch_info", "verifications"}


async def _awaited(method: Callable[..., object], arguments: tuple[object, ...]) -> object:
    result = method(*arguments)
    return await result if inspect.isawaitable(result) else result


def test_loaders_that_take_other_arguments(subtests: pytest.Subtests, cache: IntelligentCache) -> None:
    """The error names the loader and what it takes; a TypeError within a loader is its own."""
    wrong: Any = {
        "without arguments, not <lambda>(x)": lambda one: one.get_or_set("k", lambda x: 1),
        "of a list of keys, not <lambda>()": lambda one: one.get_or_set_many(["k"], lambda: {"k": 1}),
        "of a key, not <lambda>()": lambda one: one.region("r:", int, loader=lambda: 5).get_or_set("k"),
        "of one value, not <lambda>()": lambda one: one.get_or_set("k", lambda: 1, ttl=lambda: 5),
        "has no len()": lambda one: one.get_or_set("k", lambda: len(5)),  # type: ignore[arg-type]
    }
    for words, call in wrong.items():
        for one in (cache, aio.IntelligentCache.of(cache)):
            refused = pytest.raises(TypeError, match=re.escape(words))
            with subtests.test(words=words, type=type(one)), refused:
                asyncio.run(_awaited(call, (one,)))


def test_pickling_carries_the_configuration() -> None:
    """A cache travels to a process pool as an empty one of the same make."""
    with IntelligentCache(MemoryCache(5), default_ttl=7, file_cache=None) as cache:
        cache.set("k", 1)
        copy = pickle.loads(pickle.dumps(cache))
        assert (inside.memory(copy).max_size, copy.default_ttl, copy.contains("k")) == (5, 7.0, False)
        assert repr(cache) == (
            "IntelligentCache(MemoryCache(max_size=5, default_ttl=None, size=1), default_ttl=7.0)"
        )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_child_forked_during_a_load_does_not_wait_for_it(cache: IntelligentCache) -> None:
    """The leader stayed in the parent, and so did who waits for it; the child loads by itself."""
    began, go_on = threading.Event(), threading.Event()

    def loader() -> str:
        began.set()
        assert go_on.wait(60)
        return "parent's"

    leader = threading.Thread(target=lambda: cache.get_or_set("k", loader))
    leader.start()
    assert began.wait(60)

    waiter = threading.Thread(target=lambda: cache.get_or_set("k", loader))
    waiter.start()
    wait_until(lambda: flights._waiting, "the other thread waits")

    def child() -> None:
        assert not flights._waiting  # by numbers that new threads may get
        assert cache.get_or_set("k", lambda: "child's") == "child's"

    status = in_fork(child)()
    go_on.set()
    leader.join(60)
    waiter.join(60)
    assert status == 0
    assert cache.get("k") == "parent's"


def test_wrong_arguments_are_named(subtests: pytest.Subtests, cache: IntelligentCache) -> None:
    """The message names the argument, the value and the remedy; nothing is stored."""
    rows: list[tuple[Callable[[Any], Any], type[Exception], list[str]]] = [
        (lambda c: c.get(1), TypeError, ["key", "1", "int"]),
        (lambda c: c.get([]), TypeError, ["key", "list"]),
        (lambda c: c.set(b"k", 1), TypeError, ["key", "bytes"]),
        (lambda c: c.set("k", 1, ttl=math.nan), ValueError, ["ttl", "NaN"]),
        (lambda c: c.set("k", 1, tags="user"), TypeError, ["tags", "{tag}"]),
        (lambda c: c.set("k", io.StringIO("x")), SerializationError, ["StringIO"]),
        (lambda c: c.get_or_set("k", 5), TypeError, ["loader", "5"]),
        (lambda c: c.get_many("abc"), TypeError, ["keys", "[key]"]),
        (lambda c: c.get_many(5), TypeError, ["keys", "5"]),
        (lambda c: c.get_many([5]), TypeError, ["keys", "5"]),
        (lambda c: c.set_many([("k", 1)]), TypeError, ["mapping", "list"]),
        (lambda c: c.set_many({"k": 1, 2: 3}), TypeError, ["key", "2", "int"]),
        (lambda c: c.get_or_set_many(["k"], 5), TypeError, ["loader", "5"]),
        (lambda c: c.warm_cache(["k"], 5), TypeError, ["loader_func", "5"]),
        (lambda c: c.warm_cache(["k"], str, concurrency=0), ValueError, ["concurrency", "0"]),
        (lambda c: c.region(5, int), TypeError, ["prefix", "5"]),
        (lambda c: c.region("p", 5), TypeError, ["type", "5"]),
        (lambda c: c.region("p", HoldsEntries), TypeError, ["type", "HoldsEntries", "runtime_checkable"]),
        (lambda c: c.region("p", int).get_or_set("k", 5), TypeError, ["loader", "5"]),
        (lambda c: c.get_or_set("k", int, jitter=None), TypeError, ["jitter", "None"]),
        (lambda c: c.warm_cache(["k"], str, ttl=0, keep_warm=True), ValueError, ["keep_warm", "ttl", "0"]),
        (lambda c: IntelligentCache(memory_cache={}, file_cache=None), TypeError, ["memory_cache", "{}"]),  # type: ignore[arg-type]
        (lambda c: IntelligentCache(None, file_cache=None), ValueError, ["memory_cache=None"]),
        (lambda c: IntelligentCache(default_ttl=0, file_cache=None), ValueError, ["default_ttl", "0"]),
    ]
    for call, kind, words in rows:
        with subtests.test(words=words):
            with pytest.raises(kind) as caught:
                call(cache)
            for word in words:
                assert word in str(caught.value)
            assert inside.memory(cache).size() == 0


class FirstOfEach(dict[str, Any]):
    """A dict whose `items` are not those of its table, as in web frameworks."""

    def items(self) -> Any:
        return [(key, values[0]) for key, values in super().items()]


def test_a_mapping_of_another_class(cache: IntelligentCache) -> None:
    """What its `items` returns is stored."""
    cache.set_many(FirstOfEach(page=["3"], sort=["asc", "x"]))
    assert cache.get_many(["page", "sort"]) == {"page": "3", "sort": "asc"}
    cache.set_many(MappingProxyType({"page": "4"}))
    assert cache.get_many(["page", "sort"]) == {"page": "4", "sort": "asc"}
