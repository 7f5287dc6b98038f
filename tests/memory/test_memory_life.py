"""The sweep, forks, pickling, closing; and arguments that are refused."""

from __future__ import annotations

import gc
import math
import os
import pickle
import sys
import threading
import traceback
import weakref
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import inside
import pytest
from forking import in_fork
from free_threads import lock_free_hits
from redis_server import wait_until

from cachekit import FOREVER, CacheEntry, CacheStrategy, MemoryCache, RemovalCause, SerializationError
from cachekit.monitoring import watching
from cachekit.runtime.scheduler import scheduler
from cachekit.testing import ManualClock


def upkeep_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "cachekit-upkeep"]


@pytest.fixture(autouse=True)
def nobody_left() -> None:
    """What earlier tests did not close has been collected, and the thread has seen it.

    Caches of modules stay, and their figures are not published any more.
    """
    gc.collect()
    for watch in list(watching._watches.values()):
        watch._end()
    it_ends()


def it_ends() -> None:
    """Nothing is left to do, so the thread ends."""
    try:
        wait_until(lambda: not upkeep_threads(), "the thread of upkeep has ended")
    except AssertionError:
        frames = sys._current_frames()
        busy = [frames[one.ident] for one in upkeep_threads() if one.ident in frames]
        stacks = "\n".join("".join(traceback.format_stack(frame)) for frame in busy)
        pytest.fail(f"still to do: {[one.method() for one in scheduler._tasks]}\n{stacks}")


def test_expired_entries_are_swept_without_being_asked_for() -> None:
    """Upkeep gives their memory back, and tells the listeners."""
    cache = MemoryCache(cleanup_interval=0.01)
    swept = threading.Event()
    cache.on_removal(lambda key, value, cause: swept.set() if cause is RemovalCause.EXPIRED else None)
    cache.set_value("k", 1, ttl=0.001)
    assert swept.wait(60)
    assert cache.size() == 0
    assert cache.get_stats().expirations == 1
    cache.close()
    it_ends()


def test_no_thread_without_need() -> None:
    """Making a cache, and entries that never expire, start nothing."""
    with MemoryCache() as cache:
        cache.set_value("k", 1)
        assert upkeep_threads() == []
        cache.set_value("k", 1, ttl=60)
        assert len(upkeep_threads()) == 1
    it_ends()


def test_one_thread_for_all_caches() -> None:
    """The thread is the process's, and goes with the last cache."""
    first, second = MemoryCache(), MemoryCache()
    first.set_value("k", 1, ttl=60)
    second.set_value("k", 1, ttl=60)
    assert len(upkeep_threads()) == 1
    first.close()
    assert len(upkeep_threads()) == 1
    second.close()
    it_ends()


def test_a_forgotten_cache_is_collected() -> None:
    """Neither upkeep nor the registry of forks keeps a cache alive that was not closed."""
    cache = MemoryCache(cleanup_interval=1000)
    cache.set_value("k", 1, ttl=60)

    def has_nothing_to_do() -> bool:
        with scheduler._lock:  # or it might have noted that it waits, and still hold the lock
            return bool(scheduler._wake._waiters)  # type: ignore[attr-defined]

    wait_until(has_nothing_to_do, "the thread waits")
    gone = weakref.ref(inside.store(cache))
    del cache
    gc.collect()
    assert gone() is None
    it_ends()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_forked_child_goes_on() -> None:
    """Entries, writes and the sweep work in parent and child, also when a thread was writing."""
    cache = MemoryCache(max_size=100, cleanup_interval=0.01)
    cache.set_value("inherited", 1, ttl=60)
    stop = threading.Event()

    def keep_writing() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            cache.set_value(f"k{number % 50}", number, tags={"t"})

    def child() -> None:
        swept = threading.Event()
        cache.on_removal(lambda *_: swept.set())
        cache._check()
        assert cache.get_value("inherited") == 1
        cache.set_value("short", 1, ttl=0.001)
        assert swept.wait(60)

    writer = threading.Thread(target=keep_writing)
    writer.start()
    statuses: list[int] = []
    try:
        statuses += [in_fork(child)() for _ in range(20)]
    finally:
        stop.set()
        writer.join()
    assert statuses == [0] * 20
    cache.set_value("k", 1)
    cache._check()
    cache.close()


def test_pickling_carries_the_configuration() -> None:
    """The copy is an empty cache of the same make."""
    clock = ManualClock()
    cache = MemoryCache(7, CacheStrategy.LRU, timedelta(minutes=1), cleanup_interval=None, clock=clock)
    cache.set_value("k", 1)
    copy = pickle.loads(pickle.dumps(cache))
    assert (copy.max_size, copy.strategy, copy.default_ttl, copy.size()) == (7, CacheStrategy.LRU, 60.0, 0)
    assert copy._cleanup_interval is None
    assert repr(MemoryCache(3)) == "MemoryCache(max_size=3, default_ttl=None, size=0)"


def test_values_are_freed_when_entries_leave() -> None:
    """A value ends with its entry, also if something still refers to the entry."""

    class Value:
        pass

    cache = MemoryCache(max_size=1)
    for leave in (cache.clear, lambda: cache.delete("k"), lambda: cache.set_value("other", 1)):
        value = Value()
        gone = weakref.ref(value)
        cache.set_value("k", value)
        held = inside.store(cache).held("k")
        del value
        leave()
        assert gone() is None
        assert held is not None
        cache.clear()


def test_fences_that_are_forgotten_cost_nothing() -> None:
    """A load that never comes back leaves nothing behind."""
    cache = MemoryCache()
    fences = [cache.fence(f"k{number}") for number in range(100)]
    assert len(inside.fences(cache)) == 100
    fences.clear()
    assert len(inside.fences(cache)) == 0


def test_memory_usage_follows_what_is_held() -> None:
    """The estimate is in the right range, and 0 for nothing."""
    cache = MemoryCache(max_size=10_000)
    assert cache.memory_usage() == 0
    for number in range(2000):
        cache.set_value(f"key{number}", b"x" * 1000)
    assert 2000 * 1000 < cache.memory_usage() < 2000 * 1500


@lock_free_hits
def test_latency_is_sampled() -> None:
    """There is a plausible figure after the first hit, and none before."""
    cache = MemoryCache()
    cache.set_value("k", 1)
    assert cache.get_stats().latency_p50 == 0
    cache.get_value("k")
    stats = cache.get_stats()
    assert 0 < stats.latency_p50 <= stats.latency_p99 < 1


def test_wrong_arguments_are_named(subtests: pytest.Subtests) -> None:
    """The message names the argument, the value and the remedy."""
    rows: list[tuple[Callable[[], Any], type[Exception], list[str]]] = [
        (lambda: MemoryCache(0), ValueError, ["max_size", "0", "at least 1"]),
        (lambda: MemoryCache(True), TypeError, ["max_size", "True"]),
        (lambda: MemoryCache("10"), TypeError, ["max_size", "'10'"]),  # type: ignore[arg-type]
        (lambda: MemoryCache(strategy="lru"), TypeError, ["strategy", "'lru'"]),  # type: ignore[arg-type]
        (lambda: MemoryCache(default_ttl=0), ValueError, ["default_ttl", "0"]),
        (lambda: MemoryCache(default_ttl=math.nan), ValueError, ["default_ttl", "NaN"]),
        (lambda: MemoryCache(cleanup_interval=0), ValueError, ["cleanup_interval", "0"]),
        (lambda: MemoryCache().set_value("k", 1, ttl="60"), TypeError, ["ttl", "type str"]),  # type: ignore[arg-type]
        (lambda: MemoryCache().set_value("k", 1, ttl=math.nan), ValueError, ["ttl", "NaN"]),
        (lambda: MemoryCache().set_value("k", 1, ttl=True), TypeError, ["ttl", "True"]),
        (lambda: MemoryCache().set_value(1, 1), TypeError, ["key", "1", "int"]),  # type: ignore[arg-type]
        (lambda: MemoryCache().get_value([]), TypeError, ["key", "list"]),  # type: ignore[arg-type]
        (lambda: MemoryCache().get_value(1), TypeError, ["key", "1"]),  # type: ignore[arg-type]
        (lambda: MemoryCache().set_value("k", 1, tags="tag"), TypeError, ["tags", "{tag}"]),  # type: ignore[arg-type]
        (lambda: MemoryCache().set_value("k", 1, tags={1}), TypeError, ["tags", "1"]),  # type: ignore[arg-type]
        (lambda: MemoryCache().set("k", 1), TypeError, ["entry", "set_value"]),  # type: ignore[arg-type]
        (lambda: MemoryCache().set_value("k", iter([])), SerializationError, ["list_iterator", "list("]),
        (lambda: MemoryCache().invalidate_by_pattern("("), ValueError, ["regular expression", "re.escape"]),
        (lambda: MemoryCache().invalidate_by_pattern(b"x"), TypeError, ["pattern", "bytes"]),  # type: ignore[arg-type]
        (lambda: MemoryCache().on_removal(1), TypeError, ["listener", "1"]),  # type: ignore[arg-type]
        (lambda: MemoryCache().set_if("k", CacheEntry("k", 1), object()), TypeError, ["fence"]),  # type: ignore[arg-type]
    ]
    for make, kind, words in rows:
        with subtests.test(words=words):
            with pytest.raises(kind) as caught:
                make()
            for word in words:
                assert word in str(caught.value)


def test_a_subclass_of_str_is_a_str() -> None:
    """What a str subclass does to equality and hashing does not reach the store."""

    class Loud(str):
        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            raise AssertionError("compared")

        __hash__ = str.__hash__

    cache = MemoryCache()
    cache.set_value(Loud("k"), 1)
    assert [type(key) for key in list(cache.keys())] == [str]
    assert cache.get_value("k") == 1
    assert cache.set_value("k", 2, ttl=FOREVER) is True
