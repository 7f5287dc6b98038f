"""stale_ttl: who is given a value past its time, when, and what takes it away."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from racing import in_thread, race

from cachekit import FileCache, IntelligentCache, LoadOptions, MemoryCache, RedisCache
from cachekit.coherence.tier_stack import TierStack
from cachekit.model.display import shown_key
from cachekit.testing import ManualClock


class Clocked:
    """A cache on a clock that the test moves."""

    def __init__(self, file: FileCache | None = None, redis: RedisCache | None = None, **more: Any) -> None:
        self.clock = ManualClock()
        self.memory = MemoryCache(clock=self.clock)
        self.cache = IntelligentCache(self.memory, redis, file, **more)

    def ask(self, loader: Callable[[], Any], **more: Any) -> Any:
        return self.cache.get_or_set("k", loader, ttl=10, stale_ttl=60, tags={"t"}, **more)

    @property
    def figures(self) -> tuple[int, int, int]:
        """Loads, those that failed, stale values served."""
        stats = self.cache.get_stats()["combined"]
        return stats.loads, stats.load_failures, stats.stale_served


@pytest.fixture
def clocked() -> Iterator[Clocked]:
    clocked = Clocked()
    with clocked.cache:
        yield clocked


def failing() -> NoReturn:
    raise OSError("backend down")


def test_a_load_that_fails_gives_the_stale_value(clocked: Clocked, caplog: pytest.LogCaptureFixture) -> None:
    """From the end of its life until stale_ttl after it; plain lookups never see it."""
    assert clocked.ask(lambda: "old") == "old"
    clocked.clock.advance(10)
    assert clocked.ask(failing) == "old"
    assert clocked.cache.get("k") is None
    assert clocked.cache.get_many(["k"]) == {}
    assert not clocked.cache.contains("k")
    assert clocked.memory.peek("k") is None
    clocked.clock.advance(59.9)
    assert clocked.ask(failing) == "old"
    assert clocked.figures == (3, 2, 2)
    clocked.clock.advance(0.1)
    with pytest.raises(OSError, match="backend down"):
        clocked.ask(failing)
    assert clocked.figures == (4, 3, 2)
    # Once a minute is enough for the log.
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert f"load of {shown_key('k')} failed" in caplog.text
    assert "OSError" in caplog.text
    assert "backend down" not in caplog.text, "it may hold a secret"


def test_a_load_that_succeeds_is_given(clocked: Clocked) -> None:
    clocked.ask(lambda: "old")
    clocked.clock.advance(10)
    assert clocked.ask(lambda: "new") == "new"
    assert clocked.cache.get("k") == "new"
    assert clocked.figures == (2, 0, 0)


def test_without_stale_ttl_there_is_none(clocked: Clocked) -> None:
    """It is asked for by the value that was stored, and by the load that would fall back on it."""
    clocked.ask(lambda: "old")
    clocked.clock.advance(10)
    with pytest.raises(OSError, match="backend down"):
        clocked.cache.get_or_set("k", failing)
    clocked.cache.set("j", "old", ttl=10)
    clocked.clock.advance(10)
    with pytest.raises(OSError, match="backend down"):
        clocked.cache.get_or_set("j", failing, stale_ttl=60)
    assert clocked.figures[2] == 0


def test_a_value_that_was_set_may_serve_stale_too(clocked: Clocked) -> None:
    clocked.cache.set("k", "old", ttl=10, stale_ttl=5)
    clocked.clock.advance(14)
    assert clocked.ask(failing) == "old"
    clocked.clock.advance(1)
    with pytest.raises(OSError, match="backend down"):
        clocked.ask(failing)


INVALIDATIONS: list[Callable[[IntelligentCache], object]] = [
    lambda cache: cache.delete("k"),
    lambda cache: cache.delete_many(["k"]),
    lambda cache: cache.set("k", "other", ttl=0),
    lambda cache: cache.set("k", "other", ttl=1),
    lambda cache: cache.invalidate_by_tags({"t"}),
    lambda cache: cache.invalidate_by_pattern("k"),
    lambda cache: cache.clear(),
]


def test_invalidation_defeats_it(subtests: pytest.Subtests, clocked: Clocked) -> None:
    """Whether it comes before the load or during it."""
    for invalidate in INVALIDATIONS:
        with subtests.test(invalidate=invalidate):
            for during in (False, True):
                clocked.ask(lambda: "old")
                clocked.clock.advance(10)

                def loader(during: bool = during) -> NoReturn:
                    if during:
                        invalidate(clocked.cache)  # noqa: B023
                        clocked.clock.advance(1)
                    failing()

                if not during:
                    invalidate(clocked.cache)
                    clocked.clock.advance(1)
                with pytest.raises(OSError, match="backend down"):
                    clocked.ask(loader)
            assert clocked.figures[2] == 0


def test_holders_of_a_stale_value_do_not_wait(clocked: Clocked) -> None:
    """While one reloads, the others are given it; a caller without stale_ttl waits."""
    clocked.ask(lambda: "old")
    clocked.clock.advance(10)
    began, go_on = threading.Event(), threading.Event()

    def loader() -> str:
        began.set()
        assert go_on.wait(60)
        return "new"

    leader = in_thread(lambda: clocked.ask(loader))
    assert began.wait(60)
    assert race(*[lambda: clocked.ask(failing)] * 8) == ["old"] * 8
    patient = in_thread(lambda: clocked.cache.get_or_set("k", failing))
    go_on.set()
    assert leader() == patient() == "new"
    assert clocked.ask(failing) == "new"
    assert clocked.figures == (2, 0, 8)


def test_nor_on_an_event_loop(clocked: Clocked) -> None:
    calls = []
    go_on = asyncio.Event()

    @clocked.cache.cached(ttl=10, stale_ttl=60, name="answer")
    async def answer() -> str:
        calls.append(1)
        if len(calls) == 1:
            return "old"
        await go_on.wait()
        if len(calls) == 2:
            return "new"
        raise OSError("backend down")

    async def main() -> list[str]:
        answers = [await answer()]
        clocked.clock.advance(10)
        leader = asyncio.create_task(answer())
        await asyncio.sleep(0)
        answers.append(await answer())
        go_on.set()
        answers += [await leader, await answer()]
        clocked.clock.advance(10)
        answers.append(await answer())
        return answers

    assert asyncio.run(main()) == ["old", "old", "new", "new", "new"]
    assert clocked.figures == (3, 1, 2)


def test_a_soft_timeout_gives_it_and_lets_the_load_go_on(clocked: Clocked) -> None:
    clocked.ask(lambda: "old")
    clocked.clock.advance(10)
    go_on, done = threading.Event(), threading.Event()

    def loader() -> str:
        assert go_on.wait(60)
        return "new"

    clocked.memory.on_removal(lambda *_: done.set())
    options = LoadOptions(soft_timeout=0.01)
    assert clocked.ask(loader, load=options) == "old"
    assert clocked.cache.get("k") is None
    go_on.set()
    assert done.wait(60), "the old value is replaced"
    assert clocked.ask(failing, load=options) == "new"


def test_a_soft_timeout_without_one_waits(clocked: Clocked, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if it was invalidated while the load was under way."""
    go_on = threading.Event()
    peek_stale = TierStack.peek_stale

    def just_after_an_invalidation(levels: TierStack, key: str) -> Any:
        clocked.cache.delete("k")
        value = peek_stale(levels, key)
        go_on.set()
        return value

    monkeypatch.setattr(TierStack, "peek_stale", just_after_an_invalidation)
    options = LoadOptions(soft_timeout=0.01)
    clocked.cache.set("k", "first", ttl=10, stale_ttl=60)
    clocked.clock.advance(10)

    def loader() -> str:
        assert go_on.wait(60), "the soft timeout is over"
        return "new"

    assert clocked.ask(loader, load=options) == "new"
    assert clocked.cache.get("k") is None, "it was invalidated while it was loaded"


def test_a_batch_falls_back_if_all_of_it_can(clocked: Clocked) -> None:
    def load(keys: list[str]) -> dict[str, str]:
        return dict.fromkeys(keys, "old")

    def ask(keys: list[str], loader: Callable[[list[str]], dict[str, str]]) -> dict[str, str]:
        return clocked.cache.get_or_set_many(keys, loader, ttl=10, stale_ttl=60)

    def fail(keys: list[str]) -> NoReturn:
        failing()

    ask(["a", "b"], load)
    clocked.clock.advance(10)
    assert ask(["a", "b"], fail) == {"a": "old", "b": "old"}
    with pytest.raises(OSError, match="backend down"):
        ask(["a", "c"], fail)
    clocked.cache.delete("b")
    with pytest.raises(OSError, match="backend down"):
        ask(["a", "b"], fail)
    assert clocked.cache.get_stats()["combined"].stale_served == 2


def test_a_batch_falls_back_on_values_that_cannot_be_compared(clocked: Clocked) -> None:
    """Such as arrays, which compare member by member."""

    class Array:
        def __eq__(self, other: object) -> bool:
            raise ValueError("ambiguous")

    array = Array()
    clocked.cache.set("a", array, ttl=10, stale_ttl=60)
    clocked.clock.advance(10)
    assert clocked.cache.get_or_set_many(["a"], lambda keys: failing(), stale_ttl=60)["a"] is array


def test_it_is_memory_that_is_swept_in_the_end(clocked: Clocked) -> None:
    """Past its stale time an entry is gone at the next sweep, and counts as expired then."""
    clocked.ask(lambda: "old")
    clocked.clock.advance(69.9)
    assert clocked.memory.remove_expired() == 0
    assert clocked.memory.size() == 1
    clocked.clock.advance(0.1)
    assert clocked.memory.remove_expired() == 1
    assert clocked.cache.get_stats()["memory"].expirations == 1


def test_copies_from_slower_tiers_keep_it(tmp_path: Path, make_cache: Callable[..., RedisCache]) -> None:
    """A process that finds a value in a tier below may fall back on its own copy of it later."""
    for tier in ("file", "redis"):
        clock = ManualClock()

        def made(tier: str = tier, clock: ManualClock = clock) -> IntelligentCache:
            file = FileCache(tmp_path / tier, 64, clock=clock) if tier == "file" else None
            redis = make_cache(clock=clock) if tier == "redis" else None
            return IntelligentCache(MemoryCache(clock=clock), redis, file)

        with made() as one, made() as two:
            one.get_or_set("k", lambda: "old", ttl=10, stale_ttl=60)
            assert two.get("k") == "old"
            assert two.touch("k", 20)
            assert two.get("k") == "old"
            clock.advance(21)
            assert two.get_or_set("k", failing, stale_ttl=60) == "old", tier
            one.delete("k")
            if tier == "file":
                with pytest.raises(OSError, match="backend down"):
                    two.get_or_set("k", failing, stale_ttl=60)


@pytest.mark.parametrize("invalidate", INVALIDATIONS)
def test_invalidation_by_another_cache_on_the_directory_defeats_it(
    tmp_path: Path, invalidate: Callable[[IntelligentCache], object]
) -> None:
    clock = ManualClock()
    caches = [
        IntelligentCache(MemoryCache(clock=clock), file_cache=FileCache(tmp_path / "d", 64, clock=clock))
        for _ in range(2)
    ]
    with caches[0] as one, caches[1] as two:
        one.get_or_set("k", lambda: "old", ttl=10, stale_ttl=60, tags={"t"})
        clock.advance(10)
        assert one.get_or_set("k", failing, stale_ttl=60, tags={"t"}) == "old"
        invalidate(two)
        clock.advance(2)
        with pytest.raises(OSError, match="backend down"):
            one.get_or_set("k", failing, stale_ttl=60, tags={"t"})

        def loader() -> NoReturn:
            invalidate(two)
            clock.advance(2)
            failing()

        one.delete("k")
        one.get_or_set("k", lambda: "old", ttl=10, stale_ttl=60, tags={"t"})
        clock.advance(10)
        with pytest.raises(OSError, match="backend down"):
            one.get_or_set("k", loader, stale_ttl=60, tags={"t"})


def test_a_region_passes_it_on(clocked: Clocked) -> None:
    region = clocked.cache.region("page:", str, ttl=10)
    assert region.get_or_set("/", lambda: "old", stale_ttl=60, jitter=0.1) == "old"
    clocked.clock.advance(10)
    assert region.get_or_set("/", failing, stale_ttl=60) == "old"
    with pytest.raises(ValueError, match="lease='process' needs"):
        region.get_or_set("/", failing, load=LoadOptions(lease="process"))
