"""Whatever an argument holds is in its key: the table of docs/decorator.md, kind by kind (P16)."""

from __future__ import annotations

import array
import collections
import datetime as dt
import functools
import os
import re
import subprocess
import sys
import types
import typing
from pathlib import Path
from typing import Any

import key_kinds
import pytest
from exploring import explored
from hypothesis import given
from hypothesis import strategies as st
from key_kinds import KINDS, Model, Query, Slotted, as_changing, changed

from cachekit import KeyEncodingError, cache_result
from cachekit.decorator.key_encoding import encode
from cachekit.decorator.naming import Unkeyable

DOCS = Path(__file__).parents[1] / "docs/decorator.md"

_plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 2)
    | st.sampled_from([0.0, -0.0, 1.0, 1.5])
    | st.text("ab1", max_size=2),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text("ab", max_size=1), inner, max_size=2)
        | st.sets(st.integers(0, 3), max_size=3)
        | st.builds(key_kinds.Other, inner)
        | st.builds(key_kinds.Pair, inner)
    ),
    max_leaves=5,
)


@pytest.mark.parametrize("kind", KINDS)
class TestTable:
    def test_each_aspect_counts(self, kind: str, subtests: pytest.Subtests) -> None:
        """Values that differ in one aspect alone have two keys."""
        make, variants = KINDS[kind]
        base = encode(make(1))
        for aspect, variant in variants.items():
            with subtests.test(aspect=aspect):
                assert encode(make(1)) == base
                assert encode(variant()) != base

    @given(st.data())
    @explored()
    def test_content_decides(self, kind: str, data: st.DataObject) -> None:
        """Two nested contents that differ make two keys, and equal ones make one."""
        make = KINDS[kind].make
        one = data.draw(_plain)
        other = data.draw(_plain | st.just(one))
        # A class is one object, so each text is made before the next change of it.
        texts = encode(make(one)), encode(make(other))
        assert (texts[0] == texts[1]) == (encode(one) == encode(other))


def test_the_table_is_that_of_the_docs() -> None:
    """Users read of the kinds that are tested here, and of no other."""
    text = DOCS.read_text(encoding="utf-8")
    start = text.index("| an argument that is")
    rows = re.findall(r"^\| (.+?) \| .+ \|$", text[start : text.index("\n\n", start)], re.MULTILINE)
    assert rows[1:] == list(KINDS)


def test_other_processes_make_the_same_keys() -> None:
    """A hundred random nested values of each kind, with three hash seeds."""
    command = [sys.executable, "-W", "ignore", key_kinds.__file__]
    found = {
        subprocess.check_output(command, text=True, env=os.environ | {"PYTHONHASHSEED": seed})
        for seed in ("0", "1", "2")
    }
    (texts,) = found
    assert len(texts.splitlines()) >= 100 * len(KINDS)


class TestState:
    def test_a_cached_property_is_left_out(self) -> None:
        """Its result follows from the rest, so having asked for it changes no key."""
        for value in (Query("a", 1), Model(x=1)):
            before = encode(value)
            assert value.length == 1
            assert encode(value) == before

    def test_private_slots(self) -> None:
        """A slot counts under its private name, also an empty one."""
        texts = {encode(Slotted("a")), encode(Slotted("a").keep(1)), encode(Slotted("a").keep(2))}
        assert len(texts) == 3
        assert encode(Slotted("a").keep(1)) in texts

    def test_the_part_that_is_refused(self, subtests: pytest.Subtests) -> None:
        """The error names the attribute or the field."""
        rows: list[tuple[Any, str]] = [
            (changed(Query("a"), "lock", object()), r"thing\.lock: a value of type object has no identity"),
            (Query(object()), r"thing\.text: a value of type object has no identity"),
            ([{"a": Query(object())}], r"thing\[0\]\['a'\]\.text: a value of type object"),
            ({"some secret text": [1, (2, object())]}, r"thing \(value 0\)\[1\]\[1\]: a value of"),
            ({object(): 1}, r"thing \(key 0\): a value of type object"),
            ({1, object()}, r"key: a value of type object"),
        ]
        for value, why in rows:
            with subtests.test(why=why), pytest.raises(KeyEncodingError, match=why) as refused:
                _asked.key(value)
            assert "secret" not in str(refused.value)

    def test_a_base_in_c_may_hold_more(self) -> None:
        """What its fields do not show cannot be read, so it is refused; exceptions say what they hold."""
        from dataclasses import dataclass

        @dataclass
        class Day(dt.timedelta):
            note: str = ""

        Day.__qualname__ = "Day"
        with pytest.raises(Unkeyable, match=r"its base datetime\.timedelta may hold more than its fields"):
            encode(Day())
        assert encode(key_kinds.Other(1)) == f"<{key_kinds.__name__}.Other:text=1>"

    def test_a_class_that_changed(self) -> None:
        """A class in the place of another one of its name has another key."""
        texts = {as_changing(kind) for kind in (key_kinds._ChangedMethod, key_kinds._ChangedAnnotation)}
        assert len(texts | {encode(key_kinds.a_class(1))}) == 3


@cache_result
def _asked(thing: Any) -> None: ...


class TestStandardValues:
    def test_they_are_told_apart(self, subtests: pytest.Subtests) -> None:
        """Values that look alike are two arguments; made again, each is one."""
        T, U = typing.TypeVar("T"), typing.TypeVar("U", bound=int)  # noqa: N806
        rows: list[list[Any]] = [
            [list[int], list[bool], tuple[int], typing.List[int], list, [int]],  # noqa: UP006
            # From Python 3.14 on, the first two of these are one object.
            [int | None, int | str, int]
            if sys.version_info >= (3, 14)
            else [int | None, typing.Optional[int], int | str, int],  # noqa: UP045
            [typing.Literal["a"], typing.Literal["b"], typing.Literal["a", "b"], "a"],
            [typing.Literal[1], typing.Literal[True]],
            [typing.Annotated[int, 1], typing.Annotated[int, 2], typing.Annotated[str, 1], int],
            [typing.Callable[[int], str], typing.Callable[[str], str], collections.abc.Callable[[int], str]],
            [typing.Callable[..., int], typing.Callable[[], int]],
            [T, U, list[T], list[U], typing.ForwardRef("T"), "T"],  # type: ignore[valid-type]
            [typing.Any, typing.Optional, typing.Union, typing.List, typing.Dict],  # noqa: UP006
            [functools.partial(int, base=2), functools.partial(int, base=8), functools.partial(int, 2), int],
            [array.array("d", [1]), array.array("f", [1]), array.array("d", [1, 0]), [1.0]],
            [memoryview(b"ab"), memoryview(b"ba"), memoryview(b"ab").cast("B", (1, 2)), b"ab"],
            [types.MappingProxyType({"a": 1}), types.MappingProxyType({"a": 2}), {"a": 1}],
            [types.SimpleNamespace(a=1), types.SimpleNamespace(b=1), types.SimpleNamespace(a=1.0)],
            [collections.UserDict(a=1), collections.UserDict(a=2), {"a": 1}],
            [collections.UserList([1]), collections.UserList([2]), collections.UserString("1")],
            [{"a": 1}.keys(), {"b": 1}.keys(), {"a": 1}.items(), {"a": 1}.values(), {"a": 1}],
            [{"a": 1, "b": 2}.values(), {"a": 2, "b": 1}.values()],
            [collections.OrderedDict(a=1, b=2).keys(), collections.OrderedDict(b=2, a=1).keys()],
            [str.upper, str.lower, "a".upper, "b".upper],
        ]
        for values in rows:
            with subtests.test(values=values):
                assert len({encode(value) for value in values}) == len(values)

    def test_a_view_has_no_order_where_its_dict_has_none(self) -> None:
        """Keys and items compare as sets do."""
        assert encode({"a": 1, "b": 2}.keys()) == encode({"b": 2, "a": 1}.keys())
        assert encode({"a": 1, "b": 2}.items()) == encode({"b": 2, "a": 1}.items())

    def test_what_cannot_be_read(self) -> None:
        """A view of memory that was released, and a zone without a name, are refused."""
        import io
        import zoneinfo

        released = memoryview(b"a")
        released.release()
        with pytest.raises(Unkeyable, match="the memoryview cannot be read"):
            encode(released)
        utc = Path(zoneinfo.TZPATH[0], "Etc/UTC")
        if utc.exists():
            zone = zoneinfo.ZoneInfo.from_file(io.BytesIO(utc.read_bytes()))
            with pytest.raises(Unkeyable, match="time zone ZoneInfo does not say what it holds"):
                encode(dt.datetime(2024, 1, 1, tzinfo=zone))
