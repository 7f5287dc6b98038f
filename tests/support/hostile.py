"""Pickles that somebody with ill intent might store, and envelopes that carry them.

Built opcode by opcode, so that they say what they do and need no program that would write them.
"""

from __future__ import annotations

import contextlib
import resource
import struct
import sys
import tracemalloc
from collections.abc import Iterator
from typing import Any

from cachekit.serialization.serializer import Serializer

#: What decoding one of these may allocate at its peak.
BOUND = 16 << 20

START = b"\x80\x05"
ONE = b"K\x01"


def text(string: str) -> bytes:
    raw = string.encode("utf-8", "surrogatepass")
    return b"\x8c" + bytes((len(raw),)) + raw


def name(module: str, attribute: str) -> bytes:
    return text(module) + text(attribute) + b"\x93"


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + b"(" + b"".join(arguments) + b"tR"


def number(value: int) -> bytes:
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes((len(raw),)) + raw


def long_number(size: int, byte: int) -> bytes:
    """An integer of so many bytes, all alike."""
    return b"\x8b" + struct.pack("<I", size) + bytes((byte,)) * size


def _deep_tuple(levels: int) -> bytes:
    return ONE + b"\x85" * levels


def _doubled(levels: int) -> bytes:
    """A tuple of two of the same tuple, and so on: small to write, 2**levels parts to hash."""
    return ONE + b"".join(b"\x94h" + bytes((level,)) + b"\x86" for level in range(levels))


def behind_a_frame(code: bytes) -> bytes:
    """Code in what looks like bytes, unless the byte of an opcode that its frame had room for is dropped.

    Then the length of the bytes, 40, is read as a MARK, and the code follows.
    """
    return b"\x95" + struct.pack("<Q", 2) + b"Mab" + b"C\x28" + code.ljust(40, b"N") + b"0."


def _nested(kind: str, levels: int, *, ring: bool = False) -> bytes:
    """So many of a kind of collection, each directly in the one before; in a ring the first in the last."""
    first = name("collections", kind) + b"\x94)R\x94"
    key, fill = (b"", b"a") if kind == "deque" else (b"N", b"s")
    others = (key + b"h\x00)R") * (levels - 1)
    return first + others + (key + b"h\x01" + fill if ring else b"") + fill * (levels - 1)


_LIST = name("builtins", "list")
_TEN_THOUSAND = b"]\x94(" + ONE * 10000 + b"e"

CORPUS: dict[str, bytes] = {
    "os.system by REDUCE": START + call(name("os", "system"), text("touch owned")) + b".",
    "posix.system by REDUCE": START + call(name("posix", "system"), text("touch owned")) + b".",
    "os.system, protocol 0": b"cos\nsystem\n(S'touch owned'\ntR.",
    "os.system by GLOBAL in protocol 5": START + b"cos\nsystem\n" + text("touch owned") + b"\x85R.",
    "os.system by INST": START + b"(" + text("touch owned") + b"ios\nsystem\n.",
    "os.system by OBJ": START + b"(" + name("os", "system") + text("touch owned") + b"o.",
    "os.system by NEWOBJ": START + name("os", "system") + text("touch owned") + b"\x85\x81.",
    "subprocess.getoutput": START + call(name("subprocess", "getoutput"), text("touch owned")) + b".",
    "builtins.eval": START + call(name("builtins", "eval"), text("open('owned', 'w')")) + b".",
    "builtins.exec": START + call(name("builtins", "exec"), text("open('owned', 'w')")) + b".",
    "getattr chain": START
    + call(name("builtins", "getattr"), name("datetime", "datetime"), text("__class__"))
    + b".",
    "operator.attrgetter": START + call(name("operator", "attrgetter"), text("a.b")) + b".",
    "functools.partial": START + call(name("functools", "partial"), name("os", "system")) + b".",
    "dotted name": START + call(name("datetime", "datetime.now.__self__.__class__"), ONE) + b".",
    "dotted name through a listed class": START + name("decimal", "Decimal.__init_subclass__") + b".",
    "dotted module": START + call(name("collections.abc.sys", "exit"), ONE) + b".",
    "name from a number": START + text("os") + ONE + b"\x93.",
    "bytearray of 2 GiB": START + call(name("builtins", "bytearray"), number(2**31)) + b".",
    "bytes of 2 GiB": START + call(name("builtins", "bytes"), number(2**31)) + b".",
    "list of a range": START + call(_LIST, call(name("builtins", "range"), number(10**9))) + b".",
    "BYTEARRAY8 of 2 GiB": START + b"\x96" + struct.pack("<Q", 2**31) + b"x.",
    "BINBYTES8 of 2 GiB": START + b"\x8e" + struct.pack("<Q", 2**31) + b"x.",
    "BINUNICODE8 of 2 GiB": START + b"\x8d" + struct.pack("<Q", 2**31) + b"x.",
    "LONG4 of 2 GiB": START + b"\x8b" + struct.pack("<I", 2**31 - 1) + b"x.",
    "FRAME of 2 GiB": START + b"\x95" + struct.pack("<Q", 2**31) + b"N.",
    "memo of 2 GiB by LONG_BINPUT": START + b"Nr" + struct.pack("<I", 2**27) + b".",
    "memo of 2 GiB behind a frame that ends within an opcode": START
    + behind_a_frame(b"Nr" + struct.pack("<I", 2**27) + b"."),
    "frame that ends within an opcode": START + behind_a_frame(b"N."),
    "memo of 2 GiB behind a frame in a frame": START
    + b"\x95"
    + struct.pack("<Q", 10)
    + b"\x95"
    + struct.pack("<Q", 42)
    + b"C\x28"
    + (b"Nr" + struct.pack("<I", 2**27) + b".").ljust(40, b"N")
    + b"N0.",
    "memo by PUT": START + b"Np134217728\n.",
    "memo read that was never written": START + b"j" + struct.pack("<I", 2**31) + b".",
    "list copied 2,000 times": START + _TEN_THOUSAND + b"0(" + call(_LIST, b"h\x00") * 2000 + b"t.",
    "Counter copied 2,000 times": START
    + b"}\x94("
    + b"".join(b"M" + struct.pack("<H", item) + ONE for item in range(10000))
    + b"u\x85\x940("
    + name("collections", "Counter")
    + b"\x94h\x01R"
    + b"h\x02h\x01R" * 1999
    + b"t.",
    "path of one long name 100,000 times": START
    + b"X"
    + struct.pack("<I", 60000)
    + b"a" * 60000
    + b"\x940"
    + name("pathlib", "PurePosixPath")
    + b"("
    + b"h\x00" * 100000
    + b"tR.",
    "fraction of a billion digits": START + call(name("fractions", "Fraction"), text("1e999999999")) + b".",
    "fraction that takes minutes to be reduced": START
    + call(name("fractions", "Fraction"), *[long_number(200_000, byte) for byte in b"\x55\x33"])
    + b".",
    "fraction by NEWOBJ": START + name("fractions", "Fraction") + text("1e999999999") + b"\x85\x81.",
    "deque of a range": START + call(name("collections", "deque"), _TEN_THOUSAND) + b".",
    "deques 20,000 deep in each other": START + _nested("deque", 20_000) + b".",
    "deques in a ring of 20,000": START + _nested("deque", 20_000, ring=True) + b".",
    "defaultdicts 20,000 deep in each other": START + _nested("defaultdict", 20_000) + b".",
    "key of half a million digits": START + b"}" + long_number(200_000, 1) + b"Ns.",
    "key nested a million deep": START + b"}" + _deep_tuple(1_000_000) + b"Ns.",
    "key that doubles 60 times": START + b"}" + _doubled(60) + b"Ns.",
    "set element that doubles 60 times": START + b"\x8f(" + _doubled(60) + b"\x90.",
    "frozenset element that doubles 60 times": START + b"(" + _doubled(60) + b"\x91.",
    "UUID with a number 200,000 deep as a key": START
    + b"}"
    + name("uuid", "UUID")
    + b")\x81}"
    + text("int")
    + _deep_tuple(200_000)
    + b"sbNs.",
    "UUID with a safety 200,000 deep": START
    + name("uuid", "UUID")
    + b")\x81}("
    + text("int")
    + ONE
    + text("is_safe")
    + _deep_tuple(200_000)
    + b"ub.",
    "UUID given a second state": START
    + b"}"
    + name("uuid", "UUID")
    + b")\x81}"
    + text("int")
    + ONE
    + b"sb}"
    + text("int")
    + _deep_tuple(200_000)
    + b"sbNs.",
    "UUID without a number": START + name("uuid", "UUID") + b")\x81.",
    "UUID with a text for a number": START
    + name("uuid", "UUID")
    + b")\x81}"
    + text("int")
    + text("1")
    + b"sb.",
    "UUID, the class": START + name("uuid", "UUID") + b".",
    "path with parts 200,000 deep as a key": START
    + b"}"
    + call(name("pathlib", "PurePosixPath"), text("a"))
    + b"N}("
    + text("_cached_cparts")
    + b"]"
    + _deep_tuple(200_000)
    + b"a"
    + text("_str_normcase_cached")
    + _deep_tuple(200_000)
    + b"u\x86bNs.",
    "fraction given a state": START
    + call(name("fractions", "Fraction"), ONE, ONE)
    + b"N}"
    + text("_numerator")
    + text("1")
    + b"s\x86b.",
    "BUILD on a class": START + name("uuid", "UUID") + b"N}" + text("get_version") + b"Ns\x86b.",
    "BUILD on a guarded class": START
    + name("fractions", "Fraction")
    + b"N}"
    + text("limit_denominator")
    + b"Ns\x86b.",
    "BUILD on a class from the memo": START
    + name("uuid", "UUID")
    + b"\x940h\x00N}"
    + text("get_version")
    + b"Ns\x86b.",
    "APPEND on a class": START + name("uuid", "UUID") + b"Na.",
    "SETITEM on a class": START + name("uuid", "UUID") + b"NNs.",
    "ADDITEMS on a class": START + name("uuid", "UUID") + b"(N\x90.",
    "guard as a value": START + name("decimal", "Decimal") + b".",
    "guard as a default factory": START
    + call(name("collections", "defaultdict"), name("fractions", "Fraction"))
    + b".",
    "calling a number": START + ONE + b")R.",
    "extension registry": START + b"\x82\x01.",
    "extension registry, EXT4": START + b"\x84" + struct.pack("<I", 1) + b".",
    "persistent id": START + b"Powned\n.",
    "binary persistent id": START + ONE + b"Q.",
    "NEXT_BUFFER": START + b"\x97.",
    "READONLY_BUFFER": START + b"N\x98.",
    "zone outside the database": START
    + call(name("zoneinfo", "ZoneInfo"), text("../../../etc/passwd"))
    + b".",
    "SETITEMS, odd": START + b"}(NNNu.",
    "nothing but opcodes of lists, protocol 4": b"\x80\x04" + b"]" * 100 + b".",
    "a second value behind STOP": START + b"N.N.",
    "pops under a mark": START + b"N(0.",
    "empty": b"",
    "only a start": START,
}


class Raw:
    """A codec that stores bytes as they are under the number of the pickle codec: the forger's."""

    name = "raw"
    code = 1

    def encode(self, value: bytes) -> bytes:
        return value

    def decode(self, payload: bytes | memoryview) -> Any:
        return bytes(payload)


def forged(payload: bytes, *, secret: str | None = None, namespace: str = "ns") -> bytes:
    """A faultless envelope around the payload, under the key "key"."""
    forger = Serializer(namespace, codec=Raw(), compression=None, secret=secret)
    return forger.encode("key", payload, created=1.0)


@contextlib.contextmanager
def bounded_memory() -> Iterator[None]:
    """Fail if more than BOUND is allocated at the peak.

    Where the system can, the address space is capped as well, so that a test that fails does not take
    the machine along.
    """
    with _capped_address_space():
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            yield
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak - before <= BOUND


@contextlib.contextmanager
def _capped_address_space() -> Iterator[None]:
    if sys.platform != "linux":
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as statm:
        now = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + (1 << 30), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
