"""A process that writes until it is killed, and tells what it has done and what it has begun."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from forking import in_fork


def killed_at(
    operations: int, begin: Callable[[], object], write: Callable[[int], object]
) -> tuple[int, int]:
    """Kill a forked writer once it has done so many operations; return the last one done and the last begun.

    Args:
        operations: how many.
        begin: called first, in the child.
        write: one operation, which gets its number from 1 on.
    """
    reader, writer = os.pipe()
    pid_reader, pid_writer = os.pipe()

    def work() -> None:
        os.write(pid_writer, str(os.getpid()).encode().ljust(20))
        begin()
        number = 0
        while True:
            number += 1
            os.write(writer, b"b")
            write(number)
            os.write(writer, b"d")

    wait = in_fork(work)
    os.close(writer)
    child = int(os.read(pid_reader, 20))
    told = b""
    while told.count(b"d") < operations:
        read = os.read(reader, 1)
        assert read, "the writer has ended by itself"
        told += read
    os.kill(child, signal.SIGKILL)
    while read := os.read(reader, 100):
        told += read
    wait()
    for descriptor in (reader, pid_reader, pid_writer):
        os.close(descriptor)
    return told.count(b"d"), told.count(b"b")
