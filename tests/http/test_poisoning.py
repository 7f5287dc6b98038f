"""Attempts to give one client a response that another client has shaped; none reaches the other one.

The applications here are careless on purpose: they believe what a client says, and declare everything
cacheable, without a `Vary`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest
from http_apps import Client, Origin, Page, WSGIOrigin, call, environ_of, fetch, memory_cache
from loops import on_a_loop

from cachekit.http import ASGICache, WSGICache
from cachekit.http.asgi import Receive, Scope, Send
from cachekit.http.keys import KEYED_FIELDS

#: Fields by which clients or proxies redirect what a framework believes of a request, or tell who asks.
ROUTING_FIELDS = (
    "X-Forwarded-Host", "X-Forwarded-Port", "X-Forwarded-Prefix", "X-Forwarded-Proto", "X-Forwarded-Scheme",
    "X-Forwarded-Server", "X-Forwarded-SSL", "X-Forwarded-Path", "X-Host", "X-HTTP-Host-Override",
    "X-HTTP-Method", "X-HTTP-Method-Override", "X-Method-Override", "X-Original-Host", "X-Original-URI",
    "X-Original-URL", "X-Rewrite-URL", "X-Script-Name", "X-URL-Scheme", "X-Evil", "X-API-Key",
    "X-Requested-With", "X-User-Id",
)  # fmt: skip
FRESH = ("Cache-Control", "max-age=60")


def reflecting(names: Sequence[str]) -> Callable[[Scope], Page]:
    """A page that shows what the request says in these fields."""

    def page(scope: Scope) -> Page:
        said = [value for name, value in scope["headers"] if name.decode() in names]
        return Page((FRESH,), b"".join(said))

    return page


class Attempt(NamedTuple):
    """A request of an attacker, for a page that another client asks for afterwards."""

    id: str
    reflected: Sequence[str]  #: the fields that the application shows
    headers: Sequence[tuple[str, str]] = ()
    target: str = "/page"
    method: str = "GET"
    host: str | None = "example.com"
    body: bytes = b""
    page: str = "/page"  #: what the other client asks for


ATTEMPTS = [
    *(Attempt(name, [name.lower()], [(name, "evil")]) for name in ROUTING_FIELDS),
    *(Attempt(name.decode(), [name.decode()], [(name.decode(), "evil")]) for name in sorted(KEYED_FIELDS)),
    Attempt("forwarded of a client", ["forwarded"], [("Forwarded", "for=1.2.3.4;host=evil")]),
    Attempt("host", ["host"], host="evil"),
    Attempt("host with a port", ["host"], host="example.com:81"),
    Attempt("host with a path", ["host"], host="example.com/page"),
    Attempt(
        "host with the begin of a path",
        ["host", "a"],
        [("A", "evil")],
        host="example.com/dir",
        page="/dir/page",
    ),
    Attempt("host with a user", ["host"], host="evil@example.com"),
    Attempt("host with a space", ["host"], host="example.com evil"),
    Attempt("host with a query", ["host"], host="example.com?evil"),
    Attempt("host of nothing", ["host"], host=""),
    Attempt("host with brackets", ["host"], host="[::::]"),
    Attempt("two hosts", ["host"], [("Host", "evil")]),
    Attempt("no host", ["x"], [("X", "evil")], host=None),
    Attempt("content of a GET", ["content-length"], [("Content-Length", "4")], body=b"evil"),
    Attempt(
        "two lengths", ["content-length"], [("Content-Length", "0"), ("Content-Length", "4")], body=b"evil"
    ),
    Attempt("chunked GET", ["transfer-encoding"], [("Transfer-Encoding", "chunked")], body=b"evil"),
    Attempt("oversized field", ["a"], [("A", "evil" * 5000)]),
    Attempt("many fields", ["a"], [("A", "evil")] * 2000),
    Attempt("control character", ["a"], [("A", "evil\x01")]),
    Attempt("line break", ["a"], [("A", "evil\r\nX-B: c")]),
    Attempt("field name", ["a"], [("A", "evil"), ("X B", "c")]),
    Attempt("encoded letter", ["a"], [("A", "evil")], target="/p%61ge"),
    Attempt("encoded slash", ["a"], [("A", "evil")], target="/x%2F..%2Fpage"),
    Attempt("dot segments", ["a"], [("A", "evil")], target="/x/../page"),
    Attempt("parameters", ["a"], [("A", "evil")], target="/page;x"),
    Attempt("suffix", ["a"], [("A", "evil")], target="/page/x.css"),
    Attempt("null byte", ["a"], [("A", "evil")], target="/page%00"),
    Attempt("double slash", ["a"], [("A", "evil")], target="//page"),
    Attempt("case", ["a"], [("A", "evil")], target="/Page"),
    Attempt("query", ["a"], [("A", "evil")], target="/page?utm_source=evil"),
    Attempt("other method", ["a"], [("A", "evil")], method="POST"),
    Attempt("lower-case method", ["a"], [("A", "evil")], method="post"),
    Attempt("HEAD", ["a"], [("A", "evil")], method="HEAD"),
    Attempt("precondition", ["if-match"], [("If-Match", '"evil"')]),
    Attempt("credentials", ["authorization"], [("Authorization", "evil")]),
]


@pytest.mark.parametrize("attempt", ATTEMPTS, ids=lambda attempt: attempt.id)
def test_the_next_client_gets_a_page_of_its_own(attempt: Attempt) -> None:
    async def main() -> None:
        app = ASGICache(Origin(reflecting(attempt.reflected)), memory_cache())
        for _ in range(2):
            await fetch(app, attempt.target, method=attempt.method, headers=attempt.headers,
                        host=attempt.host, body=attempt.body)  # fmt: skip
        after = await fetch(app, attempt.page)
        assert b"evil" not in after.body
        assert after.status == 200
        # Nor does the attacker's request take the page away.
        assert (await fetch(app, attempt.page)).is_hit

    asyncio.run(main())


@pytest.mark.parametrize("attempt", ATTEMPTS, ids=lambda attempt: attempt.id)
def test_the_next_client_of_a_wsgi_application_too(attempt: Attempt) -> None:
    def page(environ: dict[str, Any]) -> Page:
        names = ["HTTP_" + name.upper().replace("-", "_") for name in attempt.reflected]
        return Page((FRESH,), "".join(environ.get(name, "") for name in names).encode("latin-1"))

    if attempt.id in {"two lengths", "field name", "lower-case method", "host of nothing", "no host"}:
        pytest.skip("a WSGI server joins or refuses these")
    app = WSGICache(WSGIOrigin(page), memory_cache())
    for _ in range(2):
        # Without the checks of the standard: an attacker does not obey it.
        call(app, attempt.target, method=attempt.method, headers=attempt.headers, host=attempt.host,
             body=attempt.body, checked=False)  # fmt: skip
    after = call(app, attempt.page)
    assert b"evil" not in after.body
    assert call(app, attempt.page).is_hit


# -- errors that are of the attacker's request ----------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([("Large", "x" * 9000)], 431),
        ([("A", "\x07")], 400),
        ([("X-HTTP-Method-Override", "DELETE")], 405),
        ([("Range", "bytes=900-")], 416),
        ([("Range", "bytes=0-0")], 206),
        ([("If-None-Match", "*")], 304),
        ([("If-Unmodified-Since", "x")], 412),
        ([("Authorization", "bad")], 401),
        ([("Transfer-Encoding", "x")], 501),
    ],
)
def test_an_error_for_one_request_is_for_no_other(headers: list[tuple[str, str]], status: int) -> None:
    """The application refuses the request, with a response that says that it may be stored."""

    def page(scope: Scope) -> Page:
        sent = {name.decode() for name, _ in scope["headers"]}
        is_refused = sent & {name.lower() for name, _ in headers}
        return Page((FRESH,), b"refused", status) if is_refused else Page((FRESH,), b"page")

    async def main() -> None:
        app = ASGICache(Origin(page), memory_cache())
        assert (await fetch(app, headers=headers)).status == status
        after = await fetch(app)
        assert (after.status, after.body) == (200, b"page")

    asyncio.run(main())


@on_a_loop
async def test_a_refusal_without_credentials_is_not_for_requests_with_some() -> None:
    def page(scope: Scope) -> Page:
        has_some = any(name == b"authorization" for name, _ in scope["headers"])
        return Page((FRESH,), b"hello") if has_some else Page((FRESH,), b"log in", 401)

    app = ASGICache(Origin(page), memory_cache())
    assert (await fetch(app)).is_stored
    assert (await fetch(app, headers=[("Authorization", "mine")])).body == b"hello"
    assert (await fetch(app)).body == b"log in"


# -- what the cache itself writes -----------------------------------------------------------------------


@pytest.mark.parametrize("value", ["a\r\nSet-Cookie: id=evil", "a\nb", "a\x00b", "a\r\n\r\n<script>"])
def test_a_response_that_was_split_is_not_stored(value: str) -> None:
    async def main() -> None:
        app = ASGICache(Origin(Page((FRESH, ("Location", value)))), memory_cache())
        first = await fetch(app)
        assert "detail=malformed-response" in first.cache_status
        assert not (await fetch(app)).is_hit

    asyncio.run(main())


@on_a_loop
async def test_nothing_of_a_request_is_in_what_the_cache_writes() -> None:
    evil = [("X-A", "evil"), ("Cache-Status", "evil; hit"), ("Cache-Control", "evil"), ("Pragma", "evil"),
            ("If-None-Match", '"evil"'), ("Range", "bytes=evil"), ("Vary", "evil"), ("Cache-Tag", "evil"),
            ("X-Forwarded-Host", "evil"), ("If-Range", "evil")]  # fmt: skip
    app = ASGICache(Origin(Page((FRESH,))), memory_cache())
    for _ in range(3):
        response = await fetch(app, "/evil?evil", headers=evil)
        assert "evil" not in repr(response)
    bypassed = await fetch(app, "/evil", host="evil/evil")
    assert "evil" not in repr(bypassed)


@on_a_loop
async def test_tags_of_a_request_tag_nothing() -> None:
    cache = memory_cache()
    app = ASGICache(Origin(), cache)
    await fetch(app, headers=[("Cache-Tag", "evil"), ("Surrogate-Key", "evil")])
    cache.invalidate_by_tags({"evil"})
    assert (await fetch(app)).is_hit


@on_a_loop
async def test_a_client_cannot_switch_off_collapsing_for_the_others() -> None:
    """A request of its own kind says nothing of the page."""
    origin = Origin(lambda scope: Page((FRESH,)))
    app = ASGICache(origin, memory_cache())
    for headers in (
        [("Authorization", "x")], [("Cookie", "id=1")], [("Large", "x" * 9000)],
        [("Cache-Control", "no-store")],
    ):  # fmt: skip
        await fetch(app, headers=headers)
    count = origin.count
    origin.open.clear()
    origin.entered.clear()
    tasks = [asyncio.create_task(fetch(app)) for _ in range(20)]
    await origin.entered.wait()
    origin.open.set()
    await asyncio.gather(*tasks)
    assert origin.count == count + 1


@on_a_loop
async def test_the_content_of_a_slow_request_holds_up_no_other() -> None:
    """A GET whose content never ends would hold up the application, and all who wait for it."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        while message.get("more_body"):
            message = await receive()
        await Origin()(scope, receive, send)

    cached = ASGICache(app, memory_cache())
    slow = Client(cached, headers=[("Content-Length", "100")])
    stuck = asyncio.Event()

    async def trickle() -> Any:
        await stuck.wait()

    slow._receive = trickle  # type: ignore[method-assign]
    task = asyncio.create_task(slow.run())
    assert (await asyncio.wait_for(fetch(cached), 20)).body == b"page"
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# -- variants -------------------------------------------------------------------------------------------

DIFFERENT = [
    ("Cookie", ["city=Paris, TX", "city=Paris,TX", "city=Paris,,TX,"]),
    ("Authorization", ["Token a, b", "Token a,b,"]),
    ("Referer", ["http://a/?ids=1,,2", "http://a/?ids=1,2"]),
    ("User-Agent", ["a (b, c)", "a (b,c)"]),
    ("Accept-Language", ["de, en", "en, de"]),
    ("Foo", ["1, 2", "1,2"]),
]


@pytest.mark.parametrize("how", ["Vary", "vary="])
@pytest.mark.parametrize(("name", "values"), DIFFERENT)
@on_a_loop
async def test_values_that_differ_select_different_pages(name: str, values: list[str], how: str) -> None:
    fields = [("Cache-Control", "max-age=60, public"), *([("Vary", name)] if how == "Vary" else [])]
    origin = Origin(lambda scope: Page(fields, dict(scope["headers"])[name.lower().encode()]))
    app = ASGICache(origin, memory_cache(), vary=[] if how == "Vary" else [name])
    for value in [*values, *values]:
        assert (await fetch(app, headers=[(name, value)])).body == value.encode()
    assert origin.count == len(values)


def test_white_space_in_a_list_and_around_a_value_selects_nothing() -> None:
    origin = WSGIOrigin(Page((FRESH, ("Vary", "Accept, Foo"))))
    app = WSGICache(origin, memory_cache())
    for accept, foo in (("a,b", "x"), ("a, b", " x "), (" a ,b", "x")):
        call(app, headers=[("Accept", accept), ("Foo", foo)])
    assert origin.count == 1


# -- fields that select -----------------------------------------------------------------------------------


@on_a_loop
async def test_fields_that_tell_requests_apart_are_no_part_of_a_key() -> None:
    origin = Origin()
    app = ASGICache(origin, memory_cache(), ignore=["X-Mine"])
    for number in range(3):
        noise = ("X-Forwarded-For", "X-Real-IP", "X-Request-ID", "X-B3-TraceId", "X-Mine", "User-Agent")
        await fetch(app, headers=[*((name, str(number)) for name in noise),
                                  ("Forwarded", f"for=1.2.3.{number}")])  # fmt: skip
    assert origin.count == 1
    await fetch(app, headers=[("X-Other", "1")])
    assert origin.count == 2


UNDERSCORED = (
    "X_Forwarded_Host", "X-Forwarded_Host", "Remote_User", "Api_Key", "Accept_Language", "If_None_Match",
    "Content_Type",
)  # fmt: skip


@pytest.mark.parametrize("name", UNDERSCORED)
@pytest.mark.parametrize("vary", ["Accept-Language", "accept_language"])
@on_a_loop
async def test_an_underscore_is_a_hyphen_for_an_application_with_variables(name: str, vary: str) -> None:
    """As for one that runs behind a bridge to WSGI."""

    def page(scope: Scope) -> Page:
        variables = {field.decode().upper().replace("-", "_"): value for field, value in scope["headers"]}
        return Page((FRESH, ("Vary", vary)), variables.get(name.upper().replace("-", "_"), b"page"))

    app = ASGICache(Origin(page), memory_cache())
    for _ in range(2):
        assert (await fetch(app, headers=[(name, "evil")])).body == b"evil"
        assert (await fetch(app)).body == b"page"
    assert (await fetch(app)).is_hit


@on_a_loop
async def test_a_field_that_is_part_of_no_key_selects_where_vary_names_it() -> None:
    """Also with underscores, as a bridge to WSGI reads it."""

    def page(scope: Scope) -> Page:
        variables = {field.decode().upper().replace("-", "_"): value for field, value in scope["headers"]}
        return Page((FRESH, ("Vary", "X-Forwarded-For")), variables.get("X_FORWARDED_FOR", b"none"))

    app = ASGICache(Origin(page), memory_cache())
    for _ in range(2):
        for name, address in ("X-Forwarded-For", "1"), ("X_Forwarded_For", "2"), ("X-Forwarded-For", "3"):
            assert (await fetch(app, headers=[(name, address)])).body == address.encode()
        assert (await fetch(app)).body == b"none"


def test_a_vary_with_underscores_selects_by_the_field() -> None:
    def page(environ: dict[str, Any]) -> Page:
        return Page((FRESH, ("Vary", "Session_Kind")), environ.get("HTTP_SESSION_KIND", "").encode())

    app = WSGICache(WSGIOrigin(page), memory_cache())
    for kind in ("a", "b", "a"):
        assert call(app, headers=[("Session-Kind", kind)]).body == kind.encode()
    assert call(app, headers=[("Session-Kind", "b")]).is_hit


@on_a_loop
async def test_fields_to_ignore_may_have_underscores() -> None:
    origin = Origin()
    app = ASGICache(origin, memory_cache(), ignore=["x_edge", "Request-Number"])
    for name in ("X-Edge", "X_Edge", "Request_Number", "X_Request_Id", "X_Forwarded_For", "X_B3_TraceId"):
        await fetch(app, headers=[(name, name)])
    assert origin.count == 1


@on_a_loop
async def test_a_field_without_a_value_is_not_one_that_is_absent() -> None:
    """An application may ask whether it is there."""
    origin = Origin(lambda scope: Page((FRESH,), b"evil" if b"x-debug" in dict(scope["headers"]) else b""))
    app = ASGICache(origin, memory_cache())
    for _ in range(2):
        assert (await fetch(app, headers=[("X-Debug", "")])).body == b"evil"
        assert (await fetch(app)).body == b""
    assert origin.count == 2


#: What some servers give an application beside the path: an absolute target, a fragment, a rewritten path.
SENT = ("http://evil/page", "/page#evil", "/page?#evil", "/evil/../page", "evil")


@pytest.mark.parametrize("sent", SENT)
def test_a_target_that_the_server_has_changed(sent: str) -> None:
    """An application may read it as it was sent, so that is part of the key. Unsafe requests still count."""
    origin = WSGIOrigin(lambda environ: Page((FRESH,), environ["RAW_URI"].encode()))
    app = WSGICache(origin, memory_cache())

    def asked(sent: str, method: str = "GET") -> tuple[bytes, bool]:
        environ = environ_of("/page", method, ()) | {"RAW_URI": sent}
        told: dict[str, str] = {}

        def start(status: str, fields: list[tuple[str, str]]) -> Callable[[bytes], object]:
            told.update(fields)
            return len

        body = b"".join(app(environ, start))
        return body, "cachekit; hit" in told.get("cache-status", "")

    for _ in range(2):
        assert asked(sent)[0] == sent.encode()
        assert asked("/page")[0] == b"/page"
    assert asked(sent)[1]
    assert origin.count == 2
    asked("/page", "PUT")
    assert not asked(sent)[1]
    asked(sent, "PUT")
    assert not asked("/page")[1]


@on_a_loop
async def test_a_path_that_other_middleware_has_changed() -> None:
    """The same for ASGI, where `raw_path` stays as it was sent."""
    origin = Origin(lambda scope: Page((FRESH,), scope["raw_path"]))
    app = ASGICache(origin, memory_cache())
    for sent in ("/evil/page", "/page", "/evil/page"):

        async def rewritten(scope: Scope, receive: Receive, send: Send) -> None:
            await app({**scope, "path": "/page"}, receive, send)

        assert (await fetch(rewritten, sent)).body == sent.encode()
    assert origin.count == 2


@on_a_loop
async def test_a_query_that_other_middleware_has_changed() -> None:
    """Some servers leave it in `raw_path`, where an application may read it."""
    origin = Origin(lambda scope: Page((FRESH,), scope["raw_path"]))
    app = ASGICache(origin, memory_cache())
    given = [("/page?evil", b""), ("/page", b""), ("/page?a=1", b"a=1"), ("/page?a=1&evil", b"a=1")]
    given += [("/evil?a=1", b"a=1"), ("/evil?evil", b"a=1"), ("/page?", b"a=1")]
    for sent, query in given * 2:

        async def rewritten(scope: Scope, receive: Receive, send: Send) -> None:
            scope = {**scope, "path": "/page", "raw_path": sent.encode(), "query_string": query}  # noqa: B023
            await app(scope, receive, send)

        assert (await fetch(rewritten, "/page")).body == sent.encode()
    assert origin.count == len(given)


@on_a_loop
async def test_a_query_in_the_raw_path_is_that_of_the_url() -> None:
    """A server that includes it has the same keys as one that does not, and is purged by the same URL."""
    origin = Origin()
    cache = memory_cache()
    app = ASGICache(origin, cache)

    async def including(scope: Scope, receive: Receive, send: Send) -> None:
        scope = {**scope, "raw_path": scope["raw_path"] + b"?" + scope["query_string"]}
        await app(scope, receive, send)

    await fetch(including, "/page?a=1")
    assert (await fetch(app, "/page?a=1")).is_hit
    await fetch(including, "/page?a=1", method="PUT")
    assert not (await fetch(including, "/page?a=1")).is_hit


def test_every_attempt_is_told_apart() -> None:
    assert len({attempt.id for attempt in ATTEMPTS}) == len(ATTEMPTS)
