"""Notifications of a server tier: which ones a cache applies to its memory tier, and which are its own.

A tier that hosts share notifies all caches of the process of a write, in the thread that made it, before the
call returns (see `tiers.base.ServerTier.subscribe`). The cache that wrote must ignore that, or it would drop
the value that it is about to store.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, ParamSpec, TypeVar, final

from cachekit.model.validation import pattern_to_invalidate
from cachekit.tiers.memory.store import Store
from cachekit.tiers.redis import bus_of

if TYPE_CHECKING:
    from cachekit.tiers.redis.bus import Bus

P = ParamSpec("P")
R = TypeVar("R")


class _Thread(threading.local):
    actor: object = None


_thread = _Thread()


def acting_for(actor: object, operation: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Return what the operation returns, called in the actor's name.

    Calls may be nested. What a listener does is done in the name of the innermost actor.
    """
    before = _thread.actor
    _thread.actor = actor
    try:
        return operation(*args, **kwargs)
    finally:
        _thread.actor = before


def recovery_of(tier: object, memory: Store) -> Callable[[], None]:
    """Return what a cache does when its server is back: listen again, and trust no copy in memory."""
    bus = bus_of(tier)
    if bus is None:
        return memory.clear
    return partial(_recover, bus, memory)


def _recover(bus: Bus, memory: Store) -> None:
    bus.reconnect()  # first: calls that go through now wait for it, so that what they store stays
    memory.clear()


@final
class MemoryInvalidator:
    """Applies the notifications of a server tier to the memory tier, except those of its own cache.

    Args:
        memory: the store of the memory tier. Its cache calls the server in its name.
    """

    __slots__ = ("__weakref__", "_memory")

    def __init__(self, memory: Store) -> None:
        self._memory = memory

    def keys_changed(self, keys: Sequence[str]) -> None:
        """Drop the keys."""
        if _thread.actor is not self._memory:
            self._memory.events.deleted(self._memory.time.monotonic(), keys, elsewhere=True)
            self._memory.invalidate_keys(keys)

    def tags_changed(self, tags: frozenset[str]) -> None:
        """Drop entries with one of the tags."""
        if _thread.actor is not self._memory:
            self._memory.events.invalidated(self._memory.time.monotonic(), tags, elsewhere=True)
            self._memory.invalidate_tags(tags)

    def pattern_changed(self, pattern: str) -> None:
        """Drop entries whose key matches."""
        if _thread.actor is not self._memory:
            self._memory.events.matched(self._memory.time.monotonic(), pattern, elsewhere=True)
            self._memory.invalidate_matching(pattern_to_invalidate(pattern))

    def everything_changed(self) -> None:
        """Drop all entries."""
        if _thread.actor is not self._memory:
            self._memory.events.cleared(self._memory.time.monotonic(), elsewhere=True)
            self._memory.clear()
