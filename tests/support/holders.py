"""Processes that hold something until they are killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cachekit.testing.processes import fork


@contextmanager
def process_with(work: Callable[[], object]) -> Iterator[int]:
    """A forked process that has done `work`, keeps what it returned, and waits; it is killed at the end."""
    done, tell = os.pipe()
    child = fork()
    if not child:
        try:
            os.close(done)
            kept = work()
            os.write(tell, b"x")
            while kept is not None:
                signal.pause()
        finally:
            os._exit(1)
    os.close(tell)
    try:
        with open(done, "rb", buffering=0) as file:
            assert file.read(1) == b"x", "the process died before it was done"
        yield child
    finally:
        kill(child)


def kill(child: int) -> None:
    """Kill -9 and wait until it is gone; a second call does nothing."""
    try:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


@contextmanager
def orphan_of(work: Callable[[], object]) -> Iterator[int]:
    """The process of `process_with`, dead, survived by a child that it forked after `work`."""
    read, write = os.pipe()

    def parent() -> object:
        kept = work()
        child = fork()
        if not child:
            # Said by itself: its parent may be dead before it is out of the fork.
            os.write(write, os.getpid().to_bytes(4, "little"))
            while True:
                signal.pause()
        return kept

    with process_with(parent) as dead:
        orphan = int.from_bytes(os.read(read, 4), "little")
        kill(dead)
        os.close(read)
        os.close(write)
        try:
            os.kill(orphan, 0)  # it lives
            yield orphan
        finally:
            os.kill(orphan, signal.SIGKILL)
