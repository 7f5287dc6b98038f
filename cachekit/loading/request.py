"""The terms of a load: what its value will be like, who shares it, and for how long its callers wait."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from cachekit.loading.options import OFF, LoadOptions
from cachekit.model.types import CacheLevel

#: From a loaded value to the seconds to keep it; None keeps it not at all.
Life = Callable[[Any], float | None]


class LoadRequest(NamedTuple):
    """On which terms a value is loaded and kept."""

    life: Life
    tags: frozenset[str]
    level: CacheLevel = CacheLevel.ALL
    stale_ttl: float = 0.0  #: seconds after its life in which it may be fallen back on
    options: LoadOptions = OFF
    replaces: bool = False  #: it takes the place of what is there, and so it is not looked for
    waits: bool = True  #: for its turn; otherwise it is given up if another one has that
    is_asked: bool = True  #: by somebody whose lookup is counted

    @property
    def in_background(self) -> bool:
        """Whether a caller may be gone before the load is over."""
        soft = self.stale_ttl > 0 and self.options.soft_timeout is not None
        return soft or self.options.hard_timeout is not None

    def timeouts(self, leading: bool, begun: float) -> list[tuple[bool, float]]:
        """For how many seconds to wait, one after the other, and whether that was all.

        Args:
            leading: whether the load is the caller's own.
            begun: when the caller began to ask, on the system's monotonic clock.
        """
        options, waited = self.options, time.monotonic() - begun
        soft, hard = options.soft_timeout, options.hard_timeout
        limits = []
        if leading and soft is not None and self.stale_ttl:
            limits.append((False, max(0.0, soft - waited)))
            waited = max(waited, soft)
        if hard is not None:
            limits.append((True, max(0.0, hard - waited)))
        return limits
