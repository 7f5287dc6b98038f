"""Digests of definitions that were made before: describing a class takes a millisecond.

Each call that a class is an argument of asks for its digest. A digest stands while every part of the classes
is the same object. Classes with attributes that may change in place are described each time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from operator import is_
from types import BuiltinFunctionType, FunctionType, GetSetDescriptorType, MemberDescriptorType

from cachekit.decorator.definition_parts import LEFT_OUT, annotations_of, is_sunder
from cachekit.decorator.homes import home_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final


_MOST: Final = 256
# By address, because a metaclass may forbid to hash a class. The first part is the subject itself.
# Then the classes it mentions, what all of them hold, and the digest.
_known: dict[int, tuple[list[type], list[object], str]] = {}


def recalled(subject: Any) -> str | None:
    """Return the digest of a class or function, if it still stands."""
    known = _known.get(id(subject))
    if known is None:
        return None
    classes, parts, digest = known
    return digest if all(map(is_, parts, _parts(subject, classes))) else None


def remember(subject: Any, classes: list[type], digest: str) -> None:
    """Keep the digest of a class or function, which mentions the classes."""
    if any(map(_is_mutable, [subject, *classes])):
        return
    if len(_known) >= _MOST:
        _known.clear()
    _known[id(subject)] = classes, list(_parts(subject, classes)), digest


def _parts(subject: Any, classes: Iterable[type]) -> Iterator[object]:
    # What each holds, and what its module has under its name, which the text of an annotation means.
    yield subject
    for one in chain([subject], classes):
        if isinstance(one, FunctionType):
            yield from (one.__code__, one.__doc__, one.__name__)
            yield from chain.from_iterable(annotations_of(one).items())
        yield home_of(one).get(one.__qualname__)
        for name, value in vars(one).items():
            yield name
            yield value
            if type(value) is dict:
                yield from chain.from_iterable(value.items())
        yield None  # so that a part that was added counts


def _is_mutable(one: Any) -> bool:
    # Whether an attribute may come to hold something else without being set.
    return any(
        not (_is_constant(value) or one in type(value).__mro__)
        for name, value in vars(one).items()
        if not (is_sunder(name) or name in LEFT_OUT or name in _OF_MODELS)
    )


def _is_constant(value: object) -> bool:
    if isinstance(value, (tuple, frozenset)):
        return all(map(_is_constant, value))
    if isinstance(value, dict):  # whose items are compared, too
        return all(map(_is_constant, value.values()))
    return isinstance(value, _CONSTANT) or type(value).__name__ in _CONSTANT_NAMES


_OF_MODELS: Final = frozenset({"model_fields", "model_computed_fields"})
_CONSTANT_NAMES: Final = frozenset({"cached_property", "_tuplegetter", "_lru_cache_wrapper"})
_CONSTANT: Final = (
    type(None), int, float, complex, str, bytes, type, FunctionType, classmethod, staticmethod, property,
    MemberDescriptorType, GetSetDescriptorType, BuiltinFunctionType,
)  # fmt: skip
