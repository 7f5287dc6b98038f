"""ASGICache: what invalidates pages, those that are being made included."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from http_apps import Origin, Page, fetch, memory_cache
from loops import on_a_loop

from cachekit import IntelligentCache
from cachekit.http import ASGICache
from cachekit.http.asgi import Receive, Scope, Send
from cachekit.tiers.file.tier import FileCache

FRESH = ("Cache-Control", "max-age=60")


@on_a_loop
async def test_an_unsafe_request_invalidates_its_url() -> None:
    origin = Origin()
    app = ASGICache(origin, memory_cache())
    for target in ("/a/1", "/a/2", "/list"):
        await fetch(app, target)
    origin.page = Page((("Location", "/list"),), b"", 204)
    put = await fetch(app, "/%61/1", method="PUT", body=b"x")
    assert put.cache_status == "cachekit; fwd=method"
    origin.page = Page()
    assert [(await fetch(app, target)).is_hit for target in ("/a/1", "/a/2", "/list")] == [False, True, False]
    origin.page = Page((), b"", 500)
    await fetch(app, "/a/1", method="DELETE")
    assert (await fetch(app, "/a/1")).is_hit


@pytest.mark.parametrize("field", ["Cache-Tag", "Surrogate-Key"])
def test_a_tag_invalidates_the_pages_that_name_it(field: str) -> None:
    async def main() -> None:
        separator = ", " if field == "Cache-Tag" else " "
        origin = Origin(lambda scope: Page((FRESH, (field, separator.join(["all", scope["path"][1:]])))))
        cache = memory_cache()
        app = ASGICache(origin, cache)
        for target in ("/a", "/b", "/b?c"):
            await fetch(app, target)
        cache.invalidate_by_tags({"a"})
        assert [(await fetch(app, target)).is_hit for target in ("/a", "/b", "/b?c")] == [False, True, True]
        cache.invalidate_by_tags({"http:/b"})
        assert [(await fetch(app, target)).is_hit for target in ("/a", "/b", "/b?c")] == [True, False, False]
        cache.invalidate_by_tags({"http:http://example.com/b?c"})
        assert [(await fetch(app, target)).is_hit for target in ("/a", "/b", "/b?c")] == [True, True, False]
        cache.invalidate_by_tags({"all"})
        assert not any([(await fetch(app, target)).is_hit for target in ("/a", "/b", "/b?c")])

    asyncio.run(main())


Strike = Callable[[IntelligentCache, ASGICache, Origin], Any]


async def put_it(_: IntelligentCache, app: ASGICache, origin: Origin) -> None:
    origin.open.set()
    await fetch(app, "/a", method="PUT", body=b"x")


async def purge(cache: IntelligentCache, *_: object) -> None:
    cache.invalidate_by_tags({"news"})


async def clear(cache: IntelligentCache, *_: object) -> None:
    cache.clear()


async def by_pattern(cache: IntelligentCache, *_: object) -> None:
    cache.invalidate_by_pattern("http:http://example.com/a")


@pytest.mark.parametrize("strike", [put_it, purge, clear, by_pattern])
@pytest.mark.parametrize("vary", [(), (("Vary", "Accept"),)], ids=["plain", "vary"])
@pytest.mark.parametrize("tiers", ["memory", "file", "other process"])
def test_what_invalidates_a_page_that_is_being_made_wins(
    strike: Strike, vary: Any, tiers: str, tmp_path: Path
) -> None:
    """The page was read before the write; it reaches its client, and no other one."""

    def cache() -> IntelligentCache:
        if tiers == "memory":
            return memory_cache()
        return IntelligentCache(file_cache=FileCache(tmp_path / "responses"))

    async def main() -> None:
        mine = cache()
        # A second cache over the same directory is to the first one what another process is.
        theirs = cache() if tiers == "other process" else mine
        body = b"old"

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["method"] != "GET":
                await send({"type": "http.response.start", "status": 204, "headers": []})
                await send({"type": "http.response.body"})
                return
            await origin(scope, receive, send)

        origin = Origin(lambda _: Page((FRESH, ("Cache-Tag", "news"), *vary), body))
        first, second = ASGICache(app, mine), ASGICache(app, theirs)
        origin.open.clear()
        reading = asyncio.create_task(fetch(first, "/a"))
        await origin.entered.wait()
        body = b"new"
        await strike(theirs, second, origin)
        origin.open.set()
        assert (await reading).body == b"old"
        again = await fetch(first, "/a")
        assert (again.body, again.is_hit) == (b"new", False)
        assert (await fetch(first, "/a")).is_hit
        assert (await fetch(second, "/a")).body == b"new"
        mine.close()
        theirs.close()

    asyncio.run(main())


@on_a_loop
async def test_the_invalidation_of_another_page_refuses_nothing() -> None:
    """A site that is written all the time is cached all the same."""
    cache = memory_cache()
    origin = Origin(
        lambda scope: Page((FRESH, ("Cache-Tag", "news"))) if scope["path"] == "/tagged" else Page()
    )
    app = ASGICache(origin, cache)
    # The tags of a page that was never seen are not known, so it is stored the second time.
    for target, is_stored in (("/plain", True), ("/tagged", False), ("/tagged", True)):
        origin.open.clear()
        origin.entered.clear()
        reading = asyncio.create_task(fetch(app, target))
        await origin.entered.wait()
        cache.invalidate_by_tags({"other"})
        origin.open.set()
        await reading
        count = origin.count
        assert (await fetch(app, target, headers=[("Cache-Control", "only-if-cached")])).is_hit is is_stored
        assert origin.count == count
