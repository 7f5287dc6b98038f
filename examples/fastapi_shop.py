"""A FastAPI shop: pages that are cached by a decorator, a cache for routes, and signed-in users of their own.

Run it with `uvicorn fastapi_shop:app --no-date-header`, or as a program, which asks it a few times.
"""

import asyncio
from typing import Annotated, Any

import httpx
from fastapi import Cookie, FastAPI, HTTPException, Request

from cachekit import IntelligentCache, MemoryCache
from cachekit.integrations.fastapi import CachedRoutes, CurrentCache, cached_route, lifespan_of

PRICES = {"apple": 3, "pear": 4}
cache = IntelligentCache(MemoryCache(max_bytes=100 << 20), file_cache=None)
app = FastAPI(lifespan=lifespan_of(cache))
app.add_middleware(CachedRoutes, cache=cache)
rendered: list[str] = []


def tags_of(request: Request) -> set[str]:
    return {f"price:{request.path_params['item']}"}


@app.get("/prices/{item}")
@cached_route(ttl=60, stale_ttl=600, tags=tags_of)
async def price(item: str, user: Annotated[str, Cookie()] = "") -> dict[str, Any]:
    rendered.append(item)
    if item not in PRICES:
        raise HTTPException(404)
    return {"item": item, "price": PRICES[item], "for": user}


@app.put("/prices/{item}/{new}")
async def change(item: str, new: int, cache: CurrentCache) -> None:
    PRICES[item] = new
    await cache.invalidate_by_tags({f"price:{item}"})


async def main() -> None:
    async with app.router.lifespan_context(app) as state:  # a server does this, and hands the state on

        async def served(scope: Any, receive: Any, send: Any) -> None:
            await app({**scope, "state": state}, receive, send)

        async with httpx.AsyncClient(transport=httpx.ASGITransport(served), base_url="http://shop") as client:
            answers = [await client.get("/prices/apple") for _ in range(10)]
            print(answers[-1].headers["cache-status"].partition("; ttl")[0], answers[-1].json())
            await client.put("/prices/apple/5")
            print((await client.get("/prices/apple")).json())
            for _ in range(2):
                await client.get("/prices/fig")  # an error is not stored
            client.cookies.set("user", "ann")
            print((await client.get("/prices/apple")).json())  # nor is what may be of one user
    print(f"14 requests, rendered {len(rendered)} times: {', '.join(rendered)}")


if __name__ == "__main__":
    asyncio.run(main())
