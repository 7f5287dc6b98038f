"""One background thread per process for whatever must happen by itself, such as expiry; see `scheduler`.

It is started by the first job, ends with the last, is a daemon, and is started again in a forked
child whose jobs came along. Jobs are bound methods held weakly: a cache that nobody closed, and nobody
holds, is no reason to go on.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, final

from cachekit.runtime import fork


@final
class ScheduledTask:
    """A repeated call; `cancel()` ends it."""

    __slots__ = ("_upkeep", "due", "interval", "task")

    def __init__(self, scheduler: Scheduler, task: weakref.WeakMethod[Callable[[], Any]], interval: float):
        self._upkeep = scheduler
        self.task = task
        self.interval = interval
        self.due = time.monotonic() + interval

    def cancel(self) -> None:
        """End it. A call that is under way goes on, but no other begins."""
        self._upkeep.remove(self)


@final
class Scheduler:
    """A thread and its jobs. Safe to call from any thread, a job of its own included.

    Args:
        name: the thread's.
    """

    def __init__(self, name: str = "cachekit-upkeep") -> None:
        self._name = name
        self._wake = threading.Condition(threading.RLock())  # finalizers and signal handlers close caches
        self._jobs: list[ScheduledTask] = []
        self._thread: threading.Thread | None = None
        fork.register(self)

    def every(self, interval: float, task: Callable[[], Any]) -> ScheduledTask:
        """Call the bound method `task` every `interval` seconds until it is cancelled or collected.

        The first call comes after one interval. What a task raises is logged; it is called again.
        """
        job = ScheduledTask(self, weakref.WeakMethod(task, self._collected), interval)
        with self._wake:
            self._jobs.append(job)
            if self._thread is None:
                self._start()
            self._wake.notify()
        return job

    def _collected(self, _: object) -> None:
        # The thread shall look, for this may have been its last job. Not at the price of waiting: whoever
        # collects may hold any lock.
        if self._wake.acquire(blocking=False):
            self._wake.notify()
            self._wake.release()

    def remove(self, job: ScheduledTask) -> None:
        """End a job; with the last one the thread ends, and is waited for, at most a second."""
        with self._wake:
            if job in self._jobs:
                self._jobs.remove(job)
            thread = None if self._jobs else self._thread
            self._wake.notify()
        if thread is not None and thread is not threading.current_thread():
            # In short steps: the thread may have gone on with a job that came meanwhile.
            for _ in range(100):
                if self._jobs or self._thread is not thread:
                    break
                thread.join(0.01)

    def _start(self) -> None:
        try:
            thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            thread.start()
        except RuntimeError:
            # No more threads, the interpreter ends, or it is one within another that may have no daemons:
            # the next job tries again.
            return
        self._thread = thread

    def _run(self) -> None:
        while True:
            with self._wake:
                self._jobs = [job for job in self._jobs if job.task() is not None]
                if not self._jobs:
                    # Decided under the lock: a job that comes now finds no thread and starts one.
                    self._thread = None
                    return
                now = time.monotonic()
                job = min(self._jobs, key=lambda job: job.due)
                if job.due > now:
                    self._wake.wait(min(job.due - now, threading.TIMEOUT_MAX))
                    continue
                job.due = now + job.interval
            task = job.task()
            if task is not None:
                self._call(task)
            # Neither the cache nor its last reference may be kept alive by this frame.
            del task, job

    def _call(self, task: Callable[[], Any]) -> None:
        try:
            task()
        except BaseException:  # SystemExit too: the thread belongs to all caches
            import logging

            logging.getLogger("cachekit").exception("background upkeep failed; it will run again")

    def before_fork(self) -> None:
        """Take the lock (see `forks`)."""
        self._wake.acquire()

    def after_fork(self, in_child: bool) -> None:
        """Give the lock back; in the child the thread is gone, so start one if there are jobs."""
        if in_child:
            # Whoever waited on the condition belongs to the parent.
            self._wake = threading.Condition(threading.RLock())
            self._thread = None
            if self._jobs:
                self._start()
        else:
            self._wake.release()


#: The thread of this process.
scheduler = Scheduler()
