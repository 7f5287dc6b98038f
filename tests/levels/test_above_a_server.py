"""A cache whose only tier below memory is a server: its writes and reads go a short way of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import inside
import pytest
from redis_server import wait_until

from cachekit import IntelligentCache, MemoryCache, RedisCache
from cachekit.errors import SerializationError, TierUnavailableError
from cachekit.tiers.redis.store import Store

MakeCache = Callable[..., RedisCache]
memories = pytest.mark.parametrize("memory", [None, MemoryCache], ids=["no memory", "memory"])


@memories
@pytest.mark.parametrize("many", [False, True], ids=["one", "many"])
def test_a_load_that_begins_within_a_write_is_refused(
    make_cache: MakeCache, memory: Callable[[], MemoryCache] | None, many: bool
) -> None:
    """The server may not have had the value yet, so the load may be older."""
    tier: Any = make_cache()
    store = tier.put_many if many else tier.put
    with IntelligentCache(memory() if memory else None, tier, None) as cache:
        tiers = inside.loads(cache).path.tiers
        tiers._unsubscribe()  # or what the bus says at its beginning breaks the fences as well
        fences: list[Any] = []

        def in_between(*args: Any, **options: Any) -> Any:
            fences.extend(tiers.fence(key, frozenset()) for key in "ab")
            return store(*args, **options)

        setattr(tier, "put_many" if many else "put", in_between)
        if many:
            assert cache.set_many({"a": 1, "b": 2})
        else:
            assert cache.set("a", 1)
        assert [fence.is_current() for fence in fences] == [False, not many]
        assert cache.get_many(["a", "c"]) == {"a": 1}


@memories
def test_a_value_that_the_server_cannot_hold(
    make_cache: MakeCache, memory: Callable[[], MemoryCache] | None
) -> None:
    """It leaves its key at no level, and so does a batch with one such value."""
    with IntelligentCache(memory() if memory else None, make_cache(), None) as cache:
        cache.set_many({"a": "old", "b": "old"})
        with pytest.raises(SerializationError):
            cache.set("a", [lambda: 1])
        assert cache.get("a") is None
        with pytest.raises(SerializationError):
            cache.set_many({"b": "new", "c": [lambda: 1]})
        assert cache.get_many(["a", "b", "c"]) == {}


@memories
def test_an_interrupted_write(make_cache: MakeCache, memory: Callable[[], MemoryCache] | None) -> None:
    """Memory does not keep what may be older than what the server has."""

    class Struck(BaseException):
        pass

    tier: Any = make_cache()
    put = tier.put
    with IntelligentCache(memory() if memory else None, tier, None) as cache:
        inside.loads(cache).path.tiers._unsubscribe()  # or what the bus says at its beginning clears memory
        cache.set("a", "old")

        def strike(*args: Any, **options: Any) -> Any:
            put(*args, **options)
            raise Struck

        tier.put = strike
        with pytest.raises(Struck):
            cache.set("a", "new")
        assert cache.get("a") == "new"


@memories
@pytest.mark.parametrize("tags", [None, {"x"}], ids=["plain", "tagged"])
def test_a_write_that_fails_leaves_nothing_older(
    make_cache: MakeCache,
    memory: Callable[[], MemoryCache] | None,
    tags: set[str] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the server missed is gone there before it is used again."""
    tier, other = make_cache(), make_cache()
    with IntelligentCache(memory() if memory else None, tier, None) as cache:
        assert cache.set("k", "old", tags=tags)
        assert cache.set("k", "old", tags=tags)  # with tokens that are foreseen

        def fail(*_: object, **__: object) -> None:
            monkeypatch.undo()
            raise TierUnavailableError("the connection broke")

        for name in ("put_one", "put", "replace"):
            monkeypatch.setattr(Store, name, fail)
        assert not cache.set("k", "new", tags=tags)
        wait_until(lambda: other.get_value("k") is None, "the older value is removed")
        wait_until(lambda: cache.set("k", "newer", tags=tags), "the tier is used again")
        assert other.get_value("k") == "newer"


@pytest.mark.parametrize("tags", [None, {"x"}], ids=["plain", "tagged"])
def test_a_write_that_finds_room_again(
    make_cache: MakeCache, tags: set[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server without room is no outage, and the next write that it takes shows that it has some."""
    with IntelligentCache(None, make_cache(), None) as cache:
        accessor = inside.loads(cache).path.tiers.redis
        assert accessor is not None

        def fail(*_: object, **__: object) -> None:
            monkeypatch.undo()
            raise TierUnavailableError("no room", full=True)

        for name in ("put_one", "put", "replace"):
            monkeypatch.setattr(Store, name, fail)
        assert not cache.set("k", 1, tags=tags)
        assert accessor.is_full
        assert cache.set("k", 2, tags=tags)
        assert not accessor.is_full
