"""The one background thread, and the hooks around a fork: nobody's failure is everybody's."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from forking import in_fork
from interrupting import no_collection
from racing import frequent_switches, in_thread
from redis_server import wait_until

from cachekit import IntelligentCache, LoadOptions, LoadTimeoutError, MemoryCache, RedisCache
from cachekit.runtime import fork
from cachekit.runtime.scheduler import Scheduler


class Task:
    def __init__(self) -> None:
        self.ran = threading.Event()

    def run(self) -> None:
        self.ran.set()

    def leave(self) -> None:
        self.ran.set()
        sys.exit("a listener of the user's")


def test_a_job_that_exits_does_not_end_the_others(caplog: pytest.LogCaptureFixture) -> None:
    """SystemExit in one cache's listener is logged; every other cache is still swept."""
    scheduler, bad, good = Scheduler(), Task(), Task()
    first = scheduler.every(0.001, bad.leave)
    assert bad.ran.wait(60)
    second = scheduler.every(0.001, good.run)
    assert good.ran.wait(60)
    first.cancel()
    second.cancel()
    wait_until(lambda: scheduler._thread is None, "the thread has ended")
    assert "a background task failed" in caplog.text


def test_a_thread_that_cannot_start_fails_no_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """The value is stored, and the next job tries again."""

    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    scheduler, task = Scheduler(), Task()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refused)
        first = scheduler.every(0.001, task.run)
    second = scheduler.every(0.001, task.run)
    assert task.ran.wait(60)
    first.cancel()
    second.cancel()


def test_a_handler_may_end_a_job_while_one_begins() -> None:
    """Its lock may be taken twice by one thread."""
    scheduler, task = Scheduler(), Task()
    job = scheduler.every(1000, task.run)

    def inside() -> None:
        with scheduler._lock:
            job.cancel()

    in_thread(inside)()
    assert scheduler._tasks == []


class Witness:
    """Counts the forks that it takes part in."""

    def __init__(self) -> None:
        self.before = self.after = 0

    def before_fork(self) -> None:
        self.before += 1

    def after_fork(self, in_child: bool) -> None:
        self.after += 1


def test_forks_while_caches_come_and_go() -> None:
    """Every fork takes every lock, whatever other threads make at that moment."""
    stop = threading.Event()
    witness = Witness()
    fork.register(witness)

    def churn() -> None:
        while not stop.is_set():
            some = [Witness() for _ in range(50)]
            for one in some:
                fork.register(one)

    with frequent_switches():
        finish = [in_thread(churn) for _ in range(2)]
        try:
            for _ in range(1000):
                fork._before()
                fork._after_in_parent()
        finally:
            stop.set()
            for finished in finish:
                finished()
    assert (witness.before, witness.after) == (1000, 1000)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_one_that_fails_after_a_fork_strands_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """The others get their locks back, and the next fork is possible."""

    class Failing:
        def before_fork(self) -> None:
            pass

        def after_fork(self, in_child: bool) -> None:
            raise MemoryError

    failing = Failing()
    fork.register(failing)
    with MemoryCache() as cache:
        assert [in_fork(lambda: cache.set_value("k", 1))() for _ in range(2)] == [0, 0]
        assert in_thread(lambda: cache.set_value("k", 2))() is True
    assert "may not have survived the fork" in caplog.text


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_threads_of_a_child_begin_last(
    make_cache: Callable[..., RedisCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, a child drops what only its parent may use: drawn tokens, and the records of its figures."""
    known = list(fork._in_child)
    monkeypatch.setattr(fork, "_in_child", [*known, lambda: os._exit(threading.active_count())])
    with IntelligentCache(MemoryCache(), make_cache(), None) as cache:
        cache.set("k", 1)
        assert threading.active_count() > 2
        child = os.fork()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    assert {one.__module__ for one in known} >= {
        "cachekit.tiers.fresh_tokens",
        "cachekit.monitoring.watching",
    }


def test_what_is_registered_is_held_weakly() -> None:
    """A cache that is gone takes part in no fork."""
    with no_collection():  # of what others left, which is registered too
        before = len(fork._registered)
        cache = MemoryCache()
        assert len(fork._registered) > before
        del cache
        assert len(fork._registered) == before


def test_an_interpreter_that_may_have_no_daemons(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as one within another, from Python 3.12 on: nothing is swept, and loads run in the caller."""
    make = threading.Thread.__init__

    def refusing(thread: threading.Thread, *args: Any, daemon: bool | None = None, **more: Any) -> None:
        if daemon:
            raise RuntimeError("daemon threads are disabled in this (sub)interpreter")
        make(thread, *args, daemon=daemon, **more)

    scheduler, job = Scheduler(), Task()
    monkeypatch.setattr(threading.Thread, "__init__", refusing)
    scheduler.every(0.001, job.run).cancel()
    with IntelligentCache(MemoryCache(cleanup_interval=None), file_cache=None) as cache:
        assert cache.get_or_set("k", threading.get_ident) == threading.get_ident()
        # A hard timeout cannot be kept without a thread, so the load is not begun.
        with pytest.raises(LoadTimeoutError, match="no thread can be started"):
            cache.get_or_set("l", threading.get_ident, load=LoadOptions(hard_timeout=9))
