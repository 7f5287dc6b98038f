"""A file descriptor that does not outlive the object that holds it."""

from __future__ import annotations

import os
from typing import final


@final
class OpenFile:
    """A descriptor that is closed when this object is dropped, if not before.

    An exception of a signal handler drops it wherever it strikes. A number would stay open, with its lock.
    """

    __slots__ = ("_close", "fd")

    def __init__(self, fd: int) -> None:
        self.fd = fd  #: -1 after `close` and `detach`
        self._close = os.close  # kept here: when an interpreter ends, module globals go first

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Close the descriptor; a second call does nothing."""
        fd = self.detach()
        if fd >= 0:
            self._close(fd)

    def detach(self) -> int:
        """Return the descriptor, which the caller closes from now on."""
        fd, self.fd = self.fd, -1
        return fd
