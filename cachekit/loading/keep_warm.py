"""KeepWarm: keys that are reloaded before they expire, until the cache is closed.

The scheduler finds the keys that are due. A thread of their own loads them, one after the other, so that a
slow loader delays no other scheduled task. A key is due in the last fifth of its life. An invalidated key is
loaded at that time, or by its next caller if that comes first. A value that another process has loaded by
then is copied from the shared tiers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from heapq import heapify, heappop, heappush
from math import inf
from typing import Any, Final, NamedTuple, final

from cachekit.coherence.tier_stack import TierStack
from cachekit.errors import CacheClosedError
from cachekit.loading.path import failed_load
from cachekit.loading.pause import pause
from cachekit.loading.request import LoadRequest
from cachekit.loading.threads_driver import Loads
from cachekit.model.types import MISSING
from cachekit.runtime import fork
from cachekit.runtime.background import BackgroundCall
from cachekit.runtime.reentrant_lock import RLock
from cachekit.runtime.scheduler import ScheduledTask, scheduler

_INTERVAL: Final = 1.0  # seconds between two rounds
_MARGIN: Final = 0.2  # the last part of a life, in which a key is reloaded
_TRIES: Final = 4  # attempts in this part
_SPARE: Final = 100  # pairs that may be out of date, beyond one for each key
_SLICE: Final = 500  # keys that are taken in one hold of the lock


class _Kept(NamedTuple):
    loader: Callable[[], Any]
    request: LoadRequest
    look_at: float


@final
class KeepWarm:
    """The keys that one cache keeps warm. Safe in any thread, before and after a fork."""

    __slots__ = ("__weakref__", "_closed", "_due", "_job", "_kept", "_loads", "_lock", "_round", "_tiers")

    def __init__(self, tiers: TierStack, loads: Loads) -> None:
        self._tiers = tiers
        self._loads = loads
        self._kept: dict[str, _Kept] = {}
        #: A heap of when to look at which key. Where `_kept` says otherwise, the pair is out of date.
        self._due: list[tuple[float, str]] = []
        # Held for a few instructions, and never while another lock is taken: a fork takes all locks.
        self._lock = RLock()
        self._closed = False
        self._job: ScheduledTask | None = None
        self._round: BackgroundCall | None = None
        fork.register(self)

    def keep(self, keys: Sequence[str], loader: Callable[[str], Any], request: LoadRequest) -> None:
        """Keep these keys warm from now on."""
        kept = request.of_refresh()
        coming = {key: _Kept(partial(loader, key), kept, self._next_look(key, request)) for key in keys}
        job = scheduler.every(_INTERVAL, self.look) if self._job is None and keys else None
        with self._lock:
            if not self._closed:
                self._kept |= coming
                self._order(coming)
                if self._job is None:
                    self._job, job = job, None
        if job is not None:
            job.cancel()

    def drop(self, keys: Sequence[str]) -> None:
        """Stop keeping these keys warm."""
        for key in keys:
            self._kept.pop(key, None)
        with self._lock:
            self._order({})

    def _order(self, coming: Mapping[str, _Kept]) -> None:
        """Note when to look at these keys. The caller holds the lock."""
        for key, kept in coming.items():
            if kept.look_at < inf:
                heappush(self._due, (kept.look_at, key))
        # Of a key that was dropped, or is kept again, a pair stays until its time comes.
        if len(self._due) > 2 * len(self._kept) + _SPARE:
            self._due.clear()
            self._due.extend([(kept.look_at, key) for key, kept in self._kept.copy().items()])
            heapify(self._due)

    def look(self) -> None:
        """Begin to load the keys that are due, unless the last round is still under way."""
        if pause.is_on:
            return
        is_due = self._next_time() <= self._tiers.clock.monotonic()
        if is_due and (self._round is None or self._round.is_over):
            self._round = BackgroundCall(self._load)
            self._round.start()

    def _next_time(self) -> float:
        with self._lock:
            return self._due[0][0] if self._due else inf

    def _take_due(self) -> list[str]:
        # A few at a time: there may be a million, and each `warm_cache` and each fork waits for the lock.
        now, keys, found = self._tiers.clock.monotonic(), [], True
        while found:
            with self._lock:
                for _ in range(_SLICE):
                    found = bool(self._due) and self._due[0][0] <= now
                    if not found:
                        break
                    at, key = heappop(self._due)
                    kept = self._kept.get(key)
                    if kept is not None and kept.look_at == at:
                        keys.append(key)
        return keys

    def _load(self) -> None:
        for key in self._take_due():
            kept = self._kept.get(key)
            if kept is None:
                continue
            if pause.is_on:  # since the round began
                with self._lock:
                    heappush(self._due, (kept.look_at, key))
                continue
            failed = False
            try:
                if self._is_due(key):
                    self._loads.reload_now(key, kept.loader, kept.request)
            except CacheClosedError:
                return
            except BaseException as error:  # noqa: BLE001  # the other keys are loaded all the same
                failed = True
                self._loads.path.log.add(failed_load(key, error))
            again = _Kept(kept.loader, kept.request, self._next_look(key, kept.request, failed))
            with self._lock:
                # Unless the key was dropped during the load, or is kept with another request.
                if self._kept.get(key) is kept:
                    self._kept[key] = again
                    if again.look_at < inf:
                        heappush(self._due, (again.look_at, key))

    def _is_due(self, key: str) -> bool:
        if not self._is_old(key):
            return False
        # Another process or host may have loaded the key since.
        return not self._tiers.lower or self._tiers.promote_quietly(key) is MISSING or self._is_old(key)

    def _is_old(self, key: str) -> bool:
        life = self._tiers.remaining_life(key)
        return life is None or life[0] <= _MARGIN * life[1] < inf

    def _next_look(self, key: str, request: LoadRequest, failed: bool = False) -> float:
        whole = request.life(None, lambda: 0.0) or 0.0
        # A key without a copy in memory was stored just now.
        left, whole = self._tiers.remaining_life(key) or (whole, whole)
        if left == inf:
            return inf
        wait = _MARGIN * whole / _TRIES if failed else max(left - _MARGIN * whole, 0.0)
        return self._tiers.clock.monotonic() + wait

    def close(self) -> None:
        """Drop all keys; a load that is under way goes on."""
        with self._lock:
            self._closed = True
            self._kept.clear()
            self._due.clear()
            job, self._job = self._job, None
        if job is not None:
            job.cancel()

    def before_fork(self) -> None:
        """Take the lock."""
        self._lock.acquire()

    def after_fork(self, in_child: bool) -> None:
        """Release the lock; the child loads what the parent's round had taken."""
        if in_child:
            self._due.clear()
            self._order(self._kept.copy())
        self._lock.release()
