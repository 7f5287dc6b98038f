"""An exception that a signal handler raises reaches the caller as it is, and counts as no fault."""

from __future__ import annotations

import pickle
import signal
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import inside
import pytest
from interrupting import handled_by
from racing import in_thread
from redis_server import wait_until

from cachekit import FileCache, IntelligentCache, RedisCache
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

    def test_in_other_threads(self) -> None:
        """Python calls no handler there, so what a handler's function raises there is none either."""

        def called() -> bool:
            with pytest.raises(TimeLimit) as caught:
                over(1, None)
            return is_interrupt(caught.value)

        with handled_by(over):
            assert called()
            assert not in_thread(called)()


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


#: Not empty while the next value is interrupted as it is pickled or unpickled. A time limit strikes once.
armed: list[bool] = []


def strike() -> None:
    """Be interrupted if that is due."""
    if armed:
        armed.clear()
        interrupted()


class Picky:
    """A value that may be interrupted while it is pickled and while it is unpickled."""

    def __getstate__(self) -> str:
        strike()
        return "state"

    def __setstate__(self, state: str) -> None:
        strike()


class Pickling:
    """A codec of a user's."""

    name = "pickling"
    code = 200

    def encode(self, value: Any) -> bytes:
        """Return a pickle."""
        return pickle.dumps(value)

    def decode(self, payload: bytes | memoryview) -> Any:
        """Load it."""
        return pickle.loads(payload)


def lowest_of(kind: str, place: Path, request: pytest.FixtureRequest) -> IntelligentCache:
    """Return a cache over one tier that encodes values."""
    secret = None if kind == "trusted files" else "a secret of mine"
    if kind != "server":
        return IntelligentCache(None, None, FileCache(place, max_size_mb=20, secret=secret))
    url, prefix = request.getfixturevalue("redis_url"), request.getfixturevalue("prefix")
    if kind == "codec":
        redis = RedisCache(url=url, key_prefix=prefix, codec=Pickling())
    else:
        redis = RedisCache(url=url, key_prefix=prefix, secret=secret)
    return IntelligentCache(None, redis, None)


@pytest.mark.parametrize("kind", ["trusted files", "signed files", "server", "codec"])
def test_while_values_are_stored_and_read(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """No value is taken for one that cannot be stored, or for damage."""
    with lowest_of(kind, tmp_path, request) as cache, handled_by(over):

        def interrupts(call: Callable[[], object]) -> None:
            armed.append(True)
            with pytest.raises(TimeLimit):
                call()
            assert not armed

        for value in (Picky(), [Picky()]):
            writes: list[Callable[[], object]] = [
                lambda value=value: cache.set("k", value),  # type: ignore[misc]
                lambda value=value: cache.get_or_set("k", lambda: value),  # type: ignore[misc]
                lambda value=value: cache.set_many({"k": value}),  # type: ignore[misc]
            ]
            for call in writes:
                interrupts(call)
                assert cache.get("k") is None
        cache.set_many({"k": [Picky()], "k2": Picky()})
        tier = cache.redis_cache or cache.file_cache
        assert isinstance(tier, FileCache | RedisCache)
        reads: list[Callable[[], object]] = [
            lambda: cache.get("k"),
            lambda: cache.get("k2"),
            lambda: cache.get_or_set("k", lambda: 1),
            lambda: cache.get_many(["k", "k2"]),
            lambda: tier.get_value("k"),
        ]
        for call in reads:
            interrupts(call)
        assert cache.get_many(["k", "k2"]).keys() == {"k", "k2"}
        assert cache.get_stats()["combined"].errors == 0
