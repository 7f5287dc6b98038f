"""What an object holds beyond the fields that its class declares: other attributes, and slots.

Two objects with equal fields may differ in an attribute that was set later, or that `__post_init__` made
from an InitVar. Results of `functools.cached_property` are left out: they follow from the rest.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from types import MemberDescriptorType

from cachekit.decorator.naming import Unkeyable, is_python_class

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final


_POINTER: Final = tuple.__itemsize__


def attributes(value: Any, kind: type) -> dict[str, object]:
    """Return the attributes that the object itself holds, private and slotted ones included.

    Args:
        value: Any object.
        kind: Its type, which its `__class__` may contradict.
    """
    held = dict(getattr(value, "__dict__", None) or {})
    for name in [name for name in held if _is_cached_property(kind, name)]:
        del held[name]
    for one in kind.__mro__:
        if "__slots__" in vars(one):
            for name, slot in list(vars(one).items()):
                if type(slot) is MemberDescriptorType:
                    try:
                        held[name if name not in held else f"{one.__qualname__}.{name}"] = slot.__get__(value)
                    except AttributeError:  # the slot is empty
                        pass
    return held


def beyond(value: Any, kind: type, fields: Iterable[str]) -> dict[str, object]:
    """Return the attributes of the object that are no field of it.

    Raises:
        Unkeyable: a base class that is written in C may hold more.
    """
    held = attributes(value, kind)
    for name in fields:
        held.pop(name, None)
    base = solid_base(kind)
    if issubclass(base, BaseException):
        held |= {name: getattr(value, name) for name in ("args", "__cause__", "__context__")}
        held = {name: part for name, part in held.items() if part is not None}
    elif base is not object:
        raise Unkeyable(f"its base {base.__module__}.{base.__qualname__} may hold more than its fields")
    return held


def solid_base(kind: type) -> type:
    """Return the class in C that lays out the memory of the objects; object, if they have attributes only."""
    while is_python_class(kind) and not _has_fields_in_c(kind):
        kind = kind.__base__ or object
    return kind


def _has_fields_in_c(kind: type) -> bool:
    # A class of a compiled module may look like one of Python, but its objects are larger than its slots,
    # its dict and its list of weak references need.
    base = kind.__base__ or object
    if base.__itemsize__:
        return False
    places = kind.__basicsize__ - base.__basicsize__
    for offset, inherited in (
        (kind.__dictoffset__, base.__dictoffset__),
        (kind.__weakrefoffset__, base.__weakrefoffset__),
    ):
        places -= _POINTER * (offset > 0 and not inherited)
    if places <= 0:
        return False
    slots = vars(kind).get("__slots__", ())
    declared = 1 if isinstance(slots, str) else sum(name not in {"__dict__", "__weakref__"} for name in slots)
    if places <= _POINTER * declared:
        return False
    if "__slots__" not in vars(kind):
        return True
    # The names may have been an iterator, which is used up.
    found = sum(type(slot) is MemberDescriptorType for slot in vars(kind).values())
    return places > _POINTER * found


def _is_cached_property(kind: type, name: str) -> bool:
    for one in kind.__mro__:
        if name in vars(one):
            found = type(vars(one)[name])
            # Frameworks have their own, under the name of the one in functools.
            return any(base.__name__ == "cached_property" for base in found.__mro__)
    return False


def content_of(value: Any, base: type) -> object:
    """Return the content of a subclass of a builtin, without the methods that the subclass overrides."""
    read = _PLAIN.get(base)
    return value if read is None else read(value)


# Types without an entry need none.
_PLAIN: Final[dict[type, Callable[[Any], object]]] = {
    int: int.__int__,
    float: float.__float__,
    complex: complex.__complex__,
    str: str.__str__,
    bytes: lambda value: bytes.__getitem__(value, slice(None)),
    bytearray: lambda value: bytearray.__getitem__(value, slice(None)),
    tuple: lambda value: _members(value),
    list: lambda value: list(list.__iter__(value)),
    set: lambda value: set(set.__iter__(value)),
    frozenset: lambda value: frozenset(frozenset.__iter__(value)),
    dict: lambda value: dict(dict.items(value)),
    OrderedDict: lambda value: OrderedDict(OrderedDict.items(value)),
}


def _members(value: tuple[Any, ...]) -> tuple[Any, ...]:
    # Returns the content of a tuple subclass, with the names of its fields if it has any: two classes of
    # one name may differ in them. `os.stat_result` and the like have more fields than the tuple shows.
    members = tuple(tuple.__iter__(value))
    kind = type(value)
    names = getattr(kind, "_fields", None)
    if isinstance(names, tuple):
        return names, members
    counts = vars(kind)
    if counts.get("n_fields", 0) != counts.get("n_sequence_fields", 0):
        reduced: Any = kind.__reduce__(value)  # the class, and the tuple with the other fields by name
        return members, reduced[1][1]
    return members


def has_slots(kind: type, base: type) -> bool:
    """Return whether a class adds slots to those of its base."""
    ours = kind.__mro__[: kind.__mro__.index(base)]
    return any(set(vars(one).get("__slots__", ())) - {"__weakref__"} for one in ours)
