"""A listener of the bus, and what it was told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


class Notes:
    """Writes down what it is told, in whichever thread."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []

    def keys_changed(self, keys: Sequence[str]) -> None:
        self.told.append(("keys", list(keys)))

    def tags_changed(self, tags: frozenset[str]) -> None:
        self.told.append(("tags", sorted(tags)))

    def pattern_changed(self, pattern: str) -> None:
        self.told.append(("pattern", pattern))

    def everything_changed(self) -> None:
        self.told.append(("all", None))

    @property
    def gaps(self) -> int:
        return self.told.count(("all", None))

    def has(self, count: int) -> Callable[[], bool]:
        return lambda: len(self.told) >= count
