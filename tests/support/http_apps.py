"""Applications for the HTTP cache's tests, and a client that calls ASGI applications without a server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import unquote

from cachekit import IntelligentCache
from cachekit.http.asgi import Application, Message, Receive, Scope, Send
from cachekit.testing import ManualClock
from cachekit.tiers.memory.tier import MemoryCache

Pairs = Sequence[tuple[str, str]]


def memory_cache(clock: ManualClock | None = None) -> IntelligentCache:
    memory = MemoryCache() if clock is None else MemoryCache(clock=clock)
    return IntelligentCache(memory_cache=memory, file_cache=None)


@dataclass(frozen=True)
class Response:
    """What a client got."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def __getitem__(self, name: str) -> str:
        """Return the joined value of a field; empty if it is absent."""
        return ", ".join(value for field, value in self.headers if field == name)

    @property
    def cache_status(self) -> str:
        return self["cache-status"]

    @property
    def is_hit(self) -> bool:
        return self.cache_status.startswith("cachekit; hit")

    @property
    def is_stored(self) -> bool:
        return "; stored" in self.cache_status


def encoded(pairs: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in pairs]


def scope_of(target: str, method: str, pairs: Pairs, host: str | None = "example.com") -> Scope:
    path, _, query = target.partition("?")
    headers = encoded(pairs)
    if host is not None:
        headers.insert(0, (b"host", host.encode("latin-1")))
    return {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"}, "http_version": "1.1",
        "method": method, "scheme": "http", "path": unquote(path), "raw_path": path.encode("latin-1"),
        "query_string": query.encode("latin-1"), "root_path": "", "headers": headers,
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80), "state": {},
    }  # fmt: skip


class Client:
    """One request to an ASGI application, message by message.

    Attributes:
        messages: what the application has sent so far.
        gone: set it, and the application is told that the client has gone away.
        takes: while it is not set, the client takes no further part of the content.
    """

    def __init__(self, app: Application, target: str = "/", *, method: str = "GET", headers: Pairs = (),
                 host: str | None = "example.com", body: bytes = b"") -> None:  # fmt: skip
        self._app = app
        self._scope = scope_of(target, method, headers, host)
        self._body: list[bytes] = [body]
        self.messages: list[Message] = []
        self.gone = asyncio.Event()
        self.takes = asyncio.Event()
        self.takes.set()
        self.news = asyncio.Condition()

    async def _receive(self) -> Message:
        if self._body:
            return {"type": "http.request", "body": self._body.pop(), "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.body":
            await self.takes.wait()
        if self.gone.is_set():
            raise OSError("the client has gone away")
        async with self.news:
            self.messages.append(message)
            self.news.notify_all()

    async def run(self) -> Response:
        await self._app(self._scope, self._receive, self._send)
        return self.response

    async def has(self, count: int) -> None:
        """Wait for so many messages."""
        async with self.news:
            await self.news.wait_for(lambda: len(self.messages) >= count)

    @property
    def response(self) -> Response:
        start, *parts = self.messages
        assert start["type"] == "http.response.start"
        assert not parts or not parts[-1].get("more_body", False)
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in start["headers"]]
        return Response(start["status"], headers, b"".join(part.get("body", b"") for part in parts))


async def fetch(app: Application, target: str = "/", **kwargs: Any) -> Response:
    return await Client(app, target, **kwargs).run()


Answerer = Callable[[Scope], "Page | Awaitable[Page]"]


class Page(NamedTuple):
    """A response of an application."""

    headers: Pairs = (("Cache-Control", "max-age=60"),)
    body: bytes = b"page"
    status: int = 200


class Origin:
    """An application that counts its calls, and may be held up.

    Attributes:
        page: what it answers with, or a function of the scope.
        calls: the scopes that it was called with.
        open: while it is not set, calls wait.
        entered: set once a call has begun.
    """

    def __init__(self, page: Page | Callable[[Scope], Page] | None = None) -> None:
        self.page = Page() if page is None else page
        self.calls: list[Scope] = []
        self.open = asyncio.Event()
        self.open.set()
        self.entered = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.calls.append(scope)
        page = self.page(scope) if callable(self.page) else self.page
        self.entered.set()
        await self.open.wait()
        await send({"type": "http.response.start", "status": page.status, "headers": encoded(page.headers)})
        await send({"type": "http.response.body", "body": page.body, "more_body": False})

    @property
    def count(self) -> int:
        return len(self.calls)

    def header(self, name: str) -> str | None:
        """Return a field of the last request."""
        found = dict(self.calls[-1]["headers"]).get(name.encode())
        return None if found is None else found.decode("latin-1")
