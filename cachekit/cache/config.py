"""What the environment says of where this program's default cache lives. Parsed strictly, at first use.

    CACHEKIT_DIR          the directory that holds one directory per program
    CACHEKIT_NAMESPACE    what this program is called there, in place of its name
    CACHEKIT_MAX_SIZE_MB  the limit of its directory
    CACHEKIT_SECRET       what stored bytes are signed with
    CACHEKIT_REDIS_URL    a server for the process's default cache; without it there is none

It promises that the "user:123" of two scripts never meet, nor those of two modules that are run with -m, or
of two namespaces; and that importing cachekit makes no directory. What a server or a test runner starts has
that one's name, as far as Python can see, and all shells and notebooks have one.
"""

from __future__ import annotations

import os
import sys
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

from cachekit.errors import CacheError
from cachekit.runtime.clock import Clock

if TYPE_CHECKING:
    from cachekit.tiers.file.tier import FileCache
    from cachekit.tiers.redis import RedisCache


from cachekit.errors import TierUnavailableError
from cachekit.model.types import MISSING, Missing
from cachekit.runtime.clock import SystemClock
from cachekit.tiers.base import DirectoryTier, ServerTier
from cachekit.tiers.memory import MemoryCache, store_of


def namespace() -> str:
    """The name of this program, the same in its spawned children.

    CACHEKIT_NAMESPACE; or the main module's package if it was run with -m, else its resolved path,
    shortened; "interactive" if there is neither.
    """
    given = os.environ.get("CACHEKIT_NAMESPACE")
    if given is not None:
        if not given or given in {".", ".."} or "/" in given or "\0" in given:
            raise ValueError(f"CACHEKIT_NAMESPACE must be a name that can be part of a path, not {given!r}")
        return given
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    # A directory or an archive that is run as a program has a spec, which says only `__main__`.
    if spec is not None and spec.name != "__main__":
        return str(spec.name).removesuffix(".__main__")
    path = getattr(main, "__file__", None)
    if path is None:
        return "interactive"
    resolved = os.path.realpath(path)
    digest = blake2b(os.fsencode(resolved), digest_size=6).hexdigest()
    return f"{Path(resolved).stem[:40]}-{digest}"


def max_size_mb() -> int:
    """CACHEKIT_MAX_SIZE_MB, or 1000."""
    from cachekit.tiers.arguments import LARGEST_MB

    text = os.environ.get("CACHEKIT_MAX_SIZE_MB", "1000")
    if not text.isdecimal() or not 1 <= int(text) <= LARGEST_MB:
        raise ValueError(f"CACHEKIT_MAX_SIZE_MB must be a whole number from 1 to {LARGEST_MB}, not {text!r}")
    return int(text)


def file_cache(clock: Clock) -> FileCache | None:
    """The file tier of this program; None, with a warning, if its directory cannot be opened.

    Args:
        clock: where the time comes from.

    Raises:
        ValueError: a variable of the environment is not what it should be.
    """
    from cachekit.serialization.signing import secrets_from_environment
    from cachekit.tiers.file.tier import FileCache

    base = os.environ.get("CACHEKIT_DIR")
    if base is not None and not base:
        raise ValueError("CACHEKIT_DIR is empty; name a directory, or unset it to have the default one")
    name, limit, secret = namespace(), max_size_mb(), secrets_from_environment()
    try:
        return FileCache(base, limit, namespace=name, secret=secret, clock=clock)
    except CacheError as error:
        import logging

        logging.getLogger("cachekit").warning(
            "going on without a file tier, so that nothing outlives this process: %s "
            "(which here is said by CACHEKIT_DIR)",
            error,
        )
        return None


def redis_cache() -> RedisCache | None:
    """The server that CACHEKIT_REDIS_URL names, as a tier of this program; None if it is not set.

    Raises:
        ValueError: a variable of the environment is not what it should be.
    """
    url = os.environ.get("CACHEKIT_REDIS_URL")
    if url is None:
        return None
    from cachekit.serialization.signing import secrets_from_environment
    from cachekit.tiers.redis import RedisCache

    # Braces, which a file's name may have, decide where keys live in a Cluster.
    name = namespace().translate({ord("{"): "(", ord("}"): ")"})
    secret = secrets_from_environment()
    try:
        return RedisCache(url=url, key_prefix=f"cachekit:{name}:", secret=secret)
    except ValueError as error:
        raise ValueError(f"CACHEKIT_REDIS_URL cannot be used: {error}") from None


def tiers_of(
    memory: MemoryCache | Missing | None,
    fleet: ServerTier | None,
    host: DirectoryTier | Missing | None,
) -> tuple[MemoryCache | None, ServerTier | None, DirectoryTier | None]:
    """The three tiers of a cache; None for one that it shall not have, MISSING for a default one.

    Raises:
        TypeError: one of them is no such tier.
        ValueError: all of them are None.
        TierUnavailableError: the only one that there would be cannot be opened.
    """
    _check_tier("memory_cache", memory, MemoryCache, "a MemoryCache")
    _check_tier("redis_cache", fleet, ServerTier, "a RedisCache")
    _check_tier("file_cache", host, DirectoryTier, "a FileCache")
    if memory is None and fleet is None and host is None:
        raise ValueError(
            "memory_cache=None leaves a cache without any tier; leave it out to have a default one"
        )
    memory = MemoryCache() if memory is MISSING else memory
    if host is not MISSING:
        return memory, fleet, host
    made = file_cache(SystemClock() if memory is None else store_of(memory).clock)
    if memory is None and fleet is None and made is None:
        raise TierUnavailableError(
            "the file tier of this program cannot be opened (see the log), and memory_cache=None and "
            "redis_cache=None leave no other"
        )
    return memory, fleet, made


def _check_tier(argument: str, tier: object, kind: type, what: str) -> None:
    if hasattr(type(tier), "__aenter__"):
        raise TypeError(
            f"{argument} must be {what} or None, and this one is awaited: {tier!r}; pass its "
            f"`.sync`, or make the cache with cachekit.aio.IntelligentCache"
        )
    if tier is not None and tier is not MISSING and not isinstance(tier, kind):
        raise TypeError(f"{argument} must be {what} or None, not {tier!r} of type {type(tier).__name__}")
