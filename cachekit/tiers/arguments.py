"""What every tier is given, checked: each refusal names the argument, the value and the remedy."""

from __future__ import annotations

import threading

from cachekit.model.entry import CacheEntry
from cachekit.model.types import FOREVER, TTL
from cachekit.model.validation import checked_key, seconds


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
