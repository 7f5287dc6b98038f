"""Who speaks to a tier in this thread, so that a cache does not listen to what it says itself.

A tier that hosts share tells everyone in the process of a write before the call returns, in the thread that
made it (see `ports.ServerTier.subscribe`). Who wrote knows already, and would drop the value that it is
about to keep.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar, final

from cachekit.model.validation import checked_pattern
from cachekit.tiers.memory.store import Store

P = ParamSpec("P")
R = TypeVar("R")


class _Thread(threading.local):
    actor: object = None


_thread = _Thread()


def acting_for(actor: object, operation: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """What the operation returns, called in the speaker's name.

    Calls may be nested: what a listener does when it is told is said in the name of whoever does that.
    """
    before = _thread.actor
    _thread.actor = actor
    try:
        return operation(*args, **kwargs)
    finally:
        _thread.actor = before


def is_acting_for(actor: object) -> bool:
    """Whether this thread is in a call that was made in this name, and in none within that."""
    return _thread.actor is actor


@final
class MemoryInvalidator:
    """What the bus of the fleet tells, carried out on memory (see `ports.BusListener`).

    What a cache over this memory does itself is left to that cache.
    """

    __slots__ = ("__weakref__", "_memory")

    def __init__(self, memory: Store) -> None:
        self._memory = memory

    def keys_changed(self, keys: Sequence[str]) -> None:
        """Drop them."""
        if not is_acting_for(self._memory):
            self._memory.invalidate_keys(keys)

    def tags_changed(self, tags: frozenset[str]) -> None:
        """Drop what has one of them."""
        if not is_acting_for(self._memory):
            self._memory.invalidate_tags(tags)

    def pattern_changed(self, pattern: str) -> None:
        """Drop what matches."""
        if not is_acting_for(self._memory):
            self._memory.invalidate_matching(checked_pattern(pattern))

    def everything_changed(self) -> None:
        """Drop all."""
        if not is_acting_for(self._memory):
            self._memory.clear()
