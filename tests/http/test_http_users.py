"""Users that a server or middleware has checked, whose pages no other one gets.

No field of the request says who asks, so the cache looks at what the server says.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest
from http_apps import Origin, Page, WSGIOrigin, environ_of, fetch, memory_cache
from loops import on_a_loop

from cachekit.http import ASGICache, WSGICache
from cachekit.http.asgi import Application, Receive, Scope, Send

FRESH = ("Cache-Control", "max-age=60")


def of_user(app: WSGICache, **variables: str) -> tuple[bytes, str]:
    told: dict[str, str] = {}

    def start(status: str, fields: list[tuple[str, str]]) -> Callable[[bytes], object]:
        told.update(fields)
        return len

    body = b"".join(app(environ_of("/", "GET", ()) | variables, start))
    return body, told.get("Cache-Status") or told["cache-status"]


@pytest.mark.parametrize(
    "name",
    [
        "REMOTE_USER",
        "AUTH_TYPE",
        "LOGON_USER",
        "AUTH_USER",
        "SSL_CLIENT_S_DN",
        "SSL_CLIENT_CERT",
    ],
)
def test_a_page_for_a_user_whom_the_server_has_checked_is_not_stored(name: str) -> None:
    app = WSGICache(
        WSGIOrigin(lambda environ: Page((FRESH,), environ.get(name, "").encode())), memory_cache()
    )
    for user in ("alice", "bob"):
        assert of_user(app, **{name: user}) == (user.encode(), "cachekit; fwd=uri-miss; detail=authorization")
    assert of_user(app, **{name: ""}) == (b"", "cachekit; fwd=uri-miss; stored")
    # And one for no user is no answer to a user.
    assert of_user(app, **{name: "alice"})[0] == b"alice"
    assert of_user(app)[1].startswith("cachekit; hit")


def test_a_user_whom_the_server_has_checked_counts_as_authorization() -> None:
    def page(environ: dict[str, Any]) -> Page:
        said = environ.get("HTTP_AUTHORIZATION", "") + environ.get("REMOTE_USER", "")
        return Page((("Cache-Control", "public, max-age=60"), ("Vary", "Authorization")), said.encode())

    origin = WSGIOrigin(page)
    app = WSGICache(origin, memory_cache())
    for _ in range(2):
        for user in ("alice", "bob"):
            assert of_user(app, REMOTE_USER=user)[0] == user.encode()
            assert of_user(app, HTTP_AUTHORIZATION=user)[0] == user.encode()
    assert origin.count == 4


class User:
    """One of middleware.

    Args:
        is_authenticated: what it says.
        says: its other attributes.
    """

    def __init__(self, is_authenticated: bool = True, **says: object) -> None:
        self.is_authenticated = is_authenticated
        self.__dict__ |= says


class Unfinished:
    """A user as Starlette's base class has it, and one that is still to be loaded."""

    @property
    def is_authenticated(self) -> bool:
        raise NotImplementedError

    identity = pk = is_authenticated


class WithName(Unfinished):
    def __init__(self, username: str) -> None:
        self.username = username


@pytest.mark.parametrize(
    ("extra", "is_stored"),
    [
        ({"user": User(True)}, False),
        ({"user": "alice"}, False),
        ({"user": User(False)}, True),
        ({"user": Unfinished()}, False),
        ({"user": None}, True),
        ({"extensions": {"tls": {"client_cert_name": "CN=alice"}}}, False),
        ({"extensions": {"tls": {"client_cert_chain": ["alice"]}}}, False),
        ({"extensions": {"tls": {"client_cert_name": None, "client_cert_chain": ()}}}, True),
    ],
)
@on_a_loop
async def test_a_user_whom_an_asgi_server_or_middleware_has_checked(
    extra: dict[str, Any], is_stored: bool
) -> None:
    cached = ASGICache(Origin(), memory_cache())

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await cached({**scope, **extra}, receive, send)

    assert (await fetch(app)).is_stored is is_stored


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (User(username="alice"), User(username="bob")),
        (User(pk=1), User(pk=2)),
        (User(identity="1"), User(identity="2")),
        (User(id=uuid.UUID(int=1)), User(id=uuid.UUID(int=2))),
        (WithName("alice"), WithName("bob")),
        ("alice", "bob"),
        (1, 2),
    ],
)
@on_a_loop
async def test_users_are_told_apart_by_what_they_say(one: object, other: object) -> None:
    """Where a page is for all, and is another one with other credentials."""
    for_all = (("Cache-Control", "public, max-age=60"), ("Vary", "Authorization"))
    origin = Origin(lambda scope: Page(for_all, repr(scope["user"]).encode()))
    cached = ASGICache(origin, memory_cache())

    def app(user: object) -> Application:
        async def called(scope: Scope, receive: Receive, send: Send) -> None:
            await cached({**scope, "user": user}, receive, send)

        return called

    for _ in range(2):
        for user in (one, other):
            assert (await fetch(app(user))).body == repr(user).encode()
    assert origin.count == 2
    for unknown in (User(), Unfinished(), User(pk=None, username=""), True):
        for _ in range(2):  # it may be another one each time
            assert not (await fetch(app(unknown))).is_hit


@pytest.mark.parametrize(
    ("fields", "options"),
    [([("Vary", "Authorization")], {}), ([], {"vary": ["authorization"]}), ([], {"vary": ["Authorization"]})],
)
@on_a_loop
async def test_no_page_is_stored_that_no_later_request_can_get(
    fields: list[tuple[str, str]], options: dict[str, Any]
) -> None:
    """A user who does not say who it is gets no such page, and pushes no other one out."""
    origin = Origin(Page((("Cache-Control", "public, max-age=60"), *fields)))
    cache = memory_cache()
    cached = ASGICache(origin, cache, **options)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await cached({**scope, "user": User()}, receive, send)

    for _ in range(2):
        assert (await fetch(app))["cache-status"] == "cachekit; fwd=uri-miss; detail=authorization"
    assert cache.invalidate_by_pattern("http:") == 0


@on_a_loop
async def test_users_are_told_apart_by_their_certificates() -> None:
    for_all = (("Cache-Control", "public, max-age=60"), ("Vary", "Authorization"))
    origin = Origin(lambda scope: Page(for_all, repr(scope["extensions"]).encode()))
    cached = ASGICache(origin, memory_cache())

    async def ask(tls: dict[str, Any]) -> bytes:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await cached({**scope, "extensions": {"tls": tls}}, receive, send)

        return (await fetch(app)).body

    seen: list[dict[str, Any]] = [
        {"client_cert_name": "CN=alice"}, {"client_cert_name": "CN=bob"},
        {"client_cert_name": None, "client_cert_chain": ["a"]},
        {"client_cert_name": None, "client_cert_chain": ["b"]},
    ]  # fmt: skip
    for _ in range(2):
        for tls in seen:
            assert await ask(tls) == repr({"tls": tls}).encode()
    assert origin.count == len(seen)
