"""Content of a GET, which shapes the response: it may come without a length, late, in parts, or never."""

from __future__ import annotations

import asyncio
import io
from typing import Any

import pytest
from http_apps import Client, Origin, Page, WSGIOrigin, environ_of, fetch, memory_cache
from loops import on_a_loop, until

from cachekit.http import ASGICache, WSGICache, asgi
from cachekit.http.asgi import Application, Message, Receive, Scope, Send
from cachekit.testing import ManualClock

FRESH = ("Cache-Control", "max-age=60")


async def echoing(scope: Scope, receive: Receive, send: Send) -> None:
    """A page that shows the content of its request."""
    content, more = b"", True
    while more:
        message = await receive()
        assert message["type"] == "http.request"
        content += message["body"]
        more = message["more_body"]
    await Origin(Page((FRESH,), b"page" + content))(scope, receive, send)


class Counted:
    """An application that counts its calls."""

    def __init__(self, app: Application) -> None:
        self._app = app
        self.count = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.count += 1
        await self._app(scope, receive, send)


class Late(Client):
    """A client whose content comes when `sent` is set."""

    def __init__(self, app: Application) -> None:
        super().__init__(app, body=b"evil")
        self.sent = asyncio.Event()

    async def _receive(self) -> Message:
        await self.sent.wait()
        return await super()._receive()


def over_http2(app: Application) -> Application:
    async def called(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "http_version": "2"}, receive, send)

    return called


@pytest.mark.parametrize("version", ["1.1", "2"])
@pytest.mark.parametrize("parts", [[b"evil"], [b"", b"evil"], [b"e", b"vil"], [b"evil", b""]], ids=repr)
@on_a_loop
async def test_content_without_a_length_shapes_no_page(version: str, parts: list[bytes]) -> None:
    """As HTTP/2 has it: only the messages of the client tell that there is content."""
    cached = ASGICache(echoing, memory_cache())
    app = over_http2(cached) if version == "2" else cached
    fat = Client(app)
    messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    messages[-1]["more_body"] = False

    async def receive() -> Any:
        return messages.pop(0)

    fat._receive = receive  # type: ignore[method-assign]
    got = await fat.run()
    assert (got.body, got.cache_status) == (b"pageevil", "cachekit; fwd=bypass; detail=request-content")
    assert (await fetch(app)).body == b"page"
    assert (await fetch(app)).is_hit


@on_a_loop
async def test_content_over_http2_is_passed_on_though_the_page_is_stored() -> None:
    app = over_http2(ASGICache(echoing, memory_cache()))
    assert (await fetch(app)).is_stored
    got = await fetch(app, body=b"mine")
    assert (got.body, got.cache_status) == (b"pagemine", "cachekit; fwd=bypass; detail=request-content")
    assert (await fetch(app)).body == b"page"


@on_a_loop
async def test_content_that_comes_late_shapes_no_page_and_holds_up_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(asgi, "_LONGEST_SILENCE", 0.05)
    origin = Counted(echoing)
    app = over_http2(ASGICache(origin, memory_cache()))
    late = Late(app)
    task = asyncio.create_task(late.run())
    await asyncio.sleep(0)
    assert (await asyncio.wait_for(fetch(app), 20)).body == b"page"
    await until(lambda: origin.count == 2, "the other request is passed on")
    late.sent.set()
    assert "detail=request-content" in (await task).cache_status
    assert (await fetch(app)).body == b"page"


@on_a_loop
async def test_content_of_a_server_that_names_the_wrong_version_shapes_no_page() -> None:
    """HTTP/1 has no such content, so nothing waits for it there."""
    origin = Counted(echoing)
    app = ASGICache(origin, memory_cache())
    late = Late(app)
    task = asyncio.create_task(late.run())
    await until(lambda: origin.count == 1, "the application is called")
    late.sent.set()
    got = await task
    assert (got.body, got.cache_status) == (
        b"pageevil", "cachekit; fwd=uri-miss; detail=request-content",
    )  # fmt: skip
    assert (await fetch(app)).body == b"page"


@on_a_loop
async def test_nothing_waits_for_the_first_message_where_a_length_is_required(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Middleware outside may have taken it. Neither a miss nor a hit needs it."""
    monkeypatch.setattr(asgi, "_LONGEST_SILENCE", 600)
    app = ASGICache(Origin(), memory_cache())
    for outcome in ("stored", "hit"):
        assert outcome in (await asyncio.wait_for(Late(app).run(), 20)).cache_status
    await until(lambda: len(asyncio.all_tasks()) == 1, "nothing waits for the first message any more")


@on_a_loop
async def test_no_content_in_several_messages_is_none() -> None:
    app = over_http2(ASGICache(echoing, memory_cache()))
    for outcome in ("stored", "hit"):
        client = Client(app)
        messages = [{"type": "http.request", "body": b"", "more_body": more} for more in (False, True, True)]

        async def receive(messages: list[Any] = messages) -> Any:
            return messages.pop()

        client._receive = receive  # type: ignore[method-assign]
        assert outcome in (await client.run()).cache_status


# -- applications that read it in their own way ---------------------------------------------------------


@pytest.mark.parametrize("reads_first", [False, True])
@on_a_loop
async def test_an_application_that_is_called_twice_has_the_content_twice(reads_first: bool) -> None:
    """As after a 304 about another response than the stored one, which it may give without reading."""
    read: list[list[Message]] = []
    heads = [(200, b'"a"'), (304, b'"b"'), (200, b'"b"')]

    async def origin(scope: Scope, receive: Receive, send: Send) -> None:
        status, etag = heads.pop(0)
        messages = []
        if reads_first or status != 304:
            messages.append(await receive())
            ended = asyncio.ensure_future(receive())
            await asyncio.sleep(0)
            messages += [await ended] if ended.done() else []
            ended.cancel()
        read.append(messages)
        headers = ((b"etag", etag), (b"cache-control", b"max-age=10"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    clock = ManualClock()
    app = over_http2(ASGICache(origin, memory_cache(clock)))
    await fetch(app)
    clock.advance(11)
    assert (await fetch(app)).status == 200
    empty = {"type": "http.request", "body": b"", "more_body": False}
    assert read == [[empty], [empty] if reads_first else [], [empty]]


@pytest.mark.parametrize("version", ["1.1", "2"])
@pytest.mark.parametrize(
    "says", ["max-age=10", "max-age=10, stale-while-revalidate=60"], ids=["at once", "later"]
)
@on_a_loop
async def test_an_application_that_reads_after_its_head_may_be_called_twice(version: str, says: str) -> None:
    """Streaming middleware does. Each call has the one message, also of a revalidation in the background."""
    heads = [(200, b'"a"'), (304, b'"b"'), (200, b'"b"')]
    read: list[Message] = []

    async def origin(scope: Scope, receive: Receive, send: Send) -> None:
        status, etag = heads.pop(0)
        headers = ((b"etag", etag), (b"cache-control", says.encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        read.append(await receive())
        await send({"type": "http.response.body", "body": etag})

    clock = ManualClock()
    cached = ASGICache(origin, memory_cache(clock))
    app = over_http2(cached) if version == "2" else cached
    await fetch(app)
    clock.advance(11)
    stale = await asyncio.wait_for(fetch(app), 20)
    await asyncio.wait_for(asyncio.gather(*cached._collapsing._tasks), 20)
    assert stale.body == (b'"a"' if "stale" in says else b'"b"')
    assert (await fetch(app)).body == b'"b"'
    assert read == [{"type": "http.request", "body": b"", "more_body": False}] * 3


class LateParts(Late):
    """A client whose late content comes in two messages."""

    def __init__(self, app: Application) -> None:
        super().__init__(app)
        self._body = [b"il", b"ev"]  # the last one comes first

    async def _receive(self) -> Message:
        return {**await super()._receive(), "more_body": bool(self._body)}


@on_a_loop
async def test_an_application_that_is_called_twice_has_late_content_twice() -> None:
    """All of it: what it has read of the first time does not come again from the server."""
    heads = [(200, b'"a"'), (304, b'"b"'), (200, b'"b"')]

    async def origin(scope: Scope, receive: Receive, send: Send) -> None:
        status, etag = heads.pop(0)
        content, more = b"", True
        if status == 304:
            late.sent.set()
        while more:
            message = await receive()
            content += message["body"]
            more = message["more_body"]
        headers = ((b"etag", etag), (b"cache-control", b"max-age=10"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"page" + content})

    clock = ManualClock()
    app = ASGICache(origin, memory_cache(clock))
    await fetch(app)
    clock.advance(11)
    late = LateParts(app)
    response = await asyncio.wait_for(late.run(), 20)
    assert response.body == b"pageevil"
    assert response["cache-status"] == "cachekit; fwd=stale; detail=request-content"


@on_a_loop
async def test_two_tasks_that_receive_get_a_message_each() -> None:
    got: list[str] = []

    async def origin(scope: Scope, receive: Receive, send: Send) -> None:
        both = {asyncio.ensure_future(receive()) for _ in range(2)}
        await asyncio.sleep(0)  # both wait for the first message
        late.sent.set()
        done, waiting = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        late.gone.set()
        got.extend([(await task)["type"] for task in (*done, *waiting)])

    late = Late(ASGICache(origin, memory_cache()))
    await late._app(late._scope, late._receive, late._send)
    assert got == ["http.request", "http.disconnect"]


@on_a_loop
async def test_a_message_outlives_a_task_that_no_longer_wants_it() -> None:
    """As with a time limit for reading."""

    async def origin(scope: Scope, receive: Receive, send: Send) -> None:
        given_up = asyncio.ensure_future(receive())
        await asyncio.sleep(0)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        late.sent.set()
        await echoing(scope, receive, send)

    class Taken(Late):
        async def _receive(self) -> Message:
            message = await Client._receive(self)  # it is lost if this call is cancelled
            await self.sent.wait()
            return message

    late = Taken(ASGICache(origin, memory_cache()))
    assert (await asyncio.wait_for(late.run(), 20)).body == b"pageevil"


@on_a_loop
async def test_a_task_that_outlives_the_response_goes_on_to_receive() -> None:
    """It waits for the client to go away, and is not told that it was cancelled."""
    tasks: list[asyncio.Future[Message]] = []

    async def origin(scope: Scope, receive: Receive, send: Send) -> None:
        tasks.append(asyncio.ensure_future(receive()))
        await asyncio.sleep(0)
        await Origin()(scope, receive, send)

    late = Late(ASGICache(origin, memory_cache()))
    assert (await late.run()).body == b"page"
    await asyncio.sleep(0)
    late.sent.set()
    assert (await asyncio.wait_for(tasks[0], 20))["body"] == b"evil"
    left = Late(ASGICache(origin, memory_cache()))
    await left.run()
    tasks[1].cancel()
    with pytest.raises(asyncio.CancelledError):
        await tasks[1]


@on_a_loop
async def test_a_client_that_goes_away_before_its_content_leaves_nothing() -> None:
    app = over_http2(ASGICache(echoing, memory_cache()))
    client = Client(app)
    asked = asyncio.Event()

    async def receive() -> Any:
        asked.set()
        await asyncio.Event().wait()

    client._receive = receive  # type: ignore[method-assign]
    task = asyncio.create_task(client.run())
    await asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(asyncio.all_tasks()) == 1
    assert (await fetch(app)).body == b"page"


class Unseekable(io.BytesIO):
    def seekable(self) -> bool:
        return False


class WithoutPlace(io.BytesIO):
    def tell(self) -> int:
        raise OSError("it is a pipe")


@pytest.mark.parametrize(
    ("stream", "is_terminated", "got"),
    [
        (Unseekable, True, b"pageevil"),
        (io.BytesIO, False, b"pageevil"),
        (Unseekable, False, b"page"),
        (WithoutPlace, True, b"pageevil"),
        (WithoutPlace, False, b"page"),
    ],
    ids=["terminated", "seekable", "endless", "without a place, terminated", "without a place"],
)
def test_content_without_a_length_shapes_no_page_of_a_wsgi_application(
    stream: type[io.BytesIO], is_terminated: bool, got: bytes
) -> None:
    """What the server has for an application that reads more than PEP 3333 permits."""
    app = WSGICache(
        WSGIOrigin(lambda environ: Page((FRESH,), b"page" + environ["wsgi.input"].read())), memory_cache()
    )

    def ask(content: bytes) -> bytes:
        environ = environ_of("/", "GET", ()) | {"wsgi.input": stream(content)}
        if is_terminated:
            environ["wsgi.input_terminated"] = True
        return b"".join(app(environ, lambda *_: len))

    assert ask(b"evil") == got
    assert ask(b"") == b"page"
    assert ask(b"evil") == got
    assert ask(b"") == b"page"


def test_a_file_as_input_is_given_to_a_wsgi_application_as_it_is() -> None:
    """It may have methods of its own, and was read from where it stood."""
    given: list[object] = []

    def origin(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        given.extend([environ["wsgi.input"], environ["wsgi.input"].read()])
        start_response("200 OK", [])
        return [b"page"]

    content = io.BytesIO(b"before evil")
    content.seek(7)
    WSGICache(origin, memory_cache())(environ_of("/", "GET", ()) | {"wsgi.input": content}, lambda *_: len)
    assert given == [content, b"evil"]
