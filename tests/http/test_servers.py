"""The middleware under real servers."""

from __future__ import annotations

import http.client
import importlib.util
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from redis_server import wait_until

PROGRAM = """
import asyncio, itertools, threading
from cachekit import FileCache, IntelligentCache
from cachekit.http import ASGICache, WSGICache

calls, arrived = itertools.count(1), itertools.count(1)
all_arrived, rest_asked = threading.Event(), threading.Event()
cache = IntelligentCache(file_cache=FileCache({directory!r}))

def arrive(path):
    if path == "/slow" and next(arrived) == {slow}:
        all_arrived.set()
    if path == "/rest":
        rest_asked.set()

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({{"type": message["type"] + ".complete"}})
            if message["type"] == "lifespan.shutdown":
                return
    headers = [(b"cache-control", b"max-age=60"), (b"content-type", b"text/plain")]
    if scope["path"] == "/private":
        headers[0] = (b"cache-control", b"private")
    if scope["path"] == "/slow":
        await asyncio.to_thread(all_arrived.wait)
    await send({{"type": "http.response.start", "status": 200, "headers": headers}})
    if scope["path"] == "/stream":
        await send({{"type": "http.response.body", "body": b"a", "more_body": True}})
        await asyncio.to_thread(rest_asked.wait)
    await send({{"type": "http.response.body", "body": b"call %d" % next(calls)}})

def wsgi_app(environ, start_response):
    path = environ["PATH_INFO"]
    control = "private" if path == "/private" else "max-age=60"
    if path == "/slow":
        all_arrived.wait()
    start_response("200 OK", [("Cache-Control", control), ("Content-Type", "text/plain")])
    if path == "/stream":
        yield b"a"
        rest_asked.wait()
    yield b"call %d" % next(calls)

cached_asgi, cached_wsgi = ASGICache(app, cache), WSGICache(wsgi_app, cache)

async def asgi(scope, receive, send):
    arrive(scope.get("path"))
    await cached_asgi(scope, receive, send)

def wsgi(environ, start_response):
    arrive(environ["PATH_INFO"])
    return cached_wsgi(environ, start_response)
"""

#: Requests for the slow page, which is made when all of them are there.
SLOW = 6

SERVERS = {
    "uvicorn": ["uvicorn", "program:asgi", "--port", "{port}", "--log-level", "warning"],
    "hypercorn": ["hypercorn", "program:asgi", "--bind", "127.0.0.1:{port}"],
    "gunicorn": ["gunicorn", "program:wsgi", "-b", "127.0.0.1:{port}", "-k", "gthread", "--threads", "8",
                 "--log-level", "warning"],
}  # fmt: skip


class Server:
    """A server of this machine, in a process of its own."""

    def __init__(self, name: str, directory: Path) -> None:
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self.port = one.getsockname()[1]
        (directory / "program.py").write_text(PROGRAM.format(directory=str(directory / "cache"), slow=SLOW))
        command = [part.format(port=self.port) for part in SERVERS[name]]
        self._process = subprocess.Popen([sys.executable, "-m", *command], cwd=directory)

    def _listens(self) -> bool:
        assert self._process.poll() is None, "the server ended"
        with socket.socket() as one:
            return one.connect_ex(("127.0.0.1", self.port)) == 0

    def wait(self) -> None:
        wait_until(self._listens, "the server listens")

    @contextmanager
    def asked(self, path: str, **headers: str) -> Iterator[http.client.HTTPResponse]:
        """A response whose content was not read yet."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("GET", path, headers=headers)
            yield connection.getresponse()
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> tuple[str, dict[str, str]]:
        with self.asked(path, **headers) as response:
            return response.read().decode(), {name.lower(): value for name, value in response.getheaders()}

    def close(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(60)


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    name = request.param
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed; the extra test-http has it")
    server = Server(name, tmp_path)
    try:
        server.wait()
        yield server
    finally:
        server.close()


def test_a_server_serves_from_the_cache(server: Server) -> None:
    first, fields = server.get("/")
    assert fields["cache-status"] == "cachekit; fwd=uri-miss; stored"
    again, fields = server.get("/")
    assert (again, fields["cache-status"].partition("; ttl")[0]) == (first, "cachekit; hit")
    assert int(fields["age"]) >= 0
    with server.asked("/stream") as response:
        part = response.read(1)
        server.get("/rest")
        assert part + response.read() == server.get("/stream")[0].encode()
    assert server.get("/private")[0] != server.get("/private")[0]
    assert server.get("/", Range="bytes=0-3")[0] == "call"
    with ThreadPoolExecutor(SLOW) as threads:
        slow: list[Any] = list(threads.map(server.get, ["/slow"] * SLOW))
    assert len({body for body, _ in slow}) == 1
