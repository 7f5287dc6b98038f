"""Heartbeats, by which a writer on the bus confirms what it has sent (see `bus_protocol`).

All that was sent is confirmed, even if the cache is closed, or dropped without `close`, or its program ends,
or is a worker of `multiprocessing`. Otherwise the fleet would wait for the heartbeat, then clear its memory.
"""

from __future__ import annotations

import atexit
import os
import sys
import time
from typing import Any, Final, final

from cachekit.errors import CacheClosedError, TierUnavailableError
from cachekit.runtime.reentrant_lock import RLock
from cachekit.runtime.scheduler import ScheduledTask, Scheduler
from cachekit.tiers.redis.answers import is_count
from cachekit.tiers.redis.bus_protocol import HEARTBEAT, Outbox
from cachekit.tiers.redis.client import Client
from cachekit.tiers.redis.end_budget import end_budget

#: Heartbeats have a thread of their own, which waits for nothing but servers. Other scheduled tasks may take
#: longer than readers wait: a sweep of a million entries in files, a value kept warm, a tier that hangs.
heartbeat_scheduler: Final = Scheduler("cachekit-pulse")

#: Those that may have something to confirm, including those whose caches are gone.
_beating: set[Heartbeat] = set()


@atexit.register
def _confirm_before_exit() -> None:
    for heartbeat in list(_beating):
        heartbeat.confirm_the_last()


#: What `multiprocessing` calls at the end of a worker, where `atexit` does not run; None until registered.
_of_a_worker: Any = None


def _confirm_before_a_worker_ends() -> None:
    global _of_a_worker
    util: Any = sys.modules.get("multiprocessing.util")
    # A forked worker drops what its parent registered.
    if util is not None and (_of_a_worker is None or not _of_a_worker.still_active()):
        _of_a_worker = util.Finalize(None, _confirm_before_exit, exitpriority=0)


@final
class Heartbeat:
    """Sends the heartbeats of one outbox. Safe in any thread; its owner handles forks.

    Args:
        server: the client of the server.
        channel: the channel of the bus.
        outbox: the messages to confirm.
    """

    __slots__ = (
        "__weakref__", "_channel", "_dropped", "_job", "_lock", "_outbox", "_process", "_server",
        "_silent_until", "is_beating",
    )  # fmt: skip

    def __init__(self, server: Client, channel: bytes, outbox: Outbox) -> None:
        self._server = server
        self._channel = channel
        self._outbox = outbox
        self._lock = RLock()  # a signal handler may write in the middle of a write
        self._job: ScheduledTask | None = None
        #: Whether heartbeats follow a message of this process, up to the last one before it ends.
        self.is_beating = False
        self._dropped = False
        self._process = os.getpid()
        self._silent_until = 0.0

    def keep_beating(self) -> None:
        """Let heartbeats follow, from the first message on."""
        _confirm_before_a_worker_ends()
        if self._job is None:
            # Without the lock: a fork takes the lock of the scheduler before this one.
            job = heartbeat_scheduler.every(HEARTBEAT, self.beat)
            with self._lock:
                # Nothing runs between the next two lines (see `model.counters`).
                if self._job is None:
                    self._job = job
            if self._job is job:
                _beating.add(self)
            else:
                job.cancel()
        self.is_beating = True

    def beat(self) -> None:
        """Publish a heartbeat, if there is anything to confirm."""
        if not self._dropped:
            self._send(final=False)
            return
        _beating.discard(self)  # which ends this job too
        self.confirm_the_last()

    def drop(self) -> None:
        """Note that the cache is gone: one last heartbeat follows. No I/O, for finalizers."""
        self._dropped = True
        if self._job is not None:
            self._job.due = (
                0.0  # with the next heartbeat of any cache, because this one keeps a connection open
            )

    def end(self) -> None:
        """Confirm what was sent; no heartbeat follows."""
        with self._lock:
            job, self._job = self._job, None
            self.is_beating = False
        _beating.discard(self)
        if job is not None:
            job.cancel()
            self.confirm_the_last()

    def confirm_the_last(self) -> None:
        """Confirm all that was sent, unless another process sent it."""
        if self._process == os.getpid():
            self._send(final=True)

    def _send(self, *, final: bool) -> None:
        if time.monotonic() < self._silent_until and not final:
            return
        due = self._outbox.heartbeat(final=final)
        if due is None:
            return
        number, text = due
        begun = time.monotonic()
        try:
            if final:
                # Many caches may end at once, and none of their servers may answer.
                share = end_budget.share(str(self._server))
                self._server.call_within(share, is_count, "PUBLISH", self._channel, text)
            else:
                self._server.call(is_count, "PUBLISH", self._channel, text)
        except (TierUnavailableError, CacheClosedError):
            if final:
                end_budget.spend(str(self._server), time.monotonic() - begun)
            # The next heartbeat confirms the same messages. This thread serves all caches, so it must not
            # wait for an unavailable server all the time. Nor must the fleet wait long once it recovers.
            self._silent_until = time.monotonic() + HEARTBEAT
            return
        self._outbox.confirm(number)

    def before_fork(self) -> None:
        """Take the locks, so that no thread holds them in the child."""
        self._lock.acquire()
        self._outbox.before_fork()

    def after_fork(self, in_child: bool) -> None:
        """Release them; the child is another writer."""
        self._outbox.after_fork(in_child)
        self._lock.release()
        if in_child:
            self._process = os.getpid()
            self.is_beating = False
