"""A signal handler comes in the middle of what keeps a table of its own, and uses the same table.

The tiers and loads of a cache are in `test_reentered_anywhere`. At each line: a lock that the same thread may
hold already would stop it for ever, and a watchdog of the test run ends the process then.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import ModuleType

import pytest
from interrupting import handled_by
from tracing import at_line

from cachekit import IntelligentCache, MemoryCache
from cachekit.http import flights
from cachekit.http.flights import Flights, Landing
from cachekit.runtime.clock import SystemClock
from cachekit.tiers.polled import listeners
from cachekit.tiers.polled.listeners import Listeners

pytestmark = pytest.mark.timeout(60)


def at_each_line(modules: ModuleType, call: Callable[[], object], handler: Callable[[], object]) -> None:
    number, came = 1, True
    with handled_by(lambda *_: handler()):
        while came:
            came = at_line(number, modules, lambda: signal.raise_signal(signal.SIGUSR1), call)
            number += 1
    assert number > 5


def test_flights_of_responses() -> None:
    """Of one URL, and of another one whose responses are for one request each."""
    table = Flights(SystemClock())

    def fetch(key: str, landing: Landing) -> None:
        flight, leads = table.join(key)
        if flight is not None and leads:
            flight.response_began()
            table.land(key, flight, landing)

    def both() -> None:
        fetch("shared", Landing.STORED)
        fetch("private", Landing.PRIVATE)
        table._passing.clear()

    at_each_line(flights, both, both)
    assert not table._flights
    flight, leads = table.join("shared")
    assert flight is not None
    assert leads


class Listener:
    def __init__(self) -> None:
        self.told = 0

    def everything_changed(self) -> None:
        self.told += 1

    keys_changed = tags_changed = pattern_changed = lambda self, _: None


def test_listeners_of_a_polled_tier() -> None:
    """Each is told of a write after it has subscribed, and none after it has ended that."""
    table = Listeners(3600, None, 1.0)

    def subscribe_and_end() -> None:
        listener = Listener()
        end = table.subscribe(listener)
        before = listener.told
        with table.told(lambda one: one.everything_changed()):
            pass
        assert listener.told >= before + 1
        end()

    at_each_line(listeners, subscribe_and_end, subscribe_and_end)
    assert not table._listening


def test_mutexes_of_dogpile() -> None:
    """A key has one mutex, whoever asks first."""
    pytest.importorskip("dogpile.cache")
    from cachekit.integrations import dogpile

    with IntelligentCache(MemoryCache(), None, None) as cache:
        backend = dogpile.CacheKitBackend({"cache": cache})
        number, came = 1, True
        while came:
            found: list[object] = []

            def ask(key: str = f"k{number}", found: list[object] = found) -> None:
                found.append(backend.get_mutex(key))

            with handled_by(lambda *_, ask=ask: ask()):
                came = at_line(number, dogpile, lambda: signal.raise_signal(signal.SIGUSR1), ask)
            assert len(set(map(id, found))) == 1
            number += 1
        assert number > 3
