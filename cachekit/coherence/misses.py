"""Why a key is missing, worked out from the recent events of the memory tier."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from cachekit.model.events import Event, Removal
from cachekit.model.reports import Miss
from cachekit.model.types import MISSING, RemovalCause
from cachekit.tiers.memory.store import Store

#: What became of a value that was not stored.
_NOT_STORED: Final = {"refused": "refused", "unstorable": "not storable", "unwanted": "not storable"}
_WAYS: Final = frozenset({"key", "tags", "pattern", "clear"})


def miss_of(memory: Store, key: str, tags: frozenset[str], below: bool) -> Miss:
    """Return why no tier has the key, as far as this process knows.

    Args:
        memory: The store of the memory tier, which has the events.
        key: The key.
        tags: Tags that its entry would have, as far as the caller knows.
        below: Whether there is a tier below memory.
    """
    now = memory.time.monotonic()
    wall = memory.time.time() - now

    def found(cause: str, at: float | None = None, event: Event | None = None, **more: str) -> Miss:
        return _miss(cause, None if at is None else wall + at, event, key, known, **more)

    removal = memory.events.removal_of(key)
    known = set(map(hash, tags))
    if removal is not None:
        known.update(removal.tags)
    held = memory.held(key)
    if held is not None:
        known.update(map(hash, held.tags))
    events = memory.events.all()
    last = next((one for one in events if one.kind in _NOT_STORED and one.subject == hash(key)), None)

    def way(before: float | None = None, after: float | None = None) -> Event | None:
        """Return the last event that removed the key, within these times."""
        for one in events:
            in_time = (before is None or one.at <= before) and (after is None or one.at >= after)
            if in_time and one.kind in _WAYS and _concerns(one, key, known):
                return one
        return None

    if held is not None and held.created + held.ttl <= now:
        expired = found("expired", held.created + held.ttl, tier="memory")
        usable = memory.peek(key, lambda one: one.deadline + one.stale - now, even_stale=True)
        return expired if usable is MISSING else expired._replace(stale_for=usable)
    if held is not None and held.deadline > now:  # its shared fence is broken
        return found("invalidated", None, way(after=held.created), where="another cache")
    if last is not None:
        known.update(last.tags)
    if last is not None and (removal is None or last.at >= removal.at):
        reason = {"unwanted": "store_if or the ttl refused it"}.get(last.kind, last.detail)
        broken_by = way(before=last.at) if last.kind == "refused" else None
        return found(_NOT_STORED[last.kind], last.at, broken_by, reason=reason)
    if removal is not None:
        return _removed(removal, way, found, now, below)
    event = way()
    # A clear of another cache may also be a message that was lost, after which memory starts empty.
    if event is not None and (event.kind == "key" or (below and not event.elsewhere)):
        return found("invalidated", event.at, event)
    if below or memory.events.have_dropped_some:
        return found("unknown")
    return found("never stored")


def _removed(
    removal: Removal,
    way: Callable[..., Event | None],
    found: Callable[..., Miss],
    now: float,
    below: bool,
) -> Miss:
    """Return why a key is missing whose entry left memory."""
    if removal.cause is RemovalCause.EXPIRED:
        return found("expired", removal.expires, tier="memory")
    if removal.cause is RemovalCause.EVICTED:
        # A tier below may have had it for longer.
        event = way(after=removal.at) if below else None
        if event is not None:
            return found("invalidated", event.at, event)
        if below and removal.expires <= now:
            return found("expired", removal.expires)
        return found("evicted", removal.at, tier="memory")
    event = way(before=removal.at)
    if event is None and removal.is_shared:
        return found("invalidated", removal.at, where="another cache")
    return found("invalidated", removal.at, event)


def _concerns(event: Event, key: str, tags: set[int]) -> bool:
    if event.kind == "key":
        return hash(key) in event.subject
    if event.kind == "tags":
        return not tags.isdisjoint(map(hash, event.subject))
    return event.kind == "clear" or re.match(event.subject, key) is not None


def _miss(
    cause: str,
    at: float | None,
    event: Event | None,
    key: str,
    tags: set[int],
    *,
    tier: str | None = None,
    where: str | None = None,
    reason: str = "",
) -> Miss:
    if event is None:
        return Miss(cause, at, tier, where=where, reason=reason)
    where = "another cache" if event.elsewhere else "this cache"
    if event.kind == "tags":
        named = min(tag for tag in event.subject if hash(tag) in tags)
        return Miss(cause, at, tier, "tag", named, where, reason)
    if event.kind == "pattern":
        return Miss(
            cause, at, tier, "pattern", getattr(event.subject, "pattern", event.subject), where, reason
        )
    return Miss(cause, at, tier, event.kind, key if event.kind == "key" else None, where, reason)
