"""The site that `sites.py` measures, in each framework, over the cache that the variable SITE names.

`/page/KEY` is a page that a view keeps in the cache. Its content is loaded in 200 ms. `/rows/KEY` is a page
of 100 rows, which no view keeps, and `/slow/KEY` the same after 200 ms. Each load, and each call of a view
for `/rows` and `/slow`, adds a byte to the file `loads`. A server calls one of the factories.
"""

import asyncio
import json
import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from time import sleep
from typing import Any

SITE: dict[str, Any] = json.loads(os.environ.get("SITE", "{}"))
BACKEND: str = SITE.get("backend", "")
DIRECTORY: str = SITE.get("directory", "")  #: of this run alone
REDIS: str = SITE.get("redis", "")
TTL = 600
LOAD_SECONDS = 0.2
ROWS = [{"number": number, "name": f"article {number}", "price": number * 3} for number in range(100)]


def note() -> None:
    with open(Path(DIRECTORY, "loads"), "ab", buffering=0) as file:
        file.write(b".")


def load(key: str) -> str:
    note()
    sleep(LOAD_SECONDS)
    return f"{key} is one of many. " * 100


async def load_async(key: str) -> str:
    note()
    await asyncio.sleep(LOAD_SECONDS)
    return f"{key} is one of many. " * 100


def our_cache() -> Any:
    """An `IntelligentCache` over what BACKEND names."""
    from cachekit import FileCache, IntelligentCache, RedisCache

    if "memory" in BACKEND:
        return IntelligentCache(file_cache=None)
    if "redis" in BACKEND:
        return IntelligentCache(redis_cache=RedisCache(url=REDIS), file_cache=None)
    return IntelligentCache(file_cache=FileCache(Path(DIRECTORY, "cache")))


# -- Django ---------------------------------------------------------------------------------------------

_DJANGO = {
    "django locmem": ("django.core.cache.backends.locmem.LocMemCache", "pages"),
    "django files": ("django.core.cache.backends.filebased.FileBasedCache", f"{DIRECTORY}/cache"),
    "django redis": ("django.core.cache.backends.redis.RedisCache", REDIS),
    "cachekit memory": ("cachekit.integrations.django.CacheKitCache", "memory"),
    "cachekit files": ("cachekit.integrations.django.CacheKitCache", f"{DIRECTORY}/cache"),
    "cachekit redis": ("cachekit.integrations.django.CacheKitCache", REDIS),
    "cachekit redis and files": (
        "cachekit.integrations.django.CacheKitCache", [REDIS, f"{DIRECTORY}/cache"],
    ),
}  # fmt: skip

TEMPLATE = (
    "<table>{% for row in rows %}<tr><td>{{ row.number }}</td><td>{{ row.name }}</td>"
    "<td>{{ row.price }}</td></tr>{% endfor %}</table>"
)


def django() -> Any:
    """Settings differ in CACHES and in MIDDLEWARE; the views do not."""
    import django as framework
    from django.conf import settings
    from django.core.wsgi import get_wsgi_application

    name, _, option = BACKEND.partition(", ")
    backend, location = _DJANGO.get(name, _DJANGO["django locmem"])
    middleware = ["django.middleware.common.CommonMiddleware"]
    if option == "cache middleware":
        middleware = [
            "django.middleware.cache.UpdateCacheMiddleware", *middleware,
            "django.middleware.cache.FetchFromCacheMiddleware",
        ]  # fmt: skip
    settings.configure(
        ALLOWED_HOSTS=["*"], SECRET_KEY="of the benchmark", ROOT_URLCONF=__name__, MIDDLEWARE=middleware,
        TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates"}],
        CACHES={"default": {"BACKEND": backend, "LOCATION": location, "OPTIONS": django_options(option)}},
        CACHE_MIDDLEWARE_SECONDS=TTL,
    )  # fmt: skip
    framework.setup()
    _django_urls()
    application = get_wsgi_application()
    if BACKEND.startswith("WSGICache"):
        from cachekit.http import WSGICache

        return WSGICache(application, our_cache())
    return application


def django_options(option: str) -> dict[str, Any]:
    if option != "one load for all processes":
        return {}
    from cachekit import LoadOptions

    return {"load": LoadOptions(lease="process")}


urlpatterns: list[Any] = []


def _django_urls() -> None:
    from django.core.cache import cache
    from django.http import HttpRequest, HttpResponse
    from django.template import engines
    from django.urls import path

    template = engines["django"].from_string(TEMPLATE)

    def page(request: HttpRequest, key: str) -> HttpResponse:
        return HttpResponse(cache.get_or_set(key, partial(load, key), TTL))

    def rows(request: HttpRequest, key: str, seconds: float = 0) -> HttpResponse:
        note()
        sleep(seconds)
        response = HttpResponse(template.render({"rows": ROWS}))
        response["Cache-Control"] = f"max-age={TTL}"
        return response

    slow = {"seconds": LOAD_SECONDS}
    urlpatterns.extend([
        path("page/<key>", page), path("rows/<key>", rows), path("slow/<key>", rows, slow),
    ])  # fmt: skip


# -- Flask ----------------------------------------------------------------------------------------------

_FLASK: dict[str, dict[str, Any]] = {
    "Flask-Caching simple": {"CACHE_TYPE": "SimpleCache"},
    "Flask-Caching files": {"CACHE_TYPE": "FileSystemCache", "CACHE_DIR": f"{DIRECTORY}/cache"},
    "Flask-Caching redis": {"CACHE_TYPE": "RedisCache", "CACHE_REDIS_URL": REDIS},
    "cachekit files": {"CACHE_DIR": f"{DIRECTORY}/cache"},
    "cachekit redis": {"CACHE_REDIS_URL": REDIS},
}


def flask() -> Any:
    from flask import Flask, Response, render_template_string
    from flask_caching import Cache

    app = Flask(__name__)
    name, _, option = BACKEND.partition(", ")
    ours = {"CACHE_TYPE": "cachekit.integrations.flask_caching.CacheKitCache"}
    chosen = _FLASK.get(name, _FLASK["Flask-Caching simple"])
    app.config |= {"SECRET_KEY": "of the benchmark", "CACHE_DEFAULT_TIMEOUT": TTL, **ours, **chosen}
    caching = Cache(app)
    memoized = caching.memoize()(load)

    def in_one_load(key: str) -> str:
        return caching.cache.cache.get_or_set(key, partial(load, key), ttl=TTL)

    found = in_one_load if option == "get_or_set" else memoized

    @app.get("/page/<key>")
    def page(key: str) -> str:
        return found(key)

    def rows(key: str, seconds: float = 0) -> Response:
        note()
        sleep(seconds)
        response = Response(render_template_string(TEMPLATE, rows=ROWS))
        response.cache_control.max_age = TTL
        return response

    if option == "cached()":
        rows = caching.cached()(rows)
    app.get("/rows/<key>")(rows)
    app.add_url_rule("/slow/<key>", "slow", rows, defaults={"seconds": LOAD_SECONDS})
    if BACKEND.startswith("WSGICache"):
        from cachekit.http import WSGICache

        app.wsgi_app = WSGICache(app.wsgi_app, our_cache())
    return app


# -- dogpile.cache, in an application without a framework --------------------------------------------------


def dogpile() -> Any:
    from dogpile.cache import make_region

    region = make_region()
    if BACKEND == "dogpile dbm":
        region.configure("dogpile.cache.dbm", TTL, {"filename": f"{DIRECTORY}/cache.dbm"})
    elif BACKEND == "dogpile redis":
        region.configure("dogpile.cache.redis", TTL, {"url": REDIS, "distributed_lock": True})
    else:
        region.configure("cachekit", TTL, {"cache": our_cache()})

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        key = environ["PATH_INFO"].rpartition("/")[2]
        content = region.get_or_create(key, partial(load, key)).encode()
        headers = [("Content-Type", "text/plain"), ("Content-Length", str(len(content)))]
        start_response("200 OK", headers)
        return [content]

    return app


# -- FastAPI --------------------------------------------------------------------------------------------


def fastapi() -> Any:
    from contextlib import asynccontextmanager

    from fastapi import FastAPI, Response
    from fastapi.responses import PlainTextResponse
    from pydantic import BaseModel

    class Row(BaseModel):
        number: int
        name: str
        price: int

    content, close, decorate = _fastapi_cache()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> Any:
        yield
        await close()

    app = FastAPI(lifespan=lifespan)

    @app.get("/page/{key}", response_class=PlainTextResponse)
    async def page(key: str) -> str:
        return await content(key)

    async def rows(key: str, response: Response) -> list[Row]:
        note()
        response.headers["cache-control"] = f"max-age={TTL}"
        return [Row(**row) for row in ROWS]

    async def slow(key: str, response: Response) -> list[Row]:
        await asyncio.sleep(LOAD_SECONDS)
        return await rows(key, response)

    async def marked(key: str) -> list[Row]:
        note()
        return [Row(**row) for row in ROWS]

    async def marked_slow(key: str) -> list[Row]:
        await asyncio.sleep(LOAD_SECONDS)
        return await marked(key)

    if BACKEND.startswith("ASGICache"):
        from cachekit.http import ASGICache

        app.add_middleware(ASGICache, cache=our_cache())
    if BACKEND.startswith("cached_route"):
        from cachekit.integrations.fastapi import CachedRoutes

        app.add_middleware(CachedRoutes, cache=our_cache())
    app.get("/rows/{key}")(decorate(marked if decorate is not unchanged else rows))
    app.get("/slow/{key}")(decorate(marked_slow if decorate is not unchanged else slow))
    return app


def unchanged(function: Any) -> Any:
    return function


async def _nothing() -> None: ...


def _fastapi_cache() -> tuple[Any, Any, Any]:
    """What answers `/page`, what ends it, and the decorator of routes."""
    if BACKEND.startswith("fastapi-cache2"):
        from fastapi_cache import FastAPICache
        from fastapi_cache.backends.inmemory import InMemoryBackend
        from fastapi_cache.backends.redis import RedisBackend
        from fastapi_cache.decorator import cache
        from redis.asyncio import from_url

        backend = RedisBackend(from_url(REDIS)) if "redis" in BACKEND else InMemoryBackend()
        FastAPICache.init(backend, prefix="pages")
        decorate = cache(expire=TTL)
        return decorate(load_async), _nothing, decorate
    if BACKEND.startswith("aiocache"):
        import aiocache

        options: dict[str, Any] = {"cache": aiocache.Cache.MEMORY}
        if "redis" in BACKEND:
            address = REDIS.removeprefix("redis://").partition("/")[0].partition(":")
            options = {"cache": aiocache.Cache.REDIS, "endpoint": address[0], "port": int(address[2])}
            options["serializer"] = aiocache.serializers.JsonSerializer()
        return aiocache.cached(ttl=TTL, **options)(load_async), _nothing, unchanged
    if BACKEND.startswith("cached_route"):
        from cachekit.integrations.fastapi import cached_route

        return load_async, _nothing, cached_route(ttl=TTL)
    if not BACKEND.startswith("cachekit"):
        return load_async, _nothing, unchanged
    from cachekit.aio import IntelligentCache

    cache = IntelligentCache.of(our_cache())

    async def content(key: str) -> str:
        return await cache.get_or_set(key, partial(load_async, key), ttl=TTL)

    return content, cache.close, unchanged
