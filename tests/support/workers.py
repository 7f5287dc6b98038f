"""Processes that use one directory, or one server, and do what a test tells them, one line at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from weakref import WeakValueDictionary

import pytest

from cachekit.monitoring import watching

_PROGRAM = """
import os, sys
from cachekit import FileCache, IntelligentCache, MemoryCache, RedisCache

place, name, prefix = sys.argv[1:4]
if prefix:
    cache = IntelligentCache(MemoryCache(), RedisCache(url=place, key_prefix=prefix), None)
else:
    cache = IntelligentCache(MemoryCache(), file_cache=FileCache(place, 10))
number = 0

def load(count):
    global number
    for _ in range(count):
        number += 1
        cache.get_or_set(f"{name}:{os.getpid()}:{number}", lambda: number)

for line in sys.stdin:
    command, _, count = line.strip().partition(" ")
    if command == "load":
        load(int(count))
    elif command == "fork":
        child = os.fork()
        if not child:
            load(int(count))
            sys.exit()
        assert os.waitpid(child, 0)[1] == 0
    elif command == "close":
        cache.close()
    print(command, flush=True)
"""


class Worker:
    """A process with a cache over a directory, or over a server and a prefix, whose keys no other has."""

    def __init__(self, place: Path | str, name: str, prefix: str = "") -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(place), name, prefix],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.do("begin")

    @property
    def pid(self) -> int:
        return self._process.pid

    def do(self, command: str) -> None:
        """Carry out a command, and wait until that is done."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == command.partition(" ")[0] + "\n"

    def stop(self) -> None:
        """Let it stand still until `go_on`."""
        os.kill(self._process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on after `stop`."""
        os.kill(self._process.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End it by SIGKILL."""
        self._process.kill()
        self._process.communicate()

    def end(self) -> None:
        """Let it end by itself."""
        self._process.communicate()
        assert self._process.returncode == 0


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The runtime directory of the user, where no earlier cache of this process has published."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(watching, "_watches", WeakValueDictionary())
    return tmp_path
