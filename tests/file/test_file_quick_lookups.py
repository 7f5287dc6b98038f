"""Hits in a segment that is mapped already, which `FileStore.value` serves by itself: nothing may differ."""

from __future__ import annotations

import itertools
import pickle
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import traced
from tracing import at_line

from cachekit import FileCache, IntelligentCache, MemoryCache
from cachekit.errors import TierUnavailableError
from cachekit.model.types import MISSING
from cachekit.serialization.pickle_codec import PickleCodec
from cachekit.testing import ManualClock
from cachekit.tiers.file import store_of
from cachekit.tiers.file.engine.engine import Engine

CHANGES: dict[str, tuple[Callable[[FileCache, str], object], str | None]] = {
    "a value": (lambda cache, key: cache.set_value(key, "new", tags={"t"}), "new"),
    "a value without tags": (lambda cache, key: cache.set_value(key, "new"), "new"),
    "removal": (lambda cache, key: cache.delete(key), None),
    "clear": (lambda cache, _: cache.clear(), None),
    "tag": (lambda cache, _: cache.invalidate_by_tags({"t"}), None),
    "pattern": (lambda cache, key: cache.invalidate_by_pattern(key), None),
}
READS: dict[str, Callable[[IntelligentCache, str], object]] = {
    "get": lambda cache, key: cache.get(key),
    "get_many": lambda cache, key: cache.get_many([key]).get(key),
}


def engine_of(cache: FileCache) -> Engine:
    store = store_of(cache)
    assert store is not None
    return store.engine()


def record_of(cache: FileCache, path: Path, key: str) -> tuple[Path, int, int]:
    """Return the segment, the offset and the length of the one record of a key, which is short."""
    engine = engine_of(cache)
    record = engine.get(key)
    assert record is not None
    for segment in path.rglob("*.segment"):
        at = segment.read_bytes().find(record.content)
        if at >= 0:
            return segment, at, len(record.content)
    raise AssertionError("no segment has the record")


@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_between_any_two_lines(tmp_path: Path, change: str, read: str, in_memory: bool) -> None:
    """The lookup returns the value of before or of after, and the next one that of after."""
    happens, after = CHANGES[change]
    memory = MemoryCache(100, cleanup_interval=None) if in_memory else None
    with (
        IntelligentCache(memory, None, FileCache(tmp_path, 1)) as cache,
        FileCache(tmp_path, 1) as other,  # as another process: it knows nothing of this memory
    ):
        reached = True
        for number in itertools.count(1):
            key = f"k{number}"
            other.set_value(key, "old", tags={"t"})
            assert other.get_value(key) == "old"  # from now on its segment is mapped
            found: list[object] = []
            reached = at_line(
                number,
                traced.FILE_LOOKUPS,
                lambda key=key: happens(other, key),  # type: ignore[misc]
                lambda key=key, found=found: found.append(READS[read](cache, key)),  # type: ignore[misc]
                any_line=True,
            )
            if not reached:
                break
            assert found[0] in ("old", after), number
            assert cache.get(key) == after, number
        assert number > 30, "it is written out"


def test_the_codec_of_another_directory_reads_nothing(tmp_path: Path) -> None:
    """At any line, a directory of others' bytes is replaced by one whose pickles are trusted."""
    place, ran = tmp_path / "cache", tmp_path / "ran"

    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return ran.mkdir, ()

    for number in itertools.count(1):
        place.mkdir()
        place.chmod(0o777)
        with FileCache(place, 1) as cache:
            engine_of(cache).put("k", pickle.dumps(Payload()), flags=PickleCodec.code)
            assert cache.get_value("k") is None

            def replaced(number: int = number, cache: FileCache = cache) -> None:
                place.rename(tmp_path / f"old{number}")
                cache.clear()  # which opens the directory again, made now by this user

            def read(cache: FileCache = cache) -> None:
                with suppress(TierUnavailableError):  # "was replaced during this call"
                    cache.get_value("k")

            reached = at_line(number, traced.FILE_LOOKUPS, replaced, read, any_line=True)
            assert not ran.exists(), number
        shutil.rmtree(place)
        if not reached:
            break
    assert number > 30


@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize("value", ["value", "page" * 1500, "long" * 2500])
def test_each_flipped_byte_is_a_miss(tmp_path: Path, value: str, in_memory: bool) -> None:
    """In a segment that is mapped, also of the tokens and names of tags."""
    memory = MemoryCache(100, cleanup_interval=None) if in_memory else None
    with IntelligentCache(memory, None, FileCache(tmp_path, 1)) as cache, FileCache(tmp_path, 1) as files:
        files.set_value("k", value, tags={"t"})
        size = record_of(files, tmp_path, "k")[2]
        positions = [*range(min(150, size)), *range(150, size, 1 + size // 150)]
        for number, at in enumerate(positions, 1):
            files.set_value("k", value, tags={"t"})
            assert files.get_value("k") == value
            segment, offset, length = record_of(files, tmp_path, "k")
            assert length == size
            with segment.open("r+b") as file:
                file.seek(offset + at)
                (before,) = file.read(1)
                file.seek(offset + at)
                file.write(bytes([before ^ 0x10]))
            assert cache.get("k") is None, at
            assert engine_of(files).stats().damaged == number


def test_a_record_in_the_place_of_another_is_a_miss(tmp_path: Path) -> None:
    """Of another key, whose hash is the same; or of the same key, where the slot says otherwise."""
    with FileCache(tmp_path, 1) as cache:
        engine = engine_of(cache)
        cache.set_value("k", 1)
        assert cache.get_value("k") == 1
        _, hashed, shard, bucket = engine.locate("k")
        engine.locations["other"] = b"other", hashed, shard, bucket
        assert cache.get_value("other", default=MISSING) is MISSING
        cache.set_value("k", 1)
        assert cache.get_value("k") == 1
        index = shard.files.index
        at = index.find(hashed)
        index.slots[at + 1] ^= 1  # of the bits of the checksum
        assert cache.get_value("k", default=MISSING) is MISSING


def test_the_times_of_a_record(tmp_path: Path) -> None:
    """It is a miss from its expiry on, and if the clock was set back far before its creation."""
    clock = ManualClock()
    with FileCache(tmp_path, 1, clock=clock) as cache:
        cache.set_value("k", 1, ttl=10)
        assert cache.get_value("k") == 1
        clock.advance(9.5)
        assert cache.get_value("k") == 1
        clock.advance(0.5)
        assert cache.get_value("k") is None
        cache.set_value("k", 1, ttl=10)
        assert cache.get_value("k") == 1
        clock.jump(-3)
        assert cache.get_value("k") == 1
        clock.jump(-3)
        assert cache.get_value("k") is None


class Gone:
    """A class whose instances cannot be read any longer."""

    def __setstate__(self, state: object) -> None:
        raise OSError("no tier has failed")


@pytest.mark.parametrize("in_memory", [False, True])
def test_a_value_that_cannot_be_read_counts_once(tmp_path: Path, in_memory: bool) -> None:
    """As one miss and one error of the tier, whatever its class raises, and the tier goes on."""
    memory = MemoryCache(100, cleanup_interval=None) if in_memory else None
    with IntelligentCache(memory, None, FileCache(tmp_path, 1)) as cache, FileCache(tmp_path, 1) as files:
        cache.set("warm", 1)
        assert files.get_value("warm") == 1
        value = Gone()
        value.__dict__["a"] = 1
        payload = pickle.dumps(value)
        engine_of(files).put("k", payload, flags=PickleCodec.code)
        for number in range(1, 4):
            assert cache.get("k") is None
            stats = cache.get_stats()["file"]
            assert (stats.misses, stats.errors, stats.hits) == (number, number, 0)
            assert cache.health().status == "healthy"


def test_a_signed_cache_reads_nothing_without_a_signature(tmp_path: Path) -> None:
    """Not even if other records of its segment were read before, and the checksum holds."""
    ran = tmp_path / "ran"

    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return ran.mkdir, ()

    with FileCache(tmp_path / "cache", 1, secret="s" * 16) as cache:
        cache.set_value("k", 1)
        assert cache.get_value("k") == 1
        engine_of(cache).put("k", pickle.dumps(Payload()), flags=PickleCodec.code)
        assert cache.get_value("k", default=MISSING) is MISSING
        assert not ran.exists()


def test_what_memory_gets(tmp_path: Path) -> None:
    """The tags of the record, and no value of a write that is in progress."""
    memory = MemoryCache(100, cleanup_interval=None)
    with IntelligentCache(memory, None, FileCache(tmp_path, 1)) as cache, FileCache(tmp_path, 1) as files:
        files.set_value("k", 1, tags={"a", "b"})
        assert files.get_value("k") == 1
        assert cache.get("k") == 1
        entry = memory.get("k")
        assert entry is not None
        assert entry.tags == {"a", "b"}
        store = store_of(files)
        assert store is not None
        store.write("new", 2, 60, frozenset(), in_progress=True)
        assert files.get_value("new") == 2
        assert cache.get("new") == 2
        assert len(memory) == 1
