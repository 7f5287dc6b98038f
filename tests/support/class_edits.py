"""Edits of a program between the moment a value is stored and the moment it is read."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, NamedTuple

#: The module that is edited.
MODULE = "edited_shop"

HEADER = """
from __future__ import annotations
import enum
from collections import namedtuple
from dataclasses import dataclass, field
from typing import ClassVar, Generic, NamedTuple, Optional, TypeVar
T = TypeVar("T")
"""


class Edit(NamedTuple):
    """Two states of the source, and what is stored."""

    before: str
    after: str
    value: str


_DATACLASS = "@dataclass\nclass A:\n    a: int\n"
_PLAIN = "class A:\n    def __init__(self, a: int) -> None:\n        self.a = a\n"
_ENUM = "class A(enum.Enum):\n    X = 1\n    Y = 2\n"
_TUPLE_OF = "class A(NamedTuple):\n"
_TUPLE = f"{_TUPLE_OF}    a: int\n"
_SLOTS = "class A:\n    __slots__ = ('a',)\n    def __init__(self, a): self.a = a\n"
_BASE = "@dataclass\nclass Base:\n    b: int = 0\n"
_DERIVED = "@dataclass\nclass A(Base):\n    a: int = 0\n"
_MODEL = "import pydantic\nclass A(pydantic.BaseModel):\n    a: int\n"
_ROOT = "import pydantic\nclass A(pydantic.RootModel[list[int]]):\n    pass\n"
_BOX = "import pydantic\nclass Box(pydantic.BaseModel, Generic[T]):\n    a: T\n"
_ATTRS = "import attrs\n@attrs.define\nclass A:\n    a: int\n"
_ERROR = "class A(Exception):\n    pass\n"
_STATE = "class A:\n    def __getstate__(self): return {'a': 1}\n"
_METHOD = "    def total(self): return {}\n"

#: What may not be read after the edit.
MISSES = {
    "dataclass: field": Edit(_DATACLASS, f"{_DATACLASS}    b: str\n", "A(1)"),
    "dataclass: field with a default": Edit(_DATACLASS, f"{_DATACLASS}    b: str = ''\n", "A(1)"),
    "dataclass: field gone": Edit(f"{_DATACLASS}    b: str = ''\n", _DATACLASS, "A(1)"),
    "dataclass: field renamed": Edit(_DATACLASS, _DATACLASS.replace("a: int", "b: int"), "A(1)"),
    "dataclass: type": Edit(_DATACLASS, _DATACLASS.replace("int", "Optional[int]"), "A(1)"),
    "dataclass: default": Edit(_DATACLASS, _DATACLASS.replace("int", "int = 3"), "A(1)"),
    "dataclass: factory": Edit(
        _DATACLASS, _DATACLASS.replace("int", "int = field(default_factory=int)"), "A(1)"
    ),
    "dataclass: slots": Edit(_DATACLASS, _DATACLASS.replace("dataclass", "dataclass(slots=True)"), "A(1)"),
    "dataclass: no dataclass": Edit(_DATACLASS, _PLAIN, "A(1)"),
    "plain: parameter": Edit(_PLAIN, _PLAIN.replace("a: int", "a: int, b: int = 0"), "A(1)"),
    "plain: annotation of a parameter": Edit(_PLAIN, _PLAIN.replace("a: int", "a: str"), "A(1)"),
    "plain: attribute in __init__": Edit(_PLAIN, f"{_PLAIN}        self.b = 0\n", "A(1)"),
    "plain: annotation": Edit("class A: a: int", "class A: a: int; b: str", "A()"),
    "plain: renamed state": Edit(
        f"{_STATE}    def __setstate__(self, state): self.a = state",
        f"{_STATE}    def __setstate__(self, state): self.b = state",
        "A()",
    ),
    "plain: base": Edit("class B: a: int\nclass A: pass", "class B: a: int\nclass A(B): pass", "A()"),
    "plain: slots instead": Edit(_PLAIN, _SLOTS, "A(1)"),
    "slots: one more": Edit(_SLOTS, _SLOTS.replace("('a',)", "('a', 'b')"), "A(1)"),
    "named tuple: field": Edit(_TUPLE, f"{_TUPLE}    b: int = 0\n", "A(1)"),
    "named tuple: order": Edit(f"{_TUPLE}    b: int\n", f"{_TUPLE_OF}    b: int\n    a: int\n", "A(1, 2)"),
    "named tuple of collections": Edit("A = namedtuple('A', 'a')", "A = namedtuple('A', 'b')", "A(1)"),
    "enum: renamed": Edit(_ENUM, _ENUM.replace("X", "Z"), "A(1)"),
    "enum: renumbered": Edit(_ENUM, _ENUM.replace("1", "3").replace("2", "1").replace("3", "2"), "A.X"),
    "enum: another kind": Edit(_ENUM, _ENUM.replace("Enum", "IntEnum"), "A.X"),
    "flag: renumbered": Edit(
        "class A(enum.Flag):\n    X = 1\n    Y = 2\n", "class A(enum.Flag):\n    Y = 1\n    X = 2\n", "A.X"
    ),
    "inherited field": Edit(f"{_BASE}{_DERIVED}", f"{_BASE}    c: int = 0\n{_DERIVED}", "A(1)"),
    "subclass of a builtin": Edit("class A(dict): pass", "class A(dict):\n    a: int", "A(a=1)"),
    "error": Edit(_ERROR, f"{_ERROR}    def __init__(self, *a, b): self.b = b", "A(1)"),
    "in a list": Edit(_DATACLASS, f"{_DATACLASS}    b: str = ''\n", "[1, {'a': (A(1),)}]"),
    "key of a dict": Edit(_ENUM, _ENUM.replace("X", "Z"), "{A.X: 1}"),
    "in another object": Edit(
        f"{_DATACLASS}class Holder:\n    pass\n",
        f"{_DATACLASS}    b: str = ''\nclass Holder:\n    pass\n",
        "vars(h := Holder()).update(a=A(1)) or h",
    ),
    "in a circle": Edit(_PLAIN, f"{_PLAIN}        self.b = 0\n", "vars(a := A(1)).update(a=[a]) or a"),
    "nested class": Edit(
        "class A:\n    @dataclass\n    class B:\n        a: int",
        "class A:\n    @dataclass\n    class B:\n        a: int\n        b: int = 0",
        "A.B(1)",
    ),
    "gone": Edit(_DATACLASS, "", "A(1)"),
    "no class any more": Edit(_DATACLASS, "def A(a): return a", "A(1)"),
    "pydantic: field": Edit(_MODEL, f"{_MODEL}    b: str = ''\n", "A(a=1)"),
    "pydantic: private attribute": Edit(_MODEL, f"{_MODEL}    _b: str = ''\n", "A(a=1)"),
    "pydantic: required": Edit(_MODEL, _MODEL.replace("int", "int = 1"), "A(a=1)"),
    "pydantic: root": Edit(_ROOT, _ROOT.replace("int", "str"), "A([])"),
    "pydantic: generic": Edit(f"{_BOX}A = Box[int]", f"{_BOX}    b: int = 0\nA = Box[int]", "A(a=1)"),
    "attrs: field": Edit(_ATTRS, f"{_ATTRS}    b: int = 0\n", "A(1)"),
    "attrs: without annotations": Edit(
        "import attr\n@attr.s\nclass A:\n    a = attr.ib()",
        "import attr\n@attr.s\nclass A:\n    a = attr.ib()\n    b = attr.ib(default=1)",
        "A(1)",
    ),
}  # fmt: skip

#: What is read all the same.
HITS = {
    "nothing": Edit(_DATACLASS, _DATACLASS, "A(1)"),
    "another method": Edit(_DATACLASS, _DATACLASS + _METHOD.format(2), "A(1)"),
    "a method's code": Edit(_PLAIN + _METHOD.format(1), _PLAIN + _METHOD.format(2), "A(1)"),
    "a docstring": Edit(_DATACLASS, _DATACLASS.replace("A:\n", "A:\n    'text'\n"), "A(1)"),
    "the value of a default": Edit(
        _DATACLASS.replace("int", "int = 1"), _DATACLASS.replace("int", "int = 2"), "A(1)"
    ),
    "a constant of the class": Edit(_DATACLASS, f"{_DATACLASS}    limit = 3\n", "A(1)"),
    "another class": Edit(_DATACLASS, f"{_DATACLASS}@dataclass\nclass B:\n    a: int\n", "A(1)"),
    "a property": Edit(_MODEL, f"{_MODEL}    @property\n    def b(self): return 1\n", "A(a=1)"),
    "an alias": Edit(_DATACLASS, _DATACLASS.replace("class A", "class B") + "A = B\n", "A(1)"),
    "an enum's method": Edit(_ENUM, _ENUM + _METHOD.format(2), "A.X"),
    "pydantic: the same": Edit(f"{_BOX}A = Box[int]", f"{_BOX}A = Box[int]", "[A(a=1)]"),
    "attrs: the same": Edit(_ATTRS, _ATTRS, "A(1)"),
}


@contextmanager
def program(source: str, name: str = MODULE) -> Iterator[ModuleType]:
    """Load a module with this source under the name that pickles use."""
    module = ModuleType(name)
    before = sys.modules.get(name)
    sys.modules[name] = module
    try:
        exec(compile(HEADER + source, f"/{name}.py", "exec"), vars(module))
        yield module
    finally:
        if before is None:
            del sys.modules[name]
        else:
            sys.modules[name] = before


def made(module: ModuleType, expression: str) -> Any:
    """Return the value of an expression in a module."""
    return eval(expression, vars(module))


def classes_in(module: ModuleType) -> list[type]:
    """Return the classes that a module defines, those of other classes included."""
    found = [
        one for one in vars(module).values() if isinstance(one, type) and one.__module__ == module.__name__
    ]
    inner = [
        one for kind in found for one in vars(kind).values() if isinstance(one, type) and one is not kind
    ]
    return [one for one in found + inner if one.__module__ == module.__name__]
