"""FileCache: arguments, entries, values, many keys, codecs, fences."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from datetime import timedelta
from math import inf, nan
from pathlib import Path
from typing import Any, cast

import pytest

import cachekit
from cachekit import CacheEntry, FileCache, SerializationError, TierUnavailableError, ValueTooLargeError
from cachekit.runtime import program
from cachekit.testing import ManualClock
from cachekit.tiers.fences import EPOCH, WRITING, PrivateFence, ServerTokens, SharedFence, TagTokens
from cachekit.tiers.file.engine.engine import Engine
from cachekit.tiers.file.engine.fence_tokens import Tokens
from cachekit.tiers.file.engine.format import Record
from cachekit.tiers.file.engine.shard import Shard
from cachekit.tiers.file.paths import directory_of

# -- arguments ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"cache_dir": 3}, TypeError, ["cache_dir", "3", "int"]),
        ({"cache_dir": b"x"}, TypeError, ["cache_dir", "bytes"]),
        ({"cache_dir": ""}, ValueError, ["cache_dir", "leave it out"]),
        ({"cache_dir": "a\0b"}, ValueError, ["cache_dir"]),
        (
            {"cache_dir": "~nobody.at.all/x"},
            ValueError,
            ["cache_dir", "~nobody.at.all", "./~nobody.at.all/x"],
        ),
        ({"allow": 5}, TypeError, ["allow", "5", "allow=[MyType]"]),
        ({"allow": Path}, TypeError, ["allow", "Path", "allow=[MyType]"]),
        ({"max_size_mb": "1"}, TypeError, ["max_size_mb", "'1'"]),
        ({"max_size_mb": True}, TypeError, ["max_size_mb", "True"]),
        ({"max_size_mb": 0.5}, ValueError, ["max_size_mb", "0.5"]),
        ({"max_size_mb": nan}, ValueError, ["max_size_mb", "nan"]),
        ({"max_size_mb": inf}, ValueError, ["max_size_mb", "inf"]),
        ({"cleanup_interval": 0}, ValueError, ["cleanup_interval", "use None for"]),
        ({"cleanup_interval": "x"}, TypeError, ["cleanup_interval"]),
        ({"default_ttl": 0}, ValueError, ["default_ttl"]),
        ({"namespace": 1}, TypeError, ["namespace"]),
        ({"codec": "yaml"}, ValueError, ["codec", "yaml"]),
        ({"compression": "lzma"}, ValueError, ["compression", "lzma"]),
        ({"secret": "short"}, ValueError, ["secret", "16"]),
        ({"codec": "json", "allow": [Path]}, ValueError, ["allow"]),
    ],
)
def test_bad_arguments(
    tmp_path: Path, arguments: dict[str, Any], error: type[Exception], words: list[str]
) -> None:
    """Each is named, and leaves no directory behind."""
    place = tmp_path / "cache"
    with pytest.raises(error) as caught:
        FileCache(**{"cache_dir": place, **arguments})
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert not place.exists()


def test_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's cache directory, or what is named; `~` and relative paths are resolved once."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.chdir(tmp_path)
    assert directory_of("~/a/", "") == str(tmp_path / "a")
    assert directory_of("b", "") == str(tmp_path / "b")
    assert directory_of(Path("b"), "web") == str(tmp_path / "b" / "web")
    assert os.path.basename(directory_of(None, "")) == "default"
    assert directory_of(None, "web") == directory_of(None, "")[: -len("default")] + "web"
    monkeypatch.setattr(program, "_runs_tests", lambda: False)
    monkeypatch.delenv("CACHEKIT_TESTS_DIR", raising=False)
    assert directory_of(None, "").startswith(str(tmp_path))
    with FileCache(max_size_mb=1) as cache:
        assert cache.path == directory_of(None, "")
        assert os.stat(cache.path).st_mode & 0o777 == 0o700


def test_no_two_namespaces_have_one_directory() -> None:
    """Whatever is in them: separators, case, the names of our own files."""
    spaces = [
        "ab",
        "tokens",
        "default",
        "..",
        ".",
        "/",
        "a/b",
        "a_b",
        "a:b",
        "\ud800",
        "x" * 300,
        "/a/b.py",
        "abc",
    ]
    found = {directory_of("/d", space) for space in spaces}
    assert len(found) == len(spaces)
    assert all(os.path.dirname(path) == "/d" and len(os.path.basename(path)) < 100 for path in found)
    assert os.path.basename(directory_of("/d", "abc")) == "abc"
    assert not {os.path.basename(path) for path in found} & {"ab", "tokens", "default", "..", "."}


def test_it_is_loaded_on_first_use() -> None:
    """As an attribute of the package, which knows nothing else of that kind."""
    assert cachekit.FileCache is FileCache
    assert "FileCache" in dir(cachekit)
    with pytest.raises(AttributeError, match="nothing"):
        cachekit.nothing  # type: ignore[attr-defined]  # noqa: B018


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    """Is an error at once, with the path and the way out."""
    (tmp_path / "file").write_text("")
    with pytest.raises(TierUnavailableError, match="cache_dir") as caught:
        FileCache(tmp_path / "file" / "cache")
    assert str(tmp_path / "file" / "cache") in str(caught.value)
    assert isinstance(caught.value.__cause__, OSError)


# -- entries and values ---------------------------------------------------------------------------------


def test_values_survive_close(tmp_path: Path) -> None:
    """They are there when the directory is opened again."""
    with FileCache(tmp_path, 1) as cache:
        assert cache.set_value("k", {"a": (1, None)}, tags={"t"}) is True
        assert cache.get_value("k") == {"a": (1, None)}
    with FileCache(str(tmp_path), 1) as cache:
        assert cache.get_value("k") == {"a": (1, None)}
        assert cache.get_value("missing", 7) == 7
        assert "k" in cache
        assert not cache.contains("missing")
        assert len(cache) == cache.size() == 1


def test_what_an_entry_says(tmp_path: Path) -> None:
    """Made when it was made; not counted; as large as what is stored."""
    clock = ManualClock()
    with FileCache(tmp_path, 1, clock=clock) as cache:
        cache.set_value("k", "v", ttl=timedelta(seconds=0.1), tags=["t"])
        clock.advance(0.05)
        entry = cache.get("k")
        assert entry is not None
        assert (entry.ttl, entry.tags, entry.access_count) == (0.1, frozenset({"t"}), 0)
        assert entry.created_timestamp == clock.time() - 0.05
        assert entry.last_accessed == entry.created_at
        assert 10 < entry.size_bytes < 200
        cache.set_value("ever", "v")
        ever = cache.peek("ever")
        assert ever is not None
        assert ever.ttl is None
        assert cache.get_stats().requests == 1, "peek is no lookup"


def test_default_ttl_is_a_ceiling(tmp_path: Path) -> None:
    """For values, entries and touch."""
    clock = ManualClock()
    with FileCache(tmp_path, 1, default_ttl=10, clock=clock) as cache:
        cache.set_value("a", 1)
        cache.set_value("b", 1, ttl=100)
        cache.set("c", CacheEntry("c", 1, clock.time() - 95, ttl=100))
        cache.set_value("d", 1, ttl=5)
        assert cache.touch("d", 100)
        clock.advance(5)
        assert [cache.contains(key) for key in "abcd"] == [True, True, False, True]
        clock.advance(5)
        assert list(cache.keys()) == []
        assert cache.default_ttl == 10


def test_ttl_of_nothing_removes(tmp_path: Path) -> None:
    """As do entries that are over, and a touch with no life."""
    with FileCache(tmp_path, 1) as cache:
        removals: list[Callable[[], bool]] = [
            lambda: cache.set_value("k", 2, ttl=0),
            lambda: cache.set("k", CacheEntry("k", 2, ttl=-1)),
            lambda: cache.touch("k", 0),
        ]
        for remove in removals:
            cache.set_value("k", 1)
            fence = cache.fence("k")
            assert remove() is True
            assert not fence.is_current()
            assert cache.get("k") is None
        assert cache.get_stats().deletes == 3


def test_touch(tmp_path: Path) -> None:
    """A new life from now, the same value, tags and origin; and it is a write."""
    clock = ManualClock()
    with FileCache(tmp_path, 1, clock=clock) as cache:
        cache.put("k", CacheEntry("k", "v", clock.time(), ttl=10, tags={"t"}), ServerTokens(7, {"t": 8}))
        clock.advance(5)
        fence = cache.fence("k")
        assert cache.touch("k", 10)
        assert not fence.is_current()
        clock.advance(9)
        found = cache.look("k")
        assert found is not None
        assert (found.entry.value, found.entry.tags, found.origin) == (
            "v",
            frozenset({"t"}),
            ServerTokens(7, {"t": 8}),
        )
        cache.invalidate_by_tags({"t"})
        assert cache.touch("k", 10) is False, "what was invalidated does not come back"
        assert cache.get("k") is None
        fence = cache.fence("absent")
        assert cache.touch("absent") is False
        assert not fence.is_current()
        with pytest.raises(ValueError, match="NaN"):
            cache.touch("k", nan)


def test_a_clock_set_back_lengthens_no_copy(tmp_path: Path) -> None:
    """What was made in the future is a miss. Once the clock is right it is there, until its TTL ends."""
    clock = ManualClock()
    with FileCache(tmp_path, 1, clock=clock) as cache:
        cache.set_value("k", 1, ttl=10)
        clock.jump(-1000)
        assert cache.get("k") is None
        clock.jump(1000)
        entry = cache.get("k")
        assert entry is not None
        assert (entry.created_timestamp, entry.ttl) == (clock.time(), 10)
        clock.jump(1000)
        assert cache.get("k") is None


def test_many_keys(tmp_path: Path) -> None:
    """In one call, with one answer each."""
    clock = ManualClock()
    with FileCache(tmp_path, 1, clock=clock) as cache:
        entries = {key: CacheEntry(key, key * 2, clock.time()) for key in ("a", "b", "c")}
        assert cache.set_many(entries) is True
        assert cache.get_many(["c", "x", "a"]) == {
            key: CacheEntry(key, key * 2, clock.time(), size_bytes=cache.get_many([key])[key].size_bytes)
            for key in ("c", "a")
        }
        assert cache.delete_many(["a", "x", "c"]) == 2
        assert list(cache.keys()) == ["b"]
        with pytest.raises(TypeError, match="several"):
            cache.get_many("abc")
        with pytest.raises(ValueError, match="key"):
            cache.set_many({"d": CacheEntry("d", 1), "a": CacheEntry("b", 1)})
        assert "d" not in cache
        with pytest.raises(TypeError, match="map"):
            cache.set_many([CacheEntry("d", 1)])  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["get", "get_value", "look", "peek", "delete", "fence", "touch", "remove"])
def test_keys_are_str(tmp_path: Path, method: str) -> None:
    """Anything else is a TypeError; a subclass of str becomes a str."""

    class Key(str):
        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            raise AssertionError

        __hash__ = str.__hash__

    with FileCache(tmp_path, 1) as cache:
        with pytest.raises(TypeError, match="key must be a str"):
            getattr(cache, method)(3)
        cache.set_value(Key("k"), 1)
        assert cache.get_value("k") == cache.get_value(Key("k")) == 1


def test_what_cannot_be_stored(tmp_path: Path) -> None:
    """Is refused by name, and changes nothing."""
    with FileCache(tmp_path, 1) as cache:
        cache.set_value("k", 1)
        values: list[Any] = [iter([]), threading.Lock(), lambda: 0]
        for value in values:
            with pytest.raises(SerializationError):
                cache.set_value("k", value)
        assert cache.get_value("k") == 1
        with pytest.raises(TypeError, match="set_value"):
            cache.set("k", "v")  # type: ignore[arg-type]


def test_the_largest_value_at_the_usual_limit(tmp_path: Path) -> None:
    """A quarter of the limit: 250 MiB at 1,000 MB, as docs/file.md says."""
    with FileCache(tmp_path, 1000) as cache:
        cache.set_value("k", bytes(262_000_000))
        with pytest.raises(ValueTooLargeError):
            cache.set_value("k", bytes(263_000_000))


def test_too_large_a_value_leaves_nothing(tmp_path: Path) -> None:
    """Neither it nor what it was to replace; but a loaded one leaves what is there."""
    with FileCache(tmp_path, 1) as cache:
        cache.set_value("k", 1)
        with pytest.raises(ValueTooLargeError, match="raise the limit"):
            cache.set_value("k", os.urandom(2 << 20))
        assert cache.get_value("k") is None
        with pytest.raises(ValueTooLargeError):
            cache.set_if("k", CacheEntry("k", os.urandom(2 << 20)), cache.fence("k"))


def test_codecs_and_secrets_do_not_mix(tmp_path: Path) -> None:
    """What another configuration stored is a miss that counts as an error, and can be replaced."""
    configurations: list[dict[str, Any]] = [
        {}, {"codec": "json"}, {"codec": "msgpack"}, {"secret": "a" * 16}, {"secret": "b" * 16},
        {"compression": "zstd"},
    ]  # fmt: skip
    for one in configurations[:5]:
        for other in configurations[:5]:
            with FileCache(tmp_path, 1, **one) as cache, FileCache(tmp_path, 1, **other) as reader:
                cache.clear()
                cache.set_value("k", [1])
                assert reader.get_value("k") == ([1] if one == other else None)
                assert reader.get_stats().errors == (one != other)
                if one != other:
                    assert reader.set_if("k", CacheEntry("k", [2]), reader.fence("k")) is True
                    assert reader.get_value("k") == [2]
    with FileCache(tmp_path, 1, secret=["b" * 16, "a" * 16]) as cache:
        cache.set_value("k", "v" * 10_000)
        assert "b" * 16 not in repr(cache)
        assert "secret=...)" in repr(cache)
    with FileCache(tmp_path, 1, compression="zstd") as cache:
        cache.set_value("z", "v" * 10_000)
        entry = cache.get("z")
        assert entry is not None
        assert entry.size_bytes < 1000


# -- fences ---------------------------------------------------------------------------------------------


def test_look_gives_the_tokens_of_the_record(tmp_path: Path) -> None:
    """Not those of now: an invalidation between the two is one of the entry."""
    with FileCache(tmp_path, 1) as cache:
        fence = cache.put("k", CacheEntry("k", 1, tags={"a", "b"}))
        found = cache.look("k")
        assert fence is not None
        assert found is not None
        assert found.origin is None
        assert (found.fence.token, found.fence.names) == (fence.token, frozenset({"a", "b"}))
        assert set(found.fence.tags) == set(fence.tags)
        assert found.fence.is_current()
        assert fence.is_current()
        other = cache.look("k")
        assert other is not None
        cache.invalidate_by_tags(["a"])
        assert not found.fence.is_current()
        assert cache.look("k") is None


def test_what_happens_while_it_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write or an invalidation between any two steps of `look` breaks the fence that it returns."""
    with FileCache(tmp_path, 1) as cache:
        get = Shard.get

        def disturb(change: Callable[[], object]) -> Callable[[Shard, int, bytes, float], Record | None]:
            def disturbed(shard: Shard, hashed: int, key: bytes, now: float) -> Record | None:
                record = get(shard, hashed, key, now)
                with monkeypatch.context() as patch:
                    patch.setattr(Shard, "get", get)
                    change()
                return record

            return disturbed

        changes: list[Callable[[], object]] = [
            lambda: cache.set_value("k", 2, tags={"t"}), lambda: cache.delete("k"), cache.renew, cache.clear,
            lambda: cache.invalidate_by_tags({"t"}), lambda: cache.invalidate_by_pattern("k"),
        ]  # fmt: skip
        for change in changes:
            cache.set_value("k", 1, tags={"t"})
            with monkeypatch.context() as patch:
                patch.setattr(Shard, "get", disturb(change))
                found = cache.look("k")
            assert found is not None
            assert found.entry.value == 1
            assert not found.fence.is_current()


def test_the_epoch_is_read_before_the_tags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a holder that compares the epoch alone would take an invalidation in between for none."""
    with FileCache(tmp_path, 1) as cache:
        of_tags = Tokens.of_tags

        def disturbed(tokens: Tokens, tags: Iterable[str]) -> TagTokens:
            found = of_tags(tokens, tags)
            tokens.invalidate_tags(["t"])
            return found

        with monkeypatch.context() as patch:
            patch.setattr(Tokens, "of_tags", disturbed)
            fence = cache.fence("k", {"t"})
        assert fence.words[EPOCH] != fence.epoch
        assert not fence.stands()
        fence = cache.fence("k", {"t"})
        assert fence.words[EPOCH] == fence.epoch
        cache.set_value("k", 1)
        cast(memoryview, fence.words)[EPOCH] = WRITING | 1
        assert cache.fence("k", {"t"}).epoch == 0, "during an invalidation, no epoch will do"
        found = cache.look("k")
        assert found is not None
        assert found.fence.epoch == 0


def test_a_write_in_flux(tmp_path: Path) -> None:
    """Nobody's copy counts until it is settled; a write in between makes settling fail."""
    with FileCache(tmp_path, 1) as cache:
        fence = cache.put("k", CacheEntry("k", 1), in_flux=True)
        assert fence is not None
        assert not fence.is_current()
        assert cache.fence("k").token & WRITING
        assert cache.settle(fence) is True
        assert fence.is_current()
        removed, fence = cache.remove("k", in_flux=True)
        assert removed is True
        assert not fence.is_current()
        cache.set_value("k", 2)
        assert cache.settle(fence) is False
        assert not fence.is_current()


def test_put_that_expects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is changed unless the fence stands; tags have the tokens of the fence."""
    with FileCache(tmp_path, 1) as cache:
        fence = cache.fence("k", {"t", "u"})
        assert cache.put("k", CacheEntry("k", 1, tags={"t"}), expect=fence) is not None
        assert cache.put("k", CacheEntry("k", 2, tags={"t"}), expect=fence) is None
        assert cache.get_value("k") == 1
        cache.invalidate_by_tags(["u"])
        assert cache.get_value("k") == 1, "it does not have the other tag"
        late = cache.fence("k", {"t"})
        cache.invalidate_by_tags(["t"])
        assert cache.put("k", CacheEntry("k", 3, tags={"t"}), expect=late) is None
        assert cache.get_stats().refusals == 2

        put = Engine.put

        def overtaken(engine: Engine, key: str, payload: bytes, **more: Any) -> int | None:
            engine.delete(key)
            return put(engine, key, payload, **more)

        with monkeypatch.context() as patch:
            patch.setattr(Engine, "put", overtaken)
            assert cache.put("k", CacheEntry("k", 3), expect=cache.fence("k")) is None
        cache.set_value("k", 4)
        assert cache.put("k", CacheEntry("k", 5, ttl=0), expect=fence) is None
        assert cache.get_value("k") == 4
        assert cache.put("k", CacheEntry("k", 5, ttl=0), expect=cache.fence("k")) is not None
        assert cache.get_value("k") is None
        with pytest.raises(ValueError, match="key"):
            cache.put("other", CacheEntry("other", 1), expect=fence)


def test_add(tmp_path: Path) -> None:
    """Who comes second gets what is there, with its origin kept."""
    with FileCache(tmp_path, 1) as cache:
        fence = cache.fence("k", {"t"})
        assert cache.add("k", CacheEntry("k", 1, tags={"t"}), fence, ServerTokens(5, {"t": 6})) is True
        there = cache.add("k", CacheEntry("k", 2, tags={"t"}), fence)
        assert isinstance(there, CacheEntry)
        assert there.value == 1
        found = cache.look("k")
        assert found is not None
        assert found.origin == ServerTokens(5, {"t": 6})
        assert cache.add("k", CacheEntry("k", 2, ttl=0), cache.fence("k")) is False
        cache.renew()
        assert not fence.is_current()
        assert cache.add("k", CacheEntry("k", 2), fence) is False
        with pytest.raises(TypeError, match="fence"):
            cache.set_if("k", CacheEntry("k", 1), PrivateFence("k", frozenset()))
        with pytest.raises(ValueError, match="tags"):
            cache.set_if("k", CacheEntry("k", 1, tags={"u"}), fence)


def test_a_fence_of_another_directory_is_broken(tmp_path: Path) -> None:
    """Its tokens mean nothing here."""
    with FileCache(tmp_path / "a", 1) as one, FileCache(tmp_path / "b", 1) as other:
        fence = one.fence("k")
        assert isinstance(fence, SharedFence)
        assert other.set_if("k", CacheEntry("k", 1), fence) is False
        assert other.put("k", CacheEntry("k", 1), expect=fence) is None


def test_a_clock_that_is_set_back(tmp_path: Path, clock: ManualClock) -> None:
    """What was stored later than the time that it is now is a miss; a small step changes little."""
    with FileCache(tmp_path, max_size_mb=5, clock=clock) as tier:
        tier.set_value("before", 1, ttl=100)
        clock.advance(4000)
        tier.set_value("k", 1, ttl=2, tags={"t"})
        clock.jump(-4)
        assert tier.get_value("k") == 1
        clock.jump(-3600)
        assert tier.get_value("k") is None
        assert tier.look("k") is None
        assert tier.get_many(["k"]) == {}
        assert tier.delete("k") is False
        assert tier.add("k", CacheEntry("k", 2, created_at=clock.time(), ttl=2), tier.fence("k")) is True
        assert tier.get_value("k") == 2
        clock.advance(2)
        assert tier.get_value("k") is None
