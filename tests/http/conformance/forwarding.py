"""A forwarding application behind the cache, for the public conformance suite.

The suite is an origin server and a client. What is between them is the cache under test, so the application
only forwards. It neither follows redirects nor decodes content nor keeps connections, and adds no field.
"""

from __future__ import annotations

import asyncio
import http.client
import os
from collections.abc import Iterable
from typing import Any

from cachekit import IntelligentCache, MemoryCache
from cachekit.http import ASGICache, WSGICache
from cachekit.http.asgi import Application, Receive, Scope, Send

#: The port of the suite's origin server.
ORIGIN = int(os.environ.get("CONFORMANCE_ORIGIN", "8000"))
COOKIES: Any = os.environ.get("CONFORMANCE_COOKIES", "strict")

Fields = list[tuple[bytes, bytes]]

_OF_THE_CONNECTION = (b"connection", b"keep-alive", b"transfer-encoding")


def _forwarded(method: str, target: str, headers: Fields, content: bytes) -> tuple[int, Fields, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", ORIGIN, timeout=30)
    try:
        connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        for name, value in headers:
            if name not in _OF_THE_CONNECTION:
                connection.putheader(name.decode("latin-1"), value)
        connection.endheaders(content or None)
        response = connection.getresponse()
        fields = [
            (name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in response.getheaders()
        ]
        content = response.read()
    finally:
        connection.close()
    return response.status, [pair for pair in fields if pair[0] != b"transfer-encoding"], content


async def forward(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "http":
        return
    content, more = b"", True
    while more:
        message = await receive()
        content += message.get("body", b"")
        more = message.get("more_body", False)
    target = scope["raw_path"].decode()
    if scope["query_string"]:
        target += "?" + scope["query_string"].decode()
    headers = list(scope["headers"])
    status, fields, body = await asyncio.to_thread(_forwarded, scope["method"], target, headers, content)
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})


def _only_tests(cached: Application) -> Application:
    """Cache what is below `/test/`: the suite configures its origin server through the others."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        is_test = scope["type"] == "http" and scope["path"].startswith("/test/")
        await (cached if is_test else forward)(scope, receive, send)

    return app


def _cache() -> IntelligentCache:
    return IntelligentCache(memory_cache=MemoryCache(max_size=100_000), file_cache=None)


def asgi() -> Application:
    return _only_tests(ASGICache(forward, _cache(), cookies=COOKIES))


def uncached() -> Application:
    return forward


def hishel() -> Application:
    from hishel.asgi import ASGICacheMiddleware  # type: ignore[import-not-found, unused-ignore]

    return _only_tests(ASGICacheMiddleware(forward))


def transport() -> Application:
    """Forward through an httpx client with a private cache."""
    import httpx

    from cachekit.http import AsyncCachedTransport

    # The origin server closes connections that it has kept for a while.
    unpooled = httpx.Limits(max_keepalive_connections=0)
    transport = AsyncCachedTransport(_cache(), httpx.AsyncHTTPTransport(limits=unpooled))

    async def fetch(scope: Scope, receive: Receive, send: Send) -> None:
        content = (await receive()).get("body", b"")
        url = f"http://127.0.0.1:{ORIGIN}{scope['raw_path'].decode()}"
        if scope["query_string"]:
            url += "?" + scope["query_string"].decode()
        headers = [(name, value) for name, value in scope["headers"] if name not in _OF_THE_CONNECTION]
        request = httpx.Request(scope["method"], url, headers=headers, content=content or None)
        response = await transport.handle_async_request(request)
        body = b"".join([part async for part in response.stream])  # type: ignore[union-attr]
        await response.aclose()
        fields = [(name.lower(), value) for name, value in response.headers.raw]
        fields = [pair for pair in fields if pair[0] != b"transfer-encoding"]
        await send({"type": "http.response.start", "status": response.status_code, "headers": fields})
        await send({"type": "http.response.body", "body": body})

    return _only_tests(fetch)


def _forward_wsgi(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    length = int(environ.get("CONTENT_LENGTH") or 0)
    content = environ["wsgi.input"].read(length) if length else b""
    headers = [
        (name[5:].replace("_", "-").lower().encode(), value.encode("latin-1"))
        for name, value in environ.items()
        if name.startswith("HTTP_")
    ]
    if environ.get("CONTENT_TYPE"):
        headers.append((b"content-type", environ["CONTENT_TYPE"].encode("latin-1")))
    if length:
        headers.append((b"content-length", str(length).encode()))
    status, fields, body = _forwarded(environ["REQUEST_METHOD"], environ["RAW_URI"], headers, content)
    start_response(
        f"{status} Status", [(name.decode("latin-1"), value.decode("latin-1")) for name, value in fields]
    )
    return [body]


def wsgi() -> Any:
    cached = WSGICache(_forward_wsgi, _cache(), cookies=COOKIES)

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        is_test = environ["PATH_INFO"].startswith("/test/")
        return (cached if is_test else _forward_wsgi)(environ, start_response)

    return app
