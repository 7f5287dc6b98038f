"""Requests to an ASGI application, without a server."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any, NamedTuple


class Response(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


def request(
    app: Any,
    path: str,
    *,
    method: str = "GET",
    query: str = "",
    root_path: str = "",
    stop_after: int = 0,
    **headers: str,
) -> Response:
    """Return the response; of a stream, what came until so many pieces, after which the client leaves."""
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "path": path,
        "raw_path": path.encode(), "root_path": root_path, "query_string": query.encode(), "scheme": "http",
        "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 5), "server": ("127.0.0.1", 80),
    }  # fmt: skip
    return asyncio.run(_request(app, scope, stop_after))


async def _request(app: Any, scope: dict[str, Any], stop_after: int) -> Response:
    started: dict[str, Any] = {}
    pieces: list[bytes] = []
    left = asyncio.Event()
    asked = False

    async def receive() -> dict[str, Any]:
        nonlocal asked
        if not asked:
            asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            started.update(message)
        else:
            pieces.append(message["body"])
            if len(pieces) == stop_after:
                left.set()

    await asyncio.wait_for(app(scope, receive, send), 60)
    headers = {name.decode(): value.decode() for name, value in started["headers"]}
    return Response(started["status"], headers, b"".join(pieces))
