"""Report the health of a cache: a health check, an alert and a line in the log, ready for a service."""

from __future__ import annotations

import asyncio
import logging
import sys

from cachekit import IntelligentCache, MemoryCache, aio, get_cache_stats, override
from cachekit.health import Health

logger = logging.getLogger("service")
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")


async def cache_health_check() -> dict[str, str]:
    stats = await aio.get_cache_stats()

    # Check hit rates
    memory_hit_rate = stats["memory"]["hit_rate"]
    if memory_hit_rate < 0.5:
        return {"status": "warning", "message": "Low memory cache hit rate"}

    # Check memory usage
    memory_usage_mb = stats["memory"]["memory_usage_bytes"] / (1024 * 1024)
    if memory_usage_mb > 500:  # 500MB limit
        return {"status": "warning", "message": "High memory usage"}

    return {"status": "healthy"}


async def send_alert(message: str, severity: str) -> None:
    print(f"{severity}: {message}")


async def check_cache_performance() -> None:
    stats = await aio.get_cache_stats()

    # Any tier may serve a request, so an alert should look at the hit rate of requests.
    if stats["combined"]["request_hit_rate"] < 0.7:
        await send_alert("Low cache hit rate detected", severity="warning")

    if stats["combined"]["memory_usage_bytes"] > 1024 * 1024 * 1024:  # 1GB
        await send_alert("High cache memory usage", severity="critical")


def log_cache_performance() -> None:
    stats = get_cache_stats()
    logger.info(
        "Cache Performance: %s",
        {
            "memory_hit_rate": stats["memory"]["hit_rate"],
            "total_memory_mb": stats["combined"]["memory_usage_bytes"] / (1024 * 1024),
            "cache_size": stats["combined"]["size"],
            "loads": stats["combined"]["loads"],
        },
    )


def tell(new: Health, old: Health) -> None:
    """Log a change of health; the cache calls this on every change."""
    logger.warning("cache: %s -> %s: %s", old.status, new.status, new.message)


async def main() -> None:
    for number in range(200):  # every lookup is a miss
        cache.get(f"user:{number}")
    print(await cache_health_check())
    await check_cache_performance()
    log_cache_performance()

    # The same with the default thresholds, and with a remedy for each reason.
    health = cache.health(min_hit_rate=0.7)
    print(f"health: {health.status}, because of {[reason.cause for reason in health.reasons]}")
    print(health.message)


with (
    IntelligentCache(MemoryCache(), file_cache=None, on_health_change=tell) as cache,
    override(cache),
):
    asyncio.run(main())
