"""The Redis tier: `tier` is what users and caches call, `store` is what lies on the server."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cachekit.model.counters import LatencyHistogram
    from cachekit.tiers.redis.bus import Bus
    from cachekit.tiers.redis.figures import FigureStore


def bus_of(tier: object) -> Bus | None:
    """Return the bus of a `RedisCache`, for caches over it; None for any other tier.

    Importing this function does not import the tier.
    """
    redis_tier = sys.modules.get("cachekit.tiers.redis.tier")  # a RedisCache was made by this module
    if redis_tier is None or type(tier) is not redis_tier.RedisCache:
        return None
    bus: Bus = redis_tier.bus_of(tier)
    return bus


def latency_of(tier: object) -> LatencyHistogram | None:
    """Return how long the hits of a `RedisCache` took; None for any other tier.

    Importing this function does not import the tier.
    """
    redis_tier = sys.modules.get("cachekit.tiers.redis.tier")
    if redis_tier is None or type(tier) is not redis_tier.RedisCache:
        return None
    latency: LatencyHistogram = redis_tier.latency_of(tier)
    return latency


def figures_of(tier: object) -> FigureStore | None:
    """Return where the processes over the server of a `RedisCache` keep figures; None for any other tier.

    Importing this function does not import the tier.
    """
    redis_tier = sys.modules.get("cachekit.tiers.redis.tier")
    if redis_tier is None or type(tier) is not redis_tier.RedisCache:
        return None
    figures: FigureStore = redis_tier.figures_of(tier)
    return figures
