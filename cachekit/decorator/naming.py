"""The names of classes and functions in keys: the same in every process that runs the same code.

A class whose name does not identify it is `Unkeyable`, as is any value that no key can tell from another.
"""

from __future__ import annotations

from types import FunctionType

from cachekit.decorator.homes import found, home_of, is_gone, module_name
from cachekit.runtime.program import is_standard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_MUTABLE: Final = 1 << 9  # a heap type,
_IMMUTABLE: Final = 1 << 8  # whose attributes can be set


class Unkeyable(Exception):  # noqa: N818  # becomes a KeyEncodingError once the argument is known
    """A value has no identity that could be part of a key; the message says why, and which part it is."""


def is_python_class(kind: type) -> bool:
    """Return whether a `class` statement, or a call of `type`, made the class; the others are made in C."""
    return kind.__flags__ & (_MUTABLE | _IMMUTABLE) == _MUTABLE


def is_fixed(kind: type) -> bool:
    """Return whether the name and the version of Python determine the class: it is built in or standard."""
    return not is_python_class(kind) or is_standard(kind.__module__)


def class_name(kind: type, *, to_be_found: bool = False) -> str:
    """Return the name of a class, if it identifies the class.

    Classes of one factory may share a name. A class that its module does not have under its name may still
    be the only one of that name. That is enough for the values of a class, but not for a class itself.

    Raises:
        Unkeyable: several classes may have that name.
    """
    module, name = kind.__module__, kind.__qualname__
    if "<locals>" in name:
        raise Unkeyable(f"the class {name} is defined inside a function, which may create several")
    home = home_of(kind)
    there = found(home, name)
    # The class of functions, for one, is nowhere.
    is_builtin = module == "builtins" and not is_python_class(kind)
    if there is not kind and (to_be_found or there is not None) and not is_builtin:
        raise Unkeyable(f"the class {module}.{name} is not what its module has under that name")
    if is_gone(kind):
        raise Unkeyable(f"the class {name} is of a script that has ended")
    return f"{module_name(kind, home)}.{name}"


def qualified_name(named: type | FunctionType) -> str:
    """Return module and qualified name."""
    return f"{module_name(named)}.{named.__qualname__}"
