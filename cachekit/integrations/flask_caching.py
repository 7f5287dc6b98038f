"""`CacheKitCache`: the backend `CACHE_TYPE = "cachekit.integrations.flask_caching.CacheKitCache"`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Flask
from flask_caching.backends.base import BaseCache

from cachekit.cache.intelligent import IntelligentCache
from cachekit.integrations.cachelib import CacheKitCache as CachelibCache
from cachekit.serialization.signing import SHORTEST_SECRET
from cachekit.tiers.file.front import FileCache
from cachekit.tiers.memory.tier import MemoryCache
from cachekit.tiers.redis.tier import RedisCache


class CacheKitCache(CachelibCache, BaseCache):
    """A backend of Flask-Caching; see `cachekit.integrations.cachelib.CacheKitCache`.

    `CACHE_OPTIONS = {"cache": cache}` names an `IntelligentCache`. Without it the backend makes one: over
    memory, a directory if there is `CACHE_DIR`, and a server if there is `CACHE_REDIS_URL`. The app's
    `SECRET_KEY`, if it has one, signs what these store.
    """

    @classmethod
    def factory(
        cls, app: Flask, config: Mapping[str, Any], args: list[Any], kwargs: dict[str, Any]
    ) -> CacheKitCache:
        """Return the backend of an app; Flask-Caching calls it."""
        options = dict(kwargs)
        options.setdefault("key_prefix", config.get("CACHE_KEY_PREFIX") or "")
        if not args and "cache" not in options:
            options["cache"] = _made(app.secret_key, config)
        return cls(*args, **options)


def _made(secret_key: str | bytes | None, config: Mapping[str, Any]) -> IntelligentCache:
    secret = None if not secret_key else _long_enough(secret_key)
    directory, url = config.get("CACHE_DIR"), config.get("CACHE_REDIS_URL")
    return IntelligentCache(
        MemoryCache(config.get("CACHE_THRESHOLD", 500)),
        RedisCache(url=url, key_prefix="flask:", secret=secret) if url else None,
        FileCache(directory, secret=secret) if directory else None,
    )


def _long_enough(key: str | bytes) -> bytes:
    octets = key.encode("utf-8", "surrogatepass") if isinstance(key, str) else key
    return (b"cachekit.integrations.flask_caching:" + octets).ljust(SHORTEST_SECRET)
