"""The version of a function: a digest of its code, without comments and layout."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from types import CodeType, FunctionType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

VARARGS: Final = 0x04
VARKEYWORDS: Final = 0x08

_INSTANCE: Final = {("self",), ("cls",)}


def unwrapped(function: FunctionType) -> FunctionType:
    """Return the innermost function that the decorators wrap."""
    return list(wrapper_chain(function))[-1]


def signature_source(function: FunctionType) -> FunctionType:
    """Return the function whose parameters define a call; wrappers that only pass arguments on are skipped.

    A wrapper is not skipped if it has parameters of its own, or a `__signature__`. A wrapper with default
    values may pass on other values than the wrapped function's defaults, so it is not skipped either.
    """
    chain = list(wrapper_chain(function))
    for one, inner in pairwise(chain):
        code = one.__code__
        stars = code.co_flags & (VARARGS | VARKEYWORDS)
        if stars != VARARGS | VARKEYWORDS or one.__defaults__ or one.__kwdefaults__:
            return one
        if "__signature__" in vars(one):
            return one
        # A wrapper of methods may name the instance, and pass it on.
        own = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        if own and (own not in _INSTANCE or own != inner.__code__.co_varnames[:1]):
            return one
    return chain[-1]


def wrapper_chain(function: FunctionType) -> Iterator[FunctionType]:
    """Yield the function and the functions that it wraps, the innermost last."""
    seen: set[int] = set()
    inner: object = function
    while id(inner) not in seen:
        seen.add(id(inner))
        if isinstance(inner, FunctionType):
            yield inner
        elif type(inner).__name__ != "_lru_cache_wrapper":
            return
        inner = getattr(inner, "__wrapped__", None)


def version_of(function: FunctionType) -> str:
    """Return a digest of the code of the function and of each function that it wraps, without comments."""
    return digest_of(b"".join(_code_content(one.__code__) for one in wrapper_chain(function)), 6)


@lru_cache(maxsize=256)  # a class that is an argument has many functions, and each call looks at them
def _code_content(code: CodeType) -> bytes:
    return b"".join(b"%d:%b" % (len(part), part) for part in _code_parts(code))


def captured_values(function: FunctionType) -> Iterator[object]:
    """Yield what the code of wrappers and wrapped does not show: captured values and unbound defaults."""
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
