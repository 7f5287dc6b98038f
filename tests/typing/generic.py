"""What type checkers must see of cached functions with type variables. Checked by test_typing.py."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Generic, ParamSpec, TypeVar, assert_type, cast, overload

from cachekit import CachedFunction, IntelligentCache, cache_result

A = TypeVar("A", str, bytes)
F = TypeVar("F", bound=Callable[..., Any])
K = TypeVar("K", bound=Hashable)
N = TypeVar("N", bound=float)
P = ParamSpec("P")
T = TypeVar("T")
V = TypeVar("V")

cache = IntelligentCache()


@cache_result
def first(items: list[T], default: T) -> T:
    """The type variable itself is returned."""
    return items[0] if items else default


@cache_result
def same(value: T) -> T:
    """And alone."""
    return value


@cache_result(ttl=60)
def pairs(items: dict[K, V], *, reverse: bool = False) -> list[tuple[K, V]]:
    """Two of them, inside other types, one with a bound."""
    return sorted(items.items(), reverse=reverse)


@cache.cached(ttl=60)
def maybe(items: Sequence[T], default: T | None = None) -> T | None:
    """With a default."""
    return items[0] if items else default


@cache_result
def half(number: N) -> N:
    """With a bound."""
    return number


@cache_result
def joined(one: A, other: A) -> A:
    """With constraints."""
    return one + other


@cache_result
def applied(function: Callable[[T], V], value: T) -> V:
    """With a callable."""
    return function(value)


@cache_result
async def later(items: Sequence[T]) -> list[T]:
    """Awaited."""
    return list(items)


@cache_result(ttl=60)
async def later_same(value: T, count: int = 1) -> T:
    """Awaited, and alone."""
    return value


def functions() -> None:
    assert_type(first([1], 2), int)
    assert_type(first(["a"], default="b"), str)
    assert_type(first.refresh([1], 2), int)
    assert_type(first.invalidate([1], 2), bool)
    assert_type(first.key([1], 2), str)
    assert_type(first.cache_clear(), int | None)
    assert_type(same("a"), str)
    assert_type(same([1]), list[int])
    assert_type(pairs({1: "a"}), list[tuple[int, str]])
    assert_type(pairs({1: "a"}, reverse=True), list[tuple[int, str]])
    assert_type(maybe([1]), int | None)
    assert_type(half(True), bool)
    assert_type(joined("a", "b"), str)
    assert_type(joined(b"a", b"b"), bytes)
    assert_type(applied(len, "a"), int)

    first(1, 2)  # type: ignore[arg-type]
    first([1])  # type: ignore[call-arg]
    first.invalidate([1], 2, 3)  # type: ignore[call-arg]
    pairs({1: "a"}, True)  # type: ignore[call-arg]
    half("a")  # type: ignore[type-var]
    joined("a", b"b")  # type: ignore[type-var]


async def coroutines() -> None:
    assert_type(await later([1]), list[int])
    assert_type(await later.refresh(["a"]), list[str])
    assert_type(await later.invalidate([1]), bool)
    assert_type(await later.cache_clear(), int | None)
    assert_type(await later_same(1), int)
    assert_type(await later_same("a", count=2), str)

    await later(1)  # type: ignore[arg-type]
    await later_same(1, "a")  # type: ignore[arg-type]


class Box(Generic[T]):
    """A class with a type variable."""

    @cache_result(ignore=("self",))
    def held(self, value: T) -> T:
        """The variable of the class."""
        return value


def methods(box: Box[int]) -> None:
    assert_type(box.held(1), int)

    box.held("a")  # type: ignore[arg-type]


# -- the typed form, from docs/decorator.md ------------------------------------------------------


def cached(function: F) -> F:
    """Cache the results, and keep the declared type."""
    return cast("F", cache_result(ttl=60)(function))


@cached
def call(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """The parameters of a parameter."""
    return function(*args, **kwargs)


@overload
def parsed(text: str) -> int: ...
@overload
def parsed(text: bytes) -> float: ...
@cached
def parsed(text: str | bytes) -> int | float:
    """An overload around the cached function."""
    return 1


@overload
def read(text: str) -> int: ...
@overload
def read(text: bytes) -> float: ...
def read(text: str | bytes) -> int | float:
    """An overload below the decorator."""
    return 1


cached_read = cached(read)


class Client:
    """The kinds of methods."""

    @cached
    def get(self, kind: type[T]) -> T:
        """A method with a type variable of its own."""
        return kind()

    @classmethod
    @cached
    def make(cls, value: T) -> list[T]:
        """A class method; its arguments are checked, too."""
        return [value]

    @staticmethod
    @cached
    def free(value: T) -> T:
        """A static method."""
        return value

    @cached
    async def fetch(self, kind: type[T]) -> T:
        """A coroutine method."""
        return kind()


async def typed(client: Client) -> None:
    def power(base: int, exponent: float) -> float:
        return exponent * base

    assert_type(call(power, 1, exponent=2), float)
    assert_type(cast("CachedFunction[..., Any]", call).invalidate(power, 1, 2), Any)
    assert_type(parsed("1"), int)
    assert_type(parsed(b"1"), float)
    assert_type(cached_read("1"), int)
    assert_type(cached_read(b"1"), float)
    assert_type(client.get(int), int)
    assert_type(Client.get(client, int), int)
    assert_type(Client.make(1), list[int])
    assert_type(client.make("a"), list[str])
    assert_type(Client.free(1), int)
    assert_type(client.free(1), int)
    assert_type(await client.fetch(str), str)

    call(power, "a", 1)  # type: ignore[arg-type]
    cached_read(1)  # type: ignore[call-overload]
    client.get(1)  # type: ignore[arg-type]
    Client.make()  # type: ignore[call-arg]
