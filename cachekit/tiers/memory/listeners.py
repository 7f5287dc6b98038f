"""Who is told of entries that leave the memory tier; they are told after the fact, and without its lock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

from cachekit.model import RemovalCause
from cachekit.stats import StatsCounter

#: What a removal listener is called with: key, value, cause.
RemovalListener = Callable[[str, Any, RemovalCause], object]


@final
class Listeners:
    """The removal listeners of one tier. All but `tell` is called under the tier's lock.

    Args:
        counter: counts a listener's failure as an error.
    """

    __slots__ = ("_counter", "all")

    def __init__(self, counter: StatsCounter) -> None:
        self._counter = counter
        #: Replaced, never changed: whoever is telling goes on with the ones that it began with.
        self.all: tuple[RemovalListener, ...] = ()

    def add(self, listener: RemovalListener) -> Callable[[], None]:
        """Tell one more; the function returned ends this registration."""
        self.all = (*self.all, listener)
        registered = [listener]

        def forget() -> None:
            # One registration, once: a listener may have been given twice.
            if registered and registered[0] in self.all:
                left = list(self.all)
                left.remove(registered.pop())
                self.all = tuple(left)

        return forget

    def clear(self) -> None:
        """Tell nobody any more."""
        self.all = ()

    def tell(self, removals: list[tuple[str, Any, RemovalCause]]) -> None:
        """Call each with each removal; what one raises is logged and counted, and stops no other."""
        for listener in self.all:
            for removal in removals:
                try:
                    listener(*removal)
                except Exception:
                    import logging

                    self._counter.errors += 1
                    logging.getLogger("cachekit").exception("removal listener %r failed", listener)
