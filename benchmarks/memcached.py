"""What a call of the memcached tier costs, beside pymemcache with a pickle of the same value.

The tier takes a second round trip for each call, and compares tokens. With `poll` each write also leaves a
notice for other hosts. The server is a `memcached` on the PATH, started for this.
"""

from __future__ import annotations

import atexit
import os
import shutil
import socket
import subprocess
from importlib import import_module
from time import sleep
from typing import Any

from harness import NotOfferedError, Question, Report, Round, Row, options, seconds

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
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen([program, "-l", "127.0.0.1", "-p", str(port), "-u", "root"])
    owner = os.getpid()

    def end() -> None:
        if os.getpid() == owner:
            server.kill()
            server.wait()

    atexit.register(end)
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if server.poll() is not None:
                raise
            sleep(0.01)
        else:
            return "127.0.0.1", port


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
