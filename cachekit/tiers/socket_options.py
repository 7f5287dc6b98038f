"""The option that sockets to servers have: what a closed one has not sent is never sent.

Otherwise the system goes on sending it. When the network recovers, seconds later, a write that the tier has
given up would arrive after newer ones.
"""

from __future__ import annotations

import socket
import struct
from typing import Final

#: Arguments of `setsockopt`. The system discards, on close, what the server has not acknowledged.
DISCARD_UNSENT: Final = (socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
