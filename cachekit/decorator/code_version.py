"""The version of a function: a digest of its code, without comments and layout."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Final

_VARARGS: Final = 0x04
_VARKEYWORDS: Final = 0x08


def unwrapped(function: FunctionType) -> FunctionType:
    """The function that other decorators were put around."""
    return list(_chain(function))[-1]


def signature_source(function: FunctionType) -> FunctionType:
    """The function whose parameters say what a call means: wrappers that only pass on are looked through.

    One with parameters that have defaults may pass on something else than the wrapped function's own
    defaults, so its own count.
    """
    chain = list(_chain(function))
    for one in chain:
        stars = one.__code__.co_flags & (_VARARGS | _VARKEYWORDS)
        if stars != _VARARGS | _VARKEYWORDS or one.__defaults__ or one.__kwdefaults__:
            return one
    return chain[-1]


def _chain(function: FunctionType) -> Iterator[FunctionType]:
    """The function and those that it wraps, the innermost last."""
    seen: set[int] = set()
    inner: object = function
    while isinstance(inner, FunctionType) and id(inner) not in seen:
        seen.add(id(inner))
        yield inner
        inner = getattr(inner, "__wrapped__", None)


def version_of(function: FunctionType) -> str:
    """A digest of the function's code, and of each one that it wraps; comments are not in it."""
    parts = (part for one in _chain(function) for part in _code_parts(one.__code__))
    return _digest(b"".join(b"%d:%b" % (len(part), part) for part in parts), 6)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # half a surrogate pair is a character like any other


def _digest(content: bytes, size: int) -> str:
    import hashlib

    return hashlib.blake2b(content, digest_size=size).hexdigest()


def _code_parts(code: CodeType) -> Iterator[bytes]:
    # Bytecode means something only to the interpreter that it was compiled for.
    yield repr(sys.version_info[:2]).encode()
    yield code.co_code
    yield getattr(code, "co_exceptiontable", b"")
    yield repr((code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)).encode()
    for names in (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars):
        yield "\0".join(names).encode()
    yield b"%d" % len(code.co_consts)
    for constant in code.co_consts:
        yield from _constant_parts(constant)


def _constant_parts(constant: object) -> Iterator[bytes]:
    kind = type(constant).__name__.encode()
    if isinstance(constant, CodeType):
        yield b"code " + constant.co_name.encode("utf-8", "surrogatepass")
        yield from _code_parts(constant)
    elif isinstance(constant, tuple):
        yield b"tuple%d" % len(constant)
        for member in constant:
            yield from _constant_parts(member)
    elif isinstance(constant, frozenset):
        # `x in {"a", "b"}` is compiled to one, and its order hangs on the hash seed.
        yield b"frozenset%d" % len(constant)
        yield from sorted(b"".join(_constant_parts(member)) for member in constant)
    elif type(constant) is int:
        yield kind + b":" + _int_text(constant).encode()
    else:
        yield kind + b":" + repr(constant).encode("utf-8", "surrogatepass")


def _int_text(value: int) -> str:
    # Past a few thousand digits Python refuses the decimal text, and hex is faster anyway.
    return str(value) if -(10**18) < value < 10**18 else hex(value)
