"""An exception that a signal handler raises reaches the caller as it is, and counts as no fault."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import inside
import pytest
from redis_server import wait_until

from cachekit import IntelligentCache
from cachekit.runtime.interrupts import is_interrupt


class TimeLimit(Exception):  # as task queues name it
    """What a time limit raises: an Exception, as Celery's."""


def over(signum: int, frame: object) -> None:
    raise TimeLimit


class Handler:
    """Handlers of other kinds."""

    def method(self, signum: int, frame: object) -> None:
        raise TimeLimit

    def __call__(self, *arguments: object) -> None:
        self.help()

    def help(self) -> None:
        raise TimeLimit


HANDLERS: dict[str, Callable[..., Any]] = {
    "function": over,
    "any arguments": lambda *_: Handler().help(),
    "method": Handler().method,
    "object": Handler(),
    "partial": partial(over),
}


@contextmanager
def handled_by(handler: Callable[..., Any]) -> Iterator[None]:
    """Handle SIGUSR1 with this handler."""
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


def interrupted() -> int:
    """Be interrupted now."""
    signal.raise_signal(signal.SIGUSR1)
    return 1


class TestIsInterrupt:
    @pytest.mark.parametrize("handler", HANDLERS)
    def test_of_a_handler(self, handler: str) -> None:
        """Whatever kind of callable it is, and however deep it raises."""
        with handled_by(HANDLERS[handler]), pytest.raises(TimeLimit) as caught:
            interrupted()
        assert is_interrupt(caught.value)

    def test_of_other_code(self) -> None:
        """The same exception of a function that was simply called is none."""
        with pytest.raises(TimeLimit) as caught:
            over(1, None)
        assert not is_interrupt(caught.value)
        assert not is_interrupt(TimeLimit())


class TestLoads:
    def test_a_loader(self) -> None:
        """Its caller gets the exception; another caller loads by itself; no stale value hides it."""
        calls: list[str] = []

        def load() -> int:
            calls.append(threading.current_thread().name)
            if threading.current_thread() is threading.main_thread():
                other.start()
                wait_until(
                    lambda: inside.threads_waiting(cache, "k") == 1, "the other thread waits for this load"
                )
                return interrupted()
            return 2

        answers: list[object] = []
        with IntelligentCache(file_cache=None) as cache:
            cache.get_or_set("k", lambda: 0, ttl=1e-9, stale_ttl=60)
            other = threading.Thread(target=lambda: answers.append(cache.get_or_set("k", load)))
            with handled_by(over), pytest.raises(TimeLimit):
                cache.get_or_set("k", load, stale_ttl=60)
            other.join(60)
            assert answers == [2]
            assert len(calls) == 2
