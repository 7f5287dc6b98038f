"""The names of classes and functions in keys: the same in every process that runs the same code.

A class whose name does not identify it is `Unkeyable`, as is any value that no key can tell from another.
"""

from __future__ import annotations

import os
import sys
from types import FunctionType

from cachekit.decorator.code_version import unwrapped
from cachekit.runtime.program import is_standard, shell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType
    from typing import Any, Final

_MAIN: Final = frozenset({"__main__", "__mp_main__"})
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
    found = _found(home_of(kind), name)
    made_in_c = module == "builtins" and not is_python_class(
        kind
    )  # as the class of functions, which is nowhere
    if found is not kind and (to_be_found or found is not None) and not made_in_c:
        raise Unkeyable(f"the class {module}.{name} is not what its module has under that name")
    return qualified_name(kind)


def home_of(named: type | FunctionType) -> dict[str, Any]:
    """Return the variables of the module of a class or function; empty if there is no such module.

    A profiler is the main module while it runs a program, and does not have what the program defines.
    """
    variables: dict[str, Any] = getattr(sys.modules.get(named.__module__), "__dict__", {})
    # A profiler is run with -m, so it has a spec. A script has none.
    is_program = named.__module__ != "__main__" or variables.get("__spec__") is None
    if is_program or _found(variables, named.__qualname__) is named:
        return variables
    for program in (*_programs, *_running()):
        if _found(program, named.__qualname__) is named:
            _note(program)
            return program
    return variables


# The variables of the last main programs that were found beside the main module.
_programs: Final[list[dict[str, Any]]] = []


def _note(program: dict[str, Any]) -> None:
    if not any(one is program for one in _programs):
        _programs[:] = [*_programs[-1:], program]


def _running() -> Iterator[dict[str, Any]]:
    """Yield the variables of the main programs that threads run."""
    for frame in sys._current_frames().values():
        inner: FrameType | None = frame
        while inner is not None:
            if inner.f_code.co_name == "<module>" and inner.f_globals.get("__name__") == "__main__":
                yield inner.f_globals
            inner = inner.f_back


def _found(variables: dict[str, Any], name: str) -> object:
    first, *others = name.split(".")
    found: object = variables.get(first)
    for part in others:
        found = getattr(found, "__dict__", {}).get(part)
    return found


def _is_made(named: type | FunctionType) -> bool:
    # A function that was made for a class, as by `dataclass`, has the variables of the main module.
    return isinstance(named, FunctionType) and unwrapped(named).__code__.co_filename.startswith("<")


def qualified_name(named: type | FunctionType) -> str:
    """Return module and qualified name.

    The main program is named by its file, by its real name with -m, or by the working directory of a shell.
    A function of a script that another program runs, as `runpy.run_path` does, is named by its file, too.
    """
    module: str | None = named.__module__
    variables = unwrapped(named).__globals__ if isinstance(named, FunctionType) else {}
    is_own = variables.get("__name__") == module
    if module in _MAIN:
        if not is_own or _is_made(named):
            variables = home_of(named) or vars(sys.modules["__main__"])
        spec = variables.get("__spec__")
        # The spec of a directory or an archive that is run as a program is named `__main__` only.
        if spec is not None and spec.name != "__main__":
            module = spec.name
        elif variables.get("__file__") is not None:
            module = os.path.realpath(variables["__file__"])
        else:
            module = shell()
    elif is_own and variables.get("__spec__") is None and variables.get("__file__") is not None:
        module = os.path.realpath(variables["__file__"])
    return f"{module or '<exec>'}.{named.__qualname__}"
