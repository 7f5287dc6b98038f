"""Looks through a pickle before anything is built from it: no call, no allocation, no trust.

This module promises that a pickle which passes names only classes on the list, uses each only as
the list permits, and cannot make the unpickler allocate or hash more than a fixed multiple of the
pickle's size. It promises that the unpickler does what was inspected, opcode by opcode, also where the
unpickler refuses the pickle in the end. Constructing the values is left to the unpickler of the standard
library, which is fast and knows none of these limits.

How it works
------------
A pickle is a program for a small stack machine (the reference is Lib/pickle.py). This is the same
machine with the values left out: one integer per item. As there, a MARK puts the stack aside and begins
an empty one, so an opcode that takes more items than lie above the mark finds none. The machine follows
the opcodes that protocol 5 writes and refuses all others, among them:

- GLOBAL, INST, OBJ, EXT1-4 and the persistent ids, which would resolve names elsewhere;
- PUT, BINPUT and LONG_BINPUT, which choose their memo index: six bytes make the memo 34 GB large;
- a BYTEARRAY8 longer than the bytes that are left, which would be allocated before it is missed;
- POP on a mark, which takes the mark in the unpickler, and which pickling never writes;
- BUILD, APPEND and the like on a class, which would change the class for the whole process;
- APPEND, SETITEM and ADDITEMS on what is not of their kind: to set items of a deque takes the square of
  its length;
- BUILD on what a guard made, or twice on anything: a state would put into a path or a UUID what its
  guard keeps out;
- frames that end within an opcode or a frame: the unpickler drops what it had read of it, and goes on
  from another byte than the one that comes next here.

Items are integers. A positive one is a value. Its low bits are its weight, the number of parts that
hashing it touches; a shared part counts every time, because hashing does not remember tuples. So a tuple
that is nested deeply, which would overflow the C stack when hashed, or that doubles forty times by
reference, which would never finish, is too heavy for a key. Above `HEAVIEST_KEY` the weight counts levels
of nesting instead, and those end too: what is stored may be hashed by its reader. The other bits are the
kind of the value; kinds from `_INSTANCE` on are one instance each, of a class that may be filled or given
a state. -1 and below is a short text at position -item - 1, which may turn out to be the name of a class.
From `_GLOBAL` downwards it is one of the globals.
"""

from __future__ import annotations

from typing import Final, NamedTuple, NoReturn

from cachekit.errors import UnreadableError
from cachekit.serialization.collisions import COSTLY, MOST_ALIKE, MOST_NUMBERS
from cachekit.serialization.pickle_allowlist import Table, Use

#: The heaviest key or set element. Hashing takes about 100 bytes of C stack per level.
HEAVIEST_KEY: Final = 4096

#: How many levels of tuples and instances a value may have beyond those of the heaviest key.
DEEPEST_VALUE: Final = 4096

#: How deep a deque or defaultdict may stand in others: the interpreter guards other types by itself.
DEEPEST_NEST: Final = 4096

_WEIGHT_BITS: Final = 14
_WEIGHT: Final = (1 << _WEIGHT_BITS) - 1
assert HEAVIEST_KEY + DEEPEST_VALUE <= _WEIGHT

_GLOBAL: Final = -(1 << 62)
_MARK: Final = 0x28

# The kinds of values. Those of PLAIN are neither filled nor given a state.
_PLAIN: Final = 0
_LIST: Final = 1
_DICT: Final = 2
_SET: Final = 3
_LONG_TEXT: Final = 4  # one that takes long to become a number
_COLLIDING: Final = 5  # an integer of more than 64 bits, or a tuple: others may share its hash
_OF_LONG_TEXT: Final = 6  # a tuple of one such text
_COSTLY: Final = 7  # what a guard made: the same, and it takes long to compare
_INSTANCE: Final = 8

_VALUE: Final = 1  # one part, of kind PLAIN
_NUMBER: Final = _COLLIDING << _WEIGHT_BITS | 1
_TUPLE: Final = _COLLIDING << _WEIGHT_BITS

#: How much hashing a pickle may cause: so many parts of keys for each of its bytes, and so many besides.
HASHED_PER_BYTE: Final = 8
_HASHED_AT_LEAST: Final = 1 << 16

# Of these, hashing and comparing take as long as so many parts.
_EXACT: Final = frozenset({("decimal", "Decimal"), ("fractions", "Fraction")})
_EXACT_PARTS: Final = 16

# What may be filled by APPEND, by SETITEM and by ADDITEMS, besides instances of registered classes.
_SEQUENCES: Final = frozenset({("collections", "deque")})
_MAPPINGS: Final = frozenset(("collections", name) for name in ("OrderedDict", "defaultdict", "Counter"))
_FILLED: Final = _SEQUENCES | _MAPPINGS

# Opcodes that push one plain value: what stands for it here, and how many bytes follow.
_FIXED: Final = {
    0x4E: (_VALUE, 0),  # NONE
    0x88: (_VALUE, 0),  # NEWTRUE
    0x89: (_VALUE, 0),  # NEWFALSE
    0x4B: (_VALUE, 1),  # BININT1
    0x4D: (_VALUE, 2),  # BININT2
    0x4A: (_VALUE, 4),  # BININT
    0x47: (_VALUE, 8),  # BINFLOAT
    0x29: (_VALUE, 0),  # EMPTY_TUPLE
    0x5D: (_LIST << _WEIGHT_BITS | 1, 0),  # EMPTY_LIST
    0x7D: (_DICT << _WEIGHT_BITS | 1, 0),  # EMPTY_DICT
    0x8F: (_SET << _WEIGHT_BITS | 1, 0),  # EMPTY_SET
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


# What stands for those that are no plain value.
_SIZED: Final = {
    0x8A: _NUMBER,
    0x8B: _NUMBER,
    0x58: _LONG_TEXT << _WEIGHT_BITS | 1,
    0x8D: _LONG_TEXT << _WEIGHT_BITS | 1,
}
_HEAVIEST_NUMBER: Final = _NUMBER + HEAVIEST_KEY


class Inspected(NamedTuple):
    """What is known of a pickle that is safe to load."""

    names: bool  #: whether it names any class
    collides: bool  #: whether so many keys may share a hash that loading must watch them


class RefusedClassError(UnreadableError):
    """A pickle names a class, or uses one in a way, that the list does not permit."""

    def __init__(self, module: str, name: str) -> None:
        super().__init__(
            # Quoted, because a forger may have chosen the names.
            f"the stored pickle uses {f'{module}.{name}'!r} in a way that the allow-list does not permit",
            "class",
        )
        self.module = module
        self.name = name

    def __reduce__(self) -> tuple[type[RefusedClassError], tuple[str, str]]:
        return RefusedClassError, (self.module, self.name)


def _damaged(what: str) -> NoReturn:
    raise UnreadableError(f"not a pickle that was written here: {what}", "damage")


def inspect(pickle: bytes, table: Table) -> Inspected:
    """Look through a pickle, and say how it may be loaded.

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
    weight = 1 + sum([item & _WEIGHT if item > 0 else 1 for item in items])
    if weight <= HEAVIEST_KEY:
        return weight
    # From here on levels are counted, or tuples that double by reference would make numbers of any length.
    deepest = max([item & _WEIGHT for item in items if item > 0], default=1)
    if deepest >= HEAVIEST_KEY + DEEPEST_VALUE:
        _damaged(f"tuples are nested more than {DEEPEST_VALUE} deep")
    return max(deepest, HEAVIEST_KEY) + 1


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
        # What lies above the last mark, and below it one list for each mark.
        self._stack: list[int] = []
        self._below: list[list[int]] = []
        self._memo: list[int] = []
        # How often each global was pushed without having been called yet. If a guarded one is left
        # at the end, a guard would stand in the value where the class stood.
        self._unused: list[int] = []
        # Of each instance, from _INSTANCE on: which global made it, and whether it awaits a state (NEW),
        # takes any (ANY) or none (None).
        self._made: list[tuple[int, Use | None]] = [(0, None)] * _INSTANCE
        # Which of the instances that must not be nested deeply were put into which.
        self._nested: list[tuple[int, int]] = []
        # How many parts the keys have, how many keys could share a hash, and how many are no texts, in all
        # containers.
        self._hashed = 0
        self._collide = 0
        self._numbers = 0

    def run(self) -> Inspected:
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
                item, width = fixed[opcode]
                stack.append(item)
                position += width
            elif opcode == 0x68:  # BINGET
                item = memo[pickle[position]]
                stack.append(item)
                if item <= _GLOBAL:
                    self._unused[_GLOBAL - item] += 1
                position += 1
            elif opcode == _MARK:
                self._below.append(stack)
                self._stack = stack = []
            elif opcode in counted:
                width = counted[opcode]
                end = position + width
                position = end + int.from_bytes(pickle[position:end], "little")
                if position > size:
                    _damaged("it is cut")
                item = _SIZED.get(opcode, _VALUE)
                if item == _NUMBER:
                    item = (
                        min(item + (position - end >> 3), _HEAVIEST_NUMBER) if position - end > 8 else _VALUE
                    )
                stack.append(item)
            elif opcode == 0x6A:  # LONG_BINGET
                item = memo[int.from_bytes(pickle[position : position + 4], "little")]
                stack.append(item)
                if item <= _GLOBAL:
                    self._unused[_GLOBAL - item] += 1
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
                stack = self._stack
        if position != size or len(stack) != 1 or self._below:
            _damaged("it ends in the wrong place")
        for name, use, unused in zip(self._globals, self._uses, self._unused, strict=True):
            if use in (Use.GUARDED, Use.NEW) and unused:
                raise RefusedClassError(*name)
        if any(use is Use.NEW for _, use in self._made):
            _damaged("an instance without a state")
        if self._nested and _depth(self._nested) > DEEPEST_NEST:
            _damaged(f"collections are nested more than {DEEPEST_NEST} deep")
        if self._hashed > HASHED_PER_BYTE * size + _HASHED_AT_LEAST:
            _damaged("it asks to hash far more than was stored")
        return Inspected(bool(self._globals), self._collide > MOST_ALIKE or self._numbers > MOST_NUMBERS)

    def _cut(self) -> list[int]:
        """The items above the last mark, taken off the stack with it."""
        items = self._stack
        self._stack = self._below.pop()
        return items

    def _fill(self, items: list[int], kind: int, classes: frozenset[tuple[str, str]]) -> None:
        """Check that what is about to be filled is of the kind or classes, and note what is put into what."""
        outer = self._stack[-1]
        if outer > 0 and outer >> _WEIGHT_BITS == kind:
            return
        if outer < _INSTANCE << _WEIGHT_BITS:
            _damaged("it fills something that is no such container")
        made = self._made[outer >> _WEIGHT_BITS][0]
        if self._uses[made] is not Use.ANY and self._globals[made] not in classes:
            raise RefusedClassError(*self._globals[made])
        self._nested.extend(
            [
                (outer >> _WEIGHT_BITS, item >> _WEIGHT_BITS)
                for item in items
                if item >= _INSTANCE << _WEIGHT_BITS
            ]
        )

    def _keys(self, items: list[int]) -> None:
        count = len(items)
        self._hashed += count
        for item in items:
            if item > 0:
                self._numbers += 1
            if item > _VALUE:
                weight = item & _WEIGHT
                if weight > HEAVIEST_KEY:
                    _damaged(f"a dict key or set element has more than {HEAVIEST_KEY} parts")
                self._hashed += weight
                if item >= _TUPLE:
                    self._collide += 1 if item < _COSTLY << _WEIGHT_BITS else COSTLY

    def _text(self, item: int) -> str:
        if not _GLOBAL < item < 0:
            _damaged("the name of a class is no text")
        start = -item
        try:
            return str(self._pickle[start : start + self._pickle[start - 1]], "utf-8", "surrogatepass")
        except UnicodeDecodeError:
            _damaged("the name of a class is not UTF-8")

    # An opcode that takes more items than lie above the last mark ends with an IndexError: POP as well, which
    # would take the mark in the unpickler.

    def pop(self) -> None:
        self._stack.pop()

    def pop_mark(self) -> None:
        self._cut()

    def append(self) -> None:
        item = self._stack.pop()
        self._fill([item], _LIST, _SEQUENCES)

    def appends(self) -> None:
        items = self._cut()
        self._fill(items, _LIST, _SEQUENCES)

    def setitem(self) -> None:
        value = self._stack.pop()
        self._keys([self._stack.pop()])
        self._fill([value], _DICT, _MAPPINGS)

    def setitems(self) -> None:
        items = self._cut()
        if len(items) % 2:
            _damaged("a key without a value")
        self._keys(items[::2])
        self._fill(items[1::2], _DICT, _MAPPINGS)

    def additems(self) -> None:
        items = self._cut()
        self._keys(items)
        self._fill(items, _SET, frozenset())

    def frozen(self) -> None:
        items = self._cut()
        self._keys(items)
        self._stack.append(_TUPLE | _weight(items))

    def tuple(self) -> None:
        items = self._cut()
        if len(items) == 1:
            self._stack.append(items[0])
            self.tuple1()
        else:
            self._stack.append(_TUPLE | _weight(items))

    def tuple1(self) -> None:
        item = self._stack.pop()
        of_text = item > 0 and item >> _WEIGHT_BITS == _LONG_TEXT
        self._stack.append((_OF_LONG_TEXT << _WEIGHT_BITS if of_text else _TUPLE) | _weight([item]))

    def tuple2(self) -> None:
        stack = self._stack
        one, other = stack.pop(), stack.pop()
        # Items that are one part each are by far the most frequent.
        stack.append(_TUPLE | (3 if one <= _VALUE and other <= _VALUE else _weight([one, other])))

    def tuple3(self) -> None:
        stack = self._stack
        one, other, third = stack.pop(), stack.pop(), stack.pop()
        plain = one <= _VALUE and other <= _VALUE and third <= _VALUE
        stack.append(_TUPLE | (4 if plain else _weight([one, other, third])))

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
        item, weight = self._stack.pop(), _weight([arguments])
        if item <= _GLOBAL and self._globals[_GLOBAL - item] in _EXACT:
            # Hashing a Decimal takes by its digits, and each time again.
            long = arguments >> _WEIGHT_BITS == _OF_LONG_TEXT
            weight = HEAVIEST_KEY + 1 if long else min(weight + _EXACT_PARTS, HEAVIEST_KEY + 1)
        self._call(item, Use.GUARDED, weight)

    def newobj(self) -> None:
        arguments = self._stack.pop()
        self._call(self._stack.pop(), Use.NEW, _weight([arguments]))

    def newobj_ex(self) -> None:
        weight = _weight([self._stack.pop(), self._stack.pop()])
        self._call(self._stack.pop(), Use.NEW, weight)

    def build(self) -> None:
        self._stack.pop()
        kind = self._stack[-1] >> _WEIGHT_BITS
        if kind < _INSTANCE or self._made[kind][1] is None:
            _damaged("it gives a state to something that may have none")
        made, use = self._made[kind]
        if use is Use.NEW:
            self._made[kind] = made, None

    def _call(self, item: int, wanted: Use, weight: int) -> None:
        """Check that a call is of the kind wanted; a registered class may be called either way."""
        if item > _GLOBAL:
            _damaged("it calls something that is no class")
        use = self._uses[_GLOBAL - item]
        if use is not wanted and use is not Use.ANY:
            raise RefusedClassError(*self._globals[_GLOBAL - item])
        self._unused[_GLOBAL - item] -= 1
        if use is not Use.GUARDED or self._globals[_GLOBAL - item] in _FILLED:
            weight |= len(self._made) << _WEIGHT_BITS
            self._made.append((_GLOBAL - item, None if use is Use.GUARDED else use))
        else:
            weight |= _COSTLY << _WEIGHT_BITS
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
