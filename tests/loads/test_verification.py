"""Verify mode: hits that are compared with a fresh load, in the background, within a budget."""

from __future__ import annotations

import asyncio
import logging
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from forking import in_fork
from interrupting import handled_by
from tracing import at_line

from cachekit import (
    FOREVER,
    CacheLevel,
    FileCache,
    IntelligentCache,
    LoadOptions,
    MemoryCache,
    RedisCache,
    aio,
    cassette,
)
from cachekit.health import Thresholds, assess
from cachekit.loading import verification
from cachekit.model.reports import Verified
from cachekit.testing import ManualClock

ALWAYS = LoadOptions(verify=1.0, verify_budget=1.0)


@pytest.fixture
def cache(clock: ManualClock) -> Iterator[IntelligentCache]:
    with IntelligentCache(MemoryCache(clock=clock), file_cache=None, load=ALWAYS) as cache:
        yield cache


def finish() -> None:
    """Wait for what runs in the background."""
    for thread in threading.enumerate():
        if thread.name == "cachekit-load":
            thread.join(60)


def counts(cache: IntelligentCache) -> tuple[int, int]:
    combined = cache.get_stats()["combined"]
    return combined.verified, combined.mismatches


class World:
    """What answers depend on, and the calls that asked it."""

    def __init__(self) -> None:
        self.state: Any = 1
        self.calls: list[str] = []

    def ask(self, *_: object) -> Any:
        self.calls.append(threading.current_thread().name)
        if isinstance(self.state, Exception):
            raise self.state
        return {"answer": self.state, "same": "always"}


@pytest.fixture
def world() -> World:
    return World()


def test_a_function_that_reads_a_global(
    cache: IntelligentCache, clock: ManualClock, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """It is counted, logged with the names of what differs and without values, and a reason of health."""

    @cache.cached(name="shop.price")
    def price(item: str) -> Any:
        return world.ask(item)

    price("apple")
    for _ in range(3):
        assert price("apple")["answer"] == 1
        finish()
        clock.advance(1)
    assert counts(cache) == (3, 0)
    assert cache.health(min_hit_rate=0).status == "healthy"
    world.state = 2
    with caplog.at_level(logging.WARNING, "cachekit"):
        for _ in range(2):
            assert price("apple")["answer"] == 1  # a hit is a hit
            finish()
            clock.advance(1)
    assert counts(cache) == (5, 2)
    assert cache.verifications() == {"shop.price": Verified(5, 2)}
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("a hit of shop.price (")
    assert line.endswith(") differs from a fresh load in ['answer']: 1 of 4 verified differ")
    assert "apple" not in line
    (reason,) = cache.health(min_hit_rate=0).reasons
    assert (reason.status, reason.cause, reason.value) == ("warning", "mismatches", 0.4)
    assert reason.message == (
        "answers of shop.price depend on something that is not an argument: 2 of 5 verified differ"
    )
    assert reason.remedy.startswith("make it an argument")
    assert cache.health(min_hit_rate=0, max_mismatches=0.5).status == "healthy"
    assert set(world.calls[1:]) == {"cachekit-load"}
    with caplog.at_level(logging.WARNING, "cachekit"):
        clock.advance(61)
        price("apple")
        finish()
    assert len(caplog.records) == 2  # one a minute


def test_health_of_figures_from_elsewhere_names_no_function(cache: IntelligentCache, world: World) -> None:
    cache.get_or_set("k", world.ask)
    world.state = 2
    cache.get_or_set("k", world.ask)
    finish()
    (reason,) = assess(cache.get_stats(), thresholds=Thresholds(min_hit_rate=0)).reasons
    assert reason.message.startswith("answers of the cache depend on")


def test_off_by_default_and_by_zero(clock: ManualClock, world: World) -> None:
    for load in (LoadOptions(), LoadOptions(verify=0)):
        with IntelligentCache(MemoryCache(clock=clock), file_cache=None, load=load) as cache:
            for _ in range(50):
                cache.get_or_set("k", world.ask)
            finish()
            assert (counts(cache), cache.verifications()) == ((0, 0), {})
    assert len(world.calls) == 2


@pytest.mark.parametrize("how", ["fast path", "key_func", "get_or_set", "awaited"])
def test_the_share_of_hits(how: str, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of so many hits so many are chosen, on each path of a hit, and each once."""
    chances = iter([0.5, 0.009, 0.99, 0.0] * 100)
    chosen = []
    with IntelligentCache(MemoryCache(), file_cache=None, load=LoadOptions(verify=0.01)) as cache:
        path = cache._core.loads.path
        path.random_fraction = lambda: next(chances)
        monkeypatch.setattr(
            type(path.verifications), "begin", lambda *arguments: chosen.append(arguments[1:3])
        )
        facade = aio.IntelligentCache.of(cache)

        @cache.cached(name="f", key_func=(lambda x: f"k{x}") if how == "key_func" else None)
        def f(x: int) -> Any:
            return world.ask()

        async def load() -> Any:
            return world.ask()

        async def awaited() -> None:
            for _ in range(41):
                await facade.get_or_set("k", load)

        if how == "awaited":
            asyncio.run(awaited())
        for _ in range(0 if how == "awaited" else 41):
            cache.get_or_set("k", world.ask) if how == "get_or_set" else f(1)
    assert len(chosen) == 20
    assert len(world.calls) == 1
    names = {
        "get_or_set": f"{__name__}.World.ask",
        "awaited": f"{__name__}.test_the_share_of_hits.<locals>.load",
    }
    assert {name for name, _ in chosen} == {names.get(how, "f")}


def test_regions_name_the_loaders_of_their_callers(cache: IntelligentCache, world: World) -> None:
    """And not their own function, under which one loader would take the turns of all others."""
    region = cache.region("r:", dict)
    facade = aio.IntelligentCache.of(cache).region("a:", dict)

    def other() -> Any:
        return world.ask()

    async def awaited() -> Any:
        return world.ask()

    async def main() -> None:
        for _ in range(2):
            await facade.get_or_set("k", awaited)
        while len(cache.verifications()) < 3 or counts(cache)[0] < 3:
            await asyncio.sleep(0)

    for _ in range(2):
        region.get_or_set("k", world.ask)
        region.get_or_set("other", other)
    finish()
    asyncio.run(main())
    here = "test_regions_name_the_loaders_of_their_callers.<locals>"
    names = {f"{__name__}.World.ask", f"{__name__}.{here}.other", f"{__name__}.{here}.awaited"}
    assert cache.verifications() == dict.fromkeys(names, Verified(1, 0))


def test_the_fast_path_keeps_what_it_finds(cache: IntelligentCache, clock: ManualClock, world: World) -> None:
    """A hit that is verified is a hit like any other, and counts once."""

    @cache.cached(name="f")
    def f(x: int) -> Any:
        return world.ask()

    for _ in range(5):
        f(1)
        finish()
        clock.advance(1)
    assert tuple(f.cache_info()) == (4, 1, 1)
    assert counts(cache) == (4, 0)


def test_one_at_a_time_for_each_function(cache: IntelligentCache, clock: ManualClock) -> None:
    """While one runs, hits of the same function are not verified, and those of another one are."""
    go, calls = threading.Event(), []

    def make(name: str) -> Callable[[int], int]:
        @cache.cached(name=name)
        def f(x: int) -> int:
            calls.append((name, x))
            if threading.current_thread().name == "cachekit-load":
                go.wait(60)
            return x

        return f

    one, two = make("one"), make("two")
    for x in range(3):
        one(x), two(x)
    calls.clear()
    for _ in range(5):
        for x in range(3):
            one(x), two(x)
            clock.advance(10)
    go.set()
    finish()
    assert sorted(calls) == [("one", 0), ("two", 0)]
    assert counts(cache) == (2, 0)


def test_the_budget_is_kept_under_a_slow_function(clock: ManualClock) -> None:
    """After a verification of ten seconds the next one begins when these are 5 % of the time."""
    began = []
    with IntelligentCache(MemoryCache(clock=clock), file_cache=None, default_ttl=FOREVER) as cache:

        @cache.cached(name="slow", load=LoadOptions(verify=1.0, verify_budget=0.05))
        def slow() -> int:
            began.append(clock.monotonic())
            clock.advance(10)
            return 1

        slow()
        start = clock.monotonic()
        for _ in range(100):
            slow()
            finish()
            clock.advance(10)
        taken = clock.monotonic() - start
    pauses = [later - earlier for earlier, later in pairwise(began[1:])]
    assert pauses
    assert min(pauses) >= 200
    assert 10 * len(began[1:]) / taken <= 0.06


def test_at_most_ten_a_second(cache: IntelligentCache, clock: ManualClock, world: World) -> None:
    cache.get_or_set("k", world.ask)
    for _ in range(100):
        cache.get_or_set("k", world.ask)
        finish()
        clock.advance(0.01)
    assert 9 <= len(world.calls) - 1 <= 10


def test_a_load_that_fails_is_no_mismatch(
    cache: IntelligentCache, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor is its text in the log."""
    cache.get_or_set("k", world.ask)
    world.state = ValueError("a secret")
    with caplog.at_level(logging.WARNING, "cachekit"):
        cache.get_or_set("k", world.ask)
        finish()
    assert counts(cache) == (0, 0)
    assert cache.get_stats()["combined"].load_failures == 1
    assert "was not verified, because its load failed: ValueError" in caplog.text
    assert "a secret" not in caplog.text


@pytest.mark.parametrize(
    "invalidate",
    [
        lambda cache: cache.delete("k"),
        lambda cache: cache.set("k", "other"),
        lambda cache: cache.invalidate_by_tags({"tag"}),
        lambda cache: cache.invalidate_by_pattern("k"),
        lambda cache: cache.clear(),
        lambda cache: cache.touch("k", 5),
        lambda cache: cache.close(),
    ],
    ids=["delete", "set", "tags", "pattern", "clear", "touch", "close"],
)
@pytest.mark.parametrize("tiers", ["memory", "file", "redis"])
def test_an_invalidation_meanwhile_is_no_mismatch(
    invalidate: Callable[[IntelligentCache], Any], tiers: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Nothing is compared, told or replaced, whatever the load returns."""
    begun, go, told = threading.Event(), threading.Event(), []
    load = LoadOptions(
        verify=1.0, verify_budget=1.0, verify_action="replace", on_mismatch=lambda *what: told.append(what)
    )
    file = FileCache(tmp_path, 1) if tiers == "file" else None
    redis = None
    if tiers == "redis":
        redis = RedisCache(url=request.getfixturevalue("redis_url"), key_prefix="verify:")
        redis.clear()
    with IntelligentCache(MemoryCache(), redis, file, load=load) as cache:
        first = [True]

        def loader() -> str:
            if first:
                first.clear()
                return "old"
            begun.set()
            go.wait(60)
            return "new"

        cache.get_or_set("k", loader, tags={"tag"})
        assert cache.get_or_set("k", loader, tags={"tag"}) == "old"
        assert begun.wait(60)
        invalidate(cache)
        go.set()
        finish()
        assert counts(cache) == (0, 0)
        assert told == []


def test_an_entry_that_is_evicted_meanwhile_is_not_compared() -> None:
    """What is not in memory any more may have been replaced elsewhere."""
    values = iter(["old", "new"])
    with IntelligentCache(MemoryCache(max_size=1), file_cache=None, load=ALWAYS) as cache:

        def loader() -> str:
            value = next(values)
            if value == "new":
                cache.set("other", 1)
            return value

        assert [cache.get_or_set("k", loader), cache.get_or_set("k", loader)] == ["old", "old"]
        finish()
        assert not cache.contains("k")
        assert counts(cache) == (0, 0)


@pytest.mark.parametrize("action", ["report", "replace"])
@pytest.mark.parametrize("tiers", ["memory", "file", "redis"])
def test_what_happens_to_a_difference(
    action: Any, tiers: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """It is handed on, and with "replace" every tier has the fresh value, its tags and its life."""
    told = []
    load = LoadOptions(
        verify=1.0, verify_budget=1.0, verify_action=action, on_mismatch=lambda *what: told.append(what)
    )
    file = FileCache(tmp_path, 1) if tiers == "file" else None
    redis = None
    if tiers == "redis":
        redis = RedisCache(url=request.getfixturevalue("redis_url"), key_prefix="verified:")
        redis.clear()
    world = World()
    with IntelligentCache(MemoryCache(), redis, file, load=load) as cache:
        for state in (1, 2):
            world.state = state
            cache.get_or_set("k", world.ask, ttl=50, tags={"tag"})
        finish()
        expected = {"answer": 2 if action == "replace" else 1, "same": "always"}
        for level in (
            CacheLevel.MEMORY,
            *([CacheLevel.FILE] if file else []),
            *([CacheLevel.REDIS] if redis else []),
        ):
            assert cache.get("k", cache_level=level) == expected
        remaining = cache.explain("k").remaining
        assert remaining is not None
        assert 0 < remaining <= 50
        assert cache.explain("k").tags == {"tag"}
        assert counts(cache) == (1, 1)
    assert told == [("k", {"answer": 1, "same": "always"}, {"answer": 2, "same": "always"})]


def test_what_must_not_be_stored_is_not_put_in_place(clock: ManualClock) -> None:
    """`store_if` and `ttl` decide about the fresh value too; the old one is known to be wrong."""
    values = iter([1, 0, 3])
    load = LoadOptions(verify=1.0, verify_action="replace")
    with IntelligentCache(MemoryCache(clock=clock), file_cache=None) as cache:

        @cache.cached(name="f", load=load, store_if=bool)
        def f() -> int:
            return next(values)

        assert [f(), f()] == [1, 1]
        finish()
        assert not cache.contains(f.key())
        assert f() == 3


def test_a_fresh_value_that_cannot_be_stored_is_still_handed_on(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says of both that there is a difference, and that the old value is still in place."""
    told = []
    values: Iterator[Any] = iter([1, iter(()), 1])
    load = LoadOptions(
        verify=1.0, verify_budget=1.0, verify_action="replace", on_mismatch=lambda *what: told.append(what)
    )
    with IntelligentCache(MemoryCache(clock=clock), file_cache=None, load=load) as cache:
        with caplog.at_level(logging.WARNING, "cachekit"):
            assert [cache.get_or_set("k", lambda: next(values)) for _ in range(2)] == [1, 1]
            finish()
        assert [(key, cached) for key, cached, _ in told] == [("k", 1)]
        assert counts(cache) == (1, 1)
        assert cache.get("k") == 1
    assert "differs from a fresh load in the type of the result" in caplog.text
    assert "could not be handled: " in caplog.text


def test_a_forked_child_verifies_though_its_parent_was_verifying(
    cache: IntelligentCache, clock: ManualClock
) -> None:
    began, go, slow = threading.Event(), threading.Event(), threading.Event()

    @cache.cached(name="f")
    def f() -> int:
        if slow.is_set():
            began.set()
            assert go.wait(60)
        return 1

    f()
    slow.set()
    f()
    assert began.wait(60)

    def verify() -> None:
        slow.clear()
        clock.advance(1)
        f()
        finish()
        assert counts(cache) == (1, 0)

    try:
        assert in_fork(verify)() == 0
    finally:
        go.set()
    finish()
    assert counts(cache) == (1, 0)


def test_results_that_callers_change(clock: ManualClock) -> None:
    """The cache serves the changed object, which is a wrong answer. Copies keep it right."""
    for copy, expected in ((False, (1, 1)), (True, (1, 0))):
        with IntelligentCache(MemoryCache(clock=clock), file_cache=None, load=ALWAYS) as cache:
            f = cache.cached(name="f", copy=copy)(lambda: [1])
            f().append(2)
            assert f() == ([1] if copy else [1, 2])
            finish()
            assert counts(cache) == expected
            remedies = [reason.remedy for reason in cache.health().reasons if reason.cause == "mismatches"]
            assert [remedy.endswith("use copy=True") for remedy in remedies] == [True] * expected[1]


def test_functions_that_decide_what_is_stored_are_verified_if_asked_for(cache: IntelligentCache) -> None:
    calls = []

    def make(**options: Any) -> Any:
        @cache.cached(store_if=lambda _: True, **options)
        def f() -> int:
            calls.append(options["name"])
            return 1

        return f

    unasked, asked = make(name="unasked"), make(name="asked", load=ALWAYS)
    for f in (unasked, asked):
        f(), f(), f()
        finish()

    def load() -> int:
        calls.append("key")
        return 1

    cache.get_or_set("k", load, store_if=bool)
    cache.get_or_set("k", load, store_if=bool)
    finish()
    assert calls == ["unasked", "asked", "asked", "key"]
    cache.get_or_set("k", load, store_if=bool, load=ALWAYS)
    finish()
    assert calls[4:] == ["key"]


def test_errors_of_the_users_functions_are_logged(
    clock: ManualClock, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """A comparison that fails is no mismatch; a listener that fails leaves it counted."""

    def fail(*_: object) -> bool:
        raise RuntimeError("a secret")

    with caplog.at_level(logging.WARNING, "cachekit"):
        for load, expected in (
            (LoadOptions(verify=1.0, same=fail), (0, 0)),
            (LoadOptions(verify=1.0, on_mismatch=fail), (1, 1)),
        ):
            world.state = 1
            with IntelligentCache(MemoryCache(clock=clock), file_cache=None, load=load) as cache:
                cache.get_or_set("k", world.ask)
                world.state = 2
                cache.get_or_set("k", world.ask)
                finish()
                assert counts(cache) == expected
    assert (
        "cannot be verified, because a comparison raised RuntimeError; pass same= to LoadOptions"
        in caplog.text
    )
    assert "could not be handled: RuntimeError" in caplog.text
    assert "a secret" not in caplog.text


def test_same_decides(clock: ManualClock, world: World) -> None:
    load = LoadOptions(verify=1.0, verify_budget=1.0, same=lambda one, other: abs(one - other) < 0.1)
    with IntelligentCache(MemoryCache(clock=clock), file_cache=None, load=load) as cache:
        values = iter([1.0, 1.05, 2.0])
        for _ in range(3):
            cache.get_or_set("k", lambda: next(values))
            finish()
            clock.advance(1)
        assert counts(cache) == (2, 1)


def test_coroutines(clock: ManualClock, world: World) -> None:
    """In a task of the loop, or in a thread for a plain loader; a closed loop ends it."""

    async def ask() -> Any:
        await asyncio.sleep(0)
        return world.ask()

    async def main() -> None:
        async with aio.IntelligentCache(MemoryCache(clock=clock), file_cache=None, load=ALWAYS) as cache:
            cached = cache.cached(name="f")(ask)
            for _ in range(2):
                await cached()
                await cache.get_or_set("k", ask)
                await cache.get_or_set("plain", world.ask)
            while counts(cache.sync)[0] < 3:
                await asyncio.sleep(0)
            world.state = 2
            clock.advance(1)
            await cached()
            while counts(cache.sync)[0] < 4:
                await asyncio.sleep(0)
            assert counts(cache.sync) == (4, 1)
            assert cache.verifications()["f"] == Verified(2, 1)
            clock.advance(1)
            await cached()  # and the loop ends

    asyncio.run(main())


def test_a_cancelled_verification_lets_the_next_one_begin(clock: ManualClock) -> None:
    """Its task ends with the loop."""
    with IntelligentCache(MemoryCache(clock=clock), file_cache=None, load=ALWAYS) as sync:
        calls = []

        async def hang() -> int:
            calls.append(1)
            if len(calls) == 2:
                await asyncio.Event().wait()
            return 1

        async def main() -> None:
            facade = aio.IntelligentCache.of(sync)
            for _ in range(2):
                await facade.get_or_set("k", hang)
            await asyncio.sleep(0)
            while len(calls) < 2:
                await asyncio.sleep(0)

        async def again() -> None:
            facade = aio.IntelligentCache.of(sync)
            await facade.get_or_set("k", hang)
            while counts(sync)[0] < 1:
                await asyncio.sleep(0)

        asyncio.run(main())
        clock.advance(100)
        asyncio.run(again())
        assert len(calls) == 3


def test_an_entry_of_a_lower_tier(tmp_path: Path) -> None:
    """A hit in files is promoted, and verified like one in memory."""
    world = World()
    with FileCache(tmp_path, 1) as files:
        with IntelligentCache(MemoryCache(), file_cache=files, close_tiers=False) as first:
            first.get_or_set("k", world.ask)
        world.state = 2
        with IntelligentCache(MemoryCache(), file_cache=files, load=ALWAYS, close_tiers=False) as second:
            assert second.get_or_set("k", world.ask)["answer"] == 1
            finish()
            assert counts(second) == (1, 1)


def test_not_inside_a_cassette(cache: IntelligentCache, world: World, tmp_path: Path) -> None:
    with cassette(tmp_path / "answers.jsonl"):
        for _ in range(3):
            cache.get_or_set("k", world.ask)
        finish()
    assert len(world.calls) == 1


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"verify": 1.5}, ValueError, "verify is the share of hits, from 0 to 1, not 1.5"),
        ({"verify": -0.1}, ValueError, "verify is the share of hits, from 0 to 1"),
        ({"verify": float("nan")}, ValueError, "verify is the share of hits"),
        ({"verify": True}, TypeError, "verify must be a number, not True"),
        ({"verify_budget": 0}, ValueError, "verify_budget is the share of time"),
        ({"verify_budget": "all"}, TypeError, "verify_budget must be a number"),
        (
            {"verify_action": "delete"},
            ValueError,
            "verify_action must be 'report' or 'replace', not 'delete'",
        ),
        ({"same": 5}, TypeError, "same must be a function"),
        ({"on_mismatch": "print"}, TypeError, "on_mismatch must be a function"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        LoadOptions(**arguments)


def test_verify_needs_memory(tmp_path: Path) -> None:
    with FileCache(tmp_path, 1) as files, pytest.raises(ValueError, match="verify needs a memory tier"):
        IntelligentCache(None, file_cache=files, load=ALWAYS)


def test_options_pickle_and_compare() -> None:
    options = LoadOptions(verify=0.5, same=max, verify_action="replace")
    assert pickle.loads(pickle.dumps(options)) == options
    assert options != LoadOptions(verify=0.5)
    assert "verify=0.5" in repr(options)
    assert options.shared_by("process").same is max


def test_the_results_of_functions_are_bounded(
    cache: IntelligentCache, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the bound they begin again; the statistics of the cache count on."""
    monkeypatch.setattr("cachekit.loading.verification._MOST", 3)
    for number in range(8):
        function = cache.cached(name=f"f{number}")(world.ask)
        function(1)
        function(1)
        finish()
    assert cache.verifications() == {"f6": Verified(1, 0), "f7": Verified(1, 0)}
    assert counts(cache) == (8, 0)


def test_a_signal_handler_verifies_a_hit_in_the_middle_of_another_one(
    cache: IntelligentCache, clock: ManualClock
) -> None:
    """At each line: no lock is taken that the same thread may hold already."""
    cache.set("k", 1)

    def hit(*_: object) -> None:
        clock.advance(1)  # it is due
        assert cache.get_or_set("k", lambda: 1) == 1

    number, came = 1, True
    with handled_by(hit):
        while came:
            came = at_line(number, verification, lambda: signal.raise_signal(signal.SIGUSR1), hit)
            finish()
            number += 1
    assert number > 10
    assert counts(cache)[0] >= number
