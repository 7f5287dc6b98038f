"""The front of a cached function is never stale: a state machine against a plain model.

The model knows nothing of fronts: it holds what is cached by the exact value and type of the question,
in LRU order, with deadlines, and says of each call whether the function must be called.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import inside
import pytest
from counting import counted
from exploring import explored
from free_threads import lock_free_hits
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from racing import frequent_switches, race

from cachekit import IntelligentCache, MemoryCache, cache_result, disabled, override
from cachekit.decorator import fast_path as fronts_module
from cachekit.testing import ManualClock
from cachekit.tiers.memory.entry import MemoryEntry

ONES = [1, 1.0, True, "1", b"1", 0, 0.0, -0.0, False, None, "", 2, (1,), (True,)]
CALLS: list[tuple[Any, ...]] = [(), *[(one,) for one in ONES], (1, 1), (1, True), (1.0, 0.0), (1, -0.0)]
SIZE = 4
TTL = 10.0
_calls = st.sampled_from(CALLS)


def question(args: tuple[Any, ...]) -> str:
    """What tells one question from another, said differently than in keys.py."""
    return repr(args)


class Model:
    """What one cache holds: of which call each answer is, its deadline, and whether it is tagged."""

    def __init__(self) -> None:
        self.held: OrderedDict[str, tuple[int, float, bool]] = OrderedDict()

    def look(self, asked: str, now: float) -> int | None:
        answer, deadline, _ = self.held.get(asked, (None, 0.0, False))
        if answer is None or now >= deadline:
            self.held.pop(asked, None)
            return None
        self.held.move_to_end(asked)
        return answer

    def put(self, asked: str, answer: int, now: float, tagged: bool = True) -> None:
        self.held[asked] = answer, now + TTL, tagged
        self.held.move_to_end(asked)
        if len(self.held) > SIZE:
            self.held.popitem(last=False)


class FastPath(RuleBasedStateMachine):
    """Everything that can come between two calls, on two caches."""

    @initialize(kind=st.sampled_from(["function", "method"]))
    def begin(self, kind: str) -> None:
        self.clock = ManualClock()
        self.stack = ExitStack()
        self.number = 0
        self.caches = [
            IntelligentCache(
                MemoryCache(SIZE, clock=self.clock, cleanup_interval=None), default_ttl=TTL, file_cache=None
            )
            for _ in range(2)
        ]
        self.models = [Model(), Model()]
        self.stack.enter_context(override(self.caches[0]))
        self.using = [0]
        self.ask: Callable[[tuple[Any, ...]], tuple[Any, ...]]
        self.exits: list[ExitStack] = []
        self.off = 0
        if kind == "function":
            self.function, self.seen = counted(self.count, tags={"tag"})
            self.ask = lambda args: args
        else:

            @cache_result(name="counted", ignore=("self",), tags={"tag"})
            def method(self: Any, *args: Any) -> Any:
                return count(*args)

            count = self.count
            self.function = method
            self.ask = lambda args: (object(), *args)

    def count(self, *_: Any) -> int:
        self.number += 1
        return self.number

    @property
    def model(self) -> Model:
        return self.models[self.using[-1]]

    @property
    def cache(self) -> IntelligentCache:
        return self.caches[self.using[-1]]

    @rule(args=_calls, times=st.integers(1, 3))
    def call(self, args: tuple[Any, ...], times: int) -> None:
        for _ in range(times):
            expected = None if self.off else self.model.look(question(args), self.clock.monotonic())
            if expected is None:
                expected = self.number + 1
                if not self.off:
                    self.model.put(question(args), expected, self.clock.monotonic())
            assert expected == self.function(*self.ask(args))

    @rule(args=_calls)
    def refresh(self, args: tuple[Any, ...]) -> None:
        expected = self.number + 1
        if self.off:
            self.model.held.pop(question(args), None)
        else:
            self.model.put(question(args), expected, self.clock.monotonic())
        assert expected == self.function.refresh(*self.ask(args))

    @rule(args=_calls)
    def invalidate(self, args: tuple[Any, ...]) -> None:
        self.model.held.pop(question(args), None)
        self.function.invalidate(*self.ask(args))

    @rule(args=_calls)
    def delete(self, args: tuple[Any, ...]) -> None:
        self.model.held.pop(question(args), None)
        self.cache.delete(self.function.key(*self.ask(args)))

    @rule(args=_calls)
    def set_by_hand(self, args: tuple[Any, ...]) -> None:
        self.number += 1
        self.model.put(question(args), self.number, self.clock.monotonic(), tagged=False)
        self.cache.set(self.function.key(*self.ask(args)), self.number)

    @rule(args=_calls)
    def set_nothing(self, args: tuple[Any, ...]) -> None:
        self.model.held.pop(question(args), None)
        self.cache.set(self.function.key(*self.ask(args)), 0, ttl=0)

    @rule(how=st.sampled_from(["cache_clear", "tag", "clear", "pattern"]))
    def forget_everything(self, how: str) -> None:
        held = self.model.held
        for asked, (_, _, tagged) in list(held.items()):
            if tagged or how in {"clear", "pattern"}:
                del held[asked]
        if how == "cache_clear":
            self.function.cache_clear()
        elif how == "tag":
            self.cache.invalidate_by_tags({"tag"})
        elif how == "clear":
            self.cache.clear()
        else:
            self.cache.invalidate_by_pattern("counted@")

    @rule(seconds=st.sampled_from([1.0, TTL / 2, TTL]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(args=_calls)
    def touch(self, args: tuple[Any, ...]) -> None:
        asked, now = question(args), self.clock.monotonic()
        if asked in self.model.held and now < self.model.held[asked][1]:
            answer, _, tagged = self.model.held[asked]
            self.model.held[asked] = answer, now + TTL, tagged
        self.cache.touch(self.function.key(*self.ask(args)))

    @rule(which=st.integers(0, 1))
    @precondition(lambda self: len(self.exits) < 4)
    def begin_override(self, which: int) -> None:
        self.exits.append(ExitStack())
        self.exits[-1].enter_context(override(self.caches[which]))
        self.exits[-1].callback(self.using.pop)
        self.using.append(which)

    @rule()
    @precondition(lambda self: len(self.exits) < 4)
    def begin_disabled(self) -> None:
        self.exits.append(ExitStack())
        self.exits[-1].enter_context(disabled())
        self.exits[-1].callback(self._on_again)
        self.off += 1

    def _on_again(self) -> None:
        self.off -= 1

    @rule()
    @precondition(lambda self: self.exits)
    def end_block(self) -> None:
        self.exits.pop().close()

    @invariant()
    def stores_agree(self) -> None:
        for cache in getattr(self, "caches", ()):
            inside.memory(cache)._check()

    def teardown(self) -> None:
        while getattr(self, "exits", ()):
            self.exits.pop().close()
        if hasattr(self, "stack"):
            self.stack.close()
            for cache in self.caches:
                cache.close()


TestFront = FastPath.TestCase
TestFront.settings = explored(steps=2.5)


class TestOne:
    def test_hits_by_the_front_count_and_keep_young(self) -> None:
        """A hit of the front is a hit in the figures, and saves the entry from eviction."""
        with IntelligentCache(MemoryCache(2), file_cache=None) as cache, override(cache):
            function, calls = counted(lambda x: [x])
            function(1), function(2), function(1), function(3), function(1)
            assert calls.seen == [(1,), (2,), (3,)]
            assert function.cache_info()[:2] == (2, 3)
            assert cache.get_stats()["combined"].hits == 2

    @pytest.mark.parametrize("error", [TypeError, RuntimeError])
    def test_what_cannot_be_hashed_is_left_to_the_key(self, error: type[Exception]) -> None:
        """It may be no part of the question, as a proxy of a connection that there is not."""

        class Proxy:
            def __hash__(self) -> int:
                raise error

        with IntelligentCache(MemoryCache(), file_cache=None) as cache:

            @cache.cached(name="plain", ignore=("db",))
            def plain(x: int, db: Proxy) -> int:
                return x

            @cache.cached(name="awaited", ignore=("db",))
            async def awaited(x: int, db: Proxy) -> int:
                return x

            assert plain(1, Proxy()) == plain(1, db=Proxy()) == 1
            assert asyncio.run(awaited(2, Proxy())) == 2
            assert plain.cache_info() == (1, 1, 1)

    def test_it_stays_small(self) -> None:
        """Answers that have left are forgotten, however many questions were asked."""
        with IntelligentCache(MemoryCache(8), file_cache=None) as cache, override(cache):
            function, _ = counted(lambda x: x)
            for x in range(1000):
                function(x)
            fast_path = function.__closure__[0].cell_contents.fast_path
            assert len(fast_path._slots) <= 8

    @lock_free_hits
    @pytest.mark.parametrize("max_bytes", [None, 1 << 20])
    def test_an_entry_that_leaves_takes_its_arguments_along(self, max_bytes: int | None) -> None:
        """However it leaves: the front keeps neither its key nor the arguments of its calls."""
        clock = ManualClock()
        memory = MemoryCache(50, max_bytes=max_bytes, clock=clock)
        with IntelligentCache(memory, file_cache=None) as cache, override(cache):
            function, _ = counted(lambda x: x, ttl=60, tags={"t"})

            def expire() -> None:
                clock.advance(61)
                memory.remove_expired()

            def held() -> int:
                return len(function.__closure__[0].cell_contents.fast_path._slots)

            leave: dict[str, Callable[[], object]] = {
                "one": lambda: function.invalidate("x0"),
                "tag": lambda: cache.invalidate_by_tags({"t"}),
                "pattern": lambda: cache.invalidate_by_pattern(".*"),
                "all": cache.clear,
                "of the function": function.cache_clear,
                "expired": expire,
                "evicted": lambda: [cache.set(f"{n}", n) for n in range(50)],
                "closed": cache.close,
            }
            for how, work in leave.items():
                for number in range(10):
                    assert function(f"x{number}") == function(f"x{number}") == f"x{number}"
                assert held() == 10, how
                work()
                assert held() == (9 if how == "one" else 0), how

    @lock_free_hits
    def test_functions_that_share_an_entry(self) -> None:
        """It leaves the front of each."""
        with IntelligentCache(file_cache=None) as cache, override(cache):
            functions = [counted(lambda x: x)[0] for _ in range(2)]
            assert [function("x") for function in functions * 2] == ["x"] * 4
            fronts = [function.__closure__[0].cell_contents.fast_path for function in functions]
            (one,), (other,) = ({slot.held for slot in front._slots.values()} for front in fronts)
            assert one is other
            functions[0].invalidate("x")
            assert not any(front._slots for front in fronts)

    @lock_free_hits
    def test_calls_that_differ_in_what_is_ignored(self) -> None:
        """Of one entry few are kept, however many there are, and it keeps none of functions that are gone."""
        with IntelligentCache(file_cache=None) as cache, override(cache):

            @cache_result(ignore=("request",))
            def function(x: int, request: str) -> int:
                return x

            for number in range(100):
                assert function(1, f"{number}") == function(1, request=f"{number}") == 1
            (held,) = cache._core.memory.all_held()
            front = function.__closure__[0].cell_contents.fast_path  # type: ignore[attr-defined]
            assert len(front._slots) == len(held.calls) == 32
            del front
            for number in range(20):
                with disabled():
                    function(1, "0")
                function(1, f"{number}")
            assert 1 <= len(held.calls) <= 32
            front = function.__closure__[0].cell_contents.fast_path  # type: ignore[attr-defined]
            assert (1, "19") in front._slots
            function.invalidate(1, "")
            assert not front._slots

    @lock_free_hits
    def test_an_entry_that_left_already(self) -> None:
        """Between the look for it and its slot, it may leave: then nothing takes the slot along."""
        with IntelligentCache(file_cache=None) as cache, override(cache):
            function, _ = counted(lambda x: x)
            function("x")
            front = function.__closure__[0].cell_contents.fast_path
            ((call, slot),) = front._slots.items()
            function.invalidate("x")
            front.add(call, slot.held, front._cache, front.lookups)
            assert not front._slots

    @lock_free_hits
    def test_it_keeps_no_long_arguments(self) -> None:
        """The tiers have the digest of their key alone."""
        with IntelligentCache(file_cache=None) as cache, override(cache):
            function, calls = counted(len)
            for argument in ("x" * 2000, b"x" * 2000):
                assert function(argument) == function(argument) == 2000
            assert len(calls.seen) == 2
            numbers, _ = counted(lambda *numbers: len(numbers), name="numbers")
            assert numbers(1 << 80_000) == numbers(1 << 80_000) == 1
            assert numbers(*range(100)) == numbers(*range(100)) == 100
            assert numbers("x" * 600, "y" * 600) == numbers("x" * 600, "y" * 600) == 2
            assert not numbers.__closure__[0].cell_contents.fast_path._slots
            assert not function.__closure__[0].cell_contents.fast_path._slots
            assert function("x") == function("x") == 1
            assert len(function.__closure__[0].cell_contents.fast_path._slots) == 1

    def test_large_questions_are_asked_exactly(self) -> None:
        """Long arguments, whose keys end in a digest, are told apart by the front too."""
        with IntelligentCache(file_cache=None) as cache, override(cache):
            function, calls = counted(lambda x: len(calls.seen))
            long = "x" * 1000
            assert [function(long), function(long + "y"), function(long), function(long + "y")] == [
                1,
                2,
                1,
                2,
            ]

    def test_threads_that_change_what_others_read(self) -> None:
        """After an invalidation, a set or a clear has returned, no hit gives what was there before."""
        state = [0]
        ended = threading.Event()
        with IntelligentCache(file_cache=None) as cache, override(cache), frequent_switches():
            function, _ = counted(lambda x: state[0])

            def change() -> None:
                changes: list[Callable[[], object]] = [
                    lambda: function.invalidate(1),
                    function.cache_clear,
                    cache.clear,
                    lambda: function.refresh(1),
                    lambda: cache.set(function.key(1), state[0]),
                ]
                try:
                    for number in range(1, 500):
                        state[0] = number
                        changes[number % len(changes)]()
                        assert function(1) == number
                finally:
                    ended.set()

            def read() -> None:
                while not ended.is_set():
                    assert function(1) >= 0

            race(change, read, read, read)

    @lock_free_hits
    def test_a_cache_closes_while_fronts_are_filled(self) -> None:
        """Closing forgets those that it knows, whoever comes meanwhile."""
        for _ in range(20):
            memory = MemoryCache(10_000)
            cache = IntelligentCache(memory, file_cache=None)
            cache.set("k", 1)
            held = inside.store(memory).find("k")
            assert held is not None
            fronts = [fronts_module.FastPath() for _ in range(2_000)]

            def fill(
                some: list[fronts_module.FastPath], cache: IntelligentCache = cache, held: MemoryEntry = held
            ) -> None:
                for front in some:
                    front.add(("x",), held, cache._core, cache._lookups)

            fill(fronts[:1000])
            with frequent_switches():
                race(partial(fill, fronts[1000:]), cache.close)
            assert not any(front.find(("x",)) for front in fronts)
