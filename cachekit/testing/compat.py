"""`python -m cachekit.testing.compat URL`: whether a server does what the Redis tier needs.

It runs `TierContract` against the server, and checks what caches on several hosts need besides. Its keys
begin with `cachekit:compat:` and a random word, and it removes them. A Cluster is recognised by one of its
nodes. It prints a line for each check, and ends with status 1 if one of them failed.
"""

from __future__ import annotations

import argparse
import inspect
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from cachekit.errors import CacheError
from cachekit.model.entry import CacheEntry
from cachekit.testing.clock import ManualClock
from cachekit.testing.contract import TierContract
from cachekit.tiers.redis.tier import RedisCache, server_info
from cachekit.tiers.redis.tls import TLS

if TYPE_CHECKING:
    MakeTier = Callable[..., RedisCache]

_PATIENCE: Final = 10.0  # seconds for what happens without a call
_TIMEOUT: Final = 5.0
_LOOK: Final = 0.01  # seconds between two looks

#: What docs/redis.md says of servers, by what INFO calls them.
ROWS: Final = {
    "valkey": "Valkey",
    "redis": "Redis 7.0 and newer",
    "old": "Redis before 7.0",
    "keydb": "KeyDB",
    "dragonfly": "Dragonfly",
    "garnet": "Garnet",
}


class Server(NamedTuple):
    """What a server says of itself."""

    kind: str
    version: str
    mode: str
    role: str

    @property
    def row(self) -> str:
        """The row of the table in docs/redis.md."""
        return ROWS[self.kind]


def recognised(info: dict[str, str]) -> Server:
    """Return what the answer to INFO says."""
    program = f"{info.get('server_name', '')} {info.get('executable', '')}".lower()
    kind = "redis"
    for name in ("valkey", "keydb", "dragonfly", "garnet"):
        if name in program or f"{name}_version" in info:
            kind = name
    version = info.get(f"{kind}_version", info.get("redis_version", "of an unknown version"))
    if kind == "redis" and version.partition(".")[0] in {"2", "3", "4", "5", "6"}:
        kind = "old"
    mode = info.get("redis_mode", info.get("server_mode", "standalone"))
    return Server(kind, version, mode, info.get("role", "master"))


class _Told:
    """A listener of the bus that keeps the keys it is told of."""

    def __init__(self) -> None:
        self.keys: set[str] = set()
        self.gaps = 0

    def keys_changed(self, keys: Sequence[str]) -> None:
        self.keys.update(keys)

    def tags_changed(self, tags: frozenset[str]) -> None:
        pass

    def pattern_changed(self, pattern: str) -> None:
        pass

    def everything_changed(self) -> None:
        self.gaps += 1


def _wait(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + _PATIENCE
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen within {_PATIENCE:.0f} s"
        time.sleep(_LOOK)


def _contract(make: MakeTier) -> Iterator[tuple[str, Callable[[], None]]]:
    """Return the tests of the contract, each with the first line of its docstring."""

    class OnServer(TierContract):
        def make_tier(self, clock: ManualClock) -> RedisCache:
            tier = make(clock=clock)
            tier.clear()
            return tier

    tests = OnServer()
    for name, test in inspect.getmembers(tests, inspect.ismethod):
        if name.startswith("test_"):
            yield (inspect.getdoc(test) or name).partition("\n")[0], test


def _among_hosts(make: MakeTier) -> Iterator[tuple[str, Callable[[], None]]]:
    """Return checks of what two hosts need of the server."""

    def messages() -> None:
        told = _Told()
        with make() as one, make() as two:
            end = one.subscribe(told)
            _wait(lambda: told.gaps >= 2, "the confirmation of the subscription")
            two.set_value("k", 1)
            _wait(lambda: "k" in told.keys, "the message")
            end()

    def fences() -> None:
        with make() as one, make() as two:
            two.clear()
            origin = one.origin("k", frozenset({"t"}))
            two.invalidate_by_tags({"t"})
            assert one.add("k", CacheEntry("k", 1, tags={"t"}), origin) is False, "a stale load was stored"
            origin = one.origin("k")
            two.delete("k")
            assert one.add("k", CacheEntry("k", 1), origin) is False, "a stale load was stored"

    def lease() -> None:
        with make() as one, make() as two:
            held = one.lease("k", 60)
            assert held is not None, "a free lease was refused"
            assert two.lease("k", 60) is None, "a lease was given twice"
            held.release()
            again = two.lease("k", 60)
            assert again is not None, "a lease that was given back was refused"
            again.release()

    def expiry() -> None:
        with make() as one:
            one.clear()
            one.set_value("k", 1, ttl=0.2)
            _wait(lambda: one.size() == 0, "the end of an expired value")

    yield "Messages reach other hosts.", messages
    yield "The server refuses loads that are older than an invalidation.", fences
    yield "A lease has one holder.", lease
    yield "The server removes expired values by itself.", expiry


def run(make: MakeTier) -> list[tuple[str, str | None]]:
    """Return the checks, each with the reason why it failed, or None.

    Args:
        make: makes a tier on the server; `clock` is its only argument.
    """
    results: list[tuple[str, str | None]] = []
    for checks in (_contract, _among_hosts):
        for name, check in checks(make):
            try:
                check()
            except (AssertionError, CacheError) as error:
                results.append((name, f"{type(error).__name__}: {error}"))
            else:
                results.append((name, None))
    return results


def _cluster(url: str, prefix: str) -> MakeTier:
    """Return what makes tiers on the Cluster that the server of a URL is a node of."""
    from redis.connection import parse_url

    said: dict[str, Any] = parse_url(url)  # type: ignore[no-untyped-call]
    tls = None
    if url.startswith("rediss://"):
        checks = str(said.get("ssl_check_hostname", True)).lower() not in {"false", "0", "no"}
        tls = TLS(said.get("ssl_ca_certs"), said.get("ssl_certfile"), said.get("ssl_keyfile"), checks)
    node = said.get("host", "localhost"), said.get("port", 6379)

    def make(**more: Any) -> RedisCache:
        return RedisCache.cluster(
            [node], prefix, username=said.get("username"), password=said.get("password"), tls=tls,
            timeout=_TIMEOUT, **more,
        )  # fmt: skip

    return make


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the server of a URL, print what was found, and return the status to exit with."""
    parser = argparse.ArgumentParser(
        prog="python -m cachekit.testing.compat",
        description="Check whether a server does what RedisCache needs.",
    )
    parser.add_argument(
        "url", help="redis://, rediss://, unix:// or redis+sentinel://, as RedisCache takes it"
    )
    url = parser.parse_args(arguments).url
    prefix = f"cachekit:compat:{os.urandom(6).hex()}:"

    def make(**more: Any) -> RedisCache:
        return RedisCache(url=url, key_prefix=prefix, timeout=_TIMEOUT, **more)

    try:
        with make() as tier:
            print(str(tier._server))
            tier.ping()
            server = _asked(tier)
    except ValueError as error:
        parser.error(str(error))
    except CacheError as error:
        print(f"not reachable: {error}")
        return 1
    if server is not None:
        print(f"{server.row}: version {server.version}, {server.mode}, {server.role}")
    if server is not None and server.mode == "cluster":
        make = _cluster(url, prefix)
    results = run(make)
    for name, reason in results:
        print(f"{'ok    ' if reason is None else 'FAILED'} {name}{'' if reason is None else f' {reason}'}")
    failed = sum(reason is not None for _, reason in results)
    try:
        with make() as tier:
            tier.clear()
    except CacheError as error:
        print(f"keys under {prefix} may be left: {error}")
    print(f"{len(results) - failed} of {len(results)} checks passed")
    return 1 if failed else 0


def _asked(tier: RedisCache) -> Server | None:
    try:
        return recognised(server_info(tier))
    except CacheError:
        print("the user may not use INFO, so the server is not recognised")
        return None


if __name__ == "__main__":
    sys.exit(main())
