"""The parameters of cache_result, and methods."""

from __future__ import annotations

import asyncio
import gc
import re
import weakref
from datetime import timedelta
from pathlib import Path
from typing import Any

import inside
import pytest
from counting import Calls, Counts, counted, counted_async

from cachekit import CacheInfo, CacheLevel, FileCache, IntelligentCache, MemoryCache, cache_result, override
from cachekit.testing import ManualClock


@pytest.fixture
def cache(default_cache: IntelligentCache) -> IntelligentCache:
    return default_cache


async def awaited(answer: object) -> bool:
    return answer is not None


class TestOptions:
    def test_ttl(self, cache: IntelligentCache, counts: Counts, clock: ManualClock) -> None:
        """Seconds, a timedelta, the cache's default, or forever."""
        for ttl, life in [(5, 5), (timedelta(minutes=1), 60), (None, 100)]:
            function, calls = counts(lambda: 1, ttl=ttl)
            function()
            clock.advance(life - 1)
            function()
            assert len(calls.seen) == 1
            clock.advance(1)
            function()
            assert len(calls.seen) == 2
            function.cache_clear()

    def test_ttl_of_nothing(self, cache: IntelligentCache, counts: Counts) -> None:
        """With a function that returns a TTL of 0 nothing is kept."""
        function, calls = counts(lambda: 1, ttl=lambda _: 0)
        function(), function()
        assert len(calls.seen) == 2

    @pytest.mark.parametrize("level", [CacheLevel.ALL, CacheLevel.FILE])
    @pytest.mark.parametrize("make", [counted, counted_async])
    def test_an_answer_of_a_lower_tier_is_a_hit(self, tmp_path: Path, make: Any, level: CacheLevel) -> None:
        """`cache_info` counts as misses what the tiers did not have, whether or not memory was asked."""

        def asked() -> CacheInfo:
            with IntelligentCache(MemoryCache(), file_cache=FileCache(tmp_path, 1)) as fresh, override(fresh):
                function, _ = make(lambda x: x, cache_level=level)
                for x in (1, 1, 2):
                    answer = function(x)
                    assert (asyncio.run(answer) if make is counted_async else answer) == x
                info: CacheInfo = function.cache_info()
                return info

        assert [asked()[:2], asked()[:2]] == [(1, 2), (3, 0)]

    def test_ttl_function(self, cache: IntelligentCache, counts: Counts, clock: ManualClock) -> None:
        """The TTL may depend on the answer; None is the cache's default."""
        function, calls = counts(lambda x: x, ttl=lambda answer: {1: 10, 2: 0}.get(answer))
        for x in (1, 1, 2, 2, 3, 3):
            function(x)
        assert calls.seen == [(1,), (2,), (2,), (3,)]
        clock.advance(10)
        function(1), function(3)
        assert calls.seen[4:] == [(1,)]

    def test_store_if(self, cache: IntelligentCache, counts: Counts) -> None:
        """An answer may be returned and not kept."""
        function, calls = counts(lambda x: x, store_if=lambda answer: answer is not None)
        assert [function(None), function(None), function(1), function(1)] == [None, None, 1, 1]
        assert calls.seen == [(None,), (None,), (1,)]

    def test_copy(self, cache: IntelligentCache, counts: Counts) -> None:
        """With copy=True a caller may change what it gets, the first one too; without, all share one."""
        function, _ = counts(lambda: [[1]], copy=True)
        for answer in (function(), function(), function.refresh()):
            answer[0].append(2)
        assert function() == [[1]]

    def test_tags(self, cache: IntelligentCache, counts: Counts) -> None:
        """Answers carry the tags, which may depend on the arguments."""
        for tags in ({"user:1"}, lambda user: [f"user:{user}"]):
            function, calls = counts(lambda user: user, tags=tags)
            function(1)
            assert cache.invalidate_by_tags({"user:2"}) == 0
            assert cache.invalidate_by_tags({"user:1"}) == 1
            function(1)
            assert len(calls.seen) == 2
            function.cache_clear()

    def test_key_func(self, cache: IntelligentCache) -> None:
        """Its result is the key, as it is, and closures need no name."""
        offset = 1

        @cache_result(key_func=lambda user_id, **_: f"user:{user_id}")
        def profile(user_id: int, verbose: bool = False) -> int:
            return user_id + offset

        assert profile(1, verbose=True) == 2
        assert cache.get("user:1") == 2
        assert profile.key(3) == "user:3"
        cache.set("user:1", "set by hand")
        assert profile(1) == "set by hand"  # type: ignore[comparison-overlap]

    def test_clearing_one_of_two_modules(self, cache: IntelligentCache) -> None:
        """Functions with a key_func and one name, in two modules, are cleared and counted apart."""
        functions = []
        for module in ("one", "two"):
            variables: dict[str, Any] = {"__name__": module}
            exec("def load(x): return [x]", variables)
            functions.append(cache_result(key_func=f"{module}:{{}}".format)(variables["load"]))
        first, second = functions
        first(1)
        kept = second(1)
        assert first.cache_clear() == 1
        assert second(1) is kept
        assert (first.cache_info()[:2], second.cache_info()[:2]) == ((0, 1), (1, 1))

    def test_key_func_must_return_a_str(self, cache: IntelligentCache) -> None:
        """Anything else is a TypeError that says who returned it."""
        function, _ = counted(lambda x: x, key_func=lambda x: x)
        with pytest.raises(TypeError, match="the result of key_func must be a str, not 1"):
            function(1)

    def test_name_and_version(self, cache: IntelligentCache) -> None:
        """Both are used as they are; two functions of one name and version share their answers."""
        first = cache_result(name="prices", version="2")(lambda x: "first")
        second = cache_result(name="prices", version="2")(lambda x: "second")
        third = cache_result(name="prices", version="3")(lambda x: "third")
        assert first.key(1) == "prices@2(1)"
        assert [first(1), second(1), third(1)] == ["first", "first", "third"]

    def test_ignore(self, cache: IntelligentCache) -> None:
        """An ignored parameter is no part of the question, wherever it stands and however it is given."""

        @cache_result(ignore=("db", "log"))
        def fetch(db: object, x: int, log: object = None) -> list[int]:
            return [x]

        assert fetch(object(), 1) is fetch(object(), 1, object()) is fetch(db=None, x=1, log=len)
        assert fetch(object(), 2) == [2]
        with pytest.raises(TypeError):
            fetch()  # type: ignore[call-arg]

    def test_cache(self, cache: IntelligentCache) -> None:
        """A function may have a cache of its own, by either decorator."""
        with IntelligentCache(file_cache=None) as own:
            for function in (
                cache_result(name="f", cache=own)(lambda x: [x]),
                own.cached(name="f")(lambda x: [x]),
            ):
                assert function(1) is function(1)
                assert own.contains(function.key(1))
        assert inside.memory(cache).size() == 0

    def test_bad_arguments(self, subtests: pytest.Subtests) -> None:
        """A wrong argument is refused where it is written: its name, its value, and what to write."""
        rows: list[tuple[dict[str, Any], type[Exception], str]] = [
            ({"tags": "user"}, TypeError, r"tags must be a set, list or tuple of str, not a single str"),
            ({"tags": {1}}, TypeError, "each of tags must be a str, not 1"),
            ({"tags": 5}, TypeError, "tags must be .* not 5 of type int"),
            ({"ttl": "5"}, TypeError, "ttl must be seconds .* not '5' of type str; pass a number"),
            ({"ttl": True}, TypeError, "ttl must be"),
            ({"ttl": 0}, ValueError, "ttl must be more than 0, not 0; leave out cache_result"),
            ({"ttl": -1}, ValueError, "ttl must be more than 0, not -1"),
            ({"ttl": timedelta(0)}, ValueError, "ttl must be more than 0"),
            ({"ttl": float("nan")}, ValueError, "ttl must be a number, not NaN; use FOREVER"),
            ({"cache_level": "memory"}, TypeError, "cache_level must be a CacheLevel, not 'memory'"),
            ({"key_func": "k"}, TypeError, "key_func must be a function, not 'k'"),
            ({"store_if": True}, TypeError, "store_if must be a function, not True"),
            ({"store_if": awaited}, TypeError, "store_if must be a def function, not .*awaited"),
            ({"copy": 1}, TypeError, "copy must be True or False, not 1"),
            ({"cache": MemoryCache}, TypeError, "cache must be an IntelligentCache, not"),
            ({"name": 5}, TypeError, "name must be a str, not 5"),
            ({"version": 2}, TypeError, "version must be a str, not 2 of type int"),
            (
                {"ignore": "self"},
                TypeError,
                r"ignore must be a tuple of names, not the str 'self'; write \('self'",
            ),
            ({"ignore": 5}, TypeError, "ignore must be a tuple of names, not 5 of type int"),
            (
                {"ignore": ("db",)},
                ValueError,
                r"ignore must name parameters of .* \['x', 'y'\], not \['db'\]",
            ),
        ]
        for options, error, message in rows:
            with subtests.test(options=options), pytest.raises(error, match=message):
                cache_result(**options)(base)

    def test_what_is_no_function(self, subtests: pytest.Subtests) -> None:
        """A number was meant as a parameter, and a class is no function; the error shows the def to write."""
        rows: list[tuple[Any, str]] = [
            (60, r"pass options by name, as in cache_result\(ttl=60\)$"),
            ("x", "pass options by name"),
            (Calls, r"call that in a def, as in `def cached\(\*args\): return Calls\(\*args\)`$"),
            (None.__class__, "call that in a def"),
        ]
        for thing, words in rows:
            with (
                subtests.test(thing=thing),
                pytest.raises(TypeError, match=f"must decorate a function, not .*{words}"),
            ):
                cache_result(thing)

    def test_functions_that_take_other_arguments(
        self, subtests: pytest.Subtests, cache: IntelligentCache
    ) -> None:
        """The option and the function are named; a TypeError within a function is its own."""
        names = "with the parameter names and defaults of base"
        rows: list[tuple[dict[str, Any], str]] = [
            ({"tags": lambda z: {"t"}}, f"tags must be a function {names}, not <lambda>(z): "),
            ({"key_func": lambda: "k"}, f"key_func must be a function {names}, not <lambda>(): "),
            ({"ttl": lambda: 5}, "ttl must be a function of one value, not <lambda>(): "),
            (
                {"store_if": lambda a, b: True},
                "store_if must be a function of one value, not <lambda>(a",
            ),
            ({"tags": lambda x, y=1: {len(x)}}, "object of type 'int' has no len()"),
            ({"ttl": len}, "object of type 'int' has no len()"),
        ]
        for options, message in rows:
            with subtests.test(options=options), pytest.raises(TypeError, match=f"^{re.escape(message)}"):
                cache_result(**options)(base)(1, y=2)

    def test_a_level_that_the_cache_has_not(self, cache: IntelligentCache) -> None:
        """It is a ValueError at the call, when the cache is known."""
        function, _ = counted(lambda: 1, cache_level=CacheLevel.REDIS)
        with pytest.raises(ValueError, match="names no tier of this cache"):
            function()


def base(x: int, y: int = 1) -> int:
    return x + y


class Client:
    def __init__(self, rate: int = 1) -> None:
        self.rate = rate

    def __cache_key__(self) -> int:
        return self.rate

    @cache_result
    def price(self, x: int) -> list[int]:
        return [x * self.rate]

    @cache_result(ignore=("self",))
    def shared(self, x: int) -> list[int]:
        return [x]

    @cache_result(ignore=("self",))
    def alone(self) -> list[int]:
        return []

    @cache_result
    def broken(self) -> float:
        return self.rate / 0

    @classmethod
    @cache_result
    def made(cls, x: int) -> list[Any]:
        return [cls, x]

    @staticmethod
    @cache_result
    def free(x: int) -> list[int]:
        return [x]


class Special(Client):
    pass


class TestMethods:
    def test_self_is_part_of_the_question(self, cache: IntelligentCache) -> None:
        """Two instances that differ have their own answers; two that are alike share."""
        assert Client(2).price(3) == [6]
        assert Client(3).price(3) == [9]
        assert Client(2).price(3) is Client(2).price(3)
        assert Special(2).price(3) is not Client(2).price(3)

    def test_other_processes_find_their_results(self, cache: IntelligentCache) -> None:
        """A class of a module has one name, and so do its methods, of each kind."""
        cached: Any
        for cached in (Client.price, Client.shared, Client.made, Client.free):
            assert cached.cache_info().scope == "shared"
        assert "#" not in Client.price.key(Client(1), 1)

    def test_self_ignored(self, cache: IntelligentCache) -> None:
        """With ignore=("self",) all instances share, also on the fast way."""
        one = Client(1).shared(1)
        assert Client(2).shared(1) is one
        assert Client(3).shared(1) is one
        assert Client(1).alone() is Client(2).alone() is Client.alone(Client(3))
        with pytest.raises(TypeError):
            Client.alone()  # type: ignore[call-arg]

    def test_classmethod_and_staticmethod(self, cache: IntelligentCache) -> None:
        """Both work above the decorator; a subclass asks for itself."""
        assert Client.made(1) is Client.made(1) == [Client, 1]
        assert Special.made(1) == [Special, 1]
        assert Client.free(1) is Client.free(1) == [1]

    @pytest.mark.parametrize("outside", [classmethod, staticmethod])
    def test_below_it_they_are_refused(self, outside: Any) -> None:
        """The wrong order says what the right one is."""
        with pytest.raises(TypeError, match=f"@{outside.__name__} must be above @cache_result, not below it"):
            cache_result(outside(base))

    def test_questions_are_asked_through_the_class(self, cache: IntelligentCache) -> None:
        """With the instance as the first argument; through the instance they are refused, not misread."""
        client = Client(2)
        client.price(3)
        assert Client.price.invalidate(client, 3) is True
        assert Client.price.key(self=client, x=3) == Client.price.key(client, 3)
        assert Client.price.refresh(self=client, x=3) == [6]
        assert Client.price.invalidate(self=client, x=3) is True
        method: Any = client.price
        for ask in (method.invalidate, method.refresh, method.key):
            with pytest.raises(
                TypeError, match=r"must be the instance, .* Client.price.key\(instance, ...\)"
            ):
                ask(3)

    def test_a_class_method_is_asked_with_its_class(self, cache: IntelligentCache) -> None:
        """Which it does not pass on to its questions; without it the error shows how."""
        Client.made(1)
        method: Any = Client.made
        with pytest.raises(TypeError, match=r"must be the class, .* Client.made.key\(Client, ...\)"):
            method.invalidate(1)
        assert method.invalidate(Client, 1) is True

    def test_instances_are_freed(self, cache: IntelligentCache) -> None:
        """A cached method does not keep its instance alive, whatever was asked, or raised."""
        client = Client(2)
        freed = weakref.ref(client)
        client.price(1), client.price(1), client.shared(1), client.shared(1), client.made(1)
        Client.price.invalidate(client, 1)
        with pytest.raises(ZeroDivisionError):
            client.broken()
        del client
        gc.collect()
        assert freed() is None
