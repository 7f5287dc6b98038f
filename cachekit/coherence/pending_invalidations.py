"""PendingInvalidations: what a tier missed during an outage, and must carry out before it is used again.

They are invalidations of keys, tags, patterns, or everything. So their order does not matter, and carrying
one out twice does no harm. If there are too many, "everything" replaces them. A name stays until it was
carried out, so a replay that is cut short by a failure or a fork loses nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Final, NamedTuple, final

#: The numbers of distinct keys, tags and patterns beyond which they become "everything".
_BOUNDS: Final = (10_000, 1_000, 100)


class Invalidations(NamedTuple):
    """A part of what is pending: names, each with the number under which it was added."""

    everything: int  #: its number; 0 if not everything is invalidated
    keys: dict[str, int]
    tags: dict[str, int]
    patterns: dict[str, int]


@final
class PendingInvalidations:
    """Invalidations that are still to be carried out, each once.

    Not locked: the owner calls every method under its own lock.
    """

    __slots__ = ("_entries", "_everything", "_keys", "_patterns", "_tags")

    def __init__(self) -> None:
        self._entries = 0
        self._everything = 0
        self._keys: dict[str, int] = {}
        self._tags: dict[str, int] = {}
        self._patterns: dict[str, int] = {}

    def __len__(self) -> int:
        """Return the number of names; "everything" is one."""
        return len(self._keys) + len(self._tags) + len(self._patterns) + bool(self._everything)

    def add_keys(self, keys: Iterable[str]) -> None:
        """Add keys that were written or deleted."""
        self._add(self._keys, keys)

    def add_tags(self, tags: Iterable[str]) -> None:
        """Add tags that were invalidated."""
        self._add(self._tags, tags)

    def add_pattern(self, pattern: str) -> None:
        """Add a regular expression whose matching keys were invalidated."""
        self._add(self._patterns, (pattern,))

    def add_everything(self) -> None:
        """Add everything, in place of all other names."""
        self._entries += 1
        self._everything = self._entries
        self._keys.clear()
        self._tags.clear()
        self._patterns.clear()

    def _add(self, into: dict[str, int], names: Iterable[str]) -> None:
        # Also while everything is pending: the tier may be carrying that out, and have passed this key.
        for name in names:
            self._entries += 1
            into[name] = self._entries
        held = (len(self._keys), len(self._tags), len(self._patterns))
        if any(count > bound for count, bound in zip(held, _BOUNDS, strict=True)):
            self.add_everything()

    def next_batch(self, count: int) -> Invalidations:
        """Return a part to carry out: "everything" with all names, or else up to `count` of each kind."""
        limit = None if self._everything else count
        return Invalidations(
            self._everything,
            dict(islice(self._keys.items(), limit)),
            dict(islice(self._tags.items(), limit)),
            dict(islice(self._patterns.items(), limit)),
        )

    def acknowledge(self, done: Invalidations) -> None:
        """Remove what was carried out, except for names that were added again since they were read."""
        for held, carried_out in (
            (self._keys, done.keys),
            (self._tags, done.tags),
            (self._patterns, done.patterns),
        ):
            for name, entry in carried_out.items():
                if held.get(name) == entry:
                    del held[name]
        if self._everything == done.everything:
            self._everything = 0
