"""Large values on their way to a server: nothing of them is in memory twice."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
import redis

from cachekit import CacheEntry, RedisCache, ValueTooLargeError

MakeCache = Callable[..., RedisCache]
SIZE = 9 << 20

#: What each takes beside the value itself, at most, in copies of it.
VALUES: dict[str, tuple[Callable[[], Any], float]] = {
    "bytes": (lambda: bytes(SIZE), 0.1),
    "text": (lambda: "abcdefgh" * (SIZE // 8), 1.25),
    "text of two bytes a character": (lambda: "é" * (SIZE // 2), 1.25),
    "a list of bytes": (lambda: [bytes([number]) * (1 << 20) for number in range(9)], 0.2),
    "a tuple of bytes": (lambda: tuple(bytes([number]) * (1 << 20) for number in range(9)), 0.2),
    "a dict of one text": (lambda: {"k": "abcdefgh" * (SIZE // 8)}, 1.25),
    "texts": (
        lambda: ["abcdefgh" * 1_000] * 10 + [f"{number}" * 2_000 for number in range(SIZE // 8_000)],
        1.25,
    ),
    "numbers": (lambda: [number / 3 for number in range(SIZE // 9)], 1.5),
    "texts in tuples": (
        lambda: [(number, f"{number}".ljust(60_000, "x")) for number in range(SIZE // 60_000)],
        1.25,
    ),
    "short texts in tuples": (
        lambda: [(number, f"{number}".ljust(1_000, "x")) for number in range(SIZE // 1_000)],
        1.5,
    ),
}


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        *[(name, arguments) for name in VALUES for arguments in ({}, {"compression": None})],
        ("a dict of one text", {"secret": "s" * 16, "compression": None}),
    ],
)
def test_nothing_is_built_twice(name: str, arguments: dict[str, Any], make_cache: MakeCache) -> None:
    """From the value to what is sent, compressed or not."""
    make, most = VALUES[name]
    value, cache = make(), make_cache(timeout=20, **arguments)
    cache.set_value("connected", 1)
    tracemalloc.start()
    try:
        cache.set_value("k", value)
        assert tracemalloc.get_traced_memory()[1] < most * SIZE
    finally:
        tracemalloc.stop()
    assert cache.get_value("k") == value


def test_a_refused_value_is_not_built(make_cache: MakeCache) -> None:
    """It ends where the server's bound is passed, and the error says so without the key."""
    value, cache = [bytes([number]) * (1 << 20) for number in range(100)], make_cache()
    tracemalloc.start()
    try:
        with pytest.raises(ValueTooLargeError, match="at most 67108864 bytes on a server") as caught:
            cache.set_value("the secret key", value)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert "secret" not in str(caught.value)
    assert cache.get("the secret key") is None


def test_it_travels_by_every_way(make_cache: MakeCache, redis_url: str) -> None:
    """Alone and among small ones, behind a fence, and through a client of the driver."""
    noise = bytes(range(256)) * (SIZE // 2 // 256)
    own = redis.Redis.from_url(redis_url, socket_timeout=20)
    for cache in (make_cache(timeout=20, compression=None), make_cache(client=own, compression=None)):
        entries = {f"small {number}": bytes([number]) for number in range(3)} | {"large": noise}
        for key, value in entries.items():
            cache.set_value(key, value)
        cache.delete("fenced")
        assert cache.set_if("fenced", CacheEntry("fenced", noise), cache.fence("fenced"))
        assert cache.get_many([*entries, "fenced"])["fenced"].value == noise
        assert {key: cache.get_value(key) for key in entries} == entries
        assert cache.touch("large", 50)
        assert cache.get_value("large") == noise
    own.close()
