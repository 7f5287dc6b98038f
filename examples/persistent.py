"""Keep results on disk: a second run of a program finds what the first one computed."""

from __future__ import annotations

import subprocess
import sys
import tempfile

from cachekit import FileCache

PROGRAM = """
import sys
from cachekit import FileCache

with FileCache(sys.argv[1], max_size_mb=100) as cache:
    primes = cache.get_value("primes")
    if primes is None:
        print("worked out:", end=" ")
        primes = [n for n in range(2, 5000) if all(n % d for d in range(2, int(n**0.5) + 1))]
        cache.set_value("primes", primes, ttl=24 * 3600, tags={"numbers"})
    else:
        print("found:", end=" ")
    print(len(primes), "primes", flush=True)
"""

with tempfile.TemporaryDirectory() as directory:
    for _ in range(2):
        subprocess.run([sys.executable, "-c", PROGRAM, directory], check=True)

    # This process sees what the others stored. What it invalidates is gone for all of them.
    with FileCache(directory, max_size_mb=100) as cache:
        cache.invalidate_by_tags({"numbers"})
        print("after an invalidation:", cache.get_value("primes"))
