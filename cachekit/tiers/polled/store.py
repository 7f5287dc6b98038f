"""What a polled tier needs of a server: six calls, on items that have versions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable


class Item(NamedTuple):
    """An item as it was read."""

    data: bytes
    version: object  #: changes with every write of the item


@runtime_checkable
class PolledStore(Protocol):
    """Items under names, for `PolledTier`. Every method may be called from any thread, also after a fork.

    Names are ASCII, without blanks, and 100 characters long at most. A method that fails raises
    `TierUnavailableError`. The store may drop any item at any time: that costs hits. It must never return
    the data of an item that was written over.

    Lives are in seconds, None for no end. A store may let items live longer, because the data of a value
    has its end. It must compare and store in one step in `add` and `replace`, among all its clients.
    """

    def read(self, names: Sequence[str]) -> dict[str, Item]:
        """Return the items that are there."""
        ...

    def write(self, name: str, data: bytes, life: float | None) -> None:
        """Store an item in place of an older one. It is stored when this returns."""
        ...

    def add(self, name: str, data: bytes, life: float | None) -> bool:
        """Store an item if there is none; return whether it was stored."""
        ...

    def replace(self, name: str, data: bytes, life: float | None, version: object) -> bool:
        """Store an item in place of the one that has this version; return whether it was stored."""
        ...

    def ping(self) -> None:
        """Return if the server answers."""
        ...

    def close(self) -> None:
        """Close connections. A second call does nothing."""
        ...


@runtime_checkable
class RetryingStore(PolledStore, Protocol):
    """A store that tries a write once more where the connection broke."""

    def write_either(self, name: str, data: bytes, other: Callable[[], bytes], life: float | None) -> None:
        """Store `data` in place of an older item; or `other()`, if the connection broke before an answer.

        The first try may have been carried out, and another client may have written since. So the second
        try must not bring the token of the first one back.
        """
        ...
