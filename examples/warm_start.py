"""Warm a cache before the first request, and keep it warm. Run this as two processes at once, too."""

import hashlib
import sys
import tempfile
from pathlib import Path

from cachekit import FileCache, IntelligentCache

calls: list[str] = []  # threads append to it


def profile(key: str) -> str:
    """Stand in for a slow backend: some milliseconds of real work."""
    calls.append(key)
    if key == "user:13":
        raise LookupError("no such user")
    return hashlib.pbkdf2_hmac("sha256", key.encode(), b"a backend", 10_000).hex()


def start(directory: Path) -> None:
    with IntelligentCache(file_cache=FileCache(directory)) as cache:
        # progress=True: a bar on a terminal, one line in a log. Processes with the same keys share the work.
        report = cache.warm_cache(popular, profile, ttl=600, progress=True, keep_warm=True)
        print(f"{len(report.loaded)} loaded, {len(report.fresh)} fresh, failed: {report.failed}")
        assert cache.get("user:7") is not None
        assert cache.get_stats()["combined"].request_hit_rate == 1


popular = [f"user:{number}" for number in range(100)]
directory = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp()) / "cache"
for _ in range(2):  # the second start finds in files what the first one loaded
    start(directory)
print(f"{len(calls)} calls of the backend")
