"""A stopped process holds the lock of a shard: a call waits for it once at most, later calls do not wait."""

from __future__ import annotations

import fcntl
import threading
from collections.abc import Callable
from pathlib import Path

import inside
import pytest

from cachekit import FileCache, IntelligentCache, MemoryCache, TierUnavailableError
from cachekit.tiers.file import store_of
from cachekit.tiers.file.engine.shard_lock import ShardLock

CALLS: dict[str, Callable[[IntelligentCache], object]] = {
    "set": lambda cache: cache.set("k", "new"),
    "set_many": lambda cache: cache.set_many({f"k{number}": "new" for number in range(20)}),
    "delete": lambda cache: cache.delete("k"),
    "delete_many": lambda cache: cache.delete_many([f"k{number}" for number in range(20)]),
}


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("call", CALLS)
def test_the_wait_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, strict: bool
) -> None:
    """Not by the general way, which goes on where the short way failed; and memory has nothing older."""
    waits = 0
    wait = ShardLock._wait

    def counted(lock: ShardLock, deadline: float) -> None:
        nonlocal waits
        if threading.current_thread() is threading.main_thread():  # not the one that probes
            waits += 1
        wait(lock, deadline)

    file = FileCache(tmp_path, 64, None)
    memory = MemoryCache(100)
    with IntelligentCache(memory, None, file, strict=strict) as cache:
        cache.set_many({"k": "old"} | {f"k{number}": "old" for number in range(20)})
        store = store_of(file)
        assert store is not None
        shards = inside.shards(store.engine())
        assert len(shards) > 1
        for shard in shards:
            shard.lock.patience = 0.01
        monkeypatch.setattr(ShardLock, "_wait", counted)
        held = [(tmp_path / f"{shard.number:02x}" / "lock").open("rb") for shard in shards]
        for lock in held:
            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            for _ in range(3):
                if strict:
                    with pytest.raises(TierUnavailableError):
                        CALLS[call](cache)
                else:
                    assert not CALLS[call](cache) or call.startswith("delete")
                assert waits == 1
            assert memory.get_value("k3" if call.endswith("many") else "k") != "old"
        finally:
            for lock in held:
                lock.close()
