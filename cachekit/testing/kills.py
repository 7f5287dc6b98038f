"""A kill loop: processes that use one cache directory and are killed by SIGKILL at random moments.

Each worker owns some keys, and records in shared memory what it is about to do and what it has done. After
each kill the loop checks the keys of the dead worker: each must hold the last value that was written to it,
or the one in flight.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final, NamedTuple, NoReturn, Protocol, final
from zlib import crc32

from cachekit.testing.processes import fork


class Store(Protocol):
    """The methods of a cache that the loop uses; see `engine_store` in the tests of the file tier."""

    def read(self, key: str) -> bytes | None:
        """Return the value of the key, or None."""
        ...

    def write(self, key: str, value: bytes | None) -> None:
        """Store a value; None deletes the key."""
        ...


class KillReport(NamedTuple):
    """The results of the loop. All but the first three must be zero; see `KillLoop.run`."""

    kills: int
    operations: int  #: that workers had finished when the loop ended
    in_flight: int  #: kills during a write
    wrong: int  #: values that were never the key's, or not the one that the key must hold
    lost: int  #: missing entries, except those in flight
    stuck: int  #: times that no worker made progress for a minute
    unreadable: int  #: times that the directory could not be opened
    errors: list[str]


_OWN: Final = 16  # keys of each worker
_SIZES: Final = (10, 100, 300, 3000, 30_000)
_DELETED: Final = 1 << 63


@final
class KillLoop:
    """Kills workers at random moments, and checks the files that they leave.

    Args:
        open_store: Opens the cache; called in every process.
        workers: The number of processes that work at once (default 4).
        evicts: Whether entries may be evicted (default False).
        seed: The seed of what the workers do (default 0). When they are killed depends on the machine.
    """

    def __init__(
        self,
        open_store: Callable[[], AbstractContextManager[Store]],
        workers: int = 4,
        evicts: bool = False,
        seed: int = 0,
    ) -> None:
        self._open = open_store
        self._workers = workers
        self._evicts = evicts
        self._random = random.Random(seed)
        # For each worker: operations done, key in flight + 1, its number; then the last number per key.
        self._stride = 3 + _OWN
        self._board = memoryview(mmap.mmap(-1, 8 * workers * self._stride)).cast("Q")

    def run(self, kills: int) -> KillReport:
        """Kill workers `kills` times, and return the results."""
        children = [self._start(number) for number in range(self._workers)]
        in_flight = wrong = lost = stuck = unreadable = 0
        errors: list[str] = []
        try:
            for _ in range(kills):
                victim = self._random.randrange(self._workers)
                if not self._wait_for_progress(victim, self._random.randrange(1, 60)):
                    stuck += 1
                    errors.append("no worker made progress")
                # A random delay, so that the kill comes anywhere in an operation.
                for _ in range(self._random.randrange(3000)):
                    pass
                os.kill(children[victim], signal.SIGKILL)
                _, status = os.waitpid(children[victim], 0)
                if not os.WIFSIGNALED(status):
                    errors.append(f"worker {victim} ended without a kill, with status {status}")
                in_flight += bool(self._board[victim * self._stride + 1])
                try:
                    with self._open() as store:
                        bad, missing = self._compare(store, victim)
                except Exception as error:  # noqa: BLE001  # any exception is a finding
                    unreadable += 1
                    errors.append(repr(error))
                else:
                    wrong += len(bad)
                    lost += len(missing)
                    errors += bad + missing
                children[victim] = self._start(victim)
        finally:
            for child in children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
        done = sum(self._board[worker * self._stride] for worker in range(self._workers))
        return KillReport(kills, done, in_flight, wrong, lost, stuck, unreadable, errors)

    def _wait_for_progress(self, victim: int, operations: int) -> bool:
        at = victim * self._stride
        goal = self._board[at] + operations
        deadline = time.monotonic() + 60
        while self._board[at] < goal:
            if time.monotonic() > deadline:
                return False
            os.sched_yield()
        return True

    def _compare(self, store: Store, worker: int) -> tuple[list[str], list[str]]:
        at = worker * self._stride
        flying, flying_number = self._board[at + 1] - 1, self._board[at + 2]
        bad, missing = [], []
        for own in range(_OWN):
            key = f"{worker}:{own}"
            last = self._board[at + 3 + own]
            allowed = {_content(key, last)}
            if own == flying:
                allowed.add(_content(key, flying_number))
            found = store.read(key)
            if found is None and None not in allowed and own != flying:
                if not self._evicts:
                    missing.append(f"{key} is missing; its number was {last:x}")
            elif found is not None and found not in allowed:
                bad.append(f"{key} holds {found[:40]!r}; it must be number {last:x} or in flight")
            # From here on the stored value counts, and no write is in flight.
            if own == flying and found == _content(key, flying_number):
                self._board[at + 3 + own] = flying_number
            elif found is None:
                self._board[at + 3 + own] = 0
        self._board[at + 1] = 0
        return bad, missing

    def _start(self, worker: int) -> int:
        seed = self._random.random()
        child = fork()
        if not child:
            self._work(worker, seed)
        return child

    def _work(self, worker: int, seed: float) -> NoReturn:
        try:
            board, at = self._board, worker * self._stride
            random_ = random.Random(seed)
            number = max(board[at + 3 + own] & ~_DELETED for own in range(_OWN))
            number = max(number, board[at + 2] & ~_DELETED)
            with self._open() as store:
                while True:
                    own = random_.randrange(_OWN)
                    key = f"{worker}:{own}"
                    number += 1
                    what = number | (_DELETED if random_.random() < 0.2 else 0)
                    board[at + 2] = what
                    board[at + 1] = own + 1
                    store.write(key, _content(key, what))
                    board[at + 3 + own] = what
                    board[at + 1] = 0
                    board[at] += 1
                    # The keys of other workers must hold values of those workers.
                    other = f"{random_.randrange(self._workers)}:{random_.randrange(_OWN)}"
                    found = store.read(other)
                    if found is not None and found != _content(other, int(found.split(b"|")[1])):
                        raise ValueError(f"{other} holds {found[:40]!r}")
        finally:
            os._exit(1)


def _content(key: str, number: int) -> bytes | None:
    # The value of the write with this number; it contains both and is easy to check.
    if not number or number & _DELETED:
        return None
    head = b"%s|%d|" % (key.encode(), number)
    return head + bytes([crc32(head) & 0xFF]) * _SIZES[crc32(head) % len(_SIZES)]
