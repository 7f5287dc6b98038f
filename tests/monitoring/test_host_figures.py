"""The figures of all processes that share a directory, whichever of them ends, and how."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from falling_totals import Falling, loads
from redis_server import wait_until
from workers import Worker
from workers import runtime as runtime

from cachekit import FileCache, IntelligentCache, MemoryCache, RedisCache, TierUnavailableError
from cachekit.loading.core import CacheCore
from cachekit.monitoring.folder import FiguresFolder
from cachekit.monitoring.reading import HostReader
from cachekit.monitoring.record import process_of
from cachekit.monitoring.snapshot import Snapshot
from cachekit.monitoring.wanted import FIGURES, LONGEST, WATCHED, is_wanted, user_directory
from cachekit.monitoring.watching import Watch

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def reach(reader: HostReader, count: int) -> None:
    """Read until all processes have published, which takes longer than the first read on a busy machine."""
    wait_until(lambda: loads(reader.read()) >= count, f"{count} loads are known")
    assert loads(reader.read()) == count


def test_totals_under_kills(tmp_path: Path) -> None:
    """Four processes: one is killed, one ends, one forks, and new ones come. Each load counts once."""
    workers = [Worker(tmp_path, f"worker{number}") for number in range(4)]
    for worker in workers:
        worker.do("load 10")
    watching = Falling(HostReader(tmp_path), 0.01)
    try:
        wait_until(lambda: loads(watching.last) == 40, "all have published")
        workers[0].kill()
        workers[1].do("load 7")
        workers[1].end()  # before its next look: it publishes at its end
        workers[2].do("fork 5")
        new = Worker(tmp_path, "new")
        new.do("load 3")
        wait_until(lambda: loads(watching.last) == 55, "the ends and the new ones are known")
        workers[3].do("load 2")
        new.kill()
        wait_until(lambda: loads(watching.last) == 57, "the last loads are known")
        assert len(watching.last.processes) == 2
    finally:
        figures = watching.stop()
        for worker in workers[2:]:
            worker.end()
    assert not watching.fallen
    assert watching.reads > 20
    assert loads(figures) == 57
    assert figures.ended == 4
    after = HostReader(tmp_path).read()
    assert (loads(after), after.ended, after.processes) == (57, 6, ())
    assert sum(after.counters[f"load.duration/{number}"] for number in range(15)) == 57
    assert sorted(os.listdir(tmp_path / FIGURES)) == ["ended.json", "lock", "watched"]


def test_a_forked_child_counts_from_the_fork(tmp_path: Path) -> None:
    """What the parent has counted before is the parent's, also for a child that lives on after it."""
    parent = Worker(tmp_path, "parent")
    parent.do("load 20")
    parent.do("fork 1")
    reader = HostReader(tmp_path)
    reach(reader, 20)  # the child was not watched
    parent.do("fork 4")
    reach(reader, 24)
    parent.end()
    assert loads(reader.read()) == 24


def test_a_child_does_not_keep_its_parent_alive(tmp_path: Path) -> None:
    """The lock of a killed parent is free, although its child had inherited the descriptor."""
    reader = HostReader(tmp_path)
    with IntelligentCache(MemoryCache(), file_cache=FileCache(tmp_path, 1)) as cache:
        cache.set("k", 1)
        assert len(reader.read().processes) == 1
        (lock,) = (tmp_path / FIGURES).glob("*" + ".lock")
        out, say = os.pipe()
        child = os.fork()
        if not child:
            try:
                os.write(say, str(os.fstat(out).st_ino and held(lock)).encode())
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert os.read(out, 10) == b"False"
        os.close(out)
        os.close(say)


def held(path: Path) -> bool:
    """Tell whether this process has the file open."""
    names = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
    return str(path) in [os.readlink(name) for name in names if os.path.lexists(name)]


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[tuple[IntelligentCache, HostReader]]:
    """A cache of this process, and a reader of its directory."""
    with IntelligentCache(MemoryCache(), file_cache=FileCache(tmp_path, 1)) as cache:
        yield cache, HostReader(tmp_path)


def test_own_figures_are_fresh(watched: tuple[IntelligentCache, HostReader]) -> None:
    """A process that reads sees its own counts as they are now."""
    cache, reader = watched
    cache.set("k", 1)
    reader.read()
    for hits in range(1, 4):
        cache.get("k")
        figures = reader.read()
        assert figures.counters["requests/hit"] == hits
    assert figures.gauges["entries/memory"] == 1
    assert figures.processes[0].pid == os.getpid()


def test_nothing_is_written_when_no_reader_looks(
    tmp_path: Path, watched: tuple[IntelligentCache, HostReader]
) -> None:
    """When the time in `watched` is over, or a clock that was set back has written it, nothing changes."""
    cache, reader = watched
    reader.read()
    figures = tmp_path / FIGURES
    for until in (time.time() - 1, time.time() + LONGEST + 60):
        os.utime(figures / WATCHED, (until, until))
        before = {file: file.stat().st_mtime_ns for file in figures.iterdir()}
        assert not is_wanted(str(tmp_path))
        cache._watches[0].look()
        assert {file: file.stat().st_mtime_ns for file in figures.iterdir()} == before


@pytest.mark.parametrize("number", [0, 1])
def test_a_look_that_meets_the_end_of_the_last_cache_begins_no_record(
    tmp_path: Path, redis_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The cache has published what it had to; a record after that would keep its lock file open."""
    redis = RedisCache(url=redis_url, key_prefix=prefix)
    with redis, FileCache(tmp_path) as file:
        cache = IntelligentCache(MemoryCache(), redis, file)
        watch = cache._watches[number]
        read = watch._snapshots

        def read_and_close(_: Watch) -> dict[CacheCore, Snapshot]:
            found = read()
            cache.close()
            return found

        monkeypatch.setattr(Watch, "_snapshots", read_and_close)
        watch.publish()
        assert watch._publisher is None
        assert not (tmp_path / FIGURES).exists()


def test_a_short_reader_ends_no_longer_one(tmp_path: Path) -> None:
    HostReader(tmp_path).begin()
    until = (tmp_path / FIGURES / WATCHED).stat().st_mtime
    HostReader(tmp_path, seconds=5).begin()
    assert (tmp_path / FIGURES / WATCHED).stat().st_mtime == until


def test_a_reader_that_ended_between_its_steps(tmp_path: Path) -> None:
    """Records that `ended.json` includes already are removed, and not counted again."""
    worker = Worker(tmp_path, "one")
    reader = HostReader(tmp_path)
    worker.do("load 10")
    reach(reader, 10)
    (record,) = (tmp_path / FIGURES).glob("[0-9a-f]*[0-9a-f].json")
    content = record.read_bytes()
    worker.kill()
    assert loads(reader.read()) == 10
    record.write_bytes(content)  # as if the reader had not come to remove it
    record.chmod(0o600)
    assert loads(reader.read()) == 10
    assert not record.exists()


DAMAGE = (
    b"", b"{", b"[]", b"[" * 100_000, b'{"format": 1, "counters": 7, "health": [], "gauges": {"x": {}}}',
    b'{"format": 1, "counters": {"loads/ok": NaN}}', b'{"format": 2}', b"\xff" * 100, b" " * 300_000,
    b'{"format": 1, "counters": {"loads/ok": -5, "loads/error": 1e400, "sets/file": true, "a": 1}}',
    b'{"format": 1, "health": {"status": 5, "reasons": [1, {"message": 3}]}, "pid": "x"}',
    b'{"format": 1, "counters": {"loads/ok": 1' + b"0" * 5000 + b"}}",
)  # fmt: skip


def test_damaged_records_count_nothing(tmp_path: Path) -> None:
    """Whatever is in the file of a live or a dead process, or in the sums, a reader goes on."""
    worker = Worker(tmp_path, "sound")
    worker.do("load 3")
    reader = HostReader(tmp_path)
    reach(reader, 3)
    lock = (tmp_path / FIGURES / ("1" * 32 + ".lock")).open("w")
    os.fchmod(lock.fileno(), 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)  # of a live process
    for damage in DAMAGE:
        for name in ("0" * 32 + ".json", "1" * 32 + ".json", "ended.json"):
            (tmp_path / FIGURES / name).write_bytes(damage)
            (tmp_path / FIGURES / name).chmod(0o600)
        assert loads(reader.read()) == 3, damage
    lock.close()
    worker.end()
    assert loads(reader.read()) == 3


def test_files_of_others_are_not_read(tmp_path: Path) -> None:
    """A record that others may write counts nothing; nor does one behind a link."""
    reader = HostReader(tmp_path)
    reader.begin()
    record = {"format": 1, "counters": {"loads/ok": 1}}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text(json.dumps(record))
    elsewhere.chmod(0o600)
    (tmp_path / FIGURES / ("0" * 32 + ".json")).symlink_to(elsewhere)
    open_to_all = tmp_path / FIGURES / ("1" * 32 + ".json")
    open_to_all.write_text(json.dumps(record))
    open_to_all.chmod(0o666)
    assert loads(reader.read()) == 0
    assert elsewhere.exists()


@pytest.mark.parametrize("mode", [0o755, 0o770])
def test_a_directory_of_another_kind_is_refused(tmp_path: Path, mode: int) -> None:
    """A directory of pictures that is called `figures` is not written to."""
    (tmp_path / FIGURES).mkdir()
    (tmp_path / FIGURES).chmod(mode)
    with pytest.raises(TierUnavailableError, match="others"):
        HostReader(tmp_path).begin()
    assert not os.listdir(tmp_path / FIGURES)


def test_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / FIGURES).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(TierUnavailableError, match="is no directory"):
        HostReader(tmp_path).begin()


def test_a_missing_directory_is_said(tmp_path: Path) -> None:
    with pytest.raises(TierUnavailableError, match=r"missing cannot be read"):
        HostReader(tmp_path / "missing").begin()


def test_a_reader_that_is_stopped_is_not_waited_for(
    tmp_path: Path, watched: tuple[IntelligentCache, HostReader], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process that keeps the lock costs a bounded time, and publishing goes on."""
    _, reader = watched
    reader.read()
    monkeypatch.setattr("cachekit.monitoring.reading._PATIENCE", 0.05)
    told, tell = os.pipe()
    child = os.fork()
    if not child:
        try:
            with FiguresFolder.open(str(tmp_path)).locked(5.0):
                os.write(tell, b"x")
                signal.pause()
        finally:
            os._exit(0)
    os.read(told, 1)
    try:
        with pytest.raises(TierUnavailableError, match="another reader"):
            reader.read()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(told)
        os.close(tell)
    assert len(reader.read().processes) == 1


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that cannot store the sums returns them all the same. The next one counts nothing twice."""
    worker = Worker(tmp_path, "w")
    worker.do("load 3")
    reader = HostReader(tmp_path)
    reach(reader, 3)
    worker.kill()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(FiguresFolder, "replace", full)
        for _ in range(2):
            figures = reader.read()
            assert (loads(figures), figures.ended) == (3, 1)
    for _ in range(2):
        figures = reader.read()
        assert (loads(figures), figures.ended) == (3, 1)
    assert sorted(os.listdir(tmp_path / FIGURES)) == ["ended.json", "lock", WATCHED]


def test_the_runtime_directory_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root with the environment of a user makes nothing there, which the user could not use."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert user_directory() == f"{tmp_path}/cachekit"
    monkeypatch.setattr(os, "geteuid", lambda: os.stat(tmp_path).st_uid + 54321)
    assert not user_directory().startswith(str(tmp_path))


def test_caches_without_files_are_found_by_user(runtime: Path) -> None:
    """They publish in the runtime directory of the user."""
    with IntelligentCache(MemoryCache(), file_cache=None) as cache:
        cache.get_or_set("k", lambda: 1)
        cache._watches[0].look()
        assert os.listdir(runtime) == []
        figures = HostReader().read()
        assert loads(figures) == 1
        assert figures.processes[0].caches >= 1


def test_a_tier_that_comes_back_counts_once(tmp_path: Path) -> None:
    """Caches come and go over one tier: each leaves its record, and what the tier counted before stays."""
    reader = HostReader(tmp_path)
    with FileCache(tmp_path, 1) as file:
        for number in range(3):
            with IntelligentCache(MemoryCache(), file_cache=file, close_tiers=False) as cache:
                cache.set(f"k{number}", number)
                assert reader.read().counters["sets/file"] == number + 1
            assert reader.read().counters["sets/file"] == number + 1
    assert reader.read().ended == 3


def test_estimates_are_published(tmp_path: Path) -> None:
    """Of each cache whose memory has been asked often enough."""
    reader = HostReader(tmp_path)
    with IntelligentCache(MemoryCache(50), file_cache=FileCache(tmp_path, 1)) as cache:
        assert reader.read().processes[0].sizes == ()
        for number in range(3000):
            cache.get_or_set(f"k{number % 100}", lambda: 1)
        (sizes,) = reader.read().processes[0].sizes
    assert (sizes.size, sizes.unit) == (50, "entries")
    assert [(one.size, one.rate > 0.9) for one in sizes.rates] == [
        (25, False), (50, False), (100, True), (500, True),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "sizes",
    [
        None, {}, [1], [[100, "entries", 5]], [[0, "entries", 5, [[1, 0.5, 0.1]]]], [[100, "entries", 5, []]],
        [[100, "entries", 5, [[1, "x", 0.1], [1, 0.5], 7]]], [[100, "entries", -5, [[1, 0.5, 0.1]]]],
    ],
)  # fmt: skip
def test_damaged_estimates_are_left_out(sizes: object) -> None:
    assert process_of("0" * 32, {"sizes": sizes}).sizes == ()


def test_health_is_published(watched: tuple[IntelligentCache, HostReader]) -> None:
    """With the reason and the remedy."""
    cache, reader = watched
    reader.read()
    for number in range(200):
        cache.get(f"missing:{number}")
    process = reader.read().processes[0]
    assert process.status == "warning"
    assert "0 of 200 requests were hits" in process.reasons[0].message
    assert process.reasons[0].remedy
