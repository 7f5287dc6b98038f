"""The version of a function by its source: the same in every version of Python, unlike that of its bytecode.

A cassette is recorded on one machine and replayed on others. Comments and layout do not count, nor do the
decorators of the function.
"""

from __future__ import annotations

import ast
import inspect
from functools import lru_cache
from hashlib import blake2b
from types import CodeType, FunctionType
from typing import Any, Final

#: The version of a function whose source is not there, such as a lambda or a function of a shell. It is not
#: compared.
UNKNOWN: Final = ""

_DEFINITIONS: Final = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@lru_cache(maxsize=256)  # the file of a function is read once, and not at each call
def version_of_code(code: CodeType) -> str:
    """Return a digest of the source of a function, or `UNKNOWN`."""
    return UNKNOWN if code.co_name == "<lambda>" else _version(code, code.co_name)


def version_of(defined: FunctionType | type) -> str:
    """Return a digest of the source of a function or class, or `UNKNOWN`."""
    if isinstance(defined, type):
        return _version(defined, defined.__name__)
    return version_of_code(defined.__code__)


def _version(defined: Any, name: str) -> str:
    try:
        # Of the code, because `getsource` of a function looks for the function that it wraps.
        source = inspect.getsource(defined)
        if source[:1] in {" ", "\t"}:  # a method; to dedent it would change texts of several lines
            source = f"if True:\n{source}"
        node: ast.AST = ast.parse(source).body[0]
        if isinstance(node, ast.If):
            node = node.body[0]
        if not isinstance(node, _DEFINITIONS) or node.name != name:
            return UNKNOWN
        node.decorator_list.clear()
        text = _text(node)
    except (OSError, TypeError, ValueError, SyntaxError, RecursionError, IndexError):
        return UNKNOWN
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()


def _text(node: object) -> str:
    # Not `ast.dump`, whose text differs between versions of Python: fields that hold nothing are left out.
    if isinstance(node, ast.AST):
        fields = (
            f"{name}={_text(value)}"
            for name, value in ast.iter_fields(node)
            if value is not None and value != [] and name not in {"kind", "type_comment"}
        )
        return f"{type(node).__name__}({','.join(fields)})"
    if isinstance(node, list):
        return f"[{','.join(map(_text, node))}]"
    return f"{type(node).__name__}:{node!r}"
