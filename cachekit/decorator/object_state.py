"""What an object holds beyond the fields that its class declares: other attributes, and slots.

Two objects with equal fields may differ in an attribute that was set later, or that `__post_init__` made
from an InitVar. Results of `functools.cached_property` are left out: they follow from the rest.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import MemberDescriptorType
from typing import Any

from cachekit.decorator.naming import is_python_class
from cachekit.decorator.unkeyable import Unkeyable


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
    while is_python_class(kind):
        kind = kind.__base__ or object
    return kind


def _is_cached_property(kind: type, name: str) -> bool:
    for one in kind.__mro__:
        if name in vars(one):
            found = type(vars(one)[name])
            # Frameworks have their own, under the name of the one in functools.
            return any(base.__name__ == "cached_property" for base in found.__mro__)
    return False
