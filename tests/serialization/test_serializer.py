"""One object for tiers: round trips, damage, signatures, and what a reader pays for."""

from __future__ import annotations

import copy
import itertools
import logging
import math
import pickle
import struct
from typing import Any
from zlib import crc32

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ids import without_address
from same import same
from stored_values import BUILTIN, PLAIN, REGISTERED, nested

from cachekit.errors import CacheError, SerializationError, UnreadableError
from cachekit.serialization.envelope import CHECKED_HEADER, pack_length
from cachekit.serialization.serializer import Serializer, Stored

SECRET = "correct horse battery staple"
OTHER = b"another secret, of sixteen or more bytes"

CODECS = ["pickle", "json", "msgpack"]
COMPRESSIONS = [None, "zlib", "zstd"]
SECRETS = [None, SECRET]


def serializers() -> list[Serializer]:
    every = itertools.product(CODECS, COMPRESSIONS, SECRETS)
    return [
        *(Serializer("ns", codec=a, compression=b, secret=c) for a, b, c in every),  # type: ignore[arg-type]
        Serializer("ns", trusted=True),
    ]


SERIALIZERS = serializers()
everywhere = pytest.mark.parametrize("serializer", SERIALIZERS, ids=repr)


def there_and_back(serializer: Serializer, value: Any) -> Any:
    return serializer.decode("key", serializer.encode("key", value, created=1.0)).value()


@everywhere
def test_awkward_values_return_as_they_were(serializer: Serializer) -> None:
    """Every codec returns the same type and value, whatever the compression and signature."""
    for value in PLAIN:
        assert same(value, there_and_back(serializer, value)), value


@everywhere
def test_large_values_return_as_they_were(serializer: Serializer) -> None:
    """So do values that are large enough to be compressed, and those that do not shrink."""
    value = [PLAIN, {"text": "lorem ipsum " * 1000}, [float(n) ** 1.5 for n in range(1000)]]
    assert same(value, there_and_back(serializer, value))


@settings(max_examples=150)
@given(value=nested(), serializer=st.sampled_from(SERIALIZERS))
def test_nested_values_return_as_they_were(value: Any, serializer: Serializer) -> None:
    """Nested builtin values return with the same types all the way down."""
    assert same(value, there_and_back(serializer, value))


@pytest.mark.parametrize("value", BUILTIN, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("options", [{}, {"trusted": True}, {"secret": SECRET}], ids=without_address)
def test_pickle_carries_standard_value_types(value: Any, options: dict[str, Any]) -> None:
    """The standard value types need no registration, in any place."""
    assert same(value, there_and_back(Serializer("ns", **options), value))


@pytest.mark.parametrize(("value", "kind"), REGISTERED, ids=lambda one: repr(one)[:30])
def test_registered_classes_return(value: Any, kind: type) -> None:
    """A class in allow= is carried where nothing is trusted; exceptions compare by their text."""
    returned = there_and_back(Serializer("ns", allow=[kind]), [value])
    assert type(returned[0]) is type(value)
    assert repr(returned[0]) == repr(value)


def test_the_header_returns() -> None:
    """Times and tags are read without the payload."""
    for serializer in SERIALIZERS:
        buffer = serializer.encode(
            "key",
            [1],
            created=1.5,
            expires=2.5,
            stale_until=3.5,
            tags={"a": 0, "\ud800": 2**64 - 1},
        )
        stored = serializer.decode("key", buffer)
        assert (stored.created, stored.expires, stored.stale_until) == (1.5, 2.5, 3.5)
        assert stored.tags == {"a": 0, "\ud800": 2**64 - 1}
        assert list(stored.tags) == ["a", "\ud800"]


def test_defaults_of_the_header() -> None:
    """Without times an entry never expires; without a stale time it is not served stale."""
    serializer = Serializer("ns")
    forever = serializer.decode("k", serializer.encode("k", 1, created=1))
    assert (forever.expires, forever.stale_until, forever.tags) == (math.inf, math.inf, {})
    mortal = serializer.decode("k", serializer.encode("k", 1, created=1, expires=2))
    assert mortal.stale_until == 2.0


def test_the_header_alone_is_cheap_and_safe() -> None:
    """Without a secret, damage to the payload keeps the value from being read, not the header."""
    serializer = Serializer("ns")
    buffer = bytearray(serializer.encode("key", "value", created=1, expires=7))
    buffer[-1] ^= 1
    stored = serializer.decode("key", buffer)
    assert stored.expires == 7.0
    with pytest.raises(UnreadableError, match="checksum") as caught:
        stored.value()
    assert caught.value.reason == "damage"


def test_every_read_decodes_anew() -> None:
    """Two calls of value() share nothing."""
    serializer = Serializer("ns")
    stored = serializer.decode("key", serializer.encode("key", [1], created=1))
    assert stored.value() is not stored.value()


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_will_do(kind: type) -> None:
    """A Redis reply, a mapped file and a slice of either are read alike."""
    serializer = Serializer("ns")
    assert serializer.decode("k", kind(serializer.encode("k", (1, 2), created=1))).value() == (1, 2)


def test_a_buffer_that_changes_later_changes_nothing() -> None:
    """What was checked is what is decoded, also if the file behind the buffer is overwritten."""
    serializer = Serializer("ns", secret=SECRET)
    buffer = bytearray(serializer.encode("k", "value", created=1))
    stored = serializer.decode("k", buffer)
    buffer[:] = bytes(len(buffer))
    assert stored.value() == "value"


# -- damage ----------------------------------------------------------------------------------------

SAMPLE = {"a": [1, 2.5, "text", None], "t": (1, b"bytes")}
LARGE = {"text": "lorem ipsum dolor sit amet " * 100}


def outcome(serializer: Serializer, buffer: bytes) -> object:
    """What a tier sees: the value and header, or the reason why there is none."""
    try:
        stored = serializer.decode("key", buffer)
        return (stored.value(), stored.created, stored.expires, stored.stale_until, stored.tags)
    except UnreadableError as error:
        return error.reason


@everywhere
def test_every_flipped_bit_is_noticed(serializer: Serializer) -> None:
    """Whatever single bit of an envelope changes, it is unreadable."""
    for value in SAMPLE, LARGE:
        buffer = serializer.encode("key", value, created=1, expires=9, tags={"tag": 7})
        assert isinstance(outcome(serializer, buffer), tuple)
        for position in range(len(buffer)):
            flip = 1 << position % 8
            damaged = buffer[:position] + bytes((buffer[position] ^ flip,)) + buffer[position + 1 :]
            reason = outcome(serializer, damaged)
            assert reason in {"damage", "version", "signature"}, position
        if "secret=..." in repr(serializer):
            reasons = {
                outcome(serializer, buffer[:at] + bytes((buffer[at] ^ 255,)) + buffer[at + 1 :])
                for at in range(4, len(buffer))
            }
            assert reasons == {"signature"}


@everywhere
def test_every_cut_and_every_padding_is_noticed(serializer: Serializer) -> None:
    """Whatever is missing at the end, or follows it, the envelope is unreadable."""
    for value in SAMPLE, LARGE:
        buffer = serializer.encode("key", value, created=1, tags={"tag": 7})
        for length in range(len(buffer)):
            assert outcome(serializer, buffer[:length]) in {"damage", "signature"}
        assert outcome(serializer, buffer + b"\0") in {"damage", "signature"}
        assert outcome(serializer, buffer + buffer) in {"damage", "signature"}


@settings(max_examples=300)
@given(
    buffer=st.binary(max_size=200)
    | st.binary(max_size=200).map(lambda rest: b"CK\x01\x00" + rest)
    | st.binary(max_size=200).map(lambda rest: b"CK\x01\x01" + rest)
)
@example(buffer=b"")
@example(buffer=b"CK\x01\x00")
@example(buffer=b"CK\x01\x01")
def test_random_bytes_are_a_miss(buffer: bytes) -> None:
    """Random bytes raise nothing but UnreadableError."""
    for serializer in SERIALIZERS:
        assert isinstance(outcome(serializer, buffer), str)


class _Raw:
    name = "raw"

    def __init__(self, code: int) -> None:
        self.code = code

    def encode(self, value: bytes) -> bytes:
        return value

    def decode(self, payload: bytes | memoryview) -> Any:
        raise ZeroDivisionError(bytes(payload))


@settings(max_examples=500)
@given(payload=st.binary(max_size=100), codec=st.sampled_from([1, 2, 3]))
def test_random_payloads_behind_a_right_checksum_are_a_miss_or_a_value(payload: bytes, codec: int) -> None:
    """No codec raises anything but UnreadableError, even if the checksum holds."""
    buffer = Serializer("ns", codec=_Raw(codec), compression=None).encode("key", payload, created=1)
    reader = Serializer("ns", codec=CODECS[codec - 1])  # type: ignore[arg-type]
    outcome(reader, buffer)


@settings(max_examples=300)
@given(value=nested(), data=st.data())
def test_damaged_payloads_behind_a_right_checksum_raise_only_their_own_error(
    value: Any, data: st.DataObject
) -> None:
    """Bytes near to real ones reach further into a decoder than random ones do."""
    which = data.draw(st.sampled_from([0, 1, 2]))
    reader = Serializer("ns", codec=CODECS[which], compression=None)  # type: ignore[arg-type]
    envelope = reader.encode("key", value, created=1)
    payload = bytearray(envelope[42:])
    position = data.draw(st.integers(0, len(payload) - 1))
    payload[position] = data.draw(st.integers(0, 255))
    forger = Serializer("ns", codec=_Raw(which + 1), compression=None)
    outcome(reader, forger.encode("key", bytes(payload), created=1))


def test_a_codec_that_fails_is_damage() -> None:
    """An exception out of somebody's own codec becomes an UnreadableError that names the codec."""
    serializer = Serializer("ns", codec=_Raw(200))
    stored = serializer.decode("k", serializer.encode("k", b"x", created=1))
    with pytest.raises(UnreadableError, match="'raw' failed: ZeroDivisionError") as caught:
        stored.value()
    assert caught.value.reason == "damage"


def test_another_codec_is_named() -> None:
    """A cache whose codec changed misses what the old one wrote; a JSON cache reads no pickles."""
    buffer = Serializer("ns").encode("key", 1, created=1)
    with pytest.raises(UnreadableError, match="codec 1, not with 'json'") as caught:
        Serializer("ns", codec="json").decode("key", buffer)
    assert caught.value.reason == "codec"


def test_another_version_or_flag_is_refused() -> None:
    """A later version is not guessed at."""
    buffer = bytearray(Serializer("ns").encode("key", 1, created=1))
    for position, value in (2, 2), (3, 2), (3, 0x80):
        later = bytearray(buffer)
        later[position] = value
        for serializer in Serializer("ns"), Serializer("ns", secret=SECRET):
            with pytest.raises(UnreadableError) as caught:
                serializer.decode("key", later)
            assert caught.value.reason == "version"


# -- binding, secrets ------------------------------------------------------------------------------


@everywhere
def test_an_entry_is_bound_to_its_key_and_namespace(serializer: Serializer) -> None:
    """Moved to another key or namespace, it does not verify."""
    signed = "secret=..." in repr(serializer)
    expected = "signature" if signed else "damage"
    buffer = serializer.encode("key", 1, created=1)
    for key in "kez", "", "key\0", "ke":
        with pytest.raises(UnreadableError) as caught:
            serializer.decode(key, buffer)
        assert caught.value.reason == expected
    for namespace in "", "n", "nsk":
        other = Serializer(namespace, secret=SECRET if signed else None)
        key = {"": "nskey", "n": "skey", "nsk": "ey"}[namespace]
        with pytest.raises(UnreadableError) as caught:
            other.decode(key, buffer)
        assert caught.value.reason == expected


def test_a_wrong_secret_is_named() -> None:
    """The error says what may have happened, and no secret."""
    buffer = Serializer("ns", secret=OTHER).encode("key", 1, created=1)
    with pytest.raises(UnreadableError, match="signed with a secret that is not among") as caught:
        Serializer("ns", secret=SECRET).decode("key", buffer)
    assert caught.value.reason == "signature"
    assert SECRET not in str(caught.value)


def _sealed(serializer: Serializer, key: str, envelope: bytes) -> bytes:
    """The envelope with the seal that its header has now."""
    name, head = key.encode(), envelope[CHECKED_HEADER]
    return (
        envelope[:4]
        + struct.pack("<I", crc32(pack_length(len(name)) + name + head, serializer._base))
        + (envelope[8:])
    )


@pytest.mark.parametrize("trusted", [True, False])
def test_what_is_not_frequent_is_left_to_decode(trusted: bool) -> None:
    """The short way reads an envelope only if each field of it is what that way is for."""
    serializer = Serializer("ns", trusted=trusted)
    good = serializer.encode("k", {"a": 1}, created=1.0, expires=9.0)

    def changed(at: int, value: int, *, sealed: bool = True) -> bytes:
        envelope = good[:at] + bytes((value,)) + good[at + 1 :]
        return _sealed(serializer, "k", envelope) if sealed else envelope

    found = {
        "magic": changed(0, 0), "version": changed(2, 2), "flags": changed(3, 1),
        "seal": changed(4, good[4] ^ 1, sealed=False), "codec": changed(8, 2), "compression": changed(9, 1),
        "classes": changed(9, 64), "tags": changed(10, 1), "created": changed(18, good[18] ^ 1, sealed=False),
        "checksum": changed(38, good[38] ^ 1), "payload": changed(len(good) - 2, good[-2] ^ 1),
        "cut": good[:-1], "short": good[:20], "expired": serializer.encode("k", 1, created=1.0, expires=2.0),
        "another": serializer.encode("another", 1, created=1.0), "text": "k",
        "signed": Serializer("ns", secret=SECRET).encode("k", 1, created=1.0),
    }  # fmt: skip
    values: dict[str, Any] = {}
    for what, envelope in found.items():
        assert serializer.read_many([("k", envelope)], 3.0, values) == {"k": envelope}, what
    assert not values
    times: dict[str, Any] = {}
    assert serializer.read_many([("k", good)], 3.0, values) == {}
    assert serializer.read_many([("k", good), ("none", None)], 3.0, values, times) == {}
    assert (values, times) == ({"k": {"a": 1}}, {"k": (1.0, 9.0, 9.0, len(good))})
    secret = Serializer("ns", secret=SECRET)
    assert secret.read_many([("k", good)], 3.0, values) == {"k": good}


def test_signed_and_unsigned_do_not_mix() -> None:
    """With a secret nothing unsigned is read; without one nothing signed is."""
    signed, unsigned = Serializer("ns", secret=SECRET), Serializer("ns", trusted=True)
    for writer, reader in (signed, unsigned), (unsigned, signed):
        with pytest.raises(UnreadableError) as caught:
            reader.decode("key", writer.encode("key", 1, created=1))
        assert caught.value.reason == "signature"


def test_secrets_rotate() -> None:
    """The new secret signs; entries of the old one are read as long as it is listed."""
    old = Serializer("ns", secret=SECRET)
    both = Serializer("ns", secret=[OTHER, SECRET.encode()])
    new = Serializer("ns", secret=OTHER)
    before, after = old.encode("k", 1, created=1), both.encode("k", 2, created=1)
    assert both.decode("k", before).value() == 1
    assert both.decode("k", after).value() == 2
    assert new.decode("k", after).value() == 2
    with pytest.raises(UnreadableError):
        new.decode("k", before)
    with pytest.raises(UnreadableError):
        old.decode("k", after)


def test_secrets_are_told_to_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """No repr, log, pickle, copy, attribute or error holds the secret."""
    serializer = Serializer("ns", secret=SECRET)
    caplog.set_level(logging.DEBUG)
    stored = serializer.decode("key", serializer.encode("key", "v", created=1))
    for text in repr(serializer), str(serializer), repr(stored), repr(serializer._signer):
        assert SECRET not in text
    for attempt in pickle.dumps, copy.copy, copy.deepcopy:
        with pytest.raises(TypeError, match="CACHEKIT_SECRET") as caught:
            attempt(serializer)
        assert SECRET not in str(caught.value)
    attributes = [getattr(serializer, slot) for slot in Serializer.__slots__]
    assert SECRET not in repr(attributes)
    assert SECRET not in caplog.text


def test_serializers_without_a_secret_travel() -> None:
    """They pickle by configuration, and read the same bytes on the other side."""
    serializer = Serializer("ns", compression=None, allow=[same], trusted=False)
    travelled = pickle.loads(pickle.dumps(serializer))
    assert repr(travelled) == repr(serializer)
    assert travelled.decode("k", serializer.encode("k", [1], created=1)).value() == [1]
    for codec in CODECS:
        assert pickle.loads(pickle.dumps(Serializer("ns", codec=codec)))  # type: ignore[arg-type]


# -- arguments -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"codec": "yaml"}, ValueError, "codec must be 'pickle', 'json', 'msgpack' or a Codec"),
        ({"codec": 7}, TypeError, "codec must be"),
        ({"codec": _Raw(256)}, TypeError, "code"),
        ({"compression": "lz4"}, ValueError, "compression must be 'zlib', 'zstd' or None"),
        ({"secret": ""}, ValueError, "at least 16 bytes"),
        ({"secret": "short"}, ValueError, "at least 16 bytes long, not 5"),
        ({"secret": []}, ValueError, "empty"),
        ({"secret": 5}, TypeError, "secret must be a str, bytes, or a list"),
        ({"secret": [SECRET, None]}, TypeError, "NoneType"),
        ({"allow": int}, TypeError, "allow must be a list"),
        ({"allow": "Account"}, TypeError, "allow must be a list"),
        ({"allow": 5}, TypeError, "allow must be a list"),
        ({"allow": ["Account"]}, TypeError, "without quotes"),
        ({"allow": [int], "codec": "json"}, ValueError, "allow is for codec='pickle' only"),
    ],
    ids=without_address,
)
def test_wrong_arguments_name_the_remedy(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    """A bad argument is an error that names it."""
    with pytest.raises(error, match=message):
        Serializer("ns", **arguments)


def test_wrong_arguments_of_encode() -> None:
    """Keys, times and tags are checked."""
    serializer = Serializer("ns")
    with pytest.raises(TypeError, match="namespace must be a str"):
        Serializer(b"ns")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="key must be a str"):
        serializer.encode(1, 1, created=1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="key must be a str"):
        serializer.decode(1, b"")  # type: ignore[arg-type]
    for times in {"created": math.nan}, {"created": 1, "expires": math.nan}:
        with pytest.raises(ValueError, match="NaN"):
            serializer.encode("k", 1, **times)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="64 bits"):
        serializer.encode("k", 1, created=1, tags={"a": -1})
    with pytest.raises(TypeError, match="token"):
        serializer.encode("k", 1, created=1, tags={"a": 1.0})  # type: ignore[dict-item]


def test_errors_travel() -> None:
    """Both errors keep their message and reason through a pickle."""
    with pytest.raises(UnreadableError) as caught:
        Serializer("ns").decode("k", b"")
    assert isinstance(caught.value, CacheError)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.reason) == (str(caught.value), "damage")
    with pytest.raises(SerializationError) as refused:
        Serializer("ns").encode("k", range(3), created=1)
    assert str(pickle.loads(pickle.dumps(refused.value))) == str(refused.value)


def test_stored_shows_no_value() -> None:
    """A repr in a log gives times and tags, never what is stored."""
    serializer = Serializer("ns")
    stored = serializer.decode("k", serializer.encode("k", "private", created=1, tags={"t": 1}))
    assert isinstance(stored, Stored)
    assert repr(stored) == "Stored(created=1.0, expires=inf, stale_until=inf, tags=['t'])"
