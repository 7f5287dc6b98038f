"""Tokens that no process has used before. Writes and invalidations put them where fences are compared."""

from __future__ import annotations

import os
from array import array
from typing import Final

from cachekit.runtime import fork
from cachekit.tiers.fences import WRITING

_LOW: Final = WRITING - 1
_DRAWN: Final = 512


class _Source:
    """Tokens that no process has used before: 63 random bits each.

    Two tokens differ in many bytes, so a flipped byte does not turn one into an earlier one. They come from
    the system. `random` would repeat them after forks and seeds. Drawing many at a time costs a fifth.
    """

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Drop the drawn tokens: a forked child would use the same."""
        self._drawn: list[int] = []

    def fresh(self) -> int:
        try:
            return self._drawn.pop()  # one bytecode, so no two threads get the same
        except IndexError:
            self._drawn = [number & _LOW or 1 for number in array("Q", os.urandom(8 * _DRAWN))]
            return self.fresh()


_source = _Source()
#: A token that was never used.
fresh = _source.fresh

fork.call_in_child(_source.renew)
