"""Cache keys of function calls: equal calls share one key, different calls have different keys (P16).

A key is `identity@version(arguments)`. The identity is the function's module and qualified name. The
version is a digest of its code. The arguments are bound to the parameters and defaults are applied. Each
argument is encoded with its type and, where the text could run into the next one, its length. So
f(1, 2), f(1, b=2) and f(a=1, b=2) share one key, and 1, 1.0, True and "1" have four. The same call has the
same key in every process and with every hash seed.

The version covers the compiled code of the function, and of functions that decorators wrapped around it.
It does not cover comments, blank lines, or helpers that the function calls. A change of layout within a
line may change the version, because compilers since 3.12 place instructions by it. That costs one load.
"""

from __future__ import annotations

import enum
import os
import sys
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType

from cachekit.decorator.code_version import (
    digest_of,
    int_text,
    signature_source,
    to_bytes,
    unwrapped,
    version_of,
    wrapper_chain,
)
from cachekit.decorator.third_party import Unkeyable, decompose
from cachekit.errors import KeyEncodingError
from cachekit.runtime.program import shell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

_LONGEST: Final = 200  # characters of arguments that stay readable
_HEAD: Final = 60  # characters that stay readable in a longer key, before the digest
_DEEPEST: Final = 50  # nested containers; deeper nesting is a cycle, or data that is no argument


def identity_of(function: FunctionType) -> str:
    """Return module and qualified name, the same in this process and in its children.

    The main program is named by its file, so that spawned children (where it is `__mp_main__`) agree and
    two scripts differ. With `-m` it is the module's real name. The arguments of decorators around the
    function are part of the identity, as a digest at its end: `retried(2)(f)` and `retried(3)(f)` differ.

    Raises:
        ValueError: the function is a closure or a lambda, of which several may share one name, or one of
            its decorators captured a value that cannot be part of a name.
    """
    unclear = _ambiguity(function)
    if unclear is not None:
        raise ValueError(
            f"the name of {function.__qualname__} must identify it, but it {unclear}; set name=... to a "
            f"unique name, or pass a key_func"
        )
    settings = ",".join(encode(setting) for setting in _captured_values(function))
    return name_of(function) + (f"~{digest_of(to_bytes(settings), 4)}" if settings else "")


def name_of(function: FunctionType) -> str:
    """Return module and qualified name, which several closures may share."""
    return _name(unwrapped(function))


def _ambiguity(function: FunctionType) -> str | None:
    innermost = unwrapped(function)
    captured = sorted(set(innermost.__code__.co_freevars) - {"__class__"})
    if captured:
        return f"uses variables of the function around it ({', '.join(captured)})"
    if innermost.__name__ == "<lambda>":
        return "is a lambda"
    try:
        for setting in _captured_values(function):
            encode(setting)
    except Unkeyable as error:
        return f"has a decorator that captured a value that cannot be part of a name ({error})"
    return None


def _captured_values(function: FunctionType) -> Iterator[object]:
    # Yields what the code of wrappers and wrapped does not show: captured values and unbound defaults.
    chain = list(wrapper_chain(function))
    bound = signature_source(function)
    for one in chain:
        if one is not chain[-1]:
            for variable, cell in zip(one.__code__.co_freevars, one.__closure__ or (), strict=True):
                try:
                    value = cell.cell_contents
                except ValueError:  # not assigned yet, or never
                    value = None
                if all(value is not other for other in chain):
                    yield variable, value
        if one is not bound and (one.__defaults__ or one.__kwdefaults__):
            yield one.__defaults__, one.__kwdefaults__


def arguments_text(bound: Iterable[tuple[str, Any]]) -> str:
    """Return the part of a key in parentheses; long arguments end in a digest.

    Raises:
        KeyEncodingError: an argument has no identity that could be part of a key.
    """
    parts = []
    for name, value in bound:
        try:
            parts.append(encode(value))
        except Unkeyable as error:
            raise KeyEncodingError(
                f"the argument {name!r} cannot be part of a key: {error}. Leave it out with "
                f"ignore=({name!r},), give its class a __cache_key__() method that returns what "
                f"identifies a value, or return the key from a key_func"
            ) from None
    text = ",".join(parts)
    if len(text) <= _LONGEST:
        return text
    return f"{text[:_HEAD]}~{digest_of(to_bytes(text), 16)}"


def encode(value: object, depth: int = _DEEPEST) -> str:
    """Return the text of one value with its type: two values share a text only if type and value are equal.

    Builtins and plain values of the standard library compare by content: 0.0 and -0.0 differ, NaN equals
    itself, and Decimals compare by their digits. Enum members compare by name and value, classes by name, and
    functions by name, code and defaults. Dataclasses and named tuples compare by class and fields. Other
    objects compare by the result of `__cache_key__()`, or by the parts that `third_party` returns.

    Raises:
        Unkeyable: the value has no identity that could be part of a key.
    """
    kind = type(value)
    encoder = _ENCODERS.get(kind)
    if encoder is not None:
        return encoder(value, depth)
    return _encode_other(value, kind, depth)


def _encode_str(value: str, _: int) -> str:
    return f"s{len(value)}:{value}"


def _encode_sequence(value: Iterable[object], depth: int) -> str:
    return ",".join(_each(value, depth))


def _encode_sorted(value: Iterable[object], depth: int) -> str:
    return ",".join(sorted(_each(value, depth)))


def _encode_defaultdict(value: defaultdict[Any, Any], depth: int) -> str:
    # The default factory is part of the value.
    return f"defaultdict({encode(value.default_factory, _deeper(depth))},{_encode_dict(value, depth)})"


def _encode_dict(value: dict[Any, Any], depth: int) -> str:
    _check(depth)
    pairs = (f"{encode(k, depth - 1)}={encode(v, depth - 1)}" for k, v in list(value.items()))
    return ",".join(sorted(pairs))


def _each(values: Iterable[object], depth: int) -> list[str]:
    _check(depth)
    return [encode(value, depth - 1) for value in values]


def _check(depth: int) -> None:
    if depth <= 0:
        raise Unkeyable(f"it is nested more than {_DEEPEST} deep, or contains itself")


_ENCODERS: Final[dict[type, Callable[[Any, int], str]]] = {
    type(None): lambda _value, _: "None",
    type(...): lambda _value, _: "...",
    bool: lambda value, _: repr(value),
    int: lambda value, _: int_text(value),
    # It has a point or an exponent, or is inf or nan, so it never equals the text of an int.
    float: lambda value, _: repr(value),
    complex: lambda value, _: f"complex({value.real!r},{value.imag!r})",
    str: _encode_str,
    bytes: lambda value, _: f"b{value.hex()}",
    bytearray: lambda value, _: f"bytearray{value.hex()}",
    tuple: lambda value, depth: f"({_encode_sequence(value, depth)})",
    list: lambda value, depth: f"[{_encode_sequence(value, depth)}]",
    set: lambda value, depth: f"{{{_encode_sorted(value, depth)}}}",
    frozenset: lambda value, depth: f"frozenset{{{_encode_sorted(value, depth)}}}",
    dict: lambda value, depth: f"dict{{{_encode_dict(value, depth)}}}",
    defaultdict: _encode_defaultdict,
    # Its order is part of its equality.
    OrderedDict: lambda value, depth: f"OrderedDict({_encode_sequence(value.items(), depth)})",
    deque: lambda value, depth: f"deque({_encode_sequence((value.maxlen, *value), depth)})",
    range: lambda value, _: f"range({value.start},{value.stop},{value.step})",
    slice: lambda value, depth: f"slice({_encode_sequence((value.start, value.stop, value.step), depth)})",
}


def _encode_other(value: Any, kind: type, depth: int) -> str:
    own = getattr(kind, "__cache_key__", None)
    if own is not None:
        return f"<{_name(kind)}:{encode(own(value), _deeper(depth))}>"
    # By type, not by isinstance(): a proxy claims the class of its target, which may change.
    if issubclass(kind, enum.Enum):
        # A member of a Flag may be a combination without a name.
        return f"<{_class_name(kind)}.{value.name}={encode(value.value, _deeper(depth))}>"
    if issubclass(kind, type):
        return f"<class {_class_name(value, to_be_found=True)}>"
    if kind in (FunctionType, BuiltinFunctionType, MethodType):
        return _encode_function(value, depth)
    base = next((base for base in kind.__mro__ if base in _ENCODERS), None)
    if hasattr(kind, "__dataclass_fields__") and base is None:
        return f"<{_class_name(kind)}:{_encode_fields(value, kind, depth)}>"
    text = _standard_text(value, kind)
    if text is not None:
        return f"<{_name(kind)}:{_encode_str(text, depth)}>"
    if base is None:
        parts = decompose(value, kind)
        if parts is not None:
            return f"<{_class_name(kind)}:{encode(parts, _deeper(depth))}>"
        what = _name(kind).removeprefix("builtins.")
        raise Unkeyable(f"a value of type {what} has no identity except its place in memory")
    if getattr(value, "__dict__", None) or _has_slots(kind, base):
        raise Unkeyable(f"a {_name(kind)} is a {base.__name__} with further attributes")
    # A named tuple, or a subclass of str: the content of the builtin, under the name of the class.
    return f"<{_class_name(kind)}:{_ENCODERS[base](_PLAIN.get(base, _as_it_is)(value), depth)}>"


def _as_it_is(value: object) -> object:
    return value


#: Reads the content of a subclass without the methods that the subclass overrides. Other types need no
#: such function.
_PLAIN: Final[dict[type, Callable[[Any], object]]] = {
    int: int.__int__,
    float: float.__float__,
    complex: complex.__complex__,
    str: str.__str__,
    bytes: lambda value: bytes.__getitem__(value, slice(None)),
    bytearray: lambda value: bytearray.__getitem__(value, slice(None)),
    tuple: lambda value: _members(value),
    list: lambda value: list(list.__iter__(value)),
    set: lambda value: set(set.__iter__(value)),
    frozenset: lambda value: frozenset(frozenset.__iter__(value)),
    dict: lambda value: dict(dict.items(value)),
    OrderedDict: lambda value: OrderedDict(OrderedDict.items(value)),
}


def _members(value: tuple[Any, ...]) -> tuple[Any, ...]:
    # Returns the content of a tuple subclass, with the names of its fields if it has any: two classes of
    # one name may differ in them. `os.stat_result` and the like have more fields than the tuple shows.
    members = tuple(tuple.__iter__(value))
    kind = type(value)
    names = getattr(kind, "_fields", None)
    if isinstance(names, tuple):
        return names, members
    counts = vars(kind)
    if counts.get("n_fields", 0) != counts.get("n_sequence_fields", 0):
        reduced: Any = kind.__reduce__(value)  # the class, and the tuple with the other fields by name
        return members, reduced[1][1]
    return members


def _has_slots(kind: type, base: type) -> bool:
    ours = kind.__mro__[: kind.__mro__.index(base)]
    return any(set(vars(one).get("__slots__", ())) - {"__weakref__"} for one in ours)


def _deeper(depth: int) -> int:
    _check(depth)
    return depth - 1


def _encode_fields(value: Any, kind: type, depth: int) -> str:
    # A dataclass exists only if its module is loaded; importing it takes a fifth of our import time.
    names = [field.name for field in sys.modules["dataclasses"].fields(value)]
    decorated = next(one for one in kind.__mro__ if "__dataclass_fields__" in vars(one))
    if decorated is not kind and (
        getattr(value, "__dict__", {}).keys() - set(names) or _has_slots(kind, decorated)
    ):
        raise Unkeyable(
            f"a {_name(kind)} is not a dataclass itself, and has more attributes than the fields of its base"
        )
    unset = [name for name in names if not hasattr(value, name)]
    if unset:
        raise Unkeyable(f"the field {unset[0]} of a {_name(kind)} has no value yet")
    return ",".join(f"{name}={encode(getattr(value, name), _deeper(depth))}" for name in names)


def _encode_function(value: Any, depth: int) -> str:
    if isinstance(value, MethodType):
        of = encode(value.__self__, _deeper(depth))
        return f"<method {encode(value.__func__, _deeper(depth))} of {of}>"
    if isinstance(value, FunctionType):
        unclear = _ambiguity(value)
        if unclear is not None:
            raise Unkeyable(f"{value.__qualname__} {unclear}, so its name does not identify it")
        described = signature_source(value)
        defaults = encode((described.__defaults__, described.__kwdefaults__), _deeper(depth))
        return f"<function {identity_of(value)}@{version_of(value)}{defaults}>"
    if value.__self__ is None or isinstance(value.__self__, ModuleType):
        return f"<function {value.__module__}.{value.__qualname__}>"
    # A method of a builtin object, such as the `get` of one dict.
    return f"<method {value.__name__} of {encode(value.__self__, _deeper(depth))}>"


def _standard_text(value: Any, kind: type) -> str | None:
    # The text of a plain value of the standard library; None for other values. The modules are looked up,
    # not imported: without them no value of their types exists.
    module = kind.__module__
    if module == "datetime":
        if hasattr(value, "utcoffset") and not hasattr(value, "isoformat"):
            return repr(value)  # a time zone, whose str may be only the name that it was given
        zone = getattr(value, "tzinfo", None)
        # Two zones may share an offset, and `fold` distinguishes two instants.
        known = zone is None or (type(zone).__module__ in _ZONES and _standard_text(zone, type(zone)))
        return f"{value!s}|{getattr(value, 'fold', 0)}|{zone!r}" if known else None
    if module == "zoneinfo":
        return getattr(value, "key", None)  # None for a zone that was read from a file
    if module in {"pathlib", "pathlib._local"} and hasattr(value, "__fspath__"):
        return str(value)
    if module in {"uuid", "decimal", "fractions", "ipaddress"}:
        return str(value)
    if module == "re" and hasattr(value, "pattern"):
        return f"{value.flags}|{value.pattern!r}"
    return None


_ZONES: Final = frozenset({"datetime", "zoneinfo"})


def _class_name(kind: type, *, to_be_found: bool = False) -> str:
    # The name of a class, if it identifies the class. Classes of one factory may share a name. A class that
    # its module does not have under its name may still be the only one of that name. That is enough for
    # the values of a class, but not for a class itself.
    module, name = kind.__module__, kind.__qualname__
    if "<locals>" in name:
        raise Unkeyable(f"the class {name} is defined inside a function, which may create several")
    found: object = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, "__dict__", {}).get(part)
    if found is not kind and (to_be_found or found is not None) and module != "builtins":
        raise Unkeyable(f"the class {module}.{name} is not what its module has under that name")
    return _name(kind)


def _name(named: type | FunctionType) -> str:
    # Module and qualified name. The main program is named by its file, by its real name with -m, or by the
    # working directory of a shell.
    module = named.__module__
    if module in {"__main__", "__mp_main__"}:
        if isinstance(named, FunctionType):
            variables = named.__globals__
        else:
            variables = vars(sys.modules.get(module, sys.modules["__main__"]))
        spec = variables.get("__spec__")
        # The spec of a directory or an archive that is run as a program is named `__main__` only.
        if spec is not None and spec.name != "__main__":
            module = spec.name
        elif variables.get("__file__") is not None:
            module = os.path.realpath(variables["__file__"])
        else:
            module = shell()
    return f"{module}.{named.__qualname__}"
