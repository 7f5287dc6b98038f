"""Records larger than their shard's share of the limit: each has a file of its own."""

from __future__ import annotations

import errno
import os
import random
import re
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import inside
import pytest
from file_checks import check, disk_usage
from large_values import LARGE, SIZE, Watching, large_files, payload_of, value

from cachekit import CacheEntry, FileCache, TierUnavailableError
from cachekit.errors import LockTimeoutError, ValueTooLargeError
from cachekit.model.types import FOREVER, NO_TAGS
from cachekit.testing.history import Operation, violations
from cachekit.testing.processes import in_processes
from cachekit.tiers.file.engine import check as checking
from cachekit.tiers.file.engine.control_block import ALONE, TABLE
from cachekit.tiers.file.engine.engine import Engine
from cachekit.tiers.file.engine.file_ops import FileOps
from cachekit.tiers.file.engine.format import Geometry
from cachekit.tiers.file.engine.shard import Shard
from cachekit.tiers.file.engine.shard_files import ShardFiles


def test_the_shape_has_large_records() -> None:
    """With four shards or more, a value may take a quarter of the limit; with fewer a shard has more."""
    assert LARGE.is_sound()
    assert LARGE.most_own < SIZE < LARGE.limit // 4
    for mib in (1, 10, 45, 100, 500, 1000, 4000, 1 << 20):
        geometry = Geometry.for_limit(mib << 20)
        assert (geometry.most_own < geometry.limit) == (geometry.shards >= 4)
        assert geometry.most_own >= geometry.segment
        # What a shard keeps beside as many large records as there may be.
        kept = geometry.quota - geometry.quota // 2
        assert geometry.shards < 4 or geometry.most_own + 2 * geometry.segment < kept


def test_it_comes_back_and_goes(tmp_path: Path) -> None:
    """As every record: overwritten, expired, deleted, invalidated by a tag, emptied."""
    with Engine(tmp_path, geometry=LARGE) as engine:
        engine.put("k", value(1), flags=3, created=1.0)
        assert payload_of(engine, "k") == value(1)
        engine.put("k", value(2))
        assert payload_of(engine, "k") == value(2)
        assert large_files(engine) == 1
        check(engine)
        engine.put("k", b"small")
        assert (payload_of(engine, "k"), large_files(engine)) == (b"small", 0)
        engine.put("k", value(3), tags=engine.tag_tokens({"t"}))
        engine.invalidate_tags({"t"})
        assert engine.get("k") is None
        engine.remove_expired()
        assert large_files(engine) == 0
        engine.put("over", value(4), expiry=time.time() - 1)
        assert engine.get("over") is None
        assert engine.remove_expired() == 1
        engine.put("k", value(5))
        assert engine.delete("k")[0]
        assert large_files(engine) == 0
        token = engine.token("k")
        assert engine.add("k", value(6), token) is True
        there = engine.add("k", value(7), token)
        assert not isinstance(there, bool)
        assert there.payload == value(6)
        assert engine.put("k", value(8), expect=token) is not None
        assert engine.put("k", value(9), expect=token) is None
        assert engine.add("k", value(9), token) is False
        assert payload_of(engine, "k") == value(8)
        check(engine)
        engine.clear()
        assert engine.get("k") is None
        assert large_files(engine) == 0
        check(engine)


def test_it_is_there_at_the_next_start(tmp_path: Path) -> None:
    """And the inspection of the directory finds it sound."""
    with FileCache(tmp_path, 200) as cache:
        cache.set_value("k", value(1, 8_000_000))
        cache.set_value("quarter", bytes(48 << 20))
    with FileCache(tmp_path, 200) as cache:
        assert cache.get_value("k") == value(1, 8_000_000)
        with pytest.raises(ValueTooLargeError, match="up to about 52428800"):
            cache.set_value("k", bytes(50 << 20))
        assert cache.get_value("k") is None
    inspection = checking.Inspection(str(tmp_path))
    assert [(item.key, item.state) for item in inspection.items(verify=True)] == [("quarter", "live")]
    assert not any(part.problems for part in inspection.parts())
    assert disk_usage(tmp_path) < 52 << 20


def test_the_limit_holds_at_every_moment(tmp_path: Path) -> None:
    """Entries of all shards go before the record is written, and old large ones before new ones come."""
    used = []
    effects = Watching(lambda: used.append(disk_usage(tmp_path)))
    with Engine(tmp_path, geometry=LARGE, effects=effects) as engine:
        for number in range(4000):
            engine.put(f"{number}", bytes(1000))
        full = disk_usage(tmp_path)
        assert full > LARGE.limit * 3 // 4
        for number in range(30):
            engine.put(f"large{number}", value(number, 200_000 + number * 25_000))
            assert engine.get(f"large{number}") is not None
            assert disk_usage(tmp_path) <= LARGE.limit
            for small in range(40):
                engine.put(f"{number}-{small}", bytes(1000))
            check(engine)
        assert engine._large.taken() <= LARGE.limit // 2
        assert engine.stats().evictions > 20
    assert len(used) >= 30
    assert max(used) <= LARGE.limit


def test_the_oldest_that_was_not_read_goes_first(tmp_path: Path) -> None:
    """Among large records of all shards."""
    with Engine(tmp_path, geometry=LARGE) as engine:
        for number in range(4):
            engine.put(f"k{number}", value(number))
            at = engine.locate(f"k{number}")[2]
            path = tmp_path / f"{at.number:02x}"
            newest = max(path.glob("*.segment"), key=lambda one: one.stat().st_mtime_ns)
            os.utime(newest, ns=(number + 1, number + 1))
        assert engine.get("k0") is not None
        most = engine._large.most() // (-(-SIZE // 4096) * 4096)
        for number in range(4, most + 1):
            engine.put(f"k{number}", value(number))
        assert engine.get("k0") is not None
        assert engine.get("k1") is None
        assert engine.stats().evictions == 1


def test_a_record_that_is_replaced_goes_before_others(tmp_path: Path) -> None:
    """Where there is no room for both."""
    with Engine(tmp_path, geometry=LARGE) as engine:
        engine.put("other", value(1, 900_000))
        for number in range(5):
            engine.put("k", value(number, 900_000))
        assert engine.get("other") is not None
        assert payload_of(engine, "k") == value(4, 900_000)
        assert engine.stats().evictions > 0


def test_writing_takes_no_lock(tmp_path: Path) -> None:
    """Other writers of the shard, and readers of the key, go on while a large record is written."""
    with Engine(tmp_path, geometry=LARGE) as other:
        other.put("k", b"old")
        seen: list[bytes | None] = []

        def middle() -> None:
            seen.append(payload_of(other, "k"))
            number = engine.locate("k")[2].number
            other.put(next(f"{n}" for n in range(100) if other.locate(f"{n}")[2].number == number), b"v")
            other.tick()
            assert other.repair([]) == 0
            check(other, exact=False)

        with Engine(tmp_path, geometry=LARGE, patience=0.2, effects=Watching(middle)) as engine:
            engine.put("k", value(1))
        assert seen == [b"old"]
        assert payload_of(other, "k") == value(1)
        check(other)


@pytest.mark.parametrize("how", ["clear", "write", "delete", "tags"])
def test_what_happens_while_it_is_written(tmp_path: Path, how: str) -> None:
    """A later write or invalidation of another process counts, and nothing is left of the file."""
    with Engine(tmp_path, geometry=LARGE) as other:

        def middle() -> None:
            if how == "clear":
                other.clear()
            elif how == "write":
                other.put("k", b"between")
            elif how == "delete":
                other.delete("k")
            else:
                other.invalidate_tags({"t"})

        with Engine(tmp_path, geometry=LARGE, effects=Watching(middle)) as engine:
            fence = engine.token("k")
            tags = engine.tag_tokens({"t"})
            stored = engine.put("k", value(1), tags=tags, expect=fence)
            assert (stored is None) == (how != "tags")
            assert payload_of(engine, "k") == (b"between" if how == "write" else None)
            engine.remove_expired()
            assert large_files(engine) == 0
            if how == "clear":
                assert engine.put("k", value(2)) is not None
                assert engine.get("k") is None
                assert large_files(engine) == 0
            check(engine, exact=False)


def test_the_directory_is_emptied_while_many_megabytes_are_written(tmp_path: Path) -> None:
    """The writer stops, so that what no name has takes no room, and that is no error."""
    with FileCache(tmp_path, 200) as cache:
        effects = Watching(cache.clear)
        written: list[int] = []
        for shard in inside.shards(cache._handle.engine):
            shard.files.effects = effects
        effects.most = 1 << 20
        effects.count = written.append
        cache.set_value("k", bytes(40_000_000))
        assert cache.get_value("k") is None
        assert sum(written) < 20_000_000
        assert disk_usage(tmp_path) < 10_000_000
        effects.middle = int
        cache.set_value("k", bytes(40_000_000))
        assert cache.get_value("k") == bytes(40_000_000)


class FillingUp(FileOps):
    """A disk with so many bytes of room."""

    room = 1 << 30

    def pwrite(self, fd: int, content: Any, offset: int) -> int:
        """Write what there is room for."""
        if self.room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = FileOps.pwrite(fd, content[: self.room], offset)
        self.room -= written
        return written


def test_a_full_disk(tmp_path: Path) -> None:
    """The value is not kept, what it was to replace is gone, and nothing takes room."""
    effects = FillingUp()
    with Engine(tmp_path, geometry=LARGE, effects=effects) as engine:
        engine.put("k", b"old")
        used = disk_usage(tmp_path)
        for number in range(10):
            effects.room = 100_000
            token = engine.token("k")
            with pytest.raises(OSError, match="No space"):
                engine.put("k", value(number))
            assert engine.get("k") is None
            assert engine.token("k") != token
            effects.room = 100_000
            with pytest.raises(OSError, match="No space"):
                engine.add("k", value(number), engine.token("k"))
        assert disk_usage(tmp_path) == used
        effects.room = 1 << 30
        engine.put("k", value(1))
        assert payload_of(engine, "k") == value(1)
        check(engine)


def test_a_full_disk_of_a_tier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tier says that it is full."""
    with FileCache(tmp_path, 200) as cache:
        effects = FillingUp()
        for shard in inside.shards(cache._handle.engine):
            monkeypatch.setattr(shard.files, "effects", effects)
        effects.room = 1_000_000
        with pytest.raises(TierUnavailableError) as caught:
            cache.set_value("k", bytes(30_000_000))
        assert caught.value.full


def test_writers_that_have_no_room_beside_each_other(tmp_path: Path) -> None:
    """One of them waits; if it is too long, it says so, and leaves nothing."""
    with Engine(tmp_path, geometry=LARGE, patience=0.02) as late:
        failed: list[str] = []

        def middle() -> None:
            with pytest.raises(LockTimeoutError, match="large values"):
                late.put("late", value(2, 1_000_000))
            failed.append("late")
            assert large_files(late) == 2

        def outer() -> None:
            with Engine(tmp_path, geometry=LARGE, effects=Watching(middle)) as second:
                second.put("second", value(3, 1_000_000))

        with Engine(tmp_path, geometry=LARGE, effects=Watching(outer)) as first:
            first.put("first", value(4, 1_000_000))
        assert failed == ["late"]
        assert late.get("late") is None
        assert payload_of(late, "first") == value(4, 1_000_000)
        assert payload_of(late, "second") == value(3, 1_000_000)
        late.put("late", value(2, 1_000_000))
        assert payload_of(late, "late") == value(2, 1_000_000)
        check(late)


def test_within_another_write_of_the_thread(tmp_path: Path) -> None:
    """A finalizer's large value is not kept, because it would wait for the lock; the key has nothing then."""
    with Engine(tmp_path, geometry=LARGE) as engine:
        engine.put("k", b"old")
        shard = engine.locate("k")[2]
        results: list[Any] = []

        def nested() -> None:
            results.append(engine.put("k", value(1)))
            results.append(engine.add("other", value(1), engine.token("other")))

        shard.lock.run(nested)
        assert results == [engine.token("k"), False]
        assert engine.get("k") is None
        assert large_files(engine) == 0


def test_a_damaged_table_takes_the_room_of_no_other_shard(tmp_path: Path) -> None:
    """A size that no file can have counts as half of the limit, and goes with the next large record."""
    with Engine(tmp_path, geometry=LARGE) as engine:
        for number in range(50):
            engine.put(f"{number}", bytes(900))
        words = inside.shards(engine)[0].words
        free = next(at for at in range(TABLE, len(words), 3) if not words[at])
        words[free + 1] = (1 << 62) + ALONE
        words[free] = 1 << 20
        for number in range(50):
            engine.put(f"{number}", bytes(901))
            assert engine.get(f"{number}") is not None
        engine.put("large", value(1))
        assert payload_of(engine, "large") == value(1)
        assert words[free] != 1 << 20


def test_damage_is_a_miss(tmp_path: Path) -> None:
    """A byte, a cut, or a file of another user in its place."""
    with FileCache(tmp_path, 200, secret="s" * 16) as cache:
        for number, damage in enumerate(("byte", "cut", "link", "mode", "gone")):
            cache.set_value(f"k{number}", value(number, 12_000_000))
            (path,) = [one for one in tmp_path.glob("*/*.segment") if one.stat().st_size > 11_000_000]
            if damage == "byte":
                with path.open("r+b") as file:
                    file.seek(6_000_000)
                    before = file.read(1)
                    file.seek(6_000_000)
                    file.write(bytes([before[0] ^ 1]))
            elif damage == "cut":
                os.truncate(path, 5_000_000)
            elif damage == "link":
                os.rename(path, tmp_path / "elsewhere")
                path.symlink_to(tmp_path / "elsewhere")
            elif damage == "mode":
                path.chmod(0o666)
            else:
                path.unlink()
            assert cache.get_value(f"k{number}") is None, damage
            cache.set_value(f"k{number}", 1)
            assert cache.get_value(f"k{number}") == 1
            assert cache.get_stats().errors == number + 1
            for left in tmp_path.glob("*/*.segment"):
                assert left.lstat().st_size < 11_000_000


def test_a_signature_covers_it(tmp_path: Path) -> None:
    """What was signed with another secret is not read, though its checksum holds."""
    with FileCache(tmp_path, 200, secret="s" * 16) as cache:
        cache.set_value("k", value(1, 12_000_000))
        assert cache.get_value("k") == value(1, 12_000_000)
    with FileCache(tmp_path, 200, secret="t" * 16) as cache:
        assert cache.get_value("k") is None


def test_a_large_value_is_not_copied(tmp_path: Path) -> None:
    """What is written are its own bytes: with a secret, behind a fence, or of many."""
    payload = bytes(24 << 20)

    def write(cache: FileCache, how: str) -> None:
        if how == "one":
            cache.set_value(how, payload)
        elif how == "behind a fence":
            cache.set_if(how, CacheEntry(how, payload), cache.fence(how))
        else:
            cache._store.write_many({how: payload}, FOREVER, NO_TAGS, 0.0)

    with FileCache(tmp_path, 1000) as plain, FileCache(tmp_path / "s", 1000, secret="s" * 16) as signed:
        for cache in (plain, signed):
            for how in ("one", "behind a fence", "of many"):
                tracemalloc.start()
                try:
                    write(cache, how)
                    assert tracemalloc.get_traced_memory()[1] < 0.1 * len(payload)
                finally:
                    tracemalloc.stop()
                assert cache.get_value(how) == payload


def test_a_refused_value_is_not_built(tmp_path: Path) -> None:
    """It ends where the bound is passed. A write removes what the key had; others change nothing."""
    value = [bytes([number]) * (1 << 20) for number in range(100)]
    with FileCache(tmp_path, 200) as cache:
        writes: list[Callable[[], object]] = [
            lambda: cache.set_value("k", value),
            lambda: cache._store.write_many({"k": value}, FOREVER, NO_TAGS, 0.0),
            lambda: cache.set_if("k", CacheEntry("k", value), cache.fence("k")),
            lambda: cache.add("k", CacheEntry("k", value), cache.fence("k")),
        ]
        for at, write in enumerate(writes):
            cache.set_value("k", 1)
            tracemalloc.start()
            try:
                with pytest.raises(ValueTooLargeError, match="up to about 52428800; raise the limit"):
                    write()
                assert tracemalloc.get_traced_memory()[1] < 1 << 20
            finally:
                tracemalloc.stop()
            assert cache.get_value("k") == (None if at < 2 else 1)


def test_looking_at_keys_reads_no_large_payload(tmp_path: Path) -> None:
    """Nor do sweeps, patterns and evictions."""
    with Engine(tmp_path, geometry=LARGE) as engine:
        engine.put("k", value(1, 1_000_000))
        tracemalloc.start()
        try:
            assert list(engine.keys()) == ["k"]
            assert engine.remove_expired() == 0
            assert engine.delete_matching(re.compile("x")) == 0
            assert [item.key for item in checking.Inspection(str(tmp_path)).items()] == ["k"]
            engine.tick()
            assert engine.delete_matching(re.compile("k")) == 1
            assert tracemalloc.get_traced_memory()[1] < 500_000
        finally:
            tracemalloc.stop()
        assert large_files(engine) == 0


def history_of(path: Path, processes: int, operations: int) -> list[Operation]:
    Engine(path, geometry=LARGE).close()

    def work(number: int) -> list[Operation]:
        random_ = random.Random(number)
        history = []
        with Engine(path, geometry=LARGE, patience=30) as engine:
            for step in range(operations):
                key = f"k{random_.randrange(3)}"
                action = random_.random()
                begin = time.monotonic()
                if action < 0.6:
                    found = engine.get(key)
                    # One byte repeated: a torn value has two.
                    seen = found.payload[:40] if found else None
                    assert found is None or set(found.payload[40:]) <= set(found.payload[39:40])
                    history.append(Operation(key, False, seen, begin, time.monotonic()))
                elif action < 0.9:
                    head = b"%d-%d|" % (number, step)
                    written = head.ljust(random_.choice((60, 900, 150_000, 400_000)), bytes([97 + step % 26]))
                    engine.put(key, written)
                    history.append(Operation(key, True, written[:40], begin, time.monotonic()))
                else:
                    engine.delete(key)
                    history.append(Operation(key, True, None, begin, time.monotonic()))
        return history

    return [one for history in in_processes(processes, work) for one in history]


def test_every_read_is_explained(tmp_path: Path) -> None:
    """Eight processes replace, read and delete the same large values: nothing wrong, old or torn."""
    history = history_of(tmp_path, 8, 120)
    assert violations(history) == []
    assert sum(1 for one in history if not one.is_write and one.value is not None) > 100
    with Engine(tmp_path, geometry=LARGE) as engine:
        check(engine)


def without_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    from cachekit.tiers.file.engine import segments

    monkeypatch.setattr(segments, "flock", lambda *_: None)


def without_fitting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shard, "fit", lambda _: True)


def without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ShardFiles, "end_aside", lambda _, aside: aside.file.close())


@pytest.mark.parametrize(
    ("sabotage", "finds"),
    [
        (without_flock, test_writing_takes_no_lock),
        (without_fitting, test_the_limit_holds_at_every_moment),
        (without_end, test_a_full_disk),
    ],
)
def test_a_broken_engine_is_found_out(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sabotage: Callable[[pytest.MonkeyPatch], None],
    finds: Callable[[Path], None],
) -> None:
    """Without the lock of the file, the eviction before it or the removal behind it, these tests fail."""
    sabotage(monkeypatch)
    with pytest.raises(BaseException):  # noqa: B017  # whatever it finds
        finds(tmp_path)
