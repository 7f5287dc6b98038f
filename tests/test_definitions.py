"""Classes and functions as arguments count by their definition: an edit makes another argument (P16)."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Union

import pytest
from typing_extensions import TypeAliasType

from cachekit import KeyEncodingError, cache_result
from cachekit.decorator.key_encoding import encode
from cachekit.decorator.naming import Unkeyable

HEAD = """
from __future__ import annotations
import abc, dataclasses, enum, functools, typing
from collections import namedtuple
from dataclasses import dataclass, field
from pydantic import BaseModel, ConfigDict, Field, field_validator

def doubled(function):
    @functools.wraps(function)
    def wrapper(*args):
        return 2 * function(*args)
    return wrapper

def scaled(by):
    def around(function):
        @functools.wraps(function)
        def wrapper(*args):
            return by * function(*args)
        return wrapper
    return around
"""

DATACLASS = '''
@dataclass
class Item:
    """One line."""
    price: float = 1.0

class Base:
    unit = "EUR"

@dataclass
class It(Base):
    """A bill."""
    total: int
    items: list[Item] = field(default_factory=list)
    note: typing.Literal["a", "b"] = "a"
    hidden: int = field(default=0, repr=False)

    @property
    def net(self):
        return self.total - 1

    @functools.cached_property
    def gross(self):
        return self.total + 1

    @staticmethod
    def of(x):
        return x

    @functools.lru_cache
    def slow(self):
        return 3

    @scaled(2)
    def scale(self):
        return self.total
'''

MODEL = """
class Item(BaseModel):
    price: float = 1.0

class It(BaseModel):
    model_config = ConfigDict(extra="ignore")
    total: int = Field(gt=0, description="what to pay")
    items: list[Item] = Field(default_factory=list)
    parent: It | None = None

    @field_validator("total")
    @classmethod
    def check(cls, value):
        return value + 1
"""

ENUM = """
class It(enum.Enum):
    RED = 1
    BLUE = 2

    def shown(self):
        return "red"
"""

OTHERS = """
class Item:
    pass

class Form(typing.TypedDict, total=False):
    x: int
    y: Item

class Row(typing.NamedTuple):
    x: int
    y: str = "y"

class Old(namedtuple("Old", "a b")):
    pass

class Shape(typing.Protocol):
    def area(self) -> float: ...

class Abstract(abc.ABC):
    @abc.abstractmethod
    def method(self): ...

class Slots:
    __slots__ = ("a", "__b")

T = typing.TypeVar("T", bound=int)

class Box(typing.Generic[T]):
    content: T

class It(Form):
    z: Row
    old: Old
    shape: Shape
    abstract: Abstract
    slots: Slots
    box: Box
"""

FUNCTION = '''
@dataclass
class Item:
    price: float = 1.0

def It(text: str, item: Item | None = None, *, limit: int = 5) -> list[Item]:
    """Find items."""
    return [item]
'''

#: A source, and edits of it, each of which makes another argument of `It`.
EDITS: dict[str, tuple[str, list[tuple[str, str]]]] = {
    "dataclass": (
        DATACLASS,
        [
            ("total: int", "total: str"),
            ("    total: int", "    total: int\n    currency: str"),
            ("    total: int", "    total: int\n    x: typing.ClassVar[int] = 1"),
            ("default_factory=list", "default_factory=lambda: []"),
            ("default_factory=list", "default_factory=tuple"),
            ('"b"] = "a"', '"c"] = "a"'),
            ('"b"] = "a"', '"b"] = "b"'),
            ("repr=False", "repr=True"),
            ("default=0, ", "default=0.0, "),
            ("A bill.", "A receipt."),
            ("price: float = 1.0", "price: float = 2.0"),
            ("price: float", "price: int"),
            ("One line.", "A line."),
            ('unit = "EUR"', 'unit = "USD"'),
            ("class It(Base)", "class It"),
            ("@dataclass\nclass It", "@dataclass(order=True)\nclass It"),
            ("@dataclass\nclass It", "@dataclass(slots=True)\nclass It"),
            ("total - 1", "total - 2"),
            ("total + 1", "total + 2"),
            ("return x", "return -x"),
            ("return 3", "return 4"),
            ("@scaled(2)", "@scaled(3)"),
            ("return self.total\n", "return -self.total\n"),
            ("return by *", "return -by *"),
        ],
    ),
    "model": (
        MODEL,
        [
            ("gt=0", "gt=1"),
            ("what to pay", "what was paid"),
            ("total: int", "total: float"),
            ("price: float = 1.0", "price: float = 2.0"),
            ("price: float", "price: int"),
            ("value + 1", "value + 2"),
            ('"ignore"', '"forbid"'),
            ("default_factory=list", "default_factory=lambda: []"),
            ("    total: int", "    currency: str = ''\n    total: int"),
        ],
    ),
    "enum": (
        ENUM,
        [
            ("BLUE = 2", "BLUE = 3"),
            ("BLUE = 2", "GREEN = 2"),
            ("    RED = 1\n    BLUE = 2", "    BLUE = 2\n    RED = 1"),
            ('return "red"', 'return "RED"'),
            ("enum.Enum", "enum.IntEnum"),
        ],
    ),
    "others": (
        OTHERS,
        [
            ("total=False", "total=True"),
            ("x: int\n    y: Item", "x: str\n    y: Item"),
            ("class Item:\n    pass", "class Item:\n    x = 1"),
            ('y: str = "y"', 'y: str = "z"'),
            ('"a b"', '"a c"'),
            ("-> float", "-> int"),
            ("    @abc.abstractmethod\n", ""),
            ('("a", "__b")', '("a", "__c")'),
            ("bound=int", "bound=float"),
            ("content: T", "content: int"),
        ],
    ),
    "function": (
        FUNCTION,
        [
            ("text: str", "text: bytes"),
            ("Find items.", "Find an item."),
            ("limit: int = 5", "limit: int = 6"),
            ("limit: int = 5", "limit: int"),
            ("-> list[Item]", "-> tuple[Item]"),
            ("price: float = 1.0", "price: float = 2.0"),
            ("return [item]", "return item"),
        ],
    ),
}


@pytest.fixture
def fresh() -> Iterator[None]:
    """Leaves no module behind."""
    yield
    sys.modules.pop("edited", None)


def made(source: str) -> Any:
    """Return what the source calls `It`, in a module of the same name each time."""
    module = types.ModuleType("edited")
    sys.modules["edited"] = module
    exec(compile(source, "edited.py", "exec"), vars(module))
    return vars(module)["It"]


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("what", EDITS)
class TestEdits:
    def test_every_edit_counts(self, what: str, subtests: pytest.Subtests) -> None:
        """Of a field, an annotation, a default, a base, a method, and of the classes that it mentions."""
        source, edits = EDITS[what]
        texts = {encode(made(HEAD + source))}
        for at, (before, after) in enumerate(edits, 2):
            with subtests.test(edit=f"{before!r} to {after!r}"):
                assert before in HEAD + source
                texts.add(encode(made((HEAD + source).replace(before, after))))
                assert len(texts) == at

    def test_what_does_not_count(self, what: str) -> None:
        """A definition that is run again, and comments and blank lines, make the same argument."""
        source, _ = EDITS[what]
        text = encode(made(HEAD + source))
        assert encode(made(HEAD + source)) == text
        assert encode(made(HEAD + "# a comment\n\n" + source.replace("\n\n", "\n\n\n# more\n"))) == text


PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
from cachekit.decorator.key_encoding import encode
from cachekit.decorator.naming import Unkeyable
import written
print(encode(written.It), encode([written.It, {"schema": written.It}]))
"""


@pytest.mark.parametrize("what", EDITS)
def test_other_processes(what: str, tmp_path: Path) -> None:
    """Two hash seeds make one text."""
    (tmp_path / "written.py").write_text(HEAD + EDITS[what][0])
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    texts = {
        subprocess.check_output(command, text=True, env=os.environ | {"PYTHONHASHSEED": seed})
        for seed in ("1", "2")
    }
    assert len(texts) == 1


class Setting:
    level = 1
    options: ClassVar[dict[str, Any]] = {"a": 1}


class Steps:
    steps: ClassVar[list[int]] = [1]


class Child(Setting):
    pass


class Logged:
    lock = object()


class OfLogged:
    one: Logged


def tool(x: int) -> int:
    return x


Json = Union[dict[str, "Json"], list["Json"], str, None]  # noqa: UP007  # as most programs write it


class Order:
    payload: Json
    others: list[Order]
    lazy: lazy.Frame  # type: ignore[name-defined]  # noqa: F821
    wrong: 1 / 0  # type: ignore[valid-type]

    @classmethod
    @cache_result
    def latest(cls, number: int) -> int:
        return number


def sending(payload: Json) -> Json:
    return payload


class TestAnnotations:
    def test_an_alias_may_mention_itself(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As that of JSON does. What it says still counts."""
        before = [encode(Order), encode(sending)]
        assert [encode(Order), encode(sending)] == before
        assert Order.latest(1) == 1
        other = Union[dict[str, "Json"], list["Json"], int, None]  # noqa: UP007
        monkeypatch.setitem(globals(), "Json", other)
        for thing in (Order, sending):
            annotations = dict.fromkeys(thing.__annotations__, globals()["Json"])
            monkeypatch.setattr(thing, "__annotations__", annotations)
        assert encode(Order) != before[0]
        assert encode(sending) != before[1]

    def test_aliases_of_typing_extensions_count(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """By what they stand for, as those of typing."""

        def keyed(meaning: Any) -> str:
            monkeypatch.setattr(Order, "__annotations__", {"ids": TypeAliasType("Ids", meaning)})
            return encode(Order)

        assert keyed(list[int]) == keyed(list[int]) != keyed(list[str])

    def test_aliases_that_mention_each_other(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each is described once: with twelve, every path through them would take for ever."""
        names = [f"Alias{number}" for number in range(12)]
        for name in names:
            monkeypatch.setitem(globals(), name, Union[tuple(names)])  # noqa: UP007
        monkeypatch.setattr(Order, "__annotations__", {"all": names[0]})
        assert encode(Order) == encode(Order)

    def test_an_annotation_that_cannot_be_evaluated_counts_as_text(self) -> None:
        """Whatever evaluating it raises: it may be for type checkers alone."""

        def missing(name: str) -> Any:
            raise ImportError(f"{name} needs another package")

        lazy = types.ModuleType("lazy")
        vars(lazy)["__getattr__"] = missing
        before = encode(Order)
        globals()["lazy"] = lazy
        try:
            Order.latest(2)
            assert "Order" in encode(Order)
        finally:
            del globals()["lazy"]
        assert encode(Order) == before

    @pytest.mark.skipif(sys.version_info < (3, 12), reason="`type X = ...` is of Python 3.12")
    def test_an_alias_that_cannot_be_evaluated_counts_by_its_name(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """And its module, as a type variable does; one that can be evaluated, by what it stands for."""
        made: dict[str, Any] = {}
        exec("type Ids = list[Missing]\ntype Names = list[Missing]", made)
        texts = [encode(made["Ids"]), encode(made["Names"])]
        monkeypatch.setattr(Order, "__annotations__", {"ids": made["Ids"]})
        texts.append(encode(Order))
        made["Missing"] = int
        texts.append(encode(made["Ids"]))
        made["Missing"] = str
        exec("type Ids = list[Missing]", made)
        texts.append(encode(made["Ids"]))
        for module in ("one", "other"):
            exec("type Ids = list[Missing]", named := {"__name__": module})
            texts.append(encode(named["Ids"]))
        assert len(set(texts)) == len(texts)


class TestLater:
    def test_an_attribute_that_is_set_later(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It counts from then on, also where the class was an argument before, and in place in a dict."""
        texts = [encode(Setting)]
        for name, value in (("level", 2), ("more", 1), ("options", {"a": 2}), ("__doc__", "Said.")):
            monkeypatch.setattr(Setting, name, value, raising=False)
            texts.append(encode(Setting))
        Setting.options["a"] = 3
        texts.append(encode(Setting))
        monkeypatch.delattr(Setting, "more")
        texts.append(encode(Setting))
        assert len(set(texts)) == len(texts)
        assert encode(Setting) == texts[-1]

    def test_a_list_that_changes_in_place(self) -> None:
        """Of a class and of a function."""

        def inner() -> None: ...

        inner.steps = [1]  # type: ignore[attr-defined]
        texts = [encode(Steps), encode(inner)]
        Steps.steps.append(2)
        inner.steps.append(2)  # type: ignore[attr-defined]
        assert len({*texts, encode(Steps), encode(inner)}) == 4

    def test_of_a_class_that_it_mentions(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The same for a base."""
        before = encode(Child)
        monkeypatch.setattr(Setting, "level", 3)
        assert encode(Child) != before

    def test_of_a_function(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A text, an annotation and an attribute that a function was given count."""
        texts = [encode(tool)]
        monkeypatch.setattr(tool, "__doc__", "Do it.")
        texts.append(encode(tool))
        monkeypatch.setitem(tool.__annotations__, "x", "str")
        texts.append(encode(tool))
        monkeypatch.setattr(tool, "cost", 1, raising=False)
        texts.append(encode(tool))
        assert len(set(texts)) == 4

    def test_what_cannot_be_told_is_refused(self) -> None:
        """The error names the attribute, and the class if it is another one."""

        @cache_result(name="asked")
        def asked(schema: type) -> None: ...

        with pytest.raises(
            KeyEncodingError, match=r"'schema' cannot .*: its attribute 'lock': a value of type object"
        ):
            asked.key(Logged)
        with pytest.raises(KeyEncodingError, match=r"'schema' .* \S*Logged: its attribute 'lock'"):
            asked.key(OfLogged)

    def test_the_standard_library_counts_by_name(self) -> None:
        """Its classes are those of Python's version."""
        import collections
        import logging

        assert encode(logging.Logger) == "<class logging.Logger>"
        assert encode(collections.OrderedDict) == "<class collections.OrderedDict>"

    def test_a_method_with_super_of_a_class_in_a_function(self) -> None:
        """The class that it stands in is one of several, so the function is refused."""

        class Local(Setting):
            def method(self) -> object:
                return super().__init__

        @cache_result(name="asked")
        def asked(thing: object) -> None: ...

        with pytest.raises(KeyEncodingError, match=r"uses variables of the function around it \(__class__\)"):
            asked.key(Local.method)


SHADOWING = """
from cachekit import cache_result
from {module} import Invoice

@cache_result
def extract(text, schema):
    return list(schema.__annotations__)

print(extract("pay 3 EUR", Invoice))
"""


@pytest.mark.parametrize("module", ["profile", "code"])
def test_a_module_with_a_name_of_the_standard_library(module: str, tmp_path: Path) -> None:
    """The class is the program's: its edit counts."""
    answers = []
    (tmp_path / "main.py").write_text(SHADOWING.format(module=module))
    for field in ("", "    currency: str\n"):
        (tmp_path / f"{module}.py").write_text(f"class Invoice:\n    total: int\n{field}")
        answers.append(subprocess.check_output([sys.executable, str(tmp_path / "main.py")], text=True))
    assert answers == ["['total']\n", "['total', 'currency']\n"]


def test_a_class_of_code_without_a_name() -> None:
    """It says that it is of `builtins`, under whose names there are others."""
    for name in ("Invoice", "int"):
        scope: dict[str, Any] = {}
        exec(f"class {name}:\n    total: int", scope)
        with pytest.raises(Unkeyable, match=f"the class builtins.{name} is not what its module has"):
            encode(scope[name])
