"""Bytes in parts: a large value on its way to a file or a server, which joining would copy."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeAlias, final

from cachekit.errors import ValueTooLargeError

#: Bytes over this number may come in parts. Fewer are always in one piece.
LARGE: Final = 4 << 20
#: For values of any size.
UNBOUNDED: Final = 1 << 62


@final
class Parts:
    """More than `LARGE` bytes, as pieces that follow each other. Its `len` is the number of bytes.

    Args:
        pieces: the bytes, in order.
    """

    __slots__ = ("_size", "pieces")

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self.pieces = [*pieces]
        self._size = sum(map(len, self.pieces))

    def __len__(self) -> int:
        return self._size


#: What a value became: in one piece, or in parts.
Payload: TypeAlias = bytes | Parts


def pieces_of(payload: Payload) -> list[bytes]:
    """Return the pieces of a payload."""
    return payload.pieces if type(payload) is Parts else [payload]


def too_large(size: int) -> ValueTooLargeError:
    """Return the error for a value that is known to take so many bytes at least."""
    return ValueTooLargeError(f"the value takes {size} bytes or more")
