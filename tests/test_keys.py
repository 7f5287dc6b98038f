"""Keys: one question, one key; two questions, two keys (P16).

Arguments are in test_key_arguments.py, processes in multiprocess/.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from exploring import explored
from hypothesis import given
from hypothesis import strategies as st

from cachekit import IntelligentCache, cache_result, override
from cachekit.decorator.code_version import signature_source, version_of
from cachekit.decorator.key_encoding import arguments_text, identity_of
from cachekit.decorator.signature import Signature


@pytest.fixture(autouse=True)
def _cache_of_its_own() -> Iterator[None]:
    with IntelligentCache(file_cache=None) as cache, override(cache):
        yield


# -- calls -------------------------------------------------------------------------------------------


def _plain(a: Any, b: Any = 2) -> dict[str, Any]:
    return locals()


def _only(a: Any, /, b: Any, *, c: Any = 3) -> dict[str, Any]:
    return locals()


def _stars(a: Any, *rest: Any, c: Any = 3, **more: Any) -> dict[str, Any]:
    return locals()


def _shadow(a: Any, /, **more: Any) -> dict[str, Any]:
    return locals()


def asked(function: Any, *args: Any, **kwargs: Any) -> str:
    return arguments_text(Signature(function, ()).bind(args, kwargs))


class TestCalls:
    def test_three_spellings_are_one_question(self) -> None:
        """Arguments are bound to parameters, defaults applied, before they become a key."""
        spelled = {asked(_plain, 1, 2), asked(_plain, 1, b=2), asked(_plain, a=1, b=2), asked(_plain, 1)}
        assert spelled == {"1,2"}

    def test_four_ones(self) -> None:
        """1, 1.0, True and "1" are four questions."""
        assert len({asked(_plain, one) for one in (1, 1.0, True, "1")}) == 4

    def test_star_parameters(self) -> None:
        """Surplus arguments stay apart from each other, from named ones and from containers."""
        keys = [
            asked(_stars, 1),
            asked(_stars, 1, 2),
            asked(_stars, 1, (2,)),
            asked(_stars, 1, d=2),
            asked(_stars, 1, rest=2),
            asked(_stars, 1, c=2),
            asked(_stars, 1, {"d": 2}),
        ]
        assert len(set(keys)) == len(keys)
        assert asked(_stars, 1, d=1, e=2) == asked(_stars, 1, e=2, d=1)
        assert asked(_stars, 1, c=3) == asked(_stars, a=1)

    def test_a_keyword_named_like_a_positional_only_parameter(self) -> None:
        """f(1, a=2) of `def f(a, /, **more)` is another question than f(1)."""
        assert asked(_shadow, 1, a=2) != asked(_shadow, 1)

    @given(
        st.sampled_from([_plain, _only, _stars, _shadow]),
        st.lists(st.integers(0, 2), max_size=4),
        st.dictionaries(st.sampled_from("abcd"), st.integers(0, 2), max_size=3),
    )
    @explored(examples=5)
    def test_binding_is_python_s_own(self, function: Any, args: list[int], kwargs: dict[str, int]) -> None:
        """Each parameter gets what a call would give it, and what cannot be called is a TypeError."""
        try:
            expected = function(*args, **kwargs)
        except TypeError:
            with pytest.raises(TypeError):
                Signature(function, ()).bind(tuple(args), kwargs)
        else:
            assert expected == dict(Signature(function, ()).bind(tuple(args), kwargs))

    def test_long_keys_end_in_a_digest(self) -> None:
        """A key stays under 200 characters of arguments, readable at its head, and exact."""
        long, other = asked(_plain, "x" * 10_000, 0), asked(_plain, "x" * 9_999 + "y", 0)
        assert len(long) < 200
        assert long.startswith("s10000:xxx")
        assert long != other

    def test_ignored(self) -> None:
        """What is ignored is no part of the question, and may be unkeyable."""
        signature = Signature(_plain, ("b",))  # type: ignore[arg-type]
        assert signature.bind((1, object()), {}) == signature.bind((1,), {}) == [("a", 1)]


# -- identity ----------------------------------------------------------------------------------------


class Parent:
    def method(self) -> str:
        return "parent"


def scaled(factor: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def around(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs) * factor

        return wrapper

    return around


def base(x: int, y: int = 1) -> int:
    return x + y


def pair_of(x: int = 0, y: int = 2) -> tuple[int, int]:
    return x, y


def identity(function: Any) -> str:
    return identity_of(function)


class TestIdentity:
    def test_methods_with_super(self) -> None:
        """`super()` makes a closure of a method, but not one that hides anything."""

        class Child(Parent):
            @cache_result(ignore=("self",))
            def method(self) -> str:
                return super().method()

        assert Child().method() == "parent"

    def test_two_decorations_of_one_function(self) -> None:
        """Decorators that were given different things make different functions of one."""
        double, triple = cache_result(scaled(2)(base)), cache_result(scaled(3)(base))

        assert double.key(1) != triple.key(1)
        assert (double(1), triple(1)) == (4, 6)
        assert identity(scaled(2)(base)) == identity(scaled(2)(base))

    def test_a_decorator_that_cannot_be_told_from_another(self) -> None:
        """What a decorator holds may have no identity; then the function needs a name."""
        with pytest.raises(ValueError, match=r"has a decorator that captured .*no identity.*name="):
            cache_result(scaled(object())(base))
        cache_result(name="scaled base")(scaled(object())(base))

    def test_whose_parameters_count(self) -> None:
        """A wrapper that passes everything on is looked through; one with defaults of its own is not."""

        @functools.wraps(base)
        def other_default(x: int, y: int = 5) -> int:
            return base(x, y)

        assert signature_source(scaled(2)(base)) is base  # type: ignore[arg-type]
        cached = cache_result(other_default)
        assert (cached(1), cached(1, 1)) == (6, 2)

    def test_a_wrapper_with_parameters_of_its_own(self, subtests: pytest.Subtests) -> None:
        """They are part of the key, wherever they stand and whatever they are called."""

        def first(function: Callable[..., Any]) -> Any:
            @functools.wraps(function)
            def wrapper(times: int, *args: Any, **kwargs: Any) -> list[Any]:
                return [function(*args, **kwargs)] * times

            return wrapper

        def named_alike(function: Callable[..., Any]) -> Any:
            @functools.wraps(function)
            def wrapper(x: int, *args: Any, **kwargs: Any) -> list[Any]:
                return [function(*args, **kwargs)] * x

            return wrapper

        def keyword(function: Callable[..., Any]) -> Any:
            @functools.wraps(function)
            def wrapper(*args: Any, times: int, **kwargs: Any) -> list[Any]:
                return [function(*args, **kwargs)] * times

            return wrapper

        def declared(function: Callable[..., Any]) -> Any:
            @functools.wraps(function)
            def wrapper(*args: Any, **kwargs: Any) -> list[Any]:
                return [function(*args[1:], **kwargs)] * args[0]

            signature = inspect.signature(function)
            times = inspect.Parameter("times", inspect.Parameter.POSITIONAL_ONLY)
            wrapper.__signature__ = signature.replace(  # type: ignore[attr-defined]
                parameters=[times, *signature.parameters.values()]
            )
            return wrapper

        calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
            ((1,), {}), ((2,), {}), ((1, 2), {}), ((2, 1), {}), ((2, 2), {}), ((1, 2, 2), {}),
            ((1, 2, 1), {}),
        ]  # fmt: skip
        for decorator in (first, named_alike, keyword, declared):
            with subtests.test(decorator=decorator.__name__):
                function = decorator(pair_of)
                cached = cache_result(name=decorator.__name__)(function)
                for args, kwargs in calls:
                    if decorator is keyword:
                        args, kwargs = args[1:], {"times": args[0]}
                    assert cached(*args, **kwargs) == function(*args, **kwargs)
        assert cached.key(1, 2) == cached.key(1, x=2) == cached.key(1, 2, y=2)

    def test_a_wrapper_of_methods(self) -> None:
        """A wrapper that names the instance, and passes it on, is looked through."""

        def passing(function: Callable[..., Any]) -> Any:
            @functools.wraps(function)
            def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
                return function(self, *args, **kwargs)

            return wrapper

        class Client:
            @cache_result(name="get", ignore=("self", "verbose"))
            @passing
            def get(self, x: int, verbose: bool = False) -> int:
                return x

        assert Client().get(1) == 1
        assert Client.get.key(Client(), 1) == Client.get.key(Client(), x=1, verbose=True)

    def test_a_wrapper_that_adds_an_argument(self) -> None:
        """Calls that do not fit the wrapped function are told apart by what they are called with."""

        def with_session(function: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(function)
            def wrapper(*args: Any) -> Any:
                return function("session", *args)

            return wrapper

        @cache_result
        @with_session
        def load(session: str, user: Any, more: Any) -> Any:
            return user

        assert load(1, 2) == 1
        assert load(2, 2) == 2
        assert load.key((1, 2), {}) != load.key(1, 2)


# -- version -----------------------------------------------------------------------------------------


def compiled(source: str) -> Any:
    variables: dict[str, Any] = {"__name__": "somewhere"}
    exec(compile(source, "<source>", "exec"), variables)
    return variables["f"]


ORIGINAL = """
def f(x):
    g = lambda y: y + 1
    def h(z):
        return [i * 2 for i in z]
    return g(x), h(x), x in {"a", "b", "c"}, x.upper(), 1
"""


class TestVersion:
    def test_an_edit_of_the_code(self, subtests: pytest.Subtests) -> None:
        """Any change of what the function does changes its version."""
        rows: list[tuple[str, str]] = [
            ("y + 1", "y + 2"),
            ("y + 1", "y - 1"),
            ("i * 2", "i * 3"),
            ("for i in z]", "for i in z if i]"),
            ('{"a", "b", "c"}', '{"a", "b", "d"}'),
            ('{"a", "b", "c"}', '("a", "b", "c")'),
            ("x.upper()", "x.lower()"),
            (", 1\n", ", 1.0\n"),
            (", 1\n", ", True\n"),
            (", 1\n", ", 0\n"),
            ("def f(x)", "def f(x, *y)"),
            ("    return g", "    try: pass\n    except ValueError: pass\n    return g"),
        ]
        for before, after in rows:
            with subtests.test(after=after):
                assert before in ORIGINAL
                assert version_of(compiled(ORIGINAL)) != version_of(compiled(ORIGINAL.replace(before, after)))

    def test_an_edit_of_comments(self, subtests: pytest.Subtests) -> None:
        """Comments and blank lines are no part of it."""
        rows: list[str] = [
            "# a comment\n\n" + ORIGINAL,
            ORIGINAL.replace("    g = ", "    # why\n\n    g = "),
            ORIGINAL.replace("i in z]", "i in z]  # why"),
        ]
        for edited in rows:
            with subtests.test(edited=edited):
                assert version_of(compiled(ORIGINAL)) == version_of(compiled(edited))

    def test_long_integers(self) -> None:
        """A literal of any length can be told from another."""
        source = f"def f(): return 0x{'f' * 5000}"
        assert version_of(compiled(source)) != version_of(compiled(source + "f"))

    def test_it_outlives_specialisation(self) -> None:
        """The interpreter rewrites the bytecode of a hot function; the version does not notice."""
        function = compiled("def f(x):\n    t = 0\n    for i in range(x):\n        t += i * 2\n    return t")
        before = version_of(function)
        for _ in range(5_000):
            function(10)
        assert before == version_of(function)

    def test_the_function_below_other_decorators(self) -> None:
        """An edit of a wrapped function, or of its wrapper, is seen through the others."""
        one, two = compiled("def f(x): return x"), compiled("def f(x): return -x")
        assert version_of(scaled(2)(one)) != version_of(scaled(2)(two))  # type: ignore[arg-type]
        assert version_of(scaled(2)(one)) != version_of(one)  # type: ignore[arg-type]

    def test_nothing_is_computed_from_addresses(self) -> None:
        """Two compilations of one text are one version."""
        assert version_of(compiled(ORIGINAL)) == version_of(compiled(ORIGINAL))
