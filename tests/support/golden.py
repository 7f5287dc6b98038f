"""What the golden files hold, and the program that wrote them.

`python tests/support/golden.py` writes those that are not there: for a new version of the wire
format, under new names. The old ones stay, to show that yesterday's bytes are read or refused.
"""

from __future__ import annotations

import collections
import datetime as dt
import math
import uuid
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from cachekit.serialization.serializer import Serializer

DIRECTORY = Path(__file__).parent.parent / "serialization" / "golden"
NAMESPACE, KEY = "golden", "user:\N{LATIN SMALL LETTER U WITH DIAERESIS}"
SECRET = "the secret of the golden files"

PLAIN: dict[str, Any] = {
    "none": None,
    "numbers": [0, -1, 2**70, 1.5, -0.0, math.inf, True],
    "texts": ("plain", "\N{EURO SIGN}", "\ud800", b"bytes", bytearray(b"array")),
    "sets": [{1, 2}, frozenset({"a"})],
    "keys": {1: "int", (1, "a"): "tuple", None: "none"},
    "times": [
        dt.datetime(2024, 2, 29, 12, 30, 1, 5, tzinfo=dt.UTC),
        dt.datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin")),
        dt.date(2024, 2, 29),
        dt.timedelta(days=-1, microseconds=7),
    ],
    "exact": [Decimal("1.10"), Fraction(1, 3), uuid.UUID(int=7), 2 - 3j],
}
COLLECTIONS = [
    collections.OrderedDict(b=1, a=2),
    collections.defaultdict(list, a=[1]),
    collections.deque([1, 2], maxlen=3),
    collections.Counter("abca"),
]
LONG = ["lorem ipsum dolor sit amet"] * 200 + ["x" * 3000]

#: The name of each file, how it is read, and the value in it.
FILES: dict[str, tuple[dict[str, Any], Any]] = {
    "v1-pickle.bin": ({}, [PLAIN, COLLECTIONS]),
    "v1-pickle-trusted.bin": ({"trusted": True}, [PLAIN, COLLECTIONS]),
    "v1-pickle-signed.bin": ({"secret": SECRET}, [PLAIN, COLLECTIONS]),
    "v1-pickle-zlib.bin": ({}, LONG),
    "v1-pickle-zstd-signed.bin": ({"compression": "zstd", "secret": SECRET}, LONG),
    "v1-json.bin": ({"codec": "json"}, PLAIN),
    "v1-json-zlib-signed.bin": ({"codec": "json", "secret": SECRET}, LONG),
    "v1-msgpack.bin": ({"codec": "msgpack"}, PLAIN),
}
HEADER = {"created": 1700000000.25, "expires": 1700003600.25, "stale_until": 1700007200.25}
TAGS = {"users": 2**64 - 1, "t\N{EURO SIGN}g": 0}


def write() -> None:
    """Write every file that is not there."""
    for name, (options, value) in FILES.items():
        path = DIRECTORY / name
        if not path.exists():
            serializer = Serializer(NAMESPACE, **options)
            path.write_bytes(serializer.encode(KEY, value, **HEADER, tags=TAGS))


if __name__ == "__main__":
    write()
