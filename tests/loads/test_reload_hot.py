"""reload_hot: the keys that are used most are in memory again after a restart, and no loader is called."""

from __future__ import annotations

import asyncio
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import inside
import pytest

from cachekit import (
    CacheEntry,
    CacheLevel,
    CacheStrategy,
    FileCache,
    IntelligentCache,
    MemoryCache,
    RedisCache,
    aio,
)
from cachekit.errors import TierUnavailableError
from cachekit.loading import hot_set
from cachekit.testing import ManualClock


def cache_on(path: Path, size: int = 20, **more: Any) -> IntelligentCache:
    more.setdefault("memory_cache", MemoryCache(size))
    return IntelligentCache(file_cache=FileCache(path, 4), reload_hot=True, **more)


def in_memory(cache: IntelligentCache) -> set[str]:
    inside.wait_for_reload(cache)
    return set(inside.memory(cache).keys())


def use(cache: IntelligentCache, *keys: str, times: int = 1) -> None:
    for key in keys:
        cache.set(key, key.upper())
    # A later key may share the fence token of an earlier one in the file tier. Then the first read copies the
    # earlier one into memory again, and is no use of that copy.
    cache.get_many(keys)
    for _ in range(times):
        assert len(cache.get_many(keys)) == len(keys)


def test_what_was_used_is_in_memory_after_a_restart(tmp_path: Path) -> None:
    """No lookup is counted for it, and each first request is a hit in memory."""
    with cache_on(tmp_path, 4) as cache:
        use(cache, "a", "b")
        cache.set("never read", 1)
    with cache_on(tmp_path, 4) as cache:
        assert in_memory(cache) == {"a", "b"}
        before = cache.get_stats()
        assert before["combined"].reloaded == before["memory"].promotions == 2
        assert before["file"].requests == before["combined"].requests == before["combined"].loads == 0
        assert cache.get("a") == "A"
        assert cache.get_stats()["memory"].hits == 1


def test_half_of_memory_and_the_most_used_keys_first(tmp_path: Path) -> None:
    """The other half is for what this run asks for."""
    with cache_on(tmp_path, 20) as cache:
        for number in range(20):
            use(cache, f"k{number:02}", times=1 + number)
    with cache_on(tmp_path, 20) as cache:
        assert in_memory(cache) == {f"k{number:02}" for number in range(10, 20)}
        # The most used key is the youngest, and leaves last.
        assert [held.key for held in inside.entries(inside.memory(cache))][-1] == "k19"
    with cache_on(tmp_path, 6) as cache:
        assert in_memory(cache) == {"k17", "k18", "k19"}


def test_what_a_run_does_not_use_is_kept_behind_what_it_uses(tmp_path: Path) -> None:
    """A short run does not take the keys of a long one away."""
    with cache_on(tmp_path) as cache:
        use(cache, *(f"k{number}" for number in range(8)))
    with cache_on(tmp_path) as cache:
        inside.wait_for_reload(cache)
        use(cache, "new", times=9)
    with cache_on(tmp_path) as cache:
        assert in_memory(cache) == {"new"} | {f"k{number}" for number in range(8)}


def test_keys_that_each_run_asks_for_once(tmp_path: Path) -> None:
    """Those of the record before that are still in memory come first, then the newest; evicted ones last."""
    with FileCache(tmp_path, 4) as file:
        for number in range(12):
            file.set_value(f"k{number}", number)
    # Half of memory is four keys.
    for asked, expected in (
        ([0, 1, 2], set()),
        ([3, 4], {0, 1, 2}),
        ([1], {0, 1, 2, 4}),
        ([5, 6, 7, 8, 9, 10, 11], {0, 1, 2, 4}),  # that is more than memory has left
        ([], {1, 9, 10, 11}),
    ):
        with cache_on(tmp_path, 8) as cache:
            assert in_memory(cache) == {f"k{number}" for number in expected}
            for number in asked:
                assert cache.get(f"k{number}") == number
            if 11 in asked:
                cache.get("k1")


def test_newcomers_do_not_push_out_what_was_copied(tmp_path: Path) -> None:
    """A copy counts as used once. A key that is asked for once does not."""
    with cache_on(tmp_path) as cache:
        use(cache, *(f"k{number}" for number in range(10)))
    with cache_on(tmp_path, memory_cache=MemoryCache(20, CacheStrategy.SIEVE)) as cache:
        copied = in_memory(cache)
        assert len(copied) == 10
        for number in range(18):
            cache.set(f"new{number}", number)
        assert len(copied & in_memory(cache)) == 10
        assert cache.get_stats()["memory"].evictions == 8


def test_a_run_without_calls_of_a_function_leaves_its_keys(tmp_path: Path) -> None:
    """As another command of the same program."""
    for run in range(3):
        with cache_on(tmp_path) as cache:

            @cache.cached(name="f", version="1")
            def double(number: int) -> int:
                return 2 * number

            inside.wait_for_reload(cache)
            if run == 1:
                use(cache, "a")
                continue
            double(1)
            if run == 2:
                assert in_memory(cache) == {"a", double.key(1), double.key(2)}
            double(2)


def test_expired_invalidated_and_deleted_keys_stay_away(tmp_path: Path) -> None:
    """And what was written since comes as it is now."""
    clock = ManualClock()

    def cache(reload_hot: bool) -> IntelligentCache:
        file = FileCache(tmp_path, 4, cleanup_interval=None, clock=clock)
        return IntelligentCache(
            MemoryCache(20, clock=clock, cleanup_interval=None), file_cache=file, reload_hot=reload_hot
        )

    with cache(True) as first:
        first.set("short", 1, ttl=10)
        first.set("tagged", 1, tags=["t"])
        use(first, "deleted", "matched", "written", "left")
        first.get_many(["short", "tagged"])
    with cache(False) as second:
        second.invalidate_by_tags(["t"])
        second.delete("deleted")
        second.invalidate_by_pattern("match")
        second.set("written", "new")
    clock.advance(11)
    with cache(True) as third:
        assert in_memory(third) == {"written", "left"}
        assert third.get("written") == "new"


def test_results_of_a_function_that_was_edited_stay_away(tmp_path: Path) -> None:
    """The others are copied when the function is called first, because then its version is known."""
    for version, expected in (("1", set()), ("1", {1, 2, 3}), ("2", {3})):
        with cache_on(tmp_path) as cache:

            def double(number: int) -> int:
                return 2 * number

            cached = cache.cached(name="double", version=version)(double)
            inside.wait_for_reload(cache)
            assert in_memory(cache) == set()
            cached(3)
            found = in_memory(cache)
            assert expected <= {number for number in (1, 2, 3) if cached.key(number) in found}
            assert len(found) == max(1, len(expected))
            for number in (1, 2, 3):
                assert cached(number) == 2 * number
                assert cached(number) == 2 * number


def test_keys_of_a_key_func_have_no_version(tmp_path: Path) -> None:
    """They are copied when the function is called first, as a call would find them too."""
    for run in range(2):
        with cache_on(tmp_path) as cache:

            @cache.cached(key_func=lambda number: f"n:{number}", name="f")
            def f(number: int) -> int:
                return number

            inside.wait_for_reload(cache)
            f(1)
            assert in_memory(cache) == ({"n:1", "n:2"} if run else {"n:1"})
            for number in (1, 1, 2, 2):
                f(number)


def test_what_only_memory_holds_is_not_looked_for(tmp_path: Path) -> None:
    """A function object with results of its own, and values of the level MEMORY, would take the place."""
    with cache_on(tmp_path, 4) as cache:
        cache.set("memory only", 1, cache_level=CacheLevel.MEMORY)
        use(cache, "a")
        for _ in range(5):
            cache.get("memory only")
        cached = cache.cached()(lambda: 1)
        for _ in range(5):
            cached()
    with cache_on(tmp_path, 4) as cache:
        assert in_memory(cache) == {"a"}


def test_it_is_bounded_in_bytes(tmp_path: Path) -> None:
    """To half of the bound of memory, and one value more."""
    with cache_on(tmp_path, memory_cache=MemoryCache(max_bytes=100_000)) as cache:
        for number in range(8):
            cache.set(f"k{number}", bytes(10_000))
            cache.get(f"k{number}")
    with cache_on(tmp_path, memory_cache=MemoryCache(max_bytes=100_000)) as cache:
        assert len(in_memory(cache)) == 5


def test_it_is_bounded_in_bytes_without_a_bound_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the bytes of the stored values."""
    monkeypatch.setattr(hot_set, "_MOST_BYTES", 25_000)
    for expected in (0, 3):
        with cache_on(tmp_path) as cache:
            assert len(in_memory(cache)) == expected
            for number in range(8):
                cache.set(f"k{number}", bytes(10_000))
                cache.get(f"k{number}")


def test_it_is_bounded_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tier that takes three seconds for each entry is left after ten."""
    clock = ManualClock()
    with cache_on(tmp_path) as cache:
        use(cache, *"abcdefgh")
    peek = FileCache.peek

    def slow(self: FileCache, key: str) -> CacheEntry | None:
        clock.advance(3)
        return peek(self, key)

    monkeypatch.setattr(FileCache, "peek", slow)
    with cache_on(tmp_path, memory_cache=MemoryCache(20, clock=clock)) as cache:
        assert len(in_memory(cache)) == 4


def test_nothing_is_evicted_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What this run has asked for stays."""
    with cache_on(tmp_path) as cache:
        use(cache, *"abcdef")
    peek, wait = FileCache.peek, threading.Event()

    def later(self: FileCache, key: str) -> CacheEntry | None:
        wait.wait(30)
        return peek(self, key)

    monkeypatch.setattr(FileCache, "peek", later)
    with cache_on(tmp_path, 12) as cache:
        for number in range(9):
            cache.set(f"new{number}", number)
        wait.set()
        assert len(in_memory(cache)) == 12
        assert cache.get_stats()["memory"].evictions == 0


def test_a_write_during_the_copy_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the read of the entry and its copy in memory."""
    with cache_on(tmp_path) as cache:
        use(cache, "a", "b")
    peek, caches = FileCache.peek, list[IntelligentCache]()

    def written_since(self: FileCache, key: str) -> CacheEntry | None:
        entry = peek(self, key)
        if key == "a":
            caches[0].set("a", "new")
        return entry

    began = threading.Event()
    call = hot_set.HotSet._copy_record
    monkeypatch.setattr(hot_set.HotSet, "_copy_record", lambda self: began.wait(30) and call(self))
    with cache_on(tmp_path) as cache:
        caches.append(cache)
        monkeypatch.setattr(FileCache, "peek", written_since)
        began.set()
        assert in_memory(cache) == {"a", "b"}
        assert cache.get("a") == "new"


@pytest.mark.parametrize(
    "record",
    [
        17,
        [["a"]],
        {},
        {"keys": ["a"]},
        {"keys": "a", "functions": [""], "function_of": [0]},
        {"keys": ["a", 5, None], "functions": [""], "function_of": [7, 0, 0]},
        {"keys": ["a"], "functions": [], "function_of": [-1]},
        {"keys": ["a"], "functions": [], "function_of": [True]},
        {"keys": ["missing"] * 50_000, "functions": [""], "function_of": [0] * 50_000},
        {"keys": [hot_set.KEY], "functions": [None], "function_of": [0]},
    ],
)
def test_a_record_of_another_writer_is_checked(tmp_path: Path, record: Any) -> None:
    """Nothing is copied that it does not name, and the next record replaces it."""
    with FileCache(tmp_path, 4) as file:
        file.set_value("a", 1)
        file.set_value(hot_set.KEY, record)
    with cache_on(tmp_path) as cache:
        assert in_memory(cache) == set()
        use(cache, "b")
    with cache_on(tmp_path) as cache:
        assert in_memory(cache) == {"b"}


def test_a_run_without_requests_leaves_the_record(tmp_path: Path) -> None:
    """As a command that only looks into the directory."""
    with cache_on(tmp_path) as cache:
        use(cache, "a")
    with cache_on(tmp_path, 1) as cache:
        inside.wait_for_reload(cache)
    with cache_on(tmp_path) as cache:
        assert in_memory(cache) == {"a"}
        cache.clear()
    with cache_on(tmp_path) as cache:
        assert in_memory(cache) == set()


@pytest.mark.parametrize("has_file", [False, True])
def test_with_a_server(redis_url: str, prefix: str, tmp_path: Path, has_file: bool) -> None:
    """The file tier keeps the record if there is one. What another host wrote is what comes back."""

    def cache(reload_hot: bool, host: str) -> IntelligentCache:
        file = FileCache(tmp_path / host, 4) if has_file else None
        server = RedisCache(url=redis_url, key_prefix=prefix)
        return IntelligentCache(MemoryCache(20), server, file, reload_hot=reload_hot)

    with cache(True, "one") as first:
        use(first, "a", "b", "c")
        first.get_many(["a", "b", "c"])
        kept = first.file_cache if has_file else first.redis_cache
        assert first._core.hot_set is not None
        first._core.hot_set.save()
        assert kept is not None
        assert kept.get(hot_set.KEY) is not None
    with cache(False, "two") as other:
        other.set("a", "new")
        other.delete("b")
    with cache(True, "one") as again:
        assert in_memory(again) == {"a", "c"}
        assert again.get("a") == "new"


@pytest.mark.parametrize("codec", ["pickle", "json"])
def test_with_a_secret_and_codecs(tmp_path: Path, codec: Any) -> None:
    """The record is signed as every record."""
    for expected in (set(), {"a"}):
        file = FileCache(tmp_path, 4, codec=codec, secret=b"a secret of 16 bytes")
        with IntelligentCache(MemoryCache(9), file_cache=file, reload_hot=True) as cache:
            assert in_memory(cache) == expected
            use(cache, "a")


class Refusing:
    """A codec that carries bytes only."""

    name, code = "bytes only", 200

    def encode(self, value: object) -> bytes:
        assert isinstance(value, bytes), "only bytes"
        return value

    def decode(self, data: bytes | memoryview) -> bytes:
        return bytes(data)


def test_a_codec_that_refuses_the_record(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and the cache closes."""
    file: Any = FileCache
    with IntelligentCache(
        MemoryCache(9), file_cache=file(tmp_path, 4, codec=Refusing()), reload_hot=True
    ) as cache:
        cache.set("a", b"1")
        cache.get("a")
    assert "the keys that are used most were not stored" in caplog.text


def test_a_strict_cache_whose_tier_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread has no caller to raise to, and `close` closes."""
    with cache_on(tmp_path) as cache:
        use(cache, "a")

    def fails(*_: object) -> Any:
        raise TierUnavailableError("the disk is gone")

    monkeypatch.setattr(FileCache, "peek", fails)
    monkeypatch.setattr(FileCache, "set", fails)
    cache = cache_on(tmp_path, strict=True)
    assert in_memory(cache) == set()
    cache.close()
    cache.close()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"reload_hot": 1, "file_cache": None}, TypeError),
        ({"reload_hot": True, "file_cache": None}, ValueError),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], error: type[Exception]) -> None:
    """The message names the argument and what to do."""
    with pytest.raises(error, match="reload_hot"):
        IntelligentCache(MemoryCache(9), **arguments)


def test_it_needs_a_memory_tier(tmp_path: Path) -> None:
    """Into which entries are copied."""
    with FileCache(tmp_path, 4) as file, pytest.raises(ValueError, match="reload_hot needs a memory"):
        IntelligentCache(None, file_cache=file, reload_hot=True)


def test_a_pickled_cache_and_a_cache_of_tasks(tmp_path: Path) -> None:
    """Both pass the argument on."""

    async def main() -> None:
        async with aio.IntelligentCache(
            MemoryCache(9), file_cache=FileCache(tmp_path, 4), reload_hot=True
        ) as cache:
            await cache.set("a", 1)
            await cache.get("a")

    asyncio.run(main())
    with cache_on(tmp_path) as cache, pickle.loads(pickle.dumps(cache)) as copy:
        assert in_memory(copy) == in_memory(cache) == {"a"}


def test_closing_ends_the_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No entry is read after `close`, and no thread is left."""
    with cache_on(tmp_path) as cache:
        use(cache, *"abcdef")
    peek, read, proceed = FileCache.peek, list[str](), threading.Event()

    def held_up(self: FileCache, key: str) -> CacheEntry | None:
        read.append(key)
        if key != hot_set.KEY:
            proceed.wait(30)
        return peek(self, key)

    monkeypatch.setattr(FileCache, "peek", held_up)
    cache = cache_on(tmp_path)
    while len(read) < 2:
        threading.Event().wait(0.001)
    threads = set(threading.enumerate())
    closing = threading.Thread(target=cache.close)
    closing.start()
    hot = cache._core.hot_set
    assert hot is not None
    while not hot._ended:
        threading.Event().wait(0.001)
    proceed.set()
    closing.join(30)
    assert len(read) == 2
    inside.wait_for_reload(cache)
    assert not [thread for thread in threads if thread.name == "cachekit-load" and thread.is_alive()]


SCRIPT = """
import sys
from cachekit import FileCache, IntelligentCache, MemoryCache
cache = IntelligentCache(MemoryCache(9), file_cache=FileCache(sys.argv[1], 4), reload_hot=True)
for copy in cache._core.hot_set._copies:
    copy.wait(30)
print(sorted(cache.memory_cache.keys()))
cache.get_or_set("a", lambda: 1)
cache.get("a")
"""


def test_a_program_that_closes_nothing(tmp_path: Path) -> None:
    """The keys are stored when it ends."""
    run: Callable[[], str] = lambda: subprocess.run(  # noqa: E731
        [sys.executable, "-c", SCRIPT, str(tmp_path)], check=True, capture_output=True, text=True
    ).stdout.strip()
    assert (run(), run()) == ("[]", "['a']")


def test_it_stores_the_keys_once_a_minute(tmp_path: Path) -> None:
    """A process that is killed has lost a minute."""
    with cache_on(tmp_path) as cache:
        hot = cache._core.hot_set
        assert hot is not None
        assert hot._job is not None
        assert hot._job.interval == 60
        use(cache, "a")
        hot.save()
        with cache_on(tmp_path) as other:
            assert in_memory(other) == {"a"}


def test_functions_that_begin_later_are_not_remembered(tmp_path: Path) -> None:
    """A program may make functions all the time."""
    with cache_on(tmp_path) as cache:
        inside.wait_for_reload(cache)
        for number in range(20):
            cache.cached(name=f"f{number}")(lambda x: x)(1)
        assert not inside.functions_waited_for(cache)
