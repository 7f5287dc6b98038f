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
from types import FunctionType

from cachekit.decorator.code_version import unwrapped, version_of
from cachekit.decorator.homes import remember_main
from cachekit.decorator.key_encoding import encode, identity_of, name_of, unclear_name
from cachekit.decorator.naming import Unkeyable
from cachekit.model.validation import checked_key

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

    from cachekit.loading.core import CacheCore

COROUTINE: Final = 0x80
_GENERATOR: Final = 0x20
_ASYNC_GENERATOR: Final = 0x200


class Subject:
    """What is cached: a `def`, and what stands behind it if it was made for another callable.

    Args:
        function: The `def`.
        holder: The callable, if it holds more than its name says.
        code: The function in Python that runs in the end; None for a callable in C.
        name: Module and qualified name, if they are not those of the code.

    Raises:
        TypeError: it is a generator.
    """

    __slots__ = ("_name", "code", "function", "holder")

    def __init__(
        self, function: FunctionType, holder: Any, code: FunctionType | None, name: str | None = None
    ) -> None:
        self.function = function
        self.holder = holder
        self.code = code
        self._name = name
        flags = 0 if code is None else code.__code__.co_flags | unwrapped(code).__code__.co_flags
        if flags & (_GENERATOR | _ASYNC_GENERATOR):
            raise TypeError(
                f"{function.__qualname__} must not be a generator, because its items can be read only once; "
                f"return a list instead"
            )

    def name(self) -> str:
        """Return module and qualified name."""
        return name_of(self.function) if self._name is None else self._name

    def version(self) -> str:
        """Return the version of the code; of a callable in C, the version of Python."""
        codes = [] if self.code is None else [self.code]
        # An object that is called may wrap a function, as decorators that are classes do.
        wrapped = getattr(self.holder, "__wrapped__", None)
        if isinstance(wrapped, FunctionType):
            codes.append(wrapped)
        return "+".join(map(version_of, codes)) or f"py{sys.version_info[0]}.{sys.version_info[1]}"


def identify(subject: Subject, name: str | None, has_key_func: bool) -> tuple[str, bool, Any]:
    """Return the identity of a cached function.

    Args:
        subject: What is cached.
        name: The `name` that it was given, if any.
        has_key_func: Whether a `key_func` makes its keys, which then identify the function.

    Returns:
        The name; whether the results belong to this function object alone; and a callable whose content is
        part of each key, or None.

    Raises:
        TypeError, ValueError: `name` is no key, or a decorator of the function holds what has no identity.
    """
    remember_main()  # its classes may be arguments when it has ended
    holder = subject.holder if _is_keyable(subject.holder) else None
    if name is not None:
        return checked_key(name, "name"), False, holder
    if has_key_func or holder is not None:
        return subject.name(), False, holder
    if subject.holder is not None or (subject.code is not None and _is_one_of_several(subject.code)):
        # A number that no other function of this process has, unlike an address.
        return f"{subject.name()}#{next(_numbers)}", True, None
    return subject.name() if subject.code is None else identity_of(subject.code), False, None


_numbers: Final = count(1)


def _is_keyable(holder: object) -> bool:
    try:
        encode(holder)
    except Unkeyable:
        return False
    return True


def _is_one_of_several(function: FunctionType) -> bool:
    if unclear_name(function) is not None:
        return True
    innermost = unwrapped(function)
    inside, _, name = innermost.__qualname__.rpartition("<locals>.")
    if inside and "." in name:  # a method of a class inside a function, which may create several
        return True
    if inside:
        try:
            identity_of(function)
        except ValueError:  # its decorators captured what cannot be told from another
            return True
    # Code that was run by `exec` with variables of its own belongs to no module and no file.
    variables = innermost.__globals__
    module = sys.modules.get(innermost.__module__ or "")
    if module is not None and vars(module) is variables:
        return False
    return variables.get("__file__") is None and variables.get("__spec__") is None


def drop_with(owner: object, tag: str) -> weakref.WeakSet[CacheCore]:
    """Return a set for caches, whose results with the tag leave memory when the owner is gone."""
    caches: weakref.WeakSet[CacheCore] = weakref.WeakSet()
    weakref.finalize(owner, _drop, tag, caches).atexit = False
    return caches


def _drop(tag: str, caches: weakref.WeakSet[CacheCore]) -> None:
    for cache in list(caches):
        cache.forget_function(tag)
