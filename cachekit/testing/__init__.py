"""What cachekit is tested with, for authors of tiers and users who test their own code.

`ManualClock` moves time by hand; `TierContract` is the suite that every tier passes; `FaultyTier` makes a
tier fail, hang or lie; the fixtures of `cachekit.testing.pytest_plugin` give each test a cache of its own.
For caches that processes share: `history` checks what they saw, `kills` kills them, `damage` and `faults`
harm their files, `processes` begins them together, `clock` has one that jumps under them.
"""

from cachekit.testing.clock import ManualClock
from cachekit.testing.contract import TierContract
from cachekit.testing.faulty import FaultyTier

__all__ = ["FaultyTier", "ManualClock", "TierContract"]
