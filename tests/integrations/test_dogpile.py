"""The backend of dogpile.cache: what `dogpile.testing` does not ask of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from forking import in_fork
from racing import race

pytest.importorskip("dogpile.cache", reason="dogpile.cache is not installed")

from dogpile.cache import make_region
from dogpile.cache.api import NO_VALUE

from cachekit import FileCache, IntelligentCache, MemoryCache
from cachekit.integrations.dogpile import CacheKitBackend
from cachekit.testing.processes import in_processes


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[IntelligentCache]:
    with IntelligentCache(MemoryCache(), None, FileCache(tmp_path / "cache")) as made:
        yield made


def region_of(cache: IntelligentCache, **arguments: Any) -> Any:
    return make_region().configure("cachekit", arguments={"cache": cache} | arguments)


def test_one_creator_of_a_host(cache: IntelligentCache, tmp_path: Path) -> None:
    """Of 4 processes with 4 threads each that ask at once."""
    calls = tmp_path / "calls"

    def work(number: int) -> list[str]:
        region = region_of(cache)
        begun = threading.Barrier(4)

        def create() -> str:
            with calls.open("a") as log:
                log.write("x")
            return "value"

        def ask() -> str:
            begun.wait(60)
            return str(region.get_or_create("k", create))

        return race(*[ask] * 4)

    assert in_processes(4, work) == [["value"] * 4] * 4
    assert calls.read_text() == "x"


def test_processes(cache: IntelligentCache) -> None:
    """What one deletes the other no longer serves."""
    region = region_of(cache)
    region.set("k", {"a": 1})
    assert region.get("k") == {"a": 1}

    def other() -> None:
        assert region.get("k") == {"a": 1}
        region.delete("k")

    assert in_fork(other)() == 0
    assert region.get("k") is NO_VALUE


def test_an_invalidation_during_a_creator(cache: IntelligentCache) -> None:
    """The value reaches its caller, and is not stored."""
    region = region_of(cache, tags={"t"}, key_prefix="r:")
    changes: list[Callable[[], object]] = [
        lambda: cache.invalidate_by_tags({"t"}),
        lambda: cache.delete("r:k"),
        lambda: region.delete("k"),
        lambda: race(lambda: region.delete("k")),
    ]
    for change in changes:

        def create(change: Callable[[], object] = change) -> str:
            change()
            return "old"

        assert region.get_or_create("k", create) == "old"
        assert region.get("k") is NO_VALUE
        assert region.get_or_create_multi(["k", "l"], lambda *keys: [create() for _ in keys]) == ["old"] * 2
        assert region.get("k") is NO_VALUE
    assert region.get_or_create("k", lambda: "new") == "new"
    assert cache.explain("r:k").tags == {"t"}
    race(lambda: region.set("k", "newer"))
    assert region.get("k") == "newer"


def test_another_thread_sets_it(cache: IntelligentCache) -> None:
    """It is no load, and it wins over the creator."""
    region = region_of(cache)

    def create() -> str:
        race(lambda: region.set("k", "set"))
        return "created"

    assert region.get_or_create("k", create) == "created"
    assert region.get("k") == "set"


def test_a_creator_in_the_background(cache: IntelligentCache) -> None:
    """The library may release the mutex in another thread."""
    ended: list[threading.Thread] = []

    def run(region: Any, key: str, creator: Callable[[], Any], mutex: Any) -> None:
        def work() -> None:
            try:
                region.set(key, creator())
            finally:
                mutex.release()

        ended.append(threading.Thread(target=work))
        ended[-1].start()

    region = make_region(async_creation_runner=run)
    region.configure("cachekit", expiration_time=1e-9, arguments={"cache": cache})
    region.set("k", 1)
    assert region.get_or_create("k", lambda: 2) == 1
    ended[0].join(60)
    assert region.get("k", ignore_expiration=True) == 2


def test_a_process_that_ends_gives_its_lease_back(cache: IntelligentCache) -> None:
    """Here in the middle of a creator."""
    backend = CacheKitBackend({"cache": cache})

    def other() -> None:
        assert CacheKitBackend({"cache": cache}).get_mutex("k").acquire()

    assert in_fork(other)() == 0
    mutex = backend.get_mutex("k")
    assert mutex.acquire(False)
    assert not backend.get_mutex("k").acquire(False)
    mutex.release()


def test_a_fork_while_a_mutex_is_held(cache: IntelligentCache) -> None:
    """The child's mutexes are its own."""
    backend = CacheKitBackend({"cache": cache, "lease_timeout": 0.01})
    mutex = backend.get_mutex("k")
    assert mutex.acquire()

    def other() -> None:
        again = backend.get_mutex("k")
        assert again.acquire()  # without a lease, after its timeout
        again.release()

    assert in_fork(other)() == 0
    mutex.release()


def test_wrong_arguments(cache: IntelligentCache) -> None:
    for arguments, what in (
        ({}, "must have a cache"),
        ({"cache": 5}, "an IntelligentCache, not 5"),
        ({"cache": cache, "ttl": "soon"}, "ttl"),
        ({"cache": cache, "tags": "t"}, "tags"),
        ({"cache": cache, "lease_timeout": "soon"}, "lease_timeout"),
    ):
        with pytest.raises(TypeError, match=what):
            CacheKitBackend(arguments)
    with IntelligentCache(MemoryCache(), None, None) as alone:
        region = region_of(alone, ttl=0)
        region.set_multi({"k": 1})
        assert region.get_multi(["k"]) == [NO_VALUE]
        alone.set("k", "not of a region")
        assert region.get("k") is NO_VALUE
