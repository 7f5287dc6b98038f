"""The entry of the memory tier, and the index from tags to keys. The lock of the store guards both."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from math import inf
from typing import Any, Final, final
from weakref import ref

from cachekit.tiers.fences import EntryFence

#: The deadline of an entry that was removed.
GONE: Final = -inf


class MemoryEntry:
    """One entry of the memory tier. Times are on the tier's monotonic clock.

    It has no `__init__`, because calling one would cost more than all assignments.
    """

    __slots__ = (
        "accesses",
        "calls",
        "created",
        "deadline",
        "key",
        "last",
        "shared_fence",
        "stale",
        "tags",
        "ttl",
        "value",
    )

    key: str
    value: Any
    created: float
    ttl: float
    deadline: float  # created + ttl; minus infinity from just before the entry leaves the store
    stale: float  # finite seconds after the deadline in which loads may use the value
    last: float
    accesses: int
    tags: frozenset[str]
    shared_fence: EntryFence | None  # serve the value only while this is current; None means always
    calls: tuple[tuple[ref[Any], Any], ...]  # fast paths, and the keys of their slots that name this entry

    def let_go(self) -> None:
        """Drop the value of an entry that was removed, and the slots that name it. No lock is held."""
        self.value = None
        calls, self.calls = self.calls, ()
        for reference, call in calls:
            fast_path = reference()
            if fast_path is not None:
                fast_path.forget(call, self)


@final
class TagIndex:
    """The keys of each tag. A tag without keys is not in the index. Not locked.

    Attributes:
        condemned: tags with the keys that they had when an invalidation began which has not ended. An entry
            that has such a tag and key leaves with it, and need not be in the index.
    """

    __slots__ = ("_keys", "condemned")

    def __init__(self) -> None:
        self._keys: dict[str, set[str]] = {}
        self.condemned: list[tuple[str, set[str]]] = []

    def __len__(self) -> int:
        return len(self._keys)

    def missing(self, tags: Iterable[str]) -> int:
        """Return how many of the tags are not in the index."""
        return sum([tag not in self._keys for tag in tags])

    def link(self, key: str, tags: Iterable[str]) -> None:
        """Add the key to the tags."""
        for tag in tags:
            self._keys.setdefault(tag, set()).add(key)

    def unlink(self, key: str, tags: Iterable[str]) -> None:
        """Remove the key from the tags."""
        for tag in tags:
            keys = self._keys.get(tag)
            if keys is not None:
                keys.discard(key)
                if not keys:
                    del self._keys[tag]

    def count(self, tag: str) -> int:
        """Return how many keys have the tag. During an invalidation, keys that are gone may be among them."""
        condemned = sum([len(keys) for one, keys in self.condemned if one == tag])
        return len(self._keys.get(tag, ())) + condemned

    def having(self, tags: Collection[str]) -> set[str]:
        """Return the keys that have any of the tags. Condemned keys may have it no longer."""
        condemned = [keys for tag, keys in self.condemned if tag in tags]
        return set[str]().union(*(self._keys.get(tag, ()) for tag in tags), *condemned)

    def condemn(self, tags: Iterable[str]) -> None:
        """Move the keys of the tags to `condemned`, in a step for each tag, however many keys it has."""
        for tag in tags:
            keys = self._keys.get(tag)
            if keys is not None:
                # First, so that an interrupted step leaves no entry that its tags do not find.
                self.condemned.append((tag, keys))
                del self._keys[tag]

    def release(self, done: Collection[tuple[str, set[str]]]) -> None:
        """Forget keys that were condemned, because their entries are gone."""
        ids = set(map(id, done))
        self.condemned = [one for one in self.condemned if id(one) not in ids]

    def keep(self, entries: Mapping[str, MemoryEntry]) -> None:
        """Forget keys that have a tag no longer, as interrupted writes leave them."""
        for tag, keys in list(self._keys.items()):
            for key in list(keys):
                if key not in entries or tag not in entries[key].tags:
                    self.unlink(key, [tag])

    def clear(self) -> None:
        """Remove all tags."""
        self._keys.clear()
        self.condemned.clear()

    def as_dict(self) -> dict[str, set[str]]:
        """Return a copy of the index, for checks."""
        return {tag: set(keys) for tag, keys in self._keys.items()}
