"""A backend that hangs: the loads that outran their hard timeout are few, and their callers do not wait."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest
from redis_server import wait_until

from cachekit import IntelligentCache, LoadOptions, LoadTimeoutError, aio
from cachekit.loading import flights

HARD = LoadOptions(hard_timeout=0.01)
#: Of loads that must end in time, however busy the machine is.
PATIENT = LoadOptions(hard_timeout=60)


@pytest.fixture
def cache() -> Iterator[IntelligentCache]:
    with IntelligentCache(file_cache=None) as cache:
        yield cache


class Backend:
    """Hangs until it is mended."""

    def __init__(self) -> None:
        self.mended = threading.Event()
        self.asked = 0

    def load(self) -> int:
        self.asked += 1
        assert self.mended.wait(60)
        return 1


@pytest.fixture
def backend() -> Iterator[Backend]:
    backend = Backend()
    yield backend
    backend.mended.set()
    wait_until(lambda: not flights._outrun, "the loads have ended")
    for thread in threading.enumerate():
        if thread.name == "cachekit-load":
            thread.join(60)


def test_few_loads_of_a_key(cache: IntelligentCache, backend: Backend) -> None:
    """Three are begun; then callers get the error at once, and after the first has ended a load again."""
    for _ in range(10):
        with pytest.raises(LoadTimeoutError):
            cache.get_or_set("k", backend.load, load=HARD)
    with pytest.raises(LoadTimeoutError, match="too many earlier ones"):
        cache.get_or_set_many(["a", "k"], lambda keys: dict.fromkeys(keys, backend.load()), load=HARD)
    assert backend.asked == 3
    assert cache.get_or_set("other", lambda: 2, load=PATIENT) == 2
    assert cache.get_or_set("k", lambda: 3) == 3  # in this thread, without a limit
    cache.delete("k")
    backend.mended.set()
    wait_until(lambda: not flights._outrun, "the loads have ended")
    assert cache.get_or_set("k", lambda: 4, load=PATIENT) == 4


def test_few_loads_of_the_process(
    cache: IntelligentCache, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many keys and caches there are."""
    monkeypatch.setattr(flights, "_MOST_OUTRUN", 10)
    with IntelligentCache(file_cache=None) as other:
        for number in range(30):
            with pytest.raises(LoadTimeoutError):
                (cache, other)[number % 2].get_or_set(f"k{number}", backend.load, load=HARD)
        assert backend.asked == 10
        backend.mended.set()


def test_the_stale_value_comes_at_once(cache: IntelligentCache, backend: Backend) -> None:
    """As after the timeout itself."""
    cache.get_or_set("k", lambda: 0, ttl=1e-9, stale_ttl=60)
    for _ in range(6):
        assert cache.get_or_set("k", backend.load, stale_ttl=60, load=HARD) == 0
    assert backend.asked == 3


def test_tasks(cache: IntelligentCache) -> None:
    """A coroutine that hangs takes no thread, but is counted alike."""

    async def calls() -> None:
        awaited = aio.IntelligentCache.of(cache)
        asked = 0
        mended = asyncio.Event()

        async def load() -> int:
            nonlocal asked
            asked += 1
            await mended.wait()
            return 1

        for _ in range(6):
            with pytest.raises(LoadTimeoutError):
                await awaited.get_or_set("k", load, load=HARD)
        assert asked == 3
        mended.set()
        while flights._outrun:
            await asyncio.sleep(0)
        assert await awaited.get_or_set("new", load, load=PATIENT) == 1

    asyncio.run(calls())


def test_a_loop_that_ends_takes_its_loads_along(cache: IntelligentCache) -> None:
    """They no longer count."""

    async def calls() -> None:
        with pytest.raises(LoadTimeoutError):
            await aio.IntelligentCache.of(cache).get_or_set("k", asyncio.Event().wait, load=HARD)
        assert len(flights._outrun) == 1

    asyncio.run(calls())
    assert not flights._outrun


def test_where_no_thread_can_be_started(cache: IntelligentCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """The timeout holds: the load is not begun in the thread of the caller."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    cache.get_or_set("stale", lambda: 0, ttl=1e-9, stale_ttl=60)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(LoadTimeoutError, match="no thread"):
            cache.get_or_set("k", lambda: 1, load=HARD)
        assert cache.get_or_set("stale", lambda: 1, stale_ttl=60, load=HARD) == 0
        assert cache.get_or_set("k", lambda: 2) == 2
    cache.delete("k")
    assert cache.get_or_set("k", lambda: 3, load=PATIENT) == 3
