"""MemoryCache, awaited. No method waits, so all but `estimate`, which simulates, run on the loop."""

from __future__ import annotations

from typing import final

from cachekit.aio.facade import Facade, always_in_thread, check_sync, inline, plain
from cachekit.model.types import TTL, CacheStrategy
from cachekit.runtime.clock import Clock, SystemClock
from cachekit.tiers.memory.sizing import Weigher
from cachekit.tiers.memory.strategy import Strategy
from cachekit.tiers.memory.tier import MemoryCache as Core


@final
class MemoryCache(Facade[Core]):
    """`cachekit.MemoryCache`, awaited; see there for the arguments and the promises.

    Removal listeners are called in the thread that removes the entry. If a cache with lower tiers removes it,
    that is not the thread of the loop.
    """

    __slots__ = ()

    def __init__(
        self,
        max_size: int = 1000,
        strategy: Strategy = CacheStrategy.LRU,
        default_ttl: TTL = None,
        *,
        max_bytes: int | None = None,
        weigher: Weigher | None = None,
        cleanup_interval: float | None = 60,
        clock: Clock = SystemClock(),  # noqa: B008  # it has no state
        estimates: bool = True,
    ) -> None:
        core = Core(
            max_size, strategy, default_ttl, max_bytes=max_bytes, weigher=weigher,
            cleanup_interval=cleanup_interval, clock=clock, estimates=estimates,
        )  # fmt: skip
        self._set_up(core)

    @classmethod
    def of(cls, sync: Core) -> MemoryCache:
        """Return a view of an existing tier.

        Raises:
            TypeError: `sync` is not a `cachekit.MemoryCache`.
        """
        check_sync(sync, Core, "a MemoryCache")
        return cls._view(sync)

    @property
    def max_size(self) -> int:
        """Return the most entries that the tier holds."""
        return self._sync.max_size

    @property
    def max_bytes(self) -> int | None:
        """Return what all entries may take together, in bytes; None for no limit."""
        return self._sync.max_bytes

    @property
    def strategy(self) -> Strategy:
        """Return the eviction strategy, as it was given."""
        return self._sync.strategy

    @property
    def policy(self) -> str:
        """Return what decides on evictions now, in words."""
        return self._sync.policy

    @property
    def default_ttl(self) -> float | None:
        """Return the most seconds that the tier keeps any entry; None for no limit."""
        return self._sync.default_ttl

    get_value = inline(Core.get_value)
    get = inline(Core.get)
    peek = inline(Core.peek)
    contains = inline(Core.__contains__)
    keys = inline(Core.keys)
    size = inline(Core.size)
    memory_usage = inline(Core.memory_usage)
    get_stats = plain(Core.get_stats)
    estimate = always_in_thread(Core.estimate)
    set_value = inline(Core.set_value)
    set = inline(Core.set)
    set_if = inline(Core.set_if)
    fence = inline(Core.fence)
    touch = inline(Core.touch)
    delete = inline(Core.delete)
    clear = inline(Core.clear)
    invalidate_by_tags = inline(Core.invalidate_by_tags)
    invalidate_by_pattern = inline(Core.invalidate_by_pattern)
    remove_expired = inline(Core.remove_expired)
    on_removal = inline(Core.on_removal)
    close = inline(Core.close)
    aclose = inline(Core.close)

    async def __aenter__(self) -> MemoryCache:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._sync.close()
