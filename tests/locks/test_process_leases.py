"""Leases between processes: one holder, whoever dies, stops or forks."""

from __future__ import annotations

import gc
import itertools
import mmap
import os
import signal
import struct
import threading
import time
from pathlib import Path

import pytest
import traced
from file_checks import open_files
from forking import in_fork
from holders import kill, orphan_of, process_with
from racing import frequent_switches, in_thread, race
from tracing import at_line

from cachekit import FileCache, IntelligentCache, LoadOptions, MemoryCache
from cachekit.errors import CacheClosedError, TierUnavailableError
from cachekit.loading import process_lease
from cachekit.loading.process_lease import ProcessLeases
from cachekit.runtime.backoff import wait_for
from cachekit.testing import ManualClock
from cachekit.testing.processes import in_processes

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning"),
]


@pytest.fixture(params=["bytes", "stripes"], autouse=True)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Byte-range locks, and what is used where there are none."""
    if request.param == "stripes":
        monkeypatch.setattr(process_lease, "_HAS_BYTE_LOCKS", False)
    elif not process_lease._HAS_BYTE_LOCKS:
        pytest.skip("this system has no byte-range locks of open files")
    return str(request.param)


def same_place(leases: ProcessLeases, key: str) -> str | None:
    """Another key that has the key's place, if one can be found."""
    place = leases._places.place(key)
    candidates = (f"other {number}" for number in range(5000))
    return next((other for other in candidates if leases._places.place(other) == place), None)


def free_elsewhere(directory: Path, key: str = "k") -> bool:
    """Whether another process could have it: another open file is as good as one."""
    others = ProcessLeases(directory)
    try:
        return others.try_acquire(key) is not None
    finally:
        others.close()


def test_one_at_a_time_among_processes_and_threads(tmp_path: Path) -> None:
    """4 processes of 2 threads count in shared memory, in two steps; no count is lost."""
    board = mmap.mmap(-1, 8)
    rounds = 60

    def count(process: int) -> None:
        leases = ProcessLeases(tmp_path)

        def one() -> None:
            for _ in range(rounds):
                lease = wait_for(lambda: leases.try_acquire("counter"), time.monotonic() + 60)
                assert lease is not None
                (before,) = struct.unpack_from("q", board, 0)
                os.sched_yield()
                struct.pack_into("q", board, 0, before + 1)
                lease.release()

        with frequent_switches():
            race(one, one)
        leases.close()

    in_processes(4, count)
    assert struct.unpack_from("q", board, 0)[0] == 4 * 2 * rounds


def test_one_of_a_process_has_it(tmp_path: Path) -> None:
    """The same key again is None, in any thread; release frees it, and a second release does no harm."""
    leases = ProcessLeases(tmp_path)
    got = race(*[lambda: leases.try_acquire("k")] * 4)
    (lease,) = [one for one in got if one is not None]
    assert lease.is_held()
    assert not free_elsewhere(tmp_path)
    assert in_thread(lease.release)() is None
    assert not lease.is_held()
    again = leases.try_acquire("k")
    assert again is not None
    lease.release()
    assert again.is_held()
    assert not free_elsewhere(tmp_path)
    leases.close()


def test_keys_do_not_disturb_each_other(tmp_path: Path) -> None:
    """Whatever they are made of; in stripes but for those that share one."""
    leases = ProcessLeases(tmp_path)
    keys = ["", "k", "k2", "\udc80", "é" * 10_000]
    places = {leases._places.place(key) for key in keys}
    assert len(places) == len(keys), "choose other keys"
    held = [leases.try_acquire(key) for key in keys]
    assert None not in held
    held[1].release()  # type: ignore[union-attr]
    assert [free_elsewhere(tmp_path, key) for key in keys] == [False, True, False, False, False]
    leases.close()


def test_keys_of_one_place_wait_for_each_other(tmp_path: Path, kind: str) -> None:
    """Two of 5,000 keys share a stripe; none of them shares a byte."""
    leases = ProcessLeases(tmp_path)
    other = same_place(leases, "k")
    assert (other is None) == (kind == "bytes")
    if other is not None:
        lease = leases.try_acquire("k")
        assert lease is not None
        assert leases.try_acquire(other) is None
        assert not free_elsewhere(tmp_path, other)
        lease.release()
        assert leases.try_acquire(other) is not None
    leases.close()


def test_kill_9_frees_what_was_held(tmp_path: Path) -> None:
    """At once: the kernel does it."""
    leases = ProcessLeases(tmp_path)
    with process_with(lambda: ProcessLeases(tmp_path).try_acquire("k")) as holder:
        assert leases.try_acquire("k") is None
        kill(holder)
        assert leases.try_acquire("k") is not None
    leases.close()


def test_a_stopped_holder_is_waited_for_until_the_deadline(tmp_path: Path) -> None:
    """And no longer: whoever waited then loads without."""
    clock = ManualClock()
    leases = ProcessLeases(tmp_path)
    with process_with(lambda: ProcessLeases(tmp_path).try_acquire("k")) as holder:
        os.kill(holder, signal.SIGSTOP)
        lease = wait_for(
            lambda: leases.try_acquire("k"),
            clock.monotonic() + 5,
            wait=clock.advance,
            monotonic=clock.monotonic,
        )
    assert lease is None
    leases.close()


def test_a_child_holds_and_releases_nothing_of_its_parents(tmp_path: Path) -> None:
    """It finds the key taken, as any process does; its own leases are its own."""
    leases = ProcessLeases(tmp_path)
    lease = leases.try_acquire("k")
    assert lease is not None

    def in_child() -> None:
        assert not lease.is_held()
        lease.release()
        assert leases.try_acquire("k") is None
        mine = leases.try_acquire("mine")
        assert mine is not None
        leases.close()

    assert in_fork(in_child)() == 0
    assert lease.is_held()
    assert not free_elsewhere(tmp_path)
    assert free_elsewhere(tmp_path, "mine")
    lease.release()
    assert in_fork(lambda: leases.try_acquire("k").release())() == 0  # type: ignore[union-attr]
    leases.close()


def test_a_surviving_child_does_not_keep_a_dead_parents_lease(tmp_path: Path) -> None:
    """The lock belongs to the open file, of which the child had a descriptor."""
    with orphan_of(lambda: ProcessLeases(tmp_path).try_acquire("k")):
        assert free_elsewhere(tmp_path)


def test_close_releases_and_gives_back_descriptors(tmp_path: Path) -> None:
    """A second close does nothing; a lease after it is an error."""
    leases = ProcessLeases(tmp_path)
    held = [leases.try_acquire(str(number)) for number in range(20)]
    leases.close()
    leases.close()
    assert not any(lease.is_held() for lease in held if lease is not None)
    for lease in held:
        if lease is not None:
            lease.release()
    assert free_elsewhere(tmp_path, "3")
    with pytest.raises(CacheClosedError):
        leases.try_acquire("k")
    if os.path.isdir("/proc/self/fd"):
        assert open_files(tmp_path) == []


def test_a_directory_that_fails_is_an_error_of_the_tier(tmp_path: Path) -> None:
    """And is used again when it is back; a link in the place of the file is not followed."""
    directory = tmp_path / "gone"
    leases = ProcessLeases(directory)
    with pytest.raises(TierUnavailableError, match="gone"):
        leases.try_acquire("k")
    directory.mkdir()
    assert leases.try_acquire("k") is not None
    leases.close()
    for file in directory.iterdir():
        file.unlink()
        file.symlink_to(tmp_path / "elsewhere")
    leases = ProcessLeases(directory)
    with pytest.raises(TierUnavailableError):
        leases.try_acquire("k")
    assert not (tmp_path / "elsewhere").exists()
    leases.close()


def interrupt() -> None:
    raise KeyboardInterrupt


def test_a_lease_that_nobody_has_is_free(tmp_path: Path) -> None:
    """Dropped without release."""
    leases = ProcessLeases(tmp_path)
    lease = leases.try_acquire("k")
    assert lease is not None
    del lease
    assert free_elsewhere(tmp_path)
    leases.close()


def test_an_interrupted_call_leaves_nothing_taken(tmp_path: Path) -> None:
    """Wherever the signal strikes: the key is free, here and elsewhere."""
    leases = ProcessLeases(tmp_path)
    kept: list[object] = []  # a finalizer is not to be struck: what it raises is nobody's
    for number in itertools.count(1):
        try:
            struck = at_line(
                number, traced.PROCESS_LEASES, interrupt, lambda: kept.append(leases.try_acquire("k"))
            )
        except KeyboardInterrupt:
            struck = True
        kept.clear()
        gc.collect()  # what a traceback holds, or its finalizer would be struck the next time
        assert free_elsewhere(tmp_path), f"line {number}"
        lease = leases.try_acquire("k")
        assert lease is not None, f"line {number}"
        lease.release()
        if not struck:
            break
    assert number > 5
    leases.close()


def test_an_interrupted_release_can_be_made_again(tmp_path: Path) -> None:
    """Wherever the signal strikes."""
    leases = ProcessLeases(tmp_path)
    for number in itertools.count(1):
        lease = leases.try_acquire("k")
        assert lease is not None
        try:
            struck = at_line(number, traced.PROCESS_LEASES, interrupt, lease.release)
        except KeyboardInterrupt:
            struck = True
        lease.release()
        assert free_elsewhere(tmp_path), f"line {number}"
        if not struck:
            break
    assert number > 3
    leases.close()


def test_an_interrupt_inside_the_lock_library_leaves_nothing_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock is taken, and nobody learns of it."""
    leases = ProcessLeases(tmp_path)
    take = type(leases._places).take

    def struck(places: object, place: int) -> bool:
        assert take(places, place)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(type(leases._places), "take", struck)
    with pytest.raises(KeyboardInterrupt):
        leases.try_acquire("k")
    monkeypatch.undo()
    assert free_elsewhere(tmp_path)
    leases.close()


def test_a_released_lease_that_is_collected_waits_for_nobody(tmp_path: Path) -> None:
    """The collector may come in the middle of a write, for whose end a fork waits that has our lock."""
    leases = ProcessLeases(tmp_path)
    lease = leases.try_acquire("k")
    assert lease is not None
    lease.release()
    kept = [lease]
    del lease
    collector = threading.Thread(target=kept.clear)
    leases.before_fork()
    collector.start()
    collector.join(60)
    waits = collector.is_alive()
    leases.after_fork(in_child=False)
    collector.join()
    assert not waits
    leases.close()


def test_first_loads_of_several_threads_share_one_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of the threads makes leases of the cache, and all use the same ones, which `close` closes."""
    all_make = threading.Barrier(8)
    monkeypatch.setattr(
        process_lease, "ProcessLeases", lambda path: (all_make.wait(60), ProcessLeases(path))[1]
    )
    with IntelligentCache(MemoryCache(), None, FileCache(tmp_path, 64)) as cache:
        options = LoadOptions(lease="process")
        loads = [lambda key=key: cache.get_or_set(key, lambda: key, load=options) for key in "abcdefgh"]
        assert race(*loads) == list("abcdefgh")
    assert [file for file in open_files(tmp_path) if "lease" in str(file)] == []


def test_leases_that_a_load_makes_while_the_cache_closes_are_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The load has begun before, such as a refresh in the background; its file would stay open for ever."""
    makes, go_on = threading.Event(), threading.Event()

    def make(path: str) -> ProcessLeases:
        makes.set()
        assert go_on.wait(60)
        return ProcessLeases(path)

    monkeypatch.setattr(process_lease, "ProcessLeases", make)
    with IntelligentCache(MemoryCache(), None, FileCache(tmp_path, 64)) as cache:
        load = in_thread(lambda: cache.get_or_set("k", lambda: 1, load=LoadOptions(lease="process")))
        assert makes.wait(60)
    go_on.set()
    with pytest.raises(CacheClosedError):
        load()
    assert [file for file in open_files(tmp_path) if "lease" in str(file)] == []


def test_a_cache_that_is_dropped_leaves_no_file_of_leases_open(tmp_path: Path) -> None:
    """Without `close`: a program that makes a cache for each request would run out of descriptors."""
    cache = IntelligentCache(MemoryCache(), None, FileCache(tmp_path, 64), load=LoadOptions(lease="process"))
    assert cache.get_or_set("k", lambda: 1) == 1
    del cache
    gc.collect()
    assert [file for file in open_files(tmp_path) if "lease" in str(file)] == []


def test_leases_that_the_collector_ends_after_their_file_raise_nothing(tmp_path: Path) -> None:
    """It finalizes what is dropped together in any order: here the file is older than one of the leases."""
    leases = ProcessLeases(tmp_path)
    held: list[object] = [leases.try_acquire(key) for key in "ab"]
    held.append(held)
    del leases, held
    gc.collect()
    assert free_elsewhere(tmp_path, "a")
    assert free_elsewhere(tmp_path, "b")
