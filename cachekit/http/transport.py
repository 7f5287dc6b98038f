"""CachedTransport and AsyncCachedTransport: a private HTTP cache inside httpx clients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from functools import partial
from typing import Any, Generic, TypeVar, cast

import httpx

from cachekit.aio.cache import IntelligentCache as AwaitedCache
from cachekit.cache.intelligent import IntelligentCache
from cachekit.http.collapsing import Collapsing, Lead
from cachekit.http.exchange import Exchange, Reply, passed_on
from cachekit.http.fields import Headers
from cachekit.http.flights import Landing
from cachekit.http.keys import Target
from cachekit.http.options import store_over
from cachekit.http.rfc9111 import CACHED_METHODS, invalidates
from cachekit.http.store import Fill, Found
from cachekit.model.display import shown_error, shown_key
from cachekit.model.types import TTL
from cachekit.runtime.background import RateLimitedLog

Transport = TypeVar("Transport")

#: What tells one user from another one: responses for one are never given to the other one.
_OF_A_USER = ("authorization", "cookie", "proxy-authorization")


class _Cached(ABC, Generic[Transport]):
    """What both transports share."""

    def __init__(
        self,
        cache: IntelligentCache | AwaitedCache,
        transport: Transport | None = None,
        *,
        max_body: int = 16 << 20,
        max_buffered: int = 64 << 20,
        default_ttl: TTL = None,
        vary: Iterable[str] = (),
        ignore: Iterable[str] = (),
        coalesce: bool = True,
    ) -> None:
        vary = (vary,) if isinstance(vary, str) else vary
        self._store = store_over(
            cache, max_body=max_body, max_buffered=max_buffered, default_ttl=default_ttl,
            vary=[*vary, *_OF_A_USER], ignore=ignore, cookies="rfc", client_directives=True,
            coalesce=coalesce, shared=False,
        )  # fmt: skip
        self._log = RateLimitedLog(self._store.clock)
        self._collapsing = Collapsing(self._store, self._log, coalesce)
        self._transport = self._of_httpx() if transport is None else transport

    @staticmethod
    @abstractmethod
    def _of_httpx() -> Transport:
        """Return the transport that httpx uses by default."""

    def _target(self, request: httpx.Request) -> Target | None:
        url = request.url
        raw_path, _, query = url.raw_path.partition(b"?")
        return self._store.keys.target(
            request.method.upper(), url.scheme, url.netloc, raw_path, query, _lowered(request.headers)
        )


class CachedTransport(_Cached[httpx.BaseTransport], httpx.BaseTransport):
    """An httpx transport that answers from a private cache what the standard permits.

    `httpx.Client(transport=CachedTransport(cache))` fetches a page once, revalidates it when it is stale, and
    shares it with all clients over the same cache, in this process or another one.

    Args:
        cache: Where responses are stored: an `IntelligentCache`.
        transport: What fetches pages (default: a new `httpx.HTTPTransport()`). It is closed with this one.
        max_body: The bytes of head and body of a response that is stored (default 16 MiB).
        max_buffered: The bytes of all responses that are being received to be stored (default 64 MiB).
        default_ttl: The freshness of a 200 that has no `Cache-Control`, and is not for a user with a cookie
            or credentials (default None: such a response is not stored).
        vary: Names of request fields that are part of every key. `Authorization` and `Cookie` always are.
        ignore: Names of request fields that are not part of a key; see `ASGICache`.
        coalesce: Whether requests for one URL that come together wait for the first one (default True).

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: a number out of range.

    A response is stored when its content was read to the end. Its `cache-status` tells where it is from.
    """

    @staticmethod
    def _of_httpx() -> httpx.BaseTransport:
        return httpx.HTTPTransport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Return the response of the cache, or of the origin."""
        target = self._target(request)
        if request.method.upper() not in CACHED_METHODS:
            response = self._transport.handle_request(request)
            if target is not None and invalidates(request.method.upper(), response.status_code):
                self._store.invalidate(target.request, _lowered(response.headers))
            return _marked(response, "method", None)
        reason = self._store.bypass(target) or _content_of(request)
        if target is None or reason is not None:
            return _marked(self._transport.handle_request(request), "bypass", reason)
        exchange = Exchange(self._store, target, self._store.find(target))
        reply, revalidates = exchange.from_cache()
        if revalidates:
            fetch = partial(self._revalidate, exchange.found, request)
            self._collapsing.revalidate(target, exchange.found.key, fetch)
        if reply is not None:
            return _replied(reply)
        lead = self._collapsing.lead_or_follow(exchange, target)
        if isinstance(lead, Reply):
            return _replied(lead)
        return self._fetch(exchange, target, request, lead)

    def _fetch(
        self, exchange: Exchange, target: Target, request: httpx.Request, lead: Lead
    ) -> httpx.Response:
        try:
            fill = self._store.begin(target)
            try:
                response = self._transport.handle_request(_with(request, exchange.forwarded_headers()))
            except httpx.TransportError as error:
                lead.land(Landing.ALONE)
                reply = exchange.on_error()
                if reply is None:
                    raise
                self._log.add(f"serving {shown_key(target.key)} stale: {shown_error(error)}")
                return _replied(reply)
            decided = exchange.respond(fill, response.status_code, _lowered(response.headers))
            if exchange.replaces:
                fill.replace(exchange.found.key, exchange.to_put)
            if isinstance(decided, Reply):
                if response.status_code == 304:  # so that its connection can be used again
                    response.read()
                response.close()
                lead.land(exchange.landing)
                return _replied(decided)
            if decided is None:
                response.read()
                response.close()
                return self._fetch(exchange, target, request, lead)
        except BaseException:
            lead.land(Landing.GONE)
            raise
        stream = response.stream
        if fill.reason is None:
            lead.response_began()
            stream = _Copying(cast("httpx.SyncByteStream", stream), fill, exchange, lead)
        else:
            lead.land(exchange.landing)
        return _passed(response, decided, stream)

    def _revalidate(self, found: Found, request: httpx.Request, target: Target, lead: Lead) -> None:
        exchange = Exchange(self._store, target, found)
        response = self._fetch(exchange, target, _with(request, target.request.headers, "GET"), lead)
        try:
            for _ in cast("httpx.SyncByteStream", response.stream):
                pass
        finally:
            response.close()

    def close(self) -> None:
        """Close the transport that fetches pages. The closing of the cache is yours."""
        self._transport.close()


class AsyncCachedTransport(_Cached[httpx.AsyncBaseTransport], httpx.AsyncBaseTransport):
    """`CachedTransport` for `httpx.AsyncClient`; see there.

    Args:
        cache: Where responses are stored: an `IntelligentCache`, or its asyncio view.
        transport: What fetches pages (default: a new `httpx.AsyncHTTPTransport()`).
        max_body: As for `CachedTransport`.
        max_buffered: As for `CachedTransport`.
        default_ttl: As for `CachedTransport`.
        vary: As for `CachedTransport`.
        ignore: As for `CachedTransport`.
        coalesce: As for `CachedTransport`.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: a number out of range.
    """

    @staticmethod
    def _of_httpx() -> httpx.AsyncBaseTransport:
        return httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Return the response of the cache, or of the origin."""
        target = self._target(request)
        if request.method.upper() not in CACHED_METHODS:
            response = await self._transport.handle_async_request(request)
            if target is not None and invalidates(request.method.upper(), response.status_code):
                await self._store.in_io_thread(
                    self._store.invalidate, target.request, _lowered(response.headers)
                )
            return _marked(response, "method", None)
        reason = self._store.bypass(target) or _content_of(request)
        if target is None or reason is not None:
            return _marked(await self._transport.handle_async_request(request), "bypass", reason)
        exchange = Exchange(self._store, target, await self._store.find_async(target))
        reply, revalidates = exchange.from_cache()
        if revalidates:
            fetch = partial(self._revalidate, exchange.found, request)
            self._collapsing.revalidate_async(target, exchange.found.key, fetch)
        if reply is not None:
            return _replied(reply)
        lead = await self._collapsing.lead_or_follow_async(exchange, target)
        if isinstance(lead, Reply):
            return _replied(lead)
        return await self._fetch(exchange, target, request, lead)

    async def _fetch(
        self, exchange: Exchange, target: Target, request: httpx.Request, lead: Lead
    ) -> httpx.Response:
        try:
            fill = await self._store.in_io_thread(self._store.begin, target)
            forwarded = _with(request, exchange.forwarded_headers())
            try:
                response = await self._transport.handle_async_request(forwarded)
            except httpx.TransportError as error:
                lead.land(Landing.ALONE)
                reply = exchange.on_error()
                if reply is None:
                    raise
                self._log.add(f"serving {shown_key(target.key)} stale: {shown_error(error)}")
                return _replied(reply)
            decided = exchange.respond(fill, response.status_code, _lowered(response.headers))
            if exchange.replaces:
                await self._store.in_io_thread(fill.replace, exchange.found.key, exchange.to_put)
            if isinstance(decided, Reply):
                if response.status_code == 304:
                    await response.aread()
                await response.aclose()
                lead.land(exchange.landing)
                return _replied(decided)
            if decided is None:
                await response.aread()
                await response.aclose()
                return await self._fetch(exchange, target, request, lead)
        except BaseException:
            lead.land(Landing.GONE)
            raise
        stream = response.stream
        if fill.reason is None:
            lead.response_began()
            finish = partial(self._store.in_io_thread, fill.finish)
            stream = _AsyncCopying(cast("httpx.AsyncByteStream", stream), fill, exchange, lead, finish)
        else:
            lead.land(exchange.landing)
        return _passed(response, decided, stream)

    async def _revalidate(self, found: Found, request: httpx.Request, target: Target, lead: Lead) -> None:
        exchange = Exchange(self._store, target, found)
        response = await self._fetch(exchange, target, _with(request, target.request.headers, "GET"), lead)
        try:
            async for _ in cast("httpx.AsyncByteStream", response.stream):
                pass
        finally:
            await response.aclose()

    async def aclose(self) -> None:
        """Close the transport that fetches pages. The closing of the cache is yours."""
        await self._transport.aclose()


class _Copying(httpx.SyncByteStream):
    """The content of a response, with a copy that is stored when the client has read all of it."""

    def __init__(self, stream: httpx.SyncByteStream, fill: Fill, exchange: Exchange, lead: Lead) -> None:
        self._stream = stream
        self._fill = fill
        self._exchange = exchange
        self._lead = lead

    def __iter__(self) -> Iterator[bytes]:
        for part in self._stream:
            _copy(part, self._fill, self._exchange, self._lead)
            yield part
        if self._fill.reason is None:
            _land(self._fill.finish() is not None, self._exchange, self._lead)

    def close(self) -> None:
        self._lead.land(Landing.GONE)
        self._fill.abandon("incomplete")
        self._stream.close()


class _AsyncCopying(httpx.AsyncByteStream):
    """What `_Copying` is, on an event loop."""

    def __init__(
        self,
        stream: httpx.AsyncByteStream,
        fill: Fill,
        exchange: Exchange,
        lead: Lead,
        finish: Callable[[], Any],
    ) -> None:
        self._stream = stream
        self._fill = fill
        self._exchange = exchange
        self._lead = lead
        self._finish = finish

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._stream:
            _copy(part, self._fill, self._exchange, self._lead)
            yield part
        if self._fill.reason is None:
            _land(await self._finish() is not None, self._exchange, self._lead)

    async def aclose(self) -> None:
        self._lead.land(Landing.GONE)
        self._fill.abandon("incomplete")
        await self._stream.aclose()


def _content_of(request: httpx.Request) -> str | None:
    """Return the reason not to use the cache for a request that has content, with or without a length."""
    stream = request.stream
    return None if isinstance(stream, httpx.ByteStream) and not any(stream) else "request-content"


def _copy(part: bytes, fill: Fill, exchange: Exchange, lead: Lead) -> None:
    if fill.reason is None and not fill.add(part):
        lead.land(exchange.landing_of(fill.reason or ""))


def _land(is_stored: bool, exchange: Exchange, lead: Lead) -> None:
    lead.land(exchange.landing if is_stored else Landing.ALONE)


def _lowered(headers: httpx.Headers) -> list[tuple[bytes, bytes]]:
    return [(name.lower(), value) for name, value in headers.raw]


def _with(request: httpx.Request, headers: Headers, method: str | None = None) -> httpx.Request:
    return httpx.Request(
        method or request.method,
        request.url,
        headers=list(headers),
        stream=request.stream,
        extensions=request.extensions,
    )


def _replied(reply: Reply) -> httpx.Response:
    return httpx.Response(reply.status, headers=reply.headers, stream=httpx.ByteStream(reply.body))


def _passed(
    response: httpx.Response,
    headers: list[tuple[bytes, bytes]],
    stream: httpx.SyncByteStream | httpx.AsyncByteStream,
) -> httpx.Response:
    return httpx.Response(
        response.status_code, headers=headers, stream=stream, extensions=response.extensions
    )


def _marked(response: httpx.Response, forwarded: str, detail: str | None) -> httpx.Response:
    """Return a response that says in `Cache-Status` that it was only passed on."""
    return _passed(response, passed_on(_lowered(response.headers), forwarded, detail), response.stream)
