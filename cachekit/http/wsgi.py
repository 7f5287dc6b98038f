"""WSGICache: a shared HTTP cache in front of a WSGI application."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from http import HTTPStatus
from typing import Any, Final, Self, TypeAlias, final
from urllib.parse import quote_from_bytes, unquote_to_bytes

from cachekit.http.collapsing import Lead
from cachekit.http.exchange import Exchange, Reply, passed_on
from cachekit.http.fields import Headers
from cachekit.http.flights import Landing
from cachekit.http.keys import Target
from cachekit.http.middleware import Middleware
from cachekit.http.rfc9111 import CACHED_METHODS, SAFE_METHODS, invalidates
from cachekit.http.store import Fill, Found
from cachekit.model.display import shown_error, shown_key
from cachekit.runtime.interrupts import is_interrupt

Environ: TypeAlias = dict[str, Any]
#: Called as `start_response(status, headers, error=None)`. It returns a function that writes.
StartResponse: TypeAlias = Callable[..., Callable[[bytes], object]]
Application: TypeAlias = Callable[[Environ, StartResponse], Iterable[bytes]]
Fields: TypeAlias = list[tuple[str, str]]

_CONDITIONS: Final = (
    "HTTP_IF_MATCH", "HTTP_IF_NONE_MATCH", "HTTP_IF_MODIFIED_SINCE", "HTTP_IF_UNMODIFIED_SINCE",
    "HTTP_IF_RANGE", "HTTP_RANGE",
)  # fmt: skip


#: What a server says of a user or a certificate that it has checked (RFC 3875, and the servers' own).
_OF_A_USER: Final = (
    "REMOTE_USER", "AUTH_TYPE", "AUTH_USER", "LOGON_USER", "SSL_CLIENT_CERT", "SSL_CLIENT_S_DN",
)  # fmt: skip


@final
class WSGICache(Middleware[Application]):
    """A WSGI application that answers from the cache what the standard permits, and passes on the rest.

    Args:
        app: The application.
        cache: Where responses are stored: an `IntelligentCache`.
        max_body: As for `ASGICache`.
        max_buffered: As for `ASGICache`.
        default_ttl: As for `ASGICache`.
        vary: As for `ASGICache`.
        ignore: As for `ASGICache`.
        cookies: As for `ASGICache`.
        client_directives: As for `ASGICache`.
        coalesce: As for `ASGICache`. A request that waits occupies its thread.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: a number out of range.

    The closing of the cache is yours.
    """

    __slots__ = ()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request, or pass it on."""
        method = environ["REQUEST_METHOD"].upper()
        target = self._target(method, environ)
        if method not in CACHED_METHODS:
            return self._pass_unsafe(target, environ, start_response)
        reason = self._store.bypass(target)
        if target is None or reason is not None:
            return self._app(environ, _marked(start_response, "bypass", reason))
        if _has_content(environ):
            return self._app(environ, _marked(start_response, "bypass", "request-content"))
        return self._serve(target, environ, start_response)

    def _target(self, method: str, environ: Environ) -> Target | None:
        path = (environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")).encode("latin-1")
        # Not in the standard, but most servers have it: the path as it was sent.
        sent = str(environ.get("RAW_URI") or environ.get("REQUEST_URI") or "").encode("latin-1", "replace")
        query = environ.get("QUERY_STRING", "").encode("latin-1")
        raw_path, _, raw_query = sent.partition(b"?")
        is_as_sent = unquote_to_bytes(raw_path) == path
        changed = b"" if is_as_sent and raw_query == query else sent
        if not is_as_sent:
            raw_path = quote_from_bytes(path).encode("ascii")
        host = environ.get("HTTP_HOST") or f"{environ['SERVER_NAME']}:{environ['SERVER_PORT']}"
        scheme = environ["wsgi.url_scheme"]
        return self._store.keys.target(
            method, scheme, host.strip().encode("latin-1"), raw_path, query, _headers_of(environ), changed,
            user=_user_of(environ),
        )  # fmt: skip

    def _pass_unsafe(
        self, target: Target | None, environ: Environ, start_response: StartResponse
    ) -> Iterable[bytes]:
        method = environ["REQUEST_METHOD"].upper()
        marked = _marked(start_response, "method", None)
        if target is None or method in SAFE_METHODS:
            return self._app(environ, marked)
        request = target.request

        def invalidating(status: str, headers: Fields, *error: Any) -> Callable[[bytes], object]:
            if invalidates(method, int(status[:3])):
                # Before the client learns of it: its next request finds nothing old.
                self._store.invalidate(request, _encoded(headers))
            return marked(status, headers, *error)

        return self._app(environ, invalidating)

    def _serve(self, target: Target, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        exchange = Exchange(self._store, target, self._store.find(target))
        reply, revalidates = exchange.from_cache()
        if revalidates:
            # A copy: the environment of this request may change as soon as its response is sent.
            fetch = partial(self._revalidate, exchange.found, environ.copy())
            self._collapsing.revalidate(target, exchange.found.key, fetch)
        if reply is not None:
            return _replied(reply, start_response)
        lead = self._collapsing.lead_or_follow(exchange, target)
        if isinstance(lead, Reply):
            return _replied(lead, start_response)
        return self._call(exchange, target, environ, start_response, lead)

    def _call(
        self,
        exchange: Exchange,
        target: Target,
        environ: Environ,
        start_response: StartResponse,
        lead: Lead,
    ) -> Iterable[bytes]:
        """Call the application, and store its response if it can be."""
        relay = _Relay(exchange, lead, start_response)
        try:
            relay.fill = self._store.begin(target)
            forwarded = _forwarded(environ, exchange.forwarded_headers())
            try:
                relay.take(self._app(forwarded, relay.start_response))
            except Exception as error:
                relay.end(Landing.ALONE)
                reply = None if relay.has_begun or is_interrupt(error) else exchange.on_error()
                if reply is None:
                    raise
                self._log.add(f"serving {shown_key(target.key)} stale: {shown_error(error)}")
                return _replied(reply, start_response)
            if relay.asks_again:
                relay.drop()
                return self._call(exchange, target, environ, start_response, lead)
            return relay
        except BaseException:
            relay.end(Landing.GONE)
            raise

    def _revalidate(self, found: Found, environ: Environ, target: Target, lead: Lead) -> None:
        exchange = Exchange(self._store, target, found)
        asked = {name: value for name, value in environ.items() if name not in _CONDITIONS}
        asked |= {"REQUEST_METHOD": "GET", "wsgi.input": io.BytesIO()}
        parts = self._call(exchange, target, asked, _no_response, lead)
        try:
            for _ in parts:
                pass
        finally:
            if isinstance(parts, _Relay):
                parts.close()


@final
class _Relay:
    """The response of the application on its way to the server, with a copy while it may be stored."""

    __slots__ = (
        "_exchange", "_first", "_given", "_lead", "_parts", "_result", "_start_response", "_write",
        "asks_again", "fill", "has_begun",
    )  # fmt: skip

    fill: Fill

    def __init__(self, exchange: Exchange, lead: Lead, start_response: StartResponse) -> None:
        self._exchange = exchange
        self._lead = lead
        self._start_response = start_response
        #: The status and the fields that the application gave, until the server has them.
        self._given: tuple[str, Fields, tuple[Any, ...]] | None = None
        self._write: Callable[[bytes], object] | None = None
        self._result: Iterable[bytes] = ()
        self._parts: Iterator[bytes] = iter(())
        self._first: list[bytes] = []
        self.has_begun = False
        #: Whether the application is to be called again, because its 304 was about another response.
        self.asks_again = False

    @property
    def _has_head(self) -> bool:
        """Whether it is known what becomes of the head of the response."""
        return self.has_begun or self.asks_again

    # -- what the application calls ---------------------------------------------------------------------

    def start_response(self, status: str, headers: Fields, *error: Any) -> Callable[[bytes], object]:
        """Take the head of the response, before the first part of its content is there."""
        if self.asks_again:
            return len
        if self.has_begun:  # an error after the head was sent: the server raises it
            return self._start_response(status, headers, *error)
        self._given = status, headers, error
        return self._write_directly

    def _write_directly(self, part: bytes) -> None:
        """Write what the application does not return (PEP 3333, "The write() callable"): it is not stored."""
        if not self._has_head:
            self.fill.reason = "streaming"
            self._begin()
        if self._write is not None:
            self._write(part)

    # -- the response -----------------------------------------------------------------------------------

    def take(self, result: Iterable[bytes]) -> None:
        """Take the content that the application returned; it may give the head with the first part."""
        self._result = result
        try:
            self._parts = iter(result)
            while self._given is None and not self._has_head:
                try:
                    self._first.append(next(self._parts))
                except StopIteration:
                    break
            if not self._has_head:
                self._begin()
            if isinstance(result, (list, tuple)):
                self._take_all(result)
        except BaseException:
            self.close()
            raise

    def _begin(self) -> None:
        if self._given is None:
            raise TypeError("the WSGI application did not call start_response")
        (status, headers, error), self._given = self._given, None
        fill, exchange = self.fill, self._exchange
        decided = exchange.respond(fill, int(status[:3]), _encoded(headers))
        if decided is None:
            self.asks_again = True
            return
        self.has_begun = True
        if exchange.replaces:
            fill.replace(exchange.found.key, exchange.to_put)
        if isinstance(decided, Reply):
            self._lead.land(exchange.landing)
            self.drop()
            self._parts = iter(_replied(decided, self._start_response))
            self._first.clear()
            return
        if fill.reason is not None:
            self._lead.land(exchange.landing)
        else:
            self._lead.response_began()
        ours = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in decided[-1:]]
        self._write = self._start_response(status, [*headers, *ours], *error)

    def _take_all(self, parts: Iterable[bytes]) -> None:
        """Store content that is complete already, before the client has any of it."""
        if self.fill.reason is None:
            for part in parts:
                if not self._add(part):
                    return
            self._finish()

    def _add(self, part: bytes) -> bool:
        if self.fill.add(part):
            return True
        self._lead.land(self._exchange.landing_of(self.fill.reason or ""))
        return False

    def _finish(self) -> None:
        stored = self.fill.finish()
        self._lead.land(Landing.ALONE if stored is None else self._exchange.landing)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        fill = self.fill
        try:
            part = self._first.pop(0) if self._first else next(self._parts)
        except StopIteration:
            if fill.reason is None:
                self._finish()
            raise
        except BaseException:
            self.end(Landing.ALONE)
            raise
        if fill.reason is None and self._add(part) and fill.has_all:
            # Before the client has all of it: its next request finds the response.
            self._finish()
        return part

    def close(self) -> None:
        """End the response; a server calls it when the client has all of it, or has gone away."""
        self.end(Landing.GONE)
        self.drop()

    def end(self, landing: Landing) -> None:
        """End what is under way. After a complete response, nothing is."""
        self._lead.land(landing)
        if hasattr(self, "fill"):
            self.fill.abandon("incomplete")

    def drop(self) -> None:
        """Close what the application returned."""
        result, self._result = self._result, ()
        close = getattr(result, "close", None)
        if close is not None:
            close()


def _has_content(environ: Environ) -> bool:
    """Return whether a request without a length has content. The application reads all of it afterwards."""
    content = environ.get("wsgi.input")
    begin = _place_in(content)
    if content is None or (begin is None and not environ.get("wsgi.input_terminated")):
        return False
    first = content.read(1)
    if first and begin is None:
        environ["wsgi.input"] = io.BufferedReader(_Reread(first, content))
    elif first:
        content.seek(begin)
    return bool(first)


def _ends(environ: Environ) -> bool:
    """Return whether the content of a request without a length can be read without waiting for ever.

    Otherwise there is none (PEP 3333, "Input and Error Streams").
    """
    return bool(environ.get("wsgi.input_terminated")) or _place_in(environ.get("wsgi.input")) is not None


def _place_in(content: Any) -> int | None:
    """Return where a file stands; None if it is none that can go back."""
    seekable = getattr(content, "seekable", None)
    try:
        return int(content.tell()) if seekable is not None and seekable() else None
    except OSError:
        return None


@final
class _Reread(io.RawIOBase):
    """The content of a request whose first byte was read."""

    def __init__(self, first: bytes, content: Any) -> None:
        self._first = first
        self._content = content

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        part, self._first = self._first or self._content.read(len(buffer)), b""
        buffer[: len(part)] = part
        return len(part)


def _user_of(environ: Environ) -> str:
    """Return who asks by what the server has checked; empty for no user."""
    told = [str(environ.get(name) or "") for name in _OF_A_USER]
    return repr(told) if any(told) else ""


def _headers_of(environ: Environ) -> list[tuple[bytes, bytes]]:
    """Return the fields of a request; a server has joined the lines of each."""
    headers = []
    for name, value in environ.items():
        if name.startswith("HTTP_"):
            field = name[5:]
        elif name in {"CONTENT_LENGTH", "CONTENT_TYPE"} and value:
            field = name
        else:
            continue
        headers.append((field.lower().replace("_", "-").encode("latin-1"), str(value).encode("latin-1")))
    return headers


def _forwarded(environ: Environ, headers: Headers) -> Environ:
    """Return the environment of a request with the conditions of these fields in place of its own."""
    changed = {name: value for name, value in environ.items() if name not in _CONDITIONS}
    for name, value in headers:
        variable = "HTTP_" + name.decode("latin-1").upper().replace("-", "_")
        if variable in _CONDITIONS:
            changed[variable] = value.decode("latin-1")
    if not _ends(environ):
        changed["wsgi.input"] = io.BytesIO()  # whatever the server has there, no response depends on it
    return changed


def _encoded(headers: Fields) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]


def _replied(reply: Reply, start_response: StartResponse) -> list[bytes]:
    try:
        phrase = HTTPStatus(reply.status).phrase
    except ValueError:
        phrase = "Unknown"
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in reply.headers]
    start_response(f"{reply.status} {phrase}", headers)
    return [reply.body] if reply.body else []


def _marked(start_response: StartResponse, forwarded: str, detail: str | None) -> StartResponse:
    """Return a `start_response` that says in `Cache-Status` that the response is only passed on."""
    ((_, status),) = passed_on((), forwarded, detail)

    def marked(code: str, headers: Fields, *error: Any) -> Callable[[bytes], object]:
        return start_response(code, [*headers, ("Cache-Status", status.decode("latin-1"))], *error)

    return marked


def _no_response(*_: object) -> Callable[[bytes], object]:
    return len
