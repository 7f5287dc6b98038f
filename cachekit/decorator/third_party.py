"""The parts of values of third-party classes in a cache key: of numpy, pandas and pydantic.

They are common arguments, and their classes cannot get a `__cache_key__`, or share one base. Each is
decomposed into plain values, which `key_encoding` encodes. Nothing is imported here: a value of such a
class exists only if its module is imported.
"""

from __future__ import annotations

import sys

from cachekit.decorator.naming import Unkeyable
from cachekit.decorator.object_state import attributes
from cachekit.decorator.standard_values import zone_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

# Kinds of arrays whose items are their bytes: numbers, times, fixed texts, and records of them.
_PLAIN_ITEMS: Final = frozenset("biufcmMSUV")
_SHOWN: Final = 64  # the most bytes of an array that go into a key unhashed


def decompose(value: Any, kind: type) -> object:
    """Return plain values that two values of the class share exactly if they are equal; None for others.

    An array becomes its item type, its shape and its items, NaN by its bits. A model becomes its fields and
    its extra and private attributes. As for `==`, it does not matter which fields were set explicitly.

    Args:
        value: The argument of a call.
        kind: Its type, which its `__class__` may contradict.

    Raises:
        Unkeyable: an array of objects, or a model without a value for one of its fields.
    """
    numpy = sys.modules.get("numpy")
    if kind.__module__ == "numpy" and numpy is not None:
        # A subclass, such as a masked array, may hold more than its items.
        if kind is numpy.ndarray or issubclass(kind, numpy.generic):
            return _items(value)
        return None
    pandas = sys.modules.get("pandas")
    if pandas is not None and hasattr(pandas, "Timestamp"):
        if value is pandas.NaT:
            return "NaT"
        if issubclass(kind, (pandas.Timestamp, pandas.Timedelta)):
            return _moment(value, kind)
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


def _moment(value: Any, kind: type) -> object:
    # A time or span of pandas: a number of units, such as nanoseconds, and the zone with its rules then. A
    # `fold` may be set where no hour comes twice, too.
    moment, fold = value.asm8, getattr(value, "fold", 0)
    zone = zone_of(value) if getattr(value, "tzinfo", None) is not None else None
    parts = moment.dtype.str, int(moment.view("i8")), zone, attributes(value, kind)
    return (*parts, fold) if fold else parts


def _fields(value: Any, kind: Any) -> object:
    names = kind.model_fields
    held = value.__dict__
    unset = [name for name in names if name not in held]
    if unset:
        raise Unkeyable(f"the field {unset[0]} of a {kind.__qualname__} has no value yet")
    parts = (
        {name: held[name] for name in names},
        value.__pydantic_extra__,
        value.__pydantic_private__,
        # `model_dump(exclude_unset=True)` tells a default that was given from one that was not.
        value.__pydantic_fields_set__,
    )
    # Attributes that were set past the model's own checks.
    further = {
        name: part
        for name, part in attributes(value, kind).items()
        if name not in names and not name.startswith("__pydantic_")
    }
    return (*parts, further) if further else parts
