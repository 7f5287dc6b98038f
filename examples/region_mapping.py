"""Code that takes a dict, over a cache: a memo of its own, and a table that another process could read.

python examples/region_mapping.py
"""

from __future__ import annotations

import tempfile
from collections.abc import MutableMapping

from cachekit import FileCache, IntelligentCache
from cachekit.integrations.mapping import RegionMapping


def fibonacci(n: int, memo: MutableMapping[str, int]) -> int:
    """Return a number of Fibonacci, by a memo that knows nothing of caches."""
    if n < 2:
        return n
    if (found := memo.get(str(n))) is not None:
        return found
    memo[str(n)] = number = fibonacci(n - 1, memo) + fibonacci(n - 2, memo)
    return number


with IntelligentCache(file_cache=FileCache(tempfile.mkdtemp(prefix="memo-"))) as cache:
    memo = RegionMapping(cache.region("fibonacci:", int, ttl=600, tags={"numbers"}))
    print(fibonacci(90, memo), "from", len(memo), "numbers")
    cache.invalidate_by_tags({"numbers"})
    print(len(memo), "after the tag was invalidated")
