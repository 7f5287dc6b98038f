"""The re-entrant lock of all modules, which an exception of a signal handler does not leave taken.

A handler may raise between any two steps: KeyboardInterrupt, or the exception of a time limit. Up to Python
3.13 a `with` enters the lock and its block in one step. From 3.14 on the call of `__enter__` is a step of its
own, so the handler may strike between it and the block, and nothing releases the lock.
"""

from __future__ import annotations

import sys
import threading

if sys.version_info < (3, 14):
    RLock = threading.RLock
else:
    import _thread

    class RLock(_thread.RLock):  # type: ignore[misc]  # CPython lets it be derived from
        """A lock that `with` takes without such a gap."""

        __slots__ = ()

        def __enter__(self) -> bool:  # type: ignore[override]
            # Signals are handled after calls of C functions, and when a function of Python begins. A step
            # of `for` calls `acquire` and is neither, nor is the return to a `with`.
            for _ in iter(self.acquire, None):
                return True
            raise AssertionError("acquire() returned None")
