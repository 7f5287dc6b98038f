"""`Fill`: a load that is not a function, from before it begins until its value is stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, final

from cachekit.model.display import shown_key
from cachekit.model.types import TTL

V = TypeVar("V")


@final
class Fill(Generic[V]):
    """The right to store a value that is loaded from now on. `IntelligentCache.begin` returns one.

    Safe in any thread. It holds no lock: other callers may load or write the key at the same time.
    """

    __slots__ = ("_key", "_store")

    def __init__(self, key: str, store: Callable[[Any, TTL, TTL], bool]) -> None:
        self._key = key
        self._store = store

    @property
    def key(self) -> str:
        """Return the key that is loaded."""
        return self._key

    def store(self, value: V, ttl: TTL = None, *, stale_ttl: TTL = None) -> bool:
        """Store the loaded value, unless the key or one of the tags was written or invalidated since `begin`.

        It replaces an older entry. It counts as a write of the key, so a second call stores nothing.

        Args:
            value: As for `IntelligentCache.set`.
            ttl: As for `IntelligentCache.set`. With 0 or less nothing is stored.
            stale_ttl: As for `IntelligentCache.set`.

        Returns:
            Whether it was stored.

        Raises:
            TypeError, ValueError, SerializationError: as for `IntelligentCache.set`.
        """
        return self._store(value, ttl, stale_ttl)

    def __repr__(self) -> str:
        return f"<Fill of {shown_key(self._key)}>"
