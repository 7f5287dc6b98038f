"""How long ends of caches wait for servers that do not answer: less than a second for any number of them."""

from __future__ import annotations

import time
from math import inf
from typing import Final, final

_WHOLE: Final = 0.7  # seconds, so that all of it with what else an end does takes one
_LEAST: Final = 0.001  # seconds that each may wait all the same: a server that answers is faster
_FORGET: Final = 5.0  # seconds after which what was spent is forgotten


@final
class EndBudget:
    """Seconds that may be spent on waiting in vain. Threads may use it at the same time.

    The first wait for a server gets a half of what is left, and leaves time for other servers. Further ones
    get next to nothing.
    """

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._left = _WHOLE
        self._silent: dict[str, None] = {}
        self._spent_at = -inf

    def share(self, server: str) -> float:
        """Return how many seconds the next wait for a server may take."""
        if time.monotonic() - self._spent_at > _FORGET:
            self._begin()
        return _LEAST if server in self._silent else max(_LEAST, self._left / 2)

    def spend(self, server: str, seconds: float) -> None:
        """Note a wait that was in vain."""
        left = self._left - seconds
        self._left, self._spent_at = max(0.0, left), time.monotonic()
        self._silent[server] = None


#: That of this process.
end_budget: Final = EndBudget()
