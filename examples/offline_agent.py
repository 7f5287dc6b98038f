"""Record what an agent asks, and replay it: the second run calls neither the model nor the web."""

import asyncio
import hashlib
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Literal

from cachekit import CassetteMissError, aio, cassette

calls = 0


def over_the_network(request: str) -> str:
    """Stand in for a model or a web server: a twentieth of a second of real work."""
    global calls
    calls += 1
    return hashlib.pbkdf2_hmac("sha256", request.encode(), b"far away", 80_000).hex()[:8]


@aio.cache_result(ttl=600)
async def fetch(url: str) -> dict[str, str]:
    return {"url": url, "text": await asyncio.to_thread(over_the_network, url)}


@aio.cache_result
async def ask(prompt: str, *, model: str = "small-1") -> str:
    return await asyncio.to_thread(over_the_network, f"{model}: {prompt}")


async def research(topic: str) -> str:
    pages = await asyncio.gather(*(fetch(f"https://{site}.example/{topic}") for site in ("news", "wiki")))
    return await ask(f"Summarize {topic}: {' '.join(page['text'] for page in pages)}")


async def run(file: Path, mode: Literal["record", "replay"]) -> list[str]:
    before, started = calls, perf_counter()
    async with cassette(file, mode):
        answers = [await research(topic) for topic in ("caches", "fences", "caches")]
    print(f"{mode:<8} {(perf_counter() - started) * 1000:6.1f} ms, {calls - before} calls over the network")
    return answers


async def main(directory: Path) -> None:
    file = directory / "agent.jsonl"
    recorded = await run(file, "record")
    assert await run(file, "replay") == recorded
    async with cassette(file, "replay"):
        try:
            await ask("Summarize tears: ")
        except CassetteMissError as error:
            print(error)


with tempfile.TemporaryDirectory() as scratch:
    asyncio.run(main(Path(scratch)))
