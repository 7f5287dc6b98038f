"""Tiers on servers that cannot notify: `PolledTier`, over a `PolledStore` of a server.

The store has six calls; the tier does everything else.
"""

from cachekit.tiers.polled.store import Item, PolledStore, RetryingStore
from cachekit.tiers.polled.tier import PolledTier

__all__ = ["Item", "PolledStore", "PolledTier", "RetryingStore"]
