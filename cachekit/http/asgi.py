"""ASGICache: a shared HTTP cache in front of an ASGI application."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, Final, TypeAlias, final
from urllib.parse import quote, unquote
from uuid import UUID

from cachekit.http.collapsing import Lead
from cachekit.http.exchange import Exchange, Reply, passed_on
from cachekit.http.fields import Headers
from cachekit.http.flights import Landing
from cachekit.http.keys import Target, host_of
from cachekit.http.middleware import Middleware
from cachekit.http.rfc9111 import CACHED_METHODS, SAFE_METHODS, UNNAMED, invalidates
from cachekit.http.store import Fill, Found, ResponseStore
from cachekit.model.display import shown_error, shown_key
from cachekit.runtime.interrupts import is_interrupt, raise_interrupt

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

#: Without a length or chunks, a request of these versions has no content (RFC 9112, section 6.3).
_WITH_LENGTHS: Final = frozenset({"1.0", "1.1"})
#: Seconds that a request may take to say that it has no content. Then it is only passed on.
_LONGEST_SILENCE: Final = 1.0

#: Attributes by which a user of Starlette, of Django or of others says who it is.
_IDENTITIES: Final = ("identity", "pk", "id", "username")

#: Messages of extensions of ASGI that are no part of the response: its client gets them, and no later one.
_BESIDE: Final = frozenset({"http.response.early_hint", "http.response.push", "http.response.debug"})


@final
class ASGICache(Middleware[Application]):
    """An ASGI application that answers from the cache what the standard permits, and passes on the rest.

    Args:
        app: The application.
        cache: Where responses are stored: an `IntelligentCache`, or its asyncio view.
        max_body: The bytes of head and body of a response that is stored (default 1 MiB). A larger one is
            passed on as it comes.
        max_buffered: The bytes of all responses that are being received to be stored (default 64 MiB).
            Beyond it, responses are passed on and not stored.
        default_ttl: The freshness of a 200 that has no `Cache-Control`, whose request and response have no
            cookies and no credentials (default None: such a response is not stored).
        vary: Names of request fields that are part of every key, such as `["accept-language"]`
            (default: none). Those of the form `X-...` or with an underscore always are, and those of
            `keys.KEYED_FIELDS`.
        ignore: Names of such request fields that are not part of a key, because no response depends on them
            (default: none). `X-Forwarded-For`, `X-Request-ID` and the like never are.
        cookies: With "strict" (the default), a response that sets a cookie, or whose request has one by which
            it does not vary, is stored only if it says `public` or `s-maxage`. With "rfc", `max-age` or
            `Expires` is enough.
        client_directives: Whether `Cache-Control` of requests counts, so that a client can ask for a
            revalidation (default True).
        coalesce: Whether requests that come together wait for the first one, if its response turns out
            to be for all of them (default True).

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: a number out of range.

    The closing of the cache is yours.
    """

    __slots__ = ()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on; anything but HTTP is passed on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method = scope["method"].upper()
        headers = [(name.lower(), value) for name, value in scope["headers"]]
        target = self._target(method, scope, headers)
        if method not in CACHED_METHODS:
            await self._pass_unsafe(target, scope, receive, send)
            return
        reason = self._store.bypass(target)
        if target is None or reason is not None:
            await self._pass(scope, receive, send, "bypass", reason)
            return
        content = _Content(receive)
        try:
            await self._serve(target, scope, content, send)
        finally:
            content.close()

    def _target(self, method: str, scope: Scope, headers: Headers) -> Target | None:
        # Some servers include the query. An application may read it there, whatever `query_string` is.
        sent, query = scope.get("raw_path") or b"", scope.get("query_string") or b""
        raw_path, mark, raw_query = sent.partition(b"?")
        path = raw_path.decode("latin-1")
        is_as_sent = (unquote(path) if "%" in path else path) == scope["path"]
        changed = b"" if is_as_sent and (not mark or raw_query == query) else sent
        if not is_as_sent:  # rewritten, or not given
            raw_path = quote(scope["path"]).encode("ascii")
        scheme = scope.get("scheme") or "http"
        return self._store.keys.target(
            method, scheme, host_of(headers), raw_path, query, headers, changed, user=_user_of(scope)
        )

    # -- what is only passed on -------------------------------------------------------------------------

    async def _pass(
        self, scope: Scope, receive: Receive, send: Send, forwarded: str, detail: str | None
    ) -> None:
        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = passed_on(list(message.get("headers", ())), forwarded, detail)
                message = {**message, "headers": headers}
            await send(message)

        await self._app(scope, receive, marked)

    async def _pass_unsafe(self, target: Target | None, scope: Scope, receive: Receive, send: Send) -> None:
        method = scope["method"].upper()
        if target is None or method in SAFE_METHODS:
            await self._pass(scope, receive, send, "method", None)
            return

        async def invalidating(message: Message) -> None:
            if message["type"] == "http.response.start" and invalidates(method, message["status"]):
                # Before the client learns of it: its next request finds nothing old.
                headers = _lowered(message)
                await self._store.in_io_thread(self._store.invalidate, target.request, headers)
            await send(message)

        await self._pass(scope, receive, invalidating, "method", None)

    # -- what may be answered from the cache ------------------------------------------------------------

    async def _serve(self, target: Target, scope: Scope, content: _Content, send: Send) -> None:
        # Where a length is required, neither the lookup nor the call need wait for the first message.
        may_be_late = scope.get("http_version") not in _WITH_LENGTHS
        if may_be_late and not await content.is_empty(waits=True):
            await self._pass(scope, content.receive, send, "bypass", "request-content")
            return
        exchange = Exchange(self._store, target, await self._store.find_async(target))
        reply, revalidates = exchange.from_cache()
        if revalidates:
            fetch = partial(self._revalidate, exchange.found, scope)
            self._collapsing.revalidate_async(target, exchange.found.key, fetch)
        if reply is not None:
            await _send(reply, send)
            return
        # Some servers name the wrong version. What is there already may shape the response.
        if not may_be_late and not await content.is_empty(waits=False):
            await self._pass(scope, content.receive, send, "bypass", "request-content")
            return
        lead = await self._collapsing.lead_or_follow_async(exchange, target)
        if isinstance(lead, Reply):
            await _send(lead, send)
            return
        await self._call(exchange, target, scope, content, send, lead)

    async def _call(
        self,
        exchange: Exchange,
        target: Target,
        scope: Scope,
        content: _Content,
        send: Send,
        lead: Lead,
    ) -> None:
        """Call the application, and store its response if it can be."""
        relay = _Relay(self._store, exchange, send, lead)
        try:
            relay.fill = await self._store.in_io_thread(self._store.begin, target)
            forwarded = {**scope, "headers": exchange.forwarded_headers()}
            try:
                await self._app(forwarded, partial(relay.receive, content.receive), relay.send)
            except Exception as error:
                lead.land(Landing.ALONE)
                reply = None if relay.has_begun or is_interrupt(error) else exchange.on_error()
                if reply is None:
                    raise
                self._log.add(f"serving {shown_key(target.key)} stale: {shown_error(error)}")
                await _send(reply, send)
                return
            if not relay.asks_again:
                # Incomplete, because the client went away, or by a fault of the application.
                lead.land(Landing.GONE if relay.client_is_gone else Landing.ALONE)
                await relay.drain()
        except BaseException:
            lead.land(Landing.GONE)
            raise
        finally:
            relay.close()
        if relay.asks_again:
            content.rewind(relay.read)
            await self._call(exchange, target, scope, content, send, lead)

    async def _revalidate(self, found: Found, scope: Scope, target: Target, lead: Lead) -> None:
        exchange = Exchange(self._store, target, found)
        asked = {**scope, "method": "GET"}
        await self._call(exchange, target, asked, _no_content(), _discard, lead)


@final
class _Relay:
    """Passes the response of the application on to the client, and keeps a copy while it may be stored.

    While it does, a slow client does not hold up the application: what the client has not taken yet is in
    the copy anyway. A response that is not stored waits for its client, as it does without a cache.
    """

    __slots__ = (
        "_exchange", "_lead", "_send", "_store", "_swallows", "_unsent", "_writer", "asks_again",
        "client_is_gone", "fill", "has_begun", "read",
    )  # fmt: skip

    fill: Fill

    def __init__(self, store: ResponseStore, exchange: Exchange, send: Send, lead: Lead) -> None:
        self._store = store
        self._exchange = exchange
        self._send = send
        self._lead = lead
        #: Whether the client gets a response of the cache instead.
        self._swallows = False
        self._unsent: deque[Message] = deque()
        self._writer: asyncio.Task[None] | None = None
        self.has_begun = False
        #: Whether the application is to be called again, because its 304 was about another response.
        self.asks_again = False
        #: What the application has read of the request before its response began, as it may be called again.
        self.read: list[Message] = []
        self.client_is_gone = False

    async def receive(self, receive: Receive) -> Message:
        """Return the next message of the client."""
        message = await receive()
        if message["type"] == "http.disconnect":
            self.client_is_gone = True
            return message
        if message.get("body"):  # late, from a server that names the wrong version
            self._abandon("request-content")
        if not self.has_begun:
            self.read.append(message)
        return message

    async def send(self, message: Message) -> None:
        """Take a message of the application."""
        kind = message["type"]
        if self._swallows and kind != "http.response.start":
            return
        if kind == "http.response.start":
            await self._begin(message)
        elif kind == "http.response.body":
            await self._add(message)
        elif kind in _BESIDE:
            await self._forward(message, waits=True)
        else:  # such as a file that the server sends by itself
            self._abandon("streaming")
            await self._forward(message, waits=True)

    async def _begin(self, message: Message) -> None:
        fill, exchange = self.fill, self._exchange
        if message.get("trailers"):
            fill.reason = "streaming"
        decided = exchange.respond(fill, message["status"], _lowered(message))
        if decided is None:
            self._swallows = self.asks_again = True
            return
        self.has_begun = True
        self.read.clear()
        if exchange.replaces:
            await self._store.in_io_thread(fill.replace, exchange.found.key, exchange.to_put)
        if isinstance(decided, Reply):
            self._swallows = True
            self._lead.land(exchange.landing)
            await _send(decided, self._send)
            return
        if fill.reason is not None:
            self._lead.land(exchange.landing)
        else:
            self._lead.response_began()
        await self._send({**message, "headers": decided})

    async def _add(self, message: Message) -> None:
        fill, more = self.fill, message.get("more_body", False)
        if fill.reason is None:
            if not fill.add(message.get("body", b"")):
                self._lead.land(self._exchange.landing_of(fill.reason or ""))
            elif not more or fill.has_all:
                # Before the client has all of it: its next request finds the response.
                stored = await self._store.in_io_thread(fill.finish)
                self._lead.land(Landing.ALONE if stored is None else self._exchange.landing)
        await self._forward(message, waits=fill.reason is not None)

    async def _forward(self, message: Message, *, waits: bool) -> None:
        """Send a message after those before it; with `waits`, return when the client has taken it."""
        if self._writer is None and waits:
            await self._send(message)
            return
        self._unsent.append(message)
        if self._writer is None or (self._writer.done() and not self._writer.exception()):
            self._writer = asyncio.get_running_loop().create_task(self._write())
        if waits:
            await self.drain()

    async def _write(self) -> None:
        while self._unsent:
            await self._send(self._unsent.popleft())

    async def drain(self) -> None:
        """Wait until the client has taken what was sent, and raise the server's error if there was one."""
        if self._writer is not None:
            await self._writer

    def _abandon(self, reason: str) -> None:
        self.fill.abandon(reason)
        self._lead.land(self._exchange.landing_of(reason))

    def close(self) -> None:
        """End what is under way. After a complete response, nothing is."""
        if hasattr(self, "fill"):
            self.fill.abandon("incomplete")
        if self._writer is not None and not self._writer.done():
            self._writer.cancel()


@final
class _Content:
    """The content of a request without a length, read as far as it takes to see that it is empty."""

    __slots__ = ("_again", "_first", "_receive")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._again: deque[Message] = deque()
        #: Receives the first message, until an application has that.
        self._first: asyncio.Task[Message] | None = None

    async def is_empty(self, *, waits: bool) -> bool:
        """Return whether the request has ended, or its client has gone away.

        Args:
            waits: whether its content may come late. False if that takes too long, and True without.
        """
        if self._first is None:
            self._first = asyncio.get_running_loop().create_task(self._receive_first())
            await asyncio.sleep(0)  # most servers have the message at hand, and a wait takes longer
            if waits and not self._first.done():
                await asyncio.wait({self._first}, timeout=_LONGEST_SILENCE)
        if not self._first.done():
            return not waits
        message = self._first.result()
        return not (message.get("body") or message.get("more_body", False))

    async def _receive_first(self) -> Message:
        """Return the first message that has content, or ends it."""
        while True:
            message = await self._receive()
            if message.get("body") or not message.get("more_body", False):
                return message

    async def receive(self) -> Message:
        """Return the next message of the client."""
        if self._again:
            return self._again.popleft()
        first = self._first
        if first is not None:
            try:
                message = await asyncio.shield(first)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if not first.cancelled() or (task is not None and task.cancelling()):
                    raise
            else:
                if self._first is first:  # no other task of the application has it
                    self._first = None
                    return message
        return await self._receive()

    def rewind(self, read: Sequence[Message]) -> None:
        """Let messages that were read be received again."""
        self._again.extendleft(reversed(read))

    def close(self) -> None:
        """End what is under way. A task that the application has left may go on to receive."""
        if self._first is not None:
            self._first.cancel()


def _no_content() -> _Content:
    """Return the content of a revalidation. After its one message, its client waits for ever."""
    content = _Content(asyncio.get_running_loop().create_future)
    content.rewind([{"type": "http.request", "body": b"", "more_body": False}])
    return content


def _user_of(scope: Scope) -> str:
    """Return who asks by what the server or middleware outside has checked; empty for no user.

    That is the certificate of the client (the TLS extension of ASGI), or the `user` of middleware such as
    Starlette's for authentication. Fields of the request tell such users apart.
    """
    tls = (scope.get("extensions") or {}).get("tls") or {}
    certificate = tls.get("client_cert_name") or tls.get("client_cert_chain") or ""
    user = _shown_user(scope.get("user"))
    if user == UNNAMED:
        return user
    return repr((certificate, user)) if certificate or user else ""


def _shown_user(user: Any) -> str:
    """Return what tells a user from others; empty for none.

    A user that does not say it is like no other one, not even itself in its next request.
    """
    if not _read(lambda: user and getattr(user, "is_authenticated", True)):
        return ""
    for said in chain([user], (_read(partial(getattr, user, name, None)) for name in _IDENTITIES)):
        if isinstance(said, (str, int, UUID)) and not isinstance(said, bool) and said != "":
            return f"{type(user).__qualname__} {said}"
    return UNNAMED


def _read(read: Callable[[], object]) -> object:
    """Return what a user says; True if that fails, as where it is still to be loaded."""
    try:
        return read()
    except Exception as error:  # noqa: BLE001  # a user is any object
        raise_interrupt(error)
        return True


async def _discard(message: Message) -> None:
    pass


async def _send(reply: Reply, send: Send) -> None:
    await send({"type": "http.response.start", "status": reply.status, "headers": reply.headers})
    await send({"type": "http.response.body", "body": reply.body, "more_body": False})


def _lowered(message: Message) -> list[tuple[bytes, bytes]]:
    return [(bytes(name).lower(), bytes(value)) for name, value in message.get("headers", ())]
