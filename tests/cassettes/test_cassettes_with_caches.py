"""Cassettes with caches, threads, tasks and other cassettes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from recorded_functions import ask, calls, load, no_calls, price

import cachekit
from cachekit import (
    CassetteMissError,
    FileCache,
    IntelligentCache,
    MemoryCache,
    aio,
    cache_result,
    cassette,
    disabled,
    override,
    set_default_cache,
)

__all__ = ["no_calls"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "answers.jsonl"


def test_batches(path: Path) -> None:
    """Each key is a question. A key that the loader left out stays left out."""
    cache = IntelligentCache(MemoryCache(), file_cache=None)

    def load_many(keys: list[str]) -> dict[str, str]:
        calls.append(tuple(keys))
        return {key: key * 2 for key in keys if key != "none"}

    with cassette(path):
        assert cache.get_or_set_many(["a", "b", "none"], load_many) == {"a": "aa", "b": "bb"}
        assert cache.get_or_set_many(["a", "c"], load_many) == {"a": "aa", "c": "cc"}
    assert calls == [("a", "b", "none"), ("c",)]
    awaited = aio.IntelligentCache.of(cache)
    with cassette(path, "replay"):
        assert cache.get_or_set_many(["c", "none"], load_many) == {"c": "cc"}
        assert asyncio.run(awaited.get_or_set_many(["a", "none"], load_many)) == {"a": "aa"}
        with pytest.raises(CassetteMissError, match="key='d'"):
            cache.get_or_set_many(["a", "d"], load_many)
    assert len(calls) == 2
    with cassette(path, "auto"):
        assert cache.get_or_set_many(["b", "e"], load_many) == {"b": "bb", "e": "ee"}
    assert calls[2:] == [("e",)]


def test_warming_and_regions(path: Path) -> None:
    """Warming fills what the block answers with, and leaves the tiers alone."""
    cache = IntelligentCache(MemoryCache(), file_cache=None)
    region = cache.region("r:", str)

    def of_key(key: str) -> str:
        calls.append(key)
        return key.upper()

    async def awaited() -> str:
        calls.append("awaited")
        return "awaited"

    def story() -> list[Any]:
        report = cache.warm_cache(["a", "b"], of_key, keep_warm=True)
        facade = aio.IntelligentCache.of(cache)
        late = asyncio.run(facade.warm_cache(["c"], of_key))
        return [
            sorted(report.loaded), late.loaded, cache.get_or_set("a", lambda: "never"),
            region.get_or_set("1", lambda: "one"),
            asyncio.run(facade.region("r:", str).get_or_set("2", awaited)),
            asyncio.run(facade.get_or_set("d", awaited)),
        ]  # fmt: skip

    expected = [["a", "b"], ["c"], "A", "one", "awaited", "awaited"]
    with cassette(path):
        assert story() == expected
    with cassette(path, "replay"):
        assert story() == expected
        assert [*cache.warm_cache(["z"], of_key).failed] == ["z"]
    assert sorted(calls) == ["a", "awaited", "awaited", "b", "c"]
    assert cache.get_many(["a", "b", "c", "d", "r:1"]) == {}
    assert (
        "test_warming_and_regions.<locals>.awaited" in path.read_text()
    )  # and not the region's own function


def test_two_caches_with_one_key(path: Path) -> None:
    """They are two questions if their loaders are two."""
    one, two = (IntelligentCache(MemoryCache(), file_cache=None) for _ in range(2))
    first: Callable[[], str] = lambda: "one"  # noqa: E731

    def second() -> str:
        return "two"

    mode: Any
    for mode in ("auto", "replay"):
        with cassette(path, mode):
            assert [one.get_or_set("k", first), two.get_or_set("k", second)] == ["one", "two"]


def test_the_real_tiers_are_left_alone(path: Path, tmp_path: Path) -> None:
    """Nothing is read from them, nothing is stored in them, and the default cache is not even made."""
    set_default_cache(None)
    with FileCache(tmp_path / "cache") as files, IntelligentCache(file_cache=files) as cache:
        cache.set("k", "real")
        with cassette(path):
            assert cache.get_or_set("k", load) == 1
            price("apple")
        assert cache.get("k") == "real"
        assert cache.cached(name="f")(load).cache_info().hits == 0
    with cassette(path, "replay"):
        price("apple")
        price.invalidate("apple")
        price.cache_clear()
    assert cachekit.cache.default._default is None


def test_a_script_is_named_without_its_directory(tmp_path: Path) -> None:
    """So a recording of one machine is replayed on another."""
    program = (
        "import sys\nfrom cachekit import cache_result, cassette\n"
        "@cache_result\ndef f(x):\n    return x\n"
        "with cassette(sys.argv[1], sys.argv[2]):\n    print(f(1))\n"
    )
    for directory, mode in (("one", "record"), ("two", "replay")):
        script = tmp_path / directory / "script.py"
        script.parent.mkdir()
        script.write_text(program)
        command = [sys.executable, str(script), str(tmp_path / "answers.jsonl"), mode]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "1\n"
    assert '"function": "script.py.f"' in (tmp_path / "answers.jsonl").read_text()


def test_threads_and_tasks_share_one_call(path: Path) -> None:
    """Callers of one question at once wait for one call, as with a cache."""
    begun, go = threading.Event(), threading.Event()

    @cache_result(name="slow")
    def slow() -> int:
        calls.append("slow")
        begun.set()
        go.wait(30)
        return 5

    async def gathered() -> list[Any]:
        return await asyncio.gather(*(ask("why") for _ in range(10)))

    with cassette(path), ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(slow) for _ in range(8)]
        begun.wait(30)
        go.set()
        assert {future.result() for future in futures} == {5}
        assert len(set(asyncio.run(gathered()))) == 1
    assert calls == ["slow", "why"]
    with cassette(path, "replay"), ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: slow(), range(16))) == {5}
        asyncio.run(gathered())
    assert calls == ["slow", "why"]


def test_async_with(path: Path) -> None:
    async def main(mode: Any) -> Any:
        async with cassette(path, mode) as tape:
            answer = await ask("why")
        return answer, tape.recorded, tape.replayed

    answer = asyncio.run(main("auto"))[0]
    assert asyncio.run(main("replay")) == (answer, 0, 1)


def test_nested_blocks(path: Path) -> None:
    """The innermost one answers, and the outer one does afterwards, in whatever order they end."""
    inner = path.with_name("inner.jsonl")
    with cassette(path) as outer_tape:
        price("apple")
        with cassette(inner) as inner_tape:
            price("apple")
            price("pear")
        price("apple")
    assert (outer_tape.recorded, inner_tape.recorded) == (1, 2)
    one, two = cassette(path, "replay"), cassette(inner, "replay")
    one.__enter__()
    two.__enter__()
    one.__exit__()
    assert price("pear")["each"] == 4
    two.__exit__()
    assert len(calls) == 3


def test_a_cassette_is_not_nested_in_itself(path: Path) -> None:
    tape = cassette(path)
    with tape, pytest.raises(RuntimeError, match="in use"), tape:
        pass
    with tape:
        price("apple")
    with tape:
        price("apple")
    assert (tape.replayed, calls) == (1, ["apple"])


def test_override_and_disabled_inside(path: Path) -> None:
    """The cassette answers all the same."""
    with cassette(path):
        price("apple")
    with IntelligentCache(file_cache=None) as cache, cassette(path, "replay"):
        with override(cache):
            assert price("apple")["each"] == 5
        with disabled():
            assert price("apple")["each"] == 5
            with pytest.raises(CassetteMissError):
                price("pear")
    assert calls == ["apple"]


def test_the_fast_path_is_left_and_found_again(path: Path) -> None:
    """A result that is in memory is not served inside, and what a block answers is not served afterwards."""
    price("apple")
    price("apple")
    with cassette(path):
        price("apple")
    assert calls == ["apple", "apple"]
    path.write_text(path.read_text().replace('"each": 5', '"each": 55'))
    with cassette(path, "replay"):
        assert price("apple")["each"] == price("apple")["each"] == 55
    assert price("apple")["each"] == 5
    assert len(calls) == 2


def test_copies(path: Path) -> None:
    """With `copy=True`, callers that change a result do not change the next one."""

    @cache_result(name="copied", copy=True)
    def copied() -> list[int]:
        return [1]

    mode: Any
    for mode in ("auto", "replay"):
        with cassette(path, mode):
            copied().append(2)
            assert copied() == [1]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"mode": "rec"}, ValueError, "mode must be one of 'auto', 'record', 'replay', 'off', not 'rec'"),
        ({"version": "1"}, ValueError, "version must be 'check' or 'ignore', not '1'"),
        ({"exceptions": (KeyboardInterrupt,)}, TypeError, "exceptions must be classes of exceptions"),
        ({"exceptions": [ValueError]}, TypeError, "exceptions must be classes of exceptions"),
        ({"redact": "token"}, TypeError, "redact must be a function of a text, or a tuple of names"),
        ({"redact": (1,)}, TypeError, "redact must be a function of a text, or a tuple of names"),
        ({"secret": "short"}, ValueError, "at least 16 bytes"),
        ({"allow": ["x"]}, TypeError, "allow"),
    ],
)
def test_bad_arguments(path: Path, arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message.replace("[", r"\[")):
        cassette(path, **arguments)


def test_a_path_of_the_wrong_type() -> None:
    with pytest.raises(TypeError, match="path must be a str or a Path, not 5"):
        cassette(5)  # type: ignore[arg-type]


def test_bad_arguments_of_a_loader_are_still_refused(path: Path) -> None:
    cache = IntelligentCache(MemoryCache(), file_cache=None)
    with cassette(path):
        with pytest.raises(TypeError, match="key must be a str"):
            cache.get_or_set(1, load)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="loader must return a mapping"):
            cache.get_or_set_many(["a"], lambda _: 5)  # type: ignore[arg-type, return-value]
        with pytest.raises(cachekit.SerializationError, match="iterator"):
            cache.get_or_set("k", lambda: iter([1]))
    cache.close()
    with cassette(path), pytest.raises(cachekit.CacheClosedError):
        cache.get_or_set("k", load)
