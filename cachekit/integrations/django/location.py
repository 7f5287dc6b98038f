"""From `LOCATION` and `OPTIONS` of a Django setting to a cache, one for each process and location.

Django makes a backend for each thread and each task. All of one location share one cache, so that a hit in
memory serves every thread.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from django.conf import settings
from django.core.cache import InvalidCacheBackendError
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from cachekit.cache.intelligent import IntelligentCache
from cachekit.errors import CacheError
from cachekit.loading.options import LoadOptions
from cachekit.model.display import safe_repr, shown_value
from cachekit.serialization.signing import SHORTEST_SECRET
from cachekit.tiers.file.front import FileCache
from cachekit.tiers.memory.tier import MemoryCache
from cachekit.tiers.redis.tier import RedisCache

_SERVERS: Final = ("redis://", "rediss://", "unix://")
_MAX_SIZE: Final = 10_000

#: The options that a location of memory, files or a server takes, and the types of their values.
_OPTIONS: Final[dict[str, tuple[type, ...]]] = {
    "max_size": (int,),
    "max_bytes": (int,),
    "max_size_mb": (int, float),
    "eviction": (object,),
    "key_prefix": (str,),
    "timeout": (int, float),
    "secret": (str, bytes, list, tuple),
    "strict": (bool,),
    "load": (LoadOptions,),
    "stale_ttl": (int, float),
    # Django's own names.
    "MAX_ENTRIES": (int,),
    "CULL_FREQUENCY": (int,),
}


#: Those that say how a backend uses its cache, and not what the cache is.
_OF_BACKENDS: Final = ("stale_ttl", "load")


#: What `cache_of` raises for settings that do not work, and for a place that cannot be used.
NOT_OPENED: Final = (ImproperlyConfigured, CacheError, OSError, ImportError)


class Location(NamedTuple):
    """Where entries live."""

    server: str | None  #: an address
    directory: str | None  #: absolute
    name: str  #: of caches in memory alone
    cache: str | None  #: the dotted path of a cache


class Shared(NamedTuple):
    """A cache, and what its backends must know of it."""

    cache: IntelligentCache
    is_signed: bool  #: whether its tiers sign what they store


_caches: dict[object, Shared] = {}


def parsed(location: Any) -> Location:
    """Return what a `LOCATION` says.

    Raises:
        InvalidCacheBackendError: it is none.
    """
    parts = [location] if isinstance(location, str | os.PathLike) else location
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str | os.PathLike) for part in parts):
        raise InvalidCacheBackendError(f"LOCATION must be a str or a list of str, not {safe_repr(location)}")
    server = directory = cache = None
    name = ""
    for part in map(os.fspath, parts):
        if part.startswith(_SERVERS) and server is None:
            server = part
        elif os.path.isabs(part) and directory is None:
            directory = part
        elif part in ("", "memory") or part.startswith("memory:"):
            name = part.removeprefix("memory").removeprefix(":")
        elif ":" in part and "/" not in part and len(parts) == 1:
            cache = part
        else:
            raise InvalidCacheBackendError(
                f"LOCATION {_shown(part)!r} must be 'memory', 'memory:name', one absolute directory, one "
                f"address such as 'redis://host:6379/0', a list of a directory and an address, or "
                f"'module:attribute' of an IntelligentCache"
            )
    return Location(server, directory, name, cache)


def _shown(part: str) -> str:
    # An address may have a password.
    return part if "@" not in part else "...@" + part.rpartition("@")[2]


def checked_options(options: Mapping[str, Any], location: Location) -> None:
    """Raise InvalidCacheBackendError for an option that there is not, or of a wrong type."""
    allowed = _OF_BACKENDS if location.cache else tuple(_OPTIONS)
    for name, value in options.items():
        if name not in allowed:
            where = "a cache of your own" if location.cache else "this backend"
            raise InvalidCacheBackendError(
                f"OPTIONS has {name!r}, which {where} does not take; it takes {', '.join(allowed)}"
            )
        kinds = _OPTIONS[name]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise InvalidCacheBackendError(
                f"OPTIONS[{name!r}] must be {' or '.join(kind.__name__ for kind in kinds)}, not "
                f"{shown_value(value)}"
            )


def cache_of(location: Any, options: Mapping[str, Any]) -> Shared:
    """Return the cache of a location, made at the first call of the process.

    Raises:
        InvalidCacheBackendError: a wrong location or option.
    """
    where = parsed(location)
    checked_options(options, where)
    if where.cache is not None:
        return Shared(_imported(where.cache), False)
    key = where, repr(sorted((name, value) for name, value in options.items() if name not in _OF_BACKENDS))
    shared = _caches.get(key)
    if shared is None:
        # Two threads may both make one. The first one that is stored stays.
        made = _made(where, options)
        shared = _caches.setdefault(key, made)
        if shared is not made:
            made.cache.close()
    return shared


def _imported(path: str) -> IntelligentCache:
    module, _, attribute = path.partition(":")
    try:
        cache = import_string(f"{module}.{attribute}")
    except ImportError as error:
        raise InvalidCacheBackendError(f"LOCATION {path!r} cannot be imported: {error}") from error
    if not isinstance(cache, IntelligentCache):
        raise InvalidCacheBackendError(
            f"LOCATION {path!r} must name an IntelligentCache, not {safe_repr(cache)}"
        )
    return cache


def _made(where: Location, options: Mapping[str, Any]) -> Shared:
    secret: Any = options.get("secret")
    if secret is None and (where.server or where.directory):
        secret = secrets()
    more: dict[str, Any] = {"timeout": options["timeout"]} if "timeout" in options else {}
    try:
        memory = MemoryCache(
            options.get("max_size", options.get("MAX_ENTRIES", _MAX_SIZE)),
            max_bytes=options.get("max_bytes"),
            **({"strategy": options["eviction"]} if "eviction" in options else {}),
        )
        redis = file = None
        if where.server is not None:
            prefix = options.get("key_prefix", "django:")
            redis = RedisCache(url=where.server, key_prefix=prefix, secret=secret, **more)
        if where.directory is not None:
            file = FileCache(where.directory, options.get("max_size_mb", 1000), secret=secret)
        return Shared(
            IntelligentCache(memory, redis, file, default_ttl=None, strict=options.get("strict", False)), True
        )
    except (TypeError, ValueError) as error:
        raise InvalidCacheBackendError(f"OPTIONS: {error}") from error


def secrets() -> list[str]:
    """Return what values are signed with: the site's keys, each with a prefix of our own."""
    keys = [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS]
    # The prefix makes each long enough. An empty key is refused, because anybody could sign with it.
    if not keys[0]:
        raise InvalidCacheBackendError("SECRET_KEY must not be empty: the cache signs its values with it")
    return [f"cachekit.integrations.django:{key}".ljust(SHORTEST_SECRET) for key in keys]
