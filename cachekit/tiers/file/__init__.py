"""The file tier: a directory that the processes of one host share, and that survives a restart."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cachekit.tiers.file.store import FileStore


def store_of(tier: object) -> FileStore | None:
    """Return the store of a `FileCache`, for caches over it, which check arguments themselves.

    None for any other tier. Importing this function does not import the tier.
    """
    from cachekit.tiers.file import tier as file_tier

    return file_tier.store_of(tier) if type(tier) is file_tier.FileCache else None
