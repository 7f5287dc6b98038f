"""Code written against the caching system that cachekit grew out of runs with `cachekit.aio`.

Each test holds the calls of one block of that system's description, as they stand there. What is ours are
the imports, the services that the code talks to (a model, a scraper, a database, a log, an alert), and
where its directories and its server are.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import pathlib
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import Any

import pytest
from loops import on_a_loop

from cachekit import aio
from cachekit.aio import (
    CacheEntry,
    CacheLevel,
    CacheStrategy,
    FileCache,
    IntelligentCache,
    MemoryCache,
    cache_result,
    get_cache_stats,
    invalidate_cache_pattern,
)

user_data = {"name": "Ada"}
session_data = {"visits": 3}
data = {"some": "data"}
calls: list[Any] = []


# -- stand-ins --------------------------------------------------------------------------------------


class _Stand:
    """Where the program's directories and its server are in this test."""

    root = pathlib.Path()
    port = 0


def Path(text: str) -> pathlib.Path:  # noqa: N802  # it stands for pathlib's
    """A directory of the program, under that of the test."""
    return _Stand.root / text.removeprefix("~").lstrip("/")


def RedisCache(host: str, port: int, db: int, key_prefix: str) -> aio.RedisCache:  # noqa: N802
    """The program's server, on the port of the test's."""
    assert (host, port) == ("localhost", 6379)
    return aio.RedisCache("127.0.0.1", _Stand.port, db, f"{key_prefix}{next(_numbers)}:", timeout=60)


_numbers = itertools.count()


async def _no_time(seconds: float) -> None:
    calls.append(seconds)


asyncio = SimpleNamespace(sleep=_no_time)
logger = logging.getLogger("openmanus")


def complex_calculation() -> int:
    return 8


class _Service:
    """Answers, and remembers what it was asked."""

    users = property(lambda self: self)

    async def generate(self, *question: Any) -> Any:
        calls.append(question)
        return SimpleNamespace(content=f"the answer to {question}")

    async def fetch(self, url: str) -> Any:
        calls.append(url)
        return SimpleNamespace(text=f"the text of {url}")

    async def get_user_profile(self, user_id: int, include_settings: bool) -> dict[str, Any]:
        calls.append(user_id)
        return {"id": user_id, "settings": include_settings}

    async def get_user(self, user_id: str) -> dict[str, Any]:
        calls.append(user_id)
        return {"id": user_id}

    async def find_one(self, query: dict[str, Any]) -> dict[str, Any]:
        calls.append(query["_id"])
        return query


llm_client = web_scraper = database = _Service()
alerts: list[tuple[str, str]] = []


async def send_alert(message: str, severity: str) -> None:
    alerts.append((message, severity))


@pytest.fixture(autouse=True)
def stand(own_directory: pathlib.Path, tmp_path: pathlib.Path) -> None:
    _Stand.root = tmp_path
    calls.clear()
    alerts.clear()


@pytest.fixture
def server_port(redis_url: str) -> None:
    _Stand.port = int(redis_url.rpartition(":")[2].partition("/")[0])


# -- the blocks -------------------------------------------------------------------------------------


@on_a_loop
async def test_multi_level_usage() -> None:
    """Multi-Level Caching Strategy: Usage Example."""
    cache = IntelligentCache()

    # Set value in all levels
    await cache.set("user:123", user_data, cache_level=CacheLevel.ALL)

    # Get with automatic promotion
    value = await cache.get("user:123")  # Tries memory → redis → file

    # Get from specific level
    memory_value = await cache.get("user:123", cache_level=CacheLevel.MEMORY)

    assert value == memory_value == user_data
    await cache.clear(CacheLevel.MEMORY)
    assert await cache.get("user:123") == user_data, "the file has it"
    assert await cache.get("user:123", cache_level=CacheLevel.MEMORY) == user_data, "promoted"
    await cache.close()


@on_a_loop
async def test_lru_and_ttl_usage() -> None:
    """LRU Eviction and TTL Management: Usage Example."""
    cache = MemoryCache(max_size=1000, default_ttl=3600)  # 1 hour TTL

    entry = CacheEntry(
        key="session:abc123",
        value=session_data,
        created_at=datetime.now(timezone.utc),  # noqa: UP017
        last_accessed=datetime.now(timezone.utc),  # noqa: UP017
        ttl=1800,  # 30 minutes
    )

    await cache.set("session:abc123", entry)

    found = await cache.get("session:abc123")
    assert found is not None
    assert (found.value, found.ttl) == (session_data, 1800)
    await cache.close()


@on_a_loop
async def test_pattern_invalidation() -> None:
    """Pattern-Based Invalidation."""
    cache = IntelligentCache()
    keys = ["user:1", "user:2", "session:abc123", "session:xyz"]
    await cache.set_many(dict.fromkeys(keys, data))

    # Invalidate all user cache entries
    await cache.invalidate_by_pattern("user:.*")

    # Invalidate specific session patterns
    await cache.invalidate_by_pattern("session:[a-f0-9]+")

    assert await cache.get_many(keys) == {"session:xyz": data}
    await cache.close()


@on_a_loop
async def test_tag_invalidation() -> None:
    """Tag-Based Invalidation."""
    cache = IntelligentCache()

    # Set entries with tags
    await cache.set("user:123", data, tags={"user", "profile"})
    await cache.set("user:456", data, tags={"user", "settings"})
    await cache.set("page:1", data, tags={"page"})

    # Invalidate all entries with "user" tag
    await cache.invalidate_by_tags({"user"})

    assert await cache.get_many(["user:123", "user:456", "page:1"]) == {"page:1": data}
    await cache.close()


@on_a_loop
async def test_manual_invalidation() -> None:
    """Manual Invalidation."""
    cache = IntelligentCache()
    await cache.set_many({"user:123": data, "user:456": data})

    # Delete specific key
    await cache.delete("user:123")

    # Clear entire cache level
    await cache.clear(CacheLevel.MEMORY)

    assert not await cache.contains("user:123")
    assert await cache.get("user:456", cache_level=CacheLevel.FILE) == data
    await cache.close()


@on_a_loop
async def test_comprehensive_statistics() -> None:
    """Comprehensive Statistics."""
    cache = IntelligentCache()
    await cache.set("k", data)
    await cache.get_many(["k", "l"])

    stats = await cache.get_stats()

    names = {"hits", "misses", "hit_rate", "size", "memory_usage_bytes"}
    assert set(stats) == {"memory", "file", "combined"}
    assert all(names <= set(tier) for tier in stats.values())
    assert (stats["memory"]["hits"], stats["memory"]["misses"], stats["memory"]["hit_rate"]) == (1, 1, 0.5)
    assert stats["combined"]["hits"] == stats["memory"]["hits"] + stats["file"]["hits"]
    await cache.close()


@cache_result(ttl=3600)  # Cache for 1 hour
async def expensive_computation(x: int, y: int) -> int:
    # Simulate expensive operation
    await asyncio.sleep(1)  # of the stand-in for `asyncio`, which waits for nothing
    return x * y + complex_calculation()


@on_a_loop
async def test_decorator_usage() -> None:
    """Function Result Caching Decorator: Basic Usage."""
    # First call executes function
    result1 = await expensive_computation(5, 10)  # Takes ~1 second

    # Second call uses cache
    result2 = await expensive_computation(5, 10)  # Returns immediately

    assert (result1, result2, calls) == (58, 58, [1])


def custom_key_func(user_id: int, **kwargs: Any) -> str:
    return f"user_profile:{user_id}"


@cache_result(ttl=1800, key_func=custom_key_func)
async def get_user_profile(user_id: int, include_settings: bool = True) -> dict[str, Any]:
    return await database.get_user_profile(user_id, include_settings)


@on_a_loop
async def test_custom_key_generation() -> None:
    """Function Result Caching Decorator: Custom Key Generation."""
    assert await get_user_profile(1) == {"id": 1, "settings": True}
    assert await get_user_profile(1, include_settings=False) == {"id": 1, "settings": True}
    cache = await aio.get_default_cache()
    assert await cache.contains("user_profile:1")
    assert calls == [1]


@on_a_loop
async def test_warming() -> None:
    """Automatic Cache Warming."""
    cache = IntelligentCache()

    async def load_user_data(user_id: str) -> dict[str, Any]:
        return await database.get_user(user_id)

    # Warm cache with frequently accessed users
    await cache.warm_cache(
        keys=["user:123", "user:456", "user:789"],
        loader_func=load_user_data,
    )

    assert sorted(calls) == ["user:123", "user:456", "user:789"]
    assert await cache.get("user:456") == {"id": "user:456"}
    await cache.close()


@on_a_loop
async def test_persistent_files() -> None:
    """Persistent File-Based Caching: Configuration."""
    file_cache = FileCache(
        cache_dir=Path("/var/cache/openmanus"),
        max_size_mb=1000,  # 1GB limit
    )

    assert await file_cache.set_value("k", data)
    await file_cache.close()
    async with FileCache(cache_dir=Path("/var/cache/openmanus"), max_size_mb=1000) as again:
        assert await again.get_value("k") == data, "survives application restarts"


@pytest.mark.usefixtures("server_port")
@on_a_loop
async def test_redis_backend() -> None:
    """Redis Backend Support."""
    redis_cache = RedisCache(
        host="localhost",
        port=6379,
        db=0,
        key_prefix="openmanus:",
    )

    intelligent_cache = IntelligentCache(
        memory_cache=MemoryCache(max_size=1000),
        redis_cache=redis_cache,
        file_cache=FileCache(),
    )

    await intelligent_cache.set("user:123", user_data)
    for level in (CacheLevel.ALL, CacheLevel.REDIS, CacheLevel.FILE):
        assert await intelligent_cache.get("user:123", cache_level=level) == user_data
    await intelligent_cache.delete("user:123")
    await intelligent_cache.close()


@pytest.mark.usefixtures("server_port")
@on_a_loop
async def test_configuration_options() -> None:
    """Configuration Options: memory, file, and the cache over them."""
    redis_cache = RedisCache("localhost", 6379, 0, "openmanus:")

    memory_cache = MemoryCache(
        max_size=10000,  # Maximum number of entries
        strategy=CacheStrategy.LRU,  # Eviction strategy
        default_ttl=3600,  # Default TTL in seconds
    )
    file_cache = FileCache(
        cache_dir=Path("~/.openmanus/cache"),  # Storage directory
        max_size_mb=1000,  # Maximum size in MB
        cleanup_interval=3600,  # Cleanup interval in seconds
    )
    intelligent_cache = IntelligentCache(
        memory_cache=memory_cache,
        redis_cache=redis_cache,
        file_cache=file_cache,
        default_ttl=3600,  # Default TTL
        enable_cache_warming=True,  # Enable background warming
    )

    assert intelligent_cache.memory_cache is memory_cache
    assert intelligent_cache.redis_cache is redis_cache
    assert intelligent_cache.file_cache is file_cache
    assert await intelligent_cache.set("k", data)
    await intelligent_cache.close()


@cache_result(ttl=1800, cache_level=CacheLevel.ALL)
async def generate_response(prompt: str, model: str = "gpt-4") -> Any:
    response = await llm_client.generate(prompt, model)
    return response.content


@on_a_loop
async def test_agent_results() -> None:
    """Integration Examples: Agent Result Caching."""
    first = await generate_response("why?")
    assert await generate_response("why?", model="gpt-4") == first
    assert calls == [("why?", "gpt-4")]
    assert await generate_response("why?", "small") != first


@cache_result(
    ttl=3600,
    key_func=lambda url, **kw: f"web_content:{hashlib.md5(url.encode()).hexdigest()}",
)
async def fetch_web_content(url: str) -> Any:
    content = await web_scraper.fetch(url)
    return content.text


@on_a_loop
async def test_research_data() -> None:
    """Integration Examples: Research Data Caching."""
    urls = ["http://one", "http://two", "http://one"]
    texts = [await fetch_web_content(url) for url in urls]
    assert texts == [f"the text of {url}" for url in urls]
    assert calls == ["http://one", "http://two"]


@cache_result(ttl=600, tags={"database", "users"})
async def get_user_by_id(user_id: int) -> dict[str, Any]:
    return await database.users.find_one({"_id": user_id})  # type: ignore[no-any-return]


@on_a_loop
async def test_database_queries() -> None:
    """Integration Examples: Database Query Caching."""
    cache = await aio.get_default_cache()
    await cache.set("database:rows", data)
    assert await get_user_by_id(1) == await get_user_by_id(1) == {"_id": 1}
    assert calls == [1]

    # Invalidate all database caches when data changes
    await invalidate_cache_pattern("database:.*")

    assert await cache.get("database:rows") is None
    assert await get_user_by_id(1) == {"_id": 1}
    assert calls == [1], "a pattern is about keys"
    await aio.invalidate_cache_tags({"database"})
    await get_user_by_id(1)
    assert calls == [1, 1]


@on_a_loop
async def test_health_checks() -> None:
    """Monitoring and Observability: Health Checks."""

    async def cache_health_check() -> dict[str, str]:
        stats = await get_cache_stats()

        # Check hit rates
        memory_hit_rate = stats["memory"]["hit_rate"]
        if memory_hit_rate < 0.5:
            return {"status": "warning", "message": "Low memory cache hit rate"}

        # Check memory usage
        memory_usage_mb = stats["memory"]["memory_usage_bytes"] / (1024 * 1024)
        if memory_usage_mb > 500:  # 500MB limit
            return {"status": "warning", "message": "High memory usage"}

        return {"status": "healthy"}

    assert (await cache_health_check())["status"] == "warning"
    cache = await aio.get_default_cache()
    await cache.set("k", data)
    await cache.get("k")
    assert await cache_health_check() == {"status": "healthy"}


@on_a_loop
async def test_performance_metrics(caplog: pytest.LogCaptureFixture) -> None:
    """Monitoring and Observability: Performance Metrics."""
    caplog.set_level(logging.INFO)
    # Get comprehensive statistics
    stats = await get_cache_stats()

    # Log performance metrics
    logger.info(
        "Cache Performance",
        {
            "memory_hit_rate": stats["memory"]["hit_rate"],
            "file_hit_rate": stats["file"]["hit_rate"],
            "total_memory_mb": stats["combined"]["memory_usage_bytes"] / (1024 * 1024),
            "cache_size": stats["combined"]["size"],
        },
    )

    assert caplog.messages == ["Cache Performance"]


@on_a_loop
async def test_alerting() -> None:
    """Monitoring and Observability: Alerting Integration."""

    async def check_cache_performance() -> None:
        stats = await get_cache_stats()

        if stats["combined"]["hit_rate"] < 0.7:
            await send_alert("Low cache hit rate detected", severity="warning")

        if stats["combined"]["memory_usage_bytes"] > 1024 * 1024 * 1024:  # 1GB
            await send_alert("High cache memory usage", severity="critical")

    await check_cache_performance()
    assert alerts == [("Low cache hit rate detected", "warning")]
