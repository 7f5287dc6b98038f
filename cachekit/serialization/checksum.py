"""The checksum of stored bytes: CRC-32, which has the same value whichever library computes it.

zlib-ng takes a tenth of the time of most builds of zlib. The difference shows from some kilobytes on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zlib import crc32
else:
    try:
        from zlib_ng.zlib_ng import crc32
    except ImportError:  # the extra is not installed, or not for this machine
        from zlib import crc32

__all__ = ["crc32"]
