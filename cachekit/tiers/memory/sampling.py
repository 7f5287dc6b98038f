"""The sample of keys whose requests are simulated, and the notes of what happens to them.

A key is in the sample if its hash is below a limit. So each key is always in it, or never. A cache that is
smaller by the same share has about the same hit ratio (Waldspurger, Park, Garthwaite, Ahmad, "Efficient MRC
Construction with SHARDS", FAST '15). `key_sample` decides on the limit, and `size_simulation` simulates.

Why a hit on another key costs nothing
--------------------------------------
A hit already looks at the fence of its entry, and None ends the look. A sampled entry has a `SampledFence`,
whose words say that it must be asked. It notes the hit and asks the fence behind it, if there is one. No
other fence is ever around it, so one look at an entry tells whether its hits are noted. An
entry that is read often loses this fence for the rest of a round: its own count of accesses says what was
not noted.
"""

from __future__ import annotations

from collections import deque
from typing import Any, ClassVar, Final, Protocol, final

from cachekit.model.types import CHANGES
from cachekit.tiers.fences import EntryFence

#: A prime. The remainder of a hash depends on all of its bits. So the hashes of sampled keys differ in each
#: bit as those of all keys do, and a sketch of them has no more collisions.
SPREAD: Final = 1_000_003

#: What a note says: the first item of its tuple. A note that is a key is a hit.
#: key, deadline, tags, weight or None for that of before, time, seconds of its load: a lookup missed, and
#: then the value was stored
LOADED: Final = 0
WRITTEN: Final = 1  #: the same, without a lookup
DROPPED: Final = 2  #: key
TAGS: Final = 3  #: tags
PATTERN: Final = 4  #: compiled pattern
CLEAR: Final = 5
LIFE: Final = 6  #: key, deadline
HITS: Final = 7  #: key, number

#: Keys of the last misses, among which the key of a write is looked for: then a lookup asked for it.
MISSED: Final = 64

_NOTED: Final = 16  # hits of an entry in a round, before its own count takes over


class Sample(Protocol):
    """What the store needs of the sample of its keys. `key_sample.KeySample` is one."""

    @property
    def notes(self) -> deque[Any]:
        """Return what happened to sampled keys since the last round, in order."""
        ...

    def mute(self, key: str, mark: SampledFence) -> None:
        """Take the mark off an entry that is read often, until the next round."""
        ...

    def unmute(self, key: str) -> None:
        """Note the hits of an entry without its mark, which another entry or value is going to replace."""
        ...

    def wake(self) -> None:
        """Simulate in the background from now on; some notes at once if there are many. No lock is held."""
        ...

    def close(self) -> None:
        """End the simulation."""
        ...


@final
class SampledFence:
    """The fence of a sampled entry: it notes each hit, and asks the entry's own fence.

    Args:
        sample: The sample that the key belongs to.
        key: The key.
        fence: The entry's own fence, or None.
    """

    __slots__ = ("_key", "_left", "_sample", "fence")

    #: No word is ever equal to `seen`, so each hit calls `stands`.
    words: ClassVar[tuple[int, ...]] = (0,) * (CHANGES + 1)
    seen: ClassVar[int] = -1

    def __init__(self, sample: Sample, key: str, fence: EntryFence | None) -> None:
        self._sample = sample
        self._key = key
        self._left = _NOTED
        self.fence = fence

    def is_current(self) -> bool:
        """Return whether the entry's own fence is current; note nothing."""
        return self.fence is None or self.fence.is_current()

    def stands(self) -> bool:
        """Return whether the entry's own fence is current, and if so note a hit."""
        fence = self.fence
        if fence is not None and fence.words[CHANGES] != fence.seen and not fence.stands():
            return False
        self._sample.notes.append(self._key)
        self._left -= 1
        if self._left <= 0:
            self._sample.mute(self._key, self)
        return True
