"""What tells values of other people's classes apart: arrays and numbers of numpy, models of pydantic.

They are arguments every day, and their classes take no `__cache_key__`, or have one base for all. Each is
taken apart into plain values, which `keys` writes as any others. Nothing is imported here: a value of
theirs is only there if its module is.
"""

from __future__ import annotations

import sys
from typing import Any, Final


class Unkeyable(Exception):  # noqa: N818  # becomes a KeyEncodingError once the argument is known
    """A value has nothing that could stand in a key for it; the message says why."""


# Whose items are their bytes: numbers, times, fixed texts, and records of them.
_PLAIN_ITEMS: Final = frozenset("biufcmMSUV")
_SHOWN: Final = 64  # bytes of an array that go into a key as they are


def decompose(value: Any, kind: type) -> object:
    """Plain values that two values of the class share exactly if they are equal; None for other classes.

    An array is its type of items, its shape, and its items, NaN by its bits. A model is its fields, and
    what it has besides them (extra and private ones); which were given and which are defaults does not
    count, as it does not for `==`.

    Args:
        value: the argument.
        kind: its class, whatever it says of itself.

    Raises:
        Unkeyable: an array of objects, or a model without a value for one of its fields.
    """
    numpy = sys.modules.get("numpy")
    if kind.__module__ == "numpy" and numpy is not None:
        # A subclass, such as a masked array, may hold more than its items.
        if kind is numpy.ndarray or issubclass(kind, numpy.generic):
            return _items(value)
        return None
    pydantic = sys.modules.get("pydantic.main")
    if pydantic is not None:
        if issubclass(kind, pydantic.BaseModel) and hasattr(kind, "model_fields"):  # from version 2 on
            return _fields(value, kind)
        if kind.__module__ in {"pydantic.networks", "pydantic_core._pydantic_core"} and hasattr(
            kind, "unicode_string"
        ):
            return str(value)
    return None


def _items(value: Any) -> object:
    if value.dtype.kind not in _PLAIN_ITEMS or value.dtype.hasobject:
        raise Unkeyable(f"an array of {value.dtype} holds more than the bytes of its items")
    items = value.tobytes()
    if len(items) > _SHOWN:
        import hashlib

        items = hashlib.blake2b(items, digest_size=32).digest()
    return value.dtype.descr, value.shape, items


def _fields(value: Any, kind: Any) -> object:
    names = kind.model_fields
    held = value.__dict__
    unset = [name for name in names if name not in held]
    if unset:
        raise Unkeyable(f"the field {unset[0]} of a {kind.__qualname__} has no value yet")
    return {name: held[name] for name in names}, value.__pydantic_extra__, value.__pydantic_private__
