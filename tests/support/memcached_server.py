"""A memcached of our own, where Debian's package is installed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from typing import Self

import pytest
from redis_server import free_port, wait_until


class MemcachedServer:
    """A server on a free port; `close` ends it."""

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

    def signal(self, number: int) -> None:
        """Send a signal; return after SIGSTOP when no thread of the server runs any more."""
        self._process.send_signal(number)
        if number == signal.SIGSTOP:
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def kill(self) -> None:
        """Kill it at once, and wait until it is gone."""
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
