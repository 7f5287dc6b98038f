"""The adapter for FastAPI: the life of a cache, and routes whose responses it holds."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import asgi_client
import pytest

pytest.importorskip("fastapi", reason="fastapi is not installed")

from fastapi import (
    APIRouter,
    Cookie,
    Depends,
    FastAPI,
    Header,
    HTTPException,
    Request,
    Response,
)
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.security import APIKeyHeader, HTTPBearer

from cachekit import CacheClosedError, IntelligentCache, MemoryCache, cache_result, disabled
from cachekit.aio import IntelligentCache as AwaitedCache
from cachekit.http import ASGICache
from cachekit.integrations.fastapi import (
    CachedRoutes,
    CurrentCache,
    cached,
    cached_route,
    current_cache,
    lifespan_of,
)
from cachekit.testing import ManualClock

_KEY = APIKeyHeader(name="access-token", auto_error=False)


class Site:
    """An application with one route, which says how often it was called."""

    def __init__(self, ignore: Iterable[str] = ()) -> None:
        self.clock = ManualClock()
        self.cache = IntelligentCache(MemoryCache(clock=self.clock), file_cache=None)
        self.app = FastAPI()
        self.app.add_middleware(CachedRoutes, cache=self.cache, ignore=ignore)
        self.calls = 0

    def called(self) -> int:
        self.calls += 1
        return self.calls

    def get(self, path: str = "/", **headers: str) -> asgi_client.Response:
        request: Any = asgi_client.request  # whose other arguments are no fields
        response: asgi_client.Response = request(self.app, path, host="shop.test", **headers)
        return response

    def texts(self, *requests: dict[str, str], path: str = "/") -> list[str]:
        return [self.get(path, **headers).text for headers in requests]


@pytest.fixture
def cache() -> Iterator[IntelligentCache]:
    # FastAPI remembers the functions of some routes, and through them what they use.
    with IntelligentCache(MemoryCache(), file_cache=None) as made:
        yield made


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    with made.cache:
        yield made


def add(site: Site, **options: Any) -> None:
    """Add a route at / whose response is the number of its call."""

    @site.app.get("/")
    @cached_route(**{"ttl": 60, **options})
    async def page() -> int:
        return site.called()


class TestCachedRoute:
    def test_one_call_for_its_life(self, site: Site) -> None:
        add(site)
        first, again = site.get(), site.get()
        assert (first.text, again.text, site.calls) == ("1", "1", 1)
        assert first.headers["cache-status"] == "cachekit; fwd=uri-miss; stored"
        assert again.headers["cache-status"].startswith("cachekit; hit; ttl=")
        assert again.headers["cache-control"] == "max-age=60"
        assert again.headers["content-type"] == "application/json"
        site.clock.advance(60)
        assert site.get().text == "2"

    def test_a_client_that_has_it(self, site: Site) -> None:
        """An entity tag lets a browser ask again without content; it changes with the content."""
        add(site)
        tag = site.get().headers["etag"]
        assert site.get(if_none_match=tag).status == 304
        assert site.get(if_none_match='W/"other"').status == 200
        site.clock.advance(60)
        assert site.get(if_none_match=tag).status == 200
        assert site.get().headers["etag"] != tag

    def test_sync_routes_parameters_models_and_status(self, site: Site) -> None:
        """The signature that FastAPI looks at is that of the function, checks and conversions included."""

        def doubled(number: int) -> int:
            return 2 * number

        @site.app.get("/pages/{number}", status_code=201)
        @cached_route(ttl=timedelta(minutes=1))
        def page(
            number: int,
            response: Response,
            request: Request,
            twice: Annotated[int, Depends(doubled)],
            size: int = 1,
        ) -> dict[str, Any]:
            response.headers["X-Made-By"] = request.method
            return {"number": number, "twice": twice, "size": size, "call": site.called()}

        made = [site.get("/pages/7") for _ in range(2)]
        assert [one.status for one in made] == [201, 201]
        assert made[1].text == '{"number":7,"twice":14,"size":1,"call":1}'
        assert made[1].headers["x-made-by"] == "GET"
        assert site.get("/pages/8").text.endswith('"call":2}')
        assert site.get("/pages/seven").status == 422
        assert site.calls == 2
        operation = site.app.openapi()["paths"]["/pages/{number}"]["get"]
        assert [one["name"] for one in operation["parameters"]] == ["number", "size"]
        assert inspect.signature(page).parameters["size"].default == 1
        direct: Any = page
        assert direct(1, Response(), Request({"type": "http", "method": "GET"}), 2)["call"] == 3

    @pytest.mark.parametrize("status", [404, 400, 500, 503, 301])
    def test_what_is_no_success_is_not_stored(self, site: Site, status: int) -> None:
        """Neither raised, nor returned, nor set."""

        @site.app.get("/raised")
        @cached_route(ttl=60)
        async def raised() -> None:
            site.called()
            raise HTTPException(status, headers={"Location": "/elsewhere"})

        @site.app.get("/returned")
        @cached_route(ttl=60)
        async def returned() -> Response:
            return JSONResponse(site.called(), status)

        @site.app.get("/set")
        @cached_route(ttl=60)
        async def set_later(response: Response) -> int:
            response.status_code = status
            return site.called()

        for path in ("/raised", "/returned", "/set"):
            before = site.calls
            for _ in range(2):
                answer = site.get(path)
                assert answer.status == status
                assert "cache-control" not in answer.headers
                assert answer.headers["cache-status"].endswith(f"; detail=status-{status}")
            assert site.calls == before + 2

    def test_a_route_that_fails_is_not_stored(self, site: Site) -> None:
        @site.app.get("/")
        @cached_route(ttl=60)
        async def page() -> int:
            if site.called() < 3:
                raise ValueError("out of stock")
            return site.calls

        for _ in range(2):
            with pytest.raises(ValueError, match="out of stock"):
                site.get()
        assert [site.get().text, site.get().text] == ["3", "3"]

    def test_stale_responses(self, site: Site) -> None:
        """A route that fails is answered with the last response, within `stale_ttl`."""

        @site.app.get("/")
        @cached_route(ttl=60, stale_ttl=600)
        async def page() -> int:
            if site.called() > 1:
                raise HTTPException(503)
            return site.calls

        assert site.get().headers["cache-control"] == (
            "max-age=60, stale-while-revalidate=600, stale-if-error=600"
        )
        site.clock.advance(100)
        assert site.get().text == "1"

    def test_tags(self, site: Site) -> None:
        @site.app.get("/pages/{number}")
        @cached_route(ttl=60, tags=lambda request: {f"page-{request.path_params['number']}", "pages"})
        async def page(number: int) -> str:
            return f"{number} {site.called()}"

        assert site.get("/pages/7").headers["cache-tag"] == "page-7, pages"
        site.get("/pages/8")
        site.cache.invalidate_by_tags({"page-7"})
        assert site.texts({}, path="/pages/7") + site.texts({}, path="/pages/8") == ['"7 3"', '"8 2"']
        site.cache.invalidate_by_tags({"pages"})
        assert site.texts({}, path="/pages/8") == ['"8 4"']

    def test_what_the_route_says_itself_stands(self, site: Site) -> None:
        """A cookie, or a `Cache-Control`; a tag or an entity tag of the route is kept beside ours."""

        @site.app.get("/cookie")
        @cached_route(ttl=60, authorized="all")
        async def cookie(response: Response) -> int:
            response.set_cookie("session", "secret")
            return site.called()

        @site.app.get("/own")
        @cached_route(ttl=60)
        async def own(response: Response) -> int:
            response.headers["Cache-Control"] = "no-store"
            return site.called()

        @site.app.get("/tagged")
        @cached_route(ttl=60, tags={"pages"})
        async def tagged(response: Response) -> int:
            response.headers["Cache-Tag"] = "page-1"
            response.headers["ETag"] = '"one"'
            return site.called()

        for path in ("/cookie", "/own"):
            assert len({site.get(path).text for _ in range(3)}) == 3
        assert {site.get("/tagged").headers["etag"] for _ in range(2)} == {'"one"'}
        before = site.calls
        for tag in ("page-1", "pages"):
            site.cache.invalidate_by_tags({tag})
            site.get("/tagged")
        assert site.calls == before + 2

    def test_streams(self, site: Site) -> None:
        """A stream of known end is stored, and nothing of it is held back; events are not stored."""

        def body(kind: str) -> Callable[[], StreamingResponse]:
            def stream() -> StreamingResponse:
                return StreamingResponse(iter([str(site.called()), "!"]), media_type=kind)

            return stream

        site.app.add_api_route("/text", cached_route(ttl=60)(body("text/plain")))
        site.app.add_api_route("/events", cached_route(ttl=60)(body("text/event-stream")))
        assert [site.get("/text").text for _ in range(2)] == ["1!", "1!"]
        assert [site.get("/events").text for _ in range(2)] == ["2!", "3!"]

    def test_requests_together_call_the_route_once(self, site: Site) -> None:
        @site.app.get("/")
        @cached_route(ttl=60)
        async def page() -> int:
            await asyncio.sleep(0)
            return site.called()

        async def many() -> set[str]:
            calls = (asyncio.to_thread(site.get) for _ in range(5))
            return {response.text for response in await asyncio.gather(*calls)}

        # The first request makes the middleware. Starlette takes no lock there, because its servers have one
        # loop. Each of two threads that are first at once would have a middleware and flights of its own.
        assert site.get("/none").status == 404
        assert asyncio.run(many()) == {"1"}

    def test_other_methods(self, site: Site) -> None:
        """A POST of a decorated route is never stored, and takes the page of its URL out."""
        add(site)

        @site.app.post("/")
        @cached_route(ttl=60)
        async def edit() -> int:
            return site.called()

        site.get()
        answer = asgi_client.request(site.app, "/", method="POST", host="shop.test")
        assert (answer.text, "cache-control" in answer.headers) == ("2", False)
        assert site.get().text == "3"

    def test_the_argument_vary(self, site: Site) -> None:
        add(site, vary=["Accept-Language"])
        english, german = {"accept_language": "en"}, {"accept_language": "de"}
        assert site.texts(english, german, english, german) == ["1", "2", "1", "2"]
        assert "accept-language" in site.get(**english).headers["vary"]

    def test_disabled(self, site: Site) -> None:
        add(site)
        site.get()
        with disabled():
            assert site.texts({}, {}) == ["2", "3"]
        assert site.get().text == "1"


class TestCredentials:
    #: Requests that may be of one user, in the ways in which applications tell users.
    OF_A_USER = (
        {"authorization": "Bearer a"}, {"cookie": "session=a"}, {"access_token": "a"}, {"x_api_key": "a"},
        {"token": "a"}, {"api_key": "a"}, {"remote_user": "a"}, {"ssl_client_cert": "a"},
    )  # fmt: skip

    @pytest.mark.parametrize("of_a_user", OF_A_USER, ids=str)
    def test_never_by_default(self, site: Site, of_a_user: dict[str, str]) -> None:
        """Nothing of a user is stored, and no user gets what was stored of another request."""
        add(site)
        assert site.texts(of_a_user, of_a_user, {}, of_a_user, {}) == ["1", "2", "3", "4", "3"]
        assert "cache-control" not in site.get(**of_a_user).headers

    @pytest.mark.parametrize("name", ["authorization", "cookie", "access_token", "x_api_key"])
    def test_each(self, site: Site, name: str) -> None:
        add(site, authorized="each")
        ann, bob = {name: "Bearer a"}, {name: "Bearer b"}
        assert site.texts(ann, bob, {}, ann, bob, {}) == ["1", "2", "3", "1", "2", "3"]

    def test_all(self, site: Site) -> None:
        """Also for requests without credentials, whose dependencies would have refused them."""
        add(site, authorized="all")
        assert site.texts({"authorization": "a"}, {"cookie": "b"}, {}, {"authorization": "c"}) == ["1"] * 4

    def test_dependencies_that_refuse(self, site: Site) -> None:
        """With the schemes of FastAPI: what one user may see, others may not, before or after."""
        schemes: dict[str, Any] = {"bearer": HTTPBearer(), "key": APIKeyHeader(name="access-token")}
        sent = {"bearer": {"authorization": "Bearer a"}, "key": {"access_token": "a"}}
        for path, scheme in schemes.items():
            depends = [Depends(scheme), Depends(cached(ttl=60))]
            site.app.add_api_route(f"/{path}", site.called, dependencies=depends)
            for _ in range(2):
                assert site.get(f"/{path}").status in {401, 403}
                assert site.get(f"/{path}", **sent[path]).status == 200
        assert site.calls == 4

    def test_optional_users(self, site: Site) -> None:
        """A page that greets the user, by a cookie or a field of any name."""

        @site.app.get("/")
        @cached_route(ttl=60)
        async def page(
            name: Annotated[str | None, Cookie()] = None,
            user: Annotated[str | None, Header()] = None,
            key: Annotated[str | None, Depends(_KEY)] = None,
        ) -> str:
            return name or user or key or "all"

        requests = [{}, {"cookie": "name=ann"}, {}, {"user": "bob"}, {"access_token": "eve"}, {}]
        assert site.texts(*requests) == ['"all"', '"ann"', '"all"', '"bob"', '"eve"', '"all"']

    def test_fields_that_every_browser_and_proxy_sends(self, site: Site) -> None:
        """They are no credentials, and one page is for all of them."""
        add(site)
        usual = {
            "accept": "*/*", "accept_encoding": "gzip", "accept_language": "en", "user_agent": "a",
            "referer": "/a", "sec_fetch_mode": "navigate", "x_forwarded_for": "10.0.0.1", "x_request_id": "1",
            "cf_ray": "1", "traceparent": "1", "via": "a", "dnt": "1", "priority": "u=0", "x_b3_traceid": "1",
        }  # fmt: skip
        assert site.texts(usual, {}, {name: f"{value}2" for name, value in usual.items()}) == ["1"] * 3

    def test_ignored_fields(self) -> None:
        site = Site(ignore=["CDN-Trace"])
        with site.cache:
            add(site)
            assert site.texts({"cdn_trace": "1"}, {"cdn_trace": "2"}, {}) == ["1"] * 3
            assert site.texts({"other": "1"}) == ["2"]

    def test_a_client_cannot_send_the_mark_itself(self, site: Site) -> None:
        """The application does not see the field that keeps requests apart, nor takes one from outside."""
        seen: list[str] = []

        @site.app.get("/")
        @cached_route(ttl=60)
        async def page(request: Request) -> int:
            seen.extend(request.headers)
            return site.called()

        assert site.texts({"x_cachekit_unusual_fields": "0"}, {}, {"token": "a"}) == ["1", "1", "2"]
        assert not [name for name in seen if name.startswith("x-cachekit")]


class TestDependency:
    def test_of_a_router(self, site: Site) -> None:
        """All routes of a router, with its prefix, and without a decorator."""
        router = APIRouter(prefix="/api", dependencies=[Depends(cached(ttl=60, tags={"api"}))])
        router.add_api_route("/one", site.called)
        router.add_api_route("/two", site.called)
        site.app.include_router(router, prefix="/v1")
        site.app.add_api_route("/three", site.called)
        paths = ["/v1/api/one", "/v1/api/two", "/v1/api/one", "/three", "/three"]
        assert [site.get(path).text for path in paths] == ["1", "2", "1", "3", "4"]
        site.cache.invalidate_by_tags({"api"})
        assert site.get("/v1/api/one").text == "5"

    def test_without_a_cache_in_front(self, cache: IntelligentCache, site: Site) -> None:
        """It says so, and does not leave routes uncached in silence."""
        for wrapped in (False, True):
            app = FastAPI()
            app.add_api_route("/", cached_route(ttl=60)(site.called))
            served: Any = ASGICache(app, cache) if wrapped else app
            with pytest.raises(RuntimeError, match=r"app\.add_middleware\(CachedRoutes, cache=cache\)"):
                asgi_client.request(served, "/", host="shop.test")

    @pytest.mark.parametrize(
        ("options", "error", "said"),
        [
            ({"ttl": 0}, ValueError, "ttl must be from 1 to 2147483647 seconds, not 0"),
            ({"ttl": float("inf")}, ValueError, "ttl must be from 1"),
            ({"ttl": float("nan")}, ValueError, "ttl"),
            ({"ttl": None}, TypeError, "ttl must be a number of seconds or a timedelta, not None"),
            ({"ttl": "1m"}, TypeError, "ttl must be"),
            ({"stale_ttl": -1}, ValueError, "stale_ttl must be from 0"),
            ({"tags": "articles"}, TypeError, "tags must be a set, list or tuple of str"),
            ({"tags": {"a,b"}}, ValueError, "tags must be printable Latin-1"),
            ({"tags": {"a\r\nset-cookie: b"}}, ValueError, "tags must be printable Latin-1"),
            ({"tags": {"цена"}}, ValueError, "tags must be printable Latin-1"),
            ({"tags": {" a"}}, ValueError, "tags must be printable Latin-1"),
            ({"vary": "cookie"}, TypeError, "vary must be a set, list or tuple of str"),
            ({"vary": ["*"]}, ValueError, "vary must be names of request fields"),
            ({"vary": ["a\nb"]}, ValueError, "vary must be names of request fields"),
            ({"authorized": True}, ValueError, "authorized must be one of never, each, all, not True"),
        ],
    )
    def test_wrong_arguments(self, options: dict[str, Any], error: type[Exception], said: str) -> None:
        for make in [cached, cached_route]:
            with pytest.raises(error, match=said):
                make(**{"ttl": 60, **options})

    def test_tags_of_a_request_are_checked(self, site: Site) -> None:
        add(site, tags=lambda request: {request.headers["referer"]})
        with pytest.raises(ValueError, match="the result of the tags function must be printable Latin-1"):
            site.get(referer="a,b")

    def test_a_route_that_yields(self) -> None:
        async def events() -> AsyncIterator[int]:
            yield 1

        with pytest.raises(TypeError, match="which yields"):
            cached_route(ttl=60)(events)


def run_lifespan(app: FastAPI, inside: Callable[[], object]) -> None:
    async def run() -> None:
        async with app.router.lifespan_context(app) as state:
            app.state.found = state
            inside()

    asyncio.run(run())


class TestLifespan:
    def test_it_closes_the_cache(self) -> None:
        cache = IntelligentCache(MemoryCache(), file_cache=None)
        app = FastAPI(lifespan=lifespan_of(cache))
        run_lifespan(app, lambda: cache.set("a", 1))
        with pytest.raises(CacheClosedError):
            cache.get("a")
        with pytest.raises(CacheClosedError, match="pass a function that makes one"):
            run_lifespan(app, lambda: None)

    def test_a_function_makes_one_for_each_run(self) -> None:
        made: list[AwaitedCache] = []

        def make() -> AwaitedCache:
            made.append(AwaitedCache(MemoryCache(), file_cache=None))
            return made[-1]

        app = FastAPI(lifespan=lifespan_of(make))
        for _ in range(2):
            run_lifespan(app, lambda: made[-1].sync.set("a", 1))
        assert len(made) == 2
        wrong: Any = lambda: "a cache"  # noqa: E731
        with pytest.raises(TypeError, match="must return an IntelligentCache, not 'a cache'"):
            run_lifespan(FastAPI(lifespan=lifespan_of(wrong)), lambda: None)

    def test_another_lifespan_runs_inside(self) -> None:
        cache = IntelligentCache(MemoryCache(), file_cache=None)

        @asynccontextmanager
        async def mine(app: FastAPI) -> AsyncIterator[dict[str, int]]:
            cache.set("begun", 1)
            yield {"pool": 7}
            assert cache.get("begun") == 1

        app = FastAPI(lifespan=lifespan_of(cache, mine))
        run_lifespan(app, lambda: None)
        assert app.state.found["pool"] == 7
        with pytest.raises(CacheClosedError):
            cache.get("begun")

    @pytest.mark.parametrize("wrong", [None, "cache", 7])
    def test_wrong_arguments(self, wrong: Any) -> None:
        with pytest.raises(TypeError, match="cache must be an IntelligentCache, or a function"):
            lifespan_of(wrong)
        with pytest.raises(TypeError, match="lifespan must be a function"):
            lifespan_of(IntelligentCache, lifespan=wrong or 7)  # type: ignore[arg-type]

    def test_the_cache_of_a_route(self, cache: IntelligentCache) -> None:
        """Under a server, the state of the lifespan is in the scope of each request."""
        app = FastAPI()

        @app.get("/")
        async def page(cache: CurrentCache) -> int:
            return await cache.get_or_set("page", lambda: 7)

        async def served(scope: Any, receive: Any, send: Any) -> None:
            await app({**scope, "state": {"cachekit": AwaitedCache.of(cache)}}, receive, send)

        assert asgi_client.request(served, "/").text == "7"
        assert cache.get("page") == 7
        with pytest.raises(RuntimeError, match=r"FastAPI\(lifespan=lifespan_of\(cache\)\)"):
            asgi_client.request(app, "/")
        app.dependency_overrides[current_cache] = lambda: AwaitedCache.of(cache)
        assert asgi_client.request(app, "/").text == "7"

    def test_cached_functions_are_dependencies(self, cache: IntelligentCache) -> None:
        """FastAPI sees their signature."""
        calls: list[int] = []

        @cache_result(cache=cache)
        async def user(number: int) -> str:
            calls.append(number)
            return f"user {number}"

        app = FastAPI()

        @app.get("/users/{number}")
        async def page(user: Annotated[str, Depends(user)]) -> str:
            return user

        assert [asgi_client.request(app, "/users/7").text for _ in range(2)] == ['"user 7"'] * 2
        assert calls == [7]


def test_all_is_documented() -> None:
    """Everything public of the module is on the page."""
    text = (Path(__file__).parents[2] / "docs" / "integrations.md").read_text(encoding="utf-8")
    for name in ("CachedRoutes", "CurrentCache", "cached_route", "cached(", "current_cache", "lifespan_of"):
        assert name in text
