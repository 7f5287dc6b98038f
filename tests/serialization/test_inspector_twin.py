"""The inspector is the unpickler's twin: after each opcode both have the same items on the same stacks.

The reference is the standard library's unpickler in Python, taken opcode by opcode. Then the one in C, which
reads in the end, has to make the same value by the same calls.
"""

from __future__ import annotations

import io
import itertools
import pickle
import pickletools
from collections import Counter
from collections.abc import Iterator
from typing import Any

import hostile
import pytest
from pickle_programs import OPCODES, Recorder, program

from cachekit.errors import UnreadableError
from cachekit.serialization import pickle_inspector
from cachekit.serialization.pickle_allowlist import Use, table
from cachekit.serialization.pickle_codec import _Unpickler
from cachekit.serialization.pickle_literals import recognise

TABLE = table([Recorder])
NAMES = {code[0]: name for name, code in OPCODES.items()}

#: Opcodes that inspection follows; it refuses all others.
FOLLOWED = frozenset(
    """PROTO MARK STOP POP POP_MARK BININT BININT1 BININT2 NONE NEWTRUE NEWFALSE BINFLOAT LONG1 LONG4 BINBYTES
    SHORT_BINBYTES BINBYTES8 BYTEARRAY8 SHORT_BINUNICODE BINUNICODE BINUNICODE8 EMPTY_LIST APPEND APPENDS
    EMPTY_DICT SETITEM SETITEMS EMPTY_SET ADDITEMS FROZENSET EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 BINGET
    LONG_BINGET MEMOIZE STACK_GLOBAL REDUCE NEWOBJ NEWOBJ_EX BUILD FRAME""".split()  # noqa: SIM905
)


# Untyped, because the stubs know nothing of what is inside.
PICKLE: Any = pickle


class Reference(PICKLE._Unpickler):  # type: ignore[misc]
    """The unpickler in Python, one opcode at a time, with the list and guards of the one that reads."""

    def __init__(self, text: bytes) -> None:
        self.file = io.BytesIO(text)
        super().__init__(self.file)
        self.reader = _Unpickler(text, TABLE)
        self.found: list[object] = []

    def find_class(self, module: str, name: str) -> object:
        self.found.append(self.reader.find_class(module, name))
        return self.found[-1]

    def persistent_load(self, _: object) -> object:
        raise pickle.UnpicklingError("a persistent id")

    # The unpickler in C takes no other sequence for the arguments of a call.

    def load_reduce(self) -> None:
        if type(self.stack[-1]) is not tuple:
            raise pickle.UnpicklingError("no arguments")
        super().load_reduce()

    def load_newobj(self) -> None:
        if type(self.stack[-1]) is not tuple:
            raise pickle.UnpicklingError("no arguments")
        super().load_newobj()

    def load_newobj_ex(self) -> None:
        if type(self.stack[-2]) is not tuple or type(self.stack[-1]) is not dict:
            raise pickle.UnpicklingError("no arguments")
        super().load_newobj_ex()

    dispatch = {  # noqa: RUF012
        **PICKLE._Unpickler.dispatch,
        pickle.REDUCE[0]: load_reduce,
        pickle.NEWOBJ[0]: load_newobj,
        pickle.NEWOBJ_EX[0]: load_newobj_ex,
    }

    def steps(self) -> Iterator[tuple[int, int]]:
        """Each opcode that was carried out, and where the next one stands."""
        self._unframer = PICKLE._Unframer(self._file_read, self._file_readline)
        self.read, self.readline = self._unframer.read, self._unframer.readline
        self.readinto = self._unframer.readinto
        self.metastack: list[list[Any]] = []
        self.stack: list[Any] = []
        self.append = self.stack.append
        self.proto = 0
        while True:
            code = self.read(1)
            if not code:
                raise EOFError
            try:
                self.dispatch[code[0]](self)
            except PICKLE._Stop:
                return
            frame = self._unframer.current_frame
            ahead = len(frame.getvalue()) - frame.tell() if frame else 0
            yield code[0], self.file.tell() - ahead


def inspected(text: bytes) -> bool:
    try:
        pickle_inspector.inspect(text, TABLE)
    except UnreadableError:
        return False
    return True


def machine_at(text: bytes, position: int) -> pickle_inspector._Machine | None:
    """The inspector's machine as it stands before the opcode at the position; None if it refused before."""
    # 0x00 is no opcode. What follows it is there, so that lengths are what they were.
    machine = pickle_inspector._Machine(text[:position] + bytes(len(text) - position), TABLE)
    try:
        machine.run()
    except (UnreadableError, IndexError) as error:
        return machine if "opcode 0x00" in str(error) else None
    raise AssertionError("it ran past the end")


def parts(value: object, most: int) -> int:
    """How many parts hashing a value touches, counted up to a bound."""
    count = 1
    if type(value) in (tuple, frozenset):
        for item in value:  # type: ignore[attr-defined]
            count += parts(item, most - count)
            if count > most:
                break
    return count


BUILTINS: dict[type, int] = {
    list: pickle_inspector._LIST,
    dict: pickle_inspector._DICT,
    set: pickle_inspector._SET,
}


def assert_alike(machine: pickle_inspector._Machine, reference: Reference, text: bytes) -> None:
    ours = [*machine._below, machine._stack, machine._memo]
    theirs = [*reference.metastack, reference.stack, list(reference.memo.values())]
    assert [*map(len, ours)] == [*map(len, theirs)]
    for item, value in zip(itertools.chain(*ours), itertools.chain(*theirs), strict=True):
        if item <= pickle_inspector._GLOBAL:
            assert value is reference.found[pickle_inspector._GLOBAL - item]
        elif item < 0:
            assert value == machine._text(item)
        else:
            kind, weight = item >> pickle_inspector._WEIGHT_BITS, item & pickle_inspector._WEIGHT
            if kind < pickle_inspector._INSTANCE:
                assert BUILTINS.get(type(value)) == (kind if kind in BUILTINS.values() else None)
                assert type(value) is not Recorder
            else:
                made = machine._made[kind][0]
                module, name = machine._globals[made]
                stored = machine._uses[made] is Use.NEW and type(value).__name__ == "Stored"
                assert stored or (type(value).__module__, type(value).__name__) == (module, name)
            assert parts(value, 200) <= weight or weight > pickle_inspector.HEAVIEST_KEY


def followed(text: bytes) -> list[str]:
    """The opcodes in which inspector and reference agreed, up to where either refuses."""
    reference = Reference(text)
    names: list[str] = []
    try:
        for code, position in reference.steps():
            machine = machine_at(text, position)
            if machine is None:
                assert not inspected(text)
                return names
            assert_alike(machine, reference, text)
            names.append(NAMES[code])
    except AssertionError:
        raise
    except Exception:  # the reference refuses
        return names
    return [*names, "STOP"] if inspected(text) else names


def outcome(load: Any) -> tuple[object, list[tuple[object, ...]]]:
    Recorder.log = []
    try:
        value = load()
    except Exception:
        return "refused", Recorder.log
    return shape(value, {}), Recorder.log


def shape(value: Any, seen: dict[int, int]) -> object:
    """A value in terms that compare by what is where."""
    if id(value) in seen:
        return ("seen", seen[id(value)])
    kind = type(value)
    if kind in (list, tuple, dict, set, frozenset) or (
        hasattr(kind, "__iter__") and kind.__module__ == "collections"
    ):
        seen[id(value)] = len(seen)
        if kind in (set, frozenset):  # whose order depends on addresses
            return (kind.__name__, sorted((shape(item, dict(seen)) for item in value), key=repr))
        items = value.items() if isinstance(value, dict) else value
        return (kind.__name__, [shape(item, seen) for item in items])
    return (kind.__name__, repr(value) if kind.__module__ != "pickle_programs" else "")


def loads_like_the_reference(text: bytes) -> None:
    if not inspected(text):
        return
    in_python, noted = outcome(Reference(text).load)
    in_c, noted_in_c = outcome(_Unpickler(text, TABLE).load)
    if in_python == "refused" and in_c != "refused":
        # Only the unpickler in Python minds where a frame ends: in an argument, or after another one begins.
        assert pickle.FRAME in text
        return
    # Only the unpickler in Python extends by nothing.
    assert (in_c, noted_in_c) == (in_python, [call for call in noted if call != ("extend", [])])


def assert_twins(seeds: range) -> None:
    drawn: Counter[str] = Counter()
    agreed: Counter[str] = Counter()
    accepted = literal = 0
    for seed in seeds:
        text = program(seed)
        try:
            agreed.update(followed(text))
            loads_like_the_reference(text)
        except AssertionError as error:
            error.add_note(f"program {seed}: {text!r}")
            raise
        accepted += inspected(text)
        if recognise(text) is not None:
            literal += 1
            in_python, _ = outcome(Reference(text).load)
            in_c, _ = outcome(lambda text=text: pickle.loads(text))
            # Where the unpickler in C refuses, it does no more than the other.
            assert in_c in ("refused", in_python) or in_python == "refused", text
        try:
            drawn.update(opcode.name for opcode, _, _ in pickletools.genops(text))
        except ValueError:  # cut, or a length that lies
            continue
    print(f"{len(seeds)} programs, {accepted} accepted, {literal} literals, {len(agreed)} opcodes followed")
    print({name: (agreed[name], drawn[name]) for name in sorted(OPCODES)})
    assert set(OPCODES) - set(drawn) == set()
    assert set(agreed) ^ FOLLOWED == set()
    assert accepted > len(seeds) / 20
    assert min(agreed.values()) >= 10


def test_programs_of_all_opcodes() -> None:
    """Thousands of programs: the same stacks, marks, memo and kinds after each opcode, and the same value."""
    assert_twins(range(2000))


@pytest.mark.soak
@pytest.mark.parametrize("part", range(20))
@pytest.mark.timeout(3600)
def test_many_more_programs(part: int) -> None:
    """As above, with other programs."""
    assert_twins(range(10_000 + part * 25_000, 10_000 + (part + 1) * 25_000))


#: Opcodes that take items, with how many.
TAKING = {
    "POP": 1, "MEMOIZE": 1, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "APPEND": 2, "SETITEM": 3, "BUILD": 2,
    "REDUCE": 2, "NEWOBJ": 2, "NEWOBJ_EX": 3, "STACK_GLOBAL": 2, "APPENDS": 1, "SETITEMS": 1, "ADDITEMS": 1,
}  # fmt: skip


@pytest.mark.parametrize("name", TAKING)
@pytest.mark.parametrize("above", range(3))
def test_no_opcode_takes_items_from_below_a_mark(name: str, above: int) -> None:
    """With fewer items above the last mark than it takes, each opcode is refused there and then."""
    if above >= TAKING[name]:
        return
    mark = b"(" if name in ("APPENDS", "SETITEMS", "ADDITEMS") else b""
    text = hostile.START + b"]}NNNN(" + b"N" * above + mark
    assert machine_at(text + b"..", len(text)) is not None
    assert machine_at(text + OPCODES[name] + b".", len(text) + 1) is None
