"""The Redis tier: `tier` is what users and caches call, `store` is what lies on the server."""

from cachekit.tiers.redis.tier import RedisCache

__all__ = ["RedisCache"]
