"""RedisCache as people and caches use it: values, fences of the fleet, many keys, and what lies there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cachekit import CacheEntry
from cachekit.tiers.redis import RedisCache

MakeCache = Callable[..., RedisCache]


def entry(key: str, value: Any = "v", **more: Any) -> CacheEntry:
    return CacheEntry(key, value, **more)
