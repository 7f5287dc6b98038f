"""cache_result on `def`: its answers, its questions, one load per key, and what it leaves as it was.

Options and methods are in test_decorator_options.py, `async def` is in test_decorators_async.py, keys are
in test_keys.py, and the front in test_front.py.
"""

from __future__ import annotations

import copy as copying
import functools
import inspect
import itertools
import os
import pickle
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from unittest.mock import AsyncMock, MagicMock, Mock

import inside
import pytest
from counting import Counts, counted
from racing import frequent_switches, in_thread, race

from cachekit import CacheClosedError, CacheInfo, IntelligentCache, SerializationError, cache_result
from cachekit.testing import ManualClock


@pytest.fixture
def cache(default_cache: IntelligentCache) -> IntelligentCache:
    return default_cache


@cache_result
def at_module_level(x: int, y: int = 2) -> int:
    """Add."""
    return x + y


@cache_result(ttl=5)
@cache_result
def stacked(x: int) -> list[int]:
    return [x]


class TestAnswers:
    def test_an_answer_is_remembered(self, cache: IntelligentCache, counts: Counts) -> None:
        """The function is called once per question."""
        function, calls = counts(lambda x: [x])
        assert function(1) is function(1)
        assert function(2) == [2]
        assert calls.seen == [(1,), (2,)]
        assert function.cache_info() == CacheInfo(hits=1, misses=2, size=2)

    def test_none_is_an_answer(self, cache: IntelligentCache, counts: Counts) -> None:
        """None is remembered like any other value."""
        function, calls = counts(lambda x: None)
        assert [function(1), function(1)] == [None, None]
        assert len(calls.seen) == 1

    def test_an_exception_is_not(self, cache: IntelligentCache, counts: Counts) -> None:
        """An exception passes through, and the next call tries again."""
        function, calls = counts(lambda x: 1 / x)
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                function(0)
        assert len(calls.seen) == 2
        assert function.cache_info().size == 0

    def test_what_has_to_be_awaited_is_refused(self, cache: IntelligentCache) -> None:
        """A def that returns a coroutine, and a loader that is one, are told who awaits them."""

        async def later() -> int:
            return 1

        function, _ = counted(later)
        for ask in (function, lambda: cache.get_or_set("k", later)):
            with pytest.raises(SerializationError, match="aio awaits loaders, and cache_result an async def"):
                ask()

    def test_what_can_be_read_once_is_refused(
        self, subtests: pytest.Subtests, cache: IntelligentCache, counts: Counts
    ) -> None:
        """An iterator as an answer is an error that says what to do, every time."""
        rows: list[Any] = [iter, reversed, enumerate, lambda items: (item for item in items)]
        for make in rows:
            with subtests.test(make=make):
                function, _ = counts(lambda: make([1]))  # noqa: B023
                for _ in range(2):
                    with pytest.raises(
                        SerializationError, match="can be read only once; cache its contents instead"
                    ):
                        function()

    def test_a_mock_is_an_answer(self, subtests: pytest.Subtests, cache: IntelligentCache) -> None:
        """What a patched client returns has the methods of an iterator, too, and is none."""
        rows: list[Any] = [Mock, MagicMock, AsyncMock]
        for make in rows:
            with subtests.test(make=make):
                function, calls = counted(make, name=make.__name__)
                assert function() is function()
                assert len(calls.seen) == 1
                assert cache.set("k", made := make())
                assert cache.get("k") is made

    def test_a_generator_function_is_refused(self) -> None:
        """A generator is refused where it is decorated, and so is an async one."""
        with pytest.raises(
            TypeError, match=r"items must not be a generator, .*read only once; return a list instead"
        ):

            @cache_result
            def items() -> Iterator[int]:
                yield 1

        async def more_items() -> Any:
            yield 1

        with pytest.raises(TypeError, match="must not be a generator"):
            cache_result(more_items)

    def test_wrong_calls_are_the_function_s_own_type_errors(self, cache: IntelligentCache) -> None:
        """A call that the function does not take is a TypeError that names it, and nothing is kept."""
        for args, kwargs in [((), {}), ((1, 2, 3), {}), ((1,), {"z": 1}), ((1,), {"x": 1})]:
            with pytest.raises(TypeError, match=r"^at_module_level\(\): "):
                at_module_level(*args, **kwargs)
        assert inside.memory(cache).size() == 0

    def test_after_close(self) -> None:
        """A function whose cache was closed says so, also for what it had in front."""
        cache = IntelligentCache(file_cache=None)
        function, _ = counted(lambda x: x, cache=cache)
        function(1)
        cache.close()
        with pytest.raises(CacheClosedError):
            function(1)


RECURSIVE = """
from cachekit import IntelligentCache, cache_result

@cache_result(cache=IntelligentCache(file_cache=None))
def depth(n):
    return n and 1 + depth(n - 1)

print(depth(100))
"""


def test_a_function_that_calls_itself_goes_a_hundred_levels_deep() -> None:
    """Below Python's usual limit of frames, as docs/decorator.md says."""
    assert subprocess.check_output([sys.executable, "-c", RECURSIVE], text=True) == "100\n"


class TestQuestions:
    def test_invalidating_what_was_asked(self, cache: IntelligentCache, counts: Counts) -> None:
        """One call's answer is forgotten, or all of them, or what has a tag."""
        answers = itertools.count(1)
        function, _ = counts(lambda x: next(answers), tags=lambda x: {f"x:{x}"})
        assert [function(1), function.invalidate(1), function.invalidate(1)] == [1, True, False]
        assert [function(1), function.refresh(1), function(1), cache.get(function.key(1))] == [2, 3, 3, 3]
        assert [function.cache_clear(), function(1)] == [1, 4]
        assert [cache.invalidate_by_tags({"x:1"}), function(1)] == [1, 5]

    def test_invalidate(self, cache: IntelligentCache) -> None:
        """One call's answer is forgotten, however the call is spelled."""
        at_module_level(1)
        assert at_module_level.invalidate(1, y=2) is True
        assert at_module_level.invalidate(1) is False
        assert at_module_level.cache_info().size == 0

    def test_cache_clear(self, cache: IntelligentCache) -> None:
        """All answers of one function are forgotten, and no other's."""
        one, two = cache_result(name="one")(lambda x: [x]), cache_result(name="two")(lambda x: [x])
        kept = two(1)
        one(1), one(2)
        assert one.cache_clear() == 2
        assert one.cache_info().size == 0
        assert two(1) is kept

    @pytest.mark.parametrize(
        "options", [{"store_if": lambda answer: answer != "b"}, {"ttl": {"a": 5, "b": 0, "c": 5}.get}]
    )
    def test_a_refresh_whose_answer_is_not_kept(
        self, cache: IntelligentCache, counts: Counts, options: Any
    ) -> None:
        """The old answer goes nevertheless."""
        answers = iter("abc")
        function, _ = counts(lambda: next(answers), **options)
        assert [function(), function.refresh(), function(), function()] == ["a", "b", "c", "c"]

    def test_a_refresh_that_fails(self, cache: IntelligentCache, counts: Counts) -> None:
        """The old answer stays."""
        answers: list[Any] = [1, 0]
        function, _ = counts(lambda: 1 / answers.pop(0))
        assert function() == 1
        with pytest.raises(ZeroDivisionError):
            function.refresh()
        assert function() == 1

    def test_key(self, cache: IntelligentCache) -> None:
        """The key is readable, and the one that the cache knows."""
        at_module_level(1)
        assert inside.memory(cache).keys() == [at_module_level.key(1)]
        pattern = rf"{re.escape(__name__)}\.at_module_level@[0-9a-f]{{12}}\(1,2\)"
        assert re.fullmatch(pattern, at_module_level.key(1))
        assert cache.invalidate_by_pattern(r".*at_module_level@.*\(1,") == 1

    def test_invalidation_during_a_load(self, cache: IntelligentCache) -> None:
        """An answer that is being worked out when it is invalidated is not kept (P4)."""
        forgets: list[Callable[[Any], object]] = [
            lambda function: function.invalidate(1),
            lambda function: function.cache_clear(),
            lambda _: cache.clear(),
            lambda _: cache.invalidate_by_tags({"t"}),
            lambda _: cache.invalidate_by_pattern("counted"),
            lambda function: cache.delete(function.key(1)),
        ]
        for forget in forgets:
            begun, go = threading.Event(), threading.Event()

            def slow(x: int, begun: threading.Event = begun, go: threading.Event = go) -> int:
                begun.set()
                go.wait(60)
                return x

            function, calls = counted(slow, tags={"t"})
            answer = in_thread(partial(function, 1))
            assert begun.wait(60)
            forget(function)
            go.set()
            assert answer() == 1
            function(1)
            assert len(calls.seen) == 2
            function.cache_clear()


def base(x: int, y: int = 1) -> int:
    return x + y


class TestLeftAsItWas:
    def test_what_inspect_sees(self) -> None:
        """Name, doc, signature and module are the function's own."""
        assert at_module_level.__name__ == "at_module_level"
        assert at_module_level.__doc__ == "Add."
        assert at_module_level.__module__ == __name__
        assert str(inspect.signature(at_module_level)) == "(x: 'int', y: 'int' = 2) -> 'int'"
        assert inspect.isfunction(at_module_level)
        assert not inspect.iscoroutinefunction(at_module_level)
        assert at_module_level.__wrapped__(1) == 3

    def test_it_pickles_by_name(self) -> None:
        """So it travels to a process pool; copies are itself."""
        assert pickle.loads(pickle.dumps(at_module_level)) is at_module_level
        assert pickle.loads(pickle.dumps(stacked)) is stacked
        assert copying.deepcopy(at_module_level) is at_module_level

    def test_two_of_them(self, cache: IntelligentCache, clock: ManualClock) -> None:
        """One cache_result above another is two caches, each with its own answers."""
        assert stacked(1) is stacked(1)
        assert inside.memory(cache).size() == 2
        assert stacked.key(1) != stacked.__wrapped__.key(1)  # type: ignore[attr-defined]

    def test_above_and_below_other_decorators(self, cache: IntelligentCache) -> None:
        """functools.wraps above keeps the questions; below, calls are bound as the wrapped function's."""

        def passing(function: Callable[..., Any]) -> Any:
            @functools.wraps(function)
            def wrapper(*args: Any, **kwargs: Any) -> Any:
                return function(*args, **kwargs)

            return wrapper

        above, below = passing(cache_result(base)), cache_result(name="below")(passing(base))
        for function in (above, below):
            assert function(1, 2) == function(1, y=2) == function(y=2, x=1) == 3
            assert function.cache_info() == CacheInfo(2, 1, 1)
            assert function.invalidate(1, 2) is True


class TestOneLoad:
    def test_threads(self, cache: IntelligentCache) -> None:
        """Of threads that ask together one works the answer out, and all get it."""
        with frequent_switches():
            for _ in range(20):
                function, calls = counted(lambda x: [x])
                answers = race(*[partial(function, 1)] * 8)
                assert len(calls.seen) == 1
                assert all(answer is answers[0] for answer in answers)
                function.cache_clear()

    def test_threads_that_come_while_it_is_worked_out(self, cache: IntelligentCache) -> None:
        """They wait for it."""
        begun, go = threading.Event(), threading.Event()

        def slow() -> list[int]:
            begun.set()
            go.wait(60)
            return []

        function, calls = counted(slow)
        leader = in_thread(function)
        assert begun.wait(60)
        others = [in_thread(function) for _ in range(4)]
        go.set()
        answer = leader()
        assert all(end() is answer for end in others)
        assert len(calls.seen) == 1

    def test_an_exception_reaches_every_waiter(self, cache: IntelligentCache) -> None:
        """A caller that waits for a load that fails sees why."""
        begun, go = threading.Event(), threading.Event()

        def fail() -> None:
            begun.set()
            go.wait(60)
            raise LookupError("no")

        function, calls = counted(fail)
        leader = in_thread(function)
        assert begun.wait(60)
        others = [in_thread(function) for _ in range(3)]
        waiting = threading.Event()
        while not inside.threads_waiting(cache, function.key()):  # none of them waits yet
            waiting.wait(0.001)
        go.set()
        errors = []
        for end in (leader, *others):
            with pytest.raises(LookupError) as raised:
                end()
            errors.append(raised.value)
        assert errors.count(errors[0]) >= 2  # those who came after the end of the load began another one
        assert len(calls.seen) == len(set(map(id, errors)))
        assert inside.memory(cache).size() == 0

    def test_recursion(self, cache: IntelligentCache) -> None:
        """A function may ask itself."""

        @cache_result(name="fib")
        def fib(n: int) -> int:
            return n if n < 2 else fib(n - 1) + fib(n - 2)

        assert fib(60) == 1548008755920
        assert fib.cache_info().misses == 61

    def test_the_same_question_from_within(self, cache: IntelligentCache) -> None:
        """A load that asks its own question works it out itself, instead of waiting for itself."""
        depth = [3]

        @cache_result(name="own")
        def own() -> int:
            depth[0] -= 1
            return own() + 1 if depth[0] else 0

        assert own() == 2

    def test_two_that_ask_each_other(self, cache: IntelligentCache) -> None:
        """Two loads that ask for each other's answers from two threads do not wait for ever."""
        both = threading.Barrier(2)
        outer = threading.local()

        def meet() -> bool:
            first = not hasattr(outer, "met")
            outer.met = True
            if first:
                both.wait(60)
            return first

        @cache_result(name="ping")
        def ping() -> str:
            return "ping" + (pong() if meet() else "")

        @cache_result(name="pong")
        def pong() -> str:
            return "pong" + (ping() if meet() else "")

        answers = race(ping, pong)
        assert sorted(answer[:4] for answer in answers) == ["ping", "pong"]

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
    def test_after_fork(self, cache: IntelligentCache) -> None:
        """A forked child has the answers, and can load, while a thread of the parent is in a load."""
        begun, go = threading.Event(), threading.Event()

        def slow(x: int) -> int:
            begun.set()
            go.wait(60)
            return x

        function, calls = counted(slow)
        go.set()
        function(1)
        go.clear()
        begun.clear()
        leader = in_thread(lambda: function(2))
        assert begun.wait(60)
        child = os.fork()
        if not child:
            go.set()
            try:
                right = [function(1), function(2), function(3)] == [1, 2, 3] and len(calls.seen) == 4
                os._exit(0 if right else 1)
            finally:
                os._exit(2)
        go.set()
        assert os.waitpid(child, 0)[1] == 0
        assert leader() == 2
