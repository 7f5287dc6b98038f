"""FastAPI and Starlette: a cache that lives as long as the application, and routes whose responses it holds.

`CachedRoutes` is `ASGICache` in front of the application. `cached` and `cached_route` say which routes it
may answer for. A hit calls neither the route nor its dependencies. So a response to a request that may be of
one user is not stored, unless the route says that it may be.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import wraps
from hashlib import blake2b
from typing import Annotated, Any, Final, Literal, ParamSpec, TypeAlias, TypeVar, final

from fastapi import Depends, Request
from starlette.requests import HTTPConnection

from cachekit.aio.cache import IntelligentCache as AwaitedCache
from cachekit.cache.default import core_of
from cachekit.cache.intelligent import IntelligentCache
from cachekit.decorator.source import is_disabled
from cachekit.errors import CacheClosedError
from cachekit.http.asgi import Application, ASGICache, Message, Receive, Scope, Send
from cachekit.http.keys import UNKEYED_FIELDS, UNKEYED_PREFIXES
from cachekit.model.display import safe_repr
from cachekit.model.types import TTL, Tags
from cachekit.model.validation import checked_tags, seconds
from cachekit.runtime.threads import in_own_thread

P = ParamSpec("P")
R = TypeVar("R")

#: Which responses to requests with credentials are stored; see `cached`.
Authorized: TypeAlias = Literal["never", "each", "all"]
AnyCache: TypeAlias = IntelligentCache | AwaitedCache
Lifespan: TypeAlias = Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any] | None]]

_AUTHORIZED: Final = ("never", "each", "all")
_STATE: Final = "cachekit"
_MARKS: Final = "cachekit.marks"

#: Keyed by `ASGICache` as every field of this form; the application does not see it.
_UNUSUAL: Final = b"x-cachekit-unusual-fields"

#: Request fields by which no application tells users apart, beside those that `ASGICache` leaves out of keys.
_USUAL: Final = UNKEYED_FIELDS | frozenset({
    b"accept", b"accept-charset", b"accept-encoding", b"accept-language", b"alt-used", b"baggage",
    b"cache-control", b"cdn-loop", b"cf-connecting-ip", b"cf-ray", b"cf-visitor", b"connection",
    b"content-length", b"content-type", b"date", b"device-memory", b"dnt", b"downlink", b"dpr", b"ect",
    b"expect", b"fastly-client-ip", b"forwarded", b"host", b"hx-boosted", b"hx-current-url",
    b"hx-history-restore-request", b"hx-request", b"hx-target", b"hx-trigger", b"if-match",
    b"if-modified-since", b"if-none-match", b"if-range", b"if-unmodified-since", b"keep-alive",
    b"max-forwards", b"origin", b"pragma", b"priority", b"purpose", b"range", b"referer", b"rtt",
    b"save-data", b"sentry-trace", b"te", b"traceparent", b"tracestate", b"true-client-ip", b"turbo-frame",
    b"upgrade-insecure-requests", b"user-agent", b"via", b"viewport-width", b"width", b"x-forwarded-host",
    b"x-forwarded-port", b"x-forwarded-prefix", b"x-forwarded-proto", b"x-requested-with",
})  # fmt: skip
_USUAL_PREFIXES: Final = (b"sec-", *UNKEYED_PREFIXES)
_CREDENTIALS: Final = frozenset({b"authorization", b"cookie"})


# -- the life of a cache --------------------------------------------------------------------------------


def lifespan_of(
    cache: AnyCache | Callable[[], AnyCache], lifespan: Lifespan | None = None
) -> Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any]]]:
    """Return a lifespan for `FastAPI(lifespan=...)` that gives the cache to routes, and closes it at the end.

    Args:
        cache: A cache, awaited or not, or a function that makes one each time that the application starts, in
            a thread. Tests start an application several times.
        lifespan: Another lifespan, which runs while the cache is open (default: none).

    Raises:
        TypeError: an argument of the wrong type.

    The application does not start with a cache that is closed: CacheClosedError.
    """
    if not isinstance(cache, (IntelligentCache, AwaitedCache)) and not callable(cache):
        raise TypeError(
            f"cache must be an IntelligentCache, or a function that makes one, not {safe_repr(cache)}; "
            f"pass cache=IntelligentCache()"
        )
    if lifespan is not None and not callable(lifespan):
        raise TypeError(f"lifespan must be a function of the application, not {safe_repr(lifespan)}")

    @asynccontextmanager
    async def run(app: Any) -> AsyncIterator[Mapping[str, Any]]:
        async with await _opened(cache) as awaited:
            if lifespan is None:
                yield {_STATE: awaited}
            else:
                async with lifespan(app) as state:
                    yield {**(state or {}), _STATE: awaited}

    return run


async def _opened(given: AnyCache | Callable[[], AnyCache]) -> AwaitedCache:
    if isinstance(given, (IntelligentCache, AwaitedCache)):
        made: object = given
        remedy = "pass a function that makes one: lifespan_of(lambda: IntelligentCache())"
    else:
        made = await in_own_thread(given)
        remedy = "return a new one"
    if isinstance(made, IntelligentCache):
        made = AwaitedCache.of(made)
    if not isinstance(made, AwaitedCache):
        raise TypeError(f"the function of lifespan_of must return an IntelligentCache, not {safe_repr(made)}")
    if core_of(made.sync).closed:
        raise CacheClosedError(
            f"the cache of this application was closed, such as by an earlier run; {remedy}"
        )
    return made


async def current_cache(connection: HTTPConnection) -> AwaitedCache:
    """Return the cache of `lifespan_of`, awaited; a dependency: `Depends(current_cache)`.

    Raises:
        RuntimeError: the application has no such lifespan, or it has not run.
    """
    found = getattr(connection.state, _STATE, None)
    if not isinstance(found, AwaitedCache):
        raise RuntimeError(
            "this application has no cache; write FastAPI(lifespan=lifespan_of(cache)), and in tests "
            "`with TestClient(app) as client`, which runs it"
        )
    return found


#: The annotation of a parameter of a route: `async def article(number: int, cache: CurrentCache)`.
CurrentCache: TypeAlias = Annotated[AwaitedCache, Depends(current_cache)]


# -- cached routes --------------------------------------------------------------------------------------


@final
class CachedRoutes:
    """`ASGICache` for an application that says with `cached` or `cached_route` what may be stored.

        app.add_middleware(CachedRoutes, cache=cache)

    Args:
        app: The application.
        cache: Where responses are stored: an `IntelligentCache`, or its asyncio view.
        ignore: Names of request fields that no response depends on (default: none). A request with an unknown
            field may be of one user, so what is stored is never an answer to it.
        max_body: As for `ASGICache`, like the others.
        max_buffered: As for `ASGICache`.
        client_directives: As for `ASGICache`.
        coalesce: As for `ASGICache`.

    Raises:
        TypeError, ValueError: as for `ASGICache`.

    Responses of other routes are treated as `ASGICache` treats them. While caching is disabled
    (`cachekit.disabled`), requests are passed on.
    """

    __slots__ = ("_app", "_cached", "_usual")

    def __init__(
        self,
        app: Application,
        cache: AnyCache,
        *,
        ignore: Iterable[str] = (),
        max_body: int = 1 << 20,
        max_buffered: int = 64 << 20,
        client_directives: bool = True,
        coalesce: bool = True,
    ) -> None:
        self._app = _Marking(app)
        names = ignore if isinstance(ignore, str) else frozenset(ignore)
        self._cached = ASGICache(
            self._app, cache, max_body=max_body, max_buffered=max_buffered, ignore=names,
            client_directives=client_directives, coalesce=coalesce,
        )  # fmt: skip
        self._usual = _USUAL | _CREDENTIALS | {name.lower().encode("latin-1", "replace") for name in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = [pair for pair in scope["headers"] if pair[0].lower() != _UNUSUAL]
        unusual = sorted(pair for pair in headers if self._is_unusual(pair[0].lower()))
        if unusual:
            digest = blake2b(repr(unusual).encode(), digest_size=16).hexdigest()
            headers.append((_UNUSUAL, digest.encode()))
        app = self._app if is_disabled() else self._cached
        await app({**scope, "headers": headers}, receive, send)

    def _is_unusual(self, name: bytes) -> bool:
        return name not in self._usual and not name.startswith(_USUAL_PREFIXES)


@final
class _Marks:
    """What the route of one request says of its response."""

    __slots__ = ("rule", "tags")

    def __init__(self) -> None:
        self.rule: _Rule | None = None
        self.tags = ""


@final
class _Rule:
    """The checked arguments of `cached`."""

    __slots__ = ("_authorized", "_control", "_tags", "_vary")

    def __init__(
        self,
        ttl: TTL,
        stale_ttl: TTL,
        tags: Tags | Callable[[Request], Tags],
        vary: Iterable[str],
        authorized: Authorized,
    ) -> None:
        if ttl is None:
            raise TypeError("ttl must be a number of seconds or a timedelta, not None; write ttl=60")
        life = seconds(ttl, "ttl")
        if not 1 <= life <= _LONGEST:
            raise ValueError(f"ttl must be from 1 to {_LONGEST} seconds, not {ttl!r}")
        stale = 0.0 if stale_ttl is None else seconds(stale_ttl, "stale_ttl")
        if not 0 <= stale <= _LONGEST:
            raise ValueError(f"stale_ttl must be from 0 to {_LONGEST} seconds, not {stale_ttl!r}")
        if authorized not in _AUTHORIZED:
            raise ValueError(
                f"authorized must be one of {', '.join(_AUTHORIZED)}, not {safe_repr(authorized)}"
            )
        directives = [f"max-age={int(life)}"]
        if stale >= 1:
            directives += [f"stale-while-revalidate={int(stale)}", f"stale-if-error={int(stale)}"]
        if authorized != "never":
            directives.append("public")
        self._control = ", ".join(directives).encode()
        self._authorized = authorized
        self._tags: Callable[[Request], Tags] | str
        self._tags = tags if callable(tags) else _tag_field(tags, "tags")
        names = _field_names(vary)
        if authorized != "all":
            names |= {"authorization", "cookie"}
        self._vary = ", ".join(sorted(names)).encode()

    def tags_for(self, request: Request) -> str:
        """Return the `Cache-Tag` of the response to a request."""
        if callable(self._tags):
            return _tag_field(self._tags(request), "the result of the tags function")
        return self._tags

    def fields_for(self, marks: _Marks, scope: Scope, message: Message) -> list[tuple[bytes, bytes]]:
        """Return the fields to add to a response; none if it is not to be stored."""
        names = {bytes(name).lower() for name, _ in message.get("headers", ())}
        if not 200 <= message["status"] < 300 or names & {b"cache-control", b"set-cookie"}:
            return []
        sent = {name.lower() for name, _ in scope["headers"]}
        if self._authorized == "never" and sent & (_CREDENTIALS | {_UNUSUAL}):
            return []
        fields = [(b"cache-control", self._control)]
        if self._vary:
            fields.append((b"vary", self._vary))
        if marks.tags:
            fields.append((b"cache-tag", marks.tags.encode("latin-1")))
        return fields


#: The longest `max-age` that every cache understands (RFC 9111, section 1.2.2).
_LONGEST: Final = (1 << 31) - 1


@final
class _Marking:
    """The application, whose responses get the fields that `cached` asks for, and an `ETag`."""

    __slots__ = ("_app",)

    def __init__(self, app: Application) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        marks, held = _Marks(), list[Message]()

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                rule = marks.rule
                fields = [] if rule is None else rule.fields_for(marks, scope, message)
                if fields:
                    message = {**message, "headers": [*message.get("headers", ()), *fields]}
                    if _takes_etag(message):
                        held.append(message)  # until its content is there
                        return
            elif held:
                start = held.pop()
                if message["type"] == "http.response.body" and not message.get("more_body", False):
                    digest = blake2b(message.get("body", b""), digest_size=16).hexdigest()
                    # Weak, because middleware outside of this one may compress the content.
                    start["headers"].append((b"etag", f'W/"{digest}"'.encode()))
                await send(start)
            await send(message)

        headers = [pair for pair in scope["headers"] if pair[0] != _UNUSUAL]
        await self._app({**scope, "headers": headers, _MARKS: marks}, receive, marked)


def _takes_etag(message: Message) -> bool:
    """Return whether the content of a response comes in one piece, and has no entity tag yet."""
    names = {bytes(name).lower() for name, _ in message["headers"]}
    return message["status"] == 200 and b"content-length" in names and b"etag" not in names


def cached(
    *,
    ttl: TTL,
    stale_ttl: TTL = None,
    tags: Tags | Callable[[Request], Tags] = (),
    vary: Iterable[str] = (),
    authorized: Authorized = "never",
) -> Callable[[Request], Awaitable[None]]:
    """Return a dependency of routes whose responses `CachedRoutes` may store: `Depends(cached(ttl=60))`.

    It is one of a route or of a router, in `dependencies=[...]`. Successful responses (200 to 299) to GET are
    stored. Those that set a cookie, or have a `Cache-Control` of their own, stay as they are.

    Args:
        ttl: The life of a response, from 1 second. Browsers keep it as long, out of reach of invalidations.
        stale_ttl: Seconds, or a timedelta, after its life in which a stale response may be served, while the
            route is called again in the background, or when it fails (default None: never).
        tags: Labels for `invalidate_by_tags`, or a function from the request to them (default: none).
            Clients see them in `Cache-Tag`.
        vary: Names of request fields that the response depends on, such as `["accept-language"]`.
        authorized: What is stored of requests that may be of one user. They have an `Authorization`, a
            `Cookie`, or a field that is unknown. "never" (the default) stores nothing, and such a request
            always calls the route. With "each" there is a response for each combination of them. With "all",
            one response is for all users, and for requests without credentials as well.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: a number out of range, or a tag or name that cannot be in a header field.
    """
    rule = _Rule(ttl, stale_ttl, tags, vary, authorized)

    async def marks(request: Request) -> None:
        found = request.scope.get(_MARKS)
        if not isinstance(found, _Marks):
            raise RuntimeError(
                "this application has cached routes and no cache in front of it; "
                "write app.add_middleware(CachedRoutes, cache=cache)"
            )
        if request.method in {"GET", "HEAD"}:
            found.tags, found.rule = rule.tags_for(request), rule

    # FastAPI resolves annotations in the module of the function, which this one is.
    return marks


def cached_route(
    *,
    ttl: TTL,
    stale_ttl: TTL = None,
    tags: Tags | Callable[[Request], Tags] = (),
    vary: Iterable[str] = (),
    authorized: Authorized = "never",
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator with the effect of `cached`. It stands between `@app.get(...)` and the function.

        @app.get("/articles/{number}")
        @cached_route(ttl=60, tags={"articles"})
        async def article(number: int) -> Article: ...

    Args:
        ttl: As for `cached`, like the others.
        stale_ttl: As for `cached`.
        tags: As for `cached`.
        vary: As for `cached`.
        authorized: As for `cached`.

    Raises:
        TypeError: an argument of the wrong type, or a function that yields.
        ValueError: as for `cached`.
    """
    depends = Depends(cached(ttl=ttl, stale_ttl=stale_ttl, tags=tags, vary=vary, authorized=authorized))

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(
                f"cached_route must stand above a function that returns its response, "
                f"not {safe_repr(function)}, "
                f"which yields"
            )
        wrapper = _async_route(function) if inspect.iscoroutinefunction(function) else _route(function)
        wrapper.__signature__ = _with_dependency(function, depends)
        return wrapper  # type: ignore[no-any-return]

    return decorate


#: The name of the parameter by which a decorated route gets the dependency.
_PARAMETER: Final = "cachekit_route"


def _route(function: Callable[..., Any]) -> Any:
    @wraps(function)
    def route(*args: Any, **kwargs: Any) -> Any:
        kwargs.pop(_PARAMETER, None)
        return function(*args, **kwargs)

    return route


def _async_route(function: Callable[..., Any]) -> Any:
    @wraps(function)
    async def route(*args: Any, **kwargs: Any) -> Any:
        kwargs.pop(_PARAMETER, None)
        return await function(*args, **kwargs)

    return route


def _with_dependency(function: Callable[..., Any], depends: Any) -> inspect.Signature:
    try:
        signature = inspect.signature(function, eval_str=True)
    except NameError:  # of a type that only type checkers import; FastAPI says what it makes of it
        signature = inspect.signature(function)
    parameters = [
        one for one in signature.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    added = inspect.Parameter(_PARAMETER, inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[None, depends])
    return signature.replace(parameters=[*parameters, added])


def _tag_field(tags: Tags, argument: str) -> str:
    """Return the value of a `Cache-Tag` field."""
    names = sorted(checked_tags(tags, argument))
    for name in names:
        if not name or name != name.strip() or "," in name or not name.isprintable() or not _is_latin(name):
            raise ValueError(
                f"{argument} must be printable Latin-1 without commas and outer blanks, because they are in "
                f"a header field, not {safe_repr(name)}"
            )
    return ", ".join(names)


def _is_latin(name: str) -> bool:
    return all(ord(character) < 256 for character in name)


def _field_names(vary: Iterable[str]) -> set[str]:
    names = checked_tags(vary if isinstance(vary, str) else list(vary), "vary")  # type: ignore[arg-type]
    for name in names:
        if not name.isascii() or not name.replace("-", "").replace("_", "").isalnum():
            raise ValueError(
                f"vary must be names of request fields, such as accept-language, not {safe_repr(name)}"
            )
    return {name.lower() for name in names}
