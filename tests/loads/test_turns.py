"""Leases and slots: one load among processes and hosts, and leaders that die, hang, or never come back."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import inside
import pytest
import redis
from forking import in_fork
from holders import kill, process_with
from loops import until
from racing import in_thread, race
from redis_server import RedisServer

from cachekit import (
    FileCache,
    IntelligentCache,
    LoadOptions,
    MemoryCache,
    RedisCache,
    TierUnavailableError,
    aio,
)
from cachekit.loading import process_lease
from cachekit.loading.flights import Flight
from cachekit.loading.permits import LoadPermit
from cachekit.loading.process_lease import ProcessLeases
from cachekit.testing import ManualClock

PROCESS = LoadOptions(lease="process")
SCOPES = ["process", "fleet"]


class Place:
    """Where the caches of a test meet: a directory of the host, a server, or both."""

    def __init__(self, scope: str, directory: Path, url: str, prefix: str) -> None:
        self.scope = scope
        self.directory = directory
        self.url = url
        self.prefix = prefix
        self._log = directory / "loads.log"
        self._log.touch()

    def cache(self, **more: Any) -> IntelligentCache:
        """A cache of its own, as another process or host has it."""
        load = LoadOptions(lease=self.scope, **more)  # type: ignore[arg-type]  # one of SCOPES
        if self.scope == "process":
            tiers: tuple[Any, Any] = None, FileCache(self.directory / "shared", 64)
        else:
            tiers = RedisCache(url=self.url, key_prefix=self.prefix, timeout=60), None
        return IntelligentCache(MemoryCache(), *tiers, load=load)

    def loaded(self, value: str = "value") -> str:
        """Note that a loader was called, in whatever process."""
        with open(self._log, "a") as log:
            log.write("x")
        return value

    def let_time_pass(self) -> None:
        """The lease on the server ends by itself; that of a directory ended with its process."""
        if self.scope == "fleet":
            with redis.Redis.from_url(self.url) as client:
                client.pexpire(f"{self.prefix}{{lease:k}}", 1)

    @property
    def loads(self) -> int:
        """How many that were."""
        return self._log.stat().st_size


@pytest.fixture(params=SCOPES)
def place(request: pytest.FixtureRequest, tmp_path: Path, redis_url: str, prefix: str) -> Place:
    return Place(request.param, tmp_path, redis_url, prefix)


# -- the stampede ---------------------------------------------------------------------------------------


#: Callers, of so many processes.
MANY = pytest.param(1000, 4, marks=pytest.mark.soak)


@pytest.mark.parametrize(("in_all", "in_processes"), [(10, 2), (100, 4), MANY])
def test_a_stampede_is_one_load(place: Place, waiting: int, in_all: int, in_processes: int) -> None:
    """However many threads of however many processes ask at once, and none has asked before."""
    read, write = os.pipe()

    def loader() -> str:
        for _ in range(in_processes - 1):  # somebody of each other process waits for this load
            assert os.read(waiting, 1) == b"x"
        return place.loaded()

    def stampede() -> None:
        with place.cache() as cache:
            assert os.read(read, 1) == b"x"
            ask = [lambda: cache.get_or_set("k", loader)] * (in_all // in_processes)
            assert set(race(*ask)) == {"value"}
            assert cache.get_stats()["combined"].loads in {0, 1}

    finish = [in_fork(stampede) for _ in range(in_processes)]
    os.write(write, b"x" * in_processes)
    assert [end() for end in finish] == [0] * in_processes
    assert place.loads == 1
    os.close(read)
    os.close(write)


@pytest.mark.parametrize("callers", [10, 100, pytest.param(1000, marks=pytest.mark.soak)])
def test_nor_more_in_one_process(callers: int) -> None:
    """Without any lease."""
    loads = []
    with IntelligentCache(MemoryCache(), file_cache=None) as cache:

        def loader() -> int:
            loads.append(1)
            return len(loads)

        assert race(*[lambda: cache.get_or_set("k", loader)] * callers) == [1] * callers


# -- leaders that do not come back ----------------------------------------------------------------------


STEPS = ["before the loader", "in the loader", "before the release"]


def stuck_at(step: str, place: Place, **more: Any) -> Callable[[], object]:
    """Work for another process: a load in a thread, that goes as far as the step."""

    def work() -> object:
        there = threading.Event()

        def stop(*_: object) -> None:
            there.set()
            threading.Event().wait()

        def loader() -> str:
            if step == "in the loader":
                stop()
            return place.loaded("of the dead")

        if step == "before the loader":
            Flight.hold_permit = stop  # type: ignore[method-assign,assignment]
        if step == "before the release":
            LoadPermit.release = stop  # type: ignore[method-assign,assignment]
        cache = place.cache(**more)
        thread = threading.Thread(target=cache.get_or_set, args=("k", loader), daemon=True)
        thread.start()
        assert there.wait(60)
        return cache, thread

    return work


@pytest.mark.parametrize("step", STEPS)
def test_a_leader_that_is_killed_is_followed(place: Place, waiting: int, step: str) -> None:
    """Kill -9 at any step: whoever waits loads at once, or when the lease of the server has ended."""
    with process_with(stuck_at(step, place)) as leader, place.cache() as cache:
        follower = in_thread(lambda: cache.get_or_set("k", place.loaded))
        if step != "before the release":
            assert os.read(waiting, 1) == b"x"
        kill(leader)
        place.let_time_pass()
        assert follower() == ("value" if step != "before the release" else "of the dead")
        assert cache.get("k") is not None
    assert place.loads == 1


@pytest.mark.parametrize("step", STEPS[:2])
def test_a_leader_that_hangs_is_not_waited_for_for_ever(place: Place, waiting: int, step: str) -> None:
    """Nor is one whose process is stopped: a second load, after lease_timeout."""
    with process_with(stuck_at(step, place)) as leader, place.cache(lease_timeout=0.3) as cache:
        os.kill(leader, signal.SIGSTOP)
        assert cache.get_or_set("k", place.loaded) == "value"
        assert cache.get_stats()["combined"].lease_waits == 1
        assert os.read(waiting, 1) == b"x"
    assert place.loads == 1


def test_a_leader_that_is_cancelled_is_followed(place: Place) -> None:
    """A task gives its lease back when it is cancelled."""
    with place.cache() as one, place.cache() as two:

        @one.cached(name="answer", key_func=lambda: "k")
        async def answer() -> str:
            begun.set()
            await asyncio.Event().wait()  # until it is cancelled
            return "never"

        begun = asyncio.Event()

        async def main() -> None:
            asking = asyncio.create_task(answer())
            await begun.wait()
            (leading,) = inside.tasks(one)
            leading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking

        asyncio.run(main())
        assert two.get_or_set("k", place.loaded) == "value"
        assert two.get_stats()["combined"].lease_waits == 0


def test_a_leader_that_is_cancelled_while_it_gets_its_lease_is_followed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that was about to get it gives it back, for nobody else knows of it."""
    with place.cache() as one, place.cache() as two:
        try_acquire, release = LoadPermit.try_acquire, LoadPermit.release
        begun, released, settled = threading.Event(), threading.Event(), threading.Event()

        def held_up(turn: LoadPermit) -> LoadPermit | None:
            begun.set()
            assert released.wait(60)
            try:
                return try_acquire(turn)
            finally:
                settled.set()

        def noted(turn: LoadPermit) -> None:
            release(turn)
            released.set()

        async def never() -> str:
            raise AssertionError("it was cancelled before")

        async def main() -> None:
            asking = asyncio.create_task(aio.IntelligentCache.of(one).get_or_set("k", never))
            while not begun.is_set():
                await asyncio.sleep(0)
            (leading,) = inside.tasks(one)
            leading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking

        with monkeypatch.context() as patched:
            patched.setattr(LoadPermit, "try_acquire", held_up)
            patched.setattr(LoadPermit, "release", noted)
            asyncio.run(main())
            assert settled.wait(60)
        assert two.get_or_set("k", place.loaded) == "value"
        assert two.get_stats()["combined"].lease_waits == 0


def test_a_load_that_fails_is_followed(place: Place, waiting: int) -> None:
    """The lease of a loader that raises is given back; its error is not the next one's."""
    with place.cache() as one, place.cache() as two:
        began = threading.Event()

        def failing() -> str:
            began.set()
            assert os.read(waiting, 1) == b"x"
            raise OSError("backend down")

        leader = in_thread(lambda: one.get_or_set("k", failing))
        assert began.wait(60)  # so it has the lease
        follower = in_thread(lambda: two.get_or_set("k", place.loaded))
        try:
            leader()
        except OSError:
            assert follower() == "value"
        else:
            raise AssertionError("the leader's own error is lost")


# -- invalidation ---------------------------------------------------------------------------------------


def test_what_was_invalidated_while_it_waited_for_its_turn_is_kept(place: Place, waiting: int) -> None:
    """The loader is called after that, so what it brings is new."""
    with place.cache() as one, place.cache() as two:
        go_on = threading.Event()

        def loader() -> str:
            assert go_on.wait(60)
            return place.loaded("old")

        began = threading.Event()
        leader = in_thread(lambda: one.get_or_set("k", lambda: began.set() or loader()))  # type: ignore[func-returns-value]
        assert began.wait(60)
        follower = in_thread(lambda: two.get_or_set("k", lambda: place.loaded("new")))
        assert os.read(waiting, 1) == b"x"
        two.delete("k")
        go_on.set()
        assert (leader(), follower()) == ("old", "new")
        assert two.get("k") == one.get("k") == "new"


def test_who_has_a_stale_value_does_not_wait_for_another_process(tmp_path: Path, waiting: int) -> None:
    """While one process loads, the others serve what they have."""
    clock = ManualClock()
    caches = [
        IntelligentCache(
            MemoryCache(clock=clock), file_cache=FileCache(tmp_path / "d", 64, clock=clock), load=PROCESS
        )
        for _ in range(2)
    ]
    with caches[0] as one, caches[1] as two:
        one.set("k", "old", ttl=10, stale_ttl=60)
        assert two.get("k") == "old"
        clock.advance(10)
        began, go_on = threading.Event(), threading.Event()

        def loader() -> str:
            began.set()
            assert go_on.wait(60)
            return "new"

        leader = in_thread(lambda: one.get_or_set("k", loader, stale_ttl=60))
        assert began.wait(60)
        assert two.get_or_set("k", str, stale_ttl=60) == "old"
        go_on.set()
        assert leader() == two.get_or_set("k", str, stale_ttl=60) == "new"
        assert two.get_stats()["combined"].loads == 0


# -- no deadlock ----------------------------------------------------------------------------------------


def test_loads_that_need_each_others_keys_do_not_wait(place: Place) -> None:
    """One has a and asks for b, the other has b and asks for a: each loads what it needs by itself."""
    with place.cache() as one, place.cache() as two:
        both = threading.Barrier(2)

        def need(cache: IntelligentCache, other: str) -> str:
            both.wait(60)
            return other + cache.get_or_set(other, lambda: "!")

        results = race(
            lambda: one.get_or_set("a", lambda: need(one, "b")),
            lambda: two.get_or_set("b", lambda: need(two, "a")),
        )
        assert all(result.endswith("!") for result in results)
        waits = [cache.get_stats()["combined"].lease_waits for cache in (one, two)]
        assert waits == [0, 0]


def test_two_keys_in_one_stripe_do_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a file is locked for many keys, a load may need another key of its own file."""
    monkeypatch.setattr(process_lease, "_HAS_BYTE_LOCKS", False)
    monkeypatch.setattr(process_lease._Stripes, "_COUNT", 1)
    with IntelligentCache(MemoryCache(), file_cache=FileCache(tmp_path / "d", 64), load=PROCESS) as cache:
        assert cache.get_or_set("a", lambda: cache.get_or_set("b", lambda: 1) + 1) == 2
        assert cache.get_stats()["combined"].lease_waits == 0


def test_forty_tasks_on_six_threads(tmp_path: Path, waiting: int) -> None:
    """Tasks that wait for turns hold no thread that those who have theirs need."""
    directory = tmp_path / "d"
    holder = IntelligentCache(MemoryCache(), file_cache=FileCache(directory, 64), load=PROCESS)
    with holder, IntelligentCache(MemoryCache(), file_cache=FileCache(directory, 64), load=PROCESS) as cache:

        @holder.cached(name="answer", key_func=lambda key: f"{key}")
        async def held(key: int) -> int:
            begun.append(key)
            await go_on.wait()
            return -key

        @cache.cached(name="answer", key_func=lambda key: f"{key}")
        async def answer(key: int) -> int:
            return key

        begun: list[int] = []
        go_on = asyncio.Event()

        async def main() -> list[int]:
            asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(6))
            leaders = [asyncio.create_task(held(key)) for key in range(20)]
            await until(lambda: len(begun) == 20, "all have their leases")
            tasks = [asyncio.create_task(answer(key)) for key in range(40)]
            free = await asyncio.gather(*tasks[20:])
            await asyncio.to_thread(lambda: [os.read(waiting, 1) for _ in range(20)])
            go_on.set()
            await asyncio.gather(*leaders)
            return await asyncio.gather(*tasks[:20]) + free

        assert asyncio.run(main()) == [-key for key in range(20)] + list(range(20, 40))


# -- slots ----------------------------------------------------------------------------------------------


def test_no_more_loads_at_once_than_slots(tmp_path: Path, waiting: int) -> None:
    """Among processes too; one that is killed gives its slot back."""
    options = LoadOptions(max_concurrent_loads=2)

    def made() -> IntelligentCache:
        return IntelligentCache(MemoryCache(), file_cache=FileCache(tmp_path / "d", 64), load=options)

    def busy() -> object:
        cache, began = made(), threading.Event()

        def loader() -> None:
            began.set()
            threading.Event().wait()

        thread = threading.Thread(target=cache.get_or_set, args=("elsewhere", loader), daemon=True)
        thread.start()
        assert began.wait(60)
        return cache, thread

    with process_with(busy) as child, made() as cache:
        began, go_on = threading.Event(), threading.Event()

        def loader() -> bool:
            began.set()
            return go_on.wait(60)

        first = in_thread(lambda: cache.get_or_set("a", loader))
        assert began.wait(60)
        second = in_thread(lambda: cache.get_or_set("b", lambda: "b"))
        batch = in_thread(lambda: cache.get_or_set_many(["c"], lambda keys: {"c": "c"}))
        assert [os.read(waiting, 1) for _ in range(2)] == [b"x"] * 2
        assert cache.get_stats()["combined"].loads == 0
        kill(child)
        assert (second(), batch()) == ("b", {"c": "c"})
        go_on.set()
        first()
        assert cache.get_stats()["combined"].lease_waits == 2


def test_a_load_inside_a_load_takes_no_further_slot(tmp_path: Path) -> None:
    options = LoadOptions(max_concurrent_loads=1)
    with IntelligentCache(MemoryCache(), file_cache=FileCache(tmp_path / "d", 64), load=options) as cache:

        def outer() -> int:
            inner: int = cache.get_or_set("inner", lambda: 1)
            return inner + cache.get_or_set_many(["many"], lambda keys: {"many": 1})["many"]

        assert cache.get_or_set("outer", outer) == 2
        assert cache.get_stats()["combined"].lease_waits == 0


# -- refreshing ahead, and tiers that are out -----------------------------------------------------------


def test_a_refresh_that_another_process_has_begun_is_left_to_it(tmp_path: Path) -> None:
    """It does not even wait; and a reload that was asked for is shared with nobody."""
    options = LoadOptions(lease="process", refresh_ahead=0.5)
    # By a clock that stands still: on any other the hits may come too early to begin a refresh, or too late.
    clock = ManualClock()
    memory, file = MemoryCache(clock=clock), FileCache(tmp_path / "d", 64, clock=clock)
    with IntelligentCache(memory, file_cache=file, load=options) as cache:
        others = ProcessLeases(tmp_path / "d")
        lease = others.try_acquire("k")
        assert lease is not None
        cache.set("k", "old", ttl=60)
        clock.advance(40)
        loads = []
        assert cache.get_or_set("k", lambda: loads.append(1)) == "old"
        for thread in threading.enumerate():
            if thread.name == "cachekit-load":
                thread.join(60)
        assert loads == []

        @cache.cached(name="answer", key_func=lambda: "k")
        def answer() -> str:
            return "new"

        assert answer.refresh() == "new"
        assert answer() == "new"
        lease.release()
        others.close()


@pytest.mark.parametrize("strict", [False, True])
def test_without_the_directory_of_the_leases_one_loads_anyway(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strict: bool
) -> None:
    def failing(leases: ProcessLeases, key: str) -> None:
        raise TierUnavailableError("no directory")

    monkeypatch.setattr(ProcessLeases, "try_acquire", failing)
    file = FileCache(tmp_path / "d", 64)
    with IntelligentCache(MemoryCache(), file_cache=file, load=PROCESS, strict=strict) as cache:
        if strict:
            with pytest.raises(TierUnavailableError, match="no directory"):
                cache.get_or_set("k", lambda: 1)
        else:
            assert cache.get_or_set("k", lambda: 1) == 1
            assert cache.get_stats()["combined"].lease_waits == 0


def test_without_the_server_of_the_leases_one_loads_anyway(server: RedisServer) -> None:
    tier = RedisCache(url=server.url, timeout=60)
    with IntelligentCache(MemoryCache(), tier, None, load=LoadOptions(lease="fleet")) as cache:
        assert cache.get_or_set("k", lambda: 1) == 1
        server.close()
        assert cache.get_or_set("j", lambda: 2) == 2
        assert cache.get_or_set("j", lambda: 3) == 2


ASKED_FOR = """
import sys
from cachekit import FileCache, IntelligentCache, LoadOptions
cache = IntelligentCache(file_cache=FileCache(sys.argv[1], 64), load=LoadOptions(max_concurrent_loads=2))
before = set(sys.modules)
cache.get_or_set("k", int)
print(sorted(set(sys.modules) - before))
"""


def test_what_slots_need_is_loaded_where_they_are_asked_for(tmp_path: Path) -> None:
    """Not in the middle of a load, where a fork would leave a module locked in the child for ever."""
    command = [sys.executable, "-c", ASKED_FOR, str(tmp_path)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"
