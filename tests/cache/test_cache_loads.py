"""get_or_set under threads: one load, errors for everyone, no deadlock, no stale value kept."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import inside
import pytest
from drivers import Driver
from racing import frequent_switches, in_thread, race

from cachekit import IntelligentCache, MemoryCache, SerializationError
from cachekit.loading.flights import Flight, FlightTable
from cachekit.runtime.outcome import Outcome
from cachekit.tiers.base import Fence


@pytest.fixture
def cache() -> Iterator[IntelligentCache]:
    with IntelligentCache(MemoryCache(), file_cache=None) as cache:
        yield cache


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> threading.Semaphore:
    """Released each time a caller begins to wait for another one's load."""
    semaphore = threading.Semaphore(0)
    wait = Flight.wait

    def announced(flight: Flight[Any], seconds: float | None = None) -> Outcome[Any]:
        semaphore.release()
        return wait(flight, seconds)

    monkeypatch.setattr(Flight, "wait", announced)
    return semaphore


def test_one_load_for_many_callers(cache: IntelligentCache, joined: threading.Semaphore) -> None:
    """Ten threads ask at once; the loader runs once, and all get its value."""
    loads: list[int] = []

    def loader() -> list[str]:
        for _ in range(9):
            assert joined.acquire(timeout=60)  # all the others wait for this one
        loads.append(1)
        return ["value"]

    results = race(*[lambda: cache.get_or_set("k", loader)] * 10)
    assert loads == [1]
    assert all(result is results[0] for result in results)
    stats = cache.get_stats()["combined"]
    assert (stats.requests, stats.request_hits, stats.sets) == (10, 0, 1)


def test_an_error_reaches_everyone_and_is_not_kept(
    cache: IntelligentCache, joined: threading.Semaphore
) -> None:
    """All waiters get the loader's exception; the next caller loads again."""

    def failing() -> int:
        for _ in range(4):
            assert joined.acquire(timeout=60)
        raise LookupError("not today")

    def ask() -> str:
        try:
            return str(cache.get_or_set("k", failing))
        except LookupError as error:
            return f"error: {error}"

    assert race(*[ask] * 5) == ["error: not today"] * 5
    assert cache.get_or_set("k", lambda: 1) == 1


def test_an_interrupted_leader_hands_over(cache: IntelligentCache, joined: threading.Semaphore) -> None:
    """KeyboardInterrupt is the leader's own; a waiter takes the load over."""

    def interrupted() -> int:
        assert joined.acquire(timeout=60)
        raise KeyboardInterrupt

    leading = threading.Event()

    def lead() -> str:
        def loader() -> int:
            leading.set()
            return interrupted()

        try:
            cache.get_or_set("k", loader)
        except KeyboardInterrupt:
            return "interrupted"
        return "loaded"

    leader = in_thread(lead)
    assert leading.wait(60)
    assert cache.get_or_set("k", lambda: 2) == 2
    assert leader() == "interrupted"
    assert cache.get("k") == 2


@pytest.mark.parametrize(
    "invalidate",
    [
        lambda cache: cache.delete("user:1"),
        lambda cache: cache.set("user:1", "new"),
        lambda cache: cache.clear(),
        lambda cache: cache.invalidate_by_pattern("user:"),
        lambda cache: cache.invalidate_by_tags({"users"}),
        lambda cache: cache.delete_many(["user:1"]),
        lambda cache: cache.set_many({"user:1": "new"}),
        lambda cache: cache.touch("user:1"),
        lambda cache: cache.set("user:1", "new", ttl=0),
    ],
)
def test_an_invalidation_during_a_load_wins(
    cache: IntelligentCache, invalidate: Callable[[IntelligentCache], object]
) -> None:
    """P4: it returned while the load was under way, of a key that was not stored; the load is not kept."""
    began, go_on = threading.Event(), threading.Event()

    def loader() -> str:
        began.set()
        assert go_on.wait(60)
        return "old"

    load = in_thread(lambda: cache.get_or_set("user:1", loader, tags={"users"}))
    assert began.wait(60)
    invalidate(cache)
    # A caller that comes now does not join the old load.
    assert cache.get_or_set("user:1", lambda: "new") == "new"
    go_on.set()
    assert load() == "old", "its own caller still gets what it loaded"
    assert cache.get("user:1") == "new"
    assert cache.get_stats()["memory"].refusals == 1


def test_a_load_that_landed_just_before_is_not_repeated(
    cache: IntelligentCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between a caller's miss and its taking the lead another load may land; the leader looks again."""
    join = FlightTable.join

    def late(table: FlightTable[Any], key: str, fence: Fence, loop: None) -> tuple[Flight[Any], bool]:
        monkeypatch.undo()
        assert cache.get_or_set("k", lambda: "first") == "first"
        return join(table, key, fence, loop)

    monkeypatch.setattr(FlightTable, "join", late)
    assert cache.get_or_set("k", lambda: "second") == "first"


def test_a_load_may_ask_for_its_own_key(cache: IntelligentCache) -> None:
    """A re-entrant load runs by itself instead of waiting for itself."""
    assert cache.get_or_set("k", lambda: cache.get_or_set("k", lambda: 1) + 1) == 2


def test_crossing_loads_do_not_deadlock(cache: IntelligentCache) -> None:
    """Two loads that need each other's key, each begun before the other asks."""
    both = threading.Barrier(2)

    def load(mine: str, other: str) -> str:
        def loader() -> str:
            both.wait(60)
            return mine + cache.get_or_set(other, lambda: other)

        return cache.get_or_set(mine, loader)

    results = race(lambda: load("a", "b"), lambda: load("b", "a"))
    assert results[0].startswith("a")
    assert results[1].startswith("b")


def test_a_ring_of_loads_does_not_deadlock(cache: IntelligentCache) -> None:
    """Five loads, each needing the next one's key."""
    size = 5
    all_begun = threading.Barrier(size)

    def load(number: int) -> int:
        def loader() -> int:
            all_begun.wait(60)
            return number + cache.get_or_set(f"k{(number + 1) % size}", lambda: 100)

        return cache.get_or_set(f"k{number}", loader)

    race(*[lambda number=number: load(number) for number in range(size)])


def test_crossing_loads_in_two_caches_do_not_deadlock(cache: IntelligentCache) -> None:
    """Who waits for whom is known across caches."""
    with IntelligentCache(file_cache=None) as other:
        both = threading.Barrier(2)

        def load(first: IntelligentCache, second: IntelligentCache) -> int:
            def loader() -> int:
                both.wait(60)
                return second.get_or_set("k", lambda: 1)

            return first.get_or_set("k", loader)

        race(lambda: load(cache, other), lambda: load(other, cache))


def test_many_keys_one_call(cache: IntelligentCache, joined: threading.Semaphore) -> None:
    """A batch loads what is neither there nor being loaded, in one call, and waits for the rest."""
    cache.set("have", "had")
    began = threading.Event()

    def slow() -> str:
        began.set()
        assert joined.acquire(timeout=60)
        return "loaded elsewhere"

    elsewhere = in_thread(lambda: cache.get_or_set("loading", slow))
    assert began.wait(60)
    calls: list[list[str]] = []

    def loader(keys: list[str]) -> dict[str, str]:
        calls.append(keys)
        return dict.fromkeys(keys, "loaded here")

    values = cache.get_or_set_many(["x", "loading", "have", "y"], loader)
    assert values == {"x": "loaded here", "loading": "loaded elsewhere", "have": "had", "y": "loaded here"}
    assert calls == [["x", "y"]]
    assert elsewhere() == "loaded elsewhere"


def test_batches_that_overlap_both_ways_do_not_deadlock(cache: IntelligentCache) -> None:
    """Each lands its own keys before it waits for the other's."""

    def batch(keys: list[str]) -> dict[str, str]:
        return cache.get_or_set_many(keys, lambda wanted: {key: key for key in wanted})

    with frequent_switches():
        for _ in range(200):
            race(lambda: batch(["a", "b", "c"]), lambda: batch(["c", "b", "a"]))
            cache.clear()


def test_a_batch_that_fails_fails_for_all(cache: IntelligentCache) -> None:
    """Nothing of it is kept, and no flight is left behind."""

    def failing(keys: list[str]) -> dict[str, int]:
        raise OSError("backend down")

    with pytest.raises(OSError, match="backend down"):
        cache.get_or_set_many(["a", "b"], failing)
    assert cache.get_or_set("a", lambda: 1) == 1
    assert len(inside.flights(cache)) == 0


def test_a_batch_loads_what_is_missing(cache: IntelligentCache, driver: Driver) -> None:
    """By one call, in order; keys that the loader leaves out are missing from the answer."""
    asked: list[list[str]] = []

    def load(keys: list[str]) -> dict[str, int]:
        asked.append(keys)
        return {key: ord(key) for key in keys if key != "z"}

    cache.set("b", 0)
    found = driver.load(cache, ["a", "b", "z", "c", "a"], load)
    assert list(found.items()) == [("a", 97), ("b", 0), ("c", 99)]
    assert asked == [["a", "z", "c"]]
    assert cache.get_many(["a", "c", "z"]) == {"a": 97, "c": 99}


def test_a_batch_loader_is_held_to_its_word(
    cache: IntelligentCache, driver: Driver, subtests: pytest.Subtests
) -> None:
    """Surplus keys, no mapping, or one-shot values are errors that say so; nothing is kept."""
    rows: list[tuple[Callable[[list[str]], Any], type[Exception], str]] = [
        (lambda keys: {"a": 1, "surplus": 1}, ValueError, "keys that it was not asked for: key #"),
        (lambda keys: ["a"], TypeError, "loader must return a mapping from key to value, not a list"),
        (lambda keys: {"a": iter([])}, SerializationError, "list_iterator"),
    ]
    for loader, kind, words in rows:
        with subtests.test(words=words), pytest.raises(kind, match=words):
            driver.load(cache, ["a"], loader)
    assert cache.get_many(["a", "surplus"]) == {}
    assert len(inside.flights(cache)) == 0


def test_a_key_that_a_batch_leaves_out_sends_its_waiters_on(
    cache: IntelligentCache, joined: threading.Semaphore
) -> None:
    """A caller that waited for it loads it by itself."""
    began = threading.Event()

    def loader(keys: list[str]) -> dict[str, int]:
        began.set()
        assert joined.acquire(timeout=60)
        return {}

    batch = in_thread(lambda: cache.get_or_set_many(["k"], loader))
    assert began.wait(60)
    assert cache.get_or_set("k", lambda: 7) == 7
    assert batch() == {}


def test_one_shot_results_are_refused(cache: IntelligentCache) -> None:
    """A generator or a coroutine would be empty for the second caller."""

    async def coroutine() -> int:
        return 1

    for loader, word in [(lambda: (x for x in "ab"), "generator"), (coroutine, "coroutine")]:
        with pytest.raises(SerializationError, match=word):
            cache.get_or_set("k", loader)
    with pytest.raises(SerializationError, match="generator"):
        cache.set("k", (x for x in "ab"))
    assert not cache.contains("k")


def test_none_is_a_value(cache: IntelligentCache) -> None:
    """A loader's None is kept like any other answer."""
    calls: list[int] = []
    for _ in range(3):
        assert cache.get_or_set("k", lambda: calls.append(1)) is None
    assert len(calls) == 1
    assert cache.get("k", "default") is None


def test_a_stampede_under_constant_invalidation(cache: IntelligentCache) -> None:
    """Under sets and deletes from all sides no caller reads a value older than a finished write."""
    newest = [0]
    lock = threading.Lock()

    def write() -> None:
        for _ in range(1500):
            with lock:
                newest[0] += 1  # the database
                version = newest[0]
            if version % 2:
                cache.delete("k")
            else:
                cache.invalidate_by_tags({"t"})
            written[0] = version

    written = [0]
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            at_least = written[0]
            assert cache.get_or_set("k", lambda: newest[0], tags={"t"}) >= at_least

    with frequent_switches():
        readers = [in_thread(read) for _ in range(4)]
        write()
        stop.set()
        for finish in readers:
            finish()
    assert len(inside.flights(cache)) == 0
