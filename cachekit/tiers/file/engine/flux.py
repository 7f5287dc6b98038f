"""The word of a key's bucket while writes of the key are in progress.

    bit 63        WRITING
    bits 55-62    how many writes have left the shard and are not over
    bits 39-54    when the first of them began, in eighths of a second
    bits 0-38     of the last change's token

A write of several tiers goes on after it has left the shard. Other writes of the key may begin and end before
it does. The last one to end clears WRITING. If the first one did, a reader could copy what it finds in one
tier, while another tier has the other value. A process that dies never ends its write. So after two seconds
of writes in progress none of the earlier ones counts.
"""

from __future__ import annotations

import time
from typing import Final

from cachekit.tiers.fences import WRITING

_ONE: Final = 1 << 55
_COUNT: Final = 255 * _ONE
_BEGUN: Final = 39
_TIMES: Final = 0xFFFF
#: The bits of the last change's token.
LOW: Final = (1 << _BEGUN) - 1
_LONGEST: Final = 16  # eighths of a second


def others_in(word: int) -> int:
    """Return the bits of a word that tell of writes in progress; 0 if there are none that count."""
    if not word & WRITING or not word & _COUNT or is_old(word):
        return 0
    return word & (_COUNT | _TIMES << _BEGUN)


def is_old(word: int) -> bool:
    """Return whether the writes in progress began too long ago to count."""
    return bool(word & _COUNT) and (_now() - (word >> _BEGUN)) & _TIMES > _LONGEST


def during(token: int, others: int) -> int:
    """Return the word for a change under way, beside other writes in progress."""
    return WRITING | others | token & LOW


def after(token: int, others: int, *, in_progress: bool = False) -> int:
    """Return the word at the end of a change, whose own write goes on in other tiers or is over."""
    if in_progress:
        others = others if others & _COUNT == _COUNT else (others or _now() << _BEGUN) + _ONE
    return WRITING | others | token & LOW if others else token


def is_alone(word: int, token: int) -> bool:
    """Return whether the write with this token is in progress, and overlapped with no other one."""
    return word & ~(_TIMES << _BEGUN) == WRITING | _ONE | token & LOW


def without_one(word: int, fresh: int) -> int:
    """Return the word when one of the writes in progress is over."""
    others = others_in(word)
    return after(fresh, others - _ONE) if others >= 2 * _ONE else fresh


def _now() -> int:
    return int(time.monotonic() * 8) & _TIMES
