"""Callables that are no def: what functools.lru_cache accepts can be cached, by what it holds."""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
import operator
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import inside
import pytest

from cachekit import CacheInfo, IntelligentCache, KeyEncodingError, cache_result


@pytest.fixture
def cache(default_cache: IntelligentCache) -> IntelligentCache:
    return default_cache


def power(x: int, to: int = 2) -> list[int]:
    return [x**to]


@dataclass
class Scale:
    factor: int

    def scaled(self, x: int) -> list[int]:
        return [x * self.factor]

    async def scaled_later(self, x: int) -> list[int]:
        return [x * self.factor]

    def __call__(self, x: int) -> list[int]:
        return [x * self.factor, 0]

    @classmethod
    def named(cls, x: int) -> list[object]:
        return [cls.__name__, x]

    def items(self) -> Any:
        yield self.factor


class Plain:
    """Holds something without an identity."""

    def __init__(self, factor: int) -> None:
        self.factor = factor

    def scaled(self, x: int) -> list[int]:
        return [x * self.factor]

    def __call__(self, x: int) -> list[int]:
        return [x * self.factor, 1]


class AwaitedCall:
    async def __call__(self, x: int) -> list[int]:
        return [x]


SHARED: list[tuple[Any, tuple[Any, ...]]] = [
    (math.factorial, (5,)),
    (len, ([1, 2],)),
    (max, (1, 2)),
    (os.path.join, ("a", "b")),
    (str.upper, ("a",)),
    ("a,b".split, (",",)),
    ({"a": 1}.get, ("a",)),
    (functools.partial(pow, 2), (3,)),
    (functools.partial(functools.partial(power, to=3), 2), ()),
    (functools.partial(Scale(2).scaled, 3), ()),
    (functools.lru_cache(power), (3,)),
    (operator.itemgetter(1), ([1, 2],)),
    (operator.methodcaller("upper"), ("a",)),
    (Scale(2).scaled, (3,)),
    (Scale.named, (3,)),
    (Scale(2), (3,)),
]
OWN: list[tuple[Any, tuple[Any, ...]]] = [
    (Plain(2).scaled, (3,)),
    (Plain(2), (3,)),
    (functools.partial(Plain(2).scaled), (3,)),
    (functools.partial(lambda x: [x]), (3,)),
    (functools.lru_cache(lambda x: [x]), (3,)),
]


class TestAll:
    @pytest.mark.parametrize(("called", "args"), SHARED + OWN)
    def test_it_is_cached(self, cache: IntelligentCache, called: Any, args: tuple[Any, ...]) -> None:
        """The answer is that of the callable, and the second one comes from the cache."""
        cached = cache_result(called)
        assert cached(*args) == called(*args)
        assert cached(*args) is cached(*args)
        assert cached.cache_info() == CacheInfo(hits=2, misses=1, size=1)
        assert cached.__wrapped__ is called
        assert cached.invalidate(*args) is True
        assert cached.refresh(*args) == called(*args)
        assert cached.cache_clear() == 1

    @pytest.mark.parametrize(("called", "args"), SHARED)
    def test_what_it_holds_is_in_its_key(
        self, cache: IntelligentCache, called: Any, args: tuple[Any, ...]
    ) -> None:
        """So another object that holds the same has the same answers, in every tier."""
        one, other = cache_result(called), cache_result(called)
        assert one.cache_info().scope == "shared"
        assert one.key(*args) == other.key(*args)

    @pytest.mark.parametrize(("called", "args"), OWN)
    def test_or_it_has_results_of_its_own(
        self, cache: IntelligentCache, called: Any, args: tuple[Any, ...]
    ) -> None:
        """As a closure has; a name shares them."""
        one, other = cache_result(called), cache_result(called)
        assert one.cache_info().scope == "process"
        assert one.key(*args) != other.key(*args)
        assert cache_result(name="one")(called).cache_info().scope == "shared"

    def test_keys_differ(self, cache: IntelligentCache) -> None:
        """Callables that hold something else have other keys, also under one name."""
        groups: list[list[Callable[..., Any]]] = [
            [functools.partial(pow, 2), functools.partial(pow, 3), functools.partial(pow, exp=2)],
            [Scale(2).scaled, Scale(3).scaled, Scale(2), Scale(3)],
            [{"a": 1}.get, {"a": 2}.get],
            [math.sin, math.cos],
        ]
        for name in (None, "one name"):
            for group in groups:
                if name is not None and group[0] is math.sin:
                    continue  # nothing but their names tells them apart
                assert len({cache_result(name=name)(called).key(2) for called in group}) == len(group)


class TestHolders:
    def test_an_instance_that_changes(self, cache: IntelligentCache) -> None:
        """Its answers are those of what it holds at each call."""
        scale = Scale(2)
        scaled, called = cache_result(scale.scaled), cache_result(scale)
        assert (scaled(1), called(1)) == ([2], [2, 0])
        scale.factor = 3
        assert (scaled(1), called(1)) == ([3], [3, 0])
        scale.factor = 2
        assert scaled(1) is scaled(1)
        assert inside.memory(cache).size() == 4

    def test_an_instance_that_cannot_be_told_any_more(self, cache: IntelligentCache) -> None:
        """The call says so, and what to do."""
        scale = Scale(2)
        scaled = cache_result(scale.scaled)
        scale.factor = object()  # type: ignore[assignment]
        with pytest.raises(KeyEncodingError, match=r"what Scale.scaled holds .* 'factor': .* Decorate a def"):
            scaled(1)

    def test_spelled_calls_are_one(self, cache: IntelligentCache) -> None:
        """The parameters are those that the callable says that it takes."""
        scaled: Any = cache_result(Scale(2).scaled)
        assert scaled.key(1) == scaled.key(x=1)
        partial = cache_result(functools.partial(power, 2))
        assert partial.key() == partial.key(2) == partial.key(to=2)
        with pytest.raises(TypeError, match=r"Scale\.scaled\(\): missing a required argument: 'x'"):
            scaled()
        assert str(inspect.signature(scaled)) == "(x: 'int') -> 'list[int]'"

    def test_a_default_that_may_change(self, cache: IntelligentCache) -> None:
        """A list that is a default counts by what it holds at the call."""
        seen: list[int] = []

        @cache_result(name="counted")
        def count(held: list[int] = seen) -> int:
            return len(held)

        assert count() == 0
        seen.append(1)
        assert count() == 1

    def test_constant_defaults_keep_the_fast_path(self) -> None:
        """Defaults that cannot change, as most are, make no hit slower."""
        from decimal import Context, Decimal, localcontext
        from http import HTTPStatus

        from cachekit import CacheLevel
        from cachekit.decorator.signature import Signature

        constants: list[Any] = [
            *(None, 1, "a", (), (1, ("a",)), frozenset()),
            *(CacheLevel.ALL, Path("a"), Decimal(1), int, len, str.upper, HTTPStatus.OK),
            *(str.__add__, operator.itemgetter(1), operator.attrgetter("a"), date(2026, 1, 1)),
            *(operator.itemgetter(1, "a"), datetime(2026, 1, 1, tzinfo=UTC)),
        ]
        mutables: list[Any] = [
            *([], {}, set(), ([],), Scale(1), Plain(1), Plain, _with_default),
            *({}.get, [].append, {}.values(), functools.partial(len, []), Context(), localcontext(Context())),
            *(operator.itemgetter([0]), operator.itemgetter(1, Scale(1))),
            datetime(2026, 1, 1, tzinfo=Zone()),
        ]
        for constant in constants:
            assert not Signature(_with_default(constant), ()).defaults_vary
        for mutable in mutables:
            assert Signature(_with_default(mutable), ()).defaults_vary
            assert not Signature(_with_default(mutable), ("held",)).defaults_vary

    def test_a_default_that_has_changed_is_another_question(self, cache: IntelligentCache) -> None:
        """Also where it is a class, a function or a method, or refers to a container."""
        held: dict[str, int] = {"x": 1}

        defaults: list[Any] = [Rated, held.get, held.values(), functools.partial(held.get, "x")]
        for number, default in enumerate(defaults):

            @cache_result(name=f"with default {number}")
            def read(default: Any = default) -> Any:
                if default is Rated:
                    return default.rate
                return default("x") if callable(default) else list(default)

            def change(value: int) -> None:
                Rated.rate = held["x"] = value

            for value in (1, 2, 3, 2):
                change(value)
                assert read() == read() == read.__wrapped__() == read(default), default


class Rated:
    rate = 1


class Zone(tzinfo):
    """One that may change."""

    def utcoffset(self, _: datetime | None) -> timedelta:
        return timedelta(0)

    def dst(self, _: datetime | None) -> None:
        return None

    def tzname(self, _: datetime | None) -> str:
        return "zone"


def _with_default(default: Any) -> Any:
    def function(held: Any = default) -> None: ...

    return function


class TestAwaited:
    @pytest.mark.parametrize(
        "called", [Scale(2).scaled_later, functools.partial(Scale(2).scaled_later), AwaitedCall()]
    )
    def test_what_is_awaited(self, cache: IntelligentCache, called: Any) -> None:
        """Coroutine methods, partials of them and objects that are called so are awaited."""

        async def main() -> None:
            cached = cache_result(called)
            assert inspect.iscoroutinefunction(cached)
            assert await cached(1) == await called(1)
            assert await cached(1) is await cached(1)
            assert cached.cache_info() == CacheInfo(2, 1, 1)

        asyncio.run(main())


class TestRefused:
    def test_a_generator(self) -> None:
        """Its items can be read only once, however it is called."""
        for called in (Scale(2).items, functools.partial(Scale(2).items)):
            with pytest.raises(TypeError, match=r"Scale.items must not be a generator"):
                cache_result(called)

    def test_a_class_shows_the_def_to_write(self) -> None:
        """With its name."""
        with pytest.raises(
            TypeError, match=r"call that in a def, as in `def cached\(\*args\): return Scale\(\*args\)`"
        ):
            cache_result(Scale)


PROGRAM = """
import functools, math, operator
from dataclasses import dataclass
from cachekit import cache_result

@dataclass
class Scale:
    factor: int
    def scaled(self, x): return BODY

class Plain:
    def scaled(self, x): return BODY
    def __call__(self, x): return BODY

class Retried:
    def __init__(self, function):
        functools.update_wrapper(self, function)
        self.call = function
    def __call__(self, *args): return self.call(*args)

@Retried
def retried(x): return BODY

for called in (Scale(2).scaled, Plain().scaled, Plain(), retried):
    print(cache_result(name="one")(called).key(1))
print(cache_result(Scale(2).scaled).key(1))
print(cache_result(functools.partial(pow, 2)).key(1))
print(cache_result(math.sin).key(1))
"""


def test_other_processes_and_edits(tmp_path: Path) -> None:
    """Every process makes the same keys, until the code is edited."""

    def keys(body: str, seed: str) -> list[str]:
        program = tmp_path / "program.py"
        program.write_text(PROGRAM.replace("BODY", body))
        environment = os.environ | {"PYTHONHASHSEED": seed}
        return subprocess.check_output([sys.executable, program], text=True, env=environment).splitlines()

    one, other, edited = keys("x", "1"), keys("x", "2"), keys("-x", "1")
    assert one == other
    assert all(before != after for before, after in zip(one[:5], edited[:5], strict=True))
    assert one[5:] == edited[5:]
