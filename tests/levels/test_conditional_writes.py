"""`add`, `update` and `begin`: one winner and no lost update, whichever tiers there are and who shares them.

Beyond the models: real threads, processes over a directory, caches over a server, and outages of tiers.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from coherent_caches import listening, open_cache
from racing import frequent_switches, race
from three_tiers import Make

from cachekit import (
    CacheStrategy,
    FileCache,
    IntelligentCache,
    MemoryCache,
    RedisCache,
    SerializationError,
    TierUnavailableError,
    ValueTooLargeError,
)
from cachekit.coherence import conditional_writes
from cachekit.testing import FaultyTier, ManualClock
from cachekit.testing.history import violations
from cachekit.testing.history_log import DONE, OPEN, HistoryLog, logged
from cachekit.testing.processes import in_processes
from cachekit.tiers.base import DirectoryTier, ServerTier

STACKS = ["memory", "policy", "memory and file", "file", "memory and redis", "redis", "all"]

#: What the tiers of a cache are made of: its directory, the server's address, and the prefix there.
Parts = tuple[Path, str, str]


def stack(name: str, parts: Parts, **more: Any) -> IntelligentCache:
    """A cache with the tiers of that name."""
    directory, url, prefix = parts
    memory = MemoryCache(strategy=CacheStrategy.LFU if name == "policy" else CacheStrategy.LRU)
    file = (
        FileCache(directory, 64, cleanup_interval=None)
        if name in {"memory and file", "file", "all"}
        else None
    )
    redis = None
    if name in {"memory and redis", "redis", "all"}:
        redis = RedisCache(url=url, key_prefix=prefix, timeout=20)
    return IntelligentCache(None if name in {"file", "redis"} else memory, redis, file, **more)


@pytest.fixture
def parts(tmp_path: Path, redis_url: str, prefix: str) -> Parts:
    return tmp_path / "cache", redis_url, prefix


@pytest.fixture(params=STACKS)
def cache(request: pytest.FixtureRequest, parts: Parts) -> Iterator[IntelligentCache]:
    with stack(request.param, parts) as made:
        yield made


def test_add(cache: IntelligentCache) -> None:
    """It stores where nothing is, and changes nothing else."""
    assert cache.add("k", 1, ttl=50, tags={"t"}) is True
    assert cache.add("k", 2, ttl=500) is False
    found = cache.explain("k")
    assert cache.get("k") == 1
    assert found.tags == {"t"}
    assert found.remaining is not None
    assert 0 < found.remaining <= 50
    cache.invalidate_by_tags({"t"})
    assert cache.add("k", 3) is True
    assert cache.delete("k")
    assert cache.add("k", None) is True
    assert cache.add("k", 4) is False  # None is a value
    cache.invalidate_by_pattern("k")
    assert cache.add("k", 5, ttl=0) is False
    assert cache.get("k") is None
    assert cache.add("k", 6, ttl=float("inf"))
    assert cache.get("k") == 6


def test_update(cache: IntelligentCache) -> None:
    """It replaces what it was called with, and keeps life and tags."""
    assert cache.update("n", lambda n: n + 1, 0, ttl=50, tags={"t"}) == 1
    assert cache.update("n", lambda n: n + 1, 0, ttl=5000, tags={"u"}) == 2
    found = cache.explain("n")
    assert cache.get("n") == 2
    assert found.tags == {"t", "u"}
    assert found.remaining is not None
    assert 0 < found.remaining <= 50
    cache.invalidate_by_tags({"t"})
    assert cache.get("n") is None
    assert cache.update("n", lambda n: n) is None
    assert cache.contains("n")

    def fails(n: Any) -> Any:
        raise LookupError(n)

    cache.set("n", 7)
    with pytest.raises(LookupError, match="7"):
        cache.update("n", fails)
    assert cache.get("n") == 7


def test_an_invalidation_during_an_update(cache: IntelligentCache) -> None:
    """The function is called again, with what is there by then."""
    for change, then in (
        (lambda: cache.delete("k"), "none"),
        (lambda: cache.invalidate_by_tags({"t"}), "none"),
        (lambda: cache.invalidate_by_pattern("k"), "none"),
        (lambda: cache.clear(), "none"),
        (lambda: cache.set("k", "newer"), "newer"),
    ):
        cache.set("k", "old", tags={"t"})
        seen: list[str] = []

        def function(value: str, change: Callable[[], Any] = change, seen: list[str] = seen) -> str:
            if not seen:
                change()
            seen.append(value)
            return f"{value}+"

        result = cache.update("k", function, "none")
        # Of a tag the server only learns from readers that the value has ended.
        assert seen in (["old", then], ["old"])
        assert cache.get("k", "none") == (result if len(seen) == 2 else "none")
        assert len(seen) == 2 or then == "none"


def test_begin(cache: IntelligentCache) -> None:
    """What was loaded since is stored, unless something came in between."""
    fill = cache.begin("k", tags={"t"})
    assert fill.store(1, ttl=50) is True
    assert cache.get("k") == 1
    assert cache.explain("k").tags == {"t"}
    assert fill.store(2) is False
    assert cache.get("k") == 1
    assert cache.begin("k").store(3) is True  # it replaces
    assert cache.get("k") == 3
    assert cache.begin("k").store(4, ttl=0) is False
    changes: list[Callable[[], object]] = [
        lambda: cache.delete("k"),
        lambda: cache.invalidate_by_tags({"t"}),
        lambda: cache.invalidate_by_pattern("k"),
        lambda: cache.clear(),
        lambda: cache.set("k", 5),
        lambda: cache.touch("k"),
        lambda: cache.update("k", lambda n: 6),
    ]
    for change in changes:
        cache.set("k", 0, tags={"t"})
        fill = cache.begin("k", tags={"t"})
        change()
        before = cache.get("k")
        assert fill.store(9) is False
        assert cache.get("k") == before


@pytest.mark.parametrize("name", STACKS[2:])
def test_an_invalidation_by_another_cache(name: str, parts: Parts) -> None:
    """Another process, or another host, comes between `begin` and `store`."""
    with stack(name, parts) as mine, stack(name, parts) as other:
        changes: list[Callable[[], object]] = [
            lambda: other.delete("k"),
            lambda: other.invalidate_by_tags({"t"}),
            lambda: other.invalidate_by_pattern("k"),
            lambda: other.clear(),
            lambda: other.set("k", 5),
            lambda: other.update("k", lambda n: 6, ttl=9),
        ]
        for change in changes:
            fill = mine.begin("k", tags={"t"})
            change()
            assert fill.store(9) is False
            assert mine.get("k") != 9
            assert other.get("k") != 9


@pytest.mark.parametrize("name", STACKS)
def test_threads(name: str, parts: Parts) -> None:
    """Of many at once one adds, and no update is lost."""
    with stack(name, parts) as cache, frequent_switches():
        for round_ in range(20):
            won = race(*[lambda n=n, r=round_: cache.add(f"k{r}", n) for n in range(6)])
            assert won.count(True) == 1
            assert cache.get(f"k{round_}") == won.index(True)

        def count() -> None:
            for _ in range(50):
                cache.update("n", lambda n: n + 1, 0)

        race(*[count] * 6)
        assert cache.get("n") == 300


@pytest.mark.parametrize(
    "name",
    [
        "file",
        "redis",
        "all",
        *(pytest.param(name, marks=pytest.mark.soak) for name in ("memory and file", "memory and redis")),
    ],
)
def test_eight_processes(name: str, parts: Parts) -> None:
    """Over one directory, over one server, and over both."""

    def work(number: int) -> list[bool]:
        with stack(name, parts) as cache:
            won = [cache.add(f"k{at}", number) for at in range(30)]
            for _ in range(25):
                cache.update("n", lambda n: n + 1, 0)
            return won

    results = in_processes(8, work)
    assert [sum(of_one) for of_one in zip(*results, strict=True)] == [1] * 30
    with stack(name, parts) as cache:
        assert cache.get("n") == 200
        assert [cache.get(f"k{at}") for at in range(30)] == [
            [won[at] for won in results].index(True) for at in range(30)
        ]


@pytest.mark.parametrize("files", [False, True])
def test_hosts(tmp_path: Path, redis_url: str, prefix: str, files: bool) -> None:
    """Several caches with a directory of their own each, over one server, in threads."""
    with ExitStack() as opened:
        caches = [
            opened.enter_context(
                listening(partial(open_cache, tmp_path / str(n) if files else None, redis_url, prefix))
            )
            for n in range(4)
        ]
        for at in range(15):
            won = race(*[lambda c=c, n=n, at=at: c.add(f"k{at}", n) for n, c in enumerate(caches)])
            assert won.count(True) == 1
            assert caches[-1].update(f"k{at}", lambda n: n) == won.index(True)

        def count(cache: IntelligentCache) -> None:
            for _ in range(40):
                cache.update("n", lambda n: n + 1, 0)

        race(*[lambda c=c: count(c) for c in caches])
        assert caches[0].update("n", lambda n: n) == 160


@pytest.mark.parametrize("name", ["memory and file", "memory and redis", "all"])
def test_histories(name: str, parts: Parts, tmp_path: Path) -> None:
    """Processes that update, set, delete and read the same keys: one correct cache could have done it."""
    logs = tmp_path / "logs"
    logs.mkdir()

    def work(number: int) -> int:
        log = HistoryLog(logs / str(number))
        chosen = random.Random(number)
        changed = 0
        with stack(name, parts) as cache:
            for step in range(150):
                key, new = f"k{chosen.randrange(3)}", f"{number}-{step}"
                action = chosen.random()
                if action < 0.3 and name == "memory and file":  # elsewhere a hit may wait for its message
                    log.read(key, lambda: cache.get(key))  # noqa: B023
                elif action < 0.8:
                    seen: list[str | None] = []

                    def function(old: str | None, new: str = new, seen: list[str | None] = seen) -> str:
                        seen.append(old)
                        return new

                    log.update(key, new, lambda: cache.update(key, function) and seen[-1])  # noqa: B023
                    changed += seen[-1] is not None
                elif action < 0.9:
                    log.write(key, new, lambda: DONE if cache.set(key, new) else OPEN)  # noqa: B023
                else:
                    log.write(key, None, lambda: (cache.delete(key), DONE)[1])  # noqa: B023
        return changed

    assert sum(in_processes(4, work)) > 100
    assert violations(logged(logs)) == []


def test_an_add_of_what_is_there(make: Make) -> None:
    """It reads, and writes and publishes nothing: callers that poll for a lock do no more harm than that."""
    tiers = make()
    assert tiers.cache.add("k", 1)
    before = tiers.redis.calls
    assert not tiers.cache.add("k", 2)
    assert tiers.redis.calls - before == {"peek": 1}


class TestOutages:
    """The lowest tier that answers decides."""

    def test_of_the_server(self, make: Make) -> None:
        """Each host has a winner; when the server recovers, it has none of their values."""
        here, beside, there = make(), make(), make("other")
        for tiers in (here, beside, there):
            tiers.redis.fail()
        assert here.cache.add("k", 1)
        assert not beside.cache.add("k", 2)
        assert there.cache.add("k", 3)
        assert not here.cache.add("k", 4)
        assert beside.cache.get("k") == 1
        assert [beside.cache.update("n", lambda n: n + 1, 0) for _ in range(2)] == [1, 2]
        assert here.cache.update("n", lambda n: n + 1, 0) == 3
        assert there.cache.update("n", lambda n: n + 1, 0) == 1
        for tiers in (here, beside, there):
            tiers.redis.mend()
            state = tiers.cache._core.tiers.redis
            assert state is not None
            while state.state != "closed":
                tiers.clock.advance(10)
                state.probe()
        assert here.redis.tier.get("k") is None
        assert here.cache.get("k") == there.cache.get("k")

    def test_of_the_server_in_the_middle(self, make: Make) -> None:
        """A call that the server fails, carried out or not, has one winner on the host all the same."""
        here, beside = make(), make()
        here.redis.fail("create")
        assert here.cache.add("k", 1)
        beside.redis.fail()
        assert not beside.cache.add("k", 2)
        assert beside.cache.get("k") == 1

    def test_of_the_file_tier(self, make: Make) -> None:
        """The server decides all the same."""
        here, beside = make(), make()
        here.file.fail()
        beside.file.fail()
        assert here.cache.add("k", 1)
        assert not beside.cache.add("k", 2)
        assert here.cache.update("n", lambda n: n + 1, 0) == 1
        assert beside.cache.update("n", lambda n: n + 1, 0) == 2

    @pytest.mark.parametrize("lower", ["redis", "file"])
    def test_with_memory_alone(self, tmp_path: Path, redis_url: str, lower: str) -> None:
        """Memory decides, for the threads of a process."""
        faulty: FaultyTier
        if lower == "redis":
            # Its bus goes on: without that, memory would be emptied at each attempt to hear of it.
            faulty = FaultyTier(RedisCache(url=redis_url))
            made = listening(lambda: IntelligentCache(MemoryCache(), cast("ServerTier", faulty), None))
        else:
            faulty = FaultyTier(FileCache(tmp_path, 16))
            made = IntelligentCache(MemoryCache(), None, cast("DirectoryTier", faulty))
        with made as cache:
            if lower == "redis":
                faulty.fail()
            else:
                faulty.fail("peek", "create", "put", "remove")
            won = race(*[lambda n=n: cache.add("k", n) for n in range(4)])
            assert won.count(True) == 1

            def count() -> None:
                for _ in range(20):
                    cache.update("n", lambda n: n + 1, 0)

            race(*[count] * 4)
            assert cache.get("n") == 80

    def test_without_any_tier_that_answers(self, redis_url: str) -> None:
        """Nothing is stored, and nothing is tried for ever."""
        with IntelligentCache(None, RedisCache(url="redis://127.0.0.1:1", timeout=0.1), None) as cache:
            assert cache.add("k", 1) is False
            assert cache.update("k", lambda n: n + 1, 0) == 1
            assert cache.begin("k").store(1) is False

    def test_of_a_strict_cache(self, make: Make) -> None:
        tiers = make(strict=True)
        tiers.redis.fail()
        calls: list[Callable[[], object]] = [
            lambda: tiers.cache.add("k", 1),
            lambda: tiers.cache.update("k", lambda n: 1),
            lambda: tiers.cache.begin("k"),
        ]
        for call in calls:
            with pytest.raises(TierUnavailableError):
                call()


def test_values_that_cannot_be_stored(cache: IntelligentCache) -> None:
    """A clear error, and no half of a value."""
    with pytest.raises(SerializationError):
        cache.add("k", iter([1]))
    with pytest.raises(SerializationError):
        cache.update("k", lambda _: iter([1]))
    with pytest.raises(SerializationError):
        cache.begin("k").store(iter([1]))
    assert not cache.contains("k")


def test_large_values(cache: IntelligentCache) -> None:
    """They have files of their own, and one winner as well."""
    values = [bytes([number]) * (4 << 20) for number in range(4)]
    won = race(*[lambda value=value: cache.add("k", value) for value in values])
    assert won.count(True) == 1
    assert cache.get("k") == values[won.index(True)]
    assert cache.update("k", lambda old: old[:1] * (5 << 20))[:1] == values[won.index(True)][:1]
    assert len(cache.get("k") or b"") == 5 << 20


def test_values_that_are_too_large(tmp_path: Path) -> None:
    """The older value is gone only if it was to be replaced."""
    with IntelligentCache(MemoryCache(), None, FileCache(tmp_path, 1)) as cache:
        with pytest.raises(ValueTooLargeError):
            cache.add("k", bytes(2 << 20))
        assert not cache.contains("k")
        cache.set("k", b"")
        with pytest.raises(ValueTooLargeError):
            cache.update("k", lambda _: bytes(2 << 20))
        assert not cache.contains("k")
    with IntelligentCache(MemoryCache(max_bytes=1000), None, None) as cache:
        assert cache.add("k", bytes(5000)) is False
        assert cache.update("k", lambda _: bytes(5000)) == bytes(5000)
        assert not cache.contains("k")


def test_arguments(cache: IntelligentCache) -> None:
    """Each is checked, and named."""
    wrong: Any = cache
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: wrong.add(1, 1), "key"),
        (lambda: wrong.add("k", 1, "soon"), "ttl"),
        (lambda: wrong.add("k", 1, tags="t"), "tags"),
        (lambda: wrong.update("k", 1), "function"),
        (lambda: wrong.begin("k", tags=1), "tags"),
        (lambda: wrong.get_or_set("k", int, store_if=1), "store_if"),
    ]
    for call, what in calls:
        with pytest.raises(TypeError, match=what):
            call()
    with pytest.raises(ValueError, match="ttl must be more than 0, not 0"):
        cache.update("k", lambda n: n, ttl=0)

    async def function(value: object) -> int:
        return 1

    for call in (lambda: wrong.update("k", function), lambda: wrong.get_or_set("k", int, ttl=function)):
        with pytest.raises(TypeError, match="must be awaited"):
            call()


def test_an_update_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the key is written each time, it says so."""
    monkeypatch.setattr(conditional_writes, "_PATIENCE", 0.01)
    with IntelligentCache(MemoryCache(), None, None) as cache:
        cache.set("k", 0)

        def function(n: int) -> int:
            cache.set("k", n + 1)
            return n

        with pytest.raises(
            TierUnavailableError, match=r"update of key .* gave up .* one key for each writer"
        ):
            cache.update("k", function)


def test_expiry(tmp_path: Path) -> None:
    """An entry that is over is not there, in any tier."""
    clock = ManualClock()
    with IntelligentCache(
        MemoryCache(clock=clock), None, FileCache(tmp_path, 16, clock=clock, cleanup_interval=None)
    ) as cache:
        assert cache.add("k", 1, ttl=5)
        assert cache.update("k", lambda n: n + 1) == 2
        clock.advance(4)
        assert cache.update("k", lambda n: n + 1) == 3
        clock.advance(1.5)
        assert cache.get("k") is None
        assert cache.add("k", 9, ttl=5)
        clock.advance(6)
        assert cache.update("k", lambda n: n + 1, 0, ttl=5) == 1


def test_a_ttl_and_a_condition_of_the_value(cache: IntelligentCache) -> None:
    """`get_or_set` asks both of what was loaded."""
    assert cache.get_or_set("k", lambda: None, store_if=lambda value: value is not None) is None
    assert not cache.contains("k")
    assert cache.get_or_set("k", lambda: 30, ttl=lambda value: value, store_if=lambda value: value > 1) == 30
    left = cache.explain("k").remaining
    assert left is not None
    assert 0 < left <= 30
    assert cache.get_or_set("z", lambda: 0, ttl=lambda value: value) == 0
    assert not cache.contains("z")
    assert cache.get_or_set("d", lambda: 0, ttl=lambda value: None) == 0
    assert cache.contains("d")


def test_regions(cache: IntelligentCache) -> None:
    """The same, typed, with the region's TTL and tags."""
    region = cache.region("r:", int, ttl=50, tags={"r"})
    assert region.add("k", 1)
    assert not region.add("k", 2)
    assert region.update("k", lambda n: (n or 0) + 1) == 2
    assert region.update("n", lambda n: n + 1, 10) == 11
    assert cache.explain("r:n").tags == {"r"}
    left = cache.explain("r:n").remaining
    assert left is not None
    assert 0 < left <= 50
    fill = region.begin("f")
    assert fill.key == "r:f"
    assert fill.store(1)
    assert cache.explain("r:f").tags == {"r"}
    wrong: Any = region
    of_another_type: list[Callable[[], object]] = [
        lambda: wrong.add("x", "1"),
        lambda: wrong.update("k", str),
        lambda: wrong.begin("x").store("1"),
    ]
    for call in of_another_type:
        with pytest.raises(TypeError, match="must be of type int"):
            call()
    assert cache.get("r:k") == 2
    assert region.get_or_set("c", lambda: 3, store_if=lambda value: value > 5) == 3
    assert "c" not in region


def test_a_closed_cache() -> None:
    """A cache that was closed adds nothing."""
    with tempfile.TemporaryDirectory() as directory:
        cache = IntelligentCache(MemoryCache(), None, FileCache(directory, 16))
        fill = cache.begin("k")
        cache.close()
        calls: list[Callable[[], object]] = [
            lambda: cache.add("k", 1),
            lambda: cache.update("k", lambda n: 1),
            lambda: cache.begin("k"),
            lambda: fill.store(1),
        ]
        for call in calls:
            with pytest.raises(Exception, match="closed"):
                call()
