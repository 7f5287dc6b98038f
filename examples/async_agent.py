"""Run an agent on asyncio that pays for each answer once, for any number of tasks and of runs."""

from __future__ import annotations

import asyncio

from cachekit import cache_result

calls = 0


@cache_result(ttl=3600, version="1")
async def generate(prompt: str, model: str = "large") -> str:
    global calls
    calls += 1
    await asyncio.sleep(0.01)  # a real agent calls a model here
    return f"{model} says: {prompt[::-1]}"


@cache_result(ttl=600, store_if=lambda page: page is not None)
async def fetch(url: str) -> str | None:
    """Return a page, or None if it is missing; None is not stored."""
    await asyncio.sleep(0.01)
    return None if "missing" in url else f"<html>{url}</html>"


async def main() -> None:
    # Ten tasks call at once: one calls the model, nine wait for it.
    answers = await asyncio.gather(*(generate("desserts") for _ in range(10)))
    print(f"{len(answers)} answers, calls of the model: {calls}; {answers[0]}")

    print(await fetch("https://example.org"), await fetch("https://example.org/missing"))

    # Call the model again, and replace the stored answer.
    await generate.refresh("desserts")
    print(f"after a refresh: {calls}")


asyncio.run(main())
