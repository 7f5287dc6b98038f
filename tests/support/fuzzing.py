"""Bytes that another program may have written, drawn by a seed; and what reading them may come to.

`run(seed)` returns if the reader held its promise, and raises what it raised otherwise.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import pickle
import random
import socket
import struct
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import hostile
from bus_notes import Notes
from pickle_programs import program

from cachekit.errors import UnreadableError
from cachekit.serialization import envelope
from cachekit.serialization.class_fingerprints import table_of
from cachekit.serialization.codec import Codec
from cachekit.serialization.compression import Compressor
from cachekit.serialization.json_codec import JsonCodec
from cachekit.serialization.msgpack_codec import MsgpackCodec
from cachekit.serialization.pickle_codec import PickleCodec
from cachekit.serialization.plain_values import _RAISINGS
from cachekit.serialization.serializer import Serializer
from cachekit.tiers.file.engine.format import Record
from cachekit.tiers.file.record_codec import RecordCodec, pack_names, parse_names
from cachekit.tiers.redis.bus_protocol import Inbox
from cachekit.tiers.redis.resp import Replies, ServerError

#: Seeds of inputs that were read wrongly once, one a line. They are tried in every run of the tests.
KEPT: Final = Path(__file__).parents[1] / "serialization" / "fuzz_seeds.txt"


@dataclasses.dataclass
class Registered:
    """A class that is on the allow-list."""

    a: object


Draw = random.Random
_pack: Final = importlib.import_module("msgpack").packb

_CODECS: Final[list[Codec]] = [PickleCodec([Registered]), JsonCodec(), MsgpackCodec()]
_RECORDS: Final = [RecordCodec(codec, Compressor("zlib"), None) for codec in _CODECS]
_VALUES: Final[list[Any]] = [
    None, True, 0, -1, 1 << 70, 1.5, "a", "\ud800", b"b", bytearray(b"c"), Decimal("1.5"), UUID(int=5),
    datetime.fromtimestamp(0, tz=UTC), Path("a"),
]  # fmt: skip


def value(draw: Draw, depth: int = 3) -> Any:
    """Return a value that may be stored."""
    if depth == 0 or draw.random() < 0.3:
        return draw.choice(_VALUES)
    items = [value(draw, depth - 1) for _ in range(draw.randrange(4))]
    return draw.choice(
        [items, tuple(items), dict(zip("abcd", items, strict=False)), {"a", 1, None}, Registered(items)]
    )


def mutated(draw: Draw, data: bytes) -> bytes:
    """Return the bytes with a few of them changed, cut, doubled, or replaced by a number near its bounds."""
    out = bytearray(data)
    for _ in range(draw.choice([0, 1, 1, 2, 4])):
        at = draw.randrange(len(out) + 1)
        match draw.randrange(5):
            case 0 if at < len(out):
                out[at] ^= 1 << draw.randrange(8)
            case 1:
                del out[at : at + draw.randrange(8)]
            case 2:
                out[at:at] = out[draw.randrange(len(out) + 1) :][: draw.randrange(32)]
            case 3:
                width = draw.choice("BHIQ")
                most = (1 << 8 * struct.calcsize(width)) - 1
                number = draw.choice([0, 1, most, most >> 1, draw.randrange(most)])
                out[at : at + struct.calcsize(width)] = struct.pack(f"<{width}", number)
            case _:
                out[at : at + 1] = bytes([draw.randrange(256)])
    return bytes(out)


def tagged(draw: Draw, depth: int = 4) -> Any:
    """Return what stands for a value in JSON and MessagePack, or nearly so."""
    if depth == 0 or draw.random() < 0.2:
        return draw.choice([None, True, 0, -1, 1 << 62, 1.5, "a", "ff", "1e9", "x" * 40])
    items = [tagged(draw, depth - 1) for _ in range(draw.randrange(4))]
    kind = draw.choice([*_RAISINGS, "none"])
    return draw.choice([items, {"$": [kind, *items]}, {"a": items}, {"$": items}, {"$": kind}])


def payload(draw: Draw, which: int) -> bytes:
    """Return what a codec may find."""
    if which == 0:
        if draw.random() < 0.5:
            return mutated(draw, program(draw.randrange(1 << 32)))
        return mutated(draw, pickle.dumps(value(draw), 5))
    packed = json.dumps(tagged(draw)).encode() if which == 1 else _pack(tagged(draw))
    return mutated(draw, packed)


def classes(draw: Draw) -> bytes:
    """Return a table of classes, or nearly so, behind its length."""
    table = mutated(draw, table_of([Registered]) * draw.randrange(3))
    return mutated(draw, struct.pack("<I", len(table))) + table


def stored(draw: Draw, which: int) -> tuple[int, bytes]:
    """Return a compression and what stands behind a header."""
    data, how = payload(draw, which), 0
    if draw.random() < 0.3:
        data, how = mutated(draw, struct.pack("<Q", len(data)) + zlib.compress(data, 1)), 1
    if draw.random() < 0.4:
        data, how = classes(draw) + data, how | 0x40
    return (how if draw.random() < 0.9 else draw.randrange(128)), data


def read_payload(draw: Draw) -> None:
    which = draw.randrange(3)
    _CODECS[which].decode(payload(draw, which))


def read_envelope(draw: Draw) -> None:
    """With a seal that is right, so that what is behind it is read; or not."""
    which = draw.randrange(3)
    how, data = stored(draw, which)
    names = mutated(draw, envelope.pack_tags(dict.fromkeys("ab", 1))) if draw.random() < 0.5 else b""
    times = [draw.choice([0.0, 1.0, 1e12, float("inf"), float("nan"), -1.0]) for _ in range(3)]
    header = envelope.pack_fixed(which + 1, how, len(names), *times, zlib.crc32(data))
    base = zlib.crc32(envelope.CHECKED + envelope.sized(b"ns"))
    seal = zlib.crc32(header + names, zlib.crc32(envelope.sized(b"k"), base))
    whole = b"".join((envelope.CHECKED, struct.pack("<I", seal), header, names, data))
    serializer = Serializer("ns", codec=("pickle", "json", "msgpack")[which])
    whole = mutated(draw, whole) if draw.random() < 0.3 else whole
    serializer.read_many([("k", whole)], 2.0, {})
    serializer.decode("k", whole).value()


def read_record(draw: Draw) -> None:
    which = draw.randrange(3)
    how, data = stored(draw, which)
    names = mutated(draw, pack_names(["a", "b"], None)) if draw.random() < 0.5 else b""
    times = [draw.choice([0.0, 1.0, 1e12, float("inf"), float("nan"), -1.0]) for _ in range(3)]
    flags = which + 1 | how << 8
    created, expiry, stale = times
    record = Record(names + data, 0, len(names), len(names) + len(data), flags, created, expiry, stale, 0, ())
    parse_names(names)
    _RECORDS[which].entry("k", record, 2.0)


def read_message(draw: Draw) -> None:
    notes = Notes()
    inbox = Inbox(lambda: notes)
    for number in range(draw.randrange(1, 5)):
        kind = draw.choice(["keys", "tags", "pattern", "all", "beat", "end", 1, None])
        body = draw.choice([None, ["a"], "u.*", [1], {"a": 1}, "(", ["\ud800"], number, [[1, 2]]])
        message = json.dumps(
            [1, draw.choice(["a", "b", "me"]), draw.choice([number, 5]), kind, body]
        ).encode()
        inbox.receive(mutated(draw, message) if draw.random() < 0.7 else message, draw.random())
        inbox.tick(draw.random() * 100)


def read_replies(draw: Draw) -> None:
    data = b"".join(
        draw.choice([b"+OK\r\n", b":5\r\n", b"$3\r\nabc\r\n", b"*2\r\n:1\r\n$1\r\na\r\n", b"-ERR a\r\n",
                     b">2\r\n+a\r\n+b\r\n", b"_\r\n", b"$-1\r\n", b"%1\r\n+a\r\n:1\r\n", b"*-1\r\n"])
        for _ in range(draw.randrange(1, 6))
    )  # fmt: skip
    data = mutated(draw, data)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(5)
        theirs.sendall(data)
        theirs.close()
        replies = Replies(ours)
        try:
            for _ in range(len(data) + 1):
                replies.next()
        except (OSError, ServerError):
            pass


READERS: Final[dict[str, Callable[[Draw], None]]] = {
    "payload": read_payload,
    "envelope": read_envelope,
    "record": read_record,
    "message": read_message,
    "replies": read_replies,
}


def run(seed: int) -> str:
    """Read what the seed gives; return the name of the reader."""
    draw = random.Random(seed)
    name = draw.choices([*READERS], [6, 4, 4, 2, 1])[0]
    try:
        with hostile.bounded_memory():
            READERS[name](draw)
    except UnreadableError:
        pass
    return name


def kept() -> list[int]:
    """Return the seeds that are kept."""
    return [int(line) for line in KEPT.read_text().split()] if KEPT.exists() else []
