"""How many bytes an entry takes, and the bound of a memory tier in bytes.

An entry takes its value with all that this holds, the key, the tags and the overhead of an entry. It is
weighed once, when the value is stored, so a value that grows later does not weigh more. A user's `weigher`
replaces the weight of the entry, in any unit.

How a value is measured
-----------------------
Each object that the value holds counts once, as the allocator stores it, and each is looked at: what was left
out could be the largest. Most of the work is done by functions in C, over up to 512 containers at a time. It
ends as soon as the value is known to be too large to be kept.

Many values share classes, modules and what these hold, so none is charged for them. No code of a value's
class runs: a `__sizeof__` in Python could say anything.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from itertools import chain
from math import inf
from sys import getrefcount
from types import (
    BuiltinFunctionType,
    CodeType,
    FrameType,
    FunctionType,
    GetSetDescriptorType,
    MethodDescriptorType,
    ModuleType,
    TracebackType,
    WrapperDescriptorType,
)
from typing import Any, Final, NamedTuple, final

from cachekit.model.display import safe_repr, shown_key, typed_repr
from cachekit.runtime.interrupts import raise_interrupt
from cachekit.tiers.memory.entry import MemoryEntry

#: The overhead of an entry beside key and value: the entry with its weight, three floats, a place in the dict
#: and a node of its order. It takes 300 bytes, where the dict has just grown.
BOOKKEEPING: Final = sys.getsizeof(MemoryEntry()) + 16 + 3 * 32 + 100

_PER_TAG: Final = 80  # the place of a key in the index of a tag
#: The place of a tag in the index, and its set of keys.
TAG_IN_INDEX: Final = 320

#: One entry may take at most this fraction of the bound, so no value can evict more than that.
LARGEST_SHARE: Final = 4

Weigher = Callable[[str, Any], int]


def entry_size(
    key: str, value: Any, tags: frozenset[str], most: float = inf, most_objects: float = inf
) -> int:
    """Return the bytes of an entry in memory, without the data of an eviction policy. See `size_of`."""
    size = _size_of_text(key) + BOOKKEEPING
    if tags:
        size += sys.getsizeof(tags) + sum(map(_size_of_text, tags)) + _PER_TAG * len(tags)
    return size + size_of(value, most - size, most_objects)


@final
class ByteBound:
    """The bound of a memory tier in bytes, and the weight of each entry.

    Args:
        limit: The maximum weight of all entries, at least 1.
        weigher: Called with key and value, without any lock; returns the weight. None means an estimate
            in bytes.

    Raises:
        TypeError: the limit is not an int, or the weigher is not callable.
        ValueError: the limit is less than 1.
    """

    __slots__ = ("_weigher", "largest", "limit", "per_tag")

    def __init__(self, limit: int, weigher: Weigher | None) -> None:
        if isinstance(limit, bool) or not isinstance(limit, int):
            raise TypeError(f"max_bytes must be an int, not {typed_repr(limit)}")
        if limit < 1:
            raise ValueError(f"max_bytes must be at least 1, not {limit}; use None for no limit")
        if weigher is not None and not callable(weigher):
            raise TypeError(f"weigher must be callable as f(key, value) -> int, not {safe_repr(weigher)}")
        self.limit = limit
        #: The maximum weight of one entry.
        self.largest = -(-limit // LARGEST_SHARE)
        self._weigher = weigher
        #: The weight of a tag beside its entries, as long as one has it.
        self.per_tag = TAG_IN_INDEX if weigher is None else 0

    def weigh(self, key: str, value: Any, tags: frozenset[str]) -> int:
        """Return the weight of an entry.

        Raises:
            TypeError: the user's weigher returned something other than an int.
            ValueError: it returned less than 0.
            Exception: it raised this itself.
        """
        if self._weigher is None:
            return entry_size(key, value, tags, self.largest)
        weight = self._weigher(key, value)
        if isinstance(weight, bool) or not isinstance(weight, int):
            raise TypeError(f"weigher must return an int, not {typed_repr(weight)}, for {shown_key(key)}")
        if weight < 0:
            raise ValueError(f"weigher must return 0 or more, not {weight}, for {shown_key(key)}")
        return weight


#: Types whose values hold nothing that they do not count themselves.
_LEAVES: Final = frozenset({int, float, bool, type(None), bytes, complex, bytearray})
_FLAT: Final = _LEAVES | {str}
_SMALL: Final = frozenset({dict, list, tuple, set, frozenset})
_FEW: Final = 32
_SMALL_SIZE: Final = 2048

# Reachable from many values, so none of them is charged for these. A traceback holds the whole program.
_SHARED: Final = (type, ModuleType, BuiltinFunctionType, CodeType, FrameType, TracebackType)
_SHARED_MODULES: Final = frozenset({"logging"})

_TOGETHER: Final = 512  # containers that one call looks into
_SLICE: Final = 8192  # objects that are looked at together
_IN_C: Final = (MethodDescriptorType, WrapperDescriptorType)
_HEAP: Final = 1 << 9
_HAS_TRAVERSE: Final = 1 << 14
_IS_DICT: Final = 1 << 29
_HEADERS: Final = 32  # before an object: of the garbage collector, and of attributes
#: The array of an object's attributes takes so many bytes less than the dict of them, and not more than this.
_WITHOUT_DICT: Final = 48
_LARGEST_ARRAY: Final = 304
#: A text that is not ASCII, without its characters.
_TEXT: Final = sys.getsizeof(chr(0x100)) - 4
_PIECE: Final = 1 << 16


class _Look(NamedTuple):
    """How objects of a type are measured."""

    size: Callable[[Any], int]
    holds: Callable[[Any], list[Any]] | None  #: what to look at beside it; None if `gc` finds it
    opens: bool  #: whether it may hold anything
    shares: tuple[type, ...]  #: classes whose attributes are not its own
    attributes: GetSetDescriptorType | None  #: gives the dict of its attributes, if it has one


# Emptied when full, because it keeps classes alive.
_looks: dict[type, _Look] = {}
_MOST_LOOKS: Final = 256


def size_of(value: object, most: float = inf, most_objects: float = inf) -> int:
    """Return the bytes that a value takes in memory.

    Args:
        value: Any object.
        most: End as soon as it takes more; the result is then some number above this.
        most_objects: Look at no more objects than about this. The others are taken to be like them.
    """
    kind = type(value)
    if kind in _LEAVES:
        return sys.getsizeof(value) + 15 & -16
    if kind is str:
        return _size_of_text(value)  # type: ignore[arg-type]
    if kind in _SMALL:
        size = _small(value)
        if size:
            return size
    look = _looks.get(kind) or _look_at(kind)
    size = look.size(value)
    if not look.opens:
        return size
    seen = {id(value)}
    pending: list[object] = []
    found = gc.get_referents(value) if look.holds is None else look.holds(value)
    if look.attributes is not None:  # after that, because it makes a dict
        size += _space_of_attributes(look.attributes, value)
    if kind.__flags__ & _IS_DICT:
        _add_keys(found, value)
    for shared in look.shares:
        seen.update(map(id, vars(shared).values()))
    looked = 1
    while True:
        for start in range(0, len(found), _SLICE):
            some = found if len(found) <= _SLICE else found[start : start + _SLICE]
            size += _new(some, seen, pending)
            if size > most:
                return size
        if not pending:
            return size
        looked += len(found)
        if looked > most_objects:
            return round(size * (looked + len(pending)) / looked)
        found = _referents(pending)


def _new(objects: list[object], seen: set[int], pending: list[object]) -> int:
    """Return the bytes of those objects that were not seen yet."""
    fresh = {id(one): one for one in objects}
    for address in seen.intersection(fresh):
        del fresh[address]
    kinds = set(map(type, fresh.values()))
    objects = [*fresh.values()]
    size = _flat(objects, kinds) if kinds <= _FLAT else _deep(objects, kinds, pending, seen)
    if pending or len(objects) >= _SLICE:
        # What one container alone holds is not met again.
        seen.update([address for address, one in fresh.items() if getrefcount(one) > _UNSHARED])
    return size


def _small(value: Any) -> int:
    """Return the bytes of a small container of leaves, as most values are; 0 for any other."""
    if len(value) > _FEW:
        return 0
    size = sys.getsizeof(value) + 15 & -16
    for one in chain(value, value.values()) if type(value) is dict else value:
        kind = type(one)
        if kind is str:
            if not one.isascii():
                return 0
        elif kind not in _LEAVES:
            return 0
        size += sys.getsizeof(one) + 15 & -16
    # Parts that are in it twice are not worth a look.
    return size if size <= _SMALL_SIZE else 0


def _references() -> int:
    """Return how many references `_new` sees to an object that one container holds."""
    container = [object()]
    objects = gc.get_referents(container)
    fresh = {id(one): one for one in objects}
    return [getrefcount(one) for _, one in fresh.items()][0]  # noqa: RUF015


_UNSHARED: Final = _references()


def _referents(pending: list[object]) -> list[object]:
    some = pending[-_TOGETHER:]
    del pending[-_TOGETHER:]
    found = gc.get_referents(*some)
    for one in some:
        if type(one).__flags__ & _IS_DICT:
            _add_keys(found, one)
    return found


def _add_keys(found: list[object], container: Any) -> None:
    # The garbage collector does not see keys that are texts.
    try:
        found += dict.keys(container)
    except RuntimeError:  # another thread changed it at the same time
        found += list(dict.copy(container))


def _flat(objects: Any, kinds: set[type]) -> int:
    """Return the bytes of objects of `_FLAT`."""
    size = sum([one + 15 & -16 for one in map(sys.getsizeof, objects)])
    if str in kinds:
        texts = objects if len(kinds) == 1 else [one for one in objects if type(one) is str]
        if not all(map(str.isascii, texts)):
            size += sum([_size_of_cache(text) for text in texts if not text.isascii()])
    return size


def _deep(objects: list[Any], kinds: set[type], pending: list[object], seen: set[int]) -> int:
    """Return the bytes of any objects. Add those that may hold others to `pending`."""
    flat = kinds & _FLAT
    size = _flat([one for one in objects if type(one) in flat], flat) if flat else 0
    looks = {kind: _looks.get(kind) or _look_at(kind) for kind in kinds - flat}
    for look in looks.values():
        for shared in look.shares:
            seen.update(map(id, vars(shared).values()))
    arrays: dict[type, int] = {}
    for one in objects:
        kind = type(one)
        look = looks.get(kind)  # type: ignore[assignment]
        if look is not None:
            size += look.size(one)
            if look.attributes:
                space = arrays.get(kind)
                if space is None:
                    space = arrays[kind] = _space_of_attributes(look.attributes, one)
                size += space
            if look.holds is not None:
                pending.append(look.holds(one))
            elif look.opens:
                pending.append(one)
    return size


def _look_at(kind: type) -> _Look:
    if len(_looks) >= _MOST_LOOKS:
        _looks.clear()
    look = _looks[kind] = _made_look(kind)
    return look


def _made_look(kind: type) -> _Look:
    if issubclass(kind, _SHARED) or str(kind.__module__).partition(".")[0] in _SHARED_MODULES:
        return _Look(_nothing, None, False, (), None)
    if kind is FunctionType:
        return _Look(_rounded(sys.getsizeof), _held_by_function, True, (), None)
    measure = _measure(kind)
    numpy = sys.modules.get("numpy")
    if numpy is not None and issubclass(kind, numpy.ndarray):
        return _Look(_rounded(measure), _held_by_array, True, (), None)
    if kind.__flags__ & _HEAP:
        shares = tuple(one for one in kind.__mro__ if one.__flags__ & _HEAP)
        if any(one.__module__ == "_ctypes" for one in kind.__mro__):
            measure = _with_buffer(measure)
        attributes = (vars(one).get("__dict__") for one in shares)
        found = next((one for one in attributes if type(one) is GetSetDescriptorType), None)
        return _Look(_rounded(measure), None, True, shares, found)
    opens = bool(kind.__flags__ & _HAS_TRAVERSE)
    return _Look(_rounded(measure if opens else _with_buffer(measure)), None, opens, (), None)


def _measure(kind: type) -> Callable[[Any], int]:
    """Return what measures an object of a type without running code of its class."""
    in_c = next(own for one in kind.__mro__ if isinstance(own := vars(one).get("__sizeof__"), _IN_C))
    if kind.__sizeof__ is in_c:
        return sys.getsizeof

    def measure(value: Any) -> int:
        size: int = in_c(value)
        return size + _HEADERS

    return measure


def _nothing(_: object) -> int:
    return 0


def _rounded(measure: Callable[[Any], int]) -> Callable[[Any], int]:
    # As the allocator does.
    return lambda value: measure(value) + 15 & -16


def _space_of_attributes(attributes: GetSetDescriptorType, value: object) -> int:
    """Return the bytes of the array in which an object of this class has its attributes.

    No `__sizeof__` counts it. Its length is that of the class's objects with the most attributes.
    """
    held: Any = attributes.__get__(value)
    return min(sys.getsizeof(held) - _WITHOUT_DICT, _LARGEST_ARRAY) + 15 & -16


def _with_buffer(measure: Callable[[Any], int]) -> Callable[[Any], int]:
    # An array of ctypes does not count its content.
    def size(value: Any) -> int:
        try:
            with memoryview(value) as view:
                return max(measure(value), view.nbytes + _HEADERS)
        except (TypeError, ValueError, BufferError) as error:
            raise_interrupt(error)
            return measure(value)

    return size


def _held_by_function(function: FunctionType) -> list[Any]:
    # One of a module belongs to that.
    if "<" not in function.__qualname__:
        return []
    return [function.__closure__, function.__defaults__, function.__kwdefaults__, function.__dict__]


def _held_by_array(array: Any) -> list[Any]:
    # A view holds the whole array. The garbage collector sees neither that nor objects in an array.
    return [array.base, array.tolist() if array.dtype.hasobject else None]


def _size_of_text(text: str) -> int:
    size = sys.getsizeof(text) + 15 & -16
    return size if text.isascii() else size + _size_of_cache(text)


def _size_of_cache(text: str) -> int:
    """Return the bytes that a text may still take in UTF-8: pickling it leaves them in it."""
    length = len(text)
    encoded = 1
    for start in range(0, length, _PIECE):
        encoded += len(text[start : start + _PIECE].encode("utf-8", "surrogatepass"))
    without = sys.getsizeof(text) - encoded - _TEXT
    return 0 if without in (length + 1, 2 * length + 2, 4 * length + 4) else encoded + 15 & -16
