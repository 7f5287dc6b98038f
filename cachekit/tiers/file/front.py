"""`FileCache`: the file tier, or on a system without the locks that it needs a class that says so."""

from __future__ import annotations

from cachekit.errors import TierUnavailableError

TYPE_CHECKING = False

__all__ = ["FileCache"]


def _has_locks() -> bool:
    try:
        import fcntl  # noqa: F401
        import resource  # noqa: F401
    except ImportError:
        return False
    return True


if TYPE_CHECKING or _has_locks():
    from cachekit.tiers.file.tier import FileCache
else:

    class FileCache:
        """The file tier, where it cannot be."""

        def __init__(self, *_: object, **__: object) -> None:
            raise TierUnavailableError(
                "a FileCache needs the file locks of POSIX (fcntl), which this system does not have; "
                "leave it out, or pass file_cache=None"
            )
