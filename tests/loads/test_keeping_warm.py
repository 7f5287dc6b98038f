"""keep_warm: keys that are loaded again before their time is over."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from forking import in_fork
from racing import in_thread
from redis_server import wait_until

from cachekit import FOREVER, FileCache, IntelligentCache, LoadOptions, MemoryCache, cassette
from cachekit.loading.keep_warm import KeepWarm
from cachekit.loading.process_lease import ProcessLeases
from cachekit.runtime import fork
from cachekit.testing import ManualClock


class Warm:
    """A cache on a clock that the test moves, whose rounds it makes itself."""

    def __init__(self, cache: IntelligentCache, clock: ManualClock) -> None:
        self.cache = cache
        self.clock = clock
        self.loads: list[str] = []
        self.fails = False

    def load(self, key: str) -> str:
        self.loads.append(key)
        if self.fails:
            raise OSError("backend down")
        return f"{key}{self.loads.count(key)}"

    def round(self, seconds: float) -> None:
        """Let time pass, and have what is due loaded."""
        self.clock.advance(seconds)
        kept = self.cache._core.keep_warm
        assert kept is not None
        kept.look()
        # Until the next one may begin: a thread is no longer listed a moment before it has ended.
        wait_until(lambda: kept._round is None or kept._round.is_over, "the round is over")


@pytest.fixture
def warm() -> Iterator[Warm]:
    clock = ManualClock()
    with IntelligentCache(MemoryCache(clock=clock), file_cache=None) as cache:
        yield Warm(cache, clock)


def test_keys_are_loaded_again_before_they_expire(warm: Warm) -> None:
    """In the last fifth of their lives, again and again; no lookup ever misses."""
    report = warm.cache.warm_cache(["a", "b"], warm.load, ttl=100, keep_warm=True)
    assert report.loaded == ["a", "b"]
    warm.round(79)
    assert len(warm.loads) == 2
    for generation in (2, 3, 4):
        warm.round(3)
        assert sorted(warm.loads) == ["a"] * generation + ["b"] * generation
        assert warm.cache.get_many(["a", "b"]) == {"a": f"a{generation}", "b": f"b{generation}"}
        warm.round(78)
    assert warm.cache.get_stats()["combined"].misses == 0


def test_what_was_fresh_is_due_by_the_life_that_it_has(warm: Warm) -> None:
    """A key that was there is not loaded, but kept warm all the same."""
    warm.cache.set("a", "set", ttl=50)
    assert warm.cache.warm_cache(["a"], warm.load, ttl=100, keep_warm=True).fresh == ["a"]
    warm.round(39)
    assert warm.loads == []
    warm.round(2)
    assert warm.cache.get("a") == "a1"
    warm.round(79)
    assert warm.loads == ["a"]


@pytest.mark.parametrize("mode", ["replay", "auto"])
def test_inside_a_cassette_it_waits(warm: Warm, tmp_path: Path, mode: Literal["replay", "auto"]) -> None:
    """A replay calls no loader. What a round has taken as the block begins is loaded after it, too."""
    path = tmp_path / "empty.jsonl"
    warm.cache.warm_cache(["a"], warm.load, ttl=100, keep_warm=True)
    with cassette(path, mode), cassette(tmp_path / "inner.jsonl", mode):
        warm.round(81)
    with cassette(path, mode):
        warm.round(1)
        kept = warm.cache._core.keep_warm
        assert kept is not None
        kept._load()
    assert warm.loads == ["a"]
    warm.round(1)
    assert warm.loads == ["a", "a"]


def test_without_keep_warm_it_ends(warm: Warm) -> None:
    warm.cache.warm_cache(["a", "b"], warm.load, ttl=100, keep_warm=True)
    warm.cache.warm_cache(["a"], warm.load, ttl=100)
    warm.round(85)
    assert sorted(warm.loads) == ["a", "b", "b"]


def test_a_loader_that_fails_is_tried_again(warm: Warm, caplog: pytest.LogCaptureFixture) -> None:
    """A few times until its value expires; a key that fails stops no other."""
    warm.cache.warm_cache(["a", "b"], warm.load, ttl=100, keep_warm=True)
    warm.fails = True
    for _ in range(4):
        warm.round(81 if len(warm.loads) == 2 else 1)
    assert sorted(warm.loads) == ["a", "a", "b", "b"]
    warm.fails = False
    warm.round(3)
    assert warm.cache.get_many(["a", "b"]) == {"a": "a3", "b": "b3"}
    assert "OSError" in caplog.text


def test_one_that_would_end_the_thread_stops_no_other(warm: Warm, caplog: pytest.LogCaptureFixture) -> None:
    """SystemExit, or a cancellation inside of a loader: it counts as a failure of its key."""

    def loader(key: str) -> str:
        if key == "a" and "a" in warm.loads:
            raise SystemExit("no more")
        return warm.load(key)

    warm.cache.warm_cache(["a", "b"], loader, ttl=100, keep_warm=True)
    warm.round(81)
    assert warm.cache.get("b") == "b2"
    assert "SystemExit" in caplog.text


def test_what_was_invalidated_is_loaded_when_its_time_comes(warm: Warm) -> None:
    warm.cache.warm_cache(["a"], warm.load, ttl=100, keep_warm=True)
    warm.cache.delete("a")
    warm.round(10)
    assert warm.cache.get("a") is None
    warm.round(71)
    assert warm.cache.get("a") == "a2"


def test_an_invalidation_during_it_wins(warm: Warm) -> None:
    def loader(key: str) -> str:
        warm.loads.append(key)
        if len(warm.loads) > 1:
            warm.cache.set("a", "set", ttl=100)
        return "loaded"

    warm.cache.warm_cache(["a"], loader, ttl=100, keep_warm=True)
    warm.round(85)
    assert warm.cache.get("a") == "set"


def test_what_does_not_expire_needs_no_keeping(warm: Warm) -> None:
    warm.cache.warm_cache(["a"], warm.load, ttl=FOREVER, keep_warm=True)
    warm.round(1e9)
    assert warm.loads == ["a"]


def test_without_a_memory_tier_too(tmp_path: Path) -> None:
    clock = ManualClock()
    with IntelligentCache(None, file_cache=FileCache(tmp_path / "d", 64)) as cache:
        cache._core.tiers.clock = clock
        warm = Warm(cache, clock)
        cache.warm_cache(["a"], warm.load, ttl=100, keep_warm=True)
        warm.round(79)
        assert warm.loads == ["a"]
        warm.round(2)
        assert cache.get("a") == "a2"


def test_one_process_of_a_host_does_it(tmp_path: Path) -> None:
    """With a lease: while another one has it, this one leaves the key to that."""
    clock = ManualClock()
    file = FileCache(tmp_path / "d", 64, clock=clock)
    with IntelligentCache(
        MemoryCache(clock=clock), file_cache=file, load=LoadOptions(lease="process")
    ) as cache:
        warm = Warm(cache, clock)
        cache.warm_cache(["a"], warm.load, ttl=100, keep_warm=True)
        others = ProcessLeases(tmp_path / "d")
        lease = others.try_acquire("a")
        assert lease is not None
        warm.round(81)
        assert warm.loads == ["a"]
        lease.release()
        others.close()


def test_a_cache_may_refuse_it() -> None:
    with IntelligentCache(MemoryCache(), file_cache=None, enable_cache_warming=False) as cache:
        with pytest.raises(ValueError, match=r"keep_warm=True, but .* enable_cache_warming=False"):
            cache.warm_cache(["a"], str, keep_warm=True)
        assert cache.warm_cache(["a"], str).loaded == ["a"]
    wrong: bool = "no"  # type: ignore[assignment]
    with pytest.raises(TypeError, match="enable_cache_warming must be True or False, not 'no'"):
        IntelligentCache(MemoryCache(), file_cache=None, enable_cache_warming=wrong)


def test_upkeep_does_it_and_close_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """With nobody asking; in a forked child too."""
    monkeypatch.setattr("cachekit.loading.keep_warm._INTERVAL", 0.001)

    def keeps_warm() -> None:
        again = threading.Semaphore(0)
        with IntelligentCache(MemoryCache(), file_cache=None) as cache:

            def load(key: str) -> str:
                again.release()
                return key

            cache.warm_cache(["a"], load, ttl=0.05, keep_warm=True)
            for _ in range(3):
                assert again.acquire(timeout=60)
            kept = cache._core.keep_warm
        assert isinstance(kept, KeepWarm)
        assert not kept._kept

    keeps_warm()
    assert in_fork(keeps_warm)() == 0


def test_a_fork_while_it_is_noted_what_is_kept(warm: Warm) -> None:
    """The child can close its cache, whatever another thread was about to note."""
    warm.cache.warm_cache(["a"], warm.load, keep_warm=True)
    kept = warm.cache._core.keep_warm
    assert kept is not None
    noting, forked = threading.Event(), threading.Event()

    def note(kept: KeepWarm = kept) -> None:
        with kept._lock:
            noting.set()
            while not fork._one_fork.locked() and not forked.is_set():  # until a fork is about to begin
                noting.wait(0)

    end = in_thread(note)
    assert noting.wait(60)
    child = in_fork(warm.cache.close)
    forked.set()
    end()
    assert child() == 0


def test_what_comes_when_it_is_closed_is_not_kept() -> None:
    """A cache may be closed while it is warmed, and its memory go on."""
    memory = MemoryCache()
    cache = IntelligentCache(memory, file_cache=None, close_tiers=False)
    report = cache.warm_cache(["a"], lambda _: 1, keep_warm=True, progress=lambda *_: cache.close())
    assert report.loaded == ["a"]
    kept = cache._core.keep_warm
    assert kept is not None
    assert not kept._kept
    assert kept._job is None
    memory.close()


def test_a_child_loads_what_the_round_of_its_parent_had_taken(warm: Warm) -> None:
    """The parent's thread is not in the child."""
    begun, go = threading.Event(), threading.Event()

    def load(key: str) -> str:
        if warm.loads:
            begun.set()
            assert go.wait(60)
        return key

    warm.cache.warm_cache(["a", "b"], load, ttl=100, keep_warm=True)
    warm.loads.append("warmed")
    warm.clock.advance(90)
    kept = warm.cache._core.keep_warm
    assert kept is not None
    kept.look()
    assert begun.wait(60)  # it has taken both keys, and loads the first one
    warm.loads.clear()

    def child() -> None:
        warm.round(0)
        assert warm.cache.get("b") == "b"
        assert sorted(key for _, key in kept._due) == ["a", "b"]
        assert all(at > warm.clock.monotonic() for at, _ in kept._due), "both were loaded"

    assert in_fork(child)() == 0
    go.set()
    wait_until(lambda: kept._round is None or kept._round.is_over, "the round is over")


def test_keys_that_are_kept_and_dropped_leave_nothing(warm: Warm) -> None:
    """Nor do those that are kept again and again, before their time has come."""
    for number in range(1_000):
        warm.cache.warm_cache(["again", f"k{number}"], warm.load, ttl=100, keep_warm=True)
        warm.cache.warm_cache([f"k{number}"], warm.load, ttl=100)
    kept = warm.cache._core.keep_warm
    assert kept is not None
    assert list(kept._kept) == ["again"]
    assert len(kept._due) < 110
