"""Every error that cachekit raises of its own accord.

One root, `CacheError`, so that a caller can catch everything that is ours; children say which part
failed. A bad argument is not among them: that is a plain `TypeError` or `ValueError` which names the
argument, the value and the remedy. All are picklable, so that they cross process boundaries.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

#: Why stored bytes were not read: cut, changed or forged (`damage`); written by another version
#: (`version`); by a codec or a compression that is not at hand (`codec`); not signed with a secret
#: that is known here, or for another key (`signature`); naming a class that may not be unpickled, or
#: that is gone (`class`).
UnreadableReason: TypeAlias = Literal["damage", "version", "codec", "signature", "class"]


class CacheError(Exception):
    """The root of cachekit's own errors."""


class CacheClosedError(CacheError):
    """A cache, or a tier of it, was used after `close()`."""


class SerializationError(CacheError):
    """A value cannot make the trip to storage and come back as it was; the message names its type."""


class UnreadableError(CacheError):
    """Stored bytes cannot be turned into the value that was stored; tiers count it as a miss.

    Args:
        message: what was found, never the bytes themselves.
        reason: which of the few ways it was; also the attribute `reason`.
    """

    reason: UnreadableReason

    def __init__(self, message: str, reason: UnreadableReason = "damage") -> None:
        super().__init__(message, reason)
        self.reason = reason

    def __str__(self) -> str:
        return str(self.args[0])


class KeyEncodingError(CacheError, TypeError):
    """An argument of a cached function has no identity that could go into a key.

    It is a `TypeError` too, because that is what Python raises for an unhashable argument.
    """


class TierUnavailableError(CacheError):
    """A tier could not do what it was asked: its disk, its server or the way to it failed.

    The cause is what the system, or the driver, raised. A cache over the tier goes on without it.

    Args:
        message: what failed, and where.
        full: whether only room is missing, so that the tier can still be read; also the attribute `full`.
    """

    def __init__(self, *message: object, full: bool = False) -> None:
        super().__init__(*message)
        self.full = full


class LoadTimeoutError(CacheError, TimeoutError):
    """A load took longer than its `hard_timeout`; it goes on in the background."""


class LockTimeoutError(TierUnavailableError):
    """A lock between processes was not to be had in time; nothing was changed."""


class FileFormatError(CacheError):
    """A cache directory was made by another version, or is in use in another shape."""


class ValueTooLargeError(CacheError, ValueError):
    """A value is larger than the cache has room for; the message tells both sizes."""
