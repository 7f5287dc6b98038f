"""An exception that a signal handler raises reaches the caller as it is, and counts as no fault."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import inside
import pytest
from interrupting import handled_by
from redis_server import wait_until

from cachekit import FileCache, IntelligentCache
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


def interrupted() -> int:
    """Be interrupted now."""
    signal.raise_signal(signal.SIGUSR1)
    return 1


class TestIsInterrupt:
    @pytest.mark.parametrize("handler", HANDLERS)
    def test_of_a_handler(self, handler: str) -> None:
        """Whatever kind of callable it is, and however deep it raises."""
        with handled_by(HANDLERS[handler]):
            with pytest.raises(TimeLimit) as caught:
                interrupted()
            assert is_interrupt(caught.value)

    def test_of_other_code(self) -> None:
        """The same exception of a function that was simply called is none."""
        with handled_by(Handler().method), pytest.raises(TimeLimit) as caught:
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


class Picky:
    """A value that is interrupted while it is pickled, and one while it is unpickled."""

    def __init__(self, when: str) -> None:
        self.when = when

    def __getstate__(self) -> str:
        if self.when == "stored":
            interrupted()
        return self.when

    def __setstate__(self, when: str) -> None:
        self.when = when
        if armed:
            interrupted()


#: Not empty while values are interrupted as they are read.
armed: list[bool] = []


class TestValues:
    @pytest.mark.parametrize("codec", ["trusted", "signed"])
    def test_while_they_are_stored_and_read(self, tmp_path: Path, codec: str) -> None:
        """No value is taken for one that cannot be stored, or for damage."""
        file = FileCache(tmp_path, max_size_mb=20, secret=None if codec == "trusted" else "a secret of mine")
        with IntelligentCache(None, None, file) as cache, handled_by(over):
            stored, read = Picky("stored"), Picky("read")
            writes: list[Callable[[], object]] = [
                lambda: cache.set("k", stored),
                lambda: cache.get_or_set("k", lambda: stored),
                lambda: cache.set_many({"k": [stored]}),
            ]
            for call in writes:
                with pytest.raises(TimeLimit):
                    call()
                assert cache.get("k") is None
            cache.set("k", [read])
            cache.set("k2", read)
            armed.append(True)
            reads: list[Callable[[], object]] = [
                lambda: cache.get("k"),
                lambda: cache.get("k2"),
                lambda: cache.get_or_set("k", lambda: 1),
                lambda: cache.get_many(["k", "k2"]),
            ]
            for call in reads:
                with pytest.raises(TimeLimit):
                    call()
            armed.clear()
            assert cache.get("k", [stored])[0].when == "read"
            assert file.get_stats().errors == 0
