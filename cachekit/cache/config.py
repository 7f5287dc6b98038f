"""Configuration of the default cache by environment variables, read at its first use.

`CACHEKIT_DIR` is the directory that holds one directory per program, and `CACHEKIT_NAMESPACE` replaces the
program's name there. `CACHEKIT_MAX_SIZE_MB` limits its size, and `CACHEKIT_MEMORY_MB` that of the memory
tier. `CACHEKIT_SECRET` signs stored bytes, and
`CACHEKIT_REDIS_URL` adds a server. Two scripts never share entries. Importing cachekit creates no directory.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from cachekit.errors import CacheError, TierUnavailableError
from cachekit.model.display import safe_repr, typed_repr
from cachekit.model.types import MISSING, Missing
from cachekit.runtime.clock import Clock, SystemClock
from cachekit.runtime.machine import memory_bytes
from cachekit.runtime.program import program_name
from cachekit.tiers.base import DirectoryTier, ServerTier
from cachekit.tiers.memory.tier import MemoryCache, store_of

if TYPE_CHECKING:
    from cachekit.tiers.file.front import FileCache
    from cachekit.tiers.redis.tier import RedisCache


_LEAST_MEMORY: Final = 32 << 20
_MOST_MEMORY: Final = 1 << 30
_NAMELESS: Final = "this shell has no name, because its working directory was removed; set CACHEKIT_NAMESPACE"


def namespace() -> str | None:
    """Return the name of this program, the same in the processes that it starts; None if it has no name.

    It is CACHEKIT_NAMESPACE if set, and otherwise the name that `runtime.program` makes. Two scripts have
    different names, and so have the shells and servers of two projects.

    Raises:
        ValueError: CACHEKIT_NAMESPACE cannot be part of a path.
    """
    given = os.environ.get("CACHEKIT_NAMESPACE")
    if given is not None:
        if not given or given in {".", ".."} or "/" in given or "\0" in given:
            raise ValueError(
                f"CACHEKIT_NAMESPACE must be a name that can be part of a path, not {safe_repr(given)}; "
                f"remove slashes, or unset it"
            )
        return given
    return program_name()


def max_size_mb() -> int:
    """Return CACHEKIT_MAX_SIZE_MB, or 1000.

    Raises:
        ValueError: the variable is not a whole number in range.
    """
    from cachekit.tiers.arguments import LARGEST_MB

    text = os.environ.get("CACHEKIT_MAX_SIZE_MB", "1000")
    if not text.isdecimal() or not 1 <= int(text) <= LARGEST_MB:
        raise ValueError(
            f"CACHEKIT_MAX_SIZE_MB must be a whole number from 1 to {LARGEST_MB}, not {safe_repr(text)}"
        )
    return int(text)


def memory_cache() -> MemoryCache:
    """Return the memory tier of the default cache: 1,000 entries, in CACHEKIT_MEMORY_MB.

    The default limit is 1 % of the memory that this process may use, from 32 MiB to 1 GiB.

    Raises:
        ValueError: the variable is not a whole number in range.
    """
    from cachekit.tiers.arguments import LARGEST_MB

    text = os.environ.get("CACHEKIT_MEMORY_MB")
    if text is None:
        share = (memory_bytes() or 0) // 100
        return MemoryCache(max_bytes=min(max(share, _LEAST_MEMORY), _MOST_MEMORY))
    if not text.isdecimal() or not 1 <= int(text) <= LARGEST_MB:
        raise ValueError(
            f"CACHEKIT_MEMORY_MB must be a whole number from 1 to {LARGEST_MB}, not {safe_repr(text)}"
        )
    return MemoryCache(max_bytes=int(text) << 20)


def file_cache(clock: Clock) -> FileCache | None:
    """Return the file tier of this program; None, with a warning, if its directory cannot be opened.

    Args:
        clock: The source of time.

    Raises:
        ValueError: an environment variable has an invalid value.
    """
    from cachekit.serialization.signing import secrets_from_environment
    from cachekit.tiers.file.front import FileCache

    base = os.environ.get("CACHEKIT_DIR")
    if base is not None and not base:
        raise ValueError(
            "CACHEKIT_DIR must name a directory, not be empty; unset it for the default directory"
        )
    name, limit, secret = namespace(), max_size_mb(), secrets_from_environment()
    try:
        if name is None:
            raise TierUnavailableError(_NAMELESS)
        return FileCache(base, limit, namespace=name, secret=secret, clock=clock)
    except CacheError as error:
        import logging

        logging.getLogger("cachekit").warning(
            "file tier disabled, cached values will not outlive this process: %s "
            "(set the directory with CACHEKIT_DIR)",
            error,
        )
        return None


def redis_cache() -> RedisCache | None:
    """Return the tier for the server of CACHEKIT_REDIS_URL, with keys of this program; None if it is unset.

    Raises:
        ValueError: an environment variable has an invalid value.
    """
    url = os.environ.get("CACHEKIT_REDIS_URL")
    if url is None:
        return None
    from cachekit.serialization.signing import secrets_from_environment
    from cachekit.tiers.redis.tier import RedisCache

    name = namespace()
    if name is None:
        raise ValueError(f"CACHEKIT_REDIS_URL cannot be used: {_NAMELESS}")
    # A file name may contain braces, which in a key choose its slot in a Cluster.
    name = name.translate({ord("{"): "(", ord("}"): ")"})
    secret = secrets_from_environment()
    try:
        return RedisCache(url=url, key_prefix=f"cachekit:{name}:", secret=secret)
    except ValueError as error:
        raise ValueError(f"CACHEKIT_REDIS_URL must be the URL of a server: {error}") from None


def tiers_of(
    memory: MemoryCache | Missing | None,
    redis: ServerTier | None,
    file: DirectoryTier | Missing | None,
) -> tuple[MemoryCache | None, ServerTier | None, DirectoryTier | None]:
    """Return the three tiers of a cache. Arguments: None for no tier, MISSING for the default one.

    Raises:
        TypeError: an argument is not a tier of its kind.
        ValueError: all arguments are None.
        TierUnavailableError: the default file tier cannot be opened and would be the only tier.
    """
    _check_tier("memory_cache", memory, MemoryCache, "a MemoryCache")
    _check_tier("redis_cache", redis, ServerTier, "a RedisCache")
    _check_tier("file_cache", file, DirectoryTier, "a FileCache")
    if memory is None and redis is None and file is None:
        raise ValueError(
            "memory_cache=None must come with another tier; leave it out for a default memory tier"
        )
    memory = MemoryCache() if memory is MISSING else memory
    if file is not MISSING:
        return memory, redis, file
    made = file_cache(SystemClock() if memory is None else store_of(memory).clock)
    if memory is None and redis is None and made is None:
        raise TierUnavailableError(
            "the file tier of this program cannot be opened (see the log), and memory_cache=None and "
            "redis_cache=None leave no other tier"
        )
    return memory, redis, made


def _check_tier(argument: str, tier: object, kind: type, what: str) -> None:
    if hasattr(type(tier), "__aenter__"):
        raise TypeError(
            f"{argument} must be {what} or None, not the awaitable {safe_repr(tier)}; pass its `.sync`, "
            f"or use cachekit.aio.IntelligentCache"
        )
    if tier is not None and tier is not MISSING and not isinstance(tier, kind):
        raise TypeError(
            f"{argument} must be {what} or None, not {typed_repr(tier)}; {_remedy(argument, what, tier)}"
        )


def _remedy(argument: str, what: str, tier: object) -> str:
    kinds = {"memory_cache": MemoryCache, "redis_cache": ServerTier, "file_cache": DirectoryTier}
    for name, kind in kinds.items():
        if isinstance(tier, kind):
            return f"pass it as {name}"
    if isinstance(tier, str) and ("://" in tier or "@" in tier):
        return "pass a URL as redis_cache=RedisCache(url=...)"
    if argument != "redis_cache" and isinstance(tier, (str, os.PathLike)):
        return "pass a directory as file_cache=FileCache('dir')"
    constructor = what.removeprefix("a ")
    examples = {"memory_cache": "max_size=10_000", "redis_cache": "'host', 6379", "file_cache": "'dir'"}
    return f"pass {argument}={constructor}({examples[argument]})"
