"""Writes that depend on what is there: `add`, where nothing is, and `update`, in place of what was read.

The lowest tier in use decides, in one step of its own: the server, else the file tier, else memory. So one
caller wins among all that share that tier. While it is out, the next tier above it decides, for the callers
that share that one. When it recovers, it drops the keys that were written in that time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import chain
from math import inf
from typing import Any, Final

from cachekit.coherence.tier_stack import TierStack
from cachekit.errors import LockTimeoutError
from cachekit.model.display import shown_key
from cachekit.model.entry import CacheEntry, checked_entry
from cachekit.model.storable import PLAIN_TYPES, refuse_unstorable
from cachekit.runtime.backoff import pauses

#: Seconds after which an update gives up. Each attempt that fails means that another write succeeded.
_PATIENCE: Final = 10.0


def add(tiers: TierStack, key: str, value: Any, ttl: float, tags: frozenset[str], stale_ttl: float) -> bool:
    """Store a value if no live entry is there; return whether it was stored."""
    if ttl <= 0 or current(tiers, key) is not None:
        return False
    return tiers.writes.create(key, value, ttl, tags, stale_ttl) is True


def update(
    tiers: TierStack,
    key: str,
    function: Callable[[Any], Any],
    default: Any,
    ttl: float,
    tags: frozenset[str],
) -> Any:
    """Store `function(value)` in place of the value that it was called with; return what was stored.

    Args:
        tiers: The tiers.
        key: The key.
        function: From the value, or `default`, to the new one. It is called again if another write came in
            between.
        default: What stands for the value of a missing key.
        ttl: The life of an entry where there was none. Another one keeps what is left of its life.
        tags: Tags of the new entry, besides those that the old one has.

    Raises:
        LockTimeoutError: other callers wrote the key all the time.
    """
    if tiers.is_beginning:
        tiers.await_beginning()
    names = tags
    attempts = chain([0.0], pauses(time.monotonic() + _PATIENCE))
    for pause in attempts:
        if pause:
            time.sleep(pause)
        while True:
            # Before the value is read: whatever is written or invalidated from here on refuses the new one.
            fence = tiers.fence(key, names)
            tiers.complete_fence(fence)
            entry = current(tiers, key)
            if entry is None or entry.tags <= names:
                break
            names |= entry.tags
        value = function(default if entry is None else entry.value)
        if type(value) not in PLAIN_TYPES:
            refuse_unstorable(value, key)
        if entry is None:
            stored = tiers.writes.create(key, value, ttl, tags, 0.0)
        else:
            now = tiers.clock.time()
            life = _life_left(entry, now)
            stored = tiers.writes.exchange(
                fence, checked_entry(key, value, now, life, entry.tags | tags, stale_ttl=entry.stale_ttl)
            )
        if stored is not False:
            return value
    raise LockTimeoutError(
        f"update of {shown_key(key)} gave up after {_PATIENCE:.0f} s, because other callers wrote it all the "
        f"time; try again, or use one key for each writer"
    )


def current(tiers: TierStack, key: str) -> CacheEntry | None:
    """Return the live entry of the lowest tier in use, without counting a lookup.

    Memory is asked unless the server is: a copy in memory may be older than what another host has written.
    """
    redis = tiers.redis
    if redis is None or redis.is_out:
        entry = tiers.peek_memory_entry(key)
        if entry is not None:
            return entry
    found = tiers.peek(key) if tiers.lower else None
    return None if found is None else found[0]


def _life_left(entry: CacheEntry, now: float) -> float:
    # An entry that has expired since it was read counts as one that expires now.
    return inf if entry.ttl is None else max(entry.created_timestamp + entry.ttl - now, 1e-6)
