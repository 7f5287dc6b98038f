"""What identifies a cached function in its keys: its name, or the function object itself.

A function has a name that identifies it, or was given one. Its results are kept in every tier, and other
processes that run the same code find them. A closure, a lambda and a function made by `exec` may be one of
several with a name. Without a `name` such a function object has results of its own, as with
`functools.lru_cache`: in the memory of this process, and no longer than the function lives.
"""

from __future__ import annotations

import sys
import weakref
from itertools import count
from typing import Any, NamedTuple

from cachekit.decorator.callables import Subject
from cachekit.decorator.code_version import unwrapped
from cachekit.decorator.key_encoding import encode, identity_of, unclear_name
from cachekit.decorator.unkeyable import Unkeyable
from cachekit.loading.core import CacheCore
from cachekit.model.validation import checked_key

_numbers = count(1)


class Identity(NamedTuple):
    """What identifies a cached function."""

    name: str
    #: Whether the results belong to this function object alone.
    is_own: bool = False
    #: A callable whose content is part of each key.
    holder: Any = None


def identify(subject: Subject, name: str | None, has_key_func: bool) -> Identity:
    """Return the identity of a cached function.

    Args:
        subject: What is cached.
        name: The `name` that it was given, if any.
        has_key_func: Whether a `key_func` makes its keys, which then identify the function.

    Raises:
        TypeError, ValueError: `name` is no key, or a decorator of the function holds what has no identity.
    """
    holder = subject.holder
    try:
        encode(holder)
    except Unkeyable:
        is_keyable, holder = False, None
    else:
        is_keyable = True
    if name is not None:
        return Identity(checked_key(name, "name"), holder=holder)
    if has_key_func:
        return Identity(subject.name)
    if is_keyable and subject.holder is not None:
        return Identity(subject.name, holder=holder)
    if not is_keyable or _is_one_of_several(subject):
        # A number that no other function of this process has, unlike an address.
        return Identity(f"{subject.name}#{next(_numbers)}", is_own=True)
    return Identity(subject.name if subject.code is None else identity_of(subject.code))


def _is_one_of_several(subject: Subject) -> bool:
    function = subject.code
    if function is None:
        return False
    if unclear_name(function) is not None:
        return True
    innermost = unwrapped(function)
    if "<locals>" in innermost.__qualname__:
        try:
            identity_of(function)
        except ValueError:  # its decorators captured what cannot be told from another
            return True
    # Code that was run by `exec` with variables of its own belongs to no module and no file.
    variables = innermost.__globals__
    module = sys.modules.get(innermost.__module__ or "")
    return (
        vars(module) is not variables
        if module is not None and not _has_file(variables)
        else (module is None and not _has_file(variables))
    )


def _has_file(variables: dict[str, Any]) -> bool:
    return variables.get("__file__") is not None or variables.get("__spec__") is not None


def drop_with(owner: object, tag: str, caches: weakref.WeakSet[CacheCore]) -> None:
    """Drop the results with a tag from the memory of the caches when the owner is gone."""
    weakref.finalize(owner, _drop, tag, caches).atexit = False


def _drop(tag: str, caches: weakref.WeakSet[CacheCore]) -> None:
    for cache in list(caches):
        cache.forget_function(tag)
