"""The signature of a cached function, and the binding of a call to it."""

from __future__ import annotations

from collections.abc import Iterable
from types import FunctionType
from typing import Any, final

from cachekit.decorator.code_version import _VARARGS, _VARKEYWORDS


@final
class Signature:
    """The parameters of a function, to bind calls to: one tuple of values for equal questions.

    Args:
        function: its own code says what the parameters are.
        ignore: names of parameters that are no part of the question.

    Raises:
        TypeError: `ignore` is a str.
        ValueError: `ignore` names something that is no parameter.
    """

    __slots__ = (
        "_by_keyword", "_defaults", "_function", "_names", "_positional", "_shown", "_star", "_stars",
        "ignores", "ignores_first",
    )  # fmt: skip

    def __init__(self, function: FunctionType, ignore: Iterable[str]) -> None:
        if isinstance(ignore, str):
            raise TypeError(f"ignore must be a tuple of names, not the str {ignore!r}; write ({ignore!r},)")
        if not isinstance(ignore, Iterable):
            raise TypeError(
                f"ignore must be a tuple of names, not {ignore!r} of type {type(ignore).__name__}"
            )
        code = function.__code__
        fixed = code.co_argcount + code.co_kwonlyargcount
        self._function = function
        self._names = code.co_varnames[:fixed]
        self._positional = self._names[: code.co_argcount]
        self._by_keyword = frozenset(self._names[code.co_posonlyargcount :])
        starred = list(code.co_varnames[fixed:])
        self._star = starred.pop(0) if code.co_flags & _VARARGS else ""
        self._stars = starred.pop(0) if code.co_flags & _VARKEYWORDS else ""
        defaults = function.__defaults__ or ()
        self._defaults: dict[str, Any] = dict(
            zip(self._positional[code.co_argcount - len(defaults) :], defaults, strict=True)
        )
        self._defaults |= function.__kwdefaults__ or {}
        ignored = frozenset(ignore)
        every = [*self._names, *filter(None, (self._star, self._stars))]
        if ignored - set(every):
            raise ValueError(
                f"ignore names {sorted(map(str, ignored - set(every)))}, but {function.__qualname__} has the "
                f"parameters {every}"
            )
        self._shown = tuple(name for name in every if name not in ignored)
        #: Whether any parameter is no part of the question, and whether the first, such as `self`, is not.
        self.ignores = bool(ignored)
        self.ignores_first = bool(self._positional) and self._positional[0] in ignored

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[tuple[str, Any]]:
        """Name and value of each parameter that is part of the question, in order.

        Raises:
            TypeError: the function cannot be called like this.
        """
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
                raise TypeError(f"{name}(): {error}") from None
            # Only a __signature__ that somebody set by hand can disagree with the code.
            raise TypeError(f"{name}() does not take these arguments")
        if self._star:
            bound[self._star] = surplus
        if self._stars:
            bound[self._stars] = unknown
        return [(name, bound[name]) for name in self._shown]
