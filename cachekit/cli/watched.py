"""What `top`, `dashboard` and `metrics` read: a directory, the caches of this user, or a server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cachekit.cli.directory import ArgumentError, DirectoryError, cache_directory
from cachekit.monitoring.reading import FiguresReader, HostReader
from cachekit.monitoring.wanted import LONGEST

if TYPE_CHECKING:
    from cachekit.tiers.redis.tier import RedisCache

#: What the URL of a server begins with.
_URLS = ("redis://", "rediss://", "redis+sentinel://", "rediss+sentinel://", "unix://")
_TIMEOUT = 2.0  # seconds that a server may take to answer


def reader_of(place: str | None, prefix: str | None, seconds: float = LONGEST) -> FiguresReader:
    """Return the reader of the figures in a place.

    Args:
        place: The directory of a cache, or the URL of a server; None for the caches of this user without
            files.
        prefix: The `key_prefix` of the caches on the server; None for that of `RedisCache`.
        seconds: How long the processes publish after a read.

    Raises:
        ArgumentError: It is neither a path nor the URL of a server.
        DirectoryError: It is not the directory of a cache.
    """
    if place is not None and place.startswith(_URLS):
        return _of_server(place, prefix, seconds)
    if prefix is not None:
        raise ArgumentError("--prefix names caches on a server: give the URL of one, such as redis://host")
    return HostReader(None if place is None else cache_directory(place), seconds=seconds)


def _of_server(url: str, prefix: str | None, seconds: float) -> FiguresReader:
    options = {} if prefix is None else {"key_prefix": prefix}
    tier = server_tier(url, timeout=_TIMEOUT, **options)

    from cachekit.monitoring.fleet import FleetReader

    return FleetReader(tier, seconds=seconds)


def server_tier(url: str, **options: Any) -> RedisCache:
    """Return the tier of a server, which has not connected.

    Raises:
        ArgumentError: It is not the URL of a server, or an option is wrong.
        DirectoryError: redis-py is not installed.
    """
    try:
        from cachekit.tiers.redis.tier import RedisCache

        return RedisCache(url=url, **options)
    except ImportError as error:
        raise DirectoryError(f"a server needs redis-py: pip install redis ({error})") from error
    except ValueError as error:
        raise ArgumentError(str(error)) from error
