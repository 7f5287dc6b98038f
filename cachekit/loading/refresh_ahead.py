"""Which values are due for a reload before their time is over, and how often that is tried."""

from __future__ import annotations

from math import inf
from typing import Final, final

from cachekit.coherence.tier_stack import TierStack

_PAUSE: Final = 1.0  # seconds before the same key is tried again
_MOST: Final = 10_000  # keys whose pauses are remembered


@final
class RefreshSchedule:
    """What `refresh_ahead` asks after a hit. Safe in any thread.

    A reload that fails, or that another process has begun already, is tried again a second later and not
    at the next hit.
    """

    __slots__ = ("_levels", "_tried")

    def __init__(self, levels: TierStack) -> None:
        self._levels = levels
        self._tried: dict[str, float] = {}

    def is_due(self, key: str, part: float) -> bool:
        """Whether a reload may be begun: memory's entry is in the last part (0 to 1) of its life."""
        life = self._levels.remaining_life(key)
        if life is None or life[0] == inf or life[0] > part * life[1]:
            return False
        now = self._levels.monotonic()
        return now >= self._tried.get(key, now)

    def begins(self, key: str, part: float) -> bool:
        """`is_due` for whoever leads the reload, and alone can say it: another one may have landed since."""
        if not self.is_due(key, part):
            return False
        if len(self._tried) >= _MOST:
            self._tried.clear()
        self._tried[key] = self._levels.monotonic() + _PAUSE
        return True
