"""Three memcached servers, one of which is killed and comes back while processes load and invalidate."""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from contextlib import ExitStack
from typing import Any

from inside import missed_by_server
from memcached_server import MemcachedServer
from redis_server import wait_until

from cachekit import IntelligentCache, MemcachedCache, TierUnavailableError

KEYS, PROCESSES = 20, 4


def test_one_of_three_is_killed(prefix: str) -> None:
    """No read is stale before, during and after that, and what each process missed is repeated."""
    context: Any = multiprocessing.get_context("fork")
    truth, settled = context.Array("q", KEYS), context.Array("q", KEYS)
    outages, back, reads = (context.Array("q", PROCESSES, lock=False) for _ in range(3))
    stop, results = context.Event(), context.Queue()
    with ExitStack() as stack:
        servers = [stack.enter_context(MemcachedServer()) for _ in range(3)]
        addresses = [server.address for server in servers]

        def work(place: int) -> None:
            chance, stale = random.Random(os.getpid()), 0
            tier = MemcachedCache(addresses, prefix, timeout=5)
            with IntelligentCache(None, tier, file_cache=None, strict=True) as cache:
                while not stop.is_set():
                    number = chance.randrange(KEYS)
                    key, tag = f"user{number}:1", f"tag{number}"
                    try:
                        if chance.random() < 0.2:
                            with truth.get_lock():
                                truth[number] += 1
                                mine = truth[number]
                            if chance.random() < 0.5:
                                cache.delete(key)
                            else:
                                cache.invalidate_by_tags({tag})
                            with settled.get_lock():
                                settled[number] = max(settled[number], mine)
                        else:
                            least = settled[number]
                            value = cache.get_or_set(key, lambda: truth[number], tags={tag})  # noqa: B023
                            stale += value < least
                            reads[place] += 1
                            back[place] += outages[place] > 0
                    except TierUnavailableError:
                        outages[place] += 1
                        back[place] = 0
                wait_until(lambda: not missed_by_server(cache), "nothing is missed")
                results.put(stale)

        workers = [context.Process(target=work, args=(place,), daemon=True) for place in range(PROCESSES)]
        for worker in workers:
            worker.start()
        wait_until(lambda: all(count > 50 for count in reads), "all have read")
        servers[1].kill()
        wait_until(lambda: all(outages), "all have noticed")
        servers[1].start()
        returned = time.monotonic()
        wait_until(lambda: all(count > 50 for count in back), "all use the tier again")
        print(f"used again by all {time.monotonic() - returned:.2f} s after the server was back")
        stop.set()
        assert [results.get(timeout=100) for _ in workers] == [0] * PROCESSES
        for worker in workers:
            worker.join()
        with IntelligentCache(None, MemcachedCache(addresses, prefix, timeout=60), None) as cache:
            for number in range(KEYS):
                value = cache.get_or_set(f"user{number}:1", lambda: truth[number])  # noqa: B023
                assert value == truth[number]
