"""The middleware under real servers."""

from __future__ import annotations

import http.client
import importlib.util
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

PROGRAM = """
import asyncio, itertools, time
from cachekit import FileCache, IntelligentCache
from cachekit.http import ASGICache, WSGICache

calls = itertools.count(1)
cache = IntelligentCache(file_cache=FileCache({directory!r}))

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
    await asyncio.sleep(0.3 if scope["path"] == "/slow" else 0)
    await send({{"type": "http.response.start", "status": 200, "headers": headers}})
    if scope["path"] == "/stream":
        for part in (b"a", b"b"):
            await send({{"type": "http.response.body", "body": part, "more_body": True}})
            await asyncio.sleep(0.05)
    await send({{"type": "http.response.body", "body": b"call %d" % next(calls)}})

def wsgi_app(environ, start_response):
    path = environ["PATH_INFO"]
    control = "private" if path == "/private" else "max-age=60"
    time.sleep(0.3 if path == "/slow" else 0)
    start_response("200 OK", [("Cache-Control", control), ("Content-Type", "text/plain")])
    if path == "/stream":
        yield b"a"
        yield b"b"
    yield b"call %d" % next(calls)

asgi, wsgi = ASGICache(app, cache), WSGICache(wsgi_app, cache)
"""

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
        (directory / "program.py").write_text(PROGRAM.format(directory=str(directory / "cache")))
        command = [part.format(port=self.port) for part in SERVERS[name]]
        self._process = subprocess.Popen([sys.executable, "-m", *command], cwd=directory)

    def wait(self) -> None:
        deadline = time.monotonic() + 60
        while self._process.poll() is None and time.monotonic() < deadline:
            with socket.socket() as one:
                if one.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)  # between two attempts
        raise AssertionError("the server did not start")

    def get(self, path: str, **headers: str) -> tuple[str, dict[str, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            return response.read().decode(), {name.lower(): value for name, value in response.getheaders()}
        finally:
            connection.close()

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
    assert server.get("/stream")[0] == server.get("/stream")[0]
    assert server.get("/private")[0] != server.get("/private")[0]
    assert server.get("/", Range="bytes=0-3")[0] == "call"
    with ThreadPoolExecutor(6) as threads:
        slow: list[Any] = list(threads.map(server.get, ["/slow"] * 6))
    assert len({body for body, _ in slow}) == 1
