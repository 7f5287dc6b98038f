"""What the origin says of a stored response when it is asked again: another one, private, or gone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from http_apps import Origin, Page, Response, WSGIOrigin, call, fetch, memory_cache
from redis_server import wait_until

from cachekit import IntelligentCache
from cachekit.http import ASGICache, WSGICache
from cachekit.http.asgi import Scope
from cachekit.http.rfc9111 import Head, Stored, is_of
from cachekit.testing import ManualClock

httpx = pytest.importorskip("httpx", reason="the transports need httpx")

FOR_A_WHILE = ("Cache-Control", "max-age=10, stale-while-revalidate=600, stale-if-error=600")

IF_ERROR = "max-age=10, stale-if-error=600"

LAST = ("Last-Modified", "Mon, 13 Nov 2023 22:13:20 GMT")


class Cached:
    """One of the caches.

    Attributes:
        pages: what the origin answers with, one after the other; the last one from then on.
        asked: the fields of its requests.
    """

    def __init__(self, kind: str, *pages: Page) -> None:
        self.clock = ManualClock()
        self.pages = list(pages)
        self.asked: list[dict[str, str]] = []
        self._kind = kind
        cache = memory_cache(self.clock)
        self._app: Any
        if kind == "ASGI":
            self._app = ASGICache(Origin(self._of_scope), cache)
        elif kind == "WSGI":
            self._app = WSGICache(WSGIOrigin(self._of_environ), cache)
        elif kind == "httpx":
            from cachekit.http import CachedTransport

            transport = CachedTransport(cache, httpx.MockTransport(self._of_request))
            self._app = httpx.Client(transport=transport)
        else:
            from cachekit.http import AsyncCachedTransport

            self._app = AsyncCachedTransport(cache, httpx.MockTransport(self._of_request))

    def _page(self, fields: dict[str, str]) -> Page:
        self.asked.append(fields)
        return self.pages.pop(0) if len(self.pages) > 1 else self.pages[0]

    def _of_scope(self, scope: Scope) -> Page:
        return self._page({name.decode(): value.decode() for name, value in scope["headers"]})

    def _of_environ(self, environ: dict[str, Any]) -> Page:
        fields = {name[5:].lower().replace("_", "-"): value for name, value in environ.items()}
        return self._page(fields)

    def _of_request(self, asked: Any) -> Any:
        page = self._page(dict(asked.headers))
        return httpx.Response(page.status, headers=list(page.headers), content=page.body)

    def get(self, *headers: tuple[str, str]) -> Response:
        """Return the response, once what it begins in the background is done."""
        if self._kind == "ASGI":

            async def main() -> Response:
                got = await fetch(self._app, headers=headers)
                await asyncio.gather(*self._app._collapsing._tasks)
                return got

            return asyncio.run(main())
        if self._kind == "WSGI":
            got = call(self._app, headers=headers)
            collapsing = self._app._collapsing
        elif self._kind == "httpx":
            got = _of_httpx(self._app.get("http://example.com/", headers=list(headers)))
            collapsing = self._app._transport._collapsing
        else:

            async def ask() -> Response:
                client = httpx.AsyncClient(transport=self._app)
                got = _of_httpx(await client.get("http://example.com/", headers=list(headers)))
                await asyncio.gather(*self._app._collapsing._tasks)
                return got

            return asyncio.run(ask())
        wait_until(lambda: not collapsing._flights._flights, "revalidations are done")
        return got


def _of_httpx(got: Any) -> Response:
    fields = [(name.lower(), value) for name, value in got.headers.items()]
    return Response(got.status_code, fields, got.content)


KINDS = pytest.mark.parametrize("kind", ["ASGI", "WSGI", "httpx", "httpx, awaited"])


def tagged(etag: str, status: int = 200, says: str = "max-age=10") -> Page:
    body = etag.encode() if status == 200 else b""
    return Page((("ETag", etag), ("Cache-Control", says)), body, status)


@KINDS
@pytest.mark.parametrize("first", ['"a"', 'W/"a"', ""])
def test_a_304_about_another_response_is_asked_for_again(kind: str, first: str) -> None:
    page = tagged(first)
    if not first:
        page = page._replace(headers=(LAST, page.headers[1]))
    cached = Cached(kind, page, tagged('"b"', 304), tagged('"b"'))
    cached.get()
    cached.clock.advance(11)
    got = cached.get()
    assert (got.status, got.body, got.cache_status) == (200, b'"b"', "cachekit; fwd=stale; stored")
    assert "if-none-match" in cached.asked[1] or not first
    assert not cached.asked[2].keys() & {"if-none-match", "if-modified-since"}
    assert cached.get().is_hit
    assert len(cached.asked) == 3


@KINDS
@pytest.mark.parametrize("second", ['"a"', 'W/"a"', None])
def test_a_304_about_the_stored_response(kind: str, second: str | None) -> None:
    again = tagged(second or "", 304)
    cached = Cached(kind, tagged('"a"'), again if second else again._replace(headers=again.headers[1:]))
    cached.get()
    cached.clock.advance(11)
    assert cached.get().body == b'"a"'
    assert cached.get().is_hit
    assert len(cached.asked) == 2


@KINDS
def test_a_304_about_another_response_in_the_background(kind: str) -> None:
    says = FOR_A_WHILE[1]
    cached = Cached(kind, tagged('"a"', says=says), tagged('"b"', 304), tagged('"b"', says=says))
    cached.get()
    cached.clock.advance(11)
    assert cached.get().body == b'"a"'
    got = cached.get()
    assert (got.body, got.is_hit, len(cached.asked)) == (b'"b"', True, 3)


@KINDS
def test_a_304_about_another_response_and_then_an_error(kind: str) -> None:
    """The stored response is still the one to serve on an error."""
    cached = Cached(kind, tagged('"a"', says=IF_ERROR), tagged('"b"', 304), Page((), b"error", 503))
    cached.get()
    cached.clock.advance(11)
    got = cached.get()
    assert (got.status, got.body) == (200, b'"a"')
    assert got.cache_status.endswith("detail=stale-if-error")
    assert len(cached.asked) == 3
    cached.pages = [tagged('"b"', says=IF_ERROR)]
    assert cached.get().body == cached.get().body == b'"b"'


@KINDS
def test_a_304_about_another_response_that_may_not_be_stored(kind: str) -> None:
    says = "no-store" if kind.startswith("httpx") else "private"
    cached = Cached(kind, tagged('"a"', says=IF_ERROR), tagged('"b"', 304), tagged('"b"', 200, says))
    cached.get()
    cached.clock.advance(11)
    assert cached.get().body == b'"b"'
    cached.pages = [Page((), b"error", 503)]
    assert cached.get().body == b"error", "the stored one is outdated"


@KINDS
def test_a_fresh_page_that_the_origin_no_longer_has(kind: str) -> None:
    """A client asks for it again, and its 304 says that it has changed."""
    says = "no-store" if kind.startswith("httpx") else "private"
    cached = Cached(kind, tagged('"a"'), tagged('"b"', 304), tagged('"b"', 200, says))
    cached.get()
    assert [cached.get(("Cache-Control", "no-cache")).body, cached.get().body] == [b'"b"'] * 2


@KINDS
def test_a_304_to_an_unusual_request_freshens_nothing(kind: str) -> None:
    """What such a request gets may be of this client alone."""
    cached = Cached(kind, tagged('"a"'), tagged('"a"', 304))
    cached.get()
    cached.clock.advance(11)
    got = cached.get(("User-Agent", "x" * 9000))
    assert got.body == b'"a"'
    assert "detail=large-request" in got.cache_status
    assert cached.get().cache_status == "cachekit; fwd=stale; fwd-status=304; stored"
    assert cached.get().is_hit


@pytest.mark.parametrize(
    ("own", "given", "is_same"),
    [
        (['"a"'], ['"a"'], True), (['"a"'], ['W/"a"'], True), (['W/"a"'], ['"a"'], True), (['"a"'], [], True),
        (['"a"'], ['"b"'], False), (['W/"a"'], ['"b"'], False), (['"a"'], ['"a"', '"b"'], False),
        ([], [], True), ([], ['"b"'], False), ([], ['W/"b"'], True),
        (['"a"'], ["a"], False), (["a"], ["a"], True),
    ],
)  # fmt: skip
def test_which_response_a_304_is_about(own: list[str], given: list[str], is_same: bool) -> None:
    def head(status: int, tags: list[str]) -> Head:
        return Head(status, [(b"etag", tag.encode()) for tag in tags], 0.0, 0.0)

    assert is_of(head(304, given), Stored(head(200, own), b"")) is is_same


class Closing:
    """A response of a WSGI application that notes that it was closed."""

    def __init__(self, parts: Iterator[bytes], closed: list[str]) -> None:
        self._parts = parts
        self._closed = closed

    def __iter__(self) -> Iterator[bytes]:
        return self._parts

    def close(self) -> None:
        self._closed.append("closed")


@pytest.mark.parametrize("writes", [False, True], ids=["yields", "writes"])
@pytest.mark.parametrize("at_once", [False, True], ids=["late", "at once"])
def test_a_wsgi_application_gives_its_304_in_any_way(writes: bool, at_once: bool) -> None:
    heads = [("200 OK", '"a"'), ("304 Not Modified", '"b"'), ("200 OK", '"b"')]
    closed: list[str] = []

    def parts(start_response: Any) -> Iterator[bytes]:
        status, etag = heads.pop(0)
        write = start_response(status, [("ETag", etag), ("Cache-Control", "max-age=10")])
        if status[0] == "2":
            yield etag.encode()
        elif writes:
            write(b"")
            yield b""

    def app(_: Any, start_response: Any) -> Any:
        made = parts(start_response)
        return Closing(iter(list(made)) if at_once else made, closed)

    clock = ManualClock()
    cached = WSGICache(app, memory_cache(clock))
    assert call(cached, checked=False).body == b'"a"'
    clock.advance(11)
    assert call(cached, checked=False).body == b'"b"'
    assert len(closed) == 3
    assert call(cached, checked=False).is_hit


GONE = [
    Page((("Cache-Control", "private, max-age=60"),), b"new"),
    Page((("Cache-Control", "no-store"),), b"new"),
    Page((("Cache-Control", "no-store"),), b"new", 410),
    Page((), b"new", 404),
    Page((("Cache-Control", "no-store"),), b"new", 403),
    Page((("Cache-Control", "no-store"),), b"new", 401),
    Page((("Cache-Control", "no-store"),), b"new", 402),
    Page((("Cache-Control", "no-store"),), b"new", 451),
    Page((("Location", "/login"),), b"new", 302),
    Page((("Set-Cookie", "id=1"), ("Cache-Control", "max-age=60")), b"new"),
]


@pytest.mark.parametrize("new", GONE, ids=lambda page: f"{page.status} {page.headers}")
@pytest.mark.parametrize("kind", ["ASGI", "WSGI"])
def test_a_stale_page_that_the_origin_no_longer_has_for_all_is_dropped(kind: str, new: Page) -> None:
    cached = Cached(kind, Page((FOR_A_WHILE,), b"old"), new)
    cached.get()
    cached.clock.advance(11)
    assert cached.get().body == b"old"
    for _ in range(2):
        got = cached.get()
        assert (got.status, got.body, got.is_hit) == (new.status, b"new", False)
    # And it is no help when the origin fails.
    cached.pages = [Page((), b"error", 503)]
    assert cached.get().body == b"error"


@pytest.mark.parametrize("status", [404, 410])
@pytest.mark.parametrize("says", [(), (("Cache-Control", "no-store"),)], ids=["nothing", "no-store"])
@pytest.mark.parametrize("kind", ["ASGI", "WSGI"])
def test_a_stale_page_that_is_gone_is_dropped_by_users_as_well(
    kind: str, says: tuple[tuple[str, str], ...], status: int
) -> None:
    """Each browser of a site may have a cookie."""
    cached = Cached(kind, Page((FOR_A_WHILE,), b"old"), Page(says, b"gone", status))
    cached.get()
    cached.clock.advance(11)
    assert [cached.get(("Cookie", "id=1")).body for _ in range(3)] == [b"old", b"gone", b"gone"]


def test_a_page_that_cannot_be_dropped_costs_no_client_its_response(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise OSError("the disk is gone")

    cached = Cached("WSGI", Page((("Cache-Control", "max-age=10"), LAST), b"old"), Page((), b"new", 404))
    cached.get()
    cached.clock.advance(11)
    monkeypatch.setattr(IntelligentCache, "delete", fails)
    assert cached.get().body == b"new"


def test_a_stale_page_that_is_gone_is_dropped_by_a_client() -> None:
    cached = Cached(
        "httpx", Page((FOR_A_WHILE,), b"old"), Page((("Cache-Control", "no-store"),), b"new", 410)
    )
    cached.get()
    cached.clock.advance(11)
    assert [cached.get().body for _ in range(3)] == [b"old", b"new", b"new"]


KEPT = [
    (Page((), b"new", 503), ()),
    (Page((), b"new", 500), ()),
    (Page((), b"new", 429), ()),
    (Page((), b"new", 400), ()),
    (Page((("Cache-Control", "max-age=60"),), b"new"), (("Cookie", "id=1"),)),
    (Page((("Cache-Control", "max-age=60"),), b"new"), (("Authorization", "Basic x"),)),
    # What a user gets may be for this user alone, where the page of others is for all.
    (Page((("Cache-Control", "private"),), b"new"), (("Cookie", "id=1"),)),
    (Page((("Cache-Control", "no-store"),), b"new"), (("Authorization", "Basic x"),)),
    (Page((("Cache-Control", "max-age=60"), ("Set-Cookie", "id=2")), b"new"), (("Cookie", "id=1"),)),
    (Page((("Content-Type", "text/event-stream"), ("Cache-Control", "max-age=60")), b"new"), ()),
]


@pytest.mark.parametrize(("new", "asked"), KEPT, ids=repr)
@pytest.mark.parametrize("kind", ["ASGI", "WSGI"])
def test_a_response_that_says_nothing_of_the_page_drops_nothing(
    kind: str, new: Page, asked: tuple[tuple[str, str], ...]
) -> None:
    cached = Cached(kind, Page((FOR_A_WHILE,), b"old"), new)
    cached.get()
    cached.clock.advance(11)
    for _ in range(3):
        got = cached.get(*asked)
        assert (got.body, got.is_hit) == (b"old", True) or "Authorization" in dict(asked)
    got = cached.get()
    assert (got.body, got.is_hit) == (b"old", True)


def test_a_reload_of_a_fresh_page_drops_nothing() -> None:
    """The page may be served for as long as it is fresh, whatever one client got since."""
    cached = Cached("ASGI", Page((FOR_A_WHILE,), b"old"), Page((("Cache-Control", "private"),), b"new"))
    cached.get()
    assert cached.get(("Cache-Control", "no-cache"), ("Cookie", "id=1")).body == b"new"
    assert cached.get().body == b"old"


@KINDS
def test_a_304_that_makes_a_stale_page_private_drops_it(kind: str) -> None:
    says = "no-store" if kind.startswith("httpx") else "private"
    cached = Cached(
        kind, tagged('"a"', says=FOR_A_WHILE[1]), tagged('"a"', 304, says), tagged('"b"', 200, says)
    )
    cached.get()
    cached.clock.advance(11)
    assert [cached.get().body for _ in range(3)] == [b'"a"', b'"b"', b'"b"']
