"""Run an agent with a slow model: its answers are in memory, and after a restart in files. No network."""

import asyncio
import hashlib
import tempfile
from pathlib import Path
from time import perf_counter

from cachekit import aio

PAGES = {"caches": "A cache remembers.", "fences": "A fence is a token.", "tiers": "A tier is a place."}
calls = 0


def model(prompt: str) -> str:
    """Stand in for a language model: a tenth of a second of real work."""
    return hashlib.pbkdf2_hmac("sha256", prompt.encode(), b"a model", 150_000).hex()[:8]


@aio.cache_result(ttl=600, tags={"pages"})
async def read(path: str) -> str:
    return await asyncio.to_thread(Path(path).read_text, encoding="utf-8")


@aio.cache_result(ttl=24 * 3600, tags={"answers"})
async def ask(question: str, page: str, name: str = "small") -> str:
    global calls
    calls += 1
    return await asyncio.to_thread(model, f"{name}: {question} {page}")


async def research(path: Path) -> str:
    page = await read(str(path))  # part of the key: a changed page calls the model again
    return await ask("What is this about?", page)


async def run(title: str, paths: list[Path]) -> list[str]:
    before, asked, started = await aio.get_cache_stats(), calls, perf_counter()
    answers = await asyncio.gather(*(research(path) for path in paths * 10))
    taken, after = perf_counter() - started, await aio.get_cache_stats()
    memory, file = (after[tier].hits - before[tier].hits for tier in ("memory", "file"))
    print(f"{title:<16} {taken * 1000:8.1f} {calls - asked:11} {memory:11} {file:10}")
    return answers


async def main(directory: Path) -> None:
    paths = [directory / name for name in PAGES]
    for path in paths:
        path.write_text(PAGES[path.name])
    print(f"{'30 questions':<16} {'ms':>8} {'model calls':>11} {'from memory':>11} {'from files':>10}")
    for titles in (["cold", "again"], ["after a restart", "again"]):
        async with aio.IntelligentCache(file_cache=aio.FileCache(directory / "cache")) as cache:
            with aio.override(cache):
                answers = [await run(title, paths) for title in titles]
    print(f"{len(set(answers[0]))} answers, {calls} calls of the model for 120 questions")


with tempfile.TemporaryDirectory() as scratch:
    asyncio.run(main(Path(scratch)))
