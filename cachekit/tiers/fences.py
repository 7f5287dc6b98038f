"""Fences answer one question: was this key, or one of its tags, invalidated since the fence was taken?

Before something slow with a key, such as loading its value or copying it from another tier, a caller takes a
fence. The result is stored only if the fence is still current. Every write and every invalidation breaks the
fences that it concerns, before it returns. So an invalidation is never lost to work in progress.

`PrivateFence` is a fence of one process. `FenceTable` knows the private fences that are held, and nothing
else. So a write that meets no work in progress pays for one truth test, and a fence is broken only by its own
key and tags. A token that is handed out at a miss and checked at the fill is the lease of "Scaling Memcache
at Facebook" (Nishtala et al., NSDI 2013, section 3.2.1).

`SharedFence` is a fence that every process of a host breaks: it compares a token in shared memory (see
`tiers.file.engine.fence_tokens`). It may stand beside a copy of the value for as long as the copy lives.
`ServerTokens` are what a server says of a key; only the server can compare them.
"""

from __future__ import annotations

import re
import weakref
from _weakref import _remove_dead_weakref  # type: ignore[attr-defined]
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol, TypeAlias, final

from cachekit.model.types import CHANGES as CHANGES

#: The bit of a token that says that a write is in progress: no copy of what is read now may be stored. In the
#: words of the files, `tiers.file.engine.flux` says what the other bits are then.
WRITING: Final = 1 << 63

#: The index of the shared word that changes with every invalidation of tags.
EPOCH: Final = 2

#: Bucket and token of each tag of a value.
TagTokens: TypeAlias = tuple[tuple[int, int], ...]


class SharedTokens(Protocol):
    """A table of 64-bit tokens in shared memory; see `tiers.file.engine.fence_tokens`."""

    @property
    def words(self) -> Sequence[int]:
        """All tokens; word `EPOCH` is the epoch of tags."""
        ...

    def of_tags(self, tags: Iterable[str]) -> TagTokens:
        """Return bucket and current token of each tag."""
        ...

    def are_current(self, tags: TagTokens) -> bool:
        """Return whether none of the tags was invalidated since their tokens were read."""
        ...

    def news(self) -> int:
        """Return the word `CHANGES`."""
        ...


class ServerTokens(NamedTuple):
    """The tokens that the server had for a key and its tags when a value was read or made."""

    token: int  #: of the key's bucket
    tags: Mapping[str, int]  #: of each tag of the value


class EntryFence(Protocol):
    """What an entry in memory may have beside its value: a hit serves the value while this is current."""

    @property
    def words(self) -> Sequence[int]:
        """Return the words of which `CHANGES` is compared with `seen`."""
        ...

    @property
    def seen(self) -> int:
        """Return the word with which a hit need not ask further."""
        ...

    def is_current(self) -> bool:
        """Return whether the value may be served."""
        ...

    def stands(self) -> bool:
        """Return whether the value may be served, for a hit that is going to serve it."""
        ...


@final
class SharedFence:
    """A fence that the writes and invalidations of every process of the host break.

    Args:
        tokens: the shared table.
        key: the key that it guards.
        bucket: the index of the word that is the key's token.
        token: the value of that word. With the WRITING bit, the fence is never current.
        epoch: the epoch before the tokens of the tags were read.
        names: the tags that it covers.
        tags: their tokens.

    Immutable except for `seen`: while the word `CHANGES` has this value, the fence is current.
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
        self.seen = -1  # no word has this value, so the first reader calls `stands`
        self.key = key
        self.bucket = bucket
        self.token = token
        self.epoch = epoch
        self.names = names
        self.tags = tags

    def is_current(self) -> bool:
        """Return whether nothing, in any process, has written or invalidated the key or a tag since."""
        if self.token & WRITING or self.words[self.bucket] != self.token:
            return False
        return not self.tags or self.tokens.are_current(self.tags)

    def stands(self) -> bool:
        """Return whether it is current; note `CHANGES` in `seen`, for a copy that is read often."""
        news = self.tokens.news()  # first: a change from here on changes it again
        if not self.is_current():
            return False
        if news and not news & WRITING:  # 0 is no token: the word was damaged, and may be again
            self.seen = news
        return True

    def naming(self, names: frozenset[str]) -> SharedFence:
        """Return the same fence over the tags that the value turned out to have.

        It is never current if any tag was invalidated since this one was taken: it may be one of these.
        """
        if not names:
            return self
        tags = self.tokens.of_tags(names)
        # An epoch of 0 was taken during an invalidation.
        same = self.epoch == self.words[EPOCH] != 0 and not self.epoch & WRITING
        token = self.token if same else self.token | WRITING
        return SharedFence(self.tokens, self.key, self.bucket, token, self.epoch, names, tags)


@final
class FirstHitFence:
    """Stands for the shared fence of an entry in memory until its first hit, which it reports.

    Args:
        fence: the entry's own; None if the value is valid without one.
        report: Called once, by the first hit, perhaps under the lock of the store; it raises nothing.

    No word has the value of `seen` before the first hit, so that a hit calls `stands`. Other entries pay for
    none of this.
    """

    __slots__ = ("_report", "fence", "seen", "words")

    def __init__(self, fence: EntryFence | None, report: Callable[[], object]) -> None:
        self.fence = fence
        self._report: Callable[[], object] | None = report
        self.words: Sequence[int] = (0,) * (CHANGES + 1) if fence is None else fence.words
        self.seen = -1

    def is_current(self) -> bool:
        """Return whether the entry's own fence is current."""
        return self.fence is None or self.fence.is_current()

    def stands(self) -> bool:
        """Return whether it is current, and report the first hit."""
        fence = self.fence
        if fence is not None and not fence.stands():
            return False
        report, self._report = self._report, None
        self.seen = 0 if fence is None else fence.seen
        if report is not None:
            report()
        return True


@final
class PrivateFence:
    """A fence of this process. It is current until a write or an invalidation breaks it.

    Args:
        key: the key that it guards.
        tags: the tags that it names.
        every_tag: whether the invalidation of any tag breaks it, because the value's tags are not known yet.

    Attributes:
        seconds: how long the load took that the fence was taken for; None before its end, and for no load.
    """

    __slots__ = ("__weakref__", "broken", "every_tag", "key", "seconds", "tags")

    def __init__(self, key: str, tags: frozenset[str], every_tag: bool = False) -> None:
        self.key = key
        self.tags = tags
        self.every_tag = every_tag
        self.broken = False
        self.seconds: float | None = None

    def is_current(self) -> bool:
        """Return whether nothing has written or invalidated the key, or one of the tags, since."""
        return not self.broken


@final
class _FenceReference(weakref.ref[PrivateFence]):
    """A weak reference that knows its key; one of `weakref.KeyedRef` takes three times as long to make."""

    __slots__ = ("key",)
    key: str


@final
class FenceTable:
    """The private fences that are held, by key.

    Not locked: the owner calls every method under its own lock. The table holds fences weakly: a fence ends
    with its holder.
    """

    __slots__ = ("_fences", "_forget", "changes", "held")

    def __init__(self) -> None:
        fences: dict[str, _FenceReference] = {}
        #: Changes with every write and invalidation of any key, under the owner's lock. A copy that takes
        #: microseconds compares this number, instead of taking a fence.
        self.changes = 0
        self._fences = fences
        #: The fences by key: the owner tests without a call whether there are any.
        self.held: Mapping[str, object] = fences

        def forget(dead: weakref.ref[PrivateFence]) -> None:
            # In one step, because it runs in any thread without the lock: it removes no newer fence.
            _remove_dead_weakref(fences, dead.key)  # type: ignore[attr-defined]

        self._forget = forget

    def __len__(self) -> int:
        return len(self.held)

    def take(self, key: str, tags: frozenset[str], every_tag: bool = False) -> PrivateFence:
        """Return a fence for the key and the tags. Holders of one key share it, with the tags of them all."""
        reference = self._fences.get(key)
        fence = None if reference is None else reference()
        if fence is None:
            fence = PrivateFence(key, tags, every_tag)
            reference = _FenceReference(fence, self._forget)
            reference.key = key
            self._fences[key] = reference
        else:
            fence.tags |= tags
            fence.every_tag |= every_tag
        return fence

    def break_key(self, key: str) -> None:
        """Break the fences of one key."""
        self.changes += 1
        reference = self._fences.pop(key, None)
        fence = None if reference is None else reference()
        if fence is not None:
            fence.broken = True

    def break_tags(self, tags: frozenset[str]) -> None:
        """Break the fences that name any of the tags."""
        self.changes += 1
        for fence in self._standing():
            if fence.every_tag or not tags.isdisjoint(fence.tags):
                self.break_key(fence.key)

    def break_matching(self, pattern: re.Pattern[str]) -> None:
        """Break the fences of keys that the pattern matches from the start."""
        self.changes += 1
        for fence in self._standing():
            if pattern.match(fence.key):
                self.break_key(fence.key)

    def break_all(self) -> None:
        """Break every fence."""
        self.changes += 1
        for fence in self._standing():
            self.break_key(fence.key)

    def _standing(self) -> list[PrivateFence]:
        references = list(self._fences.values())
        return [fence for reference in references if (fence := reference()) is not None]
