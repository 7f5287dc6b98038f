"""The dashboard as an ASGI application, with a stream of moments for each page that is open."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias, final

from cachekit import aio
from cachekit.cache.default import checked_cache, core_of
from cachekit.cache.intelligent import IntelligentCache
from cachekit.dashboard.board import INTERVAL, Board, board_of
from cachekit.dashboard.pages import EVENTS, HEADERS, Answer, answer, not_allowed, refused
from cachekit.errors import CacheError
from cachekit.model.display import safe_repr

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Allow: TypeAlias = Callable[[Scope], bool | Awaitable[bool]]


def app(cache: IntelligentCache | aio.IntelligentCache, *, allow: Allow | None = None) -> Dashboard:
    """Return the dashboard of a cache as an ASGI application, to be mounted in another one.

    It shows all processes that share the directory of the cache. Without a file tier it shows this process.

    Args:
        cache: The cache, synchronous or awaited.
        allow: Called with the scope of each request; returns, or is awaited for, whether it may be answered.
            Without it, no request is answered.

    Raises:
        TypeError: `cache` is not a cache, or `allow` is not a function.
    """
    sync = checked_cache(cache.sync if isinstance(cache, aio.IntelligentCache) else cache)
    if allow is not None and not callable(allow):
        raise TypeError(
            f"allow must be a function of the scope, not {safe_repr(allow)}; write lambda scope: ..."
        )
    return Dashboard(board_of(sync, core_of(sync)), allow)


@final
class Dashboard:
    """The application. `app` makes it."""

    def __init__(self, board: Board, allow: Allow | None) -> None:
        self._board = board
        self._allow = allow
        self._stopped = False

    def stop(self) -> None:
        """End all streams within an interval, because the server is about to stop. Any thread may call it."""
        self._stopped = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif self._allow is None:
            await respond(send, refused())
        else:
            allowed = self._allow(scope)
            if inspect.isawaitable(allowed):
                allowed = await allowed
            if allowed is True:
                await self._serve(scope, receive, send)
            else:
                await respond(send, not_allowed())

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        mounted: str = scope.get("root_path", "")
        # By the specification the path includes the root path; some servers leave it out.
        if mounted and (path == mounted or path.startswith(f"{mounted}/")):
            path = path[len(mounted) :]
        if path == EVENTS and scope["method"] == "GET":
            await self._stream(receive, send)
        else:
            await respond(send, await asyncio.to_thread(answer, self._board, scope["method"], path))

    async def _stream(self, receive: Receive, send: Send) -> None:
        headers = (
            ("content-type", "text/event-stream; charset=utf-8"),
            ("x-accel-buffering", "no"),  # proxies would keep the moments back
            *HEADERS,
        )
        await send({"type": "http.response.start", "status": 200, "headers": _encoded(headers)})
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            moments = self._board.history
            while not gone.done() and not self._stopped:
                try:
                    data = json.dumps(await asyncio.to_thread(moments))
                    chunk = f"data: {data}\n\n"
                except CacheError:
                    chunk = ": no figures\n\n"
                await send({"type": "http.response.body", "body": chunk.encode(), "more_body": True})
                moments = self._newest
                await asyncio.wait({gone}, timeout=INTERVAL)
            await send({"type": "http.response.body", "body": b""})
        finally:
            gone.cancel()

    def _newest(self) -> list[dict[str, Any]]:
        return [self._board.moment()]


async def respond(send: Send, given: Answer) -> None:
    """Send an answer."""
    headers = (*given.headers, ("content-length", str(len(given.body))))
    await send({"type": "http.response.start", "status": given.status, "headers": _encoded(headers)})
    await send({"type": "http.response.body", "body": given.body})


def _encoded(headers: tuple[tuple[str, str], ...]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _live(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
