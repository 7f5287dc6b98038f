"""Applications that real servers serve in the tests, behind the cache; the test says when they go on.

The first part of a path says what becomes of it. The whole path is the name of the page.

/slow/...      the content comes when `/go` was asked for it; so does the rest of /parts, /broken and /held
/parts/...     "a", and then the rest
/held/...      HELD bytes, and then the rest
/broken/...    "a", and then an error; with `?length`, the response has announced more content
/endless/...   content until the client goes away
/large/...     LARGE bytes
/private/...   not to be stored
/version       the content of a file, with the tag "news"

`/go?PATH` lets the calls of a path go on, `/calls?PATH` counts them, and `/ended?PATH` those that have ended.
`/arrived?PATH` counts requests, and `/left?PATH` clients that left before the end. Each response tells its
process in `x-worker`.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from cachekit import FileCache, IntelligentCache
from cachekit.http import ASGICache, WSGICache
from cachekit.http.asgi import Message, Receive, Scope, Send

DIRECTORY = Path(os.environ["SERVED_DIRECTORY"])
MAX_BODY = 8 << 20
#: More than the buffers of a connection hold, and less than a stored response may have.
LARGE = 7 << 20
HELD = 5 << 20
PART = b"p" * (64 << 10)

cache = IntelligentCache(file_cache=FileCache(DIRECTORY / "cache"))
calls, arrived, ended, left = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
may_go: defaultdict[str, threading.Event] = defaultdict(threading.Event)


def told(path: str, query: str) -> bytes | None:
    """What the application is asked by the test, apart from pages."""
    if path == "/go":
        may_go[query].set()
        return b""
    asked = {"/calls": calls, "/arrived": arrived, "/ended": ended, "/left": left}.get(path)
    return None if asked is None else b"%d" % asked[query]


def head_of(path: str, query: str) -> list[tuple[str, str]]:
    calls[path] += 1
    kind = path.split("/")[1]
    fields = [("content-type", "text/plain"), ("cache-control", "max-age=60")]
    if kind == "private":
        fields[1] = ("cache-control", "private")
    if kind == "version":
        fields.append(("cache-tag", "news"))
    if kind == "large":
        fields.append(("content-length", str(LARGE)))
    if query == "length":
        fields.append(("content-length", "1000"))
    return fields


def content_of(path: str) -> Iterator[bytes]:
    """The content of a page; a None means: when the test says so."""
    kind = path.split("/")[1]
    if kind == "version":
        yield (DIRECTORY / "version").read_bytes()
        return
    if kind == "large":
        yield from [PART] * (LARGE // len(PART))
        return
    while kind == "endless":
        yield PART
    if kind in {"parts", "broken"}:
        yield b"a"
    if kind == "held":
        yield from [PART] * (HELD // len(PART))
    if kind in {"slow", "parts", "broken", "held"}:
        assert may_go[path].wait(60)
    if kind == "broken":
        raise ValueError("the page breaks")
    yield b"call %d" % calls[path]


# -- ASGI -----------------------------------------------------------------------------------------------


async def page(scope: Scope, receive: Receive, send: Send) -> None:
    path: str = scope["path"]
    head = head_of(path, scope["query_string"].decode())
    fields = [(name.encode(), value.encode()) for name, value in head]
    gone = asyncio.ensure_future(_gone(path, receive))
    parts = content_of(path)
    try:
        if path.startswith("/slow"):
            first: bytes | None = await asyncio.to_thread(next, parts)
            await send({"type": "http.response.start", "status": 200, "headers": fields})
            await send({"type": "http.response.body", "body": first, "more_body": True})
        else:
            await send({"type": "http.response.start", "status": 200, "headers": fields})
        while not gone.done():
            part = await asyncio.to_thread(next, parts, None)
            if part is None:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                return
            await send({"type": "http.response.body", "body": part, "more_body": True})
    finally:
        gone.cancel()
        ended[path] += 1


async def _gone(path: str, receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    left[path] += 1


_cached_asgi = ASGICache(page, cache, max_body=MAX_BODY)


async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    answer = told(scope["path"], scope["query_string"].decode())
    if answer is not None:
        length = [(b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": 200, "headers": length})
        await send({"type": "http.response.body", "body": answer})
        return
    arrived[scope["path"]] += 1

    async def marked(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], (b"x-worker", b"%d" % os.getpid())]}
        await send(message)

    await _cached_asgi(scope, receive, marked)


# -- WSGI -----------------------------------------------------------------------------------------------


def wsgi_page(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    fields, parts = head_of(path, environ["QUERY_STRING"]), content_of(path)
    if path.startswith(("/large", "/version")):
        start_response("200 OK", fields)
        return list(parts)
    return _parts(path, fields, parts, start_response)


def _parts(
    path: str, fields: list[tuple[str, str]], parts: Iterator[bytes], start_response: Callable[..., Any]
) -> Iterator[bytes]:
    try:
        if path.startswith("/slow"):
            first = next(parts)
            start_response("200 OK", fields)
            yield first
        else:
            start_response("200 OK", fields)
        yield from parts
    except GeneratorExit:
        left[path] += 1
        raise
    finally:
        ended[path] += 1


_cached_wsgi = WSGICache(wsgi_page, cache, max_body=MAX_BODY)


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    answer = told(environ["PATH_INFO"], environ["QUERY_STRING"])
    if answer is not None:
        start_response("200 OK", [("Content-Length", str(len(answer)))])
        return [answer]
    arrived[environ["PATH_INFO"]] += 1

    def marked(status: str, fields: list[tuple[str, str]], *error: Any) -> Any:
        return start_response(status, [*fields, ("x-worker", str(os.getpid()))], *error)

    return _cached_wsgi(environ, marked)
