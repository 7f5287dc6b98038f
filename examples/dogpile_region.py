"""A region of dogpile.cache whose backend is cachekit, in two processes that ask for one value at once.

python examples/dogpile_region.py
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from multiprocessing.synchronize import Barrier

from dogpile.cache import make_region

from cachekit import FileCache, IntelligentCache


def ask(directory: str, log: str, gate: Barrier) -> None:
    """Ask for the report, in a process of its own."""
    with IntelligentCache(file_cache=FileCache(directory)) as cache:
        region = make_region().configure("cachekit", expiration_time=60, arguments={"cache": cache})

        def report() -> str:
            with open(log, "a", encoding="utf-8") as lines:
                lines.write(f"{os.getpid()}\n")
            return "a long report"

        gate.wait()
        print(region.get_or_create("report", report))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        log = os.path.join(directory, "log")
        context = multiprocessing.get_context("spawn")
        gate = context.Barrier(2)
        cache = os.path.join(directory, "cache")
        workers = [context.Process(target=ask, args=(cache, log, gate)) for _ in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        with open(log, encoding="utf-8") as lines:
            calls = len(lines.readlines())
        print(f"{len(workers)} processes, {calls} call of the creator")
