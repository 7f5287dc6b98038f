"""The middleware under real servers: bodies of every kind, clients that go away, and several processes."""

from __future__ import annotations

import http.client
import importlib.util
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest
from redis_server import free_port, wait_until

from cachekit import FileCache, IntelligentCache

SUPPORT = Path(__file__).parents[1] / "support"

#: Requests for the slow page, which is made when all of them are there.
SLOW = 6

SERVERS = {
    "uvicorn": [
        "uvicorn", "served_app:asgi", "--port", "{port}", "--workers", "{workers}", "--log-level", "critical",
        "--timeout-keep-alive", "60",
    ],
    "hypercorn": [
        "hypercorn", "served_app:asgi", "--bind", "127.0.0.1:{port}", "--workers", "{workers}",
        "--keep-alive", "60", "--log-level", "critical",
    ],
    "gunicorn": [
        "gunicorn", "served_app:wsgi", "-b", "127.0.0.1:{port}", "-k", "gthread", "--threads", "16",
        "-w", "{workers}", "--keep-alive", "60", "--log-level", "critical",
    ],
}  # fmt: skip


class Server:
    """A server of this machine, with processes of its own."""

    def __init__(self, name: str, directory: Path, workers: int = 1) -> None:
        self.name = name
        self.port = free_port()
        self.directory = directory
        command = [part.format(port=self.port, workers=workers) for part in SERVERS[name]]
        environment = {"SERVED_DIRECTORY": str(directory), "PYTHONPATH": str(SUPPORT)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=directory, env=os.environ | environment
        )

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

    def said(self, what: str, path: str) -> int:
        """How many requests of a path have arrived, how many calls it took, and how many of these ended."""
        return int(self.get(f"/{what}?{path}")[0])

    def let_go(self, path: str) -> None:
        self.get(f"/go?{path}")

    def goes_away(self, path: str, reads: int) -> None:
        """A client that asks, takes some bytes, and resets its connection."""
        with socket.create_connection(("127.0.0.1", self.port), 60) as client:
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n\r\n".encode())
            if reads:
                received = bytearray()
                while len(received) < reads or b"\r\n\r\n" not in received:
                    part = client.recv(1 << 20)
                    assert part
                    received += part
            else:
                wait_until(lambda: self.said("arrived", path), "the request arrives")
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def close(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(60)


@pytest.fixture(params=SERVERS, scope="module")
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if importlib.util.find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed; the extra test-http has it")
    server = Server(request.param, tmp_path_factory.mktemp("served"))
    try:
        server.wait()
        yield server
    finally:
        server.close()


def test_a_server_serves_from_the_cache(server: Server) -> None:
    first, fields = server.get("/first")
    assert fields["cache-status"] == "cachekit; fwd=uri-miss; stored"
    again, fields = server.get("/first")
    assert (again, fields["cache-status"].partition("; ttl")[0]) == (first, "cachekit; hit")
    assert int(fields["age"]) >= 0
    assert server.get("/private")[0] != server.get("/private")[0]
    assert server.get("/first", Range="bytes=0-3")[0] == "call"


def test_requests_that_come_together(server: Server) -> None:
    """They get one response, for which the application was called once."""
    with ThreadPoolExecutor(SLOW) as threads:
        slow = [threads.submit(server.get, "/slow") for _ in range(SLOW)]
        wait_until(lambda: server.said("arrived", "/slow") == SLOW, "all requests are there")
        server.let_go("/slow")
        assert {one.result()[0] for one in slow} == {"call 1"}
    assert server.said("calls", "/slow") == 1


def test_a_slow_body(server: Server) -> None:
    """Its first part is there before the rest is made, and all of it is stored."""
    with server.asked("/parts/slow") as response:
        part = response.read(1)
        server.let_go("/parts/slow")
        whole = part + response.read()
    assert whole == b"acall 1"
    again, fields = server.get("/parts/slow")
    assert again.encode() == whole
    assert fields["cache-status"].startswith("cachekit; hit")


@pytest.mark.parametrize("query", ["", "?length"])
def test_a_body_that_breaks(server: Server, query: str) -> None:
    """No client takes it for the whole, and none gets it from the cache."""
    path = f"/broken/{bool(query)}"
    server.let_go(path)
    for _ in range(2):
        with server.asked(path + query) as response, pytest.raises((http.client.IncompleteRead, OSError)):
            response.read()
    assert server.said("calls", path) == 2


def test_an_endless_body(server: Server) -> None:
    """Each client has one of its own, beyond what may be stored. Its call ends when the client leaves."""
    with ExitStack() as clients:
        responses = [clients.enter_context(server.asked("/endless")) for _ in range(3)]
        for response in responses:
            for _ in range(16):
                assert len(response.read(1 << 20)) == 1 << 20
        assert server.said("calls", "/endless") == 3
        assert server.get("/page")[0]
    wait_until(lambda: server.said("ended", "/endless") == 3, "the calls end")


def test_a_client_that_goes_away_before_the_response(server: Server) -> None:
    """The others get theirs, from its call or from one of their own."""
    path = "/slow/gone"
    server.goes_away(path, reads=0)
    with ThreadPoolExecutor(2) as threads:
        others = [threads.submit(server.get, path) for _ in range(2)]
        wait_until(lambda: server.said("arrived", path) == 3, "the others ask")
        server.let_go(path)
        bodies = {other.result()[0] for other in others}
    assert len(bodies) == 1
    assert server.get(path)[0] in bodies
    assert server.said("calls", path) <= 2


def test_a_client_that_goes_away_amid_the_response(server: Server) -> None:
    path = "/parts/gone"
    server.goes_away(path, reads=1)
    with ThreadPoolExecutor(1) as thread:
        other = thread.submit(server.get, path)
        wait_until(lambda: server.said("arrived", path) == 2, "the other one asks")
        server.let_go(path)
        body = other.result()[0]
    assert body.startswith("acall ")
    assert server.get(path)[0].startswith("acall ")
    assert server.said("calls", path) <= 2


def test_clients_that_go_away_amid_what_is_kept(server: Server) -> None:
    """What was kept of their responses no longer counts: together it is more than `max_buffered`."""
    for path in [f"/held/{number}" for number in range(20)]:
        server.goes_away(path, reads=4 << 20)
        if server.name != "gunicorn":  # which learns of it when it sends the next part
            wait_until(partial(server.said, "left", path), "the client has left")
        server.let_go(path)
        wait_until(partial(server.said, "ended", path), "the call ends")
        assert server.said("left", path) == 1
    assert len(server.get("/large/after")[0]) == 7 << 20
    assert server.get("/large/after")[1]["cache-status"].startswith("cachekit; hit")


def test_a_client_that_does_not_read(server: Server) -> None:
    """It holds up no other client, and gets the whole when it reads."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(60)
        client.connect(("127.0.0.1", server.port))
        client.sendall(
            b"GET /large HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nConnection: close\r\n\r\n" % server.port
        )
        wait_until(lambda: server.said("calls", "/large"), "the application is called")
        assert len(server.get("/large")[0]) == 7 << 20
        assert server.said("calls", "/large") == 1
        received = bytearray()
        while part := client.recv(1 << 20):
            received += part
        assert len(received.partition(b"\r\n\r\n")[2]) == 7 << 20


@pytest.mark.parametrize("name", SERVERS)
def test_a_purge_by_another_process(name: str, tmp_path: Path) -> None:
    """When a process that is no worker drops a tag, its page is gone at once in the memory of each worker."""
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed; the extra test-http has it")
    server = Server(name, tmp_path, workers=2)
    connections = [http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)]

    def asked() -> list[tuple[str, str, bool]]:
        """The worker that each connection has, the content that it got, and whether it is from the cache."""
        answers = []
        for connection in connections:
            connection.request("GET", "/version")
            response = connection.getresponse()
            status = response.headers["cache-status"]
            answers.append((response.headers["x-worker"], response.read().decode(), "; hit" in status))
        return answers

    def all_workers_have_a_connection() -> bool:
        if len({worker for worker, *_ in asked()}) == 2:
            return True
        connections.append(http.client.HTTPConnection("127.0.0.1", server.port, timeout=60))
        return False

    try:
        (tmp_path / "version").write_text("0")
        server.wait()
        wait_until(all_workers_have_a_connection, "all workers answer")
        with IntelligentCache(file_cache=FileCache(tmp_path / "cache")) as cache:
            for number in range(1, 10):
                answers = asked()
                assert {(content, hit) for _, content, hit in answers} == {(str(number - 1), True)}
                (tmp_path / "version").write_text(str(number))
                cache.invalidate_by_tags({"news"})
                assert {content for _, content, _ in asked()} == {str(number)}
    finally:
        for connection in connections:
            connection.close()
        server.close()
