"""RefreshSchedule: which values to reload before they expire, and how often to try."""

from __future__ import annotations

from math import inf
from typing import Final, final

from cachekit.coherence.tier_stack import TierStack

_PAUSE: Final = 1.0  # seconds between two attempts for one key
_MOST: Final = 10_000  # keys whose pauses are remembered


@final
class RefreshSchedule:
    """When `refresh_ahead` reloads a key after a hit. Safe in any thread.

    If a reload fails, or another process has begun it already, the next attempt is a second later, and not
    at the next hit.
    """

    __slots__ = ("_tiers", "_tried")

    def __init__(self, tiers: TierStack) -> None:
        self._tiers = tiers
        self._tried: dict[str, float] = {}

    def is_due(self, key: str, part: float) -> bool:
        """Return whether the entry in memory is in the last part (0 to 1) of its life."""
        life = self._tiers.remaining_life(key)
        if life is None or life[0] == inf or life[0] > part * life[1]:
            return False
        now = self._tiers.clock.monotonic()
        return now >= self._tried.get(key, now)

    def begins(self, key: str, part: float) -> bool:
        """Return `is_due` for the leader of the reload, and note the attempt."""
        if not self.is_due(key, part):
            return False
        if len(self._tried) >= _MOST:
            self._tried.clear()
        self._tried[key] = self._tiers.clock.monotonic() + _PAUSE
        return True
