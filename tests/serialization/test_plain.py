"""JSON and MessagePack: the same type back, or a refusal that helps."""

from __future__ import annotations

import collections
import datetime as dt
import json
import pathlib
import re
import sys
from fractions import Fraction
from typing import Any, cast
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stored_values import REGISTERED

from cachekit.errors import SerializationError, UnreadableError
from cachekit.serialization.codec import Codec
from cachekit.serialization.json_codec import JsonCodec
from cachekit.serialization.msgpack_codec import MsgpackCodec
from cachekit.serialization.plain_values import DEEPEST
from cachekit.serialization.serializer import Serializer

JSON, MSGPACK = JsonCodec(), MsgpackCodec()
both = pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=repr)


class Zone(dt.tzinfo):
    def utcoffset(self, _: dt.datetime | None) -> dt.timedelta:
        return dt.timedelta()

    def dst(self, _: dt.datetime | None) -> None:
        return None

    def tzname(self, _: dt.datetime | None) -> str:
        return "zone"


@both
@pytest.mark.parametrize(
    "value",
    [
        *(value for value, _ in REGISTERED),
        range(3), object(), collections.OrderedDict(a=1), collections.deque([1]),
        collections.Counter("a"), collections.defaultdict(int), pathlib.Path("a"), int, len,
        memoryview(b"x"), dt.datetime(2024, 1, 1, tzinfo=Zone()),
        dt.datetime(2024, 1, 1, tzinfo=ZoneInfo.no_cache("Europe/Berlin")), ...,
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_is_not_carried_is_refused(codec: Codec, value: Any) -> None:
    """Subclasses and other types are refused, alone, inside a value and as a key."""
    for wrapped in value, [value], (1, {"a": value}), {"a": {1: value}}:
        with pytest.raises(SerializationError, match=f"codec='{codec.name}'"):
            codec.encode(wrapped)


@both
def test_subclasses_of_keys_are_refused(codec: Codec) -> None:
    """A key is as much a value as any other."""
    with pytest.raises(SerializationError, match="convert it to a plain str first"):
        codec.encode({type("Name", (str,), {})("a"): 1})


def test_the_error_names_type_codec_and_remedy() -> None:
    """It can be acted upon as it stands."""
    with pytest.raises(SerializationError) as caught:
        JSON.encode({"which": re.compile("a")})
    assert str(caught.value) == (
        "codec='json' cannot carry a value of type re.Pattern as it is; convert it to "
        "plain values first, or use codec='pickle'"
    )


@both
def test_iterators_are_refused_in_the_same_words(codec: Codec) -> None:
    """What can be consumed only once is no matter of the codec."""
    with pytest.raises(SerializationError, match="can be read only once"):
        codec.encode([iter([1])])


@both
def test_nesting_is_bounded(codec: Codec) -> None:
    """The deepest value that encode takes returns; one level more, or a cycle, is refused."""
    for shape in (lambda inner: [inner]), (lambda inner: {(): (inner,)}), (lambda inner: (inner,)):
        value: Any = 0
        while True:
            value = shape(value)
            try:
                payload = codec.encode(value)
            except SerializationError:
                break
            assert codec.decode(payload) == value
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(SerializationError, match=f"more than {DEEPEST} levels"):
        codec.encode(circle)


@both
def test_fractions_that_take_long_to_read_are_refused(codec: Codec) -> None:
    """What is carried is read in milliseconds; a fraction is reduced, which takes the square of its size."""
    fraction = Fraction(3**40_000, 2**60_000)
    assert codec.decode(codec.encode(fraction)) == fraction
    with pytest.raises(SerializationError, match="store its numerator and denominator"):
        codec.encode(Fraction(3**50_000, 2**80_000))


def test_json_is_standard_json() -> None:
    """Other programs can read it: plain values look as they would anywhere, NaN is not there."""
    value = {"a": [1, 2.5, None, True, "ü"], "b": {}}
    assert json.loads(JSON.encode(value)) == value
    assert b"NaN" not in JSON.encode(float("nan"))
    assert JSON.encode((1,)) == b'{"$":["tuple",1]}'


@both
@pytest.mark.parametrize(
    "value",
    [
        {"$": 1}, {"$": []}, {"$": ["nothing"]}, {"$": ["int"]}, {"$": ["int", 5]},
        {"$": ["Fraction", "1e999999999", 1]}, {"$": ["Fraction", 1, 0]}, {"$": ["set", []]},
        {"$": ["Decimal", "x"]}, {"$": ["float", "00"]}, {"$": ["bytes", "x"]}, {"$": [["set"]]},
        {"$": ["datetime", "x", 0]}, {"$": ["datetime", "2024-01-01", 0, "../../etc/passwd"]},
        {"$": ["datetime", "2024-01-01", 0, 5]}, {"$": None}, {"$": ["dict", [1]]},
        {"$": ["str", "ff"]}, {"$": ["UUID", "x", 0]}, {"$": ["timedelta", 10**10]}, {"$": ["Decimal", 5]},
        {"$": ["Fraction", {"$": ["int", "f" * 20_000]}, {"$": ["int", "e" * 20_000]}]},
    ],
    ids=lambda value: str(value)[:60],
)  # fmt: skip
def test_malformed_tags_are_damage(codec: Codec, value: Any) -> None:
    """A tag that encode does not write is unreadable, and builds nothing large."""
    payload = json.dumps(value).encode() if codec is JSON else MSGPACK._packb(value)
    with pytest.raises(UnreadableError) as caught:
        codec.decode(payload)
    assert caught.value.reason == "damage"


@both
def test_deep_payloads_are_damage(codec: Codec) -> None:
    """A payload that is nothing but brackets is refused, not followed."""
    payload = b"[" * 100_000 + b"]" * 100_000 if codec is JSON else b"\x91" * 100_000 + b"\xc0"
    with pytest.raises(UnreadableError) as caught:
        codec.decode(payload)
    assert caught.value.reason == "damage"


def test_lengths_that_lie_are_damage() -> None:
    """MessagePack that announces gigabytes allocates none."""
    for start in b"\xdd", b"\xdf", b"\xdb", b"\xc6", b"\xc9":
        with pytest.raises(UnreadableError):
            MSGPACK.decode(start + b"\x7f\xff\xff\xff" + b"x")


@given(st.binary(max_size=60))
def test_random_bytes_raise_only_their_own_error(payload: bytes) -> None:
    """Behind a serializer, whatever a decoder stumbles over is UnreadableError."""
    for codec in JSON, MSGPACK:
        reader = cast("Any", codec)
        try:
            reader.decode(payload)
        except UnreadableError:
            continue


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra, the error says what to install."""
    monkeypatch.setitem(sys.modules, "msgpack", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'cachekit-tiered\[msgpack\]'"):
        Serializer("ns", codec="msgpack")
