"""Checks of the arguments of tiers; each error names the argument, the value and the remedy."""

from __future__ import annotations

import threading
from collections.abc import Set as AbstractSet
from math import isfinite
from typing import Final

from cachekit.model.display import safe_repr, shown_key, shown_tags, shown_value, typed_repr
from cachekit.model.entry import CacheEntry
from cachekit.model.types import FOREVER, TTL
from cachekit.model.validation import checked_key, seconds
from cachekit.tiers.base import Fence
from cachekit.tiers.fences import SharedFence


def checked_cap(default_ttl: TTL) -> float:
    """Return the maximum life of an entry in seconds; infinity for no limit.

    Raises:
        TypeError: `default_ttl` is neither a number nor a timedelta.
        ValueError: `default_ttl` is not more than 0.
    """
    cap = FOREVER if default_ttl is None else seconds(default_ttl, "default_ttl")
    if cap <= 0:
        raise ValueError(f"default_ttl must be more than 0, not {default_ttl!r}; use None for no limit")
    return cap


def checked_interval(cleanup_interval: float | None) -> float | None:
    """Return the seconds between two sweeps; None for no sweeps.

    Raises:
        TypeError: `cleanup_interval` is not a number.
        ValueError: `cleanup_interval` is out of range.
    """
    interval = None if cleanup_interval is None else seconds(cleanup_interval, "cleanup_interval")
    if interval is not None and not 0 < interval <= threading.TIMEOUT_MAX:
        raise ValueError(
            f"cleanup_interval must be more than 0 and at most {threading.TIMEOUT_MAX:.0f} seconds, "
            f"not {safe_repr(cleanup_interval)}; use None for no sweeps"
        )
    return interval


def check_entry(key: str, entry: CacheEntry) -> None:
    """Raise if `entry` is not an entry of this key.

    Raises:
        TypeError: `entry` is not a CacheEntry, or the key is not a str.
        ValueError: the entry has another key.
    """
    if not isinstance(entry, CacheEntry):
        raise TypeError(
            f"entry must be a CacheEntry, not {shown_value(entry)}; use set_value() for plain values"
        )
    if checked_key(key) != entry.key:
        raise ValueError(
            f"key must be the key of the entry, {shown_key(entry.key)}, not {shown_key(key)}; "
            f"create an entry with that key"
        )


LARGEST_MB: Final = 1 << 20


def checked_fence(fence: Fence, entry: CacheEntry) -> SharedFence:
    """Return the fence, if it was taken for this entry.

    Raises:
        TypeError: it is not a fence of a tier that processes share.
        ValueError: it was taken for another key, or not for all tags.
    """
    if not isinstance(fence, SharedFence):
        raise TypeError(f"fence must come from this tier's fence(), not {safe_repr(fence)}")
    check_taken_for(fence.key, fence.names, entry)
    return fence


def check_taken_for(key: str, tags: AbstractSet[str], entry: CacheEntry) -> None:
    """Raise if a fence for this key and these tags was not taken for the entry.

    Raises:
        ValueError: it was taken for another key, or not for all tags.
    """
    if key != entry.key or not tags >= entry.tags:
        raise ValueError(
            f"the fence was taken for {shown_key(key)} and {shown_tags(tags)}, not for "
            f"{shown_key(entry.key)} and {shown_tags(entry.tags)}; take it for the key and all the tags "
            f"that will be stored"
        )


def checked_limit(max_size_mb: float) -> int:
    """Return the limit in bytes of a limit in MiB.

    Raises:
        TypeError: `max_size_mb` is not a number.
        ValueError: `max_size_mb` is out of range.
    """
    if isinstance(max_size_mb, bool) or not isinstance(max_size_mb, (int, float)):
        raise TypeError(f"max_size_mb must be a number of MiB, not {typed_repr(max_size_mb)}")
    if not (isfinite(max_size_mb) and 1 <= max_size_mb <= LARGEST_MB):
        raise ValueError(f"max_size_mb must be 1 to {LARGEST_MB} (1 TiB), not {max_size_mb!r}")
    return int(max_size_mb * (1 << 20))
