"""Where a class or function is at home: the variables of its module, and the name of that in keys.

That is hard for the main program. A profiler is the main module while it runs one. A script that another
program runs, as `runpy.run_path` does, is no module any more when it has ended. And its own file is unknown
then: Python removes `__file__` from the variables of a main program that has ended, also if threads go on.

No variables are kept here. What they refer to would not be finalized at the end of the interpreter.
"""

from __future__ import annotations

import os
import sys
from functools import lru_cache, partial
from types import FunctionType, ModuleType
from weakref import ref

from cachekit.decorator.code_version import unwrapped
from cachekit.runtime.program import shell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType
    from typing import Any, Final, TypeAlias

    Variables: TypeAlias = dict[str, Any]
    Named: TypeAlias = type | FunctionType

_MAIN: Final = frozenset({"__main__", "__mp_main__"})


class _Remembered:
    """What is known of classes and functions, as long as they live."""

    def __init__(self) -> None:
        # By address: a metaclass may forbid to hash a class.
        self._texts: dict[int, tuple[ref[Any], str]] = {}

    def get(self, thing: Any) -> str | None:
        known = self._texts.get(id(thing))
        return known[1] if known is not None and known[0]() is thing else None

    def keep(self, thing: Any, text: str) -> str:
        address = id(thing)
        self._texts[address] = ref(thing, partial(self._forget, address)), text
        return text

    def _forget(self, address: int, reference: ref[Any]) -> None:
        known = self._texts.get(address)
        if known is not None and known[0] is reference:
            self._texts.pop(address, None)


#: The names of the modules of classes and functions of programs, which are found out once.
_names: Final = _Remembered()
#: Classes that were looked for and not found.
_nowhere: Final = _Remembered()
#: The name of the main module, which is known as long as its program runs.
_of_main: Final = _Remembered()
_no_main: Final = ModuleType("__main__")


def home_of(named: Named) -> Variables:
    """Return the variables of the module of a class or function; empty if there is no such module."""
    variables: Variables = getattr(sys.modules.get(named.__module__), "__dict__", {})
    if isinstance(named, FunctionType):
        own = unwrapped(named)
        # One that was made for a class, as by `dataclass`, has the variables of the main module.
        is_made = own.__code__.co_filename.startswith("<") and own.__globals__ is variables
        if own.__globals__.get("__name__") == named.__module__ and not is_made:
            return own.__globals__
    if found(variables, named.__qualname__) is named or _nowhere.get(named) is not None:
        return variables
    for other in _others(named):
        if found(other, named.__qualname__) is named:
            return other
    if not _may_be_profiled(named):  # where it may be found as soon as its `class` statement has ended
        _nowhere.keep(named, "")
    return variables


def found(variables: Variables, name: str) -> object:
    """Return what has a qualified name among variables, or None."""
    first, *others = name.split(".")
    part: object = variables.get(first)
    for other in others:
        part = getattr(part, "__dict__", {}).get(other)
    return part


def module_name(named: Named, home: Variables | None = None) -> str:
    """Return the name of the module of a class or function in keys.

    The main program is named by its file, by its real name with -m, or by the working directory of a shell.
    A script that another program runs is named by its file, too.

    Args:
        named: The class or function.
        home: What `home_of` has returned for it; None if it was not asked.
    """
    known = _names.get(named)
    if known is not None:
        return known
    module: str | None = named.__module__
    variables = home_of(named) if home is None else home
    if module in _MAIN:
        name = _name_of_main(variables or vars(_main()))
    elif variables.get("__spec__") is None and variables.get("__file__") is not None:
        name = _real(variables["__file__"])
    else:
        return module or "<exec>"
    return _names.keep(named, name)


def _name_of_main(variables: Variables) -> str:
    main = _main()
    spec = variables.get("__spec__")
    # The spec of a directory or an archive that is run as a program is named `__main__` only.
    if spec is not None and spec.name != "__main__":
        name = str(spec.name)
    elif variables.get("__file__") is not None:
        name = _real(variables["__file__"])
    else:
        known = _of_main.get(main) if variables is vars(main) else None
        # Python leaves the loader of a main program that has ended. A console has none for what it runs.
        return known if known is not None and variables.get("__loader__") is not None else shell()
    return _of_main.keep(main, name) if variables is vars(main) else name


def _real(file: str) -> str:
    """Return the path of the file of a program, which each decorated function asks for."""
    return _real_of_absolute(file) if os.path.isabs(file) else os.path.realpath(file)


_real_of_absolute: Final = lru_cache(64)(os.path.realpath)


def _main() -> ModuleType:
    """Return the main module; an empty one if a program has removed it."""
    main = sys.modules.get("__main__")
    return main if isinstance(main, ModuleType) else _no_main


def remember_main() -> None:
    """Find out the name of the main program while it runs."""
    _name_of_main(vars(_main()))


def is_gone(kind: type) -> bool:
    """Return whether the class is of a script that has ended, and whose file is not known."""
    return str(kind.__module__).startswith("<") and _names.get(kind) is None and not home_of(kind)


def _others(named: Named) -> Iterator[Variables]:
    # What may have a class that its module does not have.
    if "<locals>" in named.__qualname__:
        return
    if isinstance(named, type):
        for part in list(vars(named).values()):
            if isinstance(part, FunctionType):
                yield unwrapped(part).__globals__
    if _may_be_profiled(named):
        yield from _running()


def _may_be_profiled(named: Named) -> bool:
    # A profiler is run with -m, so it has a spec. A script has none.
    return named.__module__ == "__main__" and vars(_main()).get("__spec__") is not None


def _running() -> Iterator[Variables]:
    """Yield the variables of the main programs that threads run."""
    for frame in sys._current_frames().values():
        inner: FrameType | None = frame
        while inner is not None:
            if inner.f_code.co_name == "<module>" and inner.f_globals.get("__name__") == "__main__":
                yield inner.f_globals
            inner = inner.f_back
