"""How long cachekit waits for another process, or a silent server, before it gives up: longer than usual.

A busy machine keeps a thread or a process from its turn for seconds. What a cache does about that is right,
and not what most tests are about; those that are say for how long.
"""

from __future__ import annotations

from collections.abc import Iterator

import inside
import pytest

from cachekit import FileCache
from cachekit.tiers.file import store
from cachekit.tiers.file.engine.engine import Engine
from cachekit.tiers.redis import bus, bus_protocol

_LONG = 60.0


@pytest.fixture(scope="session", autouse=True)
def long_patience() -> Iterator[None]:
    """Of writers with locks, and of listeners with heartbeats and answers; in forked processes too."""
    defaults = Engine.__init__.__kwdefaults__
    assert defaults is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(defaults, "patience", _LONG)
        patch.setattr(store, "_PATIENCE", _LONG)
        patch.setattr(bus_protocol, "PATIENCE", _LONG)
        patch.setattr(bus, "PATIENCE", _LONG)
        yield


def give_up_soon(cache: FileCache) -> None:
    """Its writers wait half a second for a lock."""
    for shard in inside.shards(inside.engine(cache)):
        shard.lock.patience = 0.5
