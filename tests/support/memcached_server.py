"""A memcached of our own, where Debian's package is installed."""

from __future__ import annotations

import shutil
import socket
import subprocess
from typing import Self

import pytest
from redis_server import free_port, wait_until
from server_process import ServerProcess


class MemcachedServer(ServerProcess):
    """A server on a free port, as a context manager."""

    def __init__(self, *options: str) -> None:
        program = shutil.which("memcached")
        if program is None:
            pytest.skip("memcached is not installed")
        pytest.importorskip("pymemcache")
        self._command = [program, "-l", "127.0.0.1", "-u", "root", *options]
        self.port = free_port()
        self.start()

    def start(self) -> None:
        """Start it (again), on the same port, empty."""
        self._process = subprocess.Popen([*self._command, "-p", str(self.port)], stderr=subprocess.DEVNULL)
        wait_until(self._answers, "memcached answers")

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 5).close()
        except OSError:
            return False
        return True

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
