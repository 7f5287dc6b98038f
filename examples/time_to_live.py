"""Set a TTL: a number of seconds, no end, or a function of the result."""

from __future__ import annotations

from datetime import timedelta
from typing import TypedDict

from cachekit import FOREVER, IntelligentCache, MemoryCache
from cachekit.testing import ManualClock

clock = ManualClock()  # so this program need not wait; leave clock= out in yours
cache = IntelligentCache(MemoryCache(clock=clock), default_ttl=3600)


class Token(TypedDict):
    """The reply of a login server."""

    text: str
    expires_in: float


@cache.cached(ttl=10)
def weather(city: str) -> str:
    return f"rain in {city}"


@cache.cached(ttl=timedelta(days=1))
def news() -> str:
    return "today's news"


@cache.cached(ttl=FOREVER)
def factorial(n: int) -> int:
    return 1 if n < 2 else n * factorial(n - 1)


@cache.cached(ttl=lambda token: token["expires_in"] - 5)
def token(user: str) -> Token:
    return {"text": f"token of {user}", "expires_in": 65}


@cache.cached(ttl=lambda _: 0)
def never() -> str:
    return "not kept at all"


weather("Oslo"), news(), factorial(20), token("ada"), never()
keys = {
    "weather": weather.key("Oslo"),
    "token": token.key("ada"),
    "news": news.key(),
    "factorial": factorial.key(20),
    "never": never.key(),
}
for seconds in (0, 11, 60, 86_400):
    clock.advance(seconds)
    print(f"after {seconds:>5} more seconds:", [name for name, key in keys.items() if key in cache])
