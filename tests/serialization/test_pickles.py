"""The pickle codec: what it carries, what it refuses, and in which words."""

from __future__ import annotations

import asyncio
import copyreg
import functools
import io
import itertools
import pickle
import subprocess
import threading
import tracemalloc
from collections import OrderedDict, defaultdict
from collections.abc import AsyncIterator, Iterator
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from ids import without_address
from stored_values import Account, Point

from cachekit.errors import SerializationError, UnreadableError
from cachekit.serialization import pickle_codec, pickle_inspector
from cachekit.serialization.parts import pieces_of
from cachekit.serialization.pickle_allowlist import Allowance, table
from cachekit.serialization.pickle_codec import PickleCodec

TRUSTED = PickleCodec(trusted=True)
UNTRUSTED = PickleCodec()
both = pytest.mark.parametrize("codec", [TRUSTED, UNTRUSTED], ids=repr)


class Countdown:
    """An iterator that pickle would carry."""

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        raise StopIteration


class Changeling:
    """Something that comes back as something else."""

    def __reduce__(self) -> tuple[type[complex], tuple[float, float]]:
        return complex, (1.0, 2.0)


async def _asynchronous() -> AsyncIterator[int]:
    yield 1


@both
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: iter([1]), "list_iterator, which can be read only once.*list"),
        (lambda: (n for n in [1]), "generator, which can be read only once"),
        (lambda: map(str, [1]), "map, which can be read only once"),
        (lambda: itertools.count(), "count, which can be read only once"),
        (lambda: Countdown(), "Countdown, which can be read only once"),
        (_asynchronous, "async_generator, which can be read only once.*async for"),
        (
            lambda: open(__file__),  # noqa: SIM115
            "TextIOWrapper, which can be read only once",
        ),
        (lambda: io.BytesIO(b"x"), "BytesIO, which can be read only once"),
        (threading.Lock, "cannot be pickled"),
        (lambda: lambda: 1, "cannot be pickled"),
        (lambda: type("Local", (), {})(), "cannot be pickled"),
    ],
)
def test_what_cannot_be_stored_is_refused_with_a_remedy(codec: PickleCodec, make: Any, message: str) -> None:
    """Iterators, files, locks and local objects are refused, also deep inside a value."""
    for wrap in (lambda value: value), (lambda value: {"a": [(value,)]}):
        value = make()
        with pytest.raises(SerializationError, match=message):
            codec.encode(wrap(value))
        if hasattr(value, "close"):
            value.close()


@both
def test_coroutines_are_refused(codec: PickleCodec) -> None:
    """A coroutine is refused in words that say what to store instead."""
    coroutine = asyncio.sleep(0)
    with pytest.raises(SerializationError, match="coroutine, which can be awaited only once"):
        codec.encode(coroutine)
    coroutine.close()


@both
def test_too_deep_is_refused(codec: PickleCodec) -> None:
    """A value that pickle cannot reach the end of is refused."""
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(SerializationError, match="nested too deeply"):
        codec.encode(value)


def test_an_unregistered_class_is_named_with_the_line_to_add() -> None:
    """The error at `set` can be acted upon as it stands."""
    with pytest.raises(SerializationError) as caught:
        UNTRUSTED.encode({"account": Account("a", 1)})  # type: ignore[arg-type]
    assert str(caught.value) == (
        "cannot store a value of type stored_values.Account (found in a value of type dict): the place "
        "where this cache stores is not trusted, so only registered classes may be unpickled from it. "
        "If this one is safe to call with any arguments, write allow=[stored_values.Account]; or give "
        "the cache a secret="
    )
    assert PickleCodec([Account]).encode(Account("a", 1))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (range(3), "range: a few stored bytes of it can become gigabytes"),
        (
            ZoneInfo.no_cache("Europe/Berlin"),
            "ZoneInfo, because reading it would call builtins.getattr: any program that can",
        ),
        (functools.partial(int), "write allow=.functools.partial."),
        (defaultdict(Fraction), "Fraction .found in a value of type defaultdict.: this class is stored only"),
        ([Fraction], "fractions.Fraction .found in a value of type list.: this class is stored only"),
        (ValueError("x"), "write allow=.ValueError.;"),
        (OrderedDict.fromkeys, "cannot be pickled|getattr"),
    ],
    ids=without_address,
)
def test_what_an_untrusted_place_may_not_hold(value: Any, message: str) -> None:
    """What reading would refuse is refused at encode, and nobody is told to register getattr."""
    with pytest.raises(SerializationError, match=message):
        UNTRUSTED.encode(value)


def test_what_comes_back_as_something_else_is_refused() -> None:
    """A value that pickles as another type is noticed where the pickle is read back anyway."""
    with pytest.raises(SerializationError, match="Changeling would come back as a complex"):
        UNTRUSTED.encode(Changeling())


def test_keys_too_heavy_to_hash_are_refused_at_encode() -> None:
    """What reading would refuse for its size is refused at encode."""
    key: Any = 1
    for _ in range(13):
        key = (key, key)
    with pytest.raises(SerializationError, match="more than 4096 parts"):
        UNTRUSTED.encode({key: 1})
    assert UNTRUSTED.decode(UNTRUSTED.encode([key])) == [key]
    wide = {tuple(range(4000)): 1}
    assert UNTRUSTED.decode(UNTRUSTED.encode(wide)) == wide


def test_registered_in_the_extension_registry() -> None:
    """A class with an extension code is refused at encode, not found missing at every read."""
    copyreg.add_extension(Point.__module__, "Point", 240)
    try:
        with pytest.raises(SerializationError, match="could not be read back"):
            PickleCodec([Point]).encode(Point(1, 2))
    finally:
        copyreg.remove_extension(Point.__module__, "Point", 240)


@both
@pytest.mark.parametrize("code", [240, 0x1234, 0x123456])
def test_iterators_of_the_extension_registry_are_refused(codec: PickleCodec, code: int) -> None:
    """A code of any width stands for a class that only the opcode names."""
    copyreg.add_extension(Countdown.__module__, "Countdown", code)
    try:
        with pytest.raises(SerializationError, match="Countdown, which can be read only once"):
            codec.encode([1, {"deep": [Countdown()]}])
    finally:
        copyreg.remove_extension(Countdown.__module__, "Countdown", code)


@both
def test_what_was_stored_before_changes_no_outcome(codec: PickleCodec) -> None:
    """The way that a value takes to its pickle depends on the value before; what comes of it does not."""
    plain = {"\x93\x82\x83\x84" * 9: ["é €", b"\x93" * 147, 0x93, 1.5], "n": {1, 2}, "t": (1, (2,))}
    named = [Fraction(1, 3), ZoneInfo("Europe/Paris")]
    for first, second in itertools.product([plain, named, [iter([1])]], repeat=2):
        for value in first, second, plain:
            if type(value) is list and value is not named:
                with pytest.raises(SerializationError, match="list_iterator, which can be read only once"):
                    codec.encode(value)
            else:
                again = codec.decode(codec.encode(value))
                assert again == value
                assert type(again) is type(value)


def test_sharing_and_cycles_survive() -> None:
    """What is one list twice comes back as one list twice, and a list in itself in itself."""
    for codec in TRUSTED, UNTRUSTED:
        shared = [1]
        one, other = codec.decode(codec.encode((shared, shared)))
        assert one is other
        circle: list[Any] = []
        circle.append((circle,))
        again = codec.decode(codec.encode(circle))
        assert again[0][0] is again


def test_large_values() -> None:
    """Frames, batches and the long forms of opcodes are read."""
    value = {
        "ints": list(range(70_000)),
        "text": "t" * 100_000,
        "bytes": b"b" * 100_000,
        "array": bytearray(100_000),
        "shared": [("s" * 10,) * 2] * 3,
        "strings": [f"{n:x}" * 3 for n in range(3000)] * 2,
        "set": set(range(5000)),
        "big": 1 << 10_000,
    }
    for codec in TRUSTED, UNTRUSTED:
        assert codec.decode(codec.encode(value)) == value


#: More than a pickler keeps in a frame, and than is joined.
LARGE = 70_000


@pytest.mark.parametrize(
    "value",
    [
        {f"{number}" * LARGE: number for number in range(100)},
        {f"{number}".encode() * LARGE for number in range(100)},
        [("x" * LARGE, b"y" * LARGE, bytearray(b"z" * LARGE), number) for number in range(30)],
        [["\udc80" * LARGE, "é" * LARGE] * 30, {"a": {"b": b"c" * 9_000_000}}],
        # What ends as a header does, behind which as many bytes follow that are none of its text.
        [b"a" * LARGE + b"X" + (LARGE + 8).to_bytes(4, "little"), b"b" * (LARGE + 8)] * 40,
        [b"a" * LARGE + b"\x8e" + (LARGE + 8).to_bytes(8, "little"), "b" * (LARGE + 8)] * 40,
    ],
    ids=["keys of a dict", "a set", "tuples", "surrogates", "a short header", "a long header"],
)
def test_large_texts_are_left_out_of_what_is_verified(value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_codec, "_joined", lambda _: pytest.fail("it is joined"))
    payload, _ = PickleCodec().encode_with_classes(value)
    assert PickleCodec().decode(b"".join(pieces_of(payload))) == value


def test_what_is_beside_large_texts_is_verified() -> None:
    """Keys that share a hash, and as many beside them that are large."""
    alike = {number * ((1 << 61) - 1) << 64: number for number in range(1, 100)}
    with pytest.raises(SerializationError, match="share a hash"):
        PickleCodec().encode([alike, b"x" * 9_000_000])


def test_a_class_that_is_gone() -> None:
    """A class that no longer exists is a miss with its own reason, trusted or not."""
    payload = pickle.dumps(Point(1, 2), 5).replace(b"\x05Point", b"\x05Poinz")
    with pytest.raises(UnreadableError, match="Poinz") as caught:
        TRUSTED.decode(payload)
    assert caught.value.reason == "class"
    with pytest.raises(UnreadableError, match="Poinz") as caught:
        PickleCodec([Point]).decode(payload)
    assert caught.value.reason == "class"


def test_a_constructor_that_fails_is_damage() -> None:
    """Whatever a constructor raises, a reader sees UnreadableError."""
    payload = pickle.dumps(Fraction(1, 2), 5).replace(b"K\x01K\x02", b"K\x01K\x00")
    for codec in TRUSTED, UNTRUSTED:
        with pytest.raises(UnreadableError) as caught:
            codec.decode(payload)
        assert caught.value.reason == "damage"


def test_a_forged_name_cannot_break_a_log_line() -> None:
    """The names in an error are quoted, because a forger chose them."""
    payload = b"\x80\x05\x8c\x03a\nb\x8c\x01c\x93."
    with pytest.raises(UnreadableError) as caught:
        UNTRUSTED.decode(payload)
    assert "\n" not in str(caught.value)


def test_types_looked_at_are_not_kept_for_ever() -> None:
    """The set of types that need no second look is bounded."""
    for n in range(1000):
        kind = type(f"Kind{n}", (), {"__reduce__": lambda self: (int, ())})
        TRUSTED.encode(kind())
    assert len(pickle_codec._unremarkable) <= 256


def test_walking_a_pickle_allocates_little() -> None:
    """Looking through a pickle costs memory in proportion to its items, not to their size."""
    payload = pickle.dumps([b"x" * 1_000_000] * 2 + [b"y" * 1_000_000], 5)
    tracemalloc.start()
    try:
        pickle_inspector.inspect(payload, table(()))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000


def test_allowances_end() -> None:
    """Guards together may copy a multiple of the pickle's size, and no more."""
    allowance = Allowance(10)
    allowance.spend(64 * 10 + 4096)
    with pytest.raises(ValueError, match="far more than was stored"):
        allowance.spend(1)


@pytest.mark.parametrize("one", [getattr, eval, bytearray, range, type, open, pickle.loads, subprocess.run])
def test_what_would_undo_the_list_cannot_be_registered(one: Any) -> None:
    """allow= refuses what would let anybody in."""
    with pytest.raises(ValueError, match="cannot be in allow"):
        PickleCodec([one])


def test_local_classes_cannot_be_registered() -> None:
    """Pickle finds classes by name, so one inside a function cannot be found."""

    class Local:
        pass

    with pytest.raises(ValueError, match="top of a module"):
        PickleCodec([Local])
    with pytest.raises(ValueError, match="top of a module"):
        PickleCodec([lambda: 1])


def test_registering_a_standard_class_does_not_lift_its_guard() -> None:
    """allow=[Fraction] changes nothing: a fraction of a billion digits is still refused."""
    payload = pickle.dumps(Fraction(1, 2), 5).replace(b"K\x01K\x02\x86", b"\x8c\x0b1e999999999\x85")
    frame = payload[:3] + (len(payload) - 11).to_bytes(8, "little") + payload[11:]
    with pytest.raises(UnreadableError):
        PickleCodec([Fraction]).decode(frame)
