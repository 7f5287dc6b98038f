"""Programs for the machine that reads pickles: drawn from a grammar of all its opcodes, valid or nearly so.

Mutations of what `pickle.dumps` writes hardly ever leave the few sequences that it knows. Here each opcode is
drawn with arguments of its own. Most of the time it is one that the stack has items for, else any.
"""

from __future__ import annotations

import pickletools
import random
import struct
from collections.abc import Callable
from typing import Final, Self

OPCODES: Final = {one.name: one.code.encode("latin-1") for one in pickletools.opcodes}

START = b"\x80\x05"

Draw = random.Random


def _sized(width: str) -> Callable[[Draw], bytes]:
    def argument(draw: Draw) -> bytes:
        raw = draw.choice([b"", b"a", b"bc", bytes([draw.randrange(128)]) * draw.randrange(12)])
        # Now and then a length that lies.
        return struct.pack(width, len(raw) + (draw.random() < 0.02)) + raw

    return argument


def _bytes(count: int) -> Callable[[Draw], bytes]:
    return lambda draw: draw.randbytes(count)


def _line(*lines: bytes) -> Callable[[Draw], bytes]:
    return lambda draw: draw.choice(lines) + b"\n"


def _index(width: str) -> Callable[[Draw], bytes]:
    return lambda draw: struct.pack(width, draw.randrange(draw.choice([2, 4, 4, 12])))


ARGUMENTS: Final[dict[str, Callable[[Draw], bytes]]] = {
    "INT": _line(b"1", b"01", b"-5"),
    "LONG": _line(b"1L", b"-7L"),
    "STRING": _line(b"'a'", b'"b"'),
    "UNICODE": _line(b"a", b"\\u20ac"),
    "FLOAT": _line(b"1.5", b"nan"),
    "GLOBAL": _line(b"builtins\nint", b"pickle_programs\nRecorder", b"os\nsystem"),
    "INST": _line(b"builtins\nint", b"pickle_programs\nRecorder"),
    "PERSID": _line(b"1"),
    "GET": _line(b"0", b"1", b"3"),
    "PUT": _line(b"0", b"1", b"3"),
    "BININT": _bytes(4),
    "BININT1": _bytes(1),
    "BININT2": _bytes(2),
    "BINFLOAT": _bytes(8),
    "LONG1": _sized("<B"),
    "LONG4": _sized("<i"),
    "BINSTRING": _sized("<i"),
    "SHORT_BINSTRING": _sized("<B"),
    "BINBYTES": _sized("<I"),
    "SHORT_BINBYTES": _sized("<B"),
    "BINBYTES8": _sized("<Q"),
    "BYTEARRAY8": _sized("<Q"),
    "SHORT_BINUNICODE": _sized("<B"),
    "BINUNICODE": _sized("<I"),
    "BINUNICODE8": _sized("<Q"),
    "BINPUT": _index("<B"),
    "LONG_BINPUT": _index("<I"),
    "EXT1": _bytes(1),
    "EXT2": _bytes(2),
    "EXT4": lambda draw: struct.pack("<i", draw.randrange(1, 300)),
    "PROTO": lambda draw: bytes([draw.randrange(7)]),
    "FRAME": lambda draw: struct.pack("<Q", draw.randrange(30)),
}

#: How many items above the last mark an opcode takes, and what it leaves: "=" is the item below them.
_TAKES: Final[dict[str, tuple[int, str]]] = {
    "POP": (1, ""), "DUP": (1, "vv"), "MEMOIZE": (1, "="), "PUT": (1, "="), "BINPUT": (1, "="),
    "LONG_BINPUT": (1, "="), "TUPLE1": (1, "v"), "TUPLE2": (2, "v"), "TUPLE3": (3, "v"),
    "APPEND": (2, "l"), "SETITEM": (3, "d"), "BUILD": (2, "i"), "REDUCE": (2, "i"), "NEWOBJ": (2, "i"),
    "NEWOBJ_EX": (3, "i"), "STACK_GLOBAL": (2, "c"), "BINPERSID": (1, "v"), "READONLY_BUFFER": (1, "v"),
}  # fmt: skip
#: What an opcode that takes all items above the last mark leaves, and what must lie below that mark.
_CLOSES: Final[dict[str, tuple[str, str]]] = {
    "POP_MARK": ("", ""), "TUPLE": ("", "v"), "LIST": ("", "l"), "DICT": ("", "d"),
    "FROZENSET": ("", "v"),
    "APPENDS": ("l", "l"), "SETITEMS": ("d", "d"), "ADDITEMS": ("s", "s"),
    "INST": ("", "i"), "OBJ": ("", "i"),
}  # fmt: skip
_MADE: Final = {"EMPTY_LIST": "l", "EMPTY_DICT": "d", "EMPTY_SET": "s", "MARK": "", "PROTO": "", "FRAME": ""}

# Opcodes that no pickle of protocol 5 has: drawn less often, because inspection ends with them.
_FOREIGN: Final = frozenset(
    """INT LONG STRING BINSTRING SHORT_BINSTRING
    UNICODE FLOAT LIST DICT DUP GET GLOBAL PUT BINPUT LONG_BINPUT INST
    OBJ PERSID BINPERSID EXT1 EXT2 EXT4 NEXT_BUFFER READONLY_BUFFER PROTO STOP FRAME""".split()  # noqa: SIM905
)

#: Classes that programs use, with pieces of arguments; the last ones are not on any list.
_CALLS: Final[tuple[tuple[str, str, bytes], ...]] = (
    ("pickle_programs", "Recorder", b"R"),
    ("pickle_programs", "Recorder", b"\x81"),
    ("collections", "OrderedDict", b"R"),
    ("collections", "deque", b"R"),
    ("collections", "defaultdict", b"R"),
    ("uuid", "UUID", b"\x81"),
    ("builtins", "list", b""),
    ("builtins", "bytes", b""),
    ("datetime", "date", b"R"),
    ("os", "system", b"R"),
)


def text(string: str) -> bytes:
    raw = string.encode()
    return b"\x8c" + bytes((len(raw),)) + raw


def _phrase(draw: Draw) -> tuple[list[bytes], str]:
    """A few opcodes that belong together, and what they leave on the stack."""
    match draw.randrange(8):
        case 0:
            return [OPCODES["EMPTY_DICT"], OPCODES["MARK"], text("a"), b"K\x01", OPCODES["SETITEMS"]], "d"
        case 1:
            return [OPCODES["EMPTY_SET"], OPCODES["MARK"], b"K\x01", b"N", OPCODES["ADDITEMS"]], "s"
        case 2:
            return [OPCODES["NEWTRUE"], OPCODES["TUPLE1"], OPCODES["MEMOIZE"]], "v"
        case 3:
            # A dict as the state of a Recorder, or of what cannot have one.
            return [OPCODES["EMPTY_DICT"], OPCODES["BUILD"]], ""
        case 4:
            number = [OPCODES["EMPTY_DICT"], text("int"), b"\x8a\x01\x05", OPCODES["SETITEM"]]
            called = [text("uuid"), text("UUID"), OPCODES["STACK_GLOBAL"], OPCODES["EMPTY_TUPLE"]]
            return [*called, OPCODES["NEWOBJ"], *number, OPCODES["BUILD"]], "v"
        case 5:
            called = [text("decimal"), text("Decimal"), OPCODES["STACK_GLOBAL"], text("1.5")]
            return [*called, OPCODES["TUPLE1"], OPCODES["REDUCE"]], "v"
        case _:
            module, name, how = draw.choice(_CALLS)
            pieces = [text(module), text(name), OPCODES["STACK_GLOBAL"]]
            if draw.random() < 0.2:
                return pieces, "c"
            if how == b"\x81" and draw.random() < 0.3:
                return [*pieces, OPCODES["EMPTY_TUPLE"], OPCODES["EMPTY_DICT"], OPCODES["NEWOBJ_EX"]], "i"
            return [*pieces, OPCODES["EMPTY_TUPLE"], how] if how else pieces, "i" if how else "c"


class _Writer:
    """One program, and a rough idea of the stack that it leaves."""

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self.pieces: list[bytes] = []
        self.stacks: list[list[str]] = [[]]
        self.memo = 0

    def fits(self, name: str) -> bool:
        stack, draw = self.stacks[-1], self.draw
        if name in _TAKES:
            takes, _ = _TAKES[name]
            if len(stack) < takes:
                # A mark is what the unpickler's POP takes where there is nothing above it.
                return name == "POP" and len(self.stacks) > 1 and draw.random() < 0.2
            # A container where one is needed, nearly always.
            wanted = {"APPEND": "l", "SETITEM": "d", "BUILD": "i", "REDUCE": "c", "NEWOBJ": "c"}.get(name)
            return wanted is None or stack[-takes] in (wanted, "i") or draw.random() < 0.05
        if name in _CLOSES:
            below, _ = _CLOSES[name]
            if len(self.stacks) < 2:
                return False
            if name == "SETITEMS" and len(stack) % 2:
                return draw.random() < 0.05
            return not below or self.stacks[-2][-1:] in ([below], ["i"]) or draw.random() < 0.05
        return name not in ("BINGET", "LONG_BINGET") or self.memo > 0

    def write(self, name: str) -> None:
        if name in ("BINGET", "LONG_BINGET"):
            index = self.draw.randrange(self.memo + (self.draw.random() < 0.05) or 1)
            argument = struct.pack("<B" if name == "BINGET" else "<I", index)
        else:
            argument = ARGUMENTS[name](self.draw) if name in ARGUMENTS else b""
        self.pieces.append(OPCODES[name] + argument)
        stack = self.stacks[-1]
        if name == "MEMOIZE":
            self.memo += 1
        if name in _TAKES:
            takes, leaves = _TAKES[name]
            if name == "POP" and not stack and len(self.stacks) > 1:
                self.stacks.pop()
                return
            below = stack[-takes:][:1]
            if leaves != "=":
                del stack[max(0, len(stack) - takes) :]
                stack.extend(below if leaves in ("l", "d", "i") and name in ("APPEND", "SETITEM") else leaves)
        elif name in _CLOSES:
            if len(self.stacks) > 1:
                self.stacks.pop()
                needs, leaves = _CLOSES[name]
                if not needs:
                    self.stacks[-1].extend(leaves)
        else:
            if name == "MARK":
                self.stacks.append([])
            stack.extend(_MADE.get(name, "v"))

    def finish(self) -> None:
        """Leave one item and no mark, as a rule."""
        while len(self.stacks) > 1:
            self.write(self.draw.choice(["TUPLE", "POP_MARK"]))
        while len(self.stacks[-1]) > 1:
            self.write(self.draw.choice(["POP", "TUPLE2"]))
        if not self.stacks[-1]:
            self.write("NONE")


_NAMES: Final = sorted(OPCODES)
_USUAL: Final = [name for name in _NAMES if name not in _FOREIGN]


def program(seed: int) -> bytes:
    """The program of a seed."""
    draw = random.Random(seed)
    writer = _Writer(draw)
    for _ in range(draw.choice([4, 10, 25])):
        if draw.random() < 0.25:
            pieces, leaves = _phrase(draw)
            writer.pieces.extend(pieces)
            writer.stacks[-1].extend(leaves)
            continue
        if draw.random() < 0.1:
            writer.write(draw.choice(["EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET", "NONE"]))
            writer.write("MARK")
        for _ in range(50):
            name = draw.choice(_NAMES if draw.random() < 0.03 else _USUAL)
            if writer.fits(name) or draw.random() < 0.02:
                writer.write(name)
                break
    if draw.random() < 0.9:
        writer.finish()
    pieces = [*writer.pieces, OPCODES["STOP"]]
    if draw.random() < 0.2:
        begin = draw.randrange(len(pieces))
        length = sum(map(len, pieces[begin : draw.randrange(begin, len(pieces)) + 1]))
        length += draw.choice([0, 0, 0, -1, 1])
        pieces.insert(begin, OPCODES["FRAME"] + struct.pack("<Q", max(length, 0)))
    if draw.random() < 0.02:
        pieces.append(b"N")
    return START + b"".join(pieces)


class Recorder:
    """A class that notes all that a pickle does with its instances."""

    log: list[tuple[object, ...]] = []  # noqa: RUF012  # one for all, on purpose

    def __new__(cls, *args: object, **kwargs: object) -> Self:
        cls.log.append(("new", len(args), len(kwargs)))
        return super().__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None:
        self.log.append(("init", len(args), len(kwargs)))

    def __setstate__(self, state: object) -> None:
        self.log.append(("state", type(state).__name__))

    def __setitem__(self, key: object, value: object) -> None:
        self.log.append(("set", type(key).__name__, type(value).__name__))

    def append(self, item: object) -> None:
        # The unpickler in C extends by one where the one in Python appends.
        self.extend([item])

    def extend(self, items: list[object]) -> None:
        self.log.append(("extend", [type(item).__name__ for item in items]))

    def add(self, item: object) -> None:
        self.log.append(("add", type(item).__name__))
