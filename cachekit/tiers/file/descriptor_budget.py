"""The descriptors that all cache directories of a process keep open: at most half of what it may have.

A mapping takes a descriptor too. Whatever opens or maps a file that stays open asks for room first, and what
was used least is closed. A lookup does not say what it uses, because that would cost more than the lookup.
So what stays open is set aside instead, and the next operation that uses it takes it back. As in the CLOCK
algorithm, only what was not taken back is closed. A cache with few descriptors opens its files more often.
"""

from __future__ import annotations

import errno
import resource
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Final, ParamSpec, Protocol, TypeVar, final

from cachekit.runtime.backoff import pauses

P = ParamSpec("P")
T = TypeVar("T")

#: Descriptors that an open directory needs for a moment, beside those that stay open.
_SPARE: Final = 8
_LEAST: Final = 8
_MOST: Final = 2048
_PATIENCE: Final = 0.1  # seconds
_USED_UP: Final = frozenset({errno.EMFILE, errno.ENFILE})


class Holder(Protocol):
    """What keeps descriptors open, and can open them again."""

    def held(self) -> int:
        """Return how many descriptors it keeps open."""
        ...

    def close_mapping(self) -> bool:
        """Close one mapping that was not used lately; return whether there was one."""
        ...

    def rest(self) -> bool:
        """Close what was not used since the last call, unless it is in use; return whether it did."""
        ...


@final
class Fixed:
    """Descriptors that stay open as long as this object is kept.

    Args:
        count: how many.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        descriptors.register(self)

    def held(self) -> int:
        """Return how many there are."""
        return self._count

    def close_mapping(self) -> bool:
        """Return False."""
        return False

    def rest(self) -> bool:
        """Return False."""
        return False


@final
class DescriptorBudget:
    """The budget of this process. Safe in any thread, before and after a fork, and in a signal handler.

    It has no lock. Threads that open files at the same time may exceed the limit by one each.
    """

    def __init__(self) -> None:
        self._holders: dict[int, weakref.ref[Holder]] = {}
        self._count = 0

    def register(self, holder: Holder) -> None:
        """Count the descriptors of a holder while it lives."""
        self._count += 1
        number = id(holder)
        self._holders[number] = weakref.ref(holder, lambda _: self._holders.pop(number, None))

    def limit(self) -> int:
        """Return how many descriptors cache directories may keep open now."""
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return max(_LEAST, min(_MOST, soft // 2 - _SPARE)) if soft >= 0 else _MOST

    def make_room(self) -> None:
        """Close what was used least, if one more descriptor would exceed the limit."""
        holders = self._all()
        excess = sum([one.held() for one in holders]) + 1 - self.limit()
        if excess > 0:
            self._close(holders, excess)

    def attempt(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function that opens a file; if the process has no descriptor left, free some and try again.

        Another thread may take what was freed, and what other threads use at this moment cannot be closed. So
        this goes on for 0.1 s.

        Raises:
            OSError: as the function does.
        """
        waits: Iterator[float] | None = None
        while True:
            try:
                return function(*args, **kwargs)
            except OSError as error:
                if error.errno not in _USED_UP:
                    raise
                if waits is None:
                    waits = pauses(time.monotonic() + _PATIENCE)
                pause = next(waits, None)
                if pause is None:
                    raise
                holders = self._all()
                if self._close(holders, max(_SPARE, sum([one.held() for one in holders]) // 2)):
                    pause = 0.0
            time.sleep(pause)

    def _all(self) -> list[Holder]:
        # list() of a dict is one step, iterating is not.
        found = [one for one in (ref() for ref in list(self._holders.values())) if one is not None]
        # Each call begins at another one, so that it is not always the same that is closed.
        self._count += 1
        start = self._count % len(found) if found else 0
        return found[start:] + found[:start]

    def _close(self, holders: list[Holder], excess: int) -> bool:
        """Close so many descriptors; return whether any was closed."""
        before = sum([one.held() for one in holders])
        left = excess
        # Mappings first: a shard needs several descriptors, and can do without any mapping but one.
        for _ in range(excess):
            if not any(one.close_mapping() for one in sorted(holders, key=_held, reverse=True)):
                break
            left -= 1
        # The first round sets aside what was in use.
        for one in (*holders, *holders):
            if left <= 0:
                break
            held = one.held()
            if one.rest():
                left -= held - one.held()
        return sum([one.held() for one in holders]) < before


def _held(holder: Holder) -> int:
    return holder.held()


#: The budget of this process.
descriptors: Final = DescriptorBudget()
