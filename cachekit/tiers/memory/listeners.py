"""Telling people of entries that leave the memory tier: after the fact, and without its lock."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from cachekit.model.counters import StatsCounter
from cachekit.model.types import RemovalCause

#: What a removal listener is called with: key, value, cause.
RemovalListener = Callable[[str, Any, RemovalCause], object]


def tell(
    listeners: Iterable[RemovalListener],
    counter: StatsCounter,
    removals: list[tuple[str, Any, RemovalCause]],
) -> None:
    """Call each with each removal; what one raises is logged and counted, and stops no other."""
    for listener in listeners:
        for removal in removals:
            try:
                listener(*removal)
            except Exception:
                import logging

                counter.errors += 1
                logging.getLogger("cachekit").exception("removal listener %r failed", listener)
