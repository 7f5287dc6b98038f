"""The version of a function: a digest of its code, without comments and layout."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import CodeType, FunctionType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

VARARGS: Final = 0x04
VARKEYWORDS: Final = 0x08


def unwrapped(function: FunctionType) -> FunctionType:
    """Return the innermost function that the decorators wrap."""
    return list(wrapper_chain(function))[-1]


def signature_source(function: FunctionType) -> FunctionType:
    """Return the function whose parameters define a call; wrappers that only pass arguments on are skipped.

    A wrapper with default values may pass on other values than the wrapped function's defaults, so it is
    not skipped.
    """
    chain = list(wrapper_chain(function))
    for one in chain:
        stars = one.__code__.co_flags & (VARARGS | VARKEYWORDS)
        if stars != VARARGS | VARKEYWORDS or one.__defaults__ or one.__kwdefaults__:
            return one
    return chain[-1]


def wrapper_chain(function: FunctionType) -> Iterator[FunctionType]:
    """Yield the function and the functions that it wraps, the innermost last."""
    seen: set[int] = set()
    inner: object = function
    while isinstance(inner, FunctionType) and id(inner) not in seen:
        seen.add(id(inner))
        yield inner
        inner = getattr(inner, "__wrapped__", None)


def version_of(function: FunctionType) -> str:
    """Return a digest of the code of the function and of each function that it wraps, without comments."""
    parts = (part for one in wrapper_chain(function) for part in _code_parts(one.__code__))
    return digest_of(b"".join(b"%d:%b" % (len(part), part) for part in parts), 6)


def to_bytes(text: str) -> bytes:
    """Return any text as UTF-8."""
    return text.encode("utf-8", "surrogatepass")  # half a surrogate pair is a valid character of a str


def digest_of(content: bytes, size: int) -> str:
    """Return a digest of `size` bytes as hex digits."""
    import hashlib

    return hashlib.blake2b(content, digest_size=size).hexdigest()


def _code_parts(code: CodeType) -> Iterator[bytes]:
    # Bytecode is valid only for the interpreter version that compiled it.
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
        # `x in {"a", "b"}` compiles to a frozenset, whose order depends on the hash seed.
        yield b"frozenset%d" % len(constant)
        yield from sorted(b"".join(_constant_parts(member)) for member in constant)
    elif type(constant) is int:
        yield kind + b":" + int_text(constant).encode()
    else:
        yield kind + b":" + repr(constant).encode("utf-8", "surrogatepass")


def int_text(value: int) -> str:
    """Return the text of an int of any size."""
    # Past a few thousand digits Python refuses the decimal text, and hex is faster anyway.
    return str(value) if -(10**18) < value < 10**18 else hex(value)
