"""What the middleware for ASGI and the one for WSGI have in common: their arguments, and what they use."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

from cachekit.aio.cache import IntelligentCache as AwaitedCache
from cachekit.cache.intelligent import IntelligentCache
from cachekit.http.collapsing import Collapsing
from cachekit.http.options import Cookies, store_over
from cachekit.model.types import TTL
from cachekit.runtime.background import RateLimitedLog

App = TypeVar("App")


class Middleware(Generic[App]):
    """A cache in front of an application; see `ASGICache` for the arguments."""

    __slots__ = ("_app", "_collapsing", "_log", "_store")

    def __init__(
        self,
        app: App,
        cache: IntelligentCache | AwaitedCache,
        *,
        max_body: int = 1 << 20,
        max_buffered: int = 64 << 20,
        default_ttl: TTL = None,
        vary: Iterable[str] = (),
        ignore: Iterable[str] = (),
        cookies: Cookies = "strict",
        client_directives: bool = True,
        coalesce: bool = True,
    ) -> None:
        self._app = app
        self._store = store_over(
            cache, max_body=max_body, max_buffered=max_buffered, default_ttl=default_ttl, vary=vary,
            ignore=ignore, cookies=cookies, client_directives=client_directives, coalesce=coalesce,
        )  # fmt: skip
        self._log = RateLimitedLog(self._store.clock)
        self._collapsing = Collapsing(self._store, self._log, coalesce)
