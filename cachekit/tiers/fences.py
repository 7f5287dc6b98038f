"""Fences answer: was this key, or one of its tags, invalidated since I looked?

Whoever is about to do something slow with a key (load its value, copy it from another tier) takes a
fence first, and its result is kept only if the fence still stands. Every write and every invalidation
breaks the fences that it concerns, before it returns. This is promise P4: an invalidation is never
lost to work in flight.

`SharedFence` is one that every process of a host breaks: it compares a token in memory that they share
(see `tiers.file.tokens`), and may stand beside a copy of the value for as long as the copy lives. That is
promise P5. `ServerTokens` is what a fleet's server said of a key; only the server can compare it.

`FenceTable` is the private fence of one process. It knows the fences that someone still holds, and
nothing else, so a write that meets no work in flight pays for one truth test, and a fence is broken
by its own key and tags alone. The idea of a token handed out at a miss and checked at the fill is the
lease of "Scaling Memcache at Facebook" (Nishtala et al., NSDI 2013, section 3.2.1).
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol, TypeAlias, final

#: The bit of a token that says that a write is under way: what is read now may not be kept elsewhere.
WRITING: Final = 1 << 63

#: Which shared word changes with every invalidation of tags, all through it.
EPOCH: Final = 2

#: Which shared word changes with every write and every invalidation, before it can be seen elsewhere.
#: While it says the same, whatever stood still stands: a hit compares this one word, and nothing else.
CHANGES: Final = 3

#: Bucket and token of each tag of a value.
TagTokens: TypeAlias = tuple[tuple[int, int], ...]


class SharedTokens(Protocol):
    """A table of 64-bit tokens in memory that processes share; see `tiers.file.tokens`."""

    @property
    def words(self) -> Sequence[int]:
        """All of them; word `EPOCH` is the epoch of tags."""
        ...

    def of_tags(self, tags: Iterable[str]) -> TagTokens:
        """Bucket and token of each tag as they are now."""
        ...

    def are_current(self, tags: TagTokens) -> bool:
        """Whether none of the tags was invalidated since their tokens were read."""
        ...

    def news(self) -> int:
        """What the word `CHANGES` says."""
        ...


class ServerTokens(NamedTuple):
    """The tokens that a fleet's server had for a key and its tags when a value was read or made."""

    token: int  #: of the key's bucket
    tags: Mapping[str, int]  #: of each tag of the value


@final
class SharedFence:
    """A fence that the writes and invalidations of every process of the host break. See `ports.Fence`.

    Args:
        tokens: the shared table.
        key: what it is for.
        bucket: the word of the table that is the key's token.
        token: what that word said; with the FLUX bit, the fence never stands.
        epoch: what the epoch said, before the tokens of the tags were read.
        names: the tags that it covers.
        tags: their tokens.

    Immutable but for `seen`: as long as the word `CHANGES` says that, the fence stands as it did.
    """

    __slots__ = ("bucket", "epoch", "key", "names", "seen", "tags", "token", "tokens", "words")

    def __init__(
        self,
        tokens: SharedTokens,
        key: str,
        bucket: int,
        token: int,
        epoch: int,
        names: frozenset[str] = frozenset(),
        tags: TagTokens = (),
    ) -> None:
        self.tokens = tokens
        self.words = tokens.words
        self.seen = -1  # nothing says that: the first one who asks finds out
        self.key = key
        self.bucket = bucket
        self.token = token
        self.epoch = epoch
        self.names = names
        self.tags = tags

    def is_current(self) -> bool:
        """Whether nothing, in any process, has written or invalidated the key or one of the tags since."""
        if self.token & WRITING or self.words[self.bucket] != self.token:
            return False
        return not self.tags or self.tokens.are_current(self.tags)

    def stands(self) -> bool:
        """`is_current`, for a copy that is asked often: `seen` is then what `CHANGES` said before it was."""
        news = self.tokens.news()  # first: what changes from here on changes it again
        if not self.is_current():
            return False
        if not news & WRITING:
            self.seen = news
        return True

    def naming(self, names: frozenset[str]) -> SharedFence:
        """The same fence over tags that the value turned out to have, as of when this one was taken.

        Broken from the start if any tag at all was invalidated in between: which, nobody knows.
        """
        if not names:
            return self
        tags = self.tokens.of_tags(names)
        same = self.words[EPOCH] == self.epoch and not self.epoch & WRITING
        token = self.token if same else self.token | WRITING
        return SharedFence(self.tokens, self.key, self.bucket, token, self.epoch, names, tags)


@final
class PrivateFence:
    """A fence of this process; it stands until something breaks it. See `ports.Fence`.

    Args:
        key: what it is for.
        tags: the tags that it names.
        every_tag: whether any invalidation of tags breaks it, because those of the value are not known yet.
    """

    __slots__ = ("__weakref__", "broken", "every_tag", "key", "tags")

    def __init__(self, key: str, tags: frozenset[str], every_tag: bool = False) -> None:
        self.key = key
        self.tags = tags
        self.every_tag = every_tag
        self.broken = False

    def is_current(self) -> bool:
        """Whether nothing has written or invalidated the key, or one of the tags, since."""
        return not self.broken


@final
class FenceTable:
    """The fences that are held at this moment, by key.

    Not locked: the owner calls every method under its own lock. Fences are held weakly, so one that its
    holder forgets needs no giving back.
    """

    __slots__ = ("_fences", "held")

    def __init__(self) -> None:
        # It removes a fence that nobody holds in one step, in whichever thread lets go of it, and never
        # a newer fence of the same key.
        self._fences: weakref.WeakValueDictionary[str, PrivateFence] = weakref.WeakValueDictionary()
        #: What is held, by key; for an owner who has no time for a call, to see that there is nothing.
        self.held: Mapping[str, object] = self._fences.data  # type: ignore[attr-defined]

    def __len__(self) -> int:
        return len(self.held)

    def take(self, key: str, tags: frozenset[str], every_tag: bool = False) -> PrivateFence:
        """A fence for the key and the tags. Holders of one key share one, with the tags of them all."""
        fence = self._fences.get(key)
        if fence is None:
            fence = self._fences[key] = PrivateFence(key, tags, every_tag)
        else:
            fence.tags |= tags
            fence.every_tag |= every_tag
        return fence

    def break_key(self, key: str) -> None:
        """Break the fences of one key."""
        fence = self._fences.pop(key, None)
        if fence is not None:
            fence.broken = True

    def break_tags(self, tags: frozenset[str]) -> None:
        """Break the fences that name any of the tags."""
        for fence in self._standing():
            if fence.every_tag or not tags.isdisjoint(fence.tags):
                self.break_key(fence.key)

    def break_matching(self, pattern: re.Pattern[str]) -> None:
        """Break the fences of keys that the pattern matches from the start."""
        for fence in self._standing():
            if pattern.match(fence.key):
                self.break_key(fence.key)

    def break_all(self) -> None:
        """Break every fence."""
        for fence in self._standing():
            self.break_key(fence.key)

    def _standing(self) -> list[PrivateFence]:
        return list(self._fences.values())
