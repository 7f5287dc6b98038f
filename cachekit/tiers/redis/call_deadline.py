"""The deadline of one call to a Cluster, over everything that redis-py does for it.

A node may redirect a call, and redis-py then asks other nodes for the slots, connects, logs in and tries
again. Each step has a deadline of its own (see `line`). Nodes that send each other's callers around would
still keep a call for as long as there are nodes to name.
"""

from __future__ import annotations

import threading
import time
from math import inf
from typing import Final, final

from cachekit.tiers.redis.line import PORTION

#: How many times `timeout` a call may take: two tries, each of which may connect, and look for the slots.
STEPS: Final = 10


@final
class CallDeadline(threading.local):
    """What is left of the call that this thread makes; a `with` block is a call.

    As for a `Line`, each 4 MiB that it moves add a `timeout`.

    Args:
        timeout: seconds.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._begun: float | None = None
        #: Bytes that the call has moved.
        self.moved = 0
        #: The calls that this one interrupts: a signal handler may make one within another.
        self._interrupted: list[tuple[float | None, int]] = []

    def __enter__(self) -> None:
        self._interrupted.append((self._begun, self.moved))
        self._begun, self.moved = time.monotonic(), 0

    def __exit__(self, *_: object) -> None:
        self._begun, self.moved = self._interrupted.pop()

    def left(self) -> float:
        """Return the seconds that are left. Outside of a call there is no end.

        Raises:
            TimeoutError: none are left.
        """
        if self._begun is None:
            return inf
        end = self._begun + self._timeout * (STEPS + self.moved // PORTION)
        left = end - time.monotonic()
        if left <= 0:
            raise TimeoutError("the call took too long")
        return left
