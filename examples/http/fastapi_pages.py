"""A FastAPI application whose pages are cached; an edit and a tag take them out of the cache.

Run it with `uvicorn fastapi_pages:app --no-date-header`, or as a program, which asks it a few times.
"""

import asyncio
from typing import Any

import httpx
from fastapi import FastAPI, Response

from cachekit import IntelligentCache, MemoryCache
from cachekit.http import ASGICache

cache = IntelligentCache(MemoryCache(max_bytes=100 << 20), file_cache=None)
rendered: list[int] = []


def article(number: int, response: Response) -> dict[str, Any]:
    rendered.append(number)
    response.headers["Cache-Control"] = "max-age=60, stale-while-revalidate=600"
    response.headers["Cache-Tag"] = f"article-{number}, author-3"
    return {"article": number}


def edit(number: int) -> dict[str, int]:
    return {"edited": number}


app = FastAPI()
app.add_middleware(ASGICache, cache=cache)
app.add_api_route("/articles/{number}", article)
app.add_api_route("/articles/{number}", edit, methods=["PUT"])


async def main() -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
        for _ in range(10):
            answer = await client.get("/articles/7")
        print(answer.headers["cache-status"])
        await client.put("/articles/7")  # takes this URL out of the cache
        await client.get("/articles/7")
        cache.invalidate_by_tags({"author-3"})  # takes all articles of an author out
        await client.get("/articles/7")
    print(f"12 requests, rendered {len(rendered)} times")


if __name__ == "__main__":
    asyncio.run(main())
