"""Stored bytes cannot run code, and cannot cost more than a fixed bound."""

from __future__ import annotations

import fractions
import pickle
import uuid
from collections import defaultdict, deque
from pathlib import Path
from typing import ClassVar

import hostile
import pytest

from cachekit.errors import UnreadableError
from cachekit.serialization.pickle_codec import PickleCodec
from cachekit.serialization.pickle_inspector import DEEPEST_VALUE, HEAVIEST_KEY
from cachekit.serialization.serializer import Serializer

SECRET = "the secret of this very test"
ANOTHER = "a secret that the reader has not"

corpus = pytest.mark.parametrize("payload", hostile.CORPUS.values(), ids=hostile.CORPUS.keys())


@pytest.fixture(autouse=True)
def in_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@corpus
def test_untrusted_pickles_are_blocked(payload: bytes, in_empty_directory: Path) -> None:
    """Without a secret, each of the corpus is unreadable, runs nothing and allocates little."""
    envelope = hostile.forged(payload)
    reader = Serializer("ns", compression=None)
    with hostile.bounded_memory(), pytest.raises(UnreadableError) as caught:
        reader.decode("key", envelope).value()
    assert caught.value.reason in {"damage", "class"}
    # Out of memory is a bound as well, but the machine's and not ours.
    assert not isinstance(caught.value.__cause__, MemoryError)
    assert list(in_empty_directory.iterdir()) == []
    assert not hasattr(fractions.Fraction, "__wrapped__")
    assert callable(fractions.Fraction.limit_denominator)
    assert hasattr(uuid.UUID, "version")
    assert not hasattr(uuid.UUID, "get_version")


@pytest.mark.parametrize("forgers_secret", [ANOTHER, None])
def test_unsigned_and_wrongly_signed_bytes_are_not_looked_at(
    forgers_secret: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a secret, nothing is decoded of what is not signed with it."""
    envelopes = [hostile.forged(payload, secret=forgers_secret) for payload in hostile.CORPUS.values()]
    reader = Serializer("ns", secret=SECRET)

    def never(*_: object) -> None:
        raise AssertionError("decoded before it was verified")

    monkeypatch.setattr("cachekit.serialization.envelope.parse_header", never)
    monkeypatch.setattr(PickleCodec, "decode", never)
    for envelope in envelopes:
        with hostile.bounded_memory(), pytest.raises(UnreadableError) as caught:
            reader.decode("key", envelope)
        assert caught.value.reason == "signature"


def test_the_corpus_is_hostile(in_empty_directory: Path) -> None:
    """What the blocked pickles would do is real: bare pickle runs the first of them."""
    pickle.loads(hostile.CORPUS["os.system by REDUCE"])
    assert (in_empty_directory / "owned").exists()


def test_deep_lists_are_harmless() -> None:
    """Deep nesting alone is built and dropped without recursion."""
    payload = hostile.START + b"]" * 20_000 + b"a" * 19_999 + b"."
    with hostile.bounded_memory():
        value = Serializer("ns").decode("key", hostile.forged(payload)).value()
        assert type(value) is list
        del value


def test_tuples_that_double_are_harmless_where_nothing_hashes_them() -> None:
    """A tuple of 2**1,500 parts by reference is built from 10 KB, and costs no more than those."""
    levels = (b"\x94j" + level.to_bytes(4, "little") + b"\x86" for level in range(1500))
    payload = hostile.START + hostile.ONE + b"".join(levels) + b"."
    envelope = hostile.forged(payload)
    with hostile.bounded_memory():
        value = Serializer("ns").decode("key", envelope).value()
        assert value[0] is value[1]


@pytest.mark.parametrize("before", [b"", hostile.name("builtins", "list") + b"0"], ids=["plain", "named"])
def test_tuples_too_deep_to_be_hashed_by_their_reader_are_refused(before: bytes) -> None:
    """Hashing a tuple has no guard against overflow of the stack: depth is bounded, width is not."""
    codec = PickleCodec()
    most = HEAVIEST_KEY + DEEPEST_VALUE
    assert most == 8192
    # Of TUPLE2 each of the first levels has two parts more than the one before.
    for level, first in (b"\x85", HEAVIEST_KEY), (b"N\x86", HEAVIEST_KEY // 2):
        deepest = hostile.START + before + hostile.ONE + level * (first + DEEPEST_VALUE - 1)
        hash(codec.decode(deepest + b"."))
        with pytest.raises(UnreadableError, match="nested more than 4096 deep"):
            codec.decode(deepest + level * 2 + b".")
    wide = codec.decode(codec.encode([tuple(range(10_000)), *zip(range(10_000), range(10_000), strict=True)]))
    assert len(wide) == 10_001


def test_items_of_a_deque_are_not_set() -> None:
    """To set an item in the middle of a deque takes by its length: SETITEM is for what maps."""
    deque_of_one = hostile.name("collections", "deque") + b")R" + b"Na"
    with pytest.raises(UnreadableError):
        PickleCodec().decode(hostile.START + deque_of_one + b"K\x00K\x01s.")


def test_empty_sets_are_bounded_by_their_bytes() -> None:
    """The largest value per byte is an empty set: 216 bytes for one, and no more."""
    payload = hostile.START + b"(" + b"\x8f" * 50_000 + b"l."
    with hostile.bounded_memory(), pytest.raises(UnreadableError):
        Serializer("ns").decode("key", hostile.forged(payload)).value()
    payload = hostile.START + b"(" + b"\x8f" * 50_000 + b"t."
    with hostile.bounded_memory():
        assert len(Serializer("ns").decode("key", hostile.forged(payload)).value()) == 50_000


def test_collections_in_collections_return() -> None:
    """What keeps those that are nested too deeply out lets in many, deep ones, and one that has itself."""
    wide = deque([deque([number]), defaultdict(None, {number: deque()})] for number in range(10_000))
    deep: deque[object] = deque()
    for _ in range(200):
        deep = deque([deep, defaultdict(None, {1: deep})])
    itself: deque[object] = deque()
    itself.append(itself)
    codec = PickleCodec()
    assert codec.decode(codec.encode(wide)) == wide
    assert len(codec.encode(deep)) == len(codec.encode(codec.decode(codec.encode(deep))))
    loaded = codec.decode(codec.encode(itself))
    assert loaded[0] is loaded


class Register:
    """A class that would take note of what is appended to the class itself."""

    notes: ClassVar[list[object]] = []

    @classmethod
    def append(cls, note: object) -> None:
        cls.notes.append(note)

    extend = add = append


@pytest.mark.parametrize("fill", [b"Na", b"(Ne", b"(N\x90"])
def test_a_registered_class_is_not_filled(fill: bytes) -> None:
    """APPEND, APPENDS and ADDITEMS call methods of what they fill; of a class they may not."""
    payload = hostile.START + hostile.name(Register.__module__, "Register") + fill + b"."
    with pytest.raises(UnreadableError):
        PickleCodec([Register]).decode(payload)
    assert Register.notes == []


def test_a_registered_class_is_not_changed_by_a_state_meant_for_it() -> None:
    """BUILD on a class is refused for registered ones as well."""
    payload = (
        hostile.START
        + hostile.name(uuid.SafeUUID.__module__, "SafeUUID")
        + b"N}"
        + hostile.text("owned")
        + b"Ns\x86b."
    )
    codec = PickleCodec([uuid.SafeUUID])
    with pytest.raises(UnreadableError):
        codec.decode(payload)
    assert not hasattr(uuid.SafeUUID, "owned")


def test_a_registered_class_is_not_changed_behind_a_frame() -> None:
    """The unpickler drops bytes where a frame ends within an opcode: it would not do what was looked at."""
    owned = hostile.name(uuid.SafeUUID.__module__, "SafeUUID") + b"N}" + hostile.text("owned") + b"Ns\x86b."
    codec = PickleCodec([uuid.SafeUUID])
    with pytest.raises(UnreadableError):
        codec.decode(hostile.START + hostile.behind_a_frame(owned))
    assert not hasattr(uuid.SafeUUID, "owned")


def test_uuids_return_whatever_holds_them() -> None:
    """What keeps hostile ones out lets those in that `uuid` makes, also one that is a key of two dicts."""
    unsafe = uuid.UUID(int=2**128 - 1, is_safe=uuid.SafeUUID.unsafe)
    values = [uuid.UUID(int=0), uuid.uuid1(), uuid.uuid4(), unsafe]
    value = [values, {one: one for one in values}, {unsafe: {unsafe}}]
    codec = PickleCodec()
    back = codec.decode(codec.encode(value))
    assert back == value
    assert [type(one) for one in back[0]] == [uuid.UUID] * 4
    assert [one.is_safe for one in back[0]] == [one.is_safe for one in values]
