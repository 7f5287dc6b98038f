"""Send alerts from the figures of a cache: of this process, and of all processes that share its directory."""

from __future__ import annotations

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory

from cachekit import FileCache, IntelligentCache, MemoryCache, aio, override
from cachekit.aio import get_cache_stats
from cachekit.monitoring.reading import HostReader


async def send_alert(message: str, severity: str) -> None:
    print(f"{severity}: {message}")  # your pager, your chat, your mail


async def check_cache_performance() -> None:
    """Alert for this process."""
    stats = await get_cache_stats()

    # Any tier may serve a request, so an alert looks at the hit rate of requests.
    if stats["combined"]["request_hit_rate"] < 0.7:
        await send_alert("Low cache hit rate detected", severity="warning")

    if stats["combined"]["memory_usage_bytes"] > 1024 * 1024 * 1024:  # 1GB
        await send_alert("High cache memory usage", severity="critical")


async def check_host(reader: HostReader) -> None:
    """Alert for all processes that share the directory, those that ended included."""
    figures = await asyncio.to_thread(reader.read)
    hits, misses = figures.counters["requests/hit"], figures.counters["requests/miss"]
    if hits < 0.7 * (hits + misses):
        share = hits / (hits + misses)
        await send_alert(f"{share:.0%} of the requests of this host were hits", severity="warning")
    for process in figures.processes:
        for reason in process.reasons:
            await send_alert(f"{process.program}: {reason.message}; {reason.remedy}", reason.status)


async def main(directory: Path) -> None:
    cache = IntelligentCache(MemoryCache(), file_cache=FileCache(directory, 10))
    async with aio.IntelligentCache.of(cache) as awaited:
        for number in range(200):
            await awaited.get(f"user:{number % 100}")  # every lookup is a miss
        with override(cache):
            await check_cache_performance()
        await check_host(HostReader(directory))


with TemporaryDirectory() as directory:
    asyncio.run(main(Path(directory)))
