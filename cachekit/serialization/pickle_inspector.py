"""Looks through a pickle before anything is built from it: no call, no allocation, no trust.

This module promises that a pickle which passes names only classes on the list, uses each only as
the list permits, and cannot make the unpickler allocate more than a fixed multiple of the pickle's
size. Constructing the values is left to the unpickler of the standard library, which is fast and
knows none of these limits.

How it works
------------
A pickle is a program for a small stack machine (the reference is Lib/pickletools.py). This is the
same machine with the values left out: one integer per item. It follows the opcodes that protocol 5
writes and refuses all others, among them:

- GLOBAL, INST, OBJ, EXT1-4 and the persistent ids, which would resolve names elsewhere;
- PUT, BINPUT and LONG_BINPUT, which choose their memo index: six bytes make the memo 34 GB large;
- a BYTEARRAY8 longer than the bytes that are left, which would be allocated before it is missed;
- BUILD, APPEND and the like on a class, which would change the class for the whole process;
- BUILD on what a guard made, or twice on anything: a state would put into a path or a UUID what its
  guard keeps out;
- frames that end within an opcode or a frame: the unpickler drops what it had read of it, and goes on
  from another byte than the one that comes next here.

Items are integers. 0 and more is a value: its low bits are its weight, the number of parts that hashing
it touches; a shared part counts every time, because hashing does not remember tuples. So a tuple that
is nested a million deep, which would overflow the C stack when hashed, or that doubles forty times
by reference, which would never finish, is too heavy for a key. The other bits number the instances that
may be given a state. -1 and below is a short text at position -item - 1, which may turn out to be the
name of a class. From `_GLOBAL` downwards it is one of the globals.
"""

from __future__ import annotations

from typing import Final, NoReturn

from cachekit.errors import UnreadableError
from cachekit.serialization.pickle_allowlist import Table, Use

#: The heaviest key or set element. Hashing takes about 100 bytes of C stack per level.
HEAVIEST_KEY: Final = 4096

#: How deep a deque or defaultdict may stand in others: the interpreter guards other types by itself.
DEEPEST_NEST: Final = 4096
_NESTING: Final = frozenset({("collections", "deque"), ("collections", "defaultdict")})

_WEIGHT_BITS: Final = HEAVIEST_KEY.bit_length()
_WEIGHT: Final = (1 << _WEIGHT_BITS) - 1

_GLOBAL: Final = -(1 << 62)
_MARK: Final = 0x28

# Opcodes that push one plain value, with the bytes that follow them.
_FIXED: Final = {
    0x4E: 0,  # NONE
    0x88: 0,  # NEWTRUE
    0x89: 0,  # NEWFALSE
    0x4B: 1,  # BININT1
    0x4D: 2,  # BININT2
    0x4A: 4,  # BININT
    0x47: 8,  # BINFLOAT
    0x5D: 0,  # EMPTY_LIST
    0x7D: 0,  # EMPTY_DICT
    0x29: 0,  # EMPTY_TUPLE
    0x8F: 0,  # EMPTY_SET
}
# The same, followed by a length of so many bytes and then as many bytes as it says.
_COUNTED: Final = {
    0x8A: 1,  # LONG1
    0x8B: 4,  # LONG4
    0x43: 1,  # SHORT_BINBYTES
    0x42: 4,  # BINBYTES
    0x8E: 8,  # BINBYTES8
    0x58: 4,  # BINUNICODE
    0x8D: 8,  # BINUNICODE8
    0x96: 8,  # BYTEARRAY8
}


class RefusedClassError(UnreadableError):
    """A pickle names a class, or uses one in a way, that the list does not permit."""

    def __init__(self, module: str, name: str) -> None:
        super().__init__(
            # Quoted, because whoever forged the bytes chose the names.
            f"the stored pickle uses {f'{module}.{name}'!r} in a way that the allow-list does not permit",
            "class",
        )
        self.module = module
        self.name = name

    def __reduce__(self) -> tuple[type[RefusedClassError], tuple[str, str]]:
        return RefusedClassError, (self.module, self.name)


def _damaged(what: str) -> NoReturn:
    raise UnreadableError(f"not a pickle that was written here: {what}", "damage")


def inspect(pickle: bytes, table: Table) -> bool:
    """Whether a pickle that is safe to load names any class.

    Raises:
        RefusedClassError: it names a class that the table does not have, or misuses one that it has.
        UnreadableError: it is not a whole pickle of protocol 5 as `pickle.dumps` writes it, or asks
            for too much.
    """
    try:
        return _Machine(pickle, table).run()
    except IndexError as error:
        raise UnreadableError("not a whole pickle", "damage") from error


def _weight(items: list[int]) -> int:
    # Capped, or tuples that double by reference would make numbers of any length here.
    return min(1 + sum([item & _WEIGHT if item > 0 else 1 for item in items]), HEAVIEST_KEY + 1)


def _depth(inside: list[tuple[int, int]]) -> int:
    """How deep things are nested at the most, given pairs of a thing and one that is directly in it.

    What goes round in a circle counts as if all of it were one chain.
    """
    within: dict[int, set[int]] = {}
    holders: dict[int, list[int]] = {}
    for outer, inner in inside:
        if inner not in within.setdefault(outer, set()):
            within[outer].add(inner)
            holders.setdefault(inner, []).append(outer)
    deepest = 0
    ready = dict.fromkeys((inner for inner in holders if inner not in within), 0)
    while ready:
        above: dict[int, int] = {}
        deepest += 1
        for inner in ready:
            for outer in holders.pop(inner, ()):
                within[outer].discard(inner)
                if not within[outer]:
                    del within[outer]
                    above[outer] = deepest
        ready = above
    return deepest + len(within)


class _Machine:
    """One run over one pickle."""

    def __init__(self, pickle: bytes, table: Table) -> None:
        self._pickle = pickle
        self._table = table
        self._globals: list[tuple[str, str]] = []
        self._uses: list[Use] = []
        self._stack: list[int] = []
        self._memo: list[int] = []
        self._marks: list[int] = []
        # How often each global was pushed without having been called yet. If a guarded one is left
        # at the end, a guard would stand in the value where the class stood.
        self._unused: list[int] = []
        # Of each numbered instance, how it was made; None once it must be given no other state.
        self._made: list[Use | None] = [None]
        # Which of the instances that must not be nested deeply were put into which.
        self._nested: list[tuple[int, int]] = []

    def run(self) -> bool:
        pickle, stack, memo = self._pickle, self._stack, self._memo
        fixed, counted, size = _FIXED, _COUNTED, len(self._pickle)
        if pickle[:2] != b"\x80\x05":
            _damaged("it does not begin with protocol 5")
        position = 2
        limit = size  # where the frame ends, or the pickle
        # The frequent opcodes stand here, inline; the others are methods.
        while True:
            if position >= limit:
                if position > limit or limit == size:
                    _damaged("an opcode is cut")
                limit = size
            opcode = pickle[position]
            position += 1
            if opcode == 0x94:  # MEMOIZE
                memo.append(stack[-1])
            elif opcode == 0x8C:  # SHORT_BINUNICODE
                stack.append(-position - 1)
                position += 1 + pickle[position]
            elif opcode in fixed:
                stack.append(1)
                position += fixed[opcode]
            elif opcode == 0x68:  # BINGET
                self._get(memo[pickle[position]])
                position += 1
            elif opcode == _MARK:
                self._marks.append(len(stack))
            elif opcode in counted:
                width = counted[opcode]
                end = position + width
                position = end + int.from_bytes(pickle[position:end], "little")
                if position > size:
                    _damaged("it is cut")
                stack.append(1 if opcode != 0x8B else min((position - end >> 3) + 1, HEAVIEST_KEY + 1))
            elif opcode == 0x6A:  # LONG_BINGET
                self._get(memo[int.from_bytes(pickle[position : position + 4], "little")])
                position += 4
            elif opcode == 0x95:  # FRAME
                start = position + 8
                end = start + int.from_bytes(pickle[position:start], "little")
                if limit != size or end > size:
                    _damaged("a frame in a frame, or a cut one")
                position, limit = start, end
            elif opcode == 0x2E:  # STOP
                break
            else:
                step = _STEPS.get(opcode)
                if step is None:
                    _damaged(f"opcode {opcode:#04x}")
                step(self)
        if position != size or len(stack) != 1 or self._marks:
            _damaged("it ends in the wrong place")
        for name, use, unused in zip(self._globals, self._uses, self._unused, strict=True):
            if use in (Use.GUARDED, Use.NEW) and unused:
                raise RefusedClassError(*name)
        if Use.NEW in self._made:
            _damaged("an instance without a state")
        if self._nested and _depth(self._nested) > DEEPEST_NEST:
            _damaged(f"deques or defaultdicts are nested more than {DEEPEST_NEST} deep")
        return bool(self._globals)

    def _get(self, item: int) -> None:
        self._stack.append(item)
        if item <= _GLOBAL:
            self._unused[_GLOBAL - item] += 1

    def _cut(self) -> list[int]:
        """The items above the last mark, taken off the stack with it."""
        mark = self._marks.pop()
        items = self._stack[mark:]
        del self._stack[mark:]
        return items

    def _fill(self, items: list[int]) -> None:
        """Check that what is about to be filled is not a class, and note what is put into what."""
        if not self._stack or self._stack[-1] <= _GLOBAL:
            _damaged("it fills something that is no container")
        outer = self._stack[-1] >> _WEIGHT_BITS
        if outer > 0:
            self._nested.extend([(outer, item >> _WEIGHT_BITS) for item in items if item > _WEIGHT])

    def _keys(self, items: list[int]) -> None:
        if max([item & _WEIGHT for item in items if item > 0], default=0) > HEAVIEST_KEY:
            _damaged(f"a dict key or set element has more than {HEAVIEST_KEY} parts")

    def _text(self, item: int) -> str:
        if not _GLOBAL < item < 0:
            _damaged("the name of a class is no text")
        start = -item
        return str(self._pickle[start : start + self._pickle[start - 1]], "utf-8", "surrogatepass")

    # Opcodes that take more items than lie above the last mark are left to the unpickler to refuse;
    # all but POP, which takes the mark itself: then a mark too many is left here at the end.

    def pop(self) -> None:
        self._stack.pop()

    def pop_mark(self) -> None:
        self._cut()

    def append(self) -> None:
        self._fill([self._stack.pop()])

    def appends(self) -> None:
        self._fill(self._cut())

    def setitem(self) -> None:
        value = self._stack.pop()
        self._keys([self._stack.pop()])
        self._fill([value])

    def setitems(self) -> None:
        items = self._cut()
        if len(items) % 2:
            _damaged("a key without a value")
        self._keys(items[::2])
        self._fill(items[1::2])

    def additems(self) -> None:
        items = self._cut()
        self._keys(items)
        self._fill(items)

    def frozen(self) -> None:
        items = self._cut()
        self._keys(items)
        self._stack.append(_weight(items))

    def tuple(self) -> None:
        self._stack.append(_weight(self._cut()))

    def tuple1(self) -> None:
        self._stack.append(_weight([self._stack.pop()]))

    def tuple2(self) -> None:
        self._stack.append(_weight([self._stack.pop(), self._stack.pop()]))

    def tuple3(self) -> None:
        self._stack.append(_weight([self._stack.pop(), self._stack.pop(), self._stack.pop()]))

    def stack_global(self) -> None:
        name, module = self._text(self._stack.pop()), self._text(self._stack.pop())
        grant = self._table.get((module, name))
        if grant is None:
            raise RefusedClassError(module, name)
        self._stack.append(_GLOBAL - len(self._globals))
        self._globals.append((module, name))
        self._uses.append(grant.use)
        self._unused.append(1)

    def reduce(self) -> None:
        arguments = self._stack.pop()
        self._call(self._stack.pop(), Use.GUARDED, _weight([arguments]))

    def newobj(self) -> None:
        arguments = self._stack.pop()
        self._call(self._stack.pop(), Use.NEW, _weight([arguments]))

    def newobj_ex(self) -> None:
        weight = _weight([self._stack.pop(), self._stack.pop()])
        self._call(self._stack.pop(), Use.NEW, weight)

    def build(self) -> None:
        self._stack.pop()
        number = self._stack[-1] >> _WEIGHT_BITS
        if number <= 0 or self._made[number] is None:
            _damaged("it gives a state to something that may have none")
        if self._made[number] is Use.NEW:
            self._made[number] = None

    def _call(self, item: int, wanted: Use, weight: int) -> None:
        """Check that a call is of the kind wanted; a registered class may be called either way."""
        if item > _GLOBAL:
            _damaged("it calls something that is no class")
        use = self._uses[_GLOBAL - item]
        if use is not wanted and use is not Use.ANY:
            raise RefusedClassError(*self._globals[_GLOBAL - item])
        self._unused[_GLOBAL - item] -= 1
        if use is not Use.GUARDED or self._globals[_GLOBAL - item] in _NESTING:
            weight |= len(self._made) << _WEIGHT_BITS
            self._made.append(None if use is Use.GUARDED else use)
        self._stack.append(weight)


_STEPS: Final = {
    0x30: _Machine.pop,
    0x31: _Machine.pop_mark,
    0x61: _Machine.append,
    0x65: _Machine.appends,
    0x73: _Machine.setitem,
    0x75: _Machine.setitems,
    0x90: _Machine.additems,
    0x91: _Machine.frozen,
    0x74: _Machine.tuple,
    0x85: _Machine.tuple1,
    0x86: _Machine.tuple2,
    0x87: _Machine.tuple3,
    0x93: _Machine.stack_global,
    0x52: _Machine.reduce,
    0x81: _Machine.newobj,
    0x92: _Machine.newobj_ex,
    0x62: _Machine.build,
}
