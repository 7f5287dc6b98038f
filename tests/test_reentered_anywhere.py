"""A signal handler calls the cache between any two lines of another call of the same thread: both end.

The same goes for finalizers, callbacks of weak references and handlers of logging, which run in the same way.
A lock that the thread holds already would stop it for ever; a watchdog of the test run ends the process then.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from anywhere import CALLS, MODULES, a_cache
from interrupting import handled_by
from racing import in_thread
from tracing import at_line

from cachekit import IntelligentCache, MemoryCache, RedisCache, aio
from cachekit.tiers.redis import bus, bus_protocol, client, heartbeat

pytestmark = pytest.mark.timeout(100)


def reenter(cache: IntelligentCache) -> None:
    """Call what a handler may call: also what is in progress."""
    cache.get("k")
    cache.set("handler's", 1, tags={"u"})
    assert cache.get("handler's") in {1, None}
    cache.get_or_set("l", lambda: [1])
    cache.get_or_set("own", lambda: 2)
    cache.get_many(["k", "j"])
    cache.invalidate_by_tags({"u"})
    cache.delete("j")
    cache.explain("k")
    cache.get_stats()


#: Beside the calls of `anywhere`, which a handler may make as well.
REENTERING: dict[str, Callable[[IntelligentCache], object]] = {
    "calls": reenter,
    "clear": lambda cache: cache.clear(),
    "pattern": lambda cache: cache.invalidate_by_pattern("k"),
    "set many": lambda cache: cache.set_many({f"more {number}": 1 for number in range(5)}, tags={"t"}),
}


def reenter_all(cache: IntelligentCache, name: str, how: str, first: int, step: int) -> None:
    entered = 0

    def handler(*_: object) -> None:
        nonlocal entered
        entered += 1
        REENTERING[how](cache)

    call = partial(CALLS[name], cache)
    call()
    number, came = first, True
    with handled_by(handler):
        while came and (step == 1 or number < 700):  # `clear` of a server runs thousands of lines
            cache.set("k", [1], tags={"t"})
            came = at_line(number, MODULES, lambda: signal.raise_signal(signal.SIGUSR1), call)
            number += step if number < 200 else max(step, number // (6 if step == 1 else 1))
    assert entered, name
    assert all(tier.state == "closed" for tier in cache._core.tiers.states().values()), name
    assert not any(tier.errors for tier in cache._core.tiers.states().values()), name
    assert in_thread(partial(cache.set, "k", 1))() is True, name
    assert cache.get("k") == 1
    cache.delete("l")
    assert in_thread(lambda: cache.get_or_set("l", lambda: 5))() == 5, name


@pytest.mark.parametrize("kind", ["memory", "files", pytest.param("server", marks=pytest.mark.soak), "all"])
def test_a_handler_calls_the_cache(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, subtests: pytest.Subtests
) -> None:
    """Each call is entered at some of its lines here; the soak run enters each of them."""
    with a_cache(kind, tmp_path, request) as cache:
        for at, name in enumerate(CALLS):
            how = list(REENTERING)[at % len(REENTERING)]
            with subtests.test(name=name):
                reenter_all(cache, name, how, 1 + at % 7, 29)


@pytest.mark.soak
@pytest.mark.timeout(3600)  # each line of each call, and a pattern goes through all keys of the server
@pytest.mark.parametrize("how", REENTERING)
@pytest.mark.parametrize("kind", ["memory", "files", "server", "all"])
def test_a_handler_calls_the_cache_at_each_line(
    kind: str, how: str, tmp_path: Path, request: pytest.FixtureRequest, subtests: pytest.Subtests
) -> None:
    """As above, with each way."""
    with a_cache(kind, tmp_path, request) as cache:
        for name in CALLS:
            with subtests.test(name=name):
                reenter_all(cache, name, how, 1, 1)


def test_a_handler_writes_in_the_middle_of_a_message(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """At each line of the bus and of the client: numbering a message takes a lock. None is left in hand."""
    modules = [bus, bus_protocol, heartbeat, client]
    with a_cache("server", tmp_path, request) as cache:
        redis = cache.redis_cache
        assert isinstance(redis, RedisCache)

        def handler(*_: object) -> None:
            redis.set_value("handler's", 1)
            redis.delete("handler's")

        number, came = 1, True
        with handled_by(handler):
            while came:
                came = at_line(
                    number, modules, lambda: signal.raise_signal(signal.SIGUSR1), lambda: cache.set("k", [1])
                )
                number += 1
        assert number > 10
        outbox = redis._store.bus.outbox
        assert not outbox._in_hand
        due = outbox.heartbeat(final=True)
        assert due is not None
        assert due[0] == outbox._last


def test_a_task_is_entered(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """A handler that runs in the thread of a loop, in the middle of an awaited call."""
    with a_cache("files", tmp_path, request) as cache:

        async def load() -> int:
            return 1

        async def calls() -> None:
            awaited = aio.IntelligentCache.of(cache)
            await awaited.delete("l")
            assert await awaited.get_or_set("l", load) in (1, [1])
            await awaited.get_many(["k", "l"])
            await awaited.invalidate_by_tags({"t"})

        asyncio.run(calls())
        with handled_by(lambda *_: reenter(cache)):
            number, came = 1, True
            while came:
                came = at_line(
                    number, MODULES, lambda: signal.raise_signal(signal.SIGUSR1), lambda: asyncio.run(calls())
                )
                number += 37


class Calling(logging.Handler):
    """A handler of logging that calls the cache, as one that counts or throttles may."""

    cache: IntelligentCache

    entered = False

    def emit(self, record: logging.LogRecord) -> None:
        """Call it, unless this is logged by that call."""
        if not self.entered:
            self.entered = True
            reenter(self.cache)
            self.entered = False


def test_a_log_handler_calls_the_cache() -> None:
    """Cachekit logs outside its locks."""
    handler = Calling()
    with IntelligentCache(MemoryCache(), None, None) as cache:
        handler.cache = cache
        logger = logging.getLogger("cachekit")
        logger.addHandler(handler)
        try:
            memory = cache.memory_cache
            assert memory is not None
            forget = memory.on_removal(lambda *_: 1 / 0)
            cache.set("k", 1)
            cache.delete("k")
            forget()

            def fails() -> int:
                raise OSError("loader's own")

            cache.get_or_set("s", lambda: 1, ttl=1e-9, stale_ttl=60)
            assert cache.get_or_set("s", fails, stale_ttl=60) == 1
        finally:
            logger.removeHandler(handler)


@pytest.mark.parametrize("kind", ["memory", "files"])
def test_a_handler_asks_for_what_another_thread_loads(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """That thread may need a lock which the interrupted call holds, to store its value."""
    with a_cache(kind, tmp_path, request) as cache:
        number, came = 1, True
        while came:
            begun, go_on = threading.Event(), threading.Event()

            def load(begun: threading.Event = begun, go_on: threading.Event = go_on) -> int:
                begun.set()
                assert go_on.wait(60)
                return 1

            other = threading.Thread(target=cache.get_or_set, args=(f"other {number}", load))
            other.start()
            assert begun.wait(60)

            def handler(*_: object, number: int = number, go_on: threading.Event = go_on) -> None:
                go_on.set()
                assert cache.get_or_set(f"other {number}", lambda: 1) == 1

            with handled_by(handler):
                came = at_line(
                    number,
                    MODULES,
                    lambda: signal.raise_signal(signal.SIGUSR1),
                    lambda: cache.set("k", [1], tags={"t"}),
                )
            go_on.set()
            other.join(60)
            assert not other.is_alive()
            number += 1
        assert number > 5
