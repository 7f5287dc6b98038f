"""Tiers on servers without messages, awaited: they share with the core, and leave the loop alone."""

from __future__ import annotations

import subprocess
import sys

import pytest
from loops import on_a_loop
from memcached_server import MemcachedServer

import cachekit
from cachekit import CacheEntry, TierUnavailableError, aio
from cachekit.aio.polled import PolledFacade


@on_a_loop
async def test_a_cache_over_memcached(prefix: str) -> None:
    """Each side sees what the other stores; the cache hands out the tier that it was given."""
    with MemcachedServer() as server:
        tier = aio.MemcachedCache([server.address], prefix, timeout=60)
        async with aio.IntelligentCache(aio.MemoryCache(), tier, None) as cache:
            assert cache.redis_cache is tier
            await cache.set("user:1", "Ada", tags={"t"})
            assert await tier.get_value("user:1") == tier.sync.get_value("user:1") == "Ada"
            fence = await tier.fence("user:2")
            assert await tier.set_if("user:2", CacheEntry("user:2", 2), fence)
            assert set(await tier.get_many(["user:1", "user:2", "user:3"])) == {"user:1", "user:2"}
            await cache.invalidate_by_tags({"t"})
            assert await tier.get("user:1") is None
            assert (await tier.keys(), await tier.size()) == ([], 0)
            assert (tier.key_prefix, tier.max_staleness, tier.default_ttl) == (prefix, 5.0, None)
            server.kill()
            with pytest.raises(TierUnavailableError):
                await tier.ping()
            assert await cache.get_or_set("user:1", lambda: 1) == 1


@on_a_loop
async def test_views() -> None:
    """Of a tier, of a cache over one, and of nothing else."""
    with cachekit.MemcachedCache([("localhost", 1)]) as tier:
        view = aio.MemcachedCache.of(tier)
        assert view.sync is tier
        assert view == aio.MemcachedCache.of(tier)
        with cachekit.IntelligentCache(None, tier, None, close_tiers=False) as cache:
            found = aio.IntelligentCache.of(cache).redis_cache
            assert isinstance(found, PolledFacade)
            assert found.sync is tier
        with pytest.raises(TypeError, match="takes a DynamoDBCache that is not awaited"):
            aio.DynamoDBCache.of(tier)
        with pytest.raises(TypeError, match="takes a MemcachedCache that is not awaited"):
            aio.MemcachedCache.of(view)  # type: ignore[arg-type]


PROGRAM = """
import asyncio, sys, threading
from cachekit import aio
from cachekit.errors import TierUnavailableError

found, elsewhere = [], set()

def watch(event, args):
    if event == "import":
        name = args[0].partition(".")[0]
        if name in ("pymemcache", "boto3", "botocore", "urllib3"):
            note(name)
    elif event in ("socket.connect", "socket.getaddrinfo"):
        note(event)

def note(what):
    if threading.current_thread() is threading.main_thread():
        found.append(what)
    else:
        elsewhere.add(what)

make = {make}

async def main():
    sys.addaudithook(watch)
    tier = make()
    for step in (lambda: tier.ping(), lambda: tier.get("k"), lambda: tier.set_value("k", 1, tags=["t"])):
        try:
            await step()
        except TierUnavailableError:
            pass
    async with aio.IntelligentCache(aio.MemoryCache(), tier, None) as cache:
        assert await cache.get_or_set("k", lambda: 1) == 1

asyncio.run(main())
print(found, sorted(elsewhere))
"""


@pytest.mark.parametrize(
    ("driver", "make"),
    [
        ("pymemcache", "lambda: aio.MemcachedCache([('127.0.0.1', 1)])"),
        (
            "boto3",
            "lambda: aio.DynamoDBCache('caches', region='eu-central-1', endpoint='http://127.0.0.1:1')",
        ),
    ],
)
def test_no_import_or_socket_on_the_loop(driver: str, make: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even those of the first call."""
    pytest.importorskip(driver)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    program = PROGRAM.replace("{make}", make)
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=200)
    assert ran.returncode == 0, ran.stderr
    found, _, elsewhere = ran.stdout.partition("] ")
    assert found == "["
    assert driver in elsewhere
    assert "socket.connect" in elsewhere
