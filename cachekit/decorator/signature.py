"""The signature of a cached function, and the binding of a call to it."""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter, itemgetter
from types import (
    BuiltinFunctionType,
    FunctionType,
    MethodDescriptorType,
    ModuleType,
    WrapperDescriptorType,
)

from cachekit.decorator.code_version import VARARGS, VARKEYWORDS
from cachekit.decorator.naming import is_fixed
from cachekit.model.display import safe_repr, typed_repr

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final


_CONSTANT: Final = frozenset({
    type(None), bool, int, float, complex, str, bytes, range, type(...), type(NotImplemented),
    MethodDescriptorType, WrapperDescriptorType, attrgetter,
})  # fmt: skip
# By name, so that their modules are not loaded.
_CONSTANT_NAMES: Final = frozenset({
    *(("datetime", name) for name in ("date", "datetime", "time", "timedelta", "timezone")),
    *(("ipaddress", f"IPv{n}{what}") for n in (4, 6) for what in ("Address", "Network", "Interface")),
    *((module, f"{system}Path") for module in ("pathlib", "pathlib._local")
      for system in ("Posix", "Windows", "PurePosix", "PureWindows")),
    ("decimal", "Decimal"), ("fractions", "Fraction"), ("re", "Pattern"), ("uuid", "UUID"),
    ("zoneinfo", "ZoneInfo"),
})  # fmt: skip


class Signature:
    """The parameters of a function. Binds equal calls to equal values.

    Args:
        function: The function whose code says what the parameters are.
        ignore: The names of parameters that are not part of the cache key.

    Raises:
        TypeError: `ignore` is a str, or not iterable.
        ValueError: `ignore` has a name that is not a parameter.
    """

    __slots__ = (
        "_by_keyword", "_defaults", "_function", "_is_plain", "_names", "_positional", "_shown", "_star",
        "_stars", "defaults_vary", "ignores", "ignores_first",
    )  # fmt: skip

    def __init__(self, function: FunctionType, ignore: Iterable[str]) -> None:
        if isinstance(ignore, str):
            raise TypeError(
                f"ignore must be a tuple of names, not the str {safe_repr(ignore)}; "
                f"write ({safe_repr(ignore)},)"
            )
        if not isinstance(ignore, Iterable):
            raise TypeError(f"ignore must be a tuple of names, not {typed_repr(ignore)}")
        self._function = function
        declared = _declared(function)
        if declared is None:
            self._take_code(function)
        else:
            self._take_declared(declared)
        ignored = frozenset(ignore)
        every = [*self._names, *filter(None, (self._star, self._stars))]
        if ignored - set(every):
            raise ValueError(
                f"ignore must name parameters of {function.__qualname__}, which are {every}, "
                f"not {sorted(map(str, ignored - set(every)))}"
            )
        self._shown = tuple(name for name in every if name not in ignored)
        #: Whether all parameters may be given by position, and are part of the key.
        self._is_plain = self._shown == self._names == self._positional
        #: Whether any parameter is ignored, and whether the first one is, such as `self`.
        self.ignores = bool(ignored)
        self.ignores_first = bool(self._positional) and self._positional[0] in ignored
        #: Whether a default, such as a list, may hold something else at the next call.
        self.defaults_vary = not all(
            _is_constant(value) for name, value in self._defaults.items() if name not in ignored
        )

    def _take_code(self, function: FunctionType) -> None:
        code = function.__code__
        fixed = code.co_argcount + code.co_kwonlyargcount
        self._names = code.co_varnames[:fixed]
        self._positional = self._names[: code.co_argcount]
        self._by_keyword = frozenset(self._names[code.co_posonlyargcount :])
        starred = list(code.co_varnames[fixed:])
        self._star = starred.pop(0) if code.co_flags & VARARGS else ""
        self._stars = starred.pop(0) if code.co_flags & VARKEYWORDS else ""
        defaults = function.__defaults__ or ()
        self._defaults: dict[str, Any] = dict(
            zip(self._positional[code.co_argcount - len(defaults) :], defaults, strict=True)
        )
        self._defaults |= function.__kwdefaults__ or {}

    def _take_declared(self, parameters: list[Any]) -> None:
        # The kinds of parameters count from 0: positional only, either, *args, keyword only, **kwargs.
        named = {kind: tuple(one.name for one in parameters if one.kind == kind) for kind in range(5)}
        self._positional = named[0] + named[1]
        self._names = self._positional + named[3]
        self._by_keyword = frozenset(named[1] + named[3])
        self._star = "".join(named[2])
        self._stars = "".join(named[4])
        self._defaults = {one.name: one.default for one in parameters if one.default is not one.empty}

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[tuple[str, Any]]:
        """Return name and value of each parameter that is part of the cache key, in order.

        Raises:
            TypeError: the function cannot be called with these arguments.
        """
        if not kwargs and self._is_plain and len(args) == len(self._names):
            return list(zip(self._names, args, strict=True))
        bound = self._defaults | dict(zip(self._positional, args, strict=False))
        surplus = args[len(self._positional) :]
        unknown = {}
        for name, value in kwargs.items():
            if name in self._by_keyword:
                bound[name] = value
            else:
                unknown[name] = value
        given_twice = kwargs and not kwargs.keys().isdisjoint(
            self._by_keyword.intersection(self._positional[: len(args)])
        )
        if (
            given_twice
            or len(bound) < len(self._names)
            or (surplus and not self._star)
            or (unknown and not self._stars)
        ):
            import inspect

            name = self._function.__qualname__
            try:
                inspect.signature(self._function, follow_wrapped=False).bind(*args, **kwargs)
            except TypeError as error:
                # Not at the head of the module: few errors come here, and a decorated function loads less.
                from cachekit.runtime.interrupts import raise_interrupt

                raise_interrupt(error)
                raise TypeError(f"{name}(): {error}") from None
            # Only a __signature__ that was set by hand can disagree with the code.
            raise TypeError(
                f"{name}() does not accept these arguments; compare its __signature__ and its code"
            )
        if self._star:
            bound[self._star] = surplus
        if self._stars:
            bound[self._stars] = unknown
        return [(name, bound[name]) for name in self._shown]


def _declared(function: FunctionType) -> list[Any] | None:
    # What a function that takes anything says that it takes. Otherwise its code says it.
    code = function.__code__
    parameters = getattr(vars(function).get("__signature__"), "parameters", None)
    if parameters is None or code.co_argcount or code.co_kwonlyargcount:
        return None
    return list(parameters.values()) if code.co_flags & VARARGS and code.co_flags & VARKEYWORDS else None


def _is_constant(value: Any) -> bool:
    # Whether a default has the same key at every call: numbers, texts, dates and the like, and Enums. Others
    # refer to what may change, as `{}.get` and functions do, or may change themselves, as classes do.
    kind = type(value)
    if kind is tuple or kind is frozenset:
        return all(map(_is_constant, value))
    if issubclass(kind, type):
        return is_fixed(value)
    if hasattr(kind, "__members__"):
        return True
    if kind is BuiltinFunctionType:  # `len`, but not the method of an object
        return isinstance(value.__self__, ModuleType)
    if kind is itemgetter:  # its items may be any objects
        return all(map(_is_constant, value.__reduce__()[1]))
    if kind not in _CONSTANT and (kind.__module__, kind.__name__) not in _CONSTANT_NAMES:
        return False
    zone = getattr(value, "tzinfo", None)  # of another library, it may be any object, too
    return zone is None or _is_constant(zone)
