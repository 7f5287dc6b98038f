"""The file tier while the machine fails it: every fault really made, under four processes that use it.

In each, callers meet TierUnavailableError and nothing else, no value is wrong, and the same cache objects
work again when the fault is mended.
"""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import inside
import pytest
from disks import fill
from patience import give_up_soon

from cachekit import (
    CacheEntry,
    FileCache,
    FileFormatError,
    IntelligentCache,
    MemoryCache,
    TierUnavailableError,
    ValueTooLargeError,
)
from cachekit.errors import LockTimeoutError
from cachekit.testing import ManualClock
from cachekit.testing.processes import in_processes
from cachekit.tiers.file.engine.directory import USERS
from cachekit.tiers.file.engine.engine import Engine

PROCESSES = 4
OTHER = 12_345  # a user that is not this one

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

#: What is done to the machine; told which of the processes asks.
Step = Callable[[int], None]


class Outcome(NamedTuple):
    """What one process saw."""

    unavailable: int  #: operations that raised TierUnavailableError
    done: int  #: operations that went well while the fault was there
    others: list[str]  #: every other exception
    wrong: list[str]  #: values that nobody stored under their keys
    seconds: float  #: from the mending until a value that was set was found


def value(key: str, number: int) -> tuple[str, int, bytes]:
    """Says whose it is; every seventh has a file to itself."""
    return key, number, key.encode() * (20_000 if number % 7 == 0 else 40)


def operations(cache: FileCache, me: int, number: int) -> list[Callable[[], object]]:
    """All kinds of them, on keys that all processes use."""
    key, mine = f"k{number % 23}", f"{me}-{number}"
    entry = CacheEntry(key, value(key, number), tags={"t"})
    calls: list[Callable[[], object]] = [
        lambda: cache.set(key, entry),
        lambda: cache.get(key),
        lambda: cache.look(f"k{(number * 7) % 23}"),
        lambda: cache.set_if(mine, CacheEntry(mine, b"-"), cache.fence(mine)),
        lambda: cache.delete(f"k{(number * 5) % 23}"),
        lambda: cache.touch(key, 60),
    ]
    if number % 20 == 19:
        calls += [
            lambda: cache.invalidate_by_tags({"t"}),
            lambda: cache.invalidate_by_pattern("k1"),
            cache.size,
        ]
    if number % 50 == 49:
        calls += [cache.remove_expired, lambda: len(list(cache.keys("k"))), cache.clear]
    return calls


def use(cache: FileCache, me: int, rounds: int, seen: list[str], wrong: list[str]) -> tuple[int, int]:
    """Do all that; how many operations raised TierUnavailableError, and how many went well."""
    unavailable = done = 0
    for number in range(rounds):
        for call in operations(cache, me, number):
            try:
                found = call()
                done += 1
            except TierUnavailableError:
                unavailable += 1
                continue
            except Exception as error:
                seen.append(repr(error))
                continue
            if hasattr(found, "entry"):
                found = found.entry
            if isinstance(found, CacheEntry) and found.value[0] != found.key:
                wrong.append(f"{found.key} holds {found.value[0]}")
    return unavailable, done


def survive(
    path: Path,
    fault: Step,
    mend: Step,
    *,
    before: Step | None = None,
    using: Callable[[FileCache, int, int, list[str], list[str]], tuple[int, int]] = use,
) -> list[Outcome]:
    """Use the directory in four processes, make the fault, use it, mend the fault, wait until it works."""
    barrier = multiprocessing.get_context("fork").Barrier(PROCESSES, timeout=40)

    def work(me: int) -> Outcome:
        others: list[str] = []
        wrong: list[str] = []
        if before is not None:
            before(me)
        with FileCache(path, 16) as cache:
            assert using(cache, me, 30, others, wrong)[0] == 0
            barrier.wait()
            fault(me)
            barrier.wait()
            unavailable, done = using(cache, me, 60, others, wrong)
            barrier.wait()
            mend(me)
            barrier.wait()
            mended = time.monotonic()
            while True:
                try:
                    cache.set_value(f"back{me}", me)
                    if cache.get_value(f"back{me}") == me:
                        break
                except TierUnavailableError:
                    pass
                assert time.monotonic() < mended + 20, "it did not come back"
            seconds = time.monotonic() - mended
            barrier.wait()
            assert using(cache, me, 30, others, wrong)[0] == 0
        return Outcome(unavailable, done, others, wrong, seconds)

    return in_processes(PROCESSES, work)


def judge(outcomes: list[Outcome], *, felt: bool = True) -> None:
    for outcome in outcomes:
        assert outcome.others == []
        assert outcome.wrong == []
    assert not felt or sum(outcome.unavailable for outcome in outcomes) > 0, "the fault was not felt"


def only_first(step: Callable[[], object]) -> Step:
    """One process does it for all."""

    def first(me: int) -> None:
        if me == 0:
            step()

    return first


def nothing(me: int) -> None:
    """It mends itself."""


def test_a_full_disk(disk: Path) -> None:
    """Writes fail, nothing is SIGBUS, and what was to be replaced is gone; with room again all is well."""
    filler = disk / "filler"
    judge(survive(disk / "cache", only_first(lambda: fill(filler)), only_first(filler.unlink)))


def test_indexes_that_grow_on_a_full_disk(disk: Path) -> None:
    """A mapped file gets its blocks when it is made: a store into a hole would be SIGBUS."""

    def work(_: int) -> int:
        failed = 0
        with FileCache(disk / "cache", 64) as cache:
            for number in range(60_000):
                try:
                    cache.set_value(str(number), b"")
                except TierUnavailableError:
                    failed += 1
        return failed

    assert in_processes(1, work) > [0]


def test_a_disk_smaller_than_the_limit(disk: Path) -> None:
    """The directory fills the disk by itself: new values are refused, old ones are not served for them."""
    reasons = set()
    with FileCache(disk / "cache", 64) as cache:
        for number in range(400):
            expected: bytes | None = number.to_bytes(4, "big") * 10_000
            try:
                cache.set_value(f"k{number % 50}", expected)
            except TierUnavailableError as error:
                reasons.add(str(error).rpartition(": ")[2])
                expected = None
            assert cache.get_value(f"k{number % 50}") == expected
        assert reasons == {"No space left on device; free space on its disk"}
        assert cache.get_stats().errors > 0
        assert sum(cache.contains(f"k{number}") for number in range(50)) > 0
        fill(disk / "filler")
        cache.clear()
        cache.set_value("k", 1)
        assert cache.get_value("k") == 1


def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    """RLIMIT_FSIZE: what a quota does."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    judge(
        survive(
            tmp_path / "cache",
            lambda me: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard)),
            lambda me: resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard)),
        )
    )


def test_no_descriptors_left(tmp_path: Path) -> None:
    """EMFILE: lookups and writes that need another file fail, and work when there are some again."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def use_up(me: int) -> None:
        lowest = os.open("/dev/null", os.O_RDONLY)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))

    judge(
        survive(
            tmp_path / "cache",
            use_up,
            lambda me: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard)),
        )
    )


@as_root
def test_permissions_taken_away(reachable: Path) -> None:
    """EACCES, for a user who is not root."""
    FileCache(reachable / "before", 1).close()  # loads what the other user may not be able to load
    path = reachable / "own" / "cache"
    path.parent.mkdir()
    os.chown(path.parent, OTHER, OTHER)

    def permit(mode: int) -> None:
        # What is open stays usable, and that of a shard is: so from its directory, too.
        os.chmod(path, 0o700)
        os.chmod(path / "00", mode)
        os.chmod(path, mode)

    outcomes = survive(
        path,
        only_first(lambda: permit(0)),
        only_first(lambda: permit(0o700)),
        before=lambda me: os.setuid(OTHER),
    )
    judge(outcomes)


def test_a_read_only_disk(disk: Path) -> None:
    """Cannot be opened, with an error that says why; and can when it may be written again."""
    with FileCache(disk / "cache", 1) as cache:
        cache.set_value("k", 1)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    try:
        for path in (disk / "cache", disk / "other"):
            with pytest.raises(TierUnavailableError, match="Read-only file system"):
                FileCache(path, 1)
    finally:
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    with FileCache(disk / "cache", 1) as cache:
        assert cache.get_value("k") == 1


def test_a_removed_directory(tmp_path: Path) -> None:
    """It is made anew by whoever comes first, and used by all."""
    path = tmp_path / "cache"
    judge(survive(path, only_first(lambda: shutil.rmtree(path)), nothing), felt=False)


def test_an_emptied_directory(tmp_path: Path) -> None:
    """`rm -r cache/*` leaves the directory itself."""
    path = tmp_path / "cache"

    def empty() -> None:
        for name in path.iterdir():
            shutil.rmtree(name) if name.is_dir() else name.unlink()

    judge(survive(path, only_first(empty), nothing), felt=False)


def test_a_replaced_directory(tmp_path: Path) -> None:
    """Another one in its place is used by all, with what is in it."""
    path = tmp_path / "cache"
    with FileCache(tmp_path / "other", 16) as cache:
        cache.set_value("theirs", 1)

    def replace() -> None:
        os.rename(path, tmp_path / "gone")
        os.rename(tmp_path / "other", path)

    judge(survive(path, only_first(replace), nothing), felt=False)


def test_readers_notice_too(tmp_path: Path) -> None:
    """A process that only looks finds the directory empty soon, and its copies given up."""
    path = tmp_path / "cache"
    with FileCache(path, 1) as cache:
        cache.set_value("k", 1)
        found = cache.look("k")
        assert found is not None
        shutil.rmtree(path)
        deadline = time.monotonic() + 60
        while cache.get_value("k") is not None:
            assert time.monotonic() < deadline
        assert not found.fence.is_current()
        assert path.is_dir()


def test_copies_of_a_removed_directory_are_not_trusted(tmp_path: Path) -> None:
    """Every fence that was taken in it is broken, and what was stored in it is not found."""
    path = tmp_path / "cache"
    with FileCache(path, 1) as cache, FileCache(path, 1) as neighbour:
        cache.set_value("k", 1, tags={"t"})
        found = cache.look("k")
        assert found is not None
        loading = cache.fence("other", {"t"})
        shutil.rmtree(path)
        assert cache.set_value("new", 2)
        assert not found.fence.is_current()
        assert not found.fence.stands()
        assert not found.fence.tokens.are_current(found.fence.tags)
        assert not loading.is_current()
        assert cache.set_if("other", CacheEntry("other", 1, tags={"t"}), loading) is False
        assert cache.get_value("k") is None
        neighbour.delete("nothing")
        assert neighbour.get_value("new") == 2
        assert inside.engine(neighbour) is inside.engine(cache)
        assert cache.fence("k").is_current()


def test_memory_above_a_removed_directory(tmp_path: Path) -> None:
    """Copies in memory go with the directory that vouched for them; the cache above raises nothing."""
    path = tmp_path / "cache"
    with IntelligentCache(MemoryCache(), file_cache=FileCache(path, 1), redis_cache=None) as cache:
        cache.set("k", "old")
        assert cache.get("k") == "old"
        shutil.rmtree(path)
        cache.set("other", 1)
        assert cache.get("k") is None
        assert cache.get("other") == 1
        with FileCache(path, 1) as beside:
            assert beside.get_value("other") == 1


@pytest.mark.parametrize("prepare", [inside.look_again, inside.look_never])
def test_a_directory_that_is_removed_during_a_load(
    tmp_path: Path, prepare: Callable[[FileCache], None]
) -> None:
    """The caller gets its value. It is not stored behind a fence of the old directory; the next one is."""
    path = tmp_path / "cache"
    files = FileCache(path, 1)
    with IntelligentCache(None, None, files) as cache:
        cache.get_or_set("before", lambda: 0)

        def load() -> int:
            shutil.rmtree(path)
            prepare(files)
            return 1

        assert cache.get_or_set("k", load) == 1
        assert cache.get("k") is None
        assert cache.get_or_set("k", lambda: 2) == 2
        assert cache.get("k") == 2
        with FileCache(path, 1) as beside:
            assert beside.get_value("k") == 2


def test_a_directory_that_cannot_be_made_anew(tmp_path: Path) -> None:
    """Is unavailable until it can; lookups count as unavailable, figures stay readable."""
    path = tmp_path / "above" / "cache"
    with FileCache(path, 1) as cache:
        cache.set_value("k", 1)
        fence = cache.fence("k")
        shutil.rmtree(path.parent)
        path.parent.write_text("a file in its place")
        for _ in range(3):
            with pytest.raises(TierUnavailableError, match="cannot be used"):
                cache.set_value("k", 2)
        assert not fence.is_current()
        with pytest.raises(TierUnavailableError):
            cache.delete("k")
        assert cache.get_stats().errors == 4
        assert cache.get_stats().sets == 1
        path.parent.unlink()
        assert cache.set_value("k", 3)
        assert cache.get_value("k") == 3


def test_another_format_in_its_place_is_unavailable(tmp_path: Path) -> None:
    """An operation meets TierUnavailableError if other processes use it in the format of another version."""
    path = tmp_path / "cache"
    with FileCache(path, 1) as cache:
        cache.set_value("k", 1)
        shutil.rmtree(path)
        FileCache(path, 1, clock=ManualClock()).close()
        write_format(path / "manifest", 99)
        user = os.open(path / USERS, os.O_RDWR)
        fcntl.flock(user, fcntl.LOCK_SH)
        calls: list[Callable[[], bool]] = [lambda: cache.set_value("k", 2), lambda: cache.delete("k")]
        for call in calls:
            with pytest.raises(TierUnavailableError, match="format 99"):
                call()
        os.close(user)
        assert cache.set_value("k", 3)
        assert cache.get_value("k") == 3


@pytest.mark.parametrize("name", ["manifest", "tokens", "control"])
def test_a_common_file_damaged_in_use(tmp_path: Path, name: str) -> None:
    """Whoever opens the directory makes it again, and the processes that use it open it again."""
    with FileCache(tmp_path, 1) as cache:
        cache.set_value("k", "old")
        with open(tmp_path / name, "r+b") as file:
            file.write(bytes(64))
        with Engine(tmp_path, geometry=inside.engine(cache).geometry) as other:
            assert other.get("k") is None
            inside.look_again(cache)
            assert cache.set_value("k", "new")
            assert cache.get_value("k") == "new"
            assert other.get("k") is not None


def write_format(manifest: Path, number: int) -> None:
    """Have a directory say that it is of another version."""
    shape = json.loads(manifest.read_bytes().partition(b" ")[2])
    body = json.dumps(shape | {"format": number}).encode()
    manifest.write_bytes(b"%08x %s\n" % (crc32(body), body))


def test_files_zeroed_in_use(tmp_path: Path) -> None:
    """Every byte of every file: misses, and then all is well."""
    path = tmp_path / "cache"

    def zero() -> None:
        for file in path.rglob("*"):
            if file.is_file() and file.stat().st_size:
                with open(file, "r+b") as opened:
                    opened.write(bytes(file.stat().st_size))

    judge(survive(path, only_first(zero), nothing), felt=False)


def test_parts_removed_in_use(tmp_path: Path) -> None:
    """A shard, with its lock: whoever needs it has the directory opened anew by all."""
    path = tmp_path / "cache"

    def remove() -> None:
        for name in path.iterdir():
            if name.is_dir():
                shutil.rmtree(name)

    judge(survive(path, only_first(remove), nothing), felt=False)


def test_a_stopped_process_that_holds_the_locks(tmp_path: Path) -> None:
    """Writers fail after their patience; readers go on; with the process gone all is well."""
    path = tmp_path / "cache"
    holder = 0

    def stop() -> None:
        nonlocal holder
        holder = os.fork()
        if not holder:
            for lock in path.glob("*/lock"):
                fcntl.flock(os.open(lock, os.O_RDWR), fcntl.LOCK_EX)
            os.kill(os.getpid(), signal.SIGSTOP)
            os._exit(0)
        assert os.WIFSTOPPED(os.waitpid(holder, os.WUNTRACED)[1])

    def kill() -> None:
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)

    def look_and_write(
        cache: FileCache, me: int, rounds: int, seen: list[str], wrong: list[str]
    ) -> tuple[int, int]:
        if rounds == 30:
            return use(cache, me, rounds, seen, wrong)
        give_up_soon(cache)
        for _ in range(1000):
            found = cache.get("back")
            if found is not None and found.value != "before":
                wrong.append(repr(found))
        with pytest.raises(LockTimeoutError, match="stopped"):
            cache.set_value("back", me)
        assert cache.contains("back"), "a write that did not get its lock changed nothing"
        return 1, 1000

    FileCache(path, 16).set_value("back", "before")
    judge(survive(path, only_first(stop), only_first(kill), using=look_and_write))


def test_another_format_in_the_directory(tmp_path: Path) -> None:
    """In use it is an error that names it; unused, the directory is emptied."""
    path = tmp_path / "cache"
    with FileCache(path, 1) as cache:
        cache.set_value("k", 1)
    write_format(path / "manifest", 99)
    user = os.open(path / USERS, os.O_RDWR)
    fcntl.flock(user, fcntl.LOCK_SH)
    with pytest.raises(FileFormatError, match="99"):
        FileCache(path, 1)
    os.close(user)
    with FileCache(path, 1) as cache:
        assert cache.size() == 0


def test_too_large_a_value_is_not_an_outage(tmp_path: Path) -> None:
    """It is the caller's, and passes as it is."""
    with FileCache(tmp_path / "cache", 1) as cache, pytest.raises(ValueTooLargeError):
        cache.set_value("k", os.urandom(3 << 20))
    assert cache.get_stats().errors == 0
