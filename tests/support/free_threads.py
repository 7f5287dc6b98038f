"""What is different on a free-threaded build of CPython."""

from __future__ import annotations

import gc
import sys
import warnings
from typing import Final

import pytest

from cachekit.tiers.memory.store import gil_enabled

HAS_GIL: Final = gil_enabled()
#: That build of 3.13 makes classes immortal.
KEEPS_CLASSES: Final = not HAS_GIL and sys.version_info < (3, 14)

lock_free_hits = pytest.mark.skipif(not HAS_GIL, reason="hits of a free-threaded build take the lock")
known_sizes = pytest.mark.skipif(
    not HAS_GIL, reason="objects of a free-threaded build are larger, and it frees them later"
)
mortal_classes = pytest.mark.skipif(KEEPS_CLASSES, reason="the free-threaded 3.13 keeps all classes alive")
#: Marks for clients of redis-py for a Cluster. They leave connections to the collector, and on that build the
#: collector may finalize a socket before the connection that would close it.
collected_connections = (
    [] if HAS_GIL else [pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")]
)


def collect() -> bool:
    """Collect garbage; return True. That build ignores sockets that go before their connections."""
    with warnings.catch_warnings():
        if not HAS_GIL:
            warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    return True
