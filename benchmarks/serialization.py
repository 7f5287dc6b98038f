"""What an envelope costs: ours beside bare pickle and msgspec, in one interleaved run.

For each value: encode and decode, in microseconds, and the ratio to bare pickle 5 of the same round
(the median of the rounds' ratios, so that a busy machine disturbs both alike). Every row is
reported, slow ones included. msgspec (MessagePack) does not carry all of these values as they are;
what it changes or refuses is said beside its rows.
"""

from __future__ import annotations

import argparse
import array
import datetime as dt
import importlib
import importlib.metadata
import json
import os
import pickle
import platform
import statistics
import sys
import time
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec

from cachekit.errors import SerializationError
from cachekit.serialization import Serializer

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

# What a pickled array names.
_ARRAY = [array.array, importlib.import_module("array")._array_reconstructor]


class Subject(NamedTuple):
    """One way to turn values into bytes and back."""

    name: str
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]


class Row(NamedTuple):
    """One line of the report; times are seconds per call, ratios are to bare pickle."""

    value: str
    subject: str
    encode_ratio: float | None
    decode_ratio: float | None
    encode: float | None
    decode: float | None
    size: int | None
    remark: str


def ours(name: str, **options: Any) -> Subject:
    serializer = Serializer("benchmark", **options)
    return Subject(
        name,
        lambda value: serializer.encode("user:12345", value, created=1.0, expires=2.0),
        lambda buffer: serializer.decode("user:12345", buffer).value(),
    )


def subjects() -> list[Subject]:
    return [
        Subject("bare pickle 5", lambda value: pickle.dumps(value, 5), pickle.loads),
        ours("trusted, checksum", compression=None, trusted=True),
        ours("signed", compression=None, secret=SECRET),
        ours("untrusted, allow-list", compression=None, allow=_ARRAY),
        ours("trusted, zlib", compression="zlib", trusted=True),
        ours("trusted, zstd", compression="zstd", trusted=True),
        ours("json", codec="json", compression=None),
        ours("msgpack", codec="msgpack", compression=None),
        Subject("msgspec.msgpack, bare", msgspec.msgpack.encode, msgspec.msgpack.decode),
    ]


def timed(call: Callable[[Any], Any], argument: Any, seconds: float) -> float:
    """Seconds per call, over a batch of about so many seconds."""
    start = time.perf_counter()
    call(argument)
    number = max(1, int(seconds / max(time.perf_counter() - start, 1e-7)))
    start = time.perf_counter()
    for _ in range(number):
        call(argument)
    return (time.perf_counter() - start) / number


def measure(name: str, value: Any, rounds: int, seconds: float) -> list[Row]:
    """All subjects on one value, round by round."""
    remarks: dict[str, str] = {}
    buffers: dict[str, Any] = {}
    running = []
    for subject in subjects():
        try:
            buffers[subject.name] = subject.encode(value)
            returned = subject.decode(buffers[subject.name])
        except (SerializationError, TypeError, OverflowError, msgspec.MsgspecError) as error:
            remarks[subject.name] = f"refused: {str(error)[:60]}"
            continue
        remarks[subject.name] = "" if repr(returned) == repr(value) else "NOT what went in"
        running.append(subject)
    times: dict[str, list[tuple[float, float]]] = {subject.name: [] for subject in running}
    for _ in range(rounds):
        for subject in running:
            encode = timed(subject.encode, value, seconds)
            decode = timed(subject.decode, buffers[subject.name], seconds)
            times[subject.name].append((encode, decode))
    bare = times["bare pickle 5"]
    rows = []
    for subject in subjects():
        mine = times.get(subject.name)
        if mine is None:
            rows.append(Row(name, subject.name, None, None, None, None, None, remarks[subject.name]))
            continue
        pairs = list(zip(mine, bare, strict=True))
        rows.append(
            Row(
                name,
                subject.name,
                statistics.median(one[0] / other[0] for one, other in pairs),
                statistics.median(one[1] / other[1] for one, other in pairs),
                statistics.median(one[0] for one in mine),
                statistics.median(one[1] for one in mine),
                len(buffers[subject.name]),
                remarks[subject.name],
            )
        )
    return rows


def environment() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "msgspec": importlib.metadata.version("msgspec"),
        "msgpack": importlib.metadata.version("msgpack"),
    }


def show(rows: list[Row]) -> None:
    print(", ".join(f"{name} {version}" for name, version in environment().items()))
    print(f"{'':24}{'ratio to bare pickle':>24}{'microseconds':>20}{'bytes':>10}")
    print(f"{'':24}{'encode':>12}{'decode':>12}{'encode':>10}{'decode':>10}")
    previous = ""
    for row in rows:
        if row.value != previous:
            print(row.value)
            previous = row.value
        if row.encode is None or row.decode is None:
            print(f"  {row.subject:22}{row.remark}")
            continue
        print(
            f"  {row.subject:22}{row.encode_ratio:12.2f}{row.decode_ratio:12.2f}"
            f"{row.encode * 1e6:10.1f}{row.decode * 1e6:10.1f}{row.size:10}  {row.remark}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="interleaved rounds (15)")
    parser.add_argument(
        "--seconds", type=float, default=0.005, help="length of each batch in a round (0.005)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    rows = [
        row
        for name, value in VALUES.items()
        for row in measure(name, value, arguments.rounds, arguments.seconds)
    ]
    if arguments.json:
        print(json.dumps({"environment": environment(), "rows": [row._asdict() for row in rows]}))
    else:
        show(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
