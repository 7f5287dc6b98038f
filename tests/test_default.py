"""The default cache: its functions, override, disabled, CACHEKIT_DISABLE, and the pytest fixtures."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import inside
import pytest
from counting import counted, counted_async
from racing import in_thread, race

import cachekit
from cachekit import CacheInfo, IntelligentCache, disabled, get_default_cache, override, set_default_cache
from cachekit.cache import config
from cachekit.decorator import source
from cachekit.runtime import fork


@pytest.fixture(autouse=True)
def _untouched() -> Iterator[None]:
    """Leave the default cache of this process as it was."""
    before = set_default_cache(None)
    yield
    made = set_default_cache(before)
    if made is not None and made is not before:
        made.close()


class TestFunctions:
    def test_it_is_built_once(self) -> None:
        """At the first use, also by several threads at once."""
        caches = race(*[get_default_cache] * 8)
        assert all(cache is caches[0] for cache in caches)

    def test_the_functions_speak_to_it(self) -> None:
        """Each module function is the default cache's method."""
        cache = get_default_cache()
        cache.set("user:1", 1, tags={"users"})
        cache.set("user:2", 2)
        cache.set("page:1", 3)
        assert cachekit.get_cache_stats()["memory"].sets == 3
        assert cachekit.invalidate_cache_tags({"users"}) is None
        assert cachekit.invalidate_cache_pattern("user:") == 1
        report = cachekit.warm_cache_keys(["a", "page:1"], str.upper, tags=["warm"], concurrency=2)
        assert (report.loaded, report.fresh, cache.get("a")) == (["a"], ["page:1"], "A")
        left = cachekit.optimize_cache_performance().size
        assert left == cache.get_stats()["combined"].size
        assert cachekit.clear_all_caches() is True
        assert inside.memory(cache).size() == 0

    def test_set_default_cache(self) -> None:
        """It returns the cache until now; functions see the new one at once."""
        function, calls = counted(lambda: 1)
        function()
        before = get_default_cache()
        with IntelligentCache(file_cache=None) as new:
            assert set_default_cache(new) is before
            assert get_default_cache() is new
            function()
            assert set_default_cache(before) is new
        function()
        assert len(calls.seen) == 2

    @pytest.mark.parametrize("wrong", [5, "x", IntelligentCache])
    def test_only_caches(self, wrong: object) -> None:
        """Anything else is a TypeError that shows it."""
        for take in (set_default_cache, lambda cache: override(cache).__enter__()):
            with pytest.raises(TypeError, match="cache must be an IntelligentCache, not"):
                take(wrong)  # type: ignore[arg-type]


class TestOverride:
    def test_inside_and_after(self) -> None:
        """The override counts inside its block, and the former cache comes back with its answers."""
        function, calls = counted(lambda x: x)
        function(1)
        with IntelligentCache(file_cache=None) as cache, override(cache) as same:
            assert same is cache is get_default_cache()
            function(1), function(1)
            assert inside.memory(cache).size() == 1
            assert function.cache_info() == CacheInfo(1, 1, 1)
        function(1)
        assert len(calls.seen) == 2

    def test_nested(self) -> None:
        """The innermost counts; also when one cache is named twice."""
        with (
            IntelligentCache(file_cache=None) as one,
            IntelligentCache(file_cache=None) as two,
            override(one),
        ):
            with override(two):
                with override(one):
                    assert get_default_cache() is one
                assert get_default_cache() is two
            assert get_default_cache() is one
            set_default_cache(two)
            assert get_default_cache() is one
        assert get_default_cache() is two

    def test_it_ends_with_an_exception(self) -> None:
        """An exception ends the block like anything else."""
        before = get_default_cache()
        with IntelligentCache(file_cache=None) as cache, pytest.raises(KeyError), override(cache):
            raise KeyError
        assert get_default_cache() is before

    def test_blocks_of_several_threads(self) -> None:
        """Blocks may end in any order; the block of one thread is seen by all."""
        function, _ = counted(lambda: 1)
        one, two, done = (
            IntelligentCache(file_cache=None),
            IntelligentCache(file_cache=None),
            threading.Event(),
        )
        outer = ExitStack()
        outer.enter_context(override(one))
        entered = threading.Event()

        def other() -> None:
            with override(two):
                entered.set()
                done.wait(60)

        end = in_thread(other)
        assert entered.wait(60)
        function()
        assert (inside.memory(one).size(), inside.memory(two).size()) == (0, 1)
        outer.close()  # the older block ends first
        assert get_default_cache() is two
        done.set()
        end()
        assert get_default_cache() not in (one, two)
        one.close()
        two.close()

    def test_a_function_with_a_cache_of_its_own(self) -> None:
        """It is not overridden."""
        with IntelligentCache(file_cache=None) as own, IntelligentCache(file_cache=None) as other:
            function, _ = counted(lambda: 1, cache=own)
            with override(other):
                function()
            assert (inside.memory(own).size(), inside.memory(other).size()) == (1, 0)

    def test_a_call_across_a_switch(self) -> None:
        """A call that began before a switch fills the old cache, and never the new one's front."""
        begun, go = threading.Event(), threading.Event()

        def slow(x: int) -> int:
            begun.set()
            go.wait(60)
            return len(calls.seen)

        function, calls = counted(slow)
        answer = in_thread(partial(function, 1))
        assert begun.wait(60)
        with IntelligentCache(file_cache=None) as cache, override(cache):
            go.set()
            assert answer() == 1
            assert function(1) == 2
            assert function(1) == 2
        assert function(1) == 1


class TestDisabled:
    def test_every_call_goes_through(self) -> None:
        """Nothing is looked up or stored; nesting is counted; afterwards old answers are there again."""
        function, calls = counted(lambda: [1])
        kept = function()
        with disabled():
            with disabled():
                assert function() is not kept
            assert function() is not kept
            assert function.cache_info() == CacheInfo(0, 0, 0)
        assert function() is kept
        assert len(calls.seen) == 3

    async def _ask_async(self) -> None:
        function, calls = counted_async(lambda: [1])
        kept = await function()
        with disabled():
            assert await function() is not kept
            assert await function.refresh() is not kept
        assert await function() is not kept
        assert len(calls.seen) == 4

    def test_coroutines(self) -> None:
        """So for coroutine functions."""
        import asyncio

        asyncio.run(self._ask_async())

    @pytest.mark.parametrize("forget", ["invalidate", "cache_clear", "refresh"])
    def test_an_invalidation_is_not_lost(self, forget: str) -> None:
        """What was invalidated meanwhile does not come back."""
        function, _ = counted(lambda: [1])
        kept = function()
        with disabled():
            getattr(function, forget)()
        assert function() is not kept

    def test_from_another_thread(self) -> None:
        """It is for the whole process."""
        function, calls = counted(lambda: 1)
        function()
        with disabled():
            in_thread(function)()
        assert len(calls.seen) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_fork_during_a_switch() -> None:
    """A child that is born while another thread switches caches can ask for the default one."""
    switching, forked = threading.Event(), threading.Event()

    def switch() -> None:
        with source.switching:
            switching.set()
            while not fork._one_fork.locked() and not forked.is_set():  # until a fork is about to begin
                switching.wait(0)

    end = in_thread(switch)
    assert switching.wait(60)
    child = os.fork()
    if not child:
        signal.alarm(120)
        try:
            os._exit(0 if get_default_cache().set("k", 1) else 1)
        finally:
            os._exit(2)
    forked.set()
    end()
    assert os.waitpid(child, 0)[1] == 0


BUILDING = """
import os, signal, threading
from cachekit import get_default_cache
from cachekit.cache import config
from cachekit.runtime import fork
from cachekit.runtime.scheduler import scheduler

building, forked = threading.Event(), threading.Event()

def hold_up():
    building.set()
    while not fork._one_fork.locked() and not forked.is_set():  # until a fork is about to begin
        building.wait(0)
    job = scheduler.every(1000, scheduler._start)  # as a file tier has one
    job.cancel()

config.redis_cache = hold_up
signal.alarm(120)
thread = threading.Thread(target=get_default_cache)
thread.start()
assert building.wait(60)
child = os.fork()
if not child:
    signal.alarm(120)
    config.redis_cache = lambda: None
    os._exit(0 if get_default_cache().set("k", 1) else 1)
forked.set()
thread.join()
print(os.waitpid(child, 0)[1], get_default_cache().get("k"))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_fork_while_the_default_cache_is_built(tmp_path: Path) -> None:
    """Parent and child both go on, the child with a cache of its own making."""
    done = run(BUILDING, CACHEKIT_DIR=str(tmp_path))
    assert done.stdout == "0 1\n", (done.returncode, done.stderr)


def test_one_that_is_set_while_another_is_built_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that was being built is closed again."""
    mine = IntelligentCache(file_cache=None)
    closed: list[IntelligentCache] = []
    close = IntelligentCache.close
    monkeypatch.setattr(config, "redis_cache", lambda: set_default_cache(mine))

    def noted(cache: IntelligentCache) -> None:
        closed.append(cache)
        close(cache)

    monkeypatch.setattr(IntelligentCache, "close", noted)
    assert get_default_cache() is mine
    assert len(closed) == 1
    assert closed != [mine]


PROGRAM = """
from cachekit import cache_result
calls = []
@cache_result
def f():
    calls.append(1)
f(), f()
print(len(calls))
"""


def run(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env={key: value for key, value in os.environ.items() if key != "CACHEKIT_DISABLE"} | environment,
    )


AT_EXIT = """
import atexit
from cachekit import cache_result

@cache_result
def f(x):
    return x + 1

atexit.register(lambda: print(f(1), f(1), flush=True))
"""


def test_a_first_use_at_exit_leaves_no_traceback() -> None:
    """A handler of atexit may be the first to ask; what it opened goes with the process, without a word."""
    done = run(AT_EXIT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "2 2\n", "")


BARE = """
from cachekit import cache_result, get_cache_stats, get_default_cache

@cache_result(name="f", version="1")
def f(x):
    return x + 1

f(1)
print(f.cache_info().hits, get_default_cache().explain(f.key(1)).remaining > 2 * 24 * 3600)
"""


def test_answers_are_there_tomorrow() -> None:
    """What says no ttl is kept for days, and the next process finds it."""
    assert [run(BARE).stdout for _ in range(2)] == ["0 True\n", "1 True\n"]


class TestEnvironment:
    @pytest.fixture
    def read(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
        """Sets the variable, and has it read again, as a new process does."""

        def read(value: str) -> None:
            monkeypatch.setenv("CACHEKIT_DISABLE", value)
            source._disabled_by_environment.cache_clear()

        yield read
        monkeypatch.undo()
        source._disabled_by_environment.cache_clear()

    def test_cachekit_disable(self, subtests: pytest.Subtests, read: Callable[[str], None]) -> None:
        """A yes disables caching, a no or nothing does not."""
        for value, times in {"1": 2, "true": 2, "YES": 2, " on ": 2, "0": 1, "False": 1, "": 1}.items():
            with subtests.test(value=value):
                read(value)
                function, calls = counted(lambda: 1, name=f"counted {value}")
                function(), function()
                assert len(calls.seen) == times

    def test_neither_yes_nor_no(self, subtests: pytest.Subtests, read: Callable[[str], None]) -> None:
        """Anything else is an error that names the variable, the value and what may stand there."""
        expected = "CACHEKIT_DISABLE must be one of 1, true, yes, on, 0, false, no, off, not "
        for value in ("2", "disabled", "nope"):
            read(value)
            function, _ = counted(lambda: 1)
            with subtests.test(value=value), pytest.raises(ValueError, match=f"{expected}{value!r}"):
                function()

    def test_a_program(self) -> None:
        """It says so before the program begins."""
        assert run(PROGRAM, CACHEKIT_DISABLE="1").stdout == "2\n"


PLUGIN_TESTS = """
import cachekit

pytest_plugins = ["cachekit.testing.pytest_plugin"]
calls = []

@cachekit.cache_result
def price(item):
    calls.append(item)
    return len(calls)

def test_one(cachekit_cache):
    assert price("a") == price("a") == len(calls)
    assert cachekit_cache is cachekit.get_default_cache()
    assert cachekit_cache.memory_cache.size() == 1

def test_two(cachekit_cache):
    assert cachekit_cache.memory_cache.size() == 0
    test_one(cachekit_cache)

def test_three(cachekit_disabled):
    assert price("a") < price("a")

def test_four():
    assert price("a") == price("a")

    assert not cachekit.cache.default._overriding
"""


def test_fixtures_for_users_tests(tmp_path: Path) -> None:
    """cachekit_cache is a fresh default cache for each test, cachekit_disabled none; neither outlives it."""
    (tmp_path / "test_prices.py").write_text(PLUGIN_TESTS)
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},  # they would take most of the time
        capture_output=True,
        text=True,
        check=False,
        cwd=str(tmp_path),
    )
    assert "4 passed" in ran.stdout, ran.stdout + ran.stderr
