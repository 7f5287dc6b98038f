"""The Redis tier: `tier` is what users and caches call, `store` is what lies on the server."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cachekit.model.counters import LatencyHistogram
    from cachekit.tiers.redis.bus import Bus
    from cachekit.tiers.redis.figures import FigureStore


def bus_of(tier: object) -> Bus | None:
    """Return the bus of a `RedisCache`, for caches over it; None for any other tier."""
    made_by = _module_of(tier)
    return None if made_by is None else made_by.bus_of(tier)


def latency_of(tier: object) -> LatencyHistogram | None:
    """Return how long the hits of a `RedisCache` took; None for any other tier."""
    made_by = _module_of(tier)
    return None if made_by is None else made_by.latency_of(tier)


def figures_of(tier: object) -> FigureStore | None:
    """Return where the processes over the server of a `RedisCache` keep figures; None for any other tier."""
    made_by = _module_of(tier)
    return None if made_by is None else made_by.figures_of(tier)


def _module_of(tier: object) -> Any:
    """Return the module of a `RedisCache`, which it has imported; None for any other tier."""
    module = sys.modules.get("cachekit.tiers.redis.tier")
    return None if module is None or type(tier) is not module.RedisCache else module
