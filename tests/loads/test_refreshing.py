"""refresh_ahead and jitter: when a value is loaded again, by whom, and that no caller waits for it."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import inside
import pytest
import traced
from racing import in_thread, race
from tracing import at_line

from cachekit import FOREVER, FileCache, IntelligentCache, LoadOptions, MemoryCache
from cachekit.model.display import shown_key
from cachekit.testing import ManualClock

AHEAD = LoadOptions(refresh_ahead=0.2)


@pytest.fixture
def cache(clock: ManualClock) -> Iterator[IntelligentCache]:
    with IntelligentCache(MemoryCache(clock=clock), file_cache=None, load=AHEAD) as cache:
        yield cache


def finish() -> None:
    """Wait for the reloads that have begun."""
    for thread in threading.enumerate():
        if thread.name == "cachekit-load":
            thread.join(60)


class Counting:
    """1, 2, 3 ..., each in the thread that asks."""

    def __init__(self) -> None:
        self.threads: list[str] = []

    def __call__(self) -> int:
        self.threads.append(threading.current_thread().name)
        return len(self.threads)


def test_a_hit_in_the_last_part_of_a_life_reloads(cache: IntelligentCache, clock: ManualClock) -> None:
    """In the background: the hit has the value that is there, and later ones the new one."""
    loader = Counting()

    def ask() -> int:
        return cache.get_or_set("k", loader, ttl=100)

    assert ask() == 1
    clock.advance(79.9)
    assert ask() == 1
    finish()
    assert len(loader.threads) == 1
    clock.advance(0.2)
    assert ask() == 1
    finish()
    assert loader.threads[1:] == ["cachekit-load"]
    assert ask() == 2
    clock.advance(79)
    assert ask() == 2
    finish()
    assert len(loader.threads) == 2


def test_a_cached_function_reloads(cache: IntelligentCache, clock: ManualClock) -> None:
    """Its fast path too leaves the last part of a life to the cache."""
    loader = Counting()

    @cache.cached(ttl=100, name="answer")
    def answer(question: int) -> int:
        return loader()

    assert [answer(7), answer(7)] == [1, 1]
    clock.advance(81)
    assert answer(7) == 1
    finish()
    assert [answer(7), answer(7)] == [2, 2]
    assert loader.threads[1:] == ["cachekit-load"]
    assert answer.cache_info()[:2] == (4, 1)


def test_many_hits_are_one_reload(cache: IntelligentCache, clock: ManualClock) -> None:
    cache.set("k", 0, ttl=100)
    clock.advance(90)
    loader = Counting()
    assert race(*[lambda: cache.get_or_set("k", loader, ttl=100)] * 8).count(0) >= 1
    finish()
    assert len(loader.threads) == 1


def test_a_hit_that_is_overtaken_by_another_ones_reload_begins_none(
    cache: IntelligentCache, clock: ManualClock
) -> None:
    """Wherever it is on its way to a reload of its own when the other one's is begun, and over."""
    for number in itertools.count(1):
        key, loader = f"k{number}", Counting()
        cache.set(key, 0, ttl=100)
        clock.advance(90)

        def ask(key: str = key, loader: Counting = loader) -> object:
            return cache.get_or_set(key, loader, ttl=100)

        def overtake(ask: Callable[[], object] = ask) -> None:
            in_thread(ask)()
            finish()

        reached = at_line(number, traced.RELOADS, overtake, ask)
        finish()
        assert len(loader.threads) == 1, number
        if not reached:
            assert number > 3
            break


def test_one_that_fails_is_tried_again_a_second_later(
    cache: IntelligentCache, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Only the log and the figures tell of it, and the value serves on."""
    cache.set("k", "old", ttl=100)
    clock.advance(90)
    tried = []

    def failing() -> str:
        tried.append(1)
        raise OSError("backend down")

    for _ in range(3):
        assert cache.get_or_set("k", failing) == "old"
        finish()
    assert len(tried) == 1
    clock.advance(1)
    assert cache.get_or_set("k", failing) == "old"
    finish()
    assert len(tried) == 2
    assert caplog.text.count(f"load of {shown_key('k')} failed") == 1
    assert cache.get_stats()["combined"].load_failures == 2


@pytest.mark.parametrize(
    "invalidate",
    [
        lambda cache: cache.delete("k"),
        lambda cache: cache.set("k", "set"),
        lambda cache: cache.invalidate_by_tags({"t"}),
        lambda cache: cache.invalidate_by_pattern("k"),
        lambda cache: cache.clear(),
    ],
)
def test_an_invalidation_during_it_wins(
    tmp_path: Path, clock: ManualClock, invalidate: Callable[[IntelligentCache], object]
) -> None:
    """What it brings does not take the place of what came meanwhile, nor of nothing."""
    for file in (None, FileCache(tmp_path / "d", 64, clock=clock)):
        with IntelligentCache(MemoryCache(clock=clock), file_cache=file, load=AHEAD) as cache:
            cache.get_or_set("k", lambda: "old", ttl=100, tags={"t"})
            clock.advance(90)
            began, go_on = threading.Event(), threading.Event()

            def loader(began: threading.Event = began, go_on: threading.Event = go_on) -> str:
                began.set()
                assert go_on.wait(60)
                return "reloaded"

            assert cache.get_or_set("k", loader, ttl=100, tags={"t"}) == "old"
            assert began.wait(60)
            invalidate(cache)
            before = cache.get("k")
            go_on.set()
            finish()
            assert cache.get("k") == before != "reloaded"


def test_it_takes_the_old_ones_place_everywhere(tmp_path: Path, clock: ManualClock) -> None:
    """Other caches on the directory have the new value at once."""
    caches = [
        IntelligentCache(
            MemoryCache(clock=clock), file_cache=FileCache(tmp_path / "d", 64, clock=clock), load=AHEAD
        )
        for _ in range(2)
    ]
    with caches[0] as one, caches[1] as two:
        one.set("k", "old", ttl=100)
        assert two.get("k") == "old"
        clock.advance(90)
        assert one.get_or_set("k", lambda: "new", ttl=100) == "old"
        finish()
        assert one.get("k") == two.get("k") == "new"


def test_what_does_not_end_is_not_reloaded(cache: IntelligentCache, clock: ManualClock) -> None:
    loader = Counting()
    cache.get_or_set("k", loader, ttl=FOREVER)
    clock.advance(1e9)
    assert cache.get_or_set("k", loader, ttl=FOREVER) == 1
    finish()
    assert len(loader.threads) == 1


def test_jitter_shortens_lives_by_chance(cache: IntelligentCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evenly between the whole TTL and all but that share of it, one by one."""
    chances = iter([0.0, 0.5, 0.999, 0.25, 0.75, 1.0])
    inside.loads(cache).path.random_fraction = lambda: next(chances)
    lives = []
    for key in ("a", "b", "c"):
        cache.get_or_set(key, int, ttl=100, jitter=0.2)
        lives.append(cache.explain(key).remaining)
    assert lives == pytest.approx([100, 90, 80.02])
    cache.get_or_set_many(["d", "e"], lambda keys: dict.fromkeys(keys, 0), ttl=100, jitter=0.2)
    assert [cache.explain(key).remaining for key in "de"] == pytest.approx([95, 85])

    @cache.cached(ttl=100, jitter=0.5, name="answer")
    def answer() -> int:
        return 1

    answer()
    assert cache.explain(answer.key()).remaining == pytest.approx(50)
    cache.get_or_set("f", int, ttl=100)
    assert cache.explain("f").remaining == 100


def test_by_chance_of_the_system(cache: IntelligentCache) -> None:
    for key in map(str, range(100)):
        cache.get_or_set(key, int, ttl=100, jitter=0.5)
    lives: list[Any] = [cache.explain(key).remaining for key in map(str, range(100))]
    assert all(50 <= life <= 100 for life in lives)
    assert len(set(lives)) > 50
