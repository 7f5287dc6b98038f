"""A server that a test starts as a process of its own, stops for a while, and kills."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager


class ServerProcess:
    """The base class of the servers that tests start. A subclass sets `_process`."""

    _process: subprocess.Popen[bytes] | None = None

    def signal(self, number: int) -> None:
        """Send a signal; return after SIGSTOP when no thread of the server runs any more."""
        assert self._process is not None
        self._process.send_signal(number)
        if number == signal.SIGSTOP:
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def kill(self) -> None:
        """Kill it at once, and wait until it is gone."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stopped, as a machine that swaps or a process that is debugged; connections stay."""
        self.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.signal(signal.SIGCONT)
