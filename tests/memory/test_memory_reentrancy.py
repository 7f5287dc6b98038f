"""Calls from inside a write of the same thread: finalizers, signal handlers, listeners."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable

import inside
import pytest
from interrupting import InterruptedClock, no_collection

from cachekit import MemoryCache, RemovalCause


class Finalized:
    """Calls `action` when it dies; part of a cycle, so that only the garbage collector ends it."""

    def __init__(self, action: Callable[[], object]) -> None:
        self.action = action
        self.myself = self

    def __del__(self) -> None:
        self.action()


def test_a_finalizer_inside_a_write_is_served_after_it() -> None:
    """The collector may run a finalizer in the middle of a write; its calls are neither lost nor fatal."""
    cache = MemoryCache(max_size=1000)
    ran: list[int] = []

    def action(number: int) -> None:
        ran.append(number)
        cache.set_value(f"from finalizer {number}", number)
        cache.delete("k1")
        cache.invalidate_by_tags({"t"})

    threshold = gc.get_threshold()
    gc.set_threshold(1)  # collect at nearly every allocation, those under the lock included
    try:
        for number in range(300):
            Finalized(lambda number=number: action(number))  # type: ignore[misc]
            cache.set_value(f"k{number}", [number], tags={"t", f"u{number}"})
    finally:
        gc.set_threshold(*threshold)
    gc.collect()
    assert len(ran) == 300
    assert all(cache.get_value(f"from finalizer {number}") == number for number in ran)
    cache._check()


def test_a_call_from_inside_a_write_is_carried_out_after_it() -> None:
    """What a finalizer or handler asks for in the middle of a write is queued, not dropped."""
    clock = InterruptedClock()
    cache = MemoryCache(max_size=10, clock=clock)
    order: list[str] = []
    cache.on_removal(lambda key, *_: order.append(key))
    cache.set_value("a", 1, tags={"t"})
    cache.set_value("b", 1, tags={"t"})

    def within() -> None:
        assert inside.store(cache)._state, "this is the middle of a write"
        assert cache.set_value("c", 3) is True
        assert cache.delete("b") is False
        assert cache.get_value("b") == 1

    clock.happens = within
    assert cache.delete("a") is True
    assert order == ["a", "b"]
    assert cache.get_value("c") == 3
    cache._check()


def test_a_value_that_dies_may_use_the_cache() -> None:
    """An evicted or replaced value is let go of outside the lock."""
    cache = MemoryCache(max_size=1)
    deaths: list[str] = []

    class Value:
        def __init__(self, name: str) -> None:
            self.name = name

        def __del__(self) -> None:
            deaths.append(self.name)
            cache.get_value("anything")
            cache.delete("anything")

    cache.set_value("a", Value("replaced"))
    cache.set_value("a", Value("evicted"))
    cache.set_value("b", Value("deleted"))
    cache.delete("b")
    cache.set_value("c", Value("cleared"))
    cache.clear()
    assert deaths == ["replaced", "evicted", "deleted", "cleared"]
    cache._check()


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs interval timers")
def test_signal_handlers_that_raise_leave_no_lock_behind() -> None:
    """A handler's exception may strike between any two steps; the cache goes on."""
    # Without the background thread: Python prints what a handler raises while a thread starts.
    cache = MemoryCache(max_size=20, estimates=False)

    class Struck(Exception):
        pass

    def handler(*_: object) -> None:
        raise Struck

    before = signal.signal(signal.SIGALRM, handler)
    struck = 0
    with no_collection():
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0003)
            for number in range(30_000):
                try:
                    cache.set_value(f"k{number % 50}", number, tags={"t"})
                    cache.delete(f"k{number % 7}")
                except Struck:
                    struck += 1
        except Struck:
            struck += 1
        finally:
            try:
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Struck:
                signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
    assert struck > 0
    # The lock is free for others, bounds hold, and tags find everything that is there.
    import threading

    done: list[bool] = []
    other = threading.Thread(target=lambda: done.append(cache.set_value("other", 1, tags={"t"})))
    other.start()
    other.join(60)
    assert done == [True]
    cache.set_value("last", 1, tags={"t"})
    assert cache.size() <= 20
    cache.invalidate_by_tags({"t"})
    assert cache.keys() == []


def test_a_signal_handler_may_call_the_cache() -> None:
    """A handler that runs in the middle of a write is served when that write is done."""
    cache = MemoryCache(max_size=20)
    calls = [0]

    def handler(*_: object) -> None:
        calls[0] += 1
        cache.set_value("from handler", calls[0])

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        for number in range(2000):
            os.kill(os.getpid(), signal.SIGUSR1)
            cache.set_value(f"k{number % 30}", number)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert calls[0] == 2000
    cache._check()


def test_a_listener_may_call_the_cache() -> None:
    """Listeners run without the lock: one may write, and is told of what that removes."""
    cache = MemoryCache(max_size=2)
    told: list[tuple[str, RemovalCause]] = []

    def listener(key: str, value: object, cause: RemovalCause) -> None:
        told.append((key, cause))
        if key == "a":
            cache.set_value("again", value)

    forget = cache.on_removal(listener)
    cache.set_value("a", 1)
    cache.set_value("b", 2)
    cache.delete("a")
    assert cache.get_value("again") == 1
    cache.set_value("c", 3)
    forget()
    cache.clear()
    assert told == [("a", RemovalCause.INVALIDATED), ("b", RemovalCause.EVICTED)]


def test_a_failing_listener_is_logged_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    """It disturbs neither the write nor the other listeners."""
    cache = MemoryCache()
    told: list[str] = []

    def failing(*_: object) -> None:
        raise OSError("listener's own")

    cache.on_removal(failing)
    cache.on_removal(lambda key, *_: told.append(key))
    cache.set_value("k", 1)
    assert cache.delete("k") is True
    assert told == ["k"]
    assert cache.get_stats().errors == 1
    assert "failing" in caplog.text
