"""What FileCache alone is given, checked, as `tiers.arguments` checks the rest."""

from __future__ import annotations

from math import isfinite
from typing import Final

from cachekit.fences import SharedFence
from cachekit.model.entry import CacheEntry
from cachekit.ports import Fence

LARGEST_MB: Final = 1 << 20


def checked_fence(fence: Fence, entry: CacheEntry) -> SharedFence:
    """The fence, if it is one for this entry.

    Raises:
        TypeError: it is no fence of a file tier.
        ValueError: it was taken for another key, or not for all the tags.
    """
    if not isinstance(fence, SharedFence):
        raise TypeError(f"fence must come from this tier's fence(), not {fence!r}")
    if fence.key != entry.key or not fence.names >= entry.tags:
        raise ValueError(
            f"the fence was taken for key {fence.key!r} and tags {sorted(fence.names)}, not for "
            f"key {entry.key!r} and tags {sorted(entry.tags)}; take it for the key and all the tags "
            f"that will be stored"
        )
    return fence


def checked_limit(max_size_mb: float) -> int:
    """The limit in bytes.

    Raises:
        TypeError: it is no number.
        ValueError: it is out of range.
    """
    if isinstance(max_size_mb, bool) or not isinstance(max_size_mb, (int, float)):
        raise TypeError(
            f"max_size_mb must be a number of MiB, not {max_size_mb!r} of type {type(max_size_mb).__name__}"
        )
    if not (isfinite(max_size_mb) and 1 <= max_size_mb <= LARGEST_MB):
        raise ValueError(f"max_size_mb must be 1 to {LARGEST_MB} (1 TiB), not {max_size_mb!r}")
    return int(max_size_mb * (1 << 20))
