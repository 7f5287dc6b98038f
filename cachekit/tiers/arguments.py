"""What every tier is given, checked: each refusal names the argument, the value and the remedy."""

from __future__ import annotations

import threading
from math import isfinite
from typing import Final

from cachekit.model.entry import CacheEntry
from cachekit.model.types import FOREVER, TTL
from cachekit.model.validation import checked_key, seconds
from cachekit.tiers.base import Fence
from cachekit.tiers.fences import SharedFence


def checked_cap(default_ttl: TTL) -> float:
    """Seconds that a tier keeps anything at the longest; infinity without a limit.

    Raises:
        TypeError: it is no TTL.
        ValueError: it is not more than 0.
    """
    cap = FOREVER if default_ttl is None else seconds(default_ttl, "default_ttl")
    if cap <= 0:
        raise ValueError(f"default_ttl must be more than 0, not {default_ttl!r}; None sets no limit")
    return cap


def checked_interval(cleanup_interval: float | None) -> float | None:
    """Seconds between two sweeps.

    Raises:
        TypeError: it is no number.
        ValueError: it is out of range.
    """
    interval = None if cleanup_interval is None else seconds(cleanup_interval, "cleanup_interval")
    if interval is not None and not 0 < interval <= threading.TIMEOUT_MAX:
        raise ValueError(
            f"cleanup_interval must be more than 0 and at most {threading.TIMEOUT_MAX:.0f} seconds, "
            f"not {cleanup_interval!r}; None switches the sweep off"
        )
    return interval


def check_entry(key: str, entry: CacheEntry) -> None:
    """Refuse what is no entry of this key.

    Raises:
        TypeError: the entry is no CacheEntry, or the key no str.
        ValueError: the entry's own key is another one.
    """
    if not isinstance(entry, CacheEntry):
        raise TypeError(
            f"entry must be a CacheEntry, not {entry!r} of type {type(entry).__name__}; "
            f"set_value() takes plain values"
        )
    if checked_key(key) != entry.key:
        raise ValueError(f"an entry of key {entry.key!r} cannot be stored under {key!r}")


#: The largest `max_size_mb` of a file tier: 1 TiB.
LARGEST_MB: Final = 1 << 20


def checked_fence(fence: Fence, entry: CacheEntry) -> SharedFence:
    """Return the fence if it is one for this entry.

    Raises:
        TypeError: it is not a fence of a file tier.
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
    """Return the limit in bytes.

    Raises:
        TypeError: it is not a number.
        ValueError: it is out of range.
    """
    if isinstance(max_size_mb, bool) or not isinstance(max_size_mb, (int, float)):
        raise TypeError(
            f"max_size_mb must be a number of MiB, not {max_size_mb!r} of type {type(max_size_mb).__name__}"
        )
    if not (isfinite(max_size_mb) and 1 <= max_size_mb <= LARGEST_MB):
        raise ValueError(f"max_size_mb must be 1 to {LARGEST_MB} (1 TiB), not {max_size_mb!r}")
    return int(max_size_mb * (1 << 20))
