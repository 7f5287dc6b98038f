"""The dashboard as a WSGI application. The page asks for moments again and again, so it holds no thread."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeAlias

from cachekit.cache.default import checked_cache, core_of
from cachekit.cache.intelligent import IntelligentCache
from cachekit.dashboard.board import board_of
from cachekit.dashboard.pages import answer, not_allowed, refused
from cachekit.model.display import safe_repr

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    Allow: TypeAlias = Callable[[WSGIEnvironment], bool]


def wsgi_app(cache: IntelligentCache, *, allow: Allow | None = None) -> WSGIApplication:
    """Return the dashboard of a cache as a WSGI application, to be mounted in another one.

    Args:
        cache: The cache.
        allow: Called with the environment of each request; returns whether it may be answered. Without it,
            no request is answered.

    Raises:
        TypeError: `cache` is not a cache, or `allow` is not a function.
    """
    checked_cache(cache)
    if allow is not None and not callable(allow):
        raise TypeError(f"allow must be a function of the environment, not {safe_repr(allow)}")
    board = board_of(cache, core_of(cache))

    def serve(environment: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        if allow is None:
            given = refused()
        elif allow(environment) is not True:
            given = not_allowed()
        else:
            given = answer(board, environment["REQUEST_METHOD"], environment.get("PATH_INFO", ""))
        status = f"{given.status} {HTTPStatus(given.status).phrase}"
        start(status, [*given.headers, ("content-length", str(len(given.body)))])
        return [given.body]

    return serve
