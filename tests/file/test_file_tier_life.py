"""FileCache: figures, upkeep, several caches on one directory, forks, pickles, failures, damage, close."""

from __future__ import annotations

import logging
import pickle
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import inside
import pytest
from disks import disk as disk
from disks import fill
from file_checks import open_files
from forking import in_fork
from redis_server import wait_until

from cachekit import CacheClosedError, CacheEntry, FileCache, TierUnavailableError
from cachekit.errors import LockTimeoutError
from cachekit.runtime.scheduler import scheduler
from cachekit.testing import ManualClock
from cachekit.testing.damage import Fuzzer
from cachekit.tiers.file.engine.engine import Engine
from cachekit.tiers.file.engine.shard import Shard
from cachekit.tiers.file.engine.shard_lock import ShardLock


def held_files(directory: Path) -> list[str]:
    """What this process has open or mapped there."""
    maps = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    mapped = [line.split(maxsplit=5)[5] for line in maps if len(line.split()) > 5]
    return open_files(directory) + [name for name in mapped if name.startswith(f"{directory}/")]


# -- figures --------------------------------------------------------------------------------------------


def test_figures(tmp_path: Path) -> None:
    """Own counters, the directory's sizes; readable after close."""
    clock = ManualClock()
    cache = FileCache(tmp_path, 1, clock=clock, cleanup_interval=None)
    neighbour = FileCache(tmp_path, 1, clock=clock, cleanup_interval=None)
    for number in range(10):
        cache.set_value(f"k{number}", number, ttl=5 if number < 3 else None)
    for key in ("k1", "k2", "none"):
        neighbour.get_value(key)
    cache.delete("k9")
    assert cache.invalidate_by_pattern("k[78]") == 2
    clock.advance(5)
    assert cache.remove_expired() == 3
    cache.close()
    stats, theirs = cache.get_stats(), neighbour.get_stats()
    assert (stats.sets, stats.deletes, stats.invalidations, stats.expirations, stats.hits) == (10, 1, 2, 3, 0)
    assert (theirs.hits, theirs.misses, theirs.sets, theirs.size) == (2, 1, 0, 4)
    assert theirs.hit_rate == 2 / 3
    assert stats.size == 4
    assert neighbour.memory_usage() == theirs.memory_usage_bytes > 4096
    assert 0 < theirs.latency_p50 <= theirs.latency_p99
    neighbour.close()


def test_the_sweep_comes_by_itself(tmp_path: Path) -> None:
    """Upkeep removes what is over; it ends with the cache."""
    clock = ManualClock()
    others = set(scheduler._tasks)
    cache = FileCache(tmp_path, 1, 0.01, clock=clock)
    own = set(scheduler._tasks) - others
    assert own
    cache.set_value("k", 1, ttl=1)
    clock.advance(1)
    wait_until(lambda: cache.size() == 0, "it is swept")
    cache.close()
    assert not own & set(scheduler._tasks)


# -- one directory, several caches ----------------------------------------------------------------------


def engine_of(cache: FileCache) -> object:
    return inside.engine(cache)


def test_one_engine_per_directory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """By whatever name; the last to close closes it. Another limit gives way, with a warning."""
    (tmp_path / "link").symlink_to(tmp_path / "real")
    first = FileCache(tmp_path / "real", 2)
    second = FileCache(tmp_path / "link" / ".." / "real", 2)
    third = FileCache(tmp_path / "link", 4)
    assert engine_of(first) is engine_of(second) is engine_of(third)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "stays" in caplog.text
    first.set_value("k", 1)
    first.close()
    first.close()
    assert third.get_value("k") == 1
    third.close()
    assert second.get_value("k") == 1
    with pytest.raises(CacheClosedError):
        third.get_value("k")
    second.close()
    assert held_files(tmp_path) == []


@dataclass
class Offset:
    """A clock that can be compared, and not hashed."""

    ahead: float = 0.0

    def time(self) -> float:
        return time.time() + self.ahead

    def monotonic(self) -> float:
        return time.monotonic()


class Alike(Offset):
    """One that can be hashed, too, and is like any other."""

    def __hash__(self) -> int:
        return 1


@pytest.mark.parametrize("kind", [Offset, Alike])
def test_any_clock_will_do(tmp_path: Path, kind: type[Offset]) -> None:
    """A clock is known by which object it is: two that are alike now may say other times later."""
    clock, other = kind(), kind()
    with (
        FileCache(tmp_path, 1, clock=clock) as cache,
        FileCache(tmp_path, 1, clock=clock) as same,
        FileCache(tmp_path, 1, clock=other) as neighbour,
    ):
        assert inside.engine(cache) is inside.engine(same)
        assert inside.engine(cache) is not inside.engine(neighbour)
        cache.set_value("k", 1, ttl=100)
        other.ahead = 200
        assert (cache.get_value("k"), neighbour.get_value("k")) == (1, None)
        assert (list(cache.keys()), list(neighbour.keys())) == (["k"], [])


def test_what_nobody_holds_is_given_back(tmp_path: Path) -> None:
    """A cache that was not closed keeps nothing open once it is collected."""
    cache = FileCache(tmp_path, 1)
    cache.set_value("k", "v" * 50_000)
    cache.get_value("k")
    assert held_files(tmp_path)
    del cache
    assert held_files(tmp_path) == []


def test_threads_open_and_close(tmp_path: Path) -> None:
    """Any number at once: the count of users is right at the end."""
    failed = []

    def work() -> None:
        try:
            for number in range(20):
                with FileCache(tmp_path, 1, cleanup_interval=None) as cache:
                    cache.set_value(f"k{number}", number)
                    assert cache.get_value(f"k{number}") == number
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert held_files(tmp_path) == []


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_fork(tmp_path: Path) -> None:
    """Parent and child see each other's writes, break each other's fences, and close for themselves."""
    cache = FileCache(tmp_path, 1)
    cache.set_value("k", "parent")
    fence = cache.fence("k")

    def child() -> None:
        assert cache.get_value("k") == "parent"
        cache.set_value("k", "child")
        with FileCache(tmp_path, 1) as other:
            assert engine_of(other) is engine_of(cache)
        cache.close()
        left = set(held_files(tmp_path))
        assert left == {str(tmp_path / "tokens")}, "the fence still stands in what it compares"

    assert in_fork(child)() == 0
    assert not fence.is_current()
    assert cache.get_value("k") == "child"
    cache.close()


# -- pickling -------------------------------------------------------------------------------------------


def test_it_pickles_as_its_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy is on the same directory, also from elsewhere; a secret does not travel."""
    monkeypatch.chdir(tmp_path)
    with FileCache(
        "here", 1, 60, default_ttl=9, namespace="space", codec="json", compression="zlib"
    ) as cache:
        cache.set_value("k", 1)
        data = pickle.dumps(cache)
        monkeypatch.chdir("/")
        with pickle.loads(data) as copy:
            assert copy.path == cache.path == str(tmp_path / "here" / "space")
            assert (copy.max_size_mb, copy.default_ttl) == (1, 9)
            assert copy.get_value("k") == 1
            assert engine_of(copy) is engine_of(cache)
    with FileCache(tmp_path / "s", 1, secret="s" * 16) as cache, pytest.raises(TypeError, match="secret"):
        pickle.dumps(cache)


# -- when things fail -----------------------------------------------------------------------------------


def test_failures_are_the_tiers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An OSError of the engine is TierUnavailableError with its cause; lookups count as unavailable."""
    with FileCache(tmp_path, 1) as cache:
        fence = cache.fence("k")

        def fail(*_: object, **__: object) -> None:
            raise OSError(5, "Input/output error")

        for name in (
            "get", "look", "fence", "put", "delete", "add", "keys", "finish_write", "renew_tokens", "clear",
            "delete_matching", "remove_expired",
        ):  # fmt: skip
            monkeypatch.setattr(Engine, name, fail)
        monkeypatch.setattr(Shard, "get", fail)
        monkeypatch.setattr(ShardLock, "run", fail)
        entry = CacheEntry("k", 1)
        calls = [
            lambda: cache.get("k"), lambda: cache.get_value("k"), lambda: cache.look("k"),
            lambda: cache.set("k", entry), lambda: cache.set_value("k", 1), lambda: cache.delete("k"),
            lambda: cache.add("k", entry, fence), lambda: list(cache.keys()), lambda: cache.touch("k"),
            lambda: cache.fence("k"), lambda: cache.settle(fence), cache.renew, cache.clear,
            lambda: cache.invalidate_by_pattern("k"), cache.remove_expired,
        ]  # fmt: skip
        for number, call in enumerate(calls, 1):
            with pytest.raises(TierUnavailableError, match="Input/output error") as caught:
                call()
            assert isinstance(caught.value.__cause__, OSError)
            assert str(tmp_path) in str(caught.value)
            assert cache.get_stats().errors == number
        assert cache.get_stats().unavailable == 3
        cache._store.sweep()  # what fails in the background is counted, and raises nothing
        assert cache.get_stats().errors == len(calls) + 1


def test_a_lock_that_is_not_to_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is an error of the tier too, and as itself."""
    with FileCache(tmp_path, 1) as cache:
        monkeypatch.setattr(
            "cachekit.tiers.file.engine.shard_lock.ShardLock.run",
            lambda *_, **__: (_ for _ in ()).throw(LockTimeoutError("x")),
        )
        with pytest.raises(LockTimeoutError):
            cache.set_value("k", 1)
        assert cache.get_stats().errors == 1


def test_a_damaged_manifest_in_use(tmp_path: Path) -> None:
    """The next cache makes the directory again, and the one that has it open goes on in that."""
    with FileCache(tmp_path, 1) as before:
        before.set_value("k", 1)
        manifest = tmp_path / "manifest"
        manifest.write_bytes(manifest.read_bytes()[:-10])
        with FileCache(tmp_path, 1, clock=ManualClock()) as after:
            after.set_value("k", 2)

            def reads() -> bool:
                try:
                    return bool(before.get_value("k") == 2)
                except TierUnavailableError:  # while it still has the old one
                    return False

            wait_until(reads, "the first cache reads the new directory")


def test_damage_is_a_miss(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Any byte, any file: the right entry or none, no exception, and the cache is usable."""
    caplog.set_level(logging.CRITICAL, logger="cachekit")
    clock = ManualClock()
    path = tmp_path / "cache"
    expected = {f"k{n}": (f"v{n}" * (1 + 40 * n), frozenset({"t"} if n % 2 else ())) for n in range(12)}
    with FileCache(path, 1, clock=clock) as cache:
        for key, (value, tags) in expected.items():
            cache.set_value(key, value, ttl=100, tags=tags)
    fuzzer = Fuzzer(path, seed=3)
    lost = 0
    for damage in fuzzer.faults(150):
        damage.apply(path)
        with FileCache(path, 1, clock=clock, cleanup_interval=None) as cache:
            for key, (value, tags) in expected.items():
                found = cache.look(key)
                lost += found is None
                assert found is None or (found.entry.value, found.entry.tags, found.entry.ttl) == (
                    value, tags, 100
                ), damage  # fmt: skip
                assert cache.get_value(key, value) == value
            cache.invalidate_by_tags({"t"})
            assert all(cache.get(key) is None for key, (_, tags) in expected.items() if tags), damage
            cache.set_value("new", 1)
            assert cache.get_value("new") == 1, damage
        fuzzer.restore()
    assert lost > 50, "the faults hit nothing"


def test_after_close(tmp_path: Path) -> None:
    """Everything but close and the figures is a CacheClosedError."""
    cache = FileCache(tmp_path, 1)
    entry, fence = CacheEntry("k", 1), cache.fence("k")
    cache.close()
    calls = [
        lambda: cache.get("k"), lambda: cache.look("k"), lambda: cache.set_value("k", 1), cache.size,
        lambda: cache.put("k", entry), lambda: cache.add("k", entry, fence), lambda: cache.remove("k"),
        lambda: cache.touch("k"), lambda: cache.keys(), cache.memory_usage, cache.renew, cache.clear,
        lambda: cache.fence("k"), lambda: cache.settle(fence), lambda: cache.invalidate_by_tags({"t"}),
        lambda: cache.invalidate_by_pattern("k"), lambda: cache.get_many([]), lambda: cache.set_many({}),
        lambda: cache.delete_many([]), lambda: cache.contains("k"), cache.remove_expired,
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(CacheClosedError):
            call()
    assert cache.get_stats().errors == 0


# -- what is wrong with a directory ---------------------------------------------------------------------


def test_the_remedy_fits_the_error(tmp_path: Path, disk: Path) -> None:
    """A file is no directory, and a full disk needs space; neither needs permissions."""
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(
            TierUnavailableError, match=r"Not a directory; name a directory, .* is a file, or"
        ):
            FileCache(path)
    with FileCache(disk / "open", 2) as cache:
        fill(disk / "filler")
        with pytest.raises(TierUnavailableError, match="No space left on device; free space on its disk, or"):
            FileCache(disk / "cache", 50)
        with pytest.raises(TierUnavailableError, match=r"free space on its disk$"):
            cache.set_value("k", "x" * 200_000)


def test_the_limit_of_a_directory_in_use(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The one that stays is what each cache says, and the warning names it as it is written."""
    with FileCache(tmp_path, 50), FileCache(tmp_path, 70) as second:
        assert second.max_size_mb == 50
        assert "max_size_mb=50," in repr(second)
        text = "in use with max_size_mb=50, which stays; pass that, or close all caches on it first: "
        assert f"{text}another limit, such as 70, empties it" in caplog.text
    assert second.max_size_mb == 50
    with FileCache(tmp_path, 70.5) as alone:
        assert alone.max_size_mb == 70.5
