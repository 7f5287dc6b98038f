"""What a tier missed while it was out of reach, so that it can be made good before it is trusted again.

Everything in it is an invalidation: of keys, of tags, of patterns, of all. So the order is of no
importance, twice does no harm, and when there is too much of it "everything" stands for it all. Nothing
leaves it before it has been carried out: a replay that is cut off at any point, by a failure or by a
fork, has lost nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Final, NamedTuple, final

KEYS: Final = 10_000
TAGS: Final = 1_000
PATTERNS: Final = 100


class Invalidations(NamedTuple):
    """A part of a journal: names, each with the number of the entry that it was read from."""

    everything: int  #: 0 if it is not asked for
    keys: dict[str, int]
    tags: dict[str, int]
    patterns: dict[str, int]


@final
class PendingInvalidations:
    """Invalidations that are still to be carried out, each once.

    Not locked: the owner calls every method under its own lock.

    Args:
        keys: how many distinct keys it holds before they become "everything".
        tags: the same of tags.
        patterns: the same of patterns.
    """

    __slots__ = ("_bounds", "_entries", "_everything", "_keys", "_patterns", "_tags")

    def __init__(self, keys: int = KEYS, tags: int = TAGS, patterns: int = PATTERNS) -> None:
        self._bounds = (keys, tags, patterns)
        self._entries = 0
        self._everything = 0
        self._keys: dict[str, int] = {}
        self._tags: dict[str, int] = {}
        self._patterns: dict[str, int] = {}

    def __len__(self) -> int:
        """How many names are in it, "everything" being one."""
        return len(self._keys) + len(self._tags) + len(self._patterns) + bool(self._everything)

    def add_keys(self, keys: Iterable[str]) -> None:
        """These keys were written or deleted."""
        self._add(self._keys, keys)

    def add_tags(self, tags: Iterable[str]) -> None:
        """These tags were invalidated."""
        self._add(self._tags, tags)

    def add_pattern(self, pattern: str) -> None:
        """The keys that a regular expression matches were invalidated."""
        self._add(self._patterns, (pattern,))

    def add_everything(self) -> None:
        """All was invalidated, or is too much to tell."""
        self._entries += 1
        self._everything = self._entries
        self._keys.clear()
        self._tags.clear()
        self._patterns.clear()

    def _add(self, into: dict[str, int], names: Iterable[str]) -> None:
        # Also while "everything" is in it: whoever carries that out may have passed this key already.
        for name in names:
            self._entries += 1
            into[name] = self._entries
        held = (len(self._keys), len(self._tags), len(self._patterns))
        if any(count > bound for count, bound in zip(held, self._bounds, strict=True)):
            self.add_everything()

    def next_batch(self, count: int) -> Invalidations:
        """A part to carry out: "everything" with all that it covers, or else up to `count` of each."""
        limit = None if self._everything else count
        return Invalidations(
            self._everything,
            dict(islice(self._keys.items(), limit)),
            dict(islice(self._tags.items(), limit)),
            dict(islice(self._patterns.items(), limit)),
        )

    def acknowledge(self, done: Invalidations) -> None:
        """Take out what has been carried out, but for what was missed once more since it was read."""
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
