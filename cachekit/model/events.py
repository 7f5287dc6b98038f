"""The recent events after which a key may be missing. Writers append to rings, and only `explain` reads them.

A hit appends nothing. What leaves memory has a ring of its own, so that a program that writes its keys all
the time keeps the reasons of the others. Keys, and the tags of entries, are kept as hashes: they may be long,
and a memory tier that is bounded in bytes counts only its entries.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal, NamedTuple, TypeAlias, final

from cachekit.model.types import RemovalCause

#: What can have happened to keys: a key was deleted; entries were invalidated by tags, by a pattern, or all
#: of them; a loaded value was refused by a fence, cannot be stored, or was not wanted by `store_if` or a ttl.
Kind: TypeAlias = Literal["key", "tags", "pattern", "clear", "refused", "unstorable", "unwanted"]

#: Entries that left memory, and other events, that are remembered at most.
REMOVALS: Final = 1024
EVENTS: Final = 128
#: For a memory tier that is bounded in bytes, one for so many of them.
_BYTES_FOR_A_REMOVAL: Final = 4096
_BYTES_FOR_AN_EVENT: Final = 16_384

#: What one event holds at most: keys, tags, and characters of a tag or pattern.
MOST_KEYS: Final = 50
_MOST_TAGS: Final = 8
_LONGEST: Final = 256


class Removal(NamedTuple):
    """An entry left memory. Times are on the clock of the memory tier."""

    at: float
    cause: RemovalCause
    key: int
    expires: float
    tags: tuple[int, ...]
    is_shared: bool  #: whether other processes of the host could invalidate it


class Event(NamedTuple):
    """Something else happened. The time is on the clock of the memory tier."""

    at: float
    kind: Kind
    subject: Any  #: the hash of a key, or those of keys; tags; or a pattern
    detail: str  #: of what cannot be stored: why
    elsewhere: bool  #: whether another cache did it, which is usually one of another process
    tags: tuple[int, ...]  #: of a value that was refused


def hashes(names: Iterable[str]) -> tuple[int, ...]:
    """Return the hashes of tags; of many, only some."""
    return tuple([hash(name) for name in names][:_MOST_TAGS])


@final
class Events:
    """The rings of one memory tier. Safe in any thread: an append to a deque is one step.

    Args:
        limit: The bytes of the memory tier; infinity if it is not bounded in bytes.
    """

    __slots__ = ("_events", "_removals", "add_removal")

    def __init__(self, limit: float) -> None:
        # Tuples in the order of `Removal`: one is made for each eviction, and a named one costs more.
        self._removals: deque[tuple[float, RemovalCause, int, float, tuple[int, ...], bool]] = deque(
            maxlen=int(min(REMOVALS, limit // _BYTES_FOR_A_REMOVAL))
        )
        self.add_removal = self._removals.append
        self._events: deque[Event] = deque(maxlen=int(min(EVENTS, limit // _BYTES_FOR_AN_EVENT)))

    def _add(
        self, at: float, kind: Kind, subject: Any, detail: str, elsewhere: bool, tags: tuple[int, ...] = ()
    ) -> None:
        self._events.append(Event(at, kind, subject, detail, elsewhere, tags))

    def deleted(self, at: float, keys: Sequence[str], *, elsewhere: bool = False) -> None:
        """Remember that keys were deleted; of many, the first ones."""
        self._add(at, "key", tuple(map(hash, keys[:MOST_KEYS])), "", elsewhere)

    def invalidated(self, at: float, tags: Iterable[str], *, elsewhere: bool = False) -> None:
        """Remember that entries with one of the tags were invalidated."""
        some = tuple([tag for tag in tags if len(tag) <= _LONGEST][:_MOST_TAGS])
        self._add(at, "tags", some, "", elsewhere)

    def matched(self, at: float, pattern: str | re.Pattern[str], *, elsewhere: bool = False) -> None:
        """Remember that entries whose key matches were invalidated."""
        text = pattern if isinstance(pattern, str) else pattern.pattern
        if len(text) <= _LONGEST:
            self._add(at, "pattern", pattern, "", elsewhere)

    def cleared(self, at: float, *, elsewhere: bool = False) -> None:
        """Remember that all entries were removed."""
        self._add(at, "clear", None, "", elsewhere)

    def not_stored(self, at: float, kind: Kind, key: str, detail: str = "", tags: Iterable[str] = ()) -> None:
        """Remember that a loaded value of a key, with these tags, was not stored."""
        self._add(at, kind, hash(key), detail[:_LONGEST], False, hashes(tags))

    def removal_of(self, key: str) -> Removal | None:
        """Return the last removal of the key that is remembered."""
        name = hash(key)
        for removal in reversed(list(self._removals)):
            if removal[2] == name:
                return Removal(*removal)
        return None

    def all(self) -> list[Event]:
        """Return the other events, the last one first."""
        return list(self._events)[::-1]

    @property
    def have_dropped_some(self) -> bool:
        """Whether a ring is full, so that older events are forgotten."""
        return any(len(ring) == ring.maxlen for ring in (self._removals, self._events))
