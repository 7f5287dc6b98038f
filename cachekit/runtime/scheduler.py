"""One background thread per process for repeated tasks, such as the removal of expired entries.

The thread is a daemon. It starts with the first task and ends with the last. A forked child that inherits
tasks starts its own thread. Tasks are bound methods that are held weakly, so they keep no cache alive.

All caches share the thread. So a task that may take more than some milliseconds runs apart, in a thread made
for each call: a sweep of many entries, a server that does not answer, a function of the user's.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, final

from cachekit.runtime import fork
from cachekit.runtime.interrupts import raise_interrupt
from cachekit.runtime.reentrant_lock import RLock


@final
class ScheduledTask:
    """A repeated call. `cancel()` ends it."""

    __slots__ = ("_scheduler", "apart", "due", "interval", "method", "runner")

    def __init__(
        self,
        scheduler: Scheduler,
        method: weakref.WeakMethod[Callable[[], Any]],
        interval: float,
        apart: bool,
    ):
        self._scheduler = scheduler
        self.apart = apart
        #: The thread of the last call that ran apart.
        self.runner: threading.Thread | None = None
        self.method = method
        self.interval = interval
        self.due = time.monotonic() + interval

    def cancel(self) -> None:
        """End the repetition. A call in progress continues, but no other call begins."""
        self._scheduler.remove(self)


@final
class Scheduler:
    """A thread and its tasks. Safe to call from any thread, including from one of its tasks.

    Args:
        name: The name of the thread.
    """

    def __init__(self, name: str = "cachekit-upkeep") -> None:
        self._name = name
        # Taken by its own `with`: that of a Condition may be left taken by a signal handler's exception.
        self._lock = RLock()  # re-entrant, because finalizers and signal handlers cancel tasks
        self._wake = threading.Condition(self._lock)
        self._tasks: list[ScheduledTask] = []
        self._thread: threading.Thread | None = None
        fork.register(self)

    def every(self, interval: float, task: Callable[[], Any], *, apart: bool = False) -> ScheduledTask:
        """Call the bound method `task` every `interval` seconds until it is cancelled or collected.

        The first call comes after one interval. An exception of a task is logged, and its calls continue. A
        call that is to run `apart` is left out while the one before is still running.
        """
        scheduled = ScheduledTask(self, weakref.WeakMethod(task, self._collected), interval, apart)
        with self._lock:
            self._tasks.append(scheduled)
            if self._thread is None:
                self._start()
            self._wake.notify()
        return scheduled

    def _collected(self, _: object) -> None:
        # This may have been the last task, so the thread must wake up and end. Never block here: the
        # thread that runs the garbage collector may hold any lock.
        if self._lock.acquire(blocking=False):
            self._wake.notify()
            self._lock.release()

    def remove(self, scheduled: ScheduledTask) -> None:
        """Remove a task. After the last one the thread ends; wait at most one second for that."""
        with self._lock:
            if scheduled in self._tasks:
                self._tasks.remove(scheduled)
            thread = None if self._tasks else self._thread
            self._wake.notify()
        if thread is not None and thread is not threading.current_thread():
            # In short steps: the thread continues if another task is added at the same time.
            for _ in range(100):
                if self._tasks or self._thread is not thread:
                    break
                thread.join(0.01)

    def _start(self) -> None:
        try:
            thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            thread.start()
        except RuntimeError as error:
            raise_interrupt(error)
            # No threads left, the interpreter is shutting down, or it is a subinterpreter without
            # daemon threads. The next task tries again.
            return
        self._thread = thread

    def _run(self) -> None:
        while True:
            with self._lock:
                self._tasks = [scheduled for scheduled in self._tasks if scheduled.method() is not None]
                if not self._tasks:
                    # Decided under the lock: a task that is added later finds no thread and starts one.
                    self._thread = None
                    return
                now = time.monotonic()
                scheduled = min(self._tasks, key=lambda scheduled: scheduled.due)
                if scheduled.due > now:
                    self._wake.wait(min(scheduled.due - now, threading.TIMEOUT_MAX))
                    continue
                scheduled.due = now + scheduled.interval
            task = scheduled.method()
            if task is not None and not scheduled.apart:
                self._call(task)
            elif task is not None and (scheduled.runner is None or not scheduled.runner.is_alive()):
                scheduled.runner = self.run_apart(task)
            # This frame must not keep the cache of the task alive.
            del task, scheduled

    def run_apart(self, task: Callable[[], Any]) -> threading.Thread | None:
        """Call the task once, in a thread made for it; in this one, and return None, if there is none."""
        try:
            thread = threading.Thread(target=self._call, args=(task,), name=self._name, daemon=True)
            thread.start()
        except RuntimeError as error:
            raise_interrupt(error)
            self._call(task)
            return None
        return thread

    def _call(self, task: Callable[[], Any]) -> None:
        try:
            task()
        except BaseException:  # SystemExit too: all caches share the thread
            import logging

            logging.getLogger("cachekit").exception("a background task failed; it runs again later")

    def before_fork(self) -> None:  # noqa: D102
        self._lock.acquire()

    def after_fork(self, in_child: bool) -> Callable[[], None] | None:  # noqa: D102
        if in_child:
            # The thread does not exist in the child, and waiters on the condition belong to the parent.
            self._lock = RLock()
            self._wake = threading.Condition(self._lock)
            self._thread = None
            return self._start if self._tasks else None
        self._lock.release()
        return None


#: The scheduler of this process.
scheduler = Scheduler()
