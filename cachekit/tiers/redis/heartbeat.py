"""Heartbeats, by which a writer on the bus confirms what it has sent (see `messages`).

All that was sent is confirmed, whatever becomes of the cache that sent it: whether it is closed, or dropped
without that, and whether its program ends, or is a worker of `multiprocessing`. Else the fleet would wait
for the heartbeat, and then do without its copies in memory.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from typing import Any, Final, final

from cachekit.errors import CacheClosedError, TierUnavailableError
from cachekit.runtime.scheduler import ScheduledTask, Scheduler
from cachekit.tiers.redis.bus_protocol import HEARTBEAT, Outbox
from cachekit.tiers.redis.client import Client

#: Heartbeats have a thread of their own, which waits for nothing but servers. Other upkeep may take longer
#: than a fleet has patience: a sweep of a million entries in files, a value kept warm, a tier that hangs.
heartbeat_scheduler: Final = Scheduler("cachekit-pulse")

#: Those that have something to confirm, or may have: also those whose caches are gone.
_beating: set[Heartbeat] = set()


@atexit.register
def _confirm_before_exit() -> None:
    for heart in list(_beating):
        heart.confirm_the_last()


#: What `multiprocessing` calls at the end of a worker, where `atexit` calls nothing; once it is registered.
_of_a_worker: Any = None


def _confirm_before_a_worker_ends() -> None:
    global _of_a_worker
    util: Any = sys.modules.get("multiprocessing.util")
    # A worker forgets what was registered where it was forked.
    if util is not None and (_of_a_worker is None or not _of_a_worker.still_active()):
        _of_a_worker = util.Finalize(None, _confirm_before_exit, exitpriority=0)


@final
class Heartbeat:
    """Sends the heartbeats of one outbox. Safe in any thread; its owner sees to forks.

    Args:
        server: the way to the server.
        channel: of the bus.
        outbox: what is to be confirmed.
    """

    __slots__ = (
        "__weakref__", "_beats", "_channel", "_dropped", "_job", "_lock", "_outbox", "_process", "_server",
        "_silent_until",
    )  # fmt: skip

    def __init__(self, server: Client, channel: bytes, outbox: Outbox) -> None:
        self._server = server
        self._channel = channel
        self._outbox = outbox
        self._lock = threading.Lock()
        self._job: ScheduledTask | None = None
        self._beats = False  # in this process, in which the last heartbeat is seen to as well
        self._dropped = False
        self._process = os.getpid()
        self._silent_until = 0.0

    def keep_beating(self) -> None:
        """See to it that heartbeats follow, from the first message on."""
        if self._beats:
            return
        _confirm_before_a_worker_ends()
        if self._job is None:
            # Without the lock: a fork takes that of the pulse before ours.
            job = heartbeat_scheduler.every(HEARTBEAT, self.beat)
            with self._lock:
                first = self._job is None
                if first:
                    self._job = job
            if first:
                _beating.add(self)
            else:
                job.cancel()
        self._beats = True

    def beat(self) -> None:
        """Publish a heartbeat, if there is anything to confirm."""
        if not self._dropped:
            self._revalidate(final=False)
            return
        _beating.discard(self)  # which ends this job, too
        self.confirm_the_last()

    def drop(self) -> None:
        """The cache is gone: one heartbeat follows, and no other. No I/O, for finalizers."""
        self._dropped = True
        if self._job is not None:
            self._job.due = 0.0  # with the next one of any cache: this one keeps a connection open

    def end(self) -> None:
        """Confirm what was sent; no heartbeat follows."""
        with self._lock:
            job, self._job = self._job, None
            self._beats = False
        _beating.discard(self)
        if job is not None:
            job.cancel()
            self.confirm_the_last()

    def confirm_the_last(self) -> None:
        """Confirm all that was sent, unless that is another process's business."""
        if self._process == os.getpid():
            self._revalidate(final=True)

    def _revalidate(self, *, final: bool) -> None:
        if time.monotonic() < self._silent_until and not final:
            return
        due = self._outbox.heartbeat(final=final)
        if due is None:
            return
        number, text = due
        try:
            self._server.call("PUBLISH", self._channel, text)
        except (TierUnavailableError, CacheClosedError):
            # The next one will speak of the same messages. This thread belongs to all caches, and shall not
            # wait for a server that is out all the time; nor the fleet for this writer, when it is back.
            self._silent_until = time.monotonic() + HEARTBEAT
            return
        self._outbox.confirm(number)

    def before_fork(self) -> None:
        """Take the locks (see `forks`)."""
        self._lock.acquire()
        self._outbox.before_fork()

    def after_fork(self, in_child: bool) -> None:
        """Give them back; the child is another writer."""
        self._outbox.after_fork(in_child)
        self._lock.release()
        if in_child:
            self._process = os.getpid()
            self._beats = False
