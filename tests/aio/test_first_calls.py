"""Each awaited method, called for the first time in a process: nothing that may take long runs on the loop.

These are all methods of caches, regions, tiers and cached functions, with each option, and all functions of
the module. A method that is not called here is an error.

Not times are compared, which a busy machine has its own of, but what a step does: imports, files, sockets,
locks of files, and sleep, as Python's audit events tell.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

#: Forks a process for each method and option. It makes a cache, calls once on a loop, and prints what it saw.
PROGRAM = """
import asyncio, inspect, os, sys, threading, time
from cachekit import CacheEntry, LoadOptions, aio

kind, place, broken, *chosen = sys.argv[1:]
EVENTS = {
    "import", "open", "socket.connect", "socket.getaddrinfo", "os.listdir", "os.scandir", "os.mkdir",
    "os.rename", "os.remove", "os.truncate", "fcntl.fcntl", "fcntl.flock", "mmap.__new__", "time.sleep",
    "subprocess.Popen",
}
found, watched = [], False

def hook(event, arguments):
    if watched and event in EVENTS and threading.current_thread() is threading.main_thread():
        found.append(f"{event} {arguments[:1]!r}")

sys.addaudithook(hook)

async def load(*_):
    return 1

async def load_many(keys):
    return dict.fromkeys(keys, 1)

class Listener:
    def everything_changed(self):
        pass
    keys_changed = tags_changed = pattern_changed = __call__ = lambda self, *_: None

def make(**more):
    redis = aio.RedisCache(url=place) if kind == "redis" else None
    file = aio.FileCache(f"{place}/{os.getpid()}", max_size_mb=5) if kind == "files" else None
    return aio.IntelligentCache(aio.MemoryCache(), redis, file, **more)

OPTIONS = {"none": None, "timeouts": LoadOptions(hard_timeout=9, soft_timeout=9),
           "ahead": LoadOptions(refresh_ahead=0.5), "verify": LoadOptions(verify=1.0),
           "waits": LoadOptions(lease_timeout=1)}
if kind == "files":
    OPTIONS |= {"lease": LoadOptions(lease="process"), "slots": LoadOptions(max_concurrent_loads=2)}
if kind == "redis":
    OPTIONS |= {"lease": LoadOptions(lease="fleet")}
#: Options of a cache, and the first calls that each of them changes.
MADE = {
    "ahead of requests": ({"prefetch": True}, ["get", "get_many"]),
    "hot": ({"reload_hot": True}, ["get", "set", "cached", "close"]),
    "told of its health": ({"on_health_change": lambda *_: None}, ["get", "health", "close"]),
    "strict": ({"strict": True}, ["get", "set"]),
}
if kind == "memory":
    MADE = {name: made for name, made in MADE.items() if name in ("told of its health", "strict")}
ENTRY = CacheEntry("k", {"a": 1}, time.time())

async def given(tier, parameter):
    # An argument of a method of a tier, by its name.
    if parameter in ("origin", "fence"):
        return await getattr(tier, "origin" if kind == "redis" and parameter == "origin" else "fence")("k")
    if parameter == "origins":
        return await tier.origins(["k"])
    return {"key": "k", "keys": ["k"], "entry": ENTRY, "entries": {"k": ENTRY}, "pattern": "a",
            "tags": frozenset({"t"}), "value": [1], "listener": Listener(), "seconds": 5}[parameter]

def of_tier(tier, name):
    method = getattr(type(tier), name)

    async def call():
        parameters = list(inspect.signature(method).parameters.values())[1:]
        needed = [one.name for one in parameters if one.default is one.empty]
        await method(tier, *[await given(tier, one) for one in needed])
    return call

def awaited(kind):
    return [name for name in dir(kind) if name[0] != "_" and inspect.iscoroutinefunction(getattr(kind, name))]

def steps(cache):
    function = cache.cached()(load)
    options = dict(ttl=lambda value: 5, tags=lambda x: {str(x)}, store_if=lambda value: True, jitter=0.5)
    varied = cache.cached(name="varied", stale_ttl=9, **options)(load)
    keyed = cache.cached(key_func=str, name="keyed")(load)
    ahead = cache.cached(name="ahead", prefetch=True)(load) if kind != "memory" else function
    region = cache.region("r:", int, loader=load)
    found = {
        "get": lambda: cache.get("k"),
        "set": lambda: cache.set("k", {"a": 1}, tags={"t"}),
        "add": lambda: cache.add("k", 1),
        "update": lambda: cache.update("k", lambda value: 1),
        "begin": lambda: cache.begin("k"),
        "contains": lambda: cache.contains("k"),
        "delete": lambda: cache.delete("k"),
        "touch": lambda: cache.touch("k", 5),
        "explain": lambda: cache.explain("k"),
        "get_many": lambda: cache.get_many(["k", "l"]),
        "set_many": lambda: cache.set_many({"k": 1}),
        "delete_many": lambda: cache.delete_many(["k"]),
        "invalidate_by_tags": lambda: cache.invalidate_by_tags({"t"}),
        "invalidate_by_pattern": lambda: cache.invalidate_by_pattern("a"),
        "clear": lambda: cache.clear(),
        "get_stats": lambda: cache.get_stats(),
        "health": lambda: cache.health(),
        "optimize_cache": lambda: cache.optimize_cache(),
        "close": lambda: cache.close(),
        "aclose": lambda: cache.aclose(),
        "warm_cache": lambda: cache.warm_cache(["w"], load, keep_warm=True),
        "region get": lambda: region.get("k"),
        "region set": lambda: region.set("k", 1),
        "region add": lambda: region.add("k", 1),
        "region update": lambda: region.update("k", lambda value: 1),
        "region begin": lambda: region.begin("k"),
        "region contains": lambda: region.contains("k"),
        "region delete": lambda: region.delete("k"),
        "region clear": lambda: region.clear(),
        "region get_or_set": lambda: region.get_or_set("k", load),
        "cached": lambda: function(1),
        "cached varied": lambda: varied(1),
        "cached keyed": lambda: keyed(1),
        "cached ahead": lambda: ahead(1),
        "cached large": lambda: function(list(range(100_000))),
        "cached plain": lambda: asyncio.to_thread(cache.cached()(lambda x: x), 1),
        "fill": lambda: fill(cache),
    }
    for name in awaited(type(function)):
        method = getattr(function, name)
        found[f"cached {name}"] = lambda m=method, n=name: m() if n in ("cache_info", "cache_clear") else m(1)
    for name, options in OPTIONS.items():
        found[f"get_or_set {name}"] = lambda o=options: cache.get_or_set("g", load, load=o, stale_ttl=9)
        found[f"plain {name}"] = lambda o=options: cache.get_or_set("g", lambda: 1, load=o)
        found[f"get_or_set_many {name}"] = lambda o=options: cache.get_or_set_many(["g"], load_many, load=o)
        found[f"cached {name}"] = lambda o=options: cache.cached(load=o)(load)(1)
    lower = cache.redis_cache if kind == "redis" else cache.file_cache
    tier = cache.memory_cache if lower is None else lower
    for name in awaited(type(tier)):
        found[f"tier {name}"] = of_tier(tier, name)
    for name in aio.__all__:
        if inspect.iscoroutinefunction(getattr(aio, name)):
            found[f"default {name}"] = lambda n=name: of_default(n)
    return found

async def fill(cache):
    filling = await cache.begin("k")
    await filling.store(1)

async def of_default(name):
    # The default cache has files; this one is built by the first call.
    arguments = {"invalidate_cache_pattern": ["a"], "invalidate_cache_tags": [{"t"}],
                 "warm_cache_keys": [["k"], load]}.get(name, [])
    await getattr(aio, name)(*arguments)

def names():
    cache = make()
    every = [*steps(cache), *(f"{call} of one {made}" for made, (_, calls) in MADE.items() for call in calls)]
    for kind, before in (type(cache), ""), (type(cache.region("r:", int)), "region "):
        missing = {before + one for one in awaited(kind)} - {one.removesuffix(" none") for one in every}
        assert not missing, f"no first call of {missing} is made here"
    return every

def once(name):
    call, _, made = name.partition(" of one ")
    cache = make(**MADE[made][0] if made else {})
    step = steps(cache)[call]

    async def main():
        global watched
        # asyncio imports its executor at the first use of it, whoever uses it.
        await asyncio.get_running_loop().run_in_executor(None, int)
        watched = True
        await step()
        if broken == "import":
            import this
        if broken == "open":
            os.close(os.open(os.devnull, os.O_RDONLY))
        for _ in range(10):
            await asyncio.sleep(0)
        watched = False

    asyncio.run(main())

def in_child(work):
    child = os.fork()
    if not child:
        try:
            work()
            for one in found:
                print(one, flush=True)
            os._exit(0)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, work

if not chosen:
    # In a process of its own, so that the others begin without what it imports.
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, "\\n".join(names()).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        chosen = pipe.read().splitlines()
    os.waitpid(child, 0)
    assert len(chosen) > 60, chosen
for name in chosen:
    def tell(name=name):
        once(name)
        found[:] = [f"{name}: {one}" for one in found]
    in_child(tell)
print("done")
"""


#: What needs more than others do: modules, files, a connection, or a thread.
SOME = [
    "get", "set", "invalidate_by_tags", "explain", "warm_cache", "health", "cached", "get_or_set none",
    "get_or_set ahead", "close",
]  # fmt: skip


def seen(kind: str, place: str, broken: str, *names: str) -> list[str]:
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, kind, place, broken, *names],
        capture_output=True,
        text=True,
        timeout=1000,
        check=False,
    )
    *lines, last = ran.stdout.splitlines() or [""]
    assert last == "done", ran.stderr
    return lines


def place_of(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue("redis_url") if kind == "redis" else tmp_path)


@pytest.mark.parametrize("kind", ["memory", "files", "redis"])
def test_no_first_call_holds_up_the_loop(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    assert seen(kind, place_of(kind, tmp_path, request), "", *SOME) == []


@pytest.mark.soak
@pytest.mark.timeout(1000)
@pytest.mark.parametrize("kind", ["memory", "files", "redis"])
def test_no_first_call_of_any_method_holds_up_the_loop(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    assert seen(kind, place_of(kind, tmp_path, request), "") == []


@pytest.mark.parametrize("broken", ["import", "open"])
def test_what_would_hold_it_up_is_seen(broken: str, tmp_path: Path) -> None:
    assert any(one.startswith(f"get: {broken}") for one in seen("memory", str(tmp_path), broken, "get"))
