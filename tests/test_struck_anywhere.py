"""A time limit strikes between any two lines: its exception reaches the caller, and counts as no fault.

The signal is there before a line, and its handler runs where Python next looks for signals. A trace function
could raise at the line itself, but there Python 3.12 and 3.13 have an error: what it raises at a jump back,
such as the one of a comprehension, passes the `with` and `try` blocks of its function by.

The handler raises an exception of a class that cachekit itself catches, such as the TimeoutError that many
time limits raise, which is an OSError. Afterwards the tiers are in use, no error is counted, no lock is held
and no load is under way. Finalizers and callbacks of weak references are left out: Python prints what they
raise, and goes on.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import pytest
from anywhere import CALLS, MODULES, a_cache
from interrupting import handled_by, signal_at_next_check
from racing import in_thread
from tracing import at_line

from cachekit import FileCache, IntelligentCache
from cachekit.runtime.interrupts import is_interrupt
from cachekit.tiers.file.engine import file_ops, segments, shard_files


class Limit(Exception):
    """What a time limit of a user's raises."""


KINDS: list[type[Exception]] = [TimeoutError, RuntimeError, KeyError, ValueError, TypeError, Limit]

#: Finalizers: no caller can get their exceptions.
_FINALIZERS = {"__del__", "forget", "close"}
#: They return a descriptor that no object holds yet. If a handler raises here, it stays open, as documented.
_OPENING = {"attempt", "open_lock"}


def is_left_out(frame: FrameType | None) -> bool:
    if frame is not None and frame.f_code.co_name in _OPENING:
        return True
    while frame is not None:
        if frame.f_code.co_name in _FINALIZERS:
            return True
        frame = frame.f_back
    return False


def strike_all(
    cache: IntelligentCache,
    name: str,
    limit: type[Exception],
    first: int,
    step: int,
    modules: Sequence[ModuleType] = MODULES,
) -> None:
    """Strike a call at one line after another. From the 200th on, ever more lines lie between two strikes."""
    raised: list[Exception] = []

    def handler(_: int, frame: FrameType | None) -> None:
        if not is_left_out(frame):
            raised.append(limit())
            raise raised[-1]

    call = partial(CALLS[name], cache)
    call()
    number, came = first, True
    with handled_by(handler):
        while came and (step == 1 or number < 700):  # `clear` of a server runs thousands of lines
            cache.set("k", [1], tags={"t"})
            raised.clear()
            reached: list[Exception] = []
            try:
                came = at_line(number, modules, signal_at_next_check, call)
            except limit as error:
                reached.append(error)
            assert reached == raised, (name, number)
            assert all(tier.state == "closed" for tier in cache._core.tiers.states().values()), (name, number)
            number += step if number < 200 else max(step, number // (6 if step == 1 else 1))
    # A directory counts what a `clear` that was cut short leaves as damaged, as after a kill.
    assert not any(tier.errors for tier in cache._core.tiers.states().values()), name
    cache.get_or_set("last", lambda: 1)  # lets go of what a load that was struck at its very end has left
    assert in_thread(partial(cache.set, "k", 1))() is True, name
    assert in_thread(lambda: cache.get_or_set("l", lambda: 5) and cache.get("k"))() == 1, name


@pytest.mark.parametrize("kind", ["memory", "files", "server", "all"])
def test_a_handler_raises(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, subtests: pytest.Subtests
) -> None:
    """Each call meets one class of exceptions here; the soak run has all of them at each line."""
    with a_cache(kind, tmp_path, request) as cache:
        for at, name in enumerate(CALLS):
            with subtests.test(name=name):
                strike_all(cache, name, KINDS[0] if at % 2 else KINDS[at // 2 % len(KINDS)], 1 + at % 5, 11)


@pytest.mark.parametrize("name", ["set_many", "clear"])
def test_a_handler_raises_at_each_line_of_the_file_engine(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """TimeoutError is an OSError, which the engine catches where a file may be missing or the disk full."""
    with a_cache("files", tmp_path, request) as cache:
        strike_all(cache, name, TimeoutError, 1, 1, [file_ops, segments, shard_files])


@pytest.mark.parametrize("name", ["get", "below", "verified hit"])
def test_a_handler_raises_type_error_in_a_hit(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A hit catches TypeError, because a key may be one that has no hash."""
    with a_cache("memory", tmp_path, request) as cache:
        strike_all(cache, name, TypeError, 1, 1)


@pytest.mark.soak
@pytest.mark.parametrize("limit", KINDS)
@pytest.mark.parametrize("kind", ["memory", "files", "server", "all"])
def test_a_handler_raises_at_each_line(
    kind: str,
    limit: type[Exception],
    tmp_path: Path,
    request: pytest.FixtureRequest,
    subtests: pytest.Subtests,
) -> None:
    """As above, with each class."""
    with a_cache(kind, tmp_path, request) as cache:
        for name in CALLS:
            with subtests.test(name=name):
                strike_all(cache, name, limit, 1, 1)


# -- exceptions that another thread sends -----------------------------------------------------------------


def send(thread: threading.Thread, kind: type[BaseException]) -> None:
    """Have an exception raised in another thread, as `PyThreadState_SetAsyncExc` does."""
    assert thread.ident is not None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(kind))


def spin(begun: threading.Event) -> None:
    begun.set()
    while True:
        pass


def call_c(begun: threading.Event) -> None:
    begun.set()
    while True:
        begun.wait(0.0001)


def call_python(begun: threading.Event) -> None:
    def called() -> None:
        pass

    begun.set()
    while True:
        called()
        called()


@pytest.mark.parametrize("work", [spin, call_c, call_python])
@pytest.mark.parametrize("limit", [TimeoutError, Limit])
def test_an_exception_of_another_thread_is_told(
    work: Callable[[threading.Event], None], limit: type[Exception]
) -> None:
    """Wherever it strikes a thread, it is not taken for an error of what the thread calls."""
    for _ in range(10):
        begun = threading.Event()
        said: list[bool] = []

        def struck(begun: threading.Event = begun, said: list[bool] = said) -> None:
            try:
                work(begun)
            except limit as error:
                said.append(is_interrupt(error))

        thread = threading.Thread(target=struck)
        thread.start()
        assert begun.wait(60)
        send(thread, limit)
        thread.join(60)
        assert said == [True]


def test_errors_of_what_is_called_are_no_interrupts() -> None:
    """Those that Python code raises, and those of functions in C."""

    def raises() -> None:
        raise Limit

    empty: dict[str, int] = {}
    failing: list[Callable[[], object]] = [
        raises, lambda: int("x"), lambda: [].pop(), lambda: next(iter([])), lambda: empty["k"],
        lambda: os.stat("/none/such"), lambda: bytes(-1), lambda: max([]), lambda: "".encode("none"),
    ]  # fmt: skip
    for call in failing:
        with pytest.raises(Exception) as caught:
            call()
        assert not is_interrupt(caught.value)


def test_a_load_that_another_thread_ends() -> None:
    """Its caller gets the exception, though there is a stale value; a caller that waits loads by itself."""
    cache = IntelligentCache(file_cache=None)
    begun = threading.Event()
    answers: dict[str, Any] = {}

    def load() -> int:
        if threading.current_thread() is first:
            spin(begun)
        return 2

    def ask(name: str) -> None:
        try:
            answers[name] = cache.get_or_set("k", load, stale_ttl=60)
        except Limit:
            answers[name] = "over"

    cache.get_or_set("k", lambda: 0, ttl=1e-9, stale_ttl=60)
    first = threading.Thread(target=ask, args=("first",))
    first.start()
    assert begun.wait(60)
    send(first, Limit)
    first.join(60)
    ask("second")
    assert answers == {"first": "over", "second": 2}


# -- no stack, no memory ---------------------------------------------------------------------------------


def test_a_caller_without_stack(tmp_path: Path) -> None:
    """RecursionError reaches the caller; the value is no damage, and it is there afterwards."""

    def at_depth(left: int, call: Callable[[], object]) -> object:
        depth, frame = 0, sys._getframe()
        while frame.f_back is not None:
            frame, depth = frame.f_back, depth + 1

        def deeper(number: int) -> object:
            return deeper(number - 1) if number else call()

        return deeper(sys.getrecursionlimit() - depth - left)

    with IntelligentCache(None, None, FileCache(tmp_path, 20)) as cache:
        for left in range(5, 90):
            cache.set("k", {"a": [Deep(3)]})
            for call in (lambda: cache.get("k"), lambda: cache.set("j", [Deep(3)])):
                gc.disable()  # what other tests have left could not be finalized without stack
                try:
                    at_depth(left, call)
                except RecursionError:
                    pass
                finally:
                    gc.enable()
            assert cache.get("k") == {"a": [Deep(3)]}, left
        assert cache.get_stats()["combined"].errors == 0


class Deep:
    """A value whose pickle is made and read by Python code, some frames deep."""

    def __init__(self, depth: int) -> None:
        self.depth = depth

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Deep) and other.depth == self.depth

    __hash__ = None  # type: ignore[assignment]

    def __getstate__(self) -> int:
        return self._down(30)

    def __setstate__(self, depth: int) -> None:
        self.depth = self._down(30, depth)

    def _down(self, left: int, depth: int = 3) -> int:
        return self._down(left - 1, depth) if left else depth


class Hungry:
    """A value that there is no memory for."""

    hungry = False

    def __getstate__(self) -> int:
        if self.hungry:
            raise MemoryError
        return 1

    def __setstate__(self, state: int) -> None:
        if self.hungry:
            raise MemoryError


def test_a_process_without_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MemoryError reaches the caller, a loaded value is returned, and no stored value counts as damage."""
    with IntelligentCache(None, None, FileCache(tmp_path, 20)) as cache:
        cache.set("k", [Hungry()])
        monkeypatch.setattr(Hungry, "hungry", True)
        with pytest.raises(MemoryError):
            cache.get("k")
        with pytest.raises(MemoryError):
            cache.set("j", [Hungry()])
        assert isinstance(cache.get_or_set("l", Hungry), Hungry)
        monkeypatch.setattr(Hungry, "hungry", False)
        assert cache.get("k") is not None
        assert cache.get_stats()["combined"].errors == 0
