"""The file of a cassette: cut, merged, poisoned, of another version, and written by processes at once."""

from __future__ import annotations

import base64
import json
import logging
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cachekit import CassetteMissError, FileFormatError, IntelligentCache, MemoryCache, cache_result, cassette
from cachekit.cassettes.answers import AnswerCodec
from cachekit.cassettes.recording import canonical, identity
from cachekit.cassettes.redaction import Redaction
from cachekit.serialization.serializer import Serializer

HEADER = '{"cachekit": "cassette", "format": 1}'
calls: list[Any] = []


@pytest.fixture
def path(tmp_path: Path) -> Path:
    calls.clear()
    return tmp_path / "answers.jsonl"


@cache_result(name="double", version="1")
def double(x: Any) -> Any:
    calls.append(x)
    return x * 2


def record(path: Path, *arguments: Any) -> None:
    with cassette(path):
        for argument in arguments:
            double(argument)
    calls.clear()


def answer(x: int, value: Any, **more: Any) -> str:
    return json.dumps({"function": "double", "args": {"x": x}, "version": "1", "value": value, **more})


def test_a_file_that_is_cut_anywhere(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each whole line is read, and the question of the cut one is a miss that names the line."""
    record(path, 1, 2)
    content = path.read_bytes()
    first, second = content.index(b"\n") + 1, content.rindex(b"\n", 0, -1) + 1
    for size in range(len(content)):
        path.write_bytes(content[:size])
        caplog.clear()
        if 0 < size < first - 1:
            with pytest.raises(FileFormatError, match="is not a cassette"), cassette(path, "replay"):
                pass
            continue
        with cassette(path, "replay"):
            for number, start, end in ((1, first, second), (2, second, len(content))):
                if size >= end - 1:
                    assert double(number) == number * 2
                    continue
                with pytest.raises(CassetteMissError) as caught:
                    double(number)
                assert ("cannot be read (line" in str(caught.value)) == (
                    start < size < end - 1 or (number == 1 and second < size < len(content) - 1)
                    or (number == 2 and first < size < second - 1)
                )  # fmt: skip
    assert not calls
    path.write_bytes(content[: second + 20])
    with caplog.at_level(logging.WARNING, "cachekit"), cassette(path) as tape:
        double(1), double(2)
    assert "line 3 is not read, its question is a miss: it is cut or damaged" in caplog.text
    assert (calls, tape.replayed, tape.recorded) == ([2], 1, 1)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "line",
    [
        "5", "[]", "{}", '{"function": 5, "args": {}, "value": 1}',
        '{"function": "double", "args": [], "value": 1}',
        answer(1, 1, bytes="x"), answer(1, 1, take=0), answer(1, 1, take=True), answer(1, 1, version=1),
        answer(1, 1)[:-1], answer(1, 1) + "}", "[" * 100_000,
        '{"function": "double", "args": {"x": NaN}, "value": 1}',
        '{"function": "a\\u001b[2J", "args": {}, "value": 1}',
        '{"cachekit": "cassette", "format": 1, "more": 2}',
    ],
    ids=lambda line: line[:40],
)  # fmt: skip
def test_lines_that_are_no_answers(path: Path, line: str, caplog: pytest.LogCaptureFixture) -> None:
    """They are told, and the lines around them are read."""
    path.write_text(f"{HEADER}\n{answer(2, 4)}\n{line}\n{answer(3, 6)}\n")
    with caplog.at_level(logging.WARNING, "cachekit"), cassette(path, "replay"):
        assert [double(2), double(3)] == [4, 6]
        with pytest.raises(CassetteMissError):
            double(1)
    assert "line 3 is not read" in caplog.text


def test_bytes_that_are_no_text(path: Path) -> None:
    path.write_bytes(f"{HEADER}\n".encode() + b"\xff\xfe\n" + answer(2, 4).encode())
    with cassette(path, "replay"):
        assert double(2) == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"cachekit": "cassette", "format": 2}\n', "has format 2, and this version of cachekit reads 1"),
        ('{"cachekit": "cassette"}\n', "has format None"),
        ('{"dependencies": {}}\n', "is not a cassette"),
        ("[1]\n", "is not a cassette"),
        ("a note\n", "is not a cassette"),
    ],
)
@pytest.mark.parametrize("mode", ["auto", "record", "replay"])
def test_other_files_are_refused_and_left_alone(path: Path, content: str, message: str, mode: Any) -> None:
    path.write_text(content)
    with pytest.raises(FileFormatError, match=message), cassette(path, mode):
        pass
    assert path.read_text() == content


def test_a_file_that_becomes_another_one_during_the_block_is_left_alone(path: Path) -> None:
    def block() -> None:
        with cassette(path):
            double(1)
            path.write_text("a note\n")

    with pytest.raises(FileFormatError):
        block()
    assert path.read_text() == "a note\n"


def test_the_file_is_whole_at_each_moment(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that is killed as it records leaves the older file."""
    record(path, 1)
    before = path.read_bytes()

    def die(_: Path, target: Path) -> None:
        raise SystemExit(f"before {target.name} is replaced")

    monkeypatch.setattr(Path, "replace", die)
    with pytest.raises(SystemExit):
        record(path, 2)
    assert path.read_bytes() == before
    monkeypatch.undo()
    record(path, 2)
    with cassette(path, mode="replay"):
        assert [double(1), double(2)] == [2, 4]


def test_an_empty_file_is_an_empty_cassette(path: Path) -> None:
    path.write_text("\n")
    record(path, 1)
    assert path.read_text() == f"{HEADER}\n{answer(1, 2)}\n"


def test_merged_files(path: Path) -> None:
    """Lines in any order, twice, with two headers and other ends; the last answer to a question holds."""
    lines = [HEADER, answer(2, 4), answer(1, 2), HEADER, answer(1, 3), "", answer(3, 6)]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    with cassette(path, "replay"):
        assert [double(1), double(2), double(3)] == [3, 4, 6]
    record(path, 4)
    assert path.read_text() == "\n".join([HEADER, answer(1, 3), answer(2, 4), answer(3, 6), answer(4, 8), ""])


@pytest.mark.parametrize("marker", ["<<<<<<< ours", "=======", "||||||| base", ">>>>>>> theirs"])
def test_a_conflict_is_an_error_that_names_its_line(path: Path, marker: str) -> None:
    path.write_text(f"{HEADER}\n{answer(1, 2)}\n{marker}\n")
    with pytest.raises(FileFormatError, match="conflict of a merge in line 3"), cassette(path):
        pass


class Evil:
    """A value whose pickle runs a command."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def poisoned(path: Path) -> list[str]:
    """Return lines that try to run code, or to build what was not recorded."""
    mark = path.with_name("was-run")
    codec = AnswerCodec(None, (), (), Redaction(None))
    key = identity("double", {"x": 1})
    # As a program writes it that trusts the place.
    trusting: Any = codec
    trusting._serializer = Serializer("cassette", compression=None, trusted=True)
    _, envelope = codec.encode(Evil(mark), key)
    start = {"function": "double", "args": {"x": 1}, "version": "1"}
    bare = base64.b64encode(pickle.dumps(Evil(mark))).decode()
    ends: list[dict[str, Any]] = [
        {"bytes": envelope}, {"bytes": bare}, {"bytes": "no base64!"}, {"bytes": 5}, {"bytes": ""},
        {"value": {"$": ["os.system", "x"]}}, {"value": {"$": "x"}}, {"value": {"$": []}},
        {"value": {"$": ["Decimal", 5]}}, {"value": {"$": ["set", [[]]]}},
        {"raises": {"type": "os.mkdir", "args": [str(mark)]}},
        {"raises": {"type": "builtins.exec", "args": ["1"]}},
        {"raises": {"type": "builtins.SystemExit", "args": []}},
        {"raises": {"type": "builtins.object", "args": []}},
        {"raises": {"type": "ValueError", "args": []}}, {"raises": 5}, {"raises": {"type": 5, "args": []}},
        {"raises": {"type": "builtins.ValueError", "args": 5}},
        {"raises": {"type": "builtins.UnicodeDecodeError", "args": [1]}},
        {"raises": {"type": "builtins.ValueError", "args": [], "state": 5}},
    ]  # fmt: skip
    return [json.dumps(start | end) for end in ends]


@pytest.mark.parametrize("number", range(20))
def test_poisoned_answers(path: Path, number: int, caplog: pytest.LogCaptureFixture) -> None:
    """They run nothing. In a replay they are an error that says why; `auto` calls the function again."""
    lines = poisoned(path)
    assert len(lines) == 20
    path.write_text(f"{HEADER}\n{lines[number]}\n")
    with (
        cassette(path, "replay", exceptions=Exception),
        pytest.raises(CassetteMissError, match="cannot be read"),
    ):
        double(1)
    assert not calls
    with cassette(path, "auto"):
        assert double(1) == 2
    assert "cannot be read" in caplog.text
    assert calls == [1]
    assert path.read_text() == f"{HEADER}\n{answer(1, 2)}\n"
    assert not path.with_name("was-run").exists()


def test_a_link_stays_a_link_and_modes_are_kept(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere" / "real.jsonl"
    target.parent.mkdir()
    path.symlink_to(target)
    record(path, 1)
    target.chmod(0o640)
    record(path, 2)
    assert path.is_symlink()
    assert target.stat().st_mode & 0o777 == 0o640
    assert os.listdir(target.parent) == ["real.jsonl"]


def test_a_directory_is_made_for_a_recording_alone(path: Path) -> None:
    inside = path.parent / "a" / "b" / "c.jsonl"
    with cassette(inside, "replay"), pytest.raises(CassetteMissError):
        double(1)
    assert not (path.parent / "a").exists()
    record(inside, 1)
    assert inside.exists()


_WORKER = """
import sys
from cachekit import cache_result, cassette

@cache_result(name="double", version="1")
def double(x):
    return x * 2

first = int(sys.argv[2])
sys.stdin.readline()
for x in range(first, first + 20):
    with cassette(sys.argv[1], sys.argv[3]):
        double(x), double(0)
"""


@pytest.mark.parametrize("mode", ["auto", "record"])
def test_processes_that_record_at_once_lose_nothing(path: Path, mode: str) -> None:
    """Each block of each process adds its answers to those of all others."""
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", _WORKER, str(path), str(first), mode], stdin=subprocess.PIPE, text=True
        )
        for first in (0, 100, 200)
    ]
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.close()
    assert [worker.wait(100) for worker in workers] == [0, 0, 0]
    with cassette(path, "replay") as tape:
        for first in (0, 100, 200):
            assert [double(x) for x in range(first, first + 20)] == [2 * x for x in range(first, first + 20)]
    assert (calls, tape.replayed) == ([], 60)
    assert len(path.read_text().splitlines()) == 61


# -- properties -----------------------------------------------------------------------------------

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=3)
        | st.frozensets(st.integers() | st.text(max_size=4), max_size=3)
    ),
    max_leaves=6,
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("call"), plain),
        st.tuples(st.just("raise"), st.integers(0, 2)),
        st.tuples(st.just("key"), st.sampled_from(["a", "b"])),
        st.tuples(st.just("many"), st.lists(st.sampled_from("abcd"), min_size=1, max_size=4, unique=True)),
        st.tuples(st.just("set"), st.sampled_from(["a", "b"])),
        st.tuples(st.just("delete"), st.sampled_from(["a", "b"])),
        st.tuples(st.just("refresh"), st.integers(0, 2)),
        st.tuples(st.just("clear"), st.none()),
    ),
    max_size=12,
)


#: Values as they are compared: a set has no order, and two NaN are equal.
TREES = AnswerCodec(None, (), (), Redaction(None))


class Story:
    """A program that makes calls, in which each call of a function gives another answer."""

    def __init__(self) -> None:
        self.made = 0
        self.cache = IntelligentCache(MemoryCache(), file_cache=None)
        self.function: Any = self.cache.cached(name="function")(self.answer)

    def answer(self, x: Any) -> Any:
        self.made += 1
        if isinstance(x, int) and not isinstance(x, bool) and x < 0:
            raise LookupError(self.made, x)
        return [self.made, x]

    def load(self) -> int:
        self.made += 1
        return self.made

    def load_many(self, keys: list[str]) -> dict[str, int]:
        self.made += 1
        return {key: self.made for key in keys if key != "d"}

    def step(self, what: str, x: Any) -> Any:
        if what == "call":
            return self.function(x)
        if what == "raise":
            return self.function(-1 - x)
        if what == "key":
            return self.cache.get_or_set(x, self.load)
        if what == "many":
            return self.cache.get_or_set_many(x, self.load_many)
        if what == "set":
            return self.cache.set(x, "set")
        if what == "refresh":
            return self.function.refresh(x)
        return self.cache.clear() if what == "clear" else self.cache.delete(x)

    def run(self, steps: list[tuple[str, Any]]) -> list[str]:
        seen: list[Any] = []
        for what, x in steps:
            try:
                seen.append(TREES.encode(self.step(what, x), "")[1])
            except LookupError as error:
                seen.append(repr(error))
        return [canonical(one) for one in seen]


@given(steps)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_sequence_of_calls_is_replayed(tmp_path: Path, steps: list[tuple[str, Any]]) -> None:
    """Equal answers and exceptions, and no function is called; and a second recording is the same file."""
    path = tmp_path / "story.jsonl"
    path.unlink(missing_ok=True)
    recording, replaying, again = Story(), Story(), Story()
    with cassette(path, "record", exceptions=LookupError):
        recorded = recording.run(steps)
    content = path.read_bytes() if path.exists() else b""
    with cassette(path, "replay", exceptions=LookupError) as tape:
        assert replaying.run(steps) == recorded
    assert replaying.made == 0
    assert bool(tape.replayed) == bool(content)
    with cassette(path, "record", exceptions=LookupError):
        assert again.run(steps) == recorded
    assert (path.read_bytes() if path.exists() else b"") == content
