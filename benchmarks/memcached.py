"""What a call of the memcached tier costs, beside pymemcache with a pickle of the same value.

The tier takes a second round trip for each call, and compares tokens. With `poll` each write also leaves a
notice for other hosts. The server is a `memcached` on the PATH, started for this.
"""

from __future__ import annotations

import shutil
import subprocess
from importlib import import_module
from typing import Any

from harness import NotOfferedError, Question, Report, Round, Row, options, seconds, start_program

from cachekit import MemcachedCache

LIBRARIES = ("cachekit-tiered", "pymemcache")
VALUE = {"name": "Ada", "numbers": list(range(20)), "text": "x" * 27}
MANY = [f"user:{number}" for number in range(100)]
PEER = "pymemcache"


def start_memcached() -> tuple[str, int]:
    """The address of a server of our own, which ends with this process."""
    program = shutil.which("memcached")
    if program is None:
        raise SystemExit("memcached is not installed; install the package of that name")
    return "127.0.0.1", start_program(program, "-l", "127.0.0.1", "-u", "root", "-p")


def bare(address: tuple[str, int], operation: str, calls: int) -> Round:
    """The driver, which waits for the answer to a write, as the tier does."""
    pickled = import_module("pymemcache").serde.pickle_serde
    client = import_module("pymemcache.client.base").PooledClient(
        address, serde=pickled, no_delay=True, default_noreply=False
    )
    for key in MANY:
        client.set(key, VALUE)
    if operation == "set with a tag":
        raise NotOfferedError("it has no tags")
    call = {
        "get": lambda: client.get("user:1"),
        "set": lambda: client.set("user:1", VALUE),
        "get_many": lambda: client.get_many(MANY),
    }[operation]
    return repeated(call, calls)


def ours(address: tuple[str, int], operation: str, calls: int, poll: float | None) -> Round:
    """The tier, with or without notices for other hosts."""
    tier = MemcachedCache([address], f"bench{poll}:", max_staleness=3600, poll=poll, timeout=5)
    for key in MANY:
        tier.set_value(key, VALUE)
    call = {
        "get": lambda: tier.get("user:1"),
        "set": lambda: tier.set_value("user:1", VALUE),
        "set with a tag": lambda: tier.set_value("user:1", VALUE, tags={"users"}),
        "get_many": lambda: tier.get_many(MANY),
    }[operation]
    return repeated(call, calls)


def repeated(call: Any, calls: int) -> Round:
    def work() -> None:
        for _ in range(calls):
            call()

    return lambda: seconds(work)


def main() -> None:
    chosen = options(__doc__, rounds=25)
    report = Report(chosen, LIBRARIES)
    address = start_memcached()
    version = subprocess.run(["memcached", "-V"], capture_output=True, text=True).stdout.strip()
    print(f"server: {version}")
    for operation, calls in {"get": 500, "set": 500, "set with a tag": 300, "get_many": 30}.items():
        times = max(1, calls // 20) if chosen.quick else calls
        rows = [
            Row(PEER, lambda one=operation, n=times: bare(address, one, n)),
            Row("MemcachedCache", lambda one=operation, n=times: ours(address, one, n, None), ours=True),
            Row(
                "MemcachedCache with poll",
                lambda one=operation, n=times: ours(address, one, n, 600),
                ours=True,
            ),
        ]
        title = f"{operation} of {len(MANY)}" if operation == "get_many" else operation
        report.ask(Question(title, times, rows, "us", 1e-6))
    report.judge(())
    report.end()


if __name__ == "__main__":
    main()
