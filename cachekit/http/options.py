"""The arguments of the middleware, checked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeAlias

from cachekit.aio.cache import IntelligentCache as AwaitedCache
from cachekit.cache.intelligent import IntelligentCache
from cachekit.http.keys import Keys
from cachekit.http.rfc9111 import Policy
from cachekit.http.store import ResponseStore
from cachekit.model.display import safe_repr
from cachekit.model.types import TTL
from cachekit.model.validation import checked_tags, seconds

#: How responses with cookies are treated; see `ASGICache`.
Cookies: TypeAlias = Literal["strict", "rfc"]


def store_over(
    cache: IntelligentCache | AwaitedCache,
    *,
    max_body: int,
    max_buffered: int,
    default_ttl: TTL,
    vary: Iterable[str],
    ignore: Iterable[str],
    cookies: Cookies,
    client_directives: bool,
    coalesce: bool,
    shared: bool = True,
) -> ResponseStore:
    """Return the store over a cache.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: a number out of range, or no such way to treat cookies.
    """
    sync = cache.sync if isinstance(cache, AwaitedCache) else cache
    if not isinstance(sync, IntelligentCache):
        raise TypeError(
            f"cache must be an IntelligentCache, not {type(cache).__name__}; pass cache=IntelligentCache()"
        )
    for name, size in (("max_body", max_body), ("max_buffered", max_buffered)):
        if isinstance(size, bool) or not isinstance(size, int):
            raise TypeError(f"{name} must be a number of bytes, not {safe_repr(size)}")
        if size < 1:
            raise ValueError(f"{name} must be 1 byte or more, not {size}")
    if cookies not in {"strict", "rfc"}:
        raise ValueError(f'cookies must be "strict" or "rfc", not {safe_repr(cookies)}')
    for name, value in (("client_directives", client_directives), ("coalesce", coalesce)):
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False, not {safe_repr(value)}")
    life = None if default_ttl is None else seconds(default_ttl, "default_ttl")
    if life is not None and life <= 0:
        raise ValueError(f"default_ttl must be more than 0, not {default_ttl!r}; use None for no default")
    policy = Policy(
        shared=shared,
        strict=cookies == "strict",
        default_ttl=life,
        max_size=max_body,
        obeys_requests=client_directives,
    )
    return ResponseStore(sync, policy, Keys(_names(vary, "vary"), _names(ignore, "ignore")), max_buffered)


def _names(given: Iterable[str], argument: str) -> frozenset[str]:
    return checked_tags(given if isinstance(given, str) else list(given), argument)  # type: ignore[arg-type]
