"""Keys that share a hash, and calls that cost more than they take: both are refused."""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import json
import marshal
import pickle
import random
import struct
import time
import uuid
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import hostile
import pytest

from cachekit.errors import SerializationError, UnreadableError
from cachekit.serialization import pickle_literals, plain_values
from cachekit.serialization.collisions import MOST_ALIKE, MOST_NUMBERS
from cachekit.serialization.json_codec import JsonCodec
from cachekit.serialization.msgpack_codec import MsgpackCodec
from cachekit.serialization.pickle_allowlist import Use, table
from cachekit.serialization.pickle_codec import PickleCodec
from cachekit.serialization.pickle_literals import is_deep, is_deep_in_portions

PRIME = (1 << 61) - 1


#: Keys that share one hash, by kind.
ALIKE: dict[str, Callable[[int], Any]] = {
    "int": lambda number: number * PRIME,
    "negative": lambda number: -2 - number * PRIME,
    "complex": lambda number: complex(-1000003.0 * number, float(number)),
    "Decimal": lambda number: Decimal(number * PRIME),
    "Fraction": lambda number: Fraction(number * PRIME + 1, 1 + (number + 1) * PRIME),
    "tuple": lambda number: (number * PRIME, "text"),
    "signs": lambda number: tuple(-1 - (number >> bit & 1) for bit in range(12)),
    "nested": lambda number: ("a", (number * PRIME,)),
    "frozenset": lambda number: frozenset([number * PRIME]),
    "UUID": lambda number: uuid.UUID(int=number * PRIME),
}
#: Ordinary keys of the kinds whose hashes are not random.
ORDINARY: dict[str, Callable[[int], Any]] = {
    "int": lambda number: (1 << 62) + (number << 22),
    "float": lambda number: number * 0.1,
    "complex": lambda number: complex(number, -number),
    "Decimal": lambda number: Decimal(number) / 100,
    "Fraction": lambda number: Fraction(number, 7),
    "tuple": lambda number: (number, number + 1),
    "frozenset": lambda number: frozenset([number, "a"]),
    "UUID": lambda number: uuid.UUID(int=number << 64 | number),
    "datetime": lambda number: dt.datetime(2024, 1, 1, tzinfo=dt.UTC) + dt.timedelta(minutes=number),
    "timedelta": lambda number: dt.timedelta(seconds=number),
}

CODECS = {"pickle": PickleCodec(), "json": JsonCodec(), "msgpack": MsgpackCodec()}
codecs = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)


def forge(codec: Any, value: Any) -> bytes:
    """What a codec without bounds writes."""
    if codec.name == "pickle":
        return pickle.dumps(value, 5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain_values, "_check", lambda _: None)
        lowered = codec._plainer.encode(value)
    return bytes(codec._encoder.encode(lowered).encode() if codec.name == "json" else codec._packb(lowered))


@codecs
@pytest.mark.parametrize("kind", ALIKE)
@pytest.mark.parametrize("shape", [dict.fromkeys, set, frozenset, lambda keys: [{"a": dict.fromkeys(keys)}]])
def test_keys_that_share_a_hash_are_refused(codec: Any, kind: str, shape: Callable[[Any], Any]) -> None:
    """Read or written, without trust: no more of them than a bound."""
    # Of integers, those of 64 bits do not count.
    keys = [ALIKE[kind](number) for number in range(MOST_ALIKE + 20)]
    assert len({hash(key) for key in keys}) == 1
    value = shape(keys)
    with pytest.raises(UnreadableError, match="share a hash"):
        codec.decode(forge(codec, value))
    with pytest.raises(SerializationError, match="share a hash"):
        codec.encode(value)


@codecs
@pytest.mark.parametrize("kind", ORDINARY)
def test_ordinary_keys_return(codec: Any, kind: str) -> None:
    """Thousands of keys whose hashes are not random, in dicts and sets, with plain ones among them."""
    keys = [ORDINARY[kind](number) for number in range(3000)]
    value = [dict.fromkeys(keys), set(keys), {**dict.fromkeys(keys[:100]), "a": 1, None: 2}, frozenset(keys)]
    decoded = codec.decode(codec.encode(value))
    assert decoded == value
    assert list(decoded[0]) == keys


@functools.cache
def meeting(size: int) -> list[int]:
    """Return keys for a dict's table of so many slots: most of them fill its walk, the others walk over it.

    The walk is where every key ends when its hash is used up: slot * 5 + 1.
    """
    walk, slot = {}, 0
    for index in range(size):
        walk[slot] = index
        slot = (slot * 5 + 1) % size
    room = size * 2 // 3
    keys, drawn = list(walk)[: room * 3 // 4], random.Random(1)
    taken, known, entries = set(keys), set(keys), keys[: room // 16]
    while len(keys) < room - 2:
        key = drawn.choice(entries) + drawn.getrandbits(17) * size
        slot, perturb = key % size, key
        while perturb and slot in taken:
            perturb >>= 5
            slot = (slot * 5 + perturb + 1) % size
        if walk[slot] < room // 6 and key not in known:
            known.add(key)
            keys.append(key)
    return keys


@codecs
def test_keys_that_meet_in_the_table_are_refused(codec: Any) -> None:
    """All hashes differ, and still each key passes thousands of slots: refused, read or written."""
    value = dict.fromkeys(meeting(1 << 14))
    assert len(value) > MOST_NUMBERS
    with pytest.raises(UnreadableError, match="collide in its table"):
        codec.decode(forge(codec, value))
    with pytest.raises(SerializationError, match="collide in its table"):
        codec.encode(value)


def nested(rng: random.Random, depth: int) -> Any:
    """A value in which the keys of a dict or set may collide, about as often as not."""
    if depth == 0:
        kinds: list[Callable[[int], Any]] = [ALIKE["int"], ALIKE["tuple"], ORDINARY["float"], str]
        make = rng.choice(kinds)
        count = rng.choice([3, MOST_ALIKE - 1, MOST_ALIKE, MOST_ALIKE + 1, 1_001])
        keys = [make(number + 40) for number in range(count)] + [f"text {number}" for number in range(1_500)]
        if rng.random() < 0.5:
            keys.reverse()
        shapes: list[Callable[[Any], Any]] = [dict.fromkeys, set, frozenset]
        return rng.choice(shapes)(keys[: rng.choice([60, 1_000, 2_400])])
    parts = [nested(rng, depth - 1) if rng.random() < 0.4 else rng.random() for _ in range(3)]
    around: list[Callable[[Any], Any]] = [list, tuple, lambda some: dict(zip("abc", some, strict=True))]
    return rng.choice(around)(parts)


@pytest.mark.parametrize("seed", range(40))
def test_a_write_refuses_what_a_read_refuses(seed: int) -> None:
    """The one looks at the value, the other at the pickle."""
    value, codec, refused = nested(random.Random(seed), seed % 4), PickleCodec(), [False, False]
    if seed % 5 == 0:
        value = [value, dict.fromkeys(meeting(1 << 14)) if seed % 2 else {1 / 3}]
    try:
        codec.decode(pickle.dumps(value, 5))
    except UnreadableError:
        refused[0] = True
    try:
        codec.encode(value)
    except SerializationError:
        refused[1] = True
    assert refused[0] == refused[1]


@pytest.mark.parametrize("levels", [1_980, 1_997, 1_998, 1_999, 2_000, 2_001, 2_100])
@pytest.mark.parametrize("within", [0, 3, 40])
def test_depth_is_the_same_in_portions(levels: int, within: int) -> None:
    deep: Any = ()
    for _ in range(levels - within):
        deep = (deep,)
    for _ in range(within):
        deep = [*range(40), deep, {"a": 1}]
    assert is_deep_in_portions(deep, 1 << 30) == is_deep(deep)


@pytest.mark.parametrize("width", [2, 16])
@pytest.mark.parametrize("levels", [8, 40])
@pytest.mark.parametrize("inner", [0, 1_990, 2_100])
def test_lists_that_contain_one_list_more_than_once(
    width: int, levels: int, inner: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are few of them and many paths to them: 256 with two in each of eight lists."""
    shared: Any = ()
    for _ in range(inner):
        shared = (shared,)
    for _ in range(levels):
        shared = [shared] * width
    dumped = []

    def dumps(value: Any) -> bytes:
        dumped.append(marshal.dumps(value))
        return dumped[-1]

    monkeypatch.setattr(pickle_literals, "marshal", SimpleNamespace(dumps=dumps))
    size = len(pickle.dumps(shared, 5)) if inner < 100 else 2 * inner
    assert is_deep_in_portions(shared, size) == (levels + inner > 2_000)
    # The last two may be long: the one that shows that there are too many, and the whole.
    assert sum(map(len, dumped[:-2])) <= 4 * size
    assert sum(map(len, dumped[-2:])) <= 20 * size + 1_000
    assert len(dumped) <= 4 * size


@pytest.mark.parametrize("levels", [1_990, 2_100])
def test_depth_behind_lists_with_many_paths(levels: int) -> None:
    """Those use up what may be looked at in portions, so the whole shows it."""
    shared: Any = ()
    for _ in range(8):
        shared = [shared] * 16
    deep: Any = ()
    for _ in range(levels):
        deep = (deep,)
    assert is_deep_in_portions([shared, deep], 100) == (levels > 2_000)


@codecs
@pytest.mark.parametrize(
    "step",
    [
        1,
        0.37,
        1 << 32,
        *(pytest.param(step, marks=pytest.mark.soak) for step in (7, -1, 977, 1 << 22, 1 << 50, 0.5)),
    ],
)
def test_many_numbers_are_keys(codec: Any, step: float) -> None:
    """Sequences, multiples of powers of two and fractions, more of them than need no look."""
    for value in (
        {number * step: None for number in range(20_000)},
        {number * step for number in range(6_000)},
    ):
        assert codec.decode(codec.encode(value)) == value


def test_collections_return_when_their_keys_are_watched() -> None:
    """Filled by hand, each collection is what it was, in its order."""
    pairs = [((number, "a"), number * 0.5) for number in range(500)]
    for value in OrderedDict(pairs), defaultdict(float, pairs), Counter(dict(pairs)):
        back = PickleCodec().decode(PickleCodec().encode(value))
        assert back == value
        assert type(back) is type(value)
        assert list(back) == list(value)
    shared = {(number, number): [] for number in range(200)}  # type: ignore[var-annotated]
    back = PickleCodec().decode(PickleCodec().encode([shared, shared, {"me": shared}]))
    assert back[0] is back[1] is back[2]["me"]


def _numbers(count: int) -> list[bytes]:
    return [hostile.number(number * PRIME) for number in range(1, count + 1)]


_LIST = hostile.name("builtins", "list") + b"0"


def _gets(value: bytes) -> bytes:
    """A dict under keys of the memo, each with this value."""
    memo = b"(" + b"".join(number + b"\x94" for number in _numbers(200)) + b"1"
    return memo + b"}(" + b"".join(b"h" + bytes((index,)) + value for index in range(200)) + b"u"


#: Programs that add keys of one hash by other ways than `pickle.dumps` does.
HIDDEN: dict[str, bytes] = {
    "one at a time": b"}" + b"".join(number + b"Ns" for number in _numbers(200)),
    "one batch each": b"\x8f" + b"".join(b"(" + number + b"\x90" for number in _numbers(200)),
    "from the memo": _gets(b"N"),
    "from the memo, for floats": _gets(b"G" + bytes(8)),
    "behind texts": b"}("
    + b"".join(hostile.text("k") + b"N" + number + b"N" for number in _numbers(200))
    + b"u",
    "within a frame": b"\x95" + struct.pack("<Q", 1) + b"\x8f(" + b"".join(_numbers(200)) + b"\x90",
    "floats between": b"}(" + b"".join(number + b"G" + bytes(8) for number in _numbers(200)) + b"u",
}


@pytest.mark.parametrize("program", HIDDEN.values(), ids=HIDDEN)
@pytest.mark.parametrize("before", [b"", _LIST], ids=["plain", "named"])
def test_other_programs_that_add_them(program: bytes, before: bytes) -> None:
    """However the keys get there, plain or with a class named before."""
    with pytest.raises(UnreadableError, match="share a hash"):
        PickleCodec().decode(hostile.START + before + program + b".")


def _put_aside(trick: bytes) -> bytes:
    """Numbers behind texts, each followed by what should memoise it, in a list that goes on."""
    return b"](" + b"".join(hostile.text("k") + number + trick for number in _numbers(200))


_GETS = [b"h" + bytes((index,)) for index in range(200)]
#: Opcodes that leave the number below them as it is, and memoise it.
MEMOISED = {
    "MEMOIZE": b"\x94",
    "empty APPENDS": b"(e\x94",
    "empty SETITEMS": b"(u\x94",
    "empty ADDITEMS": b"(\x90\x94",
    "frame": b"\x95" + bytes(8) + b"\x94",
    "POP": b"N0\x94",
    "POP_MARK": b"(N1\x94",
}
#: Ways to make them keys.
KEYS = {
    "SETITEMS": b"}(" + b"".join(get + b"N" for get in _GETS) + b"u",
    "SETITEMS behind a dict": b"}\x8c\x01aK\x01s}(" + b"".join(get + b"N" for get in _GETS) + b"u",
    "SETITEMS by LONG_BINGET": b"}(" + b"".join(b"j" + get[1:] + bytes(3) + b"N" for get in _GETS) + b"u",
    "SETITEM": b"}" + b"".join(get + b"Ns" for get in _GETS),
    "ADDITEMS": b"\x8f(" + b"".join(_GETS) + b"\x90",
    "FROZENSET": b"(" + b"".join(_GETS) + b"\x91",
}


@pytest.mark.parametrize("trick", MEMOISED.values(), ids=MEMOISED)
@pytest.mark.parametrize("keys", KEYS.values(), ids=KEYS)
def test_numbers_from_the_memo(trick: bytes, keys: bytes) -> None:
    """No way to put numbers into the memo hides that they are keys."""
    with pytest.raises(UnreadableError, match=r"share a hash|no such container"):
        PickleCodec().decode(hostile.START + _put_aside(trick) + keys + b"e.")


@pytest.mark.parametrize("put", [b"p%d\n", b"q%c", b"r%c\0\0\0"], ids=["PUT", "BINPUT", "LONG_BINPUT"])
def test_numbers_are_not_put_into_the_memo(put: bytes) -> None:
    """Opcodes that choose their place in the memo are refused."""
    program = b"](" + b"".join(number + put % index for index, number in enumerate(_numbers(200)))
    with pytest.raises(UnreadableError, match="opcode 0x7"):
        PickleCodec().decode(hostile.START + program + KEYS["SETITEMS"] + b"e.")


def test_a_heavy_key_is_not_hashed_over_and_over() -> None:
    """Three bytes hash a tuple of 4,000 parts again: the sum is bounded by what was stored."""
    key = b"(" + b"K\x01" * 4000 + b"t\x94"
    program = hostile.START + key + b"0}(" + b"h\x00N" * 10_000 + b"u."
    with pytest.raises(UnreadableError, match="hash far more than was stored"):
        PickleCodec().decode(program)


def test_a_decimal_of_many_digits_is_no_key() -> None:
    """Hashing a Decimal takes by its digits each time, and comparing one with an integer longer still."""
    digits = b"X" + struct.pack("<I", 100_000) + b"1" * 100_000
    decimal = hostile.name("decimal", "Decimal") + digits + b"\x85R"
    assert PickleCodec().decode(hostile.START + decimal + b".") == Decimal("1" * 100_000)
    with pytest.raises(UnreadableError, match="more than 4096 parts"):
        PickleCodec().decode(hostile.START + b"}" + decimal + b"Ns.")


def test_integers_too_long_in_json() -> None:
    """JSON's own integers are decimal, which takes the square of their length: they end at 64 bits here."""
    value = 1 << 100_000
    assert JsonCodec().decode(JsonCodec().encode(value)) == value
    with pytest.raises(UnreadableError):
        JsonCodec().decode(json.dumps({"$": ["complex", "1" * 1000, 0]}).encode())


# -- what each callable may cost ----------------------------------------------------------------------------


def _called(module: str, name: str, *arguments: bytes) -> bytes:
    return hostile.call(hostile.name(module, name), *arguments)


def _times(program: bytes, count: int) -> bytes:
    """A list of what the program makes, so many times."""
    return b"](" + program * count + b"e"


_SHORT = b"C\x0a" + bytes((7, 232, 1, 1, 0, 0, 0, 0, 0, 0))
_DELTA = _called("datetime", "timedelta", b"K\x00", b"K\x01", b"K\x01")
_ZERO = b"G" + bytes(8)
_LONG_TEXT = b"X" + struct.pack("<I", 50_000) + b"9" * 50_000
_ITEMS = b"}(" + b"".join(hostile.text(f"{number:x}") + b"N" for number in range(3000)) + b"u"
_PATHS = ("PurePosixPath", "PosixPath", "PureWindowsPath", "WindowsPath")

#: For each callable: the dearest program that was found, and the most that it may cost for each of its bytes,
#: in microseconds. The bounds leave room for slow and busy machines.
COSTS: dict[tuple[str, str], tuple[bytes, float]] = {
    ("builtins", "complex"): (_times(_called("builtins", "complex", _ZERO, _ZERO), 300), 5),
    ("datetime", "date"): (_times(_called("datetime", "date", b"C\x04\x07\xe8\x01\x01"), 300), 5),
    ("datetime", "time"): (_times(_called("datetime", "time", b"C\x06" + bytes(6)), 300), 5),
    ("datetime", "datetime"): (_times(_called("datetime", "datetime", _SHORT), 300), 5),
    ("datetime", "timedelta"): (_times(_DELTA, 300), 5),
    ("datetime", "timezone"): (_times(_called("datetime", "timezone", _DELTA), 300), 5),
    ("zoneinfo", "ZoneInfo"): (_times(_called("zoneinfo", "ZoneInfo", hostile.text("Europe/Rome")), 20), 50),
    ("decimal", "Decimal"): (_called("decimal", "Decimal", _LONG_TEXT), 5),
    ("fractions", "Fraction"): (
        _called("fractions", "Fraction", *[hostile.long_number(4000, byte) for byte in b"\x55\x33"]), 50,
    ),
    ("uuid", "UUID"): (
        _times(hostile.name("uuid", "UUID") + b")\x81}" + hostile.text("int") + b"K\x01sb", 300), 5,
    ),
    ("collections", "OrderedDict"): (_times(_called("collections", "OrderedDict"), 300), 5),
    ("collections", "defaultdict"): (_times(_called("collections", "defaultdict"), 300), 5),
    ("collections", "deque"): (_times(_called("collections", "deque"), 300), 5),
    ("collections", "Counter"): (_called("collections", "Counter", _ITEMS), 5),
    **{
        (module, name): (_times(_called(module, name, hostile.text("a/" * 100)), 100), 10)
        for module in ("pathlib", "pathlib._local")
        for name in _PATHS
    },
}  # fmt: skip

#: Arguments that no pickling of the callable writes, and that cost more than they take.
DEAR: dict[tuple[str, str], list[tuple[bytes, ...]]] = {
    ("builtins", "complex"): [(_LONG_TEXT,), (hostile.long_number(100_000, 1), b"G" + bytes(8)), ()],
    ("datetime", "date"): [(b"K\x01",) * 3, (_LONG_TEXT,)],
    ("datetime", "datetime"): [(b"M\xe8\x07", b"K\x01", b"K\x01"), (_SHORT, b"K\x01")],
    ("datetime", "time"): [(b"K\x01",), ()],
    ("datetime", "timedelta"): [(hostile.long_number(100_000, 1),) * 3, (b"G" + bytes(8),)],
    ("datetime", "timezone"): [(b"K\x01",), (_DELTA, b"K\x01")],
    ("zoneinfo", "ZoneInfo"): [(_LONG_TEXT,), (b"K\x01",)],
    ("decimal", "Decimal"): [
        (hostile.long_number(100_000, 1),),
        (b"G" + bytes(8),),
        (hostile.text("1"), b"N"),
    ],
    ("fractions", "Fraction"): [(hostile.text("1e999999999"),), (b"G" + bytes(8),), (b"K\x01", b"K\x00")],
    ("collections", "OrderedDict"): [(b"]",)],
    ("collections", "defaultdict"): [(b"N", b"}")],
    ("collections", "deque"): [(hostile.text("abc"),), (b")", b"K\x01", b"N")],
    ("collections", "Counter"): [(hostile.text("abc"),), (b"]",)],
    ("pathlib", "PurePosixPath"): [(b"K\x01",)],
}


def test_every_callable_has_a_row() -> None:
    """What is added to the list gets a bound here, or is never called."""
    called = {name for name, grant in table(()).items() if grant.use is not Use.VALUE}
    assert called == set(COSTS)


@pytest.mark.parametrize("name", COSTS, ids=".".join)
def test_what_a_callable_costs_is_bounded(name: tuple[str, str]) -> None:
    """Per byte, after decompression, for the dearest arguments that its guard lets through."""
    program, most = COSTS[name]
    payload = hostile.START + program + b"."
    codec = PickleCodec()

    def spent() -> float:
        begin = time.thread_time()
        # Another Python has this path elsewhere, or another system has it not at all.
        with contextlib.suppress(*[UnreadableError] * name[0].startswith("pathlib")):
            codec.decode(payload)
        return time.thread_time() - begin

    spent()
    assert min(spent() for _ in range(3)) / len(payload) * 1e6 < most


@pytest.mark.parametrize(
    ("name", "arguments"),
    [(name, arguments) for name, rows in DEAR.items() for arguments in rows],
)
def test_dear_arguments_are_refused(name: tuple[str, str], arguments: tuple[bytes, ...]) -> None:
    """A callable is given what its own pickles hold, of the same types, and nothing else."""
    with hostile.bounded_memory(), pytest.raises(UnreadableError) as caught:
        PickleCodec().decode(hostile.START + _called(*name, *arguments) + b".")
    # The guard refused them, and not what it guards: that would have taken its time.
    assert "not how a" in str(caught.value.__cause__)
