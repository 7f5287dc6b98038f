"""Prints what the worst known values cost a reader without trust: bytes stored, peak memory, CPU seconds.

`python tests/support/worst_values.py`
"""

from __future__ import annotations

import json
import resource
import struct
import subprocess
import sys
import time
import zlib

from cachekit.errors import UnreadableError
from cachekit.serialization import envelope
from cachekit.serialization.serializer import Serializer

START = b"\x80\x05"
SIZE = 1 << 20


def _envelope(payload: bytes, codec: int, *, packed: bool) -> bytes:
    if packed:
        payload = struct.pack("<Q", len(payload)) + zlib.compress(payload, 9)
    header = envelope.pack_fixed(codec, int(packed), 0, 1.0, 1e12, 1e12, zlib.crc32(payload))
    base = zlib.crc32(envelope.CHECKED + envelope.sized(b"ns"))
    seal = zlib.crc32(header, zlib.crc32(envelope.sized(b"k"), base))
    return envelope.CHECKED + struct.pack("<I", seal) + header + payload


def _values() -> dict[str, tuple[bytes, int]]:
    number = b"\x8a\x08" + struct.pack("<q", 1 << 61)
    numbers = b"".join(b"\x8a\x08" + struct.pack("<q", (1 << 60) + (i << 30)) for i in range(SIZE // 10))
    doubled = b"K\x01" + b"".join(b"\x94h" + bytes((level,)) + b"\x86" for level in range(11))
    tag = {"$": ["set"]}
    return {
        "pickle: empty sets": (START + b"(" + b"\x8f" * SIZE + b"t.", 1),
        "pickle: large integers as keys": (START + b"\x8f(" + numbers + b"\x90.", 1),
        "pickle: heavy keys": (
            START + b"}(" + doubled + b"\x940" + b"h\x0bN" * 4000 + b"N" * SIZE + b"u.",
            1,
        ),
        "pickle: one key, many times": (START + number + b"\x940}(" + b"h\x00N" * (SIZE // 3) + b"u.", 1),
        "json: empty lists": (b"[" + b"[]," * (SIZE // 3) + b"0]", 2),
        "json: sets": (b"[" + (json.dumps(tag) + ",").encode() * (SIZE // 14) + b"0]", 2),
        "msgpack: empty maps": (b"\xdd" + struct.pack(">I", SIZE) + b"\x80" * SIZE, 3),
    }


def _measure(name: str) -> None:
    payload, codec = _values()[name.removesuffix(", zlib")]
    stored = _envelope(payload, codec, packed=name.endswith("zlib"))
    names = {1: "pickle", 2: "json", 3: "msgpack"}
    serializer = Serializer("ns", codec=names[codec])  # type: ignore[arg-type]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.process_time()
    try:
        value = serializer.decode("k", stored).value()
    except UnreadableError:
        value = None
    seconds = time.process_time() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"{name:38} {len(payload):>9} {len(stored):>9} {peak >> 10:>6} MB {seconds:8.2f} s"
          f"  {'refused' if value is None else 'read'}")  # fmt: skip


if __name__ == "__main__":
    if len(sys.argv) > 1:
        _measure(sys.argv[1])
    else:
        print(f"{'':38} {'raw':>9} {'stored':>9} {'memory':>9} {'time':>10}")
        for one in _values():
            for how in "", ", zlib":
                subprocess.run([sys.executable, __file__, one + how], check=True)
