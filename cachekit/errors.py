"""Every error that cachekit raises of its own accord.

One root, `CacheError`, so that a caller can catch everything that is ours; children say which part
failed. A bad argument is not among them: that is a plain `TypeError` or `ValueError` which names the
argument, the value and the remedy. All are picklable, so that they cross process boundaries.
"""

from __future__ import annotations


class CacheError(Exception):
    """The root of cachekit's own errors."""


class CacheClosedError(CacheError):
    """A cache, or a tier of it, was used after `close()`."""


class SerializationError(CacheError):
    """A value cannot make the trip to storage and come back as it was; the message names its type."""


class KeyEncodingError(CacheError, TypeError):
    """An argument of a cached function has no identity that could go into a key.

    It is a `TypeError` too, because that is what Python raises for an unhashable argument.
    """


class LockTimeoutError(CacheError):
    """A lock between processes was not to be had in time; nothing was changed."""


class FileFormatError(CacheError):
    """A cache directory was made by another version, or is in use in another shape."""


class ValueTooLargeError(CacheError, ValueError):
    """A value is larger than the cache has room for; the message tells both sizes."""
