"""Processes that read and invalidate one key set through a polled tier, and count stale reads.

The truth is a number per key in shared memory, which only grows. A process that has changed it invalidates
the key. From the moment at which the invalidation returned, no read may give an older number.
"""

from __future__ import annotations

import multiprocessing
import os
import random
from collections.abc import Callable
from typing import Any, NamedTuple

from cachekit import CacheEntry, IntelligentCache, MemoryCache
from cachekit.tiers.polled import PolledTier
from cachekit.tiers.polled.entries import Entries

KEYS = 5


class Counts(NamedTuple):
    reads: int
    invalidations: int
    stale: int


def hammer(
    make: Callable[[], PolledTier],
    rounds: int,
    processes: int = 6,
    harm: Callable[[Entries], None] | None = None,
    truth_first: bool = False,
    memory: bool = False,
) -> Counts:
    """Run the processes, each of which does so many rounds.

    Args:
        make: makes the tier of a process.
        rounds: rounds of each process.
        processes: how many there are.
        harm: takes a guard out of the entries of a tier.
        truth_first: read the truth before the origin, as a caller without the guard of loads does.
        memory: read through a cache with memory. Then what was settled before its last look for notices
            is what it must have seen.
    """
    context: Any = multiprocessing.get_context("fork")
    truth = context.Array("q", KEYS)  # what the numbers are
    settled = context.Array("q", KEYS)  # those whose invalidation has returned
    results = context.Queue()

    def work() -> None:
        chance = random.Random(os.getpid())
        reads = invalidations = stale = 0
        with (
            make() as tier,
            IntelligentCache(MemoryCache(), tier, file_cache=None, close_tiers=False) as cache,
        ):
            if harm is not None:
                harm(tier._entries)
            noticed = [0] * KEYS
            for _ in range(rounds):
                number = chance.randrange(KEYS)
                key, tag = f"user:{number}", f"tag{number}"
                if chance.random() < 0.12:
                    with truth.get_lock():
                        truth[number] += 1
                        mine = truth[number]
                    chance.choice(
                        [
                            lambda: tier.delete(key),  # noqa: B023
                            lambda: tier.invalidate_by_tags({tag}),  # noqa: B023
                            lambda: tier.invalidate_by_pattern("user:"),
                            tier.clear,
                        ]
                    )()
                    invalidations += 1
                    with settled.get_lock():
                        settled[number] = max(settled[number], mine)
                    continue
                reads += 1
                if memory:
                    if chance.random() < 0.3:
                        before = list(settled)
                        tier._listeners.look()
                        noticed = before
                    value = cache.get_or_set(key, lambda: truth[number], tags={tag})  # noqa: B023
                    stale += value < noticed[number]
                    continue
                least = settled[number]
                found = tier.peek(key)
                if found is None:
                    seen = truth[number]
                    origin = tier.origin(key, frozenset({tag}))
                    loaded = seen if truth_first else truth[number]
                    tier.add(key, CacheEntry(key, loaded, tags={tag}), origin)
                else:
                    stale += found.value < least
        results.put(Counts(reads, invalidations, stale))

    workers = [context.Process(target=work) for _ in range(processes)]
    for worker in workers:
        worker.start()
    counts = [results.get(timeout=800) for _ in workers]
    for worker in workers:
        worker.join()
    return Counts(*(sum(column) for column in zip(*counts, strict=True)))
