"""Keys that are kept warm: loaded again before their time is over, until the cache is closed.

Upkeep finds out which are due; a thread of their own loads them, one after the other, so that a slow loader
holds up no other upkeep. A key is looked at again when it comes into the last fifth of its life, not
before: one that is invalidated meanwhile is loaded then, or by whoever asks for it first. What another
process has loaded by then is taken from the tiers that are shared with it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from typing import Any, Final, NamedTuple, final

from cachekit.coherence.tier_stack import TierStack
from cachekit.errors import CacheClosedError
from cachekit.loading.path import Loads
from cachekit.loading.request import LoadRequest
from cachekit.model.types import MISSING
from cachekit.runtime import fork
from cachekit.runtime.background import BackgroundCall
from cachekit.runtime.scheduler import ScheduledTask, scheduler

_INTERVAL: Final = 1.0  # seconds between two rounds
_MARGIN: Final = 0.2  # the part of its life in which a key is loaded again
_TRIES: Final = 4  # how often that is tried in this part


class _Kept(NamedTuple):
    loader: Callable[[], Any]
    request: LoadRequest
    look_at: float


@final
class KeepWarm:
    """The keys of one cache that are kept warm. Safe in any thread, before and after a fork."""

    __slots__ = ("__weakref__", "_closed", "_job", "_kept", "_levels", "_loads", "_lock", "_round")

    def __init__(self, levels: TierStack, loads: Loads) -> None:
        self._levels = levels
        self._loads = loads
        self._kept: dict[str, _Kept] = {}
        # Held for a few instructions at a time, and no other lock is taken under it: a fork takes them all.
        self._lock = threading.RLock()
        self._closed = False
        self._job: ScheduledTask | None = None
        self._round: BackgroundCall | None = None
        fork.register(self)

    def keep(self, keys: Sequence[str], loader: Callable[[str], Any], request: LoadRequest) -> None:
        """Keep them warm from now on."""
        kept = request._replace(replaces=True, waits=False)
        coming = {key: _Kept(partial(loader, key), kept, self._next_look(key, request)) for key in keys}
        job = scheduler.every(_INTERVAL, self.look) if self._job is None and keys else None
        with self._lock:
            if not self._closed:
                self._kept |= coming
                if self._job is None:
                    self._job, job = job, None
        if job is not None:
            job.cancel()

    def drop(self, keys: Sequence[str]) -> None:
        """Keep them warm no longer."""
        for key in keys:
            self._kept.pop(key, None)

    def look(self) -> None:
        """One round, unless the one before is not over: begin to load what is due."""
        now = self._levels.monotonic()
        due = [key for key, kept in list(self._kept.items()) if kept.look_at <= now]
        if due and (self._round is None or self._round.is_over):
            self._round = BackgroundCall(
                partial(self._load, due), partial(self._loads.complaints.add, due[0])
            )
            self._round.is_unwatched = True
            self._round.start()

    def _load(self, due: Sequence[str]) -> None:
        for key in due:
            kept = self._kept.get(key)
            if kept is None:
                continue
            failed = False
            try:
                if self._is_due(key):
                    self._loads.reload_now(key, kept.loader, kept.request)
            except CacheClosedError:
                return
            except BaseException as error:  # noqa: BLE001  # the others are loaded all the same
                failed = True
                self._loads.complaints.add(key, error)
            again = kept._replace(look_at=self._next_look(key, kept.request, failed))
            with self._lock:
                # Not one that was dropped meanwhile, or is kept on other terms.
                if self._kept.get(key) is kept:
                    self._kept[key] = again

    def _is_due(self, key: str) -> bool:
        if not self._is_old(key):
            return False
        # Another process, or another host, may have loaded it since.
        return not self._levels.lower or self._levels.promote_quietly(key) is MISSING or self._is_old(key)

    def _is_old(self, key: str) -> bool:
        life = self._levels.remaining_life(key)
        return life is None or life[0] <= _MARGIN * life[1] < inf

    def _next_look(self, key: str, request: LoadRequest, failed: bool = False) -> float:
        whole = request.life(None) or 0.0
        # Where there is no copy in memory, it was stored just now.
        left, whole = self._levels.remaining_life(key) or (whole, whole)
        if left == inf:
            return inf
        wait = _MARGIN * whole / _TRIES if failed else max(left - _MARGIN * whole, 0.0)
        return self._levels.monotonic() + wait

    def close(self) -> None:
        """Forget all keys; a load that is under way goes on."""
        with self._lock:
            self._closed = True
            self._kept.clear()
            job, self._job = self._job, None
        if job is not None:
            job.cancel()

    def before_fork(self) -> None:
        """Take the lock (see `forks`)."""
        self._lock.acquire()

    def after_fork(self, in_child: bool) -> None:  # noqa: ARG002
        """Give it back."""
        self._lock.release()
