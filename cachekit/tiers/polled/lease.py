"""Leases among the clients of a polled store: items that expire, and are empty once given back."""

from __future__ import annotations

from typing import final

from cachekit.tiers.fresh_tokens import fresh
from cachekit.tiers.polled.items import packed
from cachekit.tiers.polled.store import PolledStore


@final
class PolledLease:
    """The right to load a key, until it is released or expires."""

    __slots__ = ("_data", "_name", "_store")

    def __init__(self, store: PolledStore, name: str, data: bytes) -> None:
        self._store = store
        self._name = name
        self._data = data

    def release(self) -> None:
        """Give it back, unless it has expired and may have another holder."""
        item = self._store.read([self._name]).get(self._name)
        if item is not None and item.data == self._data:
            self._store.replace(self._name, b"", 1.0, item.version)


def acquired(store: PolledStore, name: str, seconds: float) -> PolledLease | None:
    """Return the lease of this name, which expires after so many seconds; None if it is taken."""
    data = packed(fresh())
    if store.add(name, data, seconds):
        return PolledLease(store, name, data)
    item = store.read([name]).get(name)
    if item is not None and not item.data and store.replace(name, data, seconds, item.version):
        return PolledLease(store, name, data)
    return None
