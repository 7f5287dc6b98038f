"""The errors of cachekit.

All inherit `CacheError`; the subclass names what failed. All can be pickled, so they cross process
boundaries. An invalid argument raises a plain `TypeError` or `ValueError` instead, which names the
argument, the value and the remedy.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal, TypeAlias

    #: Why stored bytes were not read. `damage`: they are cut, changed or forged. `version`: another version
    #: wrote them. `codec`: their codec or compression is not installed. `signature`: they are not signed with
    #: a known secret, or for another key. `class`: they name a class that is not allowed, or does not exist.
    UnreadableReason: TypeAlias = Literal["damage", "version", "codec", "signature", "class"]


class CacheError(Exception):
    """The base class of cachekit's errors."""


class CacheClosedError(CacheError):
    """A cache or tier was used after `close()`."""


class SerializationError(CacheError):
    """A value cannot be stored and read back unchanged; the message names its type."""


class OnceOnlyError(SerializationError):
    """A value can be read or awaited only once, as a generator can, or contains such a value."""


class UnreadableError(CacheError):
    """Stored bytes cannot be decoded to the stored value. Tiers count this as a miss.

    Args:
        message: What was found, never the bytes themselves.
        reason: Which kind of failure it was (default "damage"); also the attribute `reason`.
    """

    reason: UnreadableReason

    def __init__(self, message: str, reason: UnreadableReason = "damage") -> None:
        super().__init__(message, reason)
        self.reason = reason

    def __str__(self) -> str:
        return str(self.args[0])


class KeyEncodingError(CacheError, TypeError):
    """An argument of a cached function cannot be part of a cache key.

    It is also a `TypeError`, which Python raises for an unhashable argument.
    """


class TierUnavailableError(CacheError):
    """A tier failed: its disk, its server, or the connection to it.

    `__cause__` is the error of the operating system, or of the exchange with the server. A cache bypasses a
    tier that fails.

    Args:
        message: What failed, and where.
        full: Whether the tier is only full, and can still be read (default False); also the attribute
            `full`.
    """

    def __init__(self, *message: object, full: bool = False) -> None:
        super().__init__(*message)
        self.full = full


class LoadTimeoutError(CacheError, TimeoutError):
    """A load exceeded its `hard_timeout`; it continues in the background."""


class LockTimeoutError(TierUnavailableError):
    """A lock between processes was not free in time; nothing was changed."""


class FileFormatError(CacheError):
    """A cache directory was created by another version, or is in use with other settings."""


class CassetteMissError(CacheError):
    """A question is not recorded in the cassette that is replayed, and its function was not called.

    The message names the question, the nearest recorded one and how the two differ, and what to run to record
    it.
    """


class ValueTooLargeError(CacheError, ValueError):
    """A value is larger than the space for it; the message gives both sizes."""
