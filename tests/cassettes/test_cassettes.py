"""A cassette: what is recorded is answered again, and no function is called."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from recorded_functions import ask, attempt, calls, load, no_calls, price

import cachekit
from cachekit import (
    CassetteMissError,
    IntelligentCache,
    MemoryCache,
    cache_result,
    cassette,
    get_default_cache,
    invalidate_cache_tags,
)
from cachekit.cassettes import recording
from cachekit.testing import ManualClock

__all__ = ["no_calls"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "answers.jsonl"


def test_what_is_recorded_is_replayed(path: Path) -> None:
    """In replay no function runs, and the values are of the same types and equal."""
    with cassette(path) as first:
        recorded = price("apple"), price("apple", 3), price(count=3, item="apple"), asyncio.run(ask("why"))
    assert (first.recorded, first.replayed, calls) == (3, 0, ["apple", "apple", "why"])
    with cassette(path, mode="replay") as second:
        replayed = price("apple"), price("apple", 3), price(count=3, item="apple"), asyncio.run(ask("why"))
    assert replayed == recorded
    assert type(replayed[3]) is tuple
    assert (second.recorded, second.replayed, len(calls)) == (0, 3, 3)


def test_the_file(path: Path) -> None:
    """One line per answer, sorted, with the arguments that a call has and plain values as they are."""
    with cassette(path):
        price("pear")
        price("apple")
    name = "recorded_functions.price"
    version = path.read_text().split('"version": "')[1][:12]
    assert path.read_text() == (
        '{"cachekit": "cassette", "format": 1}\n'
        f'{{"function": "{name}", "args": {{"item": "apple", "count": 1}}, "version": "{version}", '
        '"value": {"item": "apple", "each": 5, "sum": 5}}\n'
        f'{{"function": "{name}", "args": {{"item": "pear", "count": 1}}, "version": "{version}", '
        '"value": {"item": "pear", "each": 4, "sum": 4}}\n'
    )


def test_a_second_recording_is_the_same_file(path: Path) -> None:
    """Sets have one order, whatever the hash seed, and a file that says the same is not written again."""

    @cache_result(name="words")
    def words() -> Any:
        return {f"word {n}" for n in range(20)}, frozenset({1, (2, "x")})

    with cassette(path):
        words()
    first, node = path.read_text(), path.stat().st_ino
    with cassette(path, mode="record"):
        words()
    assert path.read_text() == first
    assert path.stat().st_ino == node
    texts = [f"word {n}" for n in range(20)]
    assert [first.index(f'"{text}"') for text in sorted(texts)] == sorted(
        first.index(f'"{text}"') for text in texts
    )


def test_a_miss_names_the_question_the_nearest_and_the_difference(path: Path) -> None:
    """The function is not called."""
    with cassette(path):
        price("apple", 2)
        price("apricot", 7)
        load_key(get_default_cache(), "other")
    with cassette(path, mode="replay"), pytest.raises(CassetteMissError) as caught:
        price("apple", 3)
    assert str(caught.value).splitlines() == [
        f"recorded_functions.price(item='apple', count=3) is not recorded in {path}, and was not called",
        "  the nearest recorded question of recorded_functions.price differs in:",
        "    count: recorded with 2, asked with 3",
        "  to record it, run the block once with mode='auto'; mode='record' also calls the rest again",
    ]
    assert calls == ["apple", "apricot", "load"]


def load_key(cache: IntelligentCache, key: str) -> Any:
    return cache.get_or_set(key, load)


@pytest.mark.parametrize(
    ("recorded", "asked", "difference"),
    [
        ([{"role": "user", "content": "blue"}], [{"role": "user", "content": "green"}],
         "messages[0]['content']: recorded with 'blue', asked with 'green'"),
        ([{"role": "user"}], [{"role": "user", "name": "Ada"}],
         "messages[0]['name']: not in the recording, asked with 'Ada'"),
        ([{"role": "user", "name": "Ada"}], [{"role": "user"}],
         "messages[0]['name']: recorded with 'Ada', missing now"),
        ([{"a": "1"}], [{"a": "1"}, {"b": "2"}],
         "messages: recorded with [{'a': '1'}], asked with [{'a': '1'}, {'b': '2'}]"),
        ([{"a": "x" * 200 + "END"}], [{"a": "x" * 200 + "FIN"}],
         f"messages[0]['a']: recorded with ...{'x' * 20}END', asked with ...{'x' * 20}FIN'"),
    ],
)  # fmt: skip
def test_the_difference_of_nested_arguments(path: Path, recorded: Any, asked: Any, difference: str) -> None:
    """It leads to the part that differs, and shows long texts from there on."""
    with cassette(path):
        asyncio.run(ask("why", messages=recorded))
    with cassette(path, mode="replay"), pytest.raises(CassetteMissError) as caught:
        asyncio.run(ask("why", messages=asked))
    assert str(caught.value).splitlines()[2].strip() == difference


def test_a_miss_without_anything_near(path: Path) -> None:
    """It says whether the file or the function is missing."""
    with cassette(path, mode="replay"), pytest.raises(CassetteMissError, match="the file does not exist"):
        price("apple")
    with cassette(path):
        asyncio.run(ask("why"))
    with (
        cassette(path, mode="replay"),
        pytest.raises(CassetteMissError, match=r"no question of \S+\.price is recorded"),
    ):
        price("apple")


def test_modes(path: Path) -> None:
    """`record` calls again, `auto` calls what is missing, `off` leaves everything as it is."""
    with cassette(path, mode="off") as off:
        price("apple")
    assert (off.recorded, off.replayed, path.exists()) == (0, 0, False)
    assert get_default_cache().contains(price.key("apple"))
    with cassette(path):
        price("apple")
        assert calls == ["apple", "apple"]  # what the cache has does not count
    with cassette(path, mode="auto"):
        price("apple")
        price("pear")
    assert calls == ["apple", "apple", "pear"]
    with cassette(path, mode="record"):
        price("apple")
        price("apple")
    assert calls == ["apple", "apple", "pear", "apple"]
    with cassette(path, mode="replay"):
        price("pear")
    assert len(calls) == 4


def test_a_block_that_records_nothing_makes_no_file(path: Path) -> None:
    with cassette(path):
        pass
    assert not path.exists()


@pytest.mark.parametrize("mode", ["auto", "record"])
def test_what_was_paid_for_is_kept_when_a_test_fails(path: Path, mode: Any) -> None:
    def fail() -> None:
        with cassette(path, mode):
            price("apple")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with cassette(path, "replay"):
        assert price("apple")["each"] == 5


def changed(body: str) -> Any:
    """Return a cached function with this source, under one name."""
    directory = Path(os.environ["CACHEKIT_DIR"])
    file = directory / f"changed_{abs(hash(body))}.py"
    file.write_text(f"from cachekit import cache_result\n\n\n@cache_result(name='changed')\n{body}\n")
    names: dict[str, Any] = {"__name__": "changed_module", "__file__": str(file)}
    exec(compile(file.read_text(), file, "exec"), names)
    return names["double"]


def test_changed_code_is_told_and_can_be_let_pass(path: Path) -> None:
    """Comments, layout and decorators are no change, and `auto` records again."""
    first = changed("def double(x):\n    return 2 * x")
    second = changed("def double(x):\n    return x + x + 0")
    with cassette(path):
        assert first(4) == 8
    with cassette(path, mode="replay"):
        assert changed("def double(x):\n    # twice\n    return (2 *\n        x)")(4) == 8
        with pytest.raises(
            CassetteMissError, match=r"the code of changed has changed since: version \w+ was"
        ):
            second(4)
    with cassette(path, mode="replay", version="ignore"):
        assert second(4) == 8
    with cassette(path, mode="auto") as tape:
        assert second(4) == 8
    assert tape.recorded == 1
    with cassette(path, mode="replay"):
        assert second(4) == 8
        with pytest.raises(CassetteMissError, match="has changed"):
            first(4)


def test_a_version_of_the_users(path: Path) -> None:
    """A function with a `version` is compared by that."""

    def make(version: str) -> Any:
        @cache_result(name="versioned", version=version)
        def versioned() -> int:
            return 1

        return versioned

    with cassette(path):
        make("1")()
    with cassette(path, "replay"):
        assert make("1")() == 1
        with pytest.raises(CassetteMissError, match="version 1 was recorded, and 2 runs"):
            make("2")()


class LookupTimeout(TimeoutError):
    """An exception with a constructor of its own."""

    def __init__(self, host: str, *, after: float) -> None:
        super().__init__(f"{host} after {after}")
        self.host = host
        self.after = after
        self.request = object()


@cache_result
def look_up(host: str) -> str:
    calls.append(host)
    if host == "slow":
        raise LookupTimeout(host, after=1.5)
    if host == "gone":
        raise OSError(113, "no route", host)
    if host == "bad":
        raise ValueError("bad host")
    return host


def test_exceptions_are_recorded_if_asked_for(path: Path) -> None:
    """Of the listed classes and their subclasses, with arguments and plain attributes."""
    with cassette(path, exceptions=(TimeoutError, OSError)):
        for host, kind in (("slow", LookupTimeout), ("gone", OSError), ("bad", ValueError)):
            with pytest.raises(kind):
                look_up(host)
    assert calls == ["slow", "gone", "bad"]
    with cassette(path, "replay", exceptions=OSError):
        with pytest.raises(LookupTimeout, match=r"slow after 1\.5") as slow:
            look_up("slow")
        with pytest.raises(OSError, match="no route") as gone:
            look_up("gone")
        with pytest.raises(CassetteMissError, match=r"look_up\(host='bad'\) is not recorded"):
            look_up("bad")
    assert (slow.value.host, slow.value.after, hasattr(slow.value, "request")) == ("slow", 1.5, False)
    assert (gone.value.errno, gone.value.filename) == (113, "gone")
    assert len(calls) == 3


def test_an_exception_that_may_not_be_made(path: Path) -> None:
    """Only classes that the cassette is given are found, and never by an import."""
    with cassette(path, exceptions=LookupTimeout), pytest.raises(LookupTimeout):
        look_up("slow")
    with (
        cassette(path, "replay", exceptions=KeyError),
        pytest.raises(CassetteMissError, match="not among the exceptions= of this cassette"),
    ):
        look_up("slow")


def test_an_exception_that_is_not_recorded_takes_no_answer(path: Path) -> None:
    """The nth answer is the nth that was recorded."""
    fails = [True]

    @cache_result(name="flaky")
    def flaky() -> str:
        if fails:
            raise ValueError("not yet")
        return "done"

    with cassette(path):
        with pytest.raises(ValueError, match="not yet"):
            flaky()
        fails.clear()
        assert flaky() == "done"
    with cassette(path, "replay"):
        assert flaky() == "done"


def test_each_answer_after_an_invalidation(path: Path) -> None:
    """By key, tag, pattern, `clear`, `refresh` and `set`, recorded and replayed in order."""
    cache = IntelligentCache(MemoryCache(), file_cache=None)

    @cache.cached(name="counted", tags={"numbers"})
    def counted(key: str) -> int:
        calls.append(key)
        return len(calls)

    def story() -> list[Any]:
        seen: list[Any] = [counted("a"), counted("a")]
        counted.invalidate("a")
        seen += [counted("a"), counted.refresh("a"), counted("a")]
        cache.invalidate_by_tags({"numbers"})
        seen.append(counted("a"))
        cache.invalidate_by_pattern("counted@")
        seen.append(counted("a"))
        cache.clear()
        seen.append(counted("a"))
        cache.delete(counted.key("a"))
        seen.append(counted("a"))
        counted.cache_clear()
        seen += [counted("a"), cache.get_or_set("k", load), cache.get_or_set("k", load)]
        cache.set("k", "set")
        seen.append(cache.get_or_set("k", load))
        cache.delete_many(["k"])
        seen.append(cache.get_or_set("k", load))
        cache.set_many({"k": "many"})
        seen.append(cache.get_or_set("k", load))
        cache.update("k", lambda found: f"{found}!")
        seen.append(cache.get_or_set("k", load))
        cache.begin("k").store("filled")
        seen.append(cache.get_or_set("k", load))
        cache.delete("k")
        assert cache.add("k", "added")
        seen.append(cache.get_or_set("k", load))
        return seen

    with cassette(path):
        recorded = story()
    assert recorded[:10] == [1, 1, 2, 3, 3, 4, 5, 6, 7, 8]
    assert recorded[10:] == [9, 9, "set", 10, "many", "many!", "filled", "added"]
    count = len(calls)
    cache.clear()
    with cassette(path, "replay"):
        assert story() == recorded
    assert len(calls) == count


def test_tags_of_the_default_cache(path: Path) -> None:
    """A tag that a program invalidates reaches cached functions of the default cache."""
    with cassette(path):
        first = asyncio.run(ask("why"))
        invalidate_cache_tags({"words"})
        second = asyncio.run(ask("why"))
    assert first != second
    with cassette(path, "replay"):
        assert asyncio.run(ask("why")) == first
        invalidate_cache_tags({"words"})
        assert asyncio.run(ask("why")) == second
        asyncio.run(ask.invalidate("why"))
        assert asyncio.run(ask("why")) == second  # beyond the last answer there is the last one


def test_what_is_not_stored_is_asked_again(path: Path) -> None:
    """A result that `store_if` refuses is recorded, and the next call has the next answer."""
    with cassette(path):
        recorded = [attempt(1), attempt(1), attempt(1)]
    assert recorded == [0, 1, 1]
    with cassette(path, "replay"):
        assert [attempt(1), attempt(1), attempt(1)] == recorded
    assert len(calls) == 2


def test_time_does_not_count(path: Path) -> None:
    clock = ManualClock()
    with IntelligentCache(MemoryCache(clock=clock), file_cache=None) as cache, cassette(path):
        assert cache.get_or_set("k", load, ttl=5) == 1
        clock.advance(1000)
        assert cache.get_or_set("k", load, ttl=5) == 1
        assert cache.get("k") is None


@dataclass
class Point:
    x: int
    y: int


@cache_result(name="point")
def point(x: int) -> Point:
    calls.append(x)
    return Point(x, x)


def test_values_that_are_not_plain(path: Path) -> None:
    """They are refused without a secret and without an allow-list, and recorded with either."""
    with cassette(path), pytest.raises(cachekit.SerializationError, match=r"allow=\[.*Point\]"):
        point(1)
    assert not path.exists()
    with cassette(path, allow=[Point]):
        assert point(1) == Point(1, 1)
    with cassette(path, "replay", allow=[Point]):
        assert point(1) == Point(1, 1)
    with cassette(path, "replay"), pytest.raises(CassetteMissError, match=r"cannot be read: .*Point"):
        point(1)
    signed = path.with_name("signed.jsonl")
    with cassette(signed, secret="s" * 16):
        point(2)
    with cassette(signed, "replay", secret="s" * 16):
        assert point(2) == Point(2, 2)
    wrongs: list[dict[str, Any]] = [{"secret": "t" * 16}, {}, {"allow": [Point]}]
    for wrong in wrongs:
        with cassette(signed, "replay", **wrong), pytest.raises(CassetteMissError, match="sign"):
            point(2)
    assert calls == [1, 1, 2]


def test_a_signed_answer_of_another_question_is_refused(path: Path) -> None:
    """Bytes are bound to their question."""
    with cassette(path, secret="s" * 16):
        point(1)
        point(2)
    one, two = path.read_text().splitlines()[1:]
    path.write_text(path.read_text().replace(one.split('"bytes": ')[1], two.split('"bytes": ')[1]))
    with cassette(path, "replay", secret="s" * 16), pytest.raises(CassetteMissError, match="signature"):
        point(1)


@pytest.mark.parametrize(
    "value",
    [
        None, True, 0, -0.0, 1.5, float("inf"), 10**30, "text \udcff \u2028", b"\x00bytes", [1, (2, {3})],
        {"$": "tagged", 1: "key"}, datetime(2026, 1, 1, tzinfo=UTC), {}, [], (), "x" * 100_000,
    ],
    ids=lambda value: repr(value)[:20],
)  # fmt: skip
def test_plain_values(path: Path, value: Any) -> None:
    """They come back with type and value, and stand in the file without base64."""
    cache = IntelligentCache(MemoryCache(), file_cache=None)
    with cassette(path):
        cache.get_or_set("k", lambda: value)
    assert '"bytes": "' not in path.read_text(encoding="utf-8")
    with cassette(path, "replay"):
        found = cache.get_or_set("k", lambda: value)
    assert repr(found) == repr(value)


def test_arguments_that_are_not_plain(path: Path) -> None:
    """They are compared as in keys; classes and functions by their source."""
    asked: list[Any] = [Point(1, 2), Point, load, datetime(2026, 1, 1, tzinfo=UTC), {2, 1}, (1, [2])]

    @cache_result(name="kind")
    def kind(value: Any) -> str:
        calls.append(value)
        return repr(value)[:20]

    with cassette(path):
        recorded = [kind(value) for value in asked]
    with cassette(path, "replay"):
        assert [kind(value) for value in asked] == recorded
        with pytest.raises(CassetteMissError, match=r"Point"):
            kind(Point(1, 3))


def test_equal_arguments_are_one_question(path: Path) -> None:
    """As in keys: the order of a dict does not count, the type of a number does."""

    @cache_result(name="any")
    def anything(value: Any) -> str:
        return repr(value)

    with cassette(path):
        anything({"a": 1, "b": {3, 1, 2}})
    with cassette(path, "replay"):
        assert anything({"b": {1, 2, 3}, "a": 1}) == "{'a': 1, 'b': {1, 2, 3}}"
        for other in ({"a": True, "b": {1, 2, 3}}, {"a": 1.0, "b": {1, 2, 3}}, {"a": 1, "b": [1, 2, 3]}):
            with pytest.raises(CassetteMissError):
                anything(other)


def test_closures_of_one_name_are_told_apart(path: Path) -> None:
    """They are counted in the order of their first call."""

    def make(factor: int) -> Callable[[int], int]:
        @cache_result
        def times(x: int) -> int:
            calls.append(x)
            return factor * x

        return times

    def both() -> list[int]:
        two, three = make(2), make(3)
        return [two(5), three(5), two(5)]

    with cassette(path):
        assert both() == [10, 15, 10]
    with cassette(path, "replay"):
        assert both() == [10, 15, 10]
    assert calls == [5, 5]


def test_redaction(path: Path) -> None:
    """By names of parameters and keys, or by a function of a text; in arguments, answers and exceptions."""

    @cache_result(name="call")
    def call(url: str, token: str) -> Any:
        calls.append(token)
        if url == "fail":
            raise ValueError(f"bad token {token}")
        return {"token": token, "body": [f"for {token}", f"<{token}>".encode()], "n": 1}

    hide = lambda text: text.replace("s3cret", "***")  # noqa: E731
    with cassette(path, redact=hide, exceptions=ValueError):
        assert call("u", "s3cret")["token"] == "s3cret"
        with pytest.raises(ValueError, match="s3cret"):
            call("fail", "s3cret")
    assert "s3cret" not in path.read_text()
    with cassette(path, "replay", redact=hide, exceptions=ValueError):
        assert call("u", "s3cret") == {"token": "***", "body": ["for ***", b"<***>"], "n": 1}
        with pytest.raises(ValueError, match=r"bad token \*\*\*"):
            call("fail", "s3cret")
        with pytest.raises(CassetteMissError) as caught:
            call("other", "s3cret")
    assert "s3cret" not in str(caught.value)
    named = path.with_name("named.jsonl")
    with cassette(named, redact=("token",)):
        call("u", "s3cret")
    assert '"token": "[redacted]"' in named.read_text()
    with cassette(named, "replay", redact={"token"}):
        assert call("u", "another")["token"] == "[redacted]"


def test_names_are_redacted_in_any_case(path: Path) -> None:
    """The names of HTTP fields have no case, and those of ASGI are bytes."""

    @cache_result(name="call")
    def call(headers: dict[Any, str], **more: Any) -> Any:
        return {"headers": headers, **more}

    with cassette(path, redact=("api_key", "Authorization")):
        call(
            {"Authorization": "s3cret", "AUTHORIZATION": "s3cret", b"authorization": "s3cret"},
            API_Key="s3cret",
            pairs=[("Authorization", "s3cret"), [b"authorization", b"s3cret"]],
        )
    assert "s3cret" not in path.read_text()


def test_what_is_no_file_is_not_replaced(path: Path) -> None:
    """A recording into a pipe, or a device such as /dev/null, is refused before a function is called."""
    os.mkfifo(path)
    link = path.with_name("link.jsonl")
    link.symlink_to(path)
    for place in (path, link):
        with pytest.raises(cachekit.FileFormatError, match="no regular file"), cassette(place):
            pass
        with pytest.raises(cachekit.FileFormatError, match="no regular file"):
            recording.merge(place, {})
    assert path.is_fifo()


def test_a_redaction_that_is_not_possible_is_an_error(path: Path) -> None:
    """Bytes are not changed, so what they hold must not be a secret."""

    @cache_result(name="held")
    def held(text: str) -> Any:
        return Holder(text)

    hide = lambda text: text.replace("s3cret", "***")  # noqa: E731
    with cassette(path, allow=[Holder], redact=hide):
        held("public")
        with pytest.raises(cachekit.SerializationError, match="redact= must leave out"):
            held("s3cret")
    assert "s3cret" not in path.read_text()


@dataclass
class Holder:
    text: str
