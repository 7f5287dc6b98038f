"""No lock of cachekit stays taken when a signal handler raises between the lock and its block."""

from __future__ import annotations

import re
import signal
import threading
from pathlib import Path

import pytest
from interrupting import handled_by, no_collection

import cachekit
from cachekit.runtime.reentrant_lock import RLock

PACKAGE = Path(cachekit.__file__).parent
#: Locks that no `with` of a program's thread enters, or that belong to a program of cachekit.
PLAIN = {
    "runtime/reentrant_lock.py",  # makes the lock of all others
    "runtime/fork.py",  # taken and released by two hooks
    "integrations/dogpile.py",  # a mutex that its caller releases
    "cli/demo_work.py",
    "testing/soak/worker.py",
}


class Struck(Exception):
    pass


def strike(*_: object) -> None:
    raise Struck


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs signals of POSIX")
def test_an_exception_between_the_lock_and_its_block() -> None:
    """The signal is there as soon as the lock is taken: its holder releases it and signals in one go."""
    struck = 0
    with handled_by(strike), no_collection():
        for _ in range(10):
            lock, held, waiting = RLock(), threading.Event(), threading.Event()
            holder = threading.Thread(target=hold, args=(lock, held, waiting))
            holder.start()
            held.wait()
            try:
                waiting.set()
                with lock:
                    holder.join()
            except Struck:
                struck += 1
            holder.join()
            assert not lock._is_owned()  # type: ignore[attr-defined]
    assert struck == 10


def hold(lock: RLock, held: threading.Event, waiting: threading.Event) -> None:
    with lock:
        held.set()
        while not waiting.is_set():
            pass
    signal.raise_signal(signal.SIGUSR1)


def test_with_returns_what_acquire_does() -> None:
    lock = RLock()
    with lock as first, lock as second:
        assert (first, second) == (True, True)
        threading.Condition(lock).notify()
    with pytest.raises(RuntimeError):
        lock.release()


def test_every_lock_is_such_a_lock() -> None:
    """And no block is one of a Condition, whose `with` has the gap in every version of Python."""
    complaints = []
    for file in sorted(PACKAGE.rglob("*.py")):
        name, program = file.relative_to(PACKAGE).as_posix(), file.read_text(encoding="utf-8")
        if name not in PLAIN:
            made = re.findall(r"threading\.(?:R?Lock|\w*Semaphore|Condition)\(\)", program)
            complaints += [f"{name}: {lock}" for lock in made]
        for condition in re.findall(r"(\S+) = threading\.Condition\(", program):
            complaints += [
                f"{name}: {block}" for block in re.findall(rf"with {re.escape(condition)}:", program)
            ]
    assert not complaints, "\n".join(complaints)
