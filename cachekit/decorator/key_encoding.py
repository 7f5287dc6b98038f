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
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from types import (
    BuiltinFunctionType,
    ClassMethodDescriptorType,
    FunctionType,
    MethodDescriptorType,
    MethodType,
    MethodWrapperType,
    ModuleType,
    WrapperDescriptorType,
)

from cachekit.decorator.code_version import (
    captured_values,
    digest_of,
    int_text,
    signature_source,
    to_bytes,
    unwrapped,
    version_of,
)
from cachekit.decorator.naming import Unkeyable, class_name, is_fixed, qualified_name
from cachekit.errors import KeyEncodingError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

_LONGEST: Final = 200  # characters of arguments that stay readable
_HEAD: Final = 60  # characters that stay readable in a longer key, before the digest
#: From this number of items on a container of plain values is packed. Shorter ones keep a readable text.
LONG: Final = 512
_ROWS: Final = frozenset({list, tuple, dict})
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
    settings = ",".join(encode(setting) for setting in captured_values(function))
    return name_of(function) + (f"~{digest_of(to_bytes(settings), 4)}" if settings else "")


def name_of(function: FunctionType) -> str:
    """Return module and qualified name, which several closures may share."""
    return qualified_name(unwrapped(function))


def unclear_name(function: FunctionType) -> str | None:
    """Return why several functions may share the name of this one; None if its name identifies it."""
    innermost = unwrapped(function)
    captured = set(innermost.__code__.co_freevars)
    if "<locals>" not in innermost.__qualname__:
        captured.discard("__class__")  # for `super()`: the name of the class is in that of the method
    if captured:
        return f"uses variables of the function around it ({', '.join(sorted(captured))})"
    return "is a lambda" if innermost.__name__ == "<lambda>" else None


def _ambiguity(function: FunctionType) -> str | None:
    unclear = unclear_name(function)
    if unclear is not None:
        return unclear
    try:
        for setting in captured_values(function):
            encode(setting)
    except Unkeyable as error:
        return f"has a decorator that captured a value that cannot be part of a name ({error})"
    return None


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
            from cachekit.decorator.refused_part import refused_part

            where, why = refused_part(value, error, encode)
            part = f"{name}{where}: {why}" if where else why
            raise KeyEncodingError(
                f"the argument {name!r} cannot be part of a key: {part}. Leave it out with "
                f"ignore=({name!r},), give its class a __cache_key__() method that returns what "
                f"identifies a value, or return the key from a key_func"
            ) from None
    text = ",".join(parts)
    if len(text) <= _LONGEST:
        return text
    return f"{text[:_HEAD]}~{digest_of(to_bytes(text), 16)}"


def held_text(holder: object, function: str) -> str:
    """Return the part of a key for what a callable holds, such as the instance of a bound method.

    Raises:
        KeyEncodingError: it has come to hold something without an identity.
    """
    try:
        text = encode(holder)
    except Unkeyable as error:
        raise KeyEncodingError(
            f"what {function} holds cannot be part of a key: {error}. Decorate a def that takes it as an "
            f"argument"
        ) from None
    return text if len(text) <= _HEAD else digest_of(to_bytes(text), 16)


def encode(value: object, depth: int = _DEEPEST) -> str:
    """Return the text of one value with its type: two values share a text only if type and value are equal.

    Builtins and plain values of the standard library compare by content: 0.0 and -0.0 differ, NaN equals
    itself, and Decimals compare by their digits. Enum members compare by name, value and attributes, classes
    and functions by name and definition. Dataclasses and named tuples compare by class, fields and further
    attributes. Other objects compare by the result of `__cache_key__()`, or by the parts that
    `standard_values` and `third_party` return.

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


def _is_long(values: Sequence[Any]) -> bool:
    # Whether a sequence is long, or holds rows that are long together.
    if len(values) >= LONG:
        return True
    kind = type(values[0]) if values else None
    return kind in _ROWS and {kind}.issuperset(map(type, values)) and sum(map(len, values)) >= LONG


def _encode_sequence(value: Sequence[object], depth: int) -> str:
    if _is_long(value):
        from cachekit.decorator.packing import packed

        text = packed(value)
        if text is not None:
            return text
    return ",".join(_each(value, depth))


def _encode_sorted(value: set[object] | frozenset[object], depth: int) -> str:
    if len(value) >= LONG:
        from cachekit.decorator.packing import in_order

        members = in_order(value)
        if members is not None:
            return _encode_sequence(members, depth)
    return ",".join(sorted(_each(value, depth)))


def _encode_defaultdict(value: defaultdict[Any, Any], depth: int) -> str:
    # The default factory is part of the value.
    return f"defaultdict({encode(value.default_factory, _deeper(depth))},{_encode_dict(value, depth)})"


def _encode_deque(value: deque[Any], depth: int) -> str:
    items = _encode_sequence(list(value), depth)
    return f"deque({encode(value.maxlen)}{items and ','}{items})"


def _encode_dict(value: dict[Any, Any], depth: int) -> str:
    _check(depth)
    if len(value) >= LONG:
        from cachekit.decorator.packing import in_order

        keys = in_order(value)
        if keys is not None:
            return f"={_encode_sequence(keys, depth)},{_encode_sequence([value[key] for key in keys], depth)}"
    pairs = (f"{encode(k, depth - 1)}={encode(v, depth - 1)}" for k, v in list(value.items()))
    return ",".join(sorted(pairs))


def _each(values: Iterable[object], depth: int) -> list[str]:
    _check(depth)
    depth -= 1
    found = _ENCODERS.get
    return [
        encoder(value, depth)
        if (encoder := found(kind := type(value)))
        else _encode_other(value, kind, depth)
        for value in values
    ]


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
    OrderedDict: lambda value, depth: f"OrderedDict({_encode_sequence(list(value.items()), depth)})",
    deque: _encode_deque,
    range: lambda value, _: f"range({value.start},{value.stop},{value.step})",
    slice: lambda value, depth: f"slice({_encode_sequence((value.start, value.stop, value.step), depth)})",
}


def _encode_other(value: Any, kind: type, depth: int) -> str:
    own = getattr(kind, "__cache_key__", None)
    if own is not None:
        if not callable(own):
            what = "a property" if isinstance(own, property) else f"a {qualified_name(type(own))}"
            raise Unkeyable(f"__cache_key__ of {qualified_name(kind)} must be a method, not {what}")
        return f"<{qualified_name(kind)}:{encode(own(value), _deeper(depth))}>"
    # By type, not by isinstance(): a proxy claims the class of its target, which may change.
    if issubclass(kind, enum.Enum):
        return _encode_member(value, kind, depth)
    if issubclass(kind, type):
        return _encode_class(value, depth)
    if kind in _FUNCTIONS:
        return _encode_function(value, depth)
    base = next((base for base in kind.__mro__ if base in _ENCODERS), None)
    if hasattr(kind, "__dataclass_fields__") and base is None:
        return f"<{class_name(kind)}:{_encode_fields(value, kind, depth)}>"
    from cachekit.decorator.standard_values import parts_of, text_of

    text = text_of(value, kind)
    if text is not None:
        return f"<{qualified_name(kind)}:{_encode_str(text, depth)}>"
    if base is None:
        parts = parts_of(value, kind)
        if parts is None:
            from cachekit.decorator.third_party import decompose

            parts = decompose(value, kind)
        if parts is not None:
            return f"<{class_name(kind)}:{encode(parts, _deeper(depth))}>"
        what = qualified_name(kind).removeprefix("builtins.")
        raise Unkeyable(f"a value of type {what} has no identity except its place in memory")
    from cachekit.decorator.object_state import attributes, content_of, has_slots

    if attributes(value, kind) or has_slots(kind, base):
        raise Unkeyable(f"a {qualified_name(kind)} is a {base.__name__} with further attributes")
    # A named tuple, or a subclass of str: the content of the builtin, under the name of the class.
    return f"<{class_name(kind)}:{_ENCODERS[base](content_of(value, base), depth)}>"


def _encode_member(value: Any, kind: type, depth: int) -> str:
    # A member of a Flag may be a combination without a name.
    from cachekit.decorator.object_state import attributes

    text = f"{class_name(kind)}.{value.name}={encode(value.value, _deeper(depth))}"
    further = {name: part for name, part in attributes(value, kind).items() if not _is_enums_own(name)}
    return f"<{text}{_encode_further(further, depth)}>"


def _is_enums_own(name: str) -> bool:
    return name.startswith("_") and name.endswith("_")


def _encode_class(value: type, depth: int) -> str:
    name = class_name(value, to_be_found=True)
    if is_fixed(value):
        return f"<class {name}>"
    from cachekit.decorator.definitions import digest_of_class

    return f"<class {name}~{digest_of_class(value, lambda part: encode(part, _deeper(depth)))}>"


def _encode_further(further: dict[str, object], depth: int) -> str:
    # The attributes of an object that are no field of it.
    texts = []
    for name, part in sorted(further.items(), key=lambda item: str(item[0])):
        try:
            # A name that was set by `setattr` may have any text, and one in the dict any type.
            shown = name if type(name) is str and name.isidentifier() else f"[{encode(name, depth)}]"
            texts.append(f"{shown}={encode(part, _deeper(depth))}")
        except Unkeyable as error:
            raise Unkeyable(f"its attribute {name!r}: {error}") from None
    return f"+{','.join(texts)}" if texts else ""


def _deeper(depth: int) -> int:
    _check(depth)
    return depth - 1


def _encode_fields(value: Any, kind: type, depth: int) -> str:
    from dataclasses import fields  # the module of the class has imported it

    from cachekit.decorator.object_state import beyond, has_slots

    names = [field.name for field in fields(kind)]
    decorated = next(one for one in kind.__mro__ if "__dataclass_fields__" in vars(one))
    further = beyond(value, kind, names)
    if decorated is not kind and (further or has_slots(kind, decorated)):
        raise Unkeyable(
            f"a {qualified_name(kind)} is not a dataclass itself, and has more attributes than the fields of "
            f"its base"
        )
    unset = [name for name in names if not hasattr(value, name)]
    if unset:
        raise Unkeyable(f"the field {unset[0]} of a {qualified_name(kind)} has no value yet")
    texts = []
    for name in names:
        try:
            texts.append(f"{name}={encode(getattr(value, name), _deeper(depth))}")
        except Unkeyable as error:
            raise Unkeyable(f"its field {name!r}: {error}") from None
    return f"{','.join(texts)}{_encode_further(further, depth)}"


_FUNCTIONS: Final = frozenset(
    {
        FunctionType, BuiltinFunctionType, MethodType, MethodDescriptorType, WrapperDescriptorType,
        ClassMethodDescriptorType, MethodWrapperType,
    }
)  # fmt: skip


def _encode_function(value: Any, depth: int) -> str:
    if isinstance(value, MethodType):
        of = encode(value.__self__, _deeper(depth))
        return f"<method {encode(value.__func__, _deeper(depth))} of {of}>"
    if isinstance(value, FunctionType):
        unclear = _ambiguity(value)
        if unclear is not None:
            raise Unkeyable(f"{value.__qualname__} {unclear}, so its name does not identify it")
        from cachekit.decorator.definitions import digest_of_annotations

        described = signature_source(value)
        defaults = encode((described.__defaults__, described.__kwdefaults__), _deeper(depth))
        further = digest_of_annotations(value, lambda part: encode(part, _deeper(depth)))
        mark = f"~{further}" if further else ""
        return f"<function {identity_of(value)}@{version_of(value)}{defaults}{mark}>"
    if not hasattr(value, "__self__"):  # a method in C of no object, such as `str.upper`
        return f"<function {encode(value.__objclass__)}.{value.__name__}>"
    if value.__self__ is None or isinstance(value.__self__, ModuleType):
        return f"<function {value.__module__}.{value.__qualname__}>"
    # A method of a builtin object, such as the `get` of one dict.
    return f"<method {value.__name__} of {encode(value.__self__, _deeper(depth))}>"
