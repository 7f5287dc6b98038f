"""The Redis tier: `tier` is what people and caches speak to, `store` is what lies on the server."""

from cachekit.tiers.redis.tier import RedisCache

__all__ = ["RedisCache"]
