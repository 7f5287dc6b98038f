"""After a restart, what was used most is in memory before the first request, and no loader is called."""

import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from cachekit import FileCache, IntelligentCache, MemoryCache


def profile(number: int) -> str:
    return f"profile {number}"


def start(directory: Path, expected: int) -> int:
    with IntelligentCache(MemoryCache(100), file_cache=FileCache(directory), reload_hot=True) as cache:
        deadline = time.monotonic() + 10  # a server does the other work of its start here
        while cache.get_stats()["combined"].reloaded < expected and time.monotonic() < deadline:
            time.sleep(0.01)
        for number in range(20):
            cache.get_or_set(f"user:{number}", partial(profile, number))
            cache.get(f"user:{number}")
        return cache.get_stats()["memory"].misses


directory = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp()) / "cache"
print(f"first run: {start(directory, 0)} misses in memory, second run: {start(directory, 20)}")
