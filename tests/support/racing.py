"""Threads that begin together, switch often, and do not swallow what goes wrong."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def switching_every(seconds: float) -> Iterator[None]:
    """Have the interpreter switch threads so often, unless the one that runs waits."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(seconds)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def frequent_switches() -> AbstractContextManager[None]:
    """Have the interpreter switch threads every 10 microseconds, so that races show."""
    return switching_every(1e-5)


def race(*work: Callable[[], T]) -> list[T]:
    """Run each in a thread of its own, all from one moment on; their results, or the first exception."""
    begin = threading.Barrier(len(work))
    results: dict[int, T] = {}
    errors: list[BaseException] = []

    def run(index: int) -> None:
        try:
            begin.wait(60)
            results[index] = work[index]()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(index,), daemon=True) for index in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive(), "a thread did not end"
    if errors:
        raise errors[0]
    return [results[index] for index in range(len(work))]


def in_thread(work: Callable[[], T]) -> Callable[[], T]:
    """Begin the work in a thread; the function returned waits for its result, or raises its exception."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def finish() -> T:
        thread.join(120)
        assert not thread.is_alive(), "the thread did not end"
        if errors:
            raise errors[0]
        return results[0]

    return finish
