"""The memory tier passes the suite that every tier passes."""

from cachekit import MemoryCache
from cachekit.testing import ManualClock, TierContract


class TestMemoryCache(TierContract):
    def make_tier(self, clock: ManualClock) -> MemoryCache:
        return MemoryCache(clock=clock)
