"""Test tools for authors of tiers, and for users who test their own code.

`ManualClock` moves only on request, `TierContract` is the suite that every tier passes, `FaultyTier` fails on
request, and `pytest_plugin` has fixtures. For caches that processes share: `history` checks results, `kills`
kills processes, `damage` and `faults` harm files, `processes` forks, and `clock.JumpingClock` jumps.
`python -m cachekit.testing.compat URL` checks a server for the Redis tier.
"""

from cachekit.testing.clock import ManualClock
from cachekit.testing.contract import TierContract
from cachekit.testing.faulty import FaultyTier

__all__ = ["FaultyTier", "ManualClock", "TierContract"]
