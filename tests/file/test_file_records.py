"""What a record says of its entry, under one checksum or one signature, and what is stored many at a time."""

from __future__ import annotations

import errno
import logging
import os
import pickle
import random
import shutil
import struct
import tracemalloc
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from file_checks import SMALL, check

from cachekit import CacheEntry, FileCache, IntelligentCache, MemoryCache
from cachekit.errors import TierUnavailableError
from cachekit.model.types import MISSING
from cachekit.serialization.pickle_codec import PickleCodec
from cachekit.testing import ManualClock
from cachekit.testing.faults import CrashError, StoppingEffects
from cachekit.tiers.fences import ServerTokens, TagTokens
from cachekit.tiers.file import store_of
from cachekit.tiers.file.engine.control_block import CAPACITY, USED
from cachekit.tiers.file.engine.engine import Engine
from cachekit.tiers.file.engine.format import HEADER, SIGNATURE_SIZE, record_parts, small_record, whole_record
from cachekit.tiers.file.engine.index import Index
from cachekit.tiers.file.engine.shard import Shard
from cachekit.tiers.file.engine.shard_files import ShardFiles
from cachekit.tiers.fresh_tokens import fresh

SECRET = "s" * 16
#: How a value may be stored.
KINDS: list[dict[str, Any]] = [
    {}, {"codec": "json"}, {"compression": "zlib"}, {"secret": SECRET},
    {"secret": SECRET, "compression": "zlib", "codec": "json"},
]  # fmt: skip


def engine_of(cache: FileCache) -> Engine:
    store = store_of(cache)
    assert store is not None
    return store.engine()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", ["short", "long" * 3000])
def test_everything_comes_back(tmp_path: Path, kind: Mapping[str, Any], value: str) -> None:
    """Times, tags and their tokens, in every way of storing, also after a restart."""
    clock = ManualClock()
    tags = frozenset({"a", "täg", "\ud800", "t" * 300})
    origin = ServerTokens(7, {tag: number for number, tag in enumerate(sorted(tags), 1)})
    entry = CacheEntry("k", value, clock.time() - 5, ttl=60, tags=tags, stale_ttl=9)
    with FileCache(tmp_path, 1, clock=clock, **kind) as cache:
        assert cache.put("k", entry, origin) is not None
    with FileCache(tmp_path, 1, clock=clock, **kind) as cache:
        found = cache.look("k")
        assert found is not None
        assert found.origin == origin
        assert (found.entry.value, found.entry.tags) == (value, tags)
        assert (found.entry.ttl, found.entry.stale_ttl) == (60, 9)
        assert found.entry.created_timestamp == pytest.approx(clock.time() - 5)
        assert found.fence.names == tags
        assert found.fence.is_current()
        assert cache.get_value("k") == value


def test_a_signature_covers_every_byte_of_a_record(tmp_path: Path) -> None:
    """Whoever may write can make any checksum right, and still changes neither a time, a tag nor a value."""
    with FileCache(tmp_path, 1, secret=SECRET) as cache:
        cache.set_value("k", "value", ttl=60, tags={"t"})
        engine = engine_of(cache)
        _, hashed, shard, bucket = engine.locate("k")
        record = engine.get("k")
        assert record is not None
        for at in range(4, record.end):
            changed = bytearray(record.content)
            changed[at] ^= 1
            changed[:4] = crc32(changed[4:]).to_bytes(4, "little")
            shard.lock.run(shard.put, hashed, bytes(changed), bucket, fresh(), None, False)
            assert cache.get_value("k", "miss") == "miss", at
            assert cache.get("k") is None, at
        shard.lock.run(shard.put, hashed, record.content, bucket, fresh(), None, False)
        assert cache.get_value("k") == "value"


def test_a_signature_counts_in_one_namespace(tmp_path: Path) -> None:
    """What another one's cache has signed with the same secret is a miss."""
    with (
        FileCache(tmp_path, 1, secret=SECRET, namespace="a") as one,
        FileCache(tmp_path, 1, secret=SECRET, namespace="b") as two,
    ):
        one.set_value("k", "value")
        record = engine_of(one).get("k")
        store = store_of(one)
        assert record is not None
        assert store is not None
        payload = record.payload[:-SIGNATURE_SIZE]
        for engine in (engine_of(one), engine_of(two)):
            engine.put("k", payload, flags=record.flags, sign=store._handle.opened[1].sign)
            assert engine.get("k") is not None
        assert one.get_value("k") == "value"
        assert two.get_value("k") is None


def forger(cache: FileCache) -> Callable[..., None]:
    """Return what stores a record under "k" that has any times and tags, and the right checksum."""
    engine = engine_of(cache)
    octets, hashed, shard, bucket = engine.locate("k")
    cache.set_value("k", "value")
    record = engine.get("k")
    assert record is not None
    payload, flags = record.payload, record.flags

    def forge(
        created: float, expiry: float, stale_until: float, tags: TagTokens = (), names: bytes = b""
    ) -> None:
        parts = record_parts(
            octets, hashed, payload, expiry, flags, 0, tags, created, stale_until, names, None
        )
        shard.lock.run(shard.put, hashed, whole_record(parts), bucket, fresh(), None, False)

    return forge


def test_times_that_are_none_are_damage(tmp_path: Path) -> None:
    """Where others may write, a checksum proves nothing: no time of a record leads to an exception."""
    with FileCache(tmp_path, 1) as cache, IntelligentCache(redis_cache=None, file_cache=cache) as over:
        forge = forger(cache)
        bad = (float("nan"), float("inf"), -float("inf"), 1e300, -1e300)
        for created, expiry, stale_until in product(bad, (*bad, 1e12), bad):
            forge(created, expiry, stale_until)
            assert cache.get_value("k") in ("value", None)
            assert cache.get("k") is None, "an entry has times"
            assert over.get("k") in ("value", None)
            over.explain("k")


def test_names_that_are_none_are_damage(tmp_path: Path) -> None:
    """As above, for the names of the tags."""
    with FileCache(tmp_path, 1) as cache, IntelligentCache(redis_cache=None, file_cache=cache) as over:
        forge = forger(cache)
        tags = engine_of(cache).tag_tokens(["t"])
        for names in (b"", b"x", struct.pack("<QI", 0, 9) + b"t", struct.pack("<QI", 0, 1) + b"\xff"):
            forge(1.0, 1e12, 1e12, tags, names)
            assert cache.get("k") is None
            assert over.get("k") in ("value", None)
        assert HEADER.size == 60, "docs/file.md names it"


def test_many_keys_need_room(tmp_path: Path) -> None:
    """A batch that fills the directory several times over is stored like its keys one by one."""
    with FileCache(tmp_path, 1) as cache, IntelligentCache(None, None, cache) as over:
        for turn in range(4):
            values = {f"k{number}": f"{turn}.{number}" * 300 for number in range(700)}
            assert over.set_many(values, tags={"t"})
            last = list(values)[-1]
            assert over.get(last) == values[last], "the last ones fit"
            found = over.get_many(values)
            assert found.items() <= values.items()
            assert len(found) > 100
            check(engine_of(cache))
        assert over.delete_many([*found, "never"]) == len(found)
        assert over.get_many(found) == {}
        over.set_many({"a": 1, "b": 2}, tags={"t"})
        over.invalidate_by_tags({"t"})
        assert over.get_many(["a", "b"]) == {}


def test_a_batch_ends_the_copies_of_other_caches(tmp_path: Path) -> None:
    """The copy that another cache keeps in memory is not served after the batch."""
    keys = [f"k{number}" for number in range(50)]
    with FileCache(tmp_path, 1) as one, FileCache(tmp_path, 1) as two:
        writer = IntelligentCache(None, None, one, close_tiers=False)
        reader = IntelligentCache(MemoryCache(), None, two, close_tiers=False)
        for value in range(3):
            writer.set_many(dict.fromkeys(keys, value))
            for _ in range(2):
                assert reader.get_many(keys) == dict.fromkeys(keys, value)
                assert [reader.get(key) for key in keys] == [value] * len(keys)


def test_a_batch_leaves_slots_free(tmp_path: Path) -> None:
    """Its keys grow the index where single writes would; probes stay short."""
    with FileCache(tmp_path, 1) as cache, IntelligentCache(None, None, cache) as over:
        over.set_many({f"k{number}": number for number in range(620)})
        for shard in {engine_of(cache).locate(f"k{number}")[2] for number in range(620)}:
            assert shard.words[USED] * 100 <= shard.words[CAPACITY] * 60


def test_a_key_of_a_batch_that_cannot_be_published_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be stored still invalidates."""
    keys = [f"k{number}" for number in range(9)]
    with FileCache(tmp_path, 1) as cache, IntelligentCache(None, None, cache) as over:
        over.set_many(dict.fromkeys(keys, "old"))
        publish = ShardFiles.publish
        failed: list[int] = []

        def failing(
            files: ShardFiles, index: Index, at: int, location_word: int, hashed: int, size: int
        ) -> None:
            if hashed == engine_of(cache).locate("k4")[1]:
                failed.append(hashed)
                raise OSError(errno.EIO, "the test's disk")
            publish(files, index, at, location_word, hashed, size)

        monkeypatch.setattr(ShardFiles, "publish", failing)
        store = store_of(cache)
        assert store is not None
        with pytest.raises(TierUnavailableError):
            store.write_many(dict.fromkeys(keys, "new"), 60, frozenset(), 0)
        monkeypatch.undo()
        assert failed
        assert store.value("k4") is MISSING
        check(engine_of(cache))


def test_a_batch_that_is_cut_off(tmp_path: Path) -> None:
    """After `kill -9` at any step each of its keys has the value of before or of after, or none."""
    before = {f"k{number}": b"before %d" % number for number in range(6)}
    for allowed in range(200):
        path = tmp_path / f"{allowed}"
        with Engine(path, geometry=SMALL) as engine:
            for key, payload in before.items():
                engine.put(key, payload)
        effects = StoppingEffects()
        engine = Engine(path, geometry=SMALL, effects=effects)
        batch = []
        for key in before:
            octets, hashed, shard, bucket = engine.locate(key)
            payload = b"after" * 40
            parts = record_parts(octets, hashed, payload, 1e12, 0, 0, (), 0.0, 0.0, b"", None)
            batch.append((hashed, whole_record(parts), bucket, fresh()))
        effects.count, effects.allowed = 0, allowed
        done = False
        try:
            shard.lock.run(shard.put_many, batch)
            done = True
        except CrashError:
            pass
        effects.allowed = None
        engine.close()
        with Engine(path, geometry=SMALL) as engine:
            for key, payload in before.items():
                found = engine.get(key)
                allowed_values = {b"after" * 40} if done else {payload, b"after" * 40}
                assert found is None or found.payload in allowed_values, (key, allowed)
            check(engine, exact=False)
        if done:
            break
    assert done, "the batch has fewer steps"
    assert allowed > 30


def test_the_codec_of_another_directory_reads_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A directory of others' bytes is replaced by one that is trusted, between the read and the decoding."""
    caplog.set_level(logging.CRITICAL, logger="cachekit")
    place, ran = tmp_path / "cache", tmp_path / "ran"

    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(ran),)

    get = Shard.get
    reads: list[Callable[[FileCache], object]] = [
        lambda cache: cache.get_value("k"), lambda cache: cache.get("k"), lambda cache: cache.peek("k"),
        lambda cache: cache.touch("k", 9), lambda cache: cache.get_many(["k"]),
        lambda cache: IntelligentCache(None, None, cache, close_tiers=False).get_many(["k"]),
        lambda cache: IntelligentCache(MemoryCache(9), None, cache, close_tiers=False).get("k"),
    ]  # fmt: skip
    for number, read in enumerate(reads):
        place.mkdir()
        place.chmod(0o777)
        with FileCache(place, 1) as cache:
            engine_of(cache).put("k", pickle.dumps(Payload()), flags=PickleCodec.code)

            def replaced(shard: Shard, hashed: int, key: bytes, now: float, cache: FileCache = cache) -> Any:
                record = get(shard, hashed, key, now)
                monkeypatch.setattr(Shard, "get", get)
                place.rename(tmp_path / f"old{number}")  # noqa: B023
                cache.clear()  # which opens the directory again, made now by this user
                return record

            monkeypatch.setattr(Shard, "get", replaced)
            read(cache)
            assert Shard.get is get, "it was replaced"
            assert not ran.exists(), number
        shutil.rmtree(place)


def test_a_small_record_is_that_of_its_parts() -> None:
    """`small_record` writes out what `record_parts` and `whole_record` do."""
    chance = random.Random(1)
    for _ in range(500):
        key, payload, names = (chance.randbytes(chance.randrange(most)) for most in (100, 3000, 100))
        fields = (
            key, chance.getrandbits(64), payload, chance.random(), chance.getrandbits(15),
            chance.getrandbits(64),
            tuple([(chance.getrandbits(32), chance.getrandbits(64)) for _ in range(chance.randrange(4))]),
            chance.random(), chance.random(), names, chance.choice((None, lambda *_: b"s" * SIGNATURE_SIZE)),
        )  # fmt: skip
        assert small_record(*fields) == whole_record(record_parts(*fields))


def test_a_tag_that_is_invalidated_while_values_are_encoded(tmp_path: Path) -> None:
    """The values that are stored then are those of after, one by one and together."""
    with IntelligentCache(memory_cache=None, file_cache=FileCache(tmp_path)) as cache:

        class Hooked:
            def __reduce__(self) -> tuple[type[str], tuple[str]]:
                cache.invalidate_by_tags({"t"})
                return str, ("k",)

        cache.set("one", Hooked(), tags={"t"})
        assert cache.get("one") == "k"
        cache.set_many({"a": 1, "k": Hooked(), "z": 2}, tags={"t"})
        assert cache.get_many(["a", "k", "z"]) == {"a": 1, "k": "k", "z": 2}


def test_a_batch_of_long_values_takes_little_memory(tmp_path: Path) -> None:
    """Some MiB are encoded at a time, whatever all of them take."""
    values = {f"k{number}": b"%d" % number * 100_000 for number in range(400)}
    with IntelligentCache(memory_cache=None, file_cache=FileCache(tmp_path)) as cache:
        tracemalloc.start()
        try:
            cache.set_many(values)
            assert tracemalloc.get_traced_memory()[1] < 12 << 20
        finally:
            tracemalloc.stop()
        assert cache.get_many(values) == values
