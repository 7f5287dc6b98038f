"""The file tier: a directory that the processes of one host share, and that survives a restart."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cachekit.tiers.file.store import FileStore


def store_of(tier: object) -> FileStore | None:
    """Return the store of a `FileCache`, for caches over it, which check arguments themselves.

    None for any other tier. Importing this function does not import the tier.
    """
    file_tier = sys.modules.get("cachekit.tiers.file.tier")  # a FileCache was made by this module
    if file_tier is None or type(tier) is not file_tier.FileCache:
        return None
    store: FileStore = file_tier.store_of(tier)
    return store
