"""Callables that are no `def` as cached functions: builtins, partials, bound methods, callable objects.

Each gets a `def` around it. What it holds, such as the arguments of a partial or the instance of a method,
is part of every key, as an argument is. So it may change between two calls.
"""

from __future__ import annotations

from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType

from cachekit.decorator.identity import COROUTINE, Subject
from cachekit.decorator.key_encoding import encode, name_of
from cachekit.decorator.naming import Unkeyable, qualified_name
from cachekit.model.display import typed_repr
from cachekit.runtime.interrupts import raise_interrupt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def adapted(called: Any) -> Subject:
    """Return the subject of a decorated callable that is no `def`.

    Raises:
        TypeError: it is no callable, a class, a generator, or the decorators are in the wrong order.
    """
    if isinstance(called, (classmethod, staticmethod)):
        kind = type(called).__name__
        raise TypeError(f"@{kind} must be above @cache_result, not below it; swap the two lines")
    if isinstance(called, property):
        raise TypeError("@property must be above @cache_result, not below it; swap the two lines")
    if isinstance(called, type):
        raise TypeError(
            f"cache_result must decorate a function, not {typed_repr(called)}; call that in a def, as in "
            f"`def cached(*args): return {called.__name__}(*args)`"
        )
    if not callable(called):
        raise TypeError(
            f"cache_result must decorate a function, not {typed_repr(called)}; pass options by name, as in "
            f"cache_result(ttl=60)"
        )
    code = _code_of(called)
    flags = getattr(getattr(called if code is None else code, "__code__", None), "co_flags", 0)
    made = _as_def(called, is_async=isinstance(flags, int) and bool(flags & COROUTINE))
    return Subject(made, None if _is_plain(called) else called, code, _name_of(called))


def _code_of(called: Any) -> FunctionType | None:
    # The function that runs when the callable is called.
    for _ in range(100):
        if isinstance(called, FunctionType):
            return called
        if isinstance(called, MethodType):
            called = called.__func__
        elif type(called).__module__ == "functools" and hasattr(called, "func"):  # a partial
            called = called.func
        elif type(called).__name__ == "_lru_cache_wrapper":
            called = called.__wrapped__
        else:
            method = getattr(type(called), "__call__", None)  # noqa: B004  # the method itself is wanted
            return method if isinstance(method, FunctionType) else None
    return None


def _is_plain(called: Any) -> bool:
    # A function of a module in C, or a function below functools.lru_cache: its name says all.
    if isinstance(called, BuiltinFunctionType):
        return called.__self__ is None or isinstance(called.__self__, ModuleType)
    return type(called).__name__ == "_lru_cache_wrapper"


def _as_def(called: Any, *, is_async: bool) -> FunctionType:
    made: Any
    if is_async:

        async def call_async(*args: Any, **kwargs: Any) -> Any:
            return await called(*args, **kwargs)

        made = call_async
    else:

        def call(*args: Any, **kwargs: Any) -> Any:
            return called(*args, **kwargs)

        made = call
    named = _named(called)
    for attribute, default in (
        ("__name__", type(named).__name__),
        ("__qualname__", type(named).__qualname__),
        ("__module__", type(named).__module__),
        ("__doc__", None),
    ):
        value = getattr(named, attribute, None)
        setattr(made, attribute, value if isinstance(value, str) else default)
    signature = _signature_of(called)
    if signature is not None:
        made.__signature__ = signature
    return made  # type: ignore[no-any-return]


def _named(called: Any) -> Any:
    # What gives the cached function its name.
    while type(called).__module__ == "functools" and hasattr(called, "func"):
        called = called.func
    return called.__func__ if isinstance(called, MethodType) else called


def _name_of(called: Any) -> str:
    named = _named(called)
    if isinstance(named, FunctionType):
        return name_of(named)
    name = getattr(named, "__qualname__", None)
    if isinstance(name, str):
        return f"{getattr(named, '__module__', None) or 'builtins'}.{name}"
    return qualified_name(type(named))


def _signature_of(called: Any) -> Any:
    # None if the callable does not say what it takes, or has a default that no key can hold.
    import inspect

    try:
        signature = inspect.signature(called)
        for parameter in signature.parameters.values():
            if parameter.default is not parameter.empty:
                encode(parameter.default)
    except (TypeError, ValueError, Unkeyable) as error:
        raise_interrupt(error)
        return None
    return signature
