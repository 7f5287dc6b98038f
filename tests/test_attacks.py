"""What others may write, in every place where they may: a value, a message, a directory, an argument.

Each is read, used and written by everything that a caller has. What comes of it is a value, a miss,
TierUnavailableError, or an error of the argument: in little memory, and never another exception.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import pickle
import shutil
import struct
import time
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import hostile
import inside
import pytest
from bus_notes import Notes
from damage_matrix import command
from hostile import ONE, START, call, name, text
from redis_server import wait_until

from cachekit import (
    FileCache,
    IntelligentCache,
    KeyEncodingError,
    MemoryCache,
    RedisCache,
    TierUnavailableError,
)
from cachekit.serialization import envelope
from cachekit.tiers.redis.bus_protocol import Inbox, Outbox

NOW = time.time()
MakeCache = Callable[..., RedisCache]


def stored(
    prefix: str,
    payload: bytes,
    codec: int = 1,
    how: int = 0,
    times: tuple[float, float, float] = (NOW, NOW + 3600, NOW + 3600),
    tags: bytes = b"",
) -> bytes:
    """An envelope of the key "k" whose checksums are right."""
    header = envelope.pack_fixed(codec, how, len(tags), *times, zlib.crc32(payload))
    seal = zlib.crc32(envelope.CHECKED + envelope.sized(prefix.encode()))
    seal = zlib.crc32(header + tags, zlib.crc32(envelope.sized(b"k"), seal))
    return b"".join((envelope.CHECKED, struct.pack("<I", seal), header, tags, payload))


def compressed(payload: bytes, claimed: int | None = None) -> bytes:
    return struct.pack("<Q", len(payload) if claimed is None else claimed) + zlib.compress(payload, 9)


def doubled(one: Callable[[bytes], bytes]) -> bytes:
    """A container of two of the same container, and so on, 60 times: 2**60 parts, if one follows each."""
    code = b"]\x94"
    for level in range(60):
        inner = b"h" + bytes((level,))
        code += one(inner) + b"\x94"
    return START + code + b"."


_GOOD = pickle.dumps([1, 2], 5)
_ZONE = name("zoneinfo", "ZoneInfo._unpickle")
_ENCODE = name("_codecs", "encode")
_LONG_TEXT = b"X" + struct.pack("<I", 100_000) + "ä".encode() * 50_000

#: What another program stores on the server: codec, and what `stored` makes of it.
VALUES: dict[str, tuple[str, dict[str, Any]]] = {
    "lists that double": ("pickle", {"payload": doubled(lambda inner: b"](" + inner + inner + b"e")}),
    "tuples that double": ("pickle", {"payload": doubled(lambda inner: inner + inner + b"\x86")}),
    "dicts that double": (
        "pickle",
        {"payload": doubled(lambda inner: b"}(" + ONE + inner + b"K\x02" + inner + b"u")},
    ),
    "a list in itself": ("pickle", {"payload": START + b"]\x94h\x00a."}),
    "a dict in itself": ("pickle", {"payload": START + b"}\x94" + ONE + b"h\x00s."}),
    "deep lists": ("pickle", {"payload": START + b"]" * 50_000 + b"a" * 49_999 + b"."}),
    "deep JSON": ("json", {"payload": b"[" * 100_000 + b"]" * 100_000, "codec": 2}),
    "deep MessagePack": ("msgpack", {"payload": b"\x91" * 500_000 + b"\x01", "codec": 3}),
    "a number of a million digits": ("json", {"payload": b"9" * 1_000_000, "codec": 2}),
    "a number beyond floats": ("json", {"payload": b"1e999999999", "codec": 2}),
    "constants of no JSON": ("json", {"payload": b"[NaN,Infinity,-Infinity]", "codec": 2}),
    "two types in one": ("json", {"payload": b'{"$":["int","9"],"$":["none"]}', "codec": 2}),
    "a long exponent": ("json", {"payload": b'{"$":["decimal","1e999999999999999999"]}', "codec": 2}),
    "a map of NaNs": (
        "msgpack",
        {"payload": b"\xde\xff\xff" + b"\xcb\x7f\xf8\0\0\0\0\0\0\x01" * 65_535, "codec": 3},
    ),
    "an array without items": ("msgpack", {"payload": b"\xdd\xff\xff\xff\xff", "codec": 3}),
    "a time of MessagePack": ("msgpack", {"payload": b"\xd7\xff" + b"\xff" * 8, "codec": 3}),
    "a slow encoding": (
        "pickle",
        {"payload": START + call(_ENCODE, _LONG_TEXT, text("punycode")) + b"."},
    ),
    "a zone elsewhere": (
        "pickle",
        {"payload": START + call(_ZONE, text("../../../../etc/passwd"), ONE) + b"."},
    ),
    "a zone without an end": ("pickle", {"payload": START + call(_ZONE, text("/dev/zero"), ONE) + b"."}),
    "a bomb": ("pickle", {"payload": compressed(bytes(80 << 20)), "how": 1}),
    "a bomb that lies": ("pickle", {"payload": compressed(bytes(8 << 20), 5), "how": 1}),
    "classes beyond the end": ("pickle", {"payload": b"\xff\xff\xff\xff" + _GOOD, "how": 0x40}),
    "made before time": ("pickle", {"payload": _GOOD, "times": (-1e300, NOW + 3600, NOW + 3600)}),
    "made after time": ("pickle", {"payload": _GOOD, "times": (1e300, math.inf, math.inf)}),
    "without an end": ("pickle", {"payload": _GOOD, "times": (5e-324, math.inf, math.inf)}),
    "stale for ever": ("pickle", {"payload": _GOOD, "times": (NOW - 9, NOW - 8, 1e300)}),
    "stale before its end": ("pickle", {"payload": _GOOD, "times": (NOW, NOW + 3600, -math.inf)}),
    "tags of no text": ("pickle", {"payload": _GOOD, "tags": struct.pack("<QI", 7, 3) + b"\xed\xa0\x80"}),
}


class TestAValueOnTheServer:
    @pytest.mark.parametrize("codec", ["pickle", "json", "msgpack"])
    def test_nothing_comes_of_it(
        self, codec: Any, make_cache: MakeCache, client: Any, prefix: str, tmp_path: Path
    ) -> None:
        tier = make_cache(codec=codec)
        name = inside.redis_store(tier)._layout.value("k")
        files = FileCache(tmp_path / "cache", 8)
        with IntelligentCache(MemoryCache(max_bytes=1 << 20), tier, files) as cache:
            uses: list[Callable[[], object]] = [
                lambda: cache.get("k"), lambda: cache.get("k"), lambda: cache.get_many(["k"]),
                lambda: tier.get("k"), lambda: "k" in tier, lambda: tier.keys(), lambda: tier.peek("k"),
                lambda: tier.touch("k", 60), lambda: tier.get("k"), lambda: cache.touch("k", 60),
                lambda: cache.update("k", lambda _: 1), lambda: cache.add("k", 1),
                lambda: cache.get_or_set("k", lambda: 1), lambda: cache.delete("k"),
            ]  # fmt: skip
            for what, (of, parts) in VALUES.items():
                if of != codec:
                    continue
                evil = stored(prefix, **parts)
                for number, use in enumerate(uses):
                    client.set(name, evil)
                    try:
                        use()
                    except Exception as error:
                        raise AssertionError(f"{what}, use {number}: {error!r:.200}") from error
                client.set(name, evil)
                with hostile.bounded_memory():
                    tier.get("k")


def _message(*parts: object) -> bytes:
    return json.dumps(parts).encode()


WRITER = Outbox().writer
#: What a client may publish on the channel.
MESSAGES = [
    b"", b"\xff" * 1000, b"null", b"{}", b"[]", b"[1]", b'"x"', b"1e999", b"x" * (5 << 20),
    b"[" * 100_000, b"[" * 500_000 + b"]" * 500_000,
    b'[1,"%s",Infinity,"keys",["a"]]' % WRITER.encode(), b'[1,"%s",NaN,"beat",null]' % WRITER.encode(),
    b'[1,"%s",%s,"keys",["a"]]' % (WRITER.encode(), b"9" * 4000), _message(1, WRITER, 1.5, "keys", ["a"]),
    _message(True, WRITER, True, "keys", ["a"]), _message(1, WRITER, -5, "beat", None),
    _message(1, WRITER, 1 << 63, "end", None), _message(1, WRITER, 2, "tags", "abc"),
    _message(1, WRITER, 3, "keys", {"a": 1}), _message(1, WRITER, 4, "keys", [["a"]]),
    _message(1, WRITER, 5, "keys", None), _message(1, WRITER, 6, "pattern", "(" * 60_000),
    _message(1, WRITER, 7, "pattern", "(a+)+$"), _message(1, WRITER, 8, "all", {"a": []}),
    json.dumps([1, WRITER, 9, "keys", ["a"]]).encode("utf-32"), _message(2, WRITER, 10, "keys", ["a"]),
    _message(1, "x" * 100_000, 1, "beat", None), _message(1, None, 1, "beat", None),
    _message(1, WRITER, 11, "keys", [f"k{number}" for number in range(150_000)]),
]  # fmt: skip


class TestARightToPublish:
    def test_each_message_alone(self) -> None:
        """At most the reader trusts nothing from then on; it never fails."""
        for message in MESSAGES:
            notes = Notes()
            inbox = Inbox(lambda notes=notes: notes)  # type: ignore[misc]
            inbox.receive(message, 0)
            for now in range(0, 100, 3):
                inbox.tick(now)
            assert len(notes.told) <= 34

    def test_a_listener_goes_on(self, make_cache: MakeCache, client: Any) -> None:
        """All of them, and then a write of another host: it arrives."""
        tier, elsewhere = make_cache(), make_cache()
        with IntelligentCache(MemoryCache(), tier) as cache:
            cache.set("k", 1)
            channel = inside.bus(tier).channel
            for message in MESSAGES:
                client.publish(channel, message)
            elsewhere.set_value("k", 2)
            wait_until(lambda: cache.get("k") == 2, "the message of the other host arrives")
            assert [thread.is_alive() for thread in inside.bus(tier).readers()] == [True]


def _of_pipes(path: Path) -> None:
    path.mkdir(0o700)
    for file in ("ended.json", "lock", "watched", "0" * 32 + ".json"):
        os.mkfifo(path / file)


def _with_records(path: Path) -> None:
    path.mkdir(0o700)
    texts = (
        '{"format":1}', "[", "[" * 100_000, '{"format":1,"caches":"x"}',
        '{"format":1,"caches":[1],"pid":"a"}',
        '{"format":1,"pid":-1,"started":1e999,"caches":{"a":{"b":1e308}}}', "9" * 5000,
    )  # fmt: skip
    for number, content in enumerate(texts):
        (path / f"{number:032x}.json").write_text(content)


FIGURES: dict[str, Callable[[Path], object]] = {
    "a link": lambda path: path.symlink_to("/etc"),
    "a pipe": os.mkfifo,
    "a file": lambda path: path.touch(),
    "pipes": _of_pipes,
    "records": _with_records,
    "open to others": lambda path: path.mkdir() or path.chmod(0o777),  # type: ignore[func-returns-value]
}


class TestAPlaceInTheDirectory:
    @pytest.mark.parametrize("what", FIGURES)
    def test_figures(self, tmp_path: Path, what: str) -> None:
        """The cache goes on, and the command that shows figures says what it found, or shows them."""
        tier = FileCache(tmp_path / "cache", 8)
        FIGURES[what](tmp_path / "cache" / "figures")
        with IntelligentCache(MemoryCache(), None, tier) as cache:
            cache.set("k", 1)
            status, said = command(tmp_path / "cache", "metrics")
            assert cache.get("k") == 1
        assert status == 0 or "cannot be read" in said

    @pytest.mark.parametrize("kind", ["control", "tokens", "manifest", "users", "lock", "index", "segment"])
    @pytest.mark.parametrize("opened", [True, False])
    def test_files_beyond_all_memory(self, kind: str, opened: bool) -> None:
        """Sparse, as long as the system has numbers for; before or while the directory is in use."""
        path = Path("/dev/shm", f"cachekit-test-{os.getpid()}-{kind}-{opened}")
        if not path.parent.is_dir():
            pytest.skip("there is no file system for files of this size")
        try:
            first = FileCache(path, 8)
            first.set_value("k", 1)
            first.set_value("large", "x" * 100_000)
            if not opened:
                first.close()
            found = [file for file in path.rglob("*") if file.name.rpartition(".")[2] == kind]
            assert found
            for file in found:
                os.truncate(file, (1 << 63) - 1)
            second = FileCache(path, 8)
            for tier in (first, second) if opened else (second,):
                inside.look_again(tier)
                assert tier.get_value("k") in (None, 1)
                assert tier.get_value("large") in (None, "x" * 100_000)
                for again in (True, False):
                    with contextlib.suppress(*([TierUnavailableError] if again else [])):
                        tier.set_value("k", 1)
                        assert tier.get_value("k") == 1
                tier.invalidate_by_pattern("x")
            command(path, "verify", "--repair")
            assert command(path, "verify")[0] == 0
            first.close()
            second.close()
        finally:
            shutil.rmtree(path)

    def test_times_of_files(self, tmp_path: Path) -> None:
        """They say nothing."""
        with FileCache(tmp_path, 8) as tier:
            tier.set_value("k", 1)
        for file in [tmp_path, *tmp_path.rglob("*")]:
            os.utime(file, (1e11, -1e9))
        with FileCache(tmp_path, 8) as tier:
            assert tier.get_value("k") == 1
            tier.set_value("k", 2)
            assert tier.get_value("k") == 2

    def test_a_record_that_no_cache_writes(self, tmp_path: Path) -> None:
        """It can be read; a value of this depth cannot be written again."""
        with FileCache(tmp_path, 8, allow=[]) as tier:
            deep = START + b"]" * 50_000 + b"a" * 49_999 + b"."
            fence = inside.engine(tier).fence("k", frozenset())
            inside.engine(tier).put("k", deep, expiry=NOW + 3600, flags=1, tags=fence.tags, created=NOW)
            assert type(tier.get_value("k")) is list
            assert tier.touch("k", 60) is False
            assert tier.get_stats().errors == 1


class TestAnArgument:
    @pytest.mark.parametrize(
        "value",
        [
            Fraction(1, 3**20_000), Fraction(7**20_000), 1 << 3_000_000, range(1 << 200), "\ud800", "\x1b]0;",
            float("nan"), {(1 << 61) * number - number for number in range(3000)}, bytes(8 << 20),
        ],
        ids=["fraction", "whole", "int", "range", "surrogate", "escape", "nan", "colliding", "bytes"],
    )  # fmt: skip
    def test_it_is_part_of_a_key(self, value: object) -> None:
        with IntelligentCache(MemoryCache()) as cache:
            calls: list[object] = []

            @cache.cached()
            def f(value: object) -> int:
                calls.append(value)
                return len(calls)

            assert f(value) == f(value) == 1
            (key,) = inside.memory(cache).keys()
            assert len(key) < 1000

    @pytest.mark.parametrize("argument", ["key", "tags", "pattern", "ttl"])
    def test_a_number_that_python_does_not_write_out(self, argument: str) -> None:
        number: Any = 10**5000
        with IntelligentCache(MemoryCache()) as cache:
            use: Callable[[], object] = {
                "key": lambda: cache.get(number),
                "tags": lambda: cache.set("k", 1, tags=[number]),
                "pattern": lambda: cache.invalidate_by_pattern(number),
                "ttl": lambda: cache.set("k", 1, ttl="1" * 5000),  # type: ignore[arg-type]
            }[argument]
            with pytest.raises(TypeError, match=argument):
                use()

    def test_values_in_themselves(self) -> None:
        ring: list[Any] = []
        ring.append(ring)
        with IntelligentCache(MemoryCache()) as cache:

            @cache.cached()
            def f(value: list[Any]) -> int:
                return len(value)

            with pytest.raises(KeyEncodingError, match="contains itself"):
                f(ring)
            cache.set("k", ring)
            assert cache.get("k") is ring
