"""Each awaited method, called for the first time in a process: nothing that may take long runs on the loop.

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
import asyncio, os, sys, threading
from cachekit import LoadOptions, aio

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

def make():
    redis = aio.RedisCache(url=place) if kind == "redis" else None
    file = aio.FileCache(f"{place}/{os.getpid()}", max_size_mb=5) if kind == "files" else None
    return aio.IntelligentCache(aio.MemoryCache(), redis, file)

OPTIONS = {"none": None, "timeouts": LoadOptions(hard_timeout=9, soft_timeout=9),
           "ahead": LoadOptions(refresh_ahead=0.5)}
if kind == "files":
    OPTIONS |= {"lease": LoadOptions(lease="process"), "slots": LoadOptions(max_concurrent_loads=2)}
if kind == "redis":
    OPTIONS |= {"lease": LoadOptions(lease="fleet")}

def steps(cache, cached):
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
        "tags": lambda: cache.invalidate_by_tags({"t"}),
        "pattern": lambda: cache.invalidate_by_pattern("a"),
        "clear": lambda: cache.clear(),
        "stats": lambda: cache.get_stats(),
        "health": lambda: cache.health(),
        "optimize": lambda: cache.optimize_cache(),
        "close": lambda: cache.close(),
        "warm": lambda: cache.warm_cache(["w"], load, keep_warm=True),
        "region": lambda: cache.region("r:", int).get("k"),
        "cached": lambda: cached(1),
        "refresh": lambda: cached.refresh(1),
        "invalidate": lambda: cached.invalidate(1),
    }
    for name, options in OPTIONS.items():
        found[f"get_or_set {name}"] = lambda o=options: cache.get_or_set("g", load, load=o, stale_ttl=9)
        found[f"plain {name}"] = lambda o=options: cache.get_or_set("g", lambda: 1, load=o)
        found[f"many {name}"] = lambda o=options: cache.get_or_set_many(["g", "h"], load_many, load=o)
    return found

def once(name):
    cache = make()
    step = steps(cache, cache.cached()(load))[name]

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

for name in steps(None, None):
    if chosen and name not in chosen:
        continue
    child = os.fork()
    if not child:
        try:
            once(name)
            for one in found:
                print(f"{name}: {one}", flush=True)
        finally:
            os._exit(0 if not found else 3)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in (0, 3), name
print("done")
"""


#: What needs more than others do: modules, files, a connection, or a thread.
SOME = ["get", "set", "tags", "explain", "warm", "cached", "get_or_set lease", "get_or_set slots", "close"]


def seen(kind: str, place: str, broken: str, *names: str) -> list[str]:
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, kind, place, broken, *names],
        capture_output=True,
        text=True,
        timeout=200,
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
@pytest.mark.parametrize("kind", ["memory", "files", "redis"])
def test_no_first_call_of_any_method_holds_up_the_loop(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    assert seen(kind, place_of(kind, tmp_path, request), "") == []


@pytest.mark.parametrize("broken", ["import", "open"])
def test_what_would_hold_it_up_is_seen(broken: str, tmp_path: Path) -> None:
    assert any(one.startswith(f"get: {broken}") for one in seen("memory", str(tmp_path), broken, "get"))
