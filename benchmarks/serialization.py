"""What an envelope costs: encode and decode of five values, ours beside bare pickle and msgspec.

The envelope of a trusted place has a checksum, a signed one an HMAC; compression is off unless the row
names it. A row whose way back is not what went in says so instead of a figure: msgspec's MessagePack is
fast because it carries fewer types.
"""

from __future__ import annotations

import array
import datetime as dt
import importlib
import pickle
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple

from harness import NotOfferedError, Question, Report, Round, Row, Target, options, seconds

from cachekit.serialization.serializer import Serializer

SECRET = "a secret for the benchmark only"

VALUES: dict[str, Any] = {
    "200 B dict": {
        "id": 12345, "name": "Ada Lovelace", "email": "ada@example.org", "active": True,
        "score": 98.6, "roles": ["admin", "author"], "parent": None, "note": "x" * 60,
    },
    "1 KB mixed dict": {
        "id": 12345, "name": "Ada Lovelace", "when": dt.datetime(2024, 5, 6, 7, 8, tzinfo=dt.UTC),
        "uuid": uuid.UUID(int=7**40), "price": Decimal("12.34"), "point": (1, 2.5, None, True),
        "set": {1, 2, 3}, "bytes": bytes(range(100)), "big": 2**70, (1, 2): "tuple key",
        "tags": ["a", "b", "c"], "text": "lorem ipsum " * 42,
    },
    "1 KB plain dict": {
        f"field {n}": [n, n / 7, f"value {n}", {"flag": n % 2 == 0}] for n in range(18)
    },
    "32 KB text": "lorem ipsum dolor sit amet, " * 1170,
    "1 MB array": array.array("d", [n / 7 for n in range(131072)]),
}  # fmt: skip

#: Operations in one round.
OPERATIONS = {
    "200 B dict": 2000,
    "1 KB mixed dict": 1000,
    "1 KB plain dict": 1000,
    "32 KB text": 300,
    "1 MB array": 5,
}

# What a pickled array names.
_ARRAY = [array.array, importlib.import_module("array")._array_reconstructor]

PICKLE = "bare pickle 5"
CHECKSUM = "checksum"
SIGNED = "signed"


class Way(NamedTuple):
    """One way to turn values into bytes and back."""

    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]


def ours(**chosen: Any) -> Callable[[], Way]:
    def make() -> Way:
        serializer = Serializer("benchmark", **{"compression": None} | chosen)
        return Way(
            lambda value: serializer.encode("user:12345", value, created=1.0, expires=2.0),
            lambda buffer: serializer.decode("user:12345", buffer).value(),
        )

    return make


def bare_pickle() -> Way:
    return Way(lambda value: pickle.dumps(value, 5), pickle.loads)


def bare_msgspec() -> Way:
    from msgspec import msgpack

    return Way(msgpack.encode, msgpack.decode)


WAYS: dict[str, Callable[[], Way]] = {
    CHECKSUM: ours(trusted=True),
    SIGNED: ours(secret=SECRET),
    PICKLE: bare_pickle,
    "ours, untrusted place, allow-list": ours(allow=_ARRAY),
    "ours, checksum, zlib": ours(trusted=True, compression="zlib"),
    "ours, checksum, zstd": ours(trusted=True, compression="zstd"),
    "ours, codec json": ours(codec="json"),
    "ours, codec msgpack": ours(codec="msgpack"),
    "msgspec.msgpack, bare": bare_msgspec,
}

TARGETS = [
    Target(f"{direction}, 1 KB mixed dict", name, PICKLE, limit)
    for direction in ("encode", "decode")
    for name, limit in ((CHECKSUM, 1.5), (SIGNED, 2.0))
]


def rows(direction: str, value: Any, operations: int) -> list[Row]:
    def prepare(make: Callable[[], Way]) -> Round:
        way = make()
        encoded = way.encode(value)
        if repr(way.decode(encoded)) != repr(value):
            raise NotOfferedError("what comes back is not what went in")
        call, argument = (way.encode, value) if direction == "encode" else (way.decode, encoded)

        def loop() -> None:
            for _ in range(operations):
                call(argument)

        return lambda: seconds(loop)

    return [
        Row(name, lambda make=make: prepare(make), name in {CHECKSUM, SIGNED})  # type: ignore[misc]
        for name, make in WAYS.items()
    ]


def main() -> None:
    chosen = options(__doc__, rounds=15)
    report = Report(chosen, ["msgspec", "msgpack", "backports.zstd"])
    for name, value in VALUES.items():
        operations = max(1, OPERATIONS[name] // (50 if chosen.quick else 1))
        for direction in ("encode", "decode"):
            title = f"{direction}, {name}"
            report.ask(Question(title, operations, rows(direction, value, operations), "us", 1e-6))
    report.judge(TARGETS)
    report.end()


if __name__ == "__main__":
    main()
